"""Checkpoints: how far a backfill is, and the one place where each is kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.read_concern import ReadConcern

from flask_migrate_mongo.driver.server import Document, translated
from flask_migrate_mongo.model.errors import LeaseLostError
from flask_migrate_mongo.model.reports import Backfilled
from flask_migrate_mongo.store.records import value_at

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from pymongo.client_session import ClientSession

    from flask_migrate_mongo.store.history import Claim

IDS: CodecOptions[Document] = CodecOptions(
    tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
"""Decodes every `_id` there is into what encodes to the same bytes, whatever the application's options."""


def exact(collection: Collection[Any]) -> Collection[Document]:
    """Return the collection as `_id`s are read from it, and written back as they were."""
    # mongomock's knows no such options.
    real = isinstance(collection, Collection)
    return collection.with_options(codec_options=IDS) if real else collection


class Phase(str, Enum):
    """What is left of a range; the values are those stored."""

    FIRST = "first"
    LAST = "last"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Key:
    """An `_id`, which may well be null: that there is none is said by having no Key."""

    id: Any


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far one range is. `batches` counts its commits, each of which names who made it.

    `stays` says that documents which were changed still match `where`.
    """

    at: Key | None = None
    phase: Phase = Phase.FIRST
    first_end: Key | None = None
    stays: bool = False
    batches: int = 0
    by: str = ""
    counts: Backfilled = field(default_factory=Backfilled)
    rejected: tuple[Document, ...] = ()

    def next(self, **changes: Any) -> Checkpoint:  # noqa: ANN401
        """Return the checkpoint that follows this one."""
        return replace(self, batches=self.batches + 1, **changes)

    def document(self) -> Document:
        """Return it as it is stored."""
        return {
            "at": _stored(self.at),
            "phase": self.phase.value,
            "firstEnd": _stored(self.first_end),
            "stays": self.stays,
            "batches": self.batches,
            "by": self.by,
            "counts": asdict(self.counts),
            "rejected": list(self.rejected),
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Checkpoint:
        """Return what is stored."""
        return cls(
            at=_key(document["at"]),
            phase=Phase(document["phase"]),
            first_end=_key(document["firstEnd"]),
            stays=document["stays"],
            batches=document["batches"],
            by=document["by"],
            counts=Backfilled(**document["counts"]),
            rejected=tuple(document["rejected"]),
        )


def _stored(key: Key | None) -> list[Any]:
    # A list of none or one: null is an `_id` as good as any.
    return [] if key is None else [key.id]


def _key(stored: list[Any]) -> Key | None:
    return Key(stored[0]) if stored else None


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one checkpoint is kept: in the record, or in a document of a range's own.

    `condition` matches only as long as nobody else has taken over.
    """

    collection: Collection[Document]
    condition: Document
    path: str
    request_path: str

    def read(self) -> tuple[Checkpoint, str | None]:
        """Return the checkpoint, and what was asked of its worker. Raises LeaseLostError."""
        with translated():
            found = self.collection.find_one(self.condition, {self.path: 1, self.request_path: 1})
        if found is None:
            raise _fenced_off()
        return Checkpoint.read(value_at(found, self.path)), value_at(found, self.request_path)

    def advance(
        self,
        before: Checkpoint,
        after: Checkpoint,
        session: ClientSession | None = None,
        *,
        noted: Mapping[str, Any],
    ) -> str | None:
        """Put one checkpoint in the place of another; return what was asked of the worker.

        `noted` are further fields that are set along with it. Raises LeaseLostError when somebody
        else has taken over, be it another run or another worker on the same range.
        """
        condition = {**self.condition, f"{self.path}.batches": before.batches}
        options: dict[str, Any] = {} if session is None else {"session": session}
        with translated():
            found = self.collection.find_one_and_update(
                condition,
                {"$set": {self.path: after.document(), **noted}},
                projection={self.request_path: 1},
                return_document=ReturnDocument.AFTER,
                **options,
            )
        if found is not None:
            request: str | None = value_at(found, self.request_path)
            return request
        # Fenced off, or else an earlier try succeeded and its answer was lost.
        if session is not None or not self.stands(after):
            raise _fenced_off()
        return None

    def stands(self, after: Checkpoint) -> bool:
        """Whether this very checkpoint was committed, as a majority of the servers sees it."""
        settled = self.collection.with_options(read_concern=ReadConcern("majority"))
        with translated():
            found = settled.find_one(self.condition, {self.path: 1}) or {}
        stored = value_at(found, self.path) or {}
        return (stored.get("batches"), stored.get("by")) == (after.batches, after.by)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of ctx.backfill() as the record keeps it; `ranges` is 0 when it is one whole."""

    collection: str
    total: int | None
    ranges: int
    checkpoint: Checkpoint


class Notebook:
    """The checkpoints of a step's backfills, kept in its record, in the order of their calls."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self._records = exact(claim.records)
        self._ranges = exact(claim.ranges)

    def find(self, number: int) -> Call | None:
        """Return what is kept of a call; None when it is to begin. Raises LeaseLostError."""
        with translated():
            found = self._records.find_one(self.claim.condition, {"metadata.checkpoint": 1})
        if found is None:
            raise _fenced_off()
        kept = found["metadata"].get("checkpoint") or {}
        stored = kept.get("calls", {}).get(str(number))
        if stored is None or kept["direction"] != self.claim.step.direction.value:
            return None
        return Call(
            collection=stored["collection"],
            total=stored["total"],
            ranges=stored["ranges"],
            checkpoint=Checkpoint.read(stored["state"]),
        )

    def begin(self, number: int, call: Call, *, session: bytes | None) -> None:
        """Write down a new call; the first forgets what another direction has left."""
        stored = {
            "collection": call.collection,
            "total": call.total,
            "ranges": call.ranges,
            "state": call.checkpoint.document(),
        }
        head = "metadata.checkpoint"
        if number:
            fields: Document = {f"{head}.calls.{number}": stored}
        else:
            fields = {
                head: {**self._origin, "calls": {"0": stored}},
                "metadata.rejected": {},
            }
        self._update({"$set": {**fields, "metadata.session": session}})

    def resume(self, number: int, call: Call, at: datetime, *, session: bytes | None) -> None:
        """Write down that a call goes on, from where, and as the file says now."""
        origin = {f"metadata.checkpoint.{name}": value for name, value in self._origin.items()}
        event = self.claim.event(
            "resumed", at, collection=call.collection, scanned=self._scanned(number, call)
        )
        self._update({"$set": {**origin, "metadata.session": session}, **event})

    def _scanned(self, number: int, call: Call) -> int:
        with translated():
            ranges = list(self._ranges.find(self._of(number))) if call.ranges else ()
        ends = (Checkpoint.read(each["state"]) for each in ranges)
        return sum((end.counts.scanned for end in ends), call.checkpoint.counts.scanned)

    def open_ranges(self, number: int, bounds: Sequence[tuple[Key | None, Key | None]]) -> None:
        """Write down the ranges of a call that is about to begin."""
        version = self.claim.step.version
        documents = [
            {
                "_id": f"{version}:{number}:{place:06}",
                "version": str(version),
                "call": number,
                "runId": self.claim.run.actor.run_id,
                "session": None,
                "request": None,
                "after": _stored(after),
                "through": _stored(through),
                "state": Checkpoint().document(),
            }
            for place, (after, through) in enumerate(bounds)
        ]
        self.drop_ranges(number)
        with translated():
            self._ranges.insert_many(documents)

    def take_ranges(self, number: int) -> dict[str, tuple[Key | None, Key | None]]:
        """Make the ranges of a call this run's, so that no other's worker commits; return their bounds."""
        mine = {"runId": self.claim.run.actor.run_id, "request": None}
        with translated():
            self._ranges.update_many(self._of(number), {"$set": mine})
            found = list(self._ranges.find(self._of(number)).sort("_id", 1))
        return {each["_id"]: (_key(each["after"]), _key(each["through"])) for each in found}

    def drop_ranges(self, number: int) -> None:
        """Forget the ranges of a call."""
        with translated():
            self._ranges.delete_many(self._of(number))

    def _of(self, number: int) -> Document:
        return {"version": str(self.claim.step.version), "call": number}

    def note(self, fields: Mapping[str, Any]) -> str | None:
        """Set fields of the record; return what was asked of the backfill. Raises LeaseLostError."""
        with translated():
            found = self._records.find_one_and_update(
                self.claim.condition, {"$set": dict(fields)}, projection={"metadata.request": 1}
            )
        if found is None:
            raise _fenced_off()
        request: str | None = found["metadata"].get("request")
        return request

    def slot(self, number: int) -> Slot:
        """Return where the checkpoint of a call is kept."""
        path = f"metadata.checkpoint.calls.{number}.state"
        return Slot(self._records, self.claim.condition, path, "metadata.request")

    @property
    def _origin(self) -> Document:
        step = self.claim.step
        return {"direction": step.direction.value, "checksum": step.file.checksum}

    def _update(self, update: Document) -> None:
        with translated():
            matched = self._records.update_one(self.claim.condition, update).matched_count
        if not matched:
            raise _fenced_off()


def _fenced_off() -> LeaseLostError:
    return LeaseLostError("another run has taken over what it was working on")
