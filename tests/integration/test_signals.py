"""Signals: who gets which, when, and what a receiver cannot do."""

from __future__ import annotations

import contextlib
import http.server
import json
import logging
import os
import re
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
from flask import current_app

from flask_migrate_mongo import MongoMigrate, signals
from flask_migrate_mongo.interfaces import startup
from tests.project import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blinker import Signal
    from flask import Flask

    from tests.project import Project

ALL: dict[str, Signal] = {name: getattr(signals, name) for name in signals.__all__}
FAILS = "def up(db): raise ValueError('no such city')\n"

Received = list[tuple[str, dict[str, Any]]]


@contextlib.contextmanager
def received(app: Flask) -> Iterator[Received]:
    """Collect the signals of an application, with their arguments."""
    found: Received = []
    with contextlib.ExitStack() as stack:
        for name, each in ALL.items():

            def receive(sender: object, *, _name: str = name, **arguments: object) -> None:
                assert sender is app
                assert current_app._get_current_object() is app  # type: ignore[attr-defined]
                found.append((_name, arguments))

            stack.enter_context(each.connected_to(receive, app))
        yield found


def names(found: Received) -> list[str]:
    return [name for name, _ in found]


def test_a_run_sends_each_signal_with_its_arguments(project: Project) -> None:
    project.write_inserts(1)
    project.write("2_fails", FAILS)
    app = project.app()
    with received(app) as found:
        report = MongoMigrate().up(app)
    assert names(found) == [
        "run_started",
        "migration_started",
        "migration_finished",
        "migration_started",
        "migration_failed",
        "run_finished",
    ]
    assert {arguments["run_id"] for _, arguments in found} == {report.run_id}
    assert [step.version for step in found[0][1]["plan"].steps] == [1, 2]
    assert found[1][1]["step"].version == 1
    assert found[2][1]["outcome"] == report.outcomes[0]
    assert found[4][1]["outcome"].error.message == "no such city"
    assert found[5][1]["report"] is report


def test_a_rollback_sends_them_too(project: Project) -> None:
    project.write_inserts(1)
    app = project.app()
    MongoMigrate().up(app)
    with received(app) as found:
        MongoMigrate().down(app)
    assert names(found)[2] == "migration_finished"
    assert found[2][1]["outcome"].state.value == "rolled-back"


def test_the_end_of_a_run_is_sent_when_its_lock_is_free_and_its_start_when_it_is_held(
    project: Project,
) -> None:
    project.write_inserts(1)
    app = project.app()
    locked: list[bool] = []

    def look(sender: Flask, **_: object) -> None:
        locked.append(MongoMigrate().lock_status(sender).locked)

    with (
        signals.run_started.connected_to(look, app),
        signals.run_finished.connected_to(look, app),
    ):
        MongoMigrate().up(app)
    assert locked == [True, False]


@pytest.mark.parametrize("arguments", [("up", "--dry-run"), ("rehearse",), ("status",), ("plan",)])
def test_what_changes_nothing_sends_nothing(project: Project, arguments: tuple[str, ...]) -> None:
    project.write_inserts(1)
    app = project.app()
    with received(app) as found:
        result = app.test_cli_runner().invoke(args=["db-migrate", *arguments])
    assert "1" in result.stdout
    assert found == []


def test_a_run_with_nothing_to_do_or_that_is_refused_sends_nothing(project: Project) -> None:
    project.write_inserts(1)
    app = project.app()
    MongoMigrate().up(app)
    runner = project.runner()
    with received(app) as found:
        MongoMigrate().up(app)
        project.write_inserts(2)
        with runner.lease.hold(runner.actor("a test")):
            app.test_cli_runner().invoke(args=["db-migrate", "up"])
    assert found == []


def test_a_step_that_did_not_start_is_not_called_failed(project: Project) -> None:
    project.write_inserts(1, 2)
    app = project.app()

    def stop(_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with signals.migration_finished.connected_to(stop, app), received(app) as found:
        report = MongoMigrate().up(app)
    assert [outcome.state.value for outcome in report.outcomes] == ["applied", "not-run"]
    assert names(found) == [
        "run_started",
        "migration_started",
        "migration_finished",
        "run_finished",
    ]
    assert found[-1][1]["report"].failure.code == "stopped"


def test_a_migration_that_loses_the_lock_is_called_failed(project: Project) -> None:
    project.write(
        "1_loses",
        "def up(db, ctx):\n    db.migration_locks.delete_many({})\n    ctx.ensure_lease()\n",
    )
    app = project.app()
    with received(app) as found:
        MongoMigrate().up(app)
    assert names(found)[2:] == ["migration_failed", "run_finished"]
    assert found[-1][1]["report"].failure.code == "lease-lost"


def test_a_forced_release_is_sent(project: Project) -> None:
    app, runner = project.app(), project.runner()
    with received(app) as found:
        MongoMigrate().force_unlock(app)
        with runner.lease.hold(runner.actor("a test")):
            MongoMigrate().force_unlock(app, confirm=True)
    assert names(found) == ["lock_forced"]
    assert found[0][1]["lock"].reason == "a test"


# --- all interfaces


def test_the_command_line_the_api_and_the_start_send_them(project: Project) -> None:
    token = "t" * 32
    app = project.app(MIGRATE_API_TOKEN=token, MIGRATE_ON_START_WAIT=5)
    project.write_inserts(1)
    with received(app) as found:
        assert app.test_cli_runner().invoke(args=["db-migrate", "up"]).exit_code == 0
    assert len(found) == 4
    project.write_inserts(2)
    with received(app) as found:
        headers = {"Authorization": f"Bearer {token}"}
        assert app.test_client().post("/api/migrations/up", headers=headers).status_code == 200
    assert len(found) == 4
    project.write_inserts(3)
    with received(app) as found:
        startup._migrate_now(app.extensions["mongo_migrate"])
    assert len(found) == 4
    assert project.statuses() == dict.fromkeys((1, 2, 3), "completed")


# --- receivers that fail


@pytest.mark.parametrize("raised", [ZeroDivisionError, SystemExit])
def test_a_receiver_that_raises_is_logged_and_changes_nothing(
    project: Project, caplog: pytest.LogCaptureFixture, raised: type[BaseException]
) -> None:
    project.write_inserts(1)
    app = project.app()

    def fails(_: object, **__: object) -> None:
        raise raised

    with contextlib.ExitStack() as stack:
        for each in ALL.values():
            stack.enter_context(each.connected_to(fails, app))
        found = stack.enter_context(received(app))
        with caplog.at_level(logging.ERROR):
            assert MongoMigrate().up(app).failure is None
    assert project.statuses() == {1: "completed"}
    assert len(found) == 4
    failures = [r for r in caplog.records if r.name == "flask_migrate_mongo.signals"]
    assert len(failures) == 4
    assert all(r.exc_info and r.exc_info[0] is raised for r in failures)


def test_a_coroutine_without_support_for_it_is_logged_too(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.write_inserts(1)
    app = project.app()

    async def receive(_: object, **__: object) -> None:
        pass

    with signals.run_started.connected_to(receive, app):
        assert MongoMigrate().up(app).failure is None
    assert "Install Flask with the 'async' extra" in caplog.text


def test_a_receiver_writes_outside_of_the_transaction_of_a_step(project: Project) -> None:
    project.write(
        "1_fails", "transactional = True\n\ndef up(db):\n    db.done.insert_one({})\n    1 / 0\n"
    )
    app = project.app()

    def note(_: object, **__: object) -> None:
        project.db.notes.insert_one({})

    with signals.migration_started.connected_to(note, app):
        MongoMigrate().up(app)
    assert project.db.notes.count_documents({}) == 1
    assert project.db.done.count_documents({}) == 0


def test_a_muted_signal_is_not_sent(project: Project) -> None:
    project.write_inserts(1)
    app = project.app()
    with received(app) as found, signals.run_started.muted():
        MongoMigrate().up(app)
    assert "run_started" not in names(found)


# --- the page


def test_the_page_names_every_signal_with_its_arguments(project: Project) -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \|", (ROOT / "docs" / "monitoring.md").read_text(), re.MULTILINE
    )
    documented = {name: set(re.findall(r"`(\w+)`", arguments)) for name, arguments in rows}
    assert documented.keys() == ALL.keys()
    project.write_inserts(1)
    project.write("2_fails", FAILS)
    app, runner = project.app(), project.runner()
    with received(app) as found:
        MongoMigrate().up(app)
        with runner.lease.hold(runner.actor("a test")):
            MongoMigrate().force_unlock(app, confirm=True)
    assert {name: set(arguments) for name, arguments in found} == documented


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """An HTTP server that takes whatever it is sent, and its address."""
    taken: list[tuple[str, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        do_PUT = do_POST  # noqa: N815  (the name of the method)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", taken
        server.shutdown()


def test_the_recipes_of_the_page_reach_slack_and_prometheus(
    project: Project, receiver: tuple[str, list[tuple[str, bytes]]]
) -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    for name, source in re.findall(
        r"^```python file=(\S+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE
    ):
        (project.root / name).write_text(source, encoding="utf-8")
    project.write_inserts(1)
    project.write("2_fails", FAILS)
    address, taken = receiver
    done = project.run("up", SLACK_WEBHOOK_URL=f"http://{address}/slack", PUSHGATEWAY=address)
    assert done.returncode == 1
    assert "receiver" not in done.stderr
    messages = [json.loads(body)["text"] for path, body in taken if path == "/slack"]
    assert sorted(messages) == [
        ":white_check_mark: app: up 1",
        ":x: app: 2 fails failed. ValueError: no such city",
    ]
    (pushed,) = [body.decode() for path, body in taken if path == "/metrics/job/migrations/app/app"]
    assert "\nmigrations_last_run_failed 1.0\n" in pushed
    assert "\nmigrations_last_run_steps 1.0\n" in pushed
