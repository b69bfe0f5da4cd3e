"""What code can call: the methods of the extension."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import flask_migrate_mongo
from flask_migrate_mongo import LockHeldError, MongoMigrate, RunReport, StatusReport
from flask_migrate_mongo.model.errors import ConfigurationError
from flask_migrate_mongo.model.reports import StepState

if TYPE_CHECKING:
    from tests.project import Project


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
    assert MongoMigrate().runner(app).server.database.name == project.db.name
