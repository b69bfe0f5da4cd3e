"""The history: one record a version, each change of it conditional on who may make it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError
from pymongo.read_concern import ReadConcern

from flask_migrate_mongo.driver.server import Document, Server, translated
from flask_migrate_mongo.model.errors import DatabaseError, LeaseLostError, NoRunError
from flask_migrate_mongo.model.values import Direction, History, Status

from . import records

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

    from flask_migrate_mongo.model.values import Actor, Event, Record, Request, Step

    from .records import Change, Due, Run, Update

_ONE_REPLY = 1_000_000
"""More records than the 16 MB of a reply hold: the server alone decides when there is a next one."""

_DUPLICATE_KEY = 11000


class Claim(NamedTuple):
    """A record that a run has claimed for a step, for what else is written in its name.

    `ranges` holds the checkpoints of a backfill that several work on.
    """

    records: Collection[Document]
    ranges: Collection[Document]
    step: Step
    run: Run

    @property
    def condition(self) -> Document:
        """What only the record of a run that has not been fenced off matches."""
        return {
            "version": str(self.step.version),
            "metadata.runId": self.run.actor.run_id,
            "status": Status.RUNNING.value,
        }

    def event(self, kind: str, at: datetime, **details: object) -> Document:
        """Return the part of an update that appends an event to the trail."""
        return records.push(records.new_event(kind, self.run.actor, at, **details))


class MigrationHistory:
    """The records of one database.

    Every write of a run is conditional on the record being claimed by that run, and a claim gives
    way only to a higher fence: a run that lost the lease changes nothing here.
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

    def load(self) -> History:
        """Read all records, in one command as long as they fit into one reply."""
        with translated():
            found = self._records.find({}, records.PROJECTION).batch_size(_ONE_REPLY)
            return History(tuple(map(records.read, found)))

    def events(self, version: int | None = None) -> tuple[Event, ...]:
        """Read the trail of one version, or of all, oldest first."""
        wanted = {} if version is None else {"version": str(version)}
        with translated():
            found = list(self._records.find(wanted, {"version": 1, "metadata.events": 1}))
        trail = [records.read_event(d["version"], e) for d in found for e in records.events_of(d)]
        return tuple(sorted(trail, key=lambda event: event.at))

    def prepare(self) -> bool:
        """Create the unique index on the version, if there is none.

        Returns whether that has made the collection, which then is known to be empty.
        """
        with translated():
            if not self._server.is_real:
                self._records.create_index("version", unique=True)
                return False
            reply = self._records.database.command(
                "createIndexes",
                self._records.name,
                indexes=[{"key": {"version": 1}, "name": "version_1", "unique": True}],
                writeConcern=self._records.write_concern.document,
            )
        return reply.get("createdCollectionAutomatically") is True

    def claim(
        self, dues: Sequence[Due], run: Run, *, at: datetime, session: ClientSession | None
    ) -> bool:
        """Make the records of a plan this run's, insert the fresh ones, and start the first.

        Whoever held the lease before can write none of them from here on. It is one command when
        none of the records was there before, or all of them. May be tried again. Returns whether
        all fresh records are this claim's; if not, a start has to write everything. Raises
        LeaseLostError.
        """
        first = dues[0]
        start = records.starting(first, run, at=at, session=session)
        new = [records.fresh(due, run, at) for due in dues if due.is_fresh]
        if first.is_fresh:
            records.apply(start, new[0])
        inserted = self._insert(new)
        claimed = [records.claiming(d.step, run) for d in dues if not (inserted and d.is_fresh)]
        if inserted and first.is_fresh:
            self._update(claimed)
            return True
        start = records.starting(first._replace(is_fresh=False), run, at=at, session=session)
        self._update_and_reach(claimed, first.step, run, start)
        return inserted

    def _insert(self, documents: Sequence[Document]) -> bool:
        """Insert those that are not there yet, and return whether none was."""
        try:
            with translated():
                if documents:
                    self._records.insert_many(documents, ordered=False)
        except Exception as exc:
            if not _only_duplicates(exc.__cause__):
                raise
            return False
        return True

    def _update(self, updates: Sequence[Update]) -> int:
        """Make the updates in one command, in this order; return how many found their record.

        Each is of one record, since the driver repeats only such by itself.
        """
        with translated():
            if not self._server.is_real:  # mongomock does not take several at once
                return sum(self._records.update_one(*each).matched_count for each in updates)
            writes = [UpdateOne(*each) for each in updates]
            return self._records.bulk_write(writes).matched_count if writes else 0

    def _update_and_reach(self, before: list[Update], step: Step, run: Run, change: Change) -> None:
        """Make the updates, and the change after them. Raises LeaseLostError."""
        updates = [*before, (records.condition(step, run, change), change.update())]
        # The server only tells the sum.
        if self._update(updates) != len(updates):
            self._ensure_reached(step, run, change)

    def mark_interrupted(self, dead: Record, run: Run, at: datetime) -> None:
        """Say of a record that a dead run left `running` that it was interrupted."""
        if dead.run_id is not None and dead.backfilled_by is not None:
            self._fence_ranges(dead.run_id)
        with translated():
            # Matches nothing when that run, alive after all, commits at this very moment.
            self._records.update_one(
                {"version": str(dead.version), "status": "running", "metadata.runId": dead.run_id},
                records.interrupted(dead, run, at).update(),
            )

    def _fence_ranges(self, run_id: str) -> None:
        """Take from a run's workers, wherever they are, what they have not finished."""
        with translated():
            open_ = list(self._ranges.find({"runId": run_id}, {"session": 1}))
            for session in {found["session"] for found in open_ if found.get("session")}:
                self._server.kill_session(session)
            if open_:
                self._ranges.update_many({"runId": run_id}, {"$set": {"runId": None}})

    def claimed(self, step: Step, run: Run) -> Claim:
        """Return what the step's backfills keep their checkpoints in."""
        return Claim(self._records, self._ranges, step, run)

    def ask(self, run_id: str, request: Request, actor: Actor, at: datetime) -> Record:
        """Ask what a run's backfill reads at its next checkpoint. Raises NoRunError."""
        event = records.new_event(request.event, actor, at, ofRun=run_id)
        with translated():
            found = self._records.find_one_and_update(
                {
                    "status": Status.RUNNING.value,
                    "metadata.runId": run_id,
                    "metadata.checkpoint.checksum": {"$type": "string"},
                },
                {"$set": {"metadata.request": request.value}, **records.push(event)},
                projection=records.WITHOUT_EVENTS,
            )
        if found is None:
            raise NoRunError
        return records.read(found)

    def mark(
        self, step: Step, run: Run, change: Change, session: ClientSession | None = None
    ) -> None:
        """Say that the step starts, or how it ended; with a session, in its transaction.

        Raises LeaseLostError when the record is no longer this run's.
        """
        options: dict[str, Any] = {} if session is None else {"session": session}
        condition = records.condition(step, run, change)
        with translated():
            matched = self._records.update_one(condition, change.update(), **options).matched_count
        if matched:
            return
        if session is not None:
            raise _taken_over(step)
        self._ensure_reached(step, run, change)

    def hand_over(self, step: Step, run: Run, done: Change, following: Due) -> bool:
        """Say, in one command, that a plain step succeeded and that the plain one after it starts.

        May be tried again. Returns whether the next one has started; if not, that is still to be
        recorded. Raises LeaseLostError when the record of the first is no longer this run's.
        """
        start = records.starting(following, run, at=done.at, session=None)
        both = [
            (records.condition(step, run, done), done.update()),
            (records.condition(following.step, run, start), start.update()),
        ]
        try:
            # The server only tells the sum.
            if self._update(both) == len(both):
                return True
        except DatabaseError:
            # Refused may be the second alone, which then fails by itself, for its own step.
            if self._is_mine(step, run, done.target):
                return False
            raise
        has_started = self._is_mine(following.step, run, start.target)
        if self._is_mine(step, run, done.target):
            return has_started
        if has_started:
            self.withdraw(following, run, at=done.at)
        raise _taken_over(step)

    def withdraw(self, due: Due, run: Run, *, at: datetime) -> None:
        """Say of a step that was recorded as started that it did not start after all."""
        step = due.step
        event = records.new_event("withdrawn", run.actor, at, direction=step.direction.value)
        change = records.Change(due.status, at, event, {})
        with translated():
            self._records.update_one(records.condition(step, run, change), change.update())

    def stands(self, step: Step, run: Run) -> bool:
        """Whether this run's success of the step is recorded, as a majority of the servers sees it."""
        target = Status.COMPLETED if step.direction is Direction.UP else Status.ROLLED_BACK
        return self._is_mine(step, run, target, ReadConcern("majority"))

    def disown(self, run_id: str, actor: Actor, at: datetime) -> None:
        """Take from a run what it has claimed and not finished, so that it records nothing more."""
        event = records.new_event("unlocked", actor, at, ofRun=run_id)
        claimed = [str(r.version) for r in self.load().records if r.run_id == run_id]
        with translated():
            self._records.update_many(
                {
                    # By the version, which has an index.
                    "version": {"$in": claimed},
                    "metadata.runId": run_id,
                    "status": {"$ne": Status.COMPLETED.value},
                },
                {"$set": {"metadata.runId": None, "updatedAt": at}, **records.push(event)},
            )
        self._fence_ranges(run_id)

    def resolve(
        self, record: Record, run: Run, *, applied: bool, reason: str, at: datetime
    ) -> None:
        """Set by hand what is true of an interrupted or failed migration, with the reason."""
        fields: Document = {
            "status": (Status.COMPLETED if applied else Status.PENDING).value,
            "appliedAt": at if applied else None,
            "error": None,
            "batch": run.batch if applied else record.batch,
            "metadata.interrupted": False,
            "metadata.runId": run.actor.run_id,
            "metadata.fence": run.fence,
            "updatedAt": at,
            **records.NO_BACKFILL,
        }
        event = records.new_event("resolved", run.actor, at, applied=applied, reason=reason)
        with translated():
            changed = self._records.update_one(
                {"version": str(record.version), "status": record.status.value},
                {"$set": fields, **records.push(event)},
            ).matched_count
        if not changed:
            raise LeaseLostError(f"the record of {record.version} changed meanwhile")

    def _ensure_reached(self, step: Step, run: Run, change: Change) -> None:
        """Tell an earlier try of ours, whose answer was lost, from being fenced off."""
        if not self._is_mine(step, run, change.target):
            raise _taken_over(step)

    def _is_mine(
        self, step: Step, run: Run, status: Status, concern: ReadConcern | None = None
    ) -> bool:
        seen = self._records.with_options(read_concern=concern) if concern else self._records
        with translated():
            found = seen.find_one({"version": str(step.version)}, records.WITHOUT_EVENTS)
        record = records.read(found) if found else None
        return record is not None and record.status is status and record.run_id == run.actor.run_id


def _taken_over(step: Step) -> LeaseLostError:
    return LeaseLostError(
        f"another run has taken over {step.version}, or its record is gone from the history"
    )


def _only_duplicates(exc: BaseException | None) -> bool:
    if not isinstance(exc, BulkWriteError):
        return False
    return all(e.get("code") == _DUPLICATE_KEY for e in (exc.details or {})["writeErrors"])
