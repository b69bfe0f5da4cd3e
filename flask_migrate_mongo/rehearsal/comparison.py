"""Compares two states of a database: its collections, and their options, indexes and documents.

Documents are matched by `_id`. The order of fields makes no difference, because a field that is removed and added
again comes last. Types do: 12 is not 12.0.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import bson
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference

from flask_migrate_mongo.driver.server import Document
from flask_migrate_mongo.model.masking import NOTHING_MASKED

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping

    from pymongo.database import Database

    from flask_migrate_mongo.model.masking import Mask

RAW = CodecOptions[RawBSONDocument](document_class=RawBSONDocument)
"""Documents as the server sends them, with nothing converted."""

EXACT = CodecOptions[Document](datetime_conversion=DatetimeConversion.DATETIME_MS)
"""Documents without loss: also with dates before the year 1 and after 9999."""

KEPT_BYTES = 64 * 1024 * 1024
"""How many bytes of documents a snapshot keeps; of the documents beyond, it keeps digests."""

SHOWN = 5
"""How many differences are shown."""

_SHOWN_LENGTH = 80
# The server fills these in, so it makes no difference whether they are given.
_DEFAULT_OPTIONS: Document = {
    "validator": {},
    "validationLevel": "strict",
    "validationAction": "error",
    "changeStreamPreAndPostImages": {"enabled": False},
}


class _Missing:
    """The value of a field that does not exist."""


class _Digest(bytes):
    """The digest of a document that is not kept."""


MISSING = _Missing()


@dataclass(frozen=True, slots=True)
class Difference:
    """One change that was not reversed: `what` of a collection, before and after."""

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
        """Keep the first differences and count all."""
        first = tuple(islice(found, SHOWN))
        return cls(first, len(first) + sum(1 for _ in found))


@dataclass(frozen=True, slots=True)
class CollectionState:
    """The state of a collection, with the BSON or the digest of each document by its key."""

    options: Document
    indexes: Mapping[str, Document]
    documents: Mapping[bytes, bytes]


@dataclass(slots=True)
class Snapshot:
    """The state of a database at one moment, without the collections to skip.

    `check` raises to stop what takes long. `budget` is how many more bytes of documents can be kept.
    """

    database: Database[Document]
    skip: frozenset[str]
    check: Callable[[], None]
    budget: int = KEPT_BYTES
    collections: dict[str, CollectionState] = field(default_factory=dict)

    def take(self) -> Snapshot:
        """Add every collection as it is now."""
        for info in listed(self.database, self.skip).values():
            self._add(info)
        return self

    def add(self, name: str) -> None:
        """Add a collection that was created after the snapshot was taken."""
        self._add(listed(self.database, self.skip)[name])

    def compare(self, mask: Mask = NOTHING_MASKED) -> Differences:
        """Find how the database now differs from this snapshot."""
        return Differences.of(self._differences(mask))

    def _add(self, info: Document) -> None:
        documents: dict[bytes, bytes] = {}
        for raw in _documents(self.database, info):
            self.check()
            documents[_key(raw, documents)] = self._kept(bytes(raw.raw))
        state = CollectionState(_options(info), indexes(self.database, info), documents)
        self.collections[info["name"]] = state

    def _kept(self, raw: bytes) -> bytes:
        self.budget -= len(raw)
        return raw if self.budget >= 0 else _digest(raw)

    def _differences(self, mask: Mask) -> Iterator[Difference]:
        now = listed(self.database, self.skip)
        for name in sorted(self.collections.keys() | now.keys()):
            if name not in now:
                yield Difference(name, "collection", "there", "gone")
            elif name not in self.collections:
                yield Difference(name, "collection", "not there", "there")
            else:
                before, info = self.collections[name], now[name]
                yield from _changed_fields(name, "option", before.options, _options(info))
                yield from _changed_indexes(name, before.indexes, indexes(self.database, info))
                yield from self._changed_documents(before, info, mask)

    def _changed_documents(
        self, before: CollectionState, info: Document, mask: Mask
    ) -> Iterator[Difference]:
        name = info["name"]
        left = dict(before.documents)
        seen: set[bytes] = set()
        for raw in _documents(self.database, info):
            self.check()
            key = _key(raw, seen)
            seen.add(key)
            yield from _changed_document(name, left.pop(key, None), raw, mask)
        for key in left:
            yield Difference(name, _named(key, mask), "there", "gone")


# --- what the server reports


def listed(database: Database[Document], skip: frozenset[str]) -> dict[str, Document]:
    """List the collections by name, without the server's own and those to skip."""
    found = {info["name"]: dict(info) for info in _exact(database).list_collections()}
    kept = (name for name in found if name not in skip and not name.startswith("system."))
    return {name: found[name] for name in sorted(kept)}


def indexes(database: Database[Document], info: Document) -> dict[str, Document]:
    """List the indexes of a collection by name; a view has none."""
    if info["type"] == "view":
        return {}
    found = _exact(database)[info["name"]].list_indexes()
    return {
        index["name"]: {k: v for k, v in index.items() if k not in {"v", "ns"}} for index in found
    }


def _exact(database: Database[Document]) -> Database[Document]:
    return database.with_options(codec_options=EXACT)


def _documents(database: Database[Document], info: Document) -> Iterable[RawBSONDocument]:
    # The documents of a view belong to the collections that it shows.
    if info["type"] == "view":
        return ()
    primary = database.with_options(codec_options=RAW, read_preference=ReadPreference.PRIMARY)
    return primary[info["name"]].find({})


def _options(info: Document) -> Document:
    options = {**info.get("options", {}), "type": info["type"]}
    return {
        k: v for k, v in options.items() if k not in _DEFAULT_OPTIONS or v != _DEFAULT_OPTIONS[k]
    }


def identity(raw: RawBSONDocument) -> bytes:
    """Encode the `_id` of a document, with its type, as BSON."""
    return bson.encode({"_id": raw.get("_id")}, codec_options=EXACT)


def _key(raw: RawBSONDocument, taken: Container[bytes]) -> bytes:
    """Make the key of a document; in a time series, several documents can have the same `_id`."""
    key = identity(raw)
    while key in taken:
        key += b"+"
    return key


def _named(key: bytes, mask: Mask) -> str:
    found = _decoded(key.rstrip(b"+"))["_id"]
    return f"document {shown_value(found, '_id', mask)}"


# --- comparing


def _changed_document(
    collection: str, before: bytes | None, raw: RawBSONDocument, mask: Mask
) -> Iterator[Difference]:
    what, now = _named(identity(raw), mask), bytes(raw.raw)
    if before is None:
        yield Difference(collection, what, "not there", "there")
    elif isinstance(before, _Digest):
        if before != _digest(now):
            yield Difference(collection, what, "unknown (too large to keep)", "changed")
    elif before != now:
        yield from _changed_fields(
            collection, f"{what}, field", _decoded(before), _decoded(now), mask
        )


def _changed_indexes(
    collection: str, before: Mapping[str, Document], after: Mapping[str, Document]
) -> Iterator[Difference]:
    for name in sorted(before.keys() | after.keys()):
        what = f"index {name}"
        if name not in after:
            yield Difference(collection, what, "there", "gone")
        elif name not in before:
            yield Difference(collection, what, "not there", "there")
        else:
            old, new = _comparable(before[name]), _comparable(after[name])
            yield from _changed_fields(collection, f"{what},", old, new)


def _comparable(index: Document) -> Document:
    # In a key, the order of the fields counts.
    key = [[name, _direction(direction)] for name, direction in index["key"].items()]
    return {**index, "key": key}


def _direction(value: object) -> object:
    """Make an int of 1.0 and of Int64(1), which mean the same as 1."""
    return int(value) if isinstance(value, int | float) and value == int(value) else value


def _changed_fields(
    collection: str, what: str, before: Document, after: Document, mask: Mask = NOTHING_MASKED
) -> Iterator[Difference]:
    for path, old, new in different(before, after):
        shown = (shown_value(value, path, mask) for value in (old, new))
        yield Difference(collection, f"{what} {path}", *shown)


def different(
    before: object, after: object, path: str = ""
) -> Iterator[tuple[str, object, object]]:
    """Yield the dotted paths at which two values differ, with both values there, or MISSING."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            pair = before.get(key, MISSING), after.get(key, MISSING)
            yield from different(*pair, _joined(path, key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for position, pair in enumerate(zip(before, after, strict=True)):
            yield from different(*pair, _joined(path, str(position)))
    elif _canonical(before) != _canonical(after):
        yield path, before, after


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _canonical(value: object) -> bytes:
    """Encode a value so that equal values have equal bytes."""
    return b"" if value is MISSING else bson.encode({"": _sorted(value)}, codec_options=EXACT)


def _sorted(value: object) -> object:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(each) for each in value]
    # There are several values that are NaN, and they mean the same.
    return math.nan if isinstance(value, float) and math.isnan(value) else value


def _digest(raw: bytes) -> _Digest:
    return _Digest(hashlib.blake2b(_canonical(_decoded(raw)), digest_size=16).digest())


def _decoded(raw: bytes) -> Document:
    return bson.decode(raw, codec_options=EXACT)


# --- showing

_TYPES = dict(
    enumerate(
        (
            *("double", "string", "object", "array", "binData", "undefined", "objectId", "bool"),
            *("date", "null", "regex", "dbPointer", "javascript", "symbol", "javascriptWithScope"),
            *("int", "timestamp", "long", "decimal"),
        ),
        start=1,
    )
) | {127: "maxKey", 255: "minKey"}
"""The types of BSON by number, with the names that `$type` has for them."""


def shown_value(value: object, path: str = "", mask: Mask = NOTHING_MASKED) -> str:
    """Show a value, shortened, with its type; the mask hides that of a secret field."""
    if value is MISSING:
        return "not there"
    masked: object = mask(path, value)
    text = masked if isinstance(masked, str) and masked is not value else _json(masked)
    if len(text) > _SHOWN_LENGTH:
        text = f"{text[:_SHOWN_LENGTH]}..."
    return f"{text} ({type_name(value)})"


def type_name(value: object) -> str:
    """Name the type of a value as `$type` does."""
    # After the length, of four bytes, a document begins with the type of its first field.
    return _TYPES[bson.encode({"": value}, codec_options=EXACT)[4]]


def _json(value: object) -> str:
    return json_util.dumps(value, json_options=json_util.RELAXED_JSON_OPTIONS, ensure_ascii=False)
