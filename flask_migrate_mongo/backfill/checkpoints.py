"""How far a backfill is: its checkpoints, and where they are stored.

A worker goes through its range in one pass or two. Each line is one commit, which replaces the checkpoint:

    before  after   when
    FIRST   FIRST   a batch was written: `at` is its last `_id`
    FIRST   LAST    nothing is left, and another pass finds only what was inserted below `at` meanwhile, because `where`
                    no longer matches what was changed: `first_end` is where this pass ended, and `at` starts again
    FIRST   DONE    nothing is left, and there is no other pass: `single_pass`, no `where`, or no document was read
    LAST    LAST    a batch was written, of documents up to `first_end`
    LAST    DONE    nothing is left up to `first_end`

A call with workers has such a checkpoint for each range. When all are DONE, `RangeCheckpoints.combined` makes the one of the record,
which is FIRST and `single_pass`: it continues above the last range, to which documents may have been added since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from enum import Enum

from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.read_concern import ReadConcern

from flask_migrate_mongo.driver.server import Document, DocumentView, translated
from flask_migrate_mongo.model.errors import LeaseLostError
from flask_migrate_mongo.model.reports import Backfilled
from flask_migrate_mongo.model.values import RangeProgress, RangeState, Request
from flask_migrate_mongo.model.wording import camel_case
from flask_migrate_mongo.store.records import Claim, value_at

OneId = tuple[object, ...]
"""The `_id` of a document, or nothing. It is an item, not None, because null is a valid `_id`."""


@dataclass(frozen=True, slots=True)
class IdRange:
    """The `_id`s above `after`, up to and including `through`; unlimited where that is empty."""

    after: OneId = ()
    through: OneId = ()


class Phase(str, Enum):
    """The pass that a range is in; the values are stored."""

    FIRST = "first"
    LAST = "last"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far one range is, after the batch that ended at `at`.

    `revision` counts the commits, and `by` names the worker that made the last one. `first_end` is where
    the first pass ended. After a `single_pass` no last pass follows: it would change documents again, or the workers
    have had theirs.
    """

    at: OneId = ()
    phase: Phase = Phase.FIRST
    first_end: OneId = ()
    single_pass: bool = False
    revision: int = 0
    by: str = ""
    counts: Backfilled = field(default_factory=Backfilled)
    rejected: tuple[Document, ...] = ()

    def document(self) -> Document:
        """Build the stored document."""
        return {_stored(name): value for name, value in asdict(self).items()}

    @classmethod
    def read(cls, document: DocumentView) -> Checkpoint:
        """Read a stored document."""
        found: Document = {f.name: document[_stored(f.name)] for f in fields(cls)}
        for name in ("at", "first_end", "rejected"):
            found[name] = tuple(found[name])
        found["phase"], found["counts"] = Phase(found["phase"]), Backfilled(**found["counts"])
        return cls(**found)

    @property
    def range_state(self) -> RangeState:
        """What its range is waiting for: to begin, or to end."""
        if self.phase is Phase.DONE:
            return RangeState.DONE
        return RangeState.WORKING if self.revision else RangeState.WAITING

    def after_pass(self, by: str, *, has_where: bool) -> Checkpoint:
        """Build the checkpoint after a pass that found nothing more."""
        after = replace(self, revision=self.revision + 1, by=by)
        if self.phase is Phase.FIRST and has_where and self.at and not self.single_pass:
            return replace(after, phase=Phase.LAST, first_end=self.at, at=())
        return replace(after, phase=Phase.DONE)


def _stored(name: str) -> str:
    """Name a field of a checkpoint as it is stored."""
    return {"single_pass": "stays", "revision": "batches"}.get(name) or camel_case(name)


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """The place of one checkpoint: in the record, or in the document of a range.

    `condition` matches until another run takes over. At `request_path` is what the worker is requested to do.
    """

    collection: Collection[Document]
    condition: Document
    path: str
    request_path: str

    def read(self) -> tuple[Checkpoint, Request | None]:
        """Read the checkpoint and the request to its worker. Raises LeaseLostError."""
        with translated():
            found = self.collection.find_one(self.condition, {self.path: 1, self.request_path: 1})
        claimed = _claimed(found)
        return Checkpoint.read(value_at(claimed, self.path)), self._request(claimed)

    def update(self, update: DocumentView, session: ClientSession | None = None) -> Request | None:
        """Update the document, and read the request to its worker. Raises LeaseLostError."""
        with translated():
            found = self.collection.find_one_and_update(
                self.condition, update, projection={self.request_path: 1}, session=session
            )
        return self._request(_claimed(found))

    def advance(
        self, after: Checkpoint, session: ClientSession | None = None, *, fields: DocumentView
    ) -> Request | None:
        """Replace the checkpoint by the next, set further fields, and read the request to the worker.

        Raises LeaseLostError if another run, or another worker on the same range, has taken over.
        """
        update = {"$set": {self.path: after.document(), **fields}}
        before = {**self.condition, f"{self.path}.{_stored('revision')}": after.revision - 1}
        try:
            return replace(self, condition=before).update(update, session)
        except LeaseLostError:
            # Without a transaction, an earlier try may have succeeded although its reply was lost.
            if session is not None or not self.is_committed(after):
                raise
            return None

    def is_committed(self, checkpoint: Checkpoint) -> bool:
        """Whether exactly this checkpoint is stored, on a majority of the servers."""
        majority = self.collection.with_options(read_concern=ReadConcern("majority"))
        with translated():
            found = majority.find_one(self.condition, {self.path: 1}) or {}
        stored = value_at(found, self.path) or {}
        same = (checkpoint.revision, checkpoint.by)
        return (stored.get(_stored("revision")), stored.get("by")) == same

    def _request(self, found: Document) -> Request | None:
        stored = value_at(found, self.request_path)
        return Request(stored) if stored else None


def _claimed(found: Document | None) -> Document:
    if found is None:
        msg = "another run has taken over its migration"
        raise LeaseLostError(msg)
    return found


@dataclass(frozen=True, slots=True)
class StoredBackfill:
    """One call of `ctx.backfill()` as the record stores it. `ranges` is 0 if it is not divided.

    `state` is the checkpoint. While there are workers, each of their ranges has its own instead.
    """

    collection: str
    total: int | None
    ranges: int
    state: Checkpoint = field(default_factory=Checkpoint)

    @property
    def has_workers(self) -> bool:
        """Whether the workers of the ranges are not done. The first commit of `state` combines what they did."""
        return self.ranges > 0 and self.state.revision == 0


@dataclass(frozen=True, slots=True)
class RangeCheckpoints:
    """The checkpoints of all ranges of one call, in their order; the last range is that above `last_after`."""

    states: tuple[Checkpoint, ...]
    last_after: OneId

    @property
    def combined(self) -> Checkpoint:
        """The checkpoint at which the record continues after them.

        The last range has no upper end, and may have grown after its worker was done. So the checkpoint
        is not yet at its end.
        """
        last = self.states[-1]
        return Checkpoint(
            at=last.first_end or last.at or self.last_after,
            single_pass=True,
            revision=1,
            counts=sum((each.counts for each in self.states), Backfilled()),
            rejected=tuple(document for each in self.states for document in each.rejected),
        )

    @property
    def progress(self) -> tuple[RangeProgress, ...]:
        """How far each range is."""
        return tuple(RangeProgress(each.counts.scanned, each.range_state) for each in self.states)


class CheckpointStore:
    """The checkpoints of one call of `ctx.backfill()`: in the step's record, and one for each range.

    `number` counts the calls of a step from 0. Each method that reads or writes the record raises
    LeaseLostError if another run has claimed it.
    """

    def __init__(self, claim: Claim, number: int, session: ClientSession | None) -> None:
        self.number = number
        self.run_id = claim.run.actor.run_id
        self.ranges = claim.ranges
        self.checkpoint = StoredCheckpoint(
            claim.records,
            claim.condition,
            f"metadata.checkpoint.calls.{number}.state",
            "metadata.request",
        )
        self._claim = claim
        self._session_id = None if session is None else session.session_id["id"]
        self._own_ranges = {"version": str(claim.step.version), "call": number}
        self._claimed_ranges = {**self._own_ranges, "runId": self.run_id}

    def find(self) -> StoredBackfill | None:
        """Find what is stored of this call; None if it has not begun."""
        place = self.checkpoint
        with translated():
            found = place.collection.find_one(place.condition, {"metadata.checkpoint": 1})
        stored = _claimed(found)["metadata"].get("checkpoint") or {}
        call = stored.get("calls", {}).get(str(self.number))
        if call is None or stored["direction"] != self._claim.step.direction.value:
            return None
        return StoredBackfill(**{**call, "state": Checkpoint.read(call["state"])})

    def begin(self, backfill: StoredBackfill) -> None:
        """Store a new call. The first call of a step removes the checkpoints of the other direction."""
        call = {**asdict(backfill), "state": backfill.state.document()}
        fields: Document = {f"metadata.checkpoint.calls.{self.number}": call}
        if self.number == 0:
            checkpoint = {**self._origin, "calls": {"0": call}}
            fields = {"metadata.checkpoint": checkpoint, "metadata.rejected": {}}
        self.checkpoint.update({"$set": {**fields, "metadata.backfillSession": self._session_id}})

    def resume(self, backfill: StoredBackfill, at: datetime) -> None:
        """Record that an interrupted call continues, and with which version of the file."""
        scanned = self.scanned(backfill)
        origin = {f"metadata.checkpoint.{name}": value for name, value in self._origin.items()}
        event = self._claim.event("resumed", at, collection=backfill.collection, scanned=scanned)
        self.checkpoint.update(
            {"$set": {**origin, "metadata.backfillSession": self._session_id}, **event}
        )

    def scanned(self, backfill: StoredBackfill) -> int:
        """Count the documents that were processed so far."""
        checkpoint = self.read_ranges().combined if backfill.has_workers else backfill.state
        return checkpoint.counts.scanned

    @property
    def _origin(self) -> Document:
        step = self._claim.step
        return {"direction": step.direction.value, "checksum": step.file.digest}

    def create_ranges(self, bounds: Sequence[IdRange]) -> None:
        """Store the ranges of a call that is about to begin."""
        version = self._claim.step.version
        documents = [
            {
                **self._own_ranges,
                "_id": f"{version}:{self.number}:{position:06}",
                **asdict(each),
                "state": Checkpoint().document(),
            }
            for position, each in enumerate(bounds)
        ]
        self.delete_ranges()
        with translated():
            self.ranges.insert_many(documents)

    def take_over_ranges(self) -> dict[str, IdRange]:
        """Assign the ranges to this run, so that no other run's worker commits; read their bounds."""
        own = {"runId": self.run_id, "request": None}
        with translated():
            self.ranges.update_many(self._own_ranges, {"$set": own})
            found = list(self.ranges.find(self._own_ranges).sort("_id", 1))
        return {
            each["_id"]: IdRange(tuple(each["after"]), tuple(each["through"])) for each in found
        }

    def read_ranges(self) -> RangeCheckpoints:
        """Read the checkpoints of all ranges."""
        with translated():
            found = list(self.ranges.find(self._own_ranges).sort("_id", 1))
        states = tuple(Checkpoint.read(each["state"]) for each in found)
        return RangeCheckpoints(states, tuple(found[-1]["after"]))

    def range_sessions(self) -> set[bytes]:
        """Read the sessions of the workers of this run."""
        with translated():
            found = list(self.ranges.find(self._claimed_ranges, {"session": 1}))
        return {each["session"] for each in found if each.get("session")}

    def set_in_ranges(self, fields: DocumentView) -> None:
        """Set fields of the ranges, unless another run has taken them over."""
        with translated():
            self.ranges.update_many(self._claimed_ranges, {"$set": fields})

    def delete_ranges(self) -> None:
        """Delete the ranges of this call."""
        with translated():
            self.ranges.delete_many(self._own_ranges)
