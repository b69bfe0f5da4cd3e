"""What squashed migrations replace, and whether one is recorded without running or runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations

from flask_migrate_mongo.model import errors
from flask_migrate_mongo.model.squashing import absorbs, parts_of
from flask_migrate_mongo.model.values import History, MigrationFile, Record, Status


def replaced_by(files: Iterable[MigrationFile], history: History) -> Mapping[int, int]:
    """Find the versions that squashed migrations replace, each with the one that replaces it.

    Of an applied one the record counts: its file may be missing in an older copy of the folder, or have changed.
    """
    squashed = [file for file in files if file.replaces]
    owners: list[MigrationFile | Record] = [r for r in history.records if r.replaces and r.is_open]
    owners += (file for file in squashed if not history.is_applied(file.version))
    found = dict(history.replaced)
    # Those that replace more come last, and take over the parts of those that they absorb.
    for owner in sorted(owners, key=lambda owner: len(owner.replaces)):
        found |= dict.fromkeys(owner.replaces, owner.version)
        found |= {other.version: owner.version for other in squashed if absorbs(owner, other)}
    return found


def contradictory(files: Iterable[MigrationFile]) -> Iterator[errors.MistakenError]:
    """Find squashed migrations that have a part in common, unless one replaces everything that the other does."""
    squashed = sorted((file for file in files if file.replaces), key=lambda file: file.version)
    for one, other in combinations(squashed, 2):
        mine, theirs = set(one.replaces), set(other.replaces)
        if one.version in theirs and not mine < theirs:
            yield errors.IncompleteSquashError(other, one, sorted(mine - theirs))
        elif (common := mine & theirs) and not (mine < theirs or theirs < mine):
            yield errors.OverlappingSquashError((one, other), sorted(common))


def partly_squashed(
    files: Iterable[MigrationFile], history: History
) -> Iterator[errors.PartlySquashedError]:
    """Find those of the pending squashed migrations that can neither run nor be recorded."""
    for file in files:
        try:
            adopted(file, history)
        except errors.PartlySquashedError as error:
            yield error


def adopted(file: MigrationFile, history: History) -> tuple[Record, ...]:
    """Find the records of what a squashed migration replaces, if all of it is applied; none if nothing is.

    Raises PartlySquashedError if a part is applied, failed or running.
    """
    versions = frozenset(file.replaces)
    parts = tuple(record for record in parts_of(file, history.records) if record.is_open)
    states: dict[int, str] = {
        version: f"a part of {squashed}"
        for version, squashed in history.replaced.items()
        if version in versions and squashed != file.version
    }
    for record in parts:
        states |= dict.fromkeys((record.version, *record.replaces), _state(record))
        if record.has_another_slug(file.parts.get(record.version)):
            states[record.version] = f"recorded for another migration, {record.slug}"
    rest = [version for version in file.replaces if states.get(version) != _APPLIED]
    if states and rest:
        missing = [f"{version} ({states.get(version, 'not applied')})" for version in rest]
        raise errors.PartlySquashedError(file, missing)
    return parts


_APPLIED = "applied"


def _state(record: Record) -> str:
    if record.down_failed:
        return "its down() failed"
    return _APPLIED if record.status is Status.COMPLETED else record.status.value
