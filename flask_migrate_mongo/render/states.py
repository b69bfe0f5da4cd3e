"""What is recorded, and who holds the lock, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_migrate_mongo.console import Text, out

from . import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flask_migrate_mongo.model import Entry, Event, LockState, Record, StatusReport, Survey

    Row = Sequence[Text]


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
    console.table(("Version", "Name", "State", "Applied at (UTC)", "Took", "Notes"), rows)
    for entry in survey.failed:
        if entry.record and entry.record.error:
            words.say(console, words.summary(f"{entry.version} failed", entry.record.error), "red")
    words.say(console, f"{words.count(survey.total)}: {_totals(survey)}.")
    if not rows:
        words.say(console, 'Make the first one: flask db-migrate create "add user index"')
    if report.ignored:
        names = ", ".join(map(words.printable, report.ignored))
        words.say(console, f"Passed over, since they do not end in .py: {names}.")
    if report.lock is not None:
        lock(report.lock)


def records(page: Sequence[Record]) -> None:
    """Print a page of the history."""
    console = out()
    if not page:
        words.say(console, "Nothing is recorded.")
        return
    times = ("Applied at (UTC)", "Rolled back at (UTC)")
    headers = ("Version", "Name", "Status", *times, "Took", "Batch")
    console.table(headers, map(_record_row, page))


def events(trail: Sequence[Event]) -> None:
    """Print a trail, oldest first."""
    console = out()
    if not trail:
        words.say(console, "Nothing has happened yet.")
        return
    headers = ("At (UTC)", "Version", "Event", "By", "Took", "Details")
    console.table(headers, map(_event_row, trail))


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
            f"It expired at {words.when(state.expires_at)} UTC and holds nobody off any more.",
        )


def unlocked(state: LockState | None) -> None:
    """Print whose lock was released by force."""
    if state is None:
        words.say(out(), "Nothing to do: the lock is free.")
    else:
        whose = f"{words.printable(state.holder)} ({words.printable(state.reason)})"
        words.say(out(), f"Released the lock of {whose}.")


def asked(record: Record) -> None:
    """Print which migration's backfill something was asked of."""
    name = f"{record.version} {words.printable(record.name)}"
    words.say(out(), f"Asked of {name}. It is heeded after the batch in hand.")


def _totals(survey: Survey) -> str:
    counts = {"applied": survey.applied, "pending": survey.pending, "failed": survey.failed}
    if survey.running:
        counts["running"] = survey.running
    return ", ".join(f"{len(found)} {state}" for state, found in counts.items())


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
        Text(words.printable(entry.name)),
        words.state(state),
        Text(words.when(applied.applied_at) if applied else ""),
        Text(words.took(applied.execution_ms) if applied else ""),
        Text(", ".join((*(note for note, holds in notes.items() if holds), *_backfill(record)))),
    )


def _backfill(record: Record | None) -> Iterable[str]:
    if record is not None and record.progress is not None:
        yield f"backfill of {words.how_far(record.progress)}"


def _record_row(record: Record) -> Row:
    return (
        Text(str(record.version)),
        Text(words.printable(record.name)),
        words.state(record.status.value),
        Text(words.when(record.applied_at)),
        Text(words.when(record.rolled_back_at)),
        Text(words.took(record.execution_ms)),
        Text(str(record.batch or "")),
    )


def _event_row(event: Event) -> Row:
    return (
        Text(words.when(event.at)),
        Text("lock" if event.version is None else str(event.version)),
        words.state(event.kind),
        Text(words.printable(str(event.details.get("by", "")))),
        Text(words.took(event.details.get("executionTime"))),
        Text(words.printable(_remark(event))),
    )


def _remark(event: Event) -> str:
    if event.error:
        return f"{event.error.type}: {event.error.message}"
    shown = ("direction", "applied", "reason", "of", "ofRun")
    return ", ".join(f"{key} {event.details[key]}" for key in shown if key in event.details)
