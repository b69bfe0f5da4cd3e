"""Checks of the code itself: clients, imports, threads, scripts, and calls that fail."""

from __future__ import annotations

import ast
import re
import sys
from typing import TYPE_CHECKING

from .checking import STORES, Hit, called, change_of, collection_name, hit
from .facts import COLLECTION_METHODS, Kind, Value, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .checking import Hits, ParsedMigration
    from .facts import CodeCall

# --- access to other things than the database


def own_client(migration: ParsedMigration) -> Hits:
    """Find clients that the migration creates."""
    for call in (*migration.facts.at_import, *migration.calls):
        if call.callee.kind in {Kind.NAMED, Kind.OTHER} and call.last_name in _CLIENTS:
            message = f"`{call.last_name}()` opens a connection of its own: outside the transaction, and maybe to another server."
            yield hit(call, message)


_CLIENTS = words("AsyncIOMotorClient AsyncMongoClient MongoClient PyMongo")


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
        quiet = call.path.partition(".")[0] in _QUIET_MODULES
        works = _works(call, migration) or (id(call.node) in bare and not quiet)
        if works:
            yield hit(call, f"`{ast.unparse(call.node)[:60]}` runs when the file is imported.")


_WORK = words("__import__ eval exec input open print os.system time.sleep")
_WORK_MODULES = words("httpx requests shutil socket subprocess urllib")
_WORK_METHODS = words("read_bytes read_text write_bytes write_text")
_QUIET_MODULES = words("logging warnings")


def _works(call: CodeCall, migration: ParsedMigration) -> bool:
    top = call.path.partition(".")[0]
    outside = call.path in _WORK or top in _WORK_MODULES or call.last_name in _WORK_METHODS
    return outside or call.receiver.kind in STORES or bool(top and migration.is_own(top))


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
    for call in migration.calls:
        if not (call.path and call.last_name in _THREADS) and not call.path.startswith(_PROCESSES):
            continue
        if migration.file.transactional:
            yield hit(call, f"`{call.path}` works outside the transaction.")
        else:
            message = (
                f"`{call.path}` continues after the lock is lost, and its errors are not seen."
            )
            yield hit(call, message)


_THREADS = words("ProcessPoolExecutor Thread ThreadPool ThreadPoolExecutor Timer")
_PROCESSES = ("multiprocessing.", "os.fork", "os.system", "subprocess.", "_thread.")


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
            used = {key for value in call.given for key, _ in value.entries()} & _SCRIPTS
            if used:
                yield hit(call, f"`{min(used)}` runs JavaScript on the server for each document.")
        elif call.path.startswith("bson.") and call.last_name == "Code":
            yield hit(call, "`Code` is JavaScript, which the server runs for each document.")


_SCRIPTS = words("$accumulator $function $where")


def invalid_change(migration: ParsedMigration) -> Hits:
    """Find updates without operators, and replacements with operators."""
    for call in migration.calls:
        change = None if call.is_backfill else change_of(call)
        if change is not None and change.kind is Kind.MAPPING and not _is_update(change):
            yield hit(call, "The driver rejects an update without operators such as `$set`.")
        replaces = call.on(Kind.COLLECTION) and call.method in _REPLACEMENTS
        new = call.argument(1, "replacement")
        if new is not None and (replaces or call.last_name == "ReplaceOne") and _operators(new):
            yield hit(call, "The driver rejects a replacement that has operators such as `$set`.")


_REPLACEMENTS = words("replace_one find_one_and_replace")


def _operators(change: Value) -> list[str]:
    return [key for key, _ in change.items() if key.startswith("$")]


def _is_update(change: Value) -> bool:
    """Whether every key is an operator, or not known."""
    known = [key for key in change.keys if isinstance(key.constant, str)]
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
