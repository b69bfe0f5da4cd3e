"""The folder of an application's migrations: which files are in it, and what they declare."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from flask_migrate_mongo.model.errors import (
    ConfigurationError,
    DuplicateVersionError,
    InvalidRequestError,
    NoFolderError,
    SeveralSourceErrors,
    SourceError,
)
from flask_migrate_mongo.model.values import MigrationFile, Record

from .parsing import checksum, describe, read_content, version_of


@dataclass(frozen=True, slots=True)
class Discovery:
    """The migrations in a folder, ascending, and the names of numbered files that are not Python."""

    files: tuple[MigrationFile, ...]
    ignored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of an application's migrations."""

    path: Path

    def discover(self, trusted: Mapping[int, Record] = {}) -> Discovery:
        """Read every migration, executing none. Raises SourceError or SeveralSourceErrors.

        `trusted` are records of applied migrations, by version. A file with the checksum of its record is described
        from the record and not parsed: it shows no flags and no suppressions, so no plan may contain it.
        """
        paths, ignored = _listed(self.path)
        files: list[MigrationFile] = []
        problems: list[SourceError] = []
        for path in paths:
            try:
                files.append(_described(path, trusted))
            except SourceError as problem:
                problems.append(problem)
        files.sort(key=lambda file: file.version)
        for version, group in groupby(files, lambda file: file.version):
            same = list(group)
            if len(same) > 1:
                problems.append(DuplicateVersionError(version, [file.path for file in same]))
        if problems:
            raise problems[0] if len(problems) == 1 else SeveralSourceErrors(problems)
        return Discovery(tuple(files), ignored)

    def choose(self, wanted: Sequence[str]) -> tuple[Path, ...]:
        """Find the files that paths or versions name; all migrations if `wanted` is empty.

        A folder means all migrations in it. Raises InvalidRequestError, and ConfigurationError for a folder that
        cannot be read.
        """
        chosen = [path for each in wanted for path in self._named(each)]
        if not wanted:
            chosen = _listed(self.path)[0]
        return tuple({path.resolve(): path for path in chosen}.values())

    def _named(self, wanted: str) -> list[Path]:
        path = Path(wanted)
        if wanted and path.is_dir():
            return _listed(path)[0]
        if wanted and (path.exists() or path.is_symlink()):
            return [] if path.name.startswith(("_", ".")) else [path]
        paths = _listed(self.path)[0] if wanted.isdecimal() else []
        found = [path for path in paths if version_of(path.name) == int(wanted)]
        if not found:
            raise InvalidRequestError(
                f"There is no file {wanted!r}, and no migration with that number in {self.path}. "
                "Name files, folders or versions, or nothing for all migrations."
            )
        return found


def unusable(folder: Path, how: str, exc: OSError) -> ConfigurationError:
    """Make the error for a folder that cannot be, for example, "read"."""
    return ConfigurationError(
        f"The migrations folder {folder} cannot be {how}: {exc.strerror or exc}. Fix that, or set "
        "MIGRATE_DIRECTORY to another folder."
    )


def _listed(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """List the Python files in a folder, and the names of numbered files that are not Python."""
    try:
        # A broken link is listed, so that it is reported: it may be an applied file.
        entries = [e for e in os.scandir(folder) if e.is_file() or e.is_symlink()]
    except FileNotFoundError as exc:
        raise NoFolderError(folder) from exc
    except OSError as exc:
        raise unusable(folder, "read", exc) from exc
    names = sorted(entry.name for entry in entries if not entry.name.startswith(("_", ".")))
    python = [folder / name for name in names if name.endswith(".py")]
    others = (name for name in names if not name.endswith(".py"))
    return python, tuple(name for name in others if version_of(name) is not None)


def _described(path: Path, trusted: Mapping[int, Record]) -> MigrationFile:
    content = read_content(path)
    version = version_of(path.stem)
    record = None if version is None else trusted.get(version)
    if record is None or record.checksum != checksum(content):
        return describe(path, content)
    return MigrationFile(
        folder=path.parent,
        file_name=path.name,
        version=record.version,
        name=record.name,
        description=record.description,
        transactional=False,
        idempotent=False,
        reversible=record.reversible,
        checksum=record.checksum,
    )
