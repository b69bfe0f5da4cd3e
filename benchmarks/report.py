"""What was measured, held against the bars, as tables for the terminal and for the documents."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import peers
from .environments import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .measuring import Series
    from .peers import Missing

PAGE = ROOT / "docs" / "performance.md"
BEGIN = "<!-- `make bench WRITE=1` writes from here -->"
END = "<!-- to here -->"

US = peers.OURS.name
ROUTES = "`flask routes` of the same application, and one round trip"
ALONE = "the same commands alone"
BARE = "the application without it"
BESIDE = "the application without it, in the same environment"
LOOP = "`find` and `update_one`"
BULK = "cursor and `bulk_write`, unsafe"
UPDATE_MANY = "one `update_many`, cannot be resumed"
FUNCTION = "`ctx.backfill` with a function"
PIPELINE = "`ctx.backfill` with a pipeline"

PYTHON_PEERS = tuple(peer.name for peer in peers.IN_PYTHON)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one kind of work took each competitor; ratios are to `baseline`."""

    work: str
    title: str
    series: tuple[Series, ...]
    baseline: str = US
    unit: str = "s"

    def median(self, name: str) -> float | None:
        """Return the median of a competitor, None if it has none."""
        return next((series.median for series in self.series if series.name == name), None)

    def medians(self, names: Sequence[str]) -> dict[str, float]:
        """Return the medians of those competitors that have one."""
        return {name: median for name in names if (median := self.median(name)) is not None}

    def failure(self, name: str) -> str | None:
        """Return why a competitor has none."""
        return next((series.failure for series in self.series if series.name == name), None)


@dataclass(frozen=True, slots=True)
class Bar:
    """How much `ours` may need of it: so many times the best of `rivals`, and so much on top.

    The rivals are looked up in the measurement `of`, when that is another one.
    """

    work: str
    factor: float
    rivals: tuple[str, ...]
    ours: str = US
    of: str | None = None
    plus_mb: float = 0.0


BARS = (
    *(
        Bar(f"status {count}", factor, rivals)
        for count in (100, 1_000)
        for factor, rivals in ((0.55, PYTHON_PEERS), (1.1, (ROUTES,)), (1.0, ("migrate-mongo",)))
    ),
    Bar("status 10000", 0.8, (*PYTHON_PEERS, "migrate-mongo")),
    Bar("nothing pending", 0.55, PYTHON_PEERS),
    Bar("up 100", 0.8, ("mongrate",)),
    Bar("up 100", 0.8, ("mongrator",)),
    Bar("up 100", 0.4, ("mongomig",)),
    Bar("up 1000", 0.45, ("mongomig",)),
    Bar("up 1000", 1.1, ("migrate-mongo",)),
    Bar("latency", 0.6, ("mongomig",)),
    Bar("down 1000", 2.0, (US,), of="up 1000"),
    *(
        Bar("down 1000", 1.0, (rival,))
        for rival in ("mongrate", "migrate-mongo", "mongodb-migrations", "mongomig")
    ),
    Bar("one on 10000", 3.0, (US,), of="one on 1000"),
    Bar("backfill", 1 / 2.0, (LOOP,), ours=FUNCTION),
    Bar("backfill", 1.25, (BULK,), ours=FUNCTION),
    Bar("backfill", 1 / 0.5, (UPDATE_MANY,), ours=PIPELINE),
    Bar("backfill latency", 1 / 8.0, (LOOP,), ours=FUNCTION),
    Bar("memory", 1.0, (BARE,), ours=FUNCTION, plus_mb=100.0),
    Bar("help", 1.05, (BARE,)),
)


class Verdict(enum.Enum):
    """Whether a bar is held."""

    HELD = "held"
    MISSED = "missed"
    OPEN = "not measured"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A bar and what came out of it: the ratio to the best rival, or why there is none."""

    work: str
    found: str
    limit: str
    verdict: Verdict


def judged(measurements: Sequence[Measurement]) -> tuple[Judgement, ...]:
    """Hold what was measured against its bars."""
    by_work = {measurement.work: measurement for measurement in measurements}
    return tuple(
        _judge(bar, by_work[bar.work], by_work.get(bar.of or bar.work))
        for bar in BARS
        if bar.work in by_work
    )


def _judge(bar: Bar, measurement: Measurement, other: Measurement | None) -> Judgement:
    title = measurement.title if bar.ours == US else f"{measurement.title}: {bar.ours}"
    limit = _limit(bar)
    mine = measurement.median(bar.ours)
    if mine is None:
        reason = measurement.failure(bar.ours) or "it took no part"
        return Judgement(title, reason, limit, Verdict.MISSED)
    figures = other.medians(bar.rivals) if other else {}
    if other is None or not figures:
        return Judgement(title, "no rival has a figure", limit, Verdict.OPEN)
    rival = min(figures, key=lambda name: figures[name])
    held = mine <= bar.factor * figures[rival] + bar.plus_mb
    found = f"{mine / figures[rival]:.2f} × {rival if bar.of is None else other.title}"
    return Judgement(title, found, limit, Verdict.HELD if held else Verdict.MISSED)


def _limit(bar: Bar) -> str:
    best = "the best Python peer" if bar.rivals == PYTHON_PEERS else "the best peer"
    rival = bar.rivals[0] if len(bar.rivals) == 1 else best
    more = f" and {bar.plus_mb:g} MB" if bar.plus_mb else ""
    return f"at most {bar.factor:.4g} × {bar.of or rival}{more}"


def missed(judgements: Sequence[Judgement]) -> tuple[Judgement, ...]:
    """Return those that are missed."""
    return tuple(judgement for judgement in judgements if judgement.verdict is Verdict.MISSED)


# --- tables


def table(measurement: Measurement) -> str:
    """Return the figures of all competitors, the fastest first, those without figures last."""
    base = measurement.median(measurement.baseline)
    ranked = sorted(measurement.series, key=lambda s: (s.median is None, s.median or 0.0))
    rows = [_row(series, base, measurement.unit) for series in ranked]
    head = (f"| | {measurement.unit} | spread | ratio |", "|---|--:|--:|--:|")
    return "\n".join((f"### {measurement.title}", "", *head, *rows))


def _row(series: Series, base: float | None, unit: str) -> str:
    if series.median is None:
        return f"| {series.name} | none | | {_plain(series.failure or 'no figure')} |"
    digits = 0 if unit == "MB" else 3
    low, high = min(series.values), max(series.values)
    ratio = f"{series.median / base:.2f}" if base else "none"
    spread = f"{low:.{digits}f} to {high:.{digits}f}"
    return f"| {series.name} | {series.median:.{digits}f} | {spread} | {ratio} |"


def bars_table(judgements: Sequence[Judgement]) -> str:
    """Return the bars and what came out of them."""
    rows = (
        f"| {one.work} | {_plain(one.found)} | {one.limit} | {one.verdict.value} |"
        for one in judgements
    )
    return "\n".join(("### Bars", "", "| work | found | bar | |", "|---|---|---|---|", *rows))


def missing_lines(missing: Sequence[Missing]) -> str:
    """Return who could not be installed, and why."""
    return "\n".join(
        f"- {one.name} could not be installed: {_plain(one.reason)}" for one in missing
    )


def _plain(text: str) -> str:
    return text.replace("|", "/")


# --- the page


def written(page: str, section: str) -> str:
    """Return the page with the generated section replaced."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        msg = f"{PAGE.name} lacks the lines {BEGIN!r} and {END!r}."
        raise ValueError(msg)
    return f"{before}{BEGIN}\n\n{section.strip()}\n\n{END}{after}"


def parsed(page: str) -> dict[str, list[list[str]]]:
    """Return the tables of the generated section by their titles, as rows of cells."""
    section = page.partition(BEGIN)[2].partition(END)[0]
    tables: dict[str, list[list[str]]] = {}
    title = ""
    for line in section.splitlines():
        if line.startswith("### "):
            title = line[4:]
        elif line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            tables.setdefault(title, []).append(cells)
    return {title: rows[2:] for title, rows in tables.items()}
