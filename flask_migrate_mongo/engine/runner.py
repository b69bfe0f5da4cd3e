"""The one runner behind every interface: plans, takes the lease, runs, records, releases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask_migrate_mongo.files import load
from flask_migrate_mongo.model.errors import (
    InvalidRequestError,
    NoRunError,
    NotResolvableError,
)
from flask_migrate_mongo.model.reports import RunReport
from flask_migrate_mongo.model.values import Actor, Status
from flask_migrate_mongo.planning.inspector import Inspector
from flask_migrate_mongo.planning.plans import DownTarget, UpTarget
from flask_migrate_mongo.store.records import Run

from .leased_run import LeasedRun
from .options import DEFAULTS, notify

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask_migrate_mongo.model.values import History, LockState, Plan, Record, Request
    from flask_migrate_mongo.planning.plans import Target
    from flask_migrate_mongo.process import StopSwitch
    from flask_migrate_mongo.store.lease import Grant

    from .executor import Executor
    from .options import Options


@dataclass(frozen=True, slots=True)
class Runner(Inspector):
    """An inspector that also acts: migrates one database from one folder. `wait` is in seconds."""

    executor: Executor
    wait: float = 0
    app_version: str | None = None

    @property
    def switch(self) -> StopSwitch:
        """The switch that a signal throws."""
        return self.executor.switch

    def up(self, options: Options = DEFAULTS, *, allow_drift: bool = False) -> RunReport:
        """Apply everything pending, in ascending order; see `run`."""
        return self.run(UpTarget(allow_drift), options)

    def down(
        self, options: Options = DEFAULTS, *, steps: int = 1, allow_drift: bool = False
    ) -> RunReport:
        """Roll back the last applied migrations, in reverse order of application; see `run`."""
        return self.run(DownTarget(steps, allow_drift), options)

    def run(self, target: Target, options: Options = DEFAULTS) -> RunReport:
        """Plan a target under the lease, and run the plan.

        Raises LockHeldError, and what refuses the plan, before anything runs. What happens later is
        in the report. If nothing is to do, no lock is taken.
        """
        seen = self.look(target)
        plan = self.plan_of(target, seen)
        # Only a holder of the lock can know whether a record that says `running` belongs to a dead run.
        if not (plan.steps or seen.history.running):
            return RunReport(plan.direction, (), executed=False, warnings=plan.warnings)
        actor = self._actor(target.direction.value, options.run_id)
        wait = self.wait if options.wait is None else options.wait
        with (
            self.executor.switch.installed(),
            self.lease.hold(actor, wait=wait) as grant,
        ):
            history, run = self._settle(grant)
            if history != seen.history:
                seen = self.look(target, history)
                plan = self.plan_of(target, seen)
            functions = self.load(plan)
            notify(options.observer.planned, plan)
            leased = LeasedRun(self.executor, self.history, grant, run, options)
            return leased.execute(plan, functions)

    def load(self, plan: Plan) -> dict[int, Callable[..., object]]:
        """Import the files of all steps before the first one runs.

        Raises SourceError, ImportFailedError or UnsupportedDriverError.
        """
        if any(step.file.transactional for step in plan.steps):
            self.executor.check()
        return {step.version: load(step) for step in plan.steps}

    def force_unlock(self, *, confirmed: bool) -> LockState | None:
        """Release the lock of any holder, and report what it was. Raises NotConfirmedError."""
        actor = self._actor("force-unlock")
        released = self.lease.force_release(actor, confirmed=confirmed)
        if released is not None:
            self.history.disown(released.run_id, actor, self.server.now())
        return released

    def request(self, request: Request, *, run_id: str | None = None) -> Record:
        """Request a running backfill to pause, resume or cancel; of any run, or of this one.

        It takes effect after the current batch. Raises NoRunError.
        """
        held = self.lease.inspect()
        if held is None or not held.is_live or run_id not in (None, held.run_id):
            raise NoRunError
        actor = self._actor(request.value)
        return self.history.request(held.run_id, request, actor, held.seen_at)

    def resolve(self, version: int, *, applied: bool, reason: str) -> Record:
        """Set by hand whether a migration is applied; the reason goes into its event log.

        Raises InvalidRequestError without a reason, NotResolvableError without a record, and
        LockHeldError during a run.
        """
        if not reason.strip():
            msg = "The reason is empty. Nothing was changed."
            raise InvalidRequestError(msg, "Say how you know: [reason=TEXT].")
        with self.lease.hold(self._actor("resolve"), wait=self.wait) as grant:
            history, run = self._settle(grant)
            record = history.by_version.get(version)
            settled = {Status.COMPLETED} if applied else {Status.PENDING, Status.ROLLED_BACK}
            if record is None or record.status in settled:
                raise _not_resolvable(version, record)
            self.history.resolve(record, run, applied=applied, reason=reason, at=grant.now())
        return self.history.load().by_version[version]

    def _settle(self, grant: Grant) -> tuple[History, Run]:
        """Read the history under the lease, and mark what crashed runs left running."""
        self.history.prepare()
        # Read again: another run may have finished while we waited for the lease.
        history = self.history.load()
        if history.fence >= grant.fence:
            grant.raise_fence(above=history.fence)
        run = Run(grant.actor, fence=grant.fence, batch=history.next_batch)
        for dead in history.running:
            self.history.mark_interrupted(dead, run, grant.now())
        return (self.history.load() if history.running else history), run

    def _actor(self, reason: str, run_id: str | None = None) -> Actor:
        return Actor.current(reason, app_version=self.app_version, run_id=run_id)


def _not_resolvable(version: int, record: Record | None) -> NotResolvableError:
    if record is None:
        msg = f"The history has no record of {version}. Nothing was changed."
        return NotResolvableError(msg, "See the versions: [status].")
    state = "applied" if record.is_applied else "not applied"
    msg = f"{version} ({record.name}) is recorded as {state} already. Nothing was changed."
    return NotResolvableError(msg)
