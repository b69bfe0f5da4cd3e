"""One record: how it is read, and how the run that claims it for a step changes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError
from pymongo.read_concern import ReadConcern

from flask_migrate_mongo.driver.server import Document, translated
from flask_migrate_mongo.model.errors import LeaseLostError
from flask_migrate_mongo.model.values import (
    COLUMNS,
    Actor,
    Direction,
    ErrorInfo,
    Event,
    MigrationFile,
    Origin,
    Record,
    RejectedDocument,
    Status,
    Step,
)

EVENTS_KEPT = 400
"""Events that a record keeps, the newest: at 32 kB each, message and traceback, they stay below 16 MB."""

PROJECTION: Document = {
    "_id": 0,
    "error": 1,
    **dict.fromkeys((c.path for c in COLUMNS.values()), 1),
}
"""What is read of a record: all but its events and other long parts."""

NO_BACKFILL = dict.fromkeys(("metadata.checkpoint", "metadata.progress", "metadata.request"), "")
"""What a migration that ended, well or by hand, no longer needs of its backfills."""

UNREADABLE = (TypeError, ValueError, AttributeError, KeyError, OverflowError)
"""What reading a document raises that is not a record."""


# --- reading


def read(document: Document) -> Record:
    """Read a record as it is stored, by this package or by another tool. Raises one of UNREADABLE."""
    values: dict[str, Any] = {}
    for name, column in COLUMNS.items():
        stored = value_at(document, column.path)
        if stored is not None:
            values[name] = column.read(stored) if column.read else stored
    # Another tool, and earlier versions of this package, store nothing but this one.
    values["error"] = values.get("error") or ErrorInfo.read(document.get("error"))
    return Record(**values)


def is_record(document: Document) -> bool:
    """Whether a document can be read as a record with its events."""
    try:
        read(document)
        tuple(read_events(document))
    except UNREADABLE:
        return False
    return True


def value_at(document: Document, path: str) -> Any:  # noqa: ANN401  (whatever is stored)
    """Find what is at a path of a document; None when nothing is."""
    found: Any = document
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def read_events(document: Document) -> Iterable[Event]:
    """Read the events of a stored record, the oldest first."""
    for stored in value_at(document, "metadata.events") or ():
        details = {k: v for k, v in stored.items() if k not in {"event", "at", "error"}}
        yield Event(
            kind=stored["event"],
            at=stored["at"],
            version=int(document["version"]),
            details=details,
            error=ErrorInfo.read(stored.get("error")),
        )


def read_rejected(document: Document) -> Iterable[RejectedDocument]:
    """Read what the backfills of a stored record rejected: those that ended, then those that did not."""
    calls = value_at(document, "metadata.checkpoint.calls") or {}
    ended = value_at(document, "metadata.rejected") or {}
    found = [(call["collection"], call["documents"]) for call in ended.values()]
    # The checkpoint of a call that ended has the same documents, until its migration ends.
    running = (call for number, call in calls.items() if number not in ended)
    found += [(call["collection"], call["state"]["rejected"]) for call in running]
    for collection, rejected in found:
        for each in rejected:
            yield RejectedDocument(collection, each["_id"], ErrorInfo("Rejected", each["error"]))


# --- changing


def paths(**values: object) -> Document:
    """Build a document of stored paths from values by the names of a record's fields."""
    return {COLUMNS[name].path: value for name, value in values.items()}


def push(actor: Actor, kind: str, at: datetime, **details: object) -> Document:
    """Build the part of an update that appends an event to the event log."""
    event = {"event": kind, "at": at, "runId": actor.run_id, "by": actor.label, **details}
    return {"$push": {"metadata.events": {"$each": [event], "$slice": -EVENTS_KEPT}}}


@dataclass(frozen=True, slots=True)
class Run:
    """One run as the history knows it: who acts, under which fence, as which batch."""

    actor: Actor
    fence: int
    batch: int

    @property
    def may_change(self) -> Document:
        """The condition of records that no run with a higher fence has claimed or changed."""
        return paths(fence={"$not": {"$gt": self.fence}})


def failure(error: ErrorInfo | None) -> Document:
    """Build what is stored of an error: a text, and beside it its parts."""
    text = None if error is None else f"{error.type}: {error.message}"
    return {"error": text, **paths(error=None if error is None else asdict(error))}


@dataclass(frozen=True, slots=True)
class Adoption:
    """A migration that is recorded as applied without running, and why; `verified` if its verify() passed.

    `applied_at` is when another tool applied it. `parts` are the records of what a squashed migration replaces.
    """

    file: MigrationFile
    origin: Origin
    reason: str
    verified: bool | None = None
    position: int = 0
    applied_at: datetime | None = None
    parts: tuple[Record, ...] = ()


def described(file: MigrationFile) -> Document:
    """Build what is stored of a file."""
    return {
        **paths(
            name=file.name,
            description=file.description,
            reversible=file.reversible,
            checksum=file.checksum,
            digest=file.digest,
            slug=file.slug,
            replaces=list(map(str, file.replaces)),
        ),
        "metadata.allowed": [{"code": a.code, "reason": a.reason} for a in file.suppressions],
    }


def startable(version: int) -> Document:
    """Build the condition of a record that is neither applied nor running.

    The record of what a squashed migration replaced still says how that ended. It may be changed: no plan contains it
    as long as it counts as a part.
    """
    ready = {"$nin": [Status.RUNNING.value, Status.COMPLETED.value]}
    return {
        **paths(version=str(version)),
        "$or": [paths(status=ready), paths(replaced_by={"$ne": None})],
    }


def placed(run: Run, position: int) -> Document:
    """Build the place of a migration in the order of application, and forget what an earlier life of it had."""
    return paths(
        batch=run.batch,
        position=position,
        origin=Origin.RUN.value,
        verified=None,
        replaced_by=None,
        down_failed=False,
        forgotten=False,
    )


def settled(status: Status, run: Run, at: datetime) -> Document:
    """Build the state that a record gets without a run of its migration."""
    return {
        **paths(
            status=status.value,
            interrupted=False,
            down_failed=False,
            rolled_back_at=None,
            execution_ms=None,
            run_id=run.actor.run_id,
            fence=run.fence,
            updated_at=at,
        ),
        **failure(None),
    }


@dataclass(frozen=True, slots=True)
class Claim:
    """The record of a step, for the run that claims it.

    Every change is conditional on the record being claimed by that run, and a claim gives way only to
    a higher fence: a run that lost the lease changes nothing, and gets LeaseLostError. A change may be
    tried again: one that succeeded without a reply is recognised. `ranges` holds the checkpoints of a
    backfill with several workers.
    """

    records: Collection[Document]
    ranges: Collection[Document]
    step: Step
    run: Run

    @property
    def condition(self) -> Document:
        """The condition that only a record matches which the run has claimed and not ended."""
        return self._in_state(Status.RUNNING)

    def event(self, kind: str, at: datetime, **details: object) -> Document:
        """Build the part of an update that appends an event of the run to the event log."""
        return push(self.run.actor, kind, at, **details)

    def start(self, *, position: int, at: datetime, session: ClientSession | None) -> None:
        """Claim the record, which a new migration does not have yet, and mark it as running.

        A record with a fence that is not lower, or that is running or ended meanwhile, does not match.
        `session` is the one that the step runs in: the next run kills it if this one crashes.
        """
        direction = self.step.direction
        fresh = {**paths(applied_at=None, rolled_back_at=None, execution_ms=None), "createdAt": at}
        self._change(
            self._startable(),
            {
                "$set": self._begun(position, at, session),
                "$setOnInsert": fresh,
                **self.event("started", at, direction=direction.value),
            },
            Status.RUNNING,
            upsert=direction is Direction.UP,
        )

    def _startable(self) -> Document:
        """Build the condition of a record from which the step can start, claimed under a lower fence or not at all."""
        version, fence = self.step.version, self.run.fence
        if self.step.direction is Direction.UP:
            ready = startable(version)
        else:
            ready = paths(version=str(version), status=Status.COMPLETED.value)
        # `redo` has claimed the record in this very run, under this very fence.
        lower = paths(fence={"$not": {"$gte": fence}})
        return ready | (paths(run_id=self.run.actor.run_id) if self.step.redone else lower)

    def _begun(self, position: int, at: datetime, session: ClientSession | None) -> Document:
        """Build what is stored of a step that starts."""
        actor = self.run.actor
        values = {
            **paths(
                status=Status.RUNNING.value,
                run_id=actor.run_id,
                fence=self.run.fence,
                direction=self.step.direction.value,
                holder=actor.label,
                started_at=at,
                session=session.session_id["id"] if session else None,
                backfill_session=None,
                updated_at=at,
            ),
            **failure(None),
            "metadata.host": actor.host,
            "metadata.pid": actor.pid,
            "metadata.user": actor.user,
            "metadata.appVersion": actor.app_version,
            "metadata.request": None,
        }
        if self.step.direction is Direction.DOWN:
            # What is recorded of the file stays as it was applied.
            return values
        placement = placed(self.run, position)
        out_of_order = {"metadata.outOfOrder": self.step.out_of_order}
        return {**values, **described(self.step.file), **placement, **out_of_order}

    def note(self, kind: str, at: datetime, **details: object) -> None:
        """Append an event to the event log while the step runs."""
        self._change(self.condition, self.event(kind, at, **details), Status.RUNNING)

    def complete(self, *, took_ms: int, at: datetime, session: ClientSession | None = None) -> None:
        """Mark the step as successful; with a session, in its transaction."""
        if self.step.direction is Direction.UP:
            verified = self.step.file.verifiable or None
            kind, values = "completed", paths(applied_at=at, interrupted=False, verified=verified)
        else:
            kind, values = "rolled-back", paths(rolled_back_at=at, down_failed=False)
        values |= paths(status=self._success.value, execution_ms=took_ms, updated_at=at)
        direction = self.step.direction.value
        event = self.event(kind, at, direction=direction, executionTime=took_ms)
        update = {"$set": values, "$unset": NO_BACKFILL, **event}
        self._change(self.condition, update, self._success, session=session)

    def fail(
        self, error: ErrorInfo, *, took_ms: int, at: datetime, interrupted: bool = False
    ) -> None:
        """Mark the step as failed; `interrupted` if a part of its writes may stay.

        If `down()` fails, the migration stays marked as applied, and its record says that it failed.
        """
        details = {"error": asdict(error), "executionTime": took_ms}
        event = self.event("failed", at, direction=self.step.direction.value, **details)
        target, values = Status.FAILED, paths(interrupted=interrupted, execution_ms=took_ms)
        if self.step.direction is Direction.DOWN:
            target, values = Status.COMPLETED, paths(down_failed=True)
        values |= failure(error)
        update = {"$set": {**values, **paths(status=target.value, updated_at=at)}, **event}
        self._change(self.condition, update, target)

    def is_completed(self) -> bool:
        """Whether the success of the step is recorded on a majority of the servers."""
        majority = self.records.with_options(read_concern=ReadConcern("majority"))
        return self._has_reached(self._success, majority, {})

    @property
    def _success(self) -> Status:
        return Status.COMPLETED if self.step.direction is Direction.UP else Status.ROLLED_BACK

    def _change(
        self,
        condition: Document,
        update: Document,
        target: Status,
        *,
        upsert: bool = False,
        session: ClientSession | None = None,
    ) -> None:
        """Change the record, if it matches the condition, in one atomic update to the target."""
        # mongomock refuses the argument `session`, even None.
        options: dict[str, Any] = {"session": session} if session else {}
        with translated():
            try:
                made = self.records.update_one(condition, update, upsert=upsert, **options)
                changed = made.matched_count > 0 or made.upserted_id is not None
            except DuplicateKeyError:
                # The upsert found a record of this version whose state did not match.
                changed = False
        if changed:
            return
        # Without a transaction, an earlier try may have made the change although its reply was lost, with the same
        # time. At another time it was `force-unlock`, after which the state can be the same.
        values = update.get("$set", {})
        at = {path: values[path] for path in paths(updated_at=None) if path in values}
        if session is not None or not self._has_reached(target, self.records, at):
            raise LeaseLostError(
                f"another run has taken over {self.step.version}, or its record is gone from the history"
            )

    def _has_reached(self, status: Status, collection: Collection[Document], at: Document) -> bool:
        with translated():
            return collection.find_one({**self._in_state(status), **at}, {"_id": 1}) is not None

    def _in_state(self, status: Status) -> Document:
        version, run_id = str(self.step.version), self.run.actor.run_id
        return paths(version=version, run_id=run_id, status=status.value)
