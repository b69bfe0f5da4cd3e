"""The REST door over real HTTP: clients that no one here wrote, real servers, and no good intentions."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.serving import Serving, free_port, gunicorn, serving, waitress
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.project import Project

READ, RUN, ADMIN = "reader-0123456789", "runner-0123456789", "admin-0123456789"
PREFIX = "/api/migrations"
CURL = shutil.which("curl")
HOSTILE_REQUESTS = 500

APP = """
from flask import Flask
from flask_migrate_mongo import MongoMigrate

app = Flask(__name__)
app.config["MIGRATE_API_CREATE"] = True
MongoMigrate(app)
"""

ENVIRON = {"MIGRATE_API_TOKEN": f"read:{READ},run:{RUN},admin:{ADMIN}"}

needs_curl = pytest.mark.skipif(CURL is None, reason="there is no curl")


@contextlib.contextmanager
def served(project: Project, server: str, workers: int = 4, **environ: str) -> Iterator[Serving]:
    """Serve the project's application with this server until the end of the block."""
    (project.root / "app.py").write_text(APP, encoding="utf-8")
    port = free_port()
    options = ("--workers", str(workers))
    command = gunicorn(port, *options) if server == "gunicorn" else waitress(port)
    with serving(project, command, port, {**ENVIRON, **environ}) as server_process:
        server_process.wait_until_it_answers()
        yield server_process


def curl(api: Serving, path: str, *options: str, token: str | None = ADMIN) -> tuple[int, Any]:
    """Ask with curl; return the status and the document."""
    assert CURL is not None
    given = ["--header", f"Authorization: Bearer {token}"] if token else []
    told = ["--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}"]
    asked = subprocess.run(
        [CURL, *told, *given, *options, f"{api.url}{PREFIX}{path}"],
        capture_output=True,
        text=True,
        check=True,
    )
    text, _, status = asked.stdout.rpartition("\n")
    return int(status), json.loads(text)


@needs_curl
@pytest.mark.parametrize("server", ["gunicorn", "waitress"])
def test_curl_migrates_up_and_down(project: Project, server: str) -> None:
    project.write_inserts(1, 2)
    with served(project, server) as api:
        assert curl(api, "/status", token=None)[0] == 401
        assert curl(api, "/up", "-X", "POST", token=READ)[0] == 403
        assert curl(api, "/health", token=None)[0] == 503
        status, ran = curl(api, "/up", "-X", "POST", token=RUN)
        assert (status, [step["state"] for step in ran["steps"]]) == (200, ["applied"] * 2)
        until(lambda: curl(api, "/health", token=None) == (200, {"ready": True}))
        assert curl(api, "/history?limit=1", token=READ)[1]["history"][0]["version"] == "2"
        status, undone = curl(api, "/down?steps=2", "-X", "POST", token=RUN)
        assert (status, [step["state"] for step in undone["steps"]]) == (200, ["rolled-back"] * 2)
        body = ("--json", '{"name": "../../evil"}')
        status, made = curl(api, "/", *body)
        assert status == 201
        assert made["path"].endswith("_evil.py")
        assert curl(api, "/", *body, "--header", "Content-Type: text/plain")[0] == 415
        assert curl(api, "/up", "--json", '{"dryRun": true}')[0] == 400
        chunked = ("--header", "Transfer-Encoding: chunked")
        assert curl(api, "/", *body, *chunked)[0] in {201, 413}
    assert project.db.done.count_documents({}) == 0
    assert "Traceback" not in api.log
    assert not any(token in api.log for token in (READ, RUN, ADMIN))


@needs_curl
def test_of_many_at_once_one_migrates_and_the_others_are_told_who(project: Project) -> None:
    project.write(
        "1_waits",
        """
        import time

        def up(db):
            while db.gate.find_one() is None:
                time.sleep(0.02)
            db.done.insert_one({})
        """,
    )
    with served(project, "gunicorn") as api:
        command = [CURL or "", "--silent", "-X", "POST", "--write-out", "\n%{http_code}"]
        ask = [*command, "-H", f"Authorization: Bearer {RUN}", f"{api.url}{PREFIX}/up"]
        asked = [subprocess.Popen(ask, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        until(lambda: sum(process.poll() is not None for process in asked) == 3)
        project.db.gate.insert_one({})
        answers = [process.communicate(timeout=60)[0].rpartition("\n") for process in asked]
    documents = {status: json.loads(text) for text, _, status in answers}
    assert sorted(status for _, _, status in answers) == ["200", "409", "409", "409"]
    assert documents["409"]["lock"]["reason"] == "up"
    assert project.db.done.count_documents({}) == 1


LONG = """
import os, time

def up(db):
    db.pids.insert_one({"pid": os.getpid()})
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGABRT])
def test_a_worker_that_is_ended_during_a_run_stops_it_and_ends(
    project: Project, number: signal.Signals
) -> None:
    project.write("1_long", LONG)
    project.write_inserts(2)
    headers = {"Authorization": f"Bearer {RUN}"}
    with served(project, "gunicorn", workers=1) as api, ThreadPoolExecutor(1) as pool:

        def post() -> tuple[int, bytes]:
            client = http.client.HTTPConnection("127.0.0.1", api.port, timeout=60)
            client.request("POST", f"{PREFIX}/up?continueOnError=true", headers=headers)
            answer = client.getresponse()
            return answer.status, answer.read()

        answer = pool.submit(post)
        until(lambda: project.db.pids.count_documents({}) == 1)
        (pid,) = project.db.pids.distinct("pid")
        os.kill(pid, number)
        status, body = answer.result(timeout=30)
        until(lambda: f"Worker exiting (pid: {pid})" in api.log)
    assert status == 500
    assert [step["state"] for step in json.loads(body)["steps"]] == ["failed", "not-run"]
    assert project.runner().lock() is None


# --- hostile requests

PATHS = [
    *("/status", "/up", "/down", "/history", "/history/1/events", "/", "", "/lock/status"),
    *("/lock/release", "/health", "/openapi.json", "/nothing", "/up/", "/up/..;/status"),
]
TRICKS = [
    *("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fapp.py", "//up", "/./up"),
    *("/up%00", "/up%0d%0aX-Evil:%201", "/status%2f..%2fup", "/UP", "/up;x=1", "/%ff%fe"),
    *("/history/..%2fup/events", "/history/%7B%24ne%7D/events", "/history/" + "9" * 3000),
    *("/?name=x", "/up%3fdryRun=false", "/lock/release%3fconfirm=true", "/\\up", "/up%20"),
]
QUERIES = [
    *(
        "",
        "?",
        "?dryRun",
        "?dryRun=1",
        "?steps=-1",
        "?steps=9e99",
        "?limit[]=1",
        "?limit=1&limit=2",
    ),
    *(
        "?limit=%00",
        "?status[$ne]=x",
        "?confirm=yes",
        "?skip=" + "9" * 4000,
        "?wait=nan",
        "?%ff=%fe",
    ),
    *("?__proto__=1", "?token=" + ADMIN, "?authorization=Bearer%20" + ADMIN, "?_method=POST"),
]
WRONG = [
    *("", "Bearer", "Bearer ", f"Basic {ADMIN}", f"Bearer {ADMIN}x", f"Bearer {ADMIN[:-1]}"),
    *(f"Bearer {ADMIN.upper()}", f"Bearer {READ},{RUN}", ADMIN, f"Token {ADMIN}", "Bearer null"),
    *("Bearer " + "x" * 4000, f"Bearer admin:{ADMIN}", "Bearer \xe9\xe8", f"Bearer  {RUN}{READ}"),
]
BODIES = [
    *(b"", b"{}", b"[" * 9000, b"\x00" * 99, b'{"name": {"$gt": ""}}', b'{"name": 1}', b"\xff"),
    *(b"name=x", b"x" * 100_000, b'{"name": "x", "path": "/tmp"}', b'{"name":' + b"9" * 6000),
]
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "BREW", "PROPFIND"]
KINDS = ["application/json", "text/plain", "application/x-www-form-urlencoded", "a/b", "", "json"]


def hostile(chance: random.Random) -> tuple[str, str, bytes, dict[str, str]]:
    """Return a request that must change nothing: no run, no file, no released lock."""
    path = chance.choice([*PATHS, *TRICKS])
    method = chance.choice(METHODS)
    headers = {"Content-Type": chance.choice(KINDS)}
    body = chance.choice(BODIES) if chance.random() < 0.5 else b""
    # Who may do everything asks for what makes no sense, a reader and a stranger for anything.
    powerful = chance.random() < 0.4
    query = chance.choice(QUERIES[1:] if powerful else QUERIES)
    who = f"Bearer {ADMIN}" if powerful else chance.choice([f"Bearer {READ}", *WRONG])
    headers["Authorization"] = who
    for name in ("X-HTTP-Method-Override", "X-Forwarded-Prefix", "X-Original-URL", "Cookie"):
        if chance.random() < 0.2:
            headers[name] = chance.choice(["POST", f"{PREFIX}/up", f"token={ADMIN}"])
    return method, f"{PREFIX}{path}{query}", body, headers


def ask(port: int, method: str, path: str, body: bytes, headers: dict[str, str]) -> int | None:
    """Return the status, None when the server hung up, as it may on what is no HTTP."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        connection.putheader("Content-Length", str(len(body)))
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        return connection.getresponse().status
    except (http.client.HTTPException, ConnectionError):
        return None
    finally:
        connection.close()


def everything(project: Project) -> object:
    files = {p: p.read_bytes() for p in project.root.rglob("*.py")}
    return files, project.statuses(), project.db.done.count_documents({}), project.runner().lock()


@pytest.mark.parametrize("server", ["gunicorn", "waitress"])
def test_hostile_requests_break_nothing_and_run_nothing(project: Project, server: str) -> None:
    project.write_inserts(1)
    chance = random.Random(20261122)
    with served(project, server, workers=2) as api:
        before = everything(project)
        answers = [ask(api.port, *hostile(chance)) for _ in range(HOSTILE_REQUESTS)]
        assert everything(project) == before
        assert (
            ask(api.port, "GET", f"{PREFIX}/status", b"", {"Authorization": f"Bearer {READ}"})
            == 200
        )
    # 501 is waitress' own word for a method or an encoding that it does not speak; 503 is the
    # health of an application with something pending.
    assert {code for code in answers if code and code >= 500} <= {501, 503}
    assert sum(code is None for code in answers) < HOSTILE_REQUESTS / 10
    assert "Traceback" not in api.log
    assert ADMIN not in api.log


SMUGGLED = f"POST {PREFIX}/up HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


def raw(head: str, body: str = "") -> bytes:
    lines = head.replace("\n", "\r\n")
    return f"{lines}\r\n\r\n{body}".encode("latin-1")


SMUGGLING = [
    raw(
        f"POST {PREFIX}/status HTTP/1.1\nHost: x\nContent-Length: 4\nTransfer-Encoding: chunked",
        f"0\r\n\r\n{SMUGGLED}",
    ),
    raw(
        f"GET {PREFIX}/status HTTP/1.1\nHost: x\nContent-Length: 0\nContent-Length: {len(SMUGGLED)}",
        SMUGGLED,
    ),
    raw(f"GET {PREFIX}/status HTTP/1.1\nHost: x\nTransfer-Encoding: xchunked", SMUGGLED),
    raw(f"POST {PREFIX}/up HTTP/1.1\nHost: x\nAuthorization : Bearer {ADMIN}"),
    raw(f"POST {PREFIX}/up HTTP/1.1\nHost: x\nX: y\n Authorization: Bearer {ADMIN}"),
    raw(f"POST {PREFIX}/up HTTP/1.1\nHost: x\nX: a\rAuthorization: Bearer {ADMIN}"),
    raw(f"POST {PREFIX}/up HTTP/1.1\nHost: x\nAuthorization_: Bearer {ADMIN}"),
    raw(
        f"POST {PREFIX}/up HTTP/1.1\nHost: x\nAuthorization: Bearer x\nAuthorization: Bearer {ADMIN}"
    ),
    raw(f"POST {PREFIX}/up HTTP/1.1\nHost: x\nContent-Length: -1"),
    raw(f"POST {PREFIX}/up HTTP/9.9\nHost: x"),
    raw(f"POST http://evil{PREFIX}/up HTTP/1.1\nHost: x"),
    raw(f"POST {PREFIX}/up HTTP/1.1\nHost: {'h' * 9000}"),
    b"\x00\x01\x02\r\n\r\n",
    SMUGGLED.encode(),
]


@pytest.mark.parametrize("server", ["gunicorn", "waitress"])
def test_smuggled_headers_run_nothing(project: Project, server: str) -> None:
    project.write_inserts(1)
    with served(project, server, workers=2) as api:
        before = everything(project)
        for content in SMUGGLING:
            with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
                connection.sendall(content)
                connection.settimeout(3)
                with contextlib.suppress(OSError):
                    answer = connection.recv(65_536)
                    assert b" 200 " not in answer.splitlines()[0] if answer else True, content
        assert everything(project) == before
    assert "Traceback" not in api.log


# --- a client that tries everything that the description allows, and what it does not


# What a server adds to the application is how it reads a request and writes an answer. Three operations, with
# values in the path, in the query and in a body, show it for the second server: the others are alike.
PATH_QUERY_AND_BODY = ("/history/{version}/events", "/history", "/")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("server", "only"),
    [("gunicorn", ()), ("waitress", PATH_QUERY_AND_BODY)],
    ids=["gunicorn", "waitress"],
)
def test_schemathesis_finds_nothing_with_every_check_on(
    project: Project, server: str, only: tuple[str, ...]
) -> None:
    project.write("1_harmless", HARMLESS)
    project.runner().up()  # There is a history to read.
    # Several files with the same code would be refused as copies.
    template = f"name = {{{{ name }}}}\nnumber = {{{{ version }}}}\n{HARMLESS}"
    (project.root / "template.jinja").write_text(template)
    (project.root / "schemathesis.toml").write_text(SCHEMATHESIS)
    (project.root / "shop_schema.py").write_text(DECLARED)
    schema = "shop_schema:collections"
    with served(project, server, MIGRATE_TEMPLATE="template.jinja", MIGRATE_SCHEMA=schema) as api:
        found = subprocess.run(
            [
                *(*tool("schemathesis"), "--no-color", "run"),
                *(f"--include-path={path}" for path in only),
                f"{api.url}{PREFIX}/openapi.json",
            ],
            cwd=project.root,
            env=project.environ(API_TOKEN=ADMIN),
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    assert found.returncode == 0, found.stdout[-6_000:] + found.stderr
    assert re.search(rf"Tested: +{len(only) or '[0-9]+'}\n", found.stdout)
    assert "No issues found" in found.stdout
    assert "Traceback" not in api.log


DECLARED = """
from flask_migrate_mongo.schema import Collection
collections = [Collection("orders")]
"""
HARMLESS = "def up(db): pass\ndef down(db): pass\n"
# On purpose: something pending is a 503 of the health.
SCHEMATHESIS = """
seed = 1
headers = { Authorization = "Bearer ${API_TOKEN}" }

[generation]
max-examples = 10
database = "none"

[checks]
enabled = true

[[operations]]
include-path = "/health"
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", 503]

[[operations]]
include-path = "/up"
checks.positive_data_acceptance.expected-statuses = ["2xx", 404, 409, 429]

# No run of these names exists.
[[operations]]
include-path = ["/runs/{run_id}/pause", "/runs/{run_id}/resume"]
warnings = false

[[operations]]
include-path = "/plan"
checks.positive_data_acceptance.expected-statuses = ["2xx", 404, 409]

[[operations]]
include-path = "/down"
checks.positive_data_acceptance.expected-statuses = ["2xx", 404, 409, 429]

[[operations]]
include-path = "/history/{version}/events"
parameters.version = "1"

[[operations]]
include-path = "/show/{version}"
parameters.version = "1"
"""


def tool(name: str) -> list[str]:
    beside = shutil.which(name, path=str(Path(sys.executable).parent))
    return [beside] if beside else [sys.executable, "-m", f"{name}.cli"]
