"""What a migration's code does: its calls, imports and collections, and where they stand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from .values import OTHER, SAME_CURSOR, Kind, Value

if TYPE_CHECKING:
    import ast
    from collections.abc import Callable, Iterator, Mapping

    from flask_migrate_mongo.model.values import Direction

Node: TypeAlias = "ast.expr | ast.stmt | ast.excepthandler"
"""What stands in a file and has a line."""

_STAGES = frozenset({"$lookup", "$graphLookup", "$unionWith", "$out", "$merge"})


class Handler(NamedTuple):
    """What catches an error that is raised within it, by the last parts of its classes' names.

    `catches` is empty for a bare `except`; `raises` says whether anything is raised again.
    """

    node: Node
    catches: frozenset[str]
    raises: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: reached from which function, inside of what.

    `direction` is None for what runs when the file is imported. `loops` are what the loops around
    it go over. `opened` and `bound` say of a transaction, and of a session, whether it was opened,
    or bound, by hand; `backfill`, whether `ctx.backfill()` calls it.
    """

    direction: Direction | None = None
    function: str | None = None
    loops: tuple[Value, ...] = ()
    handlers: tuple[Handler, ...] = ()
    opened: bool = False
    bound: bool = False
    backfill: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A call. Without `complete`, some arguments are in a `*` or `**` and not known.

    A comprehension that goes over a cursor is a call of `list`.
    """

    node: ast.expr
    callee: Value
    place: Place
    args: tuple[Value, ...] = ()
    keywords: Mapping[str, Value] = field(default_factory=dict)
    complete: bool = True

    @property
    def receiver(self) -> Value:
        """What a method is called on."""
        return self.callee.parts[0] if self.callee.kind is Kind.METHOD else OTHER

    @property
    def method(self) -> str:
        """The name of the method, empty when none is called."""
        return self.callee.name if self.callee.kind is Kind.METHOD else ""

    @property
    def path(self) -> str:
        """The dotted path of what is called, empty when it is a method or a function of the file."""
        return self.callee.name if self.callee.kind is Kind.NAMED else ""

    @property
    def given(self) -> tuple[Value, ...]:
        """All arguments that are known."""
        return (*self.args, *self.keywords.values())

    def on(self, kind: Kind) -> bool:
        """Whether it is a method of something of this kind."""
        return self.receiver.kind is kind

    def argument(self, position: int, name: str) -> Value | None:
        """Return an argument that can be given by position or by name."""
        return self.args[position] if position < len(self.args) else self.keywords.get(name)


class Import(NamedTuple):
    """A name that is imported; `level` counts the dots of a relative import."""

    node: ast.Import | ast.ImportFrom
    path: str
    level: int = 0


class Reference(NamedTuple):
    """Collections that the code names; without `complete` there are others, which it works out."""

    names: frozenset[str]
    complete: bool
    direction: Direction | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file does, in the order in which it does it."""

    calls: tuple[Call, ...]
    imports: tuple[Import, ...]
    references: tuple[Reference, ...]

    def of(self, *directions: Direction) -> tuple[Call, ...]:
        """Return the calls that up(), or down(), or both, reach."""
        return tuple(call for call in self.calls if call.place.direction in directions)


def is_backfill(callee: Value) -> bool:
    """Whether it is `ctx.backfill`."""
    is_method = callee.kind is Kind.METHOD and callee.parts[0].kind is Kind.CONTEXT
    return is_method and callee.name == "backfill"


# --- what a call gives, and which collections it uses


def result_of(call: Call) -> Value:
    """Return what a call gives."""
    if call.callee.kind is Kind.METHOD:
        given = _RESULTS.get(call.receiver.kind)
        found = given(call) if given else None
        # Of what: what is read from a collection is not made of what asked for it.
        return found or Value(Kind.OTHER, call.node, call.method)
    if call.path.endswith("MongoClient"):
        return Value(Kind.CLIENT, call.node, call.path, parts=call.given)
    if call.path:
        return Value(Kind.MADE, call.node, call.path, parts=(call.callee, *call.given))
    parts = (*call.callee.parts, *call.given)
    return Value(Kind.OTHER, call.node, call.callee.name, parts=parts)


def _from_collection(call: Call) -> Value | None:
    if call.method == "with_options":
        return call.receiver
    if call.method in {"find", "aggregate"}:
        limit = call.keywords.get("limit")
        bounded = limit is not None and limit.constant != 0
        return Value(Kind.CURSOR, call.node, call.method, bounded, parts=(call.receiver,))
    return None


def _from_database(call: Call) -> Value | None:
    if call.method == "with_options":
        return call.receiver
    if call.method in {"get_collection", "create_collection"}:
        return Value(Kind.COLLECTION, call.node)
    return None


def _from_client(call: Call) -> Value | None:
    if call.method in {"get_database", "get_default_database"}:
        return Value(Kind.DATABASE, call.node)
    return Value(Kind.SESSION, call.node) if call.method == "start_session" else None


def _from_session(call: Call) -> Value | None:
    kind = {"start_transaction": Kind.TRANSACTION, "bind": Kind.BINDING}.get(call.method)
    return Value(kind, call.node) if kind else None


def _from_cursor(call: Call) -> Value | None:
    if call.method == "limit":
        return replace(call.receiver, constant=True)
    if call.method in SAME_CURSOR:
        return call.receiver
    if call.method == "to_list":
        return Value(Kind.MADE, call.node, "list", parts=(call.receiver,))
    return None


_RESULTS: dict[Kind, Callable[[Call], Value | None]] = {
    Kind.COLLECTION: _from_collection,
    Kind.DATABASE: _from_database,
    Kind.CLIENT: _from_client,
    Kind.SESSION: _from_session,
    Kind.CURSOR: _from_cursor,
}


def collections_of(call: Call) -> Iterator[Value]:
    """Yield what names the collections that a call uses besides the one it is made on."""
    if call.on(Kind.DATABASE) and call.method == "command":
        yield from _commanded(call)
    if call.on(Kind.DATABASE) and call.method in {"drop_collection", "validate_collection"}:
        yield call.argument(0, "name_or_collection") or OTHER
    if call.on(Kind.DATABASE) and call.method == "create_collection":
        yield call.argument(0, "name") or OTHER
    if call.on(Kind.COLLECTION) and call.method == "rename":
        yield call.argument(0, "new_name") or OTHER
    if is_backfill(call.callee):
        yield call.argument(0, "collection") or OTHER
    if call.on(Kind.CLIENT) and call.method == "bulk_write":
        yield OTHER
    if call.method == "aggregate":
        yield from _stages(call.argument(0, "pipeline") or OTHER)


def _commanded(call: Call) -> Iterator[Value]:
    what = call.argument(0, "command") or OTHER
    if what.kind is Kind.MAPPING and what.parts:
        yield what.parts[0]
    elif what.kind is not Kind.CONSTANT:
        yield OTHER
    elif len(call.args) > 1:
        yield call.args[1]


def _stages(pipeline: Value) -> Iterator[Value]:
    if pipeline.kind is not Kind.SEQUENCE or any(
        p.kind is not Kind.MAPPING for p in pipeline.parts
    ):
        yield OTHER
    for value in pipeline.walk():
        for stage, body in value.items() if value.kind is Kind.MAPPING else ():
            if stage in _STAGES:
                named = body.get("into") or body.get("from") or body.get("coll")
                if named is not None:
                    # A target in another database is a mapping of `db` and `coll`.
                    yield named.get("coll") or named
                elif body.kind is not Kind.MAPPING:
                    yield body
