"""What a test gets as `migrations`: the commands, on a fresh database of its own."""

from __future__ import annotations

from pymongo.database import Database

from flask_migrate_mongo.driver.server import Document
from flask_migrate_mongo.engine.runner import Runner
from flask_migrate_mongo.model.errors import InvalidRequestError, MigrationFailedError
from flask_migrate_mongo.model.reports import RunReport
from flask_migrate_mongo.model.values import Direction, StatusReport
from flask_migrate_mongo.planning.identity import find_version, known_names
from flask_migrate_mongo.planning.plans import Target
from flask_migrate_mongo.state import AppState
from flask_migrate_mongo.wiring import running

from .redirect import confined


class Migrations:
    """The migrations of an application, on a fresh database.

    `db` is this database, and `app` the application, which leads to it. A version is a number, the beginning of one, or
    a slug. `up`, `up_to`, `up_before` and `down` raise MigrateError if a migration fails, with its traceback.
    """

    def __init__(self, state: AppState, db: Database[Document]) -> None:
        self.app = state.app
        self.db = db
        self._state = state

    def up(self, *, to: str | int | None = None, steps: int | None = None) -> RunReport:
        """Apply pending migrations: all, those up to a version, or the first few."""
        __tracebackhide__ = True
        return self._run(Target(Direction.UP, steps, to))

    def up_to(self, version: str | int) -> RunReport:
        """Apply this migration, and everything before it."""
        __tracebackhide__ = True
        return self.up(to=version)

    def up_before(self, version: str | int) -> RunReport:
        """Apply everything before this migration. Raises InvalidRequestError if it is applied already."""
        __tracebackhide__ = True
        runner = self.runner()
        seen = runner.look()
        files, history = seen.found.usable(), seen.history
        number = find_version(version, known_names(files, history.kept))
        if history.is_applied(number):
            msg = f"{number} is applied already, so nothing can be applied before it. Nothing was run."
            raise InvalidRequestError(msg, "Call up_before() first, or down().")
        plan = runner.plan_of(Target(Direction.UP, to=number), seen)
        steps = [step for step in plan.steps if step.version != number]
        if not steps:
            return RunReport(Direction.UP, (), executed=False)
        return self.up(steps=len(steps))

    def down(self, *, to: str | int | None = None, steps: int | None = None) -> RunReport:
        """Roll back the last applied migration, the last few, or those after a version."""
        __tracebackhide__ = True
        return self._run(Target(Direction.DOWN, steps, to))

    def status(self) -> StatusReport:
        """Report what is applied, pending and failed."""
        return self.runner().status()

    def runner(self) -> Runner:
        """Make a runner whose migrations see `ctx.rehearsal`, because all that they write is removed."""
        return running.runner(self._state, rehearsal=True)

    def _run(self, target: Target) -> RunReport:
        __tracebackhide__ = True
        with self.app.app_context(), confined(self.db.name):
            report = self.runner().run(target)
        _raise_failure(report)
        return report


class _TracebackOfMigration(Exception):  # noqa: N818  (shown as the cause of an error, never caught)
    """The traceback of a failed migration, as the history records it."""

    def __str__(self) -> str:
        return f"\n{self.args[0].rstrip()}"


def _raise_failure(report: RunReport) -> None:
    __tracebackhide__ = True
    if not report.failures or (error := report.failures[0].error) is None:
        report.raise_for_failure()
        return
    step = report.failures[0].step
    failure = MigrationFailedError((step.version,), step.direction.value)
    failure.message = f"{step.direction.value}() of {step.version} ({step.file.name}) failed: {error.type}: {error.message}"
    failure.remedy, failure.report = "", report
    raise failure from _TracebackOfMigration(error.traceback)
