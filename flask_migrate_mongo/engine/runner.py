"""The one runner behind every door: takes the lease, plans, runs, records, releases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from flask_migrate_mongo.model.errors import (
    InvalidRequestError,
    NoRunError,
    NotResolvableError,
    RunStoppedError,
    UnknownVersionError,
)
from flask_migrate_mongo.model.masking import NOTHING_MASKED
from flask_migrate_mongo.model.values import Actor, Direction, History, Status, StatusReport
from flask_migrate_mongo.planning import plans as planning
from flask_migrate_mongo.process.signals import Stopped
from flask_migrate_mongo.store.records import Run, dues

from .options import DEFAULTS, tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask_migrate_mongo.driver.server import Server
    from flask_migrate_mongo.files.source import Discovery, Folder
    from flask_migrate_mongo.model.masking import Mask
    from flask_migrate_mongo.model.reports import Outcome, RunReport
    from flask_migrate_mongo.model.values import (
        Event,
        LockState,
        MigrationFile,
        Plan,
        Record,
        Request,
    )
    from flask_migrate_mongo.process.signals import StopSwitch
    from flask_migrate_mongo.store.history import MigrationHistory
    from flask_migrate_mongo.store.lease import Grant, Lease

    from .executor import Executor
    from .options import Options

    Decide = Callable[[tuple[MigrationFile, ...], History], Plan]
    Functions = dict[int, Callable[..., object]]


@dataclass(frozen=True, slots=True)
class Runner:
    """Migrates one database from one folder.

    `executor` makes what calls the migrations, which is needed to run them and not to look.
    """

    folder: Folder
    server: Server
    history: MigrationHistory
    lease: Lease
    executor: Callable[[], Executor]
    switch: StopSwitch
    policy: planning.Policy
    wait: float = 0
    mask: Mask = NOTHING_MASKED
    app_version: str | None = None

    # --- looking: no lock, no writes, no migration code

    def status(self) -> StatusReport:
        """Return what is applied, pending, failed and running, and who holds the lock."""
        found = self.folder.discover()
        history, lock = self._look()
        return StatusReport(planning.survey(found.files, history), lock, found.ignored)

    def plan(self) -> tuple[Plan, StatusReport]:
        """Return what `up` would run, and what the status is. Raises what would refuse the plan."""
        found = self.folder.discover()
        history, lock = self._look()
        plan = self._decide(self._up_plan, found.files, history)
        return plan, StatusReport(planning.survey(found.files, history), lock, found.ignored)

    def _up_plan(
        self, files: tuple[MigrationFile, ...], history: History, *, allow_drift: bool = False
    ) -> Plan:
        return planning.plan_up(files, history, policy=self.policy, allow_drift=allow_drift)

    def _look(self) -> tuple[History, LockState | None]:
        """Read the history and the lock."""
        return self.history.load(), self.lease.inspect()

    def records(
        self, *, limit: int = 50, skip: int = 0, status: Status | None = None
    ) -> tuple[Record, ...]:
        """Return one page of the history, those changed last first."""
        return planning.page(self.history.load().records, limit=limit, skip=skip, status=status)

    def events(self, version: int | None = None) -> tuple[Event, ...]:
        """Return the trail of one version, or of everything and the lock, oldest first.

        Raises UnknownVersionError.
        """
        trail = self.history.events(version)
        if version is not None and not trail:
            raise UnknownVersionError(str(version))
        if version is not None:
            return trail
        return tuple(sorted((*trail, *self.lease.events()), key=lambda event: event.at))

    def lock(self) -> LockState | None:
        """Return who holds the lock."""
        return self.lease.inspect()

    # --- acting

    def up(self, options: Options = DEFAULTS, *, allow_drift: bool = False) -> RunReport:
        """Apply everything pending, in ascending order.

        Raises LockHeldError, and whatever refuses the plan, before anything ran. What happens
        later is in the report.
        """
        return self._run(Direction.UP, partial(self._up_plan, allow_drift=allow_drift), options)

    def down(
        self, options: Options = DEFAULTS, *, steps: int = 1, allow_drift: bool = False
    ) -> RunReport:
        """Undo the last applied migrations, in reverse order of application. Raises like `up`."""
        decide = partial(planning.plan_down, steps=steps, allow_drift=allow_drift)
        return self._run(Direction.DOWN, decide, options)

    def force_unlock(self, *, confirmed: bool) -> LockState | None:
        """Release whoever's lock and return what it was. Raises NotConfirmedError."""
        actor = self._actor("force-unlock")
        released = self.lease.force_release(actor, confirmed=confirmed)
        if released is not None:
            self.history.disown(released.run_id, actor, self.server.now())
        return released

    def ask(self, request: Request, *, run_id: str | None = None) -> Record:
        """Ask the backfill that is running, of any run or of this one, to pause, resume or cancel.

        It is heeded after the batch in hand. Raises NoRunError.
        """
        held = self.lease.inspect()
        if held is None or not held.is_live or run_id not in (None, held.run_id):
            raise NoRunError
        return self.history.ask(held.run_id, request, self._actor(request.value), held.seen_at)

    def resolve(self, version: int, *, applied: bool, reason: str) -> Record:
        """Set by hand what is true of a migration, and say why; the reason goes into its trail.

        Raises InvalidRequestError without a reason, NotResolvableError without a record, and
        LockHeldError while a run is under way.
        """
        if not reason.strip():
            msg = "The reason is empty. Say how you know: `--reason TEXT`."
            raise InvalidRequestError(msg)
        with self.lease.hold(self._actor("resolve"), wait=self.wait) as grant:
            history, run = self._settle(grant)
            record = history.by_version.get(version)
            settled = {Status.COMPLETED} if applied else {Status.PENDING, Status.ROLLED_BACK}
            if record is None or record.status in settled:
                raise NotResolvableError(_unresolvable(version, record))
            self.history.resolve(record, run, applied=applied, reason=reason, at=grant.now())
        return self.history.load().by_version[version]

    def _run(self, direction: Direction, decide: Decide, options: Options) -> RunReport:
        found = self.folder.discover()
        history = self.history.load()
        plan = self._decide(decide, found.files, history)
        if options.dry_run:
            return self._dry_run(plan, found, options)
        # A record that says `running` may belong to a dead run, which only a holder can tell.
        if not (plan.steps or history.running):
            return _nothing_ran(plan)
        from .leased_run import LeasedRun  # noqa: PLC0415  (a look never comes here, and no lock waits for it)

        executor = self.executor()
        found = found.keeping(step.version for step in plan.steps)
        wait = self.wait if options.wait is None else options.wait
        with (
            self.switch.installed(),
            self.lease.hold(self._actor(direction.value, options.run_id), wait=wait) as grant,
        ):
            # Read again: another run may have finished while we waited for the lease.
            history, run = self._settle(grant, looked_empty=not history.records)
            plan = self._decide(decide, found.files, history)
            functions = self._load(plan, found, executor)
            tell(options.observer.planned, plan)
            steps = dues(plan, history)
            leased = LeasedRun(executor, self.history, grant, run, options, plan, steps)
            return leased.carry_out(functions)

    def _dry_run(self, plan: Plan, found: Discovery, options: Options) -> RunReport:
        """Return what the plan would do; it holds no lease, since it leaves nothing behind."""
        report = replace(_nothing_ran(plan), dry_run=True)
        if not plan.steps:
            return report
        lacking = self.server.transactions_lacking
        if lacking is not None:
            return replace(report, warnings=(_plan_only(lacking), *plan.warnings))
        return replace(
            report,
            outcomes=self._rehearse(plan, found, options),
            executed=True,
            warnings=(*plan.warnings, *_beside(self.lease.inspect())),
        )

    def _rehearse(self, plan: Plan, found: Discovery, options: Options) -> tuple[Outcome, ...]:
        from flask_migrate_mongo.dry_run.dry_run import DryRun, Listener  # noqa: PLC0415  (only a dry run needs it)

        executor, limit, samples = self.executor(), options.dry_run_limit, options.samples
        rehearsal = DryRun(executor, self.history.name, self.mask, limit, samples)
        rehearsal.check()
        functions = self._load(plan, found, executor)
        observer = options.observer
        listener = Listener(partial(tell, observer.started), partial(tell, observer.ended))
        with self.switch.installed():
            try:
                return rehearsal.carry_out(
                    plan,
                    functions,
                    listener,
                    continue_on_error=options.continue_on_error,
                )
            except (KeyboardInterrupt, Stopped) as exc:
                raise RunStoppedError(_NOTHING_LEFT) from exc

    def _decide(self, decide: Decide, files: tuple[MigrationFile, ...], history: History) -> Plan:
        plan = decide(files, history)
        return planning.check_transactions(
            plan, self.policy, lambda: self.server.transactions_lacking
        )

    def _load(self, plan: Plan, found: Discovery, executor: Executor) -> Functions:
        # All before the first runs: a file that cannot be imported must not stop a run half-way.
        if any(step.file.transactional for step in plan.steps):
            executor.check()
        return {step.version: self.folder.load(step, found) for step in plan.steps}

    def _settle(self, grant: Grant, *, looked_empty: bool = False) -> tuple[History, Run]:
        """Read the history under the lease, and put right what dead runs left in it."""
        # What this very command has made, under the lease, is still empty: that need not be read.
        made = looked_empty and self.history.prepare()
        history = History() if made else self.history.load()
        if history.fence >= grant.fence:
            grant.raise_fence(above=history.fence)
        run = Run(grant.actor, fence=grant.fence, batch=history.next_batch)
        for dead in history.running:
            if dead.session is not None:
                self.server.kill_session(dead.session)
            self.history.mark_interrupted(dead, run, grant.now())
        return (self.history.load() if history.running else history), run

    def _actor(self, reason: str, run_id: str | None = None) -> Actor:
        return Actor.current(reason, app_version=self.app_version, run_id=run_id)


def _nothing_ran(plan: Plan) -> RunReport:
    from flask_migrate_mongo.model.reports import RunReport, not_run  # noqa: PLC0415  (a look never comes here)

    steps = not_run(plan.steps)
    return RunReport(plan.direction, steps, executed=False, warnings=plan.warnings)


_NOTHING_LEFT = (
    "Stopped. The transaction of the dry run is rolled back: nothing was changed. Give it less time with "
    "`--dry-run-limit SECONDS`, or a sample of the data with `flask db-migrate rehearse`."
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


def _unresolvable(version: int, record: Record | None) -> str:
    if record is None:
        return f"Nothing is recorded of {version}. See the versions with `flask db-migrate status`."
    state = "applied" if record.is_applied else "not applied"
    return f"{version} ({record.name}) is recorded as {state} already. Nothing was changed."
