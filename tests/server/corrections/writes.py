# SPDX-License-Identifier: GPL-2.0-only
"""Writes and what they refuse, $$NOW, pipelines, and the strict API."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from operator import itemgetter

import bson
from secantus import commands, storage, transactions, update
from secantus.aggregate import AggregateError
from secantus.expressions import ExpressionError, evaluate
from secantus.update import UpdateError

from .patching import answer_to, is_view, options_of, refusal, refuse, replacement

OUTSIDE_API_1 = ("collStats", "count", "renameCollection")
FIELDS = {
    "insert": {"insert", "documents", "ordered"},
    "update": {"update", "updates", "ordered", "let"},
    "delete": {"delete", "deletes", "ordered", "let"},
}
COMMON_FIELDS = {
    *("lsid", "txnNumber", "autocommit", "startTransaction", "stmtId", "stmtIds", "readConcern"),
    *("writeConcern", "maxTimeMS", "comment", "bypassDocumentValidation", "collation", "hint"),
    *("apiVersion", "apiStrict", "apiDeprecationErrors", "encryptionInformation"),
}
STATEMENTS = {"insert": "documents", "update": "updates", "delete": "deletes"}
STAGES_NOT_IN_UPDATES = ("$group", "$match", "$lookup", "$sort", "$limit", "$out", "$merge")
CODES_OF_OPERATORS = {"$add": 16554, "$multiply": 16555, "$subtract": 16556, "$concat": 16702}


def naive_now():
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


@replacement(commands, "_resolve_let_vars")
def let_with_comparable_now(resolve_let, let):
    """$$NOW compares with stored dates, which are naive."""
    now = naive_now()
    values = resolve_let(let)
    if isinstance(let, dict):
        values |= {key: evaluate(value, {}, vars={"NOW": now}) for key, value in let.items()}
    return {**values, "NOW": now}


def write_error(index, code, message):
    return {"index": index, "code": code, "errmsg": message}


def failed_write(name, code, message):
    """The reply of a write of which nothing was done."""
    counts = {"n": 0, "nModified": 0} if name == "update" else {"n": 0}
    return {**counts, "writeErrors": [write_error(0, code, message)], "ok": 1.0}


@answer_to("insert", "update", "delete")
def write(handler, doc, ctx):
    name = next(iter(doc))
    unknown = {field for field in doc if not field.startswith("$")} - FIELDS[name] - COMMON_FIELDS
    if unknown:
        message = f"BSON field '{name}.{min(unknown)}' is an unknown field."
        refuse(40415, "Location40415", message)
    namespace, options = f"{ctx.db_name}.{doc[name]}", options_of(ctx, doc[name])
    if "viewOn" in options:
        return failed_write(name, 166, f"Namespace {namespace} is a view, not a collection")
    if options.get("capped") and name == "delete":
        return failed_write(name, 20, f"cannot remove from a capped collection: {namespace}")
    reply = _write_statements(handler, doc, ctx, options)
    if (doc.get("writeConcern") or {}).get("w") == 0:
        reply.pop("writeErrors", None)
    return reply


def _write_statements(handler, doc, ctx, options):
    """Let the server execute the statements that mongod does not refuse."""
    name = next(iter(doc))
    statements = doc.get(STATEMENTS[name])
    problems = {
        index: write_error(index, *problem)
        for index, statement in enumerate(statements if isinstance(statements, list) else ())
        if isinstance(statement, Mapping)
        and (problem := _problem(name, statement, doc, ctx, options))
    }
    if not problems:
        return handler(doc, ctx)
    end = min(problems) if doc.get("ordered", True) else len(statements)
    kept = [index for index in range(end) if index not in problems]
    errors = [problems[index] for index in sorted(problems) if index <= end]
    if not kept:
        return {**failed_write(name, 0, ""), "writeErrors": errors}
    reply = handler({**doc, STATEMENTS[name]: [statements[index] for index in kept]}, ctx)
    for part in (*reply.get("writeErrors", ()), *reply.get("upserted", ())):
        part["index"] = kept[part["index"]]
    if reply.get("writeErrors") and doc.get("ordered", True):
        return reply
    found = [*reply.get("writeErrors", ()), *errors]
    return {**reply, "writeErrors": sorted(found, key=itemgetter("index"))}


def _problem(name, statement, doc, ctx, options):
    """Why mongod refuses a statement: code and message."""
    if name == "insert" and isinstance(statement.get("_id"), list):
        return 53, "The '_id' value cannot be of type array"
    if name != "update":
        return None
    if problem := _update_problem(statement):
        return problem
    if options.get("capped") and _grows(statement, doc, ctx):
        return 10003, "Cannot change the size of a document in a capped collection"
    return None


def _update_problem(statement):
    for stage in statement["u"] if isinstance(statement.get("u"), list) else ():
        if isinstance(stage, Mapping) and next(iter(stage), "") in STAGES_NOT_IN_UPDATES:
            return 72, f"{next(iter(stage))} is not allowed to be used within an update"
    filter_ = statement.get("q")
    if statement.get("upsert") and isinstance(filter_, Mapping) and "$expr" in filter_:
        return 224, "$expr is not allowed in the query predicate for an upsert"
    return None


@replacement(storage.Storage, "update_matching")
def fail_one_statement(update_matching, self, *args, **kwargs):
    """An expression that fails on a document fails its statement, and not the command."""
    try:
        return update_matching(self, *args, **kwargs)
    except (AggregateError, ExpressionError) as exc:
        codes = (code for name, code in CODES_OF_OPERATORS.items() if name in str(exc))
        code = next(codes, getattr(exc, "code", None) or 14)
        raise UpdateError(str(exc), code=code, exec_error=True) from exc


def _grows(statement, doc, ctx):
    """Whether an update would make a document of a capped collection longer or shorter."""
    storage, collection = ctx.storage, doc["update"]
    limit = 0 if statement.get("multi") else 1
    found = storage.find_matching(ctx.db_name, collection, statement["q"], limit=limit)
    for document in found:
        changed = update.apply_update(document, statement["u"])
        changed = changed[0] if isinstance(changed, tuple) else changed
        if len(bson.encode(changed)) != len(bson.encode(document)):
            return True
    return False


@answer_to("findAndModify", "findandmodify")
def find_and_modify(handler, doc, ctx):
    if is_view(ctx, doc[next(iter(doc))]):
        return refusal(166, "CommandNotSupportedOnView", "findAndModify not supported on a view")
    if problem := _update_problem({"q": doc.get("query"), "upsert": doc.get("upsert")}):
        code, message = problem
        return refusal(code, "QueryFeatureNotAllowed", message)
    return handler(doc, ctx)


@answer_to("aggregate")
def aggregate(handler, doc, ctx):
    pipeline = doc.get("pipeline")
    stages = [
        stage
        for stage in (pipeline if isinstance(pipeline, list) else ())
        if isinstance(stage, Mapping)
    ]
    for stage in stages:
        if "$documents" in stage:
            message = "Unrecognized pipeline stage name: '$documents'"
            return refusal(40324, "Location40324", message)
    target = stages[-1].get("$out") if stages else None
    if isinstance(target, str) and options_of(ctx, target).get("capped"):
        message = f"namespace '{ctx.db_name}.{target}' is capped so it can't be used for $out"
        return refusal(17152, "Location17152", message)
    into = stages[-1].get("$merge") if stages else None
    if isinstance(into, Mapping) and _lacks_unique_index(into, ctx):
        message = "Cannot find index to verify that join fields will be unique"
        return refusal(51183, "Location51183", message)
    return handler(doc, ctx)


def _lacks_unique_index(merge, ctx):
    fields = merge.get("on", "_id")
    fields = {fields} if isinstance(fields, str) else set(fields)
    into = merge["into"]
    database, collection = (
        (into.get("db", ctx.db_name), into["coll"])
        if isinstance(into, Mapping)
        else (ctx.db_name, into)
    )
    return fields != {"_id"} and not any(
        index.get("unique")
        and set(index["key"]) == fields
        and "partialFilterExpression" not in index
        for index in ctx.storage.list_indexes(database, collection)
    )


# --- the strict API ---


@replacement(commands, "_require_api_version_1")
def refuse_outside_api(require_api_version_1, doc, name):
    strict = doc.get("apiStrict") is True
    if strict and (name in OUTSIDE_API_1 or _option_outside_api(doc, name)):
        message = commands._API_STRICT_ERRMSG.format(name=name)
        return refusal(323, "APIStrictError", message)
    return require_api_version_1(doc, name)


def _option_outside_api(doc, name):
    if name == "create":
        return bool(doc.get("capped"))
    if name == "createIndexes":
        keys = [each.get("key") or {} for each in doc.get("indexes") or ()]
        return any("text" in key.values() for key in keys)
    if name == "aggregate":
        stages = [each for each in doc.get("pipeline") or () if isinstance(each, Mapping)]
        return any("$indexStats" in each for each in stages) or any(
            set(each.get("$collStats") or ()) - {"count"} for each in stages
        )
    return False


# The table of retryable writes is scanned at each write; a short one keeps writes fast.
assert hasattr(transactions, "_RETRYABLE_RECORD_MAX")
transactions._RETRYABLE_RECORD_MAX = 200
