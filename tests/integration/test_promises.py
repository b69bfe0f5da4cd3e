"""The promises of the design that are not shown with the lease, the transactions or the races."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from bson import encode
from pymongo import MongoClient, monitoring

from flask_migrate_mongo.model.errors import (
    ConnectionFailedError,
    DriftError,
    MissingFileError,
    OutcomeNotRecordedError,
)
from flask_migrate_mongo.model.reports import StepState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo.database import Database

    from tests.conftest import Failpoint
    from tests.project import Project

FIRST, SECOND, THIRD = 20261101001, 20261101002, 20261101003

FAILS_DOWN = """
def up(db):
    db.people.insert_one({"by": "second"})


def down(db):
    raise ValueError("down fails")
"""


def content(db: Database[Any]) -> dict[str, object]:
    """Every document and every index of a database."""
    names = sorted(db.list_collection_names())
    return {
        name: (
            [encode(d) for d in db[name].find(sort=[("_id", 1)])],
            sorted(db[name].index_information()),
        )
        for name in names
    }


class Commands(monitoring.CommandListener):
    """The names of the commands that were sent, apart from the driver's own."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name not in {"hello", "endSessions"}:
            self.names.append(event.command_name)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


@pytest.fixture
def commands(project: Project) -> Iterator[Commands]:
    """What the project's client sends from now on."""
    listener = Commands()
    with MongoClient[dict[str, Any]](project.uri, event_listeners=[listener]) as client:
        project.db = client[project.db.name]
        yield listener


def test_promise_4_a_failed_down_leaves_the_migration_applied(project: Project) -> None:
    """Promise 4: and so the next `down` tries it again, and undoes nothing before it."""
    project.write_inserts(FIRST)
    project.write(f"{SECOND}_fails", FAILS_DOWN)
    project.runner().up()
    for _ in range(2):
        (outcome,) = project.runner().down().outcomes
        assert (outcome.step.version, outcome.state) == (SECOND, StepState.FAILED)
        assert project.statuses() == {FIRST: "completed", SECOND: "completed"}
    assert project.trail(SECOND) == ["started", "completed", *["started", "failed"] * 2]
    assert project.runner().up().is_noop


def test_promise_5_the_first_cause_is_in_the_trail_and_in_the_report(project: Project) -> None:
    """Promise 5: no error is lost or masked."""
    project.write(
        f"{FIRST}_fails",
        """
        def up(db):
            try:
                raise KeyError("first cause")
            except KeyError as exc:
                raise RuntimeError("what came of it") from exc
        """,
    )
    (outcome,) = project.runner().up().outcomes
    event = project.record(FIRST)["metadata"]["events"][-1]
    assert outcome.error is not None
    assert outcome.error.traceback is not None
    for error in (project.record(FIRST)["metadata"]["failure"], event["error"]):
        assert error["type"] == "RuntimeError"
        assert error["message"] == "what came of it"
        assert error["traceback"] == outcome.error.traceback
    assert "KeyError: 'first cause'" in outcome.error.traceback
    assert f"{FIRST}_fails.py" in outcome.error.traceback


def test_promise_5_a_failure_to_record_does_not_mask_the_failure_itself(
    project: Project, failpoint: Failpoint
) -> None:
    project.write(f"{FIRST}_fails", "def up(db):\n    raise ValueError('first cause')\n")
    # The first update records the start, the second one the failure.
    failpoint("update", skip=1, times=1, errorCode=8)
    report = project.runner().up()
    (outcome,) = report.outcomes
    assert outcome.state is StepState.FAILED
    assert outcome.error is not None
    assert outcome.error.message == "first cause"
    assert "refused a command" in str(report.error)


def test_promise_5_an_outcome_is_recorded_through_an_outage(
    project: Project, failpoint: Failpoint, caplog: pytest.LogCaptureFixture
) -> None:
    project.write_inserts(FIRST)
    failpoint("update", skip=1, times=3, closeConnection=True)
    report = project.runner().up()
    assert report.error is None
    assert project.statuses() == {FIRST: "completed"}
    assert "Trying again" in caplog.text


def test_promise_5_an_outcome_that_cannot_be_recorded_is_said_loudly(
    project: Project, failpoint: Failpoint
) -> None:
    project.write(f"{FIRST}_fails", "def up(db, ctx):\n    ctx.app.config['REFUSE']()\n")
    project.write_inserts(SECOND)

    def refuse() -> None:
        # Not before: a heartbeat is an update, too, and its number is not known.
        failpoint("update", times=10_000, errorCode=91)

    report = project.runner(MIGRATE_LOCK_TTL=2, REFUSE=refuse).up()
    assert isinstance(report.error, OutcomeNotRecordedError)
    assert isinstance(report.error.__cause__, ConnectionFailedError)
    assert "flask db-migrate resolve" in str(report.error)
    states = [outcome.state for outcome in report.outcomes]
    assert states == [StepState.UNKNOWN, StepState.NOT_RUN]


def test_promise_6_a_dry_run_leaves_everything_as_it_was(project: Project) -> None:
    """Promise 6: every collection, index and record; it holds no lock either."""
    project.write_inserts(FIRST)
    project.runner().up()
    project.write_inserts(SECOND)
    before = content(project.db)
    up = project.dry_runner().up()
    down = project.dry_runner().down()
    assert [o.step.version for o in up.outcomes] == [SECOND]
    assert [o.step.version for o in down.outcomes] == [FIRST]
    assert up.executed
    assert down.executed
    assert not up.failures
    assert not down.failures
    assert content(project.db) == before


def test_promise_7_looking_executes_no_code_and_takes_no_lock(
    project: Project, commands: Commands
) -> None:
    """Promise 7: looking executes no migration code and takes no lock."""
    project.write(
        f"{FIRST}_explodes",
        """
        raise SystemExit("this file was executed")


        def up(db):
            pass
        """,
    )
    runner = project.runner()
    runner.status()
    runner.records()
    runner.events()
    runner.lock()
    assert set(commands.names) == {"find", "aggregate"}
    assert project.db.list_collection_names() == []


def test_promise_9_drift_and_missing_files_are_reported_and_not_acted_on(
    project: Project,
) -> None:
    """Promise 9: neither is run again, and neither is undone on the quiet."""
    project.write_inserts(FIRST, SECOND, THIRD)
    project.runner().up()
    (project.migrations / f"{SECOND}_insert.py").unlink()
    project.write(f"{THIRD}_insert", FAILS_DOWN)
    before = content(project.db)

    report = project.runner().up()
    assert report.is_noop
    assert [str(v) in w for v, w in zip((SECOND, THIRD), report.warnings, strict=True)] == [
        True
    ] * 2
    survey = project.runner().status().survey
    assert [entry.version for entry in survey.missing] == [SECOND]
    assert [entry.version for entry in survey.drifted] == [THIRD]
    with pytest.raises(DriftError, match="--allow-drift"):
        project.runner().down()
    with pytest.raises(MissingFileError):
        project.runner().down(steps=2, allow_drift=True)
    assert content(project.db) == before


def test_promise_9_a_late_merge_is_reported_and_runs(project: Project) -> None:
    project.write_inserts(FIRST, THIRD)
    project.runner().up()
    project.write_inserts(SECOND)
    report = project.runner().up()
    assert [o.step.version for o in report.outcomes if o.step.out_of_order] == [SECOND]
    assert "out of order" in report.warnings[0]
    assert project.record(SECOND)["metadata"]["outOfOrder"] is True
    (undone,) = project.runner().down().outcomes
    assert undone.step.version == SECOND


def test_promise_10_with_nothing_to_do_nothing_is_written(
    project: Project, commands: Commands
) -> None:
    """Promise 10: with nothing to do, nothing is written, and one command is sent."""
    assert project.runner().up().is_noop
    assert project.runner().down().is_noop
    assert project.db.list_collection_names() == []
    project.write_inserts(FIRST)
    project.runner().up()
    before = content(project.db)
    commands.names.clear()
    assert project.runner().up().is_noop
    assert commands.names == ["find"]
    assert content(project.db) == before


LOGGING = """
import logging
from app import app
result = app.test_cli_runner().invoke(args=["db-migrate", "up"])
assert result.exit_code == 0, result.output
ours = logging.getLogger("flask_migrate_mongo")
print(logging.getLogger().level, logging.getLogger().handlers, ours.level, ours.handlers)
"""


def test_promise_11_a_process_of_the_application_keeps_its_logging(project: Project) -> None:
    project.write_inserts(FIRST)
    project.command()
    ran = subprocess.run(
        [sys.executable, "-c", LOGGING],
        cwd=project.root,
        env=project.environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout == "30 [] 0 []\n", ran.stderr


def test_promise_11_the_application_is_left_as_it_was(project: Project) -> None:
    """Promise 11: its logging, error pages, JSON provider and client."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("pymongo").level)
    project.write_inserts(FIRST)
    app = project.app()
    provider, handlers = app.json, dict(app.error_handler_spec)
    options = project.db.client.options
    result = app.test_cli_runner().invoke(args=["db-migrate", "up"])
    assert result.exit_code == 0, result.output
    assert (root.level, list(root.handlers), logging.getLogger("pymongo").level) == before
    assert logging.getLogger("flask_migrate_mongo").handlers == []
    assert app.json is provider
    assert dict(app.error_handler_spec) == handlers
    assert project.db.client.options is options
    assert project.db.client.admin.command("ping")["ok"] == 1.0
