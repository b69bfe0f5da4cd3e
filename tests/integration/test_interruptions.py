"""What a run reports and records if the lock, the server or a signal interrupts it at an awkward moment."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from bson.objectid import ObjectId
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure
from pymongo.hello import Hello

from flask_migrate_mongo.engine.options import Observer, Options
from flask_migrate_mongo.model.errors import (
    InterruptedRefusedError,
    LeaseLostError,
    OutcomeUnknownError,
    RunStoppedError,
)
from flask_migrate_mongo.model.reports import RunReport, StepState, Verdict
from tests.conftest import uri_with
from tests.integration.test_sessions import HEADS
from tests.project import Project
from tests.server.launcher import TestServer
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flask_migrate_mongo.model.values import Step
    from tests.conftest import Failpoint

FIRST, SECOND = 20261101001, 20261101002
LABELS: dict[str, Any] = {"errorLabels": ["TransientTransactionError"]}


def write(project: Project, body: str, *, head: str = "", version: int = FIRST) -> None:
    lines = "\n    ".join(body.strip().splitlines())
    project.write(
        f"{version}_step", f"{head}\nfrom pathlib import Path\n\ndef up(db, ctx):\n    {lines}\n"
    )


class Does(Observer):
    """Calls a function when a step has started, before its code runs."""

    def __init__(self, version: int, action: Callable[[], object]) -> None:
        self._version, self._action = version, action

    def started(self, step: Step) -> None:
        if step.version == self._version:
            self._action()


# --- whether there is a transaction


def test_behind_a_load_balancer_a_transactional_step_has_its_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The driver wants to hear from such a server which one it is, and knows nothing else of its sessions.
    monkeypatch.setattr(Hello, "service_id", property(lambda _: ObjectId("6" * 24)))
    with TestServer(sharded=True) as server:
        uri = f"mongodb://127.0.0.1:{server.port}/?loadBalanced=true"
        with MongoClient[dict[str, Any]](uri) as client:
            client.shop.people.insert_one({"_id": 0})
            project = Project(tmp_path, client.shop, uri)
            write(
                project, "db.people.insert_one({})\nraise ValueError", head="transactional = True"
            )
            (outcome,) = project.runner().up().outcomes
            assert outcome.in_transaction
            assert client.shop.people.count_documents({}) == 1


def test_an_outage_between_two_steps_takes_no_transaction_away(
    tmp_path: Path, durable_server: TestServer
) -> None:
    uri = uri_with(durable_server.uri, "outage")
    with MongoClient[dict[str, Any]](uri) as client:
        project = Project(tmp_path, client.outage, uri)
        project.write_inserts(FIRST)
        write(
            project,
            "db.people.insert_one({})\nraise ValueError",
            head="transactional = True",
            version=SECOND,
        )

        class Loses(Observer):
            def ended(self, outcome: object) -> None:
                durable_server.kill()
                until(lambda: not client.topology_description.has_readable_server())
                threading.Timer(1, durable_server.start).start()

        report = project.runner().up(Options(observer=Loses()))
        assert [outcome.in_transaction for outcome in report.outcomes] == [False, True]
        until(client.topology_description.has_readable_server)
        assert client.outage.people.count_documents({}) == 0


def test_a_half_done_step_of_a_server_without_transactions_is_not_repeated(
    tmp_path: Path, standalone_uri: str
) -> None:
    with MongoClient[dict[str, Any]](standalone_uri) as client:
        project = Project(tmp_path, client.half, standalone_uri)
        write(
            project,
            "db.payments.insert_one({})\nif not (Path(__file__).parents[1] / 'good').exists():\n    raise ValueError",
            head="transactional = True",
        )
        preferred = {"MIGRATE_TRANSACTIONS": "preferred"}
        project.runner(**preferred).up()
        (tmp_path / "good").touch()
        with pytest.raises(InterruptedRefusedError):
            project.runner(**preferred, MIGRATE_INTERRUPTED="stop").up()
        report = project.runner(**preferred).up()
        assert any("half-way and was without a transaction" in each for each in report.warnings)
        client.drop_database("half")


# --- the end of a transaction


def test_a_stop_during_a_commit_leaves_its_outcome_open(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, "db.people.insert_one({})", head="transactional = True")
    commit = ClientSession.commit_transaction

    def commit_and_stop(session: ClientSession) -> None:
        commit(session)
        raise KeyboardInterrupt  # The server has taken it, and the driver still waited for a majority.

    monkeypatch.setattr(ClientSession, "commit_transaction", commit_and_stop)
    report = project.runner().up()
    assert isinstance(report.error, OutcomeUnknownError)
    assert report.outcomes[0].state is StepState.UNKNOWN
    assert project.statuses() == {FIRST: "completed"}


def test_a_refused_commit_is_tried_again_where_no_session_can_be_killed(
    project: Project, failpoint: Failpoint
) -> None:
    write(project, "db.people.insert_one({})", head="transactional = True")
    failpoint("commitTransaction", "killSessions", times=2, errorCode=251, **LABELS)
    report = project.runner().up()
    assert report.failure is None
    assert project.db.people.count_documents({}) == 1


def test_a_lost_connection_does_not_hide_that_a_transaction_can_be_tried_again(
    project: Project, failpoint: Failpoint
) -> None:
    write(
        project,
        """
db.people.insert_one({})
if ctx.app.config["FAILURES"]:
    raise ctx.app.config["FAILURES"].pop()
""",
        head="transactional = True",
    )
    failure = OperationFailure("the transaction is gone", 251, {"code": 251, **LABELS})
    failpoint("getParameter", closeConnection=True)
    assert project.runner(FAILURES=[failure]).up().failure is None
    assert project.db.people.count_documents({}) == 1


# --- a lock that is lost


def test_a_step_does_not_start_after_its_lock_was_lost(project: Project) -> None:
    write(project, "db.people.insert_one({})")
    other = project.runner()
    runner = project.runner(MIGRATE_LOCK_TTL=2)

    def lose() -> None:
        other.force_unlock(confirmed=True)
        time.sleep(1.5)  # Until the heartbeat knows.

    report = runner.up(Options(observer=Does(FIRST, lose)))
    assert isinstance(report.error, LeaseLostError)
    assert report.outcomes[0].state is StepState.NOT_RUN
    assert project.db.people.count_documents({}) == 0


WAITS = """
with (Path(__file__).parents[1] / "calls").open("a") as calls:
    calls.write("x")
db.people.insert_one({})
while not (Path(__file__).parents[1] / "go").exists():
    __import__("time").sleep(0.02)
db.people.find_one()
"""


@HEADS
def test_a_forced_release_is_known_to_the_run_that_had_the_lock(
    project: Project, failpoint: Failpoint, head: str
) -> None:
    write(project, WAITS, head=head)
    reports: list[RunReport] = []
    thread = threading.Thread(target=lambda: reports.append(project.runner().up()))
    thread.start()
    calls = project.root / "calls"
    until(calls.exists)
    assert project.run("force-unlock", "--confirm").returncode == 0
    failpoint("find", errorCode=11601)
    (project.root / "go").touch()
    thread.join(60)
    (report,) = reports
    assert isinstance(report.error, LeaseLostError)
    assert report.outcomes[0].state is (StepState.NOT_RUN if head else StepState.UNKNOWN)
    assert calls.read_text() == "x"
    assert project.trail(FIRST) == ["started", "unlocked"]


def test_a_cursor_that_a_lost_lock_ends_is_no_failure_of_the_migration(project: Project) -> None:
    project.db.people.insert_many([{"_id": n} for n in range(30)])
    write(
        project,
        """
for n, _ in enumerate(db.people.find().batch_size(10)):
    if n == 9:
        (Path(__file__).parents[1] / "calls").touch()
        while not (Path(__file__).parents[1] / "go").exists():
            __import__("time").sleep(0.02)
""",
    )
    reports: list[RunReport] = []
    thread = threading.Thread(target=lambda: reports.append(project.runner().up()))
    thread.start()
    until((project.root / "calls").exists)
    assert project.run("force-unlock", "--confirm").returncode == 0
    (project.root / "go").touch()
    thread.join(60)
    (report,) = reports
    assert isinstance(report.error, LeaseLostError)
    assert report.outcomes[0].state is StepState.UNKNOWN


def test_a_heartbeat_that_comes_after_the_release_is_no_lost_lock(
    project: Project, failpoint: Failpoint, caplog: pytest.LogCaptureFixture
) -> None:
    write(project, 'ctx.app.config["SLOW"]()\n__import__("time").sleep(0.8)')

    def slow() -> None:
        failpoint("update", blockConnection=True, blockTimeMS=3_000)

    report = project.runner(MIGRATE_LOCK_TTL=2, SLOW=slow).up()
    assert report.failure is None
    time.sleep(3)
    assert "lost the lock" not in caplog.text


# --- a stop between two steps


def test_a_stop_while_a_start_is_recorded_keeps_the_report(project: Project) -> None:
    project.write_inserts(FIRST, SECOND)

    def stop() -> None:
        raise KeyboardInterrupt

    report = project.runner().up(Options(observer=Does(SECOND, stop)))
    assert isinstance(report.error, RunStoppedError)
    assert [each.state for each in report.outcomes] == [StepState.APPLIED, StepState.NOT_RUN]
    assert project.runner().lock() is None


# --- backfills


def test_a_half_done_backfill_with_workers_goes_on_under_another_number(project: Project) -> None:
    project.db.people.insert_many([{"_id": n} for n in range(400)])
    (project.root / "bad").touch()
    project.write(
        f"{FIRST}_change",
        """
        from pathlib import Path

        BAD = Path(__file__).parents[1] / "bad"

        def change(document):
            if document["_id"] == 399 and BAD.exists():
                raise ValueError("not this one")
            return {"$inc": {"n": 1}}

        def up(db, ctx):
            ctx.backfill("people", change, workers=4, batch_size=20)
        """,
    )
    project.runner().up()
    (ranges,) = {each["version"] for each in project.db["migrations.ranges"].find()}
    assert ranges == str(FIRST)
    assert project.invoke("renumber", str(FIRST)).exit_code == 0
    (project.root / "bad").unlink()
    assert project.runner().up().failure is None
    assert {each["n"] for each in project.db.people.find()} == {1}
    assert project.db["migrations.ranges"].count_documents({}) == 0


def test_ranges_that_a_killed_run_left_are_deleted_by_the_next_one(
    project: Project, failpoint: Failpoint
) -> None:
    project.db.people.insert_many([{"_id": n} for n in range(100)])
    write(
        project,
        """
ctx.backfill("people", {"$set": {"n": 1}}, workers=2, batch_size=20)
if not (Path(__file__).parents[1] / "good").exists():
    raise ValueError
""",
    )
    # Those of an earlier run are deleted at the beginning; these stay, as after a kill.
    failpoint("delete", skip=1, errorCode=8000)
    assert project.runner().up().failure is not None
    assert project.db["migrations.ranges"].count_documents({}) == 2
    (project.root / "good").touch()
    assert project.runner().up().failure is None
    assert project.db["migrations.ranges"].count_documents({}) == 0


def test_a_condition_that_cannot_be_counted_is_backfilled(
    project: Project, failpoint: Failpoint
) -> None:
    project.db.people.insert_many([{"_id": n, "n": n} for n in range(5)])
    write(
        project,
        """
ctx.app.config["FAIL"]()
ctx.backfill("people", {"$set": {"x": 1}}, where={"n": 3})
""",
    )

    def fail() -> None:
        failpoint("aggregate", errorCode=2)  # As for a `$where`, which a query may have.

    assert project.runner(FAIL=fail).up().failure is None
    assert project.db.people.count_documents({"x": 1}) == 1


REFUSES = "def change(document):\n    raise ValueError('not this one')\n"
TAKEN = """
def change(document):
    return {"$set": {"n": 3 if document["_id"] == 7 else document["n"]}}
"""


@pytest.mark.parametrize(
    ("head", "call", "verdict"),
    [
        (REFUSES, 'change, on_error="collect", max_rejected=2', Verdict.FAILS),
        ("import concurrent.futures", "lambda _: None, workers=POOL", Verdict.FAILS),
        (TAKEN, 'change, on_error="collect", max_rejected=2', Verdict.PARTLY),
    ],
    ids=[
        "too many rejected",
        "a function that cannot be sent",
        "a document that the server refuses",
    ],
)
def test_a_dry_run_says_of_a_backfill_what_a_real_run_does(
    project: Project, head: str, call: str, verdict: Verdict
) -> None:
    project.db.people.insert_many([{"_id": n, "n": n} for n in range(20)])
    project.db.people.create_index("n", unique=True)
    body = f'ctx.backfill("people", {call})'
    if "POOL" in call:
        call = call.replace("POOL", "pool")
        body = f'with concurrent.futures.ProcessPoolExecutor(1) as pool:\n    ctx.backfill("people", {call})'
    write(project, body, head=head)
    (outcome,) = project.dry_runner().up().outcomes
    assert outcome.trial is not None
    assert outcome.trial.verdict is verdict
    real = project.runner().up().outcomes[0]
    assert (real.state is StepState.FAILED) is (verdict is Verdict.FAILS)


# --- what only looks


def test_a_dry_run_of_a_baseline_writes_nothing(project: Project) -> None:
    project.write_inserts(FIRST)
    shown = project.invoke("baseline", "--dry-run", "--reason", "as before")
    assert shown.exit_code == 0, shown.output
    assert str(FIRST) in shown.stdout
    assert project.db.list_collection_names() == []


def test_a_stop_of_such_a_dry_run_is_reported_as_one(project: Project) -> None:
    project.write(
        f"{FIRST}_step",
        """
        import os, signal, time

        def up(db): pass

        def verify(db):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(20)
        """,
    )
    stopped = project.run("baseline", "--dry-run", "--reason", "as before")
    assert stopped.returncode == 1
    assert "Stopped by SIGTERM" in stopped.stderr
    assert "Traceback" not in stopped.stderr
