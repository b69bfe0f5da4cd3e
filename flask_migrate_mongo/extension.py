"""The Flask extension: registers settings, commands and the API once an application."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click
from flask import Blueprint, Flask
from flask.cli import ScriptInfo

from . import settings as config
from . import state as app_state
from .engine.options import Options
from .interfaces.cli import db_migrate
from .interfaces.rest import blueprint
from .model.access import Authorize
from .model.errors import ConfigurationError
from .model.reports import RunReport
from .model.values import Plan, StatusReport

if TYPE_CHECKING:
    from .dry_run import DryRunner
    from .engine.runner import Runner


class MongoMigrate:
    """Versioned migrations for the MongoDB database of a Flask application.

    `mongo` names the database: a Flask-PyMongo `PyMongo`, a pymongo `Database` or `MongoClient`, a
    callable that returns one, or nothing if MONGO_URI is set. It is used when a command runs, never
    earlier, so it may be passed before it is connected.

    `authorize` opens the REST API to users of the application: it is called with the name of an
    action and the request, and returns True or False.

    The methods `status`, `plan`, `up`, `down` and `redo` do what the commands of the same name do, but for lint. They
    need the application, or its context.
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
        Raises SettingError; the application is then left as it was.
        """
        state = app_state.AppState(app, config.read(app), self._mongo if mongo is None else mongo)
        before = app.extensions.get(app_state.KEY)
        if before is not None and before.mongo is not state.mongo:
            msg = f"The application {app.name!r} has a MongoMigrate with another database already. One application migrates one database."
            raise ConfigurationError(msg, "Use another application for the other database.")
        given = config.sources(app.config)
        state.sources = {name: place for name, (place, _) in given.items()}
        state.authorize = _callable(self._authorize if authorize is None else authorize)
        # None if this is not Flask's command line.
        context = click.get_current_context(silent=True)
        info = context.find_object(ScriptInfo) if context else None
        state.app_option = info.app_import_path if info else None
        # Not a second time, for an application that is set up again.
        if state.settings.api and self.blueprint.name not in app.blueprints:
            app.register_blueprint(self.blueprint, url_prefix=state.settings.url_prefix)
        app.cli.add_command(db_migrate)
        app.extensions[app_state.KEY] = state
        if state.settings.on_start:
            from .interfaces import startup  # noqa: PLC0415  (most processes start without it)

            startup.begin(state)

    @property
    def blueprint(self) -> Blueprint:
        """The REST API, to be registered by hand, with MIGRATE_API = False, where it belongs."""
        return blueprint

    def status(self, app: Flask | None = None) -> StatusReport:
        """Report what is applied, pending, failed and running, and who holds the lock."""
        return self.runner(app).status()

    def plan(self, app: Flask | None = None) -> Plan:
        """Make the plan of `up`. Raises the errors that refuse it."""
        plan, _ = self.runner(app).plan()
        return plan

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
    ) -> RunReport:
        """Apply pending migrations: all, those up to a version, or the first few.

        `to` is a number, the beginning of one, or a slug. `wait` is in seconds, by default MIGRATE_LOCK_WAIT.

        Raises LockHeldError, and what refuses the plan, before anything runs. A migration that fails
        does not raise: it is in the report's `failures`.
        """
        options = Options(wait=wait, continue_on_error=continue_on_error)
        return _acting(app, dry_run=dry_run).up(
            options, to=to, steps=steps, allow_drift=allow_drift
        )

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
    ) -> RunReport:
        """Roll back the last applied migration, the last few, those after a version, or the last batch.

        Raises and reports like `up`.
        """
        options = Options(wait=wait, continue_on_error=continue_on_error)
        return _acting(app, dry_run=dry_run).down(
            options, to=to, steps=steps, batch=batch, allow_drift=allow_drift
        )

    def redo(
        self,
        app: Flask | None = None,
        *,
        version: str | int | None = None,
        dry_run: bool = False,
        allow_drift: bool = False,
        wait: float | None = None,
    ) -> RunReport:
        """Roll back the last applied migration, or this one, and apply it again. Raises and reports like `up`."""
        acts = _acting(app, dry_run=dry_run)
        return acts.redo(version, Options(wait=wait), allow_drift=allow_drift)

    def runner(self, app: Flask | None = None) -> Runner:
        """Make the runner of an application, by default of the current one."""
        from .wiring import running  # noqa: PLC0415  (most processes run no migration)

        return running.runner(app_state.of(app))


def _acting(app: Flask | None, *, dry_run: bool) -> Runner | DryRunner:
    from .wiring import running  # noqa: PLC0415  (as above)

    return running.acting(app_state.of(app), dry_run=dry_run)


def _callable(authorize: object) -> Authorize | None:
    if authorize is None or callable(authorize):
        return cast("Authorize | None", authorize)
    msg = f"authorize is an object of type {type(authorize).__name__}. Pass a callable that takes the name of an action and the request, and returns True or False."
    raise ConfigurationError(msg)
