"""What a rule looks at, and what the calls in it do to the database."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from flask_migrate_mongo.model.values import Direction

from .facts import is_backfill
from .values import Kind, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask_migrate_mongo.model.values import MigrationFile

    from .facts import Call, Facts, Node


@dataclass(frozen=True)
class Migration:
    """A migration that rules look at; `is_own` tells the application's modules from others."""

    file: MigrationFile
    tree: ast.Module
    facts: Facts
    is_own: Callable[[str], bool]

    @property
    def confined(self) -> bool:
        """Whether it runs in a transaction."""
        return self.file.transactional

    def calls(self, direction: Direction | None = None) -> tuple[Call, ...]:
        """Return what up() and down() call, or one of them, in order."""
        return self._calls[direction]

    @cached_property
    def _calls(self) -> dict[Direction | None, tuple[Call, ...]]:
        calls: dict[Direction | None, tuple[Call, ...]] = {None: self.facts.of(*Direction)}
        return calls | {direction: self.facts.of(direction) for direction in Direction}

    def definition(self, name: str) -> Node | None:
        """Return where a function of the file is defined."""
        functions = (each for each in self.tree.body if isinstance(each, ast.FunctionDef))
        return next((each for each in functions if each.name == name), None)


class Hit(NamedTuple):
    """Where a rule is broken (None: the file as a whole), what happens, and on which collection."""

    node: Node | None
    what: str
    function: str | None = None
    collection: str = ""


Hits: TypeAlias = "Iterator[Hit]"


# --- what calls do

SINGLE = frozenset(
    {
        "delete_one",
        "find_one_and_delete",
        "find_one_and_replace",
        "find_one_and_update",
        "insert_one",
        "replace_one",
        "update_one",
    }
)
WRITES = SINGLE | {"bulk_write", "delete_many", "insert_many", "update_many"}
INDEX = frozenset({"create_index", "create_indexes"})
_SHAPE = frozenset(
    {"create_collection", "drop", "drop_collection", "drop_index", "drop_indexes", "rename"}
)
STORES = frozenset({Kind.DATABASE, Kind.COLLECTION, Kind.CLIENT})


def hit(call: Call, what: str, node: Node | None = None) -> Hit:
    """Return a hit at a call, or at a node that has to do with it."""
    return Hit(node or call.node, what, call.place.function, call.receiver.label)


def called(call: Call) -> str:
    """Return a call as a message names it."""
    base = "db" if call.on(Kind.DATABASE) else "client" if call.on(Kind.CLIENT) else "collection"
    on = f"db.{call.receiver.label}" if call.receiver.label else base
    return f"`{on}.{call.method}()`"


def last_name(call: Call) -> str:
    """Return the last part of the name of what is called."""
    return call.callee.name.rpartition(".")[2]


def is_write(call: Call) -> bool:
    """Whether it writes documents."""
    return call.on(Kind.COLLECTION) and (call.method in WRITES or bool(targets(call)))


def changes(call: Call) -> bool:
    """Whether it changes data or the collections themselves."""
    return is_write(call) or (call.receiver.kind in STORES and call.method in _SHAPE | INDEX)


def targets(call: Call) -> frozenset[str]:
    """Return the collections that the stages of a pipeline write to."""
    if call.method != "aggregate":
        return frozenset()
    stages = (body for value in call.given for key, body in entries(value) if key in _INTO)
    return frozenset(text for body in stages for text in body.texts())


_INTO = frozenset({"$out", "$merge"})


def entries(value: Value) -> Iterator[tuple[str, Value]]:
    """Yield every entry of every mapping in it."""
    for part in value.walk():
        if part.kind is Kind.MAPPING:
            yield from part.items()


def before(call: Call, migration: Migration) -> tuple[Call, ...]:
    """Return what the same function has called before."""
    calls = migration.calls(call.place.direction)
    return calls[: calls.index(call)]


def same_collection(one: Call, other: Call) -> bool:
    """Whether both are, or may be, on the same collection."""
    if not other.on(Kind.COLLECTION):
        return False
    mine, others = one.receiver.names, other.receiver.names
    return not (mine and others) or not mine.isdisjoint(others)


def makes(call: Call, names: frozenset[str]) -> bool:
    """Whether it makes one of these collections."""
    name = call.argument(0, "name")
    created = {name.constant} if call.method == "create_collection" and name else set()
    return not names.isdisjoint({*created, *targets(call)})


def is_new(call: Call, migration: Migration) -> bool:
    """Whether the migration itself has made the collection that it is called on."""
    return any(makes(earlier, call.receiver.names) for earlier in before(call, migration))


def change_of(call: Call) -> Value | None:
    """Return the change that an update, or a backfill, makes."""
    if is_backfill(call.callee):
        return call.argument(1, "change")
    updates = (call.on(Kind.COLLECTION) and call.method in _UPDATES) or last_name(
        call
    ) in _UPDATE_MODELS
    return call.argument(1, "update") if updates else None


def condition_of(call: Call) -> Value | None:
    """Return which documents an update, or a backfill, is about."""
    if is_backfill(call.callee):
        return call.keywords.get("where")
    return call.argument(0, "filter")


_UPDATES = frozenset({"update_one", "update_many", "find_one_and_update"})
_UPDATE_MODELS = frozenset({"UpdateOne", "UpdateMany"})


def place_of(call: Call) -> str:
    """Return the collection as a sentence names it."""
    return call.receiver.label or "the collection"
