"""Commands as they are sent to a server, and the collections that they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .server import DocumentView

BY_FULL_NAME = frozenset({"bulkWrite", "renameCollection"})
"""Sent to `admin`, whichever databases they name."""

_NAMING = {"$lookup": "from", "$graphLookup": "from", "$unionWith": "coll"}
"""The stages that read another collection, and the field that names it."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command as it is sent to the server."""

    database: str
    document: DocumentView

    @property
    def name(self) -> str:
        """The operation."""
        return next(iter(self.document))

    @property
    def collection(self) -> str | None:
        """The collection that it names; None if it names none."""
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
    """List the collections, each with its database, that a command reads or writes."""
    if command.name == "bulkWrite":
        return {str(info["ns"]) for info in command.document.get("nsInfo", ())}
    if command.name == "renameCollection":
        return {str(command.document["renameCollection"]), str(command.document.get("to"))}
    own = {command.namespace} if command.collection else set()
    read = read_by(command.pipeline, command.database)
    return own.union(read, written_by(command.pipeline, command.database))


def written_by(pipeline: object, database: str) -> Iterator[str]:
    """Yield the collections that a pipeline writes, which only its outermost stages can do."""
    for stage in pipeline if isinstance(pipeline, list | tuple) else ():
        if "$out" in stage:
            yield _full_name(stage["$out"], database)
        if "$merge" in stage:
            merge = stage["$merge"]
            yield _full_name(merge["into"] if isinstance(merge, Mapping) else merge, database)


def read_by(part: object, database: str) -> Iterator[str]:
    """Yield the other collections that the stages of a pipeline read, at any depth."""
    if isinstance(part, list | tuple):
        for each in part:
            yield from read_by(each, database)
    elif isinstance(part, Mapping):
        for name, value in part.items():
            if key := _NAMING.get(name):
                target = value.get(key) if isinstance(value, Mapping) else value
                if target is not None:
                    yield _full_name(target, database)
            yield from read_by(value, database)


def _full_name(target: object, database: str) -> str:
    if isinstance(target, Mapping):
        return f"{target.get('db', database)}.{target.get('coll')}"
    return f"{database}.{target}"
