"""Writes migrations for what differs between an application's declared schema and its database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flask_migrate_mongo.database import connected_server
from flask_migrate_mongo.driver.server import Server, translated
from flask_migrate_mongo.files.parsing import describe
from flask_migrate_mongo.files.scaffold import Content, clean
from flask_migrate_mongo.schema.counting import count
from flask_migrate_mongo.schema.generating import Draft, Known, generate
from flask_migrate_mongo.schema.live import SchemaReader, shard_keys
from flask_migrate_mongo.state import AppState

from .comparing import schema_diff
from .creating import scaffold

_ANY = "any"
"""A collection that need not exist."""


@dataclass(frozen=True, slots=True)
class Generated:
    """The files that were written, in their order, and how many questions they ask."""

    paths: tuple[Path, ...]
    questions: int


def create_from_schema(state: AppState, name: str) -> Generated:
    """Write the migrations that make the database as declared. Nothing is written if nothing has to be done."""
    name, server = clean(name), connected_server(state)
    # Without them, it might hide or drop an index that a shard key needs.
    with translated():
        shard_keys(server.database)
    diff = schema_diff(state, with_usage=False).diff
    counts = count(diff, server.database, server.now())
    known = Known(server.wire_version, counts, _has_search(server))
    drafts = generate(diff, name, known)
    if not drafts:
        return Generated((), 0)
    paths = scaffold(state).add_all([(each.name, _content(each)) for each in drafts])
    return Generated(paths, sum(each.questions for each in drafts))


def _has_search(server: Server) -> bool:
    with translated():
        return SchemaReader(server.database).search_indexes(_ANY) is not None


def _content(draft: Draft) -> Content:
    def content(path: Path, _version: int) -> bytes:
        encoded = draft.source.encode()
        describe(path, encoded)
        return encoded

    return content
