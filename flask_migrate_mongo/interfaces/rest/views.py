"""The views of the API, one function for each route; the route's summary describes it."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator

from flask import Response, current_app, request, stream_with_context, url_for

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.driver.server import Document
from flask_migrate_mongo.model.errors import (
    CreateDisabledError,
    NotReadyError,
    TooManyStreamsError,
)
from flask_migrate_mongo.model.values import Direction, Request
from flask_migrate_mongo.planning.plans import Target
from flask_migrate_mongo.store.runs import StoredRun
from flask_migrate_mongo.wiring import checking
from flask_migrate_mongo.wiring import looking as wired
from flask_migrate_mongo.wiring.comparing import schema_diff, schema_inventory
from flask_migrate_mongo.wiring.creating import scaffold
from flask_migrate_mongo.wiring.details import version_details
from flask_migrate_mongo.wiring.looking import looking
from flask_migrate_mongo.wiring.running import acting, call, force_unlock

from . import async_runs, operations
from .access import is_outsider, may_run
from .answers import HEADERS, answer, document, respond
from .health import remembered_survey, survey

LONGEST_STREAM = 20
"""Seconds: gunicorn ends a worker that is silent for 30. The reader continues with Last-Event-ID."""

BEAT_SECONDS = 1
"""How often a stream sends something, so that it ends soon after its reader has gone."""

MOST_STREAMS = 2
"""Of one process: each occupies a thread of the web server, and a usual number of threads is four."""

_streams = threading.BoundedSemaphore(MOST_STREAMS)


def status() -> Response:
    with looking(app_state.current()) as inspector:
        return answer("status", inspector.status())


def plan() -> Response:
    target = Target(**operations.parse(operations.PlanQuery, request))
    state = app_state.current()
    with looking(state):
        return answer("plan", checking.plan(state, target))


def up() -> Response:
    return _run(Direction.UP, operations.parse(operations.UpQuery, request))


def down() -> Response:
    return _run(Direction.DOWN, operations.parse(operations.DownQuery, request))


def runs() -> Response:
    asked = operations.parse(operations.RunsQuery, request)
    state = app_state.current()
    with looking(state):
        return answer("runs", async_runs.newest(state, asked["limit"]))


def run(run_id: str) -> Response:
    return answer("run", async_runs.read(app_state.current(), run_id))


def run_events(run_id: str) -> Response:
    last = request.headers.get("Last-Event-ID", "")
    received = int(last) if re.fullmatch("[0-9]{1,10}", last) else 0
    # Read before the stream begins, so that an unknown run is a problem document.
    found = async_runs.read(app_state.current(), run_id)
    if found.state.is_over and not found.events_after(received):
        # A reader in a browser connects again and again until it receives this.
        return Response(status=204, headers=HEADERS)
    if not _streams.acquire(blocking=False):
        raise TooManyStreamsError(MOST_STREAMS, LONGEST_STREAM)
    # The stream takes the place itself: if a hook of the application fails now, it never begins.
    _streams.release()
    stream = stream_with_context(_event_stream(found, received))
    return Response(stream, headers=HEADERS, content_type="text/event-stream")


def run_cancel(run_id: str) -> Response:
    state = app_state.current()
    async_runs.cancel(state, run_id)
    return answer("run", async_runs.read(state, run_id))


def run_pause(run_id: str) -> Response:
    return _request(run_id, Request.PAUSE)


def run_resume(run_id: str) -> Response:
    return _request(run_id, Request.RESUME)


def check() -> Response:
    asked, state = operations.parse(operations.CheckQuery, request), app_state.current()
    with looking(state) as inspector:
        quick = asked["quick"]
        found = checking.quick_check(state, inspector) if quick else checking.check(state, ())
        return answer("check", found)


def show(version: str) -> Response:
    asked, state = operations.parse(operations.ShowQuery, request), app_state.current()
    with looking(state) as inspector:
        found = version_details(state, inspector, version, with_source=asked["source"])
        return answer("show", found)


def history() -> Response:
    asked = operations.parse(operations.HistoryQuery, request)
    with looking(app_state.current()) as inspector:
        return answer("history", wired.history(inspector, **asked))


def events(version: str) -> Response:
    with looking(app_state.current()) as inspector:
        return answer("events", wired.events(inspector, version))


def create() -> Response:
    settings = app_state.current().settings
    if not (settings.api_create or current_app.debug):
        raise CreateDisabledError
    asked = operations.parse(operations.NewMigration, request, "json")
    return answer("create", scaffold(app_state.current()).create(**asked), 201)


def lock_status() -> Response:
    with looking(app_state.current()) as inspector:
        return answer("lock-status", wired.lock(inspector))


def lock_release() -> Response:
    asked = operations.parse(operations.ReleaseQuery, request)
    return answer("lock-release", force_unlock(app_state.current(), confirmed=asked["confirm"]))


def schema() -> Response:
    asked, state = operations.parse(operations.SchemaQuery, request), app_state.current()
    with looking(state):
        found = schema_inventory(state) if asked["inventory"] else schema_diff(state)
        return answer("schema", found)


def health() -> Response:
    state, may_read = app_state.current(), not is_outsider()
    seen = survey(state) if may_read else remembered_survey(state)
    if not seen.is_ready:
        failure = state.startup_failure
        raise NotReadyError(seen, failure if may_run() else failure and "the log says why")
    return answer("health", {"ready": True, **({"summary": seen} if may_read else {})})


def openapi() -> Response:
    server = request.script_root + request.path.removesuffix("/openapi.json")
    return respond(operations.openapi(server))


def _run(direction: Direction, asked: Document) -> Response:
    """Run, and answer at the end; at once if the client prefers an asynchronous run."""
    state = app_state.current()
    preferences = ",".join(request.headers.getlist("Prefer")).split(",")
    if any(p.partition(";")[0].strip().lower() == "respond-async" for p in preferences):
        run_id = async_runs.start(state, direction, asked)
        response = answer("run", async_runs.read(state, run_id), 202)
        response.headers["Location"] = url_for(".run", run_id=run_id)
        response.headers["Preference-Applied"] = "respond-async"
        return response
    report = call(acting(state, dry_run=asked["dry_run"]), direction, asked)
    failure = report.failure
    if failure is None or report.executed_nothing:
        return answer("up", report)
    return respond(document("error", failure) | document("up", report), failure.http_status)


def _request(run_id: str, wanted: Request) -> Response:
    """Send a request to the backfill of a run. Raises UnknownRunError, NoRunError."""
    state = app_state.current()
    async_runs.request(state, run_id, wanted)
    return answer("run", async_runs.read(state, run_id))


def _event_stream(run: StoredRun, received: int) -> Iterator[str]:
    """Take a place and yield the events after the one with the number `received`."""
    if not _streams.acquire(blocking=False):
        # Others have taken the places in between; the reader connects again.
        return
    try:
        yield from _events(run, received, until=time.monotonic() + LONGEST_STREAM)
    finally:
        _streams.release()


def _events(run: StoredRun, received: int, *, until: float) -> Iterator[str]:
    """Yield the events, or a comment each second, until the run or the time of the stream ends.

    The progress of a backfill has no number: it is the state of now, and no reader missed another one.
    """
    seen = None
    while True:
        for event in run.events_after(received):
            received = event["sequence"]
            data = json.dumps(document("run-event", event), default=str)
            yield f"id: {received}\nevent: {event['event']}\ndata: {data}\n\n"
        if run.state.is_over or time.monotonic() >= until:
            return
        if (run.current or {}).get("progress") and run.current != seen:
            seen = run.current
            yield f"event: progress\ndata: {json.dumps(seen)}\n\n"
        yield ": still running\n\n"
        time.sleep(BEAT_SECONDS)
        run = async_runs.read(app_state.current(), run.run_id)
