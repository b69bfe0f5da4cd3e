"""Checks before a view runs: who may use the API, and what it is sent."""

from __future__ import annotations

import hmac
import logging

from flask import Request, request

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.model import errors
from flask_migrate_mongo.model.access import Scope, Token, digest_of

from .operations import QUERIES, NoQuery, parse
from .routes import BY_ACTION, Route, page_of

BODY_LIMIT = 16_384
"""Bytes: a name has at most a thousand characters, of at most twelve bytes each in JSON."""

_log = logging.getLogger("flask_migrate_mongo.rest")


def admit(state: app_state.AppState, action: str, scope: Scope, request: Request) -> None:
    """Admit a request with a configured token, or one that the application authorizes.

    Raises ApiClosedError, UnauthenticatedError or ForbiddenError for any other.
    """
    tokens, authorize = state.settings.api_token or (), state.authorize
    if not tokens and authorize is None:
        raise errors.ApiClosedError
    given = _presented(request)
    granted = _scope_of(given or "", tokens)
    if granted is not None:
        _check_scope(granted, scope)
    elif authorize is not None and _vouched(authorize(action, request)):
        _check_same_site(request)
    elif tokens:
        raise errors.UnauthenticatedError(wrong=given is not None)
    else:
        raise errors.ForbiddenError(
            "The application does not let you do this. Log in as somebody who may."
        )


def _presented(request: Request) -> str | None:
    """Read the token of a request; on the pages of the dashboard it can be the password of Basic, too."""
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return given.strip()
    # Browsers send Basic by themselves, so the API, which has no tokens in its forms, does not take it.
    if page_of(request.endpoint) and request.authorization:
        return request.authorization.password
    return None


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
    # The forms of the dashboard have tokens of their own instead.
    if page_of(request.endpoint):
        return
    if request.method not in {"GET", "HEAD"} and not request.headers.get("X-Requested-With"):
        raise errors.ForbiddenError(
            "A request that changes something and is authorized by the application's login needs the "
            "header X-Requested-With, which no form of another site can send.",
            "Add the header `X-Requested-With: fetch`.",
        )


def current_route() -> Route:
    """Find the endpoint that the current request is for."""
    return BY_ACTION[str(request.endpoint).rpartition(".")[2]]


def is_outsider() -> bool:
    """Whether the current request may not read."""
    return not _may("health", Scope.READ)


def may(action: str) -> bool:
    """Whether the current request could do an action."""
    return _may(action, BY_ACTION[action].scope)


def may_run() -> bool:
    """Whether the current request could run migrations, whatever it asks for."""
    return _may("up", Scope.UP)


def _may(action: str, scope: Scope) -> bool:
    try:
        admit(app_state.current(), action, scope, request)
    except errors.MigrateError:
        return False
    except Exception as exc:  # noqa: BLE001  (whatever the application's `authorize` raises)
        _log.error("authorize(%r, request) failed\n%s", action, errors.capture(exc).traceback)
        return False
    return True


def enter() -> None:
    """Check the access, the body and the parameters of a request. Raises MigrateError."""
    route = current_route()
    try:
        admit(app_state.current(), route.action, route.scope, request)
    except errors.ApiClosedError:
        raise
    except Exception:
        # A load balancer has no token; it sees `ready`, and nothing else. A login can also refuse it by an error.
        if route.action != "health":
            raise
    check_length()
    # A parameter in a body would be ignored in silence, and `dryRun` must not be.
    if request.content_length and route.action != "create":
        remedy = "Put parameters into the query string: [dry_run=True]."
        raise errors.InvalidRequestError("This endpoint takes no body.", remedy)
    # Views read the parameters that there are.
    if route.action not in QUERIES:
        parse(NoQuery, request)


def check_length() -> None:
    """Refuse a body that is too long, or of an unknown length. Raises BodyTooLargeError."""
    chunked = "Transfer-Encoding" in request.headers
    if chunked or (request.content_length or 0) > BODY_LIMIT:
        raise errors.BodyTooLargeError(BODY_LIMIT)
