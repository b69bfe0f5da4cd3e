"""Two states of a database, compared: which collections there are, their options, indexes and documents.

Documents are found again by their `_id`. The order of fields makes no difference, since a field that
is taken away and given back comes last; types do: 12 is not 12.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import bson
from bson import Binary, Decimal128, Int64, ObjectId, Regex, Timestamp, json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from pymongo.database import Database

Document = Mapping[str, Any]
Mask = Callable[[str, object], object]
"""Makes what may be shown of a value; it is told the field that holds it, as a dotted path."""

RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
"""Documents as the server sends them: whatever their types, nothing is converted on the way."""

KEPT_BYTES = 64 * 1024 * 1024
"""How much of the documents a snapshot keeps; of those beyond it, only digests."""

SHOWN = 5
"""How many differences are shown."""

_VALUE_LIMIT = 80
_DIGEST_SIZE = 16
# Dates beyond the years that Python knows are compared too.
_EXACT = CodecOptions[dict[str, Any]](datetime_conversion=DatetimeConversion.DATETIME_MS)
# What the server fills in by itself, so that there is no difference whether it is said.
_IMPLIED: tuple[tuple[str, object], ...] = (
    ("validator", {}),
    ("validationLevel", "strict"),
    ("validationAction", "error"),
    ("changeStreamPreAndPostImages", {"enabled": False}),
)


class _Missing:
    """Stands for a field that is not there."""

    def __repr__(self) -> str:
        return "not there"


MISSING = _Missing()


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it was: `what` of a collection, before and after."""

    collection: str
    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.collection} {self.what}: {self.before} → {self.after}"


@dataclass(frozen=True, slots=True)
class Differences:
    """The first differences, and how many there are."""

    first: tuple[Difference, ...] = ()
    total: int = 0

    @classmethod
    def of(cls, found: Iterator[Difference]) -> Differences:
        """Keep the first ones and count the others."""
        first = tuple(islice(found, SHOWN))
        return cls(first, len(first) + sum(1 for _ in found))


@dataclass(frozen=True, slots=True)
class CollectionState:
    """A collection as it was. Of each document, by its `_id`: its BSON, or the digest of it."""

    options: Document
    indexes: Mapping[str, Document]
    documents: Mapping[bytes, bytes]


@dataclass(slots=True)
class Snapshot:
    """Collections as they were; `room` is how many bytes of documents it still takes."""

    room: int = KEPT_BYTES
    collections: dict[str, CollectionState] = field(default_factory=dict)

    def add(self, database: Database[Any], info: Document, check: Callable[[], None]) -> None:
        """Take a collection as it is now, from what the server's listing says of it."""
        name = info["name"]
        documents: dict[bytes, bytes] = {}
        for raw in _documents(database, info):
            check()
            documents[_key(raw, documents)] = self._kept(bytes(raw.raw))
        self.collections[name] = CollectionState(_options(info), indexes(database, info), documents)

    def _kept(self, raw: bytes) -> bytes:
        self.room -= len(raw)
        return raw if self.room >= 0 else _digest(raw)


def take(
    database: Database[Any], skip: frozenset[str], check: Callable[[], None], room: int = KEPT_BYTES
) -> Snapshot:
    """Return every collection as it is now, but those to skip; `check` raises to stop it."""
    snapshot = Snapshot(room)
    for info in listed(database, skip):
        snapshot.add(database, info, check)
    return snapshot


def compare(
    before: Snapshot, database: Database[Any], skip: frozenset[str], mask: Mask
) -> Differences:
    """Return what of the database is not as it was."""
    return Differences.of(_all(before, database, skip, mask))


def listed(database: Database[Any], skip: frozenset[str]) -> list[Document]:
    """Return what the server says of each collection, but the server's own and those to skip."""
    found = database.list_collections()
    kept = (i for i in found if i["name"] not in skip and not i["name"].startswith("system."))
    return sorted(kept, key=lambda info: str(info["name"]))


def indexes(database: Database[Any], info: Document) -> dict[str, Document]:
    """Return the indexes of a collection by their names; a view has none."""
    if info["type"] == "view":
        return {}
    found = database[info["name"]].list_indexes()
    return {
        index["name"]: {k: v for k, v in index.items() if k not in {"v", "ns"}} for index in found
    }


# --- one thing after the other


def _all(
    before: Snapshot, database: Database[Any], skip: frozenset[str], mask: Mask
) -> Iterator[Difference]:
    now = {info["name"]: info for info in listed(database, skip)}
    for name in sorted(before.collections.keys() | now.keys()):
        if name not in now:
            yield Difference(name, "collection", "there", "gone")
        elif name not in before.collections:
            yield Difference(name, "collection", "not there", "there")
        else:
            yield from _collection(before.collections[name], database, now[name], mask)


def _collection(
    before: CollectionState, database: Database[Any], info: Document, mask: Mask
) -> Iterator[Difference]:
    name = info["name"]
    yield from _mappings(name, "option", before.options, _options(info))
    yield from _indexes(name, before.indexes, indexes(database, info))
    left = dict(before.documents)
    seen: set[bytes] = set()
    for raw in _documents(database, info):
        key = _key(raw, seen)
        seen.add(key)
        yield from _document(name, left.pop(key, None), raw, mask)
    for key in left:
        yield Difference(name, _named(key, mask), "there", "gone")


def _document(
    name: str, before: bytes | None, raw: RawBSONDocument, mask: Mask
) -> Iterator[Difference]:
    what, now = _named(identity(raw), mask), bytes(raw.raw)
    if before is None:
        yield Difference(name, what, "not there", "there")
    elif len(before) == _DIGEST_SIZE:
        if before != _digest(now):
            yield Difference(name, what, "as it was (not kept, for its size)", "changed")
    elif before != now:
        for path, old, new in different(_decoded(before), _decoded(now)):
            shown = (shown_value(value, path, mask) for value in (old, new))
            yield Difference(name, f"{what}, field {path}", *shown)


def different(
    before: object, after: object, path: str = ""
) -> Iterator[tuple[str, object, object]]:
    """Yield where two values differ, as a dotted path, with what is there; MISSING stands for nothing."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from different(
                before.get(key, MISSING), after.get(key, MISSING), _below(path, key)
            )
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for position, pair in enumerate(zip(before, after, strict=True)):
            yield from different(*pair, _below(path, str(position)))
    elif _canonical(before) != _canonical(after):
        yield path, before, after


def _indexes(
    name: str, before: Mapping[str, Document], after: Mapping[str, Document]
) -> Iterator[Difference]:
    for index in sorted(before.keys() | after.keys()):
        what = f"index {index}"
        if index not in after:
            yield Difference(name, what, "there", "gone")
        elif index not in before:
            yield Difference(name, what, "not there", "there")
        else:
            yield from _mappings(name, f"{what},", _ordered(before[index]), _ordered(after[index]))


def _mappings(name: str, what: str, before: Document, after: Document) -> Iterator[Difference]:
    for path, old, new in different(dict(before), dict(after)):
        yield Difference(name, f"{what} {path}", shown_value(old), shown_value(new))


# --- values


def shown_value(value: object, path: str = "", mask: Mask = lambda _, value: value) -> str:
    """Return a value as it is shown: short, and with its type."""
    if value is MISSING:
        return "not there"
    masked = mask(path, value)
    text = masked if isinstance(masked, str) and masked is not value else _json(masked)
    if len(text) > _VALUE_LIMIT:
        text = f"{text[:_VALUE_LIMIT]}..."
    return f"{text} ({type_name(value)})"


_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "bool"),
    (Int64, "long"),
    (int, "int"),
    (float, "double"),
    (str, "string"),
    (dict, "object"),
    (list, "array"),
    (Decimal128, "decimal"),
    (ObjectId, "objectId"),
    (bytes, "binData"),
    (Binary, "binData"),
    (Regex, "regex"),
    (Timestamp, "timestamp"),
    (DBRef, "object"),
    (datetime, "date"),
    (DatetimeMS, "date"),
)


def type_name(value: object) -> str:
    """Return the name that `$type` has for the type of a value."""
    if value is None:
        return "null"
    found = (name for kind, name in _TYPES if isinstance(value, kind))
    return next(found, type(value).__name__)


def _json(value: object) -> str:
    return json_util.dumps(value, json_options=json_util.RELAXED_JSON_OPTIONS, ensure_ascii=False)


def _canonical(value: object) -> bytes:
    if value is MISSING:
        return b""
    return bson.encode({"": _sorted(value)}, codec_options=_EXACT)


def _sorted(value: object) -> object:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(each) for each in value]
    if isinstance(value, float) and value != value:  # noqa: PLR0124  (there are many nan, and they are one)
        return float("nan")
    return value


def _digest(raw: bytes) -> bytes:
    canonical = _canonical(_decoded(raw))
    return hashlib.blake2b(canonical, digest_size=_DIGEST_SIZE).digest()


def _decoded(raw: bytes) -> dict[str, Any]:
    return bson.decode(raw, codec_options=_EXACT)


# --- what the server says


def _documents(database: Database[Any], info: Document) -> Iterable[RawBSONDocument]:
    # What a view shows belongs to the collections under it.
    if info["type"] == "view":
        return ()
    raw = database.get_collection(
        info["name"], codec_options=RAW, read_preference=ReadPreference.PRIMARY
    )
    return raw.find({})


def identity(raw: RawBSONDocument) -> bytes:
    """Return the `_id` of a document, with its type, as BSON."""
    return bson.encode({"_id": raw.get("_id")}, codec_options=_EXACT)


def _key(raw: RawBSONDocument, taken: Container[bytes]) -> bytes:
    """Return what a document is found again by; in a time series, `_id` need not be unique."""
    key = identity(raw)
    while key in taken:
        key += b"+"
    return key


def _named(key: bytes, mask: Mask) -> str:
    found = bson.decode(key.rstrip(b"+"), codec_options=_EXACT)["_id"]
    return f"document {shown_value(found, '_id', mask)}"


def _options(info: Document) -> Document:
    options = {**info.get("options", {}), "type": info["type"]}
    for name, implied in _IMPLIED:
        if options.get(name) == implied:
            del options[name]
    return options


def _ordered(index: Document) -> Document:
    # In a key the order of the fields counts; 1 and 1.0 mean the same.
    key = [[name, _whole(direction)] for name, direction in index["key"].items()]
    return {**index, "key": key}


def _whole(direction: object) -> object:
    whole = isinstance(direction, float | Int64) and direction == int(direction)
    return int(direction) if whole else direction  # type: ignore[call-overload]


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
