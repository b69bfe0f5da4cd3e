"""Checks of transactions, and of writes that need one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .checking import STORES, Hit, called, changes, hit, is_new
from .facts import INDEX_BUILDS, Kind, words

if TYPE_CHECKING:
    from .checking import Hits, ParsedMigration
    from .facts import CodeCall, Handler


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
    for call in migration.calls:
        if call.on(Kind.SESSION) and call.method in {"start_transaction", "with_transaction"}:
            if migration.file.transactional:
                yield hit(call, "A transactional migration refuses a second transaction.")
            else:
                yield hit(call, "This transaction does not contain the migration's record.")


def missing_session(migration: ParsedMigration) -> Hits:
    """Find statements that are not part of the manual transaction around them."""
    for call in migration.calls:
        place = call.place
        outside = "session" not in call.keywords and call.complete and not place.bound
        if not (place.opened and outside) or call.method in _NO_COMMAND:
            continue
        if call.on(Kind.DATABASE, Kind.COLLECTION):
            message = f"{called(call)} has no `session=`, so it is not part of the transaction."
            yield hit(call, message)


_NO_COMMAND = words("get_collection with_options")


def backfill_in_transaction(migration: ParsedMigration) -> Hits:
    """Find backfills in a transaction."""
    for call in migration.calls_in_transaction:
        if call.is_backfill:
            yield hit(call, "A transactional migration refuses `ctx.backfill()`.")


def caught_in_transaction(migration: ParsedMigration) -> Hits:
    """Find handlers for errors of writes in a transaction: such an error aborts it."""
    for call in migration.calls_in_transaction:
        for handler in call.place.handlers if changes(call) else ():
            if _catches_driver_errors(handler):
                message = f"An error of {called(call)} is caught, but it aborts the transaction."
                yield hit(call, message, handler.node)


def _catches_driver_errors(handler: Handler) -> bool:
    return not handler.catches or not handler.catches.isdisjoint(_DRIVER_ERRORS)


_DRIVER_ERRORS = words(
    "BaseException BulkWriteError ClientBulkWriteException CollectionInvalid DuplicateKeyError"
    " Exception ExecutionTimeout OperationFailure PyMongoError WTimeoutError WriteConcernError"
    " WriteError"
)


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
    writes: dict[int, CodeCall] = {}
    repeatable: set[int] = set()
    for call in migration.facts.up:
        if call.method in INDEX_BUILDS or call.is_backfill:
            repeatable.add(id(call.node))
        elif changes(call):
            writes[id(call.node)] = call
    looped = any(call.place.loops for call in writes.values())
    if writes and (looped or len(writes) + len(repeatable) > 1):
        message = "If up() crashes between its writes, some are done, and the next `up` runs all of them again."
        yield Hit(migration.definition("up"), message, "up")
