"""Runs that nobody waits for: they outlive their starter, tell how they go, and can be cancelled."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.driver.server import Server
from flask_migrate_mongo.interfaces.rest import async_runs
from flask_migrate_mongo.interfaces.rest.async_runs import Describe
from flask_migrate_mongo.interfaces.schemas import document
from flask_migrate_mongo.model.errors import MissingFileError, UnknownRunError
from flask_migrate_mongo.model.values import Direction
from flask_migrate_mongo.process import detached
from flask_migrate_mongo.store.runs import RunState, RunStore, StoredRun
from tests.integration.test_lease import until

if TYPE_CHECKING:
    from pathlib import Path

    from flask_migrate_mongo.dry_run import DryRunner
    from flask_migrate_mongo.engine.options import Options
    from flask_migrate_mongo.engine.runner import Runner
    from flask_migrate_mongo.model.reports import RunReport
    from tests.project import Project

pytestmark = pytest.mark.skipif(not detached.CAN_FORK, reason="there is no fork here")

FIRST, SECOND = 20261101001, 20261101002
DESCRIBE = Describe(*(partial(document, name) for name in ("step", "up", "error", "progress")))


def up(runner: Runner | DryRunner, options: Options) -> RunReport:
    return runner.up(options)


def start(project: Project, **settings: object) -> str:
    state = app_state.of(project.app(**settings))
    return async_runs.start(state, Direction.UP, up, DESCRIBE)


def run_of(project: Project, run_id: str) -> StoredRun:
    lock = project.runner().lock()
    store = RunStore(Server(project.db), "migration_runs")
    return store.get(run_id, holder=lambda: lock.run_id if lock else None)


def ended(project: Project, run_id: str) -> StoredRun:
    until(lambda: run_of(project, run_id).state.is_over, seconds=30)
    return run_of(project, run_id)


def gate(project: Project, tmp_path: Path) -> tuple[Path, Path]:
    """Write a migration that says that it runs, and waits; return both signs."""
    mark, go = tmp_path / "mark", tmp_path / "go"
    project.write(
        f"{FIRST}_waits",
        f"""
        import time
        from pathlib import Path

        transactional = True

        def up(db, ctx):
            db.people.insert_one({{"by": "first"}})
            if "DB" in ctx.app.config:
                ctx.app.config["DB"].people.insert_one({{"by": "the application's handle"}})
            Path({str(mark)!r}).touch()
            while not Path({str(go)!r}).exists():
                time.sleep(0.02)
        """,
    )
    return mark, go


def test_a_run_goes_on_by_itself_and_tells_how_it_ended(project: Project) -> None:
    project.write_inserts(FIRST, SECOND)
    run = ended(project, start(project))
    assert run.state is RunState.SUCCEEDED
    assert run.detached
    assert run.error is None
    assert run.report is not None
    assert run.report["runId"] == run.run_id
    assert [step["state"] for step in run.report["steps"]] == ["applied", "applied"]
    told = ["planned", "started", "ended", "started", "ended", "succeeded"]
    assert [event["event"] for event in run.events] == told
    assert [event["sequence"] for event in run.events] == [1, 2, 3, 4, 5, 6]
    assert run.events[1]["current"] == {"version": str(FIRST), "name": "insert"}
    assert run.events[2]["step"]["version"] == str(FIRST)
    assert project.record(FIRST)["metadata"]["runId"] == run.run_id
    assert project.record(FIRST)["metadata"]["pid"] != os.getpid()


def test_the_application_s_own_client_works_in_the_run_s_process(
    project: Project, tmp_path: Path
) -> None:
    mark, go = gate(project, tmp_path)
    run_id = start(project, DB=project.db)
    until(mark.exists)
    run = run_of(project, run_id)
    assert run.state is RunState.RUNNING
    assert run.current == {"version": str(FIRST), "name": "waits"}
    assert project.db.people.count_documents({}) == 0
    go.touch()
    assert ended(project, run_id).state is RunState.SUCCEEDED
    assert project.db.people.count_documents({}) == 2


STARTER = """
import socket, sys, time
from app import app
from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.interfaces.rest import async_runs
from flask_migrate_mongo.model.values import Direction
from tests.integration.test_runs import DESCRIBE, up

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print(async_runs.start(app_state.of(app), Direction.UP, up, DESCRIBE), flush=True)
time.sleep(60)
"""


def test_a_run_outlives_the_process_that_started_it_and_holds_none_of_its_ports(
    project: Project, tmp_path: Path
) -> None:
    mark, go = gate(project, tmp_path)
    project.command()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(port)],
        env=project.environ(PYTHONPATH=f"{project.environ()['PYTHONPATH']}:{project.root}"),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert starter.stdout is not None
    run_id = starter.stdout.readline().strip()
    until(mark.exists)
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    # No SO_REUSEADDR: it binds only when nobody at all listens there any more.
    with socket.socket() as successor:
        successor.bind(("127.0.0.1", port))
    assert run_of(project, run_id).state is RunState.RUNNING
    go.touch()
    assert ended(project, run_id).state is RunState.SUCCEEDED
    assert project.statuses() == {FIRST: "completed"}


def test_a_failed_migration_is_in_the_report(project: Project) -> None:
    project.write(f"{FIRST}_fails", "def up(db):\n    raise ValueError('no')\n")
    run = ended(project, start(project))
    assert run.state is RunState.FAILED
    assert run.report is not None
    assert run.report["steps"][0]["error"]["message"] == "no"


def test_a_refusal_is_a_problem_document(project: Project) -> None:
    project.write_inserts(FIRST)
    project.runner().up()
    (project.migrations / f"{FIRST}_insert.py").unlink()
    state = app_state.of(project.app())
    run_id = async_runs.start(
        state, Direction.DOWN, lambda runner, options: runner.down(options), DESCRIBE
    )
    run = ended(project, run_id)
    assert run.state is RunState.REFUSED
    assert run.error is not None
    assert run.error["code"] == MissingFileError.code
    assert json.dumps(run.error)


def test_a_cancelled_run_stops_before_the_next_step(project: Project, tmp_path: Path) -> None:
    mark, go = gate(project, tmp_path)
    project.write_inserts(SECOND)
    run_id = start(project, DB=project.db)
    until(mark.exists)
    RunStore(Server(project.db), "migration_runs").cancel(run_id)
    assert run_of(project, run_id).cancel_requested
    go.touch()
    run = ended(project, run_id)
    assert run.state is RunState.CANCELLED
    assert project.statuses() == {FIRST: "completed"}
    assert project.runner().lock() is None


def test_a_run_that_is_silent_and_holds_no_lock_is_lost(project: Project) -> None:
    store = RunStore(Server(project.db), "migration_runs")
    store.create("silent", Direction.UP, detached=True)
    assert run_of(project, "silent").state is RunState.QUEUED
    past = {"$set": {"updatedAt": Server(project.db).now() - timedelta(minutes=7)}}
    project.db.migration_runs.update_one({"_id": "silent"}, past)
    held = store.get("silent", holder=lambda: "silent")
    assert held.state is RunState.QUEUED
    assert run_of(project, "silent").state is RunState.LOST
    assert [event["event"] for event in run_of(project, "silent").events] == ["lost"]


def test_unknown_runs_are_said_to_be_unknown(project: Project) -> None:
    store = RunStore(Server(project.db), "migration_runs")
    for ask in (lambda: run_of(project, "none"), lambda: store.cancel("none")):
        with pytest.raises(UnknownRunError, match="none"):
            ask()


def test_without_fork_it_is_a_thread_and_says_so(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detached, "CAN_FORK", False)
    project.write_inserts(FIRST)
    run = ended(project, start(project))
    assert run.state is RunState.SUCCEEDED
    assert not run.detached
    assert project.record(FIRST)["metadata"]["pid"] == os.getpid()


def test_runs_that_are_over_are_kept_for_a_while_and_then_go(project: Project) -> None:
    RunStore(Server(project.db), "migration_runs").create("one", Direction.UP, detached=True)
    indexes = project.db.migration_runs.index_information()
    assert indexes["createdAt_1"]["expireAfterSeconds"] == 30 * 24 * 3600
