"""What squashed migrations replace, in files and in records, and when one is recorded without running."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_migrate_mongo.files.parsing import describe
from flask_migrate_mongo.model.errors import PartlySquashedError, SourceError
from flask_migrate_mongo.model.squashing import absorbs, history_of, parts_of
from flask_migrate_mongo.model.values import Direction, History, Record, Status
from flask_migrate_mongo.planning.plans import Policy, Target, pending, plan_down, plan_up, survey
from flask_migrate_mongo.planning.squashing import adopted, contradictory, replaced_by

from .given import NOW, a_file, a_record

WHOLE = a_file(9, replaces=(1, 2, 3))
APPLIED = [a_record(number) for number in (1, 2, 3)]
RECORDED = a_record(9, replaces=(1, 2, 3))


def up(history: History) -> list[tuple[int, bool]]:
    plan = plan_up([WHOLE], history, Policy())
    assert plan.warnings == ()
    return [(step.version, bool(step.adopts)) for step in plan.steps]


def test_all_is_recorded_none_runs() -> None:
    assert up(history_of(APPLIED)) == [(9, True)]
    assert up(history_of([])) == [(9, False)]
    assert up(history_of([a_record(1, Status.ROLLED_BACK), a_record(2, Status.PENDING)])) == [
        (9, False)
    ]
    assert up(history_of([RECORDED, *APPLIED])) == []


@pytest.mark.parametrize(
    ("records", "said"),
    [
        (APPLIED[:2], r"2 of them are applied. The others: 3 \(not applied\)\."),
        ([*APPLIED[:2], a_record(3, Status.FAILED)], r"2 of .*: 3 \(failed\)\."),
        ([*APPLIED[:2], a_record(3, Status.ROLLED_BACK)], r"2 of .*: 3 \(not applied\)\."),
        ([*APPLIED[1:], a_record(1, Status.RUNNING)], r"2 of .*: 1 \(running\)\."),
        (
            [*APPLIED[1:], a_record(1, Status.RUNNING, direction=Direction.DOWN)],
            r"2 of .*: 1 \(running\)\.",
        ),
        ([*APPLIED[1:], a_record(1, down_failed=True)], r"2 of .*: 1 \(its down\(\) failed\)\."),
        ([a_record(3, Status.FAILED)], r"0 of .*: 1 \(not applied\), 2 \(not applied\), 3"),
        ([a_record(7, replaces=(3, 4)), *APPLIED[:2]], r"2 of .*: 3 \(a part of 7\)\."),
    ],
)
def test_some_is_refused_with_the_list(records: list[Record], said: str) -> None:
    with pytest.raises(PartlySquashedError, match=said) as caught:
        up(history_of(records))
    assert "Nothing was run. Move 9_change.py out of the folder" in str(caught.value)


def test_it_takes_the_place_of_its_last_part() -> None:
    files = [a_file(4), a_file(8), WHOLE]
    assert [file.version for file in pending(files, history_of([]))] == [9, 4, 8]
    history = history_of([RECORDED])
    refuse = Policy(refuse_out_of_order=True)
    steps = plan_up(files, history, refuse).steps
    assert [(step.version, step.out_of_order) for step in steps] == [(4, False), (8, False)]
    late = history_of([*APPLIED, a_record(8)])
    (step,) = plan_up([WHOLE, a_file(8)], late, refuse).steps
    assert (step.version, step.out_of_order) == (9, False)
    assert not survey([WHOLE, a_file(8)], late).out_of_order
    # None of its parts is applied, and a later one is: that is late.
    (step,) = plan_up([WHOLE, a_file(8)], history_of([a_record(8)]), Policy()).steps
    assert step.out_of_order
    target = Target(Direction.UP, to="4")
    assert [s.version for s in plan_up(files, history_of([]), Policy(), target).steps] == [9, 4]


def test_what_is_replaced_is_not_missing_and_not_changed() -> None:
    history = history_of(APPLIED)
    for files in ([WHOLE], [WHOLE, a_file(1), a_file(2, checksum="changed")]):
        found = survey(files, history)
        assert (found.missing, found.drifted) == ((), ())
        assert [entry.version for entry in found.applied] == [1, 2, 3]
        assert [entry.version for entry in found.pending] == [9]
        assert plan_up(files, history, Policy()).warnings == ()
    recorded = survey([WHOLE], history_of([RECORDED, *APPLIED]))
    assert [entry.version for entry in recorded.applied] == [9]
    assert recorded.is_ready


def test_parts_that_are_not_marked_yet_count_as_marked() -> None:
    history = history_of([RECORDED, *APPLIED])
    assert history.unmarked == ((9, (1, 2, 3)),)
    assert [record.version for record in history.applied] == [9]
    marked = history_of([RECORDED, *(a_record(n, replaced_by=9) for n in (1, 2, 3))])
    assert marked.unmarked == ()
    assert [record.version for record in marked.applied] == [9]
    assert dict(history.replaced) == dict(marked.replaced) == {1: 9, 2: 9, 3: 9}


def test_parts_of_one_that_was_rolled_back_stay_parts_until_they_run_again() -> None:
    rolled_back = a_record(9, Status.ROLLED_BACK, replaces=(1, 2, 3))
    marked = history_of([rolled_back, *(a_record(n, replaced_by=9) for n in (1, 2, 3))])
    assert marked.applied == ()
    assert up(marked) == [(9, False)]
    files = [a_file(1), a_file(2)]
    assert [step.version for step in plan_up(files, marked, Policy()).steps] == [1, 2]
    again = history_of([rolled_back, *APPLIED])
    assert [record.version for record in again.applied] == [1, 2, 3]
    assert up(again) == [(9, True)]


def test_an_applied_one_is_judged_by_its_record() -> None:
    history = history_of([RECORDED])
    changed = a_file(9, replaces=(1, 2, 3, 4), checksum="changed")
    assert replaced_by([changed], history) == {1: 9, 2: 9, 3: 9}
    assert replaced_by([], history) == {1: 9, 2: 9, 3: 9}


def test_a_wider_squash_absorbs_a_narrower_one() -> None:
    wide = a_file(10, replaces=(1, 2, 3, 4))
    four = a_record(4)
    assert replaced_by([wide, WHOLE], history_of([])) == dict.fromkeys((1, 2, 3, 4, 9), 10)
    assert list(contradictory([wide, WHOLE, a_file(7, replaces=(1, 2))])) == []
    for records in ([RECORDED, four], [RECORDED, *APPLIED, four], [*APPLIED, four]):
        assert {r.version for r in adopted(wide, history_of(records))} >= {4}
    both = history_of([a_record(10, replaces=(1, 2, 3, 4)), RECORDED, *APPLIED, four])
    assert both.unmarked == ((10, (1, 2, 3, 4, 9)),)
    assert [record.version for record in both.applied] == [10]
    with pytest.raises(PartlySquashedError, match=r"3 of .*: 4 \(not applied\)"):
        adopted(wide, history_of([RECORDED]))


def test_one_that_replaces_the_same_absorbs_the_one_before_it() -> None:
    again = a_file(12, replaces=(1, 2, 3))
    assert absorbs(again, RECORDED)
    assert not absorbs(WHOLE, a_record(12, replaces=(1, 2, 3)))
    assert adopted(again, history_of([RECORDED])) == (RECORDED,)
    assert len(list(contradictory([again, WHOLE]))) == 1


@pytest.mark.parametrize(
    ("one", "other", "found"), [((1, 2), (3, 4), 0), ((1, 2), (2, 3), 1), ((1, 2), (1, 2, 3), 0)]
)
def test_two_with_a_common_part_are_found(
    one: tuple[int, ...], other: tuple[int, ...], found: int
) -> None:
    files = [a_file(8, replaces=one), a_file(9, replaces=other), a_file(2)]
    assert len(list(contradictory(files))) == found


def test_one_that_lists_only_the_squashed_one_is_refused_as_long_as_its_file_is_there() -> None:
    outer = a_file(12, replaces=(9,))
    (problem,) = contradictory([outer, WHOLE])
    assert "replaces the squashed 9, and not everything that this one replaces: 1, 2, 3" in str(
        problem
    )
    assert list(contradictory([a_file(12, replaces=(1, 2, 3, 9)), WHOLE])) == []


def test_the_parts_of_a_replaced_one_are_parts_of_what_replaces_it() -> None:
    outer = a_file(12, replaces=(9,))
    assert adopted(outer, history_of([RECORDED])) == (RECORDED,)
    for records in ([], APPLIED):
        history = history_of([a_record(12, replaces=(9,)), RECORDED, *records])
        assert [record.version for record in history.applied] == [12]
        assert dict(history.replaced) == dict.fromkeys((1, 2, 3, 9), 12)
        assert pending([outer, a_file(1)], history) == ()


def test_it_is_rolled_back_as_a_whole() -> None:
    history = history_of([a_record(9, replaces=(1, 2, 3), batch=1), *APPLIED, a_record(8, batch=2)])
    steps = plan_down([WHOLE, a_file(8)], history, Target(Direction.DOWN, 2)).steps
    assert [step.version for step in steps] == [8, 9]


@given(
    st.lists(
        st.builds(
            lambda version, status, parts, mark: a_record(
                version,
                status,
                replaces=tuple(sorted(p for p in parts if p < version)),
                replaced_by=mark,
                applied_at=NOW,
            ),
            st.integers(1, 8),
            st.sampled_from(Status),
            st.sets(st.integers(1, 7), max_size=4),
            st.none(),
        ),
        unique_by=lambda record: record.version,
    )
)
def test_nothing_counts_twice_and_nothing_is_lost(records: list[Record]) -> None:
    history = history_of(records)
    assert [record.version for record in history.records] == [record.version for record in records]
    there = {record.version for record in history.records if record.is_open}
    assert not there & history.replaced.keys()
    for record in records:
        # What was there still is, or is a part of what is.
        if record.is_open and record.version not in there:
            assert history.replaced[record.version] in there
    for record in history.records:
        assert {part.version for part in parts_of(record, records)} >= {
            each.version for each in records if each.version in record.replaces
        }


@pytest.mark.parametrize(
    ("line", "replaces"),
    [
        ('replaces = ["2", "1", "2"]', (1, 2)),
        ('replaces = ("1",)', (1,)),
        ("replaces = [1, 2]", (1, 2)),
        ("replaces = []", ()),
        ('replaces = ["2_a", "1-b_c", "2"]', (1, 2)),
    ],
)
def test_the_versions_are_read_from_the_file(
    line: str, replaces: tuple[int, ...], tmp_path: Path
) -> None:
    content = f"{line}\ndef up(db): pass\n".encode()
    file = describe(tmp_path / "9_whole.py", content)
    assert file.replaces == replaces
    assert file.parts == dict.fromkeys(replaces, "") | ({1: "b_c", 2: "a"} if "_a" in line else {})


@pytest.mark.parametrize(
    "line", ['replaces = ["9"]', 'replaces = ["1", "10_a"]', 'replaces = ["a_1"]', "replaces = X"]
)
def test_a_version_that_is_not_lower_is_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="replaces"):
        describe(tmp_path / "9_whole.py", f"{line}\ndef up(db): pass\n".encode())
