"""The progress of a backfill: its rates, the range of the time that is left, and pauses."""

from __future__ import annotations

import logging

import pytest

from flask_migrate_mongo.backfill.progress import (
    FEWEST_RATES,
    MOST_RATES,
    RATE_SECONDS,
    ProgressMeter,
    usual,
)
from flask_migrate_mongo.model.values import Progress


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Measured:
    """A meter on a clock of its own, and what it reported."""

    def __init__(self, total: int | None = 1_000, done: int = 0) -> None:
        self.clock, self.done = Clock(), done
        self.reported: list[Progress] = []
        log = logging.getLogger("test")
        self.meter = ProgressMeter(
            "goods", total, done, self.reported.append, log, clock=self.clock
        )

    def work(self, *per_second: int, seconds: int = RATE_SECONDS) -> Progress:
        """Work at each of these rates for so many seconds."""
        for rate in per_second:
            self.clock.now += seconds
            self.done += rate * seconds
            self.meter.report(self.done)
        return self.reported[-1]


def test_the_time_left_has_a_range_of_the_rates_that_were_usual() -> None:
    measured = Measured(total=1_000)
    progress = measured.work(10, 20, 10, 20, 40)
    assert list(progress.rates) == [10, 20, 10, 20, 40]
    assert progress.done == 200
    assert progress.per_second == 20
    assert progress.seconds_left == 40
    assert (progress.least_seconds_left, progress.most_seconds_left) == (20, 80)


def test_without_enough_rates_the_time_left_has_no_range() -> None:
    progress = Measured().work(*[10] * (FEWEST_RATES - 1))
    assert progress.seconds_left == pytest.approx(92)
    assert (progress.least_seconds_left, progress.most_seconds_left) == (None, None)


def test_without_a_total_no_time_is_known() -> None:
    progress = Measured(total=None).work(*[10] * 9)
    assert progress.total is None
    assert progress.seconds_left is None
    assert progress.least_seconds_left is progress.most_seconds_left is None


def test_the_range_contains_the_time_that_the_average_gives() -> None:
    # The start was slow, and is not among the rates any more.
    measured = Measured(total=100_000)
    measured.work(1, seconds=1_000)
    progress = measured.work(*[100] * MOST_RATES)
    assert set(progress.rates) == {100}
    assert progress.seconds_left is not None
    assert progress.most_seconds_left == progress.seconds_left
    assert progress.least_seconds_left == (100_000 - progress.done) / 100


def test_single_outliers_do_not_widen_the_range() -> None:
    assert usual([10] * 9 + [1_000]) == (10, 10)
    assert usual([0] + [10] * 9) == (10, 10)
    assert usual([0, *[10] * 7, 20, 1_000]) == (10, 20)


def test_only_the_rates_of_the_last_minute_are_kept() -> None:
    measured = Measured(total=None)
    progress = measured.work(*range(MOST_RATES + 5))
    assert list(progress.rates) == list(range(5, MOST_RATES + 5))


def test_a_pause_does_not_slow_the_rate() -> None:
    measured = Measured(total=1_000)
    measured.work(10)
    paused = measured.meter.pause()
    measured.clock.now += 600
    assert paused.paused
    assert measured.meter.at(20).per_second == 10
    assert not measured.meter.resume().paused
    progress = measured.work(10)
    assert list(progress.rates) == [10, 10]
    assert progress.per_second == 10


def test_documents_of_an_earlier_run_do_not_count_in_the_rate() -> None:
    progress = Measured(total=1_000, done=500).work(10)
    assert progress.done == 520
    assert progress.per_second == 10
    assert progress.seconds_left == 48


def test_the_progress_in_words_says_that_it_is_paused() -> None:
    measured = Measured(total=1_000)
    measured.work(10)
    assert str(measured.meter.pause()).endswith(", 10 a second, 1:38 left, paused")
