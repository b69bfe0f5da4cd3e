"""What rules look for in the way that a migration changes the data."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from flask_migrate_mongo.model.values import Direction

from .calls import (
    INDEX,
    SINGLE,
    STORES,
    Hit,
    before,
    called,
    change_of,
    changes,
    condition_of,
    entries,
    hit,
    is_new,
    last_name,
    makes,
    place_of,
    same_collection,
    targets,
)
from .facts import is_backfill
from .values import Kind, Value, cursor_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .calls import Hits, Migration
    from .facts import Call, Handler

# --- the way back


def no_down(migration: Migration) -> Hits:
    """Find that there is no down()."""
    if not migration.file.reversible:
        yield Hit(
            migration.definition("up"),
            "There is no down(), so `flask db-migrate down` refuses to undo this migration.",
            "up",
        )


def idle_down(migration: Migration) -> Hits:
    """Find a down() that does nothing, or nothing but raise."""
    node = migration.definition("down")
    if not isinstance(node, ast.FunctionDef):
        return
    if all(map(_is_idle, node.body)):
        what = "down() does nothing, yet the migration then counts as rolled back."
        yield Hit(node, what, "down")
    elif isinstance(node.body[-1], ast.Raise) and all(map(_is_idle, node.body[:-1])):
        what = "down() only raises, yet the migration is shown as reversible."
        yield Hit(node, what, "down")


def _is_idle(node: ast.stmt) -> bool:
    if isinstance(node, ast.Return):
        return node.value is None or isinstance(node.value, ast.Constant)
    if not isinstance(node, ast.Expr):
        return isinstance(node, ast.Pass)
    return isinstance(node.value, ast.Constant) or _is_note(node.value)


def _is_note(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and re.match(_NOTES, ast.unparse(node.func)) is not None


_NOTES = r"(print|(ctx\.)?(log|logger|logging)\.\w+)$"


def lost_data(migration: Migration) -> Hits:
    """Find a collection or a field that is removed while nothing keeps what was in it."""
    for call in migration.calls(Direction.UP):
        drops = call.receiver.kind in STORES and call.method in _DROPS
        if drops and not _has_copy(call, migration):
            yield hit(call, f"{called(call)} deletes data, and nothing keeps a copy of it.")
        for field in sorted(_unset_for_good(call, migration)):
            what = f"`$unset` deletes `{field}`, and nothing keeps what was in it."
            yield hit(call, what)


_DROPS = frozenset({"drop", "drop_collection", "drop_database"})


def _dropped(call: Call) -> frozenset[str]:
    if call.method == "drop":
        return call.receiver.names
    which = call.argument(0, "name_or_collection")
    return (which.names | which.texts()) if which else frozenset()


def _has_copy(call: Call, migration: Migration) -> bool:
    """Whether what a drop deletes was copied before, was made here, or is put back by down()."""
    names = _dropped(call)
    earlier = before(call, migration)
    copied = any(targets(c) and not c.receiver.names.isdisjoint(names) for c in earlier)
    written = any(_fills(c, names) for c in (*earlier, *migration.calls(Direction.DOWN)))
    return copied or written


def _fills(call: Call, names: frozenset[str]) -> bool:
    """Whether it puts documents into one of these collections, or makes it."""
    inserts = call.method in {"insert_one", "insert_many", "bulk_write"}
    renamed = call.argument(0, "new_name") if call.method == "rename" else None
    names_it = renamed is not None and renamed.constant in names
    on_it = inserts and not call.receiver.names.isdisjoint(names)
    return on_it or names_it or makes(call, names)


def _unset_for_good(call: Call, migration: Migration) -> frozenset[str]:
    """Return the fields that a call unsets and that nothing keeps or puts back."""
    change, condition = change_of(call), condition_of(call)
    if change is None:
        return frozenset()
    fields = {f for key, body in entries(change) if key == "$unset" for f in _fields(body)}
    pinned = {f for f, v in condition.items() if v.kind is Kind.CONSTANT} if condition else set()
    until = (*before(call, migration), call)
    read = {text for c in until for v in c.given for text in _expressions(v)}
    back = {t for c in migration.calls(Direction.DOWN) for v in c.given for t in v.texts()}
    return frozenset(f for f in fields if f not in pinned | back and f"${f}" not in read)


def _fields(body: Value) -> frozenset[str]:
    """Return the fields that `$unset` names, as a stage or as an operator."""
    if body.kind is Kind.MAPPING:
        return frozenset(key for key, _ in body.items())
    return frozenset(text.lstrip("$") for text in body.texts())


def _expressions(value: Value) -> Iterator[str]:
    """Yield the fields that expressions read, as `$field`, with those that `$rename` moves."""
    for text in value.texts():
        if text.startswith("$"):
            yield text.partition(".")[0]
            yield text
    for key, body in entries(value):
        if key == "$rename":
            yield from (f"${field}" for field, _ in body.items())


# --- how much at once


def _find(call: Call) -> Value | None:
    """Return the cursor of a `find` without a limit that the call gathers."""
    first = call.args[0] if call.args else None
    if call.method == "to_list" and not call.given:
        first = call.receiver
    elif call.path not in _GATHER or first is None or first.kind not in {Kind.CURSOR, Kind.OTHER}:
        return None
    cursor = cursor_of(first) if first else None
    return cursor if cursor and cursor.name == "find" and not cursor.constant else None


_GATHER = frozenset({"dict", "frozenset", "list", "set", "sorted", "tuple", "collections.deque"})


def unfiltered(migration: Migration) -> Hits:
    """Find statements that change or delete every document."""
    for call in migration.calls():
        many = call.on(Kind.COLLECTION) and call.method in {"update_many", "delete_many"}
        condition = call.argument(0, "filter")
        if not many and last_name(call) not in {"UpdateMany", "DeleteMany"}:
            continue
        if condition is None or condition.kind is not Kind.MAPPING or condition.parts:
            continue
        if not call.place.backfill:
            name = called(call) if many else f"`{last_name(call)}`"
            yield hit(call, f"{name} has no filter, so one statement goes over every document.")


def gathered(migration: Migration) -> Hits:
    """Find what has all documents of a `find` in memory at once."""
    for call in migration.calls():
        if cursor := _find(call):
            label = cursor.parts[0].label
            what = (
                f"All that `find()` returns from {label or 'the collection'} is in memory at once."
            )
            yield hit(call, what)._replace(collection=label)


def one_by_one(migration: Migration) -> Hits:
    """Find loops over a `find` that write one document at a time."""
    for call in migration.calls():
        cursors = filter(None, map(cursor_of, call.place.loops))
        single = call.on(Kind.COLLECTION) and call.method in SINGLE
        if single and any(cursor.name == "find" for cursor in cursors):
            what = f"{called(call)} in a loop over `find()` makes one round trip for each document."
            yield hit(call, what)


# --- transactions

_OUTSIDE = frozenset(
    {
        "drop",
        "drop_collection",
        "drop_database",
        "drop_index",
        "drop_indexes",
        "estimated_document_count",
        "index_information",
        "list_collection_names",
        "list_collections",
        "list_indexes",
        "options",
        "rename",
        "validate_collection",
        "watch",
        *INDEX,
    }
)
_OUTSIDE_COMMANDS = frozenset(
    {
        "collMod",
        "compact",
        "convertToCapped",
        "createIndexes",
        "drop",
        "dropDatabase",
        "dropIndexes",
        "listCollections",
        "listIndexes",
        "renameCollection",
        "validate",
    }
)


def not_in_transaction(migration: Migration) -> Hits:
    """Find in a transaction what the server refuses there."""
    for call in migration.calls() if migration.confined else ():
        if call.receiver.kind not in STORES:
            continue
        if call.method in _OUTSIDE and not (call.method in INDEX and is_new(call, migration)):
            yield hit(call, f"{called(call)} is refused in a transaction: the step will fail.")
        elif refused := _refused_inside(call):
            yield hit(call, f"`{refused}` is refused in a transaction: the step will fail.")


def _refused_inside(call: Call) -> str:
    """Return the command, or the stage of a pipeline, that a transaction does not take."""
    if call.method == "command" and call.args:
        first = call.args[0]
        name = next(iter(dict(first.items())), "") if first.kind is Kind.MAPPING else first.constant
        return str(name) if name in _OUTSIDE_COMMANDS else ""
    if call.method != "aggregate":
        return ""
    stages = {key for value in call.given for key, _ in entries(value)}
    return min(stages & {"$out", "$merge", "$collStats"}, default="")


def own_transaction(migration: Migration) -> Hits:
    """Find transactions that are opened by hand."""
    opens = {"start_transaction", "with_transaction"}
    for call in migration.calls():
        if call.on(Kind.SESSION) and call.method in opens:
            end = "is refused" if migration.confined else "does not contain the migration's record"
            yield hit(call, f"A transaction that is opened by hand {end}.")


def forgotten_session(migration: Migration) -> Hits:
    """Find statements that are not part of the transaction opened by hand around them."""
    for call in migration.calls():
        place = call.place
        outside = "session" not in call.keywords and call.complete and not place.bound
        if not (place.opened and outside) or call.method in _NO_COMMAND:
            continue
        if call.receiver.kind in {Kind.DATABASE, Kind.COLLECTION}:
            yield hit(call, f"{called(call)} has no `session=`, so it is not in the transaction.")


_NO_COMMAND = frozenset({"get_collection", "with_options"})


def backfill_in_transaction(migration: Migration) -> Hits:
    """Find backfills in a transaction."""
    for call in migration.calls() if migration.confined else ():
        if is_backfill(call.callee):
            yield hit(call, "`ctx.backfill()` is refused in a transactional migration.")


def caught_in_transaction(migration: Migration) -> Hits:
    """Find caught errors of writes in a transaction, which such an error ends."""
    for call in migration.calls() if migration.confined else ():
        for handler in call.place.handlers if changes(call) else ():
            if _catches(handler, _BROAD | _DRIVER_ERRORS) and not handler.raises:
                what = f"An error of {called(call)} is caught, but it has ended the transaction."
                yield hit(call, what, handler.node)


def _catches(handler: Handler, names: frozenset[str]) -> bool:
    return not handler.catches or not handler.catches.isdisjoint(names)


_BROAD = frozenset({"BaseException", "Exception", "PyMongoError"})
_DRIVER_ERRORS = frozenset(
    {
        "BulkWriteError",
        "ClientBulkWriteException",
        "CollectionInvalid",
        "DuplicateKeyError",
        "ExecutionTimeout",
        "OperationFailure",
        "WTimeoutError",
        "WriteConcernError",
        "WriteError",
    }
)


def own_write_concern(migration: Migration) -> Hits:
    """Find write concerns that break a transaction, or that acknowledge nothing."""
    for call in migration.calls():
        if last_name(call) == "WriteConcern" and (w := call.argument(0, "w")) and w.constant == 0:
            yield hit(call, "With `w=0` the server answers nothing, so that no error is noticed.")
        elif migration.confined and _configures(call):
            yield hit(call, "Inside a transaction, a write concern makes every write fail.")


def _configures(call: Call) -> bool:
    return call.receiver.kind in STORES and "write_concern" in call.keywords


def several_writes(migration: Migration) -> Hits:
    """Find that a crash between the writes of up() leaves only some of them."""
    if migration.file.safe_to_repeat:
        return
    calls = migration.calls(Direction.UP)
    writes = {id(call.node): call for call in calls if changes(call) and call.method not in INDEX}
    repeatable = {
        id(call.node) for call in calls if call.method in INDEX or is_backfill(call.callee)
    }
    looped = any(call.place.loops for call in writes.values())
    if writes and (looped or len(writes) + len(repeatable) > 1):
        what = (
            "A crash between the writes of up() leaves some of them done, and `up` runs all again."
        )
        yield Hit(migration.definition("up"), what, "up")


# --- indexes


def _indexes(migration: Migration, option: str) -> Iterator[tuple[Call, Call, Value]]:
    """Yield, of each index that has an option: the call that makes it, the one that describes it."""
    described = {
        id(call.node): call for call in migration.calls() if last_name(call) == "IndexModel"
    }
    for call in migration.calls():
        if not call.on(Kind.COLLECTION) or call.method not in INDEX:
            continue
        parts = (part for value in call.given for part in value.walk())
        models = [described[id(part.node)] for part in parts if id(part.node) in described]
        for model in [call, *models]:
            if option in model.keywords:
                yield call, model, model.keywords[option]


def unchecked_unique(migration: Migration) -> Hits:
    """Find unique indexes that are built without a look at what is there already."""
    for call, model, unique in _indexes(migration, "unique"):
        keys = model.argument(0, "keys")
        fields = keys.texts() if keys else frozenset()
        earlier = (each for each in before(call, migration) if same_collection(call, each))
        checked = any(_looks_at(each, fields) for each in earlier) or is_new(call, migration)
        if unique.constant and not checked:
            what = f"Duplicates of {_listed(fields)} in {place_of(call)} make this index fail."
            yield hit(call, what)


def _looks_at(call: Call, fields: frozenset[str]) -> bool:
    """Whether it reads, or puts right, what an index is about."""
    texts = {text.lstrip("$") for value in call.given for text in value.texts()}
    return call.method not in INDEX | {"insert_one", "insert_many"} and not texts.isdisjoint(fields)


def _listed(fields: frozenset[str]) -> str:
    return " and ".join(f"`{field}`" for field in sorted(fields)) or "the fields"


def expiring(migration: Migration) -> Hits:
    """Find TTL indexes that delete documents which are there already."""
    for call, _, _ in _indexes(migration, "expireAfterSeconds"):
        if call.place.direction is Direction.UP and not is_new(call, migration):
            what = f"Once this index is built, the server deletes from {place_of(call)} all that is too old."
            yield hit(call, what)
