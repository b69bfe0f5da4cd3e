"""What a step's commands change: counted by the server's replies, sampled, and kept within a budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure

from flask_migrate_mongo.driver.commands import namespaces, outside_transaction, without_listeners
from flask_migrate_mongo.model.masking import differing
from flask_migrate_mongo.model.reports import Effects, Sample

from . import showing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pymongo.collection import Collection

    from flask_migrate_mongo.driver.commands import Command
    from flask_migrate_mongo.driver.server import Document, DocumentView
    from flask_migrate_mongo.model.masking import Mask

    from .budget import Budget
    from .operations import OperationFilter

_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)


@dataclass(frozen=True, slots=True)
class _Statement:
    """One update or delete of a command: the documents it concerns."""

    namespace: str
    filter: Document
    many: bool
    options: Document = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Image:
    """A document before a statement."""

    namespace: str
    document: RawBSONDocument


class Recorder:
    """Listens to the commands of one step: counts what they change, and takes samples.

    A command that is beyond the budget, or that `operations` refuses, is not sent.
    """

    def __init__(
        self, operations: OperationFilter, budget: Budget, mask: Mask, *, samples: int
    ) -> None:
        self.effects: dict[str, Effects] = {}
        self.samples: list[Sample] = []
        self.executed = 0
        self._operations = operations
        self._client = operations.session.client
        self._session_id = operations.session.session_id["id"]
        self._budget = budget
        self._mask = mask
        self._wanted = samples
        self._images: list[_Image] = []
        self._sizes: dict[str, int] = {}

    # --- the listener

    def sending(self, command: Command) -> None:
        """Refuse a command, or read the documents that it is about to change."""
        if command.session_id != self._session_id:
            return
        self._operations.check(command)
        statements = tuple(_statements(command))
        self._admit(_inserted(command), statements)
        self._images = list(self._look(command, statements))

    def answered(self, command: Command, reply: DocumentView) -> None:
        """Count what a command changed."""
        if command.session_id != self._session_id:
            return
        failed = bool(reply.get("writeErrors") or reply.get("nErrors"))
        self.executed += not failed
        if command.name not in _COUNTED:
            return
        # A write that failed has ended the transaction: nothing is left to be read.
        samples = [] if failed else list(self._compared(command, reply))
        self._add(namespaces(command), _effects(command.name, reply, changed=bool(samples)))
        self.samples += samples[: self._wanted - len(self.samples)]

    def _add(self, written: set[str], effects: Effects) -> None:
        touched = effects.upserted + effects.matched + effects.deleted
        size = touched * max(map(self._size, written)) if touched else 0
        self._budget.spend(effects.inserted + touched, size)
        for namespace in written:
            self._operations.add(namespace, effects)
        # Of several collections, a `bulkWrite` gives the sum.
        label = ", ".join(sorted(map(self._operations.label, written)))
        self.effects[label] = self.effects.get(label, Effects()) + effects

    # --- the budget

    def _admit(
        self, documents: Sequence[tuple[str, Document]], statements: Sequence[_Statement]
    ) -> None:
        single = sum(not statement.many for statement in statements)
        size = sum(len(bson.encode(document)) for _, document in documents)
        self._budget.admit(len(documents) + single, size)
        self._budget.spend(0, size)
        for statement in statements:
            if statement.many:
                count = self._matching(statement)
                self._budget.admit(count, count * self._size(statement.namespace))

    def _matching(self, statement: _Statement) -> int:
        options = {key: value for key, value in statement.options.items() if key != "sort"}
        limit = self._budget.documents_left + 1
        with without_listeners():
            collection = self._collection(statement.namespace)
            return collection.count_documents(statement.filter, limit=limit, **options)

    def _size(self, namespace: str) -> int:
        """Read the average size of a collection's committed documents."""
        if namespace not in self._sizes:
            self._sizes[namespace] = outside_transaction(
                lambda: _average_size(self._collection(namespace))
            )
        return self._sizes[namespace]

    # --- samples

    def _look(self, command: Command, statements: Iterable[_Statement]) -> Iterator[_Image]:
        # Whether a findAndModify changed anything is in no reply: only the document shows it.
        always = command.name == "findAndModify"
        wanted = max(self._wanted - len(self.samples), int(always))
        for statement in statements:
            if wanted <= 0:
                return
            for document in self._find(statement, wanted if statement.many else 1):
                wanted -= 1
                yield _Image(statement.namespace, document)

    def _find(self, statement: _Statement, limit: int) -> list[RawBSONDocument]:
        with without_listeners():
            collection = self._collection(statement.namespace)
            return list(collection.find(statement.filter, limit=limit, **statement.options))

    def _compared(self, command: Command, reply: DocumentView) -> Iterator[Sample]:
        for image in self._images:
            after = self._by_id(image.namespace, image.document["_id"])
            if after is None or after.raw != image.document.raw:
                yield self._sample(image.namespace, image.document, after)
        self._images = []
        if self._wanted > len(self.samples):
            yield from self._created(command, reply)

    def _created(self, command: Command, reply: DocumentView) -> Iterator[Sample]:
        new = [(namespace, d["_id"]) for namespace, d in _inserted(command) if "_id" in d]
        for namespace, document_id in [*new, *_upserted(command, reply)][: self._wanted]:
            document = self._by_id(namespace, document_id)
            if document is not None:
                yield self._sample(namespace, None, document)

    def _sample(
        self, namespace: str, before: RawBSONDocument | None, after: RawBSONDocument | None
    ) -> Sample:
        old, new = _decoded(before), _decoded(after)
        document_id = (new or old or {}).get("_id")
        if old is not None and new is not None:
            old, new = differing(old, new, _same)
        return Sample(
            self._operations.label(namespace),
            showing.value(self._mask("_id", document_id)),
            None if old is None else showing.document(self._mask.document(old)),
            None if new is None else showing.document(self._mask.document(new)),
        )

    def _by_id(self, namespace: str, document_id: object) -> RawBSONDocument | None:
        with without_listeners():
            return self._collection(namespace).find_one({"_id": document_id})

    def _collection(self, namespace: str) -> Collection[RawBSONDocument]:
        database, _, name = namespace.partition(".")
        return self._client[database].get_collection(name, codec_options=_RAW)


# --- the parts of commands


def _statements(command: Command) -> Iterator[_Statement]:
    """Yield the updates and deletes of a command, in their order."""
    document, namespace = command.document, command.namespace
    shared = {"let": document["let"]} if "let" in document else {}
    if command.name == "update":
        for u in document["updates"]:
            yield _Statement(namespace, u["q"], u.get("multi", False), shared | _collated(u))
    elif command.name == "delete":
        for d in document["deletes"]:
            yield _Statement(namespace, d["q"], not d["limit"], shared | _collated(d))
    elif command.name == "findAndModify":
        order = {"sort": list(document["sort"].items())} if document.get("sort") else {}
        options = shared | order | _collated(document)
        yield _Statement(namespace, document.get("query") or {}, many=False, options=options)
    elif command.name == "bulkWrite":
        for namespace, kind, op in _operations(command):
            if kind != "insert":
                options = shared | _collated(op)
                yield _Statement(namespace, op["filter"], op.get("multi", False), options)


def _collated(statement: DocumentView) -> Document:
    return {"collation": statement["collation"]} if statement.get("collation") else {}


def _inserted(command: Command) -> list[tuple[str, Document]]:
    """List the documents that a command inserts, each with its namespace."""
    if command.name == "insert":
        return [(command.namespace, d) for d in command.document["documents"]]
    if command.name == "bulkWrite":
        return [(ns, op["document"]) for ns, kind, op in _operations(command) if kind == "insert"]
    return []


def _operations(command: Command) -> Iterator[tuple[str, str, Document]]:
    """Yield namespace, kind and statement of each operation of a `bulkWrite`."""
    names = [info["ns"] for info in command.document["nsInfo"]]
    for op in command.document["ops"]:
        kind = next(iter(op))
        yield names[op[kind]], kind, op


def _upserted(command: Command, reply: DocumentView) -> list[tuple[str, object]]:
    """List the ids of upserted documents, each with its namespace; the reply of a `bulkWrite` has none."""
    if command.name == "update":
        found = [upserted["_id"] for upserted in reply.get("upserted", ())]
    else:
        last = reply.get("lastErrorObject") or {}
        found = [last["upserted"]] if "upserted" in last else []
    return [(command.namespace, document_id) for document_id in found]


def _average_size(collection: Collection[RawBSONDocument]) -> int:
    try:
        found = list(collection.aggregate([{"$collStats": {"storageStats": {}}}]))
    except OperationFailure:  # It does not exist yet, or only its count may be read.
        return 0
    return max((shard["storageStats"].get("avgObjSize", 0) for shard in found), default=0)


def _decoded(document: RawBSONDocument | None) -> Mapping[str, object] | None:
    return None if document is None else bson.decode(document.raw, showing.READ)


def _same(one: object, other: object) -> bool:
    # As BSON: 1 and 1.0 are equal in Python, and different values in a collection.
    return bson.encode({"": one}) == bson.encode({"": other})


# --- the counts of replies

_COUNTED = frozenset({"insert", "update", "delete", "findAndModify", "bulkWrite"})
_OF_A_BULK_WRITE = ("nInserted", "nMatched", "nModified", "nDeleted", "nUpserted")


def _effects(name: str, reply: DocumentView, *, changed: bool) -> Effects:
    """Read from a reply what the command did; `changed` says whether a findAndModify changed its document."""
    if name == "insert":
        return Effects(inserted=reply["n"])
    if name == "delete":
        return Effects(deleted=reply["n"])
    if name == "update":
        upserted = len(reply.get("upserted", ()))
        return Effects(0, reply["n"] - upserted, reply["nModified"], upserted=upserted)
    if name == "bulkWrite":
        return Effects(*(reply[field] for field in _OF_A_BULK_WRITE))
    last = reply.get("lastErrorObject") or {}
    number, upserted = last.get("n", 0), int("upserted" in last)
    if "updatedExisting" not in last:
        return Effects(deleted=number)
    modified = int(changed and not upserted)
    return Effects(matched=number - upserted, modified=modified, upserted=upserted)
