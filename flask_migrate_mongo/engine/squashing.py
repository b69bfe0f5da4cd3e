"""Writes one migration in the place of several; nothing is executed, and no database is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flask_migrate_mongo.files.folder import Folder
from flask_migrate_mongo.files.joining import join
from flask_migrate_mongo.files.parsing import checksum, describe, read_content
from flask_migrate_mongo.files.scaffold import Scaffold
from flask_migrate_mongo.model.errors import FileChangedError, InvalidRequestError
from flask_migrate_mongo.model.values import History, MigrationFile
from flask_migrate_mongo.planning.identity import find_version, known_names
from flask_migrate_mongo.planning.squashing import replaced_by


@dataclass(frozen=True, slots=True)
class Squashed:
    """The file of a squashed migration, those that it was joined from, and what to look at in it."""

    file: MigrationFile
    joined: tuple[MigrationFile, ...]
    notes: tuple[str, ...]


def squash(folder: Folder, scaffold: Scaffold, first: str, last: str, name: str) -> Squashed:
    """Write a migration that does what all from `first` to `last` do, for a person to edit.

    Raises InvalidRequestError, UnknownVersionError or AmbiguousVersionError, and SourceError for a file that cannot
    be read or joined.
    """
    files = folder.discover().usable()
    chosen = _between(files, first, last)
    # Lines and other spaces in a row make no difference to a name.
    name = " ".join(name.split())
    joined = join([(file, _content(file)) for file in chosen], name)

    def content(path: Path, _version: int) -> bytes:
        describe(path, joined.content)
        return joined.content

    path = scaffold.add(name, content)
    return Squashed(describe(path, joined.content), chosen, joined.notes)


def _content(file: MigrationFile) -> bytes:
    content = read_content(file.path)
    if checksum(content) != file.checksum:
        raise FileChangedError(file.path, "it changed while it was read. Run the command again.")
    return content


def _between(files: Sequence[MigrationFile], first: str, last: str) -> tuple[MigrationFile, ...]:
    """Choose the migrations from one to another, in their order, without those that a squashed one replaces."""
    known = {file.version: file for file in files}
    replaced = replaced_by(files, History())
    ends = [known[find_version(end, known_names(files, ()))] for end in (first, last)]
    for end in ends:
        if end.version in replaced:
            msg = f"{end.version} is replaced by the squashed migration {replaced[end.version]} already. Nothing was written."
            raise InvalidRequestError(msg, "Name that one.")
    low, high = (end.place for end in ends)
    ordered = sorted(files, key=lambda file: file.place)
    chosen = [f for f in ordered if f.version not in replaced and low <= f.place <= high]
    if len(chosen) <= 1:
        count = "only one migration" if chosen else "no migration"
        msg = f"From {ends[0].version} to {ends[1].version} there is {count}. Nothing was written."
        raise InvalidRequestError(
            msg, "Name the first one and the last one: [squash FROM TO NAME]."
        )
    return tuple(chosen)
