"""Where reports are printed: tables and colours on a terminal, plain aligned columns in a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.console import Console as RichConsole
    from rich.table import Table

_UNLIMITED = 1_000_000
_FREE_TEXT = frozenset({"Name", "Details"})
_FORCED = ("FORCE_COLOR", "TTY_COMPATIBLE")
"""Variables with which rich takes a pipe for a terminal."""


class Text(NamedTuple):
    """A piece of text, and how a terminal shows it."""

    plain: str
    style: str = ""


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
        self._print([parts])

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[Text]]) -> None:
        """Print a table where it fits a terminal, else plain columns, of which nothing is cut off."""
        cells = [tuple(map(Text, headers)), *rows]
        if len(cells) == 1:
            return
        columns = zip(*cells, strict=True)
        widths = [max(_width(cell.plain) for cell in column) for column in columns]
        if self._rich is None or not _print_boxed(self._rich, headers, widths, cells[1:]):
            self._print(_line(row, widths) for row in cells)

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

    def _print(self, lines: Iterable[Iterable[Text]]) -> None:
        if self._rich is None:
            text = "".join("".join(part.plain for part in line) + "\n" for line in lines)
            self._stream.write(text)
            self._stream.flush()
            return
        from rich.text import Text as RichText  # noqa: PLC0415

        for line in lines:
            self._rich.print(RichText.assemble(*line))


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


def _line(row: Sequence[Text], widths: Sequence[int]) -> Iterator[Text]:
    """Yield the cells of a row, each but the last that is not empty as wide as its column."""
    last = max((place for place, cell in enumerate(row) if cell.plain.strip()), default=0)
    for cell, width in zip(row[:last], widths, strict=False):
        yield Text(cell.plain + " " * (width - _width(cell.plain) + 2), cell.style)
    yield Text(row[last].plain.rstrip(), row[last].style)


def _print_boxed(
    console: RichConsole,
    headers: Sequence[str],
    widths: Sequence[int],
    rows: Sequence[Sequence[Text]],
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


def _boxed(headers: Sequence[str], widths: Sequence[int], rows: Sequence[Sequence[Text]]) -> Table:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text as RichText  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header, width in zip(headers, widths, strict=True):
        table.add_column(header, min_width=None if header in _FREE_TEXT else width)
    for row in rows:
        table.add_row(*(RichText(*cell) for cell in row))
    return table
