# SPDX-License-Identifier: GPL-2.0-only
"""Transactions: what they refuse, what ends them, how long they live, and who waits for them."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass, field

from secantus import commands, deadline, server, transactions
from secantus.transactions import TRANSIENT_LABEL, TxnState

from . import indexes
from .operations import current_operation
from .patching import (
    Refused,
    add,
    answer_to,
    in_transaction,
    is_view,
    options_of,
    refusal,
    replacement,
)
from .writes import failed_write

LIFETIME = float(os.environ.get("STRICT_TXN_LIFETIME", "60"))
HAS_TRANSACTIONS = os.environ.get("STRICT_TRANSACTIONS", "1") == "1"
ENDS = {"commitTransaction", "abortTransaction"}
PARTS = {"startTransaction", "autocommit"}
READS = {"find", "aggregate", "distinct"}
WRITES = {"insert", "update", "delete", "findAndModify"}
DEFINITIONS = {"create", "createIndexes"}
LATER_ONLY = {"killCursors"}


@dataclass
class Facts:
    """What the server forgets about a transaction."""

    number: int
    level: str
    namespaces: set[str] = field(default_factory=set)


_facts: dict[bytes, Facts] = {}
"""By session: the newest transaction of it."""


def unsupported(message):
    return refusal(263, "OperationNotSupportedInTransaction", message)


@replacement(commands, "_resolve_txn_statement")
def resolve(resolve_statement, name, doc, ctx, lsid, number):
    """Refuse a statement where mongod refuses it, and end the transaction only if mongod does."""
    if not ctx.replica_set_name:
        message = "Transaction numbers are only allowed on a replica set member or mongos"
        return None, refusal(20, "IllegalOperation", message)
    starting = bool(doc.get("startTransaction"))
    if name not in commands._TXN_ALLOWED_COMMANDS or (starting and name in LATER_ONLY):
        # A transaction that runs is left as it is.
        return None, unsupported(f"Cannot run '{name}' in a multi-document transaction.")
    transaction, error = resolve_statement(name, doc, ctx, lsid, number)
    if error is not None:
        return None, error
    if starting:
        level = (doc.get("readConcern") or {}).get("level", "local")
        _facts[lsid] = Facts(int(number), level)
    facts = _facts[lsid]
    try:
        error = _refused(name, doc, ctx, transaction, facts)
    except Refused as exc:
        error = exc.reply
    if error:
        ctx.transactions.abort_in_progress(transaction)
        return None, error
    if name == "killSessions":
        # It ends the transaction that it is sent in, and runs outside.
        ctx.transactions.abort_in_progress(transaction)
        return None, None
    facts.namespaces |= _namespaces(name, doc, ctx)
    return transaction, None


def _refused(name, doc, ctx, transaction, facts):
    database, level = ctx.db_name, facts.level
    if _is_queued(_namespaces(name, doc, ctx) - facts.namespaces):
        # mongod waits for 5 ms first.
        error = refusal(24, "LockTimeout", "Unable to acquire lock within 5ms.")
        return {**error, "errorLabels": [TRANSIENT_LABEL]}
    if database in ("config", "local"):
        return unsupported(f"Cannot run command against the '{database}' database in a transaction")
    local_only = name in DEFINITIONS or (name == "killSessions" and doc.get("startTransaction"))
    if local_only and level != "local":
        message = f"Command {name} does not support {{ readConcern: {{ level: {level!r} }} }}"
        return refusal(72, "InvalidOptions", f"{message} in a transaction")
    if name in READS:
        return _unavailable(name, doc, ctx, transaction, level)
    if name == "create" and "viewOn" in doc:
        return unsupported("Cannot create a view in a multi-document transaction.")
    return _index_refused(doc, ctx, transaction) if name == "createIndexes" else None


def _unavailable(name, doc, ctx, transaction, level):
    """Refuse to read what the transaction's snapshot does not hold."""
    collection, storage = doc.get(name), ctx.storage
    if not isinstance(collection, str):
        return None
    message = None
    capped = options_of(ctx, collection).get("capped")
    if capped and level == "snapshot":
        message = "Reading from capped collections with readConcern snapshot is not supported"
    elif transaction.handle is not None and storage.collection_exists(ctx.db_name, collection):
        with storage.use_user_transaction(transaction.handle):
            if not storage.collection_exists(ctx.db_name, collection):
                message = "Unable to read from a snapshot due to pending collection catalog changes"
    if message is None:
        return None
    error = refusal(246, "SnapshotUnavailable", message)
    return {**error, "errorLabels": [TRANSIENT_LABEL]}


def _index_refused(doc, ctx, transaction):
    storage, database, collection = ctx.storage, ctx.db_name, doc["createIndexes"]
    exists = storage.collection_exists(database, collection)
    if exists and indexes.all_exist(doc, ctx):
        return None
    if not exists:
        if transaction.handle is None:
            return None
        with storage.use_user_transaction(transaction.handle):
            if not storage.count_matching(database, collection, {}):
                return None
    where = "existing" if exists else "non-empty"
    message = f"Cannot create new indexes on {where} collection {database}.{collection}"
    return unsupported(f"{message} in a multi-document transaction.")


def _namespaces(name, doc, ctx):
    """The collections that the statement locks until the transaction ends."""
    names = {doc[name]} if name in READS | WRITES | DEFINITIONS | {"count"} else set()
    for stage in doc.get("pipeline") or ():
        for joined in ("$lookup", "$graphLookup"):
            names.add((stage.get(joined) or {}).get("from"))
    return {f"{ctx.db_name}.{each}" for each in names if isinstance(each, str)}


@answer_to("insert", "update", "delete")
def write_in_transaction(handler, doc, ctx):
    """A write to a capped collection is refused in the reply of the write."""
    name = next(iter(doc))
    if in_transaction(doc) and options_of(ctx, doc[name]).get("capped"):
        message = f"Cannot write to capped collection {ctx.db_name}.{doc[name]} in a transaction"
        return failed_write(name, 263, message)
    return handler(doc, ctx)


@replacement(commands, "_txn_unsupported_reason")
def reason_but_for_capped(unsupported_reason, name, doc, ctx):
    capped = name in WRITES - {"findAndModify"} and options_of(ctx, doc.get(name)).get("capped")
    return None if capped else unsupported_reason(name, doc, ctx)


# --- who waits for a transaction ---


_queue = []
"""What tells the namespaces of a definition that waits."""


def wait_for_transactions(ctx, locked):
    """Wait, as an exclusive lock does, until no transaction holds a namespace that is `locked`."""
    _queue.append(locked)
    try:
        while _is_held(ctx, locked):
            deadline.check_now()
            time.sleep(0.003)
    finally:
        _queue.remove(locked)


def _is_queued(namespaces):
    return any(locked(each) for locked in tuple(_queue) for each in namespaces)


@answer_to(*READS, *WRITES, "count", "create")
def wait_behind_definitions(handler, doc, ctx):
    """Wait behind a definition that waits: nobody overtakes an exclusive lock."""
    name = next(iter(doc))
    while not in_transaction(doc) and _is_queued(_namespaces(name, doc, ctx)):
        deadline.check_now()
        time.sleep(0.003)
    return handler(doc, ctx)


def _is_held(ctx, locked):
    for session, facts in list(_facts.items()):
        transaction = ctx.transactions._txns.get(session)
        if (
            transaction is not None
            and transaction.txn_number == facts.number
            and transaction.state is TxnState.IN_PROGRESS
        ):
            if any(map(locked, facts.namespaces)):
                return True
        elif _facts.get(session) is facts:
            del _facts[session]
    return False


@answer_to("drop", "dropIndexes", "collMod", "createIndexes", "validate")
def wait_for_collection(handler, doc, ctx):
    name = next(iter(doc))
    namespace = f"{ctx.db_name}.{doc[name]}"
    builds_nothing = name == "createIndexes" and indexes.all_exist(doc, ctx)
    if not builds_nothing and not in_transaction(doc) and not is_view(ctx, doc[name]):
        wait_for_transactions(ctx, lambda held: held == namespace)
    return handler(doc, ctx)


@answer_to("renameCollection")
def wait_for_both_collections(handler, doc, ctx):
    names = {doc["renameCollection"], doc.get("to")}
    wait_for_transactions(ctx, lambda held: held in names)
    return handler(doc, ctx)


@answer_to("dropDatabase")
def wait_for_database(handler, doc, ctx):
    wait_for_transactions(ctx, lambda held: held.startswith(f"{ctx.db_name}."))
    return handler(doc, ctx)


# --- how long a transaction lives ---

LIFETIME_NAME = "transactionLifetimeLimitSeconds"


@answer_to("getParameter")
def tell_lifetime(handler, doc, ctx):
    reply = handler(doc, ctx)
    return {LIFETIME_NAME: int(LIFETIME), **reply} if LIFETIME_NAME in doc else reply


@replacement(commands, "_run_txn_statement")
def run_within_lifetime(run_statement, transaction, handler, doc, ctx):
    age = ctx.transactions._time() - transaction.started_at
    operation = current_operation()
    operation.ends = time.perf_counter() + LIFETIME - age
    reply = run_statement(transaction, handler, doc, ctx)
    # The server does not look while it writes what a statement found.
    operation.check()
    return reply


@replacement(transactions.TransactionRegistry, "_prune_locked")
def prune_from_the_start(prune_locked, self):
    """A transaction lives so long from its start on, however busy it is."""
    oldest, pruned = self._time() - self._lifetime, 0
    for transaction in list(self._txns.values()):
        if not transaction.mutex.acquire(blocking=False):
            continue  # A statement is running: it ends itself, or the next sweep sees to it.
        try:
            running = transaction.state is TxnState.IN_PROGRESS
            if running and transaction.started_at < oldest:
                self._rollback_quietly(transaction)
                transaction.state = TxnState.ABORTED
                pruned += 1
        finally:
            transaction.mutex.release()
    return pruned


@replacement(server.SecantusDBServer, "start")
def start_with_sweeper(start, self, *args, **kwargs):
    started = start(self, *args, **kwargs)
    self.transactions._lifetime = LIFETIME

    def sweep():
        while True:
            time.sleep(min(1.0, LIFETIME / 4))
            with contextlib.suppress(Exception):
                self.transactions.prune_expired()

    threading.Thread(target=sweep, daemon=True, name="sweeper").start()
    return started


@replacement(commands, "_is_wt_rollback")
def conflict_at_commit(is_rollback, exc):
    """A commit that lost against a concurrent one is a write conflict, which a driver retries.

    The storage engine reports it as EINVAL here, which came out as an internal error.
    """
    lost = type(exc).__name__ == "WiredTigerError" and str(exc) == "Invalid argument"
    return lost or is_rollback(exc)


add(commands, "_TXN_BLOCKED_AGG_STAGES", "$unionWith")
add(commands, "_TXN_ALLOWED_COMMANDS", "killSessions")
add(commands, "_KILL_CURSORS_KNOWN_FIELDS", "startTransaction", "readConcern")


if not HAS_TRANSACTIONS:

    @replacement(server, "dispatch")
    def without_transactions(dispatch, doc, ctx):
        """Answer as FerretDB does: a statement of a transaction takes effect at once."""
        if (name := next(iter(doc), "")) in ENDS:
            return refusal(59, "CommandNotFound", f"no such command: '{name}'")
        parts = {*PARTS, "txnNumber"} if PARTS & doc.keys() else set()
        reply = dispatch({key: value for key, value in doc.items() if key not in parts}, ctx)
        return {key: value for key, value in reply.items() if key != "$clusterTime"}
