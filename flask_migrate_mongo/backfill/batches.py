"""A worker's batches: read a range in the order of `_id`, change, and commit with the checkpoint.

The table in `checkpoints` shows how a range gets from its first batch to its end. What happens to one batch:

    how it ends                                what follows
    committed                                  the next batch, from the checkpoint
    a conflict, or a lost connection           the same batch again
    too large, or refused by the server        each half as a batch of its own
    one document that cannot be changed        `on_error="stop"`: RejectedError
                                               `on_error="collect"`: a batch that only records the rejection
    a lost cursor                              another cursor, from the checkpoint
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import NamedTuple

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.cursor import Cursor
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DocumentTooLarge,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
)

from flask_migrate_mongo.driver.server import (
    EXACT,
    Document,
    DocumentView,
    Replies,
    Server,
    Update,
    failure_of,
    is_passing,
    translated,
)
from flask_migrate_mongo.driver.tracing import Span, span
from flask_migrate_mongo.driver.transactions import Transactions, is_transient, transaction
from flask_migrate_mongo.files.loading import PortableFunction
from flask_migrate_mongo.model.errors import (
    BackfillError,
    ConnectionFailedError,
    MigrateError,
    RejectedError,
    message_of,
    server_text,
)
from flask_migrate_mongo.model.reports import Backfilled
from flask_migrate_mongo.model.values import Request
from flask_migrate_mongo.process import elapsed

from .checkpoints import Checkpoint, IdRange, OneId, Phase, StoredCheckpoint
from .options import BackfillArguments, is_update

POLL_SECONDS = 0.5
"""How often a paused worker looks whether it may continue."""

GROUP_SIZE = 16
"""Documents that one statement changes: few enough for a fast lookup, enough to share its cost."""

SAMPLES_PER_RANGE = 50
"""Sampled `_id`s for each range, so that the ranges are of similar size."""

COUNT_MS = 1_000
"""Limit for counting the documents that match; without a count there is no estimate."""

ERROR_LENGTH = 500

MAX_TRIES = 3
"""A batch that met as many conflicts is halved: near the limit of its cache the server reports them forever."""

# WriteConflict, NoSuchTransaction, TransactionExceededLifetimeLimitSeconds, TransactionTooLargeForCache.
_TOO_LARGE = frozenset({112, 251, 290, 388})
# CursorNotFound, MaxTimeMSExpired (for all batches of a cursor together), QueryPlanKilled, CursorKilled.
_LOST_CURSOR = frozenset({43, 50, 175, 237})

# Reading an `_id` decodes its whole document, and that must not fail.
_RAW_IDS: CodecOptions[RawBSONDocument] = EXACT.with_options(
    document_class=RawBSONDocument, unicode_decode_error_handler="replace"
)
_LENIENT = CodecOptions[Document](uuid_representation=UuidRepresentation.STANDARD)

_UNSUPPORTED = {
    "viewOn": "a view, which cannot be written to. Backfill the collection that it shows",
    "timeseries": "a time series, whose documents cannot be updated. Write them to a new collection",
    "capped": "capped, and cannot be written to in a transaction. Copy it to one that is not",
}

_log = logging.getLogger("flask_migrate_mongo.backfill")


class DocumentChange(NamedTuple):
    """One document of a batch: its update, None to leave it as it is, and the error that rejected it."""

    id: object
    update: Update | None
    error: str | None = None


Batch = list[DocumentChange]


class BatchedCollection:
    """A collection that is read and written in batches.

    A batch is one reply of the server: at most `batch_size` documents, and at most 16 MB. One cursor
    reads all of them, as long as it lasts.
    """

    def __init__(self, server: Server, arguments: BackfillArguments) -> None:
        change = arguments.change
        if isinstance(change, PortableFunction):
            change = change.resolve()
        has_transactions = server.transactions_lacking is None
        self.arguments = arguments
        self._server = server
        self._collection = server.handle(transactional=has_transactions)[arguments.collection]
        self._change = change
        self._exact, self._codec = self._collection, _LENIENT
        if isinstance(self._collection, Collection):  # mongomock has other options.
            self._exact = self._collection.with_options(codec_options=EXACT)
            self._codec = self._collection.codec_options
        self._projection = None if callable(change) else {"_id": 1}
        self._replies: Replies | None = None
        self._was_read = False

    def ensure_supported(self) -> None:
        """Raise BackfillError for a collection that no transaction can update."""
        name = self._collection.name
        for option in self._server.collection_options(name):
            if option in _UNSUPPORTED:
                msg = f"{name} is {_UNSUPPORTED[option]}."
                raise BackfillError(msg)

    def span(self) -> contextlib.AbstractContextManager[Span]:
        """Open the span of a batch."""
        name = self._collection.name
        return span("backfill batch", self._server.database.name, {"db.collection.name": name})

    def estimate(self) -> int | None:
        """Estimate how many documents match; None if counting takes too long, or meets an election."""
        try:
            if where := self.arguments.where:
                return self._collection.count_documents(where, maxTimeMS=COUNT_MS)
            return self._server.estimated_count(self._collection.name)
        except (ConnectionFailure, OperationFailure, ConnectionFailedError, NotImplementedError):
            return None  # Also for `$where`, which can be read by, but not counted.

    def sample_ranges(self, wanted: int) -> list[IdRange]:
        """Divide all `_id`s into ranges of similar size, by a sample."""
        sample = [
            {"$sample": {"size": wanted * SAMPLES_PER_RANGE}},
            {"$project": {"_id": 1}},
            {"$sort": {"_id": 1}},
        ]
        with translated():
            found = [d["_id"] for d in self._exact.aggregate(sample)]
        chosen = [found[len(found) * n // wanted] for n in range(1, wanted)] if found else []
        # Compared as BSON: True equals 1 in Python, but is a different `_id` on the server.
        ends: list[OneId] = [(i,) for i in {bson.encode({"_id": i}): i for i in chosen}.values()]
        return [IdRange(a, b) for a, b in zip([(), *ends], [*ends, ()], strict=True)]

    def read(self, bounds: IdRange) -> Batch | None:
        """Read the next batch of a range; None if nothing is left in it.

        When the cursor ends, another one reads what was inserted meanwhile.
        """
        while True:
            is_new = self._replies is None
            replies = self._replies = self._replies or self._open(bounds)
            try:
                reply = next(replies, None)
                if reply:
                    self._was_read = True
                    return self._batch(reply)
            except PyMongoError:
                self.close()  # A retry must read this reply again.
                raise
            self.close()
            if is_new:
                return None

    def close(self) -> None:
        """Close the cursor. The next read opens another."""
        replies, self._replies = self._replies, None
        if replies is not None:
            replies.close()

    def can_reopen(self, exc: BaseException) -> bool:
        """Whether another cursor can continue after this error of `read`."""
        is_lost = self._was_read and failure_of(exc).get("code") in _LOST_CURSOR
        return is_lost or (isinstance(exc, PyMongoError) and is_passing(exc))

    def _open(self, bounds: IdRange) -> Replies:
        self._was_read = False
        query, size = _and(self.arguments.where, _within(bounds)), self.arguments.batch_size
        try:
            return self._server.read_in_order(
                self._collection, query, projection=self._projection, batch_size=size
            )
        except InvalidOperation:  # The client encrypts, and so decrypts, automatically.
            raw = self._collection.with_options(codec_options=_RAW_IDS)
            order = [("_id", 1)]
            found = raw.find(query, self._projection, batch_size=size, sort=order, hint=order)
            return _raw_batches(found, size)

    def _batch(self, reply: bytes | list[Document]) -> Batch:
        change = self._change
        if not callable(change):
            found = bson.decode_all(reply, EXACT) if isinstance(reply, bytes) else reply
            return [DocumentChange(document["_id"], change) for document in found]
        if isinstance(reply, list):
            return [self._compute(change, document["_id"], document) for document in reply]
        raws = bson.decode_all(reply, _RAW_IDS)
        return [self._compute(change, _exact_id(raw), raw) for raw in raws]

    def _compute(
        self,
        function: Callable[[Document], Update | None],
        id_: object,
        found: Document | RawBSONDocument,
    ) -> DocumentChange:
        """Compute the update of one document, which can fail in three ways that are the document's fault."""
        failed = "The driver cannot decode"
        try:
            document = (
                bson.decode(found.raw, self._codec) if isinstance(found, RawBSONDocument) else found
            )
            failed = "The function refused"
            update = function(document)
            if update is None:
                return DocumentChange(id_, None)
            if is_update(update):
                failed = "BSON cannot hold the update of"
                bson.encode({"": update}, codec_options=self._codec)
                return DocumentChange(id_, update)
        except (BackfillError, PyMongoError):
            raise  # Not the document's fault: the function or the server failed.
        except Exception as exc:
            error = _shortened(f"{type(exc).__name__}: {message_of(exc, self.arguments.mask)}")
            if self.arguments.max_rejected:
                return DocumentChange(id_, None, error)
            raise _rejected(failed, id_, error) from exc
        msg = (
            f"The function returned {type(update).__name__} {str(update)[:80]!r}. Return an update, "
            '{"$set": {...}} or a pipeline, or None to leave the document as it is.'
        )
        raise BackfillError(msg)

    def write(self, batch: Batch, session: ClientSession | None) -> tuple[int, int]:
        """Write a batch; count matched and modified documents."""
        changes = [(change.id, change.update) for change in batch if change.update is not None]
        if not changes:
            return 0, 0
        size = 1 if callable(self._change) else GROUP_SIZE
        groups = [changes[start : start + size] for start in range(0, len(changes), size)]
        updates = [(self._filter([id_ for id_, _ in group]), group[0][1]) for group in groups]
        return self._server.bulk_update(
            self._collection, updates, many=size > 1 and len(changes) > 1, session=session
        )

    def still_matches(self, batch: Batch, session: ClientSession | None) -> bool:
        """Whether `where`, if there is one, matches a document that the batch has changed."""
        changed = [change.id for change in batch if change.update is not None]
        if not changed or not self.arguments.where:
            return False
        options = {} if session is None else {"session": session}
        one = self._exact.find_one(self._filter(changed), {"_id": 1}, **options)
        return one is not None

    def ensure_few_rejected(self, rejected: Sequence[Document]) -> None:
        """Raise RejectedError if more documents were rejected than allowed."""
        if len(rejected) > self.arguments.max_rejected:
            last = rejected[-1]
            raise RejectedError(
                f"{len(rejected)} documents were rejected, more than max_rejected allows. The last one has "
                f"_id {last['_id']!r}: {last['error']}. The batches before it are kept.",
                "Fix the change or the documents and run it again, or raise max_rejected.",
            )

    def _filter(self, ids: list[object]) -> Document:
        # By equality, because a query by a range of `_id`s finds only one type.
        return _and(self.arguments.where, {"_id": ids[0] if len(ids) == 1 else {"$in": ids}})


def _raw_batches(found: Cursor[RawBSONDocument], size: int) -> Generator[bytes, None, None]:
    while batch := list(islice(found, size)):
        yield b"".join(document.raw for document in batch)


def _within(bounds: IdRange) -> Document:
    """Build the condition of a range, with $expr because query operators compare only one type."""
    ends = (("$gt", bounds.after), ("$lte", bounds.through))
    conditions = [{op: ["$_id", {"$literal": id_}]} for op, end in ends for id_ in end]
    return {"$expr": {"$and": conditions}} if conditions else {}


def _and(where: DocumentView, condition: Document) -> Document:
    if where.keys().isdisjoint(condition):
        return {**where, **condition}
    return {**condition, "$and": [where]}


def _exact_id(document: RawBSONDocument) -> object:
    """Decode the `_id` exactly, which the application's codec options may not do."""
    found = document["_id"]
    return bson.decode(found.raw, EXACT) if isinstance(found, RawBSONDocument) else found


class WorkerCancelledError(Exception):
    """A request cancelled the work on a range."""


class WorkerControl:
    """Decides between two batches whether the worker of a range continues: this one only follows requests."""

    def is_paused(self, request: Request | None) -> bool:
        """Whether the worker must wait. Raises if it must stop."""
        if request is Request.CANCEL:
            raise WorkerCancelledError
        return request is Request.PAUSE

    def sleep(self, seconds: float) -> None:
        """Wait, because of a pause or of the rate."""
        time.sleep(seconds)

    def fields_with(self, checkpoint: Checkpoint) -> DocumentView:
        """Build further fields that are written with a checkpoint."""
        # Nothing is left to kill in the session of a range that is done.
        return {"session": None} if checkpoint.phase is Phase.DONE else {}

    def committed(self, checkpoint: Checkpoint) -> None:
        """Receive a checkpoint that was committed."""


@dataclass(slots=True)
class Worker:
    """Works on one range until nothing is left in it, with one transaction for each batch.

    Without a session there are no transactions: the checkpoint is written after its batch.
    """

    documents: BatchedCollection
    stored: StoredCheckpoint
    control: WorkerControl
    transactions: Transactions
    session: ClientSession | None
    bounds: IdRange = field(default_factory=IdRange)
    _checkpoint: Checkpoint = field(init=False)
    _request: Request | None = field(init=False)
    _name: str = field(default_factory=lambda: uuid.uuid4().hex, init=False)

    def run(self) -> Backfilled:
        """Work from the checkpoint to the end of the range. Raises LeaseLostError, RejectedError."""
        self._checkpoint, self._request = self.read_checkpoint()
        began, before = elapsed(), self._checkpoint.counts.scanned
        with contextlib.closing(self.documents):
            while self._checkpoint.phase is not Phase.DONE:
                self._wait_while_paused()
                if self._work():
                    self._limit_rate(self._checkpoint.counts.scanned - before, began)
        return self._checkpoint.counts

    def _work(self) -> bool:
        """Work on the next batch; False if there is none left in this pass."""
        with self.documents.span() as traced:
            batch = self._read()
            traced.set("documents", len(batch or ()))
            if batch is None:
                self._end_pass()
            else:
                self._write(batch)
            return batch is not None

    def read_checkpoint(self) -> tuple[Checkpoint, Request | None]:
        """Read the checkpoint and the request to this worker. Raises LeaseLostError."""
        return self.transactions.repeat(self.stored.read, _log)

    def _wait_while_paused(self) -> None:
        while self.control.is_paused(self._request):
            self.control.sleep(POLL_SECONDS)
            _, self._request = self.read_checkpoint()

    def _limit_rate(self, done: int, began: float) -> None:
        rate = self.documents.arguments.max_per_second
        if rate is not None and (ahead := began + done / rate - elapsed()) > 0:
            self.control.sleep(ahead)

    def _read(self) -> Batch | None:
        """Read the next batch. A lost cursor is opened again at the checkpoint."""
        documents, at = self.documents, self._checkpoint
        through = at.first_end if at.phase is Phase.LAST else self.bounds.through
        left = IdRange(at.at or self.bounds.after, through)
        return self.transactions.repeat(lambda: documents.read(left), _log, documents.can_reopen)

    def _end_pass(self) -> None:
        """Start the last pass, or end the range."""
        has_where = bool(self.documents.arguments.where)
        after = self._checkpoint.after_pass(self._name, has_where=has_where)
        fields = self.control.fields_with(after)
        self._request = self.transactions.repeat(
            lambda: self.stored.advance(after, fields=fields), _log
        )
        self._checkpoint = after

    def _write(self, batch: Batch) -> None:
        tries = count(1)

        def is_too_large(exc: BaseException) -> bool:
            return len(batch) > 1 and failure_of(exc).get("code") in _TOO_LARGE

        def can_retry(exc: BaseException) -> bool:
            return is_transient(exc) and not (is_too_large(exc) and next(tries) >= MAX_TRIES)

        try:
            self._checkpoint, self._request = self.transactions.repeat(
                lambda: self._commit(batch), _log, can_retry
            )
        except (PyMongoError, MigrateError, DocumentTooLarge) as exc:
            _ensure_same_shard_key(exc)
            if not is_too_large(exc) and not isinstance(exc, BulkWriteError | DocumentTooLarge):
                raise
            self._write_halves(batch, exc)
        else:
            self.control.committed(self._checkpoint)

    def _write_halves(self, batch: Batch, exc: Exception) -> None:
        """Write the halves of a batch that is too large or was refused, down to the document at fault."""
        if len(batch) == 1:
            arguments = self.documents.arguments
            text = server_text(failure_of(exc), arguments.mask) or message_of(exc, arguments.mask)
            id_, error = batch[0].id, _shortened(text)
            if not arguments.max_rejected:
                raise _rejected("The server refused", id_, error) from exc
            self._write([DocumentChange(id_, None, error)])
        else:
            middle = len(batch) // 2
            self._write(batch[:middle])
            self._write(batch[middle:])

    def _commit(self, batch: Batch) -> tuple[Checkpoint, Request | None]:
        documents, session = self.documents, self.session
        with contextlib.nullcontext() if session is None else transaction(session):
            written = documents.write(batch, session)
            after = checkpoint_after(self._checkpoint, batch, written, by=self._name)
            documents.ensure_few_rejected(after.rejected)
            if not after.single_pass:
                after = replace(after, single_pass=documents.still_matches(batch, session))
            fields = self.control.fields_with(after)
            request = self.stored.advance(after, session, fields=fields)
            if session is not None:
                self.transactions.commit(session, lambda: self.stored.is_committed(after))
        return after, request


def _ensure_same_shard_key(exc: Exception) -> None:
    """Raise BackfillError if the server refused a change of the shard key, as it would for each batch."""
    error = message_of(exc)
    if "shard key" in error.lower():
        raise BackfillError(
            f"The change sets a field of the shard key: {_shortened(error)}. The batches before it are kept.",
            "MongoDB changes the shard key of one document at a time, with the shard key in the query: "
            "use `update_one()` in place of ctx.backfill().",
        ) from exc


def checkpoint_after(
    before: Checkpoint, batch: Batch, written: tuple[int, int], by: str = ""
) -> Checkpoint:
    """Build the checkpoint after a batch. `written` counts its matched and its modified documents."""
    known = [document["_id"] for document in before.rejected]
    errors = [{"_id": each.id, "error": each.error} for each in batch if each.error is not None]
    new = [error for error in errors if error["_id"] not in known]
    changed = sum(each.update is not None for each in batch)
    # The last pass reads again what the first one has skipped and counted.
    skipped = 0 if before.phase is Phase.LAST else len(batch) - changed - len(errors)
    counts = Backfilled(changed + skipped + len(new), *written, skipped, len(new))
    return replace(
        before,
        at=(batch[-1].id,),
        revision=before.revision + 1,
        by=by,
        counts=before.counts + counts,
        rejected=(*before.rejected, *new),
    )


def _rejected(failed: str, id_: object, error: str) -> RejectedError:
    return RejectedError(
        f"{failed} the document with _id {id_!r}: {error}. The batches before it are kept.",
        'Fix the change or the document and run it again, or skip such documents with `on_error="collect"`.',
    )


def _shortened(error: str) -> str:
    return error[:ERROR_LENGTH].rstrip(".")
