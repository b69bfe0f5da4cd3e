# SPDX-License-Identifier: GPL-2.0-only
"""Index builds in progress: they are listed, say how far they are, and whoever wants the same waits for them.

The failpoint `hangAfterStartingIndexBuild`, which mongod has too, lets a build wait where it has started.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field

import bson
from secantus import aggregate, deadline

from . import indexes
from .patching import answer_to

FAILPOINT = "hangAfterStartingIndexBuild"


@dataclass(eq=False)
class Build:
    """An index that is being built."""

    namespace: str
    spec: dict
    command: dict
    total: int
    id: bson.Binary = field(default_factory=lambda: bson.Binary.from_uuid(uuid.uuid4()))


_builds = []
_hangs = []


@answer_to("configureFailPoint")
def configure(handler, doc, ctx):
    if doc["configureFailPoint"] != FAILPOINT:
        return handler(doc, ctx)
    _hangs[:] = [] if doc.get("mode") == "off" else [True]
    return {"ok": 1.0}


@answer_to("createIndexes")
def build(handler, doc, ctx):
    """Build what no other command builds already, and wait for the others."""
    namespace = f"{ctx.db_name}.{doc['createIndexes']}"
    names = {each.get("name") for each in doc.get("indexes") or () if isinstance(each, dict)}
    while any(each.namespace == namespace and each.spec["name"] in names for each in _builds):
        deadline.check_now()
        time.sleep(0.003)
    started = list(_started(namespace, doc, ctx))
    _builds.extend(started)
    try:
        while _hangs and started:
            deadline.check_now()
            time.sleep(0.003)
        return handler(doc, ctx)
    finally:
        for each in started:
            _builds.remove(each)


def _started(namespace, doc, ctx):
    """The builds that a command starts: none if it would be refused, or has nothing to do."""
    database, collection = ctx.db_name, doc["createIndexes"]
    if not ctx.storage.collection_exists(database, collection):
        return
    present = {each["name"] for each in ctx.storage.list_indexes(database, collection)}
    total = ctx.storage.count_matching(database, collection, {})
    for spec in filter(indexes.is_parseable, doc.get("indexes") or ()):
        if total and spec["name"] not in present:
            yield Build(namespace, indexes.completed(spec, None), doc, total)


@answer_to("listIndexes")
def list_with_builds(handler, doc, ctx):
    """List what is being built like a finished index, or with its build if that is asked for."""
    wants_builds = bool(doc.get("includeBuildUUIDs"))
    reply = handler({k: v for k, v in doc.items() if k != "includeBuildUUIDs"}, ctx)
    batch = (reply.get("cursor") or {}).get("firstBatch")
    if batch is not None:
        namespace = f"{ctx.db_name}.{doc['listIndexes']}"
        building = [each for each in tuple(_builds) if each.namespace == namespace]
        batch.extend(
            {"spec": each.spec, "buildUUID": each.id} if wants_builds else each.spec
            for each in building
        )
    return reply


def _operation(each):
    return {
        "type": "op",
        "desc": "IndexBuildsCoordinatorMongod-0",
        "active": True,
        "op": "command",
        "ns": each.namespace,
        "command": {**each.command, "$db": each.namespace.partition(".")[0]},
        "msg": f"Index Build: scanning collection Index Build: scanning collection: 0/{each.total} 0%",
        "progress": {"done": 0, "total": each.total},
    }


own_stage = aggregate._STAGES["$currentOp"]


def current_operations(spec, docs, ctx):
    """Add the builds, which belong to no user, for whoever asks for the operations of all."""
    seen = tuple(_builds) if spec.get("allUsers") else ()
    return [*own_stage(spec, docs, ctx), *map(_operation, seen)]


aggregate._STAGES["$currentOp"] = current_operations
