"""Replays recorded commands against a server and compares the answers with those of a real mongod.

A file of `tests/recorded` has `setups`, lists of commands that many cases begin with, and `cases`.
README.md there describes the steps of a case and the shape of an answer.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bson import json_util
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.server_api import ServerApi
from pymongo.write_concern import WriteConcern

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pymongo.client_session import ClientSession

Document = dict[str, Any]

RECORDED = Path(__file__).parent.parent / "recorded"
SUBJECTS = ("transactions", "writes", "collections", "indexes")
LABELS = ("TransientTransactionError", "UnknownTransactionCommitResult", "RetryableWriteError")


@dataclass(frozen=True)
class Case:
    """Commands on a fresh database, and what mongod answered to each."""

    subject: str
    name: str
    topology: str
    setup: tuple[Document, ...]
    steps: tuple[Document, ...]
    answers: tuple[Document, ...]

    @property
    def title(self) -> str:
        """Its name among the cases of all files."""
        return f"{self.subject}: {self.name}"


@dataclass(frozen=True)
class IndexTable:
    """What mongod answers to the creation of each index after each other one.

    An answer is "exists", an error code, or "beside" for an index that was built.
    """

    specifications: dict[str, Document]
    come_back: dict[str, Document]
    answers: dict[str, dict[str, object]]

    def answer(self, first: str, second: str) -> object:
        """Mongod's answer to the second, when the first is there."""
        return self.answers[first].get(second, "beside")


@cache
def recorded_cases() -> tuple[Case, ...]:
    """Read the cases of all files."""
    return tuple(case for subject in SUBJECTS for case in _cases_of(subject))


@cache
def recorded_index_table() -> IndexTable:
    """Read the table of index identity."""
    table = _read("index-identity.json")
    return IndexTable(
        specifications=json_util.loads(json.dumps(table["specs"])),
        come_back=table["comesBack"],
        answers=table["then"],
    )


def _cases_of(subject: str) -> Iterable[Case]:
    recording = _read(f"replies-{subject}.json")
    for case in recording["cases"]:
        setup = case.get("setup", [])
        yield Case(
            subject=subject,
            name=case["name"],
            topology=case.get("topology", "replica"),
            setup=tuple(recording["setups"][setup] if isinstance(setup, str) else setup),
            steps=tuple(case["steps"]),
            answers=tuple(case["seen"]),
        )


def _read(name: str) -> Any:
    return json.loads((RECORDED / name).read_text(encoding="utf-8"))


@dataclass
class Replay:
    """Plays cases on one server; to be closed."""

    uri: str
    _clients: dict[str, MongoClient[Document]] = field(default_factory=dict)

    def close(self) -> None:
        """Close the clients."""
        for client in self._clients.values():
            client.close()

    def client(self, api: Mapping[str, Any] | None = None) -> MongoClient[Document]:
        """A client that retries nothing; `api` is the stable API that it declares."""
        key = json.dumps(api)
        if key not in self._clients:
            self._clients[key] = MongoClient(
                self.uri,
                retryWrites=False,
                retryReads=False,
                serverSelectionTimeoutMS=10_000,
                server_api=ServerApi(**api) if api else None,
            )
        return self._clients[key]

    def play(self, case: Case) -> tuple[Document, ...]:
        """Run the case on a fresh database and return the server's answers.

        If a command of the setup fails, its error is the only answer.
        """
        scene = _Scene(self, f"t_{uuid.uuid4().hex[:10]}")
        try:
            for command in case.setup:
                step = command if "cmd" in command else {"cmd": command}
                answer = scene.run(step)
                if answer != {"ok": 1}:
                    return ({"setup": step["cmd"], **answer},)
            return tuple(scene.play(step) for step in case.steps)
        finally:
            scene.close()

    def index_after(
        self, database: str, collection: str, pair: tuple[Document, Document]
    ) -> object:
        """Create two indexes one after the other and return the answer to the second."""
        db = self.client()[database]
        first, second = pair
        try:
            db.command("createIndexes", collection, indexes=[first])
            reply = db.command("createIndexes", collection, indexes=[second])
        except OperationFailure as exc:
            return exc.code
        return "exists" if reply.get("note") else "beside"

    def index_that_comes_back(
        self, database: str, collection: str, specification: Document
    ) -> Document:
        """Create an index and return what listIndexes says of it."""
        db = self.client()[database]
        db.command("createIndexes", collection, indexes=[specification])
        indexes = db.command("listIndexes", collection)["cursor"]["firstBatch"]
        [found] = [index for index in indexes if index["name"] == specification["name"]]
        come_back: Document = _as_json(found)
        return come_back


class _Scene:
    """The database and the sessions of one case."""

    def __init__(self, replay: Replay, database: str) -> None:
        self._replay = replay
        self._database = database
        self._sessions: dict[str, ClientSession] = {}

    def play(self, step: Document) -> Document:
        """Take one step and return the answer."""
        if "forget" in step:
            session = self._session(step["forget"])
            self._replay.client().admin.command("killSessions", [session.session_id])
            return {"ok": 1}
        if "end" in step:
            return self._end(self._session(step["in"]), step["end"])
        return self.run(step)

    def run(self, step: Document) -> Document:
        """Send the command of a step, in its session if it names one."""
        session = self._session(step["in"]) if step.get("in") else None
        if "begin" in step:
            assert session is not None
            _begin(session, step["begin"] or {})
        client = self._replay.client(step.get("api"))
        command = self._filled(json_util.loads(json.dumps(step["cmd"])))
        database = client[self._filled(step.get("db", "$db"))]
        try:
            reply = database.command(command, session=session)
        except PyMongoError as exc:
            return _failure(exc)
        answer = {"ok": 1, **{path: _value_at(reply, path) for path in step.get("keep", ())}}
        if reply.get("writeErrors"):
            answer["writeErrors"] = [error["code"] for error in reply["writeErrors"]]
        return answer

    def close(self) -> None:
        """End the sessions first, because a drop waits for open transactions."""
        for session in self._sessions.values():
            session.end_session()
        self._replay.client().drop_database(self._database)

    def _session(self, name: str) -> ClientSession:
        if name not in self._sessions:
            self._sessions[name] = self._replay.client().start_session()
        return self._sessions[name]

    def _end(self, session: ClientSession, how: str) -> Document:
        try:
            if how == "commit":
                session.commit_transaction()
            else:
                session.abort_transaction()
        except PyMongoError as exc:
            return _failure(exc)
        return {"ok": 1}

    def _filled(self, value: Any) -> Any:
        """Put the database's name in place of $db."""
        if isinstance(value, str):
            return value.replace("$db", self._database)
        if isinstance(value, dict):
            return {self._filled(key): self._filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._filled(item) for item in value]
        return value


def _begin(session: ClientSession, options: Mapping[str, Any]) -> None:
    level = options.get("readConcern")
    session.start_transaction(
        read_concern=ReadConcern(level) if level else None,
        write_concern=WriteConcern(options.get("w", "majority")),
    )


def _failure(exc: PyMongoError) -> Document:
    code = getattr(exc, "code", None)
    if code is None:
        return {"error": type(exc).__name__}
    details = exc.details if isinstance(exc, OperationFailure) and exc.details else {}
    answer: Document = {"code": code, "name": details.get("codeName")}
    labels = [label for label in LABELS if exc.has_error_label(label)]
    return {**answer, "labels": labels} if labels else answer


def _value_at(reply: Mapping[str, Any], path: str) -> Any:
    found: Any = reply
    for part in path.split("."):
        if isinstance(found, list):
            found = found[int(part)] if int(part) < len(found) else None
        else:
            found = found.get(part) if isinstance(found, dict) else None
    return _as_json(found)


def _as_json(value: Any) -> Any:
    return json.loads(json_util.dumps(value))
