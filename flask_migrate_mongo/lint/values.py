"""What lint knows about the values in a migration's code."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from .vocabulary import CLIENT_METHODS, COLLECTION_METHODS, DATABASE_METHODS, PROPERTIES, words

if TYPE_CHECKING:
    import ast
    from collections.abc import Iterator, Sequence

MOST_CHOICES = 1_000
"""How many possible values of one name are followed."""


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
    `complete` there may be others.
    """

    kind: Kind
    node: ast.AST | None = None
    name: str = ""
    constant: object = None
    parts: tuple[Value, ...] = ()
    keys: tuple[Value, ...] = ()
    names: frozenset[str] = frozenset()
    complete: bool = True
    scope: NameScope | None = None

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
    def label(self) -> str:
        """The name of the collection, empty if it is not known."""
        return min(self.names) if len(self.names) == 1 else ""


OTHER = Value(Kind.OTHER)


@dataclass(frozen=True, slots=True, eq=False)
class NameScope:
    """Names with their values, and the scope around them."""

    outer: NameScope | None = None
    names: dict[str, Value] = field(default_factory=dict)

    def find(self, name: str) -> Value | None:
        """Look up a name here and in the scopes around."""
        scope: NameScope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        return None


# --- attributes

_METHODS = {
    Kind.DATABASE: DATABASE_METHODS,
    Kind.COLLECTION: COLLECTION_METHODS,
    Kind.CLIENT: CLIENT_METHODS,
}
_ATTRIBUTES = {
    (Kind.DATABASE, "client"): Kind.CLIENT,
    (Kind.COLLECTION, "database"): Kind.DATABASE,
    (Kind.CONTEXT, "session"): Kind.SESSION,
}


def method_of(base: Value, name: str, node: ast.expr) -> Value:
    """Make the value of a method of another value."""
    return Value(Kind.METHOD, node, name, parts=(base,))


def member(base: Value, name: str, node: ast.expr) -> Value | None:
    """Evaluate an attribute; None if the kind of its object does not determine it."""
    if name in _METHODS.get(base.kind, ()):
        return method_of(base, name, node)
    if kind := _ATTRIBUTES.get((base.kind, name)):
        return Value(kind, node)
    if base.kind in {Kind.DATABASE, Kind.COLLECTION} and name not in PROPERTIES:
        return collection_in(base, Value(Kind.CONSTANT, constant=name), node, name)
    if base.kind is Kind.CLIENT:
        return Value(Kind.DATABASE, node, name)
    if base.kind is Kind.CONTEXT and name in {"app", "log"}:
        return Value(Kind.NAMED, node, f"ctx.{name}")
    has_methods = base.kind in {Kind.CONTEXT, Kind.SESSION, Kind.CURSOR}
    return method_of(base, name, node) if has_methods else None


def collection_in(base: Value, which: Value, node: ast.AST, attribute: str = "") -> Value:
    """Name a collection of a database, or below another collection ("users.archive")."""
    names, complete = texts_of(which)
    if base.kind is Kind.COLLECTION:
        names = frozenset(f"{outer}.{inner}" for outer in base.names for inner in names)
        complete = complete and base.complete
    return Value(Kind.COLLECTION, node, attribute, names=names, complete=complete)


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
        return Value(Kind.COLLECTION, flat[0].node, names=names, complete=complete)
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
