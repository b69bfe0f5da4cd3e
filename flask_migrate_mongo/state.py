"""The state of one application, kept in `app.extensions`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flask import Flask, current_app, has_app_context

from .model.access import Authorize
from .model.documents import MigratedDatabase
from .model.errors import ConfigurationError, MigrateError, NoContextError
from .model.values import Survey
from .settings import Settings

if TYPE_CHECKING:
    from pymongo import MongoClient

    from .driver.server import Document

KEY = "mongo_migrate"
"""The key of the state in `app.extensions`."""

CLOSE_SECONDS = 2
"""How long the end of a command waits for the server."""


MOST_REFUSALS = 10
"""How many refused requests are logged in REFUSALS_SECONDS."""

REFUSALS_SECONDS = 60


def _in_silence(_: Callable[[], MigratedDatabase]) -> AbstractContextManager[object]:
    return nullcontext()


Waiting = Callable[["Callable[[], MigratedDatabase]"], "AbstractContextManager[object]"]


@dataclass(frozen=True, slots=True)
class OwnClient:
    """A client that we opened, the process that it was opened in, and what closes it there."""

    pid: int
    client: MongoClient[Document]
    close: Callable[[], object]


@dataclass(eq=False)
class AppState:
    """The state of one application.

    `mongo` and `authorize` are what the application passed, or None. `sources` says where each given setting
    comes from. `app_option` is the value of `flask --app`, if Flask's command line loaded the application.
    `while_waiting` makes the context in which it waits for the database; it is given what names that.
    `startup_failure` is why pending migrations could not be applied before the application served. `last_look` is
    what the health check saw, and when; `refusals` is when refused requests were logged.
    """

    app: Flask
    settings: Settings
    mongo: object = None
    sources: Mapping[str, str] = field(default_factory=dict)
    authorize: Authorize | None = None
    app_option: str | None = None
    startup_failure: str | None = None
    own_client: OwnClient | None = None
    mutex: threading.Lock = field(default_factory=threading.Lock)
    last_look: tuple[float, Survey | MigrateError] | None = None
    look_mutex: threading.Lock = field(default_factory=threading.Lock)
    while_waiting: Waiting = _in_silence
    refusals: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_REFUSALS))

    def wait_in_silence(self) -> None:
        """Show nothing while the database is waited for."""
        self.while_waiting = _in_silence

    def close(self) -> None:
        """Close the client of this process, if it is one of ours; a later use opens a new one."""
        with self.mutex:
            own, self.own_client = self.own_client, None
        if own is not None:
            # In a thread: it ends sessions on the server, and so waits for a server that hangs.
            closing = threading.Thread(target=own.close, name="migrate-close", daemon=True)
            closing.start()
            closing.join(CLOSE_SECONDS)


def current() -> AppState:
    """Get the current application's state. Raises as `of` does."""
    return of(None)


def of(app: Flask | None) -> AppState:
    """Get the state of an application, for None of the current one.

    Raises NoContextError, or ConfigurationError without `init_app`.
    """
    if app is None and not has_app_context():
        raise NoContextError
    asked = current_app if app is None else app
    found = asked.extensions.get(KEY)
    if found is None:
        msg = f"Flask-Migrate-Mongo is not set up for the application {asked.name!r}. Call MongoMigrate(app), or migrate.init_app(app) in your create_app()."
        raise ConfigurationError(msg)
    return found  # type: ignore[no-any-return]
