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
    from collections.abc import Callable, Iterator, Mapping

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
_DEFAULT_OPTIONS: tuple[tuple[str, object], ...] = (
    ("validator", {}),
    ("validationLevel", "strict"),
    ("validationAction", "error"),
    ("changeStreamPreAndPostImages", {"enabled": False}),
)


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
    """The state of a collection: its options and each index, and the BSON or the digest of each document."""

    parts: Mapping[str, Document]
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

    def _add(self, info: Document) -> None:
        documents = {key: self._kept(bytes(raw.raw)) for key, raw in self._documents(info)}
        self.collections[info["name"]] = CollectionState(_parts(self.database, info), documents)

    def compare(self, mask: Mask = NOTHING_MASKED) -> Differences:
        """Find how the database now differs from this snapshot."""
        return Differences.of(self._differences(mask))

    def _documents(self, info: Document) -> Iterator[tuple[bytes, RawBSONDocument]]:
        """Read the documents, each with its key, which differs for equal `_id`s in a time series."""
        # The documents of a view belong to the collections that it shows.
        if info["type"] == "view":
            return
        seen: set[bytes] = set()
        own = self.database.with_options(codec_options=RAW, read_preference=ReadPreference.PRIMARY)
        for raw in own[info["name"]].find({}):
            self.check()
            key = identity(raw)
            while key in seen:
                key += b"+"
            seen.add(key)
            yield key, raw

    def _kept(self, raw: bytes) -> bytes:
        self.budget -= len(raw)
        return raw if self.budget >= 0 else _digest(raw)

    def _differences(self, mask: Mask) -> Iterator[Difference]:
        now = listed(self.database, self.skip)
        for name in sorted(self.collections.keys() | now.keys()):
            state = self.collections.get(name)
            if state is None:
                yield Difference(name, "collection", "not there", "there")
            elif name not in now:
                yield Difference(name, "collection", "there", "gone")
            else:
                before, after = state.parts, _parts(self.database, now[name])
                for what in sorted(before.keys() | after.keys()):
                    yield from _changed(name, what, before.get(what), after.get(what))
                yield from self._changed_documents(now[name], dict(state.documents), mask)

    def _changed_documents(
        self, info: Document, before: dict[bytes, bytes], mask: Mask
    ) -> Iterator[Difference]:
        name = info["name"]
        for key, raw in self._documents(info):
            old, new = before.pop(key, None), bytes(raw.raw)
            if isinstance(old, _Digest):
                if old != _digest(new):
                    what = _document(key, mask)
                    yield Difference(name, what, "unknown (too large to keep)", "changed")
            elif old != new:
                known = None if old is None else _decoded(old)
                yield from _changed(
                    name, _document(key, mask), known, _decoded(new), mask, "field "
                )
        for key in before:
            yield Difference(name, _document(key, mask), "there", "gone")


def listed(database: Database[Document], skip: frozenset[str]) -> dict[str, Document]:
    """List the collections by name, without the server's own and those to skip."""
    found = database.with_options(codec_options=EXACT).list_collections()
    infos = {info["name"]: dict(info) for info in found}
    return {n: infos[n] for n in sorted(infos) if n not in skip and not n.startswith("system.")}


def indexes(database: Database[Document], info: Document) -> list[Document]:
    """List the indexes of a collection; a view has none."""
    if info["type"] == "view":
        return []
    found = database[info["name"]].list_indexes()
    return [{k: v for k, v in index.items() if k not in {"v", "ns"}} for index in found]


def identity(raw: RawBSONDocument) -> bytes:
    """Encode the `_id` of a document, with its type, as BSON."""
    return bson.encode({"_id": raw.get("_id")}, codec_options=EXACT)


def _document(key: bytes, mask: Mask) -> str:
    return f"document {shown_value(_decoded(key.rstrip(b'+'))['_id'], '_id', mask)}"


def _parts(database: Database[Document], info: Document) -> dict[str, Document]:
    options = {**info.get("options", {}), "type": info["type"]}
    given = {k: v for k, v in options.items() if (k, v) not in _DEFAULT_OPTIONS}
    found = {f"index {index['name']}": index for index in indexes(database, info)}
    for index in found.values():
        # In a key, the order of the fields counts.
        index["key"] = [[name, _direction(value)] for name, value in index["key"].items()]
    return {"options": given, **found}


def _direction(value: object) -> object:
    """Make an int of 1.0 and of Int64(1), which mean the same as 1."""
    return int(value) if isinstance(value, int | float) and value == int(value) else value


# --- values


def _changed(
    collection: str,
    what: str,
    before: Document | None,
    after: Document | None,
    mask: Mask = NOTHING_MASKED,
    kind: str = "",
) -> Iterator[Difference]:
    if before is None:
        yield Difference(collection, what, "not there", "there")
    elif after is None:
        yield Difference(collection, what, "there", "gone")
    else:
        for path, old, new in different(before, after):
            shown = (shown_value(value, path, mask) for value in (old, new))
            yield Difference(collection, f"{what}, {kind}{path}", *shown)


def different(
    before: object, after: object, path: str = ""
) -> Iterator[tuple[str, object, object]]:
    """Yield the dotted paths at which two values differ, with both values there, or MISSING."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            pair = before.get(key, MISSING), after.get(key, MISSING)
            yield from different(*pair, f"{path}.{key}" if path else key)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for position, pair in enumerate(zip(before, after, strict=True)):
            yield from different(*pair, f"{path}.{position}")
    elif _canonical(before) != _canonical(after):
        yield path, before, after


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
