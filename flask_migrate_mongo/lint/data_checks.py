"""Checks of changes to the data: down(), deleted data, memory, loops and indexes."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from flask_migrate_mongo.model.values import Direction

from .checking import (
    STORES,
    Hit,
    called,
    change_of,
    collection_name,
    creates,
    hit,
    is_new,
    targets,
)
from .evaluation import cursor_of
from .facts import INDEX_BUILDS, OTHER, SINGLE_WRITES, Kind, Value, words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .checking import Hits, ParsedMigration
    from .facts import CodeCall

_LOGGING = r"(print|(ctx\.)?(log|logger|logging)\.\w+)$"
_COLLECTING = words("dict frozenset list set sorted tuple collections.deque")

# --- rolling back


def missing_down(migration: ParsedMigration) -> Hits:
    """Find that there is no down()."""
    if not migration.file.reversible:
        message = (
            "There is no down(), so `flask db-migrate down` refuses to roll back this migration."
        )
        yield Hit(migration.definition("up"), message, "up")


def empty_down(migration: ParsedMigration) -> Hits:
    """Find a down() that does nothing, or only raises."""
    node = migration.definition("down")
    if node is None:
        return
    *start, last = node.body
    if all(map(_is_idle, node.body)):
        message = "down() does nothing, but then the migration is recorded as rolled back."
        yield Hit(node, message, "down")
    elif isinstance(last, ast.Raise) and all(map(_is_idle, start)):
        message = "down() only raises an error, but `status` shows the migration as reversible."
        yield Hit(node, message, "down")


def _is_idle(node: ast.stmt) -> bool:
    if isinstance(node, ast.Return):
        return node.value is None or isinstance(node.value, ast.Constant)
    if not isinstance(node, ast.Expr):
        return isinstance(node, ast.Pass)
    if isinstance(node.value, ast.Call):
        return re.match(_LOGGING, ast.unparse(node.value.func)) is not None
    return isinstance(node.value, ast.Constant)


# --- deleted data


def lost_data(migration: ParsedMigration) -> Hits:
    """Find collections and fields that are deleted without a copy."""
    for call in migration.facts.up:
        drops = call.method in {"drop", "drop_collection", "drop_database"}
        if drops and call.receiver.kind in STORES and not _has_copy(call, migration):
            yield hit(call, f"{called(call)} deletes data, and nothing keeps a copy.")
        for field in sorted(_lost_fields(call, migration)):
            yield hit(call, f"`$unset` deletes `{field}`, and nothing keeps its values.")


def _has_copy(call: CodeCall, migration: ParsedMigration) -> bool:
    """Whether the migration copied or created the dropped collection, or down() restores it."""
    names = call.receiver.names
    if call.method != "drop":
        which = call.argument(0, "name_or_collection")
        names = which.names | which.texts() if which else frozenset()
    earlier = migration.before(call)
    copied = any(targets(c) and not c.receiver.names.isdisjoint(names) for c in earlier)
    return copied or any(_fills(c, names) for c in (*earlier, *migration.facts.down))


def _fills(call: CodeCall, names: frozenset[str]) -> bool:
    """Whether a call creates one of these collections, or writes documents to it."""
    inserts = call.method in {"insert_one", "insert_many", "bulk_write"}
    renamed = call.argument(0, "new_name") if call.method == "rename" else None
    is_target = renamed is not None and renamed.constant in names
    on_it = inserts and not call.receiver.names.isdisjoint(names)
    return on_it or is_target or creates(call, names)


def _lost_fields(call: CodeCall, migration: ParsedMigration) -> frozenset[str]:
    """Collect the fields that a call unsets, and that nothing reads before or restores."""
    change = change_of(call)
    entries = change.entries() if change else ()
    unset = frozenset(f for key, body in entries if key == "$unset" for f in _unset_fields(body))
    if not unset:
        return unset
    condition = call.keywords.get("where") if call.is_backfill else call.argument(0, "filter")
    # `{"flag": ""}` in the filter says which value the field had.
    known = {f for f, v in condition.items() if v.kind is Kind.CONSTANT} if condition else set()
    until = (*migration.before(call), call)
    read = {field for c in until for v in c.given for field in _fields_read(v)}
    restored = {text for c in migration.facts.down for v in c.given for text in v.texts()}
    return unset - known - read - restored


def _unset_fields(body: Value) -> frozenset[str]:
    """Collect the fields that `$unset` names, as an operator or as a stage."""
    if body.kind is Kind.MAPPING:
        return frozenset(key for key, _ in body.items())
    return frozenset(text.lstrip("$") for text in body.texts())


def _fields_read(value: Value) -> Iterator[str]:
    """Yield the fields that expressions read (`"$field"`) and that `$rename` moves."""
    for text in value.texts():
        if text.startswith("$"):
            yield from (text[1:], text[1:].partition(".")[0])
    for key, body in value.entries():
        if key == "$rename":
            yield from (field for field, _ in body.items())


# --- many documents


def unfiltered(migration: ParsedMigration) -> Hits:
    """Find statements that change or delete every document."""
    for call in migration.calls:
        many = call.on(Kind.COLLECTION) and call.method in {"update_many", "delete_many"}
        is_model = call.last_name in {"UpdateMany", "DeleteMany"}
        condition = call.argument(0, "filter") or OTHER
        is_empty = condition.kind is Kind.MAPPING and not condition.parts
        if (many or is_model) and is_empty and not call.place.backfill:
            name = called(call) if many else f"`{call.last_name}`"
            yield hit(call, f"{name} has no filter, so one statement changes every document.")


def all_in_memory(migration: ParsedMigration) -> Hits:
    """Find code that loads all documents of a `find` into memory."""
    for call in migration.calls:
        if cursor := _loaded_cursor(call):
            collection = cursor.parts[0]
            message = f"All documents that `find()` returns from {collection_name(collection)} are in memory at once."
            yield hit(call, message)._replace(collection=collection.label)


def _loaded_cursor(call: CodeCall) -> Value | None:
    """Find the cursor of a `find` without a limit whose documents a call collects."""
    first = call.args[0] if call.args else None
    if call.method == "to_list" and not call.given:
        first = call.receiver
    elif call.path not in _COLLECTING:
        return None
    if first is None or first.kind not in {Kind.CURSOR, Kind.OTHER}:
        return None
    cursor = cursor_of(first)
    return cursor if cursor and cursor.name == "find" and not cursor.constant else None


def writes_in_loop(migration: ParsedMigration) -> Hits:
    """Find loops over a `find` that write one document at a time."""
    for call in migration.calls:
        cursors = filter(None, map(cursor_of, call.place.loops))
        single = call.on(Kind.COLLECTION) and call.method in SINGLE_WRITES
        if single and any(cursor.name == "find" for cursor in cursors):
            message = f"{called(call)} in a loop over `find()` makes one round trip per document."
            yield hit(call, message)


# --- indexes


def _indexes(migration: ParsedMigration, option: str) -> Iterator[tuple[CodeCall, CodeCall]]:
    """Yield for each index with an option the call that builds it, and the call with keys and options."""
    models = {id(call.node): call for call in migration.calls if call.last_name == "IndexModel"}
    for call in migration.calls:
        if not call.on(Kind.COLLECTION) or call.method not in INDEX_BUILDS:
            continue
        parts = (part for value in call.given for part in value.walk())
        described = [models[id(part.node)] for part in parts if id(part.node) in models]
        for model in [call, *described]:
            if option in model.keywords:
                yield call, model


def unchecked_unique_index(migration: ParsedMigration) -> Hits:
    """Find unique indexes that are built without a check for duplicates."""
    for call, model in _indexes(migration, "unique"):
        fields = (model.argument(0, "keys") or OTHER).texts()
        earlier = migration.before(call)
        checked = any(_looks_at(c, fields, call.receiver) for c in earlier)
        if model.keywords["unique"].constant and not checked and not is_new(call, migration):
            listed = " and ".join(f"`{field}`" for field in sorted(fields)) or "the fields"
            collection = collection_name(call.receiver)
            yield hit(call, f"Duplicates of {listed} in {collection} make this index build fail.")


def _looks_at(call: CodeCall, fields: frozenset[str], collection: Value) -> bool:
    """Whether a call reads or changes one of these fields, maybe in this collection."""
    builds_or_inserts = call.method in INDEX_BUILDS | {"insert_one", "insert_many"}
    if builds_or_inserts or not call.on(Kind.COLLECTION):
        return False
    names, others = collection.names, call.receiver.names
    texts = {text.lstrip("$") for value in call.given for text in value.texts()}
    elsewhere = names and others and names.isdisjoint(others)
    return not elsewhere and not texts.isdisjoint(fields)


def ttl_index(migration: ParsedMigration) -> Hits:
    """Find TTL indexes that delete existing documents."""
    for call, _ in _indexes(migration, "expireAfterSeconds"):
        if call.place.direction is Direction.UP and not is_new(call, migration):
            collection = collection_name(call.receiver)
            yield hit(call, f"This index deletes all expired documents from {collection}.")
