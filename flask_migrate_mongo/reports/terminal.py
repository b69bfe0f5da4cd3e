"""What only a terminal shows: colours, boxes, spinners and bars, drawn by rich.

Nothing imports this module for a pipe: rich takes longer to import than most commands to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text as RichText

from .console import Text, padded, printable

_UNLIMITED = 1_000_000
_FREE_TEXT = frozenset({"Name", "Details"})


class Bar(Progress):
    """How far something is, drawn until it is stopped."""

    def __init__(self, console: Console, title: str) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=console,
            transient=True,
        )
        self._shown = self.add_task(printable(title), text="")
        self.start()

    def show(self, done: int, total: int | None, text: str) -> None:
        """Draw it again."""
        self.update(self._shown, completed=done, total=total, text=printable(text))


class Terminal:
    """A stream that shows colours; `is_seen` says whether a person looks at it."""

    def __init__(self, stream: TextIO, *, is_seen: bool) -> None:
        self._is_seen = is_seen
        # Never wrapped: in a pipe the next program reads it by line, and a terminal wraps by itself.
        self._console = Console(file=stream, markup=False, soft_wrap=True)

    def say(self, parts: Iterable[Text]) -> None:
        """Print a line, or lines, made of these parts."""
        self._console.print(RichText.assemble(*parts))

    def table(self, widths: Sequence[int], rows: Sequence[Sequence[Text]]) -> None:
        """Print a table, headers first, if the terminal is wide enough; else plain columns."""
        table = _boxed(widths, rows)
        unlimited = self._console.options.update(max_width=_UNLIMITED)
        fits = Measurement.get(self._console, unlimited, table).minimum <= self._console.width
        if self._is_seen and fits:
            self._console.print(table, soft_wrap=False)
            return
        for row in rows:
            cells = zip(row, widths, strict=True)
            line = RichText.assemble(*(Text(padded(c.plain, width), c.style) for c, width in cells))
            line.rstrip()
            self._console.print(line)

    def spin(self, title: str) -> Callable[[], None]:
        """Show that something runs, until the returned function is called."""
        spinner = self._console.status(RichText(printable(title)))
        spinner.start()
        return spinner.stop

    def bar(self, title: str) -> Bar:
        """Show how far something is."""
        return Bar(self._console, title)


def _boxed(widths: Sequence[int], rows: Sequence[Sequence[Text]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    headers, *others = rows
    for header, width in zip(headers, widths, strict=True):
        table.add_column(header.plain, min_width=None if header.plain in _FREE_TEXT else width)
    for row in others:
        table.add_row(*(RichText(*cell) for cell in row))
    return table
