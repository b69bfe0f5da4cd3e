"""The outcomes of steps, runs, dry runs and backfills.

They are apart from those since what only looks needs none of them.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from .errors import MigrationFailedError, as_migrate_error
from .values import Direction

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .errors import MigrateError
    from .values import ErrorInfo, Step


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What a backfill did from its first batch on, in whichever runs that was.

    `skipped` are those for which the function returned None, `rejected` those that it, or the
    server, refused.
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
    FAILS = "would fail"
    NOT_REHEARSED = "not rehearsed"
    TOO_LARGE = "too large to rehearse here: use rehearse"


class Expected(str, Enum):
    """What is expected of an operation that a transaction does not allow, and that was not made."""

    DONE = "done"
    NO_OP = "no-op"
    FAILS = "fails"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What an operation would do that was not made, since no transaction can take it back.

    `detail` is a sentence that says what is expected and why. `facts` are the figures behind it, under camelCase
    names, ready for JSON.
    """

    operation: str
    collection: str
    expected: Expected
    detail: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Effects:
    """How many documents of a collection were changed, as the server's replies count them."""

    inserted: int = 0
    matched: int = 0
    modified: int = 0
    deleted: int = 0
    upserted: int = 0

    def __add__(self, other: Effects) -> Effects:
        return Effects(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Sample:
    """A document before and after a step: None where it did not exist, and only the fields that differ."""

    collection: str
    document_id: Any
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Trial:
    """What a dry run found out about a step; `reason` says why, where the verdict alone does not.

    `effects` are by collection, up to where the step ended. `depends_on` are the versions before it whose predicted
    operations concern a collection that it uses.
    """

    verdict: Verdict
    reason: str | None
    effects: Mapping[str, Effects]
    predicted: tuple[Prediction, ...] = ()
    samples: tuple[Sample, ...] = ()
    depends_on: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one step; `took_ms` is None if it did not start, `trial` if it was no dry run."""

    step: Step
    state: StepState
    took_ms: int | None = None
    error: ErrorInfo | None = None
    trial: Trial | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the migration is applied, or rolled back."""
        return self.state in {StepState.APPLIED, StepState.ROLLED_BACK}

    @property
    def failed(self) -> bool:
        """Whether it failed, or, in a dry run, would fail."""
        would_fail = self.trial is not None and self.trial.verdict is Verdict.FAILS
        return would_fail or self.state is StepState.FAILED


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did, whether it succeeded, failed or was stopped half-way.

    A dry run that was `executed` called the migrations and took back what they did; one that was not is
    a plan alone. `error` is what ended the run other than a migration's own failure: a lost lease, a signal, a
    server that went away.
    """

    direction: Direction
    outcomes: tuple[Outcome, ...]
    executed: bool
    run_id: str | None = None
    batch: int | None = None
    warnings: tuple[str, ...] = ()
    error: Exception | None = None
    dry_run: bool = False

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The steps that failed, or, in a dry run, would fail."""
        return tuple(outcome for outcome in self.outcomes if outcome.failed)

    @property
    def failure(self) -> MigrateError | None:
        """The error that an interface reports: of failed migrations before what ended the run."""
        if self.failures:
            versions = [outcome.step.version for outcome in self.failures]
            return MigrationFailedError(versions, self.direction.value, dry_run=self.dry_run)
        return as_migrate_error(self.error) if self.error else None

    @property
    def is_noop(self) -> bool:
        """Whether there was nothing to do."""
        return not self.outcomes and self.error is None

    def in_state(self, *states: StepState) -> tuple[Outcome, ...]:
        """Return the outcomes in one of these states, in the order of the plan."""
        return tuple(outcome for outcome in self.outcomes if outcome.state in states)


def not_run(steps: Iterable[Step]) -> tuple[Outcome, ...]:
    """Return the outcomes of steps that never started."""
    return tuple(Outcome(step, StepState.NOT_RUN) for step in steps)
