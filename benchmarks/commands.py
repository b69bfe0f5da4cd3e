"""Measure the command lines: looking, applying, rolling back, starting."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pymongo import MongoClient

from tests.server.launcher import TestServer

from . import floor, peers, projects, proxy, report
from .measuring import Competitor, FailedError, Rounds, Series, interleaved
from .peers import Document, Installed, Site
from .report import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from .projects import Project

_AWAY_MS = 5.0
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
    starts: int = 25


QUICK = Sizes((5, 20), (5, 20), 20, 5, (5, 20), 2_000, 200, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Who takes part, how often, and how much of everything."""

    ours: Installed
    others: tuple[Installed, ...]
    bare: Path
    cities: Path
    folder: Path
    rounds: Rounds
    sizes: Sizes
    samples: dict[str, projects.State] = field(default_factory=dict)

    @property
    def tools(self) -> tuple[Installed, ...]:
        """Ours and the others."""
        return (self.ours, *self.others)

    @property
    def everybody(self) -> tuple[Installed, ...]:
        """The tools and the floor."""
        return (self.ours, replace(self.ours, peer=floor.PEER), *self.others)


class Arena:
    """A fresh server, with a folder for the projects."""

    def __init__(
        self, bench: Bench, port: int, client: MongoClient[Document], folder: Path
    ) -> None:
        self.bench = bench
        self.port = port
        self.client = client
        self._folder = folder

    def site(self, name: str, count: int, port: int | None = None) -> Site:
        """Choose a place for a project; behind a proxy its clients have to stay on that port."""
        folder = self._folder / _slug(name)
        folder.mkdir(parents=True, exist_ok=True)
        if port is None:
            return Site(folder, self.port, f"bench_{_slug(name)}", count)
        return Site(folder, port, f"bench_{_slug(name)}", count, "?directConnection=true")

    def project(self, tool: Installed, count: int, port: int | None = None) -> Project:
        """Lay out a project of so many migrations. Raises FailedError."""
        name = tool.peer.name
        if name not in self.bench.samples:
            site = self.site(f"{name} sample", projects.SAMPLE)
            self.bench.samples[name] = projects.apply_sample(tool, site, self.client)
        site = self.site(name, count, port)
        projects.lay_out(tool.peer, site)
        kind = floor.Floor if tool.peer is floor.PEER else projects.Project
        return kind(tool, site, self.client, self.bench.samples[name])

    def compare(
        self,
        tools: Sequence[Installed],
        count: int,
        task: Callable[[Project], Competitor],
        port: int | None = None,
    ) -> tuple[Series, ...]:
        """Time one task of each, in turn."""
        ready: list[Competitor] = []
        failed: list[Series] = []
        for tool in tools:
            try:
                ready.append(task(self.project(tool, count, port)))
            except FailedError as exc:
                failed.append(Series(tool.peer.name, failure=str(exc)))
        return (*interleaved(ready, self.bench.rounds), *failed)


@contextlib.contextmanager
def arena(bench: Bench, name: str) -> Iterator[Arena]:
    """Start a fresh server for a group of measurements."""
    with TestServer() as server:
        uri = f"mongodb://127.0.0.1:{server.port}/"
        with MongoClient[Document](uri, retryWrites=False) as client:
            yield Arena(bench, server.port, client, bench.folder / _slug(name))


def start(bench: Bench) -> Iterator[Measurement]:
    """Start the application's command line, with the extension and without."""
    for work, argument in (("help", "--help"), ("routes", "routes")):
        with arena(bench, work) as here:
            mine, without = here.site(peers.OURS.name, 0), here.site("bare", 0)
            (mine.folder / "app.py").write_text(peers.APP, encoding="utf-8")
            (without.folder / "app.py").write_text(_BARE_APP, encoding="utf-8")
            starts = (
                _flask(report.US, bench.ours.program, mine, argument),
                _flask(report.BARE, bench.bare, without, argument),
            )
            series = interleaved(starts, replace(bench.rounds, fast=bench.sizes.starts))
        yield Measurement(work, f"`flask {argument}`", series)


def _flask(name: str, program: Path, site: Site, argument: str) -> Competitor:
    command = (str(program / "flask"), "--app", "app", argument)
    return Competitor(name, command, site.folder, peers.environ(site))


def status(bench: Bench) -> Iterator[Measurement]:
    """Look at N applied migrations."""
    for count in bench.sizes.status:
        with arena(bench, f"status {count}") as here:
            series = here.compare(bench.everybody, count, lambda project: project.status())
        yield Measurement(f"status {count}", f"`status`, {count:,} applied", series)


def nothing_pending(bench: Bench) -> Iterator[Measurement]:
    """Run `up` when there is nothing to do."""
    count = bench.sizes.idle
    with arena(bench, "idle") as here:
        series = here.compare(
            bench.everybody, count, lambda project: project.up_with_nothing_pending()
        )
    yield Measurement("idle", f"`up` with nothing pending, {count:,} applied", series)


def up(bench: Bench) -> Iterator[Measurement]:
    """Apply N migrations that do nothing."""
    for count in bench.sizes.runs:
        with arena(bench, f"up {count}") as here:
            series = here.compare(bench.everybody, count, lambda project: project.up())
        yield Measurement(f"up {count}", f"`up` of {count:,}", series)


def down(bench: Bench) -> Iterator[Measurement]:
    """Roll back N migrations that did nothing."""
    for count in bench.sizes.runs:
        with arena(bench, f"down {count}") as here:
            series = here.compare(bench.everybody, count, lambda project: project.down())
        yield Measurement(f"down {count}", f"`down` of {count:,}", series)


def one_new(bench: Bench) -> Iterator[Measurement]:
    """Apply one migration after N that are applied."""
    for count in bench.sizes.one_on:
        with arena(bench, f"one on {count}") as here:
            series = here.compare(bench.tools, count + 1, _one_up)
        yield Measurement(f"one on {count}", f"`up` of one, {count:,} applied", series)


def _one_up(project: Project) -> Competitor:
    return project.up(applied=project.count - 1)


def latency(bench: Bench) -> Iterator[Measurement]:
    """Apply migrations on a server that is some milliseconds away."""
    count = bench.sizes.far
    with arena(bench, "latency") as here, proxy.delaying(here.port, _AWAY_MS) as port:
        series = here.compare(bench.tools, count, lambda project: project.up(), port)
    yield Measurement("latency", f"`up` of {count:,}, {_AWAY_MS:g} ms away", series)


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower())
