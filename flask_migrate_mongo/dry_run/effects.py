"""What a step's commands change: counted by the server's replies, sampled, and kept within a budget."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from flask_migrate_mongo.driver.commands import (
    Command,
    namespaces,
    outside_transaction,
    without_listeners,
)
from flask_migrate_mongo.driver.server import Document, DocumentView
from flask_migrate_mongo.model.reports import Effects, Sample
from flask_migrate_mongo.process import elapsed

from . import showing
from .decisions import WRITES, Statement, effects_of, statements, upserted_ids
from .operations import EndOfStep, OperationFilter

DOCUMENTS_LIMIT = 100_000
"""Documents that a dry run may write: a server keeps the changes of an open transaction in memory."""

_SIZES: list[list[Document]] = [
    [{"$collStats": {"storageStats": {}}}, {"$project": {"size": "$storageStats.avgObjSize"}}],
    [{"$sample": {"size": 100}}, {"$group": {"_id": 1, "size": {"$avg": {"$bsonSize": "$$ROOT"}}}}],
]
"""How the average size of documents is read, and how on a client with a strict API version."""

BYTES_LIMIT = 16 * 1024 * 1024
"""Bytes of them: WiredTiger's smallest cache is 256 MB, and 10% of changed data slows every writer."""

_RAW: CodecOptions[RawBSONDocument] = showing.READ.with_options(document_class=RawBSONDocument)


class Budget:
    """The limits of one dry run. `refusal` says which one was reached, even if the migration caught the error."""

    def __init__(
        self, seconds: float, *, documents: int = DOCUMENTS_LIMIT, size: int = BYTES_LIMIT
    ) -> None:
        self.documents_left = documents
        self.refusal: str | None = None
        self._seconds = seconds
        self._deadline = elapsed() + seconds
        self._documents = documents
        self._size = self._bytes_left = size

    @property
    def seconds_left(self) -> float:
        """Seconds until the dry run has to end; 0 when it is over."""
        return max(0.0, self._deadline - elapsed())

    @property
    def is_nearly_over(self) -> bool:
        """Whether a command that timed out reached our limit: the driver subtracts the round trip from it."""
        return self.seconds_left < max(0.1 * self._seconds, 0.1)

    def time_out(self) -> None:
        """Note that the time is over."""
        self._refuse(f"it takes longer than {self._seconds:g} s")

    def admit(self, documents: int, size: int = 0) -> None:
        """Raise EndOfStep when this many more are too much."""
        if documents > self.documents_left:
            raise self._refuse(f"it would write more than {self._documents:,} documents")
        if size > self._bytes_left:
            raise self._refuse(f"it would write more than {self._size // 1024**2} MB")

    def spend(self, documents: int, size: int = 0) -> None:
        """Count what is written."""
        self.documents_left -= documents
        self._bytes_left -= size

    def _refuse(self, why: str) -> EndOfStep:
        self.refusal = self.refusal or why
        return EndOfStep(self.refusal)


@dataclass(slots=True)
class Recorder:
    """Listens to the commands of one step: counts what they change, and takes samples.

    A command that is beyond the budget, or that `operations` refuses, is not sent.
    """

    operations: OperationFilter
    budget: Budget
    wanted: int
    """How many samples are taken."""
    effects: dict[str, Effects] = field(default_factory=lambda: defaultdict(Effects))
    samples: list[Sample] = field(default_factory=list)
    executed: int = 0
    _statements: tuple[Statement, ...] = ()
    _before: list[tuple[str, RawBSONDocument]] = field(default_factory=list)
    _sizes: dict[str, int] = field(default_factory=dict)

    def sending(self, command: Command) -> None:
        """Refuse a command, or read the documents that it is about to change."""
        if command.session_id == self.operations.session.session_id["id"]:
            self.operations.check(command)
            self._statements = tuple(statements(command))
            self._admit()
            # Whether a findAndModify changed anything is in no reply: only the document shows it.
            least = int(command.name == "findAndModify")
            self._before = self._find(max(self._missing, least))

    def answered(self, command: Command, reply: DocumentView) -> None:
        """Count what a command changed."""
        if command.session_id != self.operations.session.session_id["id"]:
            return
        failed = bool(reply.get("writeErrors") or reply.get("nErrors"))
        self.executed += not failed
        if command.name not in WRITES:
            return
        # A write that failed has ended the transaction: nothing is left to be read.
        samples = [] if failed else list(self._samples(command, reply))
        self._add(namespaces(command), effects_of(command.name, reply, changed=bool(samples)))
        self.samples += samples[: self._missing]

    @property
    def _missing(self) -> int:
        return self.wanted - len(self.samples)

    def _add(self, written: set[str], effects: Effects) -> None:
        touched = effects.upserted + effects.matched + effects.deleted
        size = touched * max(map(self._size, written)) if touched else 0
        self.budget.spend(effects.inserted + touched, size)
        for namespace in written:
            self.operations.add(namespace, effects)
        # Of several collections, a `bulkWrite` gives the sum.
        self.effects[", ".join(sorted(map(self.operations.label, written)))] += effects

    # --- the budget

    def _admit(self) -> None:
        inserted = [each.inserted for each in self._statements if each.inserted is not None]
        size = sum(len(bson.encode(document)) for document in inserted)
        self.budget.admit(sum(not each.many for each in self._statements), size)
        self.budget.spend(0, size)
        for statement in self._statements:
            if statement.many:
                count = self._matching(statement)
                self.budget.admit(count, count * self._size(statement.namespace))

    def _matching(self, statement: Statement) -> int:
        """Count the documents that match, up to the first that is too many; about, if all match."""
        known = None if statement.filter else self.operations.count(statement.namespace)
        if known is not None:
            return known
        # Not `count_documents()`, an aggregation: it refuses filters that an update takes, such as `$where`.
        return len(self._read(statement, self.budget.documents_left + 1, {"_id": 1}))

    def _size(self, namespace: str) -> int:
        """Read the average size of a collection's committed documents."""
        if namespace not in self._sizes:
            collection = self._collection(namespace)
            self._sizes[namespace] = outside_transaction(lambda: _average_size(collection))
        return self._sizes[namespace]

    # --- samples

    def _find(self, wanted: int) -> list[tuple[str, RawBSONDocument]]:
        """Read documents that the statements are about to change, each with its namespace."""
        found: list[tuple[str, RawBSONDocument]] = []
        for statement in self._statements:
            if statement.inserted is None and len(found) < wanted:
                limit = wanted - len(found) if statement.many else 1
                found += [(statement.namespace, each) for each in self._read(statement, limit)]
        return found

    def _samples(self, command: Command, reply: DocumentView) -> Iterator[Sample]:
        """Yield what was changed, then what was inserted or upserted, while samples are wanted."""
        for namespace, before in self._before:
            after = self._by_id(namespace, before["_id"])
            if after is None or after.raw != before.raw:
                yield self._sample(namespace, before, after)
        created = [
            (each.namespace, each.inserted["_id"])
            for each in self._statements
            if each.inserted and "_id" in each.inserted
        ]
        created += [(command.namespace, each) for each in upserted_ids(reply)]
        for namespace, document_id in created[: self._missing]:
            if document := self._by_id(namespace, document_id):
                yield self._sample(namespace, None, document)

    def _sample(
        self, namespace: str, before: RawBSONDocument | None, after: RawBSONDocument | None
    ) -> Sample:
        mask = self.operations.mask
        old, new = _decoded(before), _decoded(after)
        document_id = (new or old or {}).get("_id")
        if old is not None and new is not None:
            old, new = showing.differing(old, new)
        return Sample(
            self.operations.label(namespace),
            showing.value(mask("_id", document_id)),
            None if old is None else showing.document(mask.document(old)),
            None if new is None else showing.document(mask.document(new)),
        )

    def _by_id(self, namespace: str, document_id: object) -> RawBSONDocument | None:
        found = self._read(Statement(namespace, filter={"_id": document_id}), 1)
        return found[0] if found else None

    def _read(
        self, statement: Statement, limit: int, fields: Document | None = None
    ) -> list[RawBSONDocument]:
        """Read documents that a statement matches, as the transaction has them."""
        collection = self._collection(statement.namespace)
        with without_listeners():
            found = collection.find(statement.filter, fields, limit=limit, **statement.options)
            return list(found)

    def _collection(self, namespace: str) -> Collection[RawBSONDocument]:
        database, _, name = namespace.partition(".")
        client = self.operations.session.client
        return client[database].get_collection(name, codec_options=_RAW)


def _average_size(collection: Collection[RawBSONDocument]) -> int:
    for measured in _SIZES:
        with contextlib.suppress(OperationFailure):  # It does not exist yet, or is a view.
            found = list(collection.aggregate(measured))
            return max((round(each["size"] or 0) for each in found), default=0)
    return 0


def _decoded(document: RawBSONDocument | None) -> Mapping[str, object] | None:
    return None if document is None else bson.decode(document.raw, showing.READ)
