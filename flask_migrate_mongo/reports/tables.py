"""Decides how a table fits a terminal: which columns it has, how wide they are, and what stands under its rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .console import Text

GAP = 2
"""Blanks between two columns."""

BELOW = ("Notes", "Details", "Value", "Collections", "On all documents")
"""Columns whose cells stand under their row where they do not fit beside it."""

DROPPED = ("Batch", "Rolled back at (UTC)", "Took", "By", "Undo", "How", "Applied at (UTC)", "File")
"""Columns that are left out where a terminal is too narrow, in this order."""

SHORTEST_NAME = 24
"""Columns that a long name keeps as long as there are others to leave out."""

_SHORTEST_OF_ALL = 8
"""Columns that it keeps on the narrowest terminal."""

STEADY = {"Took": len("999 ms")}
"""How wide a column is at least: a table stays as it is, whether something takes 8 ms or 1.23 s."""

_UNLABELLED = BELOW[:3]


@dataclass(frozen=True, slots=True)
class TableLayout:
    """The columns of a table by their numbers, each with its width, those that stand below, and how much fits beside the row."""

    columns: tuple[int, ...]
    widths: tuple[int, ...]
    below: tuple[int, ...] = ()
    beside: int = 0

    @property
    def width(self) -> int:
        """How wide a row is without what stands below."""
        return sum(self.widths) + GAP * (len(self.widths) - 1)


def layout(
    headings: Sequence[str],
    natural: Sequence[int],
    available: int,
    *,
    empty: Collection[int] = (),
) -> TableLayout:
    """Fit a table of columns of these natural widths into the available columns of a terminal."""
    everything = tuple(range(len(headings)))
    if _total(natural) <= available:
        return TableLayout(everything, tuple(natural))
    shown = tuple(each for each in everything if each not in empty)
    below = tuple(each for each in shown if headings[each] in BELOW)
    beside = [each for each in shown if each not in below]
    for heading in ("", *DROPPED):
        beside = [each for each in beside if headings[each] != heading]
        widths = _fitted(headings, natural, beside, available)
        if _total(widths) <= available:
            break
    else:
        narrowest = _fitted(headings, natural, beside, available, _SHORTEST_OF_ALL)
        # What does not fit in any case is not shortened more.
        widths = narrowest if _total(narrowest) <= available else widths
    left = available - _total(widths) - GAP
    return TableLayout(tuple(beside), tuple(widths), below, max(0, left))


def label(heading: str) -> str:
    """Label a cell below its row, unless the cell says by itself what it is."""
    return "" if heading in _UNLABELLED else f"{heading}: "


def _fitted(
    headings: Sequence[str],
    natural: Sequence[int],
    columns: Sequence[int],
    available: int,
    shortest: int = SHORTEST_NAME,
) -> list[int]:
    """Shorten the names among these columns so far that the others fit, but not below the shortest."""
    names = [each for each in columns if headings[each].startswith("Name")]
    excess = _total([natural[each] for each in columns]) - available
    if not names or excess <= 0:
        return [natural[each] for each in columns]
    share = -(-excess // len(names))
    return [
        min(natural[each], max(shortest, natural[each] - share)) if each in names else natural[each]
        for each in columns
    ]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def is_blank(column: Sequence[Text]) -> bool:
    """Whether a column has nothing but its heading."""
    return not any(cell.plain for cell in column[1:])
