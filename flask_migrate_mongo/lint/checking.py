"""What a check gets, and what it yields."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask_migrate_mongo.model.values import MigrationFile

    from .facts import CodeCall, Facts, Node, Value


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

    def is_new(self, call: CodeCall) -> bool:
        """Whether the migration itself created the collection of a call."""
        return any(earlier.creates(call.receiver.names) for earlier in self.before(call))

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


def hit(call: CodeCall, message: str, node: Node | None = None) -> Hit:
    """Make a hit at a call, or at another node that belongs to it."""
    return Hit(node or call.node, message, call.place.function, call.receiver.label)


def collection_name(collection: Value) -> str:
    """Name a collection in a message."""
    return collection.label or "the collection"
