"""Makes what compares an application's declared schema with its database."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

from werkzeug.utils import import_string

from flask_migrate_mongo.database import connected_server
from flask_migrate_mongo.driver.server import DocumentView, Server
from flask_migrate_mongo.files.writing import overwrite
from flask_migrate_mongo.model.errors import (
    BadSchemaError,
    ConfigurationError,
    InvalidRequestError,
    NoSchemaError,
    OutputError,
    OutputExistsError,
    message_of,
)
from flask_migrate_mongo.schema.comparison import DifferenceKind, SchemaDiff, compare
from flask_migrate_mongo.schema.declared import Collection
from flask_migrate_mongo.schema.dumping import dump
from flask_migrate_mongo.schema.inventory import inventory
from flask_migrate_mongo.schema.live import SchemaReader
from flask_migrate_mongo.schema.report import SchemaReport, fingerprints
from flask_migrate_mongo.state import AppState
from flask_migrate_mongo.store.history import MigrationHistory

from .looking import own_collections


def declared_collections(state: AppState) -> tuple[Collection, ...]:
    """Import the declared collections. Raises NoSchemaError or BadSchemaError."""
    path = state.settings.schema
    if path is None:
        msg = "MIGRATE_SCHEMA is not set, so nothing was compared."
        raise NoSchemaError(msg)
    try:
        found = import_string(path)
        collections = tuple(found() if callable(found) else found)
    except Exception as exc:  # The application's code may raise anything.
        raise BadSchemaError(path, f"{type(exc).__name__}: {message_of(exc)}") from exc
    if not collections:
        msg = f"MIGRATE_SCHEMA is {path}, and it declares no collection, so nothing was compared."
        raise NoSchemaError(msg)
    for each in collections:
        if not isinstance(each, Collection):
            raise BadSchemaError(path, f"it holds {each!r}, which is no Collection")
    [(name, count)] = Counter(each.name for each in collections).most_common(1)
    if count > 1:
        raise BadSchemaError(path, f"it declares {name} {count} times")
    return collections


def schema_diff(
    state: AppState,
    *,
    strict: bool = False,
    new_only: DocumentView | None = None,
    with_usage: bool = True,
) -> SchemaReport:
    """Compare the declared collections with the live ones. What the document `new_only` has too does not count.

    With `with_usage`, the size and the use of indexes that nobody declared are read, too.
    """
    saved = frozenset[str]() if new_only is None else fingerprints(new_only)
    declared = declared_collections(state)
    server = connected_server(state)
    reader = _reader(state, server, declared)
    found = compare(declared, reader.read())
    if with_usage:
        found = found.with_usage(reader.usage(dict.fromkeys(_undeclared(found))))
    found = _with_dropped(state, server, reader, found)
    return SchemaReport(found, strict, saved, database=server.location)


def _undeclared(found: SchemaDiff) -> list[str]:
    """List the collections with indexes that nobody declared."""
    kind = DifferenceKind.UNDECLARED_INDEX
    return [each.collection for each in found.notes if each.kind is kind]


def _with_dropped(
    state: AppState, server: Server, reader: SchemaReader, found: SchemaDiff
) -> SchemaDiff:
    """Add how migrations dropped undeclared indexes, if there are any and there is a history."""
    if not _undeclared(found) or state.settings.collection not in reader.left_out:
        return found
    return found.with_dropped(MigrationHistory(server, state.settings.collection).dropped_indexes())


def schema_inventory(state: AppState) -> SchemaReport:
    """Compare as `schema_diff` does, and list every collection and index with its size and its use."""
    declared, server = declared_collections(state), connected_server(state)
    reader = _reader(state, server, declared)
    live = reader.read()
    usage = reader.usage(each.name for each in live if each.kind == "collection")
    found = _with_dropped(state, server, reader, compare(declared, live).with_usage(usage))
    listed = inventory(declared, live, found, usage, reader.builds(live))
    return SchemaReport(found, inventory=listed, database=server.location)


def save_diff(found: SchemaReport, path: Path) -> None:
    """Write a report for `new_only`, without the use of indexes, so that the file changes only if the schema does.

    Raises OutputExistsError if the file is there and no saved diff, and OutputError.
    """
    document = replace(found, diff=found.diff.with_usage({})).to_dict()
    try:
        if path.exists():
            # A device or a pipe is not replaced, and not read.
            fingerprints(json.loads(path.read_text("utf-8")) if path.is_file() else {})
        overwrite(path, f"{json.dumps(document, indent=2)}\n".encode())
    except (ValueError, InvalidRequestError):
        raise OutputExistsError(path) from None
    except OSError as exc:
        raise OutputError(exc) from exc


def dumped_schema(state: AppState) -> str:
    """Write the live collections as a module that declares them."""
    server = connected_server(state)
    found = _reader(state, server).read()
    return dump(found, f"The collections of the database {server.database.name}.")


def _reader(state: AppState, server: Server, declared: tuple[Collection, ...] = ()) -> SchemaReader:
    """Make a reader that leaves out our own collections, unless they are declared."""
    if not server.sends_commands:
        msg = "mongomock keeps neither the options of collections nor all those of indexes, so nothing was read."
        raise ConfigurationError(msg, "Set MONGO_URI to a MongoDB server.")
    ours = own_collections(server, state.settings)
    return SchemaReader(server.database, ours - {each.name for each in declared})
