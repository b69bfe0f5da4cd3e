"""Finds the database of an application, and opens a client where the application has none."""

from __future__ import annotations

import contextlib
import os
import re
import weakref
from contextlib import AbstractContextManager
from typing import Any, cast

import pymongo
from bson.codec_options import CodecOptions
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import ConfigurationError as NoDefaultDatabase
from pymongo.errors import InvalidURI, PyMongoError
from werkzeug.local import LocalProxy

from .driver.outages import remedy_of, remedy_of_set_up
from .driver.server import Document, Server, server_of, translated
from .model.documents import MigratedDatabase
from .model.errors import ConfigurationError, ConnectionFailedError, NoDatabaseError, message_of
from .state import AppState, OwnClient

FIRST_CONTACT_SECONDS = 5
"""How long a command waits for a primary before its first statement."""


# A password that begins with digits and a slash can be parsed, and would be shown as a port and a database.
_SPLIT_CREDENTIALS = r"[^/]*//[^/?]*[/?][^=]*@"
_NOT_ENCODED = "an @ follows a / or ?, so these are part of the user name or the password"


def database_of(state: AppState) -> Database[Document]:
    """Find the database to migrate. Raises NoDatabaseError or ConfigurationError.

    With MIGRATE_MONGO_URI it is one of our own client, whatever the application passed. Otherwise a Database
    that the application passed is used as it is; MIGRATE_DATABASE chooses another one of a PyMongo, of
    a client, and of MONGO_URI.
    """
    settings = state.settings
    if settings.migrate_mongo_uri is None and state.mongo is not None:
        database = _database_in(state.mongo, settings.database)
    else:
        client = _own_client(state)
        database = _named(client, settings.database or _default_name(state, client))
    # Compared by identity: mongomock makes a collection of every name that it does not know.
    if database.write_concern.acknowledged is False:
        msg = (
            "The connection has w=0 (unacknowledged writes). MongoDB does not report errors of such writes, so "
            "a failed migration would count as applied. Nothing was run. Remove w=0 from the "
            "connection string, or from the write concern of the database that is passed to MongoMigrate."
        )
        raise ConfigurationError(msg)
    return database


def codec_options_of(state: AppState) -> CodecOptions[Document]:
    """Find how the application's handle converts values, without a connection; for a callable, the driver's default."""
    uri = state.settings.migrate_mongo_uri or state.settings.mongo_uri
    if uri and (state.settings.migrate_mongo_uri or state.mongo is None):
        with (
            contextlib.suppress(ConfigurationError),
            _connect("MONGO_URI", uri, connect=False) as own,
        ):
            return own.codec_options
    given = unwrapped(state.mongo)
    found = getattr(given if _kinds(given) else getattr(given, "cx", None), "codec_options", None)
    return found if isinstance(found, CodecOptions) else CodecOptions()


def connected_server(state: AppState) -> Server:
    """Make the server of the database to migrate. Raises ConnectionFailedError, and as `database_of` does.

    It waits for a primary here, without a command. Our own client does not wait as long as later, unless its URI says
    how long; that of the application waits as long as it is set to.
    """
    database = database_of(state)
    server = server_of(database)
    if server.sends_commands:
        try:
            with (
                state.while_waiting(lambda: server.location),
                translated(),
                _limit(state, database),
            ):
                _ = database.client.is_primary
        except ConnectionFailedError as exc:
            raise _naming_hosts(exc, server.location) from exc
    return server


def _limit(state: AppState, database: Database[Document]) -> AbstractContextManager[object]:
    """Limit the wait for our own client, unless its URI says how long; that of the application waits as it is set."""
    uri = state.settings.migrate_mongo_uri or state.settings.mongo_uri or ""
    is_own = state.own_client is not None and state.own_client.client is database.client
    if is_own and "serverselectiontimeoutms" not in uri.lower():
        return pymongo.timeout(FIRST_CONTACT_SECONDS)
    # No limit at all would lift the one that a caller has set.
    return contextlib.nullcontext()


def _naming_hosts(exc: ConnectionFailedError, location: MigratedDatabase) -> ConnectionFailedError:
    """Name the hosts where the driver does not, because none has answered yet."""
    if any(host in exc.message for host in location.hosts):
        return exc
    seen = exc.message.partition(": ")[2].replace("No servers found yet", "nothing was heard")
    message = f"The database does not answer: {', '.join(location.hosts)}: {seen}"
    return ConnectionFailedError(message, remedy_of(seen))


def _default_name(state: AppState, own: MongoClient[Document]) -> str | None:
    """Find the name in our client's connection string, or else that of the application's database."""
    with contextlib.suppress(NoDefaultDatabase):
        return own.get_default_database().name
    if state.mongo is not None:
        return _database_in(state.mongo, None).name
    if state.settings.mongo_uri is None:
        return None
    # Only its name is needed, so this client never connects.
    with _connect("MONGO_URI", state.settings.mongo_uri, connect=False) as client:
        return _named(client, None).name


def _database_in(mongo: object, name: str | None) -> Database[Document]:
    """Find the database in what the application passed, or another one of its client."""
    given, source = unwrapped(mongo), "MongoMigrate was given"
    # pymongo's own objects are callable too, though only to explain that they are not.
    if not _kinds(given) and callable(given):
        source = f"The callable that {source} returned"
        given = unwrapped(given())
    if _kinds(given):
        client = database = given
    else:
        client, database = getattr(given, "cx", None), getattr(given, "db", None)
    has_client, has_database = "MongoClient" in _kinds(client), "Database" in _kinds(database)
    if has_client and (name or not has_database):
        return _named(client, name)
    if not has_database:
        what = "None" if given is None else f"an object of type {type(given).__name__}"
        msg = f"{source} {what}, which holds no database. Pass a PyMongo after its init_app(), a pymongo Database or MongoClient, a callable that returns one, or nothing and set MONGO_URI."
        raise ConfigurationError(msg)
    return cast("Database[Document]", database)


def _named(client: MongoClient[Document], name: str | None) -> Database[Document]:
    """Get the client's database of this name, or else the one in its connection string."""
    if name:
        with translated():
            return client[name]
    try:
        return client.get_default_database()
    except NoDefaultDatabase as exc:
        msg = "The connection string names no database. Add it (mongodb://localhost:27017/shop), or set MIGRATE_DATABASE, or pass a database: MongoMigrate(app, client.shop)."
        raise NoDatabaseError(msg) from exc


def _own_client(state: AppState) -> MongoClient[Document]:
    """Get this process's client; one that was made before a fork is not used after it."""
    settings = state.settings
    key = "MIGRATE_MONGO_URI" if settings.migrate_mongo_uri else "MONGO_URI"
    uri = settings.migrate_mongo_uri or settings.mongo_uri
    if uri is None:
        msg = "There is no database to migrate. Set MONGO_URI in app.config or in the environment (mongodb://localhost:27017/shop), or pass one: MongoMigrate(app, mongo)."
        raise NoDatabaseError(msg)
    with state.mutex:
        own, pid = state.own_client, os.getpid()
        if own is None or own.pid != pid:
            client = _connect(key, uri)
            # For runs from code, too: no command ends there, after which it would be closed.
            own = OwnClient(pid, client, weakref.finalize(state, _close_in, pid, client))
            state.own_client = own
        return own.client


def _connect(key: str, uri: str, *, connect: bool = True) -> MongoClient[Document]:
    """Make a client from the connection string of a setting. Raises ConfigurationError."""
    try:
        if re.match(_SPLIT_CREDENTIALS, uri):
            raise InvalidURI(_NOT_ENCODED)
        return MongoClient(uri, connect=connect)
    except (PyMongoError, ValueError, OSError) as exc:
        # Never the string itself: it holds the password, and what cannot be parsed cannot be masked.
        seen = message_of(exc).rstrip(".")
        msg = f"{key} cannot be used: {seen}."
        raise ConfigurationError(msg, remedy_of_set_up(seen)) from exc


def _close_in(pid: int, client: MongoClient[Document]) -> None:
    if os.getpid() == pid:
        client.close()


def unwrapped(given: object) -> Any:  # noqa: ANN401
    """Get the object behind a LocalProxy: in the heartbeat's thread there is no context to find it."""
    return given._get_current_object() if type(given) is LocalProxy else given


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
