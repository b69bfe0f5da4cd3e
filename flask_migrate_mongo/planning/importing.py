"""Which files the entries of another tool's history mean, and what an import does with each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf

from flask_migrate_mongo.files.parsing import slug_of, version_of
from flask_migrate_mongo.model import errors
from flask_migrate_mongo.model.documents import MigratedDatabase
from flask_migrate_mongo.model.values import History, MigrationFile, Tool, name_key
from flask_migrate_mongo.store.foreign import ForeignEntry, ForeignState

from .identity import find_version, known_names

IGNORE = "ignore"
"""What a map says about an entry that has no file here."""

Choices = Mapping[str, str]
"""What a map says: for a name of the other tool, the number or the slug of a file, or IGNORE."""

_ENDING = re.compile(r"\.(py|js|cjs|mjs|ts)$")


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
    database: MigratedDatabase | None = None

    def those(self, state: ImportState) -> tuple[MappedEntry, ...]:
        """Select the entries in a state."""
        return tuple(each for each in self.entries if each.state is state)


def parse_map(text: str) -> Choices:
    """Read the lines `their-name = our-version` of a map. Raises InvalidRequestError."""
    choices: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, chosen = (part.strip() for part in line.rpartition("="))
        if not (equals and name and chosen):
            msg = f"Line {number} of the map is not `their-name = our-version`: {line.strip()!r}."
            raise errors.InvalidRequestError(msg, f"Write `= {IGNORE}` if it has no file here.")
        if choices.setdefault(name, chosen) != chosen:
            msg = f"Line {number} of the map names {name!r} again, with another version."
            raise errors.InvalidRequestError(msg, "Keep one of the lines.")
    return choices


def map_entries(
    entries: Sequence[ForeignEntry],
    files: Sequence[MigrationFile],
    history: History,
    choices: Choices,
) -> tuple[MappedEntry, ...]:
    """Map entries to files, in the order in which they were applied.

    A migration that has a record here, whatever that says, keeps it.
    """
    by_version = {file.version: file for file in files}
    mapped = [_mapped(entry, by_version, history, choices) for entry in _in_order(entries)]
    times = Counter(each.file.version for each in mapped if each.file is not None)
    return tuple(
        MappedEntry(
            each.entry, ImportState.UNMAPPED, note=f"several entries mean {each.file.file_name}"
        )
        if each.file is not None and times[each.file.version] > 1
        else each
        for each in mapped
    )


def _in_order(entries: Sequence[ForeignEntry]) -> Iterable[ForeignEntry]:
    """Order entries by time, or as they were written. Of one that was applied several times, the first counts."""
    ordered = sorted(entries, key=lambda e: e.applied_at.timestamp() if e.applied_at else inf)
    first: dict[str, ForeignEntry] = {}
    for entry in ordered:
        first.setdefault(entry.name, entry)
    return first.values()


def _mapped(
    entry: ForeignEntry, files: Mapping[int, MigrationFile], history: History, choices: Choices
) -> MappedEntry:
    chosen = choices.get(entry.name)
    if chosen == IGNORE:
        return MappedEntry(entry, ImportState.IGNORED)
    if entry.state is ForeignState.NOT_APPLIED:
        return MappedEntry(entry, ImportState.NOT_APPLIED, note="rolled back there")
    if entry.state is ForeignState.UNFINISHED:
        return MappedEntry(entry, ImportState.UNMAPPED, note="it failed there, or still runs")
    found = _found(entry, files) if chosen is None else _chosen(chosen, files)
    if isinstance(found, str):
        return MappedEntry(entry, ImportState.UNMAPPED, note=found)
    record = history.by_version.get(found.version)
    if record is None or record.forgotten:
        return MappedEntry(entry, ImportState.TO_RECORD, found)
    note = f"has a record here: {record.status.value}"
    return MappedEntry(entry, ImportState.KNOWN, found, note)


def _chosen(chosen: str, files: Mapping[int, MigrationFile]) -> MigrationFile | str:
    """Find the file that the map names, or say why there is none."""
    try:
        return files[find_version(chosen, known_names(files.values(), ()))]
    except (errors.UnknownVersionError, errors.AmbiguousVersionError):
        return f"the map says {chosen!r}, which is not one file here"


def _found(entry: ForeignEntry, files: Mapping[int, MigrationFile]) -> MigrationFile | str:
    """Find the file with the number and the name of an entry, or say why there is none."""
    number, name = _parts(_ENDING.sub("", entry.title or entry.name))
    numbered = None if number is None else files.get(number)
    if numbered is not None:
        # The same number with another name can be another migration.
        is_it = not name or name in _names(numbered)
        return numbered if is_it else f"{numbered.file_name} has its number, and another name"
    named = [file for file in files.values() if name and name in _names(file)]
    if len(named) > 1:
        return f"it can be {' or '.join(file.file_name for file in named)}"
    return named[0] if named else "no file has its number or its name"


def _parts(text: str) -> tuple[int | None, str]:
    """Split a name into its number and its words."""
    if text.isascii() and text.isdecimal():
        return int(text), ""
    return version_of(text), name_key(slug_of(text) or text)


def _names(file: MigrationFile) -> frozenset[str]:
    return frozenset({name_key(file.slug), name_key(file.name)})
