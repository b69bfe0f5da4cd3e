"""The REST door: a blueprint that is closed until the application opens it."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from flask import (
    Blueprint,
    Response,
    current_app,
    got_request_exception,
    request,
    stream_with_context,
    url_for,
)
from werkzeug.exceptions import HTTPException, default_exceptions
from werkzeug.routing import RequestRedirect

from flask_migrate_mongo import state as assembly
from flask_migrate_mongo.model.errors import (
    ApiClosedError,
    BodyTooLargeError,
    CreateDisabledError,
    ForbiddenError,
    InvalidRequestError,
    LockHeldError,
    MethodNotAllowedError,
    MigrateError,
    NotReadyError,
    UnauthenticatedError,
    UnknownPathError,
    UnknownVersionError,
)

from .access import Gate, Route, Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask.blueprints import BlueprintSetupState

    from flask_migrate_mongo.model.reports import RunReport
    from flask_migrate_mongo.model.values import Direction
    from flask_migrate_mongo.state import Act
    from flask_migrate_mongo.store.runs import StoredRun

BODY_LIMIT = 16_384
"""Bytes: a name has at most a thousand characters, of at most twelve bytes each in JSON."""

RETRY_SECONDS = 30
"""A holder can be done long before its lock ends, so asking again is worth it soon."""

LONGEST_STREAM = 300
"""Seconds: a worker of the web server is taken as long. The reader goes on with Last-Event-ID."""

KEEPALIVE_SECONDS = 15
POLL_SECONDS = 0.5
BAD_REQUEST = 400

_JSON = "application/json"
_PROBLEM = "application/problem+json"
_STREAM = "text/event-stream"
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

_log = logging.getLogger("flask_migrate_mongo.rest")


# --- views


def status() -> Response:
    """Show what is applied, pending and failed, and the lock."""
    from flask_migrate_mongo.interfaces import documents  # noqa: PLC0415

    _no_parameters()
    return _answer(documents.status(assembly.current().runner().status()))


def up() -> Response:
    """Apply every pending migration, the lowest number first."""
    from flask_migrate_mongo.interfaces import schemas  # noqa: PLC0415
    from flask_migrate_mongo.model.values import Direction  # noqa: PLC0415

    asked = schemas.query(schemas.UpQuery, request)
    how = {"allow_drift": asked.pop("allow_drift")}
    return _run(Direction.UP, lambda runner, options: runner.up(options, **how), asked)


def down() -> Response:
    """Undo the migration that was applied last, or the last few."""
    from flask_migrate_mongo.interfaces import schemas  # noqa: PLC0415
    from flask_migrate_mongo.model.values import Direction  # noqa: PLC0415

    asked = schemas.query(schemas.DownQuery, request)
    how = {name: asked.pop(name) for name in ("steps", "allow_drift")}
    return _run(Direction.DOWN, lambda runner, options: runner.down(options, **how), asked)


def run(run_id: str) -> Response:
    """Show how a run goes that nobody waited for."""
    from flask_migrate_mongo.interfaces import documents  # noqa: PLC0415

    _no_parameters()
    return _answer(documents.stored_run(_stored(run_id)))


def run_events(run_id: str) -> Response:
    """Stream what a run tells, as server-sent events, until it is over."""
    _no_parameters()
    heard = request.headers.get("Last-Event-ID", "")
    first = _stored(run_id)
    told = _narration(first, partial(_stored, run_id), int(heard) if heard.isdecimal() else 0)
    return Response(stream_with_context(told), headers=_HEADERS, content_type=_STREAM)


def run_cancel(run_id: str) -> Response:
    """Ask a run to stop: after the batch in hand of a backfill, or before its next migration."""
    from flask_migrate_mongo.interfaces import documents  # noqa: PLC0415

    _no_parameters()
    if not _stored(run_id).state.is_over:
        assembly.current().cancel(run_id)
    return _answer(documents.stored_run(_stored(run_id)))


def history() -> Response:
    """Show what is recorded, the newest first."""
    from flask_migrate_mongo.interfaces import documents, schemas  # noqa: PLC0415

    asked = schemas.query(schemas.HistoryQuery, request)
    return _answer(documents.history(assembly.current().runner().records(**asked)))


def events(version: str) -> Response:
    """Show everything that happened to one migration, the oldest first."""
    from flask_migrate_mongo.interfaces import documents, schemas  # noqa: PLC0415

    _no_parameters()
    if not schemas.is_version(version):
        raise UnknownVersionError(version)
    return _answer(documents.events(assembly.current().runner().events(int(version))))


def create() -> Response:
    """Make a new migration file."""
    from flask_migrate_mongo.interfaces import documents, schemas  # noqa: PLC0415

    _no_parameters()
    state = assembly.current()
    if not (state.settings.api_create or current_app.debug):
        raise CreateDisabledError
    asked = schemas.body(schemas.NewMigration, request)
    return _answer(documents.created(state.scaffold().create(**asked)), 201)


def lock_status() -> Response:
    """Show who holds the lock, since when and until when."""
    from flask_migrate_mongo.interfaces import documents  # noqa: PLC0415

    _no_parameters()
    return _answer(documents.lock_status(assembly.current().runner().lock()))


def lock_release() -> Response:
    """Release the lock, whoever holds it."""
    from flask_migrate_mongo.interfaces import documents, schemas  # noqa: PLC0415

    asked = schemas.query(schemas.ReleaseQuery, request)
    released = assembly.current().runner().force_unlock(confirmed=asked["confirm"])
    return _answer(documents.released(released))


def health() -> Response:
    """Show whether everything is applied; to whom the API does not know, only that."""
    from flask_migrate_mongo.interfaces import documents, faults  # noqa: PLC0415

    _no_parameters()
    state = assembly.current()
    survey = state.runner().status().survey
    problem = faults.not_ready(survey, state.startup_failure)
    if problem is not None:
        raise problem
    return _answer({"ready": True} if _is_outsider() else documents.health(survey))


def openapi() -> Response:
    """Describe this API."""
    from flask_migrate_mongo.interfaces import schemas  # noqa: PLC0415

    _no_parameters()
    server = request.script_root + request.path.removesuffix("/openapi.json")
    return _answer(schemas.openapi(server, ROUTES))


ROUTES = (
    Route("status", "GET", "/status", Scope.READ, status),
    Route("up", "POST", "/up", Scope.RUN, up),
    Route("down", "POST", "/down", Scope.RUN, down),
    Route("run", "GET", "/runs/<run_id>", Scope.READ, run),
    Route("run-events", "GET", "/runs/<run_id>/events", Scope.READ, run_events),
    Route("run-cancel", "POST", "/runs/<run_id>/cancel", Scope.RUN, run_cancel),
    Route("history", "GET", "/history", Scope.READ, history),
    Route("events", "GET", "/history/<version>/events", Scope.READ, events),
    Route("create", "POST", "/", Scope.ADMIN, create),
    Route("lock-status", "GET", "/lock/status", Scope.READ, lock_status),
    Route("lock-release", "POST", "/lock/release", Scope.ADMIN, lock_release),
    Route("health", "GET", "/health", Scope.READ, health),
    Route("openapi", "GET", "/openapi.json", Scope.READ, openapi),
)
_BY_ACTION = {route.action: route for route in ROUTES}


# --- runs


def _run(direction: Direction, act: Act, asked: dict[str, Any]) -> Response:
    """Run and answer when it is done, or, when that is preferred, at once."""
    from flask_migrate_mongo.engine.options import Options  # noqa: PLC0415

    if _prefers_not_to_wait():
        return _accept(direction, lambda runner, options: act(runner, replace(options, **asked)))
    return _answer_run(act(assembly.current().runner(), Options(**asked)))


def _prefers_not_to_wait() -> bool:
    preferences = ",".join(request.headers.getlist("Prefer")).split(",")
    return any(p.partition(";")[0].strip().lower() == "respond-async" for p in preferences)


def _accept(direction: Direction, act: Act) -> Response:
    from flask_migrate_mongo.interfaces import documents  # noqa: PLC0415
    from flask_migrate_mongo.store.runs import Describe  # noqa: PLC0415

    describe = Describe(documents.outcome, documents.run, documents.problem, documents.progress)
    run_id = assembly.current().start(direction, act, describe)
    response = _answer(documents.stored_run(_stored(run_id)), 202)
    response.headers["Location"] = url_for(".run", run_id=run_id)
    response.headers["Preference-Applied"] = "respond-async"
    return response


def _stored(run_id: str) -> StoredRun:
    state = assembly.current()
    lease = state.runner().lease

    def holder() -> str | None:
        held = lease.inspect()
        return held.run_id if held else None

    return state.runs().get(run_id, holder=holder)


def _narration(run: StoredRun, look: Callable[[], StoredRun], heard: int) -> Iterator[str]:
    """Yield the events after the `heard` first ones, as they come, for as long as a stream may last."""
    from flask_migrate_mongo.interfaces import documents  # noqa: PLC0415

    silent_since = began = time.monotonic()
    while True:
        for event in run.events[heard:]:
            heard, silent_since = event["sequence"], time.monotonic()
            data = json.dumps(documents.run_event(event), default=str)
            yield f"id: {heard}\nevent: {event['event']}\ndata: {data}\n\n"
        if run.state.is_over or time.monotonic() - began > LONGEST_STREAM:
            return
        if time.monotonic() - silent_since > KEEPALIVE_SECONDS:
            silent_since = time.monotonic()
            yield ": still running\n\n"
        time.sleep(POLL_SECONDS)
        run = look()


# --- before a view


def _enter() -> None:
    """Let the request in to the view that it is for. Raises MigrateError."""
    route = _route()
    try:
        _gate().admit(route.action, route.scope, request)
    except (UnauthenticatedError, ForbiddenError):
        # A load balancer has no token; what it is told is `ready`, and nothing else.
        if route.view is not health:
            raise
    _check_body(route)


def _route() -> Route:
    return _BY_ACTION[str(request.endpoint).rpartition(".")[2]]


def _gate() -> Gate:
    state = assembly.current()
    return Gate(state.settings.api_token or (), state.authorize)


def _is_outsider() -> bool:
    try:
        _gate().admit("health", Scope.READ, request)
    except MigrateError:
        return True
    return False


def _check_body(route: Route) -> None:
    chunked = "Transfer-Encoding" in request.headers
    if chunked or (request.content_length or 0) > BODY_LIMIT:
        raise BodyTooLargeError(BODY_LIMIT)
    # A parameter in a body would be passed over in silence, and `dryRun` must not be.
    if request.content_length and route.view is not create:
        msg = "This takes no body. Put the parameters into the query string, `?dryRun=true`."
        raise InvalidRequestError(msg)


def _no_parameters() -> None:
    from flask_migrate_mongo.interfaces import schemas  # noqa: PLC0415

    schemas.query(schemas.NoQuery, request)


def _stray(prefix: str) -> Response | None:
    """Answer to what is under the prefix and has no view: no handler of a blueprint hears of it."""
    failure = request.routing_exception
    if failure is None or isinstance(failure, RequestRedirect):
        return None
    if request.path != prefix and not request.path.startswith(f"{prefix}/"):
        return None
    try:
        _gate().admit("status", Scope.READ, request)
    except Exception as exc:  # noqa: BLE001  (whatever the application's `authorize` raises)
        return _explain(exc)
    allowed = getattr(failure, "valid_methods", None)
    return _explain(MethodNotAllowedError(allowed) if allowed else UnknownPathError())


# --- answers


def _answer(document: object, code: int = 200) -> Response:
    # Not the application's own JSON provider, which may write times and names in its own way.
    text = json.dumps(document, default=str)
    kind = _JSON if code < BAD_REQUEST else _PROBLEM
    return Response(text, code, _HEADERS, content_type=kind)


def _answer_run(report: RunReport) -> Response:
    from flask_migrate_mongo.interfaces import documents, faults  # noqa: PLC0415

    failure = faults.failure_of(report)
    if failure is None:
        return _answer(documents.run(report))
    code = faults.fault_of(failure).http_status
    return _answer(documents.failed_run(report, failure), code)


def _explain(exc: Exception) -> Response:
    """Answer to an error: the one place where one becomes a problem document."""
    from flask_migrate_mongo.interfaces import documents, faults  # noqa: PLC0415

    if isinstance(exc, HTTPException):
        return _explain_foreign(exc)
    error = _known(exc)
    response = _answer(documents.problem(error), faults.fault_of(error).http_status)
    response.headers.update(_headers_of(error))
    return response


def _explain_foreign(exc: HTTPException) -> Response:
    """Answer to what the application's own hooks, or Flask, have aborted the request with."""
    from flask_migrate_mongo.interfaces import documents  # noqa: PLC0415

    if exc.response is not None:
        return cast("Response", exc.response)
    code = exc.code or 500
    document = documents.http_problem(code, exc.name, exc.description or exc.name)
    response = _answer(document, code)
    response.headers.update((k, v) for k, v in exc.get_headers() if k != "Content-Type")
    return response


def _known(exc: Exception) -> MigrateError:
    """Return what is said of an error; what is none of ours is logged, and not shown."""
    if not isinstance(exc, MigrateError):
        _log.error("%s %r failed", request.method, request.path, exc_info=exc)
        # Whoever watches the application's errors hears of this one too.
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        got_request_exception.send(app, _async_wrapper=app.ensure_sync, exception=exc)
        return MigrateError("An error that was not foreseen. The log of the server has its cause.")
    if isinstance(exc, ApiClosedError | UnauthenticatedError | ForbiddenError):
        caller = (request.method, request.path, request.remote_addr)
        _log.warning("Refused %r %r to %s: %s", *caller, exc.code)
    if _hides(exc):
        return NotReadyError("Not ready. A token that may read sees why.")
    return exc


def _hides(exc: MigrateError) -> bool:
    found = request.endpoint is not None and _route().view is health
    return found and not isinstance(exc, ApiClosedError) and _is_outsider()


def _headers_of(error: MigrateError) -> dict[str, str]:
    if isinstance(error, UnauthenticatedError):
        reason = ', error="invalid_token"' if error.wrong else ""
        return {"WWW-Authenticate": f'Bearer realm="migrations"{reason}'}
    if isinstance(error, MethodNotAllowedError):
        return {"Allow": ", ".join(error.allowed)}
    if isinstance(error, LockHeldError):
        left = (error.lock.expires_at - error.lock.seen_at).total_seconds()
        return {"Retry-After": str(max(1, min(RETRY_SECONDS, round(left))))}
    return {}


# --- the blueprint


def _blueprint() -> Blueprint:
    made = Blueprint(assembly.KEY, __name__, url_prefix="/api/migrations")
    for action, method, path, _, view in ROUTES:
        for rule in {path, path.rstrip("/")}:
            made.add_url_rule(rule, action, view, methods=[method], provide_automatic_options=False)
    made.before_request(_enter)
    # For every code, or else the application's own handler of a code would go before.
    made.register_error_handler(Exception, _explain)
    for code in default_exceptions:
        made.register_error_handler(code, _explain)
    made.record(_watch)
    return made


def _watch(state: BlueprintSetupState) -> None:
    state.app.before_request(partial(_stray, state.url_prefix or ""))


blueprint = _blueprint()
"""The API; it holds no state, so any number of applications can register it."""
