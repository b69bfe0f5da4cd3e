"""How long a migration takes on all documents, judged from how long it took on samples of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import geometric_mean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MARGIN = 1.5
"""What two runs of the same thing differ by, at least, as a factor: no range is narrower."""

_GREW = 1.5
_LEAST = 0.001


@dataclass(frozen=True, slots=True)
class Size:
    """How many documents of a collection a rehearsal had, of how many there are."""

    had: int
    of: int

    @property
    def factor(self) -> float:
        """How many times as many there are."""
        return self.of / self.had if self.had else 1.0


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one up() took, in seconds.

    `fixed` is what went into commands that take no longer with more documents; `keyed` what went into those for
    single documents, of which there were `statements`; `by_collection` how the time was spread.
    """

    seconds: float
    fixed: float = 0.0
    keyed: float = 0.0
    statements: int = 0
    by_collection: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, Size] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long it would take on all documents, in seconds: about so long, from `low` to `high`.

    `extrapolated` is False when the sample was all there is.
    """

    documents: int
    seconds: float
    low: float
    high: float
    extrapolated: bool = True


def estimate(trials: Sequence[Timing], timings: Sequence[Timing]) -> Estimate | None:
    """Return an estimate from runs on the sample, and from trials on a part of it.

    None when nothing can be said: no command was about a collection that has documents.
    """
    factor = _factor(timings[0])
    if factor is None:
        return None
    documents = sum(timings[0].sizes[name].of for name in _sampled(timings[0]))
    if factor == 1:
        took = [timing.seconds for timing in timings]
        return Estimate(documents, min(took), min(took), max(took), extrapolated=False)
    loops = not trials or timings[0].statements > trials[0].statements * _GREW
    # The first trial is the first run of all, when much is done for the first time.
    counted = [*timings, *(trials[1:] or trials)]
    found = [max(_LEAST, _extrapolated(timing, loops=loops)) for timing in counted]
    seconds = geometric_mean(found)
    low, high = min(*found, seconds / MARGIN), max(*found, seconds * MARGIN)
    return Estimate(documents, seconds, low, high)


def _extrapolated(timing: Timing, *, loops: bool) -> float:
    fixed = timing.fixed + (0.0 if loops else timing.keyed)
    growing = max(0.0, timing.seconds - fixed)
    return fixed + growing * (_factor(timing) or 1.0)


def _factor(timing: Timing) -> float | None:
    """Return how many times as much there is to do: by collection, as the time was spread over them."""
    sampled = _sampled(timing)
    if not sampled:
        return None
    largest = max(timing.sizes[name].factor for name in sampled)
    weights = {name: spent for name, spent in timing.by_collection.items() if spent > 0}
    total = sum(weights.values())
    # A collection that the migrations made themselves grows like those it was made of.
    factors = {n: timing.sizes[n].factor if n in sampled else largest for n in weights}
    return sum(factors[n] * spent for n, spent in weights.items()) / total if total else largest


def _sampled(timing: Timing) -> list[str]:
    return [
        name for name in timing.by_collection if name in timing.sizes and timing.sizes[name].had
    ]
