"""A demo application: migrations on the real airports of the world."""

from __future__ import annotations

import os

import click
from flask import Flask
from flask_pymongo import PyMongo
from pymongo.errors import ConfigurationError

from flask_migrate_mongo import MongoMigrate

mongo = PyMongo()
migrate = MongoMigrate()


def create_app(mongo_uri: str | None = None) -> Flask:
    """Create the application on the given database, else that of MONGO_URI, else the demo's server."""
    from .data import load_airports  # noqa: PLC0415  (they import `mongo` from here)
    from .views import views  # noqa: PLC0415

    app = Flask(__name__)
    app.config["MONGO_URI"] = mongo_uri or os.environ.get("MONGO_URI") or _embedded()
    mongo.init_app(app, serverSelectionTimeoutMS=5_000)
    _check_database()
    # It stays closed until MIGRATE_API_TOKEN is set.
    app.config.setdefault("MIGRATE_DASHBOARD", True)
    migrate.init_app(app, mongo)
    app.register_blueprint(views)
    app.cli.add_command(load_airports)
    return app


def _check_database() -> None:
    assert mongo.cx is not None  # noqa: S101  (init_app has set it)
    try:
        mongo.cx.get_default_database()
    except ConfigurationError as exc:
        msg = "MONGO_URI names no database. Add one: mongodb://localhost:27017/aviation"
        raise click.ClickException(msg) from exc


def _embedded() -> str:
    from . import embedded  # noqa: PLC0415  (not needed if MONGO_URI is set)

    return embedded.DEMO.start()
