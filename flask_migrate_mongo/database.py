"""Finds the database of an application, and opens a client where the application has none."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient
from pymongo.errors import ConfigurationError as NoDefaultDatabase
from pymongo.errors import PyMongoError
from werkzeug.local import LocalProxy

from .driver.server import Document, translated
from .model.errors import ConfigurationError, NoDatabaseError, redact
from .state import OwnClient

if TYPE_CHECKING:
    from pymongo.database import Database

    from .state import AppState

SELECTION_TIMEOUT_MS = 5_000
"""How long a client of ours looks for a server, unless the connection string says otherwise."""


def database_of(state: AppState) -> Database[Document]:
    """Find the database to migrate. Raises NoDatabaseError or ConfigurationError.

    A Database that the application passed is used as it is. MIGRATE_DATABASE chooses another one of
    a PyMongo, of a client, and of MONGO_URI.
    """
    if state.mongo is None:
        return _own_database(state)
    given, called = _unwrapped(state.mongo), False
    # pymongo's own objects are callable too, though only to explain that they are not.
    if not _kinds(given) and callable(given):
        given, called = _unwrapped(given()), True
    if "Database" in _kinds(given):
        return given  # type: ignore[no-any-return]
    client, database = _parts(given)
    if client is None and database is None:
        raise ConfigurationError(_useless(given, called=called))
    if database is None or (client is not None and state.settings.database):
        return _named(client, state.settings.database)
    return database  # type: ignore[no-any-return]


def _named(client: MongoClient[Document], name: str | None) -> Database[Document]:
    """Get the client's database of this name, or else the one in its connection string."""
    if name:
        with translated():
            return client[name]
    try:
        return client.get_default_database()
    except NoDefaultDatabase as exc:
        raise NoDatabaseError(_NO_NAME) from exc


def _own_database(state: AppState) -> Database[Document]:
    uri = state.settings.mongo_uri
    if uri is None:
        msg = (
            "There is no database to migrate. Set MONGO_URI in app.config or in the "
            "environment (mongodb://localhost:27017/shop), or pass one: "
            "MongoMigrate(app, mongo)."
        )
        raise NoDatabaseError(msg)
    return _named(_own_client(state, uri), state.settings.database)


def _own_client(state: AppState, uri: str) -> MongoClient[Document]:
    """Get this process's client; one that was made before a fork is not used after it."""
    with state.mutex:
        own = state.own_client
        if own is None or own.pid != os.getpid():
            client = _connect(uri)
            # For runs from code, too: no command ends there, after which it would be closed.
            own = OwnClient(
                os.getpid(), client, weakref.finalize(state, _close_in, os.getpid(), client)
            )
            state.own_client = own
        return own.client


_NO_NAME = (
    "The connection string names no database. Add it (mongodb://localhost:27017/shop), or set "
    "MIGRATE_DATABASE, or pass a database: MongoMigrate(app, client.shop)."
)


def _connect(uri: str) -> MongoClient[Document]:
    """Make a client that connects when it is first used. Raises ConfigurationError."""
    try:
        return MongoClient(uri, **_timeout(uri))
    except (PyMongoError, ValueError, OSError) as exc:
        # Never the string itself: it holds the password, and what cannot be parsed cannot be masked.
        msg = (
            f"MONGO_URI cannot be used: {redact(str(exc)).rstrip('.')}. Write it as "
            "mongodb://user:password@localhost:27017/shop, with special characters of user and "
            "password percent-encoded."
        )
        raise ConfigurationError(msg) from exc


def _close_in(pid: int, client: MongoClient[Document]) -> None:
    if os.getpid() == pid:
        client.close()


def _timeout(uri: str) -> dict[str, Any]:
    given = "serverselectiontimeoutms" in uri.lower()
    return {} if given else {"serverSelectionTimeoutMS": SELECTION_TIMEOUT_MS}


def _unwrapped(given: object) -> Any:  # noqa: ANN401
    """Get the object behind a LocalProxy: in the heartbeat's thread there is no context to find it."""
    return given._get_current_object() if type(given) is LocalProxy else given


def _parts(given: object) -> tuple[Any, Any]:
    """Find the client and the database of a PyMongo or of a client; None for each that is lacking."""
    if kinds := _kinds(given):
        return given if "MongoClient" in kinds else None, None
    client, database = getattr(given, "cx", None), getattr(given, "db", None)
    return (
        client if "MongoClient" in _kinds(client) else None,
        database if "Database" in _kinds(database) else None,
    )


def _kinds(given: object) -> set[str]:
    """List the names of its classes; mongomock's classes have the names of pymongo's.

    Any attribute exists on these objects, which make a database or a collection of it: only types
    can be trusted. The proxies of tracing tools answer with `__class__`.
    """
    return {
        kind.__name__
        for kind in given.__class__.__mro__
        if kind.__module__.partition(".")[0] in {"pymongo", "mongomock"}
    }


def _useless(given: object, *, called: bool) -> str:
    source = (
        "The callable that MongoMigrate was given returned" if called else "MongoMigrate was given"
    )
    return (
        f"{source} {_described(given)}, which holds no database. Pass a PyMongo after its "
        "init_app(), a pymongo Database or MongoClient, a callable that returns one, or nothing "
        "and set MONGO_URI."
    )


def _described(given: object) -> str:
    return "None" if given is None else f"an object of type {type(given).__name__}"
