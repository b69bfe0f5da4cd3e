"""Asynchronous runs: one stored document each, in a collection of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError

from flask_migrate_mongo.driver.server import Document, Server, translated
from flask_migrate_mongo.model.errors import TooManyRunsError, UnknownRunError
from flask_migrate_mongo.model.values import Direction

from .lease import Lease

KEPT_DAYS = 30
"""Days after its end in which a run's document is deleted; the migrations' records keep what it did."""

SILENT_SECONDS = 30
"""Seconds without a sign of life after which a run without a live lock is lost: several heartbeats of a run."""

MOST_RUNS = 2
"""How many runs of the same migrations have not ended: one works, one waits for the lock."""

MOST_DRY_RUNS = 2
"""How many dry runs of the same migrations have not ended. They take no lock, and no place of a run."""

EVENTS_KEPT = 1_000
"""A document has at most 16 MB, and the report is in it, too."""


class RunState(str, Enum):
    """The state of a run; the values are those stored."""

    QUEUED = "queued"
    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    LOST = "lost"

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.value not in _UNENDED["$in"]


_UNENDED = {"$in": [state.value for state in (RunState.QUEUED, RunState.WAITING, RunState.RUNNING)]}
_CANCEL_REQUESTED = {"cancelRequested": 1}
_WITHOUT_RESULTS = dict.fromkeys(("steps", "report", "error", "events"), 0)


@dataclass(frozen=True, slots=True)
class StoredRun:
    """An asynchronous run. `report`, `error` and `steps`, those of the plan, are documents as the REST API answers them.

    `options` are the parameters of its request. `updated_at` is the last sign of life of its process. `events`
    are documents of `sequence` (from 1 on), `event`, `at`, and the fields that changed: the newest EVENTS_KEPT.
    """

    run_id: str
    direction: str
    options: Document
    state: RunState
    detached: bool
    created_at: datetime
    updated_at: datetime
    current: Document | None = None
    steps: tuple[Document, ...] = ()
    report: Document | None = None
    error: Document | None = None
    cancel_requested: bool = False
    events: tuple[Document, ...] = ()

    @property
    def is_dry(self) -> bool:
        """Whether it is a dry run."""
        return bool(self.options.get("dry_run"))

    def events_after(self, sequence: int) -> tuple[Document, ...]:
        """List the events that follow the one of this number."""
        return tuple(event for event in self.events if event["sequence"] > sequence)


class RunStore:
    """The runs of one database. Each write is one atomic update of one document."""

    def __init__(self, server: Server, collection: str, lease: Lease) -> None:
        self._server = server
        self._runs = server.collection(collection)
        self._lease = lease

    # --- before a run

    def create(
        self,
        run_id: str,
        direction: Direction,
        options: Document,
        project: Document,
        *,
        waits: bool = True,
    ) -> None:
        """Queue a run. `project` says which migrations it concerns, and `waits` whether it waits for the lock.

        Beside a run that has not ended, only one that waits is accepted, and dry runs. Raises TooManyRunsError.
        """
        # Names that no other collection has: an index of ours neither deletes nor refuses its documents.
        indexes = [IndexModel("runSlot", unique=True, sparse=True)]
        # mongomock reads the clock in a way that newer versions of Python warn of.
        if self._server.sends_commands:
            indexes.append(IndexModel("runExpiresAt", expireAfterSeconds=0))
        with translated():
            self._runs.create_indexes(indexes)
        slots = _slots(project["collection"], waits=waits, is_dry=bool(options.get("dry_run")))
        # A second time, because the look at those that have the slots ends the dead ones.
        for _ in range(2):
            if any(self._insert(run_id, direction, options, project, slot) for slot in slots):
                return
            others = self._in_slots(slots)
        raise TooManyRunsError(others)

    def _insert(
        self, run_id: str, direction: Direction, options: Document, project: Document, slot: str
    ) -> bool:
        """Queue a run in a slot; False if another has it. The unique index decides between processes."""
        now = self._server.now()
        document: Document = {
            "_id": run_id,
            "direction": direction.value,
            "options": options,
            "project": project,
            "runSlot": slot,
            "state": RunState.QUEUED.value,
            "detached": False,
            "current": None,
            "steps": [],
            "report": None,
            "error": None,
            "cancelRequested": False,
            "events": [],
            "eventCount": 0,
            "createdAt": now,
            "updatedAt": now,
        }
        with translated():
            try:
                self._runs.insert_one(document)
            except DuplicateKeyError:
                return False
        return True

    def _in_slots(self, slots: list[str]) -> list[str]:
        """Find the runs that have these slots, and mark those that are lost."""
        with translated():
            found = list(self._runs.find({"runSlot": {"$in": slots}}).sort("createdAt", ASCENDING))
        seen = [self.settle(_stored(document)) for document in found]
        return [run.run_id for run in seen if not run.state.is_over]

    def claim(self, run_id: str, project: Document, *, detached: bool) -> StoredRun | None:
        """Take a queued run over; None if another did, or its project is another.

        `detached` says whether it outlives the web server. It waits for the lock until it notes its plan.
        """
        condition = {"_id": run_id, "state": RunState.QUEUED.value, "project": project}
        now = self._server.now()
        claimed = {"state": RunState.WAITING.value, "detached": detached, "updatedAt": now}
        with translated():
            found = self._runs.find_one_and_update(
                condition, {"$set": claimed}, return_document=ReturnDocument.AFTER
            )
        return None if found is None else _stored(found)

    def is_queued(self, run_id: str) -> bool:
        """Whether no process has claimed a run yet."""
        with translated():
            return self._runs.find_one({"_id": run_id, "state": RunState.QUEUED.value}) is not None

    # --- during a run

    def begin(self, run_id: str, steps: list[Document]) -> bool:
        """Note that a run has its plan, and the lock; False if it must not begin: cancelled, or found lost."""
        query = {"_id": run_id, "state": _UNENDED, "cancelRequested": False}
        return self._write(query, "planned", RunState.RUNNING, steps=steps) is not None

    def note(self, run_id: str, event: str, **fields: object) -> bool:
        """Note an event of a step; True if a stop of the run was requested. A `step` is in the event alone.

        A run that was found lost stays so until it ends: another one may have its slot.
        """
        query = {"_id": run_id, "state": _UNENDED}
        return _is_cancelled(self._write(query, event, RunState.RUNNING, **fields))

    def touch(self, run_id: str, **fields: Document) -> bool:
        """Note that a run's process lives; True if a stop of the run was requested."""
        changed = {"$set": {**fields, "updatedAt": self._server.now()}}
        with translated():
            return _is_cancelled(
                self._runs.find_one_and_update({"_id": run_id}, changed, _CANCEL_REQUESTED)
            )

    def end(self, run_id: str, state: RunState, **result: Document) -> None:
        """Note how a run ended, with its `report` or its `error`, also if it was found lost before."""
        self._write({"_id": run_id}, state.value, state, current=None, **result)

    def _write(
        self, query: Document, event: str, state: RunState, **fields: object
    ) -> Document | None:
        """Set the state and fields of a run, and append an event; None if the query finds none."""
        now = self._server.now()
        shown: Document = {key: fields[key] for key in ("current", "step") if key in fields}
        entry = {"event": event, "at": now, "state": state.value, **shown}
        stored: Document = {key: value for key, value in fields.items() if key != "step"}
        update: Document = {
            "$set": {**stored, "state": state.value, "updatedAt": now},
            "$push": {"events": {"$each": [entry], "$slice": -EVENTS_KEPT}},
            "$inc": {"eventCount": 1},
        }
        if state.is_over:
            update["$set"]["runExpiresAt"] = now + timedelta(days=KEPT_DAYS)
            update["$unset"] = {"runSlot": ""}
        with translated():
            return self._runs.find_one_and_update(query, update, _CANCEL_REQUESTED)

    # --- from outside

    def get(self, run_id: str) -> StoredRun:
        """Read a run, and mark it as lost if its process is dead. Raises UnknownRunError."""
        return self.settle(self._read(run_id))

    def newest(self, project: Document, limit: int) -> tuple[StoredRun, ...]:
        """Read the newest runs of these migrations, without steps and results; mark those that are lost."""
        wanted = {"project.collection": project["collection"]}
        with translated():
            found = self._runs.find(wanted, _WITHOUT_RESULTS).sort("createdAt", DESCENDING)
            read = [_stored(document) for document in found.limit(limit)]
        return tuple(self._settled_without_results(run) for run in read)

    def _settled_without_results(self, run: StoredRun) -> StoredRun:
        return replace(self.settle(run), steps=(), report=None, error=None, events=())

    def settle(self, run: StoredRun) -> StoredRun:
        """Mark a run as lost if its process is dead, and read it again."""
        if run.state.is_over or self._is_alive(run):
            return run
        # Unless it has ended, or gave a sign of life, since it was read.
        unchanged = {"_id": run.run_id, "state": _UNENDED, "updatedAt": run.updated_at}
        self._write(unchanged, RunState.LOST.value, RunState.LOST, current=None)
        return self._read(run.run_id)

    def _is_alive(self, run: StoredRun) -> bool:
        if self._server.now() - run.updated_at < timedelta(seconds=SILENT_SECONDS):
            return True
        lock = self._lease.inspect()
        return lock is not None and lock.is_live and lock.run_id == run.run_id

    def _read(self, run_id: str) -> StoredRun:
        with translated():
            found = self._runs.find_one({"_id": run_id})
        if found is None:
            raise UnknownRunError(run_id)
        return _stored(found)

    def cancel(self, run_id: str) -> bool:
        """Request a run to stop; False if it has ended. Raises UnknownRunError."""
        condition = {"_id": self.get(run_id).run_id, "state": _UNENDED}
        with translated():
            found = self._runs.update_one(condition, {"$set": {"cancelRequested": True}})
        return bool(found.matched_count)

    def is_cancelled(self, run_id: str) -> bool:
        """Whether a stop of a run was requested."""
        with translated():
            return _is_cancelled(self._runs.find_one({"_id": run_id}, _CANCEL_REQUESTED))


def _slots(collection: str, *, waits: bool, is_dry: bool) -> list[str]:
    """Name the slots that a run may take; each holds one run."""
    if is_dry:
        return [f"{collection} dry run {number}" for number in range(MOST_DRY_RUNS)]
    return [f"{collection} {number}" for number in range(MOST_RUNS if waits else 1)]


def _is_cancelled(found: Document | None) -> bool:
    return bool(found and found.get("cancelRequested"))


def _stored(document: Document) -> StoredRun:
    events: list[Document] = document.get("events") or []
    # Older events may have been left out.
    first = document.get("eventCount", len(events)) - len(events) + 1
    return StoredRun(
        run_id=document["_id"],
        direction=document["direction"],
        options=document.get("options") or {},
        state=RunState(document["state"]),
        detached=bool(document.get("detached")),
        created_at=document["createdAt"],
        updated_at=document["updatedAt"],
        current=document.get("current"),
        steps=tuple(document.get("steps") or ()),
        report=document.get("report"),
        error=document.get("error"),
        cancel_requested=bool(document.get("cancelRequested")),
        events=tuple({"sequence": n, **event} for n, event in enumerate(events, first)),
    )
