"""`doctor` on every kind of server, and without one: it reports, and changes nothing."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import mongomock
import pytest
from pymongo import MongoClient

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.rehearsal.scratch import MARKER, name_for
from flask_migrate_mongo.settings import SETTINGS, key_of
from flask_migrate_mongo.store.lease import LOCK_ID
from flask_migrate_mongo.wiring import examining
from tests.content import content
from tests.sent import Sent
from tests.server.launcher import TestServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Failpoint
    from tests.project import Project

CHECKS = [
    *("driver", "server", "topology", "transactions", "clock", "rights", "history", "lock"),
    *("collections", "rehearsals", "folder", "names", "conflicts", "api"),
]
OF_SERVER = CHECKS[2:10]
READS = {"hello", "buildInfo", "connectionStatus", "find", "aggregate", "listIndexes"}
AWAY = "mongodb://127.0.0.1:1/shop?serverSelectionTimeoutMS=200"

Checks = dict[str, dict[str, str]]
Client = MongoClient[dict[str, Any]]


def doctor(
    project: Project, mongo: object = None, *, exit_code: int = 0, **settings: object
) -> Checks:
    """Return what each check found, and compare the text with it."""
    runner = project.app(mongo, **settings).test_cli_runner()
    text = runner.invoke(args=["db-migrate", "doctor"])
    found = runner.invoke(args=["db-migrate", "doctor", "--json"])
    assert (text.exit_code, found.exit_code) == (exit_code, exit_code), text.output
    checks: Checks = json.loads(found.stdout)["checks"]
    lines = text.stdout.splitlines()
    if json.loads(found.stdout)["database"]:
        assert re.search(r" on | \(mongomock\)", lines.pop(0))
    assert [line.split()[:2] for line in lines[: len(CHECKS)]] == [
        [checks[name]["grade"], name] for name in CHECKS
    ]
    return checks


def grades(checks: Checks) -> dict[str, str]:
    """Return the grade of each check that is not fine."""
    return {name: found["grade"] for name, found in checks.items() if found["grade"] != "ok"}


def test_everything_is_fine_before_the_first_run_and_after_it(project: Project) -> None:
    project.write_inserts(1)
    assert grades(doctor(project)) == {}
    project.runner().up()
    checks = doctor(project)
    assert grades(checks) == {}
    assert checks["history"]["message"] == "migrations has 1 records, and all are valid."
    assert checks["server"]["message"].startswith(f"{project.db.name} on 127.0.0.1:")
    assert checks["transactions"]["message"] == "The server has transactions."


# --- nothing is written


def test_it_leaves_the_database_as_it_was(project: Project, admin: Client) -> None:
    assert not project.db.list_collection_names()
    doctor(project)
    assert not project.db.list_collection_names()
    project.write_inserts(1, 2)
    project.runner().up()
    project.db.migrations.insert_one({"version": "v1.2"})
    project.db.migrations.drop_index("version_1")
    project.db.migration_runs.insert_one({"mine": True})
    project.db.migration_locks.update_one({}, {"$set": {"locked": True, "expiresAt": "soon"}})
    before, databases = content(project.db), set(admin.list_database_names())
    doctor(project, exit_code=4)
    assert content(project.db) == before
    assert project.db.name in databases & set(admin.list_database_names())


def test_it_sends_only_commands_that_read(project: Project, failpoint: Failpoint) -> None:
    project.write_inserts(1)
    project.runner().up()
    sent = Sent()
    with Client(project.uri, event_listeners=[sent]) as client:
        doctor(project, client[project.db.name])
    assert set(sent.names()) - {"endSessions", "listDatabases"} == READS
    pipelines = [stage for command in sent.of("aggregate") for stage in command["pipeline"]]
    assert not {"$out", "$merge"} & {name for stage in pipelines for name in stage}


def test_it_executes_no_migration_and_needs_no_lock(project: Project) -> None:
    project.write("1_a", "raise SystemExit\ndef up(db): pass\n")
    with project.runner().lease.hold(project.runner().actor("up")):
        checks = doctor(project)
    assert grades(checks) == {"lock": "warning"}
    assert "force-unlock --confirm" in checks["lock"]["remedy"]


# --- servers


def test_without_a_server_the_other_checks_still_report(project: Project) -> None:
    with Client(AWAY) as client:
        checks = doctor(project, client.shop, exit_code=4)
    assert grades(checks) == {"server": "problem", **dict.fromkeys(OF_SERVER, "warning")}
    assert "does not answer" in checks["server"]["message"]
    assert "Check that the server is running" in checks["server"]["remedy"]
    assert checks["folder"]["message"].endswith("migrations has 0 migrations.")


def test_a_uri_that_nobody_answers_is_not_waited_for_long(project: Project) -> None:
    run = project.run("doctor", MONGO_URI=AWAY, timeout=28)
    assert run.returncode == 4, run.stderr
    assert run.stdout.startswith("ok       driver")


def test_the_patience_of_the_applications_own_client_is_not_used_up(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examining, "FIRST_CONTACT_SECONDS", 0.2)
    began = time.monotonic()
    with Client("mongodb://127.0.0.1:1") as client:
        assert doctor(project, client.shop, exit_code=4)["server"]["grade"] == "problem"
    assert time.monotonic() - began < 25


def test_without_a_database_the_server_is_a_problem(project: Project) -> None:
    run = project.run("doctor", MONGO_URI="")
    assert run.returncode == 6  # An empty setting is refused when the application starts.
    checks = doctor(project, lambda: None, exit_code=4)
    assert "holds no database" in checks["server"]["message"]


def test_a_standalone_is_fine_until_a_migration_needs_a_transaction(
    project: Project, standalone_uri: str
) -> None:
    with Client(standalone_uri) as client:
        checks = doctor(project, client.shop)
        assert grades(checks) == {"transactions": "warning"}
        assert checks["topology"]["message"] == "A single server, not a replica set."
        project.write("1_a", "transactional = True\ndef up(db): pass\n")
        assert grades(doctor(project, client.shop, exit_code=4)) == {"transactions": "problem"}
        preferred = doctor(project, client.shop, MIGRATE_TRANSACTIONS="preferred")
        assert grades(preferred) == {"transactions": "warning"}


def test_it_works_on_mongomock(project: Project) -> None:
    mock: Any = mongomock.MongoClient()
    checks = doctor(project, mock.shop)
    assert grades(checks) == {"transactions": "warning"}
    assert "mongomock" in checks["server"]["message"]
    project.write_inserts(1)
    project.app(mock.shop).test_cli_runner().invoke(args=["db-migrate", "up"])
    mock.shop.migrations.insert_one({"version": 8})
    mock.shop.migration_runs.insert_one({"_id": 5})
    checks = doctor(project, mock.shop, exit_code=4)
    assert grades(checks) == {
        "transactions": "warning",
        "history": "problem",
        "collections": "problem",
    }


@pytest.mark.parametrize("command", ["connectionStatus", "buildInfo", "listDatabases"])
def test_a_command_that_is_refused_ends_its_own_check_alone(
    project: Project, failpoint: Failpoint, command: str
) -> None:
    failpoint(command, times=None, errorCode=13)
    checks = doctor(project)
    expected = {"connectionStatus": "rights", "listDatabases": "rehearsals"}
    if command == "buildInfo":
        assert grades(checks) == {}
        assert checks["server"]["message"].endswith("version unknown.")
    else:
        assert grades(checks) == {expected[command]: "warning"}
        assert "Not checked. The server refused access" in checks[expected[command]]["message"]


# --- rights


@pytest.fixture(scope="module")
def guarded() -> Iterator[TestServer]:
    """A server with a user who may do everything in one database, and one without a role."""
    with TestServer(durable=True) as server:
        with Client(server.uri) as client:
            roles = {"anna": [{"role": "readWrite", "db": "shop"}], "nobody": []}
            for user, bindings in roles.items():
                client.admin.command("createUser", user, pwd="secret", roles=bindings)
        server.require_auth()
        yield server


def logged_in(server: TestServer, user: str) -> Client:
    return Client(server.uri, username=user, password="secret", authSource="admin")


def test_a_user_with_a_role_is_named(project: Project, guarded: TestServer) -> None:
    with logged_in(guarded, "anna") as client:
        found = doctor(project, client.shop)["rights"]
    assert "anna" in found["message"]


@pytest.mark.parametrize("user", ["nobody", None])
def test_without_rights_everything_is_still_reported(
    project: Project, guarded: TestServer, user: str | None
) -> None:
    with logged_in(guarded, user) if user else Client(guarded.uri) as client:
        checks = doctor(project, client.shop, exit_code=4)
    assert {"history", "lock"} <= {n for n, grade in grades(checks).items() if grade == "problem"}
    assert "The server refused access" in checks["history"]["message"]
    if user:
        assert "nobody may not: createIndex, find, insert" in checks["rights"]["message"]
    else:
        assert checks["rights"]["message"].startswith("Not checked")


# --- our collections


def test_foreign_documents_are_named(project: Project) -> None:
    project.db.migrations.insert_many([{"_id": 1, "migrationName": "x"}, {"version": "v1.2"}])
    project.db.migration_locks.insert_one({"_id": 2})
    project.db["migrations.ranges"].insert_one({"_id": 3})
    project.db.migration_runs.insert_one({"_id": 4})
    checks = doctor(project, exit_code=4)
    assert grades(checks) == dict.fromkeys(("history", "lock", "collections"), "problem")
    assert "migrations.ranges (with these _id: 3)" in checks["collections"]["message"]
    assert "migration_runs (with these _id: 4)" in checks["collections"]["message"]


def test_a_history_without_its_index_is_a_warning(project: Project) -> None:
    project.write_inserts(1)
    project.runner().up()
    project.db.migrations.drop_index("version_1")
    assert grades(doctor(project)) == {"history": "warning"}
    project.db.migrations.insert_one({"version": "1", "status": "failed"})
    assert grades(doctor(project, exit_code=4)) == {"history": "problem"}


def test_an_index_that_deletes_records_is_a_problem(project: Project) -> None:
    project.db.migrations.create_index("createdAt", expireAfterSeconds=60)
    checks = doctor(project, exit_code=4)
    assert "because of its index createdAt_1" in checks["history"]["message"]


def test_a_lock_that_cannot_be_read_is_a_problem(project: Project) -> None:
    broken = {"_id": LOCK_ID, "locked": True, "expiresAt": "soon"}
    project.db.migration_locks.insert_one(broken)
    assert grades(doctor(project, exit_code=4)) == {"lock": "problem"}


def test_an_expired_lock_is_a_warning(project: Project) -> None:
    then = datetime.now(timezone.utc) - timedelta(hours=1)
    project.db.migration_locks.insert_one({"_id": LOCK_ID, "locked": True, "expiresAt": then})
    assert "its run crashed" in doctor(project)["lock"]["message"]


def test_a_database_of_a_killed_rehearsal_is_a_warning(project: Project, admin: Client) -> None:
    name = name_for(project.db.name, "0123456789")
    old = datetime.now(timezone.utc) - timedelta(hours=2)
    mark = {"_id": "marker", "of": project.db.name, "aliveAt": old, "createdAt": old}
    try:
        admin[name][MARKER].insert_one(mark)
        checks = doctor(project)
        admin[name][MARKER].update_one({}, {"$set": {"aliveAt": old + timedelta(hours=2)}})
        assert grades(doctor(project)) == {}
    finally:
        admin.drop_database(name)
    assert grades(checks) == {"rehearsals": "warning"}
    assert name in checks["rehearsals"]["message"]


# --- files and settings


def test_problems_of_files_are_named(project: Project) -> None:
    project.write("1_a", "def up(db:\n")
    project.write("2_b.sql", "")
    assert "syntax error" in doctor(project, exit_code=4)["folder"]["message"]
    (project.migrations / "1_a.py").unlink()
    assert "2_b.sql" in doctor(project)["folder"]["message"]
    (project.migrations / "env.py").touch()
    (project.migrations / "alembic.ini").touch()
    assert "Alembic" in doctor(project, exit_code=4)["folder"]["message"]


def test_names_that_are_no_settings_are_a_warning(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATE_LOK_TTL", "3")
    found = doctor(project, MIGRATE_COLECTION="x")["names"]
    assert found["grade"] == "warning"
    assert "MIGRATE_LOK_TTL (environment), MIGRATE_COLECTION (app.config)" in found["message"]
    assert "MIGRATE_LOCK_TTL" in found["remedy"]
    assert "MIGRATE_COLLECTION" in found["remedy"]


def test_a_collection_with_two_purposes_is_a_problem(project: Project) -> None:
    state = app_state.of(project.app())
    state.settings = replace(state.settings, run_collection="migrations")
    assert "MIGRATE_RUN_COLLECTION" in examining.examine(state).checks["conflicts"].message


def test_each_setting_is_shown_with_its_source_and_without_secrets(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATE_LOCK_TTL", "77")
    monkeypatch.setenv("MIGRATE_LOCK_WAIT", "5")
    given = {
        "MONGO_URI": "mongodb://anna:hunter2/ hunter2@h/shop",
        "MIGRATE_API_TOKEN": "hunter2hunter2hunter2",
        "MIGRATE_LOCK_WAIT": 7,
    }
    app = project.app(**given)
    app.config["MIGRATE_COLLECTION"] = "too_late"
    result = app.test_cli_runner().invoke(args=["db-migrate", "doctor", "--json"])
    shown = {s["name"]: (s["value"], s["source"]) for s in json.loads(result.stdout)["settings"]}
    assert list(shown) == [key_of(name) for name in SETTINGS]
    assert shown["MIGRATE_LOCK_TTL"] == ("77.0", "environment")
    assert shown["MIGRATE_LOCK_WAIT"] == ("7.0", "app.config")
    assert shown["MIGRATE_COLLECTION"] == ("migrations", "default")
    assert shown["MIGRATE_DATABASE"] == ("none", "default")
    assert shown["MONGO_URI"] == ("mongodb://***@h/shop", "app.config")
    assert shown["MIGRATE_API_TOKEN"] == ("not shown here", "app.config")
    text = app.test_cli_runner().invoke(args=["db-migrate", "doctor"]).output
    assert "hunter2" not in result.output + text


def test_the_access_to_the_api_is_shown(project: Project) -> None:
    assert "closed" in doctor(project)["api"]["message"]
    assert "not registered" in doctor(project, MIGRATE_API=False)["api"]["message"]
    open_to_one: dict[str, Any] = {"MIGRATE_API_TOKEN": "read:0123456789abcdef"}
    assert "scope read." in doctor(project, **open_to_one)["api"]["message"]
    found = doctor(project, MIGRATE_API_CREATE=True, **open_to_one)["api"]
    assert found["grade"] == "warning"
