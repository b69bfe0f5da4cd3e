"""Prints reports: with colours on a terminal, in plain aligned columns in a pipe.

What is printed cannot control a terminal: the console escapes all that is not printable.
"""

from __future__ import annotations

import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO, cast

from flask_migrate_mongo.model.values import ErrorInfo

from . import words

if TYPE_CHECKING:
    from .terminal import Terminal

_FORCED = ("FORCE_COLOR", "TTY_COMPATIBLE")
"""Variables with which rich takes a pipe for a terminal."""

STYLES = {
    "applied": "green",
    "completed": "green",
    "pending": "yellow",
    "running": "cyan",
    "failed": "bold red",
    "unknown": "bold red",
    "rolled-back": "magenta",
    "not-run": "dim",
    "error": "bold red",
    "warning": "yellow",
    "info": "cyan",
}


class Text(NamedTuple):
    """A piece of text, and how a terminal shows it."""

    plain: str
    style: str = ""


Cell = str | Text


# --- streams


class _Stream:
    """A stream that escapes the characters which its encoding lacks, and ignores some errors."""

    def __init__(self, stream: TextIO, *ignored: type[Exception]) -> None:
        self._stream = stream
        self._ignored = ignored
        self.encoding = stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        known = text.encode(self.encoding, "backslashreplace")
        with contextlib.suppress(*self._ignored):
            return self._stream.write(known.decode(self.encoding))
        return 0

    def flush(self) -> None:
        with contextlib.suppress(*self._ignored):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (what the stream has)
        return getattr(self._stream, name)


class Console:
    """A stream to print on. `screen` is the terminal that a person looks at, if any."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._terminal: Terminal | None = None
        self.encoding = stream.encoding
        is_seen = bool(stream.isatty())
        if is_seen or any(map(os.environ.get, _FORCED)):
            from .terminal import Terminal  # noqa: PLC0415  (a pipe needs no rich)

            self._terminal = Terminal(cast("TextIO", stream), is_seen=is_seen)
        self.screen = self._terminal if is_seen else None

    def say(self, *parts: Cell) -> None:
        """Print one line, made of these parts."""
        self._print([_safe(part) for part in parts])

    def say_lines(self, text: str, style: str = "") -> None:
        """Print a text of several lines."""
        self._print([Text("\n".join(map(printable, text.split("\n"))), style)])

    def warn(self, texts: Iterable[str]) -> None:
        """Print a warning for each text."""
        for text in texts:
            self.say(Text(f"Warning: {text}", "yellow"))

    def failure(self, title: str, info: ErrorInfo) -> None:
        """Print an error with its traceback, where it has one."""
        if info.traceback:
            self.say_lines(info.traceback.rstrip(), "dim")
        self.say_lines(f"{title}: {words.brief(info)}", "red")

    def write(self, lines: Iterable[str]) -> None:
        """Print lines as they are, for a program."""
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """Print a table where it fits a terminal, else plain columns, which are never cut."""
        cells = [tuple(map(_safe, row)) for row in (headers, *rows)]
        if len(cells) == 1:
            return
        widths = [max(width(cell.plain) for cell in column) for column in zip(*cells, strict=True)]
        if self._terminal is None:
            lines = [[cell.plain for cell in row] for row in cells]
            self.write("".join(map(padded, line, widths)).rstrip() for line in lines)
        else:
            self._terminal.table(widths, cells)

    def _print(self, parts: Sequence[Text]) -> None:
        if self._terminal is None:
            self.write(["".join(part.plain for part in parts)])
        else:
            self._terminal.say(parts)


def out() -> Console:
    """Make the console for results."""
    return Console(_Stream(sys.stdout))


def err() -> Console:
    """Make the console for progress, warnings and errors."""
    # Its reader may close it: that must not end a run.
    return Console(_Stream(sys.stderr, OSError))


def error(exc: Exception) -> None:
    """Print the error that ended a command."""
    err().say_lines(f"Error: {exc}", "bold red")


# --- characters


def printable(text: str) -> str:
    """Put the text on one line, and escape everything that could control a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _safe(cell: Cell) -> Text:
    plain, style = (cell, "") if isinstance(cell, str) else cell
    return Text(printable(plain), style)


def width(text: str) -> int:
    """Count the columns that a terminal needs for a text."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, columns: int) -> str:
    """Make the text as wide as its column, and add the gap after it."""
    return text + " " * (columns - width(text) + 2)


def coloured(state: str) -> Text:
    """Colour a state."""
    return Text(state, STYLES.get(state, ""))
