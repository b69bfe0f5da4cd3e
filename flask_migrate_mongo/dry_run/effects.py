"""What a migration's commands change: counted from the replies, sampled, and kept within limits."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure

from flask_migrate_mongo.driver.commands import namespaces
from flask_migrate_mongo.driver.listener import outside, unheard
from flask_migrate_mongo.model.errors import TooLargeToRehearseError
from flask_migrate_mongo.model.masking import differing
from flask_migrate_mongo.model.reports import Effects, Expected, Prediction, Sample
from flask_migrate_mongo.process.clock import elapsed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pymongo.collection import Collection
    from pymongo.database import Database

    from flask_migrate_mongo.driver.commands import Command
    from flask_migrate_mongo.model.masking import Mask

DOCUMENTS_LIMIT = 100_000
"""Documents that a dry run may write: what a server holds in memory for one open transaction is not unbounded."""

BYTES_LIMIT = 48 * 1024 * 1024
"""Bytes of them: WiredTiger's smallest cache is 256 MB, and from 20% of changed data on it slows every writer."""

_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
_AWARE: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)


class Budget:
    """How long a dry run may take, in seconds, and how much it may write.

    `refusal` is what was too much, whatever the migration made of it.
    """

    def __init__(
        self, seconds: float, *, documents: int = DOCUMENTS_LIMIT, size: int = BYTES_LIMIT
    ) -> None:
        self._seconds = seconds
        self._deadline = elapsed() + seconds
        self._documents = documents
        self._size = size
        self.written = 0
        self.refusal: TooLargeToRehearseError | None = None
        self._bytes_written = 0

    @property
    def documents_left(self) -> int:
        """How many documents may still be written."""
        return self._documents - self.written

    @property
    def seconds_left(self) -> float:
        """Seconds until the dry run has to end; 0 when it is over."""
        return max(0.0, self._deadline - elapsed())

    @property
    def is_nearly_over(self) -> bool:
        """Whether a command that timed out did so for our limit: the driver allows for the way there and back."""
        return self.seconds_left < max(0.1 * self._seconds, 0.1)

    def timed_out(self) -> TooLargeToRehearseError:
        """Return the error that says that the time is over."""
        return self._refuse(f"it takes longer than {self._seconds:g} s")

    def admit(self, documents: int, size: int = 0) -> None:
        """Raise TooLargeToRehearseError when this many more are too much."""
        if documents > self.documents_left:
            what = f"{self._documents:,} documents"
            raise self._refuse(f"it would write more than {what} in one transaction")
        if not self.fits(size):
            what = f"{self._size // 1024**2} MB"
            raise self._refuse(f"it would write more than {what} in one transaction")

    def fits(self, size: int) -> bool:
        """Whether so many bytes more are not too much."""
        return self._bytes_written + size <= self._size

    def _refuse(self, why: str) -> TooLargeToRehearseError:
        self.refusal = self.refusal or TooLargeToRehearseError(why)
        return self.refusal

    def spend(self, documents: int, size: int = 0) -> None:
        """Count what is written."""
        self.written += documents
        self._bytes_written += size


@dataclass(frozen=True, slots=True)
class _Statement:
    """One update or delete of a command: which documents it is about."""

    namespace: str
    filter: Mapping[str, Any]
    many: bool
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Image:
    """A document as it was before a statement."""

    namespace: str
    document: RawBSONDocument


class Recorder:
    """Listens to one step: counts what it changes, and takes samples of it.

    A command that is beyond the budget is not sent.
    """

    def __init__(
        self, database: Database[Any], session_id: object, budget: Budget, *, samples: int = 0
    ) -> None:
        self.effects: dict[str, Effects] = {}
        self.samples: list[Sample] = []
        self.unknown: list[Prediction] = []
        self.touched: set[str] = set()
        self._database = database
        self._session_id = session_id
        self._budget = budget
        self._wanted = samples
        self._images: list[_Image] = []
        self._sizes: dict[str, tuple[int, int]] = {}

    # --- the tap

    def sending(self, command: Command) -> None:
        """Refuse what is beyond the budget, and look at what is about to be changed."""
        if command.session_id != self._session_id:
            return
        self.touched.update(map(self._label, namespaces(command)))
        statements = tuple(_statements(command))
        self._admit(_inserted(command), statements)
        self._images = list(self._look(command, statements))

    def answered(self, command: Command, reply: Mapping[str, Any]) -> None:
        """Count what was changed."""
        if command.session_id != self._session_id or command.name not in _COUNTED:
            return
        # A write that failed has ended the transaction: there is nothing left to look at.
        over = reply.get("writeErrors") or reply.get("nErrors")
        samples = [] if over else list(self._compared(command, reply))
        for namespace, effects in self._counted(command, reply, changed=bool(samples)):
            self._spend(namespace, effects)
            label = self._label(namespace)
            self.effects[label] = self.effects.get(label, Effects()) + effects
        self.samples += samples[: self._wanted - len(self.samples)]

    # --- the budget

    def _admit(
        self, documents: Sequence[tuple[str, Any]], statements: Sequence[_Statement]
    ) -> None:
        single = sum(not statement.many for statement in statements)
        size = sum(len(bson.encode(document)) for _, document in documents)
        self._budget.admit(len(documents) + single, size)
        self._budget.spend(0, size)
        for statement in statements:
            if statement.many:
                count, size = self._extent(statement)
                self._budget.admit(count, count * size)

    def _extent(self, statement: _Statement) -> tuple[int, int]:
        """Return how many documents a statement may change at most, and their size on average."""
        total, size = self._known(statement.namespace)
        most = total + self._budget.written
        if most <= self._budget.documents_left and self._budget.fits(most * size):
            return most, size
        # Of all documents, those that the dry run cannot have deleted: counting them is no scan.
        least = total - self._budget.written
        if not statement.filter and least > self._budget.documents_left:
            return least, size
        return self._matching(statement), size

    def _spend(self, namespace: str, effects: Effects) -> None:
        touched = effects.upserted + effects.matched + effects.deleted
        size = touched * self._known(namespace)[1] if touched else 0
        self._budget.spend(effects.inserted + touched, size)

    def _known(self, namespace: str) -> tuple[int, int]:
        """Return how many documents there are, before the dry run, and their size on average."""
        if namespace not in self._sizes:
            database, name = self._parts(namespace)
            self._sizes[namespace] = outside(lambda: _stats(database, name))
        return self._sizes[namespace]

    def _matching(self, statement: _Statement) -> int:
        with unheard():
            return self._collection(statement.namespace).count_documents(
                statement.filter,
                limit=self._budget.documents_left + 1,
                **_countable(statement.options),
            )

    def _look(self, command: Command, statements: Iterable[_Statement]) -> Iterator[_Image]:
        # Whether a findAndModify changed anything is in no reply: only the document tells.
        always = command.name == "findAndModify"
        room = max(self._wanted - len(self.samples), int(always))
        for statement in statements:
            if room <= 0:
                return
            limit = room if statement.many else 1
            for document in self._find(statement, limit):
                room -= 1
                yield _Image(statement.namespace, document)

    def _find(self, statement: _Statement, limit: int) -> list[RawBSONDocument]:
        with unheard():
            found = self._collection(statement.namespace).find(
                statement.filter, limit=limit, **statement.options
            )
            return list(found)

    # --- after

    def _compared(self, command: Command, reply: Mapping[str, Any]) -> Iterator[Sample]:
        for image in self._images:
            after = self._by_id(image.namespace, image.document["_id"])
            if after is None or after.raw != image.document.raw:
                yield self._sample(image.namespace, image.document, after)
        self._images = []
        if self._wanted > len(self.samples):
            yield from self._created(command, reply)

    def _created(self, command: Command, reply: Mapping[str, Any]) -> Iterator[Sample]:
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
        return Sample(self._label(namespace), document_id, old, new)

    def _by_id(self, namespace: str, document_id: object) -> RawBSONDocument | None:
        with unheard():
            return self._collection(namespace).find_one({"_id": document_id})

    def _counted(
        self, command: Command, reply: Mapping[str, Any], *, changed: bool
    ) -> Iterator[tuple[str, Effects]]:
        if command.name != "bulkWrite":
            yield command.namespace, _COUNTED[command.name](reply, changed)
            return
        counted = _split(command, reply)
        if counted is None:
            self.unknown.append(_unsplit(command))
            return
        yield from counted.items()

    # --- names

    def _label(self, namespace: str) -> str:
        database, _, name = namespace.partition(".")
        return name if database == self._database.name else namespace

    def _parts(self, namespace: str) -> tuple[Database[Any], str]:
        database, _, name = namespace.partition(".")
        return self._database.client[database], name

    def _collection(self, namespace: str) -> Collection[RawBSONDocument]:
        database, name = self._parts(namespace)
        return database.get_collection(name, codec_options=_RAW)


# --- what commands are about


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


def _collated(statement: Mapping[str, Any]) -> dict[str, Any]:
    return {"collation": statement["collation"]} if statement.get("collation") else {}


def _countable(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "sort"}


def _inserted(command: Command) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the documents that a command inserts, each with where it goes."""
    if command.name == "insert":
        return [(command.namespace, d) for d in command.document["documents"]]
    if command.name == "bulkWrite":
        return [(ns, op["document"]) for ns, kind, op in _operations(command) if kind == "insert"]
    return []


def _operations(command: Command) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield namespace, kind and statement of each operation of a `bulkWrite`."""
    namespaces = [info["ns"] for info in command.document["nsInfo"]]
    for op in command.document["ops"]:
        kind = next(iter(op))
        yield namespaces[op[kind]], kind, op


def _upserted(command: Command, reply: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the ids of what was upserted, each with where it is; of a `bulkWrite` its reply has none."""
    if command.name == "update":
        found = [upserted["_id"] for upserted in reply.get("upserted", ())]
    else:
        last = reply.get("lastErrorObject") or {}
        found = [last["upserted"]] if "upserted" in last else []
    return [(command.namespace, document_id) for document_id in found]


def _stats(database: Database[Any], name: str) -> tuple[int, int]:
    try:
        found = list(database[name].aggregate([{"$collStats": {"storageStats": {}}}]))
    except OperationFailure:  # There is none yet, or only its count may be read.
        return database[name].estimated_document_count(), 0
    count = sum(shard["storageStats"].get("count", 0) for shard in found)
    size = sum(shard["storageStats"].get("size", 0) for shard in found)
    return count, (size // count if count else 0)


def _decoded(document: RawBSONDocument | None) -> Mapping[str, Any] | None:
    return None if document is None else bson.decode(document.raw, _AWARE)


def _same(one: object, other: object) -> bool:
    # As BSON: 1 and 1.0 are equal in Python, and different values in a collection.
    return bson.encode({"": one}) == bson.encode({"": other})


# --- what replies count


def _of_insert(reply: Mapping[str, Any], _: bool) -> Effects:  # noqa: FBT001  (one shape for all)
    return Effects(inserted=reply["n"])


def _of_update(reply: Mapping[str, Any], _: bool) -> Effects:  # noqa: FBT001
    upserted = len(reply.get("upserted", ()))
    return Effects(matched=reply["n"] - upserted, modified=reply["nModified"], upserted=upserted)


def _of_delete(reply: Mapping[str, Any], _: bool) -> Effects:  # noqa: FBT001
    return Effects(deleted=reply["n"])


def _of_find_and_modify(reply: Mapping[str, Any], changed: bool) -> Effects:  # noqa: FBT001
    last = reply.get("lastErrorObject") or {}
    if "updatedExisting" not in last:
        return Effects(deleted=last.get("n", 0))
    if "upserted" in last:
        return Effects(upserted=1)
    return Effects(matched=last.get("n", 0), modified=int(changed))


def _of_bulk_write(reply: Mapping[str, Any], _: bool) -> Effects:  # noqa: FBT001
    return Effects(
        reply["nInserted"],
        reply["nMatched"],
        reply["nModified"],
        reply["nDeleted"],
        reply["nUpserted"],
    )


_COUNTED = {
    "insert": _of_insert,
    "update": _of_update,
    "delete": _of_delete,
    "findAndModify": _of_find_and_modify,
    "bulkWrite": _of_bulk_write,
}


def _split(command: Command, reply: Mapping[str, Any]) -> dict[str, Effects] | None:
    """Return a `bulkWrite`'s effects by namespace, or None when its reply, a sum, does not tell."""
    if (each := _each(command, reply)) is not None:
        return each
    total = _of_bulk_write(reply, False)  # noqa: FBT003
    places: dict[str, Counter[str]] = {
        "insert": Counter(),
        "update": Counter(),
        "delete": Counter(),
    }
    for namespace, kind, _ in _operations(command):
        places[kind][namespace] += 1
    if any(len(places[kind]) > 1 for kind in ("update", "delete")) or reply.get("nErrors"):
        return None
    found = {ns: Effects(inserted=count) for ns, count in places["insert"].items()}
    for ns in places["update"]:
        updated = Effects(matched=total.matched, modified=total.modified, upserted=total.upserted)
        found[ns] = found.get(ns, Effects()) + updated
    for ns in places["delete"]:
        found[ns] = found.get(ns, Effects()) + Effects(deleted=total.deleted)
    return found


def _each(command: Command, reply: Mapping[str, Any]) -> dict[str, Effects] | None:
    """Return the effects from a verbose reply, which has a result for each operation; else None."""
    operations, results = list(_operations(command)), reply["cursor"]["firstBatch"]
    if len(results) != len(operations):
        return None
    found: dict[str, Effects] = {}
    for result in results:
        namespace, kind, _ = operations[result["idx"]]
        found[namespace] = found.get(namespace, Effects()) + _of_one(kind, result)
    return found


def _of_one(kind: str, result: Mapping[str, Any]) -> Effects:
    number = result.get("n", 0)
    if kind == "insert":
        return Effects(inserted=number)
    if kind == "delete":
        return Effects(deleted=number)
    upserted = int("upserted" in result)
    modified = result.get("nModified", 0)
    return Effects(matched=number - upserted, modified=modified, upserted=upserted)


def _unsplit(command: Command) -> Prediction:
    names = sorted({namespace.partition(".")[2] for namespace, _, _ in _operations(command)})
    detail = (
        "is not counted: the server's reply sums up its collections. Pass verbose_results=True, or write to one "
        "collection at a time."
    )
    return Prediction("bulkWrite", ", ".join(names), Expected.UNKNOWN, detail, {})


def masked(sample: Sample, mask: Mask) -> Sample:
    """Return the sample as it may be shown."""
    return Sample(
        sample.collection,
        mask("_id", sample.document_id),
        None if sample.before is None else mask.document(sample.before),
        None if sample.after is None else mask.document(sample.after),
    )
