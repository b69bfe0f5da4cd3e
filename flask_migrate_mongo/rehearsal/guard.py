"""Keeps the commands of migrations inside the scratch database.

It sees every command of the process before it is sent, from any thread and any client. It refuses a command that
would change another database, has collections copied when they are named for the first time, and measures how long
each collection takes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping

from pymongo.errors import OperationFailure

from flask_migrate_mongo.driver.commands import (
    BY_FULL_NAME,
    Command,
    namespaces,
    outside_transaction,
    written_by,
)
from flask_migrate_mongo.model.errors import EscapesRehearsalError

from .results import Activity

EVERYTHING = "*"
"""Means every collection, among the names that a command touches."""

_ENDING = frozenset({"commitTransaction", "abortTransaction"})
_QUERIES = frozenset({"aggregate", "count", "distinct", "find", "getMore"})
READS = _QUERIES | {"collStats", "dataSize", "dbStats", "listCollections", "listIndexes"}
"""Commands that only read a database, but for an aggregation that writes its result."""
# These take longer with more documents; the others, for example drop and collMod, do not.
_GROWING = _QUERIES.union(
    ("bulkWrite", "createIndexes", "delete", "findAndModify", "insert", "mapReduce", "update")
)
# These change nothing that persists: handshakes, sessions, the state of the server.
_HARMLESS = frozenset(
    {
        *(*_ENDING, "authenticate", "buildInfo"),
        *("connectionStatus", "currentOp", "endSessions", "explain", "getCmdLineOpts"),
        *("getParameter", "hello", "hostInfo", "isMaster", "ismaster", "isdbgrid"),
        *("killCursors", "killSessions", "listCommands", "listDatabases", "logout"),
        *("ping", "refreshSessions", "replSetGetStatus", "rolesInfo", "saslContinue"),
        *("balancerStatus", "connPoolStats", "dbHash", "features", "getClusterParameter"),
        *("getDefaultRWConcern", "getLog", "getShardMap", "listShards", "replSetGetConfig"),
        *("shardingState", "validateDBMetadata"),
        *("saslStart", "serverStatus", "startSession", "top", "usersInfo", "whatsmyuri"),
    }
)
# The server stores users and roles in another database: they would outlive the scratch database.
_ACCOUNTS = (
    *("createRole", "createUser", "dropAll", "dropRole", "dropUser"),
    *("grant", "revoke", "updateRole", "updateUser"),
)
SYSTEM = frozenset({"admin", "config", "local"})
"""Databases of the server's own."""
_WRITE_CONFLICT = 112


class SandboxGuard:
    """A command listener that keeps migrations inside the database `home`.

    `ours` names the collections there that belong to this package. `copy` copies collections, or EVERYTHING, there
    and returns whether there was one to copy.
    """

    def __init__(
        self, home: str, ours: frozenset[str], copy: Callable[[frozenset[str]], bool]
    ) -> None:
        self.activity = Activity()
        self._home = home
        self._ours = ours
        self._copy = copy
        self._copying = threading.RLock()
        self._sent: dict[int, float] = {}

    def sending(self, command: Command) -> None:
        """Refuse a write to another database, and copy the collections that the command names."""
        self._note_transaction(command)
        if what := forbidden_write(command, self._home):
            error = EscapesRehearsalError(what, self._home)
            self.activity.escapes.append(error)
            raise error
        if self._is_home(command):
            self._copy_named(command)
        elif command.name in READS and command.database not in SYSTEM:
            self.activity.elsewhere.add(_target(command))
        self._sent[threading.get_ident()] = time.monotonic()

    def answered(self, command: Command, _: object) -> None:
        """Add the time of a command to that of its collection."""
        now = time.monotonic()
        took = now - self._sent.pop(threading.get_ident(), now)
        name, activity = command.collection, self.activity
        if command.database != self._home or not name or name in self._ours:
            return
        activity.spent[name] = activity.spent.get(name, 0.0) + took
        if command.name not in _GROWING:
            activity.fixed += took
        elif statements := keyed_statements(command):
            activity.keyed += took
            activity.statements += statements

    def _is_home(self, command: Command) -> bool:
        return command.database == self._home or command.name in BY_FULL_NAME

    def _note_transaction(self, command: Command) -> None:
        session = command.session_id
        if not isinstance(session, bytes):
            return
        if command.document.get("autocommit") is not False or command.name in _ENDING:
            self.activity.open.discard(bytes(session))
        elif self._is_home(command):
            self.activity.open.add(bytes(session))

    def _copy_named(self, command: Command) -> None:
        if not (names := named_collections(command) - self._ours):
            return
        activity, began = self.activity, time.monotonic()
        activity.began = activity.began or began
        activity.touched |= names - {EVERYTHING}
        with self._copying:
            copied = outside_transaction(lambda: self._copy(names))
        now = time.monotonic()
        activity.excluded += now - began
        document = command.document
        if copied and document.get("autocommit") is False and "startTransaction" not in document:
            # The transaction began before these documents existed. By the driver's rules, this error makes the
            # migration's transaction run once more.
            activity.excluded = now - activity.began
            activity.spent, activity.statements = {}, 0
            activity.fixed = activity.keyed = 0.0
            msg = "The rehearsal copied a collection after the transaction had begun"
            details = {"errorLabels": ["TransientTransactionError"], "code": _WRITE_CONFLICT}
            raise OperationFailure(msg, _WRITE_CONFLICT, details)


def forbidden_write(command: Command, home: str) -> str | None:
    """Describe what a command changes outside the database `home`; None if nothing."""
    if command.name.startswith(_ACCOUNTS):
        return f"send {command.name} to {command.database}"
    if all(database == home for database in _written_databases(command)):
        return None
    return f"send {command.name} to {_target(command)}"


def named_collections(command: Command) -> frozenset[str]:
    """List the collections that a command names at any depth; EVERYTHING if it lists all."""
    if command.name == "listCollections":
        named = (command.document.get("filter") or {}).get("name")
        return frozenset({named if isinstance(named, str) else EVERYTHING})
    names = {name.partition(".")[2] for name in namespaces(command)}
    # A view that is created, or that shows another collection from now on.
    shown = command.document.get("viewOn")
    return frozenset(names | ({shown} if isinstance(shown, str) else set()))


def keyed_statements(command: Command) -> int:
    """Count the documents that a command names by `_id` or inserts; 0 if it can affect others."""
    document = command.document
    if command.name == "insert":
        return len(document.get("documents", ()))
    queries = {
        "update": [each["q"] for each in document.get("updates", ())],
        "delete": [each["q"] for each in document.get("deletes", ())],
        "find": [document.get("filter")],
        "findAndModify": [document.get("query")],
    }.get(command.name, [])
    return len(queries) if all(map(_is_keyed, queries)) else 0


def _is_keyed(query: object) -> bool:
    if not isinstance(query, Mapping) or set(query) != {"_id"}:
        return False
    key = query["_id"]
    return not (isinstance(key, Mapping) and any(str(name).startswith("$") for name in key))


def _target(command: Command) -> str:
    if command.name in BY_FULL_NAME:
        return ", ".join(sorted(namespaces(command)))
    return ".".join(filter(None, (command.database, command.collection)))


def _written_databases(command: Command) -> Iterable[str]:
    if command.name in BY_FULL_NAME:
        return [name.partition(".")[0] for name in namespaces(command)]
    if command.name == "mapReduce":
        out = command.document.get("out")
        return [out.get("db", command.database) if isinstance(out, Mapping) else command.database]
    if command.name == "aggregate":
        return [n.partition(".")[0] for n in written_by(command.pipeline, command.database)]
    harmless = command.name in READS or command.name in _HARMLESS
    return [] if harmless else [command.database]
