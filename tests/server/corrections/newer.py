# SPDX-License-Identifier: GPL-2.0-only
"""Added on request: the conversion of indexes to unique ones of MongoDB 6.0, and the search indexes of Atlas.

Written to their documentation; no recorded answers cover them.
"""

from __future__ import annotations

import os
import time

import bson
from secantus import aggregate, commands

from .patching import answer_to, refusal

BUILD_SECONDS = 1

_search = {}
"""By namespace and name: a search index with its definition, and when queries can use it, and the latest definition."""


def convert(handler, doc, ctx):
    change = doc.get("index") or {}
    if not {"prepareUnique", "unique"} & change.keys():
        return handler(doc, ctx)
    storage, collection = ctx.storage, doc["collMod"]
    index = next(
        (i for i in storage.list_indexes(ctx.db_name, collection) if i["name"] == change["name"]),
        None,
    )
    if index is None:
        return refusal(27, "IndexNotFound", f"cannot find index {change['name']}")
    if "prepareUnique" in change:
        prepared = {"prepareUnique": change["prepareUnique"]}
        storage.set_index_options(ctx.db_name, collection, change["name"], **prepared)
        return {"ok": 1.0}
    return {"ok": 1.0} if index.get("unique") else _convert(doc, ctx, index)


def _convert(doc, ctx, index):
    storage, collection, groups = ctx.storage, doc["collMod"], {}
    if not index.get("prepareUnique"):
        message = "Cannot make index unique with 'prepareUnique=false'."
        return refusal(72, "InvalidOptions", message)
    for document in storage.find_matching(ctx.db_name, collection, {}):
        key = bson.encode({field: document.get(field) for field in index["key"]})
        groups.setdefault(key, []).append(document["_id"])
    violations = [{"ids": ids} for ids in groups.values() if len(ids) > 1]
    if violations:
        error = refusal(359, "CannotConvertIndexToUnique", "Cannot convert the index to unique.")
        return {**error, "violations": violations}
    storage.drop_index(ctx.db_name, collection, index["name"])
    made = {"key": index["key"], "name": index["name"], "unique": True}
    command = {"createIndexes": collection, "indexes": [made], "$db": ctx.db_name}
    done = commands._HANDLERS["createIndexes"](command, ctx)
    return {"ok": 1.0} if done.get("ok") else done


ADDED = {"indexingMethod": "hnsw", "quantization": "none"}
"""What comes back of a field of a vector index, whether it was given or not."""


def create_search_indexes(_, doc, ctx):
    names = [index.get("name", "default") for index in doc["indexes"]]
    for name, index in zip(names, doc["indexes"], strict=True):
        _search[_place(doc, ctx, name)] = {
            "name": name,
            "type": index.get("type", "search"),
            "definition": index["definition"],
            "usable": time.monotonic() + BUILD_SECONDS,
            "built": time.monotonic() + BUILD_SECONDS,
        }
    return {"ok": 1.0, "indexesCreated": [{"id": "1", "name": name} for name in names]}


def update_search_index(_, doc, ctx):
    """Queries use the old definition until the new one is built."""
    index = _search[_place(doc, ctx, doc["name"])]
    index.update(definition=doc["definition"], built=time.monotonic() + BUILD_SECONDS)
    return {"ok": 1.0}


def drop_search_index(_, doc, ctx):
    _search[_place(doc, ctx, doc["name"])]["gone"] = time.monotonic() + BUILD_SECONDS
    return {"ok": 1.0}


def _place(doc, ctx, name):
    return f"{ctx.db_name}.{next(iter(doc.values()))}", name


def list_search_indexes(spec, _docs, ctx):
    now = time.monotonic()
    return [
        _listed(index, now)
        for (namespace, name), index in _search.items()
        if namespace == f"{ctx.db_name}.{ctx.coll_name}"
        and spec.get("name") in (None, name)
        and index.get("gone", now + 1) > now
    ]


def _listed(index, now):
    status = "READY" if now >= index["built"] else "BUILDING"
    return {
        "id": "650b2b6d4b8a9d0f5c1e7a11",
        "name": index["name"],
        "type": index["type"],
        "status": "DELETING" if "gone" in index else status,
        "queryable": now >= index["usable"],
        "latestDefinitionVersion": {"version": 0},
        "latestDefinition": _normalized(index["definition"]),
    }


def _normalized(definition):
    """The definition as it comes back: with defaults, and with a list of types for each field."""
    fields = definition.get("fields")
    if isinstance(fields, list):
        vectors = [{**(ADDED if f["type"] == "vector" else {}), **f} for f in fields]
        return {**definition, "fields": vectors}
    mappings = {"dynamic": False, "fields": {}, **definition.get("mappings", {})}
    listed = {
        name: each if isinstance(each, list) else [each]
        for name, each in mappings["fields"].items()
    }
    return {**definition, "mappings": {**mappings, "fields": listed}}


if os.environ.get("STRICT_NEWER") == "1":
    answer_to("collMod")(convert)
    answer_to("createSearchIndexes")(create_search_indexes)
    answer_to("updateSearchIndex")(update_search_index)
    answer_to("dropSearchIndex")(drop_search_index)
    aggregate._STAGES["$listSearchIndexes"] = list_search_indexes
    aggregate._ATLAS_ONLY_STAGES -= {"$listSearchIndexes"}
