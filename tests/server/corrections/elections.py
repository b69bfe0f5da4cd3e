# SPDX-License-Identifier: GPL-2.0-only
"""Elections: what a server refuses and ends while it is no primary."""

from __future__ import annotations

from types import SimpleNamespace

from secantus import commands, server

from .operations import StepDown, interrupt
from .patching import answer_to, in_transaction, refusal, replacement

READS = {"find", "aggregate", "distinct", "count", "listCollections", "listIndexes"}
READS |= {"listDatabases", "collStats", "dbStats"}
ON_ANY_MEMBER = READS | {
    *("hello", "isMaster", "ismaster", "ping", "buildInfo", "connectionStatus", "whatsmyuri"),
    *("getMore", "killCursors", "killSessions", "killAllSessions", "killAllSessionsByPattern"),
    *("endSessions", "refreshSessions", "startSession", "saslStart", "saslContinue", "logout"),
    *("authenticate", "serverStatus", "replSetGetStatus", "replSetStepDown", "getParameter"),
    *("setParameter", "configureFailPoint", "currentOp", "killOp", "hostInfo", "getLog", "top"),
}
NOT_PRIMARY_CODES = {10107, 13435, 11602, 13436, 189, 91, 11600, 10058}


@answer_to("replSetStepDown")
def step_down(handler, doc, ctx):
    """End what runs and every transaction, as a step-down does."""
    reply = handler(doc, ctx)
    if reply.get("ok"):
        interrupt(lambda operation: operation.name not in ON_ANY_MEMBER - READS, StepDown)
        ctx.transactions.abort_all()
    return reply


@replacement(server, "dispatch")
def dispatch_on_a_primary(dispatch, doc, ctx):
    """Refuse what only a primary does; the error carries a topologyVersion.

    With it, a driver looks for the new primary at once.
    """
    stepped_down = ctx.step_down_state is not None and ctx.step_down_state.is_stepped_down()
    reply = (_refused(doc) if stepped_down else None) or dispatch(doc, ctx)
    not_primary = not reply.get("ok") and reply.get("code") in NOT_PRIMARY_CODES
    if not_primary and "topologyVersion" not in reply:
        counter = ctx.step_down_state.topology_counter() if ctx.step_down_state else 0
        reply["topologyVersion"] = {
            "processId": commands._HELLO_PROCESS_ID,
            "counter": commands.bson.Int64(counter),
        }
    failure = reply if not_primary else reply.get("writeConcernError", {})
    if failure.get("code") in NOT_PRIMARY_CODES and (labels := _labels(doc, failure["code"])):
        reply["errorLabels"] = labels
    return reply


def _labels(doc, code):
    """Say whether a driver may try again, without which it does not."""
    no_failpoint = SimpleNamespace(error_labels=None, server_injected=False)
    return commands._failpoint_error_labels(next(iter(doc), ""), doc, code, no_failpoint)


def _refused(doc):
    name = next(iter(doc), "")
    if name not in ON_ANY_MEMBER or in_transaction(doc):
        return refusal(10107, "NotWritablePrimary", "not primary")
    mode = (doc.get("$readPreference") or {}).get("mode", "primary")
    if name in READS and mode == "primary":
        return refusal(13435, "NotPrimaryNoSecondaryOk", "not primary and secondaryOk=false")
    return None
