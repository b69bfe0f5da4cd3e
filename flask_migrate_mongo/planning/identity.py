"""Which migration a name means, and whether files and records of one number are the same migration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from flask_migrate_mongo.files.parsing import slug_of, slugify
from flask_migrate_mongo.model import errors
from flask_migrate_mongo.model.values import History, MigrationFile, Record

from .squashing import contradictory, replaced_by

_LONGEST = 200
"""Characters of a name: Python refuses to read numbers of thousands of digits."""

# --- names


def known_names(
    files: Iterable[MigrationFile], records: Iterable[Record], paths: Mapping[Path, int] = {}
) -> Mapping[int, frozenset[str]]:
    """Collect the slugs of every version that has a file or a record; `paths` are files that need not be usable."""
    names: defaultdict[int, set[str]] = defaultdict(set)
    for path, version in paths.items():
        names[version].add(slugify(slug_of(path.stem)))
    for file in files:
        names[file.version].add(slugify(file.slug))
    for record in records:
        names[record.version].add(slugify(record.slug or record.name))
    return {version: frozenset(slugs) for version, slugs in names.items()}


def find_version(name: str, known: Mapping[int, frozenset[str]]) -> int:
    """Find the version that its number, the beginning of that, or its slug names.

    Raises UnknownVersionError or AmbiguousVersionError.
    """
    if len(name) > _LONGEST:
        raise errors.UnknownVersionError(name)
    if name.isascii() and name.isdecimal():
        if int(name) in known:
            return int(name)
        found = [version for version in known if str(version).startswith(name)]
    else:
        slug = slugify(name)
        found = [version for version, slugs in known.items() if slug in slugs]
    if len(found) > 1:
        raise errors.AmbiguousVersionError(name, sorted(found))
    if not found:
        raise errors.UnknownVersionError(name)
    return found[0]


# --- identity


def check_identity(files: Sequence[MigrationFile], history: History) -> None:
    """Raise NumberTakenError, RenumberedError or CopiedError, or SeveralErrors, if a migration could be mistaken."""
    problems = tuple(mistaken(files, history))
    if problems:
        raise problems[0] if len(problems) == 1 else errors.SeveralErrors(problems)


def mistaken(files: Sequence[MigrationFile], history: History) -> Iterator[errors.MistakenError]:
    """Find numbers that two migrations have, and migrations that have two numbers."""
    yield from contradictory(files)
    replaced = replaced_by(files, history)
    by_digest: defaultdict[str | None, list[MigrationFile]] = defaultdict(list)
    recorded = Recorded(history)
    for file in files:
        record = history.by_version.get(file.version)
        if record is not None and record.is_open and record.is_of_another(file):
            yield errors.NumberTakenError(record, file)
        elif file.version not in replaced and not history.is_applied(file.version):
            if (other := recorded.elsewhere(file)) is None:
                by_digest[file.digest].append(file)
            elif same := [f for f in files if f.version == other.version and other.is_unchanged(f)]:
                yield errors.CopiedError((*same, file))
            else:
                yield errors.RenumberedError(other, file)
    yield from (errors.CopiedError(same) for same in by_digest.values() if len(same) > 1)


class Recorded:
    """The records of what is in the database, found by what their files did."""

    def __init__(self, history: History) -> None:
        self._found: defaultdict[str | None, list[Record]] = defaultdict(list)
        for record in history.records:
            is_there = record.is_open or record.version in history.replaced
            for key in (record.digest, record.checksum) if is_there else ():
                self._found[key].append(record)

    def elsewhere(self, file: MigrationFile) -> Record | None:
        """Find the record of what a file does under another number than the file's."""
        keys = filter(None, (file.digest, file.checksum))
        found = (record for key in keys for record in self._found.get(key, ()))
        return next((record for record in found if record.version != file.version), None)
