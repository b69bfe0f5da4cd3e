"""Decides what would run and in which order, from files and history as the `Inspector` reads them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from flask_migrate_mongo.driver.server import Server
from flask_migrate_mongo.files.folder import Discovery, Folder
from flask_migrate_mongo.model import errors
from flask_migrate_mongo.model.squashing import parts_of
from flask_migrate_mongo.model.values import (
    Direction,
    Entry,
    Event,
    History,
    LockState,
    MigrationFile,
    Origin,
    Plan,
    Record,
    Status,
    StatusReport,
    Step,
    Survey,
)
from flask_migrate_mongo.store.history import MigrationHistory
from flask_migrate_mongo.store.lease import Lease

from .identity import check_identity, find_version, known_names
from .squashing import adopted, replaced_by


@dataclass(frozen=True, slots=True)
class Policy:
    """What a project has decided about the cases that have more than one right answer."""

    refuse_out_of_order: bool = False
    stop_on_interrupted: bool = False
    prefer_transactions: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """What a plan leads to. By default `up` applies everything pending, and `down` rolls back the last migration.

    `to` names a version: the last one that `up` applies, the one that stays after `down`, the one to redo. `steps`
    is how many migrations run. `batch` rolls back what the last `up` applied. `redo` rolls back one migration and
    applies it again.
    """

    direction: Direction
    steps: int | None = None
    to: str | int | None = None
    batch: bool = False
    redo: bool = False
    allow_drift: bool = False

    def __post_init__(self) -> None:
        """Raise SeveralTargetsError if more than one of `to`, `steps` and `batch` is given."""
        if sum((self.to is not None, self.steps is not None, self.batch)) > 1:
            raise errors.SeveralTargetsError


EVERYTHING_PENDING = Target(Direction.UP)


def pending(files: Iterable[MigrationFile], history: History) -> tuple[MigrationFile, ...]:
    """List the files that are neither applied nor replaced by a squashed one, in ascending order of their place."""
    files = tuple(files)
    replaced = replaced_by(files, history)
    waiting = (f for f in files if f.version not in replaced and not history.is_applied(f.version))
    return tuple(sorted(waiting, key=lambda file: file.place))


def place_of(version: int, files: Iterable[MigrationFile]) -> int:
    """Find the place of a version, which is its number, unless it is that of a squashed migration."""
    return next((file.place for file in files if file.version == version), version)


def plan_up(
    files: Sequence[MigrationFile],
    history: History,
    policy: Policy,
    target: Target = EVERYTHING_PENDING,
) -> Plan:
    """Plan `up`: what is pending, in ascending order, up to the target.

    Raises what `check_identity` does, UnwrittenError, OutOfOrderError or InterruptedRefusedError where the policy refuses,
    HalfBackfilledError where a backfill would continue with a changed file, and PartlySquashedError.
    """
    check_identity(files, history)
    waiting = pending(files, history)
    if target.to is not None:
        last = place_of(find_version(target.to, known_names(files, history.kept)), files)
        waiting = tuple(file for file in waiting if file.place <= last)
    if target.steps is not None:
        waiting = waiting[: _positive(target.steps, "Apply")]
    steps = _up_steps(waiting, history, policy, target)
    return Plan(Direction.UP, steps, (*_step_warnings(steps), *_history_warnings(files, history)))


def _up_steps(
    waiting: Sequence[MigrationFile], history: History, policy: Policy, target: Target
) -> tuple[Step, ...]:
    if not target.allow_drift:
        _check_backfills(waiting, history, Direction.UP)
    steps = tuple(_up_step(file, history) for file in waiting)
    check_written(step.file for step in steps if not step.adopts)
    late = [step.version for step in steps if step.out_of_order]
    halfway = [s.version for s in steps if s.interrupted and not s.file.safe_to_repeat]
    if late and policy.refuse_out_of_order:
        raise errors.OutOfOrderError(late, history.highest_applied)
    if halfway and policy.stop_on_interrupted:
        raise errors.InterruptedRefusedError(halfway)
    return steps


def check_written(files: Iterable[MigrationFile]) -> None:
    """Raise UnwrittenError if one of these files is as `create` made it."""
    if unwritten := [file.version for file in files if not file.written]:
        raise errors.UnwrittenError(unwritten)


def plan_down(
    files: Sequence[MigrationFile], history: History, target: Target = Target(Direction.DOWN)
) -> Plan:
    """Plan `down`: the chosen applied migrations, in reverse order of application.

    A problem of any step is found before the first one runs. Raises
    InvalidRequestError, MissingFileError, NotReversibleError, DriftError or HalfBackfilledError.
    """
    by_version = {file.version: file for file in files}
    chosen = (
        _down_step(record, by_version.get(record.version), allow_drift=target.allow_drift)
        for record in to_roll_back(history, target)
    )
    plan = Plan(Direction.DOWN, tuple(chosen))
    if not target.allow_drift:
        _check_backfills((step.file for step in plan.steps), history, Direction.DOWN)
    return plan


def plan_redo(
    files: Sequence[MigrationFile], history: History, policy: Policy, target: Target
) -> Plan:
    """Plan `redo`: one migration, rolled back unless that is done already, and applied.

    Without a version the last one that is applied, or that failed. Raises as `plan_up` and `plan_down` do.
    """
    check_identity(files, history)
    if target.to is not None:
        version = find_version(target.to, known_names(files, history.kept))
    elif begun := [record for record in history.records if record.is_open]:
        version = max(begun, key=lambda record: record.order).version
    else:
        return Plan(Direction.UP, ())
    if history.is_applied(version):
        chosen = replace(target, to=str(version))
        (down,) = plan_down(files, history, chosen).steps
        return Plan(Direction.UP, (down, Step(down.file, Direction.UP, redone=True)))
    waiting = [file for file in pending(files, history) if file.version == version]
    if not waiting:
        owner = replaced_by(files, history).get(version)
        what = "has no file" if owner is None else f"is a part of the squashed migration {owner}"
        remedy = "Restore its file." if owner is None else f"Redo that one: [redo {owner}]."
        raise errors.InvalidRequestError(f"{version} {what}. Nothing was run.", remedy)
    steps = _up_steps(waiting, history, policy, target)
    return Plan(Direction.UP, steps, tuple(_step_warnings(steps)))


def to_roll_back(history: History, target: Target) -> tuple[Record, ...]:
    """Choose the applied migrations that a target rolls back, the last one first.

    Raises InvalidRequestError, TooManyStepsError, UnknownVersionError, AmbiguousVersionError.
    """
    applied = history.applied[::-1]
    if target.to is not None:
        version = find_version(target.to, known_names((), applied))
        place = next(n for n, record in enumerate(applied) if record.version == version)
        return applied[place : place + 1] if target.redo else applied[:place]
    if target.batch:
        if applied and applied[0].origin not in {Origin.RUN, Origin.SQUASHED}:
            msg = f"The last migrations were not applied by `up`: {applied[0].version} ({applied[0].name}) was recorded as {applied[0].origin.value}. Nothing was run."
            raise errors.InvalidRequestError(msg, "Say how many to roll back: [down steps=N].")
        return tuple(record for record in applied if record.batch == applied[0].batch)
    steps = _positive(1 if target.steps is None else target.steps, "Roll back")
    if applied and steps > len(applied):
        raise errors.TooManyStepsError(steps, len(applied))
    return applied[:steps]


def _positive(steps: int, verb: str) -> int:
    if steps < 1:
        msg = f"The number of steps is {steps}, but it has to be a whole number from 1. Nothing was run."
        raise errors.InvalidRequestError(msg, f"{verb} one migration: [steps=1].")
    return steps


def check_transactions(plan: Plan, policy: Policy, lacking: Callable[[], str | None]) -> Plan:
    """Add a warning to the plan if the server has no transactions and the policy only prefers them.

    `lacking` says why the server has none, or None; it is asked only when a step needs one.
    Raises TransactionsUnsupportedError.
    """
    versions = [s.version for s in plan.steps if s.file.transactional and not s.adopts]
    reason = lacking() if versions else None
    if reason is None:
        return plan
    if not policy.prefer_transactions:
        raise errors.TransactionsUnsupportedError(versions, reason)
    half = [
        s for s in plan.steps if s.file.transactional and s.interrupted and not s.file.idempotent
    ]
    if half and policy.stop_on_interrupted:
        raise errors.InterruptedRefusedError([step.version for step in half])
    note = f"Run without a transaction, since this server has none ({reason}): {', '.join(map(str, versions))}."
    return replace(plan, warnings=(*plan.warnings, note, *map(_half_done, half)))


def survey(
    files: Sequence[MigrationFile], history: History, broken: Collection[int] = ()
) -> Survey:
    """Sort the versions that have a file or a record by their state; the files of the broken ones cannot be used."""
    known = {file.version: file for file in files}
    replaced = replaced_by(files, history)
    entries = [_entry(file, history) for file in files if file.version not in replaced]
    entries += [
        Entry(
            r.version,
            known.get(r.version),
            r,
            replaced_by=replaced.get(r.version),
            broken=r.version in broken,
        )
        for r in history.records
        if r.is_open and (r.version not in known or r.version in replaced)
    ]
    by_status: defaultdict[Status, list[Entry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: entry.version):
        by_status[entry.status].append(entry)
    order = {record.version: place for place, record in enumerate(history.applied)}
    by_status[Status.COMPLETED].sort(key=lambda entry: order[entry.version])
    shown = (Status.COMPLETED, Status.PENDING, Status.FAILED, Status.RUNNING)
    return Survey(*(tuple(by_status[status]) for status in shown))


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
        begun_by = None if record is None else record.backfilled_by
        if begun_by not in (None, file.digest, file.checksum):
            raise errors.HalfBackfilledError(file.version, direction.value)


def _up_step(file: MigrationFile, history: History) -> Step:
    record = history.by_version.get(file.version)
    adopts = adopted(file, history)
    return Step(
        file,
        Direction.UP,
        out_of_order=file.place < history.highest_applied and not adopts,
        # A backfill resumes where it was. What stands around it runs again, as its documentation says.
        interrupted=record is not None and record.interrupted and not record.backfilled_by,
        adopts=adopts,
    )


def _down_step(record: Record, file: MigrationFile | None, *, allow_drift: bool) -> Step:
    if file is None:
        raise errors.MissingFileError(record.version, record.name)
    if record.is_of_another(file):
        raise errors.NumberTakenError(record, file)
    if not file.reversible:
        raise errors.NotReversibleError(file.version, file.name, file.path)
    if not (record.is_unchanged(file) or allow_drift):
        raise errors.DriftError(file.version, file.name, file.path)
    return Step(file, Direction.DOWN)


def _step_warnings(steps: Iterable[Step]) -> Iterable[str]:
    for step in steps:
        if step.out_of_order:
            yield f"{step.version} ({step.file.name}) is out of order: higher ones are applied."
        if step.interrupted and not step.file.safe_to_repeat:
            yield _half_done(step)


def _half_done(step: Step) -> str:
    lacking = "was without a transaction and is not idempotent"
    if not step.file.transactional:
        lacking = "is neither transactional nor idempotent"
    return f"{step.version} ({step.file.name}) was interrupted half-way and {lacking}: it runs again from its start."


def _history_warnings(files: Iterable[MigrationFile], history: History) -> Iterable[str]:
    by_version = {file.version: file for file in files}
    replaced = replaced_by(files, history)
    for record in history.applied:
        if record.version in replaced:
            continue
        file = by_version.get(record.version)
        if file is None:
            yield f"{record.version} ({record.name}) is applied, but its file is missing."
        elif not record.is_unchanged(file):
            yield f"{record.version} ({record.name}) has changed since it was applied; it is not run again."


def _entry(file: MigrationFile, history: History) -> Entry:
    record = history.by_version.get(file.version)
    if record is not None and record.is_applied:
        return Entry(file.version, file, record, drifted=not record.is_unchanged(file))
    # A squashed migration whose parts are applied comes late by its nature.
    out_of_order = file.place < history.highest_applied and not parts_of(file, history.applied)
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

    def status(self, state: ProjectState | None = None) -> StatusReport:
        """Report what is applied, pending, failed and running, and who holds the lock. Without a state, read it first."""
        return self._report(self.look() if state is None else state)

    def plan(self, target: Target = EVERYTHING_PENDING) -> tuple[Plan, StatusReport]:
        """Plan a target, and report the status. Raises what would refuse the plan."""
        state = self.look(target)
        return self.plan_of(target, state), self._report(state)

    def look(
        self, target: Target = EVERYTHING_PENDING, history: History | None = None
    ) -> ProjectState:
        """Read the history, unless it is given, and then the files.

        An applied or replaced file that has not changed is not parsed, unless the target would roll it back, or redoes one.
        """
        history = self.history.load() if history is None else history
        known = (r for r in history.records if r.is_applied or r.version in history.replaced)
        trusted = {record.version: record for record in known}
        if target.redo:
            trusted = {}
        elif target.direction is Direction.DOWN:
            for record in to_roll_back(history, target):
                del trusted[record.version]
        return ProjectState(self.folder.discover(trusted), history)

    def plan_of(self, target: Target, state: ProjectState) -> Plan:
        """Plan a target from what was read. Raises what refuses the plan."""
        files, history = state.found.usable(), state.history
        if target.redo:
            plan = plan_redo(files, history, self.policy, target)
        elif target.direction is Direction.UP:
            plan = plan_up(files, history, self.policy, target)
        else:
            plan = plan_down(files, history, target)
        if not state.found.has_folder:
            note = errors.NoFolderError(self.folder.path).message
            plan = replace(plan, warnings=(*plan.warnings, note))
        return check_transactions(plan, self.policy, lambda: self.server.transactions_lacking)

    def records(
        self, *, limit: int = 50, skip: int = 0, status: Status | None = None
    ) -> tuple[Record, ...]:
        """Read one page of the history, the last change first. Raises InvalidRequestError."""
        kept = (record for record in self.history.load().records if not record.forgotten)
        return page(kept, limit=limit, skip=skip, status=status)

    def events(self, name: str | int | None = None) -> tuple[Event, ...]:
        """Read the event log of a recorded version, or of everything and the lock, the oldest first.

        Raises UnknownVersionError or AmbiguousVersionError.
        """
        if name is None:
            events = (*self.history.events(), *self.lease.events())
            return tuple(sorted(events, key=lambda event: event.at))
        return self.history.events(find_version(name, known_names((), self.history.load().records)))

    def lock(self) -> LockState | None:
        """Read who holds the lock."""
        return self.lease.inspect()

    def _report(self, state: ProjectState) -> StatusReport:
        files, history, found = state.found.files, state.history, state.found
        check_identity(files, history, found.broken)
        missing = () if found.has_folder else (errors.NoFolderError(self.folder.path),)
        problems = (*missing, *found.problems)
        return StatusReport(
            survey(files, history, found.broken),
            self.lease.inspect(),
            found.ignored,
            problems,
            database=self.server.location,
        )
