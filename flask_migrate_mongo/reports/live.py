"""Shows on a terminal what runs at the moment, for how long, and how far it is, below what was printed before."""

from __future__ import annotations

import sys

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text as RichText

from flask_migrate_mongo.process import elapsed

from .console import printable
from .words import SECOND, took

_BAR_COLUMNS = 20
_FRAME_COLUMNS = 2
_FEWEST_COLUMNS = 8


def fitting(text: str, columns: int, encoding: str) -> str:
    """Cut a text that is wider than so many columns, with a mark that this encoding has."""
    if cell_len(text) <= columns:
        return text
    mark = "…" if encoding.startswith("utf") else "..."
    return set_cell_size(text, columns - len(mark)).rstrip() + mark


class LiveStep(Live):
    """What runs, drawn until it is stopped: a line with the time, and one with the progress where there is one."""

    def __init__(self, console: Console, position: str, title: str) -> None:
        self._position, self._title = printable(position), printable(title)
        self._spinner = Spinner("dots")
        self._began = elapsed()
        self._progress: tuple[float, float | None, str] | None = None
        super().__init__(
            console=console,
            transient=True,
            refresh_per_second=12,
            # What the migration prints goes above the line, unless it goes into a file.
            redirect_stdout=sys.stdout.isatty(),
        )
        self.start()

    def show(self, done: int, total: int | None, text: str) -> None:
        """Draw how far it is."""
        self._progress = (done, total, printable(text))
        self.refresh()

    def get_renderable(self) -> RenderableType:
        """Build both lines. What does not fit goes in this order: the end of the name, then the bar."""
        line = Table.grid()
        line.add_row(self._spinner, RichText(f" {self._headline()}", no_wrap=True))
        return line if self._progress is None else Group(line, self._progress_line(*self._progress))

    def _headline(self) -> str:
        took_ms = int(elapsed() - self._began) * SECOND
        time = f"  {took(took_ms).replace('.00', '')}" if took_ms else ""
        left = self.console.width - _FRAME_COLUMNS - cell_len(self._position) - cell_len(time)
        title = fitting(self._title, max(left, _FEWEST_COLUMNS), self.console.encoding)
        return f"{self._position}{title}{time}"

    def _progress_line(self, done: float, total: float | None, text: str) -> RenderableType:
        has_bar = bool(total) and cell_len(text) + _BAR_COLUMNS + 4 <= self.console.width
        if not has_bar:
            columns = max(self.console.width - _FRAME_COLUMNS, _FEWEST_COLUMNS)
            return RichText(f"  {fitting(text, columns, self.console.encoding)}", no_wrap=True)
        line = Table.grid()
        bar = ProgressBar(total=total, completed=done, width=_BAR_COLUMNS)
        line.add_row("  ", bar, RichText(f"  {text}", no_wrap=True))
        return line
