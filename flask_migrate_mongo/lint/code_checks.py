"""What rules look for in the code of a migration: what it reaches for, calls and says."""

from __future__ import annotations

import ast
import re
import sys
from typing import TYPE_CHECKING

from .calls import (
    STORES,
    Hit,
    called,
    change_of,
    entries,
    hit,
    last_name,
    place_of,
)
from .facts import is_backfill
from .values import COLLECTION_METHODS, Kind, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .calls import Hits, Migration
    from .facts import Call

# --- beyond the database that is handed in

_CLIENTS = frozenset({"AsyncIOMotorClient", "AsyncMongoClient", "MongoClient", "PyMongo"})


def own_client(migration: Migration) -> Hits:
    """Find clients of the migration's own."""
    for call in migration.facts.calls:
        if call.callee.kind in {Kind.NAMED, Kind.OTHER} and last_name(call) in _CLIENTS:
            what = f"`{last_name(call)}()` connects by itself: to another server, or outside the transaction."
            yield hit(call, what)


def application_import(migration: Migration) -> Hits:
    """Find imports of the application's code, which changes while a migration must not."""
    for node, path, level in migration.facts.imports:
        top = path.partition(".")[0]
        if level:
            yield Hit(node, "A relative import fails: migrations are not part of a package.")
        elif path == "flask.current_app":
            yield Hit(node, "`current_app` leads to the application's code, which will change.")
        elif top not in sys.stdlib_module_names and migration.is_own(top):
            yield Hit(node, f"`{top}` is the application's own code, which will change.")


_WORK = frozenset(
    {"__import__", "eval", "exec", "input", "open", "print", "os.system", "time.sleep"}
)
_WORK_MODULES = frozenset({"httpx", "requests", "shutil", "socket", "subprocess", "urllib"})
_WORK_METHODS = frozenset({"read_bytes", "read_text", "write_bytes", "write_text"})
_QUIET = frozenset({"logging", "warnings"})


def import_time_work(migration: Migration) -> Hits:
    """Find what is done when the file is imported."""
    bare = {id(node) for node in _bare_calls(migration.tree.body)}
    for call in migration.facts.calls:
        works = _works(call, migration) or (id(call.node) in bare and not _is_quiet(call))
        if call.place.direction is None and works:
            yield hit(call, f"`{ast.unparse(call.node)[:60]}` runs when the file is imported.")


def _works(call: Call, migration: Migration) -> bool:
    top = call.path.partition(".")[0]
    outside = call.path in _WORK or top in _WORK_MODULES or last_name(call) in _WORK_METHODS
    return outside or call.receiver.kind in STORES or bool(top and migration.is_own(top))


def _is_quiet(call: Call) -> bool:
    return call.path.partition(".")[0] in _QUIET


def _bare_calls(body: Iterable[ast.stmt]) -> Iterator[ast.expr]:
    """Yield the expressions that are statements of the module, or of its loops and conditions."""
    for node in body:
        if isinstance(node, ast.Expr):
            yield node.value
        elif isinstance(node, ast.If | ast.For | ast.While | ast.With | ast.Try):
            yield from _bare_calls([*node.body, *getattr(node, "orelse", ())])


def slept(migration: Migration) -> Hits:
    """Find that the migration waits."""
    for call in migration.calls():
        if call.path in {"time.sleep", "asyncio.sleep"}:
            yield hit(call, "While it sleeps, the migration holds the lock and its transaction.")


_THREADS = frozenset({"ProcessPoolExecutor", "Thread", "ThreadPool", "ThreadPoolExecutor", "Timer"})
_PROCESSES = ("multiprocessing.", "os.fork", "os.system", "subprocess.", "_thread.")


def threads(migration: Migration) -> Hits:
    """Find work that is given to a thread or a process."""
    for call in migration.calls():
        if (call.path and last_name(call) in _THREADS) or call.path.startswith(_PROCESSES):
            end = (
                "is outside the transaction"
                if migration.confined
                else "fails unnoticed, and goes on when the lock is lost"
            )
            yield hit(call, f"What `{call.path}` does {end}.")


# --- what is written


def bypassed_validation(migration: Migration) -> Hits:
    """Find documents that are written past the collection's validator."""
    for call in migration.calls():
        bypass = call.keywords.get("bypass_document_validation")
        if bypass is not None and bypass.constant is True:
            yield hit(
                call, f"{called(call)} writes documents that {place_of(call)} does not allow."
            )


_SCRIPTS = frozenset({"$accumulator", "$function", "$where"})


def server_script(migration: Migration) -> Hits:
    """Find JavaScript that runs on the server."""
    for call in migration.calls():
        if call.receiver.kind in STORES or is_backfill(call.callee):
            used = {key for value in call.given for key, _ in entries(value)} & _SCRIPTS
            if used:
                yield hit(call, f"`{min(used)}` runs JavaScript on the server for each document.")
        elif call.path.startswith("bson.") and last_name(call) == "Code":
            yield hit(call, "`Code` is JavaScript, which the server runs for each document.")


_REPLACEMENTS = frozenset({"replace_one", "find_one_and_replace"})
_REPLACE_MODELS = frozenset({"ReplaceOne"})


def wrong_change(migration: Migration) -> Hits:
    """Find updates without operators, and replacements with them."""
    for call in migration.calls():
        change = None if is_backfill(call.callee) else change_of(call)
        if change is not None and change.kind is Kind.MAPPING and not _is_update(change):
            yield hit(call, "The driver refuses an update without operators like `$set`.")
        replaces = call.on(Kind.COLLECTION) and call.method in _REPLACEMENTS
        new = call.argument(1, "replacement")
        if new is not None and (replaces or last_name(call) in _REPLACE_MODELS) and _operators(new):
            yield hit(call, "The driver refuses a replacement with operators like `$set`.")


def _operators(change: Value) -> bool:
    return any(key.startswith("$") for key, _ in change.items())


def _is_update(change: Value) -> bool:
    return bool(change.parts) and all(map(_is_operator, change.keys))


def _is_operator(key: Value) -> bool:
    return not isinstance(key.constant, str) or key.constant.startswith("$")


_REMOVED = {
    "count": "count_documents",
    "ensure_index": "create_index",
    "find_and_modify": "find_one_and_update",
    "group": "aggregate",
    "insert": "insert_one` or `insert_many",
    "map_reduce": "aggregate",
    "remove": "delete_one` or `delete_many",
    "save": "replace_one",
    "update": "update_one` or `update_many",
    "collection_names": "list_collection_names",
    "eval": "aggregate",
}


def unknown_method(migration: Migration) -> Hits:
    """Find calls of methods that pymongo does not have: those are collections instead."""
    for call in migration.facts.calls:
        name = call.callee.name
        if call.callee.kind is Kind.COLLECTION and name:
            snake = re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower()
            known = snake if snake in COLLECTION_METHODS else _REMOVED.get(snake)
            hint = f"; it has `{known}`" if known else ""
            yield hit(call, f"pymongo has no method `{name}`{hint}: this raises TypeError.")
