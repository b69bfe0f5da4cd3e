"""Checks before a view runs: the access rules, and the body of the request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response, request
from werkzeug.routing import RequestRedirect

from flask_migrate_mongo.model.access import Scope
from flask_migrate_mongo.model.errors import (
    BodyTooLargeError,
    ForbiddenError,
    InvalidRequestError,
    MethodNotAllowedError,
    UnauthenticatedError,
    UnknownPathError,
)

from .access import current_route, gate
from .answers import explain

if TYPE_CHECKING:
    from .routes import Route

BODY_LIMIT = 16_384
"""Bytes: a name has at most a thousand characters, of at most twelve bytes each in JSON."""


def enter() -> None:
    """Check the access and the body of a request. Raises MigrateError."""
    route = current_route()
    try:
        gate().admit(route.action, route.scope, request)
    except (UnauthenticatedError, ForbiddenError):
        # A load balancer has no token; it sees `ready`, and nothing else.
        if route.action != "health":
            raise
    _check_body(route)


def _check_body(route: Route) -> None:
    chunked = "Transfer-Encoding" in request.headers
    if chunked or (request.content_length or 0) > BODY_LIMIT:
        raise BodyTooLargeError(BODY_LIMIT)
    # A parameter in a body would be ignored in silence, and `dryRun` must not be.
    if request.content_length and route.action != "create":
        msg = "This endpoint takes no body."
        raise InvalidRequestError(msg, "Put parameters into the query string: [dry_run=True].")


def stray() -> Response | None:
    """Answer to a request that no route matches, or whose method its path does not support."""
    failure = request.routing_exception
    if isinstance(failure, RequestRedirect):
        return None
    try:
        gate().admit("status", Scope.READ, request)
    except Exception as exc:  # noqa: BLE001  (whatever the application's `authorize` raises)
        return explain(exc)
    allowed = getattr(failure, "valid_methods", None)
    return explain(MethodNotAllowedError(allowed) if allowed else UnknownPathError())
