"""The one runner behind every door: takes the lease, plans, runs, records, releases."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from . import planning, records
from .errors import (
    ConnectionFailedError,
    InvalidRequestError,
    LeaseLostError,
    MigrateError,
    NoRunError,
    NotResolvableError,
    OutcomeNotRecordedError,
    OutcomeUnknownError,
    RunStoppedError,
    UnknownVersionError,
    capture,
)
from .limits import DRY_RUN_SECONDS, SAMPLES
from .masking import NOTHING_MASKED
from .model import (
    Actor,
    Direction,
    History,
    Outcome,
    RunReport,
    Status,
    StatusReport,
    StepState,
    not_run,
)
from .records import Run
from .server import Server, elapsed
from .stopping import Stopped, StopSwitch, stopped

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from pymongo.client_session import ClientSession

    from .execution import Executor
    from .history import Claim, MigrationHistory
    from .lease import Grant, Lease
    from .masking import Mask
    from .model import (
        Event,
        LockState,
        MigrationFile,
        Plan,
        Progress,
        Record,
        Request,
        Step,
    )
    from .records import Change, Due
    from .source import Discovery, Folder

    Decide = Callable[[tuple[MigrationFile, ...], History], Plan]
    Functions = dict[int, Callable[..., object]]

START_SECONDS = 30
"""How long recording the start of a step is tried: nothing has run yet that could be lost."""

RETRY_PAUSE = 0.25

_T = TypeVar("_T")

_log = logging.getLogger("flask_migrate_mongo.runner")


class Observer:
    """Hears of a run while it happens; a door overrides what it wants to show."""

    def planned(self, plan: Plan) -> None:
        """Hear of the plan as it was made under the lease, before its first step starts."""

    def started(self, step: Step) -> None:
        """Hear of a step whose function is about to be called."""

    def progressed(self, step: Step, progress: Progress) -> None:
        """Hear of a batch of the step's backfill that was committed."""

    def ended(self, outcome: Outcome) -> None:
        """Hear of a step that ended, whether its outcome could be recorded or not."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a run goes about its plan; `wait` is in seconds, None stands for the setting.

    `run_id` is given when the run was announced under that name before it began. A `dry_run` lasts at most
    `dry_run_limit` seconds, and shows so many `samples` of each step's documents.
    """

    wait: float | None = None
    run_id: str | None = None
    continue_on_error: bool = False
    dry_run: bool = False
    dry_run_limit: float = DRY_RUN_SECONDS
    samples: int = SAMPLES
    observer: Observer = field(default_factory=Observer)


DEFAULTS = Options()


@dataclass(frozen=True, slots=True)
class Runner:
    """Migrates one database from one folder."""

    folder: Folder
    server: Server
    history: MigrationHistory
    lease: Lease
    executor: Executor
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
        """Read the history and the lock, on a real server in one command."""
        if not self.server.is_real:
            return self.history.load(), self.lease.inspect()
        history, seen = self.history.load_with(self.lease.sighting)
        return history, self.lease.state(seen)

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
            return RunReport(direction, (), executed=False, warnings=plan.warnings)
        found = found.keeping(step.version for step in plan.steps)
        wait = self.wait if options.wait is None else options.wait
        with (
            self.switch.installed(),
            self.lease.hold(self._actor(direction.value, options.run_id), wait=wait) as grant,
        ):
            # Read again: another run may have finished while we waited for the lease.
            history, run = self._settle(grant, looked_empty=not history.records)
            plan = self._decide(decide, found.files, history)
            functions = self._load(plan, found)
            dues = records.dues(plan, history)
            _tell(options.observer.planned, plan)
            return _Execution(self, grant, run, options, plan, dues).carry_out(functions)

    def _dry_run(self, plan: Plan, found: Discovery, options: Options) -> RunReport:
        """Return what the plan would do; it holds no lease, since it leaves nothing behind."""
        report = RunReport(
            plan.direction,
            not_run(plan.steps),
            executed=False,
            warnings=plan.warnings,
            dry_run=True,
        )
        if not plan.steps:
            return report
        lacking = self.server.transactions_lacking
        if lacking is not None:
            return report._replace(warnings=(_plan_only(lacking), *plan.warnings))
        return report._replace(
            outcomes=self._rehearse(plan, found, options),
            executed=True,
            warnings=(*plan.warnings, *_beside(self.lease.inspect())),
        )

    def _rehearse(self, plan: Plan, found: Discovery, options: Options) -> tuple[Outcome, ...]:
        from .dryrun import DryRun, Listener  # noqa: PLC0415  (only a dry run needs it)

        limit, samples = options.dry_run_limit, options.samples
        rehearsal = DryRun(self.executor, self.history.name, self.mask, limit, samples)
        rehearsal.check()
        functions = self._load(plan, found)
        observer = options.observer
        listener = Listener(partial(_tell, observer.started), partial(_tell, observer.ended))
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

    def _load(self, plan: Plan, found: Discovery) -> Functions:
        # All before the first runs: a file that cannot be imported must not stop a run half-way.
        if any(step.file.transactional for step in plan.steps):
            self.executor.check()
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


@dataclass(slots=True)
class _Execution:
    """A plan being carried out under a lease.

    `announced` is the step whose start was recorded together with the success of the one before.
    """

    runner: Runner
    grant: Grant
    run: Run
    options: Options
    plan: Plan
    dues: tuple[Due, ...]
    announced: Due | None = None

    def carry_out(self, functions: Functions) -> RunReport:
        plan = self.plan
        outcomes: list[Outcome] = []
        error: MigrateError | None = None
        for position, step in enumerate(plan.steps):
            outcome, error = self._step(self.dues[position], functions[step.version])
            outcomes.append(outcome)
            _tell(self.options.observer.ended, outcome)
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
        with self.runner.executor.session_for(step) as session:
            try:
                self.runner.switch.check()
                self._record_start(due, session)
            except MigrateError as exc:
                self._withdraw()
                return Outcome(step, StepState.NOT_RUN), exc
            _tell(self.options.observer.started, step)
            return self._carry_out(due, function, session)

    def _carry_out(
        self, due: Due, function: Callable[..., object], session: ClientSession | None
    ) -> tuple[Outcome, MigrateError | None]:
        step, ledger = due.step, _StepLedger(self, due)
        try:
            self.runner.executor.run(step, function, ledger, self.grant, session)
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
        give_up, at = elapsed() + START_SECONDS, self.grant.now()
        if due.position == 0:
            self.persist(partial(self._claim, session=session, at=at), give_up=give_up)
        else:
            start = partial(self.runner.history.mark_running, due, self.run, session=session, at=at)
            self.persist(start, give_up=give_up)
        # Recording can take long: what has expired meanwhile must not start.
        self.grant.ensure()

    def _claim(self, *, at: datetime, session: ClientSession | None) -> None:
        if not self.runner.history.claim(self.dues, self.run, at=at, session=session):
            self.dues = tuple(due._replace(is_fresh=False) for due in self.dues)

    def record_done(self, due: Due, done: Change) -> None:
        """Record the success of a plain step, together with the start of the next where one command can."""
        history, following = self.runner.history, self._following(due)
        if following is None:
            self.persist(partial(history.mark_done, due.step, self.run, done))
        else:
            both = partial(history.hand_over, due.step, self.run, done, following)
            self.announced = following if self.persist(both) else None

    def _following(self, due: Due) -> Due | None:
        """Return the next step if it may be said to start in the command that ends this one."""
        if due.position + 1 == len(self.dues) or self.runner.switch.is_thrown:
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
            self.runner.history.withdraw(self.announced, self.run, at=self.grant.now())
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
            failed = partial(
                self.runner.history.mark_failed,
                step,
                self.run,
                outcome.error,
                took_ms=took_ms,
                at=self.grant.now(),
            )
            self.persist(failed)
            self.runner.switch.check()
        except MigrateError as exc:
            # The step's own failure stays in the outcome; this one only ends the run.
            ends_run = exc
        if ends_run is None and isinstance(cause, KeyboardInterrupt | Stopped):
            ends_run = stopped("KeyboardInterrupt")
        return outcome, ends_run

    def persist(self, action: Callable[[], _T], *, give_up: float | None = None) -> _T:
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
                self.runner.executor.sleep(RETRY_PAUSE)


class _StepLedger:
    """Records one step's success, and knows how long its function took, in milliseconds."""

    def __init__(self, execution: _Execution, due: Due) -> None:
        self._execution = execution
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
        execution = self._execution
        execution.grant.ensure()
        done = records.done(
            self._step,
            execution.run,
            took_ms=self.took_ms,
            at=execution.grant.now(),
            backfilled=self._backfilled,
        )
        if session is None:
            execution.record_done(self._due, done)
        else:
            # Not tried again: a failure ends this attempt of the transaction.
            execution.runner.history.mark_done(self._step, execution.run, done, session)

    def claimed(self) -> Claim:
        self._backfilled = True
        return self._execution.runner.history.claimed(self._step, self._execution.run)

    def progressed(self, progress: Progress) -> None:
        _tell(partial(self._execution.options.observer.progressed, self._step), progress)

    def stands(self) -> bool:
        return self._execution.runner.history.stands(self._step, self._execution.run)


def _tell(hear: Callable[[_T], None], what: _T) -> None:
    # A door that cannot show it, a closed pipe say, must not end the run half-way.
    try:
        hear(what)
    except (Exception, SystemExit):  # noqa: BLE001  (whatever an observer raises)
        _log.debug("The observer failed", exc_info=True)


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


def _unresolvable(version: int, record: Record | None) -> str:
    if record is None:
        return f"Nothing is recorded of {version}. See the versions with `flask db-migrate status`."
    state = "applied" if record.is_applied else "not applied"
    return f"{version} ({record.name}) is recorded as {state} already. Nothing was changed."
