"""How a record is read, and how each event of a migration changes it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from flask_migrate_mongo.model.values import (
    COLUMNS,
    Column,
    Direction,
    ErrorInfo,
    Event,
    Record,
    Status,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from flask_migrate_mongo.driver.server import Document
    from flask_migrate_mongo.model.values import Actor, Step

EVENTS_KEPT = 400
"""Events that a record keeps, the newest: at 32 kB each, message and traceback, they stay below 16 MB."""

PROJECTION: Document = {"_id": 0, **dict.fromkeys((c.path for c in COLUMNS.values()), 1)}
"""What is read of a record: all but its events and other long parts."""

_NO_BACKFILL = dict.fromkeys(("metadata.checkpoint", "metadata.progress", "metadata.request"), "")
"""What a migration that ended, well or by hand, no longer needs of its backfills."""


# --- reading


def read(document: Document) -> Record:
    """Read a record as it is stored, by this package or by another tool."""
    values: dict[str, Any] = {name: _value(document, col) for name, col in COLUMNS.items()}
    return Record(**values)


def _value(document: Document, column: Column) -> object:
    stored = value_at(document, column.path)
    return stored if column.read is None else column.read(stored)


def value_at(document: Document, path: str) -> Any:  # noqa: ANN401  (whatever is stored)
    """Find what is at a path of a document; None when nothing is."""
    found: Any = document
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def read_events(document: Document) -> Iterable[Event]:
    """Read the events of a stored record, the oldest first."""
    for stored in (document.get("metadata") or {}).get("events") or ():
        details = {k: v for k, v in stored.items() if k not in {"event", "at", "error"}}
        yield Event(
            kind=stored["event"],
            at=stored["at"],
            version=int(document["version"]),
            details=details,
            error=ErrorInfo.read(stored.get("error")),
        )


# --- changing


@dataclass(frozen=True, slots=True)
class Run:
    """One run as the history knows it: who acts, under which fence, as which batch."""

    actor: Actor
    fence: int
    batch: int

    def event(self, kind: str, at: datetime, **details: object) -> Document:
        """Build the part of an update that appends an event to the event log."""
        return push(self.actor, kind, at, **details)


def push(actor: Actor, kind: str, at: datetime, **details: object) -> Document:
    """Build the part of an update that appends an event to the event log."""
    event = {"event": kind, "at": at, "runId": actor.run_id, "by": actor.label, **details}
    return {"$push": {"metadata.events": {"$each": [event], "$slice": -EVENTS_KEPT}}}


def paths(**values: object) -> Document:
    """Build a document of stored paths from values by the names of a record's fields."""
    return {COLUMNS[name].path: value for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class RecordUpdate:
    """One atomic change of one record: which record, in which state, and the update.

    `target` is the state that it leads to.
    """

    condition: Document
    update: Document
    target: Status


def claimed_by(step: Step, run: Run) -> Document:
    """Build the condition that only a record matches which this run has claimed and not ended."""
    return paths(version=str(step.version), run_id=run.actor.run_id, status=Status.RUNNING.value)


def start(
    step: Step, run: Run, *, position: int, at: datetime, session: bytes | None
) -> RecordUpdate:
    """Claim the record of a step and mark it as running.

    A record with a fence that is not lower, or that is running or ended meanwhile, does not match.
    """
    values = {
        **paths(
            status=Status.RUNNING.value,
            run_id=run.actor.run_id,
            fence=run.fence,
            direction=step.direction.value,
            holder=run.actor.label,
            started_at=at,
            session=session,
            error=None,
            updated_at=at,
        ),
        "metadata.host": run.actor.host,
        "metadata.pid": run.actor.pid,
        "metadata.user": run.actor.user,
        "metadata.appVersion": run.actor.app_version,
        "metadata.request": None,
    }
    ready: object = Status.COMPLETED.value
    if step.direction is Direction.UP:
        values |= _described(step, run, position)
        ready = {"$nin": [Status.RUNNING.value, Status.COMPLETED.value]}
    fresh = {**paths(applied_at=None, rolled_back_at=None, execution_ms=None), "createdAt": at}
    return RecordUpdate(
        paths(version=str(step.version), status=ready, fence={"$not": {"$gte": run.fence}}),
        {
            "$set": values,
            "$setOnInsert": fresh,
            **run.event("started", at, direction=step.direction.value),
        },
        Status.RUNNING,
    )


def _described(step: Step, run: Run, position: int) -> Document:
    """Build what an `up` records of the file; a `down` leaves it as it was applied."""
    file = step.file
    return {
        **paths(
            name=file.name,
            description=file.description,
            reversible=file.reversible,
            checksum=file.checksum,
            batch=run.batch,
            position=position,
        ),
        "metadata.outOfOrder": step.out_of_order,
        "metadata.allowed": [{"code": a.code, "reason": a.reason} for a in file.suppressions],
    }


def complete(step: Step, run: Run, *, took_ms: int, at: datetime) -> RecordUpdate:
    """Mark a step as successful: the migration is applied, or rolled back."""
    if step.direction is Direction.UP:
        kind, target = "completed", Status.COMPLETED
        values = paths(applied_at=at, interrupted=False)
    else:
        kind, target = "rolled-back", Status.ROLLED_BACK
        values = paths(rolled_back_at=at)
    values |= paths(status=target.value, execution_ms=took_ms, updated_at=at)
    event = run.event(kind, at, direction=step.direction.value, executionTime=took_ms)
    update = {"$set": values, "$unset": _NO_BACKFILL, **event}
    return RecordUpdate(claimed_by(step, run), update, target)


def fail(step: Step, run: Run, error: ErrorInfo, *, took_ms: int, at: datetime) -> RecordUpdate:
    """Mark a step as failed. If `down()` fails, the migration stays marked as applied."""
    details = {"error": asdict(error), "executionTime": took_ms}
    event = run.event("failed", at, direction=step.direction.value, **details)
    target, values = Status.FAILED, details
    if step.direction is Direction.DOWN:
        target, values = Status.COMPLETED, {}
    update = {"$set": {**values, **paths(status=target.value, updated_at=at)}, **event}
    return RecordUpdate(claimed_by(step, run), update, target)


def interrupt(dead: Record, run: Run, at: datetime) -> RecordUpdate:
    """Mark a record left `running` by a crashed run as interrupted.

    An interrupted `up()` counts as failed; after an interrupted `down()` the migration stays applied.
    """
    undoing = dead.direction is Direction.DOWN
    error = {"type": "Interrupted", "message": _last_seen(dead), "traceback": None}
    target = Status.COMPLETED if undoing else Status.FAILED
    values = paths(
        status=target.value,
        error=None if undoing else error,
        interrupted=not undoing,
        updated_at=at,
    )
    details = {"direction": dead.direction.value, "error": error, "ofRun": dead.run_id}
    return RecordUpdate(
        paths(version=str(dead.version), status=Status.RUNNING.value, run_id=dead.run_id),
        {"$set": values, **run.event("interrupted", at, **details)},
        target,
    )


def _last_seen(dead: Record) -> str:
    started = f"{dead.started_at:%Y-%m-%d %H:%M:%S} UTC" if dead.started_at else "an unknown time"
    holder = dead.holder or "an unknown process"
    return (
        f"run {dead.run_id} by {holder}, started at {started}, ended without recording an outcome"
    )


def resolve(record: Record, run: Run, *, applied: bool, reason: str, at: datetime) -> RecordUpdate:
    """Set by hand whether a migration is applied; the reason goes into its event log."""
    target = Status.COMPLETED if applied else Status.PENDING
    values = paths(
        status=target.value,
        applied_at=at if applied else None,
        error=None,
        batch=run.batch if applied else record.batch,
        interrupted=False,
        run_id=run.actor.run_id,
        fence=run.fence,
        updated_at=at,
    )
    event = run.event("resolved", at, applied=applied, reason=reason)
    return RecordUpdate(
        paths(version=str(record.version), status=record.status.value),
        {"$set": values, "$unset": _NO_BACKFILL, **event},
        target,
    )
