"""Plans like the runner, and executes the plan in a transaction that is rolled back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from flask_migrate_mongo.engine.options import DEFAULTS, notify
from flask_migrate_mongo.engine.runner import nothing_ran
from flask_migrate_mongo.model.errors import RunStoppedError
from flask_migrate_mongo.planning.plans import DownTarget, UpTarget
from flask_migrate_mongo.process.signals import Stopped, StopSwitch

from .dry_run import DryRun, Listener

if TYPE_CHECKING:
    from flask_migrate_mongo.engine.options import Options
    from flask_migrate_mongo.engine.runner import Runner
    from flask_migrate_mongo.model.reports import Outcome, RunReport
    from flask_migrate_mongo.model.values import LockState, Plan
    from flask_migrate_mongo.planning.plans import Target


@dataclass(frozen=True, slots=True)
class DryRunner:
    """Has the methods of a runner, and leaves the database as it was."""

    runner: Runner

    @property
    def switch(self) -> StopSwitch:
        """The switch that a signal throws."""
        return self.runner.switch

    def up(self, options: Options = DEFAULTS, *, allow_drift: bool = False) -> RunReport:
        """Execute an `up` in a transaction that is rolled back. Raises like the runner's."""
        return self._run(UpTarget(allow_drift), options)

    def down(
        self, options: Options = DEFAULTS, *, steps: int = 1, allow_drift: bool = False
    ) -> RunReport:
        """Execute a `down` in a transaction that is rolled back. Raises like the runner's."""
        return self._run(DownTarget(steps, allow_drift), options)

    def _run(self, target: Target, options: Options) -> RunReport:
        seen = self.runner.look(target)
        plan = self.runner.plan_of(target, seen)
        report = replace(nothing_ran(plan), dry_run=True)
        if not plan.steps:
            return report
        lacking = self.runner.server.transactions_lacking
        if lacking is not None:
            return replace(report, warnings=(_plan_only(lacking), *plan.warnings))
        return replace(
            report,
            outcomes=self._execute(plan, options),
            executed=True,
            warnings=(*plan.warnings, *_beside(self.runner.lock())),
        )

    def _execute(self, plan: Plan, options: Options) -> tuple[Outcome, ...]:
        runner, observer = self.runner, options.observer
        dry_run = DryRun(
            runner.executor,
            runner.history.name,
            runner.mask,
            options.dry_run_limit,
            options.samples,
        )
        dry_run.check()
        functions = runner.load(plan)
        listener = Listener(partial(notify, observer.started), partial(notify, observer.ended))
        with runner.switch.installed():
            try:
                return dry_run.carry_out(
                    plan, functions, listener, continue_on_error=options.continue_on_error
                )
            except (KeyboardInterrupt, Stopped) as exc:
                raise RunStoppedError(_NOTHING_LEFT, _LESS) from exc


_NOTHING_LEFT = "Stopped. The transaction of the dry run was rolled back, so nothing was changed."
_LESS = (
    "Set a shorter limit: [dry_run_limit=SECONDS]. Or run it on a sample of the data: [rehearse]."
)


def _plan_only(lacking: str) -> str:
    return (
        f"This is the plan alone, and nothing was rehearsed: a dry run needs transactions, which this server "
        f"lacks, since {lacking}."
    )


def _beside(lock: LockState | None) -> tuple[str, ...]:
    if lock is None or not lock.is_live:
        return ()
    return (
        f"The lock is held by {lock.holder} ({lock.reason}): what that run is changing is not in this dry run.",
    )
