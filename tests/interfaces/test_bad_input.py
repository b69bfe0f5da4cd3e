"""Bad input: a message that names the facts and ends with the remedy, the right exit code, nothing lost."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask
from pymongo import MongoClient

from flask_migrate_mongo import MongoMigrate
from flask_migrate_mongo.model.values import Actor
from tests.server.launcher import TestServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

    from tests.project import Project

PASSWORD = "correct-horse"
WRONG = "battery-staple"


def refused(result: Result, code: int, *facts: str) -> str:
    """Check that the command failed with this code and a clean message of these facts."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    for fact in facts:
        assert fact in result.stderr
    return result.stderr


def seen_and_refused(project: Project, *facts: str) -> None:
    """Check that `status` shows the facts beside all that can be shown, and that `up` refuses with them."""
    status = project.invoke("status")
    assert status.exit_code == 0
    assert all(fact in status.stdout for fact in facts), status.stdout
    refused(project.invoke("up"), 5, *facts)


def untouched(project: Project) -> None:
    """Check that nothing was recorded, nobody holds the lock, and no migration has run."""
    assert project.runner().lock() is None
    assert project.statuses() == {}
    assert project.db.done.count_documents({}) == 0


def recorded_as_failed(project: Project, version: int, kind: str) -> dict[str, Any]:
    """Check that the record says failed, with its cause, and that the lock is free; return the error."""
    record = project.record(version)
    assert record["status"] == "failed"
    assert project.trail(version) == ["started", "failed"]
    error: dict[str, Any] = record["metadata"]["failure"]
    assert error["type"] == kind
    assert project.runner().lock() is None
    return error


def without_database(root: Path, **settings: object) -> Flask:
    """Return an application that nobody handed a database to."""
    (root / "migrations").mkdir(exist_ok=True)
    app = Flask("shop", root_path=str(root))
    app.config.from_mapping(settings)
    MongoMigrate(app)
    return app


def status_of(app: Flask, *args: str) -> Result:
    return app.test_cli_runner().invoke(args=["db-migrate", "status", *args])


# --- the server


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_no_server_names_the_address_and_asks_whether_it_runs(tmp_path: Path) -> None:
    port = closed_port()
    uri = f"mongodb://anna:{PASSWORD}@127.0.0.1:{port}/shop?serverSelectionTimeoutMS=300"
    app = without_database(tmp_path, MONGO_URI=uri)
    message = refused(
        status_of(app), 6, f"127.0.0.1:{port}", "Check that the server is running", "MONGO_URI"
    )
    assert PASSWORD not in message
    problem = json.loads(status_of(app, "--json").stdout)
    assert (problem["code"], problem["status"]) == ("no-connection", 503)
    assert PASSWORD not in problem["detail"]


@pytest.fixture(scope="module")
def guarded_server() -> Iterator[TestServer]:
    """A server that asks for a password."""
    with TestServer(durable=True) as server:
        with MongoClient[dict[str, Any]](server.uri) as client:
            client.shop.command("createUser", "anna", pwd=PASSWORD, roles=["dbOwner"])
        server.require_auth()
        yield server


def uri_of(server: TestServer, user: str) -> str:
    return server.uri.replace("mongodb://", f"mongodb://{user}@").replace("/?", "/shop?")


def test_the_right_password_opens_the_server_that_asks_for_one(
    tmp_path: Path, guarded_server: TestServer
) -> None:
    app = without_database(tmp_path, MONGO_URI=uri_of(guarded_server, f"anna:{PASSWORD}"))
    assert status_of(app).exit_code == 0


@pytest.mark.parametrize("user", [f"anna:{WRONG}", f"nobody:{WRONG}"])
def test_a_wrong_password_says_what_to_check_and_shows_no_password(
    tmp_path: Path, guarded_server: TestServer, user: str
) -> None:
    app = without_database(tmp_path, MONGO_URI=uri_of(guarded_server, user))
    message = refused(status_of(app), 6, "refused access", "Check user, password and authSource")
    assert WRONG not in message
    problem = json.loads(status_of(app, "--json").stdout)
    assert problem["code"] == "access-denied"
    assert WRONG not in problem["detail"]


def test_a_server_that_asks_for_a_password_refuses_who_gives_none(
    tmp_path: Path, guarded_server: TestServer
) -> None:
    uri = guarded_server.uri.replace("/?", "/shop?")
    refused(status_of(without_database(tmp_path, MONGO_URI=uri)), 6, "refused access", "MONGO_URI")


# --- the configuration


def test_no_uri_anywhere_says_where_to_write_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MONGO_URI", raising=False)
    app = without_database(tmp_path)
    refused(status_of(app), 6, "no database", "MONGO_URI", "MongoMigrate(app, mongo)")
    assert json.loads(status_of(app, "--json").stdout)["code"] == "no-database"


def test_a_uri_without_a_database_name_says_three_ways_to_name_one(tmp_path: Path) -> None:
    uri = f"mongodb://anna:{PASSWORD}@127.0.0.1:1/"
    message = refused(
        status_of(without_database(tmp_path, MONGO_URI=uri)),
        6,
        "names no database",
        "mongodb://localhost:27017/shop",
        "MIGRATE_DATABASE",
        "MongoMigrate(app, client.shop)",
    )
    assert PASSWORD not in message


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://anna:half/half@127.0.0.1:1/shop",
        "mongodb://anna:half:half@127.0.0.1:1/shop",
        "mongodb://anna:half%half@127.0.0.1:1/shop",
        "mongodb://anna:half?half@127.0.0.1:1/shop",
        "mongodb://anna:12/half@127.0.0.1:1/shop",
        "mongodb://anna:12?half@127.0.0.1:1/shop",
        "mongodb://half/half:half@127.0.0.1:1/shop",
        "mongodb+srv://anna:12/half@example.invalid/shop",
        "mongodb://anna:half@half@127.0.0.1:1/shop",
        "mongodb://anna:half@127.0.0.1:port/shop",
        "mongodb://",
        "http://localhost/shop",
        "mongodb://127.0.0.1:1/shop?tls=true&tlsCAFile=/nowhere.pem",
    ],
)
def test_a_uri_that_cannot_be_used_says_how_to_write_one_and_shows_no_password(
    tmp_path: Path, uri: str
) -> None:
    message = refused(
        status_of(without_database(tmp_path, MONGO_URI=uri)),
        6,
        "MONGO_URI cannot be used",
        "mongodb://user:password@localhost:27017/shop",
        "percent-encoded",
    )
    assert "half" not in message


@pytest.mark.parametrize("name", ["a b", "a/b", "a.b"])
def test_a_database_name_that_cannot_be_is_a_configuration_error(
    project: Project, name: str
) -> None:
    app = without_database(project.root, MONGO_URI=project.uri, MIGRATE_DATABASE=name)
    refused(status_of(app), 6, "database name")


def test_a_folder_that_is_missing_has_nothing_to_do_and_is_named(project: Project) -> None:
    project.migrations.rmdir()
    for command in ("status", "up", "down", "plan", "check"):
        result = project.invoke(command)
        assert result.exit_code == 0
        assert (str(project.migrations) in result.output) is (
            command in {"status", "up", "down", "plan"}
        )
    assert "flask db-migrate create NAME" in project.invoke("status").stdout


@pytest.mark.parametrize("command", [("status",), ("create", "x")])
def test_a_folder_that_is_a_file_is_named_with_the_remedy(
    project: Project, command: tuple[str, ...]
) -> None:
    (project.root / "file").touch()
    result = project.invoke(*command, MIGRATE_DIRECTORY="file")
    refused(result, 6, str(project.root / "file"), "MIGRATE_DIRECTORY")


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_bad_setting_is_a_message_and_not_a_traceback(
    project: Project, form: tuple[str, ...]
) -> None:
    done = project.run("status", *form, MIGRATE_LOCK_TTL="soon")
    assert done.returncode == 6
    assert "Traceback" not in done.stderr
    assert "MIGRATE_LOCK_TTL is 'soon', but it accepts a number of seconds" in (
        done.stdout if form else done.stderr
    )


@pytest.mark.parametrize("command", [("run",), ("run", "--debug"), ("routes",), ("--help",)])
def test_with_a_bad_setting_flask_prints_an_error_and_no_traceback(
    project: Project, command: tuple[str, ...]
) -> None:
    project.command()
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app", *command],
        cwd=project.root,
        env=project.environ(MIGRATE_API_TOKEN="dev"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == (0 if command == ("--help",) else 6)
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "MIGRATE_API_TOKEN" in line]
    assert line.startswith("Error: MIGRATE_API_TOKEN is not shown here, but it accepts a token of")


def test_an_application_without_the_extension_is_told_how_to_set_it_up(project: Project) -> None:
    (project.root / "app.py").write_text("from flask import Flask\napp = Flask('shop')\n")
    done = project.run("status")
    assert done.returncode == 6
    assert "not set up for the application 'shop'. Call MongoMigrate(app)" in done.stderr


# --- files


def test_a_file_without_a_number_is_named_with_a_name_that_works(project: Project) -> None:
    project.write_inserts(1)
    project.write("add_index", "def up(db): pass")
    message = refused(project.invoke("up"), 5, "add_index.py", "no number")
    untouched(project)
    (better,) = re.findall(r"Rename it to (\S+\.py)", message)
    (project.migrations / "add_index.py").rename(project.migrations / better)
    assert project.invoke("up").exit_code == 0


def test_two_files_with_one_number_are_both_named(project: Project) -> None:
    project.write("7_one", "def up(db): pass")
    project.write("007-two", "def up(db): 1")
    seen_and_refused(project, "7_one.py", "007-two.py", "next free number")
    untouched(project)


def test_a_syntax_error_names_file_and_line(project: Project) -> None:
    project.write_inserts(1)
    path = project.write("2_typo", "def up(db):\n    db.done.insert_one({)\n")
    seen_and_refused(project, f"{path}:2: syntax error", "Fix the file")
    assert "1        insert  pending" in project.invoke("status", "--all").stdout
    untouched(project)


def test_an_import_error_names_file_line_and_cause_before_anything_has_run(
    project: Project,
) -> None:
    project.write_inserts(1)
    path = project.write("2_import", "import json\nimport no_such_module\n\ndef up(db): pass\n")
    message = refused(project.invoke("up"), 5, f"{path}:2", "ModuleNotFoundError", "no_such_module")
    assert message.rstrip().endswith("Fix the file, then run `flask db-migrate up` again.")
    untouched(project)
    assert project.invoke("status").exit_code == 0


@pytest.mark.parametrize("raised", ["SystemExit(0)", "ValueError('mongodb://anna:secret@host/db')"])
def test_whatever_an_import_raises_is_an_import_error(project: Project, raised: str) -> None:
    project.write("1_import", f"raise {raised}\n\ndef up(db): pass\n")
    message = refused(project.invoke("up"), 5, raised.partition("(")[0])
    assert "secret" not in message
    untouched(project)


def test_a_migration_without_up_is_told_what_to_add(project: Project) -> None:
    path = project.write("1_none", "def upp(db): pass\n")
    seen_and_refused(project, str(path), "no up()", "`def up(db):`")
    untouched(project)


def test_a_wrong_parameter_name_is_named_with_file_line_and_what_can_be_passed(
    project: Project,
) -> None:
    path = project.write("1_parameter", "\ndef up(database):\n    pass\n")
    seen_and_refused(project, f"{path}:2", "'database'", "db and ctx", "`def up(db):`")
    untouched(project)


def test_several_bad_files_are_all_named_at_once(project: Project) -> None:
    project.write("1_none", "")
    project.write("2_typo", "def")
    refused(project.invoke("up"), 5, "2 problems", "1_none.py", "2_typo.py:1")
    untouched(project)


# --- what a migration does


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("raise ValueError('no such field')", "ValueError"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("db.done.insert_many([{'_id': 1}, {'_id': 1}])", "BulkWriteError"),
        ("raise type('Odd', (BaseException,), {'__str__': lambda self: 'odd \\ud800'})", "Odd"),
    ],
)
@pytest.mark.parametrize("transactional", [False, True])
def test_whatever_up_raises_is_recorded_reported_and_gives_the_lock_back(
    project: Project, statement: str, kind: str, *, transactional: bool
) -> None:
    source = f"transactional = {transactional}\ndef up(db):\n    db.seen.insert_one({{}})\n    {statement}\n"
    project.write("1_bad", source)
    project.write_inserts(2)
    result = project.invoke("up")
    assert result.exit_code == 1
    assert kind in result.stderr
    assert "1 later migration was not run." in result.stdout
    error = recorded_as_failed(project, 1, kind)
    assert "1_bad.py" in error["traceback"]
    assert project.db.seen.count_documents({}) == (0 if transactional else 1)
    assert project.db.done.count_documents({"version": 2}) == 0


@pytest.mark.parametrize("statement", ["raise SystemExit(0)", "raise KeyboardInterrupt"])
def test_a_migration_that_exits_ends_its_process_with_1_and_a_record(
    project: Project, statement: str
) -> None:
    project.write("1_exit", f"def up(db):\n    {statement}\n")
    done = project.run("up")
    assert done.returncode == 1
    recorded_as_failed(project, 1, statement.removeprefix("raise ").partition("(")[0])
    assert "run `flask db-migrate up` again" in done.stdout or "flask db-migrate up" in done.stderr


def test_a_keyboard_interrupt_ends_the_run_even_with_continue_on_error(project: Project) -> None:
    project.write("1_stop", "def up(db):\n    raise KeyboardInterrupt\n")
    project.write_inserts(2)
    result = project.invoke("up", "--continue-on-error")
    assert result.exit_code == 1
    assert project.statuses() == {1: "failed"}
    assert result.stderr.rstrip().endswith("To continue: flask db-migrate up")


def test_the_password_of_a_uri_in_an_exception_is_neither_shown_nor_recorded(
    project: Project,
) -> None:
    project.write(
        "1_leak", f"def up(db):\n    raise ValueError('mongodb://anna:{PASSWORD}@db/shop')\n"
    )
    result = project.invoke("up")
    error = recorded_as_failed(project, 1, "ValueError")
    assert "mongodb://***@db/shop" in error["message"]
    # The traceback quotes the source line too.
    assert PASSWORD not in result.output + str(project.record(1))
    for args in (("status",), ("status", "--json"), ("history", "1"), ("history", "--json")):
        assert PASSWORD not in project.invoke(*args).output


# --- applied files


def applied(project: Project) -> Path:
    """Apply one migration and return its file."""
    project.write_inserts(1)
    assert project.invoke("up").exit_code == 0
    return project.migrations / "1_insert.py"


def still_applied(project: Project) -> None:
    assert project.statuses() == {1: "completed"}
    assert project.trail(1) == ["started", "completed"]
    assert project.db.done.count_documents({"version": 1}) == 1
    assert project.runner().lock() is None


def test_an_applied_file_that_is_gone_is_shown_warned_of_and_not_undone(project: Project) -> None:
    applied(project).unlink()
    assert "file missing" in project.invoke("status", "--all").stdout
    assert project.invoke("status", "--check").exit_code == 4
    up = project.invoke("up")
    assert (up.exit_code, "its file is missing" in up.stderr) == (0, True)
    message = refused(
        project.invoke("down"), 5, "1 (insert)", "its file is missing", "Nothing was rolled back"
    )
    assert message.rstrip().endswith("then try again.")
    still_applied(project)


def test_an_applied_file_that_changed_is_shown_warned_of_and_not_undone(project: Project) -> None:
    path = applied(project)
    path.write_text(path.read_text(encoding="utf-8") + "\nEDITED = True\n", encoding="utf-8")
    assert "changed since" in project.invoke("status", "--all").stdout
    up = project.invoke("up")
    assert (up.exit_code, "1 (insert) has changed since" in up.stderr) == (0, True)
    message = refused(
        project.invoke("down"), 5, "1 (insert)", "1_insert.py", "Nothing was rolled back"
    )
    assert "`flask db-migrate down --allow-drift`" in message
    assert message.rstrip().endswith("`flask db-migrate resolve 1 --accept-file --reason TEXT`.")
    still_applied(project)


def test_down_on_a_non_reversible_one_undoes_nothing_at_all(project: Project) -> None:
    project.write("1_archive", "def up(db): db.done.insert_one({'version': 1})\n")
    project.invoke("up")
    message = refused(project.invoke("down"), 5, "1 (archive)", "1_archive.py has no down()")
    assert "Write a down() in that file, or write a new migration" in message
    still_applied(project)


def test_one_irreversible_step_refuses_all_of_them_before_the_first_is_undone(
    project: Project,
) -> None:
    project.write("1_archive", "def up(db): db.done.insert_one({'version': 1})\n")
    project.write_inserts(2)
    project.invoke("up")
    refused(project.invoke("down", "--steps", "2"), 5, "1 (archive)", "Nothing was rolled back")
    assert project.statuses() == {1: "completed", 2: "completed"}
    assert project.db.done.count_documents({}) == 2


# --- parameters


@pytest.mark.parametrize("steps", ["0", "-1"])
def test_steps_below_one_are_refused_with_what_to_type(project: Project, steps: str) -> None:
    applied(project)
    refused(project.invoke("down", "--steps", steps), 2, f"steps is {steps}", "`--steps 1`")
    still_applied(project)


def test_more_steps_than_are_applied_are_refused_with_how_many_there_are(project: Project) -> None:
    applied(project)
    project.write_inserts(2)
    message = refused(project.invoke("down", "--steps", "5"), 2, "5 migrations", "only 1")
    assert message.rstrip().endswith(": `--steps 1`.")
    still_applied(project)


def test_a_limit_of_zero_is_refused_with_what_to_type(project: Project) -> None:
    refused(project.invoke("history", "--limit", "0"), 2, "`--limit 50 --skip 0`")
    refused(project.invoke("history", "--skip", "-1"), 2, "`--limit 50 --skip 0`")


def test_an_empty_name_is_refused_with_an_example(project: Project) -> None:
    refused(project.invoke("create", "  "), 2, '"add user index"')
    assert list(project.migrations.iterdir()) == []


# --- the lock


@pytest.mark.parametrize("command", [("up",), ("down",)])
def test_a_held_lock_says_who_since_when_until_when_and_what_to_do(
    project: Project, command: tuple[str, ...]
) -> None:
    applied(project)
    project.write_inserts(2)
    with project.runner().lease.hold(Actor.current("a long run")):
        lock = project.db.migration_locks.find_one() or {}
        message = refused(
            project.invoke(*command),
            3,
            f"{lock['lockedBy']} (a long run) holds the lock",
            f"since {lock['lockedAt']:%Y-%m-%d %H:%M:%S} UTC",
            f"expires at {lock['expiresAt']:%Y-%m-%d %H:%M:%S} UTC",
            "--wait SECONDS",
        )
        assert message.rstrip().endswith("`flask db-migrate force-unlock --confirm`.")
        assert project.db.migration_locks.find_one() == lock
    still_applied(project)
