"""What a dead run leaves behind, and what the next one makes of it."""

from __future__ import annotations

import os
import signal
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient

from flask_migrate_mongo.engine import settling
from flask_migrate_mongo.engine.options import Observer, Options
from flask_migrate_mongo.model.errors import (
    InterruptedRefusedError,
    InvalidRequestError,
    LeaseLostError,
    NotResolvableError,
    RunStoppedError,
)
from flask_migrate_mongo.model.reports import StepState
from flask_migrate_mongo.model.values import Actor, Direction, Status, Step
from flask_migrate_mongo.store import lease
from flask_migrate_mongo.store.lease import LOCK_ID, RECENT_SECONDS
from flask_migrate_mongo.store.records import Run
from tests.conftest import APPNAME, uri_with
from tests.project import Project
from tests.server.launcher import TestServer
from tests.server.lossy_proxy import LossyProxy

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from flask_migrate_mongo.engine.runner import Runner
    from flask_migrate_mongo.model.reports import Outcome, RunReport
    from flask_migrate_mongo.model.values import Plan

FIRST, VERSION, LAST = 20261101000, 20261101001, 20261101002

DIE_HALF_WAY = """
import os, signal
{head}

def up(db):
    db.people.insert_one({{"half": 1}})
    if os.environ.get("DIE") == "up":
        os.kill(os.getpid(), signal.SIGKILL)
    db.people.insert_one({{"half": 2}})


def down(db):
    db.people.delete_many({{"half": 2}})
    if os.environ.get("DIE") == "down":
        os.kill(os.getpid(), signal.SIGKILL)
    db.people.delete_many({{"half": 1}})
"""


def die(project: Project, *, head: str = "", direction: str = "up") -> None:
    """Kill a run in the middle of its second migration; its lease then expires."""
    project.write_inserts(FIRST, LAST)
    project.write(f"{VERSION}_dies", DIE_HALF_WAY.format(head=head))
    if direction == "down":
        project.write_inserts(FIRST)
        assert project.run("up").returncode == 0
        assert project.run("down").returncode == 0
    ended = project.run(direction, DIE=direction)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert project.record(VERSION)["status"] == "running"
    now = project.db.client.admin.command("hello")["localTime"]
    expired = {"$set": {"expiresAt": now - timedelta(seconds=1)}}
    assert project.db.migration_locks.update_one({"_id": LOCK_ID}, expired).modified_count


def halves(project: Project) -> list[int]:
    return sorted(d["half"] for d in project.db.people.find())


def became(report: RunReport) -> dict[int, StepState]:
    return {o.step.version: o.state for o in report.outcomes}


def states(report: RunReport) -> dict[int, StepState]:
    assert report.error is None, report.error
    return became(report)


def test_a_transaction_that_was_killed_left_nothing_and_runs_again(project: Project) -> None:
    die(project, head="transactional = True")
    assert halves(project) == []
    report = project.runner().up()
    assert states(report) == {VERSION: StepState.APPLIED, LAST: StepState.APPLIED}
    assert report.warnings == ()
    assert halves(project) == [1, 2]
    assert project.trail(VERSION) == ["started", "interrupted", "started", "completed"]


def test_the_transaction_of_a_dead_run_is_ended_and_not_waited_for(tmp_path: Path) -> None:
    # On this server it would hold its locks for ten minutes.
    with TestServer(lifetime=600) as server:
        uri = uri_with(server.uri, "shop", f"appname={APPNAME}")
        with MongoClient[dict[str, Any]](uri) as client:
            project = Project(tmp_path, client.shop, uri)
            die(project, head="transactional = True")
            report = project.runner().up()
            assert states(report) == {VERSION: StepState.APPLIED, LAST: StepState.APPLIED}


def test_an_idempotent_migration_that_was_killed_runs_again(project: Project) -> None:
    die(project, head="idempotent = True")
    report = project.runner(MIGRATE_INTERRUPTED="stop").up()
    assert states(report) == {VERSION: StepState.APPLIED, LAST: StepState.APPLIED}
    assert report.warnings == ()
    assert halves(project) == [1, 1, 2]


def test_a_plain_migration_that_was_killed_runs_again_with_a_warning(project: Project) -> None:
    die(project)
    report = project.runner().up()
    assert states(report) == {VERSION: StepState.APPLIED, LAST: StepState.APPLIED}
    (warning,) = report.warnings
    assert str(VERSION) in warning
    assert "interrupted half-way" in warning


def test_the_trail_keeps_what_is_known_of_the_dead_run(project: Project) -> None:
    die(project)
    started = project.record(VERSION)["metadata"]["events"][0]
    project.runner(MIGRATE_INTERRUPTED="stop").status()
    with pytest.raises(InterruptedRefusedError):
        project.runner(MIGRATE_INTERRUPTED="stop").up()
    record = project.record(VERSION)
    event = record["metadata"]["events"][-1]
    assert event["event"] == "interrupted"
    assert event["ofRun"] == started["runId"]
    assert started["by"] in event["error"]["message"]
    assert record["status"] == "failed"
    assert record["metadata"]["failure"]["type"] == "Interrupted"
    (failed,) = project.runner().status().survey.failed
    assert failed.version == VERSION


def test_stop_on_interrupted_runs_nothing_until_it_is_resolved(project: Project) -> None:
    die(project)
    stopping = project.runner(MIGRATE_INTERRUPTED="stop")
    with pytest.raises(InterruptedRefusedError, match=f"resolve {VERSION}"):
        stopping.up()
    assert halves(project) == [1]
    assert project.runner().lock() is None

    record = settling.resolve(stopping, str(VERSION), applied=True, reason="finished by hand")
    assert record.is_applied
    assert states(stopping.up()) == {LAST: StepState.APPLIED}
    assert halves(project) == [1]
    assert project.trail(VERSION) == ["started", "interrupted", "resolved"]
    resolved = project.record(VERSION)["metadata"]["events"][-1]
    assert (resolved["applied"], resolved["reason"]) == (True, "finished by hand")


def test_resolved_as_not_applied_it_runs_again(project: Project) -> None:
    die(project)
    stopping = project.runner(MIGRATE_INTERRUPTED="stop")
    with pytest.raises(InterruptedRefusedError):
        stopping.up()
    project.db.people.delete_many({})
    settling.resolve(stopping, str(VERSION), applied=False, reason="cleaned up")
    assert states(stopping.up()) == {VERSION: StepState.APPLIED, LAST: StepState.APPLIED}
    assert halves(project) == [1, 2]


def test_the_command_line_resolves_too(project: Project) -> None:
    die(project)
    refused = project.invoke("up", MIGRATE_INTERRUPTED="stop")
    assert refused.exit_code == 5
    assert f"flask db-migrate resolve {VERSION}" in refused.stderr
    arguments = ("resolve", str(VERSION), "--applied", "--reason", "looked at the data")
    assert project.invoke(*arguments).exit_code == 0
    assert project.invoke("up", MIGRATE_INTERRUPTED="stop").exit_code == 0
    assert "looked at the data" in project.invoke("history", str(VERSION), "--events").stdout


def test_resolving_needs_a_reason_and_a_record_that_is_in_doubt(project: Project) -> None:
    project.write_inserts(FIRST)
    runner = project.runner()
    with pytest.raises(InvalidRequestError, match="--reason"):
        settling.resolve(runner, str(FIRST), applied=True, reason=" ")
    with pytest.raises(NotResolvableError, match="The history has no record of"):
        settling.resolve(runner, str(FIRST), applied=False, reason="r")
    runner.up()
    with pytest.raises(NotResolvableError, match="applied already"):
        settling.resolve(runner, str(FIRST), applied=True, reason="r")
    assert project.trail(FIRST) == ["started", "completed"]


def test_a_down_that_was_killed_leaves_the_migration_applied(project: Project) -> None:
    die(project, direction="down")
    (running,) = project.runner().status().survey.running
    assert running.version == VERSION
    report = project.runner().down()
    assert states(report) == {VERSION: StepState.ROLLED_BACK}
    assert halves(project) == []
    assert project.trail(VERSION)[-4:] == ["started", "interrupted", "started", "rolled-back"]


def test_a_dead_run_is_settled_though_nothing_is_pending(project: Project) -> None:
    die(project, direction="down")
    (project.migrations / f"{LAST}_insert.py").unlink()
    report = project.runner().up()
    assert report.outcomes == ()
    assert project.record(VERSION)["status"] == "completed"
    assert project.trail(VERSION)[-1] == "interrupted"


def test_looking_does_not_settle_anything(project: Project) -> None:
    die(project)
    before = project.record(VERSION)
    assert project.runner().lock() is not None
    project.runner().status()
    project.runner().records()
    project.runner().events()
    project.dry_runner().up()
    assert project.record(VERSION) == before


# --- signals

GATED = """
import os, time
from pathlib import Path
{head}

def up(db, ctx):
    db.people.insert_one({{"half": 1}})
    Path(os.environ["MARK"]).touch()
    while not Path(os.environ["GO"]).exists():
        time.sleep(0.02)
        {body}
    db.people.insert_one({{"half": 2}})
"""


def gated(
    project: Project, tmp_path: Path, *, head: str = "", body: str = "pass", ttl: int = 2
) -> subprocess.Popen[str]:
    """Start a run and return when it is in the middle of its second migration."""
    project.write_inserts(FIRST, LAST)
    project.write(f"{VERSION}_waits", GATED.format(head=head, body=body))
    mark = tmp_path / "mark"
    process = project.spawn(
        "up", MARK=str(mark), GO=str(tmp_path / "go"), MIGRATE_LOCK_TTL=str(ttl)
    )
    end = time.monotonic() + 20
    while not mark.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("transactional", [True, False])
def test_a_stopped_process_records_what_happened_and_releases(
    project: Project, tmp_path: Path, number: signal.Signals, *, transactional: bool
) -> None:
    head = "transactional = True" if transactional else ""
    process = gated(project, tmp_path, head=head)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    assert f" by {number.name}" in stderr
    assert project.runner().lock() is None
    assert project.statuses() == {FIRST: "completed", VERSION: "failed"}
    assert project.record(VERSION)["metadata"]["failure"]["type"] == "Stopped"
    assert halves(project) == ([] if transactional else [1])


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has installed a handler of a signal."""
    caught = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(caught, 16) >> (number - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the /proc of Linux")
def test_a_signal_while_waiting_for_the_lock_ends_the_wait(project: Project) -> None:
    project.write_inserts(FIRST)
    with project.runner().lease.hold(project.runner().actor("up")):
        process = project.spawn("up", "--wait", "60")
        give_up = time.monotonic() + 30
        while not catches(process.pid, signal.SIGTERM):
            assert time.monotonic() < give_up
            time.sleep(0.05)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "Stopped by SIGTERM" in stderr
    assert project.db.done.count_documents({}) == 0


def test_a_stop_between_steps_starts_no_further_one(project: Project) -> None:
    project.write_inserts(LAST)
    project.write(
        f"{VERSION}_signals",
        """
        import os, signal

        def up(db):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                db.people.insert_one({})
        """,
    )
    report = project.runner().up(Options(continue_on_error=True))
    assert isinstance(report.error, RunStoppedError)
    assert [o.state for o in report.outcomes] == [StepState.FAILED, StepState.NOT_RUN]


# --- a run that was paused


@pytest.mark.parametrize("head", ["transactional = True", "idempotent = True"])
def test_promise_3_who_lost_the_lease_changes_nothing_more(
    project: Project, tmp_path: Path, head: str
) -> None:
    """Promise 3: who lost the lease starts nothing more, commits nothing, records nothing."""
    process = gated(project, tmp_path, head=head, body="ctx.ensure_lease()" * ("idem" in head))
    process.send_signal(signal.SIGSTOP)
    (tmp_path / "go").touch()
    os.environ.update(MARK=str(tmp_path / "mark"), GO=str(tmp_path / "go"))
    successor = project.runner(MIGRATE_LOCK_TTL=2).up(Options(wait=20))
    expected = {VERSION: StepState.APPLIED, LAST: StepState.APPLIED}
    assert states(successor) == expected
    after = (
        list(project.db.migrations.find()),
        halves(project),
        project.db.done.count_documents({}),
    )

    (tmp_path / "go").unlink()
    process.send_signal(signal.SIGCONT)
    time.sleep(0.2)
    (tmp_path / "go").touch()
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 3, stdout + stderr
    assert "lost the lock" in stderr
    assert after == (
        list(project.db.migrations.find()),
        halves(project),
        project.db.done.count_documents({}),
    )


def test_a_paused_plain_step_is_not_recorded_and_no_other_is_started(
    project: Project, tmp_path: Path
) -> None:
    process = gated(project, tmp_path)
    process.send_signal(signal.SIGSTOP)
    (tmp_path / "go").touch()
    os.environ.update(MARK=str(tmp_path / "mark"), GO=str(tmp_path / "go"))
    states(project.runner(MIGRATE_LOCK_TTL=2).up(Options(wait=20)))
    after = list(project.db.migrations.find())
    process.send_signal(signal.SIGCONT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 3, stderr
    # What its code still wrote stays, unless its heartbeat was faster and ended the statement. What the
    # record says is the successor's.
    assert halves(project) in ([1, 1, 2], [1, 1, 2, 2])
    assert after == list(project.db.migrations.find())
    assert project.db.done.count_documents({"version": LAST}) == 1


def test_a_frozen_clock_does_not_let_a_paused_run_write(project: Project) -> None:
    """A virtual machine that was suspended from outside: its clocks did not see the time pass."""
    project.write_inserts(FIRST, LAST)
    project.write(
        f"{VERSION}_loses",
        """
        def up(db, ctx):
            ctx.app.config["MEANWHILE"]()
        """,
    )
    successors: list[RunReport] = []

    def meanwhile() -> None:
        if not successors:
            now = project.db.client.admin.command("hello")["localTime"]
            past = {"$set": {"expiresAt": now - timedelta(seconds=1)}}
            project.db.migration_locks.update_one({"_id": LOCK_ID}, past)
            successors.append(project.runner())  # type: ignore[arg-type]
            successors[0] = project.runner(MEANWHILE=lambda: None).up()

    report = project.runner(MEANWHILE=meanwhile).up()
    assert isinstance(report.error, LeaseLostError)
    assert [o.state for o in report.outcomes][1:] == [StepState.UNKNOWN, StepState.NOT_RUN]
    assert states(successors[0]) == {VERSION: StepState.APPLIED, LAST: StepState.APPLIED}
    assert project.db.done.count_documents({"version": LAST}) == 1
    record = project.record(VERSION)
    assert record["metadata"]["runId"] == successors[0].run_id
    assert project.trail(VERSION) == ["started", "interrupted", "started", "completed"]


def test_a_run_whose_lock_was_forced_starts_nothing_more(project: Project) -> None:
    project.write_inserts(LAST)
    project.write(
        f"{VERSION}_is_forced",
        """
        def up(db, ctx):
            ctx.app.config["FORCE"]()
        """,
    )
    report = project.runner(FORCE=lambda: project.runner().force_unlock(confirmed=True)).up()
    assert isinstance(report.error, LeaseLostError)
    assert project.db.done.count_documents({}) == 0
    assert "unlocked" in project.trail(VERSION)
    record = project.record(VERSION)
    assert (record["status"], record["metadata"]["interrupted"]) == (Status.FAILED.value, True)
    again = project.runner(FORCE=lambda: None).up()
    assert states(again) == {VERSION: StepState.APPLIED, LAST: StepState.APPLIED}


class Slipped(Observer):
    """Somebody else's record comes in between the plan and the claim."""

    def __init__(self, project: Project, version: int) -> None:
        self._project = project
        self._version = version

    def planned(self, plan: Plan) -> None:
        del plan
        other = {"version": str(self._version), "status": "pending", "name": "other", "batch": 0}
        self._project.db.migrations.insert_one(other)


@pytest.mark.parametrize("version", [1, 2])
def test_a_record_that_came_in_between_says_what_this_run_did(
    project: Project, version: int
) -> None:
    project.write_inserts(1, 2)
    report = project.runner().up(Options(observer=Slipped(project, version)))
    assert states(report) == {1: StepState.APPLIED, 2: StepState.APPLIED}
    assert said(project, 1) == said(project, 2)
    files = project.runner().folder.discover().files
    assert [project.record(v)["metadata"]["checksum"] for v in (1, 2)] == [
        file.checksum for file in files
    ]


def test_a_record_says_of_a_second_run_what_it_said_of_the_first(project: Project) -> None:
    project.write_inserts(1)
    project.runner().up()
    first = said(project, 1)
    project.runner().down()
    project.runner().up()
    assert said(project, 1) == {**first, "batch": 2}


def said(project: Project, version: int) -> dict[str, Any]:
    """Return what a record says of its step, but for what each step has of its own."""
    own = {"_id", "version", "createdAt", "rolledBackAt", "appliedAt", "updatedAt", "executionTime"}
    own |= {"checksum", "digest", "position", "startedAt", "runId", "fence", "events", "session"}
    record = project.record(version)
    flat = {**record.pop("metadata"), **record}
    return {name: value for name, value in flat.items() if name not in own and value is not None}


# --- between two steps


class Meanwhile(Observer):
    """Does something between the end of a step and the beginning of the next one."""

    def __init__(self, after: int, act: Callable[[], object]) -> None:
        self._after = after
        self._act = act

    def ended(self, outcome: Outcome) -> None:
        if outcome.step.version == self._after:
            self._act()


def test_a_stop_between_steps_records_nothing_of_the_next_one(project: Project) -> None:
    project.write_inserts(1, 2)
    runner = project.runner()
    stop = Meanwhile(1, lambda: runner.switch.request_stop("a test"))
    report = runner.up(Options(observer=stop))
    assert isinstance(report.error, RunStoppedError)
    assert became(report) == {1: StepState.APPLIED, 2: StepState.NOT_RUN}
    assert project.statuses() == {1: "completed"}
    assert states(project.runner().up()) == {2: StepState.APPLIED}


def test_a_stop_between_steps_of_a_down_leaves_the_next_one_applied(project: Project) -> None:
    project.write_inserts(1, 2)
    runner = project.runner()
    runner.up()
    stop = Meanwhile(2, lambda: runner.switch.request_stop("a test"))
    report = runner.down(Options(observer=stop), steps=2)
    assert became(report) == {2: StepState.ROLLED_BACK, 1: StepState.NOT_RUN}
    assert project.statuses() == {1: "completed", 2: "rolled-back"}
    assert project.trail(1) == ["started", "completed"]


def test_what_has_failed_before_keeps_its_error_until_it_starts(project: Project) -> None:
    project.write_inserts(1)
    project.write("2_fails", "def up(db): raise ValueError('first')\ndef down(db): pass\n")
    project.runner().up()
    project.runner().down(steps=1)
    runner = project.runner()
    runner.up(Options(observer=Meanwhile(1, lambda: runner.switch.request_stop("a test"))))
    assert project.statuses() == {1: "completed", 2: "failed"}
    assert project.record(2)["metadata"]["failure"]["message"] == "first"
    assert project.trail(2) == ["started", "failed"]


def test_a_lock_that_is_forced_between_steps_starts_nothing_more(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    def force() -> None:
        project.runner().force_unlock(confirmed=True)
        while "released by force" not in caplog.text:  # said by the next heartbeat
            time.sleep(0.01)

    project.write_inserts(1, 2)
    report = project.runner(MIGRATE_LOCK_TTL=2).up(Options(observer=Meanwhile(1, force)))
    assert isinstance(report.error, LeaseLostError)
    assert became(report) == {1: StepState.APPLIED, 2: StepState.NOT_RUN}
    assert project.db.done.count_documents({"version": 2}) == 0
    assert project.statuses() == {1: "completed"}


def test_a_lock_that_was_forced_over_a_second_ago_is_noticed_without_a_heartbeat(
    project: Project,
) -> None:
    def force() -> None:
        project.runner().force_unlock(confirmed=True)
        time.sleep(RECENT_SECONDS + 0.1)

    project.write_inserts(1, 2)
    report = project.runner(MIGRATE_LOCK_TTL=600).up(Options(observer=Meanwhile(1, force)))
    assert isinstance(report.error, LeaseLostError)
    assert became(report) == {1: StepState.APPLIED, 2: StepState.NOT_RUN}
    assert project.statuses() == {1: "completed"}


@pytest.mark.parametrize("times", [1, 4], ids=["once", "beyond the driver's own retry"])
@pytest.mark.parametrize("skip", [4, 6], ids=["of a start", "of a success"])
def test_a_record_whose_reply_was_lost_is_written_once(
    project: Project, mongo_uri: str, monkeypatch: pytest.MonkeyPatch, skip: int, times: int
) -> None:
    # A slow run asks again whether it still holds the lease, which is one more command.
    monkeypatch.setattr(lease, "RECENT_SECONDS", 60)
    project.write_inserts(1, 2, 3)
    port = int(mongo_uri.split("/")[2].rpartition(":")[2])
    with LossyProxy(port) as proxy:
        uri = f"mongodb://127.0.0.1:{proxy.port}/{project.db.name}?directConnection=true"
        with MongoClient[dict[str, Any]](uri) as client:
            project.db = client[project.db.name]
            # find, findAndModify, createIndexes, find, update: the start of the first step; then its insert.
            proxy.lose(skip=skip, times=times)
            report = project.runner().up()
            assert proxy.lost == ["update"] * times
            trails = {tuple(project.trail(version)) for version in (1, 2, 3)}
            assert project.db.done.count_documents({}) == 3
    assert became(report) == dict.fromkeys((1, 2, 3), StepState.APPLIED)
    assert trails == {("started", "completed")}


def test_a_record_that_its_own_migration_deletes_leaves_the_next_one_pending(
    project: Project,
) -> None:
    project.write("1_forgets", "def up(db): db.migrations.delete_one({'version': '1'})\n")
    project.write_inserts(2)
    report = project.runner().up()
    assert isinstance(report.error, LeaseLostError)
    assert "its record is gone" in str(report.error)
    assert became(report) == {1: StepState.UNKNOWN, 2: StepState.NOT_RUN}
    assert project.statuses() == {}


def test_a_success_that_the_server_refuses_to_record_is_a_failure(project: Project) -> None:
    project.write(
        "1_forbids",
        """
        def up(db):
            db.command("collMod", "migrations", validator={"status": {"$ne": "completed"}})
        """,
    )
    project.write_inserts(2)
    report = project.runner().up()
    assert became(report) == {1: StepState.FAILED, 2: StepState.NOT_RUN}
    error = report.outcomes[0].error
    assert error is not None
    assert error.type == "DatabaseError"
    assert "failed validation" in error.message
    assert project.statuses() == {1: "failed"}


def test_a_step_whose_start_the_server_refuses_is_not_run(project: Project) -> None:
    project.write(
        "1_forbids",
        """
        def up(db):
            allowed = {"$or": [{"version": {"$ne": "2"}}, {"status": {"$ne": "running"}}]}
            db.command("collMod", "migrations", validator=allowed)
        """,
    )
    project.write_inserts(2)
    report = project.runner().up()
    assert became(report) == {1: StepState.APPLIED, 2: StepState.NOT_RUN}
    assert "failed validation" in str(report.error)
    assert project.statuses() == {1: "completed"}
    assert project.db.done.count_documents({}) == 0


# --- claiming the record of a step


AT = datetime(2026, 11, 1, tzinfo=timezone.utc)


def start(runner: Runner, step: Step, run: Run, at: datetime = AT) -> None:
    runner.history.claim(step, run).start(position=0, at=at, session=None)


@pytest.mark.parametrize("rolled_back", [False, True], ids=["new", "rolled back"])
def test_recording_a_start_again_after_the_reply_was_lost_changes_nothing(
    project: Project, *, rolled_back: bool
) -> None:
    runner = project.runner()
    project.write_inserts(1)
    if rolled_back:
        runner.up()
        runner.down()
    (file,) = runner.folder.discover().files
    with runner.lease.hold(runner.actor("a test")) as grant:
        _, run = runner.settle(grant)
        for _ in range(2):
            start(runner, Step(file, Direction.UP), run)
    assert project.statuses() == {1: "running"}
    assert project.trail(1).count("started") == 1 + rolled_back * 2
    assert project.record(1)["metadata"]["runId"] == run.actor.run_id


@pytest.mark.parametrize("rolled_back", [False, True], ids=["new", "rolled back"])
def test_a_step_that_a_later_run_has_started_is_not_started(
    project: Project, *, rolled_back: bool
) -> None:
    project.write_inserts(1)
    runner = project.runner()
    if rolled_back:
        runner.up()
        runner.down()
    (file,) = runner.folder.discover().files
    step = Step(file, Direction.UP)
    with runner.lease.hold(runner.actor("a test")) as grant:
        _, run = runner.settle(grant)
        start(runner, step, Run(Actor.current("later"), fence=run.fence + 1, batch=run.batch))
        before = list(project.db.migrations.find())
        with pytest.raises(LeaseLostError, match="taken over 1"):
            start(runner, step, run)
    assert list(project.db.migrations.find()) == before


def test_a_step_that_a_later_run_has_failed_is_not_started(project: Project) -> None:
    project.write("1_fails", "def up(db):\n    raise ValueError('no')\n")
    runner = project.runner()
    (file,) = runner.folder.discover().files
    with runner.lease.hold(runner.actor("a test")) as grant:
        _, earlier = runner.settle(grant)
    runner.up()
    before = list(project.db.migrations.find())
    with pytest.raises(LeaseLostError, match="taken over 1"):
        start(runner, Step(file, Direction.UP), earlier)
    assert list(project.db.migrations.find()) == before


@pytest.mark.parametrize("status", ["completed", "running"])
def test_a_migration_that_is_applied_or_running_is_not_started(
    project: Project, status: str
) -> None:
    project.write_inserts(1)
    runner = project.runner()
    runner.up()
    project.db.migrations.update_one({"version": "1"}, {"$set": {"status": status}})
    (file,) = runner.folder.discover().files
    later = Run(Actor.current("later"), fence=99, batch=2)
    with pytest.raises(LeaseLostError, match="taken over 1"):
        start(runner, Step(file, Direction.UP), later)
    assert project.statuses() == {1: status}


def test_a_run_that_lost_its_lease_marks_nothing_of_another_run_as_interrupted(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.write_inserts(1)
    runner = project.runner(MIGRATE_LOCK_TTL=2)
    (file,) = runner.folder.discover().files
    other = Run(Actor.current("another"), fence=0, batch=1)
    with runner.lease.hold(runner.actor("a test")) as grant:
        project.db.migration_locks.update_one({}, {"$set": {"runId": other.actor.run_id}})
        start(runner, Step(file, Direction.UP), other)
        while "another run took it over" not in caplog.text:
            time.sleep(0.01)
        with pytest.raises(LeaseLostError):
            runner.settle(grant)
    assert project.statuses() == {1: "running"}


def test_a_step_whose_lease_was_taken_meanwhile_records_no_success(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody has touched its record: only the lease says that it is not this run's turn any more."""

    def take() -> None:
        project.db.migration_locks.update_one({}, {"$set": {"runId": "another"}})
        while "another run took it over" not in caplog.text:
            time.sleep(0.01)

    project.write("1_waits", "def up(ctx): ctx.app.config['TAKE']()\n")
    report = project.runner(TAKE=take, MIGRATE_LOCK_TTL=2).up()
    assert isinstance(report.error, LeaseLostError)
    assert became(report) == {1: StepState.UNKNOWN}
    assert project.statuses() == {1: "running"}
