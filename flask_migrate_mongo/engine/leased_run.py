"""Runs a plan under a lease: each step is claimed, run and recorded."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask_migrate_mongo.backfill import Backfill, refuse_in_transaction
from flask_migrate_mongo.driver.transactions import Transactions, transaction
from flask_migrate_mongo.model.errors import (
    ConnectionFailedError,
    LeaseLostError,
    MigrateError,
    OutcomeNotRecordedError,
    OutcomeUnknownError,
    capture,
)
from flask_migrate_mongo.model.reports import Outcome, RunReport, StepState, not_run
from flask_migrate_mongo.model.values import Direction
from flask_migrate_mongo.process import Stopped, elapsed, stopped

from .context import Context
from .executor import log_of
from .options import notify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pymongo.client_session import ClientSession

    from flask_migrate_mongo.model.reports import Backfilled
    from flask_migrate_mongo.model.values import Plan, Progress, Step
    from flask_migrate_mongo.store.history import MigrationHistory
    from flask_migrate_mongo.store.lease import Grant
    from flask_migrate_mongo.store.records import Run

    from .executor import Executor
    from .options import Options


START_SECONDS = 30
"""How long recording the start of a step is tried: nothing has run yet that could be lost."""

RETRY_SECONDS = 0.25
"""The pause between two tries of recording."""

_log = logging.getLogger(__name__)


class _Stopwatch:
    """How long a step's function takes: until `stop`, or until it is read."""

    def __init__(self) -> None:
        self._began = elapsed()
        self._ended: float | None = None

    def stop(self) -> None:
        self._ended = elapsed()

    @property
    def ms(self) -> int:
        ended = elapsed() if self._ended is None else self._ended
        return round((ended - self._began) * 1000)


@dataclass(frozen=True, slots=True)
class LeasedRun:
    """One run: who executes, where it is recorded, and the lease that it holds."""

    executor: Executor
    history: MigrationHistory
    grant: Grant
    run: Run
    options: Options

    def execute(self, plan: Plan, functions: Mapping[int, Callable[..., object]]) -> RunReport:
        """Run the steps in turn, each with its function, until one ends the run.

        The first failure ends it, unless the options say to continue.
        """
        outcomes: list[Outcome] = []
        ends_run: MigrateError | None = None
        for position, step in enumerate(plan.steps):
            outcome, ends_run = self._run_step(step, functions[step.version], position)
            outcomes.append(outcome)
            notify(self.options.observer.ended, outcome)
            if ends_run or not (outcome.succeeded or self.options.continue_on_error):
                break
        return RunReport(
            plan.direction,
            (*outcomes, *not_run(plan.steps[len(outcomes) :])),
            executed=True,
            run_id=self.grant.actor.run_id,
            batch=self.run.batch if plan.direction is Direction.UP else None,
            warnings=(*plan.warnings, *self._heartbeat_warnings()),
            error=ends_run,
        )

    def _run_step(
        self, step: Step, function: Callable[..., object], position: int
    ) -> tuple[Outcome, MigrateError | None]:
        """Claim, run and record one step; the error is what ends the whole run, if anything does."""
        with self.executor.session_for(step) as session:
            try:
                self._record_start(step, position, session)
            except MigrateError as exc:
                return Outcome(step, StepState.NOT_RUN), exc
            notify(self.options.observer.started, step)
            watch = _Stopwatch()
            try:
                if session is None:
                    self._run_plain(step, function, watch)
                else:
                    self._run_in_transaction(step, function, session, watch)
            except (LeaseLostError, OutcomeNotRecordedError, OutcomeUnknownError) as exc:
                return _lost(step, watch, exc), exc
            except BaseException as exc:  # noqa: BLE001  (whatever a migration raises, SystemExit too, is its failure)
                return self._record_failure(step, watch, exc)
            return Outcome(step, StepState.after(step), watch.ms), None

    def _record_start(self, step: Step, position: int, session: ClientSession | None) -> None:
        """Claim the record and mark it as running, if the lease is held and nobody asked to stop."""
        self.executor.switch.check()
        self.grant.ensure_recent()
        at = self.grant.now()
        self._persist(
            lambda: self.history.mark_started(
                step, self.run, position=position, at=at, session=session
            ),
            give_up=elapsed() + START_SECONDS,
        )
        # Recording can take long: a step does not start under a lease that expired meanwhile.
        self.grant.ensure()

    def _run_plain(self, step: Step, function: Callable[..., object], watch: _Stopwatch) -> None:
        """Run a step without a transaction, then record its success."""
        context = self._context(step, None)
        self.executor.call(function, context, self.executor.server.handle(transactional=False))
        watch.stop()
        self.grant.ensure()
        at = self.grant.now()
        self._persist(lambda: self.history.mark_completed(step, self.run, took_ms=watch.ms, at=at))

    def _run_in_transaction(
        self,
        step: Step,
        function: Callable[..., object],
        session: ClientSession,
        watch: _Stopwatch,
    ) -> None:
        """Run a step and record its success in one transaction: both are committed, or neither."""
        context = self._context(step, session)
        transactions = Transactions(self.executor.server, self.executor.sleep)

        def attempt() -> None:
            self.grant.ensure()
            with transaction(session):
                self.executor.call_confined(function, context, session)
                watch.stop()
                self.grant.ensure()
                self.history.mark_completed(
                    step, self.run, took_ms=watch.ms, at=self.grant.now(), session=session
                )
                self.grant.ensure()
                transactions.commit(session, lambda: self.history.is_completed(step, self.run))

        transactions.repeat(attempt, context.log)

    def _context(self, step: Step, session: ClientSession | None) -> Context:
        backfill = refuse_in_transaction if step.file.transactional else self._backfill(step)
        return Context(
            self.executor.app,
            log_of(step),
            self.grant.verify,
            backfill,
            session,
            rehearsal=self.executor.rehearsal,
        )

    def _backfill(self, step: Step) -> Callable[..., Backfilled]:
        def progressed(progress: Progress) -> None:
            notify(lambda p: self.options.observer.progressed(step, p), progress)

        executor = self.executor
        return Backfill(
            server=executor.server,
            options=executor.backfills,
            claim=self.history.claimed(step, self.run),
            lease=self.grant,
            switch=executor.switch,
            log=log_of(step),
            sleep=executor.sleep,
            on_progress=progressed,
        )

    def _record_failure(
        self, step: Step, watch: _Stopwatch, cause: BaseException
    ) -> tuple[Outcome, MigrateError | None]:
        """Record a failed step; what prevents that ends the run, and does not mask the failure."""
        error = capture(cause)
        outcome = Outcome(step, StepState.FAILED, watch.ms, error)
        try:
            self.grant.ensure()
            at = self.grant.now()
            self._persist(
                lambda: self.history.mark_failed(step, self.run, error, took_ms=watch.ms, at=at)
            )
            self.executor.switch.check()
        except MigrateError as exc:
            return outcome, exc
        interrupted = isinstance(cause, KeyboardInterrupt | Stopped)
        return outcome, stopped("KeyboardInterrupt") if interrupted else None

    def _persist(self, write: Callable[[], None], *, give_up: float | None = None) -> None:
        """Write to the history, and try again through outages, until the lease would end.

        Raises OutcomeNotRecordedError, with the last outage as its cause.
        """
        while True:
            try:
                return write()
            except ConnectionFailedError as exc:
                until = min(self.grant.deadline, give_up or self.grant.deadline)
                if elapsed() >= until:
                    raise _not_recorded(exc) from exc
                _log.warning("Recording is tried again: %s", exc)
                self.executor.sleep(RETRY_SECONDS)

    def _heartbeat_warnings(self) -> tuple[str, ...]:
        failed = self.grant.failed_beats
        return (f"{failed} heartbeats of the lock failed. The log says why.",) if failed else ()


def _lost(step: Step, watch: _Stopwatch, exc: MigrateError) -> Outcome:
    # A transaction that lost its lease was rolled back, so its step did not run.
    rolled_back = step.file.transactional and isinstance(exc, LeaseLostError)
    state = StepState.NOT_RUN if rolled_back else StepState.UNKNOWN
    return Outcome(step, state, watch.ms, capture(exc))


def _not_recorded(exc: ConnectionFailedError) -> OutcomeNotRecordedError:
    return OutcomeNotRecordedError(
        f"The outcome of the step could not be recorded before the lock expired: {exc.message} The "
        "history still says `running`.",
        "Once the server answers, look at the data, then run [up] or [resolve].",
    )
