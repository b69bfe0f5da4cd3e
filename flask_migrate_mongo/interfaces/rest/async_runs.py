"""Asynchronous runs: queued in the store, executed in a new process or a thread, reported to the store."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import sys
import sysconfig
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextvars import Context
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from flask import Flask

from flask_migrate_mongo.database import connected_server
from flask_migrate_mongo.driver.server import Document
from flask_migrate_mongo.engine.options import Observer, Options
from flask_migrate_mongo.interfaces.schemas import document
from flask_migrate_mongo.model.errors import (
    LockHeldError,
    MigrateError,
    NoRunError,
    RunStoppedError,
    UnknownRunError,
    capture,
)
from flask_migrate_mongo.model.reports import Outcome, RunReport
from flask_migrate_mongo.model.values import Direction, Plan, Progress, Request, Step
from flask_migrate_mongo.model.wording import rest
from flask_migrate_mongo.process import Stopped, StopSwitch, elapsed
from flask_migrate_mongo.state import AppState
from flask_migrate_mongo.store.bounds import fitted_plan, fitted_problem, fitted_report, fitted_step
from flask_migrate_mongo.store.lease import AWAY_SECONDS, outlast
from flask_migrate_mongo.store.runs import RunState, RunStore, StoredRun
from flask_migrate_mongo.wiring import running
from flask_migrate_mongo.wiring.looking import inspector, looking, runs
from flask_migrate_mongo.wiring.running import acting, call

from .operations import RUN_ID

START_SECONDS = 15
"""Seconds to import the application and claim the run; gunicorn ends a worker after 30."""

POLL_SECONDS = 0.05
BEAT_SECONDS = 5
"""Seconds between two signs of life of a run's process."""

_MAIN = ("__main__", "__mp_main__")
_RELOADER = ("WERKZEUG_RUN_MAIN", "WERKZEUG_SERVER_FD")

TOUCH_SECONDS = 1
"""Seconds between two writes of a backfill's progress."""

EXPECTED = "expected"
"""The parameter with the versions that somebody has seen and confirmed: the run begins if its plan has them, or not at all."""

_RUNNING = "running"
_CANCEL = "a request to cancel it"
_SET_APP = "Set MIGRATE_APP to what `flask --app` takes for this application"

_log = logging.getLogger("flask_migrate_mongo.async_runs")


def start(state: AppState, direction: Direction, parameters: Document) -> str:
    """Queue a run, start it in a new process or else in a thread, and return its id.

    `parameters` are those of the request, as `call` takes them. Returns when the run has begun. Raises
    LockHeldError and TooManyRunsError instead of starting a run that the lock refuses.
    """
    run_id, store = uuid.uuid4().hex, runs(state)
    waits = parameters.get("wait", state.settings.lock_wait) > 0
    if not (waits or parameters["dry_run"]):
        _ensure_unlocked(state)
    store.create(run_id, direction, parameters, _project(state), waits=waits)
    child, obstacle = _start_process(state, run_id)
    deadline = elapsed() + START_SECONDS
    while child and child.poll() is None and elapsed() < deadline and store.is_queued(run_id):
        time.sleep(POLL_SECONDS)
    # Only one of the process and the thread can claim the run, however late the process is.
    run = claim(state, run_id, detached=False)
    if run is None:
        return run_id
    if child is not None:
        child.terminate()
    _log.warning(
        "The run %s continues in a thread of this process, and ends with it: %s.", run_id, obstacle
    )
    # In its own context: without the request, and without a bound session.
    threading.Thread(
        target=Context().run, args=(_in_thread, state, run), name="migrate-run"
    ).start()
    return run_id


def _ensure_unlocked(state: AppState) -> None:
    lock = inspector(state).lock()
    if lock is not None and lock.is_live:
        raise LockHeldError(lock)


def claim(state: AppState, run_id: str, *, detached: bool) -> StoredRun | None:
    """Claim a queued run of this application's migrations; None if there is none, or it was claimed."""
    return runs(state).claim(run_id, _project(state), detached=detached)


def read(state: AppState, run_id: str) -> StoredRun:
    """Read a run. Raises UnknownRunError, also for what is no id."""
    if not re.fullmatch(RUN_ID, run_id):
        raise UnknownRunError(run_id)
    with looking(state):
        return runs(state).get(run_id)


def newest(state: AppState, limit: int) -> tuple[StoredRun, ...]:
    """List the newest runs of this application's migrations."""
    return runs(state).newest(_project(state), limit)


def cancel(state: AppState, run_id: str) -> None:
    """Request a run to stop: before it has the lock, after the current batch of a backfill, or before its next step.

    Does nothing if the run has ended. Raises UnknownRunError.
    """
    found = read(state, run_id)
    if runs(state).cancel(found.run_id):
        with contextlib.suppress(NoRunError):
            running.request(state, Request.CANCEL, run_id=found.run_id)


def request(state: AppState, run_id: str, wanted: Request) -> None:
    """Send a request to the backfill of a run; it takes effect after the current batch.

    Raises UnknownRunError and NoRunError.
    """
    running.request(state, wanted, run_id=read(state, run_id).run_id)


def carry_out(state: AppState, run: StoredRun) -> None:
    """Execute a claimed run in an application context, and record its result."""
    store, run_id = runs(state), run.run_id
    try:
        acts = acting(state, dry_run=run.options["dry_run"])
        parameters = dict(run.options)
        reporter = _Reporter(store, run_id, acts.switch, expected=parameters.pop(EXPECTED, None))
        with reporter.beating():
            options = Options(run_id=run_id, observer=reporter)
            report = call(acts, Direction(run.direction), parameters, options)
    except MigrateError as exc:
        is_stopped, problem = isinstance(exc, RunStoppedError), document("error", exc, rest)

        def refused() -> RunState:
            is_cancelled = is_stopped and store.is_cancelled(run_id)
            return RunState.CANCELLED if is_cancelled else RunState.REFUSED

        _end(store, run_id, refused, error=fitted_problem(problem))
    except BaseException as exc:
        error = MigrateError(f"The run ended with {type(exc).__name__}.")
        problem = fitted_problem(document("error", error, rest))
        _end(store, run_id, lambda: RunState.FAILED, error=problem)
        raise
    else:
        _end(
            store,
            run_id,
            lambda: _ended(report, cancelled=store.is_cancelled(run_id)),
            report=fitted_report(document("up", report, rest)),
        )


def _end(store: RunStore, run_id: str, ended: Callable[[], RunState], **result: Document) -> None:
    """Find out and record how a run ended, and try again while the server is away."""
    give_up = elapsed() + AWAY_SECONDS
    outlast(lambda: store.end(run_id, ended(), **result), lambda: give_up)


def _project(state: AppState) -> Document:
    """Name the migrations: a process that loaded another application must not run those of this one."""
    folder = state.settings.directory.resolve()
    return {"directory": str(folder), "collection": state.settings.collection}


def _in_thread(state: AppState, run: StoredRun) -> None:
    try:
        with state.app.app_context():
            carry_out(state, run)
    except BaseException as exc:  # noqa: BLE001  (no caller is left; the log is)
        trace = capture(exc, state.settings.mask).traceback
        _log.error("The run %s ended with an error\n%s", run.run_id, trace)


# --- the new process


def _start_process(state: AppState, run_id: str) -> tuple[subprocess.Popen[bytes] | None, str]:
    """Start `flask db-migrate run-async`, if that is possible; and say why a thread has to run instead.

    The process has its own session, and of this process's descriptors only stdout and stderr.
    """
    path, python = import_path(state), _interpreter()
    if not connected_server(state).allows_workers:
        return None, "mongomock keeps its database in the memory of this process"
    if path is None:
        return None, f"no import path of the application is known. {_SET_APP}"
    if python is None:
        return None, "the Python interpreter of this process is not known"
    try:
        child = subprocess.Popen(  # noqa: S603  (the settings and this process say what runs)
            [python, "-m", "flask", "--app", path, "db-migrate", "run-async", run_id],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as exc:
        return None, f"a new process could not be started ({exc})"
    # Without it the process would stay a zombie until this one ends.
    threading.Thread(target=child.wait, name="migrate-reaper", daemon=True).start()
    return child, f"a new process could not load the application and its database. {_SET_APP}"


def _interpreter() -> str | None:
    """Find this Python, with its virtual environment; None if it is not known.

    `sys.executable` may be uWSGI, Apache, or the Python that the virtual environment was made with.
    """
    home, own = Path(sys.prefix), Path(sys.executable or "")
    is_python = own.name.lower().startswith(("python", "pypy"))
    if is_python and (own.is_relative_to(home) or sys.prefix == sys.base_prefix):
        return str(own)
    found = home / "bin" / "python3"
    return str(found) if found.exists() else None


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
    # Python ignores what is no text there, such as a Path.
    found = [path for path in sys.path if isinstance(path, str)]
    paths = [path or "." for path in found if not path.startswith(own)]
    return {**environ, "PYTHONPATH": os.pathsep.join(paths)}


# --- the progress


@dataclass
class _Reporter(Observer):
    """Writes what a run does to the store, and stops it on a request to cancel."""

    store: RunStore
    run_id: str
    switch: StopSwitch
    expected: list[str] | None = None
    touched: float = 0.0
    paused: bool = False
    has_begun: bool = False
    places: dict[str, int] = field(default_factory=dict)

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Show in the background that the process lives, for the length of the block."""
        done = threading.Event()
        # An empty context: the thread must not inherit a session that a step has bound.
        thread = threading.Thread(
            target=Context().run, args=(self._beat, done), name="migrate-run-heartbeat", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(timeout=1)

    def _beat(self, done: threading.Event) -> None:
        while not done.wait(BEAT_SECONDS):
            try:
                is_cancelled = self.store.touch(self.run_id)
            except Exception as exc:  # noqa: BLE001  (whatever it is, the next beat may succeed)
                _log.warning("A sign of life of the run %s failed: %s", self.run_id, exc)
                continue
            # Later, `ended` stops it between two migrations.
            if is_cancelled and not self.has_begun:
                self.switch.request_stop(_CANCEL)

    def planned(self, plan: Plan) -> None:
        self.has_begun = True
        steps = fitted_plan([document("run-step", step) for step in plan.steps])
        give_up = elapsed() + AWAY_SECONDS
        try:
            if outlast(lambda: self.store.begin(self.run_id, steps), lambda: give_up):
                # Of a plan that is not stored, no step can be changed.
                self.places = {step["version"]: n for n, step in enumerate(steps)}
            else:
                is_cancelled = self.store.is_cancelled(self.run_id)
                self.switch.request_stop(_CANCEL if is_cancelled else "its state `lost`")
        except Exception:
            # What an observer raises ends no run, and whether this one may begin is not known.
            self.switch.request_stop("a failure to record its plan")
            raise
        if self.expected not in (None, [str(step.version) for step in plan.steps]):
            self.switch.request_stop("its plan, which is not the one that was confirmed")

    def started(self, step: Step) -> None:
        state = self._of_step(step, state=_RUNNING)
        self.store.note(self.run_id, "started", current=_current(step), **state)

    def progressed(self, step: Step, progress: Progress) -> None:
        if elapsed() - self.touched < TOUCH_SECONDS and progress.paused is self.paused:
            return
        self.touched, self.paused = elapsed(), progress.paused
        shown = {**_current(step), "progress": document("progress", progress)}
        self.store.touch(self.run_id, current=shown)

    def ended(self, outcome: Outcome) -> None:
        step = fitted_step(document("step", outcome, rest))
        state = self._of_step(
            outcome.step, state=outcome.state.value, executionTime=outcome.took_ms
        )
        if self.store.note(self.run_id, "ended", current=None, step=step, **state):
            self.switch.request_stop(_CANCEL)

    def _of_step(self, step: Step, **values: object) -> Document:
        """Name the fields of a step in the stored plan; none if it is beyond what is kept of that."""
        place = self.places.get(str(step.version))
        return {} if place is None else {f"steps.{place}.{key}": v for key, v in values.items()}


def _current(step: Step) -> Document:
    return {"version": str(step.version), "name": step.file.name}


def _ended(report: RunReport, *, cancelled: bool) -> RunState:
    # A backfill that is cancelled stops inside its migration, which counts as failed for that.
    own = [f for f in report.failures if f.error is None or f.error.type != Stopped.__name__]
    if not own and report.error is None:
        return RunState.SUCCEEDED
    return RunState.CANCELLED if cancelled and not own else RunState.FAILED
