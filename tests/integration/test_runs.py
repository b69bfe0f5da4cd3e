"""Asynchronous runs: they outlive their starter, report their progress, and can be cancelled."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.driver.server import Server
from flask_migrate_mongo.interfaces.rest import async_runs
from flask_migrate_mongo.model.errors import MissingFileError, UnknownRunError
from flask_migrate_mongo.model.values import Direction
from flask_migrate_mongo.store.runs import RunState, RunStore, StoredRun
from tests.integration.test_lease import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.project import Project

FIRST, SECOND = 20261101001, 20261101002
PROJECT = {"directory": "/shop/migrations", "collection": "migrations"}


@pytest.fixture(autouse=True)
def _importable(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    importable(project, monkeypatch)


def importable(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let new processes find the application, and its database."""
    project.command()
    monkeypatch.setenv("MIGRATE_APP", str(project.root / "app.py"))
    monkeypatch.setenv("MONGO_URI", project.uri)


def start(project: Project, direction: Direction = Direction.UP, **settings: object) -> str:
    return async_runs.start(app_state.of(project.app(**settings)), direction, {"dry_run": False})


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
    shown = ["planned", "started", "ended", "started", "ended", "succeeded"]
    assert [event["event"] for event in run.events] == shown
    assert [event["sequence"] for event in run.events] == [1, 2, 3, 4, 5, 6]
    assert run.events[1]["current"] == {"version": str(FIRST), "name": "insert"}
    assert run.events[2]["step"]["version"] == str(FIRST)
    assert project.record(FIRST)["metadata"]["runId"] == run.run_id
    assert project.record(FIRST)["metadata"]["pid"] != os.getpid()


def test_a_run_in_progress_says_which_migration_runs(project: Project, tmp_path: Path) -> None:
    mark, go = gate(project, tmp_path)
    run_id = start(project)
    until(mark.exists)
    run = run_of(project, run_id)
    assert run.state is RunState.RUNNING
    assert run.current == {"version": str(FIRST), "name": "waits"}
    assert project.db.people.count_documents({}) == 0
    go.touch()
    assert ended(project, run_id).state is RunState.SUCCEEDED
    assert project.db.people.count_documents({}) == 1


def test_the_process_of_a_run_leaves_no_zombie(project: Project) -> None:
    project.write_inserts(FIRST)
    ended(project, start(project))
    pid = project.record(FIRST)["metadata"]["pid"]

    def is_gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    until(is_gone, seconds=10)


def test_the_process_of_a_run_applies_nothing_at_its_start(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write_inserts(FIRST)
    monkeypatch.setenv("MIGRATE_ON_START", "always")
    run_id = start(project, Direction.DOWN, MIGRATE_ON_START=False)
    # The applications of this process would otherwise migrate at their start.
    monkeypatch.delenv("MIGRATE_ON_START")
    run = ended(project, run_id)
    assert run.detached
    assert run.report is not None
    assert run.report["steps"] == []
    assert project.statuses() == {}


STARTER = """
import socket, sys, time
from app import app
from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.interfaces.rest import async_runs
from flask_migrate_mongo.model.values import Direction

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print(async_runs.start(app_state.of(app), Direction.UP, {"dry_run": False}), flush=True)
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
    run = ended(project, start(project, Direction.DOWN))
    assert run.state is RunState.REFUSED
    assert run.error is not None
    assert run.error["code"] == MissingFileError.code
    assert json.dumps(run.error)


def test_a_cancelled_run_stops_before_the_next_step(project: Project, tmp_path: Path) -> None:
    mark, go = gate(project, tmp_path)
    project.write_inserts(SECOND)
    run_id = start(project)
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
    store.create("silent", Direction.UP, {}, PROJECT)
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


def in_thread(project: Project, run_id: str) -> StoredRun:
    """Check that a run is carried out once, by a thread of this process."""
    run = ended(project, run_id)
    assert run.state is RunState.SUCCEEDED
    assert not run.detached
    assert project.record(FIRST)["metadata"]["pid"] == os.getpid()
    assert project.db.done.count_documents({}) == 1
    return run


def test_an_application_without_import_path_runs_in_a_thread_and_says_so(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MIGRATE_APP")
    project.write_inserts(FIRST)
    in_thread(project, start(project))
    assert "no import path of the application is known. Set MIGRATE_APP" in caplog.text


@pytest.mark.parametrize(
    "source",
    [
        "raise ValueError('not here')",
        "from flask import Flask\napp = Flask(__name__)\n",
        "import os\nos.environ['MIGRATE_COLLECTION'] = 'others'\n",
        "import os\nos.environ['MONGO_URI'] = 'mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=1'\n",
    ],
    ids=["raises", "is not set up", "has another history", "has another database"],
)
def test_a_process_that_loads_no_such_application_is_replaced_by_a_thread(
    project: Project, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = project.root / "app.py"
    app.write_text(source + (app.read_text() if source.startswith("import") else ""))
    project.write_inserts(FIRST)
    in_thread(project, start(project))
    assert "could not load the application" in caplog.text


def test_a_process_that_is_too_slow_is_replaced_by_a_thread_and_runs_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_runs, "START_SECONDS", 0.5)
    app = project.root / "app.py"
    app.write_text("import time\ntime.sleep(60)\n" + app.read_text())
    project.write_inserts(FIRST)
    in_thread(project, start(project))
    reapers = [t for t in threading.enumerate() if t.name == "migrate-reaper"]
    for reaper in reapers:
        reaper.join(10)
    assert not any(reaper.is_alive() for reaper in reapers)


def test_of_many_that_claim_a_run_one_gets_it(project: Project) -> None:
    store = RunStore(Server(project.db), "migration_runs")
    store.create("one", Direction.DOWN, {"steps": 2}, PROJECT)
    other = {**PROJECT, "collection": "others"}
    assert store.claim("one", other, detached=True) is None
    assert store.is_queued("one")
    with ThreadPoolExecutor(8) as threads:
        claims = threads.map(lambda _: store.claim("one", PROJECT, detached=True), range(8))
    (run,) = [claimed for claimed in claims if claimed is not None]
    assert (run.direction, run.options, run.detached) == ("down", {"steps": 2}, True)
    assert run.state is RunState.RUNNING
    assert not store.is_queued("one")


def test_the_command_of_a_run_is_hidden_and_runs_only_what_is_queued(project: Project) -> None:
    assert "run-async" not in project.invoke("--help").stdout
    project.write_inserts(FIRST)
    refused = project.invoke("run-async", "none")
    assert refused.exit_code == 2
    assert "The run none is not queued" in refused.stderr
    assert project.statuses() == {}


def test_runs_that_are_over_are_kept_for_a_while_and_then_go(project: Project) -> None:
    store = RunStore(Server(project.db), "migration_runs")
    store.create("one", Direction.UP, {}, PROJECT)
    indexes = project.db.migration_runs.index_information()
    assert indexes["createdAt_1"]["expireAfterSeconds"] == 30 * 24 * 3600
