"""Compares two states of a database: its collections, and their options, indexes and documents.

Documents are matched by `_id`. The order of fields makes no difference, because a field that is removed and added
again comes last. Types do: 12 is not 12.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import bson
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference
from pymongo.database import Database
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern

from flask_migrate_mongo.driver.server import Document
from flask_migrate_mongo.model.masking import NOTHING_MASKED, Mask

EXACT = CodecOptions[Document](
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    unicode_decode_error_handler="backslashreplace",
)
"""Every document: also with dates before the year 1 and after 9999, and with texts that are not UTF-8."""

RAW: CodecOptions[RawBSONDocument] = EXACT.with_options(document_class=RawBSONDocument)
"""Documents as the server sends them. Only their `_id` is decoded."""

KEPT_BYTES = 64 * 1024 * 1024
"""How many bytes of documents a snapshot keeps; of the documents beyond, it keeps digests."""

SHOWN = 5
"""How many differences are shown."""

_SHOWN_LENGTH = 80
_NO_COLLECTION = 26
_CANONICAL, _RELAXED = json_util.CANONICAL_JSON_OPTIONS, json_util.RELAXED_JSON_OPTIONS
# The server fills these in, so it makes no difference whether they are given.
_DEFAULT_OPTIONS: tuple[tuple[str, object], ...] = (
    ("validator", {}),
    ("validationLevel", "strict"),
    ("validationAction", "error"),
    ("changeStreamPreAndPostImages", {"enabled": False}),
)
_NUMBERED_TYPES = (
    *("double", "string", "object", "array", "binData", "undefined", "objectId", "bool"),
    *("date", "null", "regex", "dbPointer", "javascript", "symbol", "javascriptWithScope"),
    *("int", "timestamp", "long", "decimal"),
)
# The types of BSON by number, with the names that `$type` has for them.
_TYPES = {**dict(enumerate(_NUMBERED_TYPES, start=1)), 127: "maxKey", 255: "minKey"}


class _Digest(bytes):
    """The digest of a document that is not kept."""


MISSING = object()
"""The value of a field that does not exist."""


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


@dataclass(slots=True)
class Snapshot:
    """The state of a database at one moment, without the collections to skip.

    `check` raises to stop what takes long. `budget` is how many more bytes of documents can be kept. For each
    collection, `parts` has its options and indexes, and `documents` the BSON or the digest of each document.
    """

    database: Database[Document]
    skip: frozenset[str]
    check: Callable[[], None]
    budget: int = KEPT_BYTES
    parts: dict[str, dict[str, Document]] = field(default_factory=dict)
    documents: dict[str, dict[bytes, bytes]] = field(default_factory=dict)

    def take(self, only: str | None = None) -> Snapshot:
        """Add every collection as it is now, or only one that was created after the snapshot was taken."""
        for name, info in listed(self.database, self.skip).items():
            if only in {None, name}:
                self.parts[name] = _parts(self.database, info)
                self.documents[name] = {key: self._kept(raw) for key, raw in self._read(info)}
        return self

    def compare(self, mask: Mask = NOTHING_MASKED) -> Differences:
        """Find how the database now differs from this snapshot."""
        found = self._differences(mask)
        first = tuple(islice(found, SHOWN))
        return Differences(first, len(first) + sum(1 for _ in found))

    def _read(self, info: Document) -> Iterator[tuple[bytes, bytes]]:
        """Read the documents, each with its key, which differs for equal `_id`s in a time series."""
        # The documents of a view belong to the collections that it shows.
        if info["type"] == "view":
            return
        seen: set[bytes] = set()
        # The latest state, even if the application reads what a majority has only.
        own = self.database.with_options(RAW, ReadPreference.PRIMARY, None, ReadConcern("local"))
        for document in own[info["name"]].find({}):
            self.check()
            key = identity(document)
            while key in seen:
                key += b"+"
            seen.add(key)
            yield key, bytes(document.raw)

    def _kept(self, raw: bytes) -> bytes:
        self.budget -= len(raw)
        return raw if self.budget >= 0 else _digest(raw)

    def _differences(self, mask: Mask) -> Iterator[Difference]:
        now = listed(self.database, self.skip)
        for name in sorted(self.parts.keys() | now.keys()):
            before, info = self.parts.get(name), now.get(name)
            if before is None or info is None:
                yield from _changed(name, "collection", before, info)
                continue
            after = _parts(self.database, info)
            for what in sorted(before.keys() | after.keys()):
                yield from _changed(name, what, before.get(what), after.get(what))
            yield from self._changed_documents(info, mask)

    def _changed_documents(self, info: Document, mask: Mask) -> Iterator[Difference]:
        name = info["name"]
        before = dict(self.documents[name])
        for key, new in self._read(info):
            old = before.pop(key, None)
            if old == (_digest(new) if isinstance(old, _Digest) else new):
                continue
            what = _document(key, mask)
            if isinstance(old, _Digest):
                yield Difference(name, what, "unknown (too large to keep)", "changed")
            else:
                known = None if old is None else _decoded(old)
                yield from _changed(name, what, known, _decoded(new), "field ", mask)
        for key in before:
            yield Difference(name, _document(key, mask), "there", "gone")


def listed(database: Database[Document], skip: frozenset[str]) -> dict[str, Document]:
    """List the collections by name, without the server's own and those to skip."""
    # Not by `list_collections()`, which fails at dates that Python does not have.
    found = database.cursor_command({"listCollections": 1}, codec_options=EXACT)
    infos = {info["name"]: dict(info) for info in found}
    return {n: infos[n] for n in sorted(infos) if n not in skip and not n.startswith("system.")}


def indexes(database: Database[Document], info: Document) -> list[Document]:
    """List the indexes of a collection; a view has none."""
    if info["type"] == "view":
        return []
    # Not by `list_indexes()`, which fails at dates that Python does not have.
    try:
        found = list(database.cursor_command({"listIndexes": info["name"]}, codec_options=EXACT))
    except OperationFailure as exc:
        if exc.code != _NO_COLLECTION:
            raise
        return []
    return [{k: v for k, v in index.items() if k not in {"v", "ns"}} for index in found]


def identity(raw: RawBSONDocument) -> bytes:
    """Encode the `_id` of a document, with its type, as BSON."""
    return bson.encode({"_id": raw.get("_id")}, codec_options=EXACT)


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
    kind: str = "",
    mask: Mask = NOTHING_MASKED,
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
    """Yield the dotted paths at which two values differ, with both values there, or MISSING.

    A name that itself holds a dot is quoted in the path.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            pair = before.get(key, MISSING), after.get(key, MISSING)
            name = f'"{key}"' if "." in key else key
            yield from different(*pair, f"{path}.{name}" if path else name)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for position, pair in enumerate(zip(before, after, strict=True)):
            yield from different(*pair, f"{path}.{position}")
    elif MISSING in (before, after) or _canonical(before) != _canonical(after):
        yield path, before, after


def _canonical(value: object) -> str:
    """Encode a value with its types so that equal values have equal text, also those that are NaN."""
    return json_util.dumps(value, json_options=_CANONICAL, sort_keys=True)


def _digest(raw: bytes) -> _Digest:
    text = _canonical(_decoded(raw)).encode()
    return _Digest(hashlib.blake2b(text, digest_size=16).digest())


def _decoded(raw: bytes) -> Document:
    return bson.decode(raw, codec_options=EXACT)


# --- showing


def shown_value(value: object, path: str = "", mask: Mask = NOTHING_MASKED) -> str:
    """Show a value, shortened, with its type; the mask hides that of a secret field."""
    if value is MISSING:
        return "not there"
    text: object = mask(path, value)
    if text is value or not isinstance(text, str):
        text = json_util.dumps(text, json_options=_RELAXED, ensure_ascii=False)
    if len(text) > _SHOWN_LENGTH:
        text = f"{text[:_SHOWN_LENGTH]}..."
    return f"{text} ({type_name(value)})"


def _document(key: bytes, mask: Mask) -> str:
    return f"document {shown_value(_decoded(key.rstrip(b'+'))['_id'], '_id', mask)}"


def type_name(value: object) -> str:
    """Name the type of a value as `$type` does."""
    # After the length, of four bytes, a document begins with the type of its first field.
    return _TYPES[bson.encode({"": value}, codec_options=EXACT)[4]]
