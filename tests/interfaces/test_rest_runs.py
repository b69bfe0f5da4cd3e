"""Asynchronous runs through the API: accepted, followed, cancelled, survived."""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.interfaces.rest import views
from flask_migrate_mongo.interfaces.rest.async_runs import import_path
from flask_migrate_mongo.model.values import Actor, Direction
from tests.integration.test_runs import FIRST, SECOND, gate, importable, store_of
from tests.interfaces.test_rest import PREFIX, READ, RUN, api
from tests.interfaces.test_rest_http import CURL, curl, needs_curl, served
from tests.serving import flask_run, free_port, serving
from tests.waiting import until

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
    until(lambda: asked("GET", location).get_json()["report"] is not None)
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


def test_the_newest_runs_are_listed_without_their_results(project: Project) -> None:
    project.write_inserts(FIRST)
    asked = api(project, RUN)
    dry = accept(asked, "/up?dryRun=true")
    real = accept(asked)
    store_of(project).create("f" * 32, Direction.UP, {}, {"directory": "/", "collection": "others"})
    listed = asked("GET", "/runs").get_json()["runs"]
    results = {"steps", "report", "error"}
    assert listed == [
        {key: value for key, value in run.items() if key not in results} for run in (real, dry)
    ]
    assert [run["dryRun"] for run in listed] == [False, True]
    assert asked("GET", "/runs?limit=1").get_json()["runs"] == listed[:1]
    assert asked("GET", "/runs?limit=101").status_code == 400


def test_a_listed_run_whose_process_died_is_lost(project: Project) -> None:
    of = {"directory": str(project.migrations), "collection": "migrations"}
    store_of(project).create("a" * 32, Direction.UP, {}, of)
    asked = api(project, READ)
    assert [run["state"] for run in asked("GET", "/runs").get_json()["runs"]] == ["queued"]
    long_ago = project.runner().server.now() - timedelta(minutes=1)
    project.db.migration_runs.update_many({}, {"$set": {"updatedAt": long_ago}})
    assert [run["state"] for run in asked("GET", "/runs").get_json()["runs"]] == ["lost"]


def test_the_plan_of_each_direction_names_its_steps_and_its_database(project: Project) -> None:
    project.write_inserts(FIRST, SECOND)
    asked = api(project, RUN)
    plan = asked("GET", "/plan").get_json()
    assert (plan["database"]["name"], plan["direction"]) == (project.db.name, "up")
    assert [step["version"] for step in plan["steps"]] == [str(FIRST), str(SECOND)]
    assert [step["version"] for step in asked("GET", "/plan?steps=1").get_json()["steps"]] == [
        str(FIRST)
    ]
    assert asked("GET", "/plan?direction=down").get_json()["steps"] == []
    asked("POST", "/up")
    plan = asked("GET", "/plan?direction=down&batch=true").get_json()
    assert plan["direction"] == "down"
    assert [step["version"] for step in plan["steps"]] == [str(SECOND), str(FIRST)]
    assert plan["steps"][0]["collections"] == [{"collection": "done", "documents": 2}]
    refused = asked("GET", "/plan?direction=down&steps=3")
    assert (refused.status_code, refused.get_json()["code"]) == (409, "too-many-steps")


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


def states(asked: Api, run_id: str) -> list[str]:
    return [step["state"] for step in asked("GET", f"/runs/{run_id}").get_json()["steps"]]


def test_a_cancelled_run_stops_before_its_next_migration(project: Project, tmp_path: Path) -> None:
    mark, go = gate(project, tmp_path)
    project.write_inserts(SECOND)
    asked = api(project, RUN)
    run_id = asked("POST", "/up", headers=ASYNC).get_json()["runId"]
    until(mark.exists)
    assert states(asked, run_id) == ["running", "waiting"]
    cancelled = asked("POST", f"/runs/{run_id}/cancel")
    assert cancelled.get_json()["cancelRequested"] is True
    go.touch()
    until(lambda: asked("GET", f"/runs/{run_id}").get_json()["report"] is not None)
    assert asked("GET", f"/runs/{run_id}").get_json()["state"] == "cancelled"
    assert states(asked, run_id) == ["applied", "not-run"]
    assert project.statuses() == {FIRST: "completed"}
    assert asked("POST", f"/runs/{run_id}/cancel").get_json()["state"] == "cancelled"


def test_a_request_to_cancel_a_run_that_is_over_leaves_it_as_it_is(project: Project) -> None:
    project.write_inserts(FIRST)
    asked = api(project, RUN)
    run = accept(asked)
    assert asked("POST", f"/runs/{run['runId']}/cancel").get_json() == run


def test_a_lock_that_another_process_holds_is_said_at_once_unless_the_run_may_wait(
    project: Project,
) -> None:
    project.write_inserts(FIRST)
    asked = api(project, RUN)
    with project.runner().lease.hold(Actor.current("a test")):
        refused = asked("POST", "/up?wait=0", headers=ASYNC)
        assert (refused.status_code, refused.get_json()["code"]) == (409, "lock-held")
        assert refused.get_json()["lock"]["reason"] == "a test"
        assert 1 <= int(refused.headers["Retry-After"]) <= 30
        assert project.db.migration_runs.count_documents({}) == 0
        tried = accept(asked, "/up?dryRun=true")
        waiting = asked("POST", "/up?wait=60", headers=ASYNC)
        assert (waiting.status_code, waiting.get_json()["state"]) == (202, "waiting")
    path = waiting.headers["Location"]
    until(lambda: asked("GET", path).get_json()["report"] is not None)
    assert (tried["state"], asked("GET", path).get_json()["state"]) == ("succeeded",) * 2
    assert project.statuses() == {FIRST: "completed"}


def test_an_expired_lock_keeps_no_run_out(project: Project) -> None:
    project.write_inserts(FIRST)
    with project.runner().lease.hold(Actor.current("a test")):
        past = project.runner().server.now() - timedelta(seconds=1)
        project.db.migration_locks.update_one({}, {"$set": {"expiresAt": past}})
        assert accept(api(project, RUN))["state"] == "succeeded"


def test_the_setting_decides_whether_a_run_waits_for_the_lock(project: Project) -> None:
    project.write_inserts(FIRST)
    asked = api(project, RUN, MIGRATE_LOCK_WAIT=60)
    with project.runner().lease.hold(Actor.current("a test")):
        assert asked("POST", "/up", headers=ASYNC).status_code == 202
        assert asked("POST", "/up?wait=0", headers=ASYNC).status_code == 409


def test_one_run_works_one_waits_and_any_further_is_refused(
    project: Project, tmp_path: Path
) -> None:
    mark, go = gate(project, tmp_path)
    asked = api(project, RUN)
    first = asked("POST", "/up", headers=ASYNC).get_json()["runId"]
    until(mark.exists)
    assert asked("POST", "/down", headers=ASYNC).get_json()["code"] == "lock-held"
    second = asked("POST", "/up?wait=60", headers=ASYNC)
    assert second.status_code == 202
    further = asked("POST", "/up?wait=60", headers=ASYNC)
    assert (further.status_code, further.get_json()["code"]) == (429, "too-many-runs")
    assert f"{first}, {second.get_json()['runId']}" in further.get_json()["detail"]
    assert int(further.headers["Retry-After"]) == 30
    go.touch()
    path = second.headers["Location"]
    until(lambda: asked("GET", path).get_json()["report"] is not None)
    assert asked("GET", path).get_json()["report"]["steps"] == []
    assert accept(asked)["state"] == "succeeded"
    assert project.db.people.count_documents({}) == 1


def test_beside_a_run_that_has_not_taken_the_lock_yet_only_one_that_may_wait_is_accepted(
    project: Project,
) -> None:
    project.write_inserts(FIRST)
    of = {"directory": str(project.migrations), "collection": "migrations"}
    store_of(project).create("first", Direction.UP, {}, of)
    asked = api(project, RUN)
    refused = asked("POST", "/up", headers=ASYNC)
    assert (refused.status_code, refused.get_json()["code"]) == (429, "too-many-runs")
    assert asked("POST", "/up?wait=1", headers=ASYNC).status_code == 202
    until(lambda: project.statuses() == {FIRST: "completed"})


def test_a_thread_runs_outside_of_the_request_that_started_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MIGRATE_APP")
    project.write(
        f"{FIRST}_looks",
        """
        from flask import has_app_context, has_request_context

        def up(db):
            db.seen.insert_one({"app": has_app_context(), "request": has_request_context()})
        """,
    )
    assert accept(api(project, RUN))["detached"] is False
    seen = project.db.seen.find_one({}, {"_id": 0})
    assert seen == {"app": True, "request": False}


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
        until(mark.exists)
        os.killpg(web.process.pid, signal.SIGKILL)
        web.process.wait()
    go.touch()
    with served(project, server) as web:

        def seen() -> dict[str, Any]:
            document: dict[str, Any] = curl(web, f"/runs/{run['runId']}", token=READ)[1]
            return document

        until(lambda: seen()["report"] is not None)
        assert seen()["state"] == "succeeded"
    assert project.statuses() == {FIRST: "completed"}
    assert project.db.people.count_documents({}) == 1


def test_a_backfill_is_followed_and_cancelled_after_the_batch_in_hand(project: Project) -> None:
    fast = slow_backfill(project)
    asked = api(project, RUN)
    run_id = asked("POST", "/up", headers=ASYNC).get_json()["runId"]

    def seen() -> dict[str, Any]:
        document: dict[str, Any] = asked("GET", f"/runs/{run_id}").get_json()
        return document

    until(lambda: "progress" in (seen()["current"] or {}))
    progress = seen()["current"]["progress"]
    assert (progress["collection"], progress["total"]) == ("people", MANY)
    assert 0 < progress["done"] < MANY
    assert asked("POST", f"/runs/{run_id}/cancel").status_code == 200
    until(lambda: seen()["report"] is not None)
    assert seen()["state"] == "cancelled"
    assert 0 < project.db.people.count_documents({"n": 1}) < MANY
    assert "cancelled" in project.trail(FIRST)
    fast.touch()
    assert asked("POST", "/up").status_code == 200
    assert project.db.people.count_documents({"n": 1}) == MANY


MANY = 1_500


def slow_backfill(project: Project, documents: int = MANY) -> Path:
    """Write a migration that changes ten documents in a tenth of a second, until there is a file; return the file."""
    project.db.people.insert_many([{"_id": n} for n in range(documents)])
    fast = project.root / "fast"
    project.write(
        f"{FIRST}_backfill",
        f"""
        import time
        from pathlib import Path

        FAST = Path({str(fast)!r})

        def slow(doc):
            if not FAST.exists():
                time.sleep(0.01)
            return {{"$inc": {{"n": 1}}}}

        def up(db, ctx):
            ctx.backfill("people", slow, batch_size=10)
        """,
    )
    return fast


def test_a_backfill_is_paused_resumed_and_streamed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "LONGEST_STREAM", 120)
    fast = slow_backfill(project)
    asked = api(project, RUN)
    run_id = asked("POST", "/up", headers=ASYNC).get_json()["runId"]

    def progress() -> dict[str, Any]:
        run = asked("GET", f"/runs/{run_id}").get_json()
        return (run["current"] or {}).get("progress") or {}

    until(lambda: progress().get("done"))
    paused = asked("POST", f"/runs/{run_id}/pause")
    assert (paused.status_code, paused.get_json()["runId"]) == (200, run_id)
    until(lambda: progress()["paused"])
    done = project.db.people.count_documents({"n": 1})
    assert progress()["done"] == done
    assert api(project, READ)("POST", f"/runs/{run_id}/resume").status_code == 403
    assert asked("POST", f"/runs/{run_id}/resume").status_code == 200
    path, stream = f"{PREFIX}/runs/{run_id}/events", ""
    for part in asked.client.get(path, headers=asked.headers).iter_encoded():
        stream += part.decode()
        # The first may be of the pause, and the second of its end.
        if stream.count("event: progress") >= 3:
            fast.touch()
    events = [block.splitlines() for block in stream.split("\n\n") if block[:1] != ":" and block]
    unnumbered = [lines for lines in events if not lines[0].startswith("id: ")]
    assert [lines[0] for lines in unnumbered] == ["event: progress"] * len(unnumbered)
    seen = [json.loads(lines[1].removeprefix("data: "))["progress"] for lines in unnumbered]
    assert done <= seen[0]["done"] < seen[-1]["done"] <= MANY
    assert not seen[-1]["paused"]
    assert [lines[1] for lines in events[-2:]] == ["event: ended", "event: succeeded"]
    assert project.trail(FIRST) == ["started", "paused", "resumed", "completed"]


def test_a_run_without_a_backfill_cannot_be_paused(project: Project) -> None:
    project.write_inserts(FIRST)
    asked = api(project, RUN)
    run = accept(asked)
    for action in ("pause", "resume"):
        answer = asked("POST", f"/runs/{run['runId']}/{action}")
        assert (answer.status_code, answer.get_json()["code"]) == (409, "no-run")
        assert asked("POST", f"/runs/{'0' * 32}/{action}").status_code == 404


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
        until(lambda: project.statuses() == {FIRST: "completed"})
