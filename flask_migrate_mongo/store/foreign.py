"""The histories of other tools: how their documents look, and what these say. Nothing here writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from bson import ObjectId
from pymongo.collection import Collection

from flask_migrate_mongo.driver.server import Document, translated
from flask_migrate_mongo.model.errors import NotImportableError
from flask_migrate_mongo.model.values import Tool


class ForeignState(str, Enum):
    """What another tool says about a migration."""

    APPLIED = "applied"
    NOT_APPLIED = "not-applied"
    UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True)
class ForeignEntry:
    """One migration in another tool's history. `title` is its name for people, if the tool has one."""

    name: str
    applied_at: datetime | None = None
    state: ForeignState = ForeignState.APPLIED
    title: str = ""


@dataclass(frozen=True, slots=True)
class _Shape:
    """The documents of a tool: their default collection, and the fields of the name and of the time.

    `others` are further fields that every document has.
    """

    collection: str
    name: str
    applied_at: str = ""
    others: frozenset[str] = frozenset()

    def fits(self, document: Document) -> bool:
        fields = {self.name, *self.others, *filter(None, [self.applied_at])}
        # One field alone proves little: then the document has no other.
        return fields <= document.keys() and (len(fields) > 1 or len(document) == 1 + len(fields))


_SHAPES: Mapping[Tool | str, _Shape] = {
    Tool.MIGRATE_MONGO: _Shape("changelog", "fileName", "appliedAt"),
    Tool.PYMONGO_MIGRATE: _Shape("pymongo_migrate", "name", "applied"),
    Tool.MONGODB_MIGRATIONS: _Shape("database_migrations", "migration_datetime", "created_at"),
    Tool.MONGOMIG: _Shape(
        "__mongomig_migrations", "revision", "applied_at", frozenset({"down_revision", "status"})
    ),
    Tool.MONGRATE: _Shape("_migrations", "migration"),
    # Recognised, but not imported.
    "Laravel": _Shape("migrations", "migration", others=frozenset({"batch"})),
    "Umzug": _Shape("migrations", "migrationName"),
    "migrate-mongoose": _Shape("migrations", "name", "createdAt", frozenset({"state"})),
    "golang-migrate": _Shape("schema_migrations", "version", others=frozenset({"dirty"})),
}


def looks_like(document: Document) -> Tool | str | None:
    """Find the tool that writes documents like this one."""
    return next((tool for tool, shape in _SHAPES.items() if shape.fits(document)), None)


def default_collection(tool: Tool) -> str:
    """Get the collection that a tool uses unless it is configured."""
    return _SHAPES[tool].collection


def read_entries(collection: Collection[Document], tool: Tool) -> tuple[ForeignEntry, ...]:
    """Read what a tool has recorded, in the order in which it was written. Raises NotImportableError."""
    with translated():
        return tuple(_entry(document, tool, collection.name) for document in collection.find())


def _entry(document: Document, tool: Tool, collection: str) -> ForeignEntry:
    shape = _SHAPES[tool]
    name = document.get(shape.name)
    if not (shape.fits(document) and isinstance(name, str)):
        like = looks_like(document)
        found = f" It looks like one of {getattr(like, 'value', like)}." if like else ""
        msg = f"The collection {collection} holds a document that {tool.value} did not write: _id {document['_id']!r}.{found} Nothing was recorded."
        raise NotImportableError(
            msg, "Name the tool and its collection: [from=TOOL collection=NAME]."
        )
    key = document["_id"]
    # A tool that stores no time has that of its `_id`.
    written = key.generation_time if isinstance(key, ObjectId) else None
    applied_at = document[shape.applied_at] if shape.applied_at else written
    return ForeignEntry(
        name,
        applied_at if isinstance(applied_at, datetime) else None,
        _state(document, tool),
        str(document.get("description") or "") if tool is Tool.MONGOMIG else "",
    )


def _state(document: Document, tool: Tool) -> ForeignState:
    if tool is Tool.PYMONGO_MIGRATE and document["applied"] is None:
        # It keeps the documents of those that it rolled back.
        return ForeignState.NOT_APPLIED
    if tool is Tool.MONGOMIG and document["status"] != "applied":
        return ForeignState.UNFINISHED
    return ForeignState.APPLIED
