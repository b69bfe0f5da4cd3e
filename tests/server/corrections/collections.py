# SPDX-License-Identifier: GPL-2.0-only
"""Collections: create, drop, rename and collMod."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bson import Int64
from secantus import storage

from .patching import answer_to, is_view, refusal, refuse, replacement

LONGEST_NAMESPACE = 255
LEVELS = ("off", "strict", "moderate")
ACTIONS = ("error", "warn")
NOT_IN_VALIDATORS = ("$near", "$nearSphere", "$text", "$where", "$geoNear")
LANGUAGES = frozenset(
    [
        "simple",
        "af",
        "am",
        "ar",
        "as",
        "az",
        "be",
        "bg",
        "bn",
        "bo",
        "bs",
        "ca",
        "chr",
        "cs",
        "cy",
        "da",
        "de",
        "dsb",
        "dz",
        "ee",
        "el",
        "en",
        "eo",
        "es",
        "et",
        "fa",
        "fi",
        "fil",
        "fo",
        "fr",
        "ga",
        "gl",
        "gu",
        "ha",
        "haw",
        "he",
        "hi",
        "hr",
        "hsb",
        "hu",
        "hy",
        "id",
        "ig",
        "is",
        "it",
        "ja",
        "ka",
        "kk",
        "kl",
        "km",
        "kn",
        "ko",
        "kok",
        "ky",
        "lb",
        "lkt",
        "ln",
        "lo",
        "lt",
        "lv",
        "mk",
        "ml",
        "mn",
        "mr",
        "ms",
        "mt",
        "my",
        "nb",
        "ne",
        "nl",
        "nn",
        "om",
        "or",
        "pa",
        "pl",
        "ps",
        "pt",
        "ro",
        "ru",
        "se",
        "si",
        "sk",
        "sl",
        "smn",
        "sq",
        "sr",
        "sv",
        "sw",
        "ta",
        "te",
        "th",
        "to",
        "tr",
        "ug",
        "uk",
        "ur",
        "vi",
        "wae",
        "yi",
        "yo",
        "zh",
        "zu",
    ]
)
INDEX_FIELDS = {"name", "keyPattern", "expireAfterSeconds", "hidden"}


def _named_by_code(reply):
    """mongod 5.0 has no name for an unknown field but its number."""
    if reply.get("code") == 40415:
        reply["codeName"] = "Location40415"
    return reply


@replacement(storage.Storage, "__init__")
def with_all_tables(init, self, *args, **options):
    """Make the tables of documents at the start: one that is half made when the server is killed cannot be opened again."""
    init(self, *args, **options)
    if options.get("sync_on_commit"):
        self._session()
        for number in range(storage._DOC_SHARDS):
            self._tls.session.create(storage._doc_shard_name(number), storage._DOC_SHARD_CFG)


@answer_to("create")
def create(handler, doc, ctx):
    name = doc["create"]
    if isinstance(name, str):
        namespace = f"{ctx.db_name}.{name}"
        if len(namespace.encode()) > LONGEST_NAMESPACE:
            message = f"Fully qualified namespace is too long: {namespace}"
            refuse(73, "InvalidNamespace", message)
        if ctx.storage.collection_exists(ctx.db_name, name):
            reply = handler(doc, ctx)
            message = f"Collection {namespace} already exists."
            return refusal(48, "NamespaceExists", message) if reply.get("ok") else reply
    if _uses(doc.get("validator"), NOT_IN_VALIDATORS):
        message = "$near is not allowed in collection validators"
        refuse(2, "BadValue", message)
    locale = (doc.get("collation") or {}).get("locale")
    if isinstance(locale, str) and re.split("[_@-]", locale)[0] not in LANGUAGES:
        message = f"Field 'locale' is invalid in: {{ locale: {locale!r} }}"
        refuse(2, "BadValue", message)
    return _named_by_code(handler(doc, ctx))


def _uses(value, names):
    if isinstance(value, Mapping):
        return any(key in names or _uses(item, names) for key, item in value.items())
    return isinstance(value, list) and any(_uses(item, names) for item in value)


@answer_to("drop")
def drop(handler, doc, ctx):
    if not ctx.storage.collection_exists(ctx.db_name, doc["drop"]):
        refuse(26, "NamespaceNotFound", "ns not found")
    return handler(doc, ctx)


@answer_to("dropIndexes")
def drop_indexes(handler, doc, ctx):
    if not isinstance(doc.get("index"), list):
        return handler(doc, ctx)
    present = ctx.storage.list_indexes(ctx.db_name, doc["dropIndexes"])
    missing = set(doc["index"]) - {each["name"] for each in present}
    if missing:
        message = f"index not found with name [{min(missing)}]"
        refuse(27, "IndexNotFound", message)
    for name in doc["index"]:
        reply = handler({**doc, "index": name}, ctx)
        if not reply.get("ok"):
            return reply
    return {**reply, "nIndexesWas": len(present)}


@answer_to("listIndexes")
def list_indexes(handler, doc, ctx):
    if is_view(ctx, doc["listIndexes"]):
        message = f"Namespace {ctx.db_name}.{doc['listIndexes']} is a view, not a collection"
        refuse(166, "CommandNotSupportedOnView", message)
    reply = handler(doc, ctx)
    if reply.get("code") == 26 and ctx.storage.collection_exists(ctx.db_name, doc["listIndexes"]):
        # A time series without an index, not even one on _id.
        namespace = f"{ctx.db_name}.{doc['listIndexes']}"
        return {"cursor": {"firstBatch": [], "id": Int64(0), "ns": namespace}, "ok": 1.0}
    return reply


@answer_to("renameCollection")
def rename(handler, doc, ctx):
    source, target = doc["renameCollection"], doc.get("to")
    if ctx.db_name == "admin" and isinstance(source, str):
        database, _, name = source.partition(".")
        options = ctx.storage.get_collection_options(database, name) or {}
        if "viewOn" in options:
            message = f"cannot rename view: {source}"
            refuse(166, "CommandNotSupportedOnView", message)
        if source == target:
            message = "Can't rename a collection to itself"
            refuse(20, "IllegalOperation", message)
    return handler(doc, ctx)


@answer_to("collMod")
def coll_mod(handler, doc, ctx):
    for field, allowed in (("validationLevel", LEVELS), ("validationAction", ACTIONS)):
        if field in doc and doc[field] not in allowed:
            message = f"Enumeration value '{doc[field]}' for field 'collMod.{field}' is not valid"
            refuse(2, "BadValue", message)
    if not isinstance(doc.get("index"), Mapping):
        return _named_by_code(handler(doc, ctx))
    return _change_index(handler, doc, ctx)


def _change_index(handler, doc, ctx):
    change = doc["index"]
    _check_change(change)
    index = _index_meant(doc, ctx)
    if index is None:
        return handler(doc, ctx)
    if "hidden" in change and index["name"] == "_id_":
        refuse(2, "BadValue", "can't hide _id index")
    if "expireAfterSeconds" in change:
        if "expireAfterSeconds" not in index:
            refuse(72, "InvalidOptions", "no expireAfterSeconds field to update")
        return _change_ttl(handler, doc, ctx)
    reply = handler(doc, ctx)
    old = index.get("hidden", False)
    if reply.get("ok") and change["hidden"] != old:
        options = {"hidden": change["hidden"]}
        ctx.storage.set_index_options(ctx.db_name, doc["collMod"], index["name"], **options)
        return {**reply, "hidden_old": old, "hidden_new": change["hidden"]}
    return reply


def _check_change(change):
    if unknown := set(change) - INDEX_FIELDS:
        message = f"BSON field 'collMod.index.{min(unknown)}' is an unknown field."
        refuse(40415, "Location40415", message)
    if {"name", "keyPattern"} & set(change) and not {"expireAfterSeconds", "hidden"} & set(change):
        refuse(72, "InvalidOptions", "no expireAfterSeconds or hidden field")


def _change_ttl(handler, doc, ctx):
    seconds = doc["index"]["expireAfterSeconds"]
    if not isinstance(seconds, (int, float)) or seconds >= 0:
        return handler(doc, ctx)
    # mongod takes a negative number, too.
    change = {**doc["index"], "expireAfterSeconds": 0}
    return {**handler({**doc, "index": change}, ctx), "expireAfterSeconds_new": seconds}


def _index_meant(doc, ctx):
    change = doc["index"]
    for index in ctx.storage.list_indexes(ctx.db_name, doc["collMod"]):
        key = change.get("keyPattern")
        if index["name"] == change.get("name") or (
            isinstance(key, Mapping) and list(key.items()) == list(index["key"].items())
        ):
            return index
    return None
