"""The one runner behind every interface: plans, takes the lease, runs and records each step, releases."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

from flask import Flask
from pymongo.client_session import ClientSession

from flask_migrate_mongo.backfill import Backfill, BackfillOptions, refuse_in_transaction
from flask_migrate_mongo.definitions import Definitions, Waiting
from flask_migrate_mongo.driver.confinement import bound, check_confinement_support
from flask_migrate_mongo.driver.server import code_of
from flask_migrate_mongo.driver.tracing import OWN, Attributes, Span, span
from flask_migrate_mongo.driver.transactions import (
    TransactionLimits,
    Transactions,
    transaction,
)
from flask_migrate_mongo.files.loading import StepFunction, load
from flask_migrate_mongo.files.packages import forget_modules
from flask_migrate_mongo.model.errors import (
    ConnectionFailedError,
    LeaseLostError,
    MigrateError,
    NoRunError,
    OutcomeNotRecordedError,
    OutcomeUnknownError,
    capture,
)
from flask_migrate_mongo.model.masking import DEFAULT_MASK, Mask
from flask_migrate_mongo.model.reports import Outcome, RunReport, StepState
from flask_migrate_mongo.model.values import (
    Actor,
    Direction,
    History,
    LockState,
    Origin,
    Plan,
    Progress,
    Record,
    Request,
    Step,
)
from flask_migrate_mongo.planning.plans import Inspector, ProjectState, Target
from flask_migrate_mongo.process import StopSwitch, elapsed, marking_children, stopped
from flask_migrate_mongo.store.lease import AWAY_SECONDS, Grant
from flask_migrate_mongo.store.records import Adoption, Claim, Run

from .calling import call_confined, call_function, log_of
from .commands import RunMethods
from .options import DEFAULTS, Context, Observer, Observers, Options, notify, unobserved

START_SECONDS = 30
"""How long recording the start of a step is tried: nothing has run yet that could be lost."""

_ENDED_BY_A_KILL = frozenset({43, 225, 237, 251, 11601})
"""How a statement fails whose session was killed: CursorNotFound, TransactionTooOld, CursorKilled, NoSuchTransaction, Interrupted."""


@dataclass(frozen=True, slots=True)
class Runner(Inspector, RunMethods):
    """An inspector that also acts: migrates one database from one folder.

    A signal throws the `switch`. `rehearsal` is what migrations get as `ctx.rehearsal`. `wait` is in
    seconds. `mask` hides secrets in the texts of errors. `observe` makes an observer of the run with this id,
    beside that of the options.
    """

    app: Flask
    switch: StopSwitch
    backfills: BackfillOptions
    rehearsal: bool = False
    wait: float = 0
    mask: Mask = DEFAULT_MASK
    app_version: str | None = None
    observe: Callable[[str], Observer] = unobserved

    def run(self, target: Target, options: Options = DEFAULTS) -> RunReport:
        """Plan a target under the lease, and run the plan.

        Raises LockHeldError, and what refuses the plan, before anything runs. What happens later is
        in the report. If nothing is to do, no lock is taken.
        """
        seen = self.look(target)
        plan = self.plan_of(target, seen)
        # Only a holder of the lock can know whether a record that says `running` belongs to a dead run.
        if not (plan.steps or seen.history.running):
            return RunReport(
                plan.direction,
                (),
                executed=False,
                warnings=plan.warnings,
                database=self.server.location,
            )
        self.server.ensure_supported()
        actor = self.actor("redo" if target.redo else target.direction.value, options.run_id)
        observer = Observers((options.observer, self.observe(actor.run_id)))
        options = replace(options, observer=observer)
        attributes: Attributes = {OWN + "run_id": actor.run_id, OWN + "rehearsal": self.rehearsal}
        with span(f"migrations {actor.reason}", self.server.database.name, attributes) as traced:
            report = self._run_leased(actor, target, options, seen, plan)
            if report.failure is not None:
                traced.fail(capture(report.failure, self.mask))
        notify(observer.finished, report)
        return report

    def _run_leased(
        self, actor: Actor, target: Target, options: Options, seen: ProjectState, plan: Plan
    ) -> RunReport:
        """Run the plan under the lease; make it again if the history has changed meanwhile."""
        wait, observer = self.wait if options.wait is None else options.wait, options.observer

        def waiting(lock: LockState, seconds: float) -> None:
            notify(observer.waiting, lock, seconds)

        with (
            self.switch.installed(),
            self.lease.hold(actor, wait=wait, on_wait=waiting) as grant,
            marking_children(),
        ):
            history, run = self.settle(grant)
            if history != seen.history:
                seen = self.look(target, history)
                plan = self.plan_of(target, seen)
            functions = self.load(plan)
            if target.redo:
                # What was not rolled back is not applied again.
                options = replace(options, continue_on_error=False)
            notify(options.observer.planned, plan)
            return LeasedRun(self, grant, run, options).execute(plan, functions)

    def load(self, plan: Plan) -> tuple[StepFunction | None, ...]:
        """Import the files of all steps that run, before the first one does.

        Raises SourceError, ImportFailedError or UnsupportedDriverError.
        """
        if any(step.file.transactional and not step.adopts for step in plan.steps):
            check_confinement_support()
        # A process can live long, and run again after a helper has changed.
        forget_modules(self.folder.path)
        return tuple(None if step.adopts else load(step, self.mask) for step in plan.steps)

    def force_unlock(self, *, confirmed: bool, fence: int | None = None) -> LockState | None:
        """Release the lock of any holder, or of the one with this fence, and report what it was. Raises NotConfirmedError."""
        actor = self.actor("force-unlock")
        released = self.lease.force_release(actor, confirmed=confirmed, fence=fence)
        if released is not None:
            self.history.disown(released.run_id, actor, self.server.now())
            notify(self.observe(actor.run_id).unlocked, released)
        return released

    def request(self, request: Request, *, run_id: str | None = None) -> Record:
        """Request a running backfill to pause, resume or cancel; of any run, or of this one.

        It takes effect after the current batch. Raises NoRunError.
        """
        held = self.lease.inspect()
        if held is None or not held.is_live or run_id not in (None, held.run_id):
            raise NoRunError
        actor = self.actor(request.value)
        return self.history.request(held.run_id, request, actor, held.seen_at)

    def settle(self, grant: Grant) -> tuple[History, Run]:
        """Read the history under the lease, and mark what crashed runs left running.

        Everything that changes the history begins with it.
        """
        give_up = elapsed() + AWAY_SECONDS
        grant.outlast(self.history.prepare, give_up=give_up)
        # Read again: another run may have finished while we waited for the lease.
        history = grant.outlast(self.history.load, give_up=give_up)
        if history.fence >= grant.fence:
            grant.raise_fence(above=history.fence)
        run = Run(grant.actor, fence=grant.fence, batch=history.next_batch)
        for squashed, parts in history.unmarked:
            # The run that recorded the squashed migration crashed before it did this.
            mark = partial(self.history.mark_replaced, parts, squashed, run, at=grant.ensure())
            grant.outlast(mark, give_up=give_up)
        for dead in history.running:
            # If the lease was lost meanwhile, the record may be that of the run that has it now.
            interrupt = partial(self.history.mark_interrupted, dead, grant.actor, at=grant.ensure())
            grant.outlast(interrupt, give_up=give_up)
        if history.running:
            history = grant.outlast(self.history.load, give_up=give_up)
        return history, run

    def actor(self, reason: str, run_id: str | None = None) -> Actor:
        """Describe this process as the holder of the lock, for this reason."""
        return Actor.current(reason, app_version=self.app_version, run_id=run_id)


class _Stopwatch:
    """How long a run, or a step's function, takes: until `stop`, or until it is read."""

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
    """One run of a runner: under which lease, as which run of the history, and how.

    `_backfills` are how far the backfills of its steps are, by version.
    """

    runner: Runner
    grant: Grant
    run: Run
    options: Options
    _backfills: dict[int, Progress] = field(default_factory=dict, init=False)

    def execute(self, plan: Plan, functions: Sequence[StepFunction | None]) -> RunReport:
        """Run the steps in turn, each with its function, until one ends the run.

        The first failure ends it, unless the options say to continue.
        """
        watch = _Stopwatch()
        outcomes: list[Outcome] = []
        ends_run: MigrateError | None = None
        for position, (step, function) in enumerate(zip(plan.steps, functions, strict=True)):
            with self._span(step) as traced:
                if function is None:
                    outcome, ends_run = self._adopt(step, position)
                else:
                    outcome, ends_run = self._run_step(step, function, position)
                traced.set("state", outcome.state.value)
                if outcome.error is not None:
                    traced.fail(outcome.error)
            outcomes.append(outcome)
            notify(self.options.observer.ended, outcome)
            if ends_run or not (outcome.succeeded or self.options.continue_on_error):
                break
        failed = self.grant.failed_beats
        warnings = (f"{failed} heartbeats of the lock failed. The log says why.",) if failed else ()
        return RunReport(
            plan.direction,
            (*outcomes, *map(Outcome, plan.steps[len(outcomes) :])),
            executed=True,
            run_id=self.grant.actor.run_id,
            batch=self.run.batch if plan.direction is Direction.UP else None,
            warnings=(*plan.warnings, *warnings),
            error=ends_run,
            took_ms=watch.ms,
            database=self.runner.server.location,
        )

    def _span(self, step: Step) -> AbstractContextManager[Span]:
        attributes: Attributes = {
            OWN + "run_id": self.grant.actor.run_id,
            OWN + "version": str(step.version),
            OWN + "name": step.file.name,
            OWN + "transactional": step.file.transactional,
        }
        database = self.runner.server.database.name
        return span(f"migration {step.direction.value}", database, attributes)

    def _adopt(self, step: Step, position: int) -> tuple[Outcome, MigrateError | None]:
        """Record a squashed migration, whose parts are applied, without running it."""
        state = StepState.NOT_RUN
        try:
            self.runner.switch.check()
            at = self.grant.ensure_recent()
            state = StepState.UNKNOWN
            reason = "everything that it replaces is applied"
            adoption = Adoption(
                step.file, Origin.SQUASHED, reason, position=position, parts=step.adopts
            )
            self.runner.history.record_applied(adoption, self.run, at)
        except LeaseLostError as exc:
            return Outcome(step, StepState.NOT_RUN), exc
        except MigrateError as exc:
            return Outcome(step, state, error=capture(exc, self.runner.mask)), exc
        return Outcome(step, StepState.RECORDED), None

    def _run_step(
        self, step: Step, function: StepFunction, position: int
    ) -> tuple[Outcome, MigrateError | None]:
        """Claim, run and record one step; the error is what ends the whole run, if anything does."""
        claim = self.runner.history.claim(step, self.run)
        server = self.runner.server
        in_transaction = step.file.transactional and server.transactions_lacking is None
        with server.session(transactional=in_transaction) as session, self.grant.guarding(session):
            try:
                self._record_start(claim, position, session)
            except MigrateError as exc:
                return Outcome(step, StepState.NOT_RUN), exc
            watch = _Stopwatch()
            try:
                if in_transaction:
                    self._run_in_transaction(claim, function, cast("ClientSession", session), watch)
                else:
                    self._run_plain(claim, function, session, watch)
            except (LeaseLostError, OutcomeNotRecordedError, OutcomeUnknownError) as exc:
                # A transaction that lost its lease was rolled back, so its step did not run.
                rolled_back = in_transaction and isinstance(exc, LeaseLostError)
                state = StepState.NOT_RUN if rolled_back else StepState.UNKNOWN
                error = capture(exc, self.runner.mask)
                backfill = self._backfills.get(step.version)
                return Outcome(step, state, watch.ms, error, backfill=backfill), exc
            except BaseException as exc:  # noqa: BLE001  (whatever a migration raises, SystemExit too, is its failure)
                return self._record_failure(claim, watch, exc, in_transaction=in_transaction)
            return Outcome(step, StepState.after(step), watch.ms), None

    def _record_start(self, claim: Claim, position: int, session: ClientSession | None) -> None:
        """Claim the record and mark it as running, if the lease is held and nobody asked to stop."""
        self.runner.switch.check()
        at = self.grant.ensure_recent()
        try:
            self.grant.outlast(
                lambda: claim.start(position=position, at=at, session=session),
                give_up=elapsed() + START_SECONDS,
            )
            notify(self.options.observer.started, claim.step)
        except KeyboardInterrupt as exc:
            # As an error of ours, with which the run reports what it has done before.
            raise stopped(self.runner.switch.requested_by or type(exc).__name__) from exc
        # Recording and observers can take long: a step does not start under a lease that was lost meanwhile.
        self.grant.ensure()

    def _run_plain(
        self,
        claim: Claim,
        function: StepFunction,
        session: ClientSession | None,
        watch: _Stopwatch,
    ) -> None:
        """Run a step without a transaction, then record its success."""
        server, context = self.runner.server, self._context(claim, None)
        with server.killing_on_stop(session), bound(session):
            call_function(function, context, server.handle(transactional=False), self.runner.switch)
        watch.stop()
        at = self.grant.ensure()
        self._persist(lambda: claim.complete(took_ms=watch.ms, at=at))

    def _run_in_transaction(
        self,
        claim: Claim,
        function: StepFunction,
        session: ClientSession,
        watch: _Stopwatch,
    ) -> None:
        """Run a step and record its success in one transaction: both are committed, or neither."""
        runner, context = self.runner, self._context(claim, session)
        transactions = Transactions(runner.server, time.sleep)
        limits = TransactionLimits(runner.server)

        def attempt() -> None:
            with limits.attempt():
                # The session may have been killed because somebody released the lock.
                self.grant.ensure_recent()
                # Killed before it is rolled back: a rollback waits for the statement that runs.
                with transaction(session), runner.server.killing_on_stop(session):
                    db = runner.server.handle(transactional=True)
                    error = call_confined(function, context, session, db, runner.switch).error
                    if error is not None:
                        raise error
                    watch.stop()
                    at = self.grant.ensure()
                    claim.complete(took_ms=watch.ms, at=at, session=session)
                    self.grant.ensure()
                    transactions.commit(session, claim.is_completed)

        transactions.repeat(attempt, context.log)

    def _context(self, claim: Claim, session: ClientSession | None) -> Context:
        """Make what the step's function gets as `ctx`: in a transaction nothing that needs to be outside of one."""
        runner, log = self.runner, log_of(claim.step)
        if claim.step.file.transactional:
            refused = refuse_in_transaction
            return Context(runner.app, log, self.grant.verify, refused, session, runner.rehearsal)
        waiting = self._waiting(claim, log)
        backfill = self._backfill(claim, waiting)
        definitions = Definitions(runner.server.handle(transactional=False), log, waiting)
        return Context(
            runner.app, log, self.grant.verify, backfill, session, runner.rehearsal, definitions
        )

    def _waiting(self, claim: Claim, log: logging.Logger) -> Waiting:
        observer = self.options.observer
        return Waiting(
            server=self.runner.server,
            lease=self.grant,
            switch=self.runner.switch,
            log=log,
            sleep=time.sleep,
            on_progress=lambda progress: notify(observer.progressed, claim.step, progress),
            note=partial(self._note_index, claim),
        )

    def _backfill(self, claim: Claim, waiting: Waiting) -> Backfill:
        """Make `ctx.backfill`, which waits as the step does, and whose progress the outcome of the step keeps."""

        def begun(progress: Progress) -> None:
            self._backfills[claim.step.version] = progress

        def backfilled(progress: Progress) -> None:
            begun(progress)
            waiting.on_progress(progress)

        return Backfill(
            server=waiting.server,
            options=self.runner.backfills,
            mask=self.runner.mask,
            claim=claim,
            lease=waiting.lease,
            switch=waiting.switch,
            log=waiting.log,
            sleep=waiting.sleep,
            on_progress=backfilled,
            on_begin=begun,
        )

    def _note_index(self, claim: Claim, kind: str, collection: str, index: str) -> None:
        """Add an event about an index to the event log."""
        at = self.grant.ensure()
        self.grant.outlast(lambda: claim.note(kind, at, collection=collection, index=index))

    def _record_failure(
        self, claim: Claim, watch: _Stopwatch, cause: BaseException, *, in_transaction: bool
    ) -> tuple[Outcome, MigrateError | None]:
        """Record a failed step; what prevents that ends the run, and does not mask the failure."""
        error = capture(cause, self.runner.mask)
        outcome = Outcome(
            claim.step,
            StepState.FAILED,
            watch.ms,
            error,
            cause=cause,
            in_transaction=in_transaction,
            backfill=self._backfills.get(claim.step.version),
        )
        # A step that is neither rolled back nor safe to repeat is half done, whatever ended it.
        interrupted = not (in_transaction or claim.step.file.idempotent)
        try:
            at = self.grant.ensure()
            self._persist(
                lambda: claim.fail(error, took_ms=watch.ms, at=at, interrupted=interrupted)
            )
            self.runner.switch.check()
        except MigrateError as exc:
            if isinstance(exc, LeaseLostError) and code_of(cause) in _ENDED_BY_A_KILL:
                # The heartbeat has ended the statement: that is no failure of the migration.
                state = StepState.NOT_RUN if in_transaction else StepState.UNKNOWN
                outcome = Outcome(claim.step, state, watch.ms, capture(exc, self.runner.mask))
            return outcome, exc
        # What is no Exception, such as the SystemExit of gunicorn's SIGABRT, is meant to end the process.
        return outcome, None if isinstance(cause, Exception) else stopped(type(cause).__name__)

    def _persist(self, write: Callable[[], None]) -> None:
        """Write an outcome to the history, and try again through outages, until the lease would end.

        Raises OutcomeNotRecordedError, with the last outage, or the second signal, as its cause.
        """
        try:
            self.grant.outlast(write, give_up=math.inf)
        except (ConnectionFailedError, KeyboardInterrupt) as exc:
            why = "the run was interrupted."
            if isinstance(exc, ConnectionFailedError):
                why = f"the lock expired: {exc.message}"
            msg = f"The outcome of the step could not be recorded before {why} The history still says `running`."
            remedy = "Once the server answers, look at the data, then run [up] or [resolve VERSION applied=True|False reason=TEXT]."
            raise OutcomeNotRecordedError(msg, remedy) from exc
