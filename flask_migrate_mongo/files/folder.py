"""The folder of an application's migrations: which files are in it, and what they declare."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flask_migrate_mongo.model.errors import (
    ConfigurationError,
    DuplicateVersionError,
    ForeignFolderError,
    InvalidRequestError,
    NoFolderError,
    SeveralErrors,
    SourceError,
    StaleLatestError,
)
from flask_migrate_mongo.model.values import MigrationFile, Record, name_key

from .parsing import checksum, describe, read_content, slug_of, version_of

_LATEST = ".latest"
"""Names the newest migration, so that two branches with new migrations conflict in git."""

_LONGEST = 256
"""No file name is longer, and Python refuses to read numbers of thousands of digits."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """The migrations in a folder, ascending, the names of numbered files that are none, and the problems of the others."""

    files: tuple[MigrationFile, ...]
    ignored: tuple[str, ...] = ()
    problems: tuple[SourceError, ...] = ()
    has_folder: bool = True

    @property
    def broken(self) -> Mapping[int, SourceError]:
        """The problems of files that cannot be used, by the versions of these."""
        found = {version_of(problem.file_name): problem for problem in self.problems}
        return {version: problem for version, problem in found.items() if version is not None}

    def usable(self) -> tuple[MigrationFile, ...]:
        """Get the migrations, if every file can be used. Raises SourceError or SeveralErrors."""
        if self.problems:
            raise self.problems[0] if len(self.problems) == 1 else SeveralErrors(self.problems)
        return self.files


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of an application's migrations."""

    path: Path

    def discover(self, trusted: Mapping[int, Record] = {}) -> Discovery:
        """Read every migration, executing none. Without the folder there is none.

        `trusted` are records of applied migrations, by version. A file with the checksum of its record is described
        from the record and not parsed: it shows no flags and no suppressions, so no plan may contain it.
        """
        try:
            paths, ignored = _listed(self.path)
        except NoFolderError:
            return Discovery((), has_folder=False)
        files: dict[int, MigrationFile] = {}
        problems: list[SourceError] = []
        for path in paths:
            try:
                file = _described(path, trusted)
            except SourceError as problem:
                problems.append(problem)
                continue
            twin = files.setdefault(file.version, file)
            if twin is not file:
                problems.append(DuplicateVersionError(file.version, (twin.path, file.path)))
        ascending = tuple(files[version] for version in sorted(files))
        return Discovery(ascending, ignored, tuple(problems))

    def choose(self, wanted: Sequence[str]) -> tuple[Path, ...]:
        """Find the files that paths or versions name; all migrations if `wanted` is empty.

        A folder means all migrations in it. Raises InvalidRequestError, and ConfigurationError for a folder that
        cannot be read.
        """
        chosen = [path for each in wanted for path in self._named(each)]
        if not wanted:
            chosen = _listed(self.path)[0]
        return tuple({path.resolve(): path for path in chosen}.values())

    def find(self, name: str) -> Path:
        """Find the one file that its name, its number or its slug names. Raises InvalidRequestError."""
        found = self.matching(name)
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            msg = f"{name!r} has to name one file in {self.path}, but it names {names}. Nothing was changed."
            raise InvalidRequestError(msg, "Give the name of the file.")
        return found[0]

    def matching(self, name: str) -> list[Path]:
        """Find the files that have this name, number or slug, or else whose number begins like this."""
        paths = _listed(self.path)[0]
        is_number = name.isascii() and name.isdecimal() and len(name) < _LONGEST
        number, key = name if is_number else "", name_key(name)
        same = [
            p
            for p in paths
            if name in (p.name, p.stem) or (key and name_key(slug_of(p.stem)) == key)
        ]
        if number:
            same += [path for path in paths if version_of(path.name) == int(number)]
        return same or [p for p in paths if number and str(version_of(p.name)).startswith(number)]

    def _named(self, wanted: str) -> list[Path]:
        path = Path(wanted)
        if wanted and path.is_dir():
            return _listed(path)[0]
        if wanted and (path.exists() or path.is_symlink()):
            return [] if path.name.startswith(("_", ".")) else [path]
        found = self.matching(wanted) if wanted else []
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


def ensure_own(folder: Path) -> None:
    """Raise ForeignFolderError for the folder of Alembic, which Flask-Migrate calls `migrations`, too."""
    is_versioned = (folder / "versions").is_dir() or (folder / "alembic.ini").is_file()
    if is_versioned and (folder / "env.py").is_file():
        raise ForeignFolderError(folder)


def note_latest(path: Path) -> None:
    """Note in `.latest` that a migration is the newest one of its folder."""
    (path.parent / _LATEST).write_text(f"{path.name}\n", encoding="utf-8")


def stale(paths: Sequence[Path]) -> StaleLatestError | None:
    """Find that `.latest` does not name the newest of a folder's migrations; None if it does."""
    if not paths:
        return None
    newest = max(paths, key=lambda path: version_of(path.name) or 0)
    latest = newest.parent / _LATEST
    named = ""
    with contextlib.suppress(OSError):
        named = latest.read_text("utf-8", "replace").strip()
    return None if named == newest.name else StaleLatestError(latest, named, newest.name)


def _listed(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """List the Python files in a folder, and the numbered files that are not Python, or that are in a folder below."""
    try:
        # A broken link is listed, so that it is reported: it may be an applied file.
        entries = [e for e in os.scandir(folder) if not e.name.startswith(("_", "."))]
        names = sorted(e.name for e in entries if e.is_file() or e.is_symlink())
        folders = sorted(e.name for e in entries if e.is_dir())
    except FileNotFoundError as exc:
        raise NoFolderError(folder) from exc
    except OSError as exc:
        raise unusable(folder, "read", exc) from exc
    ensure_own(folder)
    python = [folder / name for name in names if name.endswith(".py")]
    below = (path for name in folders for path in sorted((folder / name).rglob("*.py")))
    others = [name for name in names if not name.endswith(".py") and version_of(name) is not None]
    others += [p.relative_to(folder).as_posix() for p in below if version_of(p.name) is not None]
    return python, tuple(others)


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
        digest=record.digest,
        slug=slug_of(path.stem),
        replaces=record.replaces,
    )
