"""The state of one application, kept in `app.extensions`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flask import Flask, current_app

from .model.access import Authorize
from .model.errors import ConfigurationError
from .settings import Settings

if TYPE_CHECKING:
    from pymongo import MongoClient

    from .driver.server import Document

KEY = "mongo_migrate"
"""The key of the state in `app.extensions`."""


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
    `startup_failure` is why pending migrations could not be applied before the application served.
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

    def close(self) -> None:
        """Close the client of this process, if it is one of ours; a later use opens a new one."""
        with self.mutex:
            own, self.own_client = self.own_client, None
        if own is not None:
            own.close()


def current() -> AppState:
    """Get the current application's state. Raises ConfigurationError without `init_app`."""
    return of(None)


def of(app: Flask | None) -> AppState:
    """Get the state of an application, for None of the current one. Raises as `current` does."""
    asked = current_app if app is None else app
    found = asked.extensions.get(KEY)
    if found is None:
        msg = f"Flask-Migrate-Mongo is not set up for the application {asked.name!r}. Call MongoMigrate(app), or migrate.init_app(app) in your create_app()."
        raise ConfigurationError(msg)
    return found  # type: ignore[no-any-return]
