"""Commands as they go to a server, and which collections they are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

BY_FULL_NAME = frozenset({"bulkWrite", "renameCollection"})
"""Sent to `admin`, whatever database they are about."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command as it goes to the server."""

    database: str
    document: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What is to be done."""
        return next(iter(self.document))

    @property
    def collection(self) -> str | None:
        """The collection it names, if it names one."""
        key = "collection" if self.name == "getMore" else self.name
        found = self.document.get(key)
        return found if isinstance(found, str) else None

    @property
    def namespace(self) -> str:
        """The database and the collection that it names."""
        return f"{self.database}.{self.collection}"

    @property
    def session_id(self) -> object:
        """The id of the session that it belongs to."""
        return (self.document.get("lsid") or {}).get("id")

    @property
    def pipeline(self) -> object:
        """The stages of an aggregation."""
        return self.document.get("pipeline")


def namespaces(command: Command) -> set[str]:
    """Return the collections, each with its database, that a command reads or writes."""
    if command.name == "bulkWrite":
        return {str(info["ns"]) for info in command.document.get("nsInfo", ())}
    if command.name == "renameCollection":
        return {str(command.document["renameCollection"]), str(command.document.get("to"))}
    own = {command.namespace} if command.collection else set()
    read = read_by(command.pipeline, command.database)
    return own.union(read, written_by(command.pipeline, command.database))


def written_by(pipeline: object, database: str) -> Iterator[str]:
    """Yield what a pipeline writes to: only its own stages can, none of those within them."""
    for stage in pipeline if isinstance(pipeline, list | tuple) else ():
        if "$out" in stage:
            yield _full(stage["$out"], database)
        if "$merge" in stage:
            merge = stage["$merge"]
            yield _full(merge["into"] if isinstance(merge, Mapping) else merge, database)


def read_by(part: object, database: str) -> Iterator[str]:
    """Yield what the stages of a pipeline read besides, at any depth."""
    if isinstance(part, list | tuple):
        for each in part:
            yield from read_by(each, database)
    elif isinstance(part, Mapping):
        for name, value in part.items():
            if name in _NAMING:
                yield from _named(value, _NAMING[name], database)
            yield from read_by(value, database)


_NAMING = {"$lookup": "from", "$graphLookup": "from", "$unionWith": "coll"}


def _named(given: object, key: str, database: str) -> Iterator[str]:
    found = given.get(key) if isinstance(given, Mapping) else given
    if found is not None:
        yield _full(found, database)


def _full(target: object, database: str) -> str:
    if isinstance(target, Mapping):
        return f"{target.get('db', database)}.{target.get('coll')}"
    return f"{database}.{target}"
