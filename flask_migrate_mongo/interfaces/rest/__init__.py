"""The REST API: a blueprint that refuses every request until access rules are configured.

Exports `blueprint`. Its views, hooks and error handlers are imported at the first request for it, so an application
that has the API and serves none of it imports no more than this module. May use Flask, marshmallow, webargs, apispec
and every layer below.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from flask import Blueprint, request
from werkzeug.exceptions import default_exceptions
from werkzeug.utils import import_string

from flask_migrate_mongo.state import KEY

from .routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Response
    from flask.blueprints import BlueprintSetupState


class _Lazy:
    """A function that is imported when it is called first, as Flask's documentation shows for views."""

    def __init__(self, name: str) -> None:
        self.__module__, self.__name__ = f"{__name__}.{name}".rsplit(".", 1)

    @cached_property
    def _function(self) -> Callable[..., Any]:
        found: Callable[..., Any] = import_string(f"{self.__module__}.{self.__name__}")
        return found

    def __call__(self, *args: object, **kwargs: object) -> Any:  # noqa: ANN401  (of the function)
        return self._function(*args, **kwargs)


def _blueprint() -> Blueprint:
    made = Blueprint(KEY, __name__, url_prefix="/api/migrations")
    for route in ROUTES:
        view = _Lazy(f"views.{route.action.replace('-', '_')}")
        for rule in {route.path, route.path.rstrip("/")}:
            made.add_url_rule(
                rule, route.action, view, methods=[route.method], provide_automatic_options=False
            )
    made.before_request(_Lazy("access.enter"))
    # For every code, or else the application's own handler of a code would come first.
    explain = _Lazy("answers.explain")
    made.register_error_handler(Exception, explain)
    for code in default_exceptions:
        made.register_error_handler(code, explain)
    made.record(_answer_strays)
    return made


def _answer_strays(state: BlueprintSetupState) -> None:
    """Answer to paths under the prefix without a view: a blueprint's own handlers do not see them."""
    prefix = state.url_prefix or ""
    stray = _Lazy("answers.stray")

    def answer_stray() -> Response | None:
        if request.routing_exception is None:
            return None
        if request.path != prefix and not request.path.startswith(f"{prefix}/"):
            return None
        answer: Response | None = stray()
        return answer

    state.app.before_request(answer_stray)


blueprint = _blueprint()
"""The API; it holds no state, so any number of applications can register it."""
