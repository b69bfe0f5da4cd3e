"""Tables of what was measured, and the bars that it has to hold."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import floor, peers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .measuring import Series
    from .peers import Installed, Missing

US = peers.OURS.name
BARE = "the application without it"
LOOP = "`find` and `update_one`"
BULK = "cursor and `bulk_write`, unsafe"
UPDATE_MANY = "one `update_many`, cannot be resumed"
FUNCTION = "`ctx.backfill` with a function"
PIPELINE = "`ctx.backfill` with a pipeline"


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one kind of work took each competitor; ratios are to `baseline`."""

    work: str
    title: str
    series: tuple[Series, ...]
    baseline: str = US

    def find(self, name: str) -> Series | None:
        """Find the series of a competitor."""
        return next((series for series in self.series if series.name == name), None)


@dataclass(frozen=True, slots=True)
class Bar:
    """The most that `ours` may take: so many times what `rival` takes in the same work."""

    work: str
    factor: float
    rival: str
    ours: str = US


_SAFE_PEER = peers.MONGOMIG.name

BARS = (
    Bar("help", 1.15, BARE),
    Bar("status 100", 0.55, _SAFE_PEER),
    Bar("status 1000", 0.55, _SAFE_PEER),
    Bar("status 10000", 0.8, _SAFE_PEER),
    Bar("idle", 0.55, _SAFE_PEER),
    Bar("up 100", 1.0, _SAFE_PEER),
    Bar("up 1000", 1.0, _SAFE_PEER),
    Bar("up 1000", 1.5, floor.NAME),
    Bar("down 1000", 1.5, floor.NAME),
    Bar("one on 10000", 1.0, _SAFE_PEER),
    Bar("latency", 0.6, _SAFE_PEER),
    Bar("backfill", 0.5, LOOP, ours=FUNCTION),
    Bar("backfill", 1.25, BULK, ours=FUNCTION),
    Bar("backfill", 2.0, UPDATE_MANY, ours=PIPELINE),
    Bar("far backfill", 0.2, LOOP, ours=FUNCTION),
)
"""Held by the run of 22 November 2026 that docs/performance.md shows, except `down` of 1,000 beside mongomig,
which is below the floor and so no bar."""


class Verdict(enum.Enum):
    """Whether a bar is held."""

    HELD = "held"
    MISSED = "missed"
    OPEN = "not measured"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A bar with the ratio that was found, or the reason why there is none."""

    work: str
    found: str
    limit: str
    verdict: Verdict


def judge(measurements: Sequence[Measurement]) -> tuple[Judgement, ...]:
    """Hold what was measured against its bars."""
    by_work = {measurement.work: measurement for measurement in measurements}
    return tuple(_judge(bar, by_work[bar.work]) for bar in BARS if bar.work in by_work)


def _judge(bar: Bar, measurement: Measurement) -> Judgement:
    title = measurement.title if bar.ours == US else f"{measurement.title}: {bar.ours}"
    limit = f"at most {bar.factor:g} × {bar.rival}"
    mine, rival = measurement.find(bar.ours), measurement.find(bar.rival)
    if mine is None or mine.median is None:
        reason = mine.failure if mine and mine.failure else "was not measured"
        return Judgement(title, reason, limit, Verdict.MISSED)
    if rival is None or rival.median is None:
        return Judgement(title, f"{bar.rival} has no figure", limit, Verdict.OPEN)
    ratio = mine.median / rival.median
    verdict = Verdict.HELD if ratio <= bar.factor else Verdict.MISSED
    return Judgement(title, f"{ratio:.2f} × {bar.rival}", limit, verdict)


def table(measurement: Measurement) -> str:
    """Lay out the figures: the fastest first, those without figures last."""
    baseline = measurement.find(measurement.baseline)
    ranked = sorted(measurement.series, key=lambda s: (s.median is None, s.median or 0.0))
    rows = [_row(series, baseline.median if baseline else None) for series in ranked]
    head = ("| | s | spread | ratio |", "|---|--:|--:|--:|")
    return "\n".join((f"### {measurement.title}", "", *head, *rows))


def _row(series: Series, base: float | None) -> str:
    if series.median is None:
        return f"| {series.name} | none | | {_plain(series.failure or 'no figure')} |"
    ratio = f"{series.median / base:.2f}" if base else "none"
    spread = f"{min(series.seconds):.3f} to {max(series.seconds):.3f}"
    return f"| {series.name} | {series.median:.3f} | {spread} | {ratio} |"


def bars_table(judgements: Sequence[Judgement]) -> str:
    """Lay out the bars with what was found."""
    rows = (
        f"| {one.work} | {_plain(one.found)} | {one.limit} | {one.verdict.value} |"
        for one in judgements
    )
    return "\n".join(("### Bars", "", "| work | found | bar | |", "|---|---|---|---|", *rows))


def tools_table(tools: Sequence[Installed]) -> str:
    """Lay out who takes part, in which version, and how safe it is."""
    rows = (
        f"| {one.peer.name} | {one.versions[one.peer.package]} | {one.versions['pymongo']} | {one.peer.keeps} |"
        for one in tools
    )
    head = ("| | version | pymongo | safety |", "|---|---|---|---|")
    return "\n".join(("### Tools", "", *head, *rows))


def missing_lines(missing: Sequence[Missing]) -> str:
    """Name the tools that could not be installed, with the reasons."""
    return "\n".join(
        f"- {one.name} could not be installed: {_plain(one.reason)}" for one in missing
    )


def _plain(text: str) -> str:
    return text.replace("|", "/")
