"""The history: one record a version, each change of it conditional on who may make it."""

from __future__ import annotations

from datetime import datetime

from flask_migrate_mongo.driver.server import Server, translated
from flask_migrate_mongo.model.errors import LeaseLostError, NoRunError
from flask_migrate_mongo.model.values import (
    Actor,
    Direction,
    Event,
    History,
    Record,
    Request,
    Status,
    Step,
)

from .records import NO_BACKFILL, PROJECTION, Claim, Run, paths, push, read, read_events

_ONE_REPLY = 1_000_000
"""More records than the 16 MB of a reply hold: the server alone decides when there is a next one."""


class MigrationHistory:
    """The records of one database. The run of a step changes its record through a `Claim`."""

    def __init__(self, server: Server, collection: str) -> None:
        self._server = server
        self._records = server.collection(collection)
        self._ranges = server.collection(f"{collection}.ranges")

    @property
    def name(self) -> str:
        """The name of the collection."""
        return self._records.name

    @property
    def collections(self) -> frozenset[str]:
        """The names of the collections that hold the history and the checkpoints of its backfills."""
        return frozenset({self._records.name, self._ranges.name})

    def prepare(self) -> None:
        """Create the unique index on the version, unless it exists."""
        with translated():
            self._records.create_index("version", unique=True)

    def load(self) -> History:
        """Read all records, in one command as long as they fit into one reply."""
        with translated():
            found = self._records.find({}, PROJECTION).batch_size(_ONE_REPLY)
            return History(tuple(map(read, found)))

    def events(self, version: int | None = None) -> tuple[Event, ...]:
        """Read the event log of one version, or of all, the oldest first."""
        wanted = {} if version is None else {"version": str(version)}
        with translated():
            found = list(self._records.find(wanted, {"version": 1, "metadata.events": 1}))
        events = (event for document in found for event in read_events(document))
        return tuple(sorted(events, key=lambda event: event.at))

    def claim(self, step: Step, run: Run) -> Claim:
        """Give a run access to the record of a step, which `Claim.start` claims."""
        return Claim(self._records, self._ranges, step, run)

    # --- the changes of others

    def mark_interrupted(self, dead: Record, run: Run, at: datetime) -> None:
        """Mark a record left `running` by a crashed run as interrupted, and end its sessions.

        An interrupted `up()` counts as failed; after an interrupted `down()` the migration stays applied.
        """
        self._kill_sessions(dead)
        if dead.run_id is not None and dead.backfilled_by is not None:
            self._fence_ranges(dead.run_id)
        undoing = dead.direction is Direction.DOWN
        error = {"type": "Interrupted", "message": _last_seen(dead), "traceback": None}
        values = paths(
            status=Status.COMPLETED.value if undoing else Status.FAILED.value,
            error=None if undoing else error,
            interrupted=not undoing,
            updated_at=at,
        )
        details = {"direction": dead.direction.value, "error": error, "ofRun": dead.run_id}
        with translated():
            self._records.update_one(
                # Matches nothing when that run is alive after all and commits at this very moment.
                paths(version=str(dead.version), status=Status.RUNNING.value, run_id=dead.run_id),
                {"$set": values, **push(run.actor, "interrupted", at, **details)},
            )

    def request(self, run_id: str, request: Request, actor: Actor, at: datetime) -> Record:
        """Store a request that a run's backfill reads at its next checkpoint. Raises NoRunError."""
        with translated():
            found = self._records.find_one_and_update(
                {
                    **paths(status=Status.RUNNING.value, run_id=run_id),
                    "metadata.checkpoint.checksum": {"$type": "string"},
                },
                {
                    "$set": {"metadata.request": request.value},
                    **push(actor, request.event, at, ofRun=run_id),
                },
                projection=PROJECTION,
            )
        if found is None:
            raise NoRunError
        return read(found)

    def disown(self, run_id: str, actor: Actor, at: datetime) -> None:
        """Take from a run the step that it has claimed and not ended, so that it records nothing more."""
        claimed = [record for record in self.load().records if record.run_id == run_id]
        with translated():
            self._records.update_many(
                # By the version, which has an index.
                paths(
                    version={"$in": [str(record.version) for record in claimed]},
                    run_id=run_id,
                    status={"$ne": Status.COMPLETED.value},
                ),
                {
                    "$set": paths(run_id=None, updated_at=at),
                    **push(actor, "unlocked", at, ofRun=run_id),
                },
            )
        for record in claimed:
            if record.status is Status.RUNNING:
                self._kill_sessions(record)
        self._fence_ranges(run_id)

    def _kill_sessions(self, record: Record) -> None:
        for session_id in (record.session, record.backfill_session):
            if session_id is not None:
                self._server.kill_session(session_id)

    def resolve(
        self, record: Record, run: Run, *, applied: bool, reason: str, at: datetime
    ) -> None:
        """Set by hand whether a migration is applied; the reason goes into its event log.

        Raises LeaseLostError.
        """
        values = paths(
            status=Status.COMPLETED.value if applied else Status.PENDING.value,
            applied_at=at if applied else None,
            error=None,
            batch=run.batch if applied else record.batch,
            interrupted=False,
            run_id=run.actor.run_id,
            fence=run.fence,
            updated_at=at,
        )
        event = push(run.actor, "resolved", at, applied=applied, reason=reason)
        with translated():
            made = self._records.update_one(
                paths(version=str(record.version), status=record.status.value),
                {"$set": values, "$unset": NO_BACKFILL, **event},
            )
        if not made.matched_count:
            raise LeaseLostError(f"the record of {record.version} changed meanwhile")

    def _fence_ranges(self, run_id: str) -> None:
        """Take from a run's workers, wherever they are, the ranges that they have not finished."""
        with translated():
            unfinished = list(self._ranges.find({"runId": run_id}, {"session": 1}))
            for session in {found["session"] for found in unfinished if found.get("session")}:
                self._server.kill_session(session)
            if unfinished:
                self._ranges.update_many({"runId": run_id}, {"$set": {"runId": None}})


def _last_seen(dead: Record) -> str:
    started = f"{dead.started_at:%Y-%m-%d %H:%M:%S} UTC" if dead.started_at else "an unknown time"
    holder = dead.holder or "an unknown process"
    return (
        f"run {dead.run_id} by {holder}, started at {started}, ended without recording an outcome"
    )
