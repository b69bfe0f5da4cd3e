"""The start-up door: real servers with many processes, killed, stopped and started at once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask
from pymongo import MongoClient
from pymongo.monitoring import CommandListener

from flask_migrate_mongo import MongoMigrate
from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.interfaces.startup import Surroundings, serves
from flask_migrate_mongo.model.values import Actor
from tests.serving import Serving, flask_run, free_port, gunicorn, serving, waitress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.project import Project

SECONDS = 60
"""How long anything may take on a machine that has other work."""

VERSIONS = range(20261101001, 20261101011)
ON = {"MIGRATE_ON_START": "true"}
HARD = {**ON, "MIGRATE_ON_START_FAIL_HARD": "true"}
FIRST = {**ON, "MIGRATE_ON_START_MODE": "first-request"}
ALWAYS = {"MIGRATE_ON_START": "always"}

APP = """
import functools, logging, os, time
from flask import Flask
from pymongo import MongoClient
from flask_migrate_mongo import MongoMigrate

logging.basicConfig(level="INFO")
app = Flask(__name__)
migrate = MongoMigrate(app)


@functools.cache
def database():
    return MongoClient(os.environ["MONGO_URI"]).get_default_database()


@app.get("/")
def seen():
    time.sleep(0.05)
    return {
        "pid": os.getpid(),
        "applied": database().done.count_documents({}),
        "pending": len(migrate.status().survey.pending),
        "failure": app.extensions["mongo_migrate"].startup_failure,
    }


@app.cli.command("tidy")
def tidy():
    print("tidied")


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]))
"""

SLOW = """
import os, time

def up(db):
    time.sleep({seconds})
    db.done.insert_one({{"version": {version}, "pid": os.getpid(), "child": os.environ.get("WERKZEUG_RUN_MAIN")}})
"""

FAILS = """
def up(db):
    db.tries.insert_one({})
    raise ValueError("no such airport")
"""

LONG = """
import time

def up(db):
    db.tries.insert_one({})
    time.sleep(600)
"""

MANAGE = """
import click
from flask.cli import FlaskGroup


@click.group(cls=FlaskGroup, create_app=lambda: __import__("app").app)
@click.option("--config")
def cli(config):
    pass


cli()
"""

Answer = dict[str, Any]


@pytest.fixture
def shop(project: Project) -> Project:
    """A project whose application tells what it sees."""
    (project.root / "app.py").write_text(APP, encoding="utf-8")
    (project.root / "manage.py").write_text(MANAGE, encoding="utf-8")
    return project


def write_slow(shop: Project, *versions: int, seconds: float = 0.2) -> None:
    for version in versions:
        shop.write(f"{version}_slow", SLOW.format(version=version, seconds=seconds))


def python_app(port: int) -> list[str]:
    return [sys.executable, "app.py"]


def waitress_serve(port: int) -> list[str]:
    return [f"{sys.prefix}/bin/waitress-serve", f"--listen=127.0.0.1:{port}", "app:app"]


def manage_run(port: int) -> list[str]:
    return [sys.executable, "manage.py", "--config", "routes", "run", "--port", str(port)]


def on(command: Callable[[int], list[str]]) -> dict[str, str]:
    """Choose the setting with which a program migrates: `python app.py` is no known server."""
    return ALWAYS if command is python_app else ON


def flask_reloading(port: int) -> list[str]:
    return flask_run(port, "--debug")


def get(url: str) -> Answer:
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        return dict(json.load(answer))


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code


def answers(urls: Iterable[str], workers: int) -> list[Answer]:
    """Ask over many connections, from before anyone listens until every worker has answered."""
    seen: list[Answer] = []
    end = time.monotonic() + SECONDS

    def ask(url: str) -> None:
        while time.monotonic() < end and len({answer["pid"] for answer in seen}) < workers:
            try:
                seen.append(get(url))
            except OSError:
                time.sleep(0.02)

    askers = [url for url in urls for _ in range(4)]
    with ThreadPoolExecutor(len(askers)) as pool:
        list(pool.map(ask, askers))
    assert len({answer["pid"] for answer in seen}) == workers
    return seen


def eventually(holds: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def ended(server: Serving) -> int:
    return server.process.wait(SECONDS)


def assert_each_ran_once(shop: Project, versions: Iterable[int] = VERSIONS) -> None:
    done = [document["version"] for document in shop.db.done.find().sort("_id")]
    assert done == list(versions)
    assert all(shop.trail(version) == ["started", "completed"] for version in versions)
    assert not shop.runner().lock()


# --- many workers


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["each worker", "preload"])
def test_of_eight_workers_one_migrates_and_none_serves_before(
    shop: Project, options: tuple[str, ...]
) -> None:
    write_slow(shop, *VERSIONS)
    port = free_port()
    with serving(shop, gunicorn(port, "--workers", "8", *options), port, ON) as server:
        seen = answers([server.url], workers=8)
        log = server.log
    assert {(a["applied"], a["pending"], a["failure"]) for a in seen} == {(10, 0, None)}
    assert_each_ran_once(shop)
    # What every worker asked of the database after the fork went through a client of its own.
    assert "before fork" not in log
    assert "Traceback" not in log


def test_of_three_servers_at_once_one_migrates_and_none_serves_before(shop: Project) -> None:
    write_slow(shop, *VERSIONS)
    ports = [free_port() for _ in range(3)]
    one, other, third = (
        serving(shop, gunicorn(port, "--workers", "2"), port, ON) for port in ports
    )
    with one as a, other as b, third as c:
        seen = answers([a.url, b.url, c.url], workers=6)
    assert {(a["applied"], a["pending"], a["failure"]) for a in seen} == {(10, 0, None)}
    assert_each_ran_once(shop)


def test_when_the_worker_that_migrates_is_killed_another_one_takes_over(shop: Project) -> None:
    shop.write(
        "20261101001_killed",
        """
        import os, time

        def up(db):
            db.tries.insert_one({"pid": os.getpid()})
            if db.tries.count_documents({}) == 1:
                time.sleep(600)
            db.done.insert_one({"version": 20261101001})
        """,
    )
    port, environ = free_port(), {**ON, "MIGRATE_LOCK_TTL": "2"}
    with serving(shop, gunicorn(port, "--workers", "2"), port, environ) as server:
        eventually(shop.db.tries.find_one)
        first = shop.db.tries.find_one()
        assert first is not None
        os.kill(first["pid"], signal.SIGKILL)
        seen = answers([server.url], workers=2)
    assert {(a["applied"], a["pending"], a["failure"]) for a in seen} == {(1, 0, None)}
    assert first["pid"] not in {answer["pid"] for answer in seen}
    assert shop.trail(20261101001) == ["started", "interrupted", "started", "completed"]


def test_gunicorn_does_not_end_a_worker_that_migrates_longer_than_its_timeout(
    shop: Project,
) -> None:
    write_slow(shop, 20261101001, seconds=4)
    port = free_port()
    with serving(shop, gunicorn(port, "--timeout", "1"), port, ON) as server:
        server.wait_until_it_answers(SECONDS)
    assert_each_ran_once(shop, [20261101001])


# --- one server of each kind


@pytest.mark.parametrize(
    ("command", "child"),
    [
        (waitress, None),
        (waitress_serve, None),
        (flask_run, None),
        (flask_reloading, "true"),
        (python_app, None),
        (manage_run, None),
    ],
)
def test_a_server_serves_what_is_migrated(
    shop: Project, command: Callable[[int], list[str]], child: str | None
) -> None:
    write_slow(shop, *VERSIONS[:2], seconds=0)
    port = free_port()
    with serving(shop, command(port), port, {**on(command), "PORT": str(port)}) as server:
        server.wait_until_it_answers(SECONDS)
        assert get(server.url)["applied"] == 2
    assert_each_ran_once(shop, VERSIONS[:2])
    assert {document["child"] for document in shop.db.done.find()} == {child}


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "flask", "db-migrate", "status"),
        ("-m", "flask", "routes"),
        ("-m", "flask", "shell"),
        ("-m", "flask", "tidy"),
        ("-m", "flask", "--help"),
        ("manage.py", "--config", "run", "routes"),
        ("-m", "gunicorn", "--check-config", "app:app"),
        ("-m", "unittest", "app"),
        ("-c", "from app import app"),
        ("nightly.py",),
    ],
    ids=" ".join,
)
def test_what_does_not_serve_does_not_migrate(shop: Project, command: tuple[str, ...]) -> None:
    shop.write_inserts(20261101001)
    (shop.root / "nightly.py").write_text("from app import app\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *command],
        cwd=shop.root,
        env=shop.environ(**ON, FLASK_APP="app"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode in {0, 5}, done.stderr  # 5: unittest found no tests
    assert shop.db.list_collection_names() == []


def test_in_tests_it_does_not_run_unless_asked_for(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.write_inserts(20261101001)
    caplog.set_level("INFO", "flask_migrate_mongo.startup")
    project.app(MIGRATE_ON_START=True)
    assert project.statuses() == {}
    (said,) = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"Nothing is applied here: '.*' is not a known server\.", said)
    project.app(MIGRATE_ON_START="always")
    assert project.statuses() == {20261101001: "completed"}


@pytest.mark.parametrize("testing", [True, False])
def test_an_application_under_test_is_known_by_its_setting(
    *, testing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/venv/bin/gunicorn", "app:app"])
    app = Flask("shop")
    app.testing = testing
    assert serves(Surroundings.current(app)) is not testing


# --- inside a run

LOADS_THE_APPLICATION = """
import subprocess, sys

def up(db):
    subprocess.run([sys.executable, "-c", "from app import app"], check=True, timeout=60)
    db.done.insert_one({"version": 20261101001})
"""


@pytest.mark.parametrize("command", [("up",), ("up", "--dry-run")], ids=" ".join)
def test_a_process_that_a_migration_starts_does_not_wait_for_it_and_applies_nothing(
    shop: Project, command: tuple[str, ...]
) -> None:
    shop.write("20261101001_loads", LOADS_THE_APPLICATION)
    shop.write_inserts(20261101002)
    done = shop.run(*command, MIGRATE_ON_START="always")
    assert done.returncode == 0, done.stdout + done.stderr
    applied = {} if "--dry-run" in command else dict.fromkeys(VERSIONS[:2], "completed")
    assert shop.statuses() == applied


def load(project: Project) -> str:
    """Load the application in a program of its own that is told to migrate; return what it logs."""
    project.command()
    (project.root / "load.py").write_text("from app import app\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "load.py"],
        cwd=project.root,
        env=project.environ(**ALWAYS),
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
    )
    return done.stderr


def test_a_process_that_starts_after_a_run_applies_migrations_again(project: Project) -> None:
    project.write_inserts(20261101001)
    assert not project.runner().up().failures
    project.write_inserts(20261101002)
    load(project)
    assert project.statuses() == dict.fromkeys(VERSIONS[:2], "completed")


# --- what it logs


def test_what_was_applied_is_logged_where_nothing_is_set_up_for_logging(project: Project) -> None:
    project.write_inserts(*VERSIONS[:2])
    lines = [re.sub(r"[\d.]+ m?s\b", "# ms", line) for line in load(project).splitlines()]
    assert lines == [
        "20261101001 (insert): applied in # ms",
        "20261101002 (insert): applied in # ms",
        f"Applied 2 migrations to {project.db.name} at this start, in # ms.",
    ]
    assert load(project) == ""


def test_a_name_can_neither_forge_a_line_of_the_log_nor_control_a_terminal(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "flask_migrate_mongo.startup")
    name = "x\\n20261101009 (harmless): applied\\x1b[2K\\x85y"
    body = "def up(db):\n    {}\n"
    project.write("20261101001_odd", f"name = '{name}'\n" + body.format("pass"))
    always(project)
    project.write(
        "20261101002_odd",
        f"name = '{name}'\n" + body.format("raise ValueError('\\x1b[31mred')"),
    )
    always(project)
    shown = [record.getMessage() for record in caplog.records]
    odd = "20261101001 (x 20261101009 (harmless): applied\\x1b[2K y): applied in "
    assert any(line.startswith(odd) for line in shown)
    assert any("\\x1b[31mred" in line for line in shown)
    assert not any("\x1b" in line or "\x85" in line for line in shown)
    assert not any(line.startswith("20261101009") for each in shown for line in each.splitlines())


# --- failures


def test_a_failure_is_logged_once_with_its_traceback_and_the_application_serves(
    shop: Project,
) -> None:
    shop.write("20261101001_fails", FAILS)
    port = free_port()
    with serving(shop, gunicorn(port), port, ON) as server:
        server.wait_until_it_answers(SECONDS)
        answer = get(server.url)
        log = server.log
    assert answer["failure"].startswith(
        "20261101001 (fails) failed, ValueError: no such airport. Fix"
    )
    assert log.count("20261101001_fails.py") == log.count("ValueError: no such airport\n") == 1
    assert log.count("Not everything could be applied") == 1


@pytest.mark.parametrize(
    ("command", "code"), [(gunicorn, 3), (flask_run, 1), (flask_reloading, 1), (python_app, 1)]
)
def test_with_fail_hard_the_process_ends_with_the_reason(
    shop: Project, command: Callable[[int], list[str]], code: int
) -> None:
    shop.write("20261101001_fails", FAILS)
    port = free_port()
    environ = {**HARD, **on(command), "PORT": str(port)}
    with serving(shop, command(port), port, environ) as server:
        assert ended(server) == code
        log = server.log
    said = (
        "The application does not start: 20261101001 (fails) failed, ValueError: no such airport."
    )
    assert "ValueError: no such airport\n" in log
    if command is gunicorn:
        assert re.search(r"Worker failed to boot", log)
        assert re.search(rf"^{re.escape(said)}", log, re.MULTILINE)
    else:
        assert log.splitlines()[-1].startswith(said)


def test_with_fail_hard_a_preloading_gunicorn_ends_before_it_forks(shop: Project) -> None:
    shop.write("20261101001_fails", FAILS)
    port = free_port()
    with serving(shop, gunicorn(port, "--preload"), port, HARD) as server:
        assert ended(server) == 3
        assert server.log.splitlines()[-1].startswith("The application does not start: 2026")
    assert shop.db.tries.count_documents({}) == 1


def failure_of(app: Flask) -> str | None:
    return app_state.of(app).startup_failure


def always(project: Project, mongo: object = None, **settings: object) -> Flask:
    return project.app(mongo, MIGRATE_ON_START="always", **settings)


def test_a_refused_plan_is_a_failure(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    project.write("20261101001_broken", "def up(db:\n")
    assert "20261101001_broken.py:1" in (failure_of(always(project)) or "")
    assert len(caplog.records) == 1


def test_a_server_that_does_not_answer_is_a_failure(project: Project) -> None:
    project.write_inserts(20261101001)
    uri = f"mongodb://127.0.0.1:{free_port()}/shop?serverSelectionTimeoutMS=100"
    with MongoClient[Answer](uri) as client:
        app = always(project, client.get_default_database())
    assert (failure_of(app) or "").startswith("The database does not answer: ")


def test_a_run_that_lost_its_lock_is_a_failure(project: Project) -> None:
    project.write(
        "20261101001_unlocks",
        """
        def up(db, ctx):
            db.migration_locks.delete_many({})
            ctx.ensure_lease()
        """,
    )
    assert (failure_of(always(project)) or "").startswith("This run lost the lock: ")


def test_whatever_else_goes_wrong_is_a_failure(project: Project) -> None:
    app = always(project, lambda: 1 / 0)
    assert (failure_of(app) or "") == "ZeroDivisionError: division by zero"


def test_with_fail_hard_nothing_but_the_exit_leaves_init_app(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write("20261101001_broken", "def up(db:\n")
    project.write("20261101002_broken", "def up(db:\n")
    with pytest.raises(SystemExit) as caught:
        always(project, MIGRATE_ON_START_FAIL_HARD=True)
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("The application does not start: 2 problems in the migrations folder:")
    assert "20261101002_broken.py" in line


def test_the_health_check_is_closed_like_the_rest_of_the_api_until_that_is_opened(
    project: Project,
) -> None:
    project.write_inserts(20261101001)
    closed = always(project).test_client().get("/api/migrations/health")
    assert (closed.status_code, closed.get_json()["code"]) == (403, "api-closed")
    opened = always(project, MIGRATE_API_TOKEN="a-token-0123456789")
    assert opened.test_client().get("/api/migrations/health").status_code == 200


# --- waiting


def test_a_lock_that_is_still_held_at_the_deadline_is_a_failure(project: Project) -> None:
    project.write_inserts(20261101001)
    with project.runner().lease.hold(Actor.current("held")):
        app = always(project, MIGRATE_ON_START_WAIT=0.3)
    said = failure_of(app) or ""
    assert said.startswith("Another process still migrates after 0.3 s (MIGRATE_ON_START_WAIT). ")
    assert "(held) holds the lock since " in said
    assert project.statuses() == {}


def test_who_waited_takes_no_lock_when_nothing_is_pending_any_more(project: Project) -> None:
    write_slow(project, 20261101001, seconds=1)
    other = threading.Thread(target=project.runner().up)
    other.start()
    eventually(lambda: project.statuses() == {20261101001: "running"})
    app = always(project)
    assert project.statuses() == {20261101001: "completed"}
    other.join()
    lock = project.db.migration_locks.find_one() or {}
    assert (failure_of(app), lock["fence"]) == (None, 1)


def test_what_failed_in_the_run_that_was_waited_for_is_not_tried_again(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    gate = project.root / "gate"
    waits = f"while not Path({str(gate)!r}).exists(): time.sleep(0.02)"
    source = FAILS.replace("raise", f"{waits}\n    raise")
    project.write("20261101001_fails", f"import time\nfrom pathlib import Path\n{source}")
    other = threading.Thread(target=project.runner().up)
    other.start()
    eventually(project.db.tries.find_one)

    def open_when_waited_for() -> None:
        try:
            eventually(lambda: "Waiting for the run" in caplog.text)
        finally:
            gate.touch()

    opener = threading.Thread(target=open_when_waited_for)
    opener.start()
    app = always(project)
    opener.join()
    other.join()
    assert project.db.tries.count_documents({}) == 1
    assert (failure_of(app) or "").startswith(
        "20261101001 (fails) failed, in another process: no such airport. Fix it"
    )
    # A later start does try again.
    assert "ValueError: no such airport" in (failure_of(always(project)) or "")


def test_who_waited_runs_what_the_other_run_left(project: Project) -> None:
    project.write(
        "20261101001_fails_once",
        """
        def up(db):
            db.tries.insert_one({})
            if db.tries.count_documents({}) == 1:
                raise ValueError
        """,
    )
    assert project.runner().up().failures
    lease = project.runner().lease.hold(Actor.current("held"))
    lease.__enter__()
    release = threading.Timer(0.5, lease.__exit__, (None, None, None))
    release.start()
    app = always(project)
    release.join()
    assert failure_of(app) is None
    assert project.statuses() == {20261101001: "completed"}


# --- what it costs


class Commands(CommandListener):
    """Notes the name of every command."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: Any) -> None:
        self.names.append(event.command_name)

    def succeeded(self, event: Any) -> None:
        pass

    def failed(self, event: Any) -> None:
        pass


def test_with_nothing_pending_it_asks_at_most_twice_and_takes_no_lock(project: Project) -> None:
    project.write_inserts(*VERSIONS)
    project.write("20261101099_last", "transactional = True\n\ndef up(db):\n    pass\n")
    project.runner().up()
    project.db.migration_locks.drop()
    heard = Commands()
    with MongoClient[Answer](project.uri, event_listeners=[heard]) as client:
        app = always(project, client.get_default_database())
    assert failure_of(app) is None
    assert 1 <= len(heard.names) <= 2
    assert "migration_locks" not in project.db.list_collection_names()


def test_the_client_of_ours_is_closed_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONGO_URI", project.uri)
    closed: list[MongoClient[Answer]] = []
    closes = MongoClient.close

    def close(client: MongoClient[Answer]) -> None:
        closed.append(client)
        closes(client)

    monkeypatch.setattr(MongoClient, "close", close)
    project.write_inserts(20261101001)
    app = Flask("shop", root_path=str(project.root))
    app.config["MIGRATE_ON_START"] = "always"
    MongoMigrate(app)
    assert project.statuses() == {20261101001: "completed"}
    assert len(closed) == 1


# --- before the first request


def test_of_parallel_first_requests_one_migrates_and_the_others_wait(shop: Project) -> None:
    write_slow(shop, *VERSIONS[:3], seconds=0.3)
    port = free_port()
    command = [*waitress(port)[:-1], "--threads=8", "app:app"]
    with serving(shop, command, port, FIRST) as server:
        seen = []
        with ThreadPoolExecutor(8) as pool:
            eventually(lambda: "Serving on" in server.log)
            assert shop.statuses() == {}
            seen = list(pool.map(get, [server.url] * 8))
        assert "Waiting for the run" not in server.log
    assert {(a["applied"], a["failure"]) for a in seen} == {(3, None)}
    assert_each_ran_once(shop, VERSIONS[:3])


def test_the_first_request_migrates_before_the_applications_own_hooks(project: Project) -> None:
    project.write_inserts(20261101001)
    app = Flask("shop", root_path=str(project.root))
    seen: list[dict[int, str]] = []
    app.before_request(lambda: seen.append(project.statuses()))
    app.config.update(MIGRATE_ON_START="always", MIGRATE_ON_START_MODE="first-request")
    MongoMigrate(app, project.db)
    assert project.statuses() == {}
    assert app.test_client().get("/").status_code == 404
    assert seen == [{20261101001: "completed"}]


def test_a_failure_before_the_first_request_is_logged_once_and_served_all_the_same(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.write("20261101001_fails", FAILS)
    app = always(project, MIGRATE_ON_START_MODE="first-request")
    assert failure_of(app) is None
    assert [app.test_client().get("/").status_code for _ in range(3)] == [404, 404, 404]
    assert len(caplog.records) == project.db.tries.count_documents({}) == 1
    assert "no such airport" in (failure_of(app) or "")


def test_with_fail_hard_no_request_is_served_after_a_failure(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.write("20261101001_fails", FAILS)
    app = always(project, MIGRATE_ON_START_MODE="first-request", MIGRATE_ON_START_FAIL_HARD=True)
    refused = [app.test_client().get("/") for _ in range(3)]
    assert [answer.status_code for answer in refused] == [503, 503, 503]
    assert refused[0].headers["Retry-After"] == "10"
    assert "no such airport" not in refused[0].text
    assert len(caplog.records) == project.db.tries.count_documents({}) == 1


# --- signals


def stops_with(shop: Project, command: list[str], port: int) -> tuple[int, str]:
    """Send SIGTERM while it migrates; return how it ended, and its log."""
    shop.write("20261101001_long", LONG)
    with serving(shop, command, port, {**ALWAYS, "PORT": str(port)}) as server:
        eventually(shop.db.tries.find_one)
        server.process.terminate()
        code = ended(server)
        return code, server.log


@pytest.mark.parametrize(("command", "code"), [(gunicorn, 0), (python_app, -signal.SIGTERM)])
def test_sigterm_stops_the_run_and_then_the_process(
    shop: Project, command: Callable[[int], list[str]], code: int
) -> None:
    port = free_port()
    ended_with, log = stops_with(shop, command(port), port)
    assert ended_with == code, log
    assert "Stopped by SIGTERM" in log
    assert shop.statuses() == {20261101001: "failed"}
    assert shop.runner().lock() is None


def test_sigterm_during_the_first_request_refuses_it_and_ends_the_process(shop: Project) -> None:
    shop.write("20261101001_long", LONG)
    port = free_port()
    with serving(shop, gunicorn(port), port, FIRST) as server, ThreadPoolExecutor(1) as pool:
        eventually(lambda: "Booting worker" in server.log)
        first = pool.submit(status_of, server.url)
        eventually(shop.db.tries.find_one)
        server.process.terminate()
        assert (first.result(), ended(server)) == (503, 0)
    assert shop.statuses() == {20261101001: "failed"}
    assert shop.runner().lock() is None


def test_sigterm_ends_a_process_that_waits(shop: Project) -> None:
    shop.write_inserts(20261101001)
    port = free_port()
    with (
        shop.runner().lease.hold(Actor.current("held")),
        serving(shop, gunicorn(port), port, ON) as server,
    ):
        eventually(lambda: "Waiting for the run" in server.log)
        server.process.terminate()
        assert ended(server) == 0
        assert "Stopped by SIGTERM" in server.log
    assert shop.statuses() == {}


def test_a_process_that_ignores_the_signal_ends_all_the_same(shop: Project) -> None:
    deaf = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{APP}"
    (shop.root / "app.py").write_text(deaf, encoding="utf-8")
    port = free_port()
    ended_with, log = stops_with(shop, python_app(port), port)
    assert ended_with == 128 + signal.SIGTERM, log


def test_the_handlers_of_the_server_are_put_back(project: Project) -> None:
    project.write_inserts(20261101001)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    always(project)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
