"""Bars of the charts, worked out from the documents of the API: where they are, and what they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from flask_migrate_mongo.driver.server import Document

MOST_BATCHES, MOST_MONTHS = 12, 24

_GAP = 0.2
"""The part of a bar's place that stays empty."""

_PLACES = 8
"""A chart has places for at least so many bars, so that a single one does not fill it."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a chart; `left`, `width` and `height` are percent of the chart."""

    label: str
    value: int
    left: float
    width: float
    height: float

    @property
    def top(self) -> float:
        """Where it begins, from above."""
        return round(100 - self.height, 2)


def bars(values: Sequence[tuple[str, int]]) -> tuple[Bar, ...]:
    """Lay out bars side by side; the highest one has the whole height."""
    most, place = max((value for _, value in values), default=0), 100 / max(_PLACES, len(values))
    return tuple(
        Bar(
            label,
            value,
            left=round((position + _GAP / 2) * place, 2),
            width=round((1 - _GAP) * place, 2),
            height=round(100 * value / most, 2) if most else 0.0,
        )
        for position, (label, value) in enumerate(values)
    )


@dataclass(frozen=True, slots=True)
class AppliedBatch:
    """What one `up` applied: its versions in order, when the last one was done, and how long all of them took."""

    number: int
    versions: tuple[str, ...]
    at: str | None
    took_ms: int


def batches(applied: Iterable[Document]) -> tuple[AppliedBatch, ...]:
    """Find the last batches among the applied migrations of `status`, the newest last."""
    ran = [each for each in applied if each["batch"] is not None and each["origin"] == "run"]
    ran.sort(key=lambda each: int(each["batch"]))
    found = [_batch(n, list(each)) for n, each in groupby(ran, key=lambda each: int(each["batch"]))]
    return tuple(found[-MOST_BATCHES:])


def _batch(number: int, applied: Sequence[Document]) -> AppliedBatch:
    return AppliedBatch(
        number,
        tuple(each["version"] for each in applied),
        max((each["appliedAt"] for each in applied if each["appliedAt"]), default=None),
        sum(each["executionTime"] or 0 for each in applied),
    )


def months(applied: Iterable[Document]) -> tuple[tuple[str, int], ...]:
    """Count the applied migrations of each month up to the last one, also of months without any."""
    counts = Counter(each["appliedAt"][:7] for each in applied if each["appliedAt"])
    if not counts:
        return ()
    between = list(_months(min(counts), max(counts)))
    return tuple((month, counts[month]) for month in between[-MOST_MONTHS:])


def _months(first: str, last: str) -> Iterator[str]:
    for each in range(_number_of(first), _number_of(last) + 1):
        year, before = divmod(each, 12)
        yield f"{year:04}-{before + 1:02}"


def _number_of(month: str) -> int:
    """Count the months up to this one."""
    year, number = map(int, month.split("-"))
    return 12 * year + number - 1


LINE_HEIGHT = 30


def line(values: Sequence[float]) -> str:
    """Lay out a line through values as points of SVG, from 0 to 100 across, with zero at LINE_HEIGHT."""
    most, step = max(values, default=0) or 1, 100 / max(1, len(values) - 1)
    points = ((n * step, LINE_HEIGHT * (1 - value / most)) for n, value in enumerate(values))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
