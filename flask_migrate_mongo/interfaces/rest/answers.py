"""Answers: documents, and the one place where an error becomes a problem document."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import cast

from flask import Response, current_app, got_request_exception, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.driver.server import Document
from flask_migrate_mongo.interfaces import schemas
from flask_migrate_mongo.model import errors, wording
from flask_migrate_mongo.model.access import Scope

from .access import admit, current_route, is_outsider

RETRY_SECONDS = 30
"""Longest Retry-After: a holder can release its lock long before it expires."""

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

_log = logging.getLogger("flask_migrate_mongo.rest")


def document(name: str, value: object) -> Document:
    """Dump a value as the document of this name; errors name requests of the API."""
    return schemas.document(name, value, wording.rest)


def answer(name: str, value: object, code: int = 200) -> Response:
    """Answer with the document of this name."""
    return respond(document(name, value), code)


def respond(document: Document, code: int = 200) -> Response:
    """Make a JSON answer."""
    # Not the application's own JSON provider, which may write times and names in its own way.
    text = json.dumps(document, default=str)
    kind = "application/json" if code < HTTPStatus.BAD_REQUEST else "application/problem+json"
    return Response(text, code, HEADERS, content_type=kind)


def explain(exc: Exception) -> Response:
    """Answer to an error with a problem document."""
    if isinstance(exc, HTTPException):
        if exc.response is not None:
            return cast("Response", exc.response)
        # An `abort()` of the application's own hooks, or of Flask.
        error: errors.MigrateError = _HttpError(exc)
        headers = {k: v for k, v in exc.get_headers() if k != "Content-Type"}
    else:
        error = _known(exc)
        headers = _headers_of(error)
    response = answer("error", error, error.http_status)
    response.headers.update(headers)
    return response


def stray() -> Response | None:
    """Answer to a request that no route matches, or whose method its path does not support."""
    failure = request.routing_exception
    if isinstance(failure, RequestRedirect):
        return None
    try:
        admit(app_state.current(), "status", Scope.READ, request)
    except Exception as exc:  # noqa: BLE001  (whatever the application's `authorize` raises)
        return explain(exc)
    allowed = getattr(failure, "valid_methods", None)
    return explain(errors.MethodNotAllowedError(allowed) if allowed else errors.UnknownPathError())


class _HttpError(errors.MigrateError):
    """An error of Flask, or of the application's hooks: its status says everything."""

    type_uri = "about:blank"

    def __init__(self, exc: HTTPException) -> None:
        self.title, self.http_status = exc.name, exc.code or 500
        self.code = f"http-{self.http_status}"
        super().__init__(exc.description or exc.name)


def _known(exc: Exception) -> errors.MigrateError:
    """Choose the error to show; one that is not ours is logged, and not shown."""
    if not isinstance(exc, errors.MigrateError):
        _log.error("%s %r failed", request.method, request.path, exc_info=exc)
        # The application's own monitoring of errors receives this one, too.
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        got_request_exception.send(app, _async_wrapper=app.ensure_sync, exception=exc)
        return errors.MigrateError("An unexpected error.", "The log of the server shows its cause.")
    if isinstance(exc, errors.ApiClosedError | errors.UnauthenticatedError | errors.ForbiddenError):
        caller = (request.method, request.path, request.remote_addr)
        _log.warning("Refused %r %r to %s: %s", *caller, exc.code)
    is_health = request.endpoint is not None and current_route().action == "health"
    if is_health and not isinstance(exc, errors.ApiClosedError) and is_outsider():
        return errors.NotReadyError()
    return exc


def _headers_of(error: errors.MigrateError) -> dict[str, str]:
    if isinstance(error, errors.UnauthenticatedError):
        reason = ', error="invalid_token"' if error.wrong else ""
        return {"WWW-Authenticate": f'Bearer realm="migrations"{reason}'}
    if isinstance(error, errors.MethodNotAllowedError):
        return {"Allow": ", ".join(error.allowed)}
    if isinstance(error, errors.LockHeldError):
        left = (error.lock.expires_at - error.lock.seen_at).total_seconds()
        return {"Retry-After": str(max(1, min(RETRY_SECONDS, round(left))))}
    return {}
