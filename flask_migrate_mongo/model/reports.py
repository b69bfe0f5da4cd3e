"""The outcomes of steps, runs, dry runs and backfills, and the limits of a dry run.

They are apart from the values since what only looks needs none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from enum import Enum

from .documents import Report
from .errors import CheckFailedError, MigrateError, MigrationFailedError, as_migrate_error
from .values import Direction, ErrorInfo, Event, LockState, Progress, Record, Step

DRY_RUN_SECONDS = 20.0
"""Default limit of a dry run: a server allows a transaction 60 s by default, and Cosmos DB for MongoDB vCore 30 s."""

LONGEST_DRY_RUN = 3600.0
"""Seconds: for servers that are configured to allow longer transactions."""

SAMPLES, MOST_SAMPLES = 2, 20
"""The default and the highest number of documents that a dry run shows of each step, before and after."""


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What a backfill did from its first batch on, in whichever runs that was.

    `skipped` are those for which the function returned None, `rejected` those that it, or the server, refused.
    """

    scanned: int = 0
    matched: int = 0
    modified: int = 0
    skipped: int = 0
    rejected: int = 0

    def __add__(self, other: Backfilled) -> Backfilled:
        return Backfilled(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class StepState(str, Enum):
    """The outcome of a step."""

    APPLIED = "applied"
    ROLLED_BACK = "rolled-back"
    RECORDED = "recorded"
    FAILED = "failed"
    UNKNOWN = "unknown"
    NOT_RUN = "not-run"

    @classmethod
    def after(cls, step: Step) -> StepState:
        """Name the state of a step that succeeded."""
        return cls.APPLIED if step.direction is Direction.UP else cls.ROLLED_BACK


class Verdict(str, Enum):
    """The verdict of a dry run on a step."""

    SUCCEEDS = "would succeed"
    PARTLY = "partly executed: `rehearse` executes all of it"
    FAILS = "would fail"
    TOO_LARGE = "too large for a dry run"
    NOT_EXECUTED = "not executed"


@dataclass(frozen=True, slots=True)
class Violation:
    """A key that several documents have, and that a unique index would refuse; masked, ready for JSON."""

    key: Mapping[str, object]
    count: int


@dataclass(frozen=True, slots=True)
class NotExecuted:
    """An operation that a dry run did not execute, and what it would affect.

    `documents` is how many documents it concerns, None when that is not known. `violations` is None unless duplicate
    keys were looked for.
    """

    operation: str
    collection: str
    documents: int | None
    detail: str
    violations: tuple[Violation, ...] | None = None


@dataclass(frozen=True, slots=True)
class Effects:
    """How many documents of a collection were changed, counted by the server's replies."""

    inserted: int = 0
    matched: int = 0
    modified: int = 0
    deleted: int = 0
    upserted: int = 0

    def __add__(self, other: Effects) -> Effects:
        return Effects(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Sample:
    """A document before and after a step: None where it did not exist, and only the fields that differ.

    Values are masked, cut to size and ready for JSON.
    """

    collection: str
    document_id: object
    before: Mapping[str, object] | None
    after: Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class Trial:
    """The findings of a dry run about one step. `reason` explains the verdict where that alone does not.

    `effects` are by collection, up to where the execution of the step ended.
    """

    verdict: Verdict
    reason: str | None = None
    effects: Mapping[str, Effects] = field(default_factory=dict)
    not_executed: tuple[NotExecuted, ...] = ()
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one step; `took_ms` is None if it did not start, `trial` if it was no dry run.

    `cause` is the exception that `error` describes, for Python in this process. `in_transaction` says that a failure
    was rolled back. `backfill` is how far the backfill of a step was that ended without success.
    """

    step: Step
    state: StepState = StepState.NOT_RUN
    took_ms: int | None = None
    error: ErrorInfo | None = None
    trial: Trial | None = None
    cause: BaseException | None = field(default=None, repr=False, compare=False)
    in_transaction: bool = False
    backfill: Progress | None = None

    def __reduce__(self) -> tuple[type[Outcome], tuple[object, ...]]:
        # Without the cause, which may be an exception that cannot be pickled.
        before = (self.step, self.state, self.took_ms, self.error, self.trial)
        return Outcome, (*before, None, self.in_transaction, self.backfill)

    @property
    def succeeded(self) -> bool:
        """Whether the migration is applied, recorded as applied, or rolled back."""
        return self.state in {StepState.APPLIED, StepState.RECORDED, StepState.ROLLED_BACK}

    @property
    def failed(self) -> bool:
        """Whether it failed, or, in a dry run, would fail."""
        would_fail = self.trial is not None and self.trial.verdict is Verdict.FAILS
        return would_fail or self.state is StepState.FAILED


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is: so many of its steps have ended, and what happened last.

    The `step` has started, has committed a batch of its `backfill`, or has ended with an `outcome`.
    """

    step: Step
    done: int
    total: int
    backfill: Progress | None = None
    outcome: Outcome | None = None

    def __str__(self) -> str:
        state = f": {self.outcome.state.value}" if self.outcome else " ..."
        state = f", {self.backfill}" if self.backfill else state
        return f"{self.done} of {self.total}, {self.step.version} {self.step.file.name}{state}"


@dataclass(frozen=True, slots=True)
class RunReport(Report):
    """What a run did, whether it succeeded, failed or was stopped half-way.

    A dry run that was `executed` called the migrations and rolled back what they did; one that was not is
    a plan alone. `error` is what ended the run other than a migration's own failure: a lost lease, a signal, a
    server that went away. `took_ms` is the time of all steps and their records, None if nothing ran.
    """

    _document = "up"

    direction: Direction
    outcomes: tuple[Outcome, ...]
    executed: bool
    run_id: str | None = None
    batch: int | None = None
    warnings: tuple[str, ...] = ()
    error: Exception | None = None
    dry_run: bool = False
    took_ms: int | None = None

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The steps that failed, or, in a dry run, would fail."""
        return tuple(outcome for outcome in self.outcomes if outcome.failed)

    @property
    def failure(self) -> MigrateError | None:
        """The error that an interface reports: of failed migrations before what ended the run."""
        if self.failures:
            versions = [outcome.step.version for outcome in self.failures]
            directions = {outcome.step.direction for outcome in self.outcomes}
            command = "redo" if len(directions) > 1 else self.direction.value
            return MigrationFailedError(versions, command, dry_run=self.dry_run)
        if self.executed_nothing:
            reasons = [f"{o.step.version}: {o.trial.reason}" for o in self.outcomes if o.trial]
            return CheckFailedError("The dry run could execute nothing.", reasons)
        return as_migrate_error(self.error) if self.error else None

    @property
    def cause(self) -> BaseException | None:
        """What the first migration that failed raised."""
        return self.failures[0].cause if self.failures else None

    @property
    def executed_nothing(self) -> bool:
        """Whether this is a dry run that could execute no step of its plan."""
        nothing = (Verdict.NOT_EXECUTED, Verdict.TOO_LARGE)
        trials = [outcome.trial for outcome in self.outcomes if outcome.trial is not None]
        return bool(trials) and all(trial.verdict in nothing for trial in trials)

    @property
    def is_noop(self) -> bool:
        """Whether there was nothing to do."""
        return not self.outcomes and self.error is None


# --- reports of what is recorded


@dataclass(frozen=True, slots=True)
class HistoryReport(Report):
    """A page of the history, the last change first."""

    _document = "history"

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class EventsReport(Report):
    """An event log, the oldest first."""

    _document = "events"

    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class LockReport(Report):
    """The lock as it is recorded; None if it is free. One that has expired excludes nobody."""

    _document = "lock-status"

    lock: LockState | None

    @property
    def locked(self) -> bool:
        """Whether the lock excludes other runs."""
        return self.lock is not None and self.lock.is_live


@dataclass(frozen=True, slots=True)
class ReleaseReport(Report):
    """The lock that was released by force; None if it was free."""

    _document = "force-unlock"

    released: LockState | None


@dataclass(frozen=True, slots=True)
class RequestReport(Report):
    """The migration whose backfill received a request."""

    _document = "pause"

    record: Record
