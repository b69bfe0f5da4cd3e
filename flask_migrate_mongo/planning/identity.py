"""Which migration a name means, and whether files and records of one number are the same migration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from flask_migrate_mongo.files.parsing import slug_of
from flask_migrate_mongo.model import errors
from flask_migrate_mongo.model.values import History, MigrationFile, Record, name_key

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
        names[version].add(name_key(slug_of(path.stem)))
    for file in files:
        names[file.version].add(name_key(file.slug))
    for record in records:
        names[record.version].add(name_key(record.slug or record.name))
    return {version: frozenset(slugs) for version, slugs in names.items()}


def find_version(name: str | int, known: Mapping[int, frozenset[str]]) -> int:
    """Find the version that its number, the beginning of that, or its slug names.

    Raises UnknownVersionError or AmbiguousVersionError.
    """
    name = str(name)
    if len(name) > _LONGEST:
        raise errors.UnknownVersionError(name)
    if name.isascii() and name.isdecimal():
        if int(name) in known:
            return int(name)
        found = [version for version in known if str(version).startswith(name)]
    else:
        key = name_key(name)
        found = [version for version, keys in known.items() if key and key in keys]
    if len(found) > 1:
        raise errors.AmbiguousVersionError(name, sorted(found))
    if not found:
        raise errors.UnknownVersionError(name)
    return found[0]


# --- identity


def check_identity(
    files: Sequence[MigrationFile], history: History, broken: Collection[int] = ()
) -> None:
    """Raise NumberTakenError, RenumberedError or CopiedError, or SeveralErrors, if a migration could be mistaken."""
    problems = tuple(mistaken(files, history, broken))
    if problems:
        raise problems[0] if len(problems) == 1 else errors.SeveralErrors(problems)


def mistaken(
    files: Sequence[MigrationFile], history: History, broken: Collection[int] = ()
) -> Iterator[errors.MistakenError]:
    """Find numbers that two migrations have, and migrations that have two numbers.

    `broken` are versions whose file cannot be used.
    """
    present = {file.version for file in files}.union(broken)
    yield from contradictory(files)
    replaced = replaced_by(files, history)
    by_digest: defaultdict[str | None, list[MigrationFile]] = defaultdict(list)
    for file in files:
        record = history.by_version.get(file.version)
        if record is not None and record.is_open and record.is_of_another(file):
            yield errors.NumberTakenError(record, file)
        elif file.version not in replaced and not history.is_applied(file.version):
            if (other := history.elsewhere(file, present)) is None:
                by_digest[file.digest].append(file)
            elif same := [f for f in files if f.version == other.version and other.is_unchanged(f)]:
                yield errors.CopiedError((*same, file))
            else:
                yield errors.RenumberedError(other, file)
    yield from (errors.CopiedError(same) for same in by_digest.values() if len(same) > 1)
