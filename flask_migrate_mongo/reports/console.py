"""Where reports are printed: tables and colours on a terminal, plain aligned columns in a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text as RichText

_UNLIMITED = 1_000_000
_FREE_TEXT = frozenset({"Name", "Details"})
_FORCED = ("FORCE_COLOR", "TTY_COMPATIBLE")
"""Variables with which rich takes a pipe for a terminal."""


class Text(NamedTuple):
    """A piece of text, and how a terminal shows it."""

    plain: str
    style: str = ""


Cell = str | Text
"""What is in a table: most often nothing but text."""


class _Stream:
    """A stream on which what its encoding does not know is written out instead of raising."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        known = text.encode(self._stream.encoding or "utf-8", "backslashreplace")
        return self._stream.write(known.decode(self._stream.encoding or "utf-8"))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (whatever the stream has)
        return getattr(self._stream, name)


class _MaybeUnread(_Stream):
    """A stream that may be closed at its other end: what nobody reads must not end a run."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return super().write(text)
        return 0

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


class Bar:
    """How far something is, drawn until it is stopped."""

    def __init__(self, console: RichConsole, title: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

        columns = (TextColumn("{task.description}", markup=False), BarColumn())
        told = TextColumn("{task.fields[text]}", markup=False)
        self._progress = Progress(*columns, told, console=console, transient=True)
        self._task = self._progress.add_task(title, text="")
        self._progress.start()

    def show(self, done: int, total: int | None, text: str) -> None:
        """Draw it again."""
        self._progress.update(self._task, completed=done, total=total, text=text)

    def stop(self) -> None:
        """Take it from the screen."""
        self._progress.stop()


class Console:
    """A stream to print on. rich is imported for terminals alone: in a pipe nothing needs it."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._is_terminal = bool(stream.isatty())
        is_plain = not self._is_terminal and not any(map(os.environ.get, _FORCED))
        self._rich = None if is_plain else _rich(stream)

    @property
    def is_terminal(self) -> bool:
        """Whether somebody looks at it, rather than a program."""
        return self._rich is not None and self._is_terminal

    @property
    def encoding(self) -> str:
        """The encoding of the stream."""
        return self._stream.encoding or "utf-8"

    def say(self, *parts: Text) -> None:
        """Print a line, or lines, made of these parts."""
        if self._rich is None:
            self._write(["".join(part.plain for part in parts)])
        else:
            self._rich.print(_assembled(parts))

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """Print a table where it fits a terminal, else plain columns, of which nothing is cut off."""
        cells = [headers, *rows]
        if len(cells) == 1:
            return
        texts = [tuple(map(_plain, row)) for row in cells]
        widths = [max(map(_width, column)) for column in zip(*texts, strict=True)]
        if self._rich is None:
            self._write("".join(map(_padded, row, widths)).rstrip() for row in texts)
        elif not _print_boxed(self._rich, headers, widths, cells[1:]):
            for row in cells:
                self._rich.print(_line(row, widths))

    def spin(self, title: str) -> Callable[[], None]:
        """Show on a terminal that something is under way; what is returned ends that."""
        if self._rich is None or not self._is_terminal:
            self.say(Text(f"{title} ..."))
            return lambda: None
        from rich.text import Text as RichText  # noqa: PLC0415

        spinner = self._rich.status(RichText(title))
        spinner.start()
        return spinner.stop

    def bar(self, title: str) -> Bar:
        """Show on a terminal how far something is."""
        assert self._rich is not None  # noqa: S101  (it is a terminal)
        return Bar(self._rich, title)

    def _write(self, lines: Iterable[str]) -> None:
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()


def out() -> Console:
    """Return the console for results."""
    return Console(_Stream(sys.stdout))


def err() -> Console:
    """Return the console for progress, warnings and errors."""
    return Console(_MaybeUnread(sys.stderr))


def _rich(stream: _Stream) -> RichConsole:
    from rich.console import Console as RichConsole  # noqa: PLC0415

    # Never wrapped: in a pipe the next program reads it by line, and a terminal wraps by itself.
    return RichConsole(
        file=stream,  # type: ignore[arg-type]  # all that a console asks of a file
        markup=False,
        soft_wrap=True,
    )


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415

    return cell_len(text)


def _plain(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.plain


def _styled(cell: Cell) -> Text:
    return Text(cell) if isinstance(cell, str) else cell


def _padded(text: str, width: int) -> str:
    """Return the text as wide as its column, and the gap after it."""
    return text + " " * (width - _width(text) + 2)


def _assembled(parts: Iterable[Text]) -> RichText:
    from rich.text import Text as RichText  # noqa: PLC0415

    return RichText.assemble(*parts)


def _line(row: Sequence[Cell], widths: Sequence[int]) -> RichText:
    """Return a row of plain columns, with its styles."""
    cells = zip(map(_styled, row), widths, strict=True)
    line = _assembled(Text(_padded(text, width), style) for (text, style), width in cells)
    line.rstrip()
    return line


def _print_boxed(
    console: RichConsole,
    headers: Sequence[str],
    widths: Sequence[int],
    rows: Sequence[Sequence[Cell]],
) -> bool:
    """Print the table if this is a terminal that is wide enough, and return whether it is."""
    from rich.measure import Measurement  # noqa: PLC0415

    if not console.file.isatty():
        return False
    table = _boxed(headers, widths, rows)
    unlimited = console.options.update(max_width=_UNLIMITED)
    if Measurement.get(console, unlimited, table).minimum > console.width:
        return False
    console.print(table, soft_wrap=False)
    return True


def _boxed(headers: Sequence[str], widths: Sequence[int], rows: Sequence[Sequence[Cell]]) -> Table:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text as RichText  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header, width in zip(headers, widths, strict=True):
        table.add_column(header, min_width=None if header in _FREE_TEXT else width)
    for row in rows:
        table.add_row(*(RichText(*_styled(cell)) for cell in row))
    return table
