"""Keeps what migrations do in the scratch database of their rehearsal.

Every command of the process is heard before it is sent, whichever thread or client sends it. What
would change another database is refused; a collection that is named for the first time is brought
in; and the time that each collection takes is kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure

from flask_migrate_mongo.driver.commands import BY_FULL_NAME, namespaces, written_by
from flask_migrate_mongo.driver.listener import outside
from flask_migrate_mongo.model.errors import EscapesRehearsalError

if TYPE_CHECKING:
    from flask_migrate_mongo.driver.commands import Command

EVERYTHING = "*"
"""Stands for every collection, among the names that a command touches."""

_READS = frozenset(
    {
        *("aggregate", "collStats", "count", "dataSize", "dbStats", "distinct", "find"),
        *("getMore", "listCollections", "listIndexes"),
    }
)
# Those take longer the more documents there are; the others, drops or collMod say, do not.
_GROWING = frozenset(
    {
        *("aggregate", "bulkWrite", "count", "createIndexes", "delete", "distinct", "find"),
        *("findAndModify", "getMore", "insert", "mapReduce", "update"),
    }
)
# Those change nothing that stays: handshakes, sessions, looks at the server.
_HARMLESS = frozenset(
    {
        *("abortTransaction", "authenticate", "buildInfo", "commitTransaction"),
        *("connectionStatus", "currentOp", "endSessions", "explain", "getCmdLineOpts"),
        *("getParameter", "hello", "hostInfo", "isMaster", "ismaster", "isdbgrid"),
        *("killCursors", "killSessions", "listCommands", "listDatabases", "logout"),
        *("ping", "refreshSessions", "replSetGetStatus", "rolesInfo", "saslContinue"),
        *("saslStart", "serverStatus", "startSession", "top", "usersInfo", "whatsmyuri"),
    }
)
# Users and roles are kept elsewhere: they would outlive the scratch database.
_OUTLIVES = (
    *("createRole", "createUser", "dropAll", "dropRole", "dropUser"),
    *("grant", "revoke", "updateRole", "updateUser"),
)
_SYSTEM = frozenset({"admin", "config", "local"})
_TRANSIENT = {"errorLabels": ["TransientTransactionError"], "code": 112}

Bring = Callable[[str], bool]
"""Brings a collection, or EVERYTHING, into the scratch database; returns whether it did just now."""


class Enclosure:
    """A tap that keeps a rehearsal's migrations inside the database called `home`.

    `ours` names the collections there that are this package's own.
    """

    def __init__(self, home: str, ours: frozenset[str], bring: Bring) -> None:
        self.home = home
        self._ours = ours
        self._bring = bring
        self._mutex = threading.RLock()
        self._sent: dict[int, float] = {}
        self._open: set[bytes] = set()
        self.begin()

    def begin(self) -> None:
        """Forget what was heard: another step starts."""
        self.escapes: list[EscapesRehearsalError] = []
        self.elsewhere: set[str] = set()
        self.touched: set[str] = set()
        self.spent: dict[str, float] = {}
        self.fixed = self.keyed = self.lost = 0.0
        self.statements = 0
        self._began = time.monotonic()

    @property
    def open_transactions(self) -> tuple[bytes, ...]:
        """The sessions of transactions that were neither committed nor aborted."""
        return tuple(self._open)

    # --- what a tap hears

    def sending(self, command: Command) -> None:
        """Refuse what goes elsewhere, and bring in what the command is about."""
        self._note_transaction(command)
        if what := trespass(command, self.home):
            error = EscapesRehearsalError(what, self.home)
            self.escapes.append(error)
            raise error
        if command.database == self.home or command.name in BY_FULL_NAME:
            self._bring_in(command)
        elif command.name in _READS and command.database not in _SYSTEM:
            self.elsewhere.add(_target(command))
        self._sent[threading.get_ident()] = time.monotonic()

    def answered(self, command: Command, reply: Mapping[str, Any]) -> None:  # noqa: ARG002  (the protocol's)
        """Note how long the command took, and on which collection of the migration's."""
        took = time.monotonic() - self._sent.pop(threading.get_ident(), time.monotonic())
        name = command.collection
        if command.database != self.home or not name or name in self._ours:
            return
        self.spent[name] = self.spent.get(name, 0.0) + took
        if command.name not in _GROWING:
            self.fixed += took
        elif statements := keyed_statements(command):
            self.keyed += took
            self.statements += statements

    def _bring_in(self, command: Command) -> None:
        names = collections_of(command) - self._ours
        self.touched |= names - {EVERYTHING}
        began = time.monotonic()
        with self._mutex:
            brought = [name for name in sorted(names) if outside(lambda n=name: self._bring(n))]  # type: ignore[misc]
        self.lost += time.monotonic() - began
        document = command.document
        if brought and document.get("autocommit") is False and "startTransaction" not in document:
            self._start_again()

    def _start_again(self) -> None:
        """Make the driver's rules call up() once more: its transaction began before the documents came."""
        self.lost = time.monotonic() - self._began
        self.spent.clear()
        self.fixed = self.keyed = 0.0
        self.statements = 0
        msg = "The rehearsal brought in a collection after the transaction had begun"
        raise OperationFailure(msg, 112, _TRANSIENT)

    def _note_transaction(self, command: Command) -> None:
        session = command.session_id
        if command.document.get("autocommit") is not False or session is None:
            return
        if command.name in {"commitTransaction", "abortTransaction"}:
            self._open.discard(bytes(session))  # type: ignore[call-overload]
        else:
            self._open.add(bytes(session))  # type: ignore[call-overload]


# --- what a command is about


def trespass(command: Command, home: str) -> str | None:
    """Return what a command would change outside of the database called `home`, or None."""
    if command.name.startswith(_OUTLIVES):
        return f"send {command.name} to {command.database}"
    elsewhere = [database for database in _written(command) if database != home]
    return f"send {command.name} to {_target(command)}" if elsewhere else None


def collections_of(command: Command) -> frozenset[str]:
    """Return the collections that a command names, wherever it does; EVERYTHING when it lists them."""
    if command.name == "listCollections":
        return frozenset({EVERYTHING})
    return frozenset(name.partition(".")[2] for name in namespaces(command))


def keyed_statements(command: Command) -> int:
    """Return how many documents a command is for, if it is for single ones alone; otherwise 0."""
    document = command.document
    if command.name == "insert":
        return len(document.get("documents", ()))
    asked = {
        "update": [each["q"] for each in document.get("updates", ())],
        "delete": [each["q"] for each in document.get("deletes", ())],
        "find": [document.get("filter")],
        "findAndModify": [document.get("query")],
    }.get(command.name, [])
    return len(asked) if all(map(_is_keyed, asked)) else 0


def _is_keyed(query: object) -> bool:
    if not isinstance(query, Mapping) or set(query) != {"_id"}:
        return False
    key = query["_id"]
    return not (isinstance(key, Mapping) and any(str(name).startswith("$") for name in key))


def _target(command: Command) -> str:
    if command.name in BY_FULL_NAME:
        return ", ".join(sorted(namespaces(command)))
    return ".".join(filter(None, (command.database, command.collection)))


def _written(command: Command) -> Iterable[str]:
    """Return the databases that a command writes to."""
    if command.name in BY_FULL_NAME:
        return [name.partition(".")[0] for name in namespaces(command)]
    if command.name == "mapReduce":
        out = command.document.get("out")
        return [out.get("db", command.database) if isinstance(out, Mapping) else command.database]
    if command.name == "aggregate":
        return [n.partition(".")[0] for n in written_by(command.pipeline, command.database)]
    harmless = command.name in _READS or command.name in _HARMLESS
    return [] if harmless else [command.database]
