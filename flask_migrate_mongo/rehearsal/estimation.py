"""Estimates how long a migration takes on all documents, from how long it took on samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import geometric_mean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MARGIN = 1.5
"""The factor by which two equal runs differ, at least: no range is narrower."""

_GROWTH = 1.5
"""A larger sample that takes this many times as many statements takes them for each document."""

_SHORTEST = 0.001


@dataclass(frozen=True, slots=True)
class SampleSize:
    """How many documents of a collection a rehearsal copied, and how many there are."""

    copied: int
    of: int

    @property
    def factor(self) -> float:
        """How many times as many there are."""
        return self.of / self.copied if self.copied else 1.0


@dataclass(slots=True)
class CommandTimes:
    """The time that commands took, in seconds, as they are added up.

    `fixed` is the part of those that take no longer with more documents; `keyed` the part of the `statements` for
    single documents.
    """

    by_collection: dict[str, float] = field(default_factory=dict)
    fixed: float = 0.0
    keyed: float = 0.0
    statements: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one call took, in seconds, and how large the collections were."""

    seconds: float = 0.0
    commands: CommandTimes = field(default_factory=CommandTimes)
    sizes: Mapping[str, SampleSize] = field(default_factory=dict)

    @property
    def sampled(self) -> tuple[str, ...]:
        """The collections with copied documents that it spent time on."""
        sizes = self.sizes
        return tuple(n for n in self.commands.by_collection if n in sizes and sizes[n].copied)

    @property
    def factor(self) -> float | None:
        """How many times as much there is to do for all documents; None if there were none.

        The factor of each collection counts by the time that was spent on it.
        """
        if not self.sampled:
            return None
        factors = {name: self.sizes[name].factor for name in self.sampled}
        # A collection that the migration makes grows like those that it is made of.
        largest = max(factors.values())
        spent = self.commands.by_collection
        weighted = sum(factors.get(name, largest) * seconds for name, seconds in spent.items())
        return weighted / sum(spent.values()) if weighted else largest

    def extrapolated(self, *, loops: bool) -> float:
        """Extrapolate to all documents; `loops` says that each document takes a statement of its own."""
        fixed = self.commands.fixed + (0.0 if loops else self.commands.keyed)
        return max(_SHORTEST, fixed + max(0.0, self.seconds - fixed) * (self.factor or 1.0))


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a migration takes on all documents, in seconds: about `seconds`, from `low` to `high`.

    `extrapolated` is False if all documents were copied, so that the time is a measured one.
    """

    documents: int
    seconds: float
    low: float
    high: float
    extrapolated: bool = True


def estimate(trials: Sequence[Timing], timings: Sequence[Timing]) -> Estimate | None:
    """Estimate from runs on the sample, and from trials on a part of it.

    None if no command named a collection that has documents.
    """
    first = timings[0]
    if first.factor is None:
        return None
    documents = sum(first.sizes[name].of for name in first.sampled)
    if first.factor == 1:
        took = [timing.seconds for timing in timings]
        return Estimate(documents, min(took), min(took), max(took), extrapolated=False)
    loops = not trials or first.commands.statements > trials[0].commands.statements * _GROWTH
    # The first trial does not count if there is a second: much is done once, and then for the first time.
    counted = [*timings, *(trials[1:] or trials)]
    found = [timing.extrapolated(loops=loops) for timing in counted]
    seconds = geometric_mean(found)
    low, high = min(*found, seconds / MARGIN), max(*found, seconds * MARGIN)
    return Estimate(documents, seconds, low, high)
