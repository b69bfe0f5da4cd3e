"""Backfills that are interrupted, and how the next run resumes them."""

from __future__ import annotations

import contextlib
import json
import signal
import time
import uuid
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import mongomock
import pexpect
import pytest
from bson import Binary, Decimal128, Int64, MaxKey, MinKey, ObjectId
from bson.binary import UuidRepresentation
from pymongo import MongoClient, monitoring
from pymongo.errors import AutoReconnect

from flask_migrate_mongo.backfill.checkpoints import Checkpoint, StoredCheckpoint
from flask_migrate_mongo.engine import settling
from flask_migrate_mongo.engine.options import Options
from flask_migrate_mongo.model.errors import (
    HalfBackfilledError,
    InterruptedRefusedError,
    LeaseLostError,
    MigrateError,
    NoRunError,
    RunStoppedError,
)
from flask_migrate_mongo.model.values import Request
from flask_migrate_mongo.reports import runs
from flask_migrate_mongo.store.lease import LOCK_ID
from tests.integration.test_backfill import FORMS, VERSION, counts, up, values
from tests.server.lossy_proxy import LossyProxy
from tests.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from flask_migrate_mongo.model.reports import RunReport
    from tests.conftest import Failpoint
    from tests.project import Project

SOURCE = """
import time
from pathlib import Path
from dataclasses import asdict

{head}


def up(db, ctx):
    hook = ctx.app.config.get("HOOK", lambda doc: None)

    def increment(doc):
        hook(doc)
        return {{"$inc": {{"n": 1}}}}

    done = ctx.backfill("people", {change}, batch_size={batch}{options})
    db.results.insert_one(asdict(done))
"""


def write(
    project: Project,
    change: str = "increment",
    *,
    batch: int = 5,
    options: str = "",
    head: str = "",
) -> None:
    source = SOURCE.format(change=change, batch=batch, options=options, head=head)
    project.write(f"{VERSION}_increment", source)


def fill(project: Project, people: int = 40) -> None:
    project.db.people.insert_many([{"_id": n} for n in range(people)])


def raise_at(id_: object) -> Callable[[Any], None]:
    def hook(doc: Any) -> None:
        if doc["_id"] == id_ and type(doc["_id"]) is type(id_):
            msg = "not yet"
            raise ValueError(msg)

    return hook


def fail_at(project: Project, id_: object) -> None:
    assert len(project.runner(HOOK=raise_at(id_)).up().failures) == 1


# --- resuming


def test_a_failed_backfill_resumes_after_the_last_committed_batch(
    project: Project,
) -> None:
    fill(project)
    write(project)
    fail_at(project, 23)
    assert values(project) == [1] * 20 + [None] * 20
    seen: list[Any] = []
    up(project, HOOK=lambda doc: seen.append(doc["_id"]))
    assert seen == list(range(20, 40))
    assert values(project) == [1] * 40
    assert counts(project)["scanned"] == 40
    assert project.trail(VERSION) == ["started", "failed", "started", "resumed", "completed"]


def test_it_resumes_after_an_id_of_any_type(project: Project) -> None:
    ids: list[Any] = [
        *(None, 1, 2.5, Int64(2**40), Decimal128("7.1"), "a", "b", {"a": 1}, {"a": 1, "b": 2}),
        *(b"xx", uuid.uuid4(), Binary(b"0" * 16, 3), ObjectId(), False, True, MinKey(), MaxKey()),
        datetime(2026, 1, 1, tzinfo=timezone.utc),
    ]
    codec = project.db.codec_options.with_options(uuid_representation=UuidRepresentation.STANDARD)
    database = project.db.with_options(codec)
    database.people.insert_many([{"_id": each} for each in ids])
    write(project, batch=1)
    for number, _ in enumerate(ids):
        seen: list[Any] = []

        def second(doc: Any, seen: list[Any] = seen) -> None:
            seen.append(doc["_id"])
            if len(seen) == 2:
                msg = "not yet"
                raise ValueError(msg)

        report = project.runner(database, HOOK=second).up()
        assert len(report.failures) == (0 if number == len(ids) - 1 else 1)
        assert database.people.count_documents({"n": 1}) == number + 1
    assert values(project) == [1] * len(ids)


def test_the_next_run_skips_completed_backfills(project: Project) -> None:
    fill(project, 10)
    project.write(
        f"{VERSION}_three",
        """
        def up(db, ctx):
            ctx.backfill("people", {"$inc": {"n": 1}})
            ctx.backfill("people", {"$inc": {"n": 10}})
            if ctx.app.config.get("FAIL"):
                raise ValueError("no")
            ctx.backfill("people", {"$inc": {"n": 100}})
        """,
    )
    assert len(project.runner(FAIL=True).up().failures) == 1
    up(project)
    assert values(project) == [111] * 10


def test_another_order_of_backfills_is_refused(project: Project) -> None:
    fill(project, 10)
    project.write(
        f"{VERSION}_swaps",
        """
        def up(db, ctx):
            ctx.backfill(ctx.app.config["FIRST"], {"$inc": {"n": 1}})
            raise ValueError("no")
        """,
    )
    project.runner(FIRST="people").up()
    (failure,) = project.runner(FIRST="others").up().failures
    assert failure.error is not None
    assert "in the same order" in failure.error.message


def test_an_interrupted_down_resumes_too(project: Project) -> None:
    fill(project, 10)
    project.write(
        f"{VERSION}_down",
        """
        def up(db, ctx):
            ctx.backfill("people", {"$inc": {"n": 1}}, batch_size=2)

        def down(db, ctx):
            def back(doc):
                if doc["_id"] == ctx.app.config.get("AT"):
                    raise ValueError("not yet")
                return {"$inc": {"n": -1}}
            ctx.backfill("people", back, batch_size=2)
        """,
    )
    up(project)
    assert len(project.runner(AT=6).down().failures) == 1
    assert values(project) == [0] * 6 + [1] * 4
    assert project.runner().down().failures == ()
    assert values(project) == [0] * 10
    up(project)
    assert values(project) == [1] * 10


def test_a_file_that_changed_during_its_backfill_is_refused_until_allowed(project: Project) -> None:
    fill(project)
    write(project)
    fail_at(project, 23)
    write(project, head="FIXED = True")
    with pytest.raises(HalfBackfilledError, match="--allow-drift"):
        project.runner().up()
    assert project.invoke("up").exit_code == 5
    assert project.invoke("up", "--allow-drift").exit_code == 0
    assert values(project) == [1] * 40


def test_a_file_without_its_backfill_leaves_no_checkpoint(project: Project) -> None:
    fill(project)
    write(project)
    fail_at(project, 23)
    assert project.record(VERSION)["metadata"]["checkpoint"] is not None
    project.write(f"{VERSION}_increment", "def up(db):\n    pass\n")
    assert project.invoke("up", "--allow-drift").exit_code == 0
    metadata = project.record(VERSION)["metadata"]
    assert not {"checkpoint", "progress"} & metadata.keys()


def test_it_starts_again_after_it_was_resolved_as_not_applied(project: Project) -> None:
    fill(project)
    write(project)
    fail_at(project, 23)
    write(project, head="# changed")
    settling.resolve(
        project.runner(), str(VERSION), applied=False, reason="the documents were restored"
    )
    project.db.people.update_many({}, {"$unset": {"n": ""}})
    up(project)
    assert values(project) == [1] * 40
    assert counts(project)["scanned"] == 40


def test_an_interrupted_backfill_is_safe_to_repeat_and_another_migration_is_not(
    project: Project,
) -> None:
    fill(project)
    write(project)
    fail_at(project, 23)
    interrupted = {"$set": {"metadata.interrupted": True}}
    project.db.migrations.update_one({}, interrupted)
    report = up(project, MIGRATE_INTERRUPTED="stop")
    assert report.warnings == ()
    project.write(f"{VERSION + 1}_plain", "def up(db):\n    raise ValueError\n")
    project.runner().up()
    project.db.migrations.update_many({"status": "failed"}, interrupted)
    with pytest.raises(InterruptedRefusedError):
        project.runner(MIGRATE_INTERRUPTED="stop").up()


# --- faults


class Commands(monitoring.CommandListener):
    """Records the names of commands."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.sent.append(event.command_name)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


@pytest.mark.parametrize("change", [*FORMS.values()], ids=FORMS)
@pytest.mark.parametrize("where", [{}, {"n": None}], ids=["all", "some"])
def test_a_batch_costs_four_round_trips(
    project: Project, change: str, where: dict[str, Any]
) -> None:
    fill(project, 100)
    write(project, change, batch=10, options=f", where={where}")
    commands = Commands()
    with MongoClient[dict[str, Any]](project.uri, event_listeners=[commands]) as client:
        report = project.runner(client[project.db.name]).up()
        assert report.failures == ()
    sent = Counter(commands.sent)
    assert sent["getMore"] <= 11
    # And: the lock released, the backfill begun, the step started and done.
    assert 10 <= sent["update"] <= 10 + 4
    assert sent["findAndModify"] <= 10 + 4
    assert sent["commitTransaction"] == 10
    assert sent["find"] - (11 if where else 0) <= 12


@pytest.mark.parametrize("change", ["increment", FORMS["an update"]])
@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("getMore", {"errorCode": 43}),
        ("getMore", {"closeConnection": True}),
        ("find", {"errorCode": 91}),
        ("update", {"errorCode": 112, "errorLabels": ["TransientTransactionError"]}),
        ("findAndModify", {"errorCode": 251, "errorLabels": ["TransientTransactionError"]}),
        ("commitTransaction", {"closeConnection": True}),
        ("commitTransaction", {"errorCode": 91, "errorLabels": ["RetryableWriteError"]}),
    ],
)
@pytest.mark.parametrize("skip", [3, 6])
def test_transient_faults_change_nothing(
    project: Project,
    failpoint: Failpoint,
    change: str,
    command: str,
    fault: dict[str, Any],
    skip: int,
) -> None:
    fill(project)
    write(project, change, head="")
    failpoint(command, times=1, skip=skip, **fault)
    up(project)
    assert values(project) == [1] * 40


def test_a_function_that_lost_its_connection_is_called_again_for_its_batch(
    project: Project,
) -> None:
    fill(project)
    write(project)
    lost: list[int] = []

    def lose(doc: Any) -> None:
        if doc["_id"] == 12 and not lost:
            lost.append(12)
            msg = "connection closed"
            raise AutoReconnect(msg)

    up(project, HOOK=lose)
    assert lost == [12]
    assert values(project) == [1] * 40
    assert counts(project)["scanned"] == 40


def test_lost_replies_change_nothing(project: Project, mongo_uri: str) -> None:
    write(project, FORMS["an update"], batch=10)
    port = int(mongo_uri.split("/")[2].rpartition(":")[2])
    with LossyProxy(port) as proxy:
        uri = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true&serverMonitoringMode=poll"
        skip = 0
        while True:
            project.db.client.drop_database(project.db.name)
            fill(project)
            with MongoClient[dict[str, Any]](uri) as client:
                client.admin.command("ping")
                proxy.lose(skip=skip, times=1)
                with contextlib.suppress(MigrateError):
                    project.runner(client[project.db.name]).up()
                lost = list(proxy.lost)
            project.db.migration_locks.delete_many({})
            if project.statuses().get(VERSION) != "completed":
                up(project)
            assert values(project) == [1] * 40, lost
            if not lost:
                break
            skip += 1
    assert skip > 20


# --- another run


def gated(project: Project, tmp_path: Path) -> subprocess.Popen[str]:
    """Start a run that waits inside its third batch until a file exists."""
    fill(project)
    write(
        project,
        "gated",
        head="""
def gated(doc):
    if doc["_id"] == 12:
        Path(MARK).touch()
        while not Path(GO).exists():
            time.sleep(0.01)
    return {"$inc": {"n": 1}}

import os
MARK, GO = os.environ["MARK"], os.environ["GO"]
""",
    )
    mark, go = tmp_path / "mark", tmp_path / "go"
    run = project.spawn("up", MIGRATE_LOCK_TTL="2", MARK=str(mark), GO=str(go))
    until(mark.exists)
    return run


def test_a_suspended_run_that_lost_its_lock_commits_no_more_batches(
    project: Project, tmp_path: Path
) -> None:
    zombie = gated(project, tmp_path)
    zombie.send_signal(signal.SIGSTOP)
    environ: dict[str, Any] = {"MARK": str(tmp_path / "other"), "GO": str(tmp_path / "mark")}
    other = project.run("up", "--wait", "20", MIGRATE_LOCK_TTL="2", **environ)
    assert other.returncode == 0, other.stderr
    zombie.send_signal(signal.SIGCONT)
    (tmp_path / "go").touch()
    _, stderr = zombie.communicate(timeout=30)
    assert zombie.returncode == 3, stderr
    assert values(project) == [1] * 40
    assert project.statuses() == {VERSION: "completed"}


def test_a_batch_is_not_committed_if_the_lock_was_lost_during_its_function(
    project: Project,
) -> None:
    fill(project)
    write(project)

    def lose(doc: Any) -> None:
        if doc["_id"] == 12:
            project.db.migration_locks.update_one({}, {"$set": {"runId": "another"}})
            time.sleep(1.5)

    report = project.runner(HOOK=lose, MIGRATE_LOCK_TTL=2).up()
    assert isinstance(report.error, LeaseLostError)
    assert values(project) == [1] * 10 + [None] * 30


def test_the_record_fences_off_a_run_that_still_trusts_its_lock(project: Project) -> None:
    """As on a suspended virtual machine, whose clocks did not advance."""
    fill(project)
    write(project)
    successors: list[RunReport] = []

    def meanwhile(doc: Any) -> None:
        if doc["_id"] == 12 and not successors:
            expire(project)
            successors.append(project.runner(HOOK=raise_at(23)).up())

    report = project.runner(HOOK=meanwhile).up()
    assert isinstance(report.error, LeaseLostError)
    assert len(successors[0].failures) == 1
    assert values(project) == [1] * 20 + [None] * 20
    up(project)
    assert values(project) == [1] * 40


def test_a_batch_that_was_not_committed_has_no_checkpoint(
    project: Project, failpoint: Failpoint, end_sessions: Callable[[], None]
) -> None:
    fill(project)
    write(project, FORMS["an update"])
    failpoint("commitTransaction", skip=2, times=None, blockConnection=True, blockTimeMS=3_000)
    run = project.spawn("up")
    until(lambda: project.db.people.count_documents({"n": 1}) == 10)
    time.sleep(1)
    run.kill()
    run.communicate()
    failpoint("none", errorCode=1)
    end_sessions()
    time.sleep(2.5)
    expire(project)
    seen = project.record(VERSION)["metadata"]["checkpoint"]["calls"]["0"]["state"]
    assert seen["counts"]["modified"] == project.db.people.count_documents({"n": 1})
    up(project)
    assert values(project) == [1] * 40


def expire(project: Project) -> None:
    now = project.db.client.admin.command("hello")["localTime"]
    past = {"$set": {"expiresAt": now - timedelta(seconds=1)}}
    project.db.migration_locks.update_one({"_id": LOCK_ID}, past)


def test_of_two_workers_on_one_checkpoint_only_one_continues(project: Project) -> None:
    first = Checkpoint()
    project.db.ranges.insert_one({"_id": 1, "runId": "run", "state": first.document()})
    stored = StoredCheckpoint(project.db.ranges, {"_id": 1, "runId": "run"}, "state", "request")
    mine, theirs = (replace(first, at=(n,), revision=1, by=f"worker {n}") for n in (1, 2))
    stored.advance(mine, fields={})
    assert stored.is_committed(mine)
    stored.advance(mine, fields={})  # The reply was lost, and the command is sent again.
    with pytest.raises(LeaseLostError):
        stored.advance(theirs, fields={})
    assert not stored.is_committed(theirs)
    assert stored.read()[0] == mine


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_after_the_current_batch(
    project: Project, tmp_path: Path, number: signal.Signals
) -> None:
    run = gated(project, tmp_path)
    run.send_signal(number)
    time.sleep(0.2)
    (tmp_path / "go").touch()
    _, stderr = run.communicate(timeout=30)
    assert run.returncode == 1
    assert f" by {number.name}" in stderr
    assert values(project) == [1] * 15 + [None] * 25
    environ: dict[str, Any] = {"MARK": str(tmp_path / "mark"), "GO": str(tmp_path / "go")}
    assert project.run("up", **environ).returncode == 0
    assert values(project) == [1] * 40


# --- requests


def test_requests_are_refused_if_no_backfill_is_running(project: Project) -> None:
    for command in ("pause", "resume", "cancel"):
        answer = project.invoke(command)
        assert answer.exit_code == 5
        assert "No backfill is running" in answer.stderr
    asked: list[object] = []

    def ask() -> None:
        try:
            project.runner().request(Request.PAUSE)
        except NoRunError as exc:
            asked.append(exc)

    project.write(f"{VERSION}_other", 'def up(db, ctx):\n    ctx.app.config["ASK"]()\n')
    assert project.runner(ASK=ask).up().failures == ()
    assert len(asked) == 1


MANY = 1_000
SLOW = """
FAST = __import__("pathlib").Path(__file__).parents[1] / "fast"

def slow(doc):
    if not FAST.exists():
        time.sleep({seconds})
    return {{"$inc": {{"n": 1}}}}
"""
"""Takes ten seconds for them, but a moment once there is a file."""


def lock(project: Project) -> dict[str, Any]:
    found: dict[str, Any] | None = project.db.migration_locks.find_one({"_id": LOCK_ID})
    assert found is not None
    return found


def wait_for_heartbeat(project: Project, after: datetime) -> None:
    until(lambda: lock(project)["heartbeatAt"] > after)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_paused_run_keeps_the_lock_until_it_is_resumed(
    project: Project, tmp_path: Path, workers: int
) -> None:
    fill(project, MANY)
    write(project, "slow", options=f", workers={workers}", head=SLOW.format(seconds=0.01 * workers))
    run = project.spawn("up", MIGRATE_LOCK_TTL="2")
    until(lambda: project.db.people.count_documents({"n": 1}))
    paused = project.invoke("pause", "--json")
    assert paused.exit_code == 0, paused.stderr
    assert json.loads(paused.stdout)["version"] == str(VERSION)
    until(lambda: "paused" in project.trail(VERSION))
    # A lease that is not renewed ends, and each batch in hand is done long before.
    wait_for_heartbeat(project, after=lock(project)["expiresAt"])
    before = project.db.people.count_documents({"n": 1})
    wait_for_heartbeat(project, after=lock(project)["heartbeatAt"])
    assert project.db.people.count_documents({"n": 1}) == before
    assert run.poll() is None
    assert json.loads(project.invoke("lock-status", "--json").stdout)["locked"] is True
    (running,) = json.loads(project.invoke("status", "--json").stdout)["running"]
    assert running["progress"]["collection"] == "people"
    assert 0 < running["progress"]["done"] <= before
    assert running["progress"]["paused"] is True
    assert len(running["progress"]["ranges"]) == (workers if workers > 1 else 0)
    (project.root / "fast").touch()
    assert project.invoke("resume").exit_code == 0
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 0, stderr
    assert values(project) == [1] * MANY
    assert project.trail(VERSION) == ["started", "paused", "resumed", "completed"]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_cancelled_backfill_stops_after_the_current_batch_and_resumes_later(
    project: Project, workers: int
) -> None:
    fill(project, MANY)
    write(project, "slow", options=f", workers={workers}", head=SLOW.format(seconds=0.01 * workers))
    run = project.spawn("up")
    until(lambda: project.db.people.count_documents({"n": 1}))
    assert project.invoke("cancel").exit_code == 0
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 1
    assert " by a request to cancel it" in stderr
    done = project.db.people.count_documents({"n": 1})
    assert 0 < done < MANY
    assert project.statuses() == {VERSION: "failed"}
    (project.root / "fast").touch()
    up(project)
    assert values(project) == [1] * MANY
    assert project.trail(VERSION)[:3] == ["started", "cancelled", "failed"]


def test_the_next_run_ignores_an_earlier_pause(project: Project) -> None:
    fill(project)
    write(project)

    def pause_and_stop(doc: Any) -> None:
        if doc["_id"] == 20:
            project.runner().request(Request.PAUSE)
            project.runner().request(Request.CANCEL)

    report = project.runner(HOOK=pause_and_stop).up()
    assert isinstance(report.error, RunStoppedError)
    up(project)
    assert values(project) == [1] * 40


# --- rate and pauses


def test_it_respects_max_per_second_and_pause_when(project: Project) -> None:
    fill(project)
    write(project, FORMS["an update"], options=", max_per_second=40")
    began = time.monotonic()
    up(project)
    assert time.monotonic() - began > 0.8
    project.db.client.drop_database(project.db.name)
    fill(project)
    write(project, options=', pause_when=ctx.app.config["WHEN"]')
    asked: list[int] = []

    def busy() -> bool:
        asked.append(project.db.people.count_documents({"n": 1}))
        return len(asked) in {3, 4}

    up(project, WHEN=busy)
    assert asked[:5] == [0, 5, 10, 10, 10]
    assert values(project) == [1] * 40


# --- servers without transactions


def test_without_transactions_it_works_and_warns(
    standalone_uri: str, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    with MongoClient[dict[str, Any]](standalone_uri) as client:
        database = client[project.db.name]
        database.people.insert_many([{"_id": n} for n in range(40)])
        write(project)
        runner = project.runner(database, HOOK=raise_at(23))
        assert len(runner.up().failures) == 1
        assert "can be executed twice" in caplog.text
        assert project.runner(database).up().failures == ()
        assert database.people.count_documents({"n": 1}) == 40
        client.drop_database(database)


@pytest.mark.parametrize("change", ["increment", FORMS["an update"]])
def test_it_works_on_mongomock(project: Project, change: str) -> None:
    database: Any = mongomock.MongoClient().shop
    database.people.insert_many([{"_id": n} for n in range(40)])
    write(project, change, options=', where={"n": None}, workers=3')
    report = project.runner(database).up()
    assert report.failures == (), report.failures[0].error
    assert database.people.count_documents({"n": 1}) == 40


# --- progress


def test_a_terminal_shows_the_progress(project: Project) -> None:
    fill(project, 300)
    slow = "def slow(doc):\n    time.sleep(0.005)\n    return {'$inc': {'n': 1}}"
    write(project, "slow", batch=20, head=slow)
    command, *arguments = project.command("up")
    environ: Any = project.environ(TERM="xterm", COLUMNS="120")
    with pexpect.spawn(command, arguments, env=environ, cwd=str(project.root), timeout=30) as child:
        child.expect(r"people: [0-9]+ of about 300, [0-9]+ a second, 0:0[0-9] left")
        child.expect("applied")
        child.expect(pexpect.EOF)
    assert values(project) == [1] * 300


def test_without_a_terminal_lines_show_the_progress(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(project)
    write(project)
    monkeypatch.setattr(runs, "LINE_SECONDS", 0)
    assert project.runner().up(Options(observer=runs.ProgressReporter())).failures == ()
    assert "people: 20 of about 40, " in capsys.readouterr().err
