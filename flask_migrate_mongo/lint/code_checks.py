"""Checks of the code itself: clients, imports, threads, transactions, and calls that fail."""

from __future__ import annotations

import ast
import re
import sys
from typing import TYPE_CHECKING

from .checking import STORES, Hit, called, change_of, changes, collection_name, hit, is_new
from .facts import COLLECTION_METHODS, INDEX_BUILDS, Kind, Value, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .checking import Hits, ParsedMigration
    from .facts import CodeCall

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

# --- access to other things than the database


def own_client(migration: ParsedMigration) -> Hits:
    """Find clients that the migration creates."""
    for call in (*migration.facts.at_import, *migration.calls):
        if call.callee.kind in {Kind.NAMED, Kind.OTHER} and call.last_name in _CLIENTS:
            message = f"`{call.last_name}()` opens a connection of its own: outside the transaction, and maybe to another server."
            yield hit(call, message)


def application_import(migration: ParsedMigration) -> Hits:
    """Find imports of the application's code: it changes later, and the migration must not."""
    for node, path, level in migration.facts.imports:
        top = path.partition(".")[0]
        if level:
            yield Hit(node, "A relative import fails: migrations are not part of a package.")
        elif path == "flask.current_app":
            yield Hit(node, "`current_app` uses the application's code, which changes later.")
        elif top not in sys.stdlib_module_names and migration.is_own(top):
            yield Hit(node, f"`{top}` is the application's own code, which changes later.")


def import_time_work(migration: ParsedMigration) -> Hits:
    """Find work that runs when the file is imported."""
    bare = {id(node) for node in _bare_expressions(migration.tree.body)}
    for call in migration.facts.at_import:
        top = call.path.partition(".")[0]
        bare_call = id(call.node) in bare and top not in {"logging", "warnings"}
        outside = call.path in _WORK or top in _WORK_MODULES or call.last_name in _WORK_METHODS
        own = call.receiver.kind in STORES or (top and migration.is_own(top))
        if bare_call or outside or own:
            yield hit(call, f"`{ast.unparse(call.node)[:60]}` runs when the file is imported.")


def _bare_expressions(body: Iterable[ast.stmt]) -> Iterator[ast.expr]:
    """Yield the expressions that are statements of the module, or of its loops and conditions."""
    for node in body:
        if isinstance(node, ast.Expr):
            yield node.value
        elif isinstance(node, ast.If | ast.For | ast.While | ast.With | ast.Try):
            yield from _bare_expressions([*node.body, *getattr(node, "orelse", ())])


def sleep(migration: ParsedMigration) -> Hits:
    """Find calls that wait."""
    for call in migration.calls:
        if call.path in {"time.sleep", "asyncio.sleep"}:
            yield hit(call, "While the migration sleeps, it holds the lock and its transaction.")


def threads(migration: ParsedMigration) -> Hits:
    """Find threads and processes."""
    harm = "continues after the lock is lost, and its errors are not seen"
    if migration.file.transactional:
        harm = "works outside the transaction"
    for call in migration.calls:
        if (call.path and call.last_name in _THREADS) or call.path.startswith(_PROCESSES):
            yield hit(call, f"`{call.path}` {harm}.")


# --- what is sent to the server


def bypassed_validation(migration: ParsedMigration) -> Hits:
    """Find writes that bypass the collection's validator."""
    for call in migration.calls:
        bypass = call.keywords.get("bypass_document_validation")
        if bypass is not None and bypass.constant is True:
            collection = collection_name(call.receiver)
            yield hit(call, f"{called(call)} bypasses the validator of {collection}.")


def server_script(migration: ParsedMigration) -> Hits:
    """Find JavaScript that runs on the server."""
    for call in migration.calls:
        if call.receiver.kind in STORES or call.is_backfill:
            keys = {key for value in call.given for key, _ in value.entries()}
            if used := keys & {"$accumulator", "$function", "$where"}:
                yield hit(call, f"`{min(used)}` runs JavaScript on the server for each document.")
        elif call.path.startswith("bson.") and call.last_name == "Code":
            yield hit(call, "`Code` is JavaScript, which the server runs for each document.")


def invalid_change(migration: ParsedMigration) -> Hits:
    """Find updates without operators, and replacements with operators."""
    for call in migration.calls:
        change = None if call.is_backfill else change_of(call)
        if change is not None and change.kind is Kind.MAPPING and not _is_update(change):
            yield hit(call, "The driver rejects an update without operators such as `$set`.")
        replaces = call.on(Kind.COLLECTION) and call.method in {
            "replace_one",
            "find_one_and_replace",
        }
        new = call.argument(1, "replacement")
        if new is not None and (replaces or call.last_name == "ReplaceOne") and _operators(new):
            yield hit(call, "The driver rejects a replacement that has operators such as `$set`.")


def _operators(change: Value) -> list[str]:
    return [key for key, _ in change.items() if key.startswith("$")]


def _is_update(change: Value) -> bool:
    """Whether every key is an operator, or not known."""
    known = list(change.items())
    return bool(change.parts) and len(known) == len(_operators(change))


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
        if call.receiver.kind not in STORES:
            continue
        builds_index = call.method in INDEX_BUILDS
        if call.method in _REFUSED or (builds_index and not is_new(call, migration)):
            yield hit(call, f"The server refuses {called(call)} in a transaction.")
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
    stages = {key for value in call.given for key, _ in value.entries()}
    return min(stages & _REFUSED_STAGES, default="")


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
            message = f"{called(call)} has no `session=`, so it is not part of the transaction."
            yield hit(call, message)


def backfill_in_transaction(migration: ParsedMigration) -> Hits:
    """Find backfills in a transaction."""
    for call in migration.calls_in_transaction:
        if call.is_backfill:
            yield hit(call, "A transactional migration refuses `ctx.backfill()`.")


def caught_in_transaction(migration: ParsedMigration) -> Hits:
    """Find handlers for errors of writes in a transaction: such an error aborts it."""
    for call in filter(changes, migration.calls_in_transaction):
        for node, catches in call.place.handlers:
            if not catches or not catches.isdisjoint(_DRIVER_ERRORS):
                message = f"An error of {called(call)} is caught, but it aborts the transaction."
                yield hit(call, message, node)


def write_concern(migration: ParsedMigration) -> Hits:
    """Find write concerns that break a transaction, or that hide errors."""
    for call in migration.calls:
        w = call.argument(0, "w") if call.last_name == "WriteConcern" else None
        configures = call.receiver.kind in STORES and "write_concern" in call.keywords
        if w is not None and w.constant == 0:
            yield hit(call, "With `w=0` the server does not answer, so errors are not seen.")
        elif migration.file.transactional and configures:
            yield hit(call, "In a transaction, a separate write concern makes every write fail.")


def several_writes(migration: ParsedMigration) -> Hits:
    """Find an up() that a crash can leave partly done, and that is not safe to repeat."""
    if migration.file.safe_to_repeat:
        return
    up = migration.facts.up
    repeatable = {id(c.node) for c in up if c.method in INDEX_BUILDS or c.is_backfill}
    writes = {id(c.node): c for c in up if changes(c) and c.method not in INDEX_BUILDS}
    looped = any(call.place.loops for call in writes.values())
    if writes and (looped or len(writes) + len(repeatable) > 1):
        message = "If up() crashes between its writes, some are done, and the next `up` runs all of them again."
        yield Hit(migration.definition("up"), message, "up")
