"""Plans of a runner, executed in one transaction that is rolled back."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask_migrate_mongo.driver.commands import check_listener_support
from flask_migrate_mongo.driver.confinement import check_confinement_support
from flask_migrate_mongo.driver.patches import require
from flask_migrate_mongo.driver.server import translated
from flask_migrate_mongo.driver.transactions import transaction
from flask_migrate_mongo.engine.options import DEFAULTS, notify
from flask_migrate_mongo.model.errors import DryRunTooLongError, RunStoppedError
from flask_migrate_mongo.model.masking import NOTHING_MASKED, Mask
from flask_migrate_mongo.model.reports import Outcome, RunReport, StepState, Trial, Verdict
from flask_migrate_mongo.model.values import Direction
from flask_migrate_mongo.planning.plans import Target
from flask_migrate_mongo.process import Stopped

from . import requests
from .budget import DOCUMENTS_LIMIT, Budget
from .execution import StepExecution
from .operations import OperationFilter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask_migrate_mongo.engine.options import Options
    from flask_migrate_mongo.engine.runner import Runner
    from flask_migrate_mongo.model.values import LockState, Plan, Step
    from flask_migrate_mongo.process import StopSwitch


@dataclass(frozen=True, slots=True)
class DryRunner:
    """Executes what a runner would run, and leaves nothing of it.

    It holds no lease. `documents` is how many documents a dry run may write.
    """

    runner: Runner
    mask: Mask = NOTHING_MASKED
    documents: int = DOCUMENTS_LIMIT

    @property
    def switch(self) -> StopSwitch:
        """The switch that a signal throws."""
        return self.runner.switch

    def up(self, options: Options = DEFAULTS, *, allow_drift: bool = False) -> RunReport:
        """Execute everything pending. Raises what refuses the plan."""
        return self._run(Target(Direction.UP, allow_drift=allow_drift), options)

    def down(
        self, options: Options = DEFAULTS, *, steps: int = 1, allow_drift: bool = False
    ) -> RunReport:
        """Execute the `down()` of the last applied migrations. Raises what refuses the plan."""
        return self._run(Target(Direction.DOWN, steps, allow_drift=allow_drift), options)

    def _run(self, target: Target, options: Options) -> RunReport:
        seen = self.runner.look(target)
        plan = self.runner.plan_of(target, seen)
        outcomes: tuple[Outcome, ...] = ()
        warnings = plan.warnings
        lacking = self.runner.server.transactions_lacking if plan.steps else None
        if lacking is not None:
            reason = f"a dry run needs transactions, and this server has none: {lacking}"
            outcomes = tuple(_not_executed(step, reason) for step in plan.steps)
        elif plan.steps:
            outcomes = self._executed(plan, options)
            warnings = (*warnings, *_beside(self.runner.lock()))
        executed = bool(plan.steps) and lacking is None
        return RunReport(
            plan.direction, outcomes, executed=executed, warnings=warnings, dry_run=True
        )

    def _executed(self, plan: Plan, options: Options) -> tuple[Outcome, ...]:
        self._check(options)
        functions = self.runner.load(plan)
        outcomes: list[Outcome] = []
        over: str | None = None
        with self.runner.switch.installed(), self._opened(options) as execution:
            for step in plan.steps:
                if over is None:
                    notify(options.observer.started, step)
                    outcome, alive = execution.execute(step, functions[step.version])
                    if not alive or (outcome.failed and not options.continue_on_error):
                        over = _over(outcome)
                else:
                    outcome = _not_executed(step, over)
                outcomes.append(outcome)
                notify(options.observer.ended, outcome)
        return tuple(outcomes)

    def _check(self, options: Options) -> None:
        """Raise UnsupportedDriverError if the step's code cannot be kept inside the transaction.

        Raises DryRunTooLongError if the server would end the transaction earlier than the dry run.
        """
        check_confinement_support()
        check_listener_support()
        require(requests.PATCHES.names, "no dry run is possible")
        with translated():
            allowed = self.runner.server.transaction_seconds()
        if allowed is not None and options.dry_run_limit >= allowed:
            raise DryRunTooLongError(options.dry_run_limit, allowed)

    @contextlib.contextmanager
    def _opened(self, options: Options) -> Iterator[StepExecution]:
        """Begin a transaction that is rolled back at the end of the block."""
        server = self.runner.server
        database = server.handle(transactional=True)
        budget = Budget(options.dry_run_limit, documents=self.documents)
        with server.database.client.start_session() as session:
            in_time = False
            try:
                with translated():
                    operations = OperationFilter(database, session, self.mask)
                with transaction(session):
                    # The first command begins the transaction: it must be one that is sent for certain.
                    with translated():
                        database[self.runner.history.name].find_one({}, {"_id": 1}, session=session)
                    yield StepExecution(self.runner, operations, budget, self.mask, options.samples)
                    in_time = budget.seconds_left > 0
            except (KeyboardInterrupt, Stopped) as exc:
                raise RunStoppedError(_STOPPED, _LESS) from exc
            finally:
                if not in_time:
                    # A command that a limit or a signal ended here may still run on the server.
                    server.kill_session(session.session_id["id"])


_STOPPED = "Stopped. The transaction of the dry run was rolled back, so nothing was changed."
_LESS = (
    "Set a shorter limit: [dry_run_limit=SECONDS]. Or run it on a sample of the data: [rehearse]."
)


def _beside(lock: LockState | None) -> tuple[str, ...]:
    if lock is None or not lock.is_live:
        return ()
    holder = f"{lock.holder} ({lock.reason})"
    return (f"The lock is held by {holder}. Changes of that run are not in this dry run.",)


def _over(outcome: Outcome) -> str:
    """Explain why the steps after this one are not executed."""
    version = outcome.step.version
    if outcome.failed:
        return f"{version} would fail before it"
    return f"{version}, on which it may build, was not executed to its end"


def _not_executed(step: Step, reason: str) -> Outcome:
    return Outcome(step, StepState.NOT_RUN, trial=Trial(Verdict.NOT_EXECUTED, reason))
