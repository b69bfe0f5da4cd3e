"""The checks: one function for each rule, with what it gets and yields."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from flask_migrate_mongo.model.values import MigrationFile

from .facts import (
    COLLECTION_METHODS,
    INDEX_BUILDS,
    OTHER,
    SINGLE_WRITES,
    STORES,
    CodeCall,
    Facts,
    Kind,
    Node,
    Value,
    words,
)

_LOGGING = r"(print|(ctx\.)?(log|logger|logging)\.\w+)$"
_COLLECTING = words("dict frozenset list set sorted tuple collections.deque")
_CLIENTS = words("AsyncIOMotorClient AsyncMongoClient MongoClient PyMongo")
_WORK = words("__import__ eval exec input open print os.system time.sleep")
_WORK_MODULES = words("httpx requests shutil socket subprocess urllib")
_WORK_METHODS = words("read_bytes read_text write_bytes write_text")
_THREADS = words("ProcessPoolExecutor Thread ThreadPool ThreadPoolExecutor Timer")
_PROCESSES = ("multiprocessing.", "os.fork", "os.system", "subprocess.", "_thread.")
_REMOVED_METHODS = {
    "collection_names": "list_collection_names",
    "count": "count_documents",
    "ensure_index": "create_index",
    "eval": "aggregate",
    "find_and_modify": "find_one_and_update",
    "group": "aggregate",
    "insert": "insert_one` or `insert_many",
    "map_reduce": "aggregate",
    "remove": "delete_one` or `delete_many",
    "save": "replace_one",
    "update": "update_one` or `update_many",
}
_REPLACEMENTS = words("find_one_and_replace replace_one")
_REFUSED = words(
    "drop drop_collection drop_database drop_index drop_indexes estimated_document_count"
    " index_information list_collection_names list_collections list_indexes options rename"
    " validate_collection watch"
)
_REFUSED_STAGES = words("$out $merge $collStats")
_REFUSED_COMMANDS = words(
    "collMod compact convertToCapped createIndexes drop dropDatabase dropIndexes listCollections"
    " listIndexes renameCollection validate"
)
_DRIVER_ERRORS = words(
    "BaseException BulkWriteError ClientBulkWriteException CollectionInvalid DuplicateKeyError"
    " Exception ExecutionTimeout OperationFailure PyMongoError WTimeoutError WriteConcernError"
    " WriteError"
)


@dataclass(frozen=True, slots=True)
class ParsedMigration:
    """A migration to check. `is_own` says whether a module belongs to the application."""

    file: MigrationFile
    tree: ast.Module
    facts: Facts
    is_own: Callable[[str], bool]

    @property
    def calls(self) -> tuple[CodeCall, ...]:
        """The calls that up() and down() reach."""
        return (*self.facts.up, *self.facts.down)

    @property
    def calls_in_transaction(self) -> tuple[CodeCall, ...]:
        """The calls that run in the runner's transaction: all, or none."""
        return self.calls if self.file.transactional else ()

    def before(self, call: CodeCall) -> tuple[CodeCall, ...]:
        """List the calls that up() or down() reaches before this one."""
        calls = self.facts.up if call in self.facts.up else self.facts.down
        return calls[: calls.index(call)]

    def is_new(self, call: CodeCall) -> bool:
        """Whether the migration itself created the collection of a call."""
        return any(earlier.creates(call.receiver.names) for earlier in self.before(call))

    def definition(self, name: str) -> ast.FunctionDef | None:
        """Find where the file defines a function."""
        functions = (each for each in self.tree.body if isinstance(each, ast.FunctionDef))
        return next((each for each in functions if each.name == name), None)


class Hit(NamedTuple):
    """A place that breaks a rule (None: the file as a whole), with the message for it."""

    node: Node | None
    message: str
    function: str | None = None
    collection: str = ""


Hits: TypeAlias = Iterator[Hit]


def hit(call: CodeCall, message: str, node: Node | None = None) -> Hit:
    """Make a hit at a call, or at another node that belongs to it."""
    return Hit(node or call.node, message, call.place.function, call.receiver.label)


def collection_name(collection: Value) -> str:
    """Name a collection in a message."""
    return collection.label or "the collection"


# --- what is missing


def unwritten_up(migration: ParsedMigration) -> Hits:
    """Find an up() that begins with `raise NotImplementedError`."""
    if not migration.file.written:
        message = (
            "up() begins with `raise NotImplementedError`, so `flask db-migrate up` refuses to run."
        )
        yield Hit(migration.definition("up"), message, "up")


def missing_down(migration: ParsedMigration) -> Hits:
    """Find that there is no down()."""
    if not (migration.file.reversible or migration.definition("down")):
        message = "There is no down(), so `flask db-migrate down` refuses this migration."
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
        message = "down() only raises an error, so this migration cannot be rolled back."
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
    restored = {text for call in migration.facts.down for text in call.given.texts()}
    read = set[str]()
    for call in migration.facts.up:
        drops = call.method in {"drop", "drop_collection", "drop_database"}
        if drops and call.on(*STORES) and not _has_copy(call, migration):
            yield hit(call, f"{call.shown} deletes data, and nothing keeps a copy.")
        read.update(_fields_read(call.given))
        for field in sorted(_deleted_fields(call) - read - restored):
            yield hit(call, f"`$unset` deletes `{field}`, and nothing keeps its values.")


def _has_copy(call: CodeCall, migration: ParsedMigration) -> bool:
    """Whether the migration copied or created the dropped collection, or down() restores it."""
    names = call.receiver.names
    if call.method != "drop":
        which = call.argument(0, "name_or_collection")
        names = which.names | which.texts()
    earlier = migration.before(call)
    copied = any(c.targets and not c.receiver.names.isdisjoint(names) for c in earlier)
    return copied or any(_fills(c, names) for c in (*earlier, *migration.facts.down))


def _fills(call: CodeCall, names: frozenset[str]) -> bool:
    """Whether a call creates one of these collections, or writes documents to it."""
    inserts = call.method in {"insert_one", "insert_many", "bulk_write"}
    is_target = call.method == "rename" and call.argument(0, "new_name").constant in names
    on_it = inserts and not call.receiver.names.isdisjoint(names)
    return on_it or is_target or call.creates(names)


def _deleted_fields(call: CodeCall) -> frozenset[str]:
    """Collect the fields that a call unsets, without those whose value its filter says."""
    changed = call.change.entries()
    unset = frozenset(f for key, body in changed if key == "$unset" for f in _unset_fields(body))
    where = call.keywords.get("where", OTHER)
    condition = where if call.is_backfill else call.argument(0, "filter")
    # `{"flag": ""}` in the filter says which value the field had.
    return unset - {field for field, value in condition.items() if value.kind is Kind.CONSTANT}


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
        where = call.argument(0, "filter")
        is_empty = where.kind is Kind.MAPPING and not where.parts
        if (many or is_model) and is_empty and not call.place.backfill:
            name = call.shown if many else f"`{call.last_name}`"
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
    first = call.argument(0, "iterable") if call.path in _COLLECTING else OTHER
    if call.method == "to_list" and not call.given.parts:
        first = call.receiver
    cursor = None if first.kind is Kind.RESULT else first.cursor
    return cursor if cursor and not cursor.limited else None


def writes_in_loop(migration: ParsedMigration) -> Hits:
    """Find loops over a `find` that write one document at a time."""
    for call in migration.calls:
        single = call.on(Kind.COLLECTION) and call.method in SINGLE_WRITES
        if single and any(over.cursor for over in call.place.loops):
            message = f"{call.shown} in a loop over `find()` makes one round trip per document."
            yield hit(call, message)


# --- indexes


def _indexes(migration: ParsedMigration, option: str) -> Iterator[tuple[CodeCall, CodeCall]]:
    """Yield for each index with an option the call that builds it, and the call with keys and options."""
    for call in migration.calls:
        if not call.on(Kind.COLLECTION) or call.method not in INDEX_BUILDS:
            continue
        made_by = (part.call for part in call.given.walk())
        models = (each for each in made_by if each and each.last_name == "IndexModel")
        for model in (call, *models):
            if option in model.keywords:
                yield call, model


def unchecked_unique_index(migration: ParsedMigration) -> Hits:
    """Find unique indexes that are built without a check for duplicates."""
    for call, model in _indexes(migration, "unique"):
        fields = model.argument(0, "keys").texts()
        earlier = migration.before(call)
        checked = any(_looks_at(c, fields, call.receiver) for c in earlier)
        if model.keywords["unique"].constant and not checked and not migration.is_new(call):
            listed = " and ".join(f"`{field}`" for field in sorted(fields)) or "the fields"
            collection = collection_name(call.receiver)
            yield hit(call, f"Duplicates of {listed} in {collection} make this index build fail.")


def _looks_at(call: CodeCall, fields: frozenset[str], collection: Value) -> bool:
    """Whether a call reads or changes one of these fields, maybe in this collection."""
    builds_or_inserts = call.method in INDEX_BUILDS | {"insert_one", "insert_many"}
    if builds_or_inserts or not call.on(Kind.COLLECTION):
        return False
    names, others = collection.names, call.receiver.names
    texts = {text.lstrip("$") for text in call.given.texts()}
    elsewhere = names and others and names.isdisjoint(others)
    return not elsewhere and not texts.isdisjoint(fields)


def ttl_index(migration: ParsedMigration) -> Hits:
    """Find TTL indexes that delete existing documents."""
    for call, _ in _indexes(migration, "expireAfterSeconds"):
        if call in migration.facts.up and not migration.is_new(call):
            collection = collection_name(call.receiver)
            yield hit(call, f"This index deletes all expired documents from {collection}.")


# --- access to other things than the database


def own_client(migration: ParsedMigration) -> Hits:
    """Find clients that the migration creates."""
    for call in (*migration.facts.at_import, *migration.calls):
        if call.callee.kind in {Kind.IMPORTED, Kind.OTHER} and call.last_name in _CLIENTS:
            message = f"`{call.last_name}()` opens a connection of its own: outside the transaction, and maybe to another server."
            yield hit(call, message)


def application_import(migration: ParsedMigration) -> Hits:
    """Find imports of the application's code: it changes later, and the migration must not."""
    for node, path in migration.facts.imports:
        top = path.partition(".")[0]
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            # One dot is the folder of the migrations, with their helpers.
            if node.level > 1:
                yield Hit(
                    node, "This import fails: it is of a folder above that of the migrations."
                )
        elif path == "flask.current_app":
            yield Hit(node, "`current_app` uses the application's code, which changes later.")
        elif top not in sys.stdlib_module_names and migration.is_own(top):
            yield Hit(node, f"`{top}` is the application's own code, which changes later.")


def import_time_work(migration: ParsedMigration) -> Hits:
    """Find work that runs when the file is imported."""
    bare = {id(each.value) for each in ast.walk(migration.tree) if isinstance(each, ast.Expr)}
    for call in migration.facts.at_import:
        top = call.path.partition(".")[0]
        is_bare = id(call.node) in bare and call.place.function is None
        bare_call = is_bare and top not in {"logging", "warnings"}
        outside = call.path in _WORK or top in _WORK_MODULES or call.last_name in _WORK_METHODS
        own = call.on(*STORES) or (top and migration.is_own(top))
        if bare_call or outside or own:
            yield hit(call, f"`{ast.unparse(call.node)[:60]}` runs when the file is imported.")


def sleep(migration: ParsedMigration) -> Hits:
    """Find calls that wait."""
    held = "the lock and its transaction" if migration.file.transactional else "the lock"
    for call in migration.calls:
        if call.path in {"time.sleep", "asyncio.sleep"}:
            yield hit(call, f"While the migration sleeps, it holds {held}.")


def threads(migration: ParsedMigration) -> Hits:
    """Find threads and processes."""
    alone = "continues after the lock is lost, and its errors are not seen"
    harm = "works outside the transaction" if migration.file.transactional else alone
    for call in migration.calls:
        if (call.path and call.last_name in _THREADS) or call.path.startswith(_PROCESSES):
            yield hit(call, f"`{call.path}` {harm}.")


# --- what is sent to the server


def bypassed_validation(migration: ParsedMigration) -> Hits:
    """Find writes that bypass the collection's validator."""
    for call in migration.calls:
        if call.keywords.get("bypass_document_validation", OTHER).constant is True:
            collection = collection_name(call.receiver)
            yield hit(call, f"{call.shown} bypasses the validator of {collection}.")


def server_script(migration: ParsedMigration) -> Hits:
    """Find JavaScript that runs on the server."""
    for call in migration.calls:
        if call.on(*STORES) or call.is_backfill:
            used = {"$accumulator", "$function", "$where"} & dict(call.given.entries()).keys()
            if used:
                yield hit(call, f"`{min(used)}` runs JavaScript on the server for each document.")
        elif call.path.startswith("bson.") and call.last_name == "Code":
            yield hit(call, "`Code` is JavaScript, which the server runs for each document.")


def invalid_change(migration: ParsedMigration) -> Hits:
    """Find updates without operators, and replacements with operators."""
    for call in migration.calls:
        change = OTHER if call.is_backfill else call.change
        are_operators = bool(change.parts) and all(_are_operators(change))
        if change.kind is Kind.MAPPING and not are_operators:
            yield hit(call, "The driver rejects an update without operators such as `$set`.")
        replaces = call.on(Kind.COLLECTION) and call.method in _REPLACEMENTS
        new = call.argument(1, "replacement")
        if (replaces or call.last_name == "ReplaceOne") and any(_are_operators(new)):
            yield hit(call, "The driver rejects a replacement that has operators such as `$set`.")


def _are_operators(change: Value) -> Iterator[bool]:
    """Find whether each known key is an operator."""
    return (key.startswith("$") for key, _ in change.items())


def unknown_method(migration: ParsedMigration) -> Hits:
    """Find calls of methods that pymongo does not have: pymongo takes the name for a collection."""
    for call in (*migration.facts.at_import, *migration.calls):
        name = call.callee.name
        if call.callee.kind is Kind.COLLECTION and name:
            snake = re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower()
            known = snake if snake in COLLECTION_METHODS else _REMOVED_METHODS.get(snake)
            instead = f" Use `{known}`." if known else ""
            yield hit(call, f"pymongo has no method `{name}`: this raises TypeError.{instead}")


# --- transactions


def refused_in_transaction(migration: ParsedMigration) -> Hits:
    """Find what the server refuses in a transaction."""
    for call in migration.calls_in_transaction:
        if not call.on(*STORES):
            continue
        builds_index = call.method in INDEX_BUILDS
        if call.method in _REFUSED or (builds_index and not migration.is_new(call)):
            yield hit(call, f"The server refuses {call.shown} in a transaction.")
        elif refused := _refused_part(call):
            yield hit(call, f"The server refuses `{refused}` in a transaction.")


def _refused_part(call: CodeCall) -> str:
    """Name the command, or the pipeline stage, that the server refuses in a transaction."""
    if call.method == "command" and call.args:
        first = call.args[0]
        name = next(iter(dict(first.items())), "") if first.kind is Kind.MAPPING else first.constant
        return str(name) if name in _REFUSED_COMMANDS else ""
    if call.method != "aggregate":
        return ""
    return min(_REFUSED_STAGES & dict(call.given.entries()).keys(), default="")


def manual_transaction(migration: ParsedMigration) -> Hits:
    """Find transactions that the migration starts itself."""
    message = "This transaction does not contain the migration's record."
    if migration.file.transactional:
        message = "A transactional migration refuses a second transaction."
    for call in migration.calls:
        if call.on(Kind.SESSION) and call.method in {"start_transaction", "with_transaction"}:
            yield hit(call, message)


def missing_session(migration: ParsedMigration) -> Hits:
    """Find statements that are not part of the manual transaction around them."""
    for call in migration.calls:
        place = call.place
        outside = "session" not in call.keywords and call.complete and not place.bound
        sends = call.method not in {"get_collection", "with_options"}
        if place.opened and outside and sends and call.on(Kind.DATABASE, Kind.COLLECTION):
            message = f"{call.shown} has no `session=`, so it is not part of the transaction."
            yield hit(call, message)


def backfill_in_transaction(migration: ParsedMigration) -> Hits:
    """Find backfills in a transaction."""
    for call in migration.calls_in_transaction:
        if call.is_backfill:
            yield hit(call, "A transactional migration refuses `ctx.backfill()`.")


def caught_in_transaction(migration: ParsedMigration) -> Hits:
    """Find handlers for errors of writes in a transaction: such an error aborts it."""
    for call in migration.calls_in_transaction:
        for node, catches in call.place.handlers if call.changes_data else ():
            if not catches or not catches.isdisjoint(_DRIVER_ERRORS):
                message = f"An error of {call.shown} is caught, but it aborts the transaction."
                yield hit(call, message, node)


def write_concern(migration: ParsedMigration) -> Hits:
    """Find write concerns that break a transaction, or that hide errors."""
    for call in migration.calls:
        w = call.argument(0, "w") if call.last_name == "WriteConcern" else OTHER
        configures = call.on(*STORES) and "write_concern" in call.keywords
        if w.constant == 0:
            yield hit(call, "With `w=0` the server does not answer, so errors are not seen.")
        elif migration.file.transactional and configures:
            yield hit(call, "In a transaction, a separate write concern makes every write fail.")


def several_writes(migration: ParsedMigration) -> Hits:
    """Find an up() that a crash can leave partly done, and that is not safe to repeat."""
    if migration.file.safe_to_repeat:
        return
    up = migration.facts.up
    repeatable = {id(c.node) for c in up if c.method in INDEX_BUILDS or c.is_backfill}
    writes = {id(c.node): c for c in up if c.changes_data and c.method not in INDEX_BUILDS}
    looped = any(call.place.loops for call in writes.values())
    if writes and (looped or len(writes) + len(repeatable) > 1):
        message = "If up() crashes between its writes, some are done, and the next `up` runs all of them again."
        yield Hit(migration.definition("up"), message, "up")
