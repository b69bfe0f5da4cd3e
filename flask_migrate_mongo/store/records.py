"""A record as it is stored: what it says, and what the steps of a run make of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from flask_migrate_mongo.model.values import (
    COLUMNS,
    Column,
    Direction,
    ErrorInfo,
    Event,
    History,
    Record,
    Status,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from pymongo.client_session import ClientSession

    from flask_migrate_mongo.driver.server import Document
    from flask_migrate_mongo.model.values import Actor, Plan, Step

EVENTS_KEPT = 400
"""Events that a record keeps, the newest: at 32 kB each, message and traceback, they stay below 16 MB."""

# A checkpoint's `_id`s are whatever the application's are: dates, say, that Python does not have.
WITHOUT_EVENTS = {
    "metadata.events": 0,
    "metadata.checkpoint.calls": 0,
    "metadata.rejected": 0,
    "_id": 0,
}

Update: TypeAlias = "tuple[Document, Document]"
"""Which record, and what becomes of it."""

# What a step that is over, well or by hand, leaves behind of its backfills.
NO_BACKFILL: Document = {
    "metadata.checkpoint": None,
    "metadata.progress": None,
    "metadata.request": None,
}


class Run(NamedTuple):
    """One run as the history knows it: who acts, under which fence, as which batch."""

    actor: Actor
    fence: int
    batch: int


class Due(NamedTuple):
    """A step whose turn comes: its place in the plan, and its record as it was before the run.

    The record is fresh when the claim of this run inserts it.
    """

    step: Step
    position: int
    before: Record | None
    is_fresh: bool

    @property
    def status(self) -> Status:
        """What the record says until the step starts."""
        return self.before.status if self.before else Status.PENDING


def dues(plan: Plan, history: History) -> tuple[Due, ...]:
    """Return the steps of a plan, with what was recorded of them under the lease."""
    known = history.by_version
    return tuple(
        Due(step, position, known.get(step.version), is_fresh=step.version not in known)
        for position, step in enumerate(plan.steps)
    )


class Change(NamedTuple):
    """A record's next state, what else is set with it, and the event that says so."""

    target: Status
    at: datetime
    event: Document
    fields: Document

    def update(self) -> Document:
        """Return the update that makes the change in a stored record."""
        return {"$set": self.result(), **push(self.event)}

    def result(self) -> Document:
        """Return what the record says afterwards, by paths, without its trail."""
        return {**self.fields, "status": self.target.value, "updatedAt": self.at}


def starting(due: Due, run: Run, *, at: datetime, session: ClientSession | None) -> Change:
    """Return what becomes of a record when its step starts.

    The session is the one that the step's transaction will run in: whoever finds this run dead can
    end it.
    """
    step = due.step
    fields: Document = {"metadata.startedAt": at}
    if not due.is_fresh:
        said = {**_who(run), **_what(due), "request": None, "session": None}
        fields |= {"error": None, **{f"metadata.{name}": value for name, value in said.items()}}
    if session is not None:
        fields["metadata.session"] = session.session_id["id"]
    if step.direction is Direction.UP:
        # Not before it starts: what is resolved by hand was not applied as the file said.
        fields |= {"batch": run.batch, "metadata.checksum": step.file.checksum}
        fields |= {} if due.is_fresh else _titles(step)
    event = new_event("started", run.actor, at, direction=step.direction.value)
    return Change(Status.RUNNING, at, event, fields)


def _who(run: Run) -> Document:
    return {
        "holder": run.actor.label,
        "host": run.actor.host,
        "pid": run.actor.pid,
        "user": run.actor.user,
        "appVersion": run.actor.app_version,
    }


def _what(due: Due) -> Document:
    step = due.step
    if step.direction is Direction.DOWN:  # What was applied, and in which order, stays.
        return {"direction": step.direction.value}
    return {
        "direction": step.direction.value,
        "position": due.position,
        "outOfOrder": step.out_of_order,
        "allowed": [{"code": each.code, "reason": each.reason} for each in step.file.allowances],
    }


def _titles(step: Step) -> Document:
    return {
        "name": step.file.name,
        "description": step.file.description,
        "reversible": step.file.reversible,
    }


def done(step: Step, run: Run, *, took_ms: int, at: datetime, backfilled: bool) -> Change:
    """Return what becomes of a record when its step has succeeded, with or without a backfill."""
    fields: Document = {"executionTime": took_ms, **(NO_BACKFILL if backfilled else {})}
    if step.direction is Direction.UP:
        kind, target = "completed", Status.COMPLETED
        fields |= {"appliedAt": at, "metadata.interrupted": False}
    else:
        kind, target = "rolled-back", Status.ROLLED_BACK
        fields |= {"rolledBackAt": at}
    event = new_event(kind, run.actor, at, direction=step.direction.value, executionTime=took_ms)
    return Change(target, at, event, fields)


def failed(step: Step, run: Run, error: ErrorInfo, *, took_ms: int, at: datetime) -> Change:
    """Return what becomes of a record when its step has failed.

    A failed down() leaves the migration applied, with the failure in its trail.
    """
    said = {"error": asdict(error), "executionTime": took_ms}
    event = new_event("failed", run.actor, at, direction=step.direction.value, **said)
    if step.direction is Direction.DOWN:
        return Change(Status.COMPLETED, at, event, {})
    return Change(Status.FAILED, at, event, said)


def interrupted(dead: Record, run: Run, at: datetime) -> Change:
    """Return what becomes of a record that a dead run left `running`.

    An interrupted up() counts as failed; an interrupted down() leaves the migration applied.
    """
    undoing = dead.direction is Direction.DOWN
    error = {"type": "Interrupted", "message": _last_seen(dead), "traceback": None}
    event = new_event(
        "interrupted",
        run.actor,
        at,
        direction=dead.direction.value,
        error=error,
        ofRun=dead.run_id,
    )
    fields: Document = {
        "error": None if undoing else error,
        "metadata.interrupted": not undoing,
    }
    return Change(Status.COMPLETED if undoing else Status.FAILED, at, event, fields)


def _before(target: Status, direction: Direction) -> object:
    """Return the condition on the state that a record must be in to reach the target."""
    if target is not Status.RUNNING:
        return Status.RUNNING.value
    if direction is Direction.DOWN:
        return Status.COMPLETED.value
    return {"$nin": [Status.RUNNING.value, Status.COMPLETED.value]}


def condition(step: Step, run: Run, change: Change) -> Document:
    """Return which record, in which state, a run may change: its own, where the change begins."""
    return {
        "version": str(step.version),
        "metadata.runId": run.actor.run_id,
        "status": _before(change.target, step.direction),
    }


def claiming(step: Step, run: Run) -> Update:
    """Return how a record is claimed: unless it has a fence, and not a lower one."""
    claimed = {"metadata.runId": run.actor.run_id, "metadata.fence": run.fence}
    condition = {"version": str(step.version), "metadata.fence": {"$not": {"$gte": run.fence}}}
    return condition, {"$set": claimed}


def _last_seen(dead: Record) -> str:
    started = f"{dead.started_at:%Y-%m-%d %H:%M:%S} UTC" if dead.started_at else "an unknown time"
    who = dead.holder or "an unknown process"
    return f"run {dead.run_id} by {who}, started at {started}, ended without recording an outcome"


def fresh(due: Due, run: Run, at: datetime) -> Document:
    """Return the record of a step that never had one, as the run claims it: all but that it starts."""
    claimed = {"runId": run.actor.run_id, "fence": run.fence}
    return {
        "version": str(due.step.version),
        "status": Status.PENDING.value,
        **_titles(due.step),
        "appliedAt": None,
        "rolledBackAt": None,
        "executionTime": None,
        "error": None,
        "batch": None,
        "metadata": {**claimed, **_who(run), **_what(due), "events": []},
        "createdAt": at,
        "updatedAt": at,
    }


def apply(change: Change, document: Document) -> None:
    """Make the change in a document that is not stored yet."""
    for path, value in change.result().items():
        parent, _, name = path.rpartition(".")
        (document[parent] if parent else document)[name] = value
    document["metadata"]["events"].append(change.event)


def push(event: Document) -> Document:
    """Return the part of an update that appends an event to the trail."""
    return {"$push": {"metadata.events": {"$each": [event], "$slice": -EVENTS_KEPT}}}


def new_event(kind: str, actor: Actor, at: datetime, **details: object) -> Document:
    """Return an event as the trail keeps it."""
    return {"event": kind, "at": at, "runId": actor.run_id, "by": actor.label, **details}


def events_of(document: Document) -> Iterable[Document]:
    """Return the events of a stored record."""
    events: Iterable[Document] = (document.get("metadata") or {}).get("events") or ()
    return events


def read_event(version: str, document: Document) -> Event:
    """Return an event as it was stored."""
    details = {k: v for k, v in document.items() if k not in {"event", "at", "error"}}
    return Event(
        kind=document["event"],
        at=document["at"],
        version=int(version),
        details=details,
        error=ErrorInfo.read(document.get("error")),
    )


def read(document: Document) -> Record:
    """Read a record as it is stored, by this package or by another tool."""
    return Record(**{name: _value(document, column) for name, column in COLUMNS.items()})


def _value(document: Document, column: Column) -> Any:  # noqa: ANN401
    stored = value_at(document, column.path)
    return stored if column.read is None else column.read(stored)


def value_at(document: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401  (whatever is stored)
    """Find what is at a path of a document; None when nothing is."""
    found: Any = document
    for name in path.split("."):
        found = (found or {}).get(name)
    return found


PROJECTION: Document = {"_id": 0, **dict.fromkeys((c.path for c in COLUMNS.values()), 1)}
"""What is read of a record: all but its events and other long parts."""
