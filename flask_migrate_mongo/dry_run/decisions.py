"""The commands that a dry run knows: what it does with each, which documents each writes, and how its reply counts them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from flask_migrate_mongo.driver.commands import Command
from flask_migrate_mongo.driver.server import Document, DocumentView
from flask_migrate_mongo.model.reports import Effects


class Decision(Enum):
    """What a dry run does with a command. Before that, a command that uses a closed collection ends the step."""

    EXECUTE = auto()
    """Send it in the transaction."""
    READ_SERVER = auto()
    """Send it outside of the transaction, which cannot hold it."""
    READ_DATABASE = auto()
    """The same, but end the step if collections were created, or closed."""
    READ_INDEXES = auto()
    """The same, but end the step if the collection was created, or an index of it was not built."""
    READ_COLLECTION = auto()
    """The same, but end the step if documents of the collection were changed."""
    CREATE = auto()
    """Send it in the transaction if the collection is new and empty, and no view. Otherwise REPORT."""
    BUILD = auto()
    """Send it if the collection is new and empty. Otherwise check for duplicate keys, report, and answer.

    The collection is not closed: its documents are the same without the index.
    """
    REPORT = auto()
    """Report it, answer that it succeeded, and close the collections that it would change."""
    REPORT_ONLY = auto()
    """Report it and answer that it succeeded: documents and other commands do not depend on it."""
    REFUSE = auto()
    """End the step."""


WRITES = ("insert", "update", "delete", "findAndModify", "bulkWrite")

DECISIONS = {
    **dict.fromkeys(WRITES, Decision.EXECUTE),
    **dict.fromkeys(("find", "getMore", "killCursors", "aggregate", "distinct"), Decision.EXECUTE),
    **dict.fromkeys(("ping", "hello", "isMaster", "buildInfo"), Decision.READ_SERVER),
    **dict.fromkeys(("connectionStatus", "getParameter"), Decision.READ_SERVER),
    **dict.fromkeys(("listCollections", "listDatabases", "dbStats"), Decision.READ_DATABASE),
    "listIndexes": Decision.READ_INDEXES,
    **dict.fromkeys(("count", "collStats", "$collStats"), Decision.READ_COLLECTION),
    **dict.fromkeys(("$indexStats", "$listSearchIndexes"), Decision.READ_COLLECTION),
    "create": Decision.CREATE,
    "createIndexes": Decision.BUILD,
    **dict.fromkeys(("drop", "dropIndexes", "dropDatabase"), Decision.REPORT),
    **dict.fromkeys(("renameCollection", "collMod", "$out", "$merge"), Decision.REPORT),
    **dict.fromkeys(("createSearchIndexes", "updateSearchIndex"), Decision.REPORT_ONLY),
    "dropSearchIndex": Decision.REPORT_ONLY,
}
"""By the command, or by the last or first stage of an aggregation.

All others are refused. `validate`, for example, would wait for this very transaction, and the application for `validate`.
"""


def operation_of(command: Command) -> str:
    """Name a command, or the stage of an aggregation that no transaction can hold."""
    stages = command.pipeline if isinstance(command.pipeline, list) else ()
    names = [next(iter(stage), "") for stage in (*stages[-1:], *stages[:1])]
    known = (name for name in names if name.startswith("$") and name in DECISIONS)
    return next(known, command.name)


# --- writes


@dataclass(frozen=True, slots=True)
class Statement:
    """One write of a command: the document that it inserts, or the documents that match its filter."""

    namespace: str
    inserted: Document | None = None
    filter: Document = field(default_factory=dict)
    many: bool = False
    options: Document = field(default_factory=dict)


def statements(command: Command) -> Iterator[Statement]:
    """Yield the writes of a command, in their order."""
    shared = {"let": command.document["let"]} if "let" in command.document else {}
    for namespace, part in _parts(command):
        if "document" in part:
            yield Statement(namespace, part["document"])
        else:
            query = part.get("q") or part.get("query") or part.get("filter") or {}
            many = part.get("multi", part.get("limit") == 0)
            options = {name: part[name] for name in ("sort", "collation") if part.get(name)}
            yield Statement(namespace, None, query, many, shared | options)


def _parts(command: Command) -> Iterator[tuple[str, DocumentView]]:
    """Yield the parts of a command that are writes, each with its collection; an insert has a `document`."""
    document, name = command.document, command.name
    if name == "bulkWrite":
        names = [info["ns"] for info in document["nsInfo"]]
        for each in document["ops"]:
            yield names[each[next(iter(each))]], each
    elif name == "findAndModify":
        yield command.namespace, document
    elif name == "insert":
        for each in document["documents"]:
            yield command.namespace, {"document": each}
    elif name in {"update", "delete"}:
        for each in document[f"{name}s"]:
            yield command.namespace, each


def upserted_ids(reply: DocumentView) -> list[object]:
    """List the `_id`s of upserted documents; the reply of a `bulkWrite` has none."""
    last = reply.get("lastErrorObject") or {}
    found = [each["_id"] for each in reply.get("upserted", ())]
    return [*found, last["upserted"]] if "upserted" in last else found


def effects_of(name: str, reply: DocumentView, *, changed: bool) -> Effects:
    """Read from a reply what the command did; `changed` says whether a findAndModify changed its document."""
    if name == "insert":
        return Effects(inserted=reply["n"])
    if name == "delete":
        return Effects(deleted=reply["n"])
    if name == "bulkWrite":
        totals = ("nInserted", "nMatched", "nModified", "nDeleted", "nUpserted")
        return Effects(*(reply[total] for total in totals))
    upserted = len(upserted_ids(reply))
    if name == "update":
        return Effects(0, reply["n"] - upserted, reply["nModified"], upserted=upserted)
    last = reply.get("lastErrorObject") or {}
    number = last.get("n", 0)
    if "updatedExisting" not in last:
        return Effects(deleted=number)
    modified = int(changed and not upserted)
    return Effects(matched=number - upserted, modified=modified, upserted=upserted)
