"""The status, the history, the event log and the lock, as text."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from flask_migrate_mongo.model.values import COLUMNS, Status

from . import words
from .console import out

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flask_migrate_mongo.model.values import (
        Entry,
        Event,
        LockState,
        Record,
        StatusReport,
        Survey,
    )

    from .cells import Cell, Text

    Row = Sequence[Cell]


_HISTORY = [(column.heading, name) for name, column in COLUMNS.items() if column.heading]
_STATUS = [(h, name) for h, name in _HISTORY if COLUMNS[name].in_table]


def status(report: StatusReport) -> None:
    """Print every version with its state, then the totals and the lock."""
    survey, console = report.survey, out()
    rows = [
        *_status_rows(survey.applied, words.state("applied")),
        *_status_rows(survey.running, words.state("running")),
        *_status_rows(survey.failed, words.state("failed")),
        *_status_rows(survey.pending, words.state("pending")),
    ]
    headings = [heading for heading, _ in _STATUS]
    console.table(("Version", "Name", "State", *headings, "Notes"), rows)
    for entry in survey.failed:
        if entry.record and entry.record.error:
            words.say(console, words.summary(f"{entry.version} failed", entry.record.error), "red")
    words.say(console, f"{words.count(survey.total)}: {_totals(survey)}.")
    if not rows:
        words.say(console, 'Make the first one: flask db-migrate create "add user index"')
    if report.ignored:
        names = ", ".join(map(words.printable, report.ignored))
        words.say(console, f"Ignored, because they do not end in .py: {names}.")
    if report.lock is not None:
        lock(report.lock)


def records(page: Sequence[Record]) -> None:
    """Print a page of the history."""
    console = out()
    if not page:
        words.say(console, "Nothing is recorded.")
        return
    console.table([heading for heading, _ in _HISTORY], map(_record_row, page))


def events(log: Sequence[Event]) -> None:
    """Print an event log, the oldest first."""
    console = out()
    if not log:
        words.say(console, "Nothing has happened yet.")
        return
    headers = ("At (UTC)", "Version", "Event", "By", "Took", "Details")
    console.table(headers, map(_event_row, log))


def lock(state: LockState | None) -> None:
    """Print who holds the lock."""
    console = out()
    if state is None:
        words.say(console, "The lock is free.")
        return
    what = "is held" if state.is_live else "was left"
    words.say(
        console,
        f"The lock {what} by {words.printable(state.holder)} ({words.printable(state.reason)}), since "
        f"{words.when(state.locked_at)} UTC, last heartbeat {words.when(state.heartbeat_at)} UTC.",
    )
    if state.is_live:
        remedy = "If that process is dead: flask db-migrate force-unlock --confirm"
        words.say(
            console, f"It ends at {words.when(state.expires_at)} UTC unless renewed. {remedy}"
        )
    else:
        words.say(
            console,
            f"It expired at {words.when(state.expires_at)} UTC. The next run takes it over.",
        )


def unlocked(state: LockState | None) -> None:
    """Print whose lock was released by force."""
    if state is None:
        words.say(out(), "Nothing to do: the lock is free.")
    else:
        whose = f"{words.printable(state.holder)} ({words.printable(state.reason)})"
        words.say(out(), f"Released the lock of {whose}.")


def asked(record: Record) -> None:
    """Print which migration's backfill got a request."""
    name = f"{record.version} {words.printable(record.name)}"
    words.say(out(), f"Request sent to {name}. It takes effect after the current batch.")


def _totals(survey: Survey) -> str:
    counts = {"applied": survey.applied, "pending": survey.pending, "failed": survey.failed}
    if survey.running:
        counts["running"] = survey.running
    return ", ".join(f"{len(found)} {state}" for state, found in counts.items())


def _status_rows(entries: Iterable[Entry], state: Text) -> Iterable[Row]:
    for entry in entries:
        applied = entry.record if entry.record is not None and entry.record.is_applied else None
        yield (
            str(entry.version),
            words.printable(entry.name),
            state,
            *(_cell(applied, field) if applied else "" for _, field in _STATUS),
            ", ".join(_notes(entry, entry.record)),
        )


def _notes(entry: Entry, record: Record | None) -> Iterable[str]:
    if entry.drifted:
        yield "changed since"
    if entry.missing:
        yield "file missing"
    if entry.out_of_order:
        yield "out of order"
    if record is not None and record.interrupted:
        yield "interrupted"
    if not entry.reversible:
        yield "not reversible"
    if record is not None and record.progress is not None:
        yield f"backfill of {words.how_far(record.progress)}"


def _record_row(record: Record) -> Row:
    return [_cell(record, field) for _, field in _HISTORY]


def _cell(record: Record, field: str) -> Cell:
    value = getattr(record, field)
    if isinstance(value, Status):
        return words.state(value.value)
    if isinstance(value, datetime):
        return words.when(value)
    if field == "execution_ms":
        return words.took(value)
    return "" if value is None else words.printable(str(value))


def _event_row(event: Event) -> Row:
    return (
        words.when(event.at),
        "lock" if event.version is None else str(event.version),
        words.state(event.kind),
        words.printable(str(event.details.get("by", ""))),
        words.took(event.details.get("executionTime")),
        words.printable(_remark(event)),
    )


def _remark(event: Event) -> str:
    if event.error:
        return f"{event.error.type}: {event.error.message}"
    shown = ("direction", "applied", "reason", "of", "ofRun")
    return ", ".join(f"{key} {event.details[key]}" for key in shown if key in event.details)
