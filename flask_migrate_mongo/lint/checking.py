"""What a check gets, what it yields, and the questions about calls that several checks ask."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from .facts import OTHER, STRUCTURE_CHANGES, WRITES, Kind, Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask_migrate_mongo.model.values import MigrationFile

    from .facts import CodeCall, Facts, Node


@dataclass(frozen=True, slots=True)
class ParsedMigration:
    """A migration to check. `is_own` says whether a module belongs to the application."""

    file: MigrationFile
    tree: ast.Module
    facts: Facts
    is_own: Callable[[str], bool]

    @property
    def calls(self) -> tuple[CodeCall, ...]:
        """The calls that up() and down() reach."""
        return (*self.facts.up, *self.facts.down)

    @property
    def calls_in_transaction(self) -> tuple[CodeCall, ...]:
        """The calls that run in the runner's transaction: all, or none."""
        return self.calls if self.file.transactional else ()

    def before(self, call: CodeCall) -> tuple[CodeCall, ...]:
        """List the calls that up() or down() reaches before this one."""
        calls = self.facts.up if call in self.facts.up else self.facts.down
        return calls[: calls.index(call)]

    def definition(self, name: str) -> ast.FunctionDef | None:
        """Find where the file defines a function."""
        functions = (each for each in self.tree.body if isinstance(each, ast.FunctionDef))
        return next((each for each in functions if each.name == name), None)


class Hit(NamedTuple):
    """A place that breaks a rule (None: the file as a whole), with the message for it."""

    node: Node | None
    message: str
    function: str | None = None
    collection: str = ""


Hits: TypeAlias = Iterator[Hit]

STORES = frozenset({Kind.DATABASE, Kind.COLLECTION, Kind.CLIENT})


def hit(call: CodeCall, message: str, node: Node | None = None) -> Hit:
    """Make a hit at a call, or at another node that belongs to it."""
    return Hit(node or call.node, message, call.place.function, call.receiver.label)


# --- names for messages


def called(call: CodeCall) -> str:
    """Name a call in a message, such as "`db.users.drop()`"."""
    base = "db" if call.on(Kind.DATABASE) else "client" if call.on(Kind.CLIENT) else "collection"
    on = f"db.{call.receiver.label}" if call.receiver.label else base
    return f"`{on}.{call.method}()`"


def collection_name(collection: Value) -> str:
    """Name a collection in a message."""
    return collection.label or "the collection"


# --- what a call does


def changes(call: CodeCall) -> bool:
    """Whether a call changes documents, indexes or collections."""
    writes = call.on(Kind.COLLECTION) and (call.method in WRITES or bool(targets(call)))
    return writes or (call.receiver.kind in STORES and call.method in STRUCTURE_CHANGES)


def targets(call: CodeCall) -> frozenset[str]:
    """Collect the collections that `$out` and `$merge` of a pipeline write to."""
    if call.method != "aggregate":
        return frozenset()
    stages = (stage for value in call.given for stage in value.entries())
    bodies = (body for name, body in stages if name in {"$out", "$merge"})
    return frozenset(text for body in bodies for text in body.texts())


def creates(call: CodeCall, names: frozenset[str]) -> bool:
    """Whether a call creates one of these collections."""
    name = call.argument(0, "name")
    is_named = call.method == "create_collection" and name.constant in names
    return is_named or not names.isdisjoint(targets(call))


def is_new(call: CodeCall, migration: ParsedMigration) -> bool:
    """Whether the migration itself created the collection of a call."""
    return any(creates(earlier, call.receiver.names) for earlier in migration.before(call))


def change_of(call: CodeCall) -> Value:
    """Find the change that an update or a backfill makes; OTHER for other calls."""
    if call.is_backfill:
        return call.argument(1, "change")
    updates = call.method in {"update_one", "update_many", "find_one_and_update"}
    is_model = call.last_name in {"UpdateOne", "UpdateMany"}
    is_update = is_model or (updates and call.on(Kind.COLLECTION))
    return call.argument(1, "update") if is_update else OTHER
