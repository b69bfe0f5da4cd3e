"""No primary answers for as long as an election takes: the run waits for it, and ends well."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pymongo
import pytest

from tests.conftest import APPNAME, uri_with
from tests.project import Project
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server.launcher import TestServer

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

PEOPLE = 400


WAITS = """
import itertools, os, time
from pathlib import Path

MARK, GO = Path(os.environ["MARK"]), Path(os.environ["GO"])
"""
"""Each step goes on until a file tells it to end: the primary is lost before."""
PLAIN = (
    WAITS
    + """
def up(db):
    for n in itertools.count():
        db.log.update_one({"_id": n % 40}, {"$set": {"done": True}}, upsert=True)
        MARK.touch()
        if n >= 40 and GO.exists():
            break
        time.sleep(0.02)
"""
)
TRANSACTIONAL = (
    WAITS
    + """
transactional = True

def up(db):
    for n in itertools.count():
        db.people.update_one({"_id": n % 40}, {"$set": {"n": 1}})
        MARK.touch()
        if n >= 40 and GO.exists():
            break
        time.sleep(0.02)
"""
)
BACKFILL = (
    WAITS
    + """
def slowly(document):
    while document["_id"] % 100 > 50 and not GO.exists():
        MARK.touch()
        time.sleep(0.02)
    return {"$inc": {"n": 1}}

def up(db, ctx):
    ctx.backfill("people", slowly, batch_size=20, workers=WORKERS)
"""
)
PLAIN_STEPS = (
    WAITS
    + """
def up(db):
    db.log.update_one({"_id": VERSION}, {"$set": {"done": True}}, upsert=True)
    MARK.touch()
    time.sleep(0.2)
"""
)


def many_steps(project: Project) -> None:
    for version in range(1, 21):
        project.write(f"{version}_step", PLAIN_STEPS.replace("VERSION", str(version)))


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
        mark, go = tmp_path / "mark", tmp_path / "go"
        process = project.spawn("up", MIGRATE_LOCK_TTL="60", MARK=str(mark), GO=str(go))
        until(mark.exists)
        time.sleep(0.1)
        assert process.poll() is None
        # It steps down first: the tests' own server forgets the answers to retried writes when it is killed.
        durable_server.step_down()
        time.sleep(0.2)
        durable_server.kill()
        time.sleep(seconds)
        durable_server.start()
        go.touch()
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, output + errors
        assert set(project.statuses().values()) == {"completed"}
        changed = {each["n"] for each in project.db.people.find({"_id": {"$lt": 40}})}
        assert changed == ({0} if "plain" in case or "steps" in case else {1})
    tally(seconds_away=seconds)
