"""The estimate of how long a migration takes on all documents."""

from __future__ import annotations

from typing import Any

import pytest

from flask_migrate_mongo.rehearsal.results import (
    MARGIN,
    Activity,
    Attempt,
    CopiedCollection,
    Estimate,
    estimate,
)

ALL = 28_000


def took(seconds: float, copied: int = 1_000, **more: Any) -> Attempt:
    """Return a run on a sample of the airports, all of whose time went into them."""
    activity = Activity(**{"spent": {"airports": seconds}, **more})
    return an_attempt(seconds, activity, CopiedCollection("airports", copied, ALL))


def an_attempt(
    seconds: float, activity: Activity | None = None, *copied: CopiedCollection
) -> Attempt:
    return Attempt(
        round(seconds * 1000),
        activity=activity or Activity(),
        copied={each.name: each for each in copied},
    )


def figures(found: Estimate) -> tuple[float, float, float]:
    return found.seconds, found.low, found.high


def test_the_time_grows_with_the_documents() -> None:
    found = estimate([], [took(0.5)])
    assert found is not None
    assert (found.documents, found.extrapolated) == (ALL, True)
    assert figures(found) == pytest.approx((14.0, 14.0 / MARGIN, 14.0 * MARGIN))


def test_the_estimate_is_a_mean_of_the_runs_and_the_range_contains_them() -> None:
    found = estimate([], [took(2.0), took(0.5)])
    assert found is not None
    assert figures(found) == pytest.approx((28.0, 14.0, 56.0))


def test_a_run_on_a_part_of_the_sample_counts_as_well() -> None:
    found = estimate([took(0.5, copied=250)], [took(0.5)])
    assert found is not None
    assert figures(found) == pytest.approx((28.0, 14.0, 56.0))


def test_the_first_trial_does_not_count_if_there_is_a_second() -> None:
    found = estimate([took(9.0, copied=250), took(0.125, copied=250)], [took(0.5), took(0.5)])
    assert found is not None
    assert found.seconds == pytest.approx(14.0)


def test_runs_too_short_to_measure_are_no_error() -> None:
    found = estimate([], [took(0.0), took(0.0)])
    assert found is not None
    assert 0 < found.seconds < 0.01


def test_the_time_of_commands_that_take_no_longer_with_more_documents_is_not_multiplied() -> None:
    found = estimate([], [took(0.5, fixed=0.4)])
    assert found is not None
    assert found.seconds == pytest.approx(0.4 + 0.1 * 28)


def test_commands_for_single_documents_grow_only_if_there_are_more_of_them_in_a_larger_sample() -> (
    None
):
    one = [took(0.2, copied=250, keyed=0.2, statements=1)] * 2
    found = estimate(one, [took(0.2, keyed=0.2, statements=1)])
    assert found is not None
    assert found.seconds == pytest.approx(0.2)
    few = [took(0.05, copied=250, keyed=0.05, statements=250)] * 2
    found = estimate(few, [took(0.2, keyed=0.2, statements=1_000)])
    assert found is not None
    assert found.seconds == pytest.approx(5.6)


def test_each_collection_grows_by_its_own_factor() -> None:
    copied = CopiedCollection("airports", 1_000, 28_000), CopiedCollection("countries", 200, 200)
    spent = {"airports": 0.1, "countries": 0.3}
    found = estimate([], [an_attempt(0.4, Activity(spent=spent), *copied)])
    assert found is not None
    assert found.documents == 28_200
    assert found.seconds == pytest.approx(0.1 * 28 + 0.3)


def test_a_collection_that_the_migrations_make_grows_like_those_it_is_made_of() -> None:
    spent = {"airports": 0.1, "made": 0.1}
    found = estimate([], [took(0.2, spent=spent)])
    assert found is not None
    assert found.seconds == pytest.approx(0.2 * 28)


def test_nothing_is_extrapolated_when_the_sample_was_all_there_is() -> None:
    found = estimate([took(9.0, copied=250)], [took(0.5, copied=ALL), took(0.6, copied=ALL)])
    assert found is not None
    assert (found.seconds, found.low, found.high, found.extrapolated) == (0.5, 0.5, 0.6, False)


@pytest.mark.parametrize(
    "attempt",
    [
        an_attempt(0.5),
        an_attempt(0.5, Activity(spent={"new": 0.5})),
        an_attempt(0.5, Activity(spent={"empty": 0.5}), CopiedCollection("empty", 0, 0)),
    ],
)
def test_there_is_no_estimate_if_no_documents_were_touched(attempt: Attempt) -> None:
    assert estimate([], [attempt]) is None
