"""Calls, imports and collections in a migration's code, and where they stand."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from .values import OTHER, Kind, Value, collection_in
from .vocabulary import SAME_CURSOR, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flask_migrate_mongo.model.values import Direction

Node: TypeAlias = ast.expr | ast.stmt | ast.excepthandler
"""A part of the syntax tree that has a line number."""


class Handler(NamedTuple):
    """An `except` clause or `contextlib.suppress()`.

    `catches` has the last parts of the class names, and is empty for a bare `except`. `raises` says
    whether the handler raises an error itself.
    """

    node: Node
    catches: frozenset[str]
    raises: bool


@dataclass(frozen=True, slots=True)
class Place:
    """The circumstances in which code runs.

    `direction` is None for code that runs at import. `loops` are the values that the loops around
    it iterate over. `opened` and `bound`: code around it opened a transaction, or bound a session.
    `backfill`: `ctx.backfill()` calls the code.
    """

    direction: Direction | None = None
    function: str | None = None
    loops: tuple[Value, ...] = ()
    handlers: tuple[Handler, ...] = ()
    opened: bool = False
    bound: bool = False
    backfill: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class CodeCall:
    """A call. Without `complete`, some arguments are in a `*` or `**` and not known.

    A comprehension over a cursor counts as a call of `list`.
    """

    node: ast.expr
    callee: Value
    place: Place
    args: tuple[Value, ...] = ()
    keywords: Mapping[str, Value] = field(default_factory=dict)
    complete: bool = True

    @property
    def receiver(self) -> Value:
        """The object whose method is called."""
        return self.callee.parts[0] if self.callee.kind is Kind.METHOD else OTHER

    @property
    def method(self) -> str:
        """The name of the method, empty if no method is called."""
        return self.callee.name if self.callee.kind is Kind.METHOD else ""

    @property
    def path(self) -> str:
        """The dotted import path of the callee, empty for a method or a function of the file."""
        return self.callee.name if self.callee.kind is Kind.NAMED else ""

    @property
    def last_name(self) -> str:
        """The last part of the callee's name."""
        return self.callee.name.rpartition(".")[2]

    @property
    def given(self) -> tuple[Value, ...]:
        """All known arguments."""
        return (*self.args, *self.keywords.values())

    @property
    def is_backfill(self) -> bool:
        """Whether this calls `ctx.backfill()`."""
        return is_backfill(self.callee)

    def on(self, *kinds: Kind) -> bool:
        """Whether this calls a method of one of these kinds."""
        return self.receiver.kind in kinds

    def argument(self, position: int, name: str) -> Value | None:
        """Look up an argument by its position or its name."""
        return self.args[position] if position < len(self.args) else self.keywords.get(name)


class Import(NamedTuple):
    """An imported name; `level` counts the dots of a relative import."""

    node: ast.Import | ast.ImportFrom
    path: str
    level: int = 0


class Reference(NamedTuple):
    """Names of collections in the code; without `complete`, others are computed at run time."""

    names: frozenset[str]
    complete: bool
    direction: Direction | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file does: the calls at import, in up() and in down(), each in order."""

    at_import: tuple[CodeCall, ...]
    up: tuple[CodeCall, ...]
    down: tuple[CodeCall, ...]
    imports: tuple[Import, ...]
    references: tuple[Reference, ...]


def is_backfill(callee: Value) -> bool:
    """Whether a value is `ctx.backfill`."""
    is_method = callee.kind is Kind.METHOD and callee.parts[0].kind is Kind.CONTEXT
    return is_method and callee.name == "backfill"


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


def result_of(call: CodeCall) -> Value:
    """Evaluate a call."""
    if call.on(Kind.CURSOR):
        return _from_cursor(call)
    if call.method:
        return _from_method(call)
    if call.path.endswith("MongoClient"):
        return Value(Kind.CLIENT, call.node, call.path, parts=call.given)
    if call.path:
        return Value(Kind.MADE, call.node, call.path, parts=(call.callee, *call.given))
    parts = (*call.callee.parts, *call.given)
    return Value(Kind.OTHER, call.node, call.callee.name, parts=parts)


def _from_cursor(call: CodeCall) -> Value:
    if call.method == "limit":
        return replace(call.receiver, constant=True)
    if call.method in SAME_CURSOR:
        return call.receiver
    if call.method == "to_list":
        return Value(Kind.MADE, call.node, "list", parts=(call.receiver,))
    return Value(Kind.OTHER, call.node, call.method)


def _from_method(call: CodeCall) -> Value:
    if call.method == "with_options" and call.on(Kind.COLLECTION, Kind.DATABASE):
        return call.receiver
    kind = _RESULTS.get((call.receiver.kind, call.method), Kind.OTHER)
    if kind is Kind.COLLECTION:
        return collection_in(call.receiver, call.argument(0, "name") or OTHER, call.node)
    if kind is Kind.CURSOR:
        limit = call.keywords.get("limit")
        bounded = limit is not None and limit.constant != 0
        return Value(kind, call.node, call.method, bounded, parts=(call.receiver,))
    # Without parts: a document from a collection does not contain the filter that selected it.
    return Value(kind, call.node, call.method)


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
