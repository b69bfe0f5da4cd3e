"""Decides what would run and in which order, from files and history as the `Inspector` reads them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from flask_migrate_mongo.driver.server import Server
from flask_migrate_mongo.files.folder import Discovery, Folder
from flask_migrate_mongo.model import errors
from flask_migrate_mongo.model.values import (
    Direction,
    Entry,
    Event,
    History,
    LockState,
    MigrationFile,
    Plan,
    Record,
    Status,
    StatusReport,
    Step,
    Survey,
)
from flask_migrate_mongo.store.history import MigrationHistory
from flask_migrate_mongo.store.lease import Lease

_UNDONE = frozenset({Status.PENDING, Status.ROLLED_BACK})


@dataclass(frozen=True, slots=True)
class Policy:
    """What a project has decided about the cases that have more than one right answer."""

    refuse_out_of_order: bool = False
    stop_on_interrupted: bool = False
    prefer_transactions: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """What a plan leads to: everything pending applied, or the last `steps` migrations rolled back."""

    direction: Direction
    steps: int = 1
    allow_drift: bool = False


EVERYTHING_PENDING = Target(Direction.UP)


def pending(files: Iterable[MigrationFile], history: History) -> tuple[MigrationFile, ...]:
    """List the files that are not applied, in ascending order of their version."""
    waiting = (file for file in files if not history.is_applied(file.version))
    return tuple(sorted(waiting, key=lambda file: file.version))


def plan_up(
    files: Sequence[MigrationFile], history: History, policy: Policy, *, allow_drift: bool = False
) -> Plan:
    """Plan `up`: everything pending, in ascending order.

    Raises OutOfOrderError or InterruptedRefusedError where the policy refuses, and
    HalfBackfilledError where a backfill would continue with a changed file.
    """
    waiting = pending(files, history)
    if not allow_drift:
        _check_backfills(waiting, history, Direction.UP)
    steps = tuple(_up_step(file, history) for file in waiting)
    late = [step.version for step in steps if step.out_of_order]
    halfway = [s.version for s in steps if s.interrupted and not s.file.safe_to_repeat]
    if late and policy.refuse_out_of_order:
        raise errors.OutOfOrderError(late, history.highest_applied)
    if halfway and policy.stop_on_interrupted:
        raise errors.InterruptedRefusedError(halfway)
    return Plan(Direction.UP, steps, (*_step_warnings(steps), *_history_warnings(files, history)))


def plan_down(
    files: Sequence[MigrationFile], history: History, *, steps: int, allow_drift: bool = False
) -> Plan:
    """Plan `down`: the last applied migrations, in reverse order of application.

    A problem of any step is found before the first one runs. Raises
    InvalidRequestError, MissingFileError, NotReversibleError, DriftError or HalfBackfilledError.
    """
    if steps < 1:
        msg = f"The number of steps is {steps}, but it has to be a whole number from 1. Nothing was rolled back."
        raise errors.InvalidRequestError(msg, "Roll back one migration: [steps=1].")
    applied = history.applied
    if not applied:
        return Plan(Direction.DOWN, ())
    if steps > len(applied):
        raise errors.TooManyStepsError(steps, len(applied))
    by_version = {file.version: file for file in files}
    chosen = (
        _down_step(record, by_version.get(record.version), allow_drift=allow_drift)
        for record in reversed(applied[-steps:])
    )
    plan = Plan(Direction.DOWN, tuple(chosen))
    if not allow_drift:
        _check_backfills((step.file for step in plan.steps), history, Direction.DOWN)
    return plan


def check_transactions(plan: Plan, policy: Policy, lacking: Callable[[], str | None]) -> Plan:
    """Add a warning to the plan if the server has no transactions and the policy only prefers them.

    `lacking` says why the server has none, or None; it is asked only when a step needs one.
    Raises TransactionsUnsupportedError.
    """
    versions = [step.version for step in plan.steps if step.file.transactional]
    reason = lacking() if versions else None
    if reason is None:
        return plan
    if not policy.prefer_transactions:
        raise errors.TransactionsUnsupportedError(versions, reason)
    note = f"Run without a transaction, since this server has none ({reason}): {', '.join(map(str, versions))}."
    return replace(plan, warnings=(*plan.warnings, note))


def survey(files: Sequence[MigrationFile], history: History) -> Survey:
    """Sort the versions that have a file or a record by their state."""
    known = {file.version for file in files}
    entries = [_entry(file, history) for file in files]
    gone = (r for r in history.records if r.version not in known and r.status not in _UNDONE)
    entries += [Entry(record.version, None, record) for record in gone]
    by_status: defaultdict[Status, list[Entry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: entry.version):
        status = entry.record.status if entry.record else Status.PENDING
        by_status[Status.PENDING if status in _UNDONE else status].append(entry)
    order = {record.version: place for place, record in enumerate(history.applied)}
    by_status[Status.COMPLETED].sort(key=lambda entry: order[entry.version])
    return Survey(
        applied=tuple(by_status[Status.COMPLETED]),
        pending=tuple(by_status[Status.PENDING]),
        failed=tuple(by_status[Status.FAILED]),
        running=tuple(by_status[Status.RUNNING]),
    )


def page(
    records: Iterable[Record], *, limit: int, skip: int, status: Status | None
) -> tuple[Record, ...]:
    """Select one page of the records, those changed last first. Raises InvalidRequestError."""
    if limit < 1 or skip < 0:
        msg = f"limit is {limit} and skip is {skip}, but limit starts at 1 and skip at 0."
        raise errors.InvalidRequestError(msg, "Show the newest records: [limit=50 skip=0].")
    wanted = [record for record in records if status is None or record.status is status]
    wanted.sort(key=lambda r: (r.updated_at.timestamp() if r.updated_at else 0.0, r.order))
    wanted.reverse()
    return tuple(wanted[skip : skip + limit])


def _check_backfills(
    files: Iterable[MigrationFile], history: History, direction: Direction
) -> None:
    for file in files:
        record = history.by_version.get(file.version)
        if record is not None and record.backfilled_by not in (None, file.checksum):
            raise errors.HalfBackfilledError(file.version, direction.value)


def _up_step(file: MigrationFile, history: History) -> Step:
    record = history.by_version.get(file.version)
    return Step(
        file,
        Direction.UP,
        out_of_order=file.version < history.highest_applied,
        # A backfill resumes where it was: nothing of it is repeated.
        interrupted=record is not None and record.interrupted and not record.backfilled_by,
    )


def _down_step(record: Record, file: MigrationFile | None, *, allow_drift: bool) -> Step:
    if file is None:
        raise errors.MissingFileError(record.version, record.name)
    if not file.reversible:
        raise errors.NotReversibleError(file.version, file.name, file.path)
    if _drifted(file, record) and not allow_drift:
        raise errors.DriftError(file.version, file.name, file.path)
    return Step(file, Direction.DOWN)


def _step_warnings(steps: Iterable[Step]) -> Iterable[str]:
    for step in steps:
        if step.out_of_order:
            yield f"{step.version} ({step.file.name}) is out of order: higher ones are applied."
        if step.interrupted and not step.file.safe_to_repeat:
            yield f"{step.version} ({step.file.name}) was interrupted half-way and is neither transactional nor idempotent: it runs again from its start."


def _history_warnings(files: Iterable[MigrationFile], history: History) -> Iterable[str]:
    by_version = {file.version: file for file in files}
    for record in history.applied:
        file = by_version.get(record.version)
        if file is None:
            yield f"{record.version} ({record.name}) is applied, but its file is missing."
        elif _drifted(file, record):
            yield f"{record.version} ({record.name}) has changed since it was applied; it is not run again."


def _drifted(file: MigrationFile, record: Record) -> bool:
    # Records written by another tool have no checksum: nothing is known of those.
    return record.checksum is not None and record.checksum != file.checksum


def _entry(file: MigrationFile, history: History) -> Entry:
    record = history.by_version.get(file.version)
    if record is not None and record.is_applied:
        return Entry(file.version, file, record, drifted=_drifted(file, record))
    out_of_order = file.version < history.highest_applied
    return Entry(file.version, file, record, out_of_order=out_of_order)


@dataclass(frozen=True, slots=True)
class ProjectState:
    """The files and the history of a project, as they were read."""

    found: Discovery
    history: History


@dataclass(frozen=True, slots=True)
class Inspector:
    """Finds applied and pending migrations and the holder of the lock, for one folder and one database."""

    folder: Folder
    server: Server
    history: MigrationHistory
    lease: Lease
    policy: Policy

    def status(self) -> StatusReport:
        """Report what is applied, pending, failed and running, and who holds the lock."""
        return self._report(self.look())

    def plan(self, target: Target = EVERYTHING_PENDING) -> tuple[Plan, StatusReport]:
        """Plan a target, and report the status. Raises what would refuse the plan."""
        state = self.look(target)
        return self.plan_of(target, state), self._report(state)

    def look(
        self, target: Target = EVERYTHING_PENDING, history: History | None = None
    ) -> ProjectState:
        """Read the history, unless it is given, and then the files.

        An applied file that has not changed is not parsed, unless the target would roll it back.
        """
        history = self.history.load() if history is None else history
        to_roll_back = target.steps if target.direction is Direction.DOWN else 0
        kept = history.applied[: max(0, len(history.applied) - to_roll_back)]
        return ProjectState(self.folder.discover({r.version: r for r in kept}), history)

    def plan_of(self, target: Target, state: ProjectState) -> Plan:
        """Plan a target from what was read. Raises what refuses the plan."""
        files, history, drift = state.found.files, state.history, target.allow_drift
        if target.direction is Direction.UP:
            plan = plan_up(files, history, self.policy, allow_drift=drift)
        else:
            plan = plan_down(files, history, steps=target.steps, allow_drift=drift)
        return check_transactions(plan, self.policy, lambda: self.server.transactions_lacking)

    def records(
        self, *, limit: int = 50, skip: int = 0, status: Status | None = None
    ) -> tuple[Record, ...]:
        """Read one page of the history, the last change first. Raises InvalidRequestError."""
        return page(self.history.load().records, limit=limit, skip=skip, status=status)

    def events(self, version: int | None = None) -> tuple[Event, ...]:
        """Read the event log of one version, or of everything and the lock, the oldest first.

        Raises UnknownVersionError.
        """
        events = self.history.events(version)
        if version is None:
            return tuple(sorted((*events, *self.lease.events()), key=lambda event: event.at))
        if not events:
            raise errors.UnknownVersionError(str(version))
        return events

    def lock(self) -> LockState | None:
        """Read who holds the lock."""
        return self.lease.inspect()

    def _report(self, state: ProjectState) -> StatusReport:
        found = survey(state.found.files, state.history)
        return StatusReport(found, self.lease.inspect(), state.found.ignored)
