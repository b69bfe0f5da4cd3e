"""What belongs to one application: its settings, its database, and the runner made of them."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError, NoDatabaseError

if TYPE_CHECKING:
    from flask import Flask
    from pymongo import MongoClient
    from pymongo.database import Database

    from .config import Settings
    from .runner import Runner
    from .source import Scaffold

KEY = "mongo_migrate"
"""Where the assembly is found in `app.extensions`."""

SELECTION_TIMEOUT_MS = 5_000
"""How long a client of ours looks for a server, unless the connection string says otherwise."""


@dataclass(eq=False)
class Assembly:
    """The state of one application; `mongo` is what it handed over, or None."""

    app: Flask
    settings: Settings
    mongo: object = None
    _clients: dict[int, MongoClient[Any]] = field(default_factory=dict)
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def runner(self) -> Runner:
        """Return a runner for this application, on the client of this process."""
        # Late: an application that never migrates in this process need not pay for these.
        from .execution import Executor  # noqa: PLC0415
        from .history import MigrationHistory  # noqa: PLC0415
        from .lease import Lease  # noqa: PLC0415
        from .planning import Policy  # noqa: PLC0415
        from .runner import Runner  # noqa: PLC0415
        from .server import Server  # noqa: PLC0415
        from .source import Folder  # noqa: PLC0415
        from .stopping import StopSwitch  # noqa: PLC0415

        settings = self.settings
        server = Server(self.database())
        switch = StopSwitch()
        return Runner(
            folder=Folder(settings.directory),
            server=server,
            history=MigrationHistory(server, settings.collection),
            lease=Lease(
                server, settings.lock_collection, ttl=settings.lock_ttl, sleep=switch.sleep
            ),
            executor=Executor(self.app, server, switch),
            switch=switch,
            policy=Policy(
                refuse_out_of_order=settings.out_of_order == "refuse",
                stop_on_interrupted=settings.interrupted == "stop",
                prefer_transactions=settings.transactions == "preferred",
            ),
            wait=settings.lock_wait,
            app_version=settings.app_version,
        )

    def scaffold(self) -> Scaffold:
        """Return what makes new files; it needs no database."""
        from .source import Folder, Scaffold  # noqa: PLC0415

        settings = self.settings
        return Scaffold(Folder(settings.directory), settings.version_format, settings.template)

    def database(self) -> Database[Any]:
        """Return the database to migrate. Raises NoDatabaseError or ConfigurationError."""
        given = self.mongo
        if given is None:
            return self._own_database()
        if not _is_database(given) and callable(given):
            given = given()
        if _is_database(given):
            return given  # type: ignore[return-value]
        return self._of_extension(given)

    def _of_extension(self, given: object) -> Database[Any]:
        """Return the database of a Flask-PyMongo, by its documented attributes."""
        client, database = getattr(given, "cx", None), getattr(given, "db", None)
        if client is None and database is None:
            msg = (
                f"MongoMigrate was given a {type(given).__name__}, which holds no database. Hand "
                "over a PyMongo after its init_app(), a pymongo Database, a callable that returns "
                "one, or nothing and set MONGO_URI."
            )
            raise ConfigurationError(msg)
        if self.settings.database and client is not None:
            return client[self.settings.database]  # type: ignore[no-any-return]
        if database is None:
            raise NoDatabaseError(_NO_NAME)
        # Flask-PyMongo 2 wraps Database in a class of its own; both are Databases.
        return database  # type: ignore[no-any-return]

    def _own_database(self) -> Database[Any]:
        if self.settings.mongo_uri is None:
            msg = (
                "There is no database to migrate. Set MONGO_URI in app.config or in the "
                "environment (mongodb://localhost:27017/shop), or hand one over: "
                "MongoMigrate(app, mongo)."
            )
            raise NoDatabaseError(msg)
        from pymongo.errors import ConfigurationError as NoDefault  # noqa: PLC0415

        client = self._own_client(self.settings.mongo_uri)
        if self.settings.database:
            return client[self.settings.database]
        try:
            return client.get_default_database()
        except NoDefault as exc:
            raise NoDatabaseError(_NO_NAME) from exc

    def _own_client(self, uri: str) -> MongoClient[Any]:
        """Return this process's client; one that was made before a fork is not used after it."""
        from pymongo import MongoClient  # noqa: PLC0415

        from .server import translated  # noqa: PLC0415

        with self._mutex:
            if os.getpid() not in self._clients:
                self._clients.clear()
                with translated():
                    self._clients[os.getpid()] = MongoClient(uri, **_timeout(uri))
            return self._clients[os.getpid()]

    def close(self) -> None:
        """Close the client of this process, if it is one of ours; a later use opens a new one."""
        with self._mutex:
            client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()


_NO_NAME = (
    "The connection string names no database. Add it (mongodb://localhost:27017/shop), or set "
    "MIGRATE_DATABASE, or hand over a database: MongoMigrate(app, client.shop)."
)


def _timeout(uri: str) -> dict[str, Any]:
    given = "serverselectiontimeoutms" in uri.lower()
    return {} if given else {"serverSelectionTimeoutMS": SELECTION_TIMEOUT_MS}


def _is_database(given: object) -> bool:
    from pymongo.database import Database  # noqa: PLC0415

    # mongomock's classes are not pymongo's, and any attribute exists on them: only types tell.
    return isinstance(given, Database) or (
        type(given).__module__.partition(".")[0] == "mongomock"
        and type(given).__name__ == "Database"
    )


def current() -> Assembly:
    """Return the current application's assembly. Raises ConfigurationError without init_app."""
    from flask import current_app  # noqa: PLC0415

    return of(current_app)


def of(app: Flask) -> Assembly:
    """Return an application's assembly. Raises ConfigurationError without init_app."""
    found = app.extensions.get(KEY)
    if found is None:
        msg = (
            f"Flask-Migrate-Mongo is not set up for the application {app.name!r}. Call "
            "MongoMigrate(app), or migrate.init_app(app) in your create_app()."
        )
        raise ConfigurationError(msg)
    return found  # type: ignore[no-any-return]
