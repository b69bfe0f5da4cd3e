"""Reports as text: tables on a terminal, plain aligned columns in a pipe."""

from __future__ import annotations

import sys
from datetime import timezone
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .model import Direction, Outcome, StepState
from .runner import Observer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

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
    )

_PIPE_WIDTH = 10_000
_SECOND = 1_000
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
_MARKS = {StepState.APPLIED: "✓", StepState.ROLLED_BACK: "✓", StepState.NOT_RUN: "-"}


def out() -> Console:
    """Return a console for results."""
    return _console(stderr=False)


def err() -> Console:
    """Return a console for progress, warnings and errors."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    # In a pipe nothing may be wrapped or cut: the next program reads it by line.
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(
        stderr=stderr, width=width, highlight=False, markup=False, emoji=False, soft_wrap=True
    )


def status(report: StatusReport) -> None:
    """Print every version with its state, then the lock and the totals."""
    survey, console = report.survey, out()
    rows = [
        *(_status_row(entry, "applied") for entry in survey.applied),
        *(_status_row(entry, "running") for entry in survey.running),
        *(_status_row(entry, "failed") for entry in survey.failed),
        *(_status_row(entry, "pending") for entry in survey.pending),
    ]
    if rows:
        _table(console, ("Version", "Name", "State", "Applied at (UTC)", "Took", "Notes"), rows)
    for entry in survey.failed:
        error = entry.record.error if entry.record else None
        _failure(console, f"{entry.version} failed", error, trace=False)
    counts = {"applied": survey.applied, "pending": survey.pending, "failed": survey.failed}
    line = ", ".join(f"{len(entries)} {what}" for what, entries in counts.items())
    console.print(Text(f"{survey.total} migrations: {line}."))
    if report.ignored:
        names = ", ".join(map(printable, report.ignored))
        console.print(Text(f"Passed over, since they do not end in .py: {names}."))
    if report.lock is not None:
        lock(report.lock)


def records(page: Sequence[Record]) -> None:
    """Print a page of the history."""
    console = out()
    if not page:
        console.print("Nothing is recorded.")
        return
    headers = (
        "Version",
        "Name",
        "Status",
        "Applied at (UTC)",
        "Rolled back at (UTC)",
        "Took",
        "Batch",
    )
    rows = [
        (
            Text(str(record.version)),
            Text(printable(record.name)),
            _state(record.status.value),
            Text(_when(record.applied_at)),
            Text(_when(record.rolled_back_at)),
            Text(_took(record.execution_ms)),
            Text(str(record.batch or "")),
        )
        for record in page
    ]
    _table(console, headers, rows)


def events(trail: Sequence[Event]) -> None:
    """Print a trail, oldest first."""
    console = out()
    if not trail:
        console.print("Nothing has happened yet.")
        return
    rows = [
        (
            Text(_when(event.at)),
            Text("lock" if event.version is None else str(event.version)),
            _state(event.kind),
            Text(printable(str(event.details.get("by", "")))),
            Text(_took(event.details.get("executionTime"))),
            Text(printable(_remark(event))),
        )
        for event in trail
    ]
    _table(console, ("At (UTC)", "Version", "Event", "By", "Took", "Details"), rows)


def lock(state: LockState | None) -> None:
    """Print who holds the lock."""
    console = out()
    if state is None:
        console.print("The lock is free.")
        return
    console.print(
        Text(
            f"The lock is held by {printable(state.holder)} ({printable(state.reason)}), since "
            f"{_when(state.locked_at)} UTC, last heartbeat {_when(state.heartbeat_at)} UTC."
        )
    )
    if state.is_live:
        console.print(
            Text(
                f"It ends at {_when(state.expires_at)} UTC unless renewed. If that process is "
                "dead: flask db-migrate force-unlock --confirm"
            )
        )
    else:
        console.print(
            Text(f"It expired at {_when(state.expires_at)} UTC and holds nobody off any more.")
        )


def unlocked(state: LockState | None) -> None:
    """Print whose lock was released by force."""
    if state is None:
        out().print("Nothing to do: the lock is free.")
    else:
        out().print(Text(f"Released the lock of {printable(state.holder)} ({state.reason})."))


def run(report: RunReport) -> None:
    """Print what a run did, or, for a dry run, what it would do."""
    console, notes = out(), err()
    for warning in report.warnings:
        notes.print(Text(f"Warning: {printable(warning)}", style="yellow"))
    if report.is_noop:
        console.print(_nothing(report.direction))
        return
    if not report.executed:
        _plan(console, report)
        return
    # The progress was on this very screen already, unless the results go somewhere else.
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        _table(console, ("Version", "Name", "State", "Took"), map(_outcome_row, report.outcomes))
    _done(console, report)
    for outcome in report.outcomes:
        if outcome.error:
            _failure(notes, f"{outcome.step.version} {outcome.state.value}", outcome.error)
    _left(console, report)
    if report.error:
        notes.print(Text(f"Error: {printable(str(report.error))}", style="bold red"))
    elif report.failures:
        verb = report.direction.value
        console.print(Text(f"Mend the migration, then run `flask db-migrate {verb}` again."))


def error(exc: Exception) -> None:
    """Print why a command did not do what it was asked for."""
    err().print(Text(f"Error: {printable(str(exc))}", style="bold red"))


def printable(text: str) -> str:
    """Return the text with everything that could steer a terminal written out, lines kept."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


class Progress(Observer):
    """Prints each step as it starts and as it ends; on a terminal with a spinner between."""

    def __init__(self) -> None:
        self._console = err()
        self._spinner: Spinner | None = None

    def started(self, step: Step) -> None:
        """Show that the step runs."""
        title = f"{step.version} {printable(step.file.name)}"
        if self._console.is_terminal:
            self._spinner = self._console.status(Text(title))
            self._spinner.start()
        else:
            self._console.print(Text(f"{title} ..."))

    def ended(self, outcome: Outcome) -> None:
        """Show how the step ended, and how long it took."""
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None
        mark = _MARKS.get(outcome.state, "✗")
        if self._console.encoding.lower().replace("-", "") != "utf8":
            mark = {"✓": "+", "✗": "!"}.get(mark, mark)
        line = f"{mark} {outcome.step.version} {printable(outcome.step.file.name)}: "
        took = "" if outcome.took_ms is None else f" in {_took(outcome.took_ms)}"
        self._console.print(Text(line), _state(outcome.state.value), Text(took), sep="", end="\n")


def _nothing(direction: Direction) -> str:
    if direction is Direction.UP:
        return "Nothing to do: every migration is applied."
    return "Nothing to do: no migration is applied."


def _plan(console: Console, report: RunReport) -> None:
    verb = report.direction.value
    console.print(Text(f"Would run, in this order ({verb}):"))
    rows = [
        (
            Text(str(outcome.step.version)),
            Text(printable(outcome.step.file.name)),
            Text("in a transaction" if outcome.step.file.transactional else "plain"),
            Text("reversible" if outcome.step.file.reversible else "not reversible"),
            Text("out of order" if outcome.step.out_of_order else ""),
        )
        for outcome in report.outcomes
    ]
    _table(console, ("Version", "Name", "How", "Undo", "Notes"), rows)
    console.print(Text("Nothing was executed: this is the plan, not a rehearsal of it."))


def _done(console: Console, report: RunReport) -> None:
    done = report.in_state(StepState.APPLIED, StepState.ROLLED_BACK)
    if not done:
        what = "applied" if report.direction is Direction.UP else "rolled back"
        console.print(Text(f"Nothing was {what}."))
        return
    took = sum(outcome.took_ms or 0 for outcome in done)
    batch = f" as batch {report.batch}" if report.batch else ""
    console.print(Text(f"{_DID[report.direction]} {_count(len(done))}{batch} in {_took(took)}."))


def _left(console: Console, report: RunReport) -> None:
    left = report.in_state(StepState.NOT_RUN)
    if left:
        versions = ", ".join(str(outcome.step.version) for outcome in left)
        console.print(Text(f"Not run: {versions}."))


def _failure(console: Console, title: str, info: ErrorInfo | None, *, trace: bool = True) -> None:
    if info is None:
        return
    if trace and info.traceback:
        console.print(Text(printable(info.traceback.rstrip()), style="dim"))
    text = f"{title}: {info.type}: {info.message}"
    console.print(Text(printable(text), style="red"))


def _status_row(entry: Entry, state: str) -> tuple[Text, ...]:
    record = entry.record
    notes = {
        "changed since": entry.drifted,
        "file missing": entry.missing,
        "out of order": entry.out_of_order,
        "interrupted": record is not None and record.interrupted,
        "not reversible": not entry.reversible,
    }
    applied = record is not None and record.is_applied
    return (
        Text(str(entry.version)),
        Text(printable(entry.name)),
        _state(state),
        Text(_when(record.applied_at) if record and applied else ""),
        Text(_took(record.execution_ms) if record and applied else ""),
        Text(", ".join(note for note, holds in notes.items() if holds)),
    )


def _outcome_row(outcome: Outcome) -> tuple[Text, ...]:
    return (
        Text(str(outcome.step.version)),
        Text(printable(outcome.step.file.name)),
        _state(outcome.state.value),
        Text(_took(outcome.took_ms)),
    )


def _table(console: Console, headers: Iterable[str], rows: Iterable[Sequence[Text]]) -> None:
    table = Table(*headers, box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _remark(event: Event) -> str:
    if event.error:
        return f"{event.error.type}: {event.error.message}"
    shown = ("direction", "applied", "reason", "of", "ofRun")
    return ", ".join(f"{key} {event.details[key]}" for key in shown if key in event.details)


def _state(state: str) -> Text:
    return Text(state, style=_STYLES.get(state, ""))


def _when(at: datetime | None) -> str:
    return f"{at.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}" if at else ""


def _took(ms: int | None) -> str:
    if ms is None:
        return ""
    return f"{ms} ms" if ms < _SECOND else f"{ms / _SECOND:.2f} s"


def _count(number: int) -> str:
    return "1 migration" if number == 1 else f"{number} migrations"
