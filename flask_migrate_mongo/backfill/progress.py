"""Measures the progress of one call of `ctx.backfill()`: documents, their rates, and how long the rest takes."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

from flask_migrate_mongo.model.values import Progress, RangeProgress
from flask_migrate_mongo.process import elapsed

LOG_SECONDS = 10

RATE_SECONDS = 2
"""The time of one rate."""

MOST_RATES = 30
"""How many rates are kept: those of about a minute."""

FEWEST_RATES = 5
"""From fewer rates no range of the time that is left is known."""

MOST_RANGES = 100
"""How many ranges are shown: the record of a migration, which holds them, is bounded."""


def usual(rates: Sequence[float]) -> tuple[float, float] | None:
    """Find the slower and the faster of the usual rates: without a tenth at each end; None if they are too few."""
    if len(rates) < FEWEST_RATES:
        return None
    ordered, left_out = sorted(rates), len(rates) // 10
    return ordered[left_out], ordered[-1 - left_out]


class ProgressMeter:
    """Measures the progress after `done` documents, from now on; the time of a pause does not count."""

    def __init__(
        self,
        collection: str,
        total: int | None,
        done: int,
        on_progress: Callable[[Progress], None],
        log: logging.Logger,
        *,
        clock: Callable[[], float] = elapsed,
    ) -> None:
        self._collection, self._total = collection, total
        self._on_progress, self._log = on_progress, log
        self._clock = clock
        self._done_before = self._done = self._done_at_rate = done
        self._began = self._logged = self._rate_began = clock()
        self._paused_at: float | None = None
        self._rates: deque[float] = deque(maxlen=MOST_RATES)
        self.ranges: tuple[RangeProgress, ...] = ()

    @property
    def paused(self) -> bool:
        """Whether the backfill is paused."""
        return self._paused_at is not None

    def pause(self) -> Progress:
        """Stop the clock, and compute the progress."""
        self._paused_at = self._clock()
        return self.at(self._done)

    def resume(self) -> Progress:
        """Let the clock continue, and compute the progress."""
        if self._paused_at is not None:
            paused_for = self._clock() - self._paused_at
            self._began += paused_for
            self._rate_began += paused_for
        self._paused_at = None
        return self.at(self._done)

    def at(self, done: int) -> Progress:
        """Compute the progress after this number of documents."""
        took = self._now() - self._began
        rate = (done - self._done_before) / took if took > 0 else None
        total = None if self._total is None else max(self._total, done)
        left = None if total is None else total - done
        slower, faster = usual(self._rates) or (0, 0)
        expected = _time(left, rate)
        least, most = _time(left, faster), _time(left, slower)
        if expected is not None and least is not None:
            least = min(least, expected)
        if expected is not None and most is not None:
            most = max(most, expected)
        return Progress(
            self._collection,
            done,
            total,
            rate,
            expected,
            least,
            most,
            paused=self.paused,
            rates=tuple(self._rates),
            ranges=self.ranges[:MOST_RANGES],
        )

    def report(self, done: int) -> None:
        """Report the progress to the observer, and every ten seconds to the log."""
        self._note_rate(done)
        progress = self.at(done)
        self._on_progress(progress)
        if self._clock() - self._logged >= LOG_SECONDS:
            self._logged = self._clock()
            # The attribute marks a record that an interface which shows the progress need not show.
            self._log.info("%s", progress, extra={"progress": progress})

    def _note_rate(self, done: int) -> None:
        self._done, now = done, self._now()
        took = now - self._rate_began
        if took >= RATE_SECONDS:
            self._rates.append(round((done - self._done_at_rate) / took, 1))
            self._rate_began, self._done_at_rate = now, done

    def _now(self) -> float:
        """Read the clock, which stands still during a pause."""
        return self._clock() if self._paused_at is None else self._paused_at


def _time(documents: int | None, rate: float | None) -> float | None:
    """Compute how long so many documents take at a rate; None if that is not known."""
    return documents / rate if rate and documents is not None else None
