"""Asynchronous runs: they outlive their starter, report their progress, and can be cancelled."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import bson
import mongomock
import pytest

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.driver.server import Server
from flask_migrate_mongo.interfaces.rest import async_runs
from flask_migrate_mongo.model.errors import (
    MissingFileError,
    RunStoppedError,
    TooManyRunsError,
    UnknownRunError,
)
from flask_migrate_mongo.model.values import Actor, Direction
from flask_migrate_mongo.store import bounds, runs
from flask_migrate_mongo.store.lease import LOCK_ID
from flask_migrate_mongo.store.runs import SILENT_SECONDS, RunState, RunStore, StoredRun
from flask_migrate_mongo.wiring import looking
from tests.conftest import APPNAME
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Failpoint
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


def start(project: Project, direction: Direction = Direction.UP, **parameters: object) -> str:
    """Start a run; parameters in capitals are settings of the application."""
    settings = {name: value for name, value in parameters.items() if name.isupper()}
    how = {name: value for name, value in parameters.items() if not name.isupper()}
    state = app_state.of(project.app(**settings))
    return async_runs.start(state, direction, {"dry_run": False, **how})


def store_time(project: Project) -> datetime:
    return Server(project.db).now()


def store_of(project: Project) -> RunStore:
    runner = project.runner()
    return RunStore(runner.server, "migration_runs", runner.lease)


def run_of(project: Project, run_id: str) -> StoredRun:
    return store_of(project).get(run_id)


def ended(project: Project, run_id: str) -> StoredRun:
    until(lambda: run_of(project, run_id).state.is_over)
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

    until(is_gone)


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
    store_of(project).cancel(run_id)
    assert run_of(project, run_id).cancel_requested
    go.touch()
    run = ended(project, run_id)
    assert run.state is RunState.CANCELLED
    assert project.statuses() == {FIRST: "completed"}
    assert project.runner().lock() is None


def test_a_run_that_is_silent_and_holds_no_live_lock_is_lost(project: Project) -> None:
    store = store_of(project)
    store.create("silent", Direction.UP, {}, PROJECT)
    past = store_time(project) - timedelta(seconds=SILENT_SECONDS + 1)
    age = {"$set": {"updatedAt": past}}
    assert run_of(project, "silent").state is RunState.QUEUED
    project.db.migration_runs.update_one({"_id": "silent"}, age)
    lease = project.runner().lease
    with lease.hold(Actor.current("up", run_id="silent")):
        assert run_of(project, "silent").state is RunState.QUEUED
        expired = {"$set": {"expiresAt": past}}
        project.db.migration_locks.update_one({"_id": LOCK_ID}, expired)
        assert run_of(project, "silent").state is RunState.LOST
    assert [event["event"] for event in run_of(project, "silent").events] == ["lost"]


def test_a_silent_run_is_lost_while_another_holds_the_lock(project: Project) -> None:
    store = store_of(project)
    store.create("silent", Direction.UP, {}, PROJECT)
    age = {"$set": {"updatedAt": store_time(project) - timedelta(seconds=SILENT_SECONDS + 1)}}
    project.db.migration_runs.update_one({"_id": "silent"}, age)
    with project.runner().lease.hold(Actor.current("up", run_id="another")):
        assert run_of(project, "silent").state is RunState.LOST


def test_a_run_that_ends_or_lives_while_another_looks_at_it_is_not_lost(project: Project) -> None:
    store = store_of(project)
    silent_since = store_time(project) - timedelta(minutes=1)
    for name in ("ended", "lives"):
        store.create(name, Direction.UP, {}, PROJECT)
    seen = [replace(store.get(name), updated_at=silent_since) for name in ("ended", "lives")]
    store.end("ended", RunState.SUCCEEDED)
    store.touch("lives")
    after = [store.settle(run).state for run in seen]
    assert after == [RunState.SUCCEEDED, RunState.QUEUED]


def test_a_run_that_was_found_lost_does_not_begin_and_its_end_is_noted_all_the_same(
    project: Project,
) -> None:
    store = store_of(project)
    for name in ("lost", "cancelled", "right"):
        store.create(name, Direction.UP, {}, {**PROJECT, "collection": name})
        assert store.claim(name, {**PROJECT, "collection": name}, detached=True)
    age = {"$set": {"updatedAt": store_time(project) - timedelta(minutes=1)}}
    project.db.migration_runs.update_one({"_id": "lost"}, age)
    assert run_of(project, "lost").state is RunState.LOST
    assert store.cancel("cancelled")
    begun = {name: store.begin(name, []) for name in ("lost", "cancelled", "right")}
    assert begun == {"lost": False, "cancelled": False, "right": True}
    assert not store.note("lost", "started")
    assert run_of(project, "lost").state is RunState.LOST
    store.end("lost", RunState.FAILED, error={"code": "stopped"})
    assert run_of(project, "lost").state is RunState.FAILED


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs be carried out by threads here, with a quick heartbeat."""
    monkeypatch.delenv("MIGRATE_APP")
    monkeypatch.setattr(async_runs, "BEAT_SECONDS", 0.05)


def test_a_run_that_waits_for_the_lock_says_so_gives_signs_of_life_and_then_runs(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    project.write_inserts(FIRST)
    with project.runner().lease.hold(Actor.current("a test")):
        run_id = start(project, wait=60)
        seen = run_of(project, run_id)
        assert seen.state is RunState.WAITING
        until(lambda: run_of(project, run_id).updated_at > seen.updated_at)
        assert run_of(project, run_id).state is RunState.WAITING
    run = ended(project, run_id)
    assert run.state is RunState.SUCCEEDED
    assert run.events[0]["state"] == "running"


def test_a_run_that_waits_for_the_lock_can_be_cancelled(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    project.write_inserts(FIRST)
    with project.runner().lease.hold(Actor.current("a test")):
        run_id = start(project, wait=60)
        assert store_of(project).cancel(run_id)
        run = ended(project, run_id)
    assert run.state is RunState.CANCELLED
    assert run.error is not None
    assert run.error["code"] == RunStoppedError.code
    assert project.statuses() == {}


def test_a_run_whose_process_is_killed_is_lost_soon_and_lets_the_next_one_in(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATE_LOCK_TTL", "2")
    mark, go = gate(project, tmp_path)
    run_id = start(project)
    until(mark.exists)
    os.kill(project.record(FIRST)["metadata"]["pid"], signal.SIGKILL)
    with monkeypatch.context() as patch:
        # Not for the runs that live: they are silent for so long on a busy machine.
        patch.setattr(runs, "SILENT_SECONDS", 1)
        until(lambda: run_of(project, run_id).state is RunState.LOST)
    assert run_of(project, run_id).current is None
    go.touch()
    assert ended(project, start(project)).state is RunState.SUCCEEDED
    assert project.statuses() == {FIRST: "completed"}


def test_of_many_runs_at_once_two_are_accepted_and_one_without_waiting(project: Project) -> None:
    store = store_of(project)

    def create(name: str, *, waits: bool, dry_run: bool = False) -> str | None:
        try:
            store.create(name, Direction.UP, {"dry_run": dry_run}, PROJECT, waits=waits)
        except TooManyRunsError:
            return None
        return name

    with ThreadPoolExecutor(8) as threads:
        dry = [
            *filter(
                None, threads.map(lambda n: create(f"0-{n}", waits=False, dry_run=True), range(8))
            )
        ]
        first = [*filter(None, threads.map(lambda n: create(f"1-{n}", waits=False), range(8)))]
        second = [*filter(None, threads.map(lambda n: create(f"2-{n}", waits=True), range(8)))]
    assert (len(dry), len(first), len(second)) == (2, 1, 1)
    with pytest.raises(TooManyRunsError, match=f"{first[0]}, {second[0]}"):
        store.create("third", Direction.UP, {}, PROJECT)
    store.create("other", Direction.UP, {}, {**PROJECT, "collection": "others"})
    store.end(first[0], RunState.SUCCEEDED)
    assert create("1-9", waits=False) == "1-9"


def test_dead_runs_do_not_count_as_runs_that_have_not_ended(project: Project) -> None:
    store = store_of(project)
    store.create("one", Direction.UP, {}, PROJECT)
    store.create("two", Direction.UP, {}, PROJECT)
    age = {"$set": {"updatedAt": store_time(project) - timedelta(minutes=1)}}
    project.db.migration_runs.update_many({}, age)
    store.create("three", Direction.UP, {}, PROJECT, waits=False)
    assert run_of(project, "one").state is RunState.LOST
    assert run_of(project, "three").state is RunState.QUEUED


def test_a_request_to_cancel_a_run_that_is_over_changes_nothing(project: Project) -> None:
    store = store_of(project)
    store.create("one", Direction.UP, {}, PROJECT)
    store.end("one", RunState.SUCCEEDED)
    assert store.cancel("one") is False
    assert not run_of(project, "one").cancel_requested
    assert run_of(project, "one").state is RunState.SUCCEEDED


def test_unknown_runs_are_said_to_be_unknown(project: Project) -> None:
    store = store_of(project)
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
    store = store_of(project)
    store.create("one", Direction.DOWN, {"steps": 2}, PROJECT)
    other = {**PROJECT, "collection": "others"}
    assert store.claim("one", other, detached=True) is None
    assert store.is_queued("one")
    with ThreadPoolExecutor(8) as threads:
        claims = threads.map(lambda _: store.claim("one", PROJECT, detached=True), range(8))
    (run,) = [claimed for claimed in claims if claimed is not None]
    assert (run.direction, run.options, run.detached) == ("down", {"steps": 2}, True)
    assert run.state is RunState.WAITING
    assert not store.is_queued("one")


def test_the_command_of_a_run_is_hidden_and_runs_only_what_is_queued(project: Project) -> None:
    assert "run-async" not in project.invoke("--help").stdout
    project.write_inserts(FIRST)
    refused = project.invoke("run-async", "none")
    assert refused.exit_code == 2
    assert "The run none is not queued" in refused.stderr
    assert project.statuses() == {}


def test_runs_that_are_over_are_kept_for_a_while_and_then_go(project: Project) -> None:
    store = store_of(project)
    store.create("one", Direction.UP, {}, PROJECT)
    indexes = project.db.migration_runs.index_information()
    assert indexes["runExpiresAt_1"]["expireAfterSeconds"] == 0
    assert (indexes["runSlot_1"]["unique"], indexes["runSlot_1"]["sparse"]) == (True, True)
    assert "runExpiresAt" not in stored(project, "one")
    store.end("one", RunState.SUCCEEDED)
    document = stored(project, "one")
    assert document["runExpiresAt"] - document["updatedAt"] == timedelta(days=30)
    assert "runSlot" not in document


def test_no_index_of_ours_concerns_the_documents_of_others(project: Project) -> None:
    foreign = [{"_id": n, "createdAt": datetime(2020, 1, 1, tzinfo=timezone.utc)} for n in range(3)]
    project.db.migration_runs.insert_many(foreign)
    store_of(project).create("one", Direction.UP, {}, PROJECT)
    keys = {
        name
        for index in project.db.migration_runs.index_information().values()
        for name, _ in index["key"]
    }
    assert not keys & foreign[0].keys() - {"_id"}


def carried_out(project: Project, parameters: dict[str, Any]) -> StoredRun:
    """Carry out a run here, to its end."""
    state = app_state.of(project.app())
    of = {"directory": str(project.migrations), "collection": "migrations"}
    store_of(project).create("one", Direction.UP, parameters, of)
    run = async_runs.claim(state, "one", detached=True)
    assert run is not None
    async_runs.carry_out(state, run)
    return run_of(project, "one")


def stored(project: Project, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] | None = project.db.migration_runs.find_one({"_id": run_id})
    assert found is not None
    return found


# --- its size


def test_only_the_newest_events_are_kept_with_their_numbers(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "EVENTS_KEPT", 5)
    store = store_of(project)
    store.create("one", Direction.UP, {}, PROJECT)
    for number in range(8):
        store.note("one", "ended", step={"number": number})
    run = run_of(project, "one")
    assert [event["sequence"] for event in run.events] == [4, 5, 6, 7, 8]
    assert [event["step"]["number"] for event in run.events] == [3, 4, 5, 6, 7]
    assert [event["sequence"] for event in run.events_after(6)] == [7, 8]
    assert len(run.events_after(0)) == 5


def test_the_report_of_many_long_failures_is_kept(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "REPORT_BYTES", 400_000)
    for number in range(40):
        source = f"def up(db):\n    raise ValueError('no {number} ' * 9_000)\n"
        project.write(f"{FIRST + number}_fails", source)
    run = carried_out(project, {"dry_run": False, "continue_on_error": True})
    assert run.state is RunState.FAILED
    assert run.report is not None
    assert [step["state"] for step in run.report["steps"]] == ["failed"] * 40
    assert run.report["warnings"][0].endswith("the history has their errors: 40.")
    assert run.report["steps"][0]["error"]["message"].startswith("no 0 no 0")
    assert len(project.record(FIRST)["error"]) > 10_000
    assert len(bson.encode(stored(project, run.run_id))) < 500_000


# Two for the note that a step ended, which nobody waits for, and two for the first try to record the end; or two for
# the look whether a stop was requested.
@pytest.mark.parametrize(("command", "times"), [("findAndModify", 4), ("find", 2)])
def test_the_end_of_a_run_is_recorded_when_the_server_comes_back(
    project: Project, failpoint: Failpoint, command: str, times: int
) -> None:
    hit = {"failCommands": [command], "appName": APPNAME, "errorCode": 10107}
    project.write(
        f"{FIRST}_arms",
        f"""
        def up(db):
            admin = db.client.admin
            admin.command("configureFailPoint", "failCommand", mode={{"times": {times}}}, data={hit!r})
        """,
    )
    run = carried_out(project, {"dry_run": False})
    assert (run.state, run.error) == (RunState.SUCCEEDED, None)
    ended = [] if command == "findAndModify" else ["ended"]
    assert [event["event"] for event in run.events] == ["planned", "started", *ended, "succeeded"]


# --- its process and the one that starts it


@contextlib.contextmanager
def blocked_signals() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def given_stdin(text: bytes) -> Iterator[None]:
    """Let this process, and those that keep its stdin, read a text there."""
    reader, writer = os.pipe()
    os.write(writer, text)
    before = os.dup(0)
    os.dup2(reader, 0)
    for descriptor in (reader, writer):
        os.close(descriptor)
    try:
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)


def test_a_run_without_a_known_interpreter_is_carried_out_by_a_thread(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/sbin/apache2")
    monkeypatch.setattr(sys, "prefix", str(project.root))
    project.write_inserts(FIRST)
    in_thread(project, start(project))
    assert "the Python interpreter of this process is not known" in caplog.text


def test_the_process_of_a_run_inherits_nothing(project: Project, tmp_path: Path) -> None:
    go = tmp_path / "go"
    project.write(
        f"{FIRST}_looks",
        f"""
        import signal, sys, time
        from pathlib import Path

        def up(db):
            blocked = [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
            db.seen.insert_one({{"stdin": sys.stdin.read(), "blocked": blocked}})
            while not Path({str(go)!r}).exists():
                time.sleep(0.02)
        """,
    )
    path = tmp_path / "lock"
    lock = path.open("w")
    fcntl.fcntl(lock, fcntl.F_SETFD, 0)  # A child that keeps descriptors gets it.
    fcntl.flock(lock, fcntl.LOCK_EX)
    with blocked_signals(), given_stdin(b"an answer"):
        run_id = start(project)
    until(lambda: project.db.seen.count_documents({}) == 1)
    lock.close()
    with path.open("w") as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    go.touch()
    assert ended(project, run_id).detached
    seen = project.db.seen.find_one({}, {"_id": 0})
    assert seen == {"stdin": "", "blocked": []}


def test_a_signal_after_a_request_to_cancel_stops_the_migration_at_once(
    project: Project, tmp_path: Path
) -> None:
    mark, _ = gate(project, tmp_path)
    run_id = start(project)
    until(mark.exists)
    assert store_of(project).cancel(run_id)
    os.kill(project.record(FIRST)["metadata"]["pid"], signal.SIGTERM)
    run = ended(project, run_id)
    assert run.state is RunState.CANCELLED
    assert run.report is not None
    assert run.report["steps"][0]["error"]["type"] == "Stopped"
    assert project.statuses() == {FIRST: "failed"}
    assert project.runner().lock() is None


def test_a_run_in_mongomock_is_carried_out_by_a_thread(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.write_inserts(FIRST)
    client: Any = mongomock.MongoClient()
    app = project.app(client.shop)
    state = app_state.of(app)
    run_id = async_runs.start(state, Direction.UP, {"dry_run": False})
    until(lambda: looking.runs(state).get(run_id).state.is_over)
    run = looking.runs(state).get(run_id)
    assert (run.state, run.detached) == (RunState.SUCCEEDED, False)
    assert client.shop.done.count_documents({}) == 1
    assert "mongomock keeps its database in the memory of this process" in caplog.text
