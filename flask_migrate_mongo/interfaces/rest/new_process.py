"""Starts a command of the application in a new interpreter, which outlives the web server."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from flask_migrate_mongo.process import elapsed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask

    from flask_migrate_mongo.state import AppState

START_SECONDS = 15
"""Seconds to import the application and claim the run; gunicorn ends a worker after 30."""

POLL_SECONDS = 0.05
_MAIN = ("__main__", "__mp_main__")
_RELOADER = ("WERKZEUG_RUN_MAIN", "WERKZEUG_SERVER_FD")


def start(state: AppState, *command: str) -> subprocess.Popen[bytes] | None:
    """Start `flask db-migrate …`; None if the application's import path is not known.

    The process has its own session, and of this process's descriptors only stdout and stderr.
    """
    path = import_path(state)
    # uWSGI, mod_wsgi and frozen programs name themselves here.
    is_python = Path(sys.executable or "").name.lower().startswith(("python", "pypy"))
    if path is None or not is_python:
        return None
    try:
        child = subprocess.Popen(  # noqa: S603  (the settings and this process say what runs)
            [sys.executable, "-m", "flask", "--app", path, "db-migrate", *command],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None
    # Without it the process would stay a zombie until this one ends.
    threading.Thread(target=child.wait, name="migrate-reaper", daemon=True).start()
    return child


def wait(child: subprocess.Popen[bytes], has_reported: Callable[[], bool]) -> None:
    """Wait until the process has reported, has ended, or is too slow."""
    deadline = elapsed() + START_SECONDS
    while not has_reported() and child.poll() is None and elapsed() < deadline:
        time.sleep(POLL_SECONDS)


def import_path(state: AppState) -> str | None:
    """Find the `flask --app` argument of this application; None if it is not known.

    The settings come first, then a module with this very object, then Flask's command line, and last a
    factory that Flask finds itself.
    """
    app = state.app
    # Another process cannot repeat what a test's fixtures have configured.
    if state.settings.app or app.testing:
        return state.settings.app
    return (
        next(_places(app), None)
        or state.app_option
        or os.environ.get("FLASK_APP")
        or _with_factory(app.import_name)
    )


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


def _with_factory(name: str) -> str | None:
    names = vars(sys.modules[name]) if name in sys.modules else {}
    return _path_of(name) if names.keys() & {"create_app", "make_app"} else None


def _environment() -> dict[str, str]:
    """Copy this process's environment, without the reloader, and with its way to import modules."""
    environ = {name: value for name, value in os.environ.items() if name not in _RELOADER}
    # Without the interpreter's own folders: the new process may start another version of Python.
    own = tuple(sysconfig.get_path(name) for name in ("stdlib", "platlib", "purelib"))
    paths = [path or "." for path in sys.path if not path.startswith(own)]
    return {**environ, "PYTHONPATH": os.pathsep.join(paths)}
