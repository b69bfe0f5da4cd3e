"""The report of a rehearsal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .comparison import Differences
from .estimation import Timing

if TYPE_CHECKING:
    from flask_migrate_mongo.model.values import ErrorInfo, LockState, MigrationFile

    from .estimation import Estimate
    from .scratch import CopiedCollection


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of `up()` or `down()`.

    `touched` names the collections that its commands named, `elsewhere` those that it read in other databases.
    """

    took_ms: int
    error: ErrorInfo | None = None
    touched: frozenset[str] = frozenset()
    elsewhere: frozenset[str] = frozenset()
    timing: Timing = field(default_factory=Timing)


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
        return tuple(sorted(self.up.touched)) if self.up else ()

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """The collections of other databases that were read."""
        return tuple(sorted(frozenset[str]().union(*(each.elsewhere for each in self.attempts))))


@dataclass(frozen=True, slots=True)
class RehearsalReport:
    """The result of a rehearsal.

    `lock` is the lock of the real database, if a run held it meanwhile; `removed` names the databases that crashed
    rehearsals had left.
    """

    database: str | None = None
    migrations: tuple[MigrationRehearsal, ...] = ()
    copied: tuple[CopiedCollection, ...] = ()
    lock: LockState | None = None
    removed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[MigrationRehearsal, ...]:
        """The migrations with a problem."""
        return tuple(each for each in self.migrations if each.failed)

    @property
    def irreversible(self) -> tuple[MigrationRehearsal, ...]:
        """The migrations without a `down()`."""
        return tuple(each for each in self.migrations if not each.file.reversible)
