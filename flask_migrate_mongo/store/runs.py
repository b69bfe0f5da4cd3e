"""Asynchronous runs: one stored document each, in a collection of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from pymongo import ReturnDocument

from flask_migrate_mongo.driver.server import Document, Server, translated
from flask_migrate_mongo.model.errors import UnknownRunError
from flask_migrate_mongo.model.values import Direction

KEPT_DAYS = 30
"""Days after which a run's document is deleted; the migrations' records keep what it did."""

SILENT_SECONDS = 360
"""Seconds without a write after which a run that holds no lock is lost.

More than a request may wait for the lock, since a run that waits writes nothing.
"""


class RunState(str, Enum):
    """The state of a run; the values are those stored."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    LOST = "lost"

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self not in {RunState.QUEUED, RunState.RUNNING}


@dataclass(frozen=True, slots=True)
class StoredRun:
    """An asynchronous run. `report` and `error` are documents as the REST API answers them.

    `options` are the parameters of its request. `events` are documents of `sequence` (from 1 on),
    `event`, `at`, and the fields that changed.
    """

    run_id: str
    direction: str
    options: Document
    state: RunState
    detached: bool
    created_at: datetime
    updated_at: datetime
    current: Document | None = None
    report: Document | None = None
    error: Document | None = None
    cancel_requested: bool = False
    events: tuple[Document, ...] = ()


class RunStore:
    """The runs of one database. Each write is one atomic update of one document."""

    def __init__(self, server: Server, collection: str) -> None:
        self._server = server
        self._runs = server.collection(collection)

    def create(
        self, run_id: str, direction: Direction, options: Document, project: Document
    ) -> None:
        """Queue a run. `project` says which migrations it concerns."""
        now = self._server.now()
        document: Document = {
            "_id": run_id,
            "direction": direction.value,
            "options": options,
            "project": project,
            "state": RunState.QUEUED.value,
            "detached": False,
            "current": None,
            "report": None,
            "error": None,
            "cancelRequested": False,
            "events": [],
            "createdAt": now,
            "updatedAt": now,
        }
        with translated():
            self._runs.create_index("createdAt", expireAfterSeconds=KEPT_DAYS * 24 * 3600)
            self._runs.insert_one(document)

    def claim(self, run_id: str, project: Document, *, detached: bool) -> StoredRun | None:
        """Mark a queued run as running; None if another claimed it, or its project is another.

        `detached` says whether it outlives the web server.
        """
        condition = {"_id": run_id, "state": RunState.QUEUED.value, "project": project}
        now = self._server.now()
        claimed = {"state": RunState.RUNNING.value, "detached": detached, "updatedAt": now}
        with translated():
            found = self._runs.find_one_and_update(
                condition, {"$set": claimed}, return_document=ReturnDocument.AFTER
            )
        return None if found is None else _stored(found)

    def is_queued(self, run_id: str) -> bool:
        """Whether no process has claimed a run yet."""
        with translated():
            return self._runs.find_one({"_id": run_id, "state": RunState.QUEUED.value}) is not None

    def get(self, run_id: str, *, holder: Callable[[], str | None]) -> StoredRun:
        """Read a run. Raises UnknownRunError.

        `holder` finds the run that holds the lock. A run that does not hold it and is silent is lost.
        """
        run = self._read(run_id)
        if run.state.is_over:
            return run
        silent = self._server.now() - run.updated_at
        if silent < timedelta(seconds=SILENT_SECONDS) or holder() == run_id:
            return run
        self.note(run_id, "lost", unless_over=True, state=RunState.LOST.value, current=None)
        return self._read(run_id)

    def _read(self, run_id: str) -> StoredRun:
        with translated():
            found = self._runs.find_one({"_id": run_id})
        if found is None:
            raise UnknownRunError(run_id)
        return _stored(found)

    def note(self, run_id: str, event: str, *, unless_over: bool = False, **fields: object) -> None:
        """Set fields of a run, and append an event with them."""
        now = self._server.now()
        condition: Document = {"_id": run_id}
        if unless_over:
            condition["state"] = {"$in": [RunState.QUEUED.value, RunState.RUNNING.value]}
        shown: Document = {
            key: fields[key] for key in ("state", "current", "step") if key in fields
        }
        entry = {"event": event, "at": now, **shown}
        stored = {key: value for key, value in fields.items() if key != "step"}
        update = {"$set": {**stored, "updatedAt": now}, "$push": {"events": entry}}
        with translated():
            self._runs.update_one(condition, update)

    def touch(self, run_id: str, current: Document) -> None:
        """Set the progress of the current step, without an event."""
        changed = {"current": current, "updatedAt": self._server.now()}
        with translated():
            self._runs.update_one({"_id": run_id}, {"$set": changed})

    def cancel(self, run_id: str) -> None:
        """Request a run to stop. Raises UnknownRunError."""
        with translated():
            found = self._runs.update_one({"_id": run_id}, {"$set": {"cancelRequested": True}})
        if not found.matched_count:
            raise UnknownRunError(run_id)

    def is_cancelled(self, run_id: str) -> bool:
        """Whether a stop of a run was requested."""
        with translated():
            found = self._runs.find_one({"_id": run_id}, {"cancelRequested": 1}) or {}
        return bool(found.get("cancelRequested"))


def _stored(document: Document) -> StoredRun:
    events: list[Document] = document.get("events") or []
    return StoredRun(
        run_id=document["_id"],
        direction=document["direction"],
        options=document.get("options") or {},
        state=RunState(document["state"]),
        detached=bool(document.get("detached")),
        created_at=document["createdAt"],
        updated_at=document["updatedAt"],
        current=document.get("current"),
        report=document.get("report"),
        error=document.get("error"),
        cancel_requested=bool(document.get("cancelRequested")),
        events=tuple({"sequence": n, **event} for n, event in enumerate(events, 1)),
    )
