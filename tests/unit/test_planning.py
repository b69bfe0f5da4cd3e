"""Planning: what would run, in which order, and what is refused."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_migrate_mongo.model.errors import (
    DriftError,
    HalfBackfilledError,
    InterruptedRefusedError,
    InvalidRequestError,
    MissingFileError,
    MistakenError,
    NotReversibleError,
    OutOfOrderError,
    SeveralErrors,
    TransactionsUnsupportedError,
    UnknownVersionError,
    UnwrittenError,
)
from flask_migrate_mongo.model.values import Direction, History, MigrationFile, Record, Status
from flask_migrate_mongo.planning.plans import (
    Policy,
    Target,
    check_transactions,
    page,
    pending,
    plan_down,
    plan_up,
    survey,
)

from .given import NOW, a_file, a_record, recorded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flask_migrate_mongo.model.values import Entry, Plan

ALLOW = Policy()
UNDOING = a_record(2, Status.RUNNING, direction=Direction.DOWN)


def versions(plan: Plan) -> list[int]:
    return [step.version for step in plan.steps]


def listed(entries: tuple[Entry, ...]) -> list[int]:
    return [entry.version for entry in entries]


def down(
    folder: Sequence[MigrationFile], history: History, *, steps: int, allow_drift: bool = False
) -> Plan:
    return plan_down(folder, history, Target(Direction.DOWN, steps, allow_drift=allow_drift))


def files(*numbers: int) -> list[MigrationFile]:
    return [a_file(number) for number in numbers]


@st.composite
def records(draw: st.DrawFn) -> Record:
    version = draw(st.integers(0, 30))
    return a_record(
        version,
        draw(st.sampled_from(Status)),
        direction=draw(st.sampled_from(Direction)),
        batch=draw(st.integers(0, 3)),
        position=draw(st.integers(0, 3)),
        applied_at=draw(st.none() | st.integers(0, 9).map(lambda s: NOW + timedelta(seconds=s))),
        interrupted=draw(st.booleans()),
        checksum=draw(st.sampled_from([None, "sum of another", f"sum of {version}"])),
    )


histories = st.lists(records(), unique_by=lambda r: r.version).map(lambda r: History(tuple(r)))
folders = st.lists(
    st.builds(a_file, st.integers(0, 30), reversible=st.booleans()),
    unique_by=lambda f: f.version,
)


# --- up


@given(folders, histories)
def test_up_plans_exactly_what_is_not_applied_in_ascending_order(
    folder: list[MigrationFile], history: History
) -> None:
    plan = plan_up(folder, history, ALLOW)
    applied = {r.version for r in history.records if r.is_applied}
    assert versions(plan) == sorted({f.version for f in folder} - applied)
    assert plan.direction is Direction.UP
    assert {step.direction for step in plan.steps} <= {Direction.UP}
    assert tuple(step.file for step in plan.steps) == pending(folder, history)


@given(folders, histories)
def test_up_marks_exactly_those_out_of_order_that_are_below_the_highest_applied(
    folder: list[MigrationFile], history: History
) -> None:
    highest = max((r.version for r in history.records if r.is_applied), default=0)
    for step in plan_up(folder, history, ALLOW).steps:
        assert step.out_of_order == (step.version < highest)


@given(folders, histories)
def test_up_names_every_changed_and_every_missing_migration_and_runs_none_of_them(
    folder: list[MigrationFile], history: History
) -> None:
    plan = plan_up(folder, history, ALLOW)
    there = {f.version for f in folder}
    for record in history.applied:
        assert record.version not in versions(plan)
        said = [w for w in plan.warnings if w.startswith(f"{record.version} (")]
        if record.version not in there:
            assert said == [
                f"{record.version} ({record.name}) is applied, but its file is missing."
            ]
        elif record.checksum == "sum of another":
            assert "has changed since it was applied" in said[0]
        else:
            assert said == []


@pytest.mark.parametrize("status", [Status.FAILED, Status.PENDING, Status.ROLLED_BACK])
def test_what_failed_was_rolled_back_or_never_started_is_pending(status: Status) -> None:
    assert pending(files(1), recorded(a_record(1, status))) == (a_file(1),)


def test_an_up_that_still_runs_is_not_applied() -> None:
    assert versions(plan_up(files(1), recorded(a_record(1, Status.RUNNING)), ALLOW)) == [1]


def test_a_down_that_still_runs_has_undone_nothing_yet() -> None:
    assert versions(plan_up(files(2), recorded(UNDOING), ALLOW)) == []


def test_versions_are_compared_as_numbers() -> None:
    assert versions(plan_up(files(10, 9, 100), History(), ALLOW)) == [9, 10, 100]


def test_with_nothing_pending_the_plan_is_empty() -> None:
    assert plan_up(files(1), recorded(a_record(1)), ALLOW).steps == ()


def test_a_record_of_another_tool_without_a_checksum_is_not_called_changed() -> None:
    assert plan_up(files(1), recorded(a_record(1, checksum=None)), ALLOW).warnings == ()


def test_an_out_of_order_migration_is_warned_of_by_name() -> None:
    plan = plan_up(files(1, 2), recorded(a_record(2)), ALLOW)
    assert plan.warnings == ("1 (change 1) is out of order: higher ones are applied.",)


def test_a_project_can_refuse_what_is_out_of_order() -> None:
    policy = Policy(refuse_out_of_order=True)
    with pytest.raises(OutOfOrderError, match=r"version 3: 1, 2\. Nothing was run\."):
        plan_up(files(1, 2, 3, 4), recorded(a_record(3)), policy)
    assert versions(plan_up(files(3, 4), recorded(a_record(3)), policy)) == [4]


def test_a_migration_that_is_not_written_is_refused_unless_the_target_leaves_it_out() -> None:
    fresh = (*files(1), a_file(2, written=False), a_file(3, written=False))
    with pytest.raises(UnwrittenError, match=r"NotImplementedError`: 2, 3\. Nothing was run\."):
        plan_up(fresh, recorded(), ALLOW)
    assert versions(plan_up(fresh, recorded(), ALLOW, Target(Direction.UP, to=1))) == [1]


def test_an_interrupted_plain_migration_runs_again_with_a_warning() -> None:
    history = recorded(a_record(1, Status.FAILED, interrupted=True))
    plan = plan_up(files(1), history, ALLOW)
    assert [step.interrupted for step in plan.steps] == [True]
    (warning,) = plan.warnings
    assert warning == (
        "1 (change 1) was interrupted half-way and is neither transactional nor idempotent: "
        "it runs again from its start."
    )


def test_a_project_can_stop_at_an_interrupted_plain_migration() -> None:
    history = recorded(a_record(1, Status.FAILED, interrupted=True))
    with pytest.raises(InterruptedRefusedError, match=r"resolve 1 --applied\|--not-applied"):
        plan_up(files(1), history, Policy(stop_on_interrupted=True))


@pytest.mark.parametrize("safe", ["transactional", "idempotent"])
def test_an_interrupted_migration_that_is_safe_to_repeat_is_neither_refused_nor_warned_of(
    safe: str,
) -> None:
    history = recorded(a_record(1, Status.FAILED, interrupted=True))
    plan = plan_up([a_file(1, **{safe: True})], history, Policy(stop_on_interrupted=True))
    assert (versions(plan), plan.warnings) == ([1], ())


def test_a_migration_that_failed_without_an_interruption_runs_again_without_a_warning() -> None:
    plan = plan_up(files(1), recorded(a_record(1, Status.FAILED)), Policy(stop_on_interrupted=True))
    assert (versions(plan), plan.warnings) == ([1], ())


# --- down


@given(histories, st.data())
def test_down_undoes_the_last_applied_ones_in_the_reverse_of_their_application(
    history: History, data: st.DataObject
) -> None:
    applied = [r for r in history.records if r.is_applied]
    steps = data.draw(st.integers(1, max(1, len(applied))))
    folder = [a_file(r.version, checksum=r.checksum) for r in applied]
    plan = down(folder, history, steps=steps)

    def applied_at(record: Record) -> float:
        return record.applied_at.timestamp() if record.applied_at else 0.0

    newest_first = sorted(
        applied, key=lambda r: (r.batch, r.position, applied_at(r), r.version), reverse=True
    )
    assert versions(plan) == [r.version for r in newest_first[:steps]]
    assert {step.direction for step in plan.steps} <= {Direction.DOWN}
    assert plan.direction is Direction.DOWN


def test_down_goes_by_batch_and_place_in_it_and_not_by_number() -> None:
    late = a_record(1, batch=2, position=0, applied_at=NOW)
    first = a_record(2, batch=1, position=0, applied_at=NOW + timedelta(days=1))
    second = a_record(3, batch=1, position=1, applied_at=NOW)
    assert versions(down(files(1, 2, 3), recorded(late, first, second), steps=3)) == [1, 3, 2]


def test_down_undoes_again_what_a_dead_down_was_undoing() -> None:
    assert versions(down(files(1, 2), recorded(a_record(1), UNDOING), steps=1)) == [2]


def test_down_leaves_alone_what_is_not_applied() -> None:
    history = recorded(a_record(1), a_record(2, Status.FAILED), a_record(3, Status.ROLLED_BACK))
    assert versions(down(files(1, 2, 3, 4), history, steps=1)) == [1]


def test_down_with_nothing_applied_is_an_empty_plan() -> None:
    assert down(files(1), recorded(a_record(1, Status.FAILED)), steps=5).steps == ()


@pytest.mark.parametrize("steps", [0, -1, -100])
@pytest.mark.parametrize("history", [History(), recorded(a_record(1))])
def test_down_by_less_than_one_step_is_refused(history: History, steps: int) -> None:
    with pytest.raises(InvalidRequestError, match=rf"steps is {steps}, .*: `--steps 1`\."):
        down(files(1), history, steps=steps)


@pytest.mark.parametrize(("applied", "said"), [(1, "1 migration is"), (2, "2 migrations are")])
def test_down_by_more_than_is_applied_is_refused_and_says_how_many_there_are(
    applied: int, said: str
) -> None:
    history = recorded(*(a_record(number) for number in range(applied)))
    with pytest.raises(InvalidRequestError, match=f"only {said} applied.*`--steps {applied}`"):
        down(files(*range(applied)), history, steps=applied + 1)


def test_down_of_a_missing_file_is_refused_by_name() -> None:
    with pytest.raises(
        MissingFileError, match=r"1 \(change 1\) is applied, but its file is missing"
    ):
        down([], recorded(a_record(1)), steps=1)


def test_down_of_a_migration_without_down_is_refused_by_file() -> None:
    with pytest.raises(NotReversibleError, match=r"1_change\.py has no down\(\)"):
        down([a_file(1, reversible=False)], recorded(a_record(1)), steps=1)


def test_down_refuses_before_the_first_step_what_stands_in_the_way_of_the_last() -> None:
    folder = [a_file(1, reversible=False), a_file(2)]
    with pytest.raises(NotReversibleError):
        down(folder, recorded(a_record(1, batch=1), a_record(2, batch=2)), steps=2)


def test_down_of_a_changed_file_is_refused_unless_that_is_allowed() -> None:
    folder, history = [a_file(1, checksum="other")], recorded(a_record(1))
    with pytest.raises(DriftError, match="--allow-drift"):
        down(folder, history, steps=1)
    assert versions(down(folder, history, steps=1, allow_drift=True)) == [1]


# --- transactions


def test_the_server_is_not_asked_when_no_step_needs_a_transaction() -> None:
    plan = plan_up(files(1), History(), ALLOW)
    assert check_transactions(plan, ALLOW, lambda: pytest.fail("asked")) is plan


def test_a_plan_stays_as_it_is_on_a_server_with_transactions() -> None:
    plan = plan_up([a_file(1, transactional=True)], History(), ALLOW)
    assert check_transactions(plan, ALLOW, lambda: None) is plan


def test_a_transactional_step_is_refused_where_there_are_no_transactions() -> None:
    plan = plan_up([a_file(1, transactional=True), a_file(2)], History(), ALLOW)
    with pytest.raises(TransactionsUnsupportedError, match=r"\(a standalone\): 1\. Nothing was"):
        check_transactions(plan, ALLOW, lambda: "a standalone")


def test_a_project_that_only_prefers_transactions_goes_on_without_and_is_warned() -> None:
    policy = Policy(prefer_transactions=True)
    plan = plan_up([a_file(1, transactional=True), a_file(3)], recorded(a_record(2)), policy)
    checked = check_transactions(plan, policy, lambda: "a standalone")
    assert checked.steps == plan.steps
    assert checked.warnings == (
        *plan.warnings,
        "Run without a transaction, since this server has none (a standalone): 1.",
    )


# --- status


@given(folders, histories)
def test_a_survey_has_every_version_that_has_a_file_or_left_traces_once(
    folder: list[MigrationFile], history: History
) -> None:
    found = survey(folder, history)
    gone = {Status.PENDING, Status.ROLLED_BACK}
    known = {f.version for f in folder} | {
        r.version for r in history.records if r.status not in gone
    }
    everything = (*found.applied, *found.pending, *found.failed, *found.running)
    assert sorted(listed(everything)) == sorted(known)
    assert found.total == len(known)


@given(folders, histories)
def test_a_survey_shows_the_applied_in_the_order_of_application_and_the_rest_ascending(
    folder: list[MigrationFile], history: History
) -> None:
    found = survey(folder, history)
    order = [r.version for r in history.applied if r.status is Status.COMPLETED]
    assert listed(found.applied) == order
    for entries in (found.pending, found.failed, found.running):
        assert listed(entries) == sorted(listed(entries))


def test_a_survey_names_what_changed_what_is_missing_and_what_is_out_of_order() -> None:
    history = recorded(a_record(3), a_record(4), a_record(2, Status.FAILED))
    found = survey([a_file(1), a_file(2), a_file(3, checksum="other")], history)
    assert listed(found.drifted) == [3]
    assert listed(found.missing) == [4]
    assert listed(found.out_of_order) == [1, 2]
    assert not any(entry.out_of_order for entry in found.applied)


def test_a_failed_migration_that_changed_since_has_not_drifted() -> None:
    found = survey([a_file(1, checksum="other")], recorded(a_record(1, Status.FAILED)))
    assert [entry.drifted for entry in found.failed] == [False]


@pytest.mark.parametrize("status", [Status.FAILED, Status.RUNNING])
def test_what_failed_or_runs_is_shown_even_when_its_file_is_gone(status: Status) -> None:
    found = survey([], recorded(a_record(1, status)))
    (entry,) = (*found.failed, *found.running)
    assert (entry.name, entry.file, entry.record) == ("change 1", None, a_record(1, status))


# --- history


def changed(version: int, minutes: int, status: Status = Status.COMPLETED) -> Record:
    return a_record(version, status, updated_at=NOW + timedelta(minutes=minutes))


def test_a_page_begins_with_what_changed_last() -> None:
    everything = [changed(1, 5), changed(2, 9), changed(3, 1), a_record(4)]
    found = page(everything, limit=50, skip=0, status=None)
    assert [record.version for record in found] == [2, 1, 3, 4]


def test_what_changed_at_the_same_time_is_shown_with_the_last_applied_first() -> None:
    tied = [a_record(n, updated_at=NOW, batch=1, position=n) for n in (1, 3, 2)]
    assert [r.version for r in page(tied, limit=9, skip=0, status=None)] == [3, 2, 1]


@given(st.lists(records(), unique_by=lambda r: r.version), st.integers(1, 5))
def test_pages_together_are_the_whole_history(everything: list[Record], limit: int) -> None:
    pages = [
        page(everything, limit=limit, skip=skip, status=None)
        for skip in range(0, len(everything), limit)
    ]
    assert all(len(one) <= limit for one in pages)
    joined = [record for one in pages for record in one]
    assert joined == list(page(everything, limit=1_000, skip=0, status=None))
    assert sorted(r.version for r in joined) == sorted(r.version for r in everything)


def test_a_page_can_be_of_one_status_only() -> None:
    everything = [changed(1, 1), changed(2, 2, Status.FAILED), changed(3, 3)]
    found = page(everything, limit=1, skip=1, status=Status.COMPLETED)
    assert [record.version for record in found] == [1]


@pytest.mark.parametrize(("limit", "skip"), [(0, 0), (-1, 0), (1, -1)])
def test_a_page_of_nothing_or_before_the_first_is_refused(limit: int, skip: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"limit is {limit} and skip is {skip}"):
        page([], limit=limit, skip=skip, status=None)


# --- backfills


def test_a_backfill_goes_on_with_the_file_it_began_with() -> None:
    begun = a_record(1, Status.FAILED, interrupted=True, backfilled_by="sum of 1")
    policy = Policy(stop_on_interrupted=True)
    plan = plan_up([a_file(1)], recorded(begun), policy)
    assert (versions(plan), plan.warnings) == ([1], ())


def test_a_backfill_that_would_go_on_with_another_file_is_refused_unless_that_is_allowed() -> None:
    begun = a_record(1, Status.FAILED, backfilled_by="sum of the file as it was")
    with pytest.raises(HalfBackfilledError, match=r"`flask db-migrate up --allow-drift`"):
        plan_up([a_file(1)], recorded(begun), Policy())
    assert versions(
        plan_up([a_file(1)], recorded(begun), Policy(), Target(Direction.UP, allow_drift=True))
    ) == [1]
    undoing = a_record(1, backfilled_by="sum of the file as it was")
    with pytest.raises(HalfBackfilledError, match=r"`flask db-migrate down --allow-drift`"):
        down([a_file(1)], recorded(undoing), steps=1)
    assert versions(down([a_file(1)], recorded(undoing), steps=1, allow_drift=True)) == [1]


# --- identity


codes = st.sampled_from("abcdef")
slugs = st.sampled_from(["alice", "bob"])


@st.composite
def any_history(draw: st.DrawFn) -> History:
    """Make records of any state, also of migrations with the same code or the same name."""
    numbers = draw(st.lists(st.integers(1, 6), unique=True))
    found = []
    for number in numbers:
        code = draw(codes)
        found.append(
            a_record(
                number,
                draw(st.sampled_from(Status)),
                direction=draw(st.sampled_from(Direction)),
                checksum=f"text {code} {draw(st.integers(0, 1))}",
                digest=draw(st.sampled_from([code, None])),
                slug=draw(st.none() | slugs),
                replaced_by=draw(st.sampled_from([None, None, None, 99])),
            )
        )
    return recorded(*found)


@st.composite
def any_folder(draw: st.DrawFn) -> list[MigrationFile]:
    """Make files of any number, also several with the same code."""
    numbers = draw(st.lists(st.integers(1, 6), unique=True))
    found = []
    for number in sorted(numbers):
        code = draw(codes)
        checksum = f"text {code} {draw(st.integers(0, 1))}"
        found.append(a_file(number, checksum=checksum, digest=code, slug=draw(slugs)))
    return found


@given(any_folder(), any_history())
def test_no_up_ever_runs_code_that_is_recorded_as_applied_or_the_same_code_twice(
    folder: list[MigrationFile], history: History
) -> None:
    try:
        plan = plan_up(folder, history, Policy())
    except (MistakenError, SeveralErrors):
        return
    applied = [record for record in history.records if record.is_applied]
    ran = [step.file for step in plan.steps]
    assert not {record.digest for record in applied} & {file.digest for file in ran}
    assert not {record.checksum for record in applied} & {file.checksum for file in ran}
    assert len({file.digest for file in ran}) == len(ran)


@given(any_folder(), any_history())
def test_no_file_is_taken_for_a_migration_with_another_name_and_other_code(
    folder: list[MigrationFile], history: History
) -> None:
    try:
        plan_up(folder, history, Policy())
    except (MistakenError, SeveralErrors):
        return
    for file in folder:
        record = history.by_version.get(file.version)
        if record is not None and record.is_open and record.slug not in {None, file.slug}:
            assert record.digest == file.digest or record.checksum == file.checksum


@given(any_folder(), any_history(), st.integers(1, 6))
def test_a_target_limits_a_plan_and_adds_nothing(
    folder: list[MigrationFile], history: History, number: int
) -> None:
    try:
        whole = plan_up(folder, history, Policy())
        to = plan_up(folder, history, Policy(), Target(Direction.UP, to=str(number)))
        first = plan_up(folder, history, Policy(), Target(Direction.UP, steps=number))
    except (MistakenError, SeveralErrors, UnknownVersionError):
        return
    assert versions(to) == [version for version in versions(whole) if version <= number]
    assert versions(first) == versions(whole)[:number]
