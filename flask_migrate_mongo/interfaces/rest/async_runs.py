"""Asynchronous runs: queued in the store, executed in a new process or a thread, reported to the store."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import sysconfig
import threading
import time
import uuid
from collections.abc import Iterator
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from flask import Flask

from flask_migrate_mongo.driver.server import Document
from flask_migrate_mongo.engine.options import Observer, Options
from flask_migrate_mongo.interfaces.schemas import document
from flask_migrate_mongo.model.errors import MigrateError, NoRunError
from flask_migrate_mongo.model.reports import Outcome, RunReport
from flask_migrate_mongo.model.values import Direction, Plan, Progress, Request, Step
from flask_migrate_mongo.model.wording import rest
from flask_migrate_mongo.process import Stopped, StopSwitch, elapsed
from flask_migrate_mongo.state import AppState
from flask_migrate_mongo.store.runs import RunState, RunStore, StoredRun
from flask_migrate_mongo.wiring.looking import runs
from flask_migrate_mongo.wiring.running import acting, call, runner

START_SECONDS = 15
"""Seconds to import the application and claim the run; gunicorn ends a worker after 30."""

POLL_SECONDS = 0.05
_MAIN = ("__main__", "__mp_main__")
_RELOADER = ("WERKZEUG_RUN_MAIN", "WERKZEUG_SERVER_FD")

TOUCH_SECONDS = 1
"""Seconds between two writes of a backfill's progress."""

_log = logging.getLogger("flask_migrate_mongo.async_runs")


def start(state: AppState, direction: Direction, parameters: Document) -> str:
    """Queue a run, start it in a new process or else in a thread, and return its id.

    `parameters` are those of the request, as `call` takes them. Returns when the run has begun.
    """
    run_id, store = uuid.uuid4().hex, runs(state)
    store.create(run_id, direction, parameters, _project(state))
    child = _start_process(state, run_id)
    if child is not None:
        deadline = elapsed() + START_SECONDS
        while store.is_queued(run_id) and child.poll() is None and elapsed() < deadline:
            time.sleep(POLL_SECONDS)
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
    threading.Thread(
        target=Context().run, args=(_in_thread, state, run), name="migrate-run"
    ).start()
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
    store, run_id = runs(state), run.run_id

    def end(ended: RunState, fields: Document) -> None:
        store.note(run_id, ended.value, state=ended.value, **fields)

    try:
        acts = acting(state, dry_run=run.options["dry_run"])
        options = Options(run_id=run_id, observer=_Reporter(store, run_id, acts.switch))
        report = call(acts, Direction(run.direction), run.options, options)
    except MigrateError as exc:
        end(RunState.REFUSED, {"error": document("error", exc, rest)})
    except BaseException as exc:
        error = MigrateError(f"The run ended with {type(exc).__name__}.")
        end(RunState.FAILED, {"error": document("error", error, rest)})
        raise
    else:
        ended = _ended(report, cancelled=store.is_cancelled(run_id))
        end(ended, {"current": None, "report": document("up", report, rest)})


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


# --- the new process


def _start_process(state: AppState, run_id: str) -> subprocess.Popen[bytes] | None:
    """Start `flask db-migrate run-async`; None if the application's import path is not known.

    The process has its own session, and of this process's descriptors only stdout and stderr.
    """
    path = import_path(state)
    # uWSGI, mod_wsgi and frozen programs name themselves here.
    is_python = Path(sys.executable or "").name.lower().startswith(("python", "pypy"))
    if path is None or not is_python:
        return None
    try:
        child = subprocess.Popen(  # noqa: S603  (the settings and this process say what runs)
            [sys.executable, "-m", "flask", "--app", path, "db-migrate", "run-async", run_id],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None
    # Without it the process would stay a zombie until this one ends.
    threading.Thread(target=child.wait, name="migrate-reaper", daemon=True).start()
    return child


def import_path(state: AppState) -> str | None:
    """Find the `flask --app` argument of this application; None if it is not known.

    The settings come first, then a module with this very object, then Flask's command line, and last a
    factory that Flask finds itself.
    """
    app = state.app
    # Another process cannot repeat what a test's fixtures have configured.
    if state.settings.app or app.testing:
        return state.settings.app
    module = sys.modules.get(app.import_name)
    has_factory = module is not None and vars(module).keys() & {"create_app", "make_app"}
    factory = _path_of(app.import_name) if has_factory else None
    return next(_places(app), None) or state.app_option or os.environ.get("FLASK_APP") or factory


def _places(app: Flask) -> Iterator[str]:
    for name in (app.import_name, *tuple(sys.modules)):
        module = sys.modules.get(name)
        # A lazy module is a subclass, and loads when its names are read.
        if type(module) is not ModuleType:
            continue
        path = _path_of(name)
        yield from (f"{path}:{key}" for key, value in tuple(vars(module).items()) if value is app)


def _path_of(name: str) -> str:
    """Find what imports a module in another process: its name, or the file of the main program."""
    main = getattr(sys.modules[name], "__file__", None)
    return main if main and name in _MAIN else name


def _environment() -> dict[str, str]:
    """Copy this process's environment, without the reloader, and with its way to import modules."""
    environ = {name: value for name, value in os.environ.items() if name not in _RELOADER}
    # Without the interpreter's own folders: the new process may start another version of Python.
    own = tuple(sysconfig.get_path(name) for name in ("stdlib", "platlib", "purelib"))
    paths = [path or "." for path in sys.path if not path.startswith(own)]
    return {**environ, "PYTHONPATH": os.pathsep.join(paths)}


# --- the progress


@dataclass
class _Reporter(Observer):
    """Writes what a run does to the store, and stops it on a request to cancel."""

    store: RunStore
    run_id: str
    switch: StopSwitch
    touched: float = 0.0

    def planned(self, plan: Plan) -> None:  # noqa: ARG002  (the observer's signature)
        self.store.note(self.run_id, "planned", state=RunState.RUNNING.value)
        self._stop_if_cancelled()

    def started(self, step: Step) -> None:
        self.store.note(self.run_id, "started", current=_current(step))

    def progressed(self, step: Step, progress: Progress) -> None:
        if elapsed() - self.touched < TOUCH_SECONDS:
            return
        self.touched = elapsed()
        shown = {**_current(step), "progress": document("progress", progress)}
        self.store.touch(self.run_id, shown)

    def ended(self, outcome: Outcome) -> None:
        self.store.note(self.run_id, "ended", current=None, step=document("step", outcome, rest))
        self._stop_if_cancelled()

    def _stop_if_cancelled(self) -> None:
        if self.store.is_cancelled(self.run_id):
            self.switch.request_stop("a request to cancel it")


def _current(step: Step) -> Document:
    return {"version": str(step.version), "name": step.file.name}


def _ended(report: RunReport, *, cancelled: bool) -> RunState:
    # A backfill that is cancelled stops inside its migration, which counts as failed for that.
    own = [f for f in report.failures if f.error is None or f.error.type != Stopped.__name__]
    if not own and report.error is None:
        return RunState.SUCCEEDED
    return RunState.CANCELLED if cancelled and not own else RunState.FAILED
