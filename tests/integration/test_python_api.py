"""What code can call: the methods of the extension, and their reports."""

from __future__ import annotations

import inspect
import json
import logging
import pickle
import re
import subprocess
import sys
import textwrap
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

import flask_migrate_mongo
from flask_migrate_mongo import (
    CheckFailedError,
    ConfigurationError,
    InvalidRequestError,
    LockHeldError,
    MigrateError,
    MigrationFailedError,
    MongoMigrate,
    RehearsalFailedError,
    RunProgress,
    RunReport,
    StatusReport,
)
from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.model.documents import Report
from flask_migrate_mongo.model.errors import LeaseLostError, NoContextError, NotConfirmedError
from flask_migrate_mongo.model.reports import StepState
from tests.project import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.project import Process, Project

FAILS = "def up(db):\n    raise ValueError('no such city')\n"
METHODS = [
    name
    for name, method in inspect.getmembers(MongoMigrate, inspect.isfunction)
    if not name.startswith("_") and name not in {"init_app", "make_blueprint"}
]


def python(project: Project, source: str) -> Process:
    """Run a program in a process of its own, beside the application in app.py."""
    project.command()
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        env=project.environ(),
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def printed(project: Project, *args: str) -> Any:
    """Return the document that a command prints."""
    return json.loads(project.invoke(*args, "--json").stdout)


def test_the_commands_have_a_method_each(project: Project) -> None:
    project.write_inserts(1, 2)
    app, migrate = project.app(), MongoMigrate()
    with app.app_context():
        assert [step.version for step in migrate.plan().steps] == [1, 2]
        report = migrate.up()
        assert isinstance(report, RunReport)
        assert [outcome.state for outcome in report.outcomes] == [StepState.APPLIED] * 2
        assert migrate.plan().steps == ()
        assert [o.step.version for o in migrate.down(steps=1).outcomes] == [2]
        status = migrate.status()
    assert isinstance(status, StatusReport)
    assert [entry.version for entry in status.survey.applied] == [1]
    assert [entry.version for entry in status.survey.pending] == [2]


def test_an_application_can_be_named_instead_of_its_context(project: Project) -> None:
    project.write_inserts(1)
    migrate = MongoMigrate()
    assert len(migrate.up(project.app()).outcomes) == 1
    assert len(migrate.status(project.app()).survey.applied) == 1


def test_a_dry_run_from_code_changes_nothing(project: Project) -> None:
    project.write_inserts(1)
    migrate = MongoMigrate()
    report = migrate.up(project.app(), dry_run=True)
    assert (report.dry_run, report.executed) == (True, True)
    assert project.statuses() == {}
    migrate.up(project.app())
    assert migrate.down(project.app(), dry_run=True).executed
    assert project.statuses() == {1: "completed"}


def test_options_reach_the_run(project: Project) -> None:
    project.write("1_fails", "def up(db): raise ValueError('no')\n")
    project.write_inserts(2)
    migrate = MongoMigrate()
    report = migrate.up(project.app(), continue_on_error=True)
    assert [o.state for o in report.outcomes] == [StepState.FAILED, StepState.APPLIED]
    runner = project.runner()
    with runner.lease.hold(runner.actor("a test")), pytest.raises(LockHeldError):
        migrate.up(project.app(), wait=0)


def test_every_public_name_is_there_and_explained() -> None:
    for name in flask_migrate_mongo.__all__:
        found = getattr(flask_migrate_mongo, name)
        assert found.__doc__ or found.title, name


def test_an_application_has_one_database_to_migrate(project: Project) -> None:
    app = project.app()
    other = project.db.client["other"]
    with pytest.raises(ConfigurationError, match="with another database already"):
        MongoMigrate(app, other)
    assert app_state.of(app).mongo is project.db


# --- documents


LOOKS: list[tuple[Callable[[MongoMigrate], Report], tuple[str, ...]]] = [
    (lambda migrate: migrate.status(), ("status",)),
    (lambda migrate: migrate.plan(), ("plan",)),
    (lambda migrate: migrate.check(allow=["pending"]), ("check", "--allow", "pending")),
    (lambda migrate: migrate.lint(select=["MM001"]), ("lint", "--format", "json")),
    (lambda migrate: migrate.history(limit=1), ("history", "--limit", "1")),
    (lambda migrate: migrate.history(status="failed"), ("history", "--status", "failed")),
    (lambda migrate: migrate.events(), ("history", "--events")),
    (lambda migrate: migrate.events(version=1), ("history", "1")),
    (lambda migrate: migrate.lock_status(), ("lock-status",)),
    (
        lambda migrate: migrate.baseline(reason="known", dry_run=True),
        ("baseline", "--reason", "known", "--dry-run"),
    ),
]


@pytest.mark.parametrize(("look", "command"), LOOKS)
def test_a_report_as_a_dict_is_what_the_command_prints(
    project: Project, look: Callable[[MongoMigrate], Report], command: tuple[str, ...]
) -> None:
    project.write_inserts(1)
    project.write("2_fails", FAILS)
    project.invoke("up")
    project.write_inserts(3)
    if command[0] == "lint":
        shown = json.loads(project.invoke(*command, "--select", "MM001").stdout)
    else:
        shown = printed(project, *command)
    with project.app().app_context():
        assert look(MongoMigrate()).to_dict() == shown


def test_a_dict_can_be_sent_as_json_whatever_is_stored(project: Project) -> None:
    project.write_inserts(1)
    app = project.app()
    MongoMigrate().up(app)
    odd = {"event": "noted", "at": datetime.now(timezone.utc), "by": ObjectId("0" * 24)}
    project.db.migrations.update_one({}, {"$push": {"metadata.events": odd}})
    found = MongoMigrate().events(app, version=1).to_dict()
    assert json.loads(json.dumps(found)) == found == printed(project, "history", "1")
    assert found["events"][-1]["by"] == "0" * 24


def without_times(document: Any) -> Any:
    """Leave out what differs between two equal runs, one after the other."""
    if isinstance(document, list):
        return [without_times(each) for each in document]
    if not isinstance(document, dict):
        return document
    differ = {"executionTime", "runId", "batch", "traceback"}
    return {k: without_times(v) for k, v in document.items() if k not in differ}


def test_a_run_as_a_dict_is_what_the_command_prints(project: Project) -> None:
    project.write_inserts(1)
    project.write("2_fails", f"idempotent = True\n{FAILS}")
    by_command = printed(project, "up")
    project.invoke("down")
    by_code = MongoMigrate().up(project.app()).to_dict()
    assert without_times(by_code) == without_times(by_command)
    assert [step["state"] for step in by_code["steps"]] == ["applied", "failed"]
    assert json.loads(json.dumps(by_code)) == by_code


def test_a_released_lock_and_a_settled_version_are_reports_too(project: Project) -> None:
    project.write_inserts(1)
    migrate, app = MongoMigrate(), project.app()
    assert migrate.force_unlock(app).to_dict()["released"] is None
    runner = project.runner()
    with runner.lease.hold(runner.actor("a test")):
        assert migrate.lock_status(app).locked
        assert migrate.lock_status(app).to_dict()["lock"]["reason"] == "a test"
        with pytest.raises(NotConfirmedError):
            migrate.force_unlock(app)
        assert migrate.force_unlock(app, confirm=True).to_dict()["released"]["reason"] == "a test"
    settled = migrate.resolve(app, version=1, applied=True, reason="by hand").to_dict()
    assert [record["status"] for record in settled["history"]] == ["completed"]


@pytest.mark.parametrize("ways", [{}, {"applied": False, "forget": True}])
def test_one_version_is_settled_in_one_way(project: Project, ways: dict[str, bool]) -> None:
    project.write_inserts(1)
    with pytest.raises(InvalidRequestError, match="One of `applied`, `accept_file` and `forget`"):
        MongoMigrate().resolve(project.app(), version=1, reason="by hand", **ways)
    assert project.statuses() == {}


def test_every_report_is_frozen() -> None:
    # A dataclass with slots is a second class, so each is here twice: once before it was one.
    kinds = [vars(kind).get("__dataclass_params__") for kind in Report.__subclasses__()]
    assert len(list(filter(None, kinds))) >= 10
    assert all(parameters.frozen for parameters in kinds if parameters)


# --- failures


def test_a_failed_run_raises_its_first_cause_and_carries_its_report(project: Project) -> None:
    project.write_inserts(1)
    project.write("2_fails", FAILS)
    report = MongoMigrate().up(project.app())
    with pytest.raises(MigrationFailedError, match="Failed: 2") as raised:
        report.raise_for_failure()
    assert raised.value.report is report
    assert (raised.value.code, raised.value.exit_code) == ("migration-failed", 1)
    cause = raised.value.__cause__
    assert isinstance(cause, ValueError)
    assert str(cause) == "no such city"
    assert cause.__traceback__ is not None


def test_a_report_without_a_failure_is_returned(project: Project) -> None:
    project.write_inserts(1)
    report = MongoMigrate().up(project.app())
    assert report.raise_for_failure() is report
    assert MongoMigrate().status(project.app()).raise_for_failure().to_dict()["pending"] == []


def test_a_run_that_lost_its_lock_raises_that(project: Project) -> None:
    project.write(
        "1_loses",
        "def up(db, ctx):\n    db.migration_locks.delete_many({})\n    ctx.ensure_lease()\n",
    )
    with pytest.raises(LeaseLostError) as raised:
        MongoMigrate().up(project.app()).raise_for_failure()
    assert isinstance(raised.value.report, RunReport)
    assert raised.value.exit_code == 3


def test_the_error_of_a_failed_run_can_be_sent_to_another_process(project: Project) -> None:
    project.write(
        "1_fails",
        """
        class Unsendable(Exception):
            def __reduce__(self):
                raise TypeError("not picklable")

        def up(db):
            raise Unsendable("no")
        """,
    )
    with pytest.raises(MigrationFailedError) as raised:
        MongoMigrate().up(project.app()).raise_for_failure()
    received = pickle.loads(pickle.dumps(raised.value))
    assert (received.versions, received.exit_code) == ((1,), 1)
    assert received.report.outcomes == raised.value.report.outcomes  # type: ignore[union-attr]


CHECKS: list[tuple[Callable[[MongoMigrate], Report], type[MigrateError], int]] = [
    (lambda migrate: migrate.check(), CheckFailedError, 4),
    (lambda migrate: migrate.lint(), CheckFailedError, 4),
    (lambda migrate: migrate.up(dry_run=True), MigrationFailedError, 1),
    (lambda migrate: migrate.rehearse(), RehearsalFailedError, 1),
]


@pytest.mark.parametrize(("check", "kind", "code"), CHECKS)
def test_what_finds_a_problem_raises_it(
    project: Project,
    check: Callable[[MongoMigrate], Report],
    kind: type[MigrateError],
    code: int,
) -> None:
    project.write("1_fails", "def up(db):\n    db.shops.remove({})\n    raise ValueError\n")
    with project.app().app_context():
        report = check(MongoMigrate())
        with pytest.raises(kind, match="1") as raised:
            report.raise_for_failure()
    assert (raised.value.exit_code, raised.value.report) == (code, report)


def test_a_dry_run_that_could_execute_nothing_raises_as_the_command_does(project: Project) -> None:
    project.db.shops.insert_one({})
    project.write("1_drops", "def up(db):\n    db.shops.drop()\n")
    report = MongoMigrate().up(project.app(), dry_run=True)
    assert report.executed_nothing
    with pytest.raises(CheckFailedError, match="could execute nothing"):
        report.raise_for_failure()
    assert project.invoke("up", "--dry-run").exit_code == CheckFailedError.exit_code
    token = "t" * 32
    client = project.app(MIGRATE_API_TOKEN=token).test_client()
    asked = client.post(
        "/api/migrations/up?dryRun=true", headers={"Authorization": f"Bearer {token}"}
    )
    # The API answers with what was found, which is no failure of the request.
    assert asked.status_code == 200


TASK = """
from app import app
from flask_migrate_mongo import MongoMigrate

def task():
    with app.app_context():
        return MongoMigrate().up().raise_for_failure().to_dict()

print(len(task()["steps"]))
"""


def test_a_task_of_three_lines_fails_if_a_migration_fails(project: Project) -> None:
    project.write_inserts(1)
    done = python(project, TASK)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    project.write("2_fails", FAILS)
    failed = python(project, TASK)
    assert failed.returncode == 1
    assert "ValueError: no such city" in failed.stderr
    assert "MigrationFailedError: Failed: 2." in failed.stderr


# --- the application


@pytest.mark.parametrize("method", METHODS)
def test_without_an_application_a_method_says_what_to_type(method: str) -> None:
    given: dict[str, dict[str, Any]] = {
        "resolve": {"version": 1, "reason": "x"},
        "baseline": {"reason": "x"},
    }
    with pytest.raises(NoContextError) as raised:
        getattr(MongoMigrate(), method)(**given.get(method, {}))
    text = str(raised.value)
    assert "\n" not in text
    assert "`migrate.up(app)`" in text
    assert "`with app.app_context():`" in text


# --- progress


def test_progress_is_reported_for_each_step_and_batch(project: Project) -> None:
    project.db.shops.insert_many([{"n": n} for n in range(5)])
    project.write_inserts(1)
    project.write(
        "2_fill",
        "def up(db, ctx):\n    ctx.backfill('shops', {'$set': {'x': 1}}, batch_size=2)\n",
    )
    received: list[RunProgress] = []
    MongoMigrate().up(project.app(), on_progress=received.append).raise_for_failure()
    assert [(p.step.version, p.done, p.total) for p in received if p.backfill is None] == [
        (1, 0, 2),
        (1, 1, 2),
        (2, 1, 2),
        (2, 2, 2),
    ]
    assert [p.backfill.done for p in received if p.backfill] == [2, 4, 5]
    assert [str(p) for p in received[:2]] == ["0 of 2, 1 insert ...", "1 of 2, 1 insert: applied"]


def test_a_dry_run_reports_its_progress_too(project: Project) -> None:
    project.write_inserts(1, 2)
    received: list[RunProgress] = []
    MongoMigrate().up(project.app(), dry_run=True, on_progress=received.append)
    assert [(p.done, p.total) for p in received] == [(0, 2), (1, 2), (1, 2), (2, 2)]


def test_a_progress_function_that_raises_is_logged_and_changes_nothing(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.write_inserts(1)

    def fails(_: RunProgress) -> None:
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR):
        assert not MongoMigrate().up(project.app(), on_progress=fails).failure
    assert "ZeroDivisionError" in caplog.text
    assert project.statuses() == {1: "completed"}


# --- the page


def test_the_page_names_every_method_with_its_options() -> None:
    page = (ROOT / "docs" / "python.md").read_text().partition("## Reports")[0]
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|", page, re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", options)) for name, options in rows}
    documented["down"] |= documented["up"]
    documented["down"] -= {"up"}
    for name in METHODS:
        options = set(inspect.signature(getattr(MongoMigrate, name)).parameters) - {"self", "app"}
        assert documented.pop(name) == options
    assert documented == {}


@pytest.mark.parametrize("program", ["deploy.py", "tasks.py", "notebook.py"])
def test_the_examples_of_the_page_run(project: Project, program: str) -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    for name, source in re.findall(
        r"^```python file=(\S+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE
    ):
        (project.root / name).write_text(source, encoding="utf-8")
    project.write_inserts(20261101001)
    run = "import tasks\nprint(tasks.apply_migrations())" if program == "tasks.py" else ""
    done = python(project, run or f"import {program.removesuffix('.py')}")
    assert done.returncode == 0, done.stderr
    assert "applied" in done.stdout
    assert project.statuses() == {20261101001: "completed"}
