"""The list of migrations on the overview: its rows, and the part of them that a visitor asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flask_migrate_mongo.driver.server import Document

PAGE_SIZE = 50


@dataclass(frozen=True, slots=True)
class ListedMigration:
    """A migration of the document of `status`, with the part of it that lists it."""

    state: str
    entry: Document

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about it."""
        return tuple(label for label, key in _NOTES.items() if self.entry.get(key))

    def has(self, words: str) -> bool:
        """Whether its version begins with these words, or its name has them."""
        return self.entry["version"].startswith(words) or words.casefold() in self.name.casefold()

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.entry["name"])


_NOTES = {
    "changed": "drifted",
    "file missing": "missing",
    "out of order": "outOfOrder",
    "interrupted": "interrupted",
    "down() failed": "downFailed",
}

_STATES = ("running", "failed", "pending", "applied")
"""The parts of `status`, in the order of the list: what needs attention first."""


def _in(state: str) -> Callable[[ListedMigration], bool]:
    return lambda each: each.state == state


def _noted(key: str) -> Callable[[ListedMigration], bool]:
    return lambda each: bool(each.entry.get(key))


FILTERS: Mapping[str, Callable[[ListedMigration], bool]] = {
    **{state: _in(state) for state in ("applied", "pending", "failed", "running")},
    "interrupted": _noted("interrupted"),
    "changed": _noted("drifted"),
    "missing": _noted("missing"),
    "out-of-order": _noted("outOfOrder"),
}
"""Which migrations a visitor can ask for."""


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of the list. `words` and `state` are what a visitor asks for; pages count from 1."""

    rows: tuple[ListedMigration, ...]
    total: int
    words: str
    state: str
    number: int
    pages: int


def listed(status: Document) -> tuple[ListedMigration, ...]:
    """List all migrations of `status`: what needs attention first, and of what is applied the newest."""
    return tuple(
        ListedMigration(state, entry)
        for state in _STATES
        for entry in (reversed(status[state]) if state == "applied" else status[state])
    )


def counts(rows: Sequence[ListedMigration]) -> dict[str, int]:
    """Count the migrations that each filter finds."""
    return {name: len(list(filter(matches, rows))) for name, matches in FILTERS.items()}


def page(rows: Sequence[ListedMigration], words: str, state: str, number: int) -> ListPage:
    """Choose the rows that a visitor asks for; a page beyond the last one is the last one."""
    matches = FILTERS.get(state)
    found = [each for each in rows if each.has(words) and (matches is None or matches(each))]
    pages = max(1, -(-len(found) // PAGE_SIZE))
    shown = min(max(1, number), pages)
    first = (shown - 1) * PAGE_SIZE
    return ListPage(tuple(found[first : first + PAGE_SIZE]), len(found), words, state, shown, pages)
