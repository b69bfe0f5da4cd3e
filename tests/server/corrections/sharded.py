# SPDX-License-Identifier: GPL-2.0-only
"""On request, the answers of a mongos that depend on the shard key of a collection.

Written to MongoDB's documentation and source; no recorded answers cover them. There is one shard, and it is this server.
"""

from __future__ import annotations

import os

from secantus import commands

from .patching import answer_to, refuse

OF_A_SET = ("setName", "setVersion", "hosts", "primary", "me", "secondary", "electionId")


def hello(handler, doc, ctx):
    reply = handler(doc, ctx)
    kept = {name: value for name, value in reply.items() if name not in OF_A_SET}
    return {**kept, "msg": "isdbgrid"}


def shard_collection(doc, ctx):
    """Note the shard key in `config.collections`. The index that supports it has to be there."""
    namespace = doc["shardCollection"]
    known = {"_id": namespace, "key": doc["key"], "unique": False, "noBalance": False}
    ctx.storage.insert("config", "collections", [known])
    return {"collectionsharded": namespace, "ok": 1.0}


def shard_key(ctx, collection):
    """The shard key of a collection of the command's database; empty if it is not sharded."""
    wanted = {"_id": f"{ctx.db_name}.{collection}"}
    found = list(ctx.storage.find_matching("config", "collections", wanted))
    return found[0]["key"] if found else {}


def needed(ctx, collection):
    """The name of the only index that supports the shard key; none if there are several."""
    key = list(shard_key(ctx, collection).items())
    found = [
        each["name"]
        for each in ctx.storage.list_indexes(ctx.db_name, collection)
        if key
        and list(each["key"].items())[: len(key)] == key
        and not any(
            each.get(o) for o in ("sparse", "hidden", "partialFilterExpression", "collation")
        )
    ]
    return found if len(found) == 1 else []


def create_indexes(handler, doc, ctx):
    key = list(shard_key(ctx, doc["createIndexes"]))
    for index in doc["indexes"]:
        fields = list(index["key"])
        if key and index.get("unique") and fields[:1] != ["_id"] and fields[: len(key)] != key:
            message = f"cannot create unique index over {index['key']} with shard key pattern {key}"
            refuse(67, "CannotCreateIndex", message)
    return handler(doc, ctx)


def drop_indexes(handler, doc, ctx):
    dropped = doc["index"]
    for index in ctx.storage.list_indexes(ctx.db_name, doc["dropIndexes"]):
        if dropped in (index["name"], index["key"]) and index["name"] in needed(
            ctx, doc["dropIndexes"]
        ):
            message = "Cannot drop the only compatible index for this collection's shard key"
            refuse(370, "CannotDropShardKeyIndex", message)
    return handler(doc, ctx)


def coll_mod(handler, doc, ctx):
    change = doc.get("index") or {}
    if change.get("hidden") and change.get("name") in needed(ctx, doc["collMod"]):
        refuse(72, "InvalidOptions", "cannot hide the only compatible index for the shard key")
    return handler(doc, ctx)


if os.environ.get("STRICT_SHARDED") == "1":
    answer_to("hello", "isMaster", "ismaster")(hello)
    answer_to("createIndexes")(create_indexes)
    answer_to("dropIndexes")(drop_indexes)
    answer_to("collMod")(coll_mod)
    commands._HANDLERS["shardCollection"] = shard_collection
