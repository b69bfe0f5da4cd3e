"""The REST API: a blueprint that refuses every request until access rules are configured.

Exports `make_blueprint`. The blueprint also has the pages of the dashboard, where the settings of the application ask for
them. The views, hooks and error handlers are imported at the first request for one, so an application
that has the API and serves none of it imports no more than this module. May use Flask, marshmallow, webargs, apispec
and every layer below.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

from flask import Blueprint, Flask, Response, request
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import default_exceptions

from flask_migrate_mongo import settings
from flask_migrate_mongo.state import KEY

from .routes import PAGES, ROUTES, page_of

_API = __name__
_DASHBOARD = f"{__name__.rpartition('.')[0]}.dashboard"


def _lazy(module: str, name: str) -> Callable[..., Any]:
    """Make a function that imports what it calls, as Flask's documentation shows for views."""

    def call(*args: object, **kwargs: object) -> Any:  # noqa: ANN401  (of the function)
        return getattr(import_module(module), name)(*args, **kwargs)

    call.__module__, call.__name__ = module, name
    return call


def _by_endpoint(of_api: Callable[..., Any], of_page: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function that calls one function for the pages of the dashboard, and another for all else."""

    def call(*args: object) -> Any:  # noqa: ANN401  (of the function)
        return (of_page if page_of(request.endpoint) else of_api)(*args)

    return call


def make_blueprint() -> Blueprint:
    """Make a blueprint of the API. It holds no state, so its requests concern the application that receives them."""
    made = Blueprint(KEY, __name__, url_prefix="/api/migrations")
    for route in ROUTES:
        view = _lazy(f"{_API}.views", route.action.replace("-", "_"))
        for rule in {route.path, route.path.rstrip("/")}:
            made.add_url_rule(
                rule, route.action, view, methods=[route.method], provide_automatic_options=False
            )
    entered = (_lazy(f"{_API}.access", "enter"), _lazy(f"{_DASHBOARD}.pages", "enter"))
    made.before_request(_by_endpoint(*entered))
    # For every code, or else the application's own handler of a code would come first.
    explain = _by_endpoint(
        _lazy(f"{_API}.answers", "explain"), _lazy(f"{_DASHBOARD}.pages", "explain")
    )
    made.register_error_handler(Exception, explain)
    for code in default_exceptions:
        made.register_error_handler(code, explain)
    made.record(_add_pages)
    made.record(_answer_strays)
    return made


def _add_pages(state: BlueprintSetupState) -> None:
    """Add the pages of the dashboard, if the settings of the application ask for them."""
    if not settings.read(cast("Flask", state.app)).dashboard:
        return
    for page in PAGES:
        view = _lazy(f"{_DASHBOARD}.{page.module}", page.name.replace("-", "_"))
        for rule in dict.fromkeys((page.path, page.path.rstrip("/"))):
            state.add_url_rule(
                rule, page.endpoint, view, methods=[page.method], provide_automatic_options=False
            )


def _answer_strays(state: BlueprintSetupState) -> None:
    """Answer to paths under the prefix without a view: a blueprint's own handlers do not see them."""
    prefix = state.url_prefix or ""
    stray = _lazy(f"{_API}.answers", "stray")

    def answer_stray() -> Response | None:
        is_ours = request.path == prefix or request.path.startswith(f"{prefix}/")
        if request.routing_exception is None or not is_ours:
            return None
        answer: Response | None = stray()
        return answer

    state.app.before_request(answer_stray)
