"""What lint knows about a migration's code: its values, calls, imports and collections."""

from __future__ import annotations

import ast
import builtins
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple, TypeAlias

Node: TypeAlias = ast.expr | ast.stmt | ast.excepthandler
"""A part of the syntax tree that has a line number."""

BUILT_IN = frozenset(dir(builtins))

# --- names of pymongo's API


def words(text: str) -> frozenset[str]:
    """Split a text into a set of its words."""
    return frozenset(text.split())


COLLECTION_METHODS = words(
    "aggregate aggregate_raw_batches bulk_write count_documents create_index create_indexes"
    " create_search_index create_search_indexes delete_many delete_one distinct drop drop_index"
    " drop_indexes drop_search_index estimated_document_count find find_one find_one_and_delete"
    " find_one_and_replace find_one_and_update find_raw_batches index_information insert_many"
    " insert_one list_indexes list_search_indexes options rename replace_one update_many"
    " update_one update_search_index watch with_options"
)
DATABASE_METHODS = words(
    "aggregate command create_collection cursor_command dereference drop_collection get_collection"
    " list_collection_names list_collections validate_collection watch with_options"
)
CLIENT_METHODS = words(
    "append_metadata bulk_write close drop_database get_database get_default_database"
    " list_database_names list_databases server_info start_session watch"
)
PROPERTIES = words("codec_options full_name name read_concern read_preference write_concern")
"""Attributes of collections and databases that are not collections."""

SINGLE_WRITES = words(
    "delete_one find_one_and_delete find_one_and_replace find_one_and_update insert_one"
    " replace_one update_one"
)
WRITES = SINGLE_WRITES | words("bulk_write delete_many insert_many update_many")
"""Only collections have these methods (a client only `bulk_write`), so a call shows what it is made on."""

INDEX_BUILDS = words("create_index create_indexes")
STRUCTURE_CHANGES = INDEX_BUILDS | words(
    "create_collection drop drop_collection drop_index drop_indexes rename"
)


# --- values

Kind = Enum(
    "Kind",
    "OTHER DATABASE COLLECTION CLIENT SESSION CONTEXT CURSOR TRANSACTION BINDING CONSTANT MAPPING"
    " SEQUENCE CHOICE FUNCTION METHOD IMPORTED RESULT",
)
"""What is known about a value. An IMPORTED one may also be built in; a RESULT is what a call of such a one returns."""

_MOST_CHOICES = 1_000
"""How many possible values of one name are followed."""


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """The value of an expression. A field that does not apply to its kind has the default."""

    kind: Kind
    name: str = ""
    """What the code calls it: a dotted import path, or a method or another attribute."""
    constant: object = None
    parts: tuple[Value, ...] = ()
    """What it contains, may be, or is made of."""
    keys: tuple[Value, ...] = ()
    """The keys of a mapping, whose values are the parts."""
    names: frozenset[str] = frozenset()
    """The possible names of a collection; without `complete` there may be others."""
    complete: bool = True
    limited: bool = False
    """Whether a cursor has a limit."""
    owner: Value | None = None
    """The object of a method."""
    call: CodeCall | None = None
    """The call that made it."""
    function: Function | None = None

    def walk(self) -> Iterator[Value]:
        """Yield this value and everything that it contains."""
        waiting, seen = [self], set()
        while waiting:
            value = waiting.pop()
            if id(value) not in seen:
                seen.add(id(value))
                yield value
                waiting += (*value.keys, *value.parts)

    def items(self) -> Iterator[tuple[str, Value]]:
        """Yield the entries of a mapping whose keys are strings."""
        for key, value in zip(self.keys, self.parts, strict=False):
            if isinstance(key.constant, str):
                yield key.constant, value

    def entries(self) -> Iterator[tuple[str, Value]]:
        """Yield the entries of every mapping in this value, at any depth."""
        for part in self.walk():
            yield from part.items()

    def texts(self) -> frozenset[str]:
        """Collect every string in this value, at any depth."""
        return frozenset(v.constant for v in self.walk() if isinstance(v.constant, str))

    @property
    def label(self) -> str:
        """The name of the collection, empty if it is not known."""
        return min(self.names) if len(self.names) == 1 else ""

    @property
    def cursor(self) -> Value | None:
        """The cursor that a loop over this value reads."""
        if self.kind is Kind.RESULT:
            return next(filter(None, (part.cursor for part in self.parts)), None)
        options = self.parts if self.kind is Kind.OTHER else (self,)
        return next((value for value in options if value.kind is Kind.CURSOR), None)

    @property
    def element(self) -> Value:
        """The variable of a loop over this value."""
        if self.kind is Kind.CHOICE:
            return choice([part.element for part in self.parts])
        return choice(self.keys or self.parts) if self.kind in _ITERABLE else OTHER

    def at(self, index: Value) -> Value:
        """Evaluate an index, a key or a slice of this value."""
        if self.kind is Kind.CHOICE:
            return choice([part.at(index) for part in self.parts])
        if self.kind is Kind.CLIENT:
            return Value(Kind.DATABASE)
        if self.kind in {Kind.DATABASE, Kind.COLLECTION}:
            return self.collection(index)
        if self.kind is Kind.CURSOR:
            return replace(self, limited=True)
        is_list = self.kind is Kind.SEQUENCE
        known: Iterable[tuple[object, Value]] = enumerate(self.parts) if is_list else self.items()
        return dict(known).get(index.constant) or Value(Kind.OTHER, parts=(self, index))

    def collection(self, which: Value) -> Value:
        """Name a collection of a database, or below another collection ("users.archive")."""
        options = which.parts if which.kind is Kind.CHOICE else (which,)
        names = frozenset(v.constant for v in options if isinstance(v.constant, str))
        complete = all(isinstance(v.constant, str) for v in options)
        if self.kind is Kind.COLLECTION:
            names = frozenset(f"{outer}.{inner}" for outer in self.names for inner in names)
            complete = complete and self.complete
        return Value(Kind.COLLECTION, names=names, complete=complete)

    def attribute(self, name: str) -> Value:
        """Evaluate an attribute of this value."""
        if known := _ATTRIBUTES.get((self.kind, name)):
            return known
        has_any_method = self.kind in {Kind.CONTEXT, Kind.SESSION, Kind.CURSOR}
        if has_any_method or name in _METHODS.get(self.kind, ()):
            return Value(Kind.METHOD, name, owner=self)
        if self.kind in _METHODS and name not in PROPERTIES:
            return replace(self.at(Value(Kind.CONSTANT, constant=name)), name=name)
        if name in WRITES:
            return Value(Kind.METHOD, name, owner=ANY_COLLECTION)
        if self.kind is Kind.IMPORTED:
            return Value(Kind.IMPORTED, f"{self.name}.{name}")
        return Value(Kind.OTHER, name, parts=(self,))


NameScope: TypeAlias = ChainMap[str, Value]
"""Names with their values, in a scope and in those around it."""


class Function(NamedTuple):
    """A function of the file, and the scope around it. A lambda has no name."""

    name: str
    arguments: ast.arguments
    body: Sequence[ast.stmt]
    scope: NameScope


OTHER = Value(Kind.OTHER)
ANY_COLLECTION = Value(Kind.COLLECTION, complete=False)

STORES = frozenset({Kind.DATABASE, Kind.COLLECTION, Kind.CLIENT})
_ITERABLE = frozenset({Kind.SEQUENCE, Kind.MAPPING})

_METHODS = {
    Kind.DATABASE: DATABASE_METHODS,
    Kind.COLLECTION: COLLECTION_METHODS,
    Kind.CLIENT: CLIENT_METHODS,
}
_ATTRIBUTES = {
    (Kind.DATABASE, "client"): Value(Kind.CLIENT),
    (Kind.COLLECTION, "database"): Value(Kind.DATABASE),
    (Kind.CONTEXT, "session"): Value(Kind.SESSION),
}


def choice(options: Sequence[Value]) -> Value:
    """Combine values into one that is any of them."""
    nested = (each.parts if each.kind is Kind.CHOICE else (each,) for each in options)
    flat = tuple(option for parts in nested for option in parts)[:_MOST_CHOICES]
    if len(flat) <= 1:
        return flat[0] if flat else OTHER
    if all(option.kind is Kind.COLLECTION for option in flat):
        names = frozenset[str]().union(*(option.names for option in flat))
        complete = all(option.complete for option in flat)
        return Value(Kind.COLLECTION, names=names, complete=complete)
    return Value(Kind.CHOICE, parts=flat)


# --- code


class Handler(NamedTuple):
    """An `except` clause that raises no error itself, or `contextlib.suppress()`.

    `catches` has the last parts of the class names, and is empty for a bare `except`.
    """

    node: Node
    catches: frozenset[str]


@dataclass(frozen=True, slots=True)
class Place:
    """The circumstances in which code runs.

    `loops` are the values that the loops around it iterate over. `opened` and `bound`: code around
    it opened a transaction, or bound a session. `backfill`: `ctx.backfill()` calls the code.
    """

    function: str | None = None
    loops: tuple[Value, ...] = ()
    handlers: tuple[Handler, ...] = ()
    opened: bool = False
    bound: bool = False
    backfill: bool = False


_RESULTS = {
    (Kind.COLLECTION, "find"): Kind.CURSOR,
    (Kind.DATABASE, "get_collection"): Kind.COLLECTION,
    (Kind.DATABASE, "create_collection"): Kind.COLLECTION,
    (Kind.CLIENT, "get_database"): Kind.DATABASE,
    (Kind.CLIENT, "get_default_database"): Kind.DATABASE,
    (Kind.CLIENT, "start_session"): Kind.SESSION,
    (Kind.SESSION, "start_transaction"): Kind.TRANSACTION,
    (Kind.SESSION, "bind"): Kind.BINDING,
}
_CURSOR_RESULTS = words("close distinct explain next to_list")
"""Methods of a cursor that return something else than the cursor, or one like it."""

_SAME_ELEMENTS = words("sorted list tuple set reversed")

_NAMING = {
    (Kind.CLIENT, "bulk_write"): "models",
    (Kind.DATABASE, "create_collection"): "name",
    (Kind.DATABASE, "drop_collection"): "name_or_collection",
    (Kind.DATABASE, "validate_collection"): "name_or_collection",
    (Kind.COLLECTION, "rename"): "new_name",
    (Kind.CONTEXT, "backfill"): "collection",
}
"""Methods whose first argument names a collection, with the name of that argument."""

_NAMING_STAGES = words("$lookup $graphLookup $unionWith $out $merge")


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
        return self.callee.owner or OTHER

    @property
    def method(self) -> str:
        """The name of the method, empty if no method is called."""
        return self.callee.name if self.callee.kind is Kind.METHOD else ""

    @property
    def path(self) -> str:
        """The dotted import path of the callee, empty for a method or a function of the file."""
        return self.callee.name if self.callee.kind is Kind.IMPORTED else ""

    @property
    def last_name(self) -> str:
        """The last part of the callee's name."""
        return self.callee.name.rpartition(".")[2]

    @property
    def given(self) -> Value:
        """All known arguments, as one value."""
        return Value(Kind.SEQUENCE, parts=(*self.args, *self.keywords.values()))

    @property
    def is_backfill(self) -> bool:
        """Whether this calls `ctx.backfill()`."""
        return self.on(Kind.CONTEXT) and self.method == "backfill"

    def on(self, *kinds: Kind) -> bool:
        """Whether this calls a method of one of these kinds."""
        return self.receiver.kind in kinds

    @property
    def shown(self) -> str:
        """The call in a message, such as "`db.users.drop()`"."""
        base = {Kind.DATABASE: "db", Kind.CLIENT: "client"}.get(self.receiver.kind, "collection")
        on = f"db.{self.receiver.label}" if self.receiver.label else base
        return f"`{on}.{self.method}()`"

    @property
    def changes_data(self) -> bool:
        """Whether this changes documents, indexes or collections."""
        writes = self.on(Kind.COLLECTION) and (self.method in WRITES or bool(self.targets))
        return writes or (self.on(*STORES) and self.method in STRUCTURE_CHANGES)

    @property
    def targets(self) -> frozenset[str]:
        """The collections that `$out` and `$merge` of a pipeline write to."""
        stages = self.given.entries() if self.method == "aggregate" else ()
        bodies = (body for name, body in stages if name in {"$out", "$merge"})
        return frozenset(text for body in bodies for text in body.texts())

    def creates(self, names: frozenset[str]) -> bool:
        """Whether this creates one of these collections."""
        is_named = self.method == "create_collection" and self.argument(0, "name").constant in names
        return is_named or not names.isdisjoint(self.targets)

    @property
    def change(self) -> Value:
        """The change that an update or a backfill makes; OTHER for other calls."""
        if self.is_backfill:
            return self.argument(1, "change")
        updates = self.method in {"update_one", "update_many", "find_one_and_update"}
        is_model = self.last_name in {"UpdateOne", "UpdateMany"}
        is_update = is_model or (updates and self.on(Kind.COLLECTION))
        return self.argument(1, "update") if is_update else OTHER

    def argument(self, position: int, name: str) -> Value:
        """Look up an argument by its position or its name."""
        return self.args[position] if position < len(self.args) else self.keywords.get(name, OTHER)

    def result(self) -> Value:
        """Evaluate the call."""
        if self.method:
            return self._method_result()
        if self.path.endswith("MongoClient"):
            return Value(Kind.CLIENT)
        parts = (*self.callee.parts, *self.given.parts)
        first = parts[0] if parts else OTHER
        if self.path in _SAME_ELEMENTS and first.kind in _ITERABLE:
            return first
        if self.path == "enumerate" and first.kind is Kind.SEQUENCE:
            return _pairs((OTHER, each) for each in first.parts)
        if self.callee.name == "items" and first.kind is Kind.MAPPING:
            return _pairs(zip(first.keys, first.parts, strict=True))
        kind = Kind.RESULT if self.path else Kind.OTHER
        return Value(kind, self.callee.name, parts=parts, call=self)

    def _method_result(self) -> Value:
        receiver, is_cursor = self.receiver, self.on(Kind.CURSOR)
        if is_cursor and self.method == "to_list":
            return Value(Kind.RESULT, "list", parts=(receiver,))
        if is_cursor and self.method == "limit":
            return replace(receiver, limited=True)
        if self.method == "with_options" or (is_cursor and self.method not in _CURSOR_RESULTS):
            return receiver
        kind = _RESULTS.get((receiver.kind, self.method), Kind.OTHER)
        if kind is Kind.COLLECTION:
            return receiver.collection(self.argument(0, "name"))
        if kind is Kind.CURSOR:
            limited = "limit" in self.keywords and self.keywords["limit"].constant != 0
            return Value(kind, parts=(receiver,), limited=limited)
        # Without parts: a document from a collection does not contain the filter that selected it.
        return Value(kind, self.method)

    def collections(self) -> Iterator[Value]:
        """Yield the collections that the call uses."""
        given = self.given.parts
        used = (value.owner or value for value in (self.callee, *given))
        yield from (value for value in used if value.kind is Kind.COLLECTION)
        for name in self._names():
            if name.kind is not Kind.COLLECTION:
                yield OTHER.collection(name)
        # A function of another file that gets the database may use any collection.
        elsewhere = not self.method and self.path not in BUILT_IN
        if elsewhere and any(v.kind in {Kind.DATABASE, Kind.CLIENT} for v in given):
            yield ANY_COLLECTION

    def _names(self) -> Iterator[Value]:
        """Yield the arguments, and parts of arguments, that name a collection."""
        which = (self.receiver.kind, self.method)
        if which in _NAMING:
            yield self.argument(0, _NAMING[which])
        elif which == (Kind.DATABASE, "command"):
            command = self.argument(0, "command")
            if command.kind is Kind.CONSTANT:
                yield from self.args[1:2]
            else:
                yield command.parts[0] if command.keys else OTHER
        elif self.method == "aggregate":
            yield from _named_in_pipeline(self.argument(0, "pipeline"))


def _pairs(pairs: Iterable[tuple[Value, Value]]) -> Value:
    return Value(Kind.SEQUENCE, parts=tuple(Value(Kind.SEQUENCE, parts=pair) for pair in pairs))


def _named_in_pipeline(pipeline: Value) -> Iterator[Value]:
    is_list = pipeline.kind is Kind.SEQUENCE
    if not is_list or any(part.kind is not Kind.MAPPING for part in pipeline.parts):
        yield OTHER
    for stage, body in pipeline.entries():
        if stage in _NAMING_STAGES:
            yield from _named_in_stage(body)


def _named_in_stage(body: Value) -> Iterator[Value]:
    """Yield the collection that a stage names: directly, as an option, or in one beside `db`."""
    if body.kind is not Kind.MAPPING:
        yield body
    for option, value in body.items():
        if option in {"from", "into", "coll"}:
            yield from _named_in_stage(value)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file does: the calls at import, in up() and in down(), each in order.

    `imports` are statements with the dotted path of each name that they import; it begins with a
    dot in a relative import. Without `complete`, some code was too large or too deep to follow.
    """

    at_import: tuple[CodeCall, ...]
    up: tuple[CodeCall, ...]
    down: tuple[CodeCall, ...]
    imports: tuple[tuple[ast.stmt, str], ...]
    complete: bool
