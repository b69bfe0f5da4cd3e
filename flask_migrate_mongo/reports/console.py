"""Where reports are printed: with colours on a terminal, in plain aligned columns in a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

from .cells import Cell, Text, padded, plain, width

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .terminal import Bar, Terminal

_FORCED = ("FORCE_COLOR", "TTY_COMPATIBLE")
"""Variables with which rich takes a pipe for a terminal."""


class _Stream:
    """A stream that escapes the characters which its encoding lacks."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        known = text.encode(self._stream.encoding or "utf-8", "backslashreplace")
        return self._stream.write(known.decode(self._stream.encoding or "utf-8"))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (what the stream has)
        return getattr(self._stream, name)


class _MaybeUnread(_Stream):
    """A stream whose reader may close it: that must not end a run."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return super().write(text)
        return 0

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


class Console:
    """A stream to print on."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._terminal = _terminal(stream)

    @property
    def is_terminal(self) -> bool:
        """Whether a person looks at it, rather than a program."""
        return self._terminal is not None and self._terminal.is_seen

    @property
    def encoding(self) -> str:
        """The encoding of the stream."""
        return self._stream.encoding or "utf-8"

    def say(self, *parts: Text) -> None:
        """Print a line, or lines, made of these parts."""
        if self._terminal is None:
            self._write(["".join(part.plain for part in parts)])
        else:
            self._terminal.say(parts)

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """Print a table where it fits a terminal, else plain columns, which are never cut."""
        cells = list(rows)
        if not cells:
            return
        texts = [tuple(map(plain, row)) for row in (headers, *cells)]
        widths = [max(map(width, column)) for column in zip(*texts, strict=True)]
        if self._terminal is None:
            self._write("".join(map(padded, row, widths)).rstrip() for row in texts)
        else:
            self._terminal.table(headers, widths, cells)

    def spin(self, title: str) -> Callable[[], None]:
        """Show that something runs, until the returned function is called."""
        if self._terminal is None or not self._terminal.is_seen:
            self.say(Text(f"{title} ..."))
            return lambda: None
        return self._terminal.spin(title)

    def bar(self, title: str) -> Bar:
        """Show on a terminal how far something is."""
        assert self._terminal is not None  # noqa: S101  (asked only of a terminal)
        return self._terminal.bar(title)

    def _write(self, lines: Iterable[str]) -> None:
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()


def out() -> Console:
    """Make the console for results."""
    return Console(_Stream(sys.stdout))


def err() -> Console:
    """Make the console for progress, warnings and errors."""
    return Console(_MaybeUnread(sys.stderr))


def _terminal(stream: _Stream) -> Terminal | None:
    is_seen = bool(stream.isatty())
    if not is_seen and not any(map(os.environ.get, _FORCED)):
        return None
    from .terminal import Terminal  # noqa: PLC0415  (a pipe needs no rich)

    return Terminal(cast("TextIO", stream), is_seen=is_seen)
