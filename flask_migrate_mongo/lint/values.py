"""What is known of the values that a migration's code deals with."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ast
    from collections.abc import Callable, Iterator, Sequence


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COLLECTION_METHODS = _words(
    "aggregate aggregate_raw_batches bulk_write count_documents create_index create_indexes"
    " create_search_index create_search_indexes delete_many delete_one distinct drop drop_index"
    " drop_indexes drop_search_index estimated_document_count find find_one find_one_and_delete"
    " find_one_and_replace find_one_and_update find_raw_batches index_information insert_many"
    " insert_one list_indexes list_search_indexes options rename replace_one update_many"
    " update_one update_search_index watch with_options"
)
DATABASE_METHODS = _words(
    "aggregate command create_collection cursor_command dereference drop_collection get_collection"
    " list_collection_names list_collections validate_collection watch with_options"
)
CLIENT_METHODS = _words(
    "append_metadata bulk_write close drop_database get_database get_default_database"
    " list_database_names list_databases server_info start_session watch"
)
PROPERTIES = _words("codec_options full_name name read_concern read_preference write_concern")
"""Attributes of collections and databases that are not collections."""

UNMISTAKABLE = _words(
    "bulk_write delete_many delete_one find_one_and_delete find_one_and_replace find_one_and_update"
    " insert_many insert_one replace_one update_many update_one"
)
"""Methods that only a collection has, so that they tell what they are called on."""

SAME_CURSOR = _words(
    "add_option allow_disk_use batch_size clone collation comment hint max max_time_ms min"
    " remove_option rewind skip sort where"
)
CHOICES = 1_000
"""Values that a name is followed through."""


class Kind(Enum):
    """What is known of a value."""

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
    """What an expression stands for.

    `name`: of a NAMED or MADE value the dotted path that it was imported by, of a METHOD or CURSOR
    the method, of an attribute the attribute. `parts`: elements, a mapping's values, choices, what
    a call was made on and with, what a function returns. `names`: what a collection may be called;
    without `complete` these are not all.
    """

    kind: Kind
    node: ast.AST | None = None
    name: str = ""
    constant: object = None
    parts: tuple[Value, ...] = ()
    keys: tuple[Value, ...] = ()
    names: frozenset[str] = frozenset()
    complete: bool = True
    scope: Scope | None = None

    def walk(self) -> Iterator[Value]:
        """Yield this value and all that it is made of."""
        waiting, seen = [self], set()
        while waiting:
            value = waiting.pop()
            if id(value) not in seen:
                seen.add(id(value))
                yield value
                waiting += (*value.keys, *value.parts)

    def items(self) -> Iterator[tuple[str, Value]]:
        """Yield the entries of a mapping whose keys are texts."""
        for key, value in zip(self.keys, self.parts, strict=False):
            if isinstance(key.constant, str):
                yield key.constant, value

    def get(self, key: str) -> Value | None:
        """Return the value of a mapping's key."""
        return dict(self.items()).get(key)

    def texts(self) -> frozenset[str]:
        """Return every text in it, at any depth."""
        return frozenset(v.constant for v in self.walk() if isinstance(v.constant, str))

    @property
    def label(self) -> str:
        """The collection as a message names it."""
        return min(self.names) if len(self.names) == 1 else ""


OTHER = Value(Kind.OTHER)


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """Names and what they stand for, and the scope around it."""

    outer: Scope | None = None
    names: dict[str, Value] = field(default_factory=dict)

    def find(self, name: str) -> Value | None:
        """Return what a name stands for here."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        return None


# --- what attributes give


def method(base: Value, name: str, node: ast.expr) -> Value:
    """Return a method of a value."""
    return Value(Kind.METHOD, node, name, parts=(base,))


def _of_database(base: Value, name: str, node: ast.expr) -> Value | None:
    if name in DATABASE_METHODS:
        return method(base, name, node)
    return Value(Kind.CLIENT, node) if name == "client" else None


def _of_collection(base: Value, name: str, node: ast.expr) -> Value | None:
    if name in COLLECTION_METHODS:
        return method(base, name, node)
    if name == "database":
        return Value(Kind.DATABASE, node)
    if name in PROPERTIES:
        return None
    return below(base, node, Value(Kind.CONSTANT, constant=name), name)


def _of_client(base: Value, name: str, node: ast.expr) -> Value | None:
    if name in CLIENT_METHODS:
        return method(base, name, node)
    return Value(Kind.DATABASE, node, name)


def _of_context(base: Value, name: str, node: ast.expr) -> Value | None:
    if name == "session":
        return Value(Kind.SESSION, node)
    if name in {"app", "log"}:
        return Value(Kind.NAMED, node, f"ctx.{name}")
    return method(base, name, node)


_MEMBERS: dict[Kind, Callable[[Value, str, ast.expr], Value | None]] = {
    Kind.DATABASE: _of_database,
    Kind.COLLECTION: _of_collection,
    Kind.CLIENT: _of_client,
    Kind.CONTEXT: _of_context,
    Kind.SESSION: method,
    Kind.CURSOR: method,
}


def member(base: Value, name: str, node: ast.expr) -> Value | None:
    """Return what an attribute of a value is, None when the value's kind does not tell."""
    of_kind = _MEMBERS.get(base.kind)
    return of_kind(base, name, node) if of_kind else None


def below(base: Value, node: ast.AST, which: Value, attribute: str = "") -> Value:
    """Return the collection whose name goes on after a dot."""
    names, complete = texts_of(which)
    full = frozenset(f"{outer}.{inner}" for outer in base.names for inner in names)
    complete = complete and base.complete
    return Value(Kind.COLLECTION, node, attribute, names=full, complete=complete)


# --- what parts of values are


def texts_of(which: Value) -> tuple[frozenset[str], bool]:
    """Return the texts that a value may be, and whether these are all."""
    options = which.parts if which.kind is Kind.CHOICE else (which,)
    texts = frozenset(v.constant for v in options if isinstance(v.constant, str))
    return texts, bool(options) and all(isinstance(v.constant, str) for v in options)


def choice(options: Sequence[Value]) -> Value:
    """Return a value that is one of these."""
    nested = ((each.parts if each.kind is Kind.CHOICE else (each,)) for each in options)
    flat = tuple(option for parts in nested for option in parts)[:CHOICES]
    kinds = {option.kind for option in flat}
    if len(flat) <= 1:
        return flat[0] if flat else OTHER
    if kinds == {Kind.COLLECTION}:
        names = frozenset[str]().union(*(option.names for option in flat))
        complete = all(option.complete for option in flat)
        return Value(Kind.COLLECTION, flat[0].node, names=names, complete=complete)
    # `cursor if wanted else None`: what can be told of it is worth more than that it may be None.
    known = [option for option in flat if option.kind not in _VAGUE]
    return known[0] if len(known) == 1 else Value(Kind.CHOICE, parts=flat)


_VAGUE = frozenset({Kind.CONSTANT, Kind.OTHER, Kind.MAPPING, Kind.SEQUENCE})
_SAME_ELEMENTS = frozenset({"sorted", "list", "tuple", "set", "reversed"})
_VIEWS = frozenset({"items", "keys", "values"})


def element(over: Value) -> Value:
    """Return what the variable of a loop over this stands for."""
    if over.kind is Kind.CHOICE:
        return choice([element(part) for part in over.parts])
    if over.kind in {Kind.SEQUENCE, Kind.MAPPING}:
        return choice(over.parts if over.kind is Kind.SEQUENCE else over.keys)
    # What was called comes first, then what it was called with.
    given = over.parts[1] if over.kind is Kind.MADE and len(over.parts) > 1 else None
    if given and over.name == "enumerate":
        return Value(Kind.SEQUENCE, parts=(OTHER, element(given)))
    if given and over.name in _SAME_ELEMENTS:
        return element(given)
    return _view(over) if over.kind is Kind.OTHER and over.name in _VIEWS else OTHER


def _view(over: Value) -> Value:
    """Return an element of what a mapping's items(), keys() or values() returned."""
    mapping = over.parts[0] if over.parts else OTHER
    if mapping.kind is not Kind.MAPPING:
        return OTHER
    pairs = zip(mapping.keys, mapping.parts, strict=False)
    if over.name == "items":
        return choice([Value(Kind.SEQUENCE, parts=pair) for pair in pairs])
    return choice(mapping.parts if over.name == "values" else mapping.keys)


def element_at(value: Value, index: Value) -> Value | None:
    """Return the element at an index or a key, None when it is not known."""
    if value.kind is Kind.CHOICE:
        found = [element_at(part, index) for part in value.parts]
        return choice([each or OTHER for each in found])
    if value.kind is Kind.MAPPING and isinstance(index.constant, str):
        return value.get(index.constant)
    if value.kind is Kind.SEQUENCE and isinstance(index.constant, int):
        return dict(enumerate(value.parts)).get(index.constant)
    return None


def cursor_of(value: Value) -> Value | None:
    """Return the cursor that a loop over this value goes through."""
    if value.kind is Kind.CURSOR:
        return value
    if value.kind is Kind.MADE:
        return next(filter(None, map(cursor_of, value.parts)), None)
    if value.kind is Kind.OTHER:
        return next((part for part in value.parts if part.kind is Kind.CURSOR), None)
    return None
