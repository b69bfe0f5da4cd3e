"""Several workers on one backfill: threads, processes, and a Dask cluster."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.test_backfill import VERSION, counts, up, values
from tests.project import PYTHON_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.project import Project

PEOPLE = 400

SOURCE = """
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context

STEP = 1


def increment(doc):
    {body}
    return {{"$inc": {{"n": STEP}}}}


def up(db, ctx):
    with {executor} as executor:
        done = ctx.backfill("people", {change}, batch_size=10, workers=executor, ranges={ranges})
    db.results.insert_one(asdict(done))
"""

EXECUTORS = {
    "threads": "ThreadPoolExecutor(2)",
    "processes": 'ProcessPoolExecutor(2, mp_context=get_context("spawn"))',
}


def prepare(
    project: Project,
    executor: str,
    *,
    change: str = "increment",
    body: str = "pass",
    ranges: int = 4,
    people: int = PEOPLE,
) -> None:
    source = SOURCE.format(executor=executor, change=change, body=body, ranges=ranges)
    project.write(f"{VERSION}_increment", source)
    project.db.people.insert_many([{"_id": n} for n in range(people)])


def ranges_left(project: Project) -> int:
    return project.db["migrations.ranges"].count_documents({})


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("people", [0, 1, 3, PEOPLE])
def test_threads_share_a_backfill(project: Project, workers: int, people: int) -> None:
    if people:
        project.db.people.insert_many([{"_id": n} for n in range(people)])
    project.write(
        f"{VERSION}_increment",
        f"""
from dataclasses import asdict

def up(db, ctx):
    done = ctx.backfill("people", {{"$inc": {{"n": 1}}}}, workers={workers}, batch_size=10)
    db.results.insert_one(asdict(done))
""",
    )
    up(project)
    assert values(project) == [1] * people
    assert counts(project)["modified"] == people
    assert ranges_left(project) == 0


@pytest.mark.parametrize("where", ["{}", '{"n": None}'])
def test_documents_inserted_above_are_found_after_the_last_range_was_done(
    project: Project, where: str
) -> None:
    project.db.people.insert_many([{"_id": n} for n in range(PEOPLE)])
    project.write(
        f"{VERSION}_increment",
        f"""
import time

def up(db, ctx):
    def increment(doc):
        while doc["_id"] == 5 and db["migrations.ranges"].count_documents({{"state.phase": "done"}}) < 1:
            time.sleep(0.01)
        if doc["_id"] == 5:
            db.people.insert_many([{{"_id": 10_000}}, {{"_id": 10_001}}])
        return {{"$inc": {{"n": 1}}}}

    ctx.backfill("people", increment, workers=2, batch_size=10, where={where})
""",
    )
    up(project)
    assert values(project) == [1] * (PEOPLE + 2)


def test_the_part_above_the_ranges_resumes_too(project: Project) -> None:
    project.db.people.insert_many([{"_id": n} for n in range(PEOPLE)])
    project.write(
        f"{VERSION}_increment",
        """
import time
from dataclasses import asdict

def up(db, ctx):
    def increment(doc):
        while doc["_id"] == 5 and db["migrations.ranges"].count_documents({"state.phase": "done"}) < 1:
            time.sleep(0.01)
        if doc["_id"] == 5:
            db.people.insert_many([{"_id": n} for n in range(10_000, 10_020)])
        if doc["_id"] == ctx.app.config.get("FAIL_AT"):
            raise ValueError("not yet")
        return {"$inc": {"n": 1}}

    done = ctx.backfill("people", increment, workers=2, batch_size=10)
    db.results.insert_one(asdict(done))
""",
    )
    assert len(project.runner(FAIL_AT=10_012).up().failures) == 1
    assert values(project) == [1] * (PEOPLE + 10) + [None] * 10
    assert ranges_left(project) == 2
    up(project)
    assert values(project) == [1] * (PEOPLE + 20)
    assert counts(project)["modified"] == PEOPLE + 20
    assert ranges_left(project) == 0
    events = project.record(VERSION)["metadata"]["events"]
    assert [e["scanned"] for e in events if e["event"] == "resumed"] == [PEOPLE + 10]


@pytest.mark.parametrize("executor", EXECUTORS.values(), ids=EXECUTORS)
@pytest.mark.parametrize("change", ["increment", '{"$inc": {"n": 1}}'])
def test_any_executor_is_accepted(project: Project, executor: str, change: str) -> None:
    prepare(project, executor, change=change)
    done = project.run("up")
    assert done.returncode == 0, done.stderr
    assert values(project) == [1] * PEOPLE
    assert counts(project)["modified"] == PEOPLE
    assert ranges_left(project) == 0


def test_a_process_that_dies_fails_the_run_and_the_next_one_resumes(project: Project) -> None:
    body = 'if doc["_id"] == 150 and os.environ.get("DIE"): os._exit(9)'
    prepare(project, EXECUTORS["processes"], body=body)
    died = project.run("up", DIE="1")
    assert died.returncode == 1
    assert "A worker process of the backfill died" in died.stderr
    assert project.db.people.count_documents({"n": {"$nin": [None, 1]}}) == 0
    assert 150 in [d["_id"] for d in project.db.people.find({"n": None})]
    changed = project.db.people.count_documents({"n": 1})
    again = project.run("up")
    assert again.returncode == 0, again.stderr
    assert values(project) == [1] * PEOPLE
    events = project.record(VERSION)["metadata"]["events"]
    assert [e["scanned"] for e in events if e["event"] == "resumed"] == [changed] != [0]


@pytest.mark.parametrize(
    "change", ['lambda doc: {"$inc": {"n": 1}}', "(lambda: increment)()", "inner"]
)
def test_a_function_that_cannot_be_sent_is_refused_before_anything_runs(
    project: Project, change: str
) -> None:
    prepare(project, EXECUTORS["processes"], change=change)
    if change == "inner":
        path = next(project.migrations.glob("*.py"))
        path.write_text(
            path.read_text().replace(
                "def up(db, ctx):\n",
                "def up(db, ctx):\n    def inner(doc): return increment(doc)\n",
            )
        )
    done = project.run("up")
    if change == "(lambda: increment)()":
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 1
    assert "cannot be sent to another process" in done.stderr
    assert values(project) == [None] * PEOPLE
    assert ranges_left(project) == 0


def test_a_document_that_one_worker_refuses_stops_the_others_too(project: Project) -> None:
    prepare(project, "ThreadPoolExecutor(2)", body='if doc["_id"] == 50: raise ValueError("no")')
    (failure,) = project.runner().up().failures
    assert failure.error is not None
    assert failure.error.type == "RejectedError"
    assert "_id 50" in failure.error.message
    claimed = project.db["migrations.ranges"].count_documents({"runId": {"$ne": None}})
    assert claimed == 0


def test_the_workers_of_a_dead_run_commit_nothing_once_another_run_holds_the_lock(
    project: Project,
) -> None:
    body = "import time; time.sleep(0.02)"
    prepare(project, EXECUTORS["processes"], body=body)
    run = project.spawn("up", MIGRATE_LOCK_TTL="2")
    try:
        while project.db.people.count_documents({"n": 1}) == 0:
            time.sleep(0.02)
        os.kill(run.pid, signal.SIGSTOP)
        project.write_inserts(VERSION - 1)
        project.migrations.joinpath(f"{VERSION}_increment.py").rename(project.root / "kept_away.py")
        other = project.run("up", "--wait", "20", MIGRATE_LOCK_TTL="2")
        assert other.returncode == 0, other.stderr
        before = project.db.people.count_documents({"n": 1})
        assert 0 < before < PEOPLE
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            assert project.db.people.count_documents({"n": 1}) == before
            time.sleep(0.1)
    finally:
        os.kill(run.pid, signal.SIGCONT)
        run.communicate(timeout=60)
    assert run.returncode == 3
    assert project.db.people.count_documents({"n": {"$nin": [None, 1]}}) == 0


# --- Dask

DASK = """
import os, time
from dataclasses import asdict
from distributed import Client


def increment(doc):
    time.sleep(0.005)
    if doc["_id"] == 150 and os.environ.get("DIE") and not os.path.exists(os.environ["DIE"]):
        open(os.environ["DIE"], "w").close()
        os._exit(9)
    return {"$inc": {"n": 1}}


def up(db, ctx):
    with Client(os.environ["SCHEDULER"]) as client:
        done = ctx.backfill("people", increment, batch_size=10, workers=client.get_executor())
    db.results.insert_one(asdict(done))
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A local cluster of two worker processes: its address, and a file that exists after one died."""
    distributed = pytest.importorskip("distributed", reason="`distributed` is not installed")
    died = str(tmp_path / "died")
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            env={"DIE": died, "PYTHONPATH": PYTHON_PATH},
        ) as cluster,
    ):
        yield cluster.scheduler_address, died


def test_a_dask_cluster_completes_a_backfill_after_a_worker_is_killed(
    project: Project, cluster: tuple[str, str]
) -> None:
    scheduler, died = cluster
    project.write(f"{VERSION}_increment", DASK)
    project.db.people.insert_many([{"_id": n} for n in range(PEOPLE)])
    done = project.run("up", SCHEDULER=scheduler, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path(died).exists(), "no worker was killed"
    assert values(project) == [1] * PEOPLE
    assert counts(project)["modified"] == PEOPLE
    assert ranges_left(project) == 0
