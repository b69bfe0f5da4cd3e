"""Evaluates attributes, elements and calls of values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .facts import (
    ANY_COLLECTION,
    CLIENT_METHODS,
    COLLECTION_METHODS,
    DATABASE_METHODS,
    OTHER,
    PROPERTIES,
    WRITES,
    Kind,
    Value,
    words,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .facts import CodeCall

MOST_CHOICES = 1_000
"""How many possible values of one name are followed."""

# --- attributes

_METHODS = {
    Kind.DATABASE: DATABASE_METHODS,
    Kind.COLLECTION: COLLECTION_METHODS,
    Kind.CLIENT: CLIENT_METHODS,
}
_ATTRIBUTES = {
    (Kind.DATABASE, "client"): Value(Kind.CLIENT),
    (Kind.COLLECTION, "database"): Value(Kind.DATABASE),
    (Kind.CONTEXT, "session"): Value(Kind.SESSION),
    (Kind.CONTEXT, "app"): Value(Kind.NAMED, "ctx.app"),
    (Kind.CONTEXT, "log"): Value(Kind.NAMED, "ctx.log"),
}


def attribute(base: Value, name: str) -> Value:
    """Evaluate an attribute of a value."""
    if known := _ATTRIBUTES.get((base.kind, name)):
        return known
    has_any_method = base.kind in {Kind.CONTEXT, Kind.SESSION, Kind.CURSOR}
    if has_any_method or name in _METHODS.get(base.kind, ()):
        return Value(Kind.METHOD, name, parts=(base,))
    if base.kind in {Kind.DATABASE, Kind.COLLECTION} and name not in PROPERTIES:
        return replace(collection_in(base, Value(Kind.CONSTANT, constant=name)), name=name)
    if base.kind is Kind.CLIENT:
        return Value(Kind.DATABASE, name)
    if name in WRITES:
        return Value(Kind.METHOD, name, parts=(ANY_COLLECTION,))
    path, other = f"{base.name}.{name}", Value(Kind.OTHER, name, parts=(base,))
    return Value(Kind.NAMED, path) if base.kind is Kind.NAMED else other


def collection_in(base: Value, which: Value) -> Value:
    """Name a collection of a database, or below another collection ("users.archive")."""
    names, complete = texts_of(which)
    if base.kind is Kind.COLLECTION:
        names = frozenset(f"{outer}.{inner}" for outer in base.names for inner in names)
        complete = complete and base.complete
    return Value(Kind.COLLECTION, names=names, complete=complete)


# --- parts

_VAGUE = frozenset({Kind.CONSTANT, Kind.OTHER, Kind.MAPPING, Kind.SEQUENCE})
_SAME_ELEMENTS = words("sorted list tuple set reversed")
_VIEWS = words("items keys values")


def texts_of(which: Value) -> tuple[frozenset[str], bool]:
    """Collect the strings that a value may be, and whether it is certainly one of them."""
    options = which.parts if which.kind is Kind.CHOICE else (which,)
    texts = frozenset(v.constant for v in options if isinstance(v.constant, str))
    return texts, bool(options) and all(isinstance(v.constant, str) for v in options)


def choice(options: Sequence[Value]) -> Value:
    """Combine values into one that is any of them."""
    nested = ((each.parts if each.kind is Kind.CHOICE else (each,)) for each in options)
    flat = tuple(option for parts in nested for option in parts)[:MOST_CHOICES]
    if len(flat) <= 1:
        return flat[0] if flat else OTHER
    if all(option.kind is Kind.COLLECTION for option in flat):
        names = frozenset[str]().union(*(option.names for option in flat))
        complete = all(option.complete for option in flat)
        return Value(Kind.COLLECTION, names=names, complete=complete)
    # `cursor if wanted else None`: the known option says more than that it may be None.
    known = [option for option in flat if option.kind not in _VAGUE]
    return known[0] if len(known) == 1 else Value(Kind.CHOICE, parts=flat)


def element(over: Value) -> Value:
    """Evaluate the variable of a loop over this value."""
    if over.kind is Kind.CHOICE:
        return choice([element(part) for part in over.parts])
    if over.kind in {Kind.SEQUENCE, Kind.MAPPING}:
        return choice(over.parts if over.kind is Kind.SEQUENCE else over.keys)
    # The first part is the callee, the second is its first argument.
    given = over.parts[1] if over.kind is Kind.MADE and len(over.parts) > 1 else None
    if given and over.name == "enumerate":
        return Value(Kind.SEQUENCE, parts=(OTHER, element(given)))
    if given and over.name in _SAME_ELEMENTS:
        return element(given)
    return _view(over) if over.kind is Kind.OTHER and over.name in _VIEWS else OTHER


def _view(over: Value) -> Value:
    """Evaluate an element of the result of items(), keys() or values()."""
    mapping = over.parts[0] if over.parts else OTHER
    if mapping.kind is not Kind.MAPPING:
        return OTHER
    pairs = zip(mapping.keys, mapping.parts, strict=False)
    if over.name == "items":
        return choice([Value(Kind.SEQUENCE, parts=pair) for pair in pairs])
    return choice(mapping.parts if over.name == "values" else mapping.keys)


def element_at(value: Value, index: Value) -> Value | None:
    """Look up an index or a key; None if the element is not known."""
    if value.kind is Kind.CHOICE:
        found = [element_at(part, index) for part in value.parts]
        return choice([each or OTHER for each in found])
    if value.kind is Kind.MAPPING and isinstance(index.constant, str):
        return value.get(index.constant)
    if value.kind is Kind.SEQUENCE and isinstance(index.constant, int):
        return dict(enumerate(value.parts)).get(index.constant)
    return None


def cursor_of(value: Value) -> Value | None:
    """Find the cursor that a loop over this value reads."""
    if value.kind is Kind.CURSOR:
        return value
    if value.kind is Kind.MADE:
        return next(filter(None, map(cursor_of, value.parts)), None)
    if value.kind is Kind.OTHER:
        return next((part for part in value.parts if part.kind is Kind.CURSOR), None)
    return None


# --- results of calls

_RESULTS = {
    (Kind.COLLECTION, "find"): Kind.CURSOR,
    (Kind.COLLECTION, "aggregate"): Kind.CURSOR,
    (Kind.DATABASE, "get_collection"): Kind.COLLECTION,
    (Kind.DATABASE, "create_collection"): Kind.COLLECTION,
    (Kind.CLIENT, "get_database"): Kind.DATABASE,
    (Kind.CLIENT, "get_default_database"): Kind.DATABASE,
    (Kind.CLIENT, "start_session"): Kind.SESSION,
    (Kind.SESSION, "start_transaction"): Kind.TRANSACTION,
    (Kind.SESSION, "bind"): Kind.BINDING,
}
_SAME_OBJECT = {
    Kind.CURSOR: words(
        "add_option allow_disk_use batch_size clone collation comment hint max max_time_ms min"
        " remove_option rewind skip sort where"
    ),
    Kind.COLLECTION: words("with_options"),
    Kind.DATABASE: words("with_options"),
}
"""Methods that return their object, or one like it."""


def result_of(call: CodeCall) -> Value:
    """Evaluate a call."""
    if call.method:
        return _from_method(call, call.receiver)
    if call.path.endswith("MongoClient"):
        return Value(Kind.CLIENT, call.path, parts=call.given)
    if call.path:
        return Value(Kind.MADE, call.path, parts=(call.callee, *call.given), node=call.node)
    parts = (*call.callee.parts, *call.given)
    return Value(Kind.OTHER, call.callee.name, parts=parts, node=call.node)


def _from_method(call: CodeCall, receiver: Value) -> Value:
    if call.method in _SAME_OBJECT.get(receiver.kind, ()):
        return receiver
    if receiver.kind is Kind.CURSOR and call.method == "limit":
        return replace(receiver, constant=True)
    if receiver.kind is Kind.CURSOR and call.method == "to_list":
        return Value(Kind.MADE, "list", parts=(receiver,))
    kind = _RESULTS.get((receiver.kind, call.method), Kind.OTHER)
    if kind is Kind.COLLECTION:
        return collection_in(receiver, call.argument(0, "name") or OTHER)
    if kind is Kind.CURSOR:
        limit = call.keywords.get("limit")
        bounded = limit is not None and limit.constant != 0
        return Value(kind, call.method, bounded, parts=(receiver,))
    # Without parts: a document from a collection does not contain the filter that selected it.
    return Value(kind, call.method, node=call.node)


# --- collections that a call names

_NAMING = {
    (Kind.DATABASE, "create_collection"): "name",
    (Kind.DATABASE, "drop_collection"): "name_or_collection",
    (Kind.DATABASE, "validate_collection"): "name_or_collection",
    (Kind.COLLECTION, "rename"): "new_name",
    (Kind.CONTEXT, "backfill"): "collection",
}
"""Methods whose first argument names a collection, with the name of that argument."""

_NAMING_STAGES = words("$lookup $graphLookup $unionWith $out $merge")


def collections_of(call: CodeCall) -> Iterator[Value]:
    """Yield the values that name further collections which a call uses."""
    which = (call.receiver.kind, call.method)
    if which in _NAMING:
        yield call.argument(0, _NAMING[which]) or OTHER
    elif which == (Kind.CLIENT, "bulk_write"):
        yield OTHER
    elif which == (Kind.DATABASE, "command"):
        yield from _of_command(call)
    elif call.method == "aggregate":
        yield from _of_pipeline(call.argument(0, "pipeline") or OTHER)


def _of_command(call: CodeCall) -> Iterator[Value]:
    command = call.argument(0, "command") or OTHER
    if command.kind is Kind.MAPPING and command.parts:
        yield command.parts[0]
    elif command.kind is not Kind.CONSTANT:
        yield OTHER
    elif len(call.args) > 1:
        yield call.args[1]


def _of_pipeline(pipeline: Value) -> Iterator[Value]:
    is_list = pipeline.kind is Kind.SEQUENCE
    if not is_list or any(part.kind is not Kind.MAPPING for part in pipeline.parts):
        yield OTHER
    for stage, body in pipeline.entries():
        if stage in _NAMING_STAGES:
            named = body.get("into") or body.get("from") or body.get("coll")
            if named is not None:
                # A target in another database is a mapping of `db` and `coll`.
                yield named.get("coll") or named
            elif body.kind is not Kind.MAPPING:
                yield body
