"""The Flask extension: registers settings, commands and the API once an application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from . import settings as config
from . import state as app_state
from .interfaces.cli import db_migrate
from .interfaces.rest import blueprint
from .model.errors import ConfigurationError

if TYPE_CHECKING:
    from flask import Blueprint, Flask

    from .engine.runner import Runner
    from .model.access import Authorize


class MongoMigrate:
    """Versioned migrations for the MongoDB database of a Flask application.

    `mongo` says where the database is: a Flask-PyMongo `PyMongo`, a pymongo `Database`, a callable
    that returns either, or nothing, when MONGO_URI says it. It is looked at when a command runs,
    never earlier, so it may be handed over before it is connected.

    `authorize` opens the REST API to whom the application knows: it is called with the name of an
    action and the request, and returns True or False.
    """

    def __init__(
        self,
        app: Flask | None = None,
        mongo: object = None,
        *,
        authorize: Authorize | None = None,
    ) -> None:
        self._mongo = mongo
        self._authorize = authorize
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
        state.authorize = _callable(self._authorize if authorize is None else authorize)
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

    def runner(self, app: Flask | None = None) -> Runner:
        """Return the runner of an application, by default the current one, for use from code."""
        state = app_state.current() if app is None else app_state.of(app)
        from .wiring import running  # noqa: PLC0415  (most processes run no migration)

        return running.runner(state)


def _callable(authorize: Any) -> Authorize | None:  # noqa: ANN401  (whatever was handed over)
    if authorize is None or callable(authorize):
        return cast("Authorize | None", authorize)
    msg = (
        f"authorize is an object of type {type(authorize).__name__}. Pass a callable that takes "
        "the name of an action and the request, and returns True or False."
    )
    raise ConfigurationError(msg)
