"""Decides, from files, history and request alone, what would run and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from flask_migrate_mongo.model.errors import (
    DriftError,
    HalfBackfilledError,
    InterruptedRefusedError,
    InvalidRequestError,
    MissingFileError,
    NotReversibleError,
    OutOfOrderError,
    TooManyStepsError,
    TransactionsUnsupportedError,
)
from flask_migrate_mongo.model.values import (
    Direction,
    Entry,
    MigrationFile,
    Plan,
    Record,
    Status,
    Step,
    Survey,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from flask_migrate_mongo.model.values import History

_UNDONE = frozenset({Status.PENDING, Status.ROLLED_BACK})


@dataclass(frozen=True, slots=True)
class Policy:
    """What a project has decided about the cases that have more than one right answer."""

    refuse_out_of_order: bool = False
    stop_on_interrupted: bool = False
    prefer_transactions: bool = False


@dataclass(frozen=True, slots=True)
class UpTarget:
    """The target of `up`: everything pending is applied."""

    allow_drift: bool = False

    @property
    def direction(self) -> Direction:
        """The direction of its steps."""
        return Direction.UP

    def plan(self, files: Sequence[MigrationFile], history: History, policy: Policy) -> Plan:
        """Plan it; see `plan_up`."""
        return plan_up(files, history, policy=policy, allow_drift=self.allow_drift)


@dataclass(frozen=True, slots=True)
class DownTarget:
    """The target of `down`: the last `steps` applied migrations are rolled back."""

    steps: int = 1
    allow_drift: bool = False

    @property
    def direction(self) -> Direction:
        """The direction of its steps."""
        return Direction.DOWN

    def plan(self, files: Sequence[MigrationFile], history: History, policy: Policy) -> Plan:  # noqa: ARG002
        """Plan it; see `plan_down`."""
        return plan_down(files, history, steps=self.steps, allow_drift=self.allow_drift)


Target: TypeAlias = UpTarget | DownTarget

EVERYTHING_PENDING = UpTarget()


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
        raise OutOfOrderError(late, history.highest_applied)
    if halfway and policy.stop_on_interrupted:
        raise InterruptedRefusedError(halfway)
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
        raise InvalidRequestError(msg, "Roll back one migration: [steps=1].")
    applied = history.applied
    if not applied:
        return Plan(Direction.DOWN, ())
    if steps > len(applied):
        raise TooManyStepsError(steps, len(applied))
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
        raise TransactionsUnsupportedError(versions, reason)
    listed = ", ".join(map(str, versions))
    note = f"Run without a transaction, since this server has none ({reason}): {listed}."
    return Plan(plan.direction, plan.steps, (*plan.warnings, note))


def survey(files: Sequence[MigrationFile], history: History) -> Survey:
    """Sort the versions that have a file or a record by their state."""
    entries = [_entry(file, history) for file in files]
    known = {file.version for file in files}
    entries += [
        Entry(record.version, None, record)
        for record in history.records
        if record.version not in known and record.status not in _UNDONE
    ]
    order = {record.version: place for place, record in enumerate(history.applied)}
    return Survey(
        applied=_pick(entries, _applied_now, lambda entry: order[entry.version]),
        pending=_pick(entries, _pending_now),
        failed=_pick(entries, lambda entry: _has_status(entry, Status.FAILED)),
        running=_pick(entries, lambda entry: _has_status(entry, Status.RUNNING)),
    )


def page(
    records: Iterable[Record], *, limit: int, skip: int, status: Status | None
) -> tuple[Record, ...]:
    """Select one page of the records, those changed last first. Raises InvalidRequestError."""
    if limit < 1 or skip < 0:
        msg = f"limit is {limit} and skip is {skip}, but limit starts at 1 and skip at 0."
        raise InvalidRequestError(msg, "Show the newest records: [limit=50 skip=0].")
    wanted = [record for record in records if status is None or record.status is status]
    wanted.sort(key=_last_change, reverse=True)
    return tuple(wanted[skip : skip + limit])


def _last_change(record: Record) -> tuple[float, tuple[int, int, float, int]]:
    changed = record.updated_at.timestamp() if record.updated_at else 0.0
    return (changed, record.order)


def _check_backfills(
    files: Iterable[MigrationFile], history: History, direction: Direction
) -> None:
    for file in files:
        record = history.by_version.get(file.version)
        begun_with = record.backfilled_by if record is not None else None
        if begun_with is not None and begun_with != file.checksum:
            raise HalfBackfilledError(file.version, direction.value)


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
        raise MissingFileError(record.version, record.name)
    if not file.reversible:
        raise NotReversibleError(file.version, file.name, file.path)
    if _drifted(file, record) and not allow_drift:
        raise DriftError(file.version, file.name, file.path)
    return Step(file, Direction.DOWN)


def _step_warnings(steps: Iterable[Step]) -> Iterable[str]:
    for step in steps:
        if step.out_of_order:
            yield f"{step.version} ({step.file.name}) is out of order: higher ones are applied."
        if step.interrupted and not step.file.safe_to_repeat:
            yield (
                f"{step.version} ({step.file.name}) was interrupted half-way and is neither "
                "transactional nor idempotent: it runs again from its start."
            )


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
    applied = record is not None and record.is_applied
    return Entry(
        file.version,
        file,
        record,
        drifted=applied and record is not None and _drifted(file, record),
        out_of_order=not applied and file.version < history.highest_applied,
    )


def _has_status(entry: Entry, status: Status) -> bool:
    return entry.record is not None and entry.record.status is status


def _applied_now(entry: Entry) -> bool:
    return _has_status(entry, Status.COMPLETED)


def _pending_now(entry: Entry) -> bool:
    return entry.record is None or entry.record.status in _UNDONE


def _pick(
    entries: Iterable[Entry],
    wanted: Callable[[Entry], bool],
    key: Callable[[Entry], int] = lambda entry: entry.version,
) -> tuple[Entry, ...]:
    return tuple(sorted(filter(wanted, entries), key=key))
