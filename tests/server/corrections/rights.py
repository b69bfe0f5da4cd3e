# SPDX-License-Identifier: GPL-2.0-only
"""Rights: what each role may do, where access control is on (`--auth`)."""

from __future__ import annotations

from collections.abc import Mapping

from secantus import commands, rbac, server

from .operations import session_of
from .patching import in_transaction, refusal, replacement

CLUSTER = None
VALIDATE, CONVERT, READ_SYSTEM, MONITOR = "validate", "convertToCapped", "readSystem", "monitor"
KILL_ANY_SESSION = "killAnySession"
FREE = {
    *commands._PRE_AUTH_COMMANDS,
    *commands._NO_PRIVILEGE_COMMANDS,
    *("listDatabases", "killSessions", "refreshSessions", "configureFailPoint", "killCursors"),
}
CHANGES = {
    # role: actions that it lacks, actions that it has
    "readWrite": ({rbac.A_COLL_MOD, rbac.A_BYPASS_DOC_VALIDATION}, {CONVERT}),
    "dbAdmin": ((), {rbac.A_BYPASS_DOC_VALIDATION, VALIDATE, CONVERT}),
    "dbOwner": ((), {VALIDATE, CONVERT}),
    "clusterMonitor": ((), {READ_SYSTEM, MONITOR}),
    "clusterAdmin": ((), {READ_SYSTEM, MONITOR, KILL_ANY_SESSION}),
    "root": ((), {VALIDATE, CONVERT, READ_SYSTEM, MONITOR, KILL_ANY_SESSION}),
}
NEEDS = {
    # command: the action, and whether it concerns the cluster
    "validate": (VALIDATE, False),
    "compact": (VALIDATE, False),
    "reIndex": (VALIDATE, False),
    "convertToCapped": (CONVERT, False),
    "dataSize": (rbac.A_FIND, False),
    "replSetGetStatus": (MONITOR, True),
    "killAllSessions": (KILL_ANY_SESSION, True),
    "killAllSessionsByPattern": (KILL_ANY_SESSION, True),
}
STAGES_FOR_ALL = ("$listLocalSessions", "$planCacheStats")

for role, (lacks, has) in CHANGES.items():
    for name in (role, f"{role}AnyDatabase"):
        if name in rbac.BUILT_IN_ROLES:
            specification = rbac.BUILT_IN_ROLES[name]
            specification.actions = (specification.actions - set(lacks)) | has


@replacement(server, "dispatch")
def dispatch_with_rights(dispatch, doc, ctx):
    known = ctx.connection_auth if ctx.require_auth else None
    if known is None or not known.is_authenticated:
        return dispatch(doc, ctx)
    name = next(iter(doc), "")
    for action, database in _needs(name, doc, ctx, known):
        if not _is_granted(action, database, ctx, known):
            _end_transaction(doc, ctx)
            where = database or "the cluster"
            return refusal(13, "Unauthorized", f"not authorized on {where} to execute {name}")
    ctx.require_auth = False  # What follows has been checked.
    return dispatch(doc, ctx)


def _is_granted(action, database, ctx, known):
    return commands.check_privilege(
        known.effective_roles,
        action,
        target_db=database,
        cluster=database is CLUSTER,
        role_resolver=ctx.storage.get_role,
    )


def _end_transaction(doc, ctx):
    if in_transaction(doc) and (session := session_of(doc)) is not None:
        ctx.transactions.abort_for_session(session)


def _needs(name, doc, ctx, known):
    """What the command needs: actions, each with its database, or None for the cluster."""
    database = ctx.db_name
    if doc.get("bypassDocumentValidation"):
        yield rbac.A_BYPASS_DOC_VALIDATION, database
    if name in FREE:
        return
    if name in SPECIAL:
        yield from SPECIAL[name](doc, database, known)
    elif name in NEEDS:
        action, is_cluster = NEEDS[name]
        yield action, CLUSTER if is_cluster else database
    elif name in commands._COMMAND_ACTIONS:
        action, scope = commands._COMMAND_ACTIONS[name]
        system = database in ("local", "config") and scope != rbac.SCOPE_CLUSTER
        whole = system or scope == rbac.SCOPE_CLUSTER
        yield READ_SYSTEM if system else action, CLUSTER if whole else database


def _aggregate(doc, database, known):
    pipeline = [stage for stage in doc.get("pipeline") or () if isinstance(stage, Mapping)]
    stage, options = next(iter(pipeline[0].items())) if pipeline else ("", None)
    if stage == "$currentOp":
        if (options or {}).get("allUsers"):
            yield rbac.A_INPROG, CLUSTER
    elif stage == "$indexStats":
        yield MONITOR, CLUSTER
    elif stage == "$collStats":
        yield rbac.A_COLL_STATS, database
    elif stage not in STAGES_FOR_ALL:
        yield (rbac.A_FIND, database)
    yield from commands._pipeline_secondary_requirements(doc, database)
    for joined in (each["$unionWith"] for each in pipeline if "$unionWith" in each):
        if isinstance(joined, Mapping):
            yield from _aggregate(joined, database, known)


def _rename(doc, _, known):
    source, target = (str(doc.get(end)).split(".")[0] for end in ("renameCollection", "to"))
    yield rbac.A_RENAME_COLL_SAME_DB, source
    if target != source:
        yield rbac.A_RENAME_COLL_SAME_DB, target


def _current_op(doc, database, known):
    if not doc.get("$ownOps"):
        yield rbac.A_INPROG, CLUSTER


def _profile(doc, database, known):
    reads = doc["profile"] == -1 and commands.check_privilege(
        known.effective_roles, MONITOR, target_db=CLUSTER, cluster=True
    )
    if not reads:
        yield rbac.A_ENABLE_PROFILER, database


def _users_info(doc, database, known):
    asked = doc["usersInfo"]
    asked = asked.get("user") if isinstance(asked, Mapping) else asked
    if asked not in [user for _, user in known.authenticated_principals]:
        yield rbac.A_VIEW_USER, database


SPECIAL = {
    "aggregate": _aggregate,
    "renameCollection": _rename,
    "currentOp": _current_op,
    "profile": _profile,
    "usersInfo": _users_info,
}
