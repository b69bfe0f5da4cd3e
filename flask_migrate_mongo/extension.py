"""The Flask extension: registers settings, commands and the API once an application."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, cast

import click
from flask import Blueprint, Flask
from flask.cli import ScriptInfo

from . import settings as config
from . import state as app_state
from . import wiring
from .engine.options import Observer, Options, ProgressCallback
from .interfaces import rest
from .interfaces.cli import SetUpError, db_migrate
from .model.access import Authorize
from .model.errors import ConfigurationError
from .model.reports import (
    EventsReport,
    HistoryReport,
    LockReport,
    ReleaseReport,
    RunProgress,
    RunReport,
)
from .model.values import Status, StatusReport

if TYPE_CHECKING:
    from .driver.server import DocumentView
    from .engine.settling import BaselineReport
    from .lint.linter import LintReport
    from .planning.gate import CheckReport
    from .planning.preview import Preview
    from .rehearsal import RehearsalReport
    from .schema.report import SchemaReport


class MongoMigrate:
    """Versioned migrations for the MongoDB database of a Flask application.

    `mongo` names the database: a Flask-PyMongo `PyMongo`, a pymongo `Database` or `MongoClient`, a
    callable that returns one, or nothing if MONGO_URI is set. It is used when a command runs, never
    earlier, so it may be passed before it is connected.

    `authorize` opens the REST API to users of the application: it is called with the name of an
    action and the request, and returns True or False.

    The other methods do what the commands of the same name do. They take the application, or need its context, and
    return a report: `to_dict()` is what the command prints with `--json`, and `raise_for_failure()` raises the error
    that the command ends with.
    """

    def __init__(
        self, app: Flask | None = None, mongo: object = None, *, authorize: Authorize | None = None
    ) -> None:
        self._mongo, self._authorize = mongo, authorize
        if app is not None:
            self.init_app(app)

    def init_app(
        self, app: Flask, mongo: object = None, *, authorize: Authorize | None = None
    ) -> None:
        """Set up an application: read its MIGRATE_* settings, add `flask db-migrate` and the API.

        Nothing is kept on this object, so one MongoMigrate serves any number of applications.
        Raises SettingError; the application is then left as it was. On Flask's command line, an error is shown in one line.
        """
        # None if this is not Flask's command line.
        context = click.get_current_context(silent=True)
        info = context.find_object(ScriptInfo) if context else None
        try:
            self._set_up(app, mongo, authorize, info)
        except ConfigurationError as exc:
            if info is None:
                raise
            raise SetUpError(exc) from exc

    def _set_up(
        self, app: Flask, mongo: object, authorize: Authorize | None, info: ScriptInfo | None
    ) -> None:
        state = app_state.AppState(app, config.read(app), self._mongo if mongo is None else mongo)
        before = app.extensions.get(app_state.KEY)
        if before is not None and before.mongo is not state.mongo:
            msg = f"The application {app.name!r} has a MongoMigrate with another database already. One application migrates one database."
            raise ConfigurationError(msg, "Use another application for the other database.")
        given = config.sources(app.config)
        state.sources = {name: place for name, (place, _) in given.items()}
        state.authorize = _callable(self._authorize if authorize is None else authorize)
        state.app_option = info.app_import_path if info else None
        # Not a second time, for an application that is set up again.
        if state.settings.api and app_state.KEY not in app.blueprints:
            app.register_blueprint(rest.make_blueprint(), url_prefix=state.settings.url_prefix)
        app.cli.add_command(db_migrate)
        app.extensions[app_state.KEY] = state
        if state.settings.on_start:
            from .interfaces import startup  # noqa: PLC0415  (most processes start without it)

            startup.begin(state)

    @staticmethod
    def make_blueprint() -> Blueprint:
        """Make a new blueprint of the REST API, to register it by hand, with MIGRATE_API = False, where it belongs."""
        return rest.make_blueprint()

    # --- what only looks

    def status(self, app: Flask | None = None) -> StatusReport:
        """Report what is applied, pending, failed and running, and who holds the lock."""
        return wiring.looking.inspector(app_state.of(app)).status()

    def plan(self, app: Flask | None = None) -> Preview:
        """Make the plan of `up`, with what lint finds in it. Raises the errors that refuse it."""
        return wiring.checking.plan(app_state.of(app))

    def check(
        self,
        app: Flask | None = None,
        *,
        allow: Iterable[str] = (),
        new_only: DocumentView | None = None,
    ) -> CheckReport:
        """Find everything that is not as the files, and the declared schema, say.

        The kinds in `allow`, such as "pending", do not count. `new_only` is as of `schema_diff`.
        """
        return wiring.checking.check(app_state.of(app), allow, new_only)

    def schema_diff(
        self,
        app: Flask | None = None,
        *,
        strict: bool = False,
        new_only: DocumentView | None = None,
    ) -> SchemaReport:
        """Compare the collections that MIGRATE_SCHEMA declares with the live ones.

        With `strict`, what nobody declared counts, too. Differences that `new_only` has do not count: the
        document of an earlier report, from `to_dict()` or `schema diff --save`.
        """
        return wiring.comparing.schema_diff(app_state.of(app), strict=strict, new_only=new_only)

    def lint(
        self,
        app: Flask | None = None,
        *,
        files: Sequence[str] = (),
        select: Sequence[str] = (),
        ignore: Sequence[str] = (),
    ) -> LintReport:
        """Find harmful code in migrations without executing them. Needs no database."""
        return wiring.linting.lint(app_state.of(app), files, select, ignore)

    def history(
        self,
        app: Flask | None = None,
        *,
        limit: int = 50,
        skip: int = 0,
        status: str | None = None,
    ) -> HistoryReport:
        """Read a page of what is recorded, the last change first."""
        found = wiring.looking.inspector(app_state.of(app))
        wanted = None if status is None else Status.named(status)
        return wiring.looking.history(found, limit=limit, skip=skip, status=wanted)

    def events(self, app: Flask | None = None, *, version: str | int | None = None) -> EventsReport:
        """Read everything that happened, or what happened to one migration, the oldest first."""
        return wiring.looking.events(wiring.looking.inspector(app_state.of(app)), version)

    def lock_status(self, app: Flask | None = None) -> LockReport:
        """Read who holds the lock."""
        return wiring.looking.lock(wiring.looking.inspector(app_state.of(app)))

    # --- what runs migrations

    def up(  # noqa: PLR0913  (each is an option of its own)
        self,
        app: Flask | None = None,
        *,
        to: str | int | None = None,
        steps: int | None = None,
        dry_run: bool = False,
        continue_on_error: bool = False,
        allow_drift: bool = False,
        wait: float | None = None,
        on_progress: Callable[[RunProgress], object] | None = None,
    ) -> RunReport:
        """Apply pending migrations: all, those up to a version, or the first few.

        `to` is a number, the beginning of one, or a slug. `wait` is in seconds, by default MIGRATE_LOCK_WAIT.
        `on_progress` is called when a step starts and ends, and after each batch of a backfill.

        Raises LockHeldError, and what refuses the plan, before anything runs. A migration that fails
        does not raise: it is in the report's `failures`. The report's `raise_for_failure()` raises it.
        """
        options = _options(on_progress, wait=wait, continue_on_error=continue_on_error)
        acting = wiring.running.acting(app_state.of(app), dry_run=dry_run)
        return acting.up(options, to=to, steps=steps, allow_drift=allow_drift)

    def down(  # noqa: PLR0913  (as above)
        self,
        app: Flask | None = None,
        *,
        to: str | int | None = None,
        steps: int | None = None,
        batch: bool = False,
        dry_run: bool = False,
        continue_on_error: bool = False,
        allow_drift: bool = False,
        wait: float | None = None,
        on_progress: Callable[[RunProgress], object] | None = None,
    ) -> RunReport:
        """Roll back the last applied migration, the last few, those after a version, or the last batch.

        Raises and reports like `up`.
        """
        options = _options(on_progress, wait=wait, continue_on_error=continue_on_error)
        acting = wiring.running.acting(app_state.of(app), dry_run=dry_run)
        return acting.down(options, to=to, steps=steps, batch=batch, allow_drift=allow_drift)

    def redo(
        self,
        app: Flask | None = None,
        *,
        version: str | int | None = None,
        dry_run: bool = False,
        allow_drift: bool = False,
        wait: float | None = None,
        on_progress: Callable[[RunProgress], object] | None = None,
    ) -> RunReport:
        """Roll back the last applied migration, or this one, and apply it again. Raises and reports like `up`."""
        acting = wiring.running.acting(app_state.of(app), dry_run=dry_run)
        return acting.redo(version, _options(on_progress, wait=wait), allow_drift=allow_drift)

    def rehearse(
        self,
        app: Flask | None = None,
        *,
        versions: Iterable[str | int] = (),
        sample: int | None = 1000,
        collections: Iterable[str] | None = None,
    ) -> RehearsalReport:
        """Run up, down and up again on samples, in a scratch database. `sample` None copies all documents."""
        return wiring.rehearsing.rehearse(app_state.of(app), versions, sample, collections)

    # --- what settles by hand

    def force_unlock(self, app: Flask | None = None, *, confirm: bool = False) -> ReleaseReport:
        """Release the lock of another process. Raises NotConfirmedError without `confirm`."""
        return wiring.running.force_unlock(app_state.of(app), confirmed=confirm)

    def baseline(
        self,
        app: Flask | None = None,
        *,
        reason: str,
        to: str | int | None = None,
        dry_run: bool = False,
    ) -> BaselineReport:
        """Record pending migrations as applied, without running them; their `verify()` has to pass."""
        return wiring.settling.baseline(app_state.of(app), to=to, reason=reason, dry_run=dry_run)

    def resolve(
        self,
        app: Flask | None = None,
        *,
        version: str | int,
        reason: str,
        applied: bool | None = None,
        accept_file: bool = False,
        forget: bool = False,
    ) -> HistoryReport:
        """Settle what is recorded of a version: whether it is applied, that its file is right, or that it is gone."""
        return wiring.settling.resolve(
            app_state.of(app),
            version,
            reason=reason,
            applied=applied,
            accept_file=accept_file,
            forget=forget,
        )


def _options(
    on_progress: Callable[[RunProgress], object] | None,
    *,
    wait: float | None,
    continue_on_error: bool = False,
) -> Options:
    observer = Observer() if on_progress is None else ProgressCallback(on_progress)
    return Options(wait=wait, continue_on_error=continue_on_error, observer=observer)


def _callable(authorize: object) -> Authorize | None:
    if authorize is None or callable(authorize):
        return cast("Authorize | None", authorize)
    msg = f"authorize is an object of type {type(authorize).__name__}. Pass a callable that takes the name of an action and the request, and returns True or False."
    raise ConfigurationError(msg)
