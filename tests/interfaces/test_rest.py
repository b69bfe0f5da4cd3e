"""The REST door in this process: who gets in, what each endpoint answers, how it says no."""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from flask import Blueprint, Flask, abort, got_request_exception, redirect
from flask.json.provider import DefaultJSONProvider
from pymongo import MongoClient
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR
from werkzeug.exceptions import ServiceUnavailable

from flask_migrate_mongo import MongoMigrate
from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.files.folder import Folder
from flask_migrate_mongo.interfaces.rest import health, routes
from flask_migrate_mongo.model.errors import ConfigurationError
from flask_migrate_mongo.model.values import Actor
from flask_migrate_mongo.state import KEY
from tests.sent import Sent
from tests.unit.test_scaffold import ODD_NAMES, normalised

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Request, Response
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

    from tests.conftest import Failpoint
    from tests.project import Project

READ, RUN, ADMIN = "reader-0123456789", "runner-0123456789", "admin-0123456789"
APPLY = "applier-0123456789"
TOKENS = {READ: "read", APPLY: "up", RUN: "run", ADMIN: "admin"}
PREFIX = "/api/migrations"
ENDPOINTS = [
    (
        route.method,
        PREFIX + route.path.replace("<version>", "1").replace("<run_id>", "0" * 32),
        route.scope.value,
    )
    for route in routes.ROUTES
]
SCOPES = ["read", "up", "run", "admin"]


class Api:
    """A client of an application's API, with a token or without."""

    def __init__(self, app: Flask, token: str | None = ADMIN) -> None:
        self.app = app
        self.client: FlaskClient = app.test_client()
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def __call__(self, method: str, path: str = "", **more: Any) -> TestResponse:
        headers = {**self.headers, **more.pop("headers", {})}
        path = path if path.startswith(PREFIX) else PREFIX + path
        # Buffered: a stream that nobody reads to its end or closes would stay open.
        return self.client.open(path, method=method, headers=headers, buffered=True, **more)


def api(project: Project, token: str | None = ADMIN, **settings: object) -> Api:
    return Api(project.app(**{"MIGRATE_API_TOKEN": TOKENS, **settings}), token)


def vouched(project: Project, answer: object, **settings: object) -> Api:
    """Return a client of an application whose login answers so."""
    app = Flask("shop", root_path=str(project.root))
    app.config.from_mapping(settings)
    MongoMigrate(app, project.db, authorize=lambda action, request: answer)
    return Api(app, None)


def problem(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    """Check that the response is a problem document of ours, and return it."""
    assert response.status_code == status, response.text
    assert response.content_type == "application/problem+json"
    found: dict[str, Any] = response.get_json()
    assert (found["status"], found["code"]) == (status, code)
    assert found["type"] == f"urn:flask-migrate-mongo:{code}"
    assert found["title"].endswith(".")
    assert found["detail"].endswith((".", "`"))
    return found


def done(response: TestResponse, status: int = 200) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.content_type == "application/json"
    found: dict[str, Any] = response.get_json()
    return found


def untouched(project: Project) -> None:
    assert project.db.list_collection_names() == []


# --- closed until opened


@pytest.mark.parametrize(("method", "path", "scope"), ENDPOINTS)
def test_promise_12_every_endpoint_is_closed_until_the_application_opens_it(
    project: Project, method: str, path: str, scope: str
) -> None:
    """Promise 12: nobody gets in: every REST door is closed until the application opens it."""
    project.write_inserts(1)
    for token in (None, ADMIN):
        found = problem(
            api(project, token, MIGRATE_API_TOKEN=None)(method, path), 403, "api-closed"
        )
        assert "Set MIGRATE_API_TOKEN to a token of at least 16 characters" in found["detail"]
        assert "`Authorization: Bearer TOKEN`" in found["detail"]
    untouched(project)


@pytest.mark.parametrize(("method", "path", "scope"), ENDPOINTS)
def test_without_a_token_every_endpoint_but_health_asks_for_one(
    project: Project, method: str, path: str, scope: str
) -> None:
    for token, challenge in ((None, ""), ("wrong-0123456789", ', error="invalid_token"')):
        response = api(project, token)(method, path)
        if path.endswith("/health"):
            assert done(response) == {"ready": True}
        else:
            problem(response, 401, "unauthenticated")
            expected = f'Bearer realm="migrations"{challenge}'
            assert response.headers["WWW-Authenticate"] == expected


@pytest.mark.parametrize(("method", "path", "scope"), ENDPOINTS)
def test_a_token_of_a_smaller_scope_is_forbidden(
    project: Project, method: str, path: str, scope: str
) -> None:
    project.write_inserts(1)
    for token, may in TOKENS.items():
        response = api(project, token, MIGRATE_API_CREATE=True)(method, path)
        if SCOPES.index(may) < SCOPES.index(scope):
            assert scope in problem(response, 403, "forbidden")["detail"]
            untouched(project)
        else:
            assert response.status_code not in {401, 403}


def test_a_single_token_opens_everything(project: Project) -> None:
    for method, path, _ in ENDPOINTS:
        answer = api(project, ADMIN, MIGRATE_API_TOKEN=ADMIN)(method, path)
        assert answer.status_code != 401
        assert answer.status_code != 403 or answer.get_json()["code"] == "create-disabled"


@pytest.mark.parametrize("token", [None, "wrong-0123456789", READ])
def test_a_refusal_is_logged_with_the_address_and_without_the_token(
    project: Project, caplog: pytest.LogCaptureFixture, token: str | None
) -> None:
    environ = {"REMOTE_ADDR": "192.0.2.7"}
    api(project, token)("POST", "/up?token=secret", environ_overrides=environ)
    (record,) = [r for r in caplog.records if r.name == "flask_migrate_mongo.rest"]
    assert record.levelno == logging.WARNING
    assert "192.0.2.7" in record.getMessage()
    assert "'POST' '/api/migrations/up'" in record.getMessage()
    assert "secret" not in caplog.text
    assert token is None or token not in caplog.text


def test_refusals_are_logged_ten_times_a_minute_at_most(
    project: Project, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = api(project, None)
    for _ in range(25):
        problem(call("POST", "/up"), 401, "unauthenticated")
    logged = [r.getMessage() for r in caplog.records if r.name == "flask_migrate_mongo.rest"]
    assert len(logged) == 10
    assert [line.endswith("More refusals are not logged for now.") for line in logged] == [
        *([False] * 9),
        True,
    ]
    # Once a minute is over.
    monkeypatch.setattr(app_state, "REFUSALS_SECONDS", 0)
    caplog.clear()
    problem(call("POST", "/up"), 401, "unauthenticated")
    assert len(caplog.records) == 1


def test_a_path_cannot_forge_a_line_of_the_log(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    problem(api(project, None)("GET", "/x%0aRefused%20nobody"), 401, "unauthenticated")
    assert "\n" not in caplog.records[-1].getMessage()


# --- the application's login


def test_who_the_application_vouches_for_gets_in(project: Project) -> None:
    project.write_inserts(1)
    asked: list[str] = []

    def authorize(action: str, request: Request) -> bool:
        asked.append(action)
        return action != "up"

    app = Flask("shop", root_path=str(project.root))
    MongoMigrate(authorize=authorize).init_app(app, project.db)
    login = Api(app, None)
    done(login("GET", "/status"))
    problem(login("POST", "/up"), 403, "forbidden")
    assert asked == ["status", "up"]
    untouched(project)


def test_a_form_of_another_site_runs_nothing(project: Project) -> None:
    project.write_inserts(1)
    login = vouched(project, answer=True)
    form = {"content_type": "application/x-www-form-urlencoded", "headers": {"Cookie": "s=1"}}
    found = problem(login("POST", "/up", **form), 403, "forbidden")
    assert "X-Requested-With" in found["detail"]
    untouched(project)
    done(login("POST", "/up", headers={"Cookie": "s=1", "X-Requested-With": "fetch"}))
    assert project.statuses() == {1: "completed"}


@pytest.mark.parametrize("answer", [None, "yes", 1])
def test_a_login_that_gives_neither_true_nor_false_lets_nobody_in(
    project: Project, answer: object
) -> None:
    found = problem(vouched(project, answer)("GET", "/status"), 500, "configuration")
    assert "Return True or False" in found["detail"]


@pytest.mark.parametrize("path", ["/status", "/nowhere"])
def test_a_login_that_raises_lets_nobody_in_and_tells_nobody_why(
    project: Project, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    def authorize(action: str, request: Request) -> bool:
        raise LookupError("secret table")

    app = Flask("shop", root_path=str(project.root))
    MongoMigrate(app, project.db, authorize=authorize)
    response = Api(app, None)("GET", path)
    problem(response, 500, "error")
    assert "secret" not in response.text
    assert "secret table" in caplog.text


def test_what_is_no_callable_is_refused_before_anything_is_registered(project: Project) -> None:
    app = Flask("shop", root_path=str(project.root))
    with pytest.raises(ConfigurationError, match="authorize is an object of type str"):
        MongoMigrate(app, project.db, authorize="admin")  # type: ignore[arg-type]
    assert app.blueprints == {}
    assert app.extensions == {}


# --- endpoints


def test_status_up_history_events_and_down(project: Project) -> None:
    project.write_inserts(20261101001, 20261101002)
    call = api(project)
    assert done(call("GET", "/status"))["summary"]["pending"] == 2
    ran = done(call("POST", "/up"))
    assert [(s["version"], s["state"]) for s in ran["steps"]] == [
        ("20261101001", "applied"),
        ("20261101002", "applied"),
    ]
    assert project.db.done.count_documents({}) == 2
    page = done(call("GET", "/history?limit=1&skip=1&status=completed"))["history"]
    assert [record["version"] for record in page] == ["20261101001"]
    trail = done(call("GET", "/history/20261101001/events"))["events"]
    assert [event["event"] for event in trail] == ["started", "completed"]
    undone = done(call("POST", "/down?steps=2"))
    assert [step["state"] for step in undone["steps"]] == ["rolled-back"] * 2
    assert project.db.done.count_documents({}) == 0


def test_one_state_has_two_words_to_ask_for_and_one_in_answers(project: Project) -> None:
    project.write_inserts(1)
    call = api(project)
    done(call("POST", "/up"))
    answers = [done(call("GET", f"/history?status={w}")) for w in ("applied", "completed")]
    assert answers[0] == answers[1]
    assert [record["status"] for record in answers[0]["history"]] == ["completed"]
    refused = problem(call("GET", "/history?status=done"), 400, "invalid-request")
    assert "applied" in refused["detail"]


def test_the_database_is_named_to_those_who_may_read_alone(project: Project) -> None:
    host = project.uri.split("/")[2]
    call = api(project)
    for path in ("/status", "/history", "/lock/status"):
        found = done(call("GET", path))["database"]
        assert (found["name"], found["hosts"]) == (project.db.name, [host])
    outsider = project.app(MIGRATE_API_TOKEN="x" * 16).test_client()
    for path in ("/status", "/history", "/health", "/runs/x"):
        text = outsider.get(f"/api/migrations{path}").text
        assert project.db.name not in text
        assert host not in text


def test_a_dry_run_runs_nothing(project: Project) -> None:
    project.write_inserts(1)
    ran = done(api(project)("POST", "/up?dryRun=true"))
    assert (ran["dryRun"], [step["state"] for step in ran["steps"]]) == (True, ["not-run"])
    assert [step["verdict"] for step in ran["steps"]] == ["would succeed"]
    untouched(project)


def test_how_long_a_dry_run_may_take_and_what_it_shows_can_be_asked_for(project: Project) -> None:
    project.write_inserts(1)
    ran = done(api(project)("POST", "/up?dryRun=true&dryRunLimit=3&samples=0"))
    assert (ran["steps"][0]["verdict"], ran["steps"][0]["samples"]) == ("would succeed", [])
    problem(api(project)("POST", "/up?dryRun=true&dryRunLimit=0"), 400, "invalid-request")
    untouched(project)


def test_a_failed_migration_answers_500_with_the_report(project: Project) -> None:
    project.write_inserts(1, 3)
    project.write("2_fails", "def up(db): raise ValueError('no such field')")
    found = problem(api(project)("POST", "/up"), 500, "migration-failed")
    assert found["detail"].startswith("Failed: 2. ")
    assert [step["state"] for step in found["steps"]] == ["applied", "failed", "not-run"]
    assert found["steps"][1]["error"]["message"] == "no such field"


def test_going_on_after_a_failure_is_a_failure_all_the_same(project: Project) -> None:
    project.write("1_fails", "def up(db): raise ValueError")
    project.write_inserts(2)
    found = problem(api(project)("POST", "/up?continueOnError=true"), 500, "migration-failed")
    assert [step["state"] for step in found["steps"]] == ["failed", "applied"]


def test_a_held_lock_answers_409_with_its_holder_and_when_to_ask_again(project: Project) -> None:
    project.write_inserts(1)
    with project.runner().lease.hold(Actor.current("a test")):
        response = api(project)("POST", "/up?wait=0")
        shown = done(api(project)("GET", "/lock/status"))
    found = problem(response, 409, "lock-held")
    assert found["lock"]["reason"] == "a test"
    assert 1 <= int(response.headers["Retry-After"]) <= 30
    assert (shown["locked"], shown["lock"]["pid"]) == (True, found["lock"]["pid"])


def test_asking_again_is_put_off_no_longer_than_the_lock_lasts(project: Project) -> None:
    project.write_inserts(1)
    with project.runner(MIGRATE_LOCK_TTL=4).lease.hold(Actor.current("a test")):
        response = api(project, MIGRATE_LOCK_TTL=4)("POST", "/up")
    assert 1 <= int(response.headers["Retry-After"]) <= 4


def test_a_lock_is_released_only_when_that_is_confirmed(project: Project) -> None:
    with project.runner().lease.hold(Actor.current("a test")):
        call = api(project)
        for path in ("/lock/release", "/lock/release?confirm=false"):
            found = problem(call("POST", path), 409, "not-confirmed")
            assert found["lock"]["reason"] == "a test"
            assert "`POST lock/release?confirm=true`" in found["detail"]
        assert project.runner().lock() is not None
        released = done(call("POST", "/lock/release?confirm=true"))["released"]
        assert released["reason"] == "a test"
        assert project.runner().lock() is None


@pytest.mark.parametrize(
    "version", ["7", "x", "1" * 31, "1" * 5000, "-1", "%D9%A3", "1%0A", "..", "$ne"]
)
def test_an_unknown_version_answers_404(project: Project, version: str) -> None:
    response = api(project)("GET", f"/history/{version}/events")
    assert response.status_code == 404
    assert response.get_json()["code"] in {"unknown-version", "not-found"}


def test_a_token_may_apply_migrations_without_rolling_any_back(project: Project) -> None:
    project.write_inserts(1)
    call = api(project, APPLY)
    done(call("POST", "/up"))
    for path in ("/down", "/down?dryRun=true", "/down?steps=10000"):
        assert "needs run" in problem(call("POST", path), 403, "forbidden")["detail"]
    assert project.statuses() == {1: "completed"}


def test_a_database_that_fails_during_a_dry_run_answers_503(
    project: Project, failpoint: Failpoint
) -> None:
    project.write_inserts(1)
    call = api(project)
    for command, skip in (("getParameter", 0), ("find", 1)):
        failpoint(command, times=None, skip=skip, closeConnection=True)
        problem(call("POST", "/up?dryRun=true"), 503, "no-connection")


@pytest.mark.parametrize("run_id", ["0" * 31, "0" * 33, "G" * 32, "%D9%A3" * 32, "$ne", "x" * 999])
def test_a_name_that_no_run_has_is_answered_without_the_database(
    project: Project, run_id: str
) -> None:
    call = Api(project.app(lambda: 1 / 0, MIGRATE_API_TOKEN=ADMIN))
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel")):
        found = problem(call(method, f"/runs/{run_id}{path}"), 404, "unknown-run")
        assert len(found["detail"]) < 400


# --- health


def test_health_is_ready_when_everything_is_applied_and_says_why_not(project: Project) -> None:
    project.write_inserts(1)
    project.write("2_fails", "def up(db): raise ValueError")
    call = api(project, READ)
    assert "2 pending" in problem(call("GET", "/health"), 503, "not-ready")["detail"]
    api(project)("POST", "/up")
    assert "1 failed" in problem(call("GET", "/health"), 503, "not-ready")["detail"]
    project.write("2_fails", "def up(db): pass")
    api(project)("POST", "/up")
    assert done(call("GET", "/health"))["summary"]["applied"] == 2


def test_while_something_runs_the_health_is_not_ready(project: Project) -> None:
    project.write_inserts(1)
    project.db.migrations.insert_one({"version": "1", "status": "running"})
    assert "1 running" in problem(api(project)("GET", "/health"), 503, "not-ready")["detail"]


def test_the_reason_of_a_failed_start_up_is_in_the_health_for_callers_who_may_run(
    project: Project,
) -> None:
    project.write_inserts(1)
    for token, reason in ((RUN, "no disk."), (READ, "the log says why.")):
        call = api(project, token)
        call.app.extensions["mongo_migrate"].startup_failure = "no disk."
        found = problem(call("GET", "/health"), 503, "not-ready")
        assert f"The start-up failed: {reason}" in found["detail"]


def test_callers_without_a_token_look_at_the_database_once_a_second_together(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "REMEMBERED_SECONDS", 60)
    project.write_inserts(1)
    sent = Sent()
    with MongoClient[dict[str, Any]](project.uri, event_listeners=[sent]) as client:
        app = project.app(client[project.db.name], MIGRATE_API_TOKEN=ADMIN)
        strangers = [Api(app, None) for _ in range(6)]
        with ThreadPoolExecutor(6) as pool:
            for answer in pool.map(lambda ask: ask("GET", "/health"), strangers):
                problem(answer, 503, "not-ready")
        assert sent.taken() == ["find", "aggregate"]
        # A caller with a token sees what is true now.
        assert project.runner().up().batch == 1
        done(Api(app)("GET", "/health"))
        assert sent.taken() == ["find", "aggregate"]
        monkeypatch.setattr(health, "REMEMBERED_SECONDS", -1)
        done(strangers[0]("GET", "/health"))
        assert sent.taken() == ["find", "aggregate"]


def test_whom_the_api_does_not_know_learns_of_the_health_and_nothing_else(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "REMEMBERED_SECONDS", -1)
    call = api(project, None)
    assert done(call("GET", "/health")) == {"ready": True}
    project.write("1_secret", "def up(db): pass")
    pending = call("GET", "/health")
    project.write("2_broken", "def up(")
    broken = call("GET", "/health")
    away = MongoClient[dict[str, Any]]("mongodb://127.0.0.1:1/x", serverSelectionTimeoutMS=50)
    app = Flask("shop", root_path=str(project.root))
    app.config["MIGRATE_API_TOKEN"] = ADMIN
    MongoMigrate(app, away)
    unreachable = Api(app, None)("GET", "/health")
    away.close()
    problem(pending, 503, "not-ready")
    assert pending.data == broken.data == unreachable.data


# --- making files


def test_a_file_is_made_only_where_that_is_switched_on(project: Project) -> None:
    body = {"name": "Add User Index"}
    found = problem(api(project)("POST", "/", json=body), 403, "create-disabled")
    assert "MIGRATE_API_CREATE" in found["detail"]
    assert list(project.migrations.iterdir()) == []
    path = done(api(project, MIGRATE_API_CREATE=True)("POST", "/", json=body), 201)["path"]
    assert path.endswith("_add_user_index.py")
    debugged = api(project, DEBUG=True)
    done(debugged("POST", "", json={**body, "transactional": True}), 201)
    first, second = Folder(project.migrations).discover().files
    assert str(first.path) == path
    assert (first.transactional, second.transactional) == (False, True)


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
def test_a_hostile_name_makes_one_file_inside_the_folder(project: Project, name: str) -> None:
    before = set(project.root.rglob("*"))
    path = done(api(project, MIGRATE_API_CREATE=True)("POST", "/", json={"name": name}), 201)[
        "path"
    ]
    (made,) = set(project.root.rglob("*")) - before
    assert (str(made), made.parent) == (path, project.migrations)
    assert re.fullmatch(r"\d{11}_[^\W_](\w|[\u0300-\u036f])*\.py", made.name)
    assert len(made.name) <= 75
    (found,) = Folder(project.migrations).discover().files
    assert found.name == normalised(name)
    assert done(api(project)("GET", "/status"))["pending"][0]["name"] == found.name


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b'{"name": "x"}', "text/plain", 415, "not-json"),
        (b"name=x", "application/x-www-form-urlencoded", 415, "not-json"),
        (b'{"name": "x"', "application/json", 400, "invalid-request"),
        (b'{"name": "x", "path": "/etc"}', "application/json", 400, "invalid-request"),
        (b"[" * 16_000, "application/json", 400, "invalid-request"),
        (b'{"name": "' + b"n" * 17_000 + b'"}', "application/json", 413, "body-too-large"),
    ],
    ids=range(6),
)
def test_a_body_that_is_no_new_migration_makes_nothing(
    project: Project, body: bytes, kind: str, status: int, code: str
) -> None:
    call = api(project, MIGRATE_API_CREATE=True)
    problem(call("POST", "/", data=body, content_type=kind), status, code)
    assert list(project.migrations.iterdir()) == []


# --- requests that make no sense


@pytest.mark.parametrize(("method", "path", "scope"), ENDPOINTS)
def test_an_unknown_parameter_is_refused_everywhere(
    project: Project, method: str, path: str, scope: str
) -> None:
    project.write_inserts(1)
    call = api(project, MIGRATE_API_CREATE=True)
    more = {"json": {"name": "x"}} if path == f"{PREFIX}/" else {}
    response = call(method, f"{path}?dry_run=true", **more)
    problem(response, 400, "invalid-request")
    untouched(project)
    assert len(list(project.migrations.iterdir())) == 1


@pytest.mark.parametrize("path", ["/up", "/down", "/lock/release"])
def test_parameters_in_a_body_are_refused_rather_than_passed_over(
    project: Project, path: str
) -> None:
    project.write_inserts(1)
    found = problem(api(project)("POST", path, json={"dryRun": True}), 400, "invalid-request")
    assert "query string" in found["detail"]
    untouched(project)


def test_a_body_of_unknown_length_is_refused(project: Project) -> None:
    project.write_inserts(1)
    headers = {"Transfer-Encoding": "chunked"}
    for path in ("/up", "/"):
        response = api(project, MIGRATE_API_CREATE=True)("POST", path, headers=headers)
        problem(response, 413, "body-too-large")
    untouched(project)


@pytest.mark.parametrize("path", ["/nothing", "/status/", "/up/x", "/..", "/a%0ab", "/%00", "/*"])
def test_there_is_a_problem_document_for_every_path_under_the_prefix(
    project: Project, path: str
) -> None:
    problem(api(project, READ)("GET", path), 404, "not-found")
    problem(api(project, None)("GET", path), 401, "unauthenticated")
    problem(api(project, None, MIGRATE_API_TOKEN=None)("GET", path), 403, "api-closed")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"])
def test_a_method_that_a_path_does_not_take_is_refused_with_those_it_takes(
    project: Project, method: str
) -> None:
    project.write_inserts(1)
    for path, allowed in (("/status", "GET, HEAD"), ("/up", "POST"), ("/", "POST"), ("", "POST")):
        response = api(project)(method, path)
        problem(response, 405, "method-not-allowed")
        assert response.headers["Allow"] == allowed
    untouched(project)


def test_nothing_is_changed_by_looking(project: Project) -> None:
    project.write_inserts(1)
    for path in ("/up", "/down", "/lock/release", "/"):
        for method in ("GET", "HEAD"):
            assert api(project)(method, path).status_code == 405
    untouched(project)


def test_every_answer_is_kept_by_nobody_and_guessed_at_by_nobody(project: Project) -> None:
    for method, path, _ in [*ENDPOINTS, ("GET", f"{PREFIX}/nothing", "read")]:
        for token in (ADMIN, None):
            headers = api(project, token)(method, path).headers
            assert headers["Cache-Control"] == "no-store"
            assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("message", "short"),
    [
        ("row [1, 2] is bad", "row ..."),
        ("no such city: 'Bern'", "no such city: ..."),
        ("first\nsecond", "first..."),
        ("x" * 100, f"{'x' * 80}..."),
        ("plain", "plain"),
    ],
)
def test_only_callers_who_may_run_migrations_see_whole_messages_and_tracebacks(
    project: Project, message: str, short: str
) -> None:
    def only_status(action: str, _: Request) -> bool:
        return action == "status" or abort(418)

    project.write("1_fails", f"def up(db): raise ValueError({message!r})")
    problem(api(project, RUN)("POST", "/up"), 500, "migration-failed")
    app = Flask("shop", root_path=str(project.root))
    MongoMigrate(app, project.db, authorize=only_status)
    login = vouched(project, answer=True)
    for caller, may_run in (
        (api(project, RUN), True),
        (login, True),
        (api(project, READ), False),
        (Api(app, None), False),
    ):
        (failed,) = done(caller("GET", "/status"))["failed"]
        assert failed["error"]["message"] == (message if may_run else short)
        assert (failed["error"]["traceback"] is not None) is may_run


def test_what_was_not_foreseen_is_logged_and_heard_of_and_not_shown(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> object:
        raise LookupError("secret, token: hidden")

    app = project.app(broken, MIGRATE_API_TOKEN=ADMIN, PROPAGATE_EXCEPTIONS=True)
    heard: list[object] = []
    with got_request_exception.connected_to(
        lambda *_, **more: heard.append(more["exception"]), app
    ):
        response = Api(app)("GET", "/status")
    problem(response, 500, "error")
    assert "secret" not in response.text
    assert "LookupError: secret, token: ***" in caplog.text
    assert "hidden" not in caplog.text
    assert [type(exc) for exc in heard] == [LookupError]


# --- the application stays its own


class OddProvider(DefaultJSONProvider):
    """A JSON provider that the API must not use."""

    def dumps(self, obj: Any, **more: Any) -> str:
        return '"of the application"'


def host(project: Project) -> Flask:
    """Return an application with error pages, a JSON provider and hooks of its own."""
    app = Flask("shop", root_path=str(project.root))
    app.config["MIGRATE_API_TOKEN"] = ADMIN
    app.json = OddProvider(app)
    MongoMigrate(app, project.db)
    for code in (400, 401, 403, 404, 405, 409, 413, 415, 500):
        app.register_error_handler(code, lambda exc: (f"our page {exc.code}", exc.code))
    app.register_error_handler(Exception, lambda exc: (f"our page {exc}", 500))
    app.after_request(lambda response: response.headers.add("X-Host", "yes") or response)
    app.add_url_rule("/json", "json", lambda: {"x": 1})
    app.add_url_rule("/boom", "boom", lambda: str(1 / 0))
    return app


def test_the_application_has_its_own_pages_outside_the_prefix(project: Project) -> None:
    client = host(project).test_client()
    assert client.get("/nothing").text == "our page 404"
    assert client.get("/api/migrationsX").text == "our page 404"
    assert client.get("/api").text == "our page 404"
    assert client.post("/json").text == "our page 405"
    assert client.get("/boom").status_code == 500
    assert client.get("/json").text.strip() == '"of the application"'
    assert client.options("/json").status_code == 200


def test_the_api_has_its_own_pages_under_the_prefix(project: Project) -> None:
    call = Api(host(project))
    problem(call("GET", "/nothing"), 404, "not-found")
    problem(call("PUT", "/status"), 405, "method-not-allowed")
    problem(call("POST", "/up", data=b"x" * 99_999), 413, "body-too-large")
    problem(call("GET", "/history?limit=x"), 400, "invalid-request")
    done(call("GET", "/status"))
    problem(Api(call.app, None)("GET", "/status"), 401, "unauthenticated")
    assert call("GET", "/status").headers["X-Host"] == "yes"


def test_an_application_gets_the_blueprint_its_rules_and_one_hook_and_nothing_else(
    project: Project,
) -> None:
    def state(app: Flask) -> list[object]:
        handlers = {code: dict(found) for code, found in app.error_handler_spec[None].items()}
        hooks = (app.after_request_funcs.get(None), app.teardown_request_funcs.get(None))
        return [handlers, hooks, app.teardown_appcontext_funcs, type(app.json)]

    without, having = project.app(MIGRATE_API=False), project.app()
    assert state(having) == state(without)
    assert list(having.blueprints) == [KEY]
    assert len(having.before_request_funcs[None]) == 1
    added = having.view_functions.keys() - without.view_functions.keys()
    assert {name.partition(".")[0] for name in added} == {KEY}
    assert all(rule.startswith(PREFIX) for rule in rules(having) if "static" not in rule)


def test_the_description_is_valid_open_api(project: Project) -> None:
    described = done(api(project, READ)("GET", "/openapi.json"))
    assert [str(error) for error in OPENAPI_31_VALIDATOR.iter_errors(described)] == []
    assert list(OPENAPI_31_VALIDATOR.iter_errors({**described, "paths": []}))


def test_what_a_hook_of_the_application_says_is_passed_on(project: Project) -> None:
    for hook, status in ((lambda: abort(403), 403), (lambda: redirect("/login"), 302)):
        app = host(project)
        app.before_request(hook)
        response = Api(app)("GET", "/status")
        assert response.status_code == status
        if status == 403:
            assert response.content_type == "application/problem+json"
            assert response.get_json()["code"] == "http-403"
    untouched(project)


def test_a_response_that_a_hook_aborts_with_is_passed_on(project: Project) -> None:
    for way in (abort, raised):
        app = host(project)
        response = app.response_class("maintenance", 503)
        app.before_request(partial(way, response))
        assert Api(app)("GET", "/status").text == "maintenance"


def raised(response: Response) -> None:
    raise ServiceUnavailable(response=response)


# --- where it is


def rules(app: Flask) -> Iterator[str]:
    return (rule.rule for rule in app.url_map.iter_rules())


def test_with_the_api_switched_off_there_is_no_route(project: Project) -> None:
    app = project.app(MIGRATE_API=False, MIGRATE_API_TOKEN=ADMIN)
    assert app.blueprints == {}
    assert list(rules(app)) == ["/static/<path:filename>"]
    assert Api(app)("GET", "/status").content_type.startswith("text/html")


def test_the_prefix_is_that_of_the_settings(project: Project) -> None:
    app = project.app(MIGRATE_URL_PREFIX="/ops/db/", MIGRATE_API_TOKEN=ADMIN)
    client, headers = app.test_client(), {"Authorization": f"Bearer {ADMIN}"}
    assert client.get("/ops/db/status", headers=headers).status_code == 200
    assert client.get("/ops/db/nothing", headers=headers).get_json()["code"] == "not-found"
    assert client.get(f"{PREFIX}/status", headers=headers).content_type.startswith("text/html")
    spec = client.get("/ops/db/openapi.json", headers=headers).get_json()
    assert spec["servers"] == [{"url": "/ops/db"}]


def test_it_can_be_registered_by_hand_inside_a_blueprint_too(project: Project) -> None:
    app = Flask("shop", root_path=str(project.root))
    app.config.from_mapping(MIGRATE_API=False, MIGRATE_API_TOKEN=ADMIN)
    migrate = MongoMigrate(app, project.db)
    parent = Blueprint("admin", __name__, url_prefix="/admin")
    parent.register_blueprint(migrate.make_blueprint(), url_prefix="/db")
    app.register_blueprint(parent)
    app.register_blueprint(migrate.make_blueprint(), url_prefix="/by-hand")
    client, headers = app.test_client(), {"Authorization": f"Bearer {ADMIN}"}
    for prefix in ("/admin/db", "/by-hand"):
        assert client.get(f"{prefix}/status", headers=headers).status_code == 200
        assert client.get(f"{prefix}/status").get_json()["code"] == "unauthenticated"
        assert client.get(f"{prefix}/x", headers=headers).get_json()["code"] == "not-found"


def test_two_applications_in_one_process_have_tokens_and_folders_of_their_own(
    project: Project,
) -> None:
    first = project.app(MIGRATE_API_TOKEN=READ)
    second = project.app(MIGRATE_API_TOKEN=RUN, MIGRATE_DIRECTORY="elsewhere")
    (project.root / "elsewhere").mkdir()
    project.write_inserts(1)
    assert done(Api(first, READ)("GET", "/status"))["summary"]["total"] == 1
    assert done(Api(second, RUN)("GET", "/status"))["summary"]["total"] == 0
    problem(Api(first, RUN)("GET", "/status"), 401, "unauthenticated")
    problem(Api(second, READ)("GET", "/status"), 401, "unauthenticated")


def test_setting_an_application_up_again_is_no_error(project: Project) -> None:
    app = project.app(MIGRATE_API_TOKEN=READ)
    app.config["MIGRATE_API_TOKEN"] = RUN
    MongoMigrate(app, project.db)
    done(Api(app, RUN)("GET", "/status"))
    problem(Api(app, READ)("GET", "/status"), 401, "unauthenticated")
