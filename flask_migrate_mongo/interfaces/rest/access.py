"""Checks before a view runs: who may use the API, and what it is sent."""

from __future__ import annotations

import hmac

from flask import Request, request

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.model import errors
from flask_migrate_mongo.model.access import Scope, Token, digest_of

from .operations import QUERIES, NoQuery, parse
from .routes import ROUTES, Route

BODY_LIMIT = 16_384
"""Bytes: a name has at most a thousand characters, of at most twelve bytes each in JSON."""

_BY_ACTION = {route.action: route for route in ROUTES}


def admit(state: app_state.AppState, action: str, scope: Scope, request: Request) -> None:
    """Admit a request with a configured token, or one that the application authorizes.

    Raises ApiClosedError, UnauthenticatedError or ForbiddenError for any other.
    """
    tokens, authorize = state.settings.api_token or (), state.authorize
    if not tokens and authorize is None:
        raise errors.ApiClosedError
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    has_token = kind.lower() == "bearer"
    granted = _scope_of(given.strip() if has_token else "", tokens)
    if granted is not None:
        _check_scope(granted, scope)
    elif authorize is not None and _vouched(authorize(action, request)):
        _check_same_site(request)
    elif tokens:
        raise errors.UnauthenticatedError(wrong=has_token)
    else:
        raise errors.ForbiddenError(
            "The application does not let you do this. Log in as somebody who may."
        )


def _scope_of(given: str, tokens: tuple[Token, ...]) -> Scope | None:
    # Every token is compared, in constant time, so that the time taken reveals nothing.
    digest, found = digest_of(given), None
    for token in tokens:
        if hmac.compare_digest(digest, token.digest):
            found = token.scope
    return found


def _check_scope(granted: Scope, needed: Scope) -> None:
    if not granted.includes(needed):
        raise errors.ForbiddenError(
            f"This token may {granted.value}, and this needs {needed.value}. Use a token that "
            "MIGRATE_API_TOKEN gives that scope."
        )


def _vouched(answer: object) -> bool:
    # A redirect to a login page, or a coroutine, is true in Python and would let anybody in.
    if isinstance(answer, bool):
        return answer
    raise errors.ConfigurationError(
        f"authorize(action, request) returned an object of type {type(answer).__name__}. Return "
        "True or False from it."
    )


def _check_same_site(request: Request) -> None:
    """Refuse what a form on another site could have sent with its visitor's login."""
    if request.method not in {"GET", "HEAD"} and not request.headers.get("X-Requested-With"):
        raise errors.ForbiddenError(
            "A request that changes something and is authorized by the application's login needs the "
            "header X-Requested-With, which no form of another site can send.",
            "Add the header `X-Requested-With: fetch`.",
        )


def current_route() -> Route:
    """Find the endpoint that the current request is for."""
    return _BY_ACTION[str(request.endpoint).rpartition(".")[2]]


def is_outsider() -> bool:
    """Whether the current request may not read."""
    try:
        admit(app_state.current(), "health", Scope.READ, request)
    except errors.MigrateError:
        return True
    return False


def enter() -> None:
    """Check the access, the body and the parameters of a request. Raises MigrateError."""
    route = current_route()
    try:
        admit(app_state.current(), route.action, route.scope, request)
    except (errors.UnauthenticatedError, errors.ForbiddenError):
        # A load balancer has no token; it sees `ready`, and nothing else.
        if route.action != "health":
            raise
    chunked = "Transfer-Encoding" in request.headers
    if chunked or (request.content_length or 0) > BODY_LIMIT:
        raise errors.BodyTooLargeError(BODY_LIMIT)
    # A parameter in a body would be ignored in silence, and `dryRun` must not be.
    if request.content_length and route.action != "create":
        remedy = "Put parameters into the query string: [dry_run=True]."
        raise errors.InvalidRequestError("This endpoint takes no body.", remedy)
    # Views read the parameters that there are.
    if route.action not in QUERIES:
        parse(NoQuery, request)
