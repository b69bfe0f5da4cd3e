"""The views of the API, one function for each route; the route's summary describes it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from flask import Response, current_app, request, stream_with_context, url_for

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.driver.server import Document
from flask_migrate_mongo.model.errors import CreateDisabledError, NotReadyError
from flask_migrate_mongo.model.values import Direction
from flask_migrate_mongo.store.runs import StoredRun
from flask_migrate_mongo.wiring.creating import scaffold
from flask_migrate_mongo.wiring.looking import inspector, runs
from flask_migrate_mongo.wiring.running import acting, call, runner

from . import async_runs, operations
from .access import is_outsider
from .answers import HEADERS, answer, document, respond

LONGEST_STREAM = 300
"""Seconds: a stream occupies a worker of the web server. The reader continues with Last-Event-ID."""

KEEPALIVE_SECONDS = 15
POLL_SECONDS = 0.5


def status() -> Response:
    return answer("status", inspector(app_state.current()).status())


def up() -> Response:
    return _run(Direction.UP, operations.parse(operations.UpQuery, request))


def down() -> Response:
    return _run(Direction.DOWN, operations.parse(operations.DownQuery, request))


def run(run_id: str) -> Response:
    return answer("run", _stored(run_id))


def run_events(run_id: str) -> Response:
    last = request.headers.get("Last-Event-ID", "")
    # Read before the stream begins, so that an unknown run is a problem document.
    stream = _event_stream(_stored(run_id), int(last) if last.isdecimal() else 0)
    return Response(stream_with_context(stream), headers=HEADERS, content_type="text/event-stream")


def run_cancel(run_id: str) -> Response:
    if not _stored(run_id).state.is_over:
        async_runs.cancel(app_state.current(), run_id)
    return answer("run", _stored(run_id))


def history() -> Response:
    asked = operations.parse(operations.HistoryQuery, request)
    return answer("history", inspector(app_state.current()).records(**asked))


def events(version: str) -> Response:
    return answer("events", inspector(app_state.current()).events(version))


def create() -> Response:
    settings = app_state.current().settings
    if not (settings.api_create or current_app.debug):
        raise CreateDisabledError
    asked = operations.parse(operations.NewMigration, request, "json")
    return answer("create", scaffold(app_state.current()).create(**asked), 201)


def lock_status() -> Response:
    return answer("lock-status", inspector(app_state.current()).lock())


def lock_release() -> Response:
    asked = operations.parse(operations.ReleaseQuery, request)
    released = runner(app_state.current()).force_unlock(confirmed=asked["confirm"])
    return answer("lock-release", released)


def health() -> Response:
    state = app_state.current()
    survey = inspector(state).status().survey
    if not survey.is_ready:
        raise NotReadyError(survey, state.startup_failure)
    figures = {} if is_outsider() else {"summary": survey}
    return answer("health", {"ready": True, **figures})


def openapi() -> Response:
    server = request.script_root + request.path.removesuffix("/openapi.json")
    return respond(operations.openapi(server))


def _run(direction: Direction, asked: Document) -> Response:
    """Run, and answer at the end; at once if the client prefers an asynchronous run."""
    state = app_state.current()
    preferences = ",".join(request.headers.getlist("Prefer")).split(",")
    if any(p.partition(";")[0].strip().lower() == "respond-async" for p in preferences):
        run_id = async_runs.start(state, direction, asked)
        response = answer("run", _stored(run_id), 202)
        response.headers["Location"] = url_for(".run", run_id=run_id)
        response.headers["Preference-Applied"] = "respond-async"
        return response
    report = call(acting(state, dry_run=asked["dry_run"]), direction, asked)
    failure = report.failure
    if failure is None:
        return answer("up", report)
    return respond(document("error", failure) | document("up", report), failure.http_status)


def _stored(run_id: str) -> StoredRun:
    state = app_state.current()
    lease = inspector(state).lease
    return runs(state).get(
        run_id, holder=lambda: held.run_id if (held := lease.inspect()) else None
    )


def _event_stream(run: StoredRun, received: int) -> Iterator[str]:
    """Yield the events after the first `received` ones, until the run or the time of a stream ends."""
    silent_since = began = time.monotonic()
    while True:
        for event in run.events[received:]:
            received, silent_since = event["sequence"], time.monotonic()
            data = json.dumps(document("run-event", event), default=str)
            yield f"id: {received}\nevent: {event['event']}\ndata: {data}\n\n"
        if run.state.is_over or time.monotonic() - began > LONGEST_STREAM:
            return
        if time.monotonic() - silent_since > KEEPALIVE_SECONDS:
            silent_since = time.monotonic()
            yield ": still running\n\n"
        time.sleep(POLL_SECONDS)
        run = _stored(run.run_id)
