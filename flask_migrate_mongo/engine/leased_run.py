"""A plan carried out under a lease, with every step recorded."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from flask_migrate_mongo.driver.server import elapsed
from flask_migrate_mongo.model.errors import (
    ConnectionFailedError,
    LeaseLostError,
    MigrateError,
    OutcomeNotRecordedError,
    OutcomeUnknownError,
    capture,
)
from flask_migrate_mongo.model.reports import Outcome, RunReport, StepState, not_run
from flask_migrate_mongo.model.values import Direction, Status
from flask_migrate_mongo.process.signals import Stopped, stopped
from flask_migrate_mongo.store import records

from .options import tell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from pymongo.client_session import ClientSession

    from flask_migrate_mongo.model.values import Plan, Progress, Step
    from flask_migrate_mongo.store.history import Claim, MigrationHistory
    from flask_migrate_mongo.store.lease import Grant
    from flask_migrate_mongo.store.records import Change, Due, Run

    from .executor import Executor
    from .options import Options

    Functions = Mapping[int, Callable[..., object]]

START_SECONDS = 30
"""How long recording the start of a step is tried: nothing has run yet that could be lost."""

RETRY_PAUSE = 0.25

_T = TypeVar("_T")

_log = logging.getLogger("flask_migrate_mongo.leasedrun")


@dataclass(slots=True)
class LeasedRun:
    """A plan being carried out under a lease.

    `dues` are the steps of the plan, with what was recorded of them when the lease was taken. `announced` is the one
    whose start was recorded together with the success of the one before.
    """

    executor: Executor
    store: MigrationHistory
    grant: Grant
    run: Run
    options: Options
    plan: Plan
    dues: tuple[Due, ...]
    announced: Due | None = None

    def carry_out(self, functions: Functions) -> RunReport:
        """Run the steps in turn, each with its function, and tell what became of all of them."""
        plan = self.plan
        outcomes: list[Outcome] = []
        error: MigrateError | None = None
        for position, step in enumerate(plan.steps):
            # By its place: the claim tells which of them are fresh.
            outcome, error = self._step(self.dues[position], functions[step.version])
            outcomes.append(outcome)
            tell(self.options.observer.ended, outcome)
            failed = outcome.state is not _success(step)
            if error or (failed and not self.options.continue_on_error):
                break
        return RunReport(
            plan.direction,
            (*outcomes, *not_run(plan.steps[len(outcomes) :])),
            executed=True,
            run_id=self.grant.actor.run_id,
            batch=self.run.batch if plan.direction is Direction.UP else None,
            warnings=(*plan.warnings, *self._heartbeats()),
            error=error,
        )

    def _heartbeats(self) -> tuple[str, ...]:
        failed = self.grant.failed_beats
        return (f"{failed} heartbeats of the lock failed; the log says why.",) if failed else ()

    def _step(
        self, due: Due, function: Callable[..., object]
    ) -> tuple[Outcome, MigrateError | None]:
        """Run one step; the error is what ends the whole run, whatever became of the step."""
        step = due.step
        with self.executor.session_for(step) as session:
            try:
                self.executor.switch.check()
                self._record_start(due, session)
            except MigrateError as exc:
                self._withdraw()
                return Outcome(step, StepState.NOT_RUN), exc
            tell(self.options.observer.started, step)
            return self._carry_out(due, function, session)

    def _carry_out(
        self, due: Due, function: Callable[..., object], session: ClientSession | None
    ) -> tuple[Outcome, MigrateError | None]:
        step, ledger = due.step, _StepLedger(self, due)
        try:
            self.executor.run(step, function, ledger, self.grant, session)
        except (LeaseLostError, OutcomeNotRecordedError, OutcomeUnknownError) as exc:
            return _lost(step, ledger.took_ms, exc), exc
        except BaseException as exc:  # noqa: BLE001  (what a migration raises, SystemExit too, is its failure)
            return self._failed(step, ledger.took_ms, exc)
        return Outcome(step, _success(step), ledger.took_ms), None

    def _record_start(self, due: Due, session: ClientSession | None) -> None:
        self.grant.ensure()
        if self.announced is not None:
            self.announced = None
            return
        start = partial(self._start, due, session=session, at=self.grant.now())
        self._persist(start, give_up=elapsed() + START_SECONDS)
        # Recording can take long: what has expired meanwhile must not start.
        self.grant.ensure()

    def _start(self, due: Due, *, at: datetime, session: ClientSession | None) -> None:
        if due.position:
            start = records.starting(due, self.run, at=at, session=session)
            self.store.mark(due.step, self.run, start)
        elif not self.store.claim(self.dues, self.run, at=at, session=session):
            self.dues = tuple(due._replace(is_fresh=False) for due in self.dues)

    def record_done(self, due: Due, done: Change) -> None:
        """Record the success of a plain step, together with the start of the next where one command can."""
        store, following = self.store, self._following(due)
        if following is None:
            self._persist(partial(store.mark, due.step, self.run, done))
        else:
            both = partial(store.hand_over, due.step, self.run, done, following)
            self.announced = following if self._persist(both) else None

    def _following(self, due: Due) -> Due | None:
        """Return the next step if it may be said to start in the command that ends this one."""
        if due.position + 1 == len(self.dues) or self.executor.switch.is_thrown:
            return None
        following = self.dues[due.position + 1]
        is_plain = not (due.step.file.transactional or following.step.file.transactional)
        # What has failed before keeps its error until it really starts.
        return following if is_plain and following.status is not Status.FAILED else None

    def _withdraw(self) -> None:
        """Take back what was recorded of a step that did not start after all."""
        if self.announced is None:
            return
        try:
            self.store.withdraw(self.announced, self.run, at=self.grant.now())
        except MigrateError as exc:
            # Not raised: it would mask what has ended the run. The next one finds it interrupted.
            version = self.announced.step.version
            _log.warning(
                "The history says that %d is running, which did not start: %s", version, exc
            )

    def _failed(
        self, step: Step, took_ms: int, cause: BaseException
    ) -> tuple[Outcome, MigrateError | None]:
        outcome = Outcome(step, StepState.FAILED, took_ms, capture(cause))
        assert outcome.error is not None  # noqa: S101
        ends_run: MigrateError | None = None
        try:
            self.grant.ensure()
            at = self.grant.now()
            failed = records.failed(step, self.run, outcome.error, took_ms=took_ms, at=at)
            self._persist(partial(self.store.mark, step, self.run, failed))
            self.executor.switch.check()
        except MigrateError as exc:
            # The step's own failure stays in the outcome; this one only ends the run.
            ends_run = exc
        if ends_run is None and isinstance(cause, KeyboardInterrupt | Stopped):
            ends_run = stopped("KeyboardInterrupt")
        return outcome, ends_run

    def _persist(self, action: Callable[[], _T], *, give_up: float | None = None) -> _T:
        """Write to the history through outages, until the lease would end.

        Raises OutcomeNotRecordedError, with the last outage as its cause.
        """
        while True:
            try:
                return action()
            except ConnectionFailedError as exc:
                until = min(self.grant.deadline, give_up or self.grant.deadline)
                if elapsed() >= until:
                    raise _not_recorded(exc) from exc
                _log.warning("Recording is tried again: %s", exc)
                self.executor.sleep(RETRY_PAUSE)


class _StepLedger:
    """Records one step's success, and knows how long its function took, in milliseconds."""

    def __init__(self, leased: LeasedRun, due: Due) -> None:
        self._leased = leased
        self._due = due
        self._step = due.step
        self._backfilled = due.before is not None and due.before.backfilled_by is not None
        self._began = elapsed()
        self._ended: float | None = None

    @property
    def took_ms(self) -> int:
        return round(((self._ended or elapsed()) - self._began) * 1000)

    def done(self, session: ClientSession | None = None) -> None:
        self._ended = elapsed()
        leased = self._leased
        leased.grant.ensure()
        done = records.done(
            self._step,
            leased.run,
            took_ms=self.took_ms,
            at=leased.grant.now(),
            backfilled=self._backfilled,
        )
        if session is None:
            leased.record_done(self._due, done)
        else:
            # Not tried again: a failure ends this attempt of the transaction.
            leased.store.mark(self._step, leased.run, done, session)

    def claimed(self) -> Claim:
        self._backfilled = True
        return self._leased.store.claimed(self._step, self._leased.run)

    def progressed(self, progress: Progress) -> None:
        tell(partial(self._leased.options.observer.progressed, self._step), progress)

    def stands(self) -> bool:
        return self._leased.store.stands(self._step, self._leased.run)


def _success(step: Step) -> StepState:
    return StepState.APPLIED if step.direction is Direction.UP else StepState.ROLLED_BACK


def _lost(step: Step, took_ms: int, exc: MigrateError) -> Outcome:
    # A transaction that lost its lease was rolled back, so its step did not run.
    undone = step.file.transactional and isinstance(exc, LeaseLostError)
    return Outcome(step, StepState.NOT_RUN if undone else StepState.UNKNOWN, took_ms, capture(exc))


def _not_recorded(exc: ConnectionFailedError) -> OutcomeNotRecordedError:
    return OutcomeNotRecordedError(
        f"What became of the step could not be recorded until the lock ended: {exc} The history "
        "still says `running`. Once the server answers, look at the data, then run "
        "`flask db-migrate up`, or `flask db-migrate resolve`."
    )
