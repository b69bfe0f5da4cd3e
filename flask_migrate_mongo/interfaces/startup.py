"""Applies pending migrations before an application serves."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import PurePath

import click
from flask import Flask
from flask.cli import FlaskGroup
from flask.helpers import get_debug_flag
from werkzeug.exceptions import ServiceUnavailable

from flask_migrate_mongo.engine.options import Observer, Options
from flask_migrate_mongo.engine.runner import Runner
from flask_migrate_mongo.model.errors import LockHeldError, MigrateError, RunStoppedError, capture
from flask_migrate_mongo.model.reports import Outcome, RunReport
from flask_migrate_mongo.model.values import Status, Step
from flask_migrate_mongo.process import elapsed, started_by_run
from flask_migrate_mongo.reports.console import printable
from flask_migrate_mongo.reports.words import count, took
from flask_migrate_mongo.state import AppState
from flask_migrate_mongo.wiring.running import runner as make_runner

ALWAYS = "always"
"""The value of MIGRATE_ON_START that applies migrations in every process that sets up the application."""

GUNICORN_BOOT_ERROR = 3
"""The exit code with which a gunicorn worker is not started again."""

STOPPED_EXIT_CODE = 128 + signal.SIGTERM
BUSY_SECONDS = 10
"""Seconds after which a refused client may try again."""

SERVERS = frozenset(
    {
        *("gunicorn", "uwsgi", "mod_wsgi", "waitress", "waitress-serve"),
        *("uvicorn", "hypercorn", "granian"),
    }
)
"""Programs that serve the applications that they load, beside `flask run`. Their workers have the same name."""

_ONLY_CHECKED = frozenset({"--check-config", "--print-config"})
"""Options with which gunicorn loads the application and ends."""

_log = logging.getLogger("flask_migrate_mongo.startup")


# --- where it runs


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Facts that show whether this process will serve the application.

    `command` is the Flask command that runs: None outside of Flask's command line, "" while none is
    chosen yet. With `reloader`, this command serves in a child; `reloaded` means that this is the child.
    `in_run` means that a migration has started this process.
    """

    program: str
    arguments: tuple[str, ...] = ()
    command: str | None = None
    reloader: bool = False
    reloaded: bool = False
    testing: bool = False
    in_run: bool = False

    @classmethod
    def current(cls, app: Flask) -> Surroundings:
        """Collect the facts of this process."""
        command, reloader = _flask_command()
        return cls(
            program=_program(sys.argv[0] if sys.argv else ""),
            arguments=tuple(sys.argv[1:]),
            command=command,
            reloader=reloader,
            reloaded=os.environ.get("WERKZEUG_RUN_MAIN") == "true",
            testing=app.testing,
            in_run=started_by_run(),
        )


def wanted(on_start: bool | str, around: Surroundings) -> bool:  # noqa: FBT001  (a setting's value)
    """Whether this process applies migrations at its start."""
    if around.in_run:
        # It would wait for the run that waits for it.
        return False
    if on_start == ALWAYS:
        return "db-migrate" not in around.arguments
    return bool(on_start) and serves(around)


def serves(around: Surroundings) -> bool:
    """Whether the process will serve; only a known server does."""
    if around.testing:
        return False
    if around.command is not None:
        # The reloader's parent loads the application, too, but only its child serves.
        return around.command == "run" and (around.reloaded or not around.reloader)
    return around.program in SERVERS and _ONLY_CHECKED.isdisjoint(around.arguments)


def _program(path: str) -> str:
    """Find the name of a program: its package if it was started by `python -m`."""
    pure = PurePath(path)
    name = pure.parent.name if pure.name == "__main__.py" else pure.name
    return name.removesuffix(".exe").removesuffix(".py")


def _flask_command() -> tuple[str | None, bool]:
    """Find the Flask command that runs, if any, and whether it serves in a child."""
    context = group = click.get_current_context(silent=True)
    while group is not None and not isinstance(group.command, FlaskGroup):
        group = group.parent
    if context is None or group is None:
        return None, False
    if context is group:
        return "", False
    reloader = context.params.get("reload")
    return context.command.name, get_debug_flag() if reloader is None else bool(reloader)


# --- when it runs


def begin(state: AppState) -> None:
    """Migrate now, or before the first request, if this process serves.

    Raises SystemExit if that fails and the application may not serve then.
    """
    around = Surroundings.current(state.app)
    if not wanted(state.settings.on_start, around):
        is_meant = not (around.testing or around.in_run)
        if is_meant and around.command is None and around.program not in SERVERS:
            _log.info("Nothing is applied here: %r is not a known server.", around.program)
        return
    if state.settings.on_start_mode == "first-request":
        # First: the application's own hooks may need the migrated data.
        hooks = state.app.before_request_funcs.setdefault(None, [])
        hooks.insert(0, _FirstRequest(state).wait)
    else:
        _migrate_now(state)


def _migrate_now(state: AppState) -> None:
    try:
        with state.app.app_context():
            failure = _migrate(state)
    finally:
        # The server may fork after this, and no child may inherit an open client.
        state.close()
    if failure and failure.stopped:
        raise SystemExit(STOPPED_EXIT_CODE)
    if failure and state.settings.on_start_fail_hard:
        click.echo(f"The application does not start: {_one_line(failure.reason)}", err=True)
        # Not another exception: the reloader's child would catch it, and serve it as a page.
        raise SystemExit(GUNICORN_BOOT_ERROR if _program(sys.argv[0]) == "gunicorn" else 1)


class _FirstRequest:
    """Makes all requests wait until the first one has applied the migrations."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._mutex = threading.Lock()
        self._may_serve: bool | None = None

    def wait(self) -> None:
        """Wait until requests may be served. Raises ServiceUnavailable if that failed."""
        with self._mutex:
            if self._may_serve is None:
                failure = _migrate(self._state)
                fail_hard = self._state.settings.on_start_fail_hard
                self._may_serve = failure is None or not (failure.stopped or fail_hard)
        if not self._may_serve:
            raise ServiceUnavailable(
                "The database of this application is not up to date. Its log says why.",
                retry_after=BUSY_SECONDS,
            )


# --- what runs


@dataclass(frozen=True, slots=True)
class Failure:
    """Why not everything was applied; `stopped` if a signal asked the process to end."""

    reason: str
    trace: str | None = None
    stopped: bool = False


class _StepLogger(Observer):
    """Writes each step into the log."""

    def started(self, step: Step) -> None:
        _log.info("%s ...", _titled(step))

    def ended(self, outcome: Outcome) -> None:
        if outcome.succeeded:
            # As a warning, which is logged by default, unlike an information: the database has changed.
            time = "" if outcome.took_ms is None else f" in {took(outcome.took_ms)}"
            _log.warning("%s: %s%s", _titled(outcome.step), outcome.state.value, time)
        else:
            _log.info("%s: %s", _titled(outcome.step), outcome.state.value)


def _migrate(state: AppState) -> Failure | None:
    """Apply pending migrations, or wait for the process that does; log and keep a failure."""
    failure: Failure | None
    try:
        runner = make_runner(state)
        with runner.switch.installed(redeliver=False):
            failure = _up(runner, wait=state.settings.on_start_wait)
            runner.switch.check()
    except RunStoppedError as exc:
        # `flask db-migrate cancel` ends the backfill, and not the process that serves.
        failure = Failure(str(exc), stopped=not runner.switch.is_only_asked)
    except Exception as exc:  # noqa: BLE001  (an application that may serve in spite of a failure does)
        info = capture(exc, state.settings.mask)
        prefix = "" if isinstance(exc, MigrateError) else f"{info.type}: "
        failure = Failure(prefix + info.message, info.traceback)
    state.startup_failure = failure.reason if failure else None
    if failure:
        trace = "".join(f"\n{printable(line)}" for line in (failure.trace or "").splitlines())
        _log.error("Not everything could be applied: %s%s", _one_line(failure.reason), trace)
    if failure and failure.stopped:
        # The server's own handlers are back, and have not received it yet.
        signal.raise_signal(signal.SIGTERM)
    return failure


def _up(runner: Runner, *, wait: float) -> Failure | None:
    """Run `up`; while another run has the lock, wait and try again. Raises what ended the run."""
    deadline = elapsed() + wait
    while True:
        try:
            return _failure_in(runner.up(Options(wait=0, observer=_StepLogger())))
        except LockHeldError as exc:
            if elapsed() >= deadline:
                return Failure(
                    f"Another process still migrates after {wait:g} s (MIGRATE_ON_START_WAIT). {exc} When "
                    "it is done, start the application again."
                )
            run_id = exc.lock.run_id
        if failure := _outlast(runner, run_id, deadline):
            return failure


def _outlast(runner: Runner, run_id: str, deadline: float) -> Failure | None:
    """Wait until this run has released the lock, and find its failure, which is not retried here."""
    lock = runner.lock()
    if lock:
        _log.info("Waiting for the run of %s ...", _one_line(lock.holder))
    while lock and lock.run_id == run_id and lock.is_live and (left := deadline - elapsed()) > 0:
        # Random, so that many processes do not ask at the same time.
        runner.switch.sleep(min(left, random.uniform(0.1, 0.5)))  # noqa: S311
        lock = runner.lock()
    records = () if lock else runner.history.load().records
    for record in records:
        if record.run_id == run_id and record.status is Status.FAILED:
            cause = record.error.message if record.error else "its record does not say why"
            return _failed(record.version, record.name, f"in another process: {cause}")
    return None


def _failure_in(report: RunReport) -> Failure | None:
    for warning in report.warnings:
        _log.warning("%s", _one_line(warning))
    if applied := sum(outcome.succeeded for outcome in report.outcomes):
        of = report.database.name if report.database else "the database"
        _log.warning(
            "Applied %s to %s at this start, in %s.", count(applied), of, took(report.took_ms)
        )
    for outcome in report.failures:
        assert outcome.error is not None  # noqa: S101
        file, error = outcome.step.file, outcome.error
        return _failed(file.version, file.name, f"{error.type}: {error.message}", error.traceback)
    if report.error:
        raise report.error
    return None


def _titled(step: Step) -> str:
    return f"{step.version} ({_one_line(step.file.name)})"


def _one_line(text: str) -> str:
    """Put a text on one line that cannot control a terminal: a migration's name can hold any character."""
    return printable(" ".join(text.split()))


def _failed(version: int, name: str, cause: str, traceback: str | None = None) -> Failure:
    return Failure(
        f"{version} ({name}) failed, {cause.rstrip('.')}. Fix it, then start the application again or run "
        "`flask db-migrate up`.",
        traceback,
    )
