"""Reports as text: tables on a terminal, plain aligned columns in a pipe."""

from __future__ import annotations

import contextlib
import sys
from datetime import timezone
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from .model import Direction, Outcome, StepState
from .runner import Observer
from .server import elapsed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from rich.progress import Progress as Bar
    from rich.status import Status as Spinner

    from .model import (
        Entry,
        ErrorInfo,
        Event,
        LockState,
        Record,
        RunReport,
        StatusReport,
        Step,
        Survey,
    )
    from .model import Progress as Backfilling

    Row = Sequence[Text]

LINE_SECONDS = 10
"""Seconds between two lines of progress where there is no terminal."""

_SECOND = 1_000
_UNLIMITED = 1_000_000
_STYLES = {
    "applied": "green",
    "completed": "green",
    "pending": "yellow",
    "running": "cyan",
    "failed": "bold red",
    "unknown": "bold red",
    "rolled-back": "magenta",
    "not-run": "dim",
}
_DID = {Direction.UP: "Applied", Direction.DOWN: "Rolled back"}


class _Marks(NamedTuple):
    """What a line of progress begins with."""

    done: str
    not_run: str
    failed: str


_MARKS = _Marks("✓", "-", "✗")
_ASCII_MARKS = _Marks("+", "-", "!")
_FREE_TEXT = frozenset({"Name", "Details"})


# --- consoles


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


def out() -> Console:
    """Return a console for results."""
    return _console(_Stream(sys.stdout))


def err() -> Console:
    """Return a console for progress, warnings and errors."""
    return _console(_MaybeUnread(sys.stderr))


def _console(stream: _Stream) -> Console:
    # Never wrapped: in a pipe the next program reads it by line, and a terminal wraps by itself.
    return Console(
        file=stream,  # type: ignore[arg-type]  # all that a console asks of a file
        markup=False,
        soft_wrap=True,
    )


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style))


# --- reports


def status(report: StatusReport) -> None:
    """Print every version with its state, then the totals and the lock."""
    survey, console = report.survey, out()
    groups = {
        "applied": survey.applied,
        "running": survey.running,
        "failed": survey.failed,
        "pending": survey.pending,
    }
    rows = [_status_row(entry, state) for state, found in groups.items() for entry in found]
    _table(console, ("Version", "Name", "State", "Applied at (UTC)", "Took", "Notes"), rows)
    for entry in survey.failed:
        if entry.record and entry.record.error:
            _say(console, _summary(f"{entry.version} failed", entry.record.error), "red")
    _say(console, f"{_count(survey.total)}: {_totals(survey)}.")
    if not rows:
        _say(console, 'Make the first one: flask db-migrate create "add user index"')
    if report.ignored:
        names = ", ".join(map(printable, report.ignored))
        _say(console, f"Passed over, since they do not end in .py: {names}.")
    if report.lock is not None:
        lock(report.lock)


def records(page: Sequence[Record]) -> None:
    """Print a page of the history."""
    console = out()
    if not page:
        _say(console, "Nothing is recorded.")
        return
    times = ("Applied at (UTC)", "Rolled back at (UTC)")
    headers = ("Version", "Name", "Status", *times, "Took", "Batch")
    _table(console, headers, map(_record_row, page))


def events(trail: Sequence[Event]) -> None:
    """Print a trail, oldest first."""
    console = out()
    if not trail:
        _say(console, "Nothing has happened yet.")
        return
    headers = ("At (UTC)", "Version", "Event", "By", "Took", "Details")
    _table(console, headers, map(_event_row, trail))


def lock(state: LockState | None) -> None:
    """Print who holds the lock."""
    console = out()
    if state is None:
        _say(console, "The lock is free.")
        return
    what = "is held" if state.is_live else "was left"
    _say(
        console,
        f"The lock {what} by {printable(state.holder)} ({printable(state.reason)}), since "
        f"{_when(state.locked_at)} UTC, last heartbeat {_when(state.heartbeat_at)} UTC.",
    )
    if state.is_live:
        remedy = "If that process is dead: flask db-migrate force-unlock --confirm"
        _say(console, f"It ends at {_when(state.expires_at)} UTC unless renewed. {remedy}")
    else:
        _say(console, f"It expired at {_when(state.expires_at)} UTC and holds nobody off any more.")


def unlocked(state: LockState | None) -> None:
    """Print whose lock was released by force."""
    if state is None:
        _say(out(), "Nothing to do: the lock is free.")
    else:
        whose = f"{printable(state.holder)} ({printable(state.reason)})"
        _say(out(), f"Released the lock of {whose}.")


def asked(record: Record) -> None:
    """Print which migration's backfill something was asked of."""
    name = f"{record.version} {printable(record.name)}"
    _say(out(), f"Asked of {name}. It is heeded after the batch in hand.")


def run(report: RunReport) -> None:
    """Print what a run did, or, for a dry run, what it would do."""
    console, notes = out(), err()
    for warning in report.warnings:
        _say(notes, f"Warning: {printable(warning)}", "yellow")
    if report.is_noop:
        _say(console, _nothing(report.direction))
    elif report.executed:
        _results(console, notes, report)
    else:
        _plan(console, report)


def error(exc: Exception) -> None:
    """Print why a command did not do what it was asked for."""
    _say(err(), f"Error: {_printable_lines(str(exc))}", "bold red")


def printable(text: str) -> str:
    """Return the text on one line, with everything that could steer a terminal written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


class Progress(Observer):
    """Prints each step as it starts and as it ends; on a terminal with a spinner between."""

    def __init__(self) -> None:
        self._console = err()
        self._on_terminal = sys.stderr.isatty()
        self._spinner: Spinner | None = None
        self._bar: Bar | None = None
        self._told = elapsed()

    def started(self, step: Step) -> None:
        """Show that the step runs."""
        title = _title(step)
        if self._on_terminal:
            self._spinner = self._console.status(Text(title))
            self._spinner.start()
        else:
            _say(self._console, f"{title} ...")

    def progressed(self, step: Step, progress: Backfilling) -> None:
        """Show how far the step's backfill is: with a bar, or else a line every ten seconds."""
        if self._on_terminal:
            self._show_bar(step, progress)
        elif elapsed() - self._told >= LINE_SECONDS:
            self._told = elapsed()
            _say(self._console, f"{step.version} {_how_far(progress)}")

    def _show_bar(self, step: Step, progress: Backfilling) -> None:
        if self._bar is None:
            self.close()
            self._bar = _bar(self._console)
            self._bar.start()
            self._bar.add_task(_title(step), text="")
        task = self._bar.tasks[0].id
        self._bar.update(
            task, completed=progress.done, total=progress.total, text=_how_far(progress)
        )

    def ended(self, outcome: Outcome) -> None:
        """Show how the step ended, and how long it took."""
        self.close()
        mark = _mark(outcome.state, self._console.encoding)
        took = "" if outcome.took_ms is None else f" in {_took(outcome.took_ms)}"
        line = Text(f"{mark} {_title(outcome.step)}: ")
        self._console.print(line.append_text(_state(outcome.state.value)).append(took))

    def close(self) -> None:
        """Stop what moves, so that the terminal has its cursor again."""
        if self._spinner is not None:
            self._spinner.stop()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _bar(console: Console) -> Bar:
    from rich.progress import BarColumn, TextColumn  # noqa: PLC0415  (few migrations backfill)
    from rich.progress import Progress as Bar  # noqa: PLC0415

    columns = (TextColumn("{task.description}", markup=False), BarColumn())
    told = TextColumn("{task.fields[text]}", markup=False)
    return Bar(*columns, told, console=console, transient=True)


def _how_far(progress: Backfilling) -> str:
    total = "" if progress.total is None else f" of about {progress.total:,}"
    rate = "" if progress.per_second is None else f", {progress.per_second:,.0f} a second"
    left = "" if progress.seconds_left is None else f", {_left_over(progress.seconds_left)} left"
    return f"{printable(progress.collection)}: {progress.done:,}{total}{rate}{left}"


def _left_over(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


# --- parts of reports


def _nothing(direction: Direction) -> str:
    if direction is Direction.UP:
        return "Nothing to do: every migration is applied."
    return "Nothing to do: no migration is applied."


def _totals(survey: Survey) -> str:
    counts = {"applied": survey.applied, "pending": survey.pending, "failed": survey.failed}
    if survey.running:
        counts["running"] = survey.running
    return ", ".join(f"{len(found)} {state}" for state, found in counts.items())


def _plan(console: Console, report: RunReport) -> None:
    _say(console, f"Would run, in this order ({report.direction.value}):")
    _table(console, ("Version", "Name", "How", "Undo", "Notes"), map(_plan_row, report.outcomes))
    _say(console, "Nothing was executed: this is the plan, not a rehearsal of it.")


def _results(console: Console, notes: Console, report: RunReport) -> None:
    # The progress was on this very screen already, unless the results go somewhere else.
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        headers = ("Version", "Name", "State", "Took")
        _table(console, headers, map(_outcome_row, report.outcomes))
    _done(console, report)
    for outcome in report.outcomes:
        if outcome.error:
            _failure(notes, f"{outcome.step.version} {outcome.state.value}", outcome.error)
    _left(console, report)
    if report.error:
        error(report.error)
    elif report.failures:
        command = f"`flask db-migrate {report.direction.value}`"
        _say(console, f"Mend the migration, then run {command} again.")


def _done(console: Console, report: RunReport) -> None:
    done = report.in_state(StepState.APPLIED, StepState.ROLLED_BACK)
    if not done:
        _say(console, f"Nothing was {_DID[report.direction].lower()}.")
        return
    took = sum(outcome.took_ms or 0 for outcome in done)
    batch = f" as batch {report.batch}" if report.batch else ""
    _say(console, f"{_DID[report.direction]} {_count(len(done))}{batch} in {_took(took)}.")


def _left(console: Console, report: RunReport) -> None:
    left = report.in_state(StepState.NOT_RUN)
    if left:
        versions = ", ".join(str(outcome.step.version) for outcome in left)
        _say(console, f"Not run: {versions}.")


def _failure(console: Console, title: str, info: ErrorInfo) -> None:
    if info.traceback:
        _say(console, _printable_lines(info.traceback.rstrip()), "dim")
    _say(console, _summary(title, info), "red")


def _summary(title: str, info: ErrorInfo) -> str:
    return _printable_lines(f"{title}: {info.type}: {info.message}")


def _mark(state: StepState, encoding: str) -> str:
    marks = _MARKS if encoding.startswith("utf") else _ASCII_MARKS
    if state is StepState.NOT_RUN:
        return marks.not_run
    succeeded = state in {StepState.APPLIED, StepState.ROLLED_BACK}
    return marks.done if succeeded else marks.failed


def _title(step: Step) -> str:
    return f"{step.version} {printable(step.file.name)}"


# --- rows


def _status_row(entry: Entry, state: str) -> Row:
    record = entry.record
    notes = {
        "changed since": entry.drifted,
        "file missing": entry.missing,
        "out of order": entry.out_of_order,
        "interrupted": record is not None and record.interrupted,
        "not reversible": not entry.reversible,
    }
    applied = record if record is not None and record.is_applied else None
    return (
        Text(str(entry.version)),
        Text(printable(entry.name)),
        _state(state),
        Text(_when(applied.applied_at) if applied else ""),
        Text(_took(applied.execution_ms) if applied else ""),
        Text(", ".join((*(note for note, holds in notes.items() if holds), *_backfill(record)))),
    )


def _backfill(record: Record | None) -> Iterable[str]:
    if record is not None and record.progress is not None:
        yield f"backfill of {_how_far(record.progress)}"


def _record_row(record: Record) -> Row:
    return (
        Text(str(record.version)),
        Text(printable(record.name)),
        _state(record.status.value),
        Text(_when(record.applied_at)),
        Text(_when(record.rolled_back_at)),
        Text(_took(record.execution_ms)),
        Text(str(record.batch or "")),
    )


def _event_row(event: Event) -> Row:
    return (
        Text(_when(event.at)),
        Text("lock" if event.version is None else str(event.version)),
        _state(event.kind),
        Text(printable(str(event.details.get("by", "")))),
        Text(_took(event.details.get("executionTime"))),
        Text(printable(_remark(event))),
    )


def _outcome_row(outcome: Outcome) -> Row:
    return (
        Text(str(outcome.step.version)),
        Text(printable(outcome.step.file.name)),
        _state(outcome.state.value),
        Text(_took(outcome.took_ms)),
    )


def _plan_row(outcome: Outcome) -> Row:
    step = outcome.step
    return (
        Text(str(step.version)),
        Text(printable(step.file.name)),
        Text("in a transaction" if step.file.transactional else "plain"),
        Text("reversible" if step.file.reversible else "not reversible"),
        Text("out of order" if step.out_of_order else ""),
    )


def _remark(event: Event) -> str:
    if event.error:
        return f"{event.error.type}: {event.error.message}"
    shown = ("direction", "applied", "reason", "of", "ofRun")
    return ", ".join(f"{key} {event.details[key]}" for key in shown if key in event.details)


# --- tables and cells


def _table(console: Console, headers: Sequence[str], rows: Iterable[Row]) -> None:
    """Print a table where it fits a terminal, else plain columns, of which nothing is cut off."""
    cells = [[Text(header) for header in headers], *rows]
    if len(cells) == 1:
        return
    widths = [max(cell_len(cell.plain) for cell in column) for column in zip(*cells, strict=True)]
    table = _boxed(headers, widths, cells[1:])
    unlimited = console.options.update(max_width=_UNLIMITED)
    needed = Measurement.get(console, unlimited, table).minimum
    if console.file.isatty() and needed <= console.width:
        console.print(table, soft_wrap=False)
    else:
        for row in cells:
            console.print(_line(row, widths))


def _boxed(headers: Sequence[str], widths: Sequence[int], rows: Iterable[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header, width in zip(headers, widths, strict=True):
        table.add_column(header, min_width=None if header in _FREE_TEXT else width)
    for row in rows:
        table.add_row(*row)
    return table


def _line(row: Row, widths: Sequence[int]) -> Text:
    line = Text()
    for cell, width in zip(row, widths, strict=True):
        line.append_text(cell).append(" " * (width - cell_len(cell.plain) + 2))
    line.rstrip()
    return line


def _state(state: str) -> Text:
    return Text(printable(state), style=_STYLES.get(state, ""))


def _when(at: datetime | None) -> str:
    return f"{at.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}" if at else ""


def _took(ms: int | None) -> str:
    if ms is None:
        return ""
    return f"{ms} ms" if ms < _SECOND else f"{ms / _SECOND:.2f} s"


def _count(number: int) -> str:
    return "1 migration" if number == 1 else f"{number} migrations"
