"""Everything that is known of one version, also if its file or its record is missing or broken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask_migrate_mongo.files.folder import Folder
from flask_migrate_mongo.files.parsing import describe, read_content, slug_of, version_of
from flask_migrate_mongo.lint.linter import Linter, LintReport
from flask_migrate_mongo.model.documents import MigratedDatabase
from flask_migrate_mongo.model.errors import (
    DuplicateVersionError,
    MigrateError,
    NoFolderError,
    SourceError,
)
from flask_migrate_mongo.model.values import (
    Event,
    MigrationFile,
    Record,
    RejectedDocument,
    Status,
)

from .identity import find_version, known_names, mistaken
from .plans import Inspector
from .squashing import replaced_by


@dataclass(frozen=True, slots=True)
class FileDetails:
    """A file, what it declares or why it cannot be used, and its text if that is wanted."""

    path: Path
    file: MigrationFile | None = None
    problem: SourceError | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class VersionDetails:
    """The files and the record of a version, and what is wrong with them. Usually there is one file.

    `replaced` is whether a squashed migration counts instead of it. `rejected` is what its backfills skipped. `rehearsal`
    is its entry in the report that is kept: a document of `rehearse`, with its time.
    """

    version: int
    files: tuple[FileDetails, ...]
    record: Record | None
    problems: tuple[MigrateError, ...]
    lint: LintReport
    events: tuple[Event, ...]
    replaced: bool = False
    rejected: tuple[RejectedDocument, ...] = ()
    database: MigratedDatabase | None = None
    rehearsal: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The name in the file, or else the one that was recorded."""
        named = [each.file.name if each.file else slug_of(each.path.stem) for each in self.files]
        return named[0] if named else self.record.name if self.record else ""

    @property
    def state(self) -> str:
        """The state of the version, as `status` names it, or why that does not list it."""
        record = self.record
        if record is not None and record.is_open:
            return "applied" if record.status is Status.COMPLETED else record.status.value
        if self.replaced or (record is not None and record.replaced_by and not self.files):
            return "replaced"
        if self.files or record is None:
            return Status.PENDING.value if any(f.file for f in self.files) else "unusable"
        return "forgotten" if record.forgotten else record.status.value

    @property
    def changed(self) -> bool:
        """Whether a file is not as it was when the migration started."""
        record, declared = self.record, (each.file for each in self.files if each.file)
        return record is not None and record.is_open and not all(map(record.is_unchanged, declared))

    @property
    def is_rehearsed_otherwise(self) -> bool:
        """Whether no file is as it was when it was rehearsed."""
        digests = {each.file.digest for each in self.files if each.file}
        return self.rehearsal is not None and self.rehearsal.get("digest") not in digests


def details(
    inspector: Inspector, linter: Linter, name: str, *, with_source: bool = False
) -> VersionDetails:
    """Find a version by its number, the beginning of it, or its slug. Executes no migration, and takes no lock.

    Raises UnknownVersionError or AmbiguousVersionError.
    """
    history = inspector.history.load()
    paths = _numbered(inspector.folder)
    version = find_version(name, known_names((), history.records, paths))
    own = [path for path, number in paths.items() if number == version]
    files = tuple(_read(path, with_source=with_source) for path in own)
    declared = [each.file for each in files if each.file]
    problems: list[MigrateError] = [each.problem for each in files if each.problem]
    if len(own) > 1:
        problems.append(DuplicateVersionError(version, own))
    for file in declared:
        problems += mistaken([file], history, set(paths.values()))
    return VersionDetails(
        version,
        files,
        history.by_version.get(version),
        tuple(problems),
        linter.lint(file.path for file in declared),
        inspector.history.events(version),
        replaced=version in replaced_by(inspector.folder.discover().files, history),
        rejected=inspector.history.rejected(version),
        database=inspector.server.location,
    )


def _numbered(folder: Folder) -> dict[Path, int]:
    """List the files that have a version, also those that cannot be used."""
    try:
        paths = folder.choose(())
    except NoFolderError:
        return {}
    return {path: number for path in paths if (number := version_of(path.stem)) is not None}


def _read(path: Path, *, with_source: bool) -> FileDetails:
    content, file, problem = None, None, None
    try:
        content = read_content(path)
        file = describe(path, content)
    except SourceError as exc:
        problem = exc
    shown = None if content is None else content.decode("utf-8", "backslashreplace")
    return FileDetails(path, file, problem, shown if with_source else None)
