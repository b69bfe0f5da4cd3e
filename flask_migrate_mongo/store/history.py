"""The history: one record a version, each change of it conditional on who may make it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime

from pymongo.errors import DuplicateKeyError

from flask_migrate_mongo.driver.server import Document, Server, translated
from flask_migrate_mongo.model.errors import ForeignDocumentError, LeaseLostError, NoRunError
from flask_migrate_mongo.model.squashing import history_of, parts_of
from flask_migrate_mongo.model.values import (
    INDEX_CREATED,
    INDEX_DROPPED,
    Actor,
    Direction,
    ErrorInfo,
    Event,
    History,
    MigrationFile,
    Origin,
    Record,
    RejectedDocument,
    Request,
    Status,
    Step,
)

from .foreign import looks_like
from .records import (
    NO_BACKFILL,
    PROJECTION,
    UNREADABLE,
    Adoption,
    Claim,
    Run,
    described,
    failure,
    is_record,
    paths,
    placed,
    push,
    read,
    read_events,
    read_rejected,
    settled,
    startable,
)

_ENDED = {"$unset": NO_BACKFILL}

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
        """Read all records, in one command as long as they fit into one reply. Raises ForeignDocumentError."""
        with self._reading():
            found = self._records.find({}, PROJECTION).batch_size(_ONE_REPLY)
            return history_of(tuple(map(read, found)))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Raise ForeignDocumentError if a document that is read in the block is not a record."""
        with translated():
            try:
                yield
            except UNREADABLE:
                # Read whole: a projection leaves out what other tools store.
                for document in self._records.find():
                    if not is_record(document):
                        tool = looks_like(document)
                        raise ForeignDocumentError(self.name, document["_id"], tool) from None
                raise

    def events(self, version: int | None = None) -> tuple[Event, ...]:
        """Read the event log of one version, or of all, the oldest first. Raises ForeignDocumentError."""
        wanted = {} if version is None else {"version": str(version)}
        with self._reading():
            found = self._records.find(wanted, {"version": 1, "metadata.events": 1})
            events = (event for document in found for event in read_events(document))
            return tuple(sorted(events, key=lambda event: event.at))

    def dropped_indexes(self) -> dict[tuple[str, str], Event]:
        """Find the indexes that applied migrations dropped, and created no more, by the names of collection and index."""
        kinds = [INDEX_CREATED, INDEX_DROPPED]
        events = {"input": "$metadata.events", "cond": {"$in": ["$$this.event", kinds]}}
        pipeline: list[Document] = [
            {"$match": paths(status=Status.COMPLETED.value)},
            {"$project": {"version": 1, "metadata.events": {"$filter": events}}},
        ]
        with self._reading():
            found = [e for d in self._records.aggregate(pipeline) for e in read_events(d)]
        latest = {
            (event.details["collection"], event.details["index"]): event
            for event in sorted(found, key=lambda event: event.at)
        }
        return {place: event for place, event in latest.items() if event.kind == INDEX_DROPPED}

    def rejected(self, version: int) -> tuple[RejectedDocument, ...]:
        """Read the documents that the backfills of one version rejected. Raises ForeignDocumentError."""
        parts = {"metadata.rejected": 1, "metadata.checkpoint": 1}
        with self._reading():
            found = self._records.find_one({"version": str(version)}, parts)
            return tuple(read_rejected(found or {}))

    def claim(self, step: Step, run: Run) -> Claim:
        """Give a run access to the record of a step, which `Claim.start` claims."""
        return Claim(self._records, self._ranges, step, run)

    # --- the changes of others

    def mark_interrupted(
        self, dead: Record, actor: Actor, at: datetime, *, event: str = "interrupted"
    ) -> None:
        """Mark a record left `running` by a crashed run as interrupted, and end its sessions.

        An interrupted `up()` counts as failed; after an interrupted `down()` the migration stays applied.
        """
        self._kill_sessions(dead)
        if dead.run_id is not None and dead.backfilled_by is not None:
            self._fence_ranges(dead.run_id)
        undoing = dead.direction is Direction.DOWN
        error = ErrorInfo("Interrupted", _last_seen(dead))
        values = paths(
            status=Status.COMPLETED.value if undoing else Status.FAILED.value,
            interrupted=not undoing,
            down_failed=undoing,
            updated_at=at,
        )
        details = {"direction": dead.direction.value, "error": asdict(error), "ofRun": dead.run_id}
        with translated():
            self._records.update_one(
                # Matches nothing when that run is alive after all and commits at this very moment.
                paths(version=str(dead.version), status=Status.RUNNING.value, run_id=dead.run_id),
                {"$set": {**values, **failure(error)}, **push(actor, event, at, **details)},
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
        with translated():
            # Not `load`: the lock can be released whatever another tool has stored.
            found = list(filter(is_record, self._records.find({}, PROJECTION)))
        for record in map(read, found):
            if record.run_id == run_id and record.status is Status.RUNNING:
                self.mark_interrupted(record, actor, at, event="unlocked")
        self._fence_ranges(run_id)

    def _kill_sessions(self, record: Record) -> None:
        for session_id in (record.session, record.backfill_session):
            if session_id is not None:
                self._server.kill_session(session_id)

    # --- what is recorded without running

    def record_applied(self, adoption: Adoption, run: Run, at: datetime) -> None:
        """Record a migration as applied, as the last in the order of application. Raises LeaseLostError.

        What a squashed migration replaces counts as a part of it from then on. After a crash in between, the next
        run marks the parts: see `history_of`.
        """
        file, origin, verified = adoption.file, adoption.origin, adoption.verified
        values = {
            **described(file),
            **placed(run, adoption.position),
            **settled(Status.COMPLETED, run, at),
            **paths(
                origin=origin.value,
                verified=verified,
                applied_at=adoption.applied_at or at,
                direction=Direction.UP.value,
            ),
        }
        if applied := [part for part in adoption.parts if part.is_applied]:
            # It takes their place: what was applied after them is rolled back before it.
            last = max(applied, key=lambda part: part.order)
            values |= paths(
                applied_at=last.applied_at or at, batch=last.batch, position=last.position
            )
        event = push(run.actor, origin.value, at, reason=adoption.reason, verified=verified)
        update = {"$set": values, "$setOnInsert": {"createdAt": at}, **event, **_ENDED}
        self._write(startable(file.version), update, run, upsert=True)
        self.mark_replaced([part.version for part in adoption.parts], file.version, run, at)

    def mark_replaced(self, parts: Sequence[int], squashed: int, run: Run, at: datetime) -> None:
        """Mark what a recorded squashed migration replaces as parts of it. A second call changes nothing."""
        event = push(run.actor, "replaced", at, replacedBy=str(squashed))
        self._replace(parts, squashed, run, at, event)

    def _replace(
        self, parts: Sequence[int], squashed: int | None, run: Run, at: datetime, event: Document
    ) -> None:
        """Mark records as parts of a squashed migration, for None of none; an event says so of each that changes."""
        if not parts:
            return
        owner = None if squashed is None else str(squashed)
        condition = paths(version={"$in": list(map(str, parts))}, replaced_by={"$ne": owner})
        update = {"$set": paths(replaced_by=owner, updated_at=at), **event}
        with translated():
            self._records.update_many({**condition, **run.may_change}, update)

    def accept_file(
        self, record: Record, file: MigrationFile, run: Run, at: datetime, *, reason: str
    ) -> None:
        """Record the file as it is now for a migration, which keeps its place and its state. Raises LeaseLostError."""
        before = {"slug": record.slug, "digest": record.digest}
        event = push(run.actor, "accepted", at, reason=reason, before=before)
        self._settle(record, {**described(file), **paths(updated_at=at)}, event, run)

    def resolve(
        self,
        record: Record,
        run: Run,
        at: datetime,
        *,
        applied: bool,
        reason: str,
        file: MigrationFile | None = None,
    ) -> None:
        """Set by hand whether a migration is applied, by the file, if there is one. Raises LeaseLostError."""
        values = settled(Status.COMPLETED if applied else Status.PENDING, run, at)
        if applied and not record.is_applied:
            values |= {} if file is None else described(file)
            values |= paths(
                applied_at=at, batch=run.batch, position=0, origin=Origin.RESOLVED.value
            )
        event = push(run.actor, "resolved", at, applied=applied, reason=reason)
        self._settle(record, values, event | _ENDED, run)

    def forget(self, record: Record, run: Run, at: datetime, *, reason: str) -> None:
        """Count a migration whose file is gone as never recorded; its events stay. Raises LeaseLostError.

        What a squashed one replaced counts again, unless that was rolled back.
        """
        if record.replaces and record.is_applied:
            # First: after a crash between the two, they are still parts of what is still recorded.
            parts = [part.version for part in parts_of(record, self.load().records)]
            event = push(run.actor, "restored", at, ofSquashed=str(record.version))
            self._replace(parts, None, run, at, event)
        values = {**settled(Status.PENDING, run, at), **paths(forgotten=True)}
        event = push(run.actor, "forgotten", at, reason=reason, name=record.name)
        self._settle(record, values, event | _ENDED, run)

    def renumber(self, record: Record, file: MigrationFile, run: Run, at: datetime) -> None:
        """Let a record follow its file to a number without a record; its place in the order of application stays.

        Whether the file has changed since stays known. Raises LeaseLostError.
        """
        event = push(run.actor, "renumbered", at, **{"from": str(record.version)})
        values = paths(version=str(file.version), slug=file.slug, updated_at=at)
        # First: after a crash between the two, the same command finds nothing to move and goes on.
        self._renumber_ranges(str(record.version), str(file.version))
        self._settle(record, values, event, run)

    def _renumber_ranges(self, old: str, new: str) -> None:
        """Move how far the workers of a backfill are; another migration may get the old number, and have workers, too."""
        with translated():
            for found in list(self._ranges.find({"version": old})):
                own = f"{new}{found['_id'].removeprefix(old)}"
                moved = {**found, "_id": own, "version": new}
                self._ranges.replace_one({"_id": own}, moved, upsert=True)
                self._ranges.delete_one({"_id": found["_id"]})

    def _settle(self, record: Record, values: Document, event: Document, run: Run) -> None:
        """Change a record that is still in the same state."""
        expected = paths(version=str(record.version), status=record.status.value)
        self._write(expected, {"$set": values, **event}, run)

    def _write(
        self, condition: Document, update: Document, run: Run, *, upsert: bool = False
    ) -> None:
        """Change the record that meets the condition, unless a later run has changed it. Raises LeaseLostError."""
        with translated():
            try:
                made = self._records.update_one(
                    {**condition, **run.may_change}, update, upsert=upsert
                )
            except DuplicateKeyError:
                made = None
        if made is None or not (made.matched_count or made.upserted_id):
            raise LeaseLostError(f"the record of {condition['version']} changed meanwhile")

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
    run = f"run {dead.run_id}" if dead.run_id else "a run"
    holder = dead.holder or "an unknown process"
    return f"{run} by {holder}, started at {started}, ended without recording an outcome"
