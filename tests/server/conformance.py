"""Checks each command that a process sends, before it is sent, against what mongod accepts.

A violation is a command that mongod refuses, or that ends work of this very process. It is raised as the server's error
and fails the test. A note is a command of this package (not of a test or a migration) that only some deployments accept:
`EXPECTED_NOTES` lists them, so that a new one is seen. The sessions that a process uses are reported too.

It looks at commands alone. What depends on the data of the server is the test server's to refuse.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymongo
from pymongo.errors import OperationFailure
from pymongo.monitoring import _EventListeners

if TYPE_CHECKING:
    from types import FrameType

Command = MutableMapping[str, Any]

# jstests/core/txns/commands_not_allowed_in_txn.js and Command::allowedInTransactions() of mongod.
IN_TRANSACTION = {
    *("find", "getMore", "aggregate", "distinct", "insert", "update", "delete", "findAndModify"),
    *("bulkWrite", "killCursors", "create", "createIndexes"),
    *("commitTransaction", "abortTransaction"),
}
# The manual, "Transactions and Operations".
STAGES_OUTSIDE_TRANSACTIONS = {
    *("$out", "$merge", "$collStats", "$currentOp", "$indexStats", "$listLocalSessions"),
    *("$listSessions", "$planCacheStats", "$changeStream"),
}
# These do not run in the session that they carry.
WITHOUT_SESSION = {
    *("killSessions", "killAllSessions", "killAllSessionsByPattern", "endSessions", "hello"),
    *("refreshSessions", "startSession", "ismaster", "isMaster", "configureFailPoint"),
}
# The role `readWrite` in mongod's builtin_roles.yml.
BEYOND_READ_WRITE = {
    *("collMod", "dropDatabase", "validate", "getParameter", "setParameter", "currentOp"),
    *("serverStatus", "top", "profile", "compact", "reIndex", "createUser", "killOp"),
}
# Atlas, "Unsupported Commands in M0 and Flex Clusters".
NOT_ON_M0 = {
    *("killSessions", "killAllSessions", "killAllSessionsByPattern", "getParameter"),
    *("setParameter", "compact", "top", "validate", "currentOp"),
}
# As a mongod 5.0 answered a client with strict API version 1.
NOT_IN_STABLE_API = {
    *("killSessions", "getParameter", "distinct", "count", "collStats", "buildInfo"),
    *("serverStatus", "validate", "currentOp", "isMaster", "renameCollection"),
}

EXPECTED_NOTES = frozenset(
    {
        ("needs more than readWrite", "getParameter"),  # A refusal is handled.
        ("not on Atlas M0 and Flex", "getParameter"),
        ("not in API version 1", "getParameter"),
        ("needs more than readWrite", "dropDatabase"),
        ("needs more than readWrite", "collMod"),
        ("needs bypassDocumentValidation", "insert"),
        ("not on Atlas M0 and Flex", "killSessions"),  # Logged.
        ("not in API version 1", "killSessions"),
        ("not in API version 1", "buildInfo"),  # `doctor` then says that the version is unknown.
        (
            "not in API version 1",
            "listIndexes",
        ),  # Without it, a build in progress looks like an index.
        ("storageStats are not in API version 1", "aggregate"),  # Without them, sizes are unknown.
        ("not in API version 1", "count"),  # Where `$collStats` is refused, or for a view.
    }
)
"""Pairs of a note and a command: what this package sends although not each deployment accepts it."""

ENDS_OWN_STATEMENT = "_end_own_statement"
"""The function that may kill a session of its own process while a statement runs in it."""

FOLDER = "CONFORMANCE_FOLDER"
"""The environment variable with the folder that all processes report to."""

SITE = Path(__file__).with_name("site")
_PACKAGE = str(Path(__file__).parents[2] / "flask_migrate_mongo")
_WRAPPERS = (
    "driver/commands.py",
    "driver/confinement.py",
    "dry_run/operations.py",
    "rehearsal/guard.py",
)
"""Modules of the package through which commands of a migration pass."""
_DRIVER = str(Path(pymongo.__file__).parent)


class Watch:
    """What one process has sent."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._mutex = threading.Lock()
        self._users: dict[bytes, int] = {}
        self._levels: dict[tuple[bytes, int], str] = {}

    def _report(self, kind: str, text: str, name: str) -> None:
        with self._mutex, self._log.open("a", encoding="utf-8") as out:
            out.write(f"{kind}\t{text}\t{name}\n")

    def begin(self, command: Command) -> None:
        """Check a command that is about to be sent."""
        name = next(iter(command))
        session = _session(command)
        if _is_ours():
            for note in _notes(name, command):
                self._report("note", note, name)
        problem = self._problem(name, command, session)
        if problem is not None:
            code, text = problem
            self._report("violation", text, name)
            raise OperationFailure(text, code, {"ok": 0, "code": code, "errmsg": text})
        if session is not None and name not in WITHOUT_SESSION:
            if session not in self._users:
                self._report("session", session.hex(), name)
            self._users[session] = threading.get_ident()

    def _problem(
        self, name: str, command: Command, session: bytes | None
    ) -> tuple[int, str] | None:
        if name == "killSessions":
            return self._kill(command)
        if name in {"createIndexes", "collMod"} and _expires_before_1970(command):
            return 67, "expireAfterSeconds reaches back before 1970"
        if name in WITHOUT_SESSION or session is None:
            return None
        if command.get("autocommit") is False:
            return self._in_transaction(name, command, session)
        return _refused_write(name, command)

    def _kill(self, command: Command) -> tuple[int, str] | None:
        """Refuse to kill a session of another thread: the driver has it in its pool, or in use."""
        users = {self._users.get(bytes(each["id"])) for each in command["killSessions"]}
        if users - {None, threading.get_ident()} and not _is_called_by(ENDS_OWN_STATEMENT):
            return 11601, "killSessions ends a session of another thread of this very process"
        return None

    def _in_transaction(
        self, name: str, command: Command, session: bytes
    ) -> tuple[int, str] | None:
        key = session, int(command["txnNumber"])
        if command.get("startTransaction"):
            self._levels[key] = (command.get("readConcern") or {}).get("level", "local")
        elif "readConcern" in command:
            return 72, "only the first statement of a transaction has a read concern"
        if name not in {"commitTransaction", "abortTransaction"} and "writeConcern" in command:
            return 72, "only commitTransaction and abortTransaction have a write concern"
        if name in {"create", "createIndexes"} and self._levels.get(key, "local") != "local":
            return 72, "create and createIndexes in a transaction need read concern local"
        return None


def _session(command: Command) -> bytes | None:
    found = (command.get("lsid") or {}).get("id")
    return None if found is None else bytes(found)


def _expires_before_1970(command: Command) -> bool:
    found = [*command.get("indexes", ()), command.get("index") or {}]
    return any(each.get("expireAfterSeconds", 0) > time.time() for each in found)


def _refused_write(name: str, command: Command) -> tuple[int, str] | None:
    """Find what mongod refuses in an update outside a transaction."""
    if name not in {"update", "findAndModify"}:
        return None
    for each in command.get("updates", [command]):
        if each.get("upsert") and "$expr" in (each.get("q", command.get("query")) or {}):
            return 224, "$expr is not allowed in the query of an upsert"
        if each.get("multi") and "txnNumber" in command:
            return 72, "an update of several documents is no retryable write"
    return None


def _notes(name: str, command: Command) -> list[str]:
    """Say which deployments refuse this command."""
    inside = command.get("autocommit") is False
    stages = {stage for each in command.get("pipeline", ()) for stage in each}
    found = {
        "needs more than readWrite": name in BEYOND_READ_WRITE,
        "needs bypassDocumentValidation": bool(command.get("bypassDocumentValidation")),
        "not on Atlas M0 and Flex": name in NOT_ON_M0,
        "not in API version 1": name in NOT_IN_STABLE_API
        or "$indexStats" in stages
        or "includeBuildUUIDs" in command,
        "storageStats are not in API version 1": any(
            "storageStats" in each.get("$collStats", ()) for each in command.get("pipeline", ())
        ),
        "not acknowledged": (command.get("writeConcern") or {}).get("w") == 0,
        "not in a transaction": inside
        and (name not in IN_TRANSACTION or bool(stages & STAGES_OUTSIDE_TRANSACTIONS)),
        "counts a collection in a transaction": inside
        and command.get("pipeline") == [{"$match": {}}, {"$group": {"_id": 1, "n": {"$sum": 1}}}],
    }
    return [note for note, holds in found.items() if holds]


def _is_ours() -> bool:
    """Whether the command is sent by this package, and not by a migration or a test."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_PACKAGE) and not path.endswith(_WRAPPERS):
            return True
        passes_on = path.startswith((_DRIVER, _PACKAGE)) or path == __file__
        if not passes_on and "contextlib" not in path:
            return False
        frame = frame.f_back
    return False


def _is_called_by(function: str) -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == function:
            return True
        frame = frame.f_back
    return False


def watch(patch: Callable[[object, str, object], None] = setattr) -> None:
    """Check all commands of this process from now on."""
    seen = Watch(Path(os.environ[FOLDER]) / f"{os.getpid()}-{uuid.uuid4().hex}")
    start = _EventListeners.publish_command_start

    def begin(self: Any, command: Command, *rest: Any, **named: Any) -> None:
        seen.begin(command)
        start(self, command, *rest, **named)

    patch(_EventListeners, "publish_command_start", begin)
    patch(_EventListeners, "enabled_for_commands", property(lambda _: True))
