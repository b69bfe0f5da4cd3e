"""Asynchronous runs through the API: accepted, followed, cancelled, survived."""

from __future__ import annotations

import json
import os
import signal
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.interfaces.rest.async_runs import import_path
from tests.integration.test_lease import until
from tests.integration.test_runs import FIRST, SECOND, gate, importable
from tests.interfaces.test_rest import PREFIX, READ, RUN, api
from tests.interfaces.test_rest_http import CURL, curl, needs_curl, served
from tests.serving import flask_run, free_port, serving

if TYPE_CHECKING:
    from pathlib import Path

    from tests.interfaces.test_rest import Api
    from tests.project import Project

ASYNC = {"Prefer": "respond-async"}


@pytest.fixture(autouse=True)
def _importable(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    importable(project, monkeypatch)


def accept(asked: Api, path: str = "/up") -> dict[str, Any]:
    """Ask for a run, and return its document when it is over."""
    accepted = asked("POST", path, headers=ASYNC)
    assert accepted.status_code == 202, accepted.get_data(as_text=True)
    assert accepted.headers["Preference-Applied"] == "respond-async"
    location = accepted.headers["Location"]
    assert location == f"{PREFIX}/runs/{accepted.get_json()['runId']}"
    until(lambda: asked("GET", location).get_json()["report"] is not None, seconds=30)
    document: dict[str, Any] = asked("GET", location).get_json()
    return document


def test_a_run_is_accepted_and_its_report_is_found_at_its_location(project: Project) -> None:
    project.write_inserts(FIRST, SECOND)
    run = accept(api(project, RUN), "/up?continueOnError=true")
    assert (run["state"], run["detached"], run["error"]) == ("succeeded", True, None)
    assert [step["state"] for step in run["report"]["steps"]] == ["applied", "applied"]
    assert project.record(FIRST)["metadata"]["pid"] != os.getpid()
    undone = accept(api(project, RUN), "/down?steps=2")
    assert [step["state"] for step in undone["report"]["steps"]] == ["rolled-back"] * 2


def test_a_dry_run_that_nobody_waits_for_leaves_nothing(project: Project) -> None:
    project.write_inserts(FIRST)
    run = accept(api(project, RUN), "/up?dryRun=true")
    assert run["state"] == "succeeded"
    assert run["report"]["steps"][0]["verdict"] == "would succeed"
    assert project.db.done.count_documents({}) == 0


@pytest.mark.parametrize("preference", ["wait=10", "respond-asynchronously", ""])
def test_without_the_preference_the_answer_is_the_run(project: Project, preference: str) -> None:
    project.write_inserts(FIRST)
    answer = api(project, RUN)("POST", "/up", headers={"Prefer": preference})
    assert answer.status_code == 200
    assert answer.get_json()["steps"][0]["state"] == "applied"


def test_who_may_only_read_can_follow_a_run_and_neither_start_nor_cancel_it(
    project: Project,
) -> None:
    project.write_inserts(FIRST)
    reader = api(project, READ)
    assert reader("POST", "/up", headers=ASYNC).status_code == 403
    run = accept(api(project, RUN))
    assert reader("GET", f"/runs/{run['runId']}").status_code == 200
    assert reader("GET", f"/runs/{run['runId']}/events").status_code == 200
    assert reader("POST", f"/runs/{run['runId']}/cancel").status_code == 403


def test_a_run_that_is_not_known_is_not_found(project: Project) -> None:
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel")):
        for name in ("0" * 32, "none", "$ne"):
            answer = api(project, RUN)(method, f"/runs/{name}{path}")
            assert answer.status_code == 404
            assert answer.get_json()["code"] in {"unknown-run", "not-found"}


def test_the_stream_tells_everything_once_and_goes_on_where_a_reader_left(
    project: Project,
) -> None:
    project.write_inserts(FIRST)
    asked = api(project, RUN)
    run = accept(asked)
    path = f"/runs/{run['runId']}/events"
    whole = asked("GET", path)
    assert whole.mimetype == "text/event-stream"
    told = told_by(whole.get_data(as_text=True))
    assert [event["event"] for event in told] == ["planned", "started", "ended", "succeeded"]
    assert told[1]["current"] == {"version": str(FIRST), "name": "insert"}
    assert told[2]["step"]["state"] == "applied"
    rest_of_it = asked("GET", path, headers={"Last-Event-ID": "3"})
    assert [e["sequence"] for e in told_by(rest_of_it.get_data(as_text=True))] == [4]


def told_by(stream: str) -> list[dict[str, Any]]:
    blocks = [
        dict(line.split(": ", 1) for line in b.splitlines()) for b in stream.split("\n\n") if b
    ]
    for block in blocks:
        data = json.loads(block["data"])
        assert (block["id"], block["event"]) == (str(data["sequence"]), data["event"])
    return [json.loads(block["data"]) for block in blocks]


def test_a_cancelled_run_stops_before_its_next_migration(project: Project, tmp_path: Path) -> None:
    mark, go = gate(project, tmp_path)
    project.write_inserts(SECOND)
    asked = api(project, RUN)
    run_id = asked("POST", "/up", headers=ASYNC).get_json()["runId"]
    until(mark.exists, seconds=30)
    cancelled = asked("POST", f"/runs/{run_id}/cancel")
    assert cancelled.get_json()["cancelRequested"] is True
    go.touch()
    until(lambda: asked("GET", f"/runs/{run_id}").get_json()["report"] is not None, seconds=30)
    assert asked("GET", f"/runs/{run_id}").get_json()["state"] == "cancelled"
    assert project.statuses() == {FIRST: "completed"}
    assert asked("POST", f"/runs/{run_id}/cancel").get_json()["state"] == "cancelled"


@needs_curl
@pytest.mark.parametrize("server", ["gunicorn", "waitress"])
def test_a_run_outlives_the_web_server_that_started_it(
    project: Project, tmp_path: Path, server: str
) -> None:
    assert CURL is not None
    mark, go = gate(project, tmp_path)
    with served(project, server) as web:
        status, run = curl(web, "/up", "-X", "POST", "-H", "Prefer: respond-async", token=RUN)
        assert status == 202
        until(mark.exists, seconds=30)
        os.killpg(web.process.pid, signal.SIGKILL)
        web.process.wait()
    go.touch()
    with served(project, server) as web:

        def seen() -> dict[str, Any]:
            document: dict[str, Any] = curl(web, f"/runs/{run['runId']}", token=READ)[1]
            return document

        until(lambda: seen()["report"] is not None, seconds=30)
        assert seen()["state"] == "succeeded"
    assert project.statuses() == {FIRST: "completed"}
    assert project.db.people.count_documents({}) == 1


def test_a_backfill_is_followed_and_cancelled_after_the_batch_in_hand(project: Project) -> None:
    project.db.people.insert_many([{"_id": n} for n in range(300)])
    project.write(
        f"{FIRST}_backfill",
        """
        import time

        def slow(doc):
            time.sleep(0.01)
            return {"$inc": {"n": 1}}

        def up(db, ctx):
            ctx.backfill("people", slow, batch_size=10)
        """,
    )
    asked = api(project, RUN)
    run_id = asked("POST", "/up", headers=ASYNC).get_json()["runId"]

    def seen() -> dict[str, Any]:
        document: dict[str, Any] = asked("GET", f"/runs/{run_id}").get_json()
        return document

    until(lambda: "progress" in (seen()["current"] or {}), seconds=30)
    progress = seen()["current"]["progress"]
    assert (progress["collection"], progress["total"]) == ("people", 300)
    assert 0 < progress["done"] < 300
    assert asked("POST", f"/runs/{run_id}/cancel").status_code == 200
    until(lambda: seen()["report"] is not None, seconds=30)
    assert seen()["state"] == "cancelled"
    assert 0 < project.db.people.count_documents({"n": 1}) < 300
    assert "cancelled" in project.trail(FIRST)
    assert asked("POST", "/up").status_code == 200
    assert project.db.people.count_documents({"n": 1}) == 300


# --- what the new process loads

FACTORY = """
from flask import Flask
from flask_migrate_mongo import MongoMigrate

def web(token):
    app = Flask(__name__)
    app.config["MIGRATE_API_TOKEN"] = token
    MongoMigrate(app)
    return app
"""


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Make the module that the project's applications name as theirs."""
    monkeypatch.delenv("MIGRATE_APP")
    module = ModuleType("shop")
    monkeypatch.setitem(sys.modules, "shop", module)
    return module


def path_of(project: Project, **settings: object) -> str | None:
    return import_path(app_state.of(project.app(**settings)))


def test_a_module_with_this_very_application_is_loaded(project: Project, shop: ModuleType) -> None:
    app = project.app()
    vars(shop).update(app=project.app(), web=app)
    assert import_path(app_state.of(app)) == "shop:web"


def test_the_application_may_be_in_another_module(
    project: Project, shop: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, wsgi = project.app(), ModuleType("wsgi")
    monkeypatch.setitem(sys.modules, "wsgi", wsgi)
    vars(wsgi)["application"] = app
    vars(shop)["create_app"] = project.app
    assert import_path(app_state.of(app)) == "wsgi:application"


def test_the_main_program_is_loaded_by_its_file(
    project: Project, shop: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, main = project.app(), ModuleType("__main__")
    vars(main).update(app=app, __file__="/shop/serve.py")
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert import_path(app_state.of(app)) == "/shop/serve.py:app"


def test_else_the_settings_flask_or_a_factory_name_the_application(
    project: Project, shop: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert path_of(project) is None
    vars(shop)["create_app"] = project.app
    assert path_of(project) == "shop"
    assert path_of(project, TESTING=True) is None
    monkeypatch.setenv("FLASK_APP", "shop:create_app('web')")
    assert path_of(project) == "shop:create_app('web')"
    assert path_of(project, MIGRATE_APP="shop:other") == "shop:other"


@needs_curl
def test_the_application_of_flask_run_is_loaded_again(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MIGRATE_APP")
    project.write_inserts(FIRST)
    (tmp_path / "factories.py").write_text(FACTORY, encoding="utf-8")
    port = free_port()
    command = flask_run(port)
    command[command.index("app")] = "factories:web('" + RUN + "')"
    with serving(project, command, port) as web:
        web.wait_until_it_answers()
        run = curl(web, "/up", "-X", "POST", "-H", "Prefer: respond-async", token=RUN)[1]
        assert run["detached"] is True
        until(lambda: project.statuses() == {FIRST: "completed"}, seconds=30)
