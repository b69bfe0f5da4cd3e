"""What still runs in the session of a run that ended never goes on beside the next run."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient

from flask_migrate_mongo.engine.options import Options
from flask_migrate_mongo.model.errors import LeaseLostError, RunStoppedError
from flask_migrate_mongo.model.reports import StepState
from flask_migrate_mongo.store.records import Run
from tests.project import Project
from tests.sent import Sent
from tests.waiting import until

from .test_promises import FIRST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Failpoint

STOPS = """
import os, signal, time
{head}

def up(db):
    db.people.insert_one({{"half": 1}})
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
"""
WAITS = """
import time
{head}

def up(db):
    db.people.insert_one({{"half": 1}})
    while db.gate.find_one() is None:
        time.sleep(0.02)
    db.people.insert_one({{"half": 2}})
"""
HEADS = pytest.mark.parametrize(
    "head", ["", "transactional = True"], ids=["plain", "transactional"]
)


@pytest.fixture
def sent(project: Project) -> Iterator[Sent]:
    """What the application sends from here on."""
    listener = Sent()
    with MongoClient[dict[str, Any]](project.uri, event_listeners=[listener]) as client:
        project.db = client[project.db.name]
        yield listener


def lsid(command: dict[str, Any]) -> bytes:
    return bytes(command["lsid"]["id"])


def recorded(project: Project) -> bytes:
    return bytes(project.record(FIRST)["metadata"]["session"])


@HEADS
def test_a_step_runs_in_the_session_that_is_recorded_before_it_starts(
    project: Project, sent: Sent, head: str
) -> None:
    project.write(f"{FIRST}_one", f"{head}\ndef up(db):\n    db.people.insert_one({{}})\n")
    project.runner().up()
    (insert,) = sent.of("insert", "people")
    assert lsid(insert) == recorded(project)
    assert lsid(insert) != lsid(sent.of("update", "migrations")[0])
    assert sent.killed == []


def test_the_id_of_a_recorded_session_is_not_used_again(project: Project, sent: Sent) -> None:
    project.write_inserts(1, 2)
    project.runner().up()
    sessions = {bytes(project.record(v)["metadata"]["session"]) for v in (1, 2)}
    assert len(sessions) == 2
    sent.commands.clear()
    for _ in range(3):
        project.runner().status()
    assert not sessions & {lsid(command) for command in sent.commands}


@HEADS
def test_a_stop_kills_what_the_step_has_in_flight_before_anything_else(
    project: Project, sent: Sent, head: str
) -> None:
    project.write(f"{FIRST}_stops", STOPS.format(head=head))
    report = project.runner().up()
    assert isinstance(report.error, RunStoppedError)
    assert sent.killed == [recorded(project)]
    after = sent.names()[sent.names().index("insert") + 1 :]
    assert after[0] == "killSessions"
    # The kill must not join the session that it kills.
    assert lsid(sent.of("killSessions")[0]) != recorded(project)


@HEADS
def test_a_lost_lease_ends_what_the_step_has_in_flight(
    project: Project, sent: Sent, head: str
) -> None:
    project.write(f"{FIRST}_waits", WAITS.format(head=head))
    runner = project.runner(MIGRATE_LOCK_TTL=2)
    reports = []
    thread = threading.Thread(target=lambda: reports.append(runner.up()))
    thread.start()
    until(lambda: sent.of("find", "gate"))
    session = recorded(project)
    project.db.migration_locks.update_one({}, {"$set": {"runId": "another", "locked": True}})
    until(lambda: session in sent.killed)
    project.db.gate.insert_one({})
    thread.join(20)
    (report,) = reports
    assert isinstance(report.error, LeaseLostError)
    # Whether the kill met a statement or not: the migration itself did not fail.
    assert report.outcomes[0].state is (StepState.NOT_RUN if head else StepState.UNKNOWN)
    assert project.statuses() == {FIRST: "running"}


@HEADS
def test_a_statement_that_a_lost_lease_ends_is_no_failure_of_the_migration(
    project: Project, sent: Sent, failpoint: Failpoint, head: str
) -> None:
    (project.root / "wait").touch()
    project.write(
        f"{FIRST}_waits",
        f"""
        import time
        from pathlib import Path
        {head}

        def up(db):
            db.people.insert_one({{}})
            while (Path(__file__).parents[1] / "wait").exists():
                time.sleep(0.02)
            db.people.find_one()
        """,
    )
    runner = project.runner(MIGRATE_LOCK_TTL=2)
    reports = []
    thread = threading.Thread(target=lambda: reports.append(runner.up()))
    thread.start()
    until(lambda: sent.of("insert", "people"))
    session = recorded(project)
    project.db.migration_locks.update_one({}, {"$set": {"runId": "another", "locked": True}})
    until(lambda: session in sent.killed)
    failpoint("find", errorCode=11601)
    (project.root / "wait").unlink()
    thread.join(20)
    (report,) = reports
    assert isinstance(report.error, LeaseLostError)
    assert report.outcomes[0].state is (StepState.NOT_RUN if head else StepState.UNKNOWN)
    assert project.statuses() == {FIRST: "running"}


@HEADS
def test_a_forced_release_ends_what_the_run_has_in_flight(
    project: Project, sent: Sent, failpoint: Failpoint, head: str
) -> None:
    project.write(f"{FIRST}_waits", WAITS.format(head=head))
    thread = threading.Thread(target=project.runner().up)
    thread.start()
    until(lambda: sent.of("find", "gate"))
    # The other process tries to kill it, which shows in its log because the server refuses.
    failpoint("killSessions", times=1, errorCode=59)
    released = project.run("force-unlock", "--confirm")
    assert "could not be killed" in released.stderr
    project.db.gate.insert_one({})
    thread.join(20)
    assert project.statuses() == {FIRST: "failed"}
    assert project.record(FIRST)["metadata"]["interrupted"] is True


def test_the_next_run_kills_the_session_of_a_crashed_one(project: Project, sent: Sent) -> None:
    project.write(f"{FIRST}_one", "idempotent = True\ndef up(db): pass\n")
    runner = project.runner()
    (file,) = runner.folder.discover().files
    with runner.lease.hold(runner.actor("up")) as grant:
        (step,) = runner.plan()[0].steps
        claim = runner.history.claim(step, Run(grant.actor, grant.fence, 1))
        with runner.server.session(transactional=False) as session:
            claim.start(position=0, at=grant.ensure(), session=session)
            assert session is not None
            left = bytes(session.session_id["id"])
    assert file.version == FIRST
    runner.up()
    assert sent.killed == [left]


def test_a_plain_step_may_use_other_clients_and_sessions(project: Project) -> None:
    project.write(
        f"{FIRST}_others",
        f"""
        from pymongo import MongoClient

        def up(db):
            with MongoClient({project.uri!r}) as other:
                other[db.name].people.insert_one({{"by": "another client"}})
                with other.start_session() as own, own.start_transaction():
                    other[db.name].people.insert_one({{"by": "its transaction"}}, session=own)
            with db.client.start_session() as own, own.start_transaction():
                db.people.insert_one({{"by": "a transaction"}}, session=own)
            db.people.insert_one({{"by": "the step"}})
        """,
    )
    assert project.runner().up(Options()).error is None
    assert project.db.people.count_documents({}) == 4
    assert project.statuses() == {FIRST: "completed"}


# --- on a server that continues an update although its client is gone

LONG = """
import os

idempotent = True

def up(db):
    db.people.update_many({"by": None}, {"$inc": {"n": 1}, "$set": {"by": os.getpid()}})
"""
MANY = 30_000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_long_update_of_a_stopped_run_ends_before_the_next_run_starts(
    project: Project, number: signal.Signals
) -> None:
    for start in range(0, MANY, 5_000):
        # A longer command could outlast the client's timeout, and would be sent again.
        project.db.people.insert_many([{"_id": start + n, "n": 0} for n in range(5_000)])
    project.write(f"{FIRST}_long", LONG)
    process = project.spawn("up", MIGRATE_LOCK_TTL="2")
    until(lambda: project.db.people.find_one({"_id": 0, "by": {"$ne": None}}))
    process.send_signal(number)
    process.communicate(timeout=60)
    finished = project.run("up", "--wait", "30", MIGRATE_LOCK_TTL="2")
    assert finished.returncode == 0, finished.stderr
    by = project.db.people.count_documents({"by": process.pid})
    time.sleep(1)
    assert project.db.people.distinct("n") == [1]
    # The first update did not come to its end, and did not go on after the second one.
    assert by == project.db.people.count_documents({"by": process.pid}) < MANY


def test_a_step_that_ran_without_a_transaction_is_unknown_after_a_lost_lease(
    tmp_path: Path, standalone_uri: str
) -> None:
    with MongoClient[dict[str, Any]](standalone_uri) as client:
        project = Project(tmp_path, client.lost, standalone_uri)
        project.write(
            f"{FIRST}_loses",
            "transactional = True\ndef up(db, ctx):\n"
            "    db.migration_locks.delete_many({})\n    ctx.ensure_lease()\n",
        )
        report = project.runner(MIGRATE_TRANSACTIONS="preferred").up()
        client.drop_database("lost")
    assert isinstance(report.error, LeaseLostError)
    assert report.outcomes[0].state is StepState.UNKNOWN
