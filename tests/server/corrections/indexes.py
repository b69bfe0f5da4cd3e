# SPDX-License-Identifier: GPL-2.0-only
"""Indexes: which specifications are refused, which are the same, and how they come back."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping

from bson.decimal128 import Decimal128
from secantus import commands, storage

from .patching import (
    answer_to,
    is_view,
    options_of,
    refusal,
    refuse,
    replacement,
)

MAX_INDEXES = 64
MEMBERS = 1
COLLATION = {
    "caseLevel": False,
    "caseFirst": "off",
    "strength": 3,
    "numericOrdering": False,
    "alternate": "non-ignorable",
    "maxVariable": "punct",
    "normalization": False,
    "backwards": False,
}
COLLATION_VERSION = "57.1"
TEXT = {"default_language": "english", "language_override": "language", "textIndexVersion": 3}
NO_DIFFERENCE = {"v", "key", "name", "ns", "background", "hidden"}
FLAGS = ("unique", "sparse")
PARTIAL_OPERATORS = {"$eq", "$exists", "$gt", "$gte", "$lt", "$lte", "$type"}
CHANGEABLE = ("expireAfterSeconds", "hidden", "prepareUnique")
"""What a collMod changes."""
ORDER, SHOWN = "listOrder", "shownAs"
"""Options of a stored index that are ours: when it was made, and how it comes back."""

_order = itertools.count(time.time_ns())
_wholes = threading.local()


def completed_collation(collation):
    """A collation with every field, in mongod's order; None for the simple one."""
    if not collation or collation.get("locale") == "simple":
        return None
    fields = {name: collation.get(name, value) for name, value in COLLATION.items()}
    return {"locale": collation["locale"], **fields, "version": COLLATION_VERSION}


def completed(specification, inherited):
    """The specification as it comes back; `inherited` is the collection's collation."""
    whole = {"v": 2, **specification}
    whole["v"] = 2
    if not whole.get("unique", True):
        del whole["unique"]
    collation = completed_collation(whole.get("collation", inherited))
    whole.pop("collation", None)
    if collation:
        whole["collation"] = collation
    if any(kind == "2dsphere" for kind in whole["key"].values()):
        whole.setdefault("2dsphereIndexVersion", 3)
    if "text" in whole["key"].values():
        return _completed_text(whole)
    if "wildcardProjection" in whole:
        projection = {name: bool(on) for name, on in whole["wildcardProjection"].items()}
        included = any(projection[name] for name in projection if name != "_id")
        if included:
            projection.setdefault("_id", False)
        whole["wildcardProjection"] = projection
    return whole


def _completed_text(whole):
    if "weights" in whole and "_fts" in whole["key"]:
        return whole
    fields = [name for name, kind in whole["key"].items() if kind == "text"]
    weights = {**dict.fromkeys(fields, 1), **whole.pop("weights", {})}
    key = {}
    for name, kind in whole["key"].items():
        key.update({"_fts": "text", "_ftsx": 1} if kind == "text" else {name: kind})
    options = {name: whole.pop(name, value) for name, value in TEXT.items()}
    whole["key"] = key
    return {**whole, "weights": dict(sorted(weights.items())), **options}


def _by_value(value):
    """A form of a value that compares regardless of the type of numbers, but keeps the order."""
    if isinstance(value, Mapping):
        return tuple((name, _by_value(item)) for name, item in value.items())
    if isinstance(value, list):
        return tuple(map(_by_value, value))
    if isinstance(value, Decimal128):
        return value.to_decimal()
    return float(value) if isinstance(value, (int, float)) else value


def _conjunction(filter_):
    """The single conditions of a partial index's filter."""
    for name, condition in (filter_ or {}).items():
        if name == "$and":
            for each in condition:
                yield from _conjunction(each)
        elif isinstance(condition, Mapping) and any(part.startswith("$") for part in condition):
            for operator, operand in condition.items():
                yield name, operator, _by_value(operand)
        else:
            yield name, "$eq", _by_value(condition)


def _signature(whole):
    """Of two indexes with the same signature, only one can be."""
    return (
        _by_value(whole["key"]),
        _by_value(whole.get("collation") or {}),
        frozenset(_conjunction(whole.get("partialFilterExpression"))),
        _by_value(whole.get("wildcardProjection") or {}),
        *(bool(whole.get(flag)) for flag in FLAGS),
    )


def _other_options(whole):
    signed = {"collation", "partialFilterExpression", "wildcardProjection", *FLAGS}
    return {
        name: _by_value(value)
        for name, value in whole.items()
        if name not in NO_DIFFERENCE | signed
    }


def _compare(whole, present):
    """What mongod makes of an index beside those that are there: "exists", "new", or a refusal."""
    same_name = next((each for each in present if each["name"] == whole["name"]), None)
    if same_name is not None and _signature(same_name) != _signature(whole):
        message = "An existing index has the same name as the requested index"
        refuse(86, "IndexKeySpecsConflict", message)
    for each in present:
        if _signature(each) == _signature(whole):
            if each is same_name and _other_options(each) == _other_options(whole):
                return "exists"
            message = f"Index already exists with a different name or options: {each['name']}"
            refuse(85, "IndexOptionsConflict", message)
    if "_fts" in whole["key"] and any("_fts" in each["key"] for each in present):
        refuse(85, "IndexOptionsConflict", "Only one text index per collection is allowed")
    return "new"


def _is_id_index(specification):
    return _by_value(specification.get("key") or {}) == (("_id", 1.0),)


def _collation_of(doc, ctx):
    return options_of(ctx, doc["createIndexes"]).get("collation")


def all_exist(doc, ctx):
    """Whether a createIndexes would build nothing; it may refuse what conflicts."""
    present = ctx.storage.list_indexes(ctx.db_name, doc["createIndexes"])
    inherited = _collation_of(doc, ctx)
    return all(
        _is_id_index(each) or _compare(completed(each, inherited), present) == "exists"
        for each in filter(is_parseable, doc.get("indexes") or ())
    )


# --- what is refused ---


def _cannot_create(message):
    refuse(67, "CannotCreateIndex", message)


def _check_command(doc, ctx):
    wanted, collection = doc.get("indexes"), doc["createIndexes"]
    if is_view(ctx, collection):
        message = f"Namespace {ctx.db_name}.{collection} is a view, not a collection"
        refuse(166, "CommandNotSupportedOnView", message)
    if wanted == []:
        refuse(2, "BadValue", "Must specify at least one index to create")
    quorum = doc.get("commitQuorum")
    if isinstance(quorum, int) and quorum > MEMBERS:
        message = "Commit quorum cannot be satisfied with the current replica set configuration"
        refuse(278, "UnsatisfiableCommitQuorum", message)


def _check(specification):
    """Refuse a specification that is wrong by itself."""
    unknown = set(specification) - commands._INDEX_SPEC_KNOWN_OPTIONS - {"key", "name"}
    if unknown:
        message = f"The field '{min(unknown)}' is not valid for an index specification"
        refuse(197, "InvalidIndexSpecificationOption", message)
    if _is_id_index(specification):
        if specification.get("hidden"):
            message = "The field 'hidden' is not valid for an _id index specification"
            refuse(197, "InvalidIndexSpecificationOption", message)
        return
    kinds = specification["key"].values()
    if any(isinstance(kind, (int, float)) and not kind for kind in kinds):
        _cannot_create("Values in the index key pattern cannot be 0")
    if "partialFilterExpression" in specification:
        _check_partial(specification)
    seconds = specification.get("expireAfterSeconds")
    if isinstance(seconds, (int, float)):
        _check_ttl(specification, seconds)


def _check_partial(specification):
    if specification.get("sparse"):
        _cannot_create('cannot mix "partialFilterExpression" and "sparse" options')
    for name, operator, operand in _conjunction(specification["partialFilterExpression"]):
        allowed = operator in PARTIAL_OPERATORS and (operator != "$exists" or operand)
        if name.startswith("$") or not allowed:
            _cannot_create(f"Expression not supported in partial index: {operator}")


def _check_ttl(specification, seconds):
    if len(specification["key"]) > 1:
        _cannot_create("TTL indexes are single-field indexes, compound indexes do not support TTL")
    if seconds < 0:
        _cannot_create("TTL index 'expireAfterSeconds' option cannot be less than 0")
    if seconds > time.time():
        _cannot_create("TTL index 'expireAfterSeconds' option must be within an acceptable range")


def _check_documents(doc, ctx, specification):
    """Refuse documents that an index of this kind cannot hold."""
    key = specification["key"]
    if len(key) == 1 and "hashed" not in key.values():
        return
    filter_ = specification.get("partialFilterExpression") or {}
    for document in ctx.storage.find_matching(ctx.db_name, doc["createIndexes"], filter_):
        arrays = [field for field in key if _holds_array(document, field)]
        if len(arrays) > 1 and not {"text", "2dsphere"} & set(key.values()):
            message = "cannot index parallel arrays [{}] [{}]".format(*arrays[:2])
            refuse(171, "CannotIndexParallelArrays", message)
        if any(key[field] == "hashed" for field in arrays):
            message = "Error: hashed indexes do not currently support array values"
            refuse(16766, "Location16766", message)


def _holds_array(document, path):
    value = document
    for part in path.split("."):
        if isinstance(value, list):
            return True
        value = value.get(part) if isinstance(value, Mapping) else None
    return isinstance(value, list)


def is_parseable(specification):
    key = specification.get("key") if isinstance(specification, Mapping) else None
    return isinstance(key, Mapping) and bool(key) and "name" in specification


@answer_to("createIndexes")
def create_indexes(handler, doc, ctx):
    _check_command(doc, ctx)
    wanted = doc.get("indexes") or ()
    if not all(map(is_parseable, wanted)):
        return handler(doc, ctx)
    if "timeseries" in options_of(ctx, doc["createIndexes"]) and any(
        "text" in each["key"].values() for each in wanted
    ):
        message = "Text indexes are not supported on time-series collections"
        return refusal(72, "InvalidOptions", message)
    present = ctx.storage.list_indexes(ctx.db_name, doc["createIndexes"])
    new = list(_not_present(doc, ctx, present))
    if len(present) + len(new) > MAX_INDEXES:
        _cannot_create("add index fails, too many indexes")
    _wholes.by_name = {whole["name"]: whole for whole in new}
    try:
        reply = handler({**doc, "indexes": list(map(_to_build, new))}, ctx)
    finally:
        _wholes.by_name = {}
    if reply.get("code") == 16572:
        return refusal(16755, "Location16755", reply["errmsg"])
    if reply.get("ok") and not new:
        reply["note"] = "all indexes already exist"
    return reply


def _not_present(doc, ctx, present):
    """Check each specification and yield those that are to be built, completed."""
    inherited, new = _collation_of(doc, ctx), []
    for specification in doc["indexes"]:
        _check(specification)
        if _is_id_index(specification):
            continue
        whole = completed(specification, inherited)
        if _compare(whole, present) == "exists":
            continue
        if _compare(whole, new) == "exists":
            refuse(96, "OperationFailed", "Identical index specified more than once")
        _check_documents(doc, ctx, specification)
        new.append(whole)
        yield whole


@replacement(commands, "_index_conflict")
def no_second_opinion(index_conflict, *_):
    """What conflicts was found above."""


def _to_build(whole):
    """What the server can build in place of the index: text and hashes are plain keys to it."""
    fields = dict.fromkeys(whole["weights"], 1) if "_fts" in whole["key"] else whole["key"]
    key = {field: 1 if kind == "hashed" else kind for field, kind in fields.items()}
    options = {name: value for name, value in whole.items() if name not in {"weights", *TEXT}}
    return {**options, "key": key}


@replacement(storage.Storage, "create_index")
def create_shown_index(create_index, self, db, coll, name, *specified):
    """Keep how the index comes back, and when it was made, beside what the server needs."""
    whole = getattr(_wholes, "by_name", {}).get(name)
    if whole is None:
        return create_index(self, db, coll, name, *specified)
    key, options = specified
    return create_index(self, db, coll, name, key, {**options, SHOWN: whole, ORDER: next(_order)})


@replacement(storage.Storage, "list_indexes")
def list_as_made(list_indexes, self, db, coll):
    """The indexes in the order in which they were made, each as it was made."""
    found = sorted(
        list_indexes(self, db, coll),
        key=lambda each: (each["name"] != "_id_", each.pop(ORDER, 0)),
    )
    options = self._coll_options(db, coll) or {}
    if "timeseries" in options:
        found = [each for each in found if each["name"] != "_id_"]
    collation = completed_collation(options.get("collation"))
    return [_as_shown(each, collation) for each in found]


def _as_shown(stored, inherited):
    if stored["name"] == "_id_":
        return {**stored, "collation": inherited} if inherited else stored
    whole = stored.pop(SHOWN, None)
    if whole is None:
        return stored
    shown = {name: value for name, value in whole.items() if name not in CHANGEABLE}
    return {**shown, **{name: stored[name] for name in CHANGEABLE if name in stored}}
