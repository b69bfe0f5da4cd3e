"""Values of an import of another tool's history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from .values import MigrationFile, Tool


class ForeignState(str, Enum):
    """What another tool says about a migration."""

    APPLIED = "applied"
    NOT_APPLIED = "not-applied"
    UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True)
class ForeignEntry:
    """One migration in another tool's history. `title` is its name for people, if the tool has one."""

    name: str
    applied_at: datetime | None = None
    state: ForeignState = ForeignState.APPLIED
    title: str = ""


class ImportState(str, Enum):
    """What an import does with an entry."""

    TO_RECORD = "to-record"
    RECORDED = "recorded"
    KNOWN = "known"
    NOT_APPLIED = "not-applied"
    IGNORED = "ignored"
    UNMAPPED = "unmapped"


@dataclass(frozen=True, slots=True)
class MappedEntry:
    """An entry of another tool with the file here that it means, and a note that explains its state."""

    entry: ForeignEntry
    state: ImportState
    file: MigrationFile | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """How the entries of a collection map to files, in the order in which they were applied.

    `unused` are names in the map that the collection does not have.
    """

    tool: Tool
    collection: str
    entries: tuple[MappedEntry, ...]
    unused: tuple[str, ...] = ()

    def those(self, state: ImportState) -> tuple[MappedEntry, ...]:
        """Select the entries in a state."""
        return tuple(each for each in self.entries if each.state is state)
