"""Many processes start at once; each migration runs exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.project import Project

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1_800)]

VERSIONS = range(20261101001, 20261101021)


def race(project: Project, processes: int, *args: str) -> list[int]:
    """Start all of them, then return their exit codes."""
    running = [project.spawn("up", *args) for _ in range(processes)]
    for process in running:
        process.communicate(timeout=300)
    return [process.returncode for process in running]


def assert_each_ran_once(project: Project) -> None:
    assert sorted(d["version"] for d in project.db.done.find()) == list(VERSIONS)
    assert project.statuses() == dict.fromkeys(VERSIONS, "completed")
    for version in VERSIONS:
        assert project.trail(version) == ["started", "completed"]


@pytest.mark.parametrize("args", [(), ("--wait", "240")], ids=["at once", "waiting"])
def test_promise_1_at_most_one_runner_changes_the_database(
    project: Project,
    rounds: Callable[[int, int], int],
    tally: Callable[..., None],
    args: tuple[str, ...],
) -> None:
    """Promise 1: at most one runner changes the database."""
    processes, wanted = rounds(8, 32), rounds(3, 20)
    project.write_inserts(*VERSIONS)
    codes: list[int] = []
    for _ in range(wanted):
        project.db.client.drop_database(project.db)
        codes += race(project, processes, *args)
        assert_each_ran_once(project)
    allowed = {0} if args else {0, 3}
    assert set(codes) <= allowed, codes
    tally(
        rounds=wanted,
        processes=len(codes),
        exited_with_0=codes.count(0),
        exited_with_3=codes.count(3),
        violations=0,
    )
