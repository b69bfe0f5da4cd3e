"""Asynchronous runs under the web servers that people use: the server stops, the run goes on."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_runs import FIRST, gate
from tests.interfaces.test_rest import PREFIX
from tests.interfaces.test_rest_http import ENVIRON, RUN
from tests.serving import Serving, flask_run, free_port, gunicorn, serving, uwsgi, waitress
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.project import Project

APP = """
import fcntl, sys

from flask import Flask
from flask_migrate_mongo import MongoMigrate, state
from flask_migrate_mongo.database import database_of

app = Flask(__name__)
MongoMigrate(app)

# As servers do that must not run twice. The descriptor is one that a child inherits unless it is closed.
if "db-migrate" not in sys.argv:
    lock = open("only-one.lock", "w")
    fcntl.fcntl(lock, fcntl.F_SETFD, 0)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@app.post("/pay")
def pay():
    import time

    payments = database_of(state.of(app)).payments
    payments.insert_one({"step": "begun"})
    for _ in range(600):
        if payments.find_one({"step": "go"}):
            break
        time.sleep(0.02)
    payments.insert_one({"step": "paid"})
    return {}
"""

SERVERS: dict[str, Callable[[int], list[str]]] = {
    "gunicorn sync": gunicorn,
    "gunicorn gthread": lambda port: gunicorn(port, "--threads", "4"),
    "gunicorn gevent": lambda port: gunicorn(port, "--worker-class", "gevent"),
    "gunicorn preload": lambda port: gunicorn(port, "--preload", "--workers", "2"),
    "waitress": waitress,
    "uwsgi": lambda port: uwsgi(port, "--master", "--processes", "2"),
    "uwsgi threads": lambda port: uwsgi(port, "--threads", "2"),
    "flask run": flask_run,
}


@contextlib.contextmanager
def served(project: Project, command: Callable[[int], list[str]]) -> Iterator[Serving]:
    (project.root / "app.py").write_text(APP, encoding="utf-8")
    port = free_port()
    with serving(project, command(port), port, ENVIRON) as web:
        web.wait_until_it_answers()
        yield web


def ask(web: Serving, method: str, path: str, **headers: str) -> tuple[int, Any]:
    """Send a request, and return the status and the document."""
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)
    try:
        told = {"Authorization": f"Bearer {RUN}", "Content-Length": "0", **headers}
        connection.request(method, path, headers=told)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def up(web: Serving, query: str = "") -> tuple[int, Any]:
    return ask(web, "POST", f"{PREFIX}/up{query}", Prefer="respond-async")


def run_of(web: Serving, run_id: str) -> dict[str, Any]:
    status, document = ask(web, "GET", f"{PREFIX}/runs/{run_id}")
    assert status == 200, document
    found: dict[str, Any] = document
    return found


def stop(web: Serving) -> None:
    """Stop the server as its operator does."""
    web.process.send_signal(signal.SIGTERM)
    web.process.wait(timeout=30)


@pytest.mark.parametrize("server", SERVERS)
def test_a_run_goes_on_while_its_web_server_is_stopped_and_started_again(
    project: Project, tmp_path: Path, server: str
) -> None:
    mark, go = gate(project, tmp_path)
    with served(project, SERVERS[server]) as web:
        status, accepted = up(web)
        assert (status, accepted["detached"]) == (202, True), web.log
        until(mark.exists)
        stop(web)
    with served(project, SERVERS[server]) as web:
        assert run_of(web, accepted["runId"])["state"] == "running"
        go.touch()
        until(lambda: run_of(web, accepted["runId"])["report"] is not None)
        assert run_of(web, accepted["runId"])["state"] == "succeeded"
    assert project.statuses() == {FIRST: "completed"}
    assert project.db.people.count_documents({}) == 1


@pytest.mark.parametrize("server", ["gunicorn gevent", "gunicorn gthread", "uwsgi threads"])
def test_a_request_in_progress_while_a_run_starts_is_carried_out_once(
    project: Project, server: str
) -> None:
    project.write_inserts(FIRST)
    with served(project, SERVERS[server]) as web, ThreadPoolExecutor() as threads:
        paying = threads.submit(ask, web, "POST", "/pay")
        until(lambda: project.db.payments.count_documents({"step": "begun"}) == 1)
        accepted = up(web)[1]
        until(lambda: run_of(web, accepted["runId"])["report"] is not None)
        project.db.payments.insert_one({"step": "go"})
        assert paying.result(timeout=30)[0] == 200
        assert run_of(web, accepted["runId"])["state"] == "succeeded"
    steps = sorted(each["step"] for each in project.db.payments.find())
    assert steps == ["begun", "go", "paid"]


def test_the_process_of_a_run_ends_on_sigterm_also_where_the_server_blocks_signals(
    project: Project, tmp_path: Path
) -> None:
    mark, _ = gate(project, tmp_path)
    with served(project, SERVERS["uwsgi threads"]) as web:
        accepted = up(web)[1]
        until(mark.exists)
        pid = project.record(FIRST)["metadata"]["pid"]
        subprocess.run(["kill", str(pid)], check=True)
        until(lambda: run_of(web, accepted["runId"])["report"] is not None)
        assert run_of(web, accepted["runId"])["report"]["error"]["code"] == "stopped"
