"""Reads collections, their options and their indexes from the database, and how large and how used indexes are."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection as Names
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import ReadPreference
from pymongo.database import Database
from pymongo.errors import OperationFailure

from flask_migrate_mongo.driver.server import (
    Document,
    DocumentView,
    code_of,
    is_access_refused,
    is_passing,
    translated,
)
from flask_migrate_mongo.model.errors import SchemaAccessError, ShardKeyAccessError

from .identity import is_id, supports
from .search import NO_SEARCH, LiveSearchIndex

_EXACT = CodecOptions[Document](datetime_conversion=DatetimeConversion.DATETIME_MS)
_AWARE = CodecOptions[Document](tz_aware=True)
_GONE = frozenset({26, 166})
"""A collection that was dropped, or replaced by a view, since collections were listed."""

# A strict API version refuses the option, other servers do not know it.
_UNKNOWN_OPTION = frozenset({9, 14, 303, 323, 40415})

IGNORED_COLLECTION_OPTIONS = frozenset(
    {"uuid", "autoIndexId", "flags", "temp", "recordIdsReplicated"}
)
"""Options that the server sets itself."""

_SHARDED = frozenset({"Sharded", "LoadBalanced"})
"""Topologies behind which a mongos answers."""

_SYSTEM = ("system.", "enxcol_.")
"""How the names of the server's own collections begin; the second is of Queryable Encryption."""


@dataclass(frozen=True, slots=True)
class LiveIndex:
    """An index as `listIndexes` shows it; while it is being built, nothing uses and enforces it."""

    spec: Document
    building: bool = False

    @classmethod
    def of(cls, listed: DocumentView) -> LiveIndex:
        """Read an entry of `listIndexes`, which wraps the specification of an index that is being built."""
        return cls(dict(listed.get("spec", listed)), "spec" in listed)

    @property
    def name(self) -> str:
        """Its name."""
        name: str = self.spec["name"]
        return name


@dataclass(frozen=True, slots=True)
class LiveCollection:
    """A collection, a time series or a view, with its options as `listCollections` shows them, and its indexes."""

    name: str
    kind: str = "collection"
    options: Document = field(default_factory=dict)
    indexes: tuple[LiveIndex, ...] = ()
    shard_key: Document = field(default_factory=dict)
    """Empty if the collection is not sharded, or the user may not read shard keys."""
    search_indexes: tuple[LiveSearchIndex, ...] | None = None
    """None if the server has no search indexes."""

    def needs(self, index: LiveIndex) -> bool:
        """Whether the index supports the shard key."""
        return supports(index.spec, self.shard_key)

    @property
    def own_indexes(self) -> tuple[LiveIndex, ...]:
        """The indexes that somebody created: all but those that the server creates itself."""
        series = self.options.get("timeseries") or {}
        automatic = [(series.get(name), 1) for name in ("metaField", "timeField")]
        return tuple(
            each
            for each in self.indexes
            if not is_id(each.spec) and list(each.spec["key"].items()) != automatic
        )


@dataclass(frozen=True, slots=True)
class IndexUse:
    """The size of an index in bytes, and how often it was used since when; None for what could not be read."""

    size: int | None = None
    accesses: int | None = None
    since: datetime | None = None


Usage = Mapping[tuple[str, str | None], IndexUse]
"""The use of indexes, by the names of collection and index."""


class Scanned(NamedTuple):
    """How many documents the build of an index has scanned, and of how many."""

    done: int
    total: int


class SchemaReader:
    """Reads the schema of a database; `skip` names collections that are left out, as the server's own are.

    What the server refuses once is not asked again.
    """

    def __init__(self, database: Database[Document], skip: Names[str] = ()) -> None:
        self._database = database.with_options(_AWARE, ReadPreference.PRIMARY)
        self._skip = skip
        self._asks_for_builds = self._asks_for_search = True
        self.left_out = set[str]()
        """Which of the collections to skip `read` has found."""
        self._pipelines = [_sizes_and_use, _sizes]

    def read(self) -> tuple[LiveCollection, ...]:
        """Read all collections: one command, and one more for each, or two if the server has search indexes.

        Without search indexes, one of them is refused. On a sharded cluster, it is one more. Raises SchemaAccessError.
        """
        keys: dict[str, Document] = {}
        with translated():
            with _refusals_explained("listCollections", self._database.name):
                found = {each["name"]: each for each in self._send({"listCollections": 1})}
            # A comparison does not need them.
            with contextlib.suppress(ShardKeyAccessError):
                keys = shard_keys(self._database)
            return tuple(self._collections((found[name] for name in sorted(found)), keys))

    def _collections(
        self, infos: Iterable[DocumentView], keys: Mapping[str, Document]
    ) -> Iterator[LiveCollection]:
        for info in infos:
            name, kind = info["name"], info["type"]
            if name in self._skip:
                self.left_out.add(name)
            if name in self._skip or name.startswith(_SYSTEM):
                continue
            indexes: tuple[LiveIndex, ...] = ()
            try:
                if kind != "view":
                    indexes = self.indexes(name)
            except OperationFailure as exc:
                if code_of(exc) in _GONE:
                    continue
                raise
            options = dict(info.get("options", {}))
            key = keys.get(name, {})
            # A time series cannot have any, and on a view MongoDB before 8.1 refuses the question.
            search = self.search_indexes(name) if kind == "collection" else None
            yield LiveCollection(name, kind, options, indexes, key, search)

    def indexes(self, name: str) -> tuple[LiveIndex, ...]:
        """Read the indexes of a collection. Raises SchemaAccessError, and errors of the driver."""
        # Without this option, an index that is being built looks as if it existed.
        options = {"includeBuildUUIDs": True} if self._asks_for_builds else {}
        with _refusals_explained("listIndexes", f"{self._database.name}.{name}"):
            try:
                found = self._send({"listIndexes": name, **options})
            except OperationFailure as exc:
                if not options or code_of(exc) not in _UNKNOWN_OPTION:
                    raise
                self._asks_for_builds = False
                return self.indexes(name)
        return tuple(map(LiveIndex.of, found))

    def search_indexes(self, name: str) -> tuple[LiveSearchIndex, ...] | None:
        """Read the search indexes of a collection; None if the server has none. Raises as `indexes` does."""
        if not self._asks_for_search:
            return None
        with _refusals_explained("$listSearchIndexes", f"{self._database.name}.{name}"):
            try:
                # Unlike an aggregation, it sends no read concern, which the stage may refuse.
                found = list(self._database[name].list_search_indexes())
            except OperationFailure as exc:
                if code_of(exc) not in NO_SEARCH:
                    raise
                self._asks_for_search = False
                return None
        return tuple(map(LiveSearchIndex.of, found))

    def _send(self, command: Document) -> list[Document]:
        # Not by `list_collections()` and `list_indexes()`, which convert dates.
        return list(self._database.cursor_command(command, codec_options=_EXACT))

    def scanned(self, name: str) -> Scanned | None:
        """Read how far the build of an index is; None if the collection has none or several, or the server does not say.

        That needs the role clusterMonitor: the operation of a build belongs to no user, so only who sees all operations
        sees it. Raises errors of the driver.
        """
        pipeline: list[Document] = [
            {"$currentOp": {"allUsers": True}},
            {
                "$match": {
                    "$or": [
                        {"ns": f"{self._database.name}.{name}"},
                        {
                            "command.createIndexes": name,
                            "command.$db": self._database.name,
                        },
                    ],
                    "progress.total": {"$gt": 0},
                }
            },
            {"$project": {"progress": 1}},
        ]
        found = [each["progress"] for each in self._database.client.admin.aggregate(pipeline)]
        return Scanned(found[0]["done"], found[0]["total"]) if len(found) == 1 else None

    def builds(self, live: Iterable[LiveCollection]) -> Mapping[str, Scanned]:
        """Read how far the builds of indexes are, by the name of the collection, as far as the server says."""
        building = [each.name for each in live if any(index.building for index in each.indexes)]
        with translated():
            try:
                found = {name: self.scanned(name) for name in building}
            except OperationFailure as exc:
                if exc.timeout or is_passing(exc):
                    raise
                return {}
        return {name: scanned for name, scanned in found.items() if scanned}

    def usage(self, collections: Iterable[str]) -> Usage:
        """Read the sizes and the use of the indexes of collections, where permitted: one command for each.

        `$indexStats` needs the role clusterMonitor, and some servers lack these stages.
        """
        found: dict[tuple[str, str | None], IndexUse] = {}
        with translated():
            for name in collections:
                use = _use_in(self._statistics(name))
                found.update({(name, index): each for index, each in use.items()})
        return found

    def _statistics(self, name: str) -> list[Document]:
        collection = self._database[name]
        while self._pipelines:
            try:
                return list(collection.aggregate(self._pipelines[0](name)))
            except OperationFailure as exc:
                if code_of(exc) in _GONE:
                    break
                if exc.timeout or is_passing(exc):
                    raise
                self._pipelines.pop(0)
        return []


def shard_keys(database: Database[Document]) -> dict[str, Document]:
    """Read the shard keys by the names of the collections: one command on a sharded cluster. Raises ShardKeyAccessError."""
    if database.client.topology_description.topology_type_name not in _SHARDED:
        return {}
    prefix = f"{database.name}."
    # From MongoDB 8.0 on, it lists also collections that are not sharded.
    own = {"_id": {"$regex": f"^{re.escape(prefix)}"}, "unsplittable": {"$ne": True}}
    try:
        found = database.client["config"]["collections"].find(own, {"key": 1})
        return {each["_id"].removeprefix(prefix): each["key"] for each in found}
    except OperationFailure as exc:
        if not is_access_refused(exc):
            raise
        raise ShardKeyAccessError from exc


@contextlib.contextmanager
def _refusals_explained(command: str, namespace: str) -> Iterator[None]:
    try:
        yield
    except OperationFailure as exc:
        if not is_access_refused(exc):
            raise
        raise SchemaAccessError(command, namespace) from exc


def _sizes(_: str) -> list[Document]:
    return [{"$collStats": {"storageStats": {}}}]


def _sizes_and_use(name: str) -> list[Document]:
    # Each of the two stages has to be the first one.
    return [*_sizes(name), {"$unionWith": {"coll": name, "pipeline": [{"$indexStats": {}}]}}]


def _use_in(rows: Sequence[DocumentView]) -> dict[str, IndexUse]:
    """Add up the rows: one with all sizes for each shard, then one for each index of each shard."""
    found: dict[str, IndexUse] = {}
    for row in rows:
        for name, size in row.get("storageStats", {}).get("indexSizes", {}).items():
            found[name] = IndexUse((found.get(name, IndexUse()).size or 0) + size)
    for row in rows:
        if "accesses" in row:
            before, seen = found.get(row["name"], IndexUse()), row["accesses"]
            starts = [each for each in (before.since, seen.get("since")) if each]
            count = (before.accesses or 0) + seen["ops"]
            found[row["name"]] = IndexUse(before.size, count, min(starts, default=None))
    return found
