"""What lint knows about a migration's code: its values, calls, imports and collections."""

from __future__ import annotations

import ast
from collections import ChainMap
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flask_migrate_mongo.model.values import Direction

Node: TypeAlias = ast.expr | ast.stmt | ast.excepthandler
"""A part of the syntax tree that has a line number."""

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


class Kind(Enum):
    """What is known about a value."""

    OTHER = auto()
    DATABASE = auto()
    COLLECTION = auto()
    CLIENT = auto()
    SESSION = auto()
    CONTEXT = auto()
    CURSOR = auto()
    TRANSACTION = auto()
    BINDING = auto()
    CONSTANT = auto()
    MAPPING = auto()
    SEQUENCE = auto()
    CHOICE = auto()
    FUNCTION = auto()
    METHOD = auto()
    NAMED = auto()
    MADE = auto()


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """The value of an expression.

    `name`: the dotted import path of a NAMED or MADE value, the method of a METHOD or CURSOR, the
    attribute of others. `parts`: elements, the values of a mapping, choices, the object and the
    arguments of a call, the results of a function. `names`: possible names of a collection; without
    `complete` there may be others. `node`: the call that made it. `function`: the definition of a
    FUNCTION.
    """

    kind: Kind
    name: str = ""
    constant: object = None
    parts: tuple[Value, ...] = ()
    keys: tuple[Value, ...] = ()
    names: frozenset[str] = frozenset()
    complete: bool = True
    node: ast.expr | None = None
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
            if part.kind is Kind.MAPPING:
                yield from part.items()

    def get(self, key: str) -> Value | None:
        """Look up a key of a mapping."""
        return dict(self.items()).get(key)

    def texts(self) -> frozenset[str]:
        """Collect every string in this value, at any depth."""
        return frozenset(v.constant for v in self.walk() if isinstance(v.constant, str))

    @property
    def receiver(self) -> Value:
        """The object of a method."""
        return self.parts[0] if self.kind is Kind.METHOD else OTHER

    @property
    def label(self) -> str:
        """The name of the collection, empty if it is not known."""
        return min(self.names) if len(self.names) == 1 else ""


NameScope: TypeAlias = ChainMap[str, Value]
"""Names with their values, in a scope and in those around it."""


class Function(NamedTuple):
    """A function of the file, and the scope around it."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    scope: NameScope


OTHER = Value(Kind.OTHER)
ANY_COLLECTION = Value(Kind.COLLECTION, complete=False)


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
        return self.callee.receiver

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
        return self.on(Kind.CONTEXT) and self.method == "backfill"

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


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file does: the calls at import, in up() and in down(), each in order.

    `references` are the collections that the code names, with the function that names them.
    """

    at_import: tuple[CodeCall, ...]
    up: tuple[CodeCall, ...]
    down: tuple[CodeCall, ...]
    imports: tuple[Import, ...]
    references: tuple[tuple[Direction | None, Value], ...]
