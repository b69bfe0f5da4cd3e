"""The floor of the benchmarks: our commands sent again, without us, do the same work."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient

from benchmarks import floor, measuring, projects, replay
from benchmarks.environments import ROOT
from benchmarks.floor import Floor
from benchmarks.measuring import Competitor, FailedError, Run
from benchmarks.peers import Installed, Site
from tests.server.launcher import TestServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COUNT = 5


@pytest.fixture
def below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Floor]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    installed = Installed(floor.PEER, Path(sys.executable).parent, "of this folder")
    with TestServer() as server:
        site = Site(tmp_path, server.port, "floor", COUNT)
        with MongoClient[dict[str, Any]](site.uri, retryWrites=False) as client:
            first = Site(tmp_path, server.port, "sample", projects.SAMPLE)
            sample = projects.sampled(installed, first, client)
            projects.lay_out(floor.PEER, site)
            yield Floor(installed, site, client, sample)


def run(competitor: Competitor) -> Run:
    """Time it once, which raises when what it should have done is not there."""
    return measuring.timed(competitor, measuring.LIMIT_SECONDS)


@pytest.mark.parametrize(
    "task",
    [
        lambda below: below.status(COUNT),
        lambda below: below.up_with_nothing_pending(),
        lambda below: below.up(below.fresh),
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


def test_what_is_not_sent_again_leaves_the_floor_without_a_figure(below: Floor) -> None:
    alone = below.up(below.fresh)
    (alone.folder / replay.RECORDING).write_bytes(b"")
    with pytest.raises(FailedError, match="did not record what it did"):
        run(alone)


def test_what_reads_less_than_ours_has_read_leaves_the_floor_without_a_figure(
    below: Floor,
) -> None:
    alone = replace(below.status(COUNT), prepare=below.with_applied(COUNT - 1))
    with pytest.raises(
        FailedError, match=r"aggregate is answered with \[5, 0, 0\], not \[6, 0, 0\]"
    ):
        run(alone)


def test_what_changes_less_than_ours_has_changed_leaves_the_floor_without_a_figure(
    below: Floor,
) -> None:
    alone = replace(below.up(below.fresh), prepare=below.with_applied(COUNT))
    with pytest.raises(FailedError, match=r"is answered with"):
        run(alone)
