"""What a dry run foresees: the collections and indexes that there would be, and its predictions."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from bson import json_util
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError

from flask_migrate_mongo.driver import listener as wire
from flask_migrate_mongo.driver.server import is_passing
from flask_migrate_mongo.model.errors import NotRehearsableError
from flask_migrate_mongo.model.reports import Expected, Prediction

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pymongo.collection import Collection
    from pymongo.database import Database

    from flask_migrate_mongo.driver.server import Document

_Failure = TypeVar("_Failure", bound=PyMongoError)

_NAMES = {
    11000: "DuplicateKey",
    13: "Unauthorized",
    20: "IllegalOperation",
    26: "NamespaceNotFound",
    27: "IndexNotFound",
    48: "NamespaceExists",
    67: "CannotCreateIndex",
    72: "InvalidOptions",
    85: "IndexOptionsConflict",
    86: "IndexKeySpecsConflict",
    166: "CommandNotSupportedOnView",
    197: "InvalidIndexSpecificationOption",
    171: "CannotIndexParallelArrays",
    359: "CannotConvertIndexToUnique",
    13113: "MergeStageNoMatchingDocument",
}
_WIRE_OF_7_0 = 21
_INVALID = 121  # What a validator refuses.
_ID_INDEX: Document = {"v": 2, "key": {"_id": 1}, "name": "_id_"}


@dataclass(slots=True)
class Shape:
    """A collection as it would be by now: what is committed, overlaid with what is predicted.

    `unique` and `validator` are what the real writes would have to obey, and what the server does not
    hold in a dry run. `misleading` says why its documents must be neither read nor written.
    """

    name: str
    exists: bool
    type: str = "collection"
    options: Document = field(default_factory=dict)
    indexes: dict[str, Document] = field(default_factory=dict)
    predicted: bool = False
    unique: dict[str, Document] = field(default_factory=dict)
    validator: Document | None = None
    misleading: str | None = None

    @property
    def unwritable(self) -> str | None:
        """Why no transaction can write to it."""
        if self.misleading:
            return self.misleading
        if self.options.get("capped"):
            return f"{self.name} is a capped collection"
        return f"{self.name} is a time-series collection" if self.type == "timeseries" else None

    @property
    def rule(self) -> Document | None:
        """The validator, if there is one."""
        return self.options.get("validator") if self.exists else None

    def is_unique(self, key: Mapping[str, Any]) -> bool:
        """Whether no two documents may have the same values of these fields."""
        wanted = list(key.items())
        unique = [each["key"] for each in self.indexes.values() if each.get("unique")]
        return list(key) == ["_id"] or any(list(each.items()) == wanted for each in unique)

    @property
    def listed(self) -> Document:
        """The document that listCollections would have of it."""
        info = {"readOnly": self.type == "view"}
        base = {"name": self.name, "type": self.type, "options": dict(self.options), "info": info}
        return base if self.type == "view" else {**base, "idIndex": dict(_ID_INDEX)}


class Foreseen:
    """What would be by now, if this dry run had been a real run."""

    def __init__(
        self,
        plain: Database[Document],
        spend: Callable[[int], None],
        mask: Callable[[str, object], object],
    ) -> None:
        self.plain = plain
        self.spend = spend
        self.mask = mask
        self.touched: set[str] = set()
        self.written: set[str] = set()
        self._shapes: dict[str, Shape] = {}
        self._held: dict[str, Shape] = {}
        self.notes: list[Prediction] = []

    def note(
        self, operation: str, collection: str, expected: Expected, detail: str, **facts: object
    ) -> None:
        """Keep a prediction."""
        plain = {name: json_ready(value) for name, value in facts.items()}
        self.notes.append(Prediction(operation, collection, expected, detail, plain))
        if expected in (Expected.DONE, Expected.UNKNOWN):
            self.touched.add(collection)

    def fail(
        self, operation: str, collection: str, failure: _Failure, detail: str, **facts: object
    ) -> _Failure:
        """Keep the prediction that an operation fails, and return what it would raise."""
        if code := getattr(failure, "code", None):
            facts = {"code": code, **facts}
        self.note(operation, collection, Expected.FAILS, f"would fail: {detail}", **facts)
        return failure

    def refuse(self, operation: str, collection: str, cause: str) -> NotRehearsableError:
        """Keep that an operation cannot be rehearsed, and return the error that says so."""
        self.note(operation, collection, Expected.UNKNOWN, f"not rehearsed: {cause}")
        return NotRehearsableError(operation, cause)

    def take(self) -> tuple[Prediction, ...]:
        """Return the predictions since the last call."""
        notes, self.notes = tuple(self.notes), []
        return notes

    def shape(self, name: str) -> Shape:
        """Return the collection as it would be by now."""
        shape = self._shapes.get(name)
        if shape is None:
            shape = self._shapes[name] = self._committed(name)
        if not shape.exists and not shape.misleading and self._holds_documents(name):
            shape.exists = True  # This dry run's own writes have made it.
            shape.indexes.setdefault("_id_", dict(_ID_INDEX))
        return shape

    def put(self, shape: Shape) -> Shape:
        """Have it from now on that this is what would be."""
        shape.predicted = True
        if shape.exists and shape.type == "collection":
            shape.indexes.setdefault("_id_", dict(_ID_INDEX))
        self._shapes[shape.name] = shape
        return shape

    def overlay(self) -> dict[str, Shape]:
        """Return the collections of which it is known that they would differ from what is committed."""
        made = {name for name in self.written if self.shape(name).exists}
        return {s.name: s for s in self._shapes.values() if s.predicted or s.name in made}

    def unchecked(self) -> list[Shape]:
        """Return the collections written to while a rule of theirs was not held by the server."""
        shapes = (self.shape(name) for name in sorted(self.written))
        return [shape for shape in shapes if shape.unique or shape.validator]

    def held(self, name: str) -> Shape:
        """Return the collection as it is committed, whose rules the server holds all the while."""
        self.shape(name)
        return self._held[name]

    def check_failure(self, name: str, failure: PyMongoError) -> None:
        """Raise NotRehearsableError when a write failed of a rule that would not be there any more."""
        details = getattr(failure, "details", None) or {}
        error = next(iter(details.get("writeErrors") or ()), details)
        # Not shape(), which may ask the server: the failure has ended the transaction.
        shape, held = self._shapes[name], self._held[name]
        if (key := error.get("keyPattern")) and not shape.is_unique(key):
            rule = f"the unique index on {shown(key)}"
        elif error.get("code") == _INVALID and shape.rule != held.rule:
            rule = "the validator"
        else:
            return
        cause = f"the server holds {rule} of {name} that would be gone by then, and refused it"
        raise self.refuse("a write", name, cause) from failure

    def collection(self, name: str) -> Collection[Document]:
        """Return the plain handle, which predicts nothing."""
        return self.plain[name]

    def count(self, name: str, query: Mapping[str, Any] | None = None) -> int:
        """Count documents in the transaction."""
        with wire.unheard():
            return self.collection(name).count_documents(query or {})

    def unreadable(self, name: str, query: Mapping[str, Any]) -> OperationFailure | None:
        """Return what the server says of a query that it cannot read, or None.

        Asked outside of the transaction, which such a query would end.
        """
        nothing = {"$and": [query, {"_id": {"$in": []}}]}
        try:
            wire.outside(lambda: self.collection(name).find_one(nothing))
        except OperationFailure as exc:
            if is_passing(exc):
                raise
            return refusal(exc.code or 2, str((exc.details or {}).get("errmsg", exc)))
        return None

    def tolerates_missing(self) -> bool:
        """Whether this server drops what does not exist without an error, as from 7.0 on."""
        hello = wire.outside(lambda: self.plain.client.admin.command("hello"))
        return bool(hello["maxWireVersion"] >= _WIRE_OF_7_0)

    def clear(self, name: str) -> None:
        """Delete the documents in the transaction, unheard."""
        with wire.unheard():
            self.collection(name).delete_many({})

    def _holds_documents(self, name: str) -> bool:
        with wire.unheard():
            return self.collection(name).find_one({}, {"_id": 1}) is not None

    def _committed(self, name: str) -> Shape:
        shape = self._held[name] = wire.outside(lambda: self._read(name))
        return replace(shape, options=dict(shape.options), indexes=dict(shape.indexes))

    def _read(self, name: str) -> Shape:
        listed = next(self.plain.list_collections(filter={"name": name}), None)
        if listed is None:
            return Shape(name, exists=False)
        options = dict(listed.get("options", {}))
        shape = Shape(name, exists=True, type=listed["type"], options=options)
        if shape.type != "view":
            indexes = self.collection(name).list_indexes()
            shape.indexes = {index["name"]: dict(index) for index in indexes}
        return shape


def refusal(code: int, message: str, **more: object) -> OperationFailure:
    """Return the error that the driver makes of such an answer of the server's."""
    kind = DuplicateKeyError if code == 11000 else OperationFailure  # noqa: PLR2004
    name = _NAMES.get(code, f"Location{code}")
    answer = {"ok": 0.0, "errmsg": message, "code": code, "codeName": name, **more}
    return kind(message, code, answer)


def view_refusal(name: str) -> OperationFailure:
    """Return what the server says to those who take a view for a collection."""
    return refusal(166, f"Namespace {name} is a view, not a collection")


def json_ready(value: object) -> Any:  # noqa: ANN401
    """Return the value as JSON has it; one of the application's own types as its text."""
    try:
        return json.loads(json_util.dumps(value, json_options=json_util.RELAXED_JSON_OPTIONS))
    except TypeError:
        return str(value)


def shown(document: Mapping[str, Any]) -> str:
    """Return a key or a definition in the shell's notation."""
    return "{" + ", ".join(f"{name}: {_text(value)}" for name, value in document.items()) + "}"


def _text(value: object) -> str:
    if isinstance(value, str):
        return repr(value)
    return json.dumps(json_ready(value), ensure_ascii=False)


def counted(number: int, noun: str = "document", plural: str = "") -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
