"""What the fixtures of the plugin do: finds the application, and gives each test a database."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.cli import NoAppException, ScriptInfo

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.model.errors import DatabaseError, EscapesTestError, MigrateError
from flask_migrate_mongo.state import AppState

from .migrations import Migrations
from .redirect import confined, redirected
from .servers import local_server

_WRITE_A_FIXTURE = "Write a fixture `app` in conftest.py that returns the application."


class TestSession:
    """One run of pytest, or one worker of it, with at most one server that it starts itself."""

    __test__ = False

    def __init__(self) -> None:
        self._resources = contextlib.ExitStack()
        self._server: str | None = None

    def close(self) -> None:
        """Stop the server, if one was started."""
        self._resources.close()

    def state(self, request: pytest.FixtureRequest) -> AppState:
        """Find the state of the application: of the fixture `app`, or else as Flask's command line finds it."""
        try:
            app = request.getfixturevalue("app")
        except pytest.FixtureLookupError as exc:
            if exc.argname != "app":
                raise
            app = _loaded()
        if not isinstance(app, Flask):
            msg = f"The fixture `app` is an object of type {type(app).__name__}. {_WRITE_A_FIXTURE}"
            pytest.fail(msg, pytrace=False)
        with _explained():
            return app_state.of(app)

    @contextlib.contextmanager
    def migrations(self, state: AppState) -> Iterator[Migrations]:
        """Give the migrations of an application on a fresh database, which is dropped afterwards."""
        with _explained():
            uri = state.settings.test_uri or self._own_server()
        with contextlib.ExitStack() as resources:
            try:
                database = resources.enter_context(redirected(state, uri))
            except DatabaseError as exc:
                server = "of MIGRATE_TEST_URI" if state.settings.test_uri else "of the tests"
                msg = f"The server {server} cannot be used. {exc.message}"
                pytest.fail(msg, pytrace=False)
            yield Migrations(state, database)

    def _own_server(self) -> str:
        if self._server is None:
            self._server = self._resources.enter_context(local_server())
        return self._server


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Fail the test with the message of an error of ours, without a traceback of this package."""
    try:
        yield
    except MigrateError as exc:
        pytest.fail(str(exc), pytrace=False)


def _loaded() -> Flask:
    """Load the application as Flask's command line does. What it sends to a database meanwhile is refused."""
    path = os.environ.get("MIGRATE_APP") or os.environ.get("FLASK_APP")
    try:
        with confined():
            return ScriptInfo(path, set_debug_flag=False).load_app()
    except (EscapesTestError, NoAppException) as exc:
        pytest.fail(f"The application was not loaded. {exc}\n{_WRITE_A_FIXTURE}", pytrace=False)
