"""Prints reports: with colours on a terminal, in plain aligned columns in a pipe.

What is printed cannot control a terminal: the console escapes all that is not printable.
"""

from __future__ import annotations

import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO, cast

from flask_migrate_mongo.model.documents import MigratedDatabase
from flask_migrate_mongo.model.errors import OutputError
from flask_migrate_mongo.model.values import ErrorInfo
from flask_migrate_mongo.process import discard_output

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
    """A stream that escapes the characters which its encoding lacks.

    It discards what its reader no longer reads. What it cannot write otherwise is discarded, too, unless it `has_results`:
    then it raises OutputError.
    """

    def __init__(self, stream: TextIO, *, has_results: bool) -> None:
        self._stream = stream
        self._has_results = has_results
        self.encoding = stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        known = text.encode(self.encoding, "backslashreplace")
        with self._writing():
            self._stream.write(known.decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        with self._writing():
            self._stream.flush()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            # Otherwise it stays as it is: that the next result cannot be written is an error, too.
            if self._has_results and not isinstance(exc, BrokenPipeError):
                raise OutputError(exc) from exc
            discard_output(self._stream)

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

    def say(self, *parts: Cell, hang: int | None = None) -> None:
        """Print one line, made of these parts; where a terminal wraps it, `hang` indents what follows."""
        self._print([_safe(part) for part in parts], hang=hang)

    def say_lines(self, text: str, style: str = "", *, wraps: bool = True) -> None:
        """Print a text of several lines; code, which is not wrapped, stays as it is."""
        lines = Text("\n".join(map(printable, text.split("\n"))), style)
        self._print([lines], wraps=wraps)

    def indented(self, *parts: Cell, by: int = 2) -> None:
        """Print one line, made of these parts; where a terminal wraps it, all its lines are indented."""
        self.say(" " * by, *parts, hang=by)

    def titled(self, mark: Cell, title: str, *parts: Cell) -> None:
        """Print one line with a title, which is shortened where a person looks and the line would not fit."""
        before, *after = (_safe(part) for part in (mark, *parts))
        beside = sum(width(part.plain) for part in (before, *after))
        self._print([before, _safe(self.shortened(title, beside)), *after])

    def warn(self, texts: Iterable[str]) -> None:
        """Print a warning for each text."""
        for text in texts:
            self.say(Text(f"Warning: {text}", "yellow"))

    def failure(self, title: str, info: ErrorInfo) -> None:
        """Print an error with its traceback, where it has one."""
        if info.traceback:
            self.say_lines(info.traceback.rstrip(), "dim", wraps=False)
        self.say_lines(f"{title}: {words.brief(info)}", "red")

    def write(self, lines: Iterable[str]) -> None:
        """Print lines as they are, for a program."""
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()

    def shortened(self, name: str, beside: int) -> str:
        """Shorten a name so that it fits a line of a person's terminal beside so many columns; elsewhere it stays whole."""
        return name if self.screen is None else self.screen.shortened(printable(name), beside)

    def table(
        self,
        headers: Sequence[str],
        rows: Iterable[Sequence[Cell]],
        *,
        indent: int = 0,
        headed: bool = True,
    ) -> None:
        """Print a table that fits the terminal of a person, else plain columns, which are never cut."""
        cells = [tuple(map(_safe, row)) for row in (headers, *rows)]
        if len(cells) == 1:
            return
        if self._terminal is not None:
            self._terminal.table(cells, indent=indent, headed=headed)
            return
        lines = [[cell.plain for cell in row] for row in (cells if headed else cells[1:])]
        widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
        self.write(" " * indent + "".join(map(padded, line, widths)).rstrip() for line in lines)

    def _print(self, parts: Sequence[Text], *, wraps: bool = True, hang: int | None = None) -> None:
        if self._terminal is None:
            self.write(["".join(part.plain for part in parts)])
        else:
            self._terminal.say(parts, wraps=wraps, hang=hang)


def out(stream: TextIO | None = None) -> Console:
    """Make the console for results, on standard output or on another stream."""
    return Console(_Stream(stream or sys.stdout, has_results=True))


def err() -> Console:
    """Make the console for progress, warnings and errors."""
    # That it cannot be written to must not end a run.
    return Console(_Stream(sys.stderr, has_results=False))


def lenient(stream: TextIO) -> TextIO:
    """Make a stream that discards what cannot be written to this one."""
    return cast("TextIO", _Stream(stream, has_results=False))


def database(found: MigratedDatabase, console: Console) -> None:
    """Print the database that what follows is about."""
    console.say(Text(str(found), "bold"))


def is_one_place() -> bool:
    """Whether standard output and standard error go to the same terminal, file or pipe."""
    try:
        return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # One is closed, or a test has replaced them.
        return False


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
    if unicodedata.category(character) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, columns: int) -> str:
    """Make the text as wide as its column, and add the gap after it."""
    return text + " " * (columns - width(text) + 2)


def coloured(state: str) -> Text:
    """Colour a state."""
    return Text(state, STYLES.get(state, ""))
