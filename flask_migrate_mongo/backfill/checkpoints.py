"""How far a backfill is: its checkpoints, and where they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from enum import Enum

from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.read_concern import ReadConcern

from flask_migrate_mongo.driver.server import Document, DocumentView, translated
from flask_migrate_mongo.model.errors import LeaseLostError
from flask_migrate_mongo.model.reports import Backfilled
from flask_migrate_mongo.model.values import Request
from flask_migrate_mongo.model.wording import camel_case
from flask_migrate_mongo.store.records import Claim, value_at

IDS = CodecOptions[Document](tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO)
"""Decodes an `_id` of any type into a value that encodes to the same bytes."""

OneId = tuple[object, ...]
"""The `_id` of a document, or nothing. It is an item, not None, because null is a valid `_id`."""


def with_exact_ids(collection: Collection[Document]) -> Collection[Document]:
    """Make a handle that decodes each `_id` so that it can be written back unchanged."""
    is_real = isinstance(collection, Collection)  # mongomock does not support these options.
    return collection.with_options(codec_options=IDS) if is_real else collection


@dataclass(frozen=True, slots=True)
class IdRange:
    """The `_id`s above `after`, up to and including `through`; unlimited where that is empty."""

    after: OneId = ()
    through: OneId = ()


class Phase(str, Enum):
    """The next pass through a range; the values are stored."""

    FIRST = "first"
    LAST = "last"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far one range is, after the batch that ended at `at`.

    `batches` counts the commits, and `by` names the worker that made the last one. `first_end` is where
    the first pass ended. `stays` is true if `where` still matches documents that were changed.
    """

    at: OneId = ()
    phase: Phase = Phase.FIRST
    first_end: OneId = ()
    stays: bool = False
    batches: int = 0
    by: str = ""
    counts: Backfilled = field(default_factory=Backfilled)
    rejected: tuple[Document, ...] = ()

    def document(self) -> Document:
        """Build the stored document."""
        return {camel_case(name): value for name, value in asdict(self).items()}

    @classmethod
    def read(cls, document: DocumentView) -> Checkpoint:
        """Read a stored document."""
        found: Document = {f.name: document[camel_case(f.name)] for f in fields(cls)}
        for name in ("at", "first_end", "rejected"):
            found[name] = tuple(found[name])
        found["phase"], found["counts"] = Phase(found["phase"]), Backfilled(**found["counts"])
        return cls(**found)


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
        before = {**self.condition, f"{self.path}.batches": after.batches - 1}
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
        return (stored.get("batches"), stored.get("by")) == (checkpoint.batches, checkpoint.by)

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
        """Whether the workers of the ranges are not done. After them, `state` continues."""
        return self.ranges > 0 and self.state.batches == 0


class CheckpointStore:
    """The checkpoints of one call of `ctx.backfill()`: in the step's record, and one for each range.

    `number` counts the calls of a step from 0. Each method that reads or writes the record raises
    LeaseLostError if another run has claimed it.
    """

    def __init__(self, claim: Claim, number: int, session: ClientSession | None) -> None:
        self.number = number
        self.run_id = claim.run.actor.run_id
        self.ranges = with_exact_ids(claim.ranges)
        self.checkpoint = StoredCheckpoint(
            with_exact_ids(claim.records),
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
        checkpoint = self.combined_ranges() if backfill.has_workers else backfill.state
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

    def combined_ranges(self) -> Checkpoint:
        """Combine the checkpoints of all ranges into the one at which the record continues after them.

        The last range has no upper end, and may have grown after its worker was done. So the checkpoint
        is not yet at its end.
        """
        with translated():
            found = list(self.ranges.find(self._own_ranges).sort("_id", 1))
        states = [Checkpoint.read(each["state"]) for each in found]
        last = states[-1]
        return Checkpoint(
            at=last.first_end or last.at or tuple(found[-1]["after"]),
            stays=True,  # Each range had its last pass.
            batches=1,
            counts=sum((each.counts for each in states), Backfilled()),
            rejected=tuple(document for each in states for document in each.rejected),
        )

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
