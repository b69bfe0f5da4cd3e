"""The command line, end to end: what each command prints, where to, and its exit code."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import subprocess
import threading
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click
import pexpect
import pytest
from bson import ObjectId
from pexpect.fdpexpect import fdspawn
from pymongo import MongoClient

from flask_migrate_mongo.driver.server import Server
from flask_migrate_mongo.model.documents import MigratedDatabase
from flask_migrate_mongo.model.values import Actor
from tests.conftest import uri_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result

    from tests.project import Project

COMMANDS = (
    "status",
    "create",
    "up",
    "down",
    "history",
    "lock-status",
    "force-unlock",
    "resolve",
    "lint",
    "rehearse",
    "plan",
)
ESCAPE = "\x1b"
COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?3[0-9]m")


def one(project: Project, version: int, up: str, *, down: str | None = "pass") -> None:
    """Write a migration with this body of up()."""
    source = f"def up(db):\n    {up}\n"
    project.write(f"{version}_step", source + (f"def down(db):\n    {down}\n" if down else ""))


def failing(project: Project) -> Result:
    """Run three migrations of which the second fails."""
    project.write_inserts(1, 3)
    one(project, 2, "raise ValueError('no such field')")
    return project.invoke("up")


def held(project: Project, *args: str, **settings: object) -> Result:
    """Run a command while somebody else holds the lock."""
    with project.runner().lease.hold(Actor.current("a test")):
        return project.invoke(*args, **settings)


def document(result: Result) -> dict[str, Any]:
    """Return the one JSON document that is all of stdout."""
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def everything(project: Project) -> dict[str, Any]:
    """Return every document and every index of the database."""
    return {
        name: (list(project.db[name].find()), project.db[name].index_information())
        for name in sorted(project.db.list_collection_names())
    }


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table, below the line that names the database."""
    _, *lines = text.splitlines()
    return [line.split() for line in lines]


# --- help


def test_the_group_help_lists_every_command_and_what_each_exit_code_means(project: Project) -> None:
    result = project.invoke("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f"  {command} " in result.stdout
    for code in range(7):
        assert f"\n    {code}  " in result.stdout
    listed = result.stdout.partition("\nApply:\n")[2]
    assert "..." not in listed, "a command's summary is cut off"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_explains_it_and_each_of_its_options(
    project: Project, command: str
) -> None:
    result = project.invoke(command, "--help")
    assert result.exit_code == 0
    usage, _, rest = result.stdout.partition("\n\n")
    assert usage.startswith("Usage: ")
    summary, _, options = rest.partition("Options:")
    assert summary.strip().endswith((".", '"'))
    assert ("json" if command == "lint" else "--json ") in options
    group = project.app().cli.commands["db-migrate"]
    assert isinstance(group, click.Group)
    found = group.get_command(click.Context(group), command)
    assert found is not None
    for parameter in found.params:
        assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None), parameter


@pytest.mark.parametrize("command", ["up", "down"])
def test_up_and_down_share_the_options_of_a_run(project: Project, command: str) -> None:
    text = project.invoke(command, "--help").stdout
    assert all(
        option in text
        for option in (
            "--wait",
            "--dry-run",
            "--continue-on-error",
            "--allow-drift",
            "--steps",
            "--to",
        )
    )
    assert ("--batch" in text) is (command == "down")


# --- up


def test_up_applies_what_is_pending_and_says_so(project: Project) -> None:
    project.write_inserts(20261101001, 20261101002)
    result = project.invoke("up")
    assert result.exit_code == 0, result.output
    assert "Applied 2 migrations as batch 1" in result.stdout
    assert project.statuses() == {20261101001: "completed", 20261101002: "completed"}
    assert [d["version"] for d in project.db.done.find()] == [20261101001, 20261101002]


def test_up_prints_one_line_for_each_migration_with_how_long_it_took(project: Project) -> None:
    project.write_inserts(1)
    one(project, 2, "db.slow.insert_one({}); __import__('time').sleep(0.02)")
    result = project.invoke("up")
    lines = result.stdout.splitlines()
    assert [line.partition(" in ")[0] for line in lines[-3:]] == [
        "✓ 1 insert  applied",
        "✓ 2 step  applied",
        "Applied 2 migrations as batch 1",
    ]
    took, unit = lines[-2].partition(" in ")[2].split()
    assert float(took) >= (20 if unit == "ms" else 1)
    assert unit in {"ms", "s"}
    assert project.result(result.stderr) == ""


def test_up_in_a_pipe_gives_one_plain_line_a_migration_on_stdout(project: Project) -> None:
    project.write("1_n", f"name = {'long name ' * 30!r}\ndef up(db): pass")
    result = project.invoke("up")
    assert ("long name " * 30).strip() in result.stdout.splitlines()[-2]
    assert ESCAPE not in result.output


def test_up_says_how_long_the_run_took_with_its_records(project: Project) -> None:
    for version in range(1, 31):
        one(project, version, f"return {version}")
    report = document(project.invoke("up", "--json"))
    assert report["executionTime"] > sum(step["executionTime"] for step in report["steps"])


def test_up_json_is_the_report_of_the_run(project: Project) -> None:
    project.write_inserts(1)
    project.write("2_tx", "transactional = True\ndef up(db): db.done.insert_one({})")
    result = project.invoke("up", "--json")
    assert result.exit_code == 0
    report = document(result)
    assert {k: report[k] for k in ("direction", "executed", "batch", "warnings", "error")} == {
        "direction": "up",
        "executed": True,
        "batch": 1,
        "warnings": [],
        "error": None,
    }
    assert report["runId"] == project.record(1)["metadata"]["runId"]
    assert [
        (s["version"], s["state"], s["transactional"], s["reversible"]) for s in report["steps"]
    ] == [
        ("1", "applied", False, True),
        ("2", "applied", True, False),
    ]
    assert all(isinstance(step["executionTime"], int) for step in report["steps"])


def test_progress_goes_to_stderr_with_json_too(project: Project) -> None:
    project.write_inserts(1)
    result = project.invoke("up", "--json")
    assert "✓ 1 insert  applied" in result.stderr
    assert document(result)["steps"][0]["version"] == "1"


@pytest.mark.parametrize(
    ("command", "nothing"),
    [
        ("up", "Nothing to do: every migration is applied."),
        ("down", "Nothing to do: no migration is applied."),
        ("force-unlock", "Nothing to do: the lock is free."),
    ],
)
def test_with_nothing_to_do_a_command_says_so_and_writes_nothing(
    project: Project, command: str, nothing: str
) -> None:
    result = project.invoke(command)
    assert result.exit_code == 0
    assert project.result(result.stdout).strip() == nothing
    assert project.db.list_collection_names() == []


def test_a_second_up_has_nothing_to_do_and_changes_no_record(project: Project) -> None:
    project.write_inserts(1, 2)
    project.invoke("up")
    before = everything(project)
    result = project.invoke("up")
    nothing = "Nothing to do: every migration is applied.\n"
    assert (result.exit_code, project.result(result.stdout)) == (0, nothing)
    assert everything(project) == before


def test_a_no_op_is_a_report_without_steps_in_json(project: Project) -> None:
    report = document(project.invoke("up", "--json"))
    assert (report["steps"], report["executed"], report["error"]) == ([], False, None)


def test_a_failure_ends_the_run_with_what_was_applied_what_failed_and_what_is_left(
    project: Project,
) -> None:
    result = failing(project)
    assert result.exit_code == 1
    assert "✓ 1 insert  applied" in result.stdout
    assert "Applied 1 migration as batch 1" in result.stdout
    assert "1 later migration was not run." in result.stdout
    assert result.stderr.splitlines()[2:] == [
        "  migrations/2_step.py:2 in up()  raise ValueError('no such field')",
        "  ValueError: no such field",
        "  Not transactional: what it wrote before line 2 stays.",
        "Fix the file, then: flask db-migrate up",
        "Traceback: -v, or flask db-migrate show 2",
    ]
    assert project.statuses() == {1: "completed", 2: "failed"}


@pytest.mark.parametrize("args", [("-v", "up"), ("up", "-v"), ("up", "--dry-run", "-v")])
def test_a_traceback_is_shown_on_demand_alone(project: Project, args: tuple[str, ...]) -> None:
    one(project, 1, "raise ValueError('no such field')")
    shown = project.invoke(*args).output
    assert shown.count("Traceback (most recent call last)") == 1
    assert "Traceback: -v" not in shown
    without = project.invoke(*(arg for arg in args if arg != "-v")).output
    assert "Traceback (most recent call last)" not in without
    assert without.count("no such field") == 2, "the line of the migration, and the error"


def test_a_failure_in_json_is_in_its_step_with_type_message_and_traceback(project: Project) -> None:
    project.write_inserts(1)
    one(project, 2, "raise ValueError('no such field')")
    result = project.invoke("up", "--json")
    assert result.exit_code == 1
    applied, failed = document(result)["steps"]
    assert (applied["state"], failed["state"]) == ("applied", "failed")
    assert (failed["error"]["type"], failed["error"]["message"]) == ("ValueError", "no such field")
    assert "2_step.py" in failed["error"]["traceback"]


@pytest.mark.parametrize(
    ("command", "fails", "fixed"),
    [
        ("up", "def up(db): 1 / 0", "def up(db): pass"),
        ("up", "transactional = True\ndef up(db): 1 / 0", "def up(db): pass"),
        (
            "up",
            "def up(db, ctx): ctx.backfill('done', lambda document: 1 / 0)",
            "def up(db, ctx): ctx.backfill('done', {'$set': {'x': 1}})",
        ),
        (
            "down",
            "def up(db): pass\ndef down(db): 1 / 0",
            "def up(db): pass\ndef down(db): pass",
        ),
    ],
)
def test_what_a_failure_says_to_type_after_the_file_is_fixed_works(
    project: Project, command: str, fails: str, fixed: str
) -> None:
    project.db.done.insert_one({})
    project.write("1_step", fails)
    if command == "down":
        project.invoke("up")
    failed = project.invoke(command)
    assert failed.exit_code == 1
    (advice,) = re.findall(
        "^Fix the file, then: flask db-migrate (.+)$", failed.stderr, re.MULTILINE
    )
    project.write("1_step", fixed)
    done = project.invoke(*advice.split())
    assert done.exit_code == 0, done.output


def test_continue_on_error_goes_on_and_still_exits_with_1(project: Project) -> None:
    project.write_inserts(1, 3)
    one(project, 2, "1 / 0")
    result = project.invoke("up", "--continue-on-error")
    assert result.exit_code == 1
    assert project.statuses() == {1: "completed", 2: "failed", 3: "completed"}
    assert "Applied 2 migrations" in result.stdout
    assert "ZeroDivisionError" in result.stderr


def test_a_mended_migration_is_applied_by_the_next_up(project: Project) -> None:
    failing(project)
    one(project, 2, "db.done.insert_one({'version': 2})")
    result = project.invoke("up")
    assert (result.exit_code, [d["version"] for d in project.db.done.find()]) == (0, [1, 2, 3])


def test_warnings_go_to_stderr_and_into_the_json_document(project: Project) -> None:
    project.write_inserts(2)
    project.invoke("up")
    project.write_inserts(1)
    plan = project.invoke("up", "--dry-run")
    assert "Warning: 1 (insert) is out of order" in plan.stderr
    assert "Warning" not in plan.stdout
    report = document(project.invoke("up", "--json"))
    assert report["warnings"] == ["1 (insert) is out of order: higher ones are applied."]
    assert report["steps"][0]["outOfOrder"] is True


# --- dry run


@pytest.mark.parametrize("form", [(), ("--json",)])
@pytest.mark.parametrize("command", [("up",), ("down", "--steps", "2")])
def test_a_dry_run_leaves_every_collection_index_and_record_as_it_was(
    project: Project, command: tuple[str, ...], form: tuple[str, ...]
) -> None:
    project.write_inserts(1, 2)
    project.invoke("up")
    project.write_inserts(3)
    before = everything(project)
    result = project.invoke(*command, "--dry-run", *form)
    assert result.exit_code == 0, result.output
    assert everything(project) == before
    assert set(before) == {"done", "migrations", "migration_locks"}


def test_a_dry_run_on_a_fresh_database_creates_nothing(project: Project) -> None:
    project.write_inserts(1)
    project.invoke("up", "--dry-run")
    assert project.db.list_collection_names() == []


def test_a_dry_run_prints_what_each_migration_would_do_in_order(project: Project) -> None:
    project.write_inserts(1)
    project.write("2_tx", "transactional = True\ndef up(db): pass")
    result = project.invoke("up", "--dry-run")
    shown = project.result(result.stdout).splitlines()
    assert re.fullmatch(r"✓ 1 insert  would succeed \(\d+ ms, [\d,]+ documents/s\)", shown[0])
    assert shown[1] == "  done: 1 inserted"
    assert re.fullmatch(r"✓ 2 tx  would succeed \(\d+ ms\)", shown[-2])
    assert shown[-1] == (
        "Dry run of 2 migrations: 2 would succeed. Everything was rolled back: nothing was changed."
    )


def test_a_dry_run_in_json_says_what_each_migration_would_do(project: Project) -> None:
    project.write_inserts(1)
    report = document(project.invoke("up", "--dry-run", "--json"))
    assert (report["executed"], report["dryRun"]) == (True, True)
    (step,) = report["steps"]
    assert (step["version"], step["state"], step["verdict"]) == ("1", "not-run", "would succeed")
    nothing = dict.fromkeys(("matched", "modified", "deleted", "upserted"), 0)
    assert step["effects"] == {"done": {"inserted": 1, **nothing}}
    assert step["executionTime"] >= 0


def test_a_dry_run_of_what_would_fail_exits_with_1(project: Project) -> None:
    project.write("1_bad", "def up(db): raise ValueError('no such field')")
    result = project.invoke("up", "--dry-run")
    assert result.exit_code == 1
    shown = project.result(result.stdout).splitlines()
    assert re.fullmatch(r"✗ 1 bad  would fail \(\d+ ms\)", shown[0])
    assert shown[1:3] == [
        "  migrations/1_bad.py:1 in up()  def up(db): raise ValueError('no such field')",
        "  ValueError: no such field",
    ]


@pytest.mark.parametrize("option", [("--samples", "1"), ("--dry-run-limit", "3")])
def test_what_belongs_to_a_dry_run_is_refused_without_one(
    project: Project, option: tuple[str, str]
) -> None:
    project.write_inserts(1)
    result = project.invoke("up", *option)
    assert result.exit_code == 2
    assert f"{option[0]} does not go with this" in result.stderr
    assert "need --dry-run" in result.stderr
    assert project.statuses() == {}


def test_a_dry_run_is_possible_while_somebody_else_holds_the_lock(project: Project) -> None:
    project.write_inserts(1)
    assert held(project, "up", "--dry-run").exit_code == 0


# --- down


def test_down_undoes_the_last_one_only(project: Project) -> None:
    project.write_inserts(1, 2, 3)
    project.invoke("up")
    result = project.invoke("down")
    assert result.exit_code == 0
    assert "Rolled back 1 migration in" in result.stdout
    assert project.statuses() == {1: "completed", 2: "completed", 3: "rolled-back"}
    assert [d["version"] for d in project.db.done.find()] == [1, 2]


def test_down_steps_undoes_so_many_the_last_one_first(project: Project) -> None:
    project.write_inserts(1, 2, 3)
    project.invoke("up")
    report = document(project.invoke("down", "--steps", "2", "--json"))
    assert [(s["version"], s["state"]) for s in report["steps"]] == [
        ("3", "rolled-back"),
        ("2", "rolled-back"),
    ]
    assert (report["direction"], report["batch"]) == ("down", None)
    assert [d["version"] for d in project.db.done.find()] == [1]


def test_down_allow_drift_undoes_with_the_file_as_it_is_now(project: Project) -> None:
    project.write_inserts(1)
    project.invoke("up")
    file = project.migrations / "1_insert.py"
    file.write_text(file.read_text(encoding="utf-8") + "EDITED = True", encoding="utf-8")
    assert project.invoke("down").exit_code == 5
    assert project.invoke("down", "--allow-drift").exit_code == 0
    assert project.statuses() == {1: "rolled-back"}


def test_what_was_undone_is_pending_again_and_up_applies_it_in_a_new_batch(
    project: Project,
) -> None:
    project.write_inserts(1)
    project.invoke("up")
    project.invoke("down")
    assert document(project.invoke("status", "--json"))["summary"]["pending"] == 1
    assert "as batch 2" in project.invoke("up").stdout


# --- status


def test_status_shows_what_is_applied_failed_and_pending_with_the_totals(project: Project) -> None:
    failing(project)
    result = project.invoke("status", "--all")
    assert result.exit_code == 0
    table = rows(result.stdout)
    assert table[0][:3] == ["Version", "Name", "State"]
    assert [row[:3] for row in table[1:4]] == [
        ["1", "insert", "applied"],
        ["2", "step", "failed"],
        ["3", "insert", "pending"],
    ]
    assert "2 failed: ValueError: no such field" in result.stdout
    assert "3 migrations: 1 applied, 1 pending, 1 failed." in result.stdout
    today = f"{datetime.now(timezone.utc):%Y-%m-}"
    assert today in result.stdout.splitlines()[2]


def test_status_json_is_the_status_document(project: Project) -> None:
    failing(project)
    status = document(project.invoke("status", "--json"))
    applied, failed, pending = status["applied"][0], status["failed"][0], status["pending"][0]
    assert (applied["version"], applied["name"], applied["batch"]) == ("1", "insert", 1)
    assert datetime.fromisoformat(applied["appliedAt"].replace("Z", "+00:00")).tzinfo is not None
    assert applied["appliedAt"].endswith("Z")
    assert isinstance(applied["executionTime"], int)
    assert failed["error"]["message"] == "no such field"
    assert (pending["version"], pending["reversible"]) == ("3", True)
    assert status["locked"] is None
    assert {k: status["summary"][k] for k in ("total", "applied", "pending", "failed")} == {
        "total": 3,
        "applied": 1,
        "pending": 1,
        "failed": 1,
    }


def test_status_takes_no_lock_writes_nothing_and_executes_no_migration(project: Project) -> None:
    project.write("1_bang", "raise SystemExit('executed')\ndef up(db): pass")
    result = held(project, "status")
    assert result.exit_code == 0, result.output
    assert "bang" in result.stdout
    assert "migrations" not in project.db.list_collection_names()


def test_status_shows_who_holds_the_lock(project: Project) -> None:
    result = held(project, "status")
    assert f":{os.getpid()}" in result.stdout
    assert "(a test)" in result.stdout
    locked = document(held(project, "status", "--json"))["locked"]
    assert (locked["pid"], locked["reason"]) == (os.getpid(), "a test")


def test_status_names_numbered_files_that_do_not_end_in_py(project: Project) -> None:
    project.write("1_forgotten.txt", "")
    assert "1_forgotten.txt" in project.invoke("status").stdout
    assert document(project.invoke("status", "--json"))["ignored"] == ["1_forgotten.txt"]


def test_status_check_is_0_when_everything_is_applied_as_its_file_says(project: Project) -> None:
    project.write_inserts(1)
    project.invoke("up")
    assert project.invoke("status", "--check").exit_code == 0


def test_status_check_is_4_when_something_is_pending(project: Project) -> None:
    project.write_inserts(1)
    result = project.invoke("status", "--check", "--json")
    assert result.exit_code == 4
    assert document(result)["summary"]["pending"] == 1


def test_status_check_is_4_when_something_failed(project: Project) -> None:
    one(project, 1, "1 / 0")
    project.invoke("up")
    assert project.invoke("status", "--check").exit_code == 4


@pytest.mark.parametrize("what", ["changed", "gone"])
def test_status_check_is_4_when_an_applied_file_changed_or_is_gone(
    project: Project, what: str
) -> None:
    project.write_inserts(1)
    project.invoke("up")
    file = project.migrations / "1_insert.py"
    if what == "gone":
        file.unlink()
    else:
        file.write_text(file.read_text(encoding="utf-8") + "EDITED = True", encoding="utf-8")
    assert project.invoke("status").exit_code == 0
    assert project.invoke("status", "--check").exit_code == 4


# --- create


def test_create_prints_the_path_of_a_file_that_status_finds(project: Project) -> None:
    result = project.invoke("create", "Add User Index")
    path = project.migrations / result.stdout.strip().rpartition("/")[2]
    assert result.exit_code == 0
    assert path.is_file()
    assert path.name == f"{datetime.now(timezone.utc):%Y%m%d}001_add_user_index.py"
    assert "Add User Index" in project.invoke("status").stdout


def test_create_json_names_the_path(project: Project) -> None:
    path = document(project.invoke("create", "x", "--json"))["path"]
    assert (project.migrations / path).is_file()


def test_create_transactional_makes_one_that_runs_in_a_transaction(project: Project) -> None:
    project.invoke("create", "x", "--transactional")
    assert document(project.invoke("status", "--json"))["pending"][0]["transactional"] is True


def test_create_needs_neither_a_folder_nor_a_database(project: Project) -> None:
    project.migrations.rmdir()
    app = project.app(mongo=lambda: pytest.fail("the database was asked for"))
    result = app.test_cli_runner().invoke(args=["db-migrate", "create", "x"])
    assert result.exit_code == 0, result.output
    assert len(list(project.migrations.iterdir())) == 1


@pytest.mark.parametrize("command", [("up",), ("up", "--dry-run"), ("plan",), ("rehearse",)])
def test_a_created_migration_that_nobody_wrote_is_refused_before_anything_runs(
    project: Project, command: tuple[str, ...]
) -> None:
    project.write_inserts(1)
    project.invoke("create", "x")
    (file,) = project.migrations.glob("*_x.py")
    version = file.name.removesuffix("_x.py")
    result = project.invoke(*command)
    assert result.exit_code == 5
    assert f"NotImplementedError`: {version}. Nothing was run. Write its up()" in result.stderr
    assert "scratch database" not in result.stderr
    assert project.db.list_collection_names() == []
    assert f"{version}  x" in project.invoke("status").stdout
    assert "not written yet, not reversible" in project.invoke("status", "--all").stdout
    assert f"pending: {version} (x) is not written yet." in project.invoke("check").stdout
    assert project.invoke("up", "--to", "1").exit_code == 0


def test_a_down_that_nobody_wrote_counts_as_none(project: Project) -> None:
    project.write(
        "1_a", "def up(db): db.a.insert_one({})\ndef down(db): raise NotImplementedError\n"
    )
    assert "not reversible" in project.invoke("plan").stdout
    assert project.invoke("up").exit_code == 0
    result = project.invoke("down")
    assert result.exit_code == 5
    assert "or one that only raises NotImplementedError. Nothing was rolled back." in result.stderr


# --- history


def test_history_shows_the_records_changed_last_first(project: Project) -> None:
    project.write_inserts(1, 2)
    project.invoke("up")
    project.invoke("down")
    result = project.invoke("history")
    assert result.exit_code == 0
    table = rows(result.stdout)
    assert [row[:3] for row in table[1:]] == [
        ["2", "insert", "rolled-back"],
        ["1", "insert", "applied"],
    ]


def test_history_limit_and_skip_page_and_status_filters(project: Project) -> None:
    project.write_inserts(1, 2, 3)
    project.invoke("up")
    project.invoke("down")

    def versions(*args: str) -> list[str]:
        return [
            record["version"]
            for record in document(project.invoke("history", "--json", *args))["history"]
        ]

    assert versions() == ["3", "2", "1"]
    assert versions("--limit", "1") == ["3"]
    assert versions("--limit", "1", "--skip", "1") == ["2"]
    assert versions("--status", "completed") == ["2", "1"]
    assert versions("--status", "rolled-back") == ["3"]
    assert versions("--status", "failed") == []


def test_history_json_has_the_fields_of_a_record(project: Project) -> None:
    failing(project)
    failed, applied = document(project.invoke("history", "--json", "--limit", "2"))["history"]
    if failed["version"] != "2":
        failed, applied = applied, failed
    assert (failed["status"], failed["error"]["type"]) == ("failed", "ValueError")
    assert set(failed) >= {
        "version",
        "name",
        "description",
        "status",
        "appliedAt",
        "rolledBackAt",
        "executionTime",
        "error",
        "reversible",
        "batch",
    }


def test_history_of_a_version_is_its_trail_the_oldest_first(project: Project) -> None:
    failing(project)
    one(project, 2, "pass")
    project.invoke("up")
    trail = document(project.invoke("history", "2", "--json"))["events"]
    assert [event["event"] for event in trail] == ["started", "failed", "started", "completed"]
    assert trail[1]["error"]["message"] == "no such field"
    text = project.invoke("history", "2").stdout
    assert "ValueError: no such field" in text
    assert f":{os.getpid()}" in text


def test_history_events_is_the_trail_of_everything_and_of_the_lock(project: Project) -> None:
    project.write_inserts(1, 2)
    project.invoke("up")
    held(project, "force-unlock", "--confirm")
    trail = document(project.invoke("history", "--events", "--json"))["events"]
    assert [(event["version"], event["event"]) for event in trail] == [
        ("1", "started"),
        ("1", "completed"),
        ("2", "started"),
        ("2", "completed"),
        (None, "unlocked"),
    ]


def test_an_empty_history_says_that_it_is(project: Project) -> None:
    records, events = (project.invoke("history", *way).stdout for way in ((), ("--events",)))
    assert project.result(records) == "Nothing is recorded.\n"
    assert project.result(events) == "Nothing has happened yet.\n"
    assert document(project.invoke("history", "--json"))["history"] == []


@pytest.mark.parametrize("option", [("--limit", "5"), ("--skip", "1"), ("--status", "failed")])
@pytest.mark.parametrize("what", ["7", "--events"])
def test_history_refuses_to_page_a_trail_rather_than_ignore_it(
    project: Project, what: str, option: tuple[str, str]
) -> None:
    result = project.invoke("history", what, *option)
    assert result.exit_code == 2
    assert f"{option[0]} does not go with this" in result.stderr


# --- the lock


def test_lock_status_says_that_the_lock_is_free(project: Project) -> None:
    assert project.result(project.invoke("lock-status").stdout) == "The lock is free.\n"
    found = document(project.invoke("lock-status", "--json"))
    assert (found["locked"], found["lock"]) == (False, None)


def test_lock_status_says_who_holds_it_since_when_and_until_when(project: Project) -> None:
    with project.runner().lease.hold(Actor.current("a test")):
        stored = project.db.migration_locks.find_one() or {}
        text = project.invoke("lock-status").stdout
        lock = document(project.invoke("lock-status", "--json"))
    for fact in (
        stored["lockedBy"],
        "a test",
        *(f"{stored[f]:%Y-%m-%d %H:%M:%S}" for f in ("lockedAt", "expiresAt")),
    ):
        assert fact in text
    assert lock["locked"] is True
    assert lock["lock"]["lockedBy"] == stored["lockedBy"]
    assert lock["lock"]["lockedAt"].startswith(f"{stored['lockedAt']:%Y-%m-%dT%H:%M:%S}")
    assert lock["lock"]["expired"] is False


def test_lock_status_says_of_an_expired_lock_that_it_holds_nobody_off(project: Project) -> None:
    with project.runner().lease.hold(Actor.current("a test")):
        project.db.migration_locks.update_one(
            {}, {"$set": {"expiresAt": datetime(2020, 1, 1, tzinfo=timezone.utc)}}
        )
        text = project.invoke("lock-status").stdout
        lock = document(project.invoke("lock-status", "--json"))
    assert "It expired at 2020-01-01 00:00:00 UTC. The next run takes it over." in text
    assert (lock["locked"], lock["lock"]["expired"]) == (False, True)


def test_force_unlock_without_confirm_says_who_holds_it_and_releases_nothing(
    project: Project,
) -> None:
    with project.runner().lease.hold(Actor.current("a test")):
        result = project.invoke("force-unlock")
        assert project.runner().lock() is not None
    assert result.exit_code == 2
    assert f"pid {os.getpid()}" in result.stderr
    assert "flask db-migrate force-unlock --confirm" in result.stderr


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_force_unlock_confirm_releases_whoever_holds_it(
    project: Project, form: tuple[str, ...]
) -> None:
    with project.runner().lease.hold(Actor.current("a test")):
        result = project.invoke("force-unlock", "--confirm", *form)
        assert project.runner().lock() is None
    assert result.exit_code == 0
    if form:
        assert document(result)["released"]["reason"] == "a test"
    else:
        assert project.result(result.stdout).startswith("Released the lock of ")


def test_wait_waits_for_the_lock_and_then_runs(project: Project) -> None:
    project.write_inserts(1)
    taken, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with project.runner().lease.hold(Actor.current("a test")):
            taken.set()
            let_go.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(30)
    timer = threading.Timer(0.3, let_go.set)
    timer.start()
    result = project.invoke("up", "--wait", "30")
    holder.join()
    timer.join()
    assert result.exit_code == 0, result.output
    assert let_go.is_set()
    assert project.statuses() == {1: "completed"}


def test_wait_gives_up_after_so_many_seconds(project: Project) -> None:
    project.write_inserts(1)
    began = time.monotonic()
    result = held(project, "up", "--wait", "0.4")
    assert result.exit_code == 3
    assert 0.4 <= time.monotonic() - began < 10
    assert project.db.done.count_documents({}) == 0


# --- resolve


def test_resolve_records_what_is_true_of_a_failed_migration_and_why(project: Project) -> None:
    failing(project)
    result = project.invoke("resolve", "2", "--applied", "--reason", "done by hand")
    assert result.exit_code == 0, result.output
    assert rows(result.stdout)[1][:3] == ["2", "step", "applied"]
    event = document(project.invoke("history", "2", "--json"))["events"][-1]
    assert (event["event"], event["applied"], event["reason"]) == ("resolved", True, "done by hand")


def test_resolve_not_applied_makes_it_pending_again(project: Project) -> None:
    project.write_inserts(1)
    project.invoke("up")
    result = project.invoke("resolve", "1", "--not-applied", "--reason", "restored", "--json")
    assert document(result)["history"][0]["status"] == "pending"
    assert document(project.invoke("status", "--json"))["summary"]["pending"] == 1


def test_resolve_asks_for_the_answer_and_for_the_reason(project: Project) -> None:
    assert "--applied" in project.invoke("resolve", "1", "--reason", "x").stderr
    assert "--reason" in project.invoke("resolve", "1", "--applied").stderr
    empty = project.invoke("resolve", "1", "--applied", "--reason", " ")
    assert (empty.exit_code, "`--reason TEXT`" in empty.stderr) == (2, True)


def test_resolve_of_what_was_never_recorded_is_refused(project: Project) -> None:
    result = project.invoke("resolve", "9", "--applied", "--reason", "x")
    assert result.exit_code == 2
    assert "flask db-migrate status" in result.stderr


# --- exit codes and problem documents


def _failed(project: Project) -> tuple[str, ...]:
    one(project, 1, "1 / 0")
    return ("up",)


def _mistyped(project: Project) -> tuple[str, ...]:
    return ("down", "--steps", "0")


def _pending(project: Project) -> tuple[str, ...]:
    project.write_inserts(1)
    return ("status", "--check")


def _irreversible(project: Project) -> tuple[str, ...]:
    one(project, 1, "pass", down=None)
    assert project.invoke("up").exit_code == 0
    return ("down",)


def _folder_of_alembic(project: Project) -> tuple[str, ...]:
    (project.migrations / "versions").mkdir()
    (project.migrations / "env.py").touch()
    return ("status",)


@pytest.mark.parametrize("form", [(), ("--json",)])
@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (lambda _: ("up",), 0),
        (_failed, 1),
        (_mistyped, 2),
        (_pending, 4),
        (_irreversible, 5),
        (_folder_of_alembic, 6),
    ],
)
def test_every_exit_code_is_the_same_in_both_forms(
    project: Project,
    prepare: Callable[[Project], tuple[str, ...]],
    code: int,
    form: tuple[str, ...],
) -> None:
    assert project.invoke(*prepare(project), *form).exit_code == code


def test_a_process_ends_with_the_exit_code_and_keeps_the_streams_apart(project: Project) -> None:
    one(project, 1, "1 / 0")
    done = project.run("up", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["steps"][0]["state"] == "failed"
    assert "1 step  failed" in done.stderr


@pytest.mark.parametrize(
    ("prepare", "code", "status"),
    [
        (_mistyped, "invalid-request", 400),
        (_irreversible, "not-reversible", 409),
        (_folder_of_alembic, "foreign-folder", 500),
    ],
)
def test_an_error_in_json_is_a_problem_document_alone_on_stdout(
    project: Project, prepare: Callable[[Project], tuple[str, ...]], code: str, status: int
) -> None:
    result = project.invoke(*prepare(project), "--json")
    problem = document(result)
    assert result.stderr == ""
    assert (problem["code"], problem["status"]) == (code, status)
    assert problem["type"].endswith(code)
    assert problem["title"]
    assert problem["detail"]


def test_a_held_lock_is_exit_code_3_and_its_own_problem(project: Project) -> None:
    project.write_inserts(1)
    assert held(project, "up").exit_code == 3
    assert document(held(project, "up", "--json"))["code"] == "lock-held"


def test_a_mistyped_option_in_json_is_a_problem_document_too(project: Project) -> None:
    result = project.invoke("down", "--json", "--steps", "many")
    assert (result.exit_code, document(result)["code"]) == (2, "invalid-request")
    assert "many" in document(result)["detail"]


def test_a_mistyped_option_in_text_says_how_it_is_used(project: Project) -> None:
    result = project.invoke("down", "--steps", "many")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage: " in result.stderr
    assert "--help" in result.stderr


def test_an_error_in_text_is_on_stderr_and_stdout_stays_empty(project: Project) -> None:
    result = project.invoke("down", "--steps", "0")
    assert result.stdout == ""
    assert project.result(result.stderr).startswith("Error: ")


def test_json_can_be_printed_whatever_the_names_and_the_encoding_of_the_stream(
    project: Project,
) -> None:
    project.write("1_n", "name = 'Größe → ✓'\ndef up(db): pass")
    done = project.run("status", "--json", PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["pending"][0]["name"] == "Größe → ✓"


def test_what_another_version_has_put_into_a_trail_can_be_printed(project: Project) -> None:
    project.write_inserts(1)
    project.invoke("up")
    at = datetime(2100, 1, 2, tzinfo=timezone.utc)
    event = {"event": "noted", "at": at, "until": at, "of": ObjectId()}
    project.db.migrations.update_one({}, {"$push": {"metadata.events": event}})
    noted = document(project.invoke("history", "1", "--json"))["events"][-1]
    assert (noted["event"], noted["until"][:10]) == ("noted", "2100-01-02")
    assert "noted" in project.invoke("history", "1").stdout


def test_a_line_break_in_the_name_of_a_file_begins_no_line_of_the_output(project: Project) -> None:
    (project.migrations / "1_a\n::error::owned.py").write_text("def up(db): 1 / 0\n")
    (project.migrations / "2_b\r::error::owned.py").write_text("def up(db):\n")
    for args in (
        ("status",),
        ("up",),
        ("plan",),
        ("check",),
        ("lint",),
        ("lint", "--format", "github"),
    ):
        result = project.invoke(*args)
        assert result.exit_code in {0, 4, 5}
        assert "has a line break" in result.output
        lines = result.output.replace("\r", "\n").split("\n")
        assert not any("owned" in line for line in lines if line.strip().startswith("::error::"))


APP_OF_FLASK_PYMONGO = """
import os
from flask import Flask
from flask_pymongo import PyMongo
from flask_migrate_mongo import MongoMigrate

app = Flask(__name__)
app.config["MONGO_URI"] = os.environ["MONGO_URI"]
MongoMigrate(app, PyMongo(app))
"""


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://localhost/shop", "Invalid URI scheme"),
        ("mongodb://localhost/shop?tls=true&tlsCAFile=/none.pem", "[Errno 2] "),
        ("mongodb+srv://no-such-name.invalid/shop", "DNS"),
    ],
)
def test_a_client_that_the_application_cannot_make_is_an_error_of_ours(
    project: Project, uri: str, said: str
) -> None:
    (project.root / "app.py").write_text(APP_OF_FLASK_PYMONGO, encoding="utf-8")
    done = project.run("status", "--json", MONGO_URI=uri)
    problem = json.loads(done.stdout)
    assert (done.returncode, problem["code"], done.stderr) == (6, "configuration", "")
    assert said in problem["detail"]
    assert "Check its connection string" in project.run("status", MONGO_URI=uri).stderr


def test_another_error_of_the_application_keeps_its_traceback(project: Project) -> None:
    (project.root / "app.py").write_text("import pymongo\n1 / 0\n", encoding="utf-8")
    done = project.run("status")
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" in done.stderr


# --- pipes and terminals


def broken(project: Project, stream: str, *args: str) -> tuple[int, str]:
    """Run with nobody reading one stream; return the exit code and the other stream."""
    nobody, end = os.pipe()
    os.close(nobody)
    other = "stderr" if stream == "stdout" else "stdout"
    streams: dict[str, Any] = {stream: end, other: subprocess.PIPE}
    with subprocess.Popen(
        project.command(*args), env=project.environ(), cwd=project.root, text=True, **streams
    ) as process:
        os.close(end)
        out, err = process.communicate(timeout=60)
    return process.returncode, out or err or ""


@pytest.mark.parametrize("args", [("status",), ("status", "--json"), ("up",)])
def test_a_pipe_that_nobody_reads_gives_no_traceback(
    project: Project, args: tuple[str, ...]
) -> None:
    project.write_inserts(1, 2)
    _, stderr = broken(project, "stdout", *args)
    assert "Traceback" not in stderr
    assert "Exception" not in stderr
    assert set(project.statuses().values()) <= {"completed"}


def test_a_run_goes_on_when_nobody_reads_its_progress(project: Project) -> None:
    project.write_inserts(1, 2)
    code, stdout = broken(project, "stderr", "up")
    assert project.statuses() == {1: "completed", 2: "completed"}
    assert (code, "Applied 2 migrations" in stdout) == (0, True)


def redirected(project: Project, to: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run with streams that a shell redirects."""
    return subprocess.run(
        ["sh", "-c", f"{shlex.join(project.command(*args))} {to}"],
        env=project.environ(),
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


NO_STREAMS = "<&- >&- 2>&-"


@pytest.mark.parametrize(
    ("to", "args", "code"),
    [
        *((to, ("up",), 1) for to in ("<&-", ">&-", "2>&-", "2>/dev/full", NO_STREAMS)),
        *((">&-", ("up", "--json"), 1), ("2>/dev/full", ("up", "--json"), 1)),
        (NO_STREAMS, ("up", "--json"), 1),
        (NO_STREAMS, ("up", "--to", "1"), 0),
        (NO_STREAMS, ("status", "--check"), 4),
        ("2>&-", ("status", "--check"), 4),
        *((to, ("down", "--nothing-like-this"), 2) for to in ("2>&-", "2>/dev/full")),
        (NO_STREAMS, ("up", "--steps", "0"), 2),
        *((to, ("create", "new"), 0) for to in (">&-", NO_STREAMS)),
    ],
)
def test_a_command_works_and_keeps_its_exit_code_without_a_stream(
    project: Project, to: str, args: tuple[str, ...], code: int
) -> None:
    one(project, 1, "print('hello'); db.done.insert_one({})")
    one(project, 2, "1 / 0")
    done = redirected(project, to, *args)
    assert done.returncode == code, done.stderr
    applied = args in {("up",), ("up", "--json"), ("up", "--to", "1")}
    assert project.db.done.count_documents({}) == applied
    assert len(list(project.migrations.glob("*_new.py"))) == (args[0] == "create")


@pytest.mark.parametrize("args", [("up",), ("up", "--json")])
@pytest.mark.parametrize(("second", "code"), [("pass", 6), ("1 / 0", 1)])
def test_a_result_that_cannot_be_written_is_an_error_and_the_work_is_done(
    project: Project, second: str, code: int, args: tuple[str, ...]
) -> None:
    one(project, 1, "db.done.insert_one({})")
    one(project, 2, second)
    done = redirected(project, ">/dev/full", *args)
    assert done.returncode == code
    assert "Error: The result could not be written: No space left on device." in done.stderr
    assert project.db.done.count_documents({}) == 1


def test_a_pipe_that_nobody_reads_changes_no_exit_code(project: Project) -> None:
    one(project, 1, "pass")
    assert broken(project, "stdout", "status")[0] == 0
    assert broken(project, "stdout", "status", "--check", "--json")[0] == 4
    assert broken(project, "stdout", "up")[0] == 0


def test_a_name_that_the_encoding_of_a_stream_lacks_stops_nothing(project: Project) -> None:
    project.write("1_n", "name = 'Größe → ✓'\ndef up(db): pass\ndef down(db): pass")
    for args, state in (
        (("up",), "completed"),
        (("status",), "completed"),
        (("down",), "rolled-back"),
    ):
        done = project.run(*args, PYTHONIOENCODING="ascii")
        assert (done.returncode, project.statuses()) == (0, {1: state}), done.stderr
        assert "Gr" in done.stdout


@contextlib.contextmanager
def terminal(project: Project, *args: str, **environ: str) -> Iterator[fdspawn]:
    """Run on a terminal of its own, and wait for the end."""
    ours, theirs = pty.openpty()
    settings = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "PYTHONUTF8": "1", **environ}
    with subprocess.Popen(
        project.command(*args),
        env=project.environ(**settings),
        cwd=project.root,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        screen = fdspawn(ours, encoding="utf-8", timeout=30)
        try:
            yield screen
            process.wait(timeout=30)
        finally:
            process.kill()
            screen.close()


@pytest.fixture
def plain_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what this environment has decided about colours."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def shown(project: Project, *args: str, **environ: str) -> str:
    """Return all that a command writes to its terminal."""
    with terminal(project, *args, **environ) as screen:
        screen.expect(pexpect.EOF)
        assert isinstance(screen.before, str)
        return screen.before


@pytest.mark.usefixtures("plain_environ")
def test_on_a_terminal_a_spinner_turns_until_the_migration_is_done(project: Project) -> None:
    go = project.root / "go"
    project.write(
        "1_wait",
        f"""
        import pathlib, time

        def up(db):
            while not pathlib.Path({str(go)!r}).exists():
                time.sleep(0.01)
        """,
    )
    with terminal(project, "up") as screen:
        for frame in "⠋⠙⠹":
            screen.expect_exact(frame)
        screen.expect_exact("1 wait")
        go.touch()
        screen.expect_exact("1 wait  ")
        screen.expect(r"applied\x1b\[0m in [0-9.]+ m?s")
        screen.expect_exact("Applied 1 migration as batch 1")
        screen.expect(pexpect.EOF)


@pytest.mark.usefixtures("plain_environ")
def test_there_are_colours_on_a_terminal_and_nowhere_else(project: Project) -> None:
    project.write_inserts(1)
    assert COLOUR.search(shown(project, "status"))
    assert COLOUR.search(shown(project, "up"))
    for args in (("status",), ("history",), ("down",), ("down", "--steps", "0")):
        done = project.run(*args, TERM="xterm-256color")
        assert ESCAPE not in done.stdout + done.stderr


@pytest.mark.usefixtures("plain_environ")
def test_no_color_is_respected_on_a_terminal(project: Project) -> None:
    project.write_inserts(1)
    for args in ("up", "status", "down"):
        assert not COLOUR.search(shown(project, args, NO_COLOR="1"))


@pytest.mark.usefixtures("plain_environ")
def test_on_a_terminal_the_result_does_not_repeat_the_progress(project: Project) -> None:
    project.write_inserts(1, 2)
    screen = shown(project, "up", NO_COLOR="1")
    assert screen.count("✓ 2 insert") == 1
    assert "Version" not in screen
    assert "Applied 2 migrations" in screen


@pytest.mark.parametrize(
    "printing",
    [
        "print('printed')",
        "sys.stdout.write('printed\\n')",
        "sys.stdout.buffer.write(b'printed\\n')",
        "sys.__stdout__.write('printed\\n')",
        "os.write(1, b'printed\\n')",
        "subprocess.run(['echo', 'printed'], check=True)",
    ],
)
@pytest.mark.parametrize("transactional", [False, True])
def test_whatever_a_migration_prints_the_document_is_alone_on_standard_output(
    project: Project, printing: str, *, transactional: bool
) -> None:
    source = (
        f"import os, subprocess, sys\ntransactional = {transactional}\ndef up(db): {printing}\n"
    )
    project.write("1_print", source)
    project.write("2_fail", f"{source}    1 / 0\n".replace("up(db): ", "up(db):\n    "))
    done = project.run("up", "--json")
    assert done.returncode == 1
    states = [step["state"] for step in json.loads(done.stdout)["steps"]]
    assert states == ["applied", "failed"]
    assert done.stdout.startswith("{")
    assert done.stderr.count("printed\n") == 2


@pytest.mark.usefixtures("plain_environ")
def test_json_has_no_colours_on_a_terminal_either(project: Project) -> None:
    project.write_inserts(1)
    assert ESCAPE not in shown(project, "status", "--json")


def test_a_name_cannot_steer_the_terminal(project: Project) -> None:
    project.write("1_n", r"name = '\x1b[31mred\x07\u202e'" + "\ndef up(db): raise ValueError(name)")
    for args in (("status",), ("up", "--dry-run"), ("up",), ("status",), ("history", "1")):
        result = project.invoke(*args)
        assert not {ESCAPE, "\x07", "\u202e"} & set(result.output)
        assert r"\x1b[31mred" in result.output


# --- the database


URIS = {
    "mongodb://anna:s3cret@127.0.0.1:1/shop?authSource=admin": ["127.0.0.1:1"],
    "mongodb://anna:s3cret@[::1]:27018/shop": ["[::1]:27018"],
    "mongodb://%2Ftmp%2Fmongodb-1.sock/shop": ["/tmp/mongodb-1.sock"],
}


@pytest.mark.parametrize(("uri", "hosts"), URIS.items())
def test_the_database_is_named_without_a_round_trip_and_without_user_and_password(
    uri: str, hosts: list[str]
) -> None:
    with MongoClient[dict[str, object]](uri, connect=False) as client:
        found = Server(client.get_default_database()).location
    assert found == MigratedDatabase("shop", tuple(hosts))
    assert str(found) == f"shop on {hosts[0]}"


def test_the_kind_of_server_is_named_once_it_is_known(
    project: Project, standalone_uri: str
) -> None:
    set_name = project.db.client.admin.command("hello")["setName"]
    assert f"(replica set {set_name})" in project.invoke("status").stdout.splitlines()[0]
    found = document(project.invoke("status", "--json"))["database"]
    assert (found["kind"], found["replicaSet"]) == ("replica-set", set_name)
    alone = project.invoke("status", MIGRATE_MONGO_URI=uri_with(standalone_uri, "shop"))
    assert alone.stdout.splitlines()[0].endswith("(standalone)")


def test_a_run_names_its_database_first_and_once_in_each_place(project: Project) -> None:
    project.write_inserts(1)
    apart = project.run("up", "--dry-run")
    for stream in (apart.stdout, apart.stderr):
        assert stream.startswith(f"{project.db.name} on ")
        assert stream.count(f"{project.db.name} on ") == 1
    joined = subprocess.run(
        [*project.command("up")],
        env=project.environ(),
        cwd=project.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    ).stdout
    assert joined.startswith(f"{project.db.name} on ")
    assert joined.count(f"{project.db.name} on ") == 1


NAMING = [
    ("status",),
    ("plan",),
    ("check",),
    ("history",),
    ("history", "--events"),
    ("show", "1"),
    ("lock-status",),
    ("doctor",),
    ("up",),
    ("down",),
    ("redo",),
    ("rehearse",),
    ("baseline", "--reason", "x"),
    ("resolve", "1", "--accept-file", "--reason", "x"),
    ("renumber", "1"),
    ("force-unlock", "--confirm"),
]


@pytest.mark.parametrize("command", NAMING, ids=" ".join)
def test_each_result_names_the_database_in_text_and_in_json(
    project: Project, command: tuple[str, ...]
) -> None:
    project.write_inserts(1)
    assert project.invoke("up").exit_code == 0
    assert document(project.invoke(*command, "--json"))["database"]["name"] == project.db.name
    if command[0] != "renumber":
        assert project.result(project.invoke(*command).stdout)


@pytest.mark.parametrize("word", ["applied", "completed"])
def test_history_knows_both_words_for_what_is_applied(project: Project, word: str) -> None:
    project.write_inserts(1)
    project.invoke("up")
    assert rows(project.invoke("history", "--status", word).stdout)[1][:3] == [
        *("1", "insert", "applied"),
    ]
    shown = document(project.invoke("history", "--status", word, "--json"))["history"]
    assert [record["status"] for record in shown] == ["completed"]
    assert "[pending|running|applied|failed|rolled-back]" in project.invoke("history", "-h").stdout
    assert project.invoke("history", "--status", "done").exit_code == 2
