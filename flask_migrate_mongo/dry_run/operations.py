"""The operations that a dry run executes, and those that it reports because no transaction can hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymongo.errors import DuplicateKeyError, OperationFailure

from flask_migrate_mongo.driver.commands import namespaces, written_by
from flask_migrate_mongo.model.errors import redact
from flask_migrate_mongo.model.reports import Effects, NotExecuted

from . import indexes, showing
from .budget import EndOfStep

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from flask_migrate_mongo.backfill import ExecutedBatches
    from flask_migrate_mongo.driver.commands import Command
    from flask_migrate_mongo.driver.server import Document
    from flask_migrate_mongo.model.masking import Mask
    from flask_migrate_mongo.model.reports import Violation

    from .requests import CommandRequest

_WRITES = frozenset({"insert", "update", "findAndModify", "bulkWrite"})
_EXECUTED = _WRITES | {"delete", "find", "getMore", "killCursors", "aggregate", "distinct"}

# Reads that the server refuses in a transaction.
_STATISTICS = frozenset({"$collStats", "$indexStats", "$listSearchIndexes"})
_OF_A_DATABASE = frozenset({"listCollections", "listDatabases", "dbStats"})
_READS = (
    _STATISTICS
    | _OF_A_DATABASE
    | {"count", "collStats", "listIndexes"}
    | {"ping", "hello", "isMaster", "buildInfo", "connectionStatus", "getParameter"}
)

_SEARCH_INDEXES = frozenset({"createSearchIndexes", "updateSearchIndex", "dropSearchIndex"})
_RESULTS = frozenset({"$out", "$merge"})
_REPORTED = (
    _SEARCH_INDEXES
    | _RESULTS
    | {"drop", "dropIndexes", "dropDatabase", "renameCollection", "collMod", "create"}
)


class OperationFilter:
    """Decides for each command of a dry run whether it is executed, and reports those that are not.

    After an operation that was not executed, the first command that uses its collection ends the step. An index is the
    exception: without it the documents are the same. `ended` says why the step ended.
    """

    def __init__(self, database: Database[Document], session: ClientSession, mask: Mask) -> None:
        self.session = session
        self.ended: str | None = None
        self._home = database.name
        self._mask = mask
        found = list(database.list_collections())
        self._existing = {f"{self._home}.{each['name']}" for each in found}
        self._views = {f"{self._home}.{each['name']}" for each in found if each["type"] == "view"}
        self._created: set[str] = set()
        self._changed: dict[str, Effects] = {}
        self._closed: dict[str, str] = {}
        self._unbuilt: dict[str, list[Document]] = {}
        self._unchecked: set[str] = set()
        self._entries: list[NotExecuted] = []

    @property
    def unbuilt(self) -> str:
        """The names of the indexes that were not built."""
        return ", ".join(each["name"] for found in self._unbuilt.values() for each in found)

    def label(self, namespace: str) -> str:
        """Name a collection, with its database if that is another one; or a database."""
        database, _, name = namespace.partition(".")
        return name if name and database == self._home else namespace.rstrip(".")

    def take(self) -> tuple[NotExecuted, ...]:
        """Take the operations that were not executed since the last call."""
        found, self._entries = tuple(self._entries), []
        self._unchecked.clear()
        return found

    def end(self, why: str) -> EndOfStep:
        """Keep the reason why the step ends here, and make the exception to raise."""
        self.ended = self.ended or why
        return EndOfStep(self.ended)

    # --- commands that are executed

    def check(self, command: Command) -> None:
        """Raise EndOfStep if the command uses a collection after an operation that was not executed."""
        if self.ended is not None:
            raise EndOfStep(self.ended)
        for used in sorted(namespaces(command)):
            if cause := self._closed_by(used):
                raise self.end(f"it uses {self.label(used)} after {cause}")
            if command.name in _WRITES:
                self._note_unchecked(used)

    def _closed_by(self, namespace: str) -> str | None:
        if namespace in self._views and self._closed:  # It may read any of them.
            return next(iter(self._closed.values()))
        return self._closed.get(namespace) or self._closed.get(_database_of(namespace))

    def _note_unchecked(self, namespace: str) -> None:
        found = self._unbuilt.get(namespace, ())
        names = [index["name"] for index in found if indexes.may_refuse(index)]
        if names and namespace not in self._unchecked:
            self._unchecked.add(namespace)
            detail = f"not checked: whether what is written violates {', '.join(names)}"
            self._note("createIndexes", namespace, None, detail)

    def add(self, namespace: str, effects: Effects) -> None:
        """Note what a command changed in a collection."""
        self._changed[namespace] = self._changed.get(namespace, Effects()) + effects
        if self._is_new(namespace) and effects.inserted + effects.upserted:
            self._created.add(namespace)

    def add_backfill(self, done: ExecutedBatches) -> None:
        """Note a backfill, unless all its batches were executed."""
        if not done.complete:
            left = None if done.estimated is None else max(done.estimated - done.processed, 0)
            namespace = f"{self._home}.{done.collection}"
            self._note("backfill", namespace, left, _extrapolated(done))
            self._closed[namespace] = "the first batches of a backfill"

    # --- commands that the driver is about to send

    def answer(self, request: CommandRequest) -> Document:
        """Execute a command, or answer it without sending it."""
        operation, namespace = _operation(request.command), request.command.namespace
        if operation in _EXECUTED:
            return request.forward()
        self.check(request.command)
        if operation in _READS:
            return self._read_outside(operation, request)
        if self._is_allowed(operation, request.command):
            self._created.add(namespace)
            return request.forward()
        if operation == "createIndexes":
            return self._create_indexes(request)
        if operation not in _REPORTED:
            raise self.end(f"a dry run does not execute `{operation}`")
        if operation != "drop" or not self._is_new(namespace) or namespace in self._created:
            self._report(operation, request)
        return _reply(request.command)

    def _read_outside(self, operation: str, request: CommandRequest) -> Document:
        """Read outside of the transaction what no transaction can read, if both are the same."""
        namespace = request.command.namespace
        if self._has_changed(operation, namespace):
            raise self.end(f"`{operation}` cannot read what this dry run has changed")
        if operation == "listIndexes" and self._is_new(namespace):
            return _reply(request.command)  # The server's error would count as the step's.
        return request.forward(inside=False)

    def _has_changed(self, operation: str, namespace: str) -> bool:
        if operation in _OF_A_DATABASE:
            return bool(self._created or self._closed)
        if operation == "listIndexes":
            return namespace in self._created or namespace in self._unbuilt
        may_read_any = namespace in self._views
        return namespace in self._changed or (may_read_any and bool(self._changed))

    def _is_allowed(self, operation: str, command: Command) -> bool:
        """Whether it makes a collection, or indexes of one without documents: a transaction can hold these."""
        if not self._is_new(command.namespace) or command.namespace in self._changed:
            return False
        special = {"viewOn", "timeseries"} & command.document.keys()
        return operation == "createIndexes" or (operation == "create" and not special)

    def _report(self, operation: str, request: CommandRequest) -> None:
        """Report an operation. From then on its collections cannot be used."""
        command = request.command
        own = [command.namespace]
        if operation == "renameCollection":
            own = [str(command.document["renameCollection"]), str(command.document["to"])]
        elif operation == "dropDatabase":
            own = [_database_of(command.namespace)]
        elif operation in _RESULTS:
            own = list(written_by(command.pipeline, command.database))
        results = self._results(request) if operation in _RESULTS else self._count(own[0], request)
        arguments = _arguments(operation, command)
        detail = showing.text(self._mask.document(arguments)) if arguments else ""
        self._note(operation, own[0], results, detail)
        if operation not in _SEARCH_INDEXES:
            self._closed.update(dict.fromkeys(own, f"{operation}, which was not executed"))

    def _results(self, request: CommandRequest) -> int:
        """Count the documents that an aggregation writes."""
        document = request.command.document
        kept = {key: value for key, value in document.items() if key != "writeConcern"}
        counting = {**kept, "pipeline": [*document["pipeline"][:-1], {"$count": "n"}]}
        found = request.results(counting, inside=True)
        return int(found[0]["n"]) if found else 0

    def _create_indexes(self, request: CommandRequest) -> Document:
        command = request.command
        listing = {"listIndexes": command.collection}
        existing = [] if self._is_new(command.namespace) else request.results(listing)
        names = {index["name"] for index in existing}
        missing = [each for each in command.document["indexes"] if each["name"] not in names]
        if not missing:
            return request.forward()  # The server compares the definitions.
        documents = self._count(command.namespace, request)
        for index in missing:
            found = self._duplicates(request, index) if index.get("unique") else None
            violations = None if isinstance(found, str) else found
            detail = indexes.described(index, found)
            self._note("createIndexes", command.namespace, documents, detail, violations)
            if violations:
                raise _refusal(command.namespace, index, violations[0])
            self._unbuilt.setdefault(command.namespace, []).append(index)
        return _reply(command)

    def _duplicates(self, request: CommandRequest, index: Document) -> tuple[Violation, ...] | str:
        """Look for keys that several documents have; a text says why they are not known."""
        if why := indexes.uncheckable(index):
            return why
        inside = request.command.namespace in self._changed
        check = {"aggregate": request.command.collection, **indexes.check(index)}
        try:
            found = request.results(check, inside=inside)
        except OperationFailure as exc:
            if exc.timeout:
                raise
            why = redact(str((exc.details or {}).get("errmsg")))
            if inside:
                raise self.end(f"checking {index['name']} ended the transaction: {why}") from exc
            return why
        return indexes.violations(index, found, self._mask)

    def _note(
        self,
        operation: str,
        namespace: str,
        documents: int | None,
        detail: str,
        violations: tuple[Violation, ...] | None = None,
    ) -> None:
        name = self.label(namespace)
        self._entries.append(NotExecuted(operation, name, documents, detail, violations))

    def _is_new(self, namespace: str) -> bool:
        """Whether a collection did not exist before; in another database each is taken to exist."""
        at_home = namespace.startswith(f"{self._home}.")
        return at_home and namespace not in self._existing

    def _count(self, namespace: str, request: CommandRequest) -> int | None:
        """Count about how many documents a collection has by now; None when that is not known."""
        database, _, name = namespace.partition(".")
        if not name:
            return None
        try:
            committed: int = request.ask(database, {"count": name})["n"]
        except OperationFailure:
            return None
        done = self._changed.get(namespace, Effects())
        return max(committed + done.inserted + done.upserted - done.deleted, 0)


def _operation(command: Command) -> str:
    """Name a command, or the stage of an aggregation that no transaction can hold."""
    stages = command.pipeline if isinstance(command.pipeline, list) else ()
    names = [next(iter(stage), "") for stage in (*stages[:1], *stages[-1:])]
    return next((name for name in names if name in _STATISTICS | _RESULTS), command.name)


def _arguments(operation: str, command: Command) -> Document:
    if operation in _RESULTS:
        return dict(command.document["pipeline"][-1])
    _, *arguments = command.document.items()
    return dict(arguments)


def _reply(command: Command) -> Document:
    """Make the reply of a command that succeeds: the same for all that are not executed."""
    made = [{"name": each.get("name", "default")} for each in command.document.get("indexes", ())]
    cursor = {"id": 0, "ns": command.namespace, "firstBatch": []}
    return {"ok": 1.0, "cursor": cursor, "indexesCreated": made}


def _refusal(namespace: str, index: Document, violation: Violation) -> DuplicateKeyError:
    """Make the error that the server answers an index with, for its first duplicate key."""
    key = showing.text(violation.key)
    message = (
        f"E11000 duplicate key error collection: {namespace} index: {index['name']} dup key: {key}"
    )
    return DuplicateKeyError(message, 11000, {"code": 11000, "errmsg": message})


def _database_of(namespace: str) -> str:
    return f"{namespace.partition('.')[0]}."


def _extrapolated(done: ExecutedBatches) -> str:
    if done.estimated is None or not done.processed:
        return f"its first {done.processed:,} documents were changed; the total is not known"
    seconds = done.seconds * max(done.estimated / done.processed, 1)
    return (
        f"{done.processed:,} of about {done.estimated:,} documents were changed; at that speed all of them take "
        f"about {seconds:,.0f} s"
    )
