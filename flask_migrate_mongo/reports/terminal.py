"""What only a terminal shows: colours, boxes, and what runs at the moment, drawn by rich.

Nothing imports this module for a pipe: rich takes longer to import than most commands to run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text as RichText

from .console import Text, padded
from .live import LiveStep, fitting
from .tables import SHORTEST_NAME, STEADY, TableLayout, is_blank, label, layout

_HANG = 2
"""Blanks before the second and later lines of a wrapped one, beyond those of the first."""

_NARROWEST = 20
"""Columns from which lines are wrapped between words; a narrower terminal wraps them itself."""

_BELOW = 4
"""Blanks before what stands below a row."""


class Terminal:
    """A stream that shows colours; `is_seen` says whether a person looks at it."""

    def __init__(self, stream: TextIO, *, is_seen: bool) -> None:
        self._is_seen = is_seen
        # Soft: in a pipe the next program reads it by line. For a person, `say` wraps between words.
        self._console = Console(file=stream, markup=False, highlight=False, soft_wrap=True)

    def say(self, parts: Iterable[Text], *, wraps: bool = True, hang: int | None = None) -> None:
        """Print a line, or lines, made of these parts; for a person they are wrapped between words, unless `wraps` is False."""
        text = RichText.assemble(*parts)
        if not (wraps and self._is_seen):
            self._console.print(text)
            return
        for line in text.split(allow_blank=True):
            for piece in self._wrapped(line, self._console.width, hang):
                self._console.print(piece)

    def _wrapped(self, line: RichText, width: int, hang: int | None = None) -> Iterable[RichText]:
        """Wrap a line; what follows its first piece is indented a little more, or as said."""
        if line.cell_len <= width or width < _NARROWEST:
            return [line]
        first, *_ = line.wrap(self._console, width)
        first.rstrip()
        plain = line.plain
        indent = len(plain) - len(plain.lstrip()) + _HANG if hang is None else hang
        indent = min(indent, width // 2)
        taken = len(first)
        rest = line[taken + len(plain[taken:]) - len(plain[taken:].lstrip()) :]
        others = rest.wrap(self._console, width - indent)
        for piece in others:
            piece.rstrip()
        return [first, *(RichText(" " * indent).append_text(piece) for piece in others)]

    def table(
        self, rows: Sequence[Sequence[Text]], *, indent: int = 0, headed: bool = True
    ) -> None:
        """Print a table, whose first row is its headings, so that it fits the terminal of a person; else plain columns."""
        headings = [cell.plain for cell in rows[0]]
        natural = [
            max(
                STEADY.get(column[0].plain, 0),
                *(cell_len(cell.plain) for cell in (column if headed else column[1:])),
            )
            for column in zip(*rows, strict=True)
        ]
        plan = TableLayout(tuple(range(len(headings))), tuple(natural))
        if self._is_seen:
            columns = enumerate(zip(*rows, strict=True))
            empty = [each for each, column in columns if is_blank(column)]
            plan = layout(headings, natural, self._console.width - indent, empty=empty)
        if headed:
            self._header(headings, plan, rows)
        for row in rows[1:]:
            self._row(headings, row, plan, indent)

    def _header(
        self, headings: Sequence[str], plan: TableLayout, rows: Sequence[Sequence[Text]]
    ) -> None:
        cells = [
            (headings[each], wide) for each, wide in zip(plan.columns, plan.widths, strict=True)
        ]
        line = "".join(padded(*cell) for cell in cells)
        if any(_beside(row, plan) for row in rows[1:]):
            line += (
                headings[plan.below[0]] if cell_len(headings[plan.below[0]]) <= plan.beside else ""
            )
        if not self._is_seen:
            self._console.print(RichText(line.rstrip()))
            return
        self._console.print(RichText(line.rstrip(), "bold"))
        rule = "─" if self._console.encoding.startswith("utf") else "-"
        self._console.print(
            RichText(
                rule * min(max(plan.width, cell_len(line.rstrip())), self._console.width), "dim"
            )
        )

    def _row(
        self, headings: Sequence[str], row: Sequence[Text], plan: TableLayout, indent: int
    ) -> None:
        line = RichText(" " * indent)
        for each, wide in zip(plan.columns, plan.widths, strict=True):
            cell = row[each]
            line.append(padded(self._shortened(cell.plain, wide), wide), cell.style)
        beside = _beside(row, plan)
        line.append(beside)
        line.rstrip()
        self._console.print(line)
        if beside:
            return
        for each in plan.below:
            cell = row[each]
            if cell.plain:
                text = RichText(f"{' ' * (indent + _BELOW)}{label(headings[each])}")
                text.append(cell.plain, cell.style)
                for piece in self._wrapped(text, self._console.width):
                    self._console.print(piece)

    def shortened(self, name: str, beside: int) -> str:
        """Shorten a name to what fits a line beside so many columns, but not below SHORTEST_NAME."""
        return self._shortened(name, max(SHORTEST_NAME, self._console.width - beside))

    def _shortened(self, text: str, wide: int) -> str:
        return fitting(text, wide, self._console.encoding)

    @property
    def columns(self) -> int:
        """How wide it is now."""
        return self._console.width

    def activity(self, position: str, title: str) -> LiveStep:
        """Show that something runs, until that is stopped."""
        return LiveStep(self._console, position, title)


def _beside(row: Sequence[Text], plan: TableLayout) -> str:
    """Find what of the cells below fits beside the row: the only one, if it is short."""
    texts = [row[each].plain for each in plan.below if row[each].plain]
    fits = len(texts) == 1 and row[plan.below[0]].plain and cell_len(texts[0]) <= plan.beside
    return texts[0] if fits else ""
