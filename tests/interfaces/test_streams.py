"""What a migration prints and logs, and where the command line shows it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from flask_migrate_mongo.backfill import progress

if TYPE_CHECKING:
    from tests.project import Project

LOG = logging.getLogger("flask_migrate_mongo.migration.1")

PRINTS = """
import ctypes, os, subprocess, sys

print("at import")

def up(db):
    print("by print")
    sys.__stdout__.write("by the stream\\n")
    subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
    os.write(1, b"by the descriptor\\n")
"""

SAID = ("at import", "by print", "by the stream", "by a child", "by the descriptor")


def logs(project: Project, body: str, head: str = "") -> None:
    """Write a migration that logs."""
    project.write("1_logs", f"{head}\ndef up(db, ctx):\n    {body}\n")


# --- prints


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_standard_output_is_one_document_whatever_a_migration_prints(
    project: Project, options: tuple[str, ...]
) -> None:
    project.write("1_prints", PRINTS)
    done = project.run("up", "--json", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["direction"] == "up"
    assert [said for said in SAID if said not in done.stderr] == []


def test_an_error_is_one_document_too(project: Project) -> None:
    project.write("1_fails", f"{PRINTS}    raise ValueError\n")
    failed = project.run("up", "--json")
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["steps"][0]["state"] == "failed"
    project.write("2_broken", "print('at import')\nraise ValueError\n\ndef up(db): ...\n")
    refused = project.run("up", "--json")
    assert json.loads(refused.stdout)["code"] == "import-failed"


def test_what_an_application_prints_while_it_is_loaded_is_not_in_the_document(
    project: Project,
) -> None:
    project.command()
    path = project.root / "app.py"
    path.write_text(f"print('hello')\n{path.read_text()}")
    done = project.run("status", "--json")
    assert json.loads(done.stdout)["applied"] == []
    assert "hello" in done.stderr


def test_a_print_reaches_standard_output_in_text_form(project: Project) -> None:
    project.write("1_prints", PRINTS)
    done = project.run("up")
    assert [said for said in SAID if said not in done.stdout] == []


def test_a_test_of_an_application_gets_one_document_and_its_own_streams_back(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    project.write("1_prints", "def up(db):\n    print('by print')\n")
    result = project.invoke("up", "--json")
    assert json.loads(result.stdout)["steps"][0]["state"] == "applied"
    assert "by print" in result.stderr
    print("after it")
    assert capfd.readouterr().out == "after it\n"


def test_a_program_that_calls_the_command_line_has_its_own_output_back(project: Project) -> None:
    project.write("1_prints", PRINTS)
    script = """
        from flask.cli import ScriptInfo
        from app import app

        info = ScriptInfo(create_app=lambda: app)
        app.cli.main(["db-migrate", "up", "--json"], obj=info, standalone_mode=False)
        print("after it")
        """
    project.command()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=project.environ(),
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    document, _, after = done.stdout.rpartition("}")
    assert json.loads(document + "}")["direction"] == "up"
    assert after == "\nafter it\n"


# --- logs


def test_the_log_of_a_migration_is_shown_while_it_runs(project: Project) -> None:
    logs(project, "ctx.log.info('%d users', 12); ctx.log.warning('one is odd')")
    done = project.run("up")
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert lines.count("  12 users") == 1
    assert lines.count("  Warning: one is odd") == 1
    assert "one is odd\n" not in done.stderr.replace("  Warning: one is odd\n", "")
    assert "12 users" not in done.stdout


@pytest.mark.parametrize("options", [("--json",), ("--dry-run",), ("--dry-run", "--json")])
def test_the_log_is_shown_in_every_form_of_a_run(
    project: Project, options: tuple[str, ...]
) -> None:
    logs(project, "ctx.log.info('12 users')")
    done = project.run("up", *options)
    assert "  12 users" in done.stderr.splitlines()


def test_the_log_of_a_rehearsal_is_shown(project: Project) -> None:
    logs(project, "ctx.log.info('12 users')")
    assert "  12 users" in project.run("rehearse").stderr.splitlines()


def test_a_line_of_the_log_cannot_control_a_terminal(project: Project) -> None:
    logs(project, r"ctx.log.info('\x1b[2J')")
    assert r"  \x1b[2J" in project.run("up").stderr.splitlines()


def test_a_line_that_cannot_be_formatted_fails_no_migration(project: Project) -> None:
    logs(project, "ctx.log.info('%d', 'no number')")
    done = project.run("up")
    assert done.returncode == 0
    assert project.statuses() == {1: "completed"}


APP = """
import logging
{logging}
from flask import Flask
from flask_migrate_mongo import MongoMigrate
app = Flask(__name__)
MongoMigrate(app)
"""


@pytest.mark.parametrize(
    ("setup", "expected"),
    [
        ("logging.basicConfig(level='INFO', format='app: %(message)s')", ["app: a", "app: b"]),
        ("logging.basicConfig(format='app: %(message)s')", ["  a", "app: b"]),
        ("logging.getLogger('flask_migrate_mongo').setLevel('ERROR')", []),
    ],
)
def test_the_applications_own_logging_gets_what_it_gets_without_the_command_line(
    project: Project, setup: str, expected: list[str]
) -> None:
    (project.root / "app.py").write_text(APP.format(logging=setup))
    logs(project, "ctx.log.info('a'); ctx.log.warning('b')")
    shown = [line for line in project.run("up").stderr.splitlines() if line.endswith((" a", " b"))]
    assert shown == expected


def test_the_progress_of_a_backfill_is_not_shown_a_second_time(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0)
    project.db.shops.insert_many([{"n": n} for n in range(4)])
    logs(project, "ctx.backfill('shops', {'$set': {'x': 1}}, batch_size=2)")
    result = project.invoke("up")
    assert result.exit_code == 0
    assert "shops:" not in result.stderr


def test_nothing_of_it_stays_after_the_run(project: Project) -> None:
    before = (LOG.level, list(LOG.filters), list(LOG.handlers), LOG.propagate)
    logs(project, "ctx.log.info('12 users')")
    assert "12 users" in project.invoke("up").stderr
    assert (LOG.level, LOG.filters, LOG.handlers, LOG.propagate) == before
    project.write("1_logs", "def up(db, ctx):\n    raise ValueError\n")
    project.invoke("redo")
    assert (LOG.level, LOG.filters, LOG.handlers, LOG.propagate) == before
