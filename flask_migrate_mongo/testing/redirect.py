"""Redirects an application to a fresh database for one test, and keeps migrations inside it."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
from bson.codec_options import CodecOptions
from pymongo import MongoClient, timeout
from pymongo.database import Database
from werkzeug.utils import import_string

from flask_migrate_mongo.database import FIRST_CONTACT_SECONDS, codec_options_of, unwrapped
from flask_migrate_mongo.driver.commands import (
    Command,
    check_listener_support,
    listening_everywhere,
    namespaces,
)
from flask_migrate_mongo.driver.server import Document, DocumentView, translated
from flask_migrate_mongo.model.errors import EscapesTestError
from flask_migrate_mongo.rehearsal.guard import READS, SYSTEM, forbidden_write
from flask_migrate_mongo.state import AppState

from .servers import MONGOMOCK

PREFIX = "migrations_test_"
"""The names of the databases of tests begin with this."""

DROP_SECONDS = 10
"""How long a drop may take: it waits for transactions that a migration left open."""

_LEADING_ELSEWHERE = ("MIGRATE_MONGO_URI", "MIGRATE_DATABASE", "MIGRATE_REHEARSAL_DATABASE")


@contextlib.contextmanager
def redirected(state: AppState, uri: str) -> Iterator[Database[Document]]:
    """Let an application lead to a fresh database on this server, which is dropped afterwards.

    Redirected are the state that every interface of this package uses, a PyMongo that the application passed, and
    MONGO_URI in the configuration and in the environment. Afterwards they are as before.

    Raises DatabaseError if the server does not answer.
    """
    name = f"{PREFIX}{uuid.uuid4().hex[:16]}"
    own = uri_of(uri, name)
    with state.app.app_context():
        given, codecs = unwrapped(state.mongo), codec_options_of(state)
    py_mongo = given if {"cx", "db"} <= getattr(given, "__dict__", {}).keys() else None
    database = _open(uri, name, codecs, getattr(py_mongo, "cx", None))
    with contextlib.closing(database.client), pytest.MonkeyPatch.context() as patch:
        with translated(), timeout(FIRST_CONTACT_SECONDS):
            database.client.admin.command("ping")
        settings = replace(
            state.settings,
            mongo_uri=own,
            migrate_mongo_uri=None,
            database=None,
            rehearsal_database=None,
        )
        # In place: hooks of the application hold this very object.
        patch.setattr(state, "settings", settings)
        patch.setattr(state, "mongo", database)
        patch.setattr(state, "own_client", None)
        patch.setattr(state, "last_look", None)
        if py_mongo is not None:
            patch.setattr(py_mongo, "cx", database.client)
            patch.setattr(py_mongo, "db", database)
        for key in _LEADING_ELSEWHERE:
            patch.delitem(state.app.config, key, raising=False)
            patch.delenv(key, raising=False)
        patch.setitem(state.app.config, "MONGO_URI", own)
        patch.setenv("MONGO_URI", own)
        try:
            yield database
        finally:
            with timeout(DROP_SECONDS):
                database.client.drop_database(name)


def uri_of(server: str, name: str) -> str:
    """Build the connection string of a database; a user is still looked up where the server's string says."""
    head, _, options = server.partition("?")
    scheme, _, rest = head.partition("://")
    hosts, _, source = rest.partition("/")
    if "@" in hosts and "authsource=" not in options.lower():
        # A mechanism that is not MongoDB's own looks users up outside of it.
        found = re.search(r"(?i)(?:^|&)authmechanism=(?!SCRAM)(PLAIN)?", options)
        default = "$external" if found else "admin"
        named = default if found and not found[1] else source or default
        options = "&".join(filter(None, (options, f"authSource={named}")))
    return f"{scheme}://{hosts}/{name}{options and '?'}{options}"


def _open(uri: str, name: str, codecs: CodecOptions[Document], like: object) -> Database[Document]:
    """Open a database on a client of the class of the application's, so that its collections have the same methods."""
    if uri.startswith(MONGOMOCK):
        mocked: Database[Document] = import_string("mongomock.MongoClient")()[name]
        return mocked
    client = (type(like) if isinstance(like, MongoClient) else MongoClient[Document])(uri)
    # Not with_options(), which does not keep the class.
    kind: type[Database[Document]] = type(client[name])
    return kind(client, name, codecs)  # type: ignore[arg-type]


class DatabaseGuard:
    """A command listener that refuses whatever reads or changes another database than `home`."""

    def __init__(self, home: str) -> None:
        self._home = home
        self.refused: list[EscapesTestError] = []

    def sending(self, command: Command) -> None:
        """Refuse a command that would read or change another database."""
        if what := forbidden_write(command, self._home) or foreign_read(command, self._home):
            error = EscapesTestError(what)
            self.refused.append(error)
            raise error

    def answered(self, command: Command, reply: DocumentView) -> None:
        """Do nothing."""


def foreign_read(command: Command, home: str) -> str | None:
    """Describe what a command reads outside the database `home`; None if nothing."""
    if command.name not in READS:
        return None
    names = {command.database, *(name.partition(".")[0] for name in namespaces(command))}
    foreign = sorted(names - SYSTEM - {home})
    return f"send {command.name} to {', '.join(foreign)}" if foreign else None


@contextlib.contextmanager
def confined(home: str = "") -> Iterator[None]:
    """Keep the block inside a database, or outside of all. Raises EscapesTestError at its end, even if it caught that."""
    check_listener_support()
    guard = DatabaseGuard(home)
    try:
        with listening_everywhere(guard):
            yield
    finally:
        if guard.refused:
            raise guard.refused[0]
