"""A runner is killed with -9 at random instants, over and over."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from flask_migrate_mongo.store.lease import LOCK_ID
from tests.conftest import APPNAME, uri_with
from tests.integration.test_backfill_recovery import expire
from tests.project import Project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pymongo import MongoClient
    from pymongo.database import Database

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3_600)]

LANES = 4
TRANSACTIONAL = (20261101001, 20261101003, 20261101005)
PLAIN = (20261101002, 20261101004, 20261101006)
PEOPLE = 100
STATEMENTS = 5

# Five statements each: an increment shows a transaction that was half kept, or kept twice.
SOURCE = """
transactional = {transactional}
idempotent = {idempotent}


def up(db):
    for number in range({statements}):
        db.people.update_many({{}}, {{"{operator}": {{"v{version}": {value}}}}})
"""


class Round(NamedTuple):
    """What one kill found."""

    killed: bool
    interrupted: int
    disagreements: int
    failed_recoveries: int


def write(project: Project) -> None:
    for version in (*TRANSACTIONAL, *PLAIN):
        transactional = version in TRANSACTIONAL
        source = SOURCE.format(
            transactional=transactional,
            idempotent=not transactional,
            statements=STATEMENTS,
            operator="$inc" if transactional else "$set",
            version=version,
            value=1 if transactional else "number",
        )
        project.write(f"{version}_change", source)


def one_round(project: Project, rng: random.Random) -> Round:
    """Start a run, kill it at some instant, look, and let the next run finish."""
    project.db.client.drop_database(project.db)
    project.db.people.insert_many([{"n": n} for n in range(PEOPLE)])
    process = project.spawn("up", MIGRATE_LOCK_TTL="2")
    while process.poll() is None and project.db.migration_locks.find_one({"_id": LOCK_ID}) is None:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.25))
    process.kill()
    process.communicate()
    killed = process.returncode != 0
    disagreements = len([v for v in TRANSACTIONAL if not agree(project, v)])
    # The lease ends now, and not in two seconds: that the next run waits for it is tested elsewhere.
    expire(project)
    finished = project.run("up", "--wait", "30", MIGRATE_LOCK_TTL="2", timeout=120)
    complete = project.statuses() == dict.fromkeys((*TRANSACTIONAL, *PLAIN), "completed")
    once = all(agree(project, version) for version in TRANSACTIONAL)
    last = {f"v{version}": STATEMENTS - 1 for version in PLAIN}
    whole = project.db.people.count_documents(last) == PEOPLE
    interrupted = project.db.migrations.count_documents({"metadata.events.event": "interrupted"})
    recovered = finished.returncode == 0 and complete and once and whole
    return Round(killed, interrupted, disagreements, 0 if recovered else 1)


def agree(project: Project, version: int) -> bool:
    """Whether the record says what the data says: all of it, or none of it."""
    field = f"v{version}"
    while True:
        status = status_of(project, version)
        wanted: dict[str, Any] = {
            field: STATEMENTS if status == "completed" else {"$exists": False}
        }
        agreeing = project.db.people.count_documents(wanted) == PEOPLE
        # The commit of a run that was killed can take effect between the two.
        if status_of(project, version) == status:
            return agreeing


def status_of(project: Project, version: int) -> str | None:
    return (project.db.migrations.find_one({"version": str(version)}) or {}).get("status")


def lane(db: Database[Any], root: Path, uri: str, seed: int, wanted: int) -> list[Round]:
    root.mkdir()
    project = Project(root, db, uri)
    write(project)
    rng = random.Random(seed)
    return [one_round(project, rng) for _ in range(wanted)]


def test_promise_2_data_and_record_agree_after_a_kill_at_any_instant(
    db: Database[Any],
    admin: MongoClient[Any],
    mongo_uri: str,
    tmp_path: Path,
    rounds: Callable[[int, int], int],
    tally: Callable[..., None],
) -> None:
    """Promise 2: transactional: data and record agree after a kill at any instant."""
    names = [f"{db.name}_{number}" for number in range(LANES)]
    wanted = -(-rounds(20, 300) // LANES)
    try:
        with ThreadPoolExecutor(LANES) as pool:
            lanes = [
                pool.submit(
                    lane,
                    db.client[name],
                    tmp_path / name,
                    uri_with(mongo_uri, name, f"appname={APPNAME}"),
                    seed,
                    wanted,
                )
                for seed, name in enumerate(names)
            ]
            results = [found for future in lanes for found in future.result()]
    finally:
        for name in names:
            admin.drop_database(name)
    tally(
        kills=sum(r.killed for r in results),
        runs=len(results),
        interrupted_steps=sum(r.interrupted for r in results),
        disagreements=sum(r.disagreements for r in results),
        failed_recoveries=sum(r.failed_recoveries for r in results),
    )
    assert sum(r.killed for r in results) > len(results) / 2, "too few runs were hit at all"
    assert sum(r.interrupted for r in results) > 0, "no step was hit at all"
    assert [r for r in results if r.disagreements or r.failed_recoveries] == []
