"""Where the application serves, decided from plain facts."""

from __future__ import annotations

from typing import Any

import pytest

from flask_migrate_mongo.interfaces.startup import Surroundings, _program, serves, wanted


def around(program: str = "app", *arguments: str, **facts: Any) -> Surroundings:
    return Surroundings(program, arguments, **facts)


@pytest.mark.parametrize(
    "serving",
    [
        around("gunicorn", "--workers", "8", "app:app"),
        around("uwsgi", "--http", ":8000"),
        around("waitress-serve", "app:app"),
        around("waitress", "app:app"),
        around("mod_wsgi"),
        around("uvicorn", "asgi:app"),
        around("hypercorn", "wsgi:app:app"),
        around("granian", "--interface", "wsgi", "app:app"),
        around("flask", "run", command="run"),
        around("flask", "run", "--debug", command="run", reloader=True, reloaded=True),
        around("manage", "--config", "prod", "run", command="run"),
    ],
    ids=str,
)
def test_a_known_server_serves(serving: Surroundings) -> None:
    assert serves(serving)
    assert wanted(on_start=True, around=serving)
    assert not wanted(on_start=False, around=serving)


@pytest.mark.parametrize(
    "idle",
    [
        around("flask", "routes", command="routes"),
        around("flask", "shell", command="shell"),
        around("flask", "db-migrate", "up", command="up"),
        around("flask", "--help", command=""),
        around("flask", "load-airports", command=""),
        around("manage", "import", command="import"),
        around("flask"),
        around("flask", "run", "--debug", command="run", reloader=True),
        around("gunicorn", "--check-config", "app:app"),
        around("gunicorn", "--print-config", "app:app"),
        around("gunicorn", testing=True),
        around("flask", "run", command="run", testing=True),
        around("app"),
        around("app", reloaded=True),
        around("nightly", "gunicorn"),
        around("-c"),
        around("unittest"),
        around("pytest"),
        around(""),
        around("ipython"),
        around("celery", "-A", "app", "worker"),
    ],
    ids=str,
)
def test_what_is_no_known_server_does_not_serve(idle: Surroundings) -> None:
    assert not serves(idle)
    assert not wanted(on_start=True, around=idle)
    assert not wanted(on_start=False, around=idle)


def test_always_asks_for_it_anywhere_but_in_our_own_command() -> None:
    assert wanted("always", around("pytest", testing=True))
    assert wanted("always", around("flask", "serve", command="serve"))
    assert wanted("always", around("app"))
    assert not wanted("always", around("flask", "db-migrate", "down", command="down"))
    assert not wanted("always", around("flask", "db-migrate", "down", command=""))


def test_inside_a_run_nothing_is_asked_for() -> None:
    for on_start in (True, "always"):
        assert not wanted(on_start, around("gunicorn", in_run=True))


@pytest.mark.parametrize(
    ("started_as", "program"),
    [
        ("/usr/bin/gunicorn", "gunicorn"),
        ("/venv/lib/python3.11/site-packages/gunicorn/__main__.py", "gunicorn"),
        ("/venv/lib/python3.11/site-packages/flask/__main__.py", "flask"),
        ("/venv/bin/waitress-serve", "waitress-serve"),
        ("flask.exe", "flask"),
        ("app.py", "app"),
        ("-c", "-c"),
        ("", ""),
    ],
)
def test_a_program_has_one_name_however_it_was_started(started_as: str, program: str) -> None:
    assert _program(started_as) == program
