"""The report of a rehearsal, with an estimate of how long each migration takes on all documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import geometric_mean

from flask_migrate_mongo.model.documents import Report
from flask_migrate_mongo.model.errors import (
    EscapesRehearsalError,
    MigrateError,
    RehearsalFailedError,
)
from flask_migrate_mongo.model.values import ErrorInfo, LockState, MigrationFile

from .comparison import Differences

MARGIN = 1.5
"""The factor by which two equal runs differ, at least: no range is narrower."""

_GROWTH = 1.5
"""A larger sample that takes this many times as many statements takes them for each document."""

_SHORTEST = 0.001


@dataclass(frozen=True, slots=True)
class CopiedCollection:
    """A collection in the scratch database: how many documents were copied, and how many there are.

    All have about `size` bytes. `ttl_indexes` names its TTL indexes, which expire nothing there. `refused` documents
    are missing because its validator refused them.
    """

    name: str
    documents: int
    of: int
    size: int = 0
    ttl_indexes: tuple[str, ...] = ()
    refused: int = 0


@dataclass(slots=True)
class Activity:
    """What one call of `up()` or `down()` did, as its commands show it.

    `began` is when the first command was sent. `touched` names the collections that commands named, `elsewhere` those
    that they read in other databases. `excluded` are seconds that are not the migration's own: spent to copy, or in a
    transaction that runs again. `open` are the sessions whose transaction in the scratch database was neither
    committed nor aborted.

    `spent` are the seconds that commands took, by collection. Of these, commands that take no longer with more
    documents took `fixed`, and the `statements` for single documents took `keyed`.
    """

    began: float | None = None
    escapes: list[EscapesRehearsalError] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)
    excluded: float = 0.0
    open: set[bytes] = field(default_factory=set)
    spent: dict[str, float] = field(default_factory=dict)
    fixed: float = 0.0
    keyed: float = 0.0
    statements: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of `up()` or `down()`, and the collections that were `copied`, by name."""

    took_ms: int
    error: ErrorInfo | None = None
    activity: Activity = field(default_factory=Activity)
    copied: Mapping[str, CopiedCollection] = field(default_factory=dict)

    @property
    def sampled(self) -> tuple[CopiedCollection, ...]:
        """The collections with copied documents that it spent time on."""
        found = (self.copied.get(name) for name in self.activity.spent)
        return tuple(each for each in found if each and each.documents)

    def extrapolated(self, *, loops: bool) -> float:
        """Extrapolate to all documents, in seconds; `loops` says that each one takes a statement of its own."""
        spent = self.activity.spent
        factors = {each.name: each.of / each.documents for each in self.sampled}
        # A collection that the migration makes grows like those that it is made of.
        largest = max(factors.values(), default=1.0)
        # The factor of each collection counts by the time that was spent on it.
        weighted = sum(factors.get(name, largest) * seconds for name, seconds in spent.items())
        factor = weighted / sum(spent.values()) if weighted else largest
        fixed = self.activity.fixed + (0.0 if loops else self.activity.keyed)
        growing = max(0.0, self.took_ms / 1000 - fixed)
        return max(_SHORTEST, fixed + growing * factor)


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a migration takes on all documents, in seconds: about `seconds`, from `low` to `high`.

    `extrapolated` is False if all documents were copied, so that the time is a measured one.
    """

    documents: int
    seconds: float
    low: float
    high: float
    extrapolated: bool = True


def estimate(trials: Sequence[Attempt], attempts: Sequence[Attempt]) -> Estimate | None:
    """Estimate from calls of `up()` on the sample, and from trials on a part of it.

    None without attempts, or if no command named a collection that has documents.
    """
    if not attempts or not attempts[0].sampled:
        return None
    first = attempts[0]
    documents = sum(each.of for each in first.sampled)
    if all(each.documents == each.of for each in first.sampled):
        took = [attempt.took_ms / 1000 for attempt in attempts]
        return Estimate(documents, min(took), min(took), max(took), extrapolated=False)
    statements = first.activity.statements
    loops = not trials or statements > trials[0].activity.statements * _GROWTH
    # The first trial does not count if there is a second: much is done once, and then for the first time.
    counted = [*attempts, *(trials[1:] or trials)]
    found = [attempt.extrapolated(loops=loops) for attempt in counted]
    seconds = geometric_mean(found)
    low, high = min(*found, seconds / MARGIN), max(*found, seconds * MARGIN)
    return Estimate(documents, seconds, low, high)


@dataclass(frozen=True, slots=True)
class MigrationRehearsal:
    """The attempts of one migration: up, down and up again; None for an attempt that was not made.

    `differences` are the changes of `up()` that `down()` did not reverse.
    """

    file: MigrationFile
    up: Attempt | None = None
    down: Attempt | None = None
    again: Attempt | None = None
    differences: Differences = field(default_factory=Differences)
    estimate: Estimate | None = None

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The attempts that were made."""
        return tuple(attempt for attempt in (self.up, self.down, self.again) if attempt)

    @property
    def raised(self) -> bool:
        """Whether an attempt raised an error, after which no further migration is rehearsed."""
        return any(attempt.error for attempt in self.attempts)

    @property
    def timed(self) -> tuple[Attempt, ...]:
        """The calls of `up()`; none if an attempt raised an error."""
        return () if self.raised else tuple(filter(None, (self.up, self.again)))

    @property
    def failed(self) -> bool:
        """Whether an attempt raised an error, or `down()` does not undo `up()`."""
        return self.raised or self.differences.total > 0

    @property
    def undoes(self) -> bool | None:
        """Whether `down()` undoes `up()`; None if it was not called."""
        return None if self.down is None else not (self.down.error or self.differences.total)

    @property
    def touched(self) -> tuple[str, ...]:
        """The collections that `up()` read or wrote."""
        return tuple(sorted(self.up.activity.touched)) if self.up else ()

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """The collections of other databases that were read."""
        return tuple(sorted(set[str]().union(*(a.activity.elsewhere for a in self.attempts))))


def warnings_of(
    rehearsed: Iterable[MigrationRehearsal],
    copied: Mapping[str, CopiedCollection],
    encrypted: frozenset[str],
) -> Iterator[str]:
    """Warn of documents and TTL indexes that are not in the copy as they are, and of open transactions.

    `encrypted` are the collections that cannot be copied.
    """
    for each in copied.values():
        if each.refused:
            yield (
                f"{each.refused} documents of {each.name} were not copied: its validator refuses them, and this "
                "user may not bypass it (bypassDocumentValidation)."
            )
    for migration in rehearsed:
        version, attempts = migration.file.version, migration.attempts
        if any(attempt.activity.open for attempt in attempts):
            yield f"{version} left a transaction open. It was ended, and its changes were rolled back."
        touched = set[str]().union(*(attempt.activity.touched for attempt in attempts))
        for name in sorted(touched & encrypted):
            yield (
                f"{version} uses {name}, which has Queryable Encryption and cannot be copied. "
                "The migration found no documents in it."
            )
        for name in sorted(touched & copied.keys() if migration.failed else ()):
            if names := copied[name].ttl_indexes:
                yield (
                    f"{version} has a problem, and uses {name}. In the copy of {name}, "
                    f"expireAfterSeconds of {', '.join(names)} is so long that nothing expires. "
                    "An error or a difference in expireAfterSeconds does not occur in a real run."
                )


@dataclass(frozen=True, slots=True)
class RehearsalReport(Report):
    """The result of a rehearsal.

    `lock` is the lock of the real database, if a run held it meanwhile; `removed` names the databases that crashed
    rehearsals had left. `at` is the server's time at the end.
    """

    _document = "rehearse"

    scratch_database: str | None = None
    migrations: tuple[MigrationRehearsal, ...] = ()
    copied: tuple[CopiedCollection, ...] = ()
    lock: LockState | None = None
    removed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    at: datetime | None = None

    @property
    def failures(self) -> tuple[MigrationRehearsal, ...]:
        """The migrations with a problem."""
        return tuple(each for each in self.migrations if each.failed)

    @property
    def failure(self) -> MigrateError | None:
        """The error that names the migrations with a problem; None if there are none."""
        versions = [each.file.version for each in self.failures]
        return RehearsalFailedError(versions) if versions else None

    @property
    def irreversible(self) -> tuple[MigrationRehearsal, ...]:
        """The migrations without a `down()`."""
        return tuple(each for each in self.migrations if not each.file.reversible)
