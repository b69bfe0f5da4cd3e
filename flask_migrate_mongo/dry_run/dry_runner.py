"""Plans of a runner, executed in one transaction that is rolled back: one step after the other, each judged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pymongo
from pymongo.errors import PyMongoError

from flask_migrate_mongo.backfill import DryRunBackfill, refuse_in_transaction
from flask_migrate_mongo.definitions import Definitions
from flask_migrate_mongo.driver.commands import check_listener_support, listening
from flask_migrate_mongo.driver.confinement import Confinement, check_confinement_support
from flask_migrate_mongo.driver.patches import require
from flask_migrate_mongo.driver.server import Server, translated
from flask_migrate_mongo.driver.transactions import transaction
from flask_migrate_mongo.engine.calling import call_confined, log_of
from flask_migrate_mongo.engine.commands import RunMethods
from flask_migrate_mongo.engine.options import DEFAULTS, Context, Options, notify
from flask_migrate_mongo.engine.runner import Runner
from flask_migrate_mongo.files.loading import StepFunction
from flask_migrate_mongo.model.errors import (
    ConfigurationError,
    DryRunTooLongError,
    RunStoppedError,
    capture,
)
from flask_migrate_mongo.model.reports import Outcome, RunReport, Trial, Verdict
from flask_migrate_mongo.model.values import Plan, Step
from flask_migrate_mongo.planning.plans import Target
from flask_migrate_mongo.process import Stopped, StopSwitch, elapsed, marking_children

from .effects import DOCUMENTS_LIMIT, Budget, Recorder
from .operations import PATCHES, OperationFilter, answered_by
from .verdicts import StepFacts, judge, why_unclear

_ADOPTED = "everything that it replaces is applied, so it is recorded and does not run"

BATCHES = 10
"""How many batches of a backfill are executed: enough to see its effects and its speed."""


@dataclass(frozen=True, slots=True)
class DryRunner(RunMethods):
    """Executes what a runner would run, and leaves nothing of it.

    It holds no lease. `documents` is how many documents a dry run may write.
    """

    runner: Runner
    documents: int = DOCUMENTS_LIMIT

    @property
    def server(self) -> Server:
        """The server whose database it leaves as it was."""
        return self.runner.server

    @property
    def switch(self) -> StopSwitch:
        """The switch that a signal throws."""
        return self.runner.switch

    def run(self, target: Target, options: Options = DEFAULTS) -> RunReport:
        """Execute what a target leads to. Raises what refuses the plan."""
        plan = self.runner.plan_of(target, self.runner.look(target))
        lacking = self.runner.server.transactions_lacking if plan.steps else None
        warnings = plan.warnings
        executed = bool(plan.steps) and lacking is None
        took_ms = None
        if executed:
            began = elapsed()
            outcomes = self._executed(plan, options)
            took_ms = round((elapsed() - began) * 1000)
            lock = self.runner.lock()
            if lock is not None and lock.is_live:
                holder = f"{lock.holder} ({lock.reason})"
                warnings += (
                    f"The lock is held by {holder}. Changes of that run are not in this dry run.",
                )
        else:
            reason = f"a dry run needs transactions, and this server has none: {lacking}"
            outcomes = tuple(_not_executed(step, reason) for step in plan.steps)
        return RunReport(
            plan.direction,
            outcomes,
            executed,
            warnings=warnings,
            dry_run=True,
            took_ms=took_ms,
            database=self.runner.server.location,
        )

    @marking_children()
    def _executed(self, plan: Plan, options: Options) -> tuple[Outcome, ...]:
        self._check(options)
        functions = self.runner.load(plan)
        notify(options.observer.planned, plan)
        outcomes: list[Outcome] = []
        over: str | None = None
        with self.runner.switch.installed(), self._opened(options) as execution:
            for step, function in zip(plan.steps, functions, strict=True):
                if function is None:
                    outcome = Outcome(step, trial=Trial(Verdict.SUCCEEDS, _ADOPTED))
                elif over is None:
                    notify(options.observer.started, step)
                    outcome, alive = execution.execute(step, function)
                    if not alive or (outcome.failed and not options.continue_on_error):
                        over = _over(outcome)
                else:
                    outcome = _not_executed(step, over)
                outcomes.append(outcome)
                notify(options.observer.ended, outcome)
        return tuple(outcomes)

    def _check(self, options: Options) -> None:
        """Raise UnsupportedDriverError, ConfigurationError or DryRunTooLongError if no dry run is possible."""
        check_confinement_support()
        check_listener_support()
        require(PATCHES.names, "no dry run is possible")
        server = self.runner.server
        if server.database.client.options.pool_options.max_pool_size == 1:
            msg = "A dry run needs two connections, and the connection string has maxPoolSize=1."
            remedy = "Set maxPoolSize to 2 or more. Or run it on a copy: [rehearse]."
            raise ConfigurationError(msg, remedy)
        with translated():
            allowed = server.transaction_seconds()
        if allowed is not None and options.dry_run_limit >= allowed:
            raise DryRunTooLongError(options.dry_run_limit, allowed)

    @contextlib.contextmanager
    def _opened(self, options: Options) -> Iterator[StepExecution]:
        """Begin a transaction that is rolled back at the end of the block."""
        server = self.runner.server
        database = server.handle(transactional=True)
        budget = Budget(options.dry_run_limit, documents=self.documents)
        with server.database.client.start_session() as session:
            with translated():
                operations = OperationFilter(database, session, self.runner.mask)
            try:
                # A command that a limit or a signal ended here still runs on the server, and the rollback would
                # wait for it: the session is killed first.
                with transaction(session), server.killing_on_stop(session):
                    # The first command begins the transaction: it must be one that is sent for certain.
                    with translated():
                        records = database[self.runner.history.name]
                        records.find_one({}, {"_id": 1}, session=session)
                    yield StepExecution(self.runner, operations, budget, options.samples)
                    if not budget.seconds_left:
                        server.kill_session(session.session_id["id"])
            except (KeyboardInterrupt, Stopped) as exc:
                raise RunStoppedError(
                    "Stopped. The transaction of the dry run was rolled back, so nothing was changed.",
                    "Set a shorter limit: [dry_run_limit=SECONDS]. Or run it on a sample of the data: [rehearse].",
                ) from exc


def _over(outcome: Outcome) -> str:
    """Explain why the steps after this one are not executed."""
    version = outcome.step.version
    if outcome.failed:
        return f"{version} would fail before it"
    return f"{version}, on which it may build, was not executed to its end"


def _not_executed(step: Step, reason: str) -> Outcome:
    return Outcome(step, trial=Trial(Verdict.NOT_EXECUTED, reason))


@dataclass(frozen=True, slots=True)
class StepExecution:
    """Executes steps in one open transaction, each on what those before it have left."""

    runner: Runner
    operations: OperationFilter
    budget: Budget
    samples: int

    def execute(self, step: Step, function: StepFunction) -> tuple[Outcome, bool]:
        """Execute a step; the second value says whether the transaction can serve the next one."""
        recorder = Recorder(self.operations, self.budget, self.samples)
        began = elapsed()
        ending = self._call(step, function, recorder)
        took_ms = round((elapsed() - began) * 1000)
        operations, transactional = self.operations, step.file.transactional
        omitted, unbuilt, mask = operations.take(), operations.unbuilt, self.runner.mask
        facts = StepFacts(
            limit=self.budget.refusal,
            unclear=operations.ended
            or why_unclear(ending, unbuilt, mask, transactional=transactional),
            fails=ending.error is not None,
            ends_transaction=transactional
            or ending.failure is not None
            or not isinstance(ending.error, Exception | None),
            omits=bool(omitted),
            executed=recorder.executed > 0,
        )
        verdict, is_usable = judge(facts)
        failure = ending.error if verdict is Verdict.FAILS else None
        error = None if failure is None else capture(failure, mask)
        reason, samples = facts.limit or facts.unclear, tuple(recorder.samples)
        trial = Trial(verdict, reason, dict(recorder.effects), omitted, samples)
        outcome = Outcome(step, took_ms=took_ms, error=error, trial=trial, cause=failure)
        return outcome, is_usable

    def _call(self, step: Step, function: StepFunction, recorder: Recorder) -> Confinement:
        server, session = self.runner.server, self.operations.session
        # What a transaction cannot hold fails a transactional step in a real run, too.
        operations = None if step.file.transactional else self.operations
        # The server and the driver end one long command; 0 would mean no limit.
        limit = pymongo.timeout(max(self.budget.seconds_left, 0.001))
        with listening(recorder), answered_by(operations), limit:
            database = server.handle(transactional=True)
            context, switch = self._context(step), self.runner.switch
            ending = call_confined(function, context, session, database, switch)
        for error in (ending.raised, ending.failure):
            if isinstance(error, PyMongoError) and error.timeout and self.budget.is_nearly_over:
                self.budget.time_out()
        return ending

    def _context(self, step: Step) -> Context:
        app, log, session = self.runner.app, log_of(step), self.operations.session
        if step.file.transactional:
            return Context(app, log, _no_lease, refuse_in_transaction, session, rehearsal=True)
        backfill = DryRunBackfill(
            server=self.runner.server,
            options=self.runner.backfills,
            mask=self.runner.mask,
            on_end=self.operations.add_backfill,
            on_refused=self.operations.refuse_batch,
            # Half of the time that is left: the rest of the step needs some, too.
            until=elapsed() + self.budget.seconds_left / 2,
            batches=BATCHES,
        )
        # The commands are sent in the transaction of the dry run, which decides about each.
        definitions = Definitions(self.runner.server.handle(transactional=True), log)
        return Context(app, log, _no_lease, backfill, rehearsal=True, definitions=definitions)


def _no_lease() -> None:
    """Replace the check of the lease, which a dry run does not hold."""
