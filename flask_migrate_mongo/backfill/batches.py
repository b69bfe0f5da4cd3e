"""One worker's way through one range of `_id`s: read, change, and commit with the checkpoint."""

from __future__ import annotations

import logging
import struct
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import bson
from bson.raw_bson import RawBSONDocument
from pymongo.errors import BulkWriteError, CursorNotFound, PyMongoError

from flask_migrate_mongo.driver.server import Document, is_passing
from flask_migrate_mongo.driver.transactions import Transactions, transaction
from flask_migrate_mongo.model.errors import BackfillError, RejectedError, redact
from flask_migrate_mongo.model.reports import Backfilled
from flask_migrate_mongo.process.clock import elapsed

from .checkpoints import IDS, Checkpoint, Key, Phase, Slot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

    from flask_migrate_mongo.driver.server import Replies, Server

Update = Mapping[str, Any] | list[Mapping[str, Any]]
Change = Update | Callable[[Document], Update | None]

GROUP = 16
"""Documents that one statement changes: few enough to be looked up, enough to share its cost."""

REJECTED_TEXT = 500

_RAW_IDS = IDS.with_options(document_class=RawBSONDocument)

_log = logging.getLogger("flask_migrate_mongo.backfill")


@dataclass(frozen=True, slots=True)
class Work:
    """What is done to a collection, and how; travels to other processes.

    `max_rejected` is how many documents may be rejected before the backfill stops.
    """

    where: Mapping[str, Any]
    batch_size: int
    max_per_second: float | None = None
    max_rejected: int = 0


class Range(NamedTuple):
    """The `_id`s above `after` up to and including `through`; without a Key, all there are."""

    after: Key | None = None
    through: Key | None = None


class Entry(NamedTuple):
    """One document of a batch: its `_id`, and its update, None when it stays as it is."""

    id: Any
    update: Update | None
    rejected: str | None = None


Batch = list[Entry]

_EVERYTHING = Range()


# --- reading


class Reader:
    """Reads a range in the order of `_id`, a batch at a time, with one cursor as long as it lasts.

    A batch is one reply of the server: at most `batch_size` documents, and at most 16 MB.
    """

    def __init__(
        self,
        server: Server,
        collection: Collection[Document],
        prepare: Prepare,
        work: Work,
    ) -> None:
        self._server = server
        self._collection = collection
        self._prepare = prepare
        self._work = work
        self._replies: Replies | None = None

    def next(self, bounds: Range) -> Batch | None:
        """Return the next batch of the range; None when nothing is left in it.

        A cursor that comes to its end is opened once more, for what was inserted meanwhile.
        """
        while True:
            fresh = self._replies is None
            replies = self._replies = self._replies or self._open(bounds)
            reply = next(replies, None)
            if reply:
                return self._prepare(reply, self._collection)
            self.close()
            if fresh:
                return None

    def close(self) -> None:
        """Close the cursor; the next batch opens another."""
        replies, self._replies = self._replies, None
        if replies is not None:
            replies.close()

    def _open(self, bounds: Range) -> Replies:
        return self._server.read_in_order(
            self._collection,
            matching(self._work.where, _within(bounds)),
            projection=self._prepare.projection,
            batch_size=self._work.batch_size,
        )


def _within(bounds: Range) -> Document:
    """Return the condition of a range: with $expr, since a query operator compares one type only."""
    ends = (("$gt", bounds.after), ("$lte", bounds.through))
    conditions = [{op: ["$_id", {"$literal": key.id}]} for op, key in ends if key is not None]
    return {"$expr": {"$and": conditions}} if conditions else {}


def matching(where: Mapping[str, Any], condition: Document) -> Document:
    """Return the filter that both must match."""
    if where.keys().isdisjoint(condition):
        return {**where, **condition}
    return {**condition, "$and": [where]}


# --- what is to be written


class Prepare:
    """Makes batches of what was read, for an update that the server carries out."""

    projection: Mapping[str, int] | None = {"_id": 1}
    group = GROUP

    def __init__(self, update: Update) -> None:
        self._update = update

    def __call__(self, reply: Any, collection: Collection[Any]) -> Batch:  # noqa: ANN401, ARG002
        """Return what is to be done to the documents of a reply."""
        found = bson.decode_all(reply, IDS) if isinstance(reply, bytes) else reply
        return [Entry(document["_id"], self._update) for document in found]


class PrepareByFunction(Prepare):
    """Makes batches of what was read, by calling a function for each document."""

    projection = None
    group = 1

    def __init__(self, function: Callable[[Document], Update | None], *, collect: bool) -> None:
        self._function = function
        self._collect = collect

    def __call__(self, reply: Any, collection: Collection[Any]) -> Batch:  # noqa: ANN401
        """Return what the function makes of the documents of a reply."""
        if not isinstance(reply, bytes):
            return [self._entry(document["_id"], document) for document in reply]
        options = collection.codec_options
        return [self._entry(_id_of(raw), bson.decode(raw, options)) for raw in _documents(reply)]

    def _entry(self, id_: object, document: Document) -> Entry:
        try:
            return Entry(id_, _checked(self._function(document)))
        except (BackfillError, PyMongoError):
            raise  # Not this document's fault: the function is wrong, or the server away.
        except Exception as exc:
            if not self._collect:
                raise RejectedError(
                    f"The function refused the document with _id {id_!r}: {_worded(exc)}. Batches "
                    "before its own are kept.",
                    "Fix the function or the document and run it again, or skip such documents with "
                    '`on_error="collect"`.',
                ) from exc
            return Entry(id_, None, _worded(exc))


def _documents(reply: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(reply):
        (length,) = struct.unpack_from("<i", reply, at)
        yield reply[at : at + length]
        at += length


def _id_of(raw: bytes) -> Any:  # noqa: ANN401
    """Return the `_id` as the checkpoint keeps it; the application's options may lose a part of it."""
    found = RawBSONDocument(raw, _RAW_IDS)["_id"]
    return bson.decode(found.raw, IDS) if isinstance(found, RawBSONDocument) else found


def _checked(update: Update | None) -> Update | None:
    operators = isinstance(update, Mapping) and update and all(k.startswith("$") for k in update)
    if update is None or operators or (isinstance(update, list) and update):
        return update
    msg = (
        f"The function returned {type(update).__name__} {str(update)[:80]!r}. Return an update, "
        '{"$set": {...}} or a pipeline, or None for a document that stays as it is.'
    )
    raise BackfillError(msg)


def _worded(exc: BaseException) -> str:
    return redact(f"{type(exc).__name__}: {exc}")[:REJECTED_TEXT].rstrip(".")


# --- writing


class Written(NamedTuple):
    """What the server says of a batch; `stays` when what it changed still matches `where`."""

    matched: int
    modified: int
    stays: bool


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes batches to one collection."""

    server: Server
    collection: Collection[Document]
    where: Mapping[str, Any]
    group: int

    def write(self, batch: Batch, session: ClientSession | None, *, probe: bool) -> Written:
        """Write a batch, and look with `probe` whether it still matches afterwards."""
        changes = [(entry.id, entry.update) for entry in batch if entry.update is not None]
        if not changes:
            return Written(0, 0, stays=False)
        groups = [changes[n : n + self.group] for n in range(0, len(changes), self.group)]
        updates = [(self._these([id_ for id_, _ in group]), group[0][1]) for group in groups]
        matched, modified = self.server.bulk_update(
            self.collection, updates, many=self.group > 1, session=session
        )
        stays = probe and self._still_matches([id_ for id_, _ in changes], session)
        return Written(matched, modified, stays=stays)

    def _still_matches(self, ids: list[Any], session: ClientSession | None) -> bool:
        options = {} if session is None else {"session": session}
        return self.collection.find_one(self._these(ids), {"_id": 1}, **options) is not None

    def _these(self, ids: list[Any]) -> Document:
        # By equality, and not by range: a range of `_id`s holds documents of one type only.
        wanted = ids[0] if len(ids) == 1 else {"$in": ids}
        return matching(self.where, {"_id": wanted})


# --- a worker


class Gate:
    """What a worker passes between two batches; it raises, or waits, when it should not go on."""

    def check(self, request: str | None, slot: Slot) -> None:
        """Pass with what was asked of this worker."""

    def sleep(self, seconds: float) -> None:
        """Wait, for the sake of the rate."""

    def noted(self, checkpoint: Checkpoint) -> Mapping[str, Any]:  # noqa: ARG002
        """Return what else is to be set along with a checkpoint."""
        return {}

    def committed(self, checkpoint: Checkpoint) -> None:
        """Hear of a checkpoint that was committed."""


@dataclass(frozen=True, slots=True)
class Worker:
    """Works on one range until nothing is left in it, each batch in a transaction of its own.

    Without a session there are no transactions: a batch is written, then the checkpoint.
    """

    reader: Reader
    writer: Writer
    work: Work
    slot: Slot
    gate: Gate
    transactions: Transactions
    session: ClientSession | None
    bounds: Range = _EVERYTHING
    name: str = field(default_factory=lambda: uuid.uuid4().hex)

    def run(self) -> Checkpoint:
        """Work from the checkpoint on to the end. Raises LeaseLostError, RejectedError."""
        checkpoint, request = self.slot.read()
        began, done_before = elapsed(), checkpoint.counts.scanned
        try:
            while checkpoint.phase is not Phase.DONE:
                self.gate.check(request, self.slot)
                batch = self._read(checkpoint)
                if batch is None:
                    checkpoint, request = self._turn(checkpoint)
                else:
                    checkpoint, request = self._carry_out(batch, checkpoint)
                    self._pace(checkpoint.counts.scanned - done_before, began)
        finally:
            self.reader.close()
        return checkpoint

    def _pace(self, done: int, began: float) -> None:
        rate = self.work.max_per_second
        if rate is not None and (ahead := began + done / rate - elapsed()) > 0:
            self.gate.sleep(ahead)

    def _read(self, checkpoint: Checkpoint) -> Batch | None:
        """Read the next batch; a cursor that was lost is opened again at the checkpoint."""

        def read() -> Batch | None:
            try:
                return self.reader.next(self._left(checkpoint))
            except PyMongoError:
                self.reader.close()
                raise

        return self.transactions.repeat(read, _log, _can_reopen)

    def _left(self, checkpoint: Checkpoint) -> Range:
        last = checkpoint.phase is Phase.LAST
        through = checkpoint.first_end if last else self.bounds.through
        return Range(checkpoint.at or self.bounds.after, through)

    def _turn(self, before: Checkpoint) -> tuple[Checkpoint, str | None]:
        """Go on to the last pass where there is one to be made, else to the end.

        What was inserted below the checkpoint is told from what was done by `where` alone: so there
        is a last pass only if nothing that was changed still matches it.
        """
        again = self.work.where and not before.stays and before.at is not None
        if before.phase is Phase.FIRST and again:
            after = before.next(phase=Phase.LAST, first_end=before.at, at=None, by=self.name)
        else:
            after = before.next(phase=Phase.DONE, by=self.name)
        noted = self.gate.noted(after)
        turned = partial(self.slot.advance, before, after, noted=noted)
        return after, self.transactions.repeat(turned, _log)

    def _carry_out(self, batch: Batch, before: Checkpoint) -> tuple[Checkpoint, str | None]:
        try:
            after, request = self.transactions.repeat(partial(self._commit, batch, before), _log)
        except BulkWriteError as exc:
            return self._narrow_down(batch, before, exc)
        self.gate.committed(after)
        return after, request

    def _narrow_down(
        self, batch: Batch, checkpoint: Checkpoint, exc: BulkWriteError
    ) -> tuple[Checkpoint, str | None]:
        """Carry out the halves of a batch that the server refused, down to the document at fault."""
        if len(batch) == 1:
            (entry,) = batch
            if not self.work.max_rejected:
                raise _refused(entry.id, exc) from exc
            return self._carry_out([Entry(entry.id, None, _reasons(exc))], checkpoint)
        middle = len(batch) // 2
        checkpoint, _ = self._carry_out(batch[:middle], checkpoint)
        return self._carry_out(batch[middle:], checkpoint)

    def _commit(self, batch: Batch, before: Checkpoint) -> tuple[Checkpoint, str | None]:
        if self.session is None:
            return self._put(batch, before, None)
        with transaction(self.session):
            after, request = self._put(batch, before, self.session)
            # The checkpoint is part of the transaction: both are committed, or neither.
            self.transactions.commit(self.session, lambda: self.slot.stands(after))
        return after, request

    def _put(
        self, batch: Batch, before: Checkpoint, session: ClientSession | None
    ) -> tuple[Checkpoint, str | None]:
        probe = bool(self.work.where) and not before.stays
        written = self.writer.write(batch, session, probe=probe)
        rejected = _newly_rejected(batch, before)
        if len(before.rejected) + len(rejected) > self.work.max_rejected:
            raise too_many([*before.rejected, *rejected])
        after = before.next(
            at=Key(batch[-1].id),
            stays=before.stays or written.stays,
            by=self.name,
            counts=before.counts
            + counted(batch, written, again=before.phase is Phase.LAST, new=len(rejected)),
            rejected=(*before.rejected, *rejected),
        )
        noted = self.gate.noted(after)
        return after, self.slot.advance(before, after, session, noted=noted)


def _can_reopen(exc: BaseException) -> bool:
    return isinstance(exc, CursorNotFound) or (isinstance(exc, PyMongoError) and is_passing(exc))


def counted(
    batch: Batch, written: Written, *, again: bool = False, new: int | None = None
) -> Backfilled:
    """Return what became of a batch; `again` in the last pass, which comes to what was left once more.

    `new` are the rejected ones that had not been rejected before.
    """
    changes = sum(entry.update is not None for entry in batch)
    rejected = sum(entry.rejected is not None for entry in batch)
    skipped = 0 if again else len(batch) - changes - rejected
    rejected = rejected if new is None else new
    return Backfilled(
        changes + skipped + rejected, written.matched, written.modified, skipped, rejected
    )


def _newly_rejected(batch: Batch, before: Checkpoint) -> list[Document]:
    known = [entry["_id"] for entry in before.rejected]
    return [
        {"_id": entry.id, "error": entry.rejected}
        for entry in batch
        if entry.rejected is not None and entry.id not in known
    ]


def _refused(id_: object, exc: BulkWriteError) -> RejectedError:
    return RejectedError(
        f"The server refused the change of the document with _id {id_!r}: {_reasons(exc)}. Changes "
        "before it are kept.",
        'Fix the change or the document and run it again, or skip such documents with `on_error="collect"`.',
    )


def too_many(rejected: Sequence[Document]) -> RejectedError:
    """Return the error that says that more documents were rejected than may be."""
    last = rejected[-1]
    return RejectedError(
        f"{len(rejected)} documents were rejected, and max_rejected is less: the last one has "
        f"_id {last['_id']!r}: {last['error']}. Batches before its own are kept.",
        "Fix the change or the documents and run it again, or raise max_rejected.",
    )


def _reasons(exc: BulkWriteError) -> str:
    errors = (exc.details or {}).get("writeErrors") or [{"errmsg": str(exc)}]
    return redact(str(errors[0].get("errmsg")))[:REJECTED_TEXT].rstrip(".")
