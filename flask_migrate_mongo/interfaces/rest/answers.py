"""Answers: documents, and the one place where an error becomes a problem document."""

from __future__ import annotations

import json
import logging
import re
from collections import deque
from http import HTTPStatus
from typing import Any, cast

from flask import Response, current_app, got_request_exception, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.driver.server import Document
from flask_migrate_mongo.interfaces import schemas
from flask_migrate_mongo.model import errors, wording
from flask_migrate_mongo.model.access import Scope
from flask_migrate_mongo.process import elapsed

from .access import admit, current_route, is_outsider, may_run

RETRY_SECONDS = 30
"""Longest Retry-After: a holder can release its lock long before it expires."""

_VALUES = r"(?s)(?<=.{80}).+|[\n'\"(\[{].*"
"""Of a message: from where values can begin, in quotes or brackets, and all beyond 80 characters."""

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

_log = logging.getLogger("flask_migrate_mongo.rest")


def document(name: str, value: object) -> Document:
    """Dump a value as the document of this name; errors name requests of the API.

    Messages of failed migrations can hold values of documents: only who may run migrations sees all of them.
    """
    found = schemas.document(name, value, wording.rest)
    shortened: Document = _shortened(found)
    return found if shortened == found or may_run() else shortened


def _shortened(found: Any) -> Any:  # noqa: ANN401  (what JSON holds)
    """Shorten the messages of failed migrations, and leave out their tracebacks."""
    if isinstance(found, list):
        return list(map(_shortened, found))
    if not isinstance(found, dict):
        return found
    if "traceback" in found:
        return {**found, "message": re.sub(_VALUES, "...", found["message"]), "traceback": None}
    shortened = {key: _shortened(inner) for key, inner in found.items()}
    if "verdict" in found:
        # A step of a dry run: its samples, and the keys that are duplicates, are values of documents.
        shortened["samples"] = []
        shortened["notExecuted"] = [
            {**each, "detail": re.sub(_VALUES, "...", each["detail"]), "violations": []}
            for each in found.get("notExecuted", ())
        ]
    if (problem := found.get("error")) and "detail" in problem:
        # What ended a run: the title says what it was, and the detail can be an exception of a migration.
        shortened["error"] = {**problem, "detail": problem["title"]}
    return shortened


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
    if isinstance(exc, HTTPException) and exc.response is not None:
        return cast("Response", exc.response)
    error, headers = described(exc)
    is_health = request.endpoint is not None and current_route().action == "health"
    # That a request is not valid says nothing of the database, nor whether it is ready.
    shown = errors.ApiClosedError | errors.InvalidRequestError | errors.BodyTooLargeError
    is_known = isinstance(exc, errors.MigrateError) and not isinstance(exc, shown)
    if is_health and is_known and is_outsider():
        error, headers = errors.NotReadyError(), {}
    response = answer("error", error, error.http_status)
    response.headers.update(headers)
    return response


def described(exc: Exception) -> tuple[errors.MigrateError, dict[str, str]]:
    """Choose the error to show for an exception, and the headers of its answer."""
    if isinstance(exc, HTTPException):
        # An `abort()` of the application's own hooks, or of Flask.
        return _HttpError(exc), {k: v for k, v in exc.get_headers() if k != "Content-Type"}
    error = _known(exc)
    return error, _headers_of(error)


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
        # As text, with secrets masked: `exc_info` would write the documents that an error of the driver holds.
        trace = errors.capture(exc).traceback
        _log.error("%s %r failed\n%s", request.method, request.path, trace)
        # The application's own monitoring of errors receives this one, too.
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        got_request_exception.send(app, _async_wrapper=app.ensure_sync, exception=exc)
        return errors.MigrateError("An unexpected error.", "The log of the server shows its cause.")
    if isinstance(exc, errors.ApiClosedError | errors.UnauthenticatedError | errors.ForbiddenError):
        _log_refusal(exc)
    return exc


def _log_refusal(exc: errors.MigrateError) -> None:
    """Log a refused request, unless many were logged within a minute: anybody can send them."""
    now, logged = elapsed(), app_state.current().refusals
    if _is_exhausted(logged, now):
        return
    logged.append(now)
    more = " More refusals are not logged for now." if _is_exhausted(logged, now) else ""
    caller = (request.method, request.path, request.remote_addr)
    _log.warning("Refused %r %r to %s: %s.%s", *caller, exc.code, more)


def _is_exhausted(logged: deque[float], now: float) -> bool:
    return len(logged) == logged.maxlen and now - logged[0] < app_state.REFUSALS_SECONDS


def _headers_of(error: errors.MigrateError) -> dict[str, str]:
    if isinstance(error, errors.UnauthenticatedError):
        reason = ', error="invalid_token"' if error.wrong else ""
        return {"WWW-Authenticate": f'Bearer realm="migrations"{reason}'}
    if isinstance(error, errors.MethodNotAllowedError):
        return {"Allow": ", ".join(error.allowed)}
    if isinstance(error, errors.TooManyStreamsError):
        return {"Retry-After": str(error.seconds)}
    if isinstance(error, errors.TooManyRunsError):
        return {"Retry-After": str(RETRY_SECONDS)}
    if isinstance(error, errors.LockHeldError):
        left = (error.lock.expires_at - error.lock.seen_at).total_seconds()
        return {"Retry-After": str(max(1, min(RETRY_SECONDS, round(left))))}
    return {}
