"""No primary answers for as long as an election takes: the run waits for it, and ends well."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pymongo
import pytest

from tests.conftest import APPNAME, uri_with
from tests.project import Project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server.launcher import TestServer

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

PEOPLE = 400


PLAIN = """
import time

def up(db):
    for n in range(40):
        db.log.update_one({"_id": n}, {"$set": {"done": True}}, upsert=True)
        time.sleep(0.02)
"""
TRANSACTIONAL = """
import time
transactional = True

def up(db):
    for n in range(40):
        db.people.update_one({"_id": n}, {"$inc": {"n": 1}})
        time.sleep(0.02)
"""
BACKFILL = """
import time

def slowly(document):
    time.sleep(0.002)
    return {"$inc": {"n": 1}}

def up(db, ctx):
    ctx.backfill("people", slowly, batch_size=20, workers=WORKERS)
"""
PLAIN_STEPS = "def up(db):\n    db.log.insert_one({'_id': %d})\n    __import__('time').sleep(0.1)\n"


def many_steps(project: Project) -> None:
    for version in range(1, 21):
        project.write(f"{version}_step", PLAIN_STEPS % version)


CASES: dict[str, Callable[[Project], object]] = {
    "many steps": many_steps,
    "one plain step": lambda project: project.write("1_plain", PLAIN),
    "a transactional step": lambda project: project.write("1_transactional", TRANSACTIONAL),
    "a backfill": lambda p: p.write("1_backfill", BACKFILL.replace("WORKERS", "1")),
    "a backfill with workers": lambda p: p.write("1_backfill", BACKFILL.replace("WORKERS", "4")),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_outlasts_an_election(
    durable_server: TestServer,
    tmp_path: Path,
    rounds: Callable[[int, int], int],
    tally: Callable[..., None],
    case: str,
) -> None:
    seconds = rounds(3, 12)
    uri = uri_with(durable_server.uri, "failover", f"appname={APPNAME}")
    with pymongo.MongoClient[dict[str, Any]](uri) as client:
        project = Project(tmp_path, client.failover, uri)
        CASES[case](project)
        project.db.people.insert_many([{"_id": n, "n": 0} for n in range(PEOPLE)])
        process = project.spawn("up", MIGRATE_LOCK_TTL="60")
        while process.poll() is None and not project.db.migrations.find_one({"status": "running"}):
            time.sleep(0.005)
        time.sleep(0.3)
        assert process.poll() is None
        durable_server.kill()
        time.sleep(seconds)
        durable_server.start()
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, output + errors
        assert set(project.statuses().values()) == {"completed"}
        changed = {each["n"] for each in project.db.people.find({"_id": {"$lt": 40}})}
        assert changed == ({0} if "plain" in case or "steps" in case else {1})
    tally(seconds_away=seconds)
