"""Commands of a dry run: executed, answered or refused as `decisions.py` says; those not executed are reported.

`Connection.command` sends all commands but finds and bulk writes. It is replaced while a step runs, so that every handle
of the application is covered.
"""

from __future__ import annotations

import contextlib
import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, OperationFailure
from pymongo.synchronous.pool import Connection

from flask_migrate_mongo.backfill import ExecutedBatches
from flask_migrate_mongo.driver.commands import (
    Command,
    namespaces,
    outside_transaction,
    without_listeners,
    written_by,
)
from flask_migrate_mongo.driver.patches import Patches, Replacement, assigned
from flask_migrate_mongo.driver.server import Document, Server
from flask_migrate_mongo.model.errors import MigrateError, message_of
from flask_migrate_mongo.model.masking import Mask
from flask_migrate_mongo.model.reports import Effects, NotExecuted, Violation

from . import showing
from .decisions import DECISIONS, WRITES, Decision, operation_of

if TYPE_CHECKING:
    Send = Callable[..., Document]


class EndOfStep(BaseException):
    """Raised in a migration's code when the dry run executes no more of the step; says why.

    Not an Exception, so that a migration's `except Exception` does not catch it.
    """


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """A command, and how the driver is about to send it: the function, and its arguments after the document."""

    command: Command
    send: Callable[..., Document]
    arguments: tuple[object, ...]
    options: Document

    @property
    def operation(self) -> str:
        """The command, or the stage of an aggregation, that is decided about."""
        return operation_of(self.command)

    def forward(self, *, inside: bool = True) -> Document:
        """Send the command as the migration gave it, in the transaction or outside of it."""
        options = self.options if inside else {**self.options, "session": None}
        return self.send(self.command.document, *self.arguments, **options)

    def results(self, command: Document, *, inside: bool = False) -> list[Document]:
        """Read the first batch of documents that a command of ours finds, on the same connection."""
        session = self.options["session"] if inside else None
        how = {"session": session, "client": self.options["client"], "codec_options": showing.READ}
        with without_listeners():
            found = self.send({**command, "cursor": {}}, **how)
        return list(found["cursor"]["firstBatch"])

    def try_results(self, command: Document, *, inside: bool = False) -> list[Document] | str:
        """Do the same; a text says why the server refused it. Raises the error of a time limit."""
        try:
            return self.results(command, inside=inside)
        except OperationFailure as exc:
            if exc.timeout:
                raise
            return message_of(exc)


class OperationFilter:
    """Follows DECISIONS for each command of a dry run. `ended` says why the step ended."""

    def __init__(self, database: Database[Document], session: ClientSession, mask: Mask) -> None:
        self.session = session
        self.ended: str | None = None
        self.mask = mask
        self._home = database.name
        found = list(database.list_collections())
        self._existing = {f"{self._home}.{each['name']}" for each in found}
        self._views = {f"{self._home}.{each['name']}" for each in found if each["type"] == "view"}
        # What the dry run has done since, by collection.
        self._created: set[str] = set()
        self._changed: defaultdict[str, Effects] = defaultdict(Effects)
        self._closed: dict[str, str] = {}
        self._unbuilt: defaultdict[str, list[Document]] = defaultdict(list)
        self._entries: list[NotExecuted] = []

    @property
    def unbuilt(self) -> str:
        """The names of the indexes that were not built."""
        return ", ".join(each["name"] for found in self._unbuilt.values() for each in found)

    def label(self, namespace: str) -> str:
        """Name a collection, with its database if that is another one; or a database."""
        database, _, name = namespace.partition(".")
        return name if name and database == self._home else namespace

    def take(self) -> tuple[NotExecuted, ...]:
        """Take the operations that were not executed since the last call."""
        found, self._entries = tuple(self._entries), []
        return found

    # --- commands that are executed

    def check(self, command: Command) -> None:
        """Raise EndOfStep if the command uses a collection after an operation that was not executed."""
        if self.ended is not None:
            raise EndOfStep(self.ended)
        for used in sorted(namespaces(command)):
            if cause := self._closed_by(used):
                raise self._end(f"it uses {self.label(used)} after {cause}")
            if command.name in WRITES and command.name != "delete":
                self._note_unchecked(used)

    def _end(self, why: str) -> EndOfStep:
        self.ended = why
        return EndOfStep(why)

    def _closed_by(self, namespace: str) -> str | None:
        if namespace in self._views and self._closed:  # It may read any of them.
            return next(iter(self._closed.values()))
        return self._closed.get(namespace) or self._closed.get(namespace.partition(".")[0])

    def _note_unchecked(self, namespace: str) -> None:
        found = self._unbuilt.get(namespace, ())
        names = [index["name"] for index in found if showing.may_refuse(index)]
        detail = f"not checked: whether what is written violates {', '.join(names)}"
        note = NotExecuted("createIndexes", self.label(namespace), None, detail)
        if names and note not in self._entries:
            self._entries.append(note)

    def add(self, namespace: str, effects: Effects) -> None:
        """Note what a command changed in a collection."""
        self._changed[namespace] += effects
        if self._is_new(namespace) and effects.inserted + effects.upserted:
            self._created.add(namespace)

    def add_backfill(self, done: ExecutedBatches) -> None:
        """Note a backfill, unless all its batches were executed."""
        if not done.complete:
            left = None if done.estimated is None else max(done.estimated - done.processed, 0)
            namespace = f"{self._home}.{done.collection}"
            note = NotExecuted("backfill", self.label(namespace), left, _extrapolated(done))
            self._entries.append(note)
            self._closed[namespace] = "the first batches of a backfill"

    def refuse_batch(self, collection: str) -> EndOfStep:
        """End the step at a batch that the server refused. A real run would leave documents of it out."""
        return self._end(
            f"the server refuses documents of the backfill of {collection}, and a real run leaves them out"
        )

    # --- commands that the driver is about to send

    def answer(self, request: CommandRequest) -> Document:
        """Execute a command, or answer it without sending it."""
        command, namespace = request.command, request.command.namespace
        decision = DECISIONS.get(request.operation, Decision.REFUSE)
        if decision is Decision.EXECUTE:
            return request.forward()
        self.check(command)
        if decision is Decision.REFUSE:
            raise self._end(f"a dry run does not execute `{request.operation}`")
        if decision in {Decision.CREATE, Decision.BUILD} and self._is_new_and_empty(command):
            self._created.add(namespace)
            return request.forward()
        if decision is Decision.BUILD:
            return self._create_indexes(request)
        if decision in {Decision.CREATE, Decision.REPORT, Decision.REPORT_ONLY}:
            is_missing = self._is_new(namespace) and namespace not in self._created
            if request.operation != "drop" or not is_missing:
                self._report(decision, request)
            return _reply(command)
        return self._read_outside(decision, request)

    def _is_new_and_empty(self, command: Command) -> bool:
        is_special = not command.document.keys().isdisjoint(("viewOn", "timeseries"))
        new = self._is_new(command.namespace) and command.namespace not in self._changed
        return new and not is_special

    def _read_outside(self, decision: Decision, request: CommandRequest) -> Document:
        namespace = request.command.namespace
        is_view = namespace in self._views  # It may read any collection.
        has_changed = {
            Decision.READ_SERVER: False,
            Decision.READ_DATABASE: bool(self._created or self._closed),
            Decision.READ_INDEXES: namespace in self._created or namespace in self._unbuilt,
            Decision.READ_COLLECTION: namespace in self._changed or (is_view and self._changed),
        }
        if has_changed[decision]:
            raise self._end(f"`{request.operation}` cannot read what this dry run has changed")
        if decision is Decision.READ_INDEXES and self._is_new(namespace):
            return _reply(request.command)  # The server's error would count as the step's.
        return request.forward(inside=False)

    def _report(self, decision: Decision, request: CommandRequest) -> None:
        command, operation = request.command, request.operation
        written = list(written_by(command.pipeline, command.database))
        own = written or [command.namespace]
        arguments = {key: part for key, part in command.document.items() if key != command.name}
        if written:
            arguments = dict(command.document["pipeline"][-1])
        elif operation == "renameCollection":
            own = [str(command.document["renameCollection"]), str(command.document["to"])]
        elif operation == "dropDatabase":
            own = [command.database]
        documents = self._count_results(request) if written else self.count(own[0])
        detail = showing.text(self.mask.document(arguments)) if arguments else ""
        self._entries.append(NotExecuted(operation, self.label(own[0]), documents, detail))
        if decision is not Decision.REPORT_ONLY:
            self._closed.update(dict.fromkeys(own, f"{operation}, which was not executed"))

    def _create_indexes(self, request: CommandRequest) -> Document:
        command, namespace = request.command, request.command.namespace
        listing = {"listIndexes": command.collection}
        existing = [] if self._is_new(namespace) else request.try_results(listing)
        names = {index["name"] for index in existing if isinstance(index, dict)}
        missing = [each for each in command.document["indexes"] if each["name"] not in names]
        if not missing:
            return request.forward()  # The server compares the definitions.
        documents, label = self.count(namespace), self.label(namespace)
        for index in missing:
            found = self._duplicates(request, index) if index.get("unique") else None
            violations = None if isinstance(found, str) else found
            detail = showing.index(index, found)
            self._entries.append(NotExecuted("createIndexes", label, documents, detail, violations))
            if violations:
                raise _refusal(namespace, index, violations[0])
            self._unbuilt[namespace].append(index)
        return _reply(command)

    def _duplicates(self, request: CommandRequest, index: Document) -> tuple[Violation, ...] | str:
        """Look for keys that several documents have; a text says why they are not known."""
        if why := showing.uncheckable(index):
            return why
        check = {"aggregate": request.command.collection, **showing.duplicates_query(index)}
        changed, why = request.command.namespace in self._changed, ""
        for query in (check | {"allowDiskUse": True}, check):  # Atlas M0 and Flex refuse the first.
            # First outside of the transaction, which an error would end.
            found = request.try_results(query)
            if changed and isinstance(found, list):
                found = request.try_results(query, inside=True)
                if isinstance(found, str):
                    raise self._end(f"checking {index['name']} ended the transaction: {found}")
            if isinstance(found, list):
                return showing.violations(index, found, self.mask)
            why = found
        return why

    def _is_new(self, namespace: str) -> bool:
        """Whether a collection did not exist before; in another database each is taken to exist."""
        at_home = namespace.startswith(f"{self._home}.")
        return at_home and namespace not in self._existing

    def count(self, namespace: str) -> int | None:
        """Count about how many documents a collection has by now; None when that is not known."""
        database, _, name = namespace.partition(".")
        if not name:
            return None
        server = Server(self.session.client[database])
        try:
            committed = outside_transaction(lambda: server.estimated_count(name))
        except MigrateError:  # It may not be read.
            return None
        done = self._changed.get(namespace, Effects())
        return max(committed + done.inserted + done.upserted - done.deleted, 0)

    def _count_results(self, request: CommandRequest) -> int:
        """Count the documents that an aggregation writes."""
        document = request.command.document
        counting = {**document, "pipeline": [*document["pipeline"][:-1], {"$count": "n"}]}
        counting.pop("writeConcern", None)
        found = request.results(counting, inside=bool(self._changed))
        return int(found[0]["n"]) if found else 0


def _reply(command: Command) -> Document:
    """Make the reply of a command that succeeds: the same for all that are not executed."""
    made = [{"name": each.get("name", "default")} for each in command.document.get("indexes", ())]
    cursor = {"id": 0, "ns": command.namespace, "firstBatch": []}
    return {"ok": 1.0, "cursor": cursor, "indexesCreated": made}


def _refusal(namespace: str, index: Document, violation: Violation) -> DuplicateKeyError:
    """Make the error that the server answers an index with, for its first duplicate key."""
    key = showing.text(violation.key)
    msg = (
        f"E11000 duplicate key error collection: {namespace} index: {index['name']} dup key: {key}"
    )
    return DuplicateKeyError(msg, 11000, {"code": 11000, "errmsg": msg})


def _extrapolated(done: ExecutedBatches) -> str:
    if done.estimated is None or not done.processed:
        return f"its first {done.processed:,} documents were changed; the total is not known"
    seconds = done.seconds * max(done.estimated / done.processed, 1)
    return (
        f"{done.processed:,} of about {done.estimated:,} documents were changed; at that speed all of them take "
        f"about {seconds:,.0f} s"
    )


# --- the driver's method that sends commands

_filter: ContextVar[OperationFilter | None] = ContextVar("filter", default=None)


@contextlib.contextmanager
def answered_by(operations: OperationFilter | None) -> Iterator[None]:
    """Let the filter, if there is one, answer the commands of its session in the current context."""
    with PATCHES, assigned(_filter, operations):
        yield


def _command(original: Send) -> Send:
    def command(
        connection: Connection, database: str, document: Document, *rest: object, **options: object
    ) -> Document:
        operations = _filter.get()
        # Commands without the session are the driver's own: those of a new connection, for example.
        if operations is None or options.get("session") is not operations.session:
            return original(connection, database, document, *rest, **options)
        send = functools.partial(original, connection, database)
        return operations.answer(CommandRequest(Command(database, document), send, rest, options))

    return command


PATCHES = Patches(Replacement(Connection, "command", _command))
