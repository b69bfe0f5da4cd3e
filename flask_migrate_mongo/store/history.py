"""The history: one record a version, each change of it conditional on who may make it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymongo.errors import DuplicateKeyError
from pymongo.read_concern import ReadConcern

from flask_migrate_mongo.driver.server import Document, Server, translated
from flask_migrate_mongo.model.errors import LeaseLostError, NoRunError
from flask_migrate_mongo.model.values import Direction, History, Status

from . import records

if TYPE_CHECKING:
    from datetime import datetime

    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

    from flask_migrate_mongo.model.values import Actor, ErrorInfo, Event, Record, Request, Step

    from .records import RecordUpdate, Run

_ONE_REPLY = 1_000_000
"""More records than the 16 MB of a reply hold: the server alone decides when there is a next one."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A record that a run has claimed for a step, for the checkpoints that are written with it.

    `ranges` holds the checkpoints of a backfill with several workers.
    """

    records: Collection[Document]
    ranges: Collection[Document]
    step: Step
    run: Run

    @property
    def condition(self) -> Document:
        """The condition that only the record of a run matches which is not fenced off."""
        return records.claimed_by(self.step, self.run)

    def event(self, kind: str, at: datetime, **details: object) -> Document:
        """Build the part of an update that appends an event to the event log."""
        return self.run.event(kind, at, **details)


class MigrationHistory:
    """The records of one database.

    Every write of a run is conditional on the record being claimed by that run, and a claim gives
    way only to a higher fence: a run that lost the lease changes nothing here. The writes of a run
    may be tried again: one that succeeded without a reply is recognised.
    """

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

    # --- reading

    def load(self) -> History:
        """Read all records, in one command as long as they fit into one reply."""
        with translated():
            found = self._records.find({}, records.PROJECTION).batch_size(_ONE_REPLY)
            return History(tuple(map(records.read, found)))

    def events(self, version: int | None = None) -> tuple[Event, ...]:
        """Read the event log of one version, or of all, the oldest first."""
        wanted = {} if version is None else {"version": str(version)}
        with translated():
            found = list(self._records.find(wanted, {"version": 1, "metadata.events": 1}))
        events = (event for document in found for event in records.read_events(document))
        return tuple(sorted(events, key=lambda event: event.at))

    def is_completed(self, step: Step, run: Run) -> bool:
        """Whether this run's success of the step is recorded on a majority of the servers."""
        target = Status.COMPLETED if step.direction is Direction.UP else Status.ROLLED_BACK
        majority = self._records.with_options(read_concern=ReadConcern("majority"))
        return self._is_mine(majority, step, run, target)

    # --- the writes of a run

    def prepare(self) -> None:
        """Create the unique index on the version, unless it exists."""
        with translated():
            self._records.create_index("version", unique=True)

    def mark_started(
        self, step: Step, run: Run, *, position: int, at: datetime, session: ClientSession | None
    ) -> None:
        """Claim the record of a step, which a new migration does not have yet, and mark it as running.

        `session` is the one that the step's transaction runs in: the next run ends it if this one
        crashes. Raises LeaseLostError.
        """
        session_id = session.session_id["id"] if session else None
        start = records.start(step, run, position=position, at=at, session=session_id)
        if not self._make(start, upsert=step.direction is Direction.UP):
            self._ensure_mine(step, run, start.target)

    def mark_completed(
        self,
        step: Step,
        run: Run,
        *,
        took_ms: int,
        at: datetime,
        session: ClientSession | None = None,
    ) -> None:
        """Mark a step as successful; with a session, in its transaction. Raises LeaseLostError."""
        change = records.complete(step, run, took_ms=took_ms, at=at)
        if self._make(change, session=session):
            return
        if session is not None:
            raise _taken_over(step)
        self._ensure_mine(step, run, change.target)

    def mark_failed(
        self, step: Step, run: Run, error: ErrorInfo, *, took_ms: int, at: datetime
    ) -> None:
        """Mark a step as failed. Raises LeaseLostError."""
        change = records.fail(step, run, error, took_ms=took_ms, at=at)
        if not self._make(change):
            self._ensure_mine(step, run, change.target)

    def claimed(self, step: Step, run: Run) -> Claim:
        """Give access to the record that the step's backfills keep their checkpoints in."""
        return Claim(self._records, self._ranges, step, run)

    def _make(
        self, change: RecordUpdate, *, upsert: bool = False, session: ClientSession | None = None
    ) -> bool:
        """Make the change, and report whether a record was in the state for it."""
        # mongomock refuses the argument `session`, even None.
        options: dict[str, Any] = {"session": session} if session else {}
        with translated():
            try:
                made = self._records.update_one(
                    change.condition, change.update, upsert=upsert, **options
                )
            except DuplicateKeyError:
                # The upsert found a record of this version whose state did not match.
                return False
        return made.matched_count > 0 or made.upserted_id is not None

    def _ensure_mine(self, step: Step, run: Run, target: Status) -> None:
        """Raise LeaseLostError unless an earlier try, whose reply was lost, made the change."""
        if not self._is_mine(self._records, step, run, target):
            raise _taken_over(step)

    def _is_mine(
        self, collection: Collection[Document], step: Step, run: Run, status: Status
    ) -> bool:
        with translated():
            found = collection.find_one({"version": str(step.version)}, records.PROJECTION)
        record = records.read(found) if found else None
        return record is not None and record.status is status and record.run_id == run.actor.run_id

    # --- the writes of others

    def mark_interrupted(self, dead: Record, run: Run, at: datetime) -> None:
        """Mark a record left `running` by a crashed run as interrupted, and end its sessions."""
        if dead.session is not None:
            self._server.kill_session(dead.session)
        if dead.run_id is not None and dead.backfilled_by is not None:
            self._fence_ranges(dead.run_id)
        # Matches nothing when that run is alive after all and commits at this very moment.
        self._make(records.interrupt(dead, run, at))

    def request(self, run_id: str, request: Request, actor: Actor, at: datetime) -> Record:
        """Store a request that a run's backfill reads at its next checkpoint. Raises NoRunError."""
        with translated():
            found = self._records.find_one_and_update(
                {
                    **records.paths(status=Status.RUNNING.value, run_id=run_id),
                    "metadata.checkpoint.checksum": {"$type": "string"},
                },
                {
                    "$set": {"metadata.request": request.value},
                    **records.push(actor, request.event, at, ofRun=run_id),
                },
                projection=records.PROJECTION,
            )
        if found is None:
            raise NoRunError
        return records.read(found)

    def disown(self, run_id: str, actor: Actor, at: datetime) -> None:
        """Take from a run the step that it has claimed and not ended, so that it records nothing more."""
        claimed = [str(r.version) for r in self.load().records if r.run_id == run_id]
        with translated():
            self._records.update_many(
                {
                    # By the version, which has an index.
                    **records.paths(version={"$in": claimed}, run_id=run_id),
                    **records.paths(status={"$ne": Status.COMPLETED.value}),
                },
                {
                    "$set": records.paths(run_id=None, updated_at=at),
                    **records.push(actor, "unlocked", at, ofRun=run_id),
                },
            )
        self._fence_ranges(run_id)

    def resolve(
        self, record: Record, run: Run, *, applied: bool, reason: str, at: datetime
    ) -> None:
        """Set by hand whether a migration is applied. Raises LeaseLostError."""
        change = records.resolve(record, run, applied=applied, reason=reason, at=at)
        if not self._make(change):
            raise LeaseLostError(f"the record of {record.version} changed meanwhile")

    def _fence_ranges(self, run_id: str) -> None:
        """Take from a run's workers, wherever they are, the ranges that they have not finished."""
        with translated():
            unfinished = list(self._ranges.find({"runId": run_id}, {"session": 1}))
            for session in {found["session"] for found in unfinished if found.get("session")}:
                self._server.kill_session(session)
            if unfinished:
                self._ranges.update_many({"runId": run_id}, {"$set": {"runId": None}})


def _taken_over(step: Step) -> LeaseLostError:
    return LeaseLostError(
        f"another run has taken over {step.version}, or its record is gone from the history"
    )
