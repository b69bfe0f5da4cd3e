"""The Flask extension: registers settings and commands once an application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import assembly, config
from .cli import db_migrate

if TYPE_CHECKING:
    from flask import Flask

    from .runner import Runner


class MongoMigrate:
    """Versioned migrations for the MongoDB database of a Flask application.

    `mongo` says where the database is: a Flask-PyMongo `PyMongo`, a pymongo `Database`, a callable
    that returns either, or nothing, when MONGO_URI says it. It is looked at when a command runs,
    never earlier, so it may be handed over before it is connected.
    """

    def __init__(self, app: Flask | None = None, mongo: object = None) -> None:
        self._mongo = mongo
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, mongo: object = None) -> None:
        """Set up an application: read its MIGRATE_* settings and add `flask db-migrate`.

        Nothing is kept on this object, so one MongoMigrate serves any number of applications.
        Raises SettingError; the application is then left as it was.
        """
        state = assembly.Assembly(app, config.read(app), self._mongo if mongo is None else mongo)
        app.cli.add_command(db_migrate)
        app.extensions[assembly.KEY] = state

    def runner(self, app: Flask | None = None) -> Runner:
        """Return the runner of an application, by default the current one, for use from code."""
        state = assembly.current() if app is None else assembly.of(app)
        return state.runner()
