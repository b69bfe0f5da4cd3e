"""What a dry run answers to commands: predicted, or from what is committed; the rest is sent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from flask_migrate_mongo.driver import listener as wire

from .foreseen import refusal, view_refusal
from .indexing import Indexing
from .merging import Merging, raw, writes
from .shaping import Shaping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flask_migrate_mongo.driver.server import Document

    from .foreseen import Foreseen

_READS = frozenset({"find", "distinct", "getMore", "killCursors"})
_WRITES = frozenset({"insert", "update", "delete", "findAndModify", "findandmodify"})
_HARMLESS = frozenset(
    [
        "ping",
        "buildInfo",
        "buildinfo",
        "hello",
        "isMaster",
        "ismaster",
        "dbStats",
        "dbstats",
        "collStats",
        "collstats",
        "dataSize",
        "connectionStatus",
        "explain",
        "validate",
        "serverStatus",
        "getParameter",
        "hostInfo",
        "listCommands",
    ]
)
_OF_WHAT_IS_COMMITTED = frozenset(
    [
        "$collStats",
        "$indexStats",
        "$planCacheStats",
        "$listSearchIndexes",
        "$currentOp",
        "$listLocalSessions",
    ]
)
_AGGREGATE_OPTIONS = ("allowDiskUse", "collation", "hint", "let", "maxTimeMS")


class Answering:
    """Answers what a transaction would refuse, as the server would outside of one."""

    def __init__(self, foreseen: Foreseen) -> None:
        self.foreseen = foreseen
        self.indexing = Indexing(foreseen)
        self.merging = Merging(foreseen)
        self.shaping = Shaping(foreseen, self.indexing)
        self._predicted: dict[str, Callable[[Mapping[str, Any]], Document]] = {
            "create": self.shaping.create,
            "drop": self.shaping.drop,
            "collMod": self.shaping.modify,
            "createIndexes": self.indexing.create,
            "dropIndexes": self.indexing.drop,
            "deleteIndexes": lambda c: self.indexing.drop({"dropIndexes": c["deleteIndexes"], **c}),
            "renameCollection": self._rename_here,
            "listCollections": self._list_collections,
            "listIndexes": self._list_indexes,
            "count": self._count,
        }

    def answer(self, command: Mapping[str, Any]) -> Document | None:
        """Answer a command that is predicted; None for one that a transaction allows."""
        name = next(iter(command))
        if name in _READS or name in _WRITES:
            (self.check_write if name in _WRITES else self.check_read)(command[name])
            return None
        if name == "aggregate":
            return self._aggregate(command)
        if predict := self._predicted.get(name):
            return predict(command)
        if name in _HARMLESS:
            return wire.outside(lambda: self.foreseen.plain.command(dict(command)))
        raise self.foreseen.refuse(name, str(command[name]), "what it does is not known here")

    def check_read(self, name: object) -> None:
        """Raise NotRehearsableError when the server would not show what the real run would read."""
        if isinstance(name, str) and (why := self.foreseen.shape(name).misleading):
            raise self.foreseen.refuse("a read", name, why)

    def check_pipeline(self, name: object, pipeline: object) -> None:
        """Raise NotRehearsableError as for a read, of whatever a pipeline reads."""
        for source in (name, *_sources(pipeline)):
            self.check_read(source)

    def check_write(self, name: str) -> None:
        """Raise NotRehearsableError when no transaction can write there."""
        if why := self.foreseen.shape(name).unwritable:
            raise self.foreseen.refuse("a write", name, why)
        self.foreseen.written.add(name)

    def settle(self, written: Iterable[str]) -> None:
        """Predict which rules, predicted themselves, are broken by what was written, through whatever handle."""
        self.foreseen.written.update(written)
        for shape in self.foreseen.unchecked():
            self.indexing.broken(shape)
            self.shaping.broken(shape)
        self.foreseen.written.clear()

    def listing(self, query: Mapping[str, Any] | None) -> list[Document]:
        """Return what list_collections() would give by now."""
        overlay = self.foreseen.overlay()
        plain = self.foreseen.plain
        committed = wire.outside(lambda: list(plain.list_collections(filter=query or {})))
        kept = [dict(each) for each in committed if each["name"] not in overlay]
        made = [shape.listed for shape in overlay.values() if shape.exists]
        return [*kept, *(each for each in made if self._fits(each, query or {}))]

    def indexes(self, name: str) -> list[Document]:
        """Return what list_indexes() would give by now; raise as the server does for a view."""
        shape = self.foreseen.shape(name)
        if shape.type == "view":
            raise view_refusal(f"{self.foreseen.plain.name}.{name}")
        return [dict(index) for index in shape.indexes.values()] if shape.exists else []

    # --- the answers that need no room of their own

    def _rename_here(self, _: Mapping[str, Any]) -> NoReturn:
        raise refusal(13, "renameCollection may only be run against the admin database.")

    def _list_collections(self, command: Mapping[str, Any]) -> Document:
        found = self.listing(command.get("filter"))
        if command.get("nameOnly"):
            found = [{"name": each["name"], "type": each["type"]} for each in found]
        return self._cursor("$cmd.listCollections", found)

    def _list_indexes(self, command: Mapping[str, Any]) -> Document:
        name = command["listIndexes"]
        found = self.indexes(name)
        if not found:
            raise refusal(26, f"ns does not exist: {self.foreseen.plain.name}.{name}")
        return self._cursor(name, found)

    def _count(self, command: Mapping[str, Any]) -> Document:
        name = command["count"]
        self.check_read(name)
        options = {
            key: command[key] for key in ("skip", "limit", "hint", "collation") if command.get(key)
        }
        with wire.unheard():
            n = self.foreseen.collection(name).count_documents(
                command.get("query") or {}, **options
            )
        return {"n": n, "ok": 1.0}

    def _aggregate(self, command: Mapping[str, Any]) -> Document | None:
        pipeline, name = command["pipeline"], command["aggregate"]
        if command.get("explain") or of_what_is_committed(pipeline):
            return wire.outside(lambda: self.foreseen.plain.command(dict(command)))
        self.check_pipeline(name, pipeline)
        if not writes(pipeline):
            return None
        options = {key: command[key] for key in _AGGREGATE_OPTIONS if key in command}
        self.write_results(name if isinstance(name, str) else None, pipeline, options)
        return self._cursor(str(name), [])

    def write_results(
        self, name: str | None, pipeline: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> None:
        """Do what a pipeline does that ends with `$out` or `$merge`."""
        plain = raw(self.foreseen.plain)
        source = plain[name] if name else plain
        self.merging.run(pipeline, lambda: source.aggregate(list(pipeline[:-1]), **options))

    def _cursor(self, name: str, documents: Sequence[Document]) -> Document:
        batch = {"id": 0, "ns": f"{self.foreseen.plain.name}.{name}", "firstBatch": documents}
        return {"cursor": batch, "ok": 1.0}

    def _fits(self, listed: Mapping[str, Any], query: Mapping[str, Any]) -> bool:
        return all(self._matches(_at(listed, path), path, wanted) for path, wanted in query.items())

    def _matches(self, value: Any, path: str, wanted: Any) -> bool:  # noqa: ANN401
        if isinstance(wanted, re.Pattern):
            return isinstance(value, str) and bool(wanted.search(value))
        tests = wanted if isinstance(wanted, Mapping) and wanted else {"$eq": wanted}
        if path.startswith("$") or not set(tests) <= set(_TESTS):
            raise self.foreseen.refuse("listCollections", "", "its filter is not understood here")
        return all(_TESTS[name](value, against) for name, against in tests.items())


_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda value, wanted: value == wanted,
    "$ne": lambda value, wanted: value != wanted,
    "$in": lambda value, wanted: value in wanted,
    "$nin": lambda value, wanted: value not in wanted,
    "$exists": lambda value, wanted: (value is not None) == bool(wanted),
    "$regex": lambda value, wanted: isinstance(value, str) and bool(re.search(wanted, value)),
}


def _sources(pipeline: object) -> Iterator[str]:
    """Return the other collections that a pipeline reads."""
    if isinstance(pipeline, list):
        for stage in pipeline:
            yield from _sources(stage)
    elif isinstance(pipeline, Mapping):
        for name, value in pipeline.items():
            given = value if isinstance(value, Mapping) else {"coll": value}
            key = {"$lookup": "from", "$graphLookup": "from", "$unionWith": "coll"}.get(name)
            if key and isinstance(found := given.get(key), str):
                yield found
            yield from _sources(value)


def of_what_is_committed(pipeline: object) -> bool:
    """Whether a pipeline reads what a transaction does not have, such as the statistics of a collection."""
    return (
        isinstance(pipeline, list)
        and bool(pipeline)
        and next(iter(pipeline[0]), None) in _OF_WHAT_IS_COMMITTED
    )


def _at(document: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401
    found: Any = document
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
