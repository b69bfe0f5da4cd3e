"""What is measured of the command lines: looking, applying, undoing, starting."""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient

from tests.server.launcher import TestServer

from . import floor, peers, projects, proxy, report
from .measuring import Competitor, FailedError, Outcome, Rounds, Series, interleaved
from .peers import Installed, Site
from .report import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_PINGS = 300
_NEW_ON_OLD = ("Flask-Migrate-Mongo", "mongomig", "mongrate", "migrate-mongo")
_BARE_APP = """\
import os

from flask import Flask
from flask_pymongo import PyMongo

app = Flask(__name__)
app.config["MONGO_URI"] = os.environ["MONGO_URI"]
PyMongo(app)
"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything; the bars are for these sizes."""

    status: tuple[int, ...] = (10, 100, 1_000, 10_000)
    runs: tuple[int, ...] = (100, 1_000)
    idle: int = 1_000
    far: int = 100
    one_on: tuple[int, ...] = (1_000, 10_000)
    documents: int = 20_000
    far_documents: int = 5_000
    growing: tuple[int, ...] = (10_000, 50_000, 200_000)
    starts: int = 25


QUICK = Sizes((5, 20), (5, 20), 20, 5, (5, 20), 2_000, 200, (1_000, 2_000), 2)


@dataclass(frozen=True, slots=True)
class Bench:
    """Who takes part, how often, and how much of everything."""

    ours: Installed
    variants: tuple[Installed, ...]
    others: tuple[Installed, ...]
    bare: Path
    cities: Path
    folder: Path
    rounds: Rounds
    sizes: Sizes
    samples: dict[str, projects.State] = field(default_factory=dict)

    @property
    def competitors(self) -> tuple[Installed, ...]:
        """Us and the peers."""
        return (self.ours, *self.others)

    @property
    def everybody(self) -> tuple[Installed, ...]:
        """Us, also in other circumstances, what is below us, and the peers."""
        return (self.ours, *self.variants, self.floor, *self.others)

    @property
    def floor(self) -> Installed:
        """Our commands alone, in our environment."""
        return replace(self.ours, peer=floor.PEER)


class Arena:
    """A fresh server, with room for the competitors' projects."""

    def __init__(self, bench: Bench, port: int, client: MongoClient[Any], folder: Path) -> None:
        self.bench = bench
        self.port = port
        self.client = client
        self.folder = folder

    def site(self, name: str, count: int, port: int | None = None) -> Site:
        """Return a place for a project; behind a proxy its clients have to stay on that port."""
        folder = self.folder / _slug(name)
        folder.mkdir(parents=True, exist_ok=True)
        if port is None:
            return Site(folder, self.port, f"bench_{_slug(name)}", count)
        return Site(folder, port, f"bench_{_slug(name)}", count, "?directConnection=true")

    def project(
        self, competitor: Installed, count: int, port: int | None = None
    ) -> projects.Project:
        """Lay out a project of so many migrations. Raises FailedError."""
        name = competitor.peer.name
        if name not in self.bench.samples:
            site = self.site(f"{name} sample", projects.SAMPLE)
            self.bench.samples[name] = projects.sampled(competitor, site, self.client)
        site = self.site(name, count, port)
        projects.lay_out(competitor.peer, site)
        kind = floor.Floor if competitor.peer is floor.PEER else projects.Project
        return kind(competitor, site, self.client, self.bench.samples[name])

    def compared(
        self,
        who: Sequence[Installed],
        count: int,
        task: Callable[[projects.Project], Competitor],
        port: int | None = None,
        also: Sequence[Competitor] = (),
    ) -> tuple[Outcome, ...]:
        """Time one task of each, in turn, and `also` what has no project."""
        ready = list(also)
        failed: list[Outcome] = []
        for competitor in who:
            try:
                ready.append(task(self.project(competitor, count, port)))
            except FailedError as exc:
                failed.append(Outcome(competitor.peer.name, (), str(exc)))
        return (*interleaved(ready, self.bench.rounds), *failed)


@contextlib.contextmanager
def arena(bench: Bench, name: str) -> Iterator[Arena]:
    """Give a fresh server for a group of measurements."""
    with TestServer() as server:
        uri = f"mongodb://127.0.0.1:{server.port}/"
        with MongoClient[Any](uri, retryWrites=False) as client:
            yield Arena(bench, server.port, client, bench.folder / _slug(name))


def round_trip(client: MongoClient[Any]) -> float:
    """Return what a ping takes on an open connection: the median, in seconds."""
    took = []
    for _ in range(_PINGS):
        begin = time.perf_counter()
        client.admin.command("ping")
        took.append(time.perf_counter() - begin)
    return statistics.median(took)


def status(bench: Bench) -> Iterator[Measurement]:
    """Look at N migrations that are applied."""
    for count in bench.sizes.status:
        work = f"status {count}"
        with arena(bench, work) as here:
            outcomes = here.compared(bench.everybody, count, _looking(count), also=(_routes(here),))
            ping = round_trip(here.client)
        series = (
            _longer(o.seconds, ping) if o.name == report.ROUTES else o.seconds for o in outcomes
        )
        yield Measurement(work, f"`status`, {count:,} applied", tuple(series))


def _looking(applied: int) -> Callable[[projects.Project], Competitor]:
    return lambda project: project.status(applied)


def _routes(here: Arena) -> Competitor:
    site = here.site(peers.OURS.name, 0)
    command = here.bench.ours.command(("flask", "--app", "app", "routes"))
    return Competitor(report.ROUTES, command, site.folder, peers.OURS.environ(site))


def _longer(series: Series, seconds: float) -> Series:
    return Series(series.name, tuple(value + seconds for value in series.values), series.failure)


def nothing_pending(bench: Bench) -> Iterator[Measurement]:
    """Run `up` when there is nothing to do."""
    count = bench.sizes.idle
    with arena(bench, "idle") as here:
        outcomes = here.compared(
            bench.everybody, count, lambda project: project.up_with_nothing_pending()
        )
    title = f"`up` with nothing pending, {count:,} applied"
    yield _measured("nothing pending", title, outcomes)


def up(bench: Bench) -> Iterator[Measurement]:
    """Apply N migrations that do nothing."""
    for count in bench.sizes.runs:
        with arena(bench, f"up {count}") as here:
            outcomes = here.compared(bench.everybody, count, lambda p: p.up(p.fresh))
        yield _measured(f"up {count}", f"`up` of {count:,}", outcomes)


def down(bench: Bench) -> Iterator[Measurement]:
    """Undo N migrations that did nothing."""
    for count in bench.sizes.runs:
        with arena(bench, f"down {count}") as here:
            who = (*bench.competitors, bench.floor)
            outcomes = here.compared(who, count, lambda p: p.down())
        yield _measured(f"down {count}", f"`down` of {count:,}", outcomes)


def one_new(bench: Bench) -> Iterator[Measurement]:
    """Apply one migration after N that are applied."""
    who = [c for c in bench.competitors if c.peer.name in _NEW_ON_OLD]
    for count in bench.sizes.one_on:
        with arena(bench, f"one on {count}") as here:
            outcomes = here.compared(who, count + 1, _one_up(count))
        yield _measured(f"one on {count}", f"`up` of one, {count:,} applied", outcomes)


def _one_up(applied: int) -> Callable[[projects.Project], Competitor]:
    return lambda project: project.up(project.with_applied(applied))


def latency(bench: Bench) -> Iterator[Measurement]:
    """Apply migrations on a server that is 5 ms away."""
    count, away = bench.sizes.far, 5.0
    who = [c for c in bench.competitors if c.peer.takes_options]
    out = [c.peer.name for c in bench.competitors if not c.peer.takes_options]
    with arena(bench, "latency") as here, proxy.delaying(here.port, away) as port:
        outcomes = here.compared(who, count, lambda p: p.up(p.fresh), port)
        trip = _trip_through(port)
    around = "takes a host and a port alone, so that its driver goes around the proxy"
    series = (*(o.seconds for o in outcomes), *(Series(name, failure=around) for name in out))
    title = f"`up` of {count:,}, {away:g} ms away (a round trip takes {trip * 1000:.1f} ms)"
    yield Measurement("latency", title, series)


def _trip_through(port: int) -> float:
    with MongoClient[Any](f"mongodb://127.0.0.1:{port}/?directConnection=true") as client:
        return round_trip(client)


def start(bench: Bench) -> Iterator[Measurement]:
    """Start the application's command line, with the extension and without."""
    for work, argument in (("help", "--help"), ("routes", "routes")):
        with arena(bench, work) as here:
            mine, without = here.site(peers.OURS.name, 0), here.site("bare", 0)
            projects.lay_out(peers.OURS, mine)
            starts = [
                _flask(report.US, bench.ours.program, mine, argument),
                bare(bench, without, argument),
                _flask(report.BESIDE, bench.ours.program, without, argument),
            ]
            outcomes = interleaved(starts, Rounds(bench.sizes.starts))
        yield _measured(work, f"`flask {argument}`", outcomes)


def _flask(name: str, program: Path, site: Site, argument: str) -> Competitor:
    command = (str(program / "flask"), "--app", "app", argument)
    return Competitor(name, command, site.folder, {"MONGO_URI": site.uri})


def _measured(work: str, title: str, outcomes: Sequence[Outcome]) -> Measurement:
    return Measurement(work, title, tuple(outcome.seconds for outcome in outcomes))


def bare(bench: Bench, site: Site, argument: str, *, weighed: bool = False) -> Competitor:
    """Start the command line of an application without the extension."""
    (site.folder / "app.py").write_text(_BARE_APP, encoding="utf-8")
    return replace(_flask(report.BARE, bench.bare, site, argument), weighed=weighed)


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower())
