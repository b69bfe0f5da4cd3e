"""The server is killed in the middle of a run, and comes back on its data."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pymongo
import pytest

from flask_migrate_mongo.store.lease import LOCK_ID
from tests.chaos.test_kills import PEOPLE, PLAIN, TRANSACTIONAL, agree, write
from tests.conftest import APPNAME, uri_with
from tests.integration.test_backfill_recovery import expire
from tests.project import Project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server.launcher import TestServer

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1_800)]


def test_the_next_run_finishes_after_the_server_was_killed(
    durable_server: TestServer,
    tmp_path: Path,
    rounds: Callable[[int, int], int],
    tally: Callable[..., None],
) -> None:
    rng = random.Random(7)
    wanted = rounds(3, 20)
    recovered = failed_runs = 0
    uri = uri_with(durable_server.uri, "crash", f"appname={APPNAME}")
    with pymongo.MongoClient[dict[str, Any]](uri) as client:
        project = Project(tmp_path, client.crash, uri)
        write(project)
        for _ in range(wanted):
            client.drop_database("crash")
            project.db.people.insert_many([{"n": n} for n in range(PEOPLE)])
            failed_runs += crash(project, durable_server, rng.uniform(0, 0.5))
            assert [v for v in TRANSACTIONAL if not agree(project, v)] == []
            expire(project)
            finished = project.run("up", "--wait", "30", MIGRATE_LOCK_TTL="2", timeout=120)
            assert finished.returncode == 0, finished.stderr
            assert project.statuses() == dict.fromkeys((*TRANSACTIONAL, *PLAIN), "completed")
            assert [v for v in TRANSACTIONAL if not agree(project, v)] == []
            recovered += 1
    tally(crashes=wanted, runs_that_failed=failed_runs, recovered=recovered)


def crash(project: Project, server: TestServer, delay: float) -> bool:
    """Kill the server so long after the run took its lease, and bring it back; whether the run failed."""
    process = project.spawn("up", MIGRATE_LOCK_TTL="4")
    while process.poll() is None and project.db.migration_locks.find_one({"_id": LOCK_ID}) is None:
        time.sleep(0.005)
    time.sleep(delay)
    server.kill()
    time.sleep(0.5)
    server.start()
    process.communicate(timeout=120)
    return process.returncode != 0
