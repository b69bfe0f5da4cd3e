# SPDX-License-Identifier: GPL-2.0-only
"""The SecantusDB daemon, brought closer to mongod where our tests would see the difference.

    python strict_server.py --port P --storage-path DIR [any flag of the daemon]

STRICT_TXN_LIFETIME is mongod's transactionLifetimeLimitSeconds (default 60).

This file imports SecantusDB, which is licensed under GPL-2.0-only, and so is under that licence
itself. It is run as a process of its own, imported by nothing and not part of the wheel. Each
correction asserts that what it corrects is still there.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from datetime import datetime, timezone

from secantus import commands, server, transactions
from secantus.cli import main
from secantus.expressions import evaluate

LIFETIME = float(os.environ.get("STRICT_TXN_LIFETIME", "60"))
INFORMATIVE = {"hello", "isMaster", "ismaster", "buildInfo", "connectionStatus", "ping"}
WRITES = {"insert", "update", "delete", "findAndModify"}
DEFINITIONS = {"create", "createIndexes", "bulkWrite"}
NOT_PRIMARY = {10107, 13435, 11602, 13436, 189, 91, 11600, 10058}

for owner, name in (
    (commands, "_resolve_let_vars"),
    (commands, "_resolve_txn_statement"),
    (commands, "_is_wt_rollback"),
    (transactions.TransactionRegistry, "_prune_locked"),
    (transactions, "_RETRYABLE_RECORD_MAX"),
    (server, "dispatch"),
):
    assert hasattr(owner, name), f"{owner} has no {name} any more: look at this file again"


def naive_now():
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


resolve_let = commands._resolve_let_vars


def let_with_comparable_now(let):
    """$$NOW compares with stored dates, which are naive."""
    now = naive_now()
    values = resolve_let(let)
    if isinstance(let, dict):
        values |= {key: evaluate(value, {}, vars={"NOW": now}) for key, value in let.items()}
    return {**values, "NOW": now}


def refusal(code, name, message):
    return {"ok": 0.0, "errmsg": message, "code": code, "codeName": name}


resolve_statement = commands._resolve_txn_statement


def strict_statement(name, doc, ctx, lsid, number):
    """A statement of a transaction is refused where mongod refuses it."""
    if not ctx.replica_set_name:
        message = "Transaction numbers are only allowed on a replica set member or mongos"
        return None, refusal(20, "IllegalOperation", message)
    if name in INFORMATIVE and not doc.get("startTransaction"):
        return ctx.transactions.for_statement(lsid, doc.get("lsid"), number, start=False)
    transaction, error = resolve_statement(name, doc, ctx, lsid, number)
    if error is None and (error := not_in_transaction(name, doc, ctx, transaction)):
        ctx.transactions.abort_in_progress(transaction)
        return None, error
    return transaction, error


def not_in_transaction(name, doc, ctx, transaction):
    database, collection = ctx.db_name, doc.get(name)
    unsupported = "OperationNotSupportedInTransaction"
    if (name in WRITES | DEFINITIONS and database in ("config", "local")) or (
        name in WRITES and database == "admin"
    ):
        return refusal(263, unsupported, f"Cannot write to {database!r} in a transaction")
    exists = name in DEFINITIONS and collection in ctx.storage.list_collections(database)
    if name == "create" and exists:
        return refusal(48, "NamespaceExists", f"Collection {database}.{collection} already exists.")
    if name == "createIndexes" and not index_allowed(doc, ctx, transaction, exists=exists):
        where = "existing" if exists else "non-empty"
        message = f"Cannot create new indexes on {where} collection {database}.{collection}"
        return refusal(263, unsupported, f"{message} in a multi-document transaction.")
    return None


def index_allowed(doc, ctx, transaction, *, exists):
    storage, database, collection = ctx.storage, ctx.db_name, doc["createIndexes"]
    if exists:
        present = {index["name"] for index in storage.list_indexes(database, collection)}
        return {index.get("name") for index in doc.get("indexes", [])} <= present
    if transaction.handle is None:
        return True
    with storage.use_user_transaction(transaction.handle):
        return not storage.count_matching(database, collection, {})


def prune_from_the_start(self):
    """A transaction lives so long from its start on, however busy it is."""
    oldest, pruned = self._time() - self._lifetime, 0
    for transaction in list(self._txns.values()):
        if not transaction.mutex.acquire(blocking=False):
            continue  # A statement is running: the next sweep sees to it.
        try:
            running = transaction.state is transactions.TxnState.IN_PROGRESS
            if running and transaction.started_at < oldest:
                self._rollback_quietly(transaction)
                transaction.state = transactions.TxnState.ABORTED
                pruned += 1
        finally:
            transaction.mutex.release()
    return pruned


start_server = server.SecantusDBServer.start


def start_with_sweeper(self, *args, **kwargs):
    started = start_server(self, *args, **kwargs)
    self.transactions._lifetime = LIFETIME

    def sweep():
        while True:
            time.sleep(min(1.0, LIFETIME / 4))
            with contextlib.suppress(Exception):
                self.transactions.prune_expired()

    threading.Thread(target=sweep, daemon=True, name="sweeper").start()
    return started


is_rollback = commands._is_wt_rollback


def conflict_at_commit(exc):
    """A commit that lost against a concurrent one is a write conflict, which a driver retries.

    The storage engine reports it as EINVAL here, which came out as an internal error.
    """
    lost = type(exc).__name__ == "WiredTigerError" and str(exc) == "Invalid argument"
    return lost or is_rollback(exc)


dispatch = server.dispatch
LIFETIME_NAME = "transactionLifetimeLimitSeconds"


def dispatch_as_mongod(doc, ctx):
    """NotPrimary errors carry a topologyVersion, so that a driver retries at once; a parameter more is told."""
    reply = dispatch(doc, ctx)
    if "getParameter" in doc and LIFETIME_NAME in doc:
        reply = {LIFETIME_NAME: int(LIFETIME), "ok": 1.0}
    if not reply.get("ok") and reply.get("code") in NOT_PRIMARY and "topologyVersion" not in reply:
        counter = ctx.step_down_state.topology_counter() if ctx.step_down_state else 0
        reply["topologyVersion"] = {
            "processId": commands._HELLO_PROCESS_ID,
            "counter": commands.bson.Int64(counter),
        }
    return reply


commands._resolve_let_vars = let_with_comparable_now
commands._is_wt_rollback = conflict_at_commit
commands._resolve_txn_statement = strict_statement
transactions.TransactionRegistry._prune_locked = prune_from_the_start
# The table of retryable writes is scanned at each write; a short one keeps writes fast.
transactions._RETRYABLE_RECORD_MAX = 200
server.SecantusDBServer.start = start_with_sweeper
server.dispatch = dispatch_as_mongod

if __name__ == "__main__":
    sys.exit(main())
