"""Asynchronous runs: queued in the store, executed in a new process or a thread, reported to the store."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from flask_migrate_mongo.engine.options import DEFAULTS, Observer, Options
from flask_migrate_mongo.interfaces.schemas import document
from flask_migrate_mongo.model.errors import MigrateError, NoRunError
from flask_migrate_mongo.model.values import Direction, Request
from flask_migrate_mongo.model.wording import rest
from flask_migrate_mongo.process import Stopped, elapsed
from flask_migrate_mongo.store.runs import RunState
from flask_migrate_mongo.wiring.looking import runs
from flask_migrate_mongo.wiring.running import acting, runner

from . import new_process

if TYPE_CHECKING:
    from flask_migrate_mongo.driver.server import Document
    from flask_migrate_mongo.dry_run import DryRunner
    from flask_migrate_mongo.engine.runner import Runner
    from flask_migrate_mongo.model.reports import Outcome, RunReport
    from flask_migrate_mongo.model.values import Plan, Progress, Step
    from flask_migrate_mongo.process import StopSwitch
    from flask_migrate_mongo.state import AppState
    from flask_migrate_mongo.store.runs import RunStore, StoredRun

TOUCH_SECONDS = 1
"""Seconds between two writes of a backfill's progress."""

_log = logging.getLogger("flask_migrate_mongo.async_runs")


def start(state: AppState, direction: Direction, parameters: Document) -> str:
    """Queue a run, start it in a new process or else in a thread, and return its id.

    `parameters` are those of the request, as `call` takes them. Returns when the run has begun.
    """
    run_id, store = uuid.uuid4().hex, runs(state)
    store.create(run_id, direction, parameters, _project(state))
    child = new_process.start(state, "run-async", run_id)
    if child is not None:
        new_process.wait(child, lambda: not store.is_queued(run_id))
    # Only one of the process and the thread can claim the run, however late the process is.
    run = claim(state, run_id, detached=False)
    if run is None:
        return run_id
    if child is not None:
        child.terminate()
    _log.warning(
        "The run %s continues in a thread of this process, and ends with it: %s. Set MIGRATE_APP to "
        "what `flask --app` takes for this application.",
        run_id,
        "no import path of the application is known"
        if child is None
        else "a new process could not load the application and its database",
    )
    # In its own context: without the request, and without a bound session.
    context = contextvars.Context()
    threading.Thread(target=context.run, args=(_in_thread, state, run), name="migrate-run").start()
    return run_id


def claim(state: AppState, run_id: str, *, detached: bool) -> StoredRun | None:
    """Claim a queued run of this application's migrations; None if there is none, or it was claimed."""
    return runs(state).claim(run_id, _project(state), detached=detached)


def cancel(state: AppState, run_id: str) -> None:
    """Request a run to stop: after the current batch of a backfill, or else before its next step."""
    runs(state).cancel(run_id)
    with contextlib.suppress(NoRunError):
        runner(state).request(Request.CANCEL, run_id=run_id)


def carry_out(state: AppState, run: StoredRun) -> None:
    """Execute a claimed run in an application context, and record its result."""
    store, run_id, direction = runs(state), run.run_id, Direction(run.direction)
    try:
        acts = acting(state, dry_run=run.options["dry_run"])
        options = Options(run_id=run_id, observer=_Reporter(store, run_id, acts.switch))
        report = call(acts, direction, run.options, options)
    except MigrateError as exc:
        store.note(
            run_id, "refused", state=RunState.REFUSED.value, error=document("error", exc, rest)
        )
        return
    except BaseException as exc:
        error = MigrateError(f"The run ended with {type(exc).__name__}.")
        store.note(
            run_id, "failed", state=RunState.FAILED.value, error=document("error", error, rest)
        )
        raise
    state_now = _ended(report, cancelled=store.is_cancelled(run_id)).value
    store.note(
        run_id, state_now, state=state_now, current=None, report=document("up", report, rest)
    )


def call(
    acts: Runner | DryRunner,
    direction: Direction,
    parameters: Document,
    options: Options = DEFAULTS,
) -> RunReport:
    """Call `up` or `down` with the parameters of a request, by their names in Python."""
    how = {name: value for name, value in parameters.items() if name != "dry_run"}
    arguments = {name: how.pop(name) for name in ("steps", "allow_drift") if name in how}
    act = acts.up if direction is Direction.UP else acts.down
    return act(replace(options, **how), **arguments)


def _project(state: AppState) -> Document:
    """Name the migrations: a process that loaded another application must not run those of this one."""
    folder = state.settings.directory.resolve()
    return {"directory": str(folder), "collection": state.settings.collection}


def _in_thread(state: AppState, run: StoredRun) -> None:
    try:
        with state.app.app_context():
            carry_out(state, run)
    except BaseException:  # noqa: BLE001  (no caller is left; the log is)
        _log.exception("The run %s ended with an error", run.run_id)


class _Reporter(Observer):
    """Writes what a run does to the store, and stops it on a request to cancel."""

    def __init__(self, store: RunStore, run_id: str, switch: StopSwitch) -> None:
        self._store = store
        self._run_id = run_id
        self._switch = switch
        self._touched = 0.0

    def planned(self, plan: Plan) -> None:  # noqa: ARG002  (the observer's signature)
        self._store.note(self._run_id, "planned", state=RunState.RUNNING.value)
        self._stop_if_cancelled()

    def started(self, step: Step) -> None:
        self._store.note(self._run_id, "started", current=_current(step))

    def progressed(self, step: Step, progress: Progress) -> None:
        if elapsed() - self._touched < TOUCH_SECONDS:
            return
        self._touched = elapsed()
        progress_now = document("progress", progress)
        self._store.touch(self._run_id, {**_current(step), "progress": progress_now})

    def ended(self, outcome: Outcome) -> None:
        self._store.note(self._run_id, "ended", current=None, step=document("step", outcome, rest))
        self._stop_if_cancelled()

    def _stop_if_cancelled(self) -> None:
        if self._store.is_cancelled(self._run_id):
            self._switch.request_stop("a request to cancel it")


def _current(step: Step) -> Document:
    return {"version": str(step.version), "name": step.file.name}


def _ended(report: RunReport, *, cancelled: bool) -> RunState:
    # A backfill that is cancelled stops inside its migration, which counts as failed for that.
    own = [f for f in report.failures if f.error is None or f.error.type != Stopped.__name__]
    if own:
        return RunState.FAILED
    if report.error is not None:
        return RunState.CANCELLED if cancelled else RunState.FAILED
    return RunState.SUCCEEDED
