"""The floor of the benchmarks: our commands, sent again without us, do the same work."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pymongo import MongoClient

from benchmarks import floor, measuring, projects, replay
from benchmarks.floor import Floor
from benchmarks.measuring import Competitor, FailedError, Run
from benchmarks.peers import Document, Installed, Site
from tests.project import PYTHON_PATH
from tests.server.launcher import TestServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COUNT = 5


@pytest.fixture(scope="module")
def server() -> Iterator[TestServer]:
    """A server of these tests' own: what ours writes must not depend on others."""
    with TestServer() as server:
        yield server


@pytest.fixture
def below(server: TestServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Floor]:
    monkeypatch.setenv("PYTHONPATH", PYTHON_PATH)
    installed = Installed(floor.PEER, Path(sys.executable).parent, {})
    site = Site(tmp_path, server.port, "floor", COUNT)
    with MongoClient[Document](site.uri, retryWrites=False) as client:
        first = Site(tmp_path, server.port, "sample", projects.SAMPLE)
        sample = projects.apply_sample(installed, first, client)
        projects.lay_out(floor.PEER, site)
        yield Floor(installed, site, client, sample)
        client.drop_database("floor")


def run(competitor: Competitor) -> Run:
    """Time it once, which raises when it did not do its work."""
    return measuring.timed(competitor, measuring.LIMIT_SECONDS)


@pytest.mark.parametrize(
    "task",
    [
        lambda below: below.status(),
        lambda below: below.up_with_nothing_pending(),
        lambda below: below.up(),
        lambda below: below.down(),
    ],
    ids=["status", "nothing pending", "up", "down"],
)
def test_the_same_commands_do_the_same_work_again_and_again(
    below: Floor, task: Callable[[Floor], Competitor]
) -> None:
    alone = task(below)
    assert "db-migrate" not in alone.command
    assert [run(alone).output for _ in range(2)] == ["", ""]


def test_a_floor_that_writes_nothing_has_no_figure(below: Floor) -> None:
    alone = below.up()
    (alone.folder / replay.RECORDING).write_bytes(b"")
    with pytest.raises(FailedError, match="did not record its work"):
        run(alone)


def test_a_floor_that_reads_less_than_ours_has_no_figure(below: Floor) -> None:
    alone = replace(below.status(), prepare=below.with_applied(COUNT - 1))
    with pytest.raises(FailedError, match=r"has the reply \[\d+, 0, 0\], not \[\d+, 0, 0\]"):
        run(alone)


def test_a_floor_that_changes_less_than_ours_has_no_figure(below: Floor) -> None:
    alone = replace(below.up(), prepare=below.with_applied(COUNT))
    with pytest.raises(FailedError, match="has the reply"):
        run(alone)
