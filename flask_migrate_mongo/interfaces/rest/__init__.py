"""The REST API: a blueprint that refuses every request until access rules are configured.

Exports `blueprint`. Its views, hooks and error handlers are imported at the first request for it, so an application
that has the API and serves none of it imports no more than this module. May use Flask, marshmallow, webargs, apispec
and every layer below.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from flask import Blueprint, Response, request
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import default_exceptions

from flask_migrate_mongo.state import KEY

from .routes import ROUTES


def _lazy(module: str, name: str) -> Callable[..., Any]:
    """Make a function that imports what it calls, as Flask's documentation shows for views."""

    def call(*args: object, **kwargs: object) -> Any:  # noqa: ANN401  (of the function)
        return getattr(import_module(f"{__name__}.{module}"), name)(*args, **kwargs)

    call.__module__, call.__name__ = f"{__name__}.{module}", name
    return call


def _blueprint() -> Blueprint:
    made = Blueprint(KEY, __name__, url_prefix="/api/migrations")
    for route in ROUTES:
        view = _lazy("views", route.action.replace("-", "_"))
        for rule in {route.path, route.path.rstrip("/")}:
            made.add_url_rule(
                rule, route.action, view, methods=[route.method], provide_automatic_options=False
            )
    made.before_request(_lazy("access", "enter"))
    # For every code, or else the application's own handler of a code would come first.
    explain = _lazy("answers", "explain")
    made.register_error_handler(Exception, explain)
    for code in default_exceptions:
        made.register_error_handler(code, explain)
    made.record(_answer_strays)
    return made


def _answer_strays(state: BlueprintSetupState) -> None:
    """Answer to paths under the prefix without a view: a blueprint's own handlers do not see them."""
    prefix = state.url_prefix or ""
    stray = _lazy("answers", "stray")

    def answer_stray() -> Response | None:
        is_ours = request.path == prefix or request.path.startswith(f"{prefix}/")
        if request.routing_exception is None or not is_ours:
            return None
        answer: Response | None = stray()
        return answer

    state.app.before_request(answer_stray)


blueprint = _blueprint()
"""The API; it holds no state, so any number of applications can register it."""
