"""A backfill that is not idempotent is killed with -9 at random instants, and resumes each time."""

from __future__ import annotations

import random
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from flask_migrate_mongo.store.lease import LOCK_ID

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.project import Project

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3_600)]

VERSION = 20261101001
PEOPLE = 2_000
BATCH = 20

SOURCE = """
def increment(doc):
    return {{"$inc": {{"n": 1}}}}


def up(db, ctx):
    ctx.backfill("people", {change}, batch_size={batch}{workers})
"""

CHANGES = {"an update": '{"$inc": {"n": 1}}', "a function": "increment"}


def begun(project: Project) -> int:
    """Count the documents that were changed."""
    return project.db.people.count_documents({"n": {"$gte": 1}})


def kill_one_run(project: Project, rng: random.Random) -> bool:
    """Start a run and kill it after its first change. Returns whether it was still running."""
    before = begun(project)
    process = project.spawn("up")
    while process.poll() is None and begun(project) == before:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.15))
    process.kill()
    _, stderr = process.communicate()
    assert process.returncode <= 0, stderr
    now = project.db.client.admin.command("hello")["localTime"]
    project.db.migration_locks.update_one(
        {"_id": LOCK_ID, "locked": True}, {"$set": {"expiresAt": now - timedelta(seconds=1)}}
    )
    return process.returncode < 0


def prepare(project: Project, change: str, workers: int) -> None:
    source = SOURCE.format(
        change=change, batch=BATCH, workers=f", workers={workers}" if workers > 1 else ""
    )
    project.write(f"{VERSION}_increment", source)
    project.db.client.drop_database(project.db.name)
    project.db.people.insert_many([{"_id": n} for n in range(PEOPLE)])


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_backfill_that_is_killed_repeatedly_changes_every_document_once(
    project: Project,
    rounds: Callable[[int, int], int],
    tally: Callable[..., None],
    change: str,
    workers: int,
) -> None:
    rng = random.Random(workers)
    kills = backfills = 0
    wanted = rounds(3, 50)
    while kills < wanted:
        prepare(project, change, workers)
        backfills += 1
        while kills < wanted and project.statuses().get(VERSION) != "completed":
            kills += kill_one_run(project, rng)
        finished = project.run("up", timeout=120)
        assert finished.returncode == 0, finished.stderr
        wrong = list(project.db.people.find({"n": {"$ne": 1}}).limit(5))
        assert wrong == []
        assert project.statuses() == {VERSION: "completed"}
    tally(kills=kills, backfills=backfills, wrong_documents=0)
