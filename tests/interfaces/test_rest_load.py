"""The API under load and under a database that hangs: streams, threads of the web server, and the health check."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask
from pymongo import MongoClient

from flask_migrate_mongo import MongoMigrate
from flask_migrate_mongo.interfaces.rest import views
from flask_migrate_mongo.schema import Collection
from tests.integration.test_runs import FIRST, gate, importable
from tests.interfaces.test_rest import ADMIN, PREFIX, READ, RUN, Api, api, problem
from tests.interfaces.test_rest_http import APP, ENVIRON, curl, needs_curl
from tests.interfaces.test_rest_runs import ASYNC
from tests.server.launcher import TestServer
from tests.serving import Serving, free_port, gunicorn, serving, waitress
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.project import Project

LIMIT = 25
"""Five seconds, on a busy machine; without the limit of a look it would be over 30."""

SECONDS = 30
DECLARED = [Collection("done")]


@contextlib.contextmanager
def stream(web: Serving, run_id: str, **more: str) -> Iterator[http.client.HTTPResponse]:
    """Open a stream of a run's events; at the end of the block its reader is gone."""
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=SECONDS)
    headers = {"Authorization": f"Bearer {READ}", **more}
    connection.request("GET", f"{PREFIX}/runs/{run_id}/events", headers=headers)
    answer = connection.getresponse()
    try:
        yield answer
    finally:
        answer.close()
        connection.close()


def status_of(web: Serving, run_id: str, **more: str) -> int:
    with stream(web, run_id, **more) as answer:
        return answer.status


def number_of_success(web: Serving, run_id: str, answer: http.client.HTTPResponse) -> str:
    """Read to the event of success, in further streams where one has reached its longest time; give its number."""
    last = ""
    with contextlib.ExitStack() as further:
        while not (line := answer.readline()).startswith(b"event: succeeded"):
            if line.startswith(b"id: "):
                last = line.decode().removeprefix("id: ").strip()
            elif not line:
                answer = further.enter_context(stream(web, run_id, **{"Last-Event-ID": last}))
                assert answer.status == 200
    return last


def lines_until(answer: http.client.HTTPResponse, wanted: bytes) -> list[bytes]:
    seen: list[bytes] = []
    while not seen or not seen[-1].startswith(wanted):
        seen.append(answer.readline())
        assert seen[-1], f"the stream ended without {wanted!r}: {seen}"
    return seen


# --- streams


@needs_curl
@pytest.mark.parametrize("server", ["gunicorn", "waitress"])
def test_streams_leave_threads_for_others_and_end_soon_after_their_reader(
    project: Project, tmp_path: Path, server: str
) -> None:
    mark, go = gate(project, tmp_path)
    (project.root / "app.py").write_text(APP, encoding="utf-8")
    port = free_port()
    threads = gunicorn(port, "--workers", "1", "--threads", "4")
    with serving(
        project, threads if server == "gunicorn" else waitress(port), port, ENVIRON
    ) as web:
        web.wait_until_it_answers()
        run_id = curl(web, "/up", "-X", "POST", "-H", "Prefer: respond-async", token=RUN)[1][
            "runId"
        ]
        until(mark.exists)
        with stream(web, run_id) as first:
            with stream(web, run_id) as second, stream(web, run_id) as third:
                assert (first.status, second.status, third.status) == (200, 200, 429)
                assert third.headers["Retry-After"] == "20"
                refused = json.loads(third.read())
                assert refused["code"] == "too-many-streams"
                assert refused["detail"].startswith("2 streams are open, each for at most 20 s")
                assert curl(web, "/status", token=READ)[0] == 200
            until(lambda: status_of(web, run_id) == 200)
            lines_until(first, b": still running")
            go.touch()
            last = number_of_success(web, run_id, first)
        assert status_of(web, run_id, **{"Last-Event-ID": last}) == 204


BREAKS_STREAMS = """
@app.after_request
def broken(response):
    if response.mimetype == "text/event-stream":
        raise ValueError
    return response
"""


@needs_curl
def test_a_stream_that_fails_in_a_hook_of_the_application_leaves_its_place_to_others(
    project: Project, tmp_path: Path
) -> None:
    mark, go = gate(project, tmp_path)
    (project.root / "app.py").write_text(APP + BREAKS_STREAMS, encoding="utf-8")
    port = free_port()
    with serving(project, gunicorn(port, "--threads", "4"), port, ENVIRON) as web:
        web.wait_until_it_answers()
        accepted = curl(web, "/up", "-X", "POST", "-H", "Prefer: respond-async", token=RUN)
        until(mark.exists)
        seen = [status_of(web, accepted[1]["runId"]) for _ in range(4)]
        go.touch()
    assert seen == [500] * 4


def test_a_stream_is_short_and_its_reader_continues_where_it_ended(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert views.LONGEST_STREAM <= 20
    assert views.BEAT_SECONDS <= 1
    monkeypatch.setattr(views, "LONGEST_STREAM", 0.2)
    monkeypatch.setattr(views, "BEAT_SECONDS", 0.05)
    importable(project, monkeypatch)
    mark, go = gate(project, tmp_path)
    asked = api(project, RUN)
    run_id = asked("POST", "/up", headers=ASYNC).get_json()["runId"]
    until(mark.exists)
    path = f"/runs/{run_id}/events"
    first = asked("GET", path).text
    assert "event: started\n" in first
    assert first.endswith(": still running\n\n")
    go.touch()
    until(lambda: asked("GET", f"/runs/{run_id}").get_json()["report"] is not None)
    last = first.split("id: ")[-1].split("\n")[0]
    rest = asked("GET", path, headers={"Last-Event-ID": last})
    assert "event: started\n" not in rest.text
    assert "event: succeeded\n" in rest.text
    number = rest.text.split("id: ")[-1].split("\n")[0]
    over = asked("GET", path, headers={"Last-Event-ID": number})
    assert (over.status_code, over.data, over.headers["Cache-Control"]) == (204, b"", "no-store")
    for odd in ("9" * 4_301, "-1", "٣", "1e3", ""):
        whole = asked("GET", path, headers={"Last-Event-ID": odd.encode().decode("latin-1")})
        assert (whole.status_code, "event: planned\n" in whole.text) == (200, True)


# --- a database that hangs


@pytest.fixture
def hanging(project: Project) -> Iterator[tuple[Flask, TestServer]]:
    """Give an application that has looked at its database, and the server of that."""
    project.write_inserts(FIRST)
    with TestServer("--standalone") as server, MongoClient[dict[str, Any]](server.uri) as client:
        app = Flask("shop", root_path=str(project.root))
        app.config.from_mapping(MIGRATE_API_TOKEN=ADMIN, MIGRATE_SCHEMA=f"{__name__}:DECLARED")
        migrate = MongoMigrate(app, client["shop"])
        assert not migrate.up(app).failures
        assert Api(app)("GET", "/health").status_code == 200
        (process,) = server._processes
        try:
            yield app, server
        finally:
            process.send_signal(signal.SIGCONT)


def stop(server: TestServer) -> None:
    (process,) = server._processes
    os.kill(process.pid, signal.SIGSTOP)
    # Only then all its threads have stopped.
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)


def took(app: Flask, token: str | None, path: str) -> tuple[float, int]:
    began = time.monotonic()
    answer = Api(app, token)("GET", path)
    return time.monotonic() - began, answer.status_code


def test_while_the_database_hangs_the_health_check_answers_soon(
    hanging: tuple[Flask, TestServer],
) -> None:
    app, server = hanging
    stop(server)
    # All at once, as from several load balancers.
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: took(app, None, "/health"), range(4)))
    assert {status for _, status in answers} == {503}
    assert max(seconds for seconds, _ in answers) < LIMIT
    (process,) = server._processes
    process.send_signal(signal.SIGCONT)
    until(lambda: Api(app, None)("GET", "/health").status_code == 200)


def test_while_the_database_hangs_whatever_looks_answers_soon(
    hanging: tuple[Flask, TestServer],
) -> None:
    app, server = hanging
    paths = ("/health", "/status", "/history", "/lock/status", "/schema", f"/runs/{'0' * 32}")
    stop(server)
    with ThreadPoolExecutor(len(paths)) as pool:
        answers = dict(zip(paths, pool.map(partial(took, app, ADMIN), paths), strict=True))
    assert {path: status for path, (_, status) in answers.items()} == dict.fromkeys(paths, 503)
    assert {path: seconds for path, (seconds, _) in answers.items() if seconds >= LIMIT} == {}


def test_a_long_wait_for_a_server_in_the_connection_string_does_not_make_a_look_longer(
    project: Project,
) -> None:
    app = Flask("shop", root_path=str(project.root))
    uri = f"mongodb://127.0.0.1:{free_port()}/shop?serverSelectionTimeoutMS=60000"
    app.config.from_mapping(MIGRATE_API_TOKEN=ADMIN, MONGO_URI=uri)
    MongoMigrate(app)
    began = time.monotonic()
    problem(Api(app)("GET", "/status"), 503, "no-connection")
    assert time.monotonic() - began < LIMIT
    app.extensions["mongo_migrate"].close()
