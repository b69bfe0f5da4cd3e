"""Pieces of text and cells of tables, as wide as a terminal shows them."""

from __future__ import annotations

import unicodedata
from typing import NamedTuple


class Text(NamedTuple):
    """A piece of text, and how a terminal shows it."""

    plain: str
    style: str = ""


Cell = str | Text


def plain(cell: Cell) -> str:
    """Get the text of a cell."""
    return cell if isinstance(cell, str) else cell.plain


def styled(cell: Cell) -> Text:
    """Get a cell as a piece of text with a style."""
    return Text(cell) if isinstance(cell, str) else cell


def width(text: str) -> int:
    """Count the columns that a terminal needs for a text."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, columns: int) -> str:
    """Make the text as wide as its column, and add the gap after it."""
    return text + " " * (columns - width(text) + 2)
