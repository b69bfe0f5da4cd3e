"""A command's process ends without waiting for the driver, and the application's exit handlers run."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from pymongo import periodic_executor

if TYPE_CHECKING:
    from pathlib import Path

    from pymongo.database import Database

    from tests.project import Project

APP = """
import atexit, json, os, sys
from flask import Flask
from flask_migrate_mongo import MongoMigrate
import pymongo
from pymongo import periodic_executor

app = Flask(__name__)
client = {client}
MongoMigrate(app, client)


def seen(name, **more):
    threads = [ref() for ref in list(periodic_executor._EXECUTORS)]
    with open({out!r}, "a") as file:
        file.write(json.dumps({{"name": name, "joined": len(threads), **more}}) + "\\n")


def last():
    answers = client is None or client.admin.command("ping")["ok"] == 1
    seen("registered first", answers=answers)


atexit.register(last)
"""


def write_app(project: Project, client: str) -> Path:
    out = project.root / "seen"
    (project.root / "app.py").write_text(APP.format(client=client, out=str(out)), encoding="utf-8")
    return out


@pytest.mark.parametrize("client", ["None", "pymongo.MongoClient(os.environ['MONGO_URI'])"])
@pytest.mark.parametrize("command", ["status", "up", "down"])
def test_no_driver_thread_delays_the_exit_and_exit_handlers_run(
    project: Project, client: str, command: str
) -> None:
    out = write_app(project, client)
    project.write_inserts(20261101001)
    run = project.run(command)
    assert (run.returncode, run.stderr.count("Error")) == (0, 0), run.stderr
    # pymongo's handler, which joins those in the set, was registered before the application's.
    assert json.loads(out.read_text(encoding="utf-8")) == {
        "name": "registered first",
        "joined": 0,
        "answers": True,
    }


JOINING_APP = """
import atexit, threading
from flask import Flask
from flask_migrate_mongo import MongoMigrate

joined, join = [], threading.Thread.join


def noting_join(thread, timeout=None):
    joined.append(thread.name)
    join(thread, timeout)


threading.Thread.join = noting_join
atexit.register(lambda: open({out!r}, "w").write(" ".join(joined)))
app = Flask(__name__)
MongoMigrate(app)
"""


@pytest.mark.parametrize("command", ["status", "up", "down", "plan"])
def test_no_driver_thread_delays_the_exit_where_only_the_command_uses_the_driver(
    project: Project, command: str
) -> None:
    out = project.root / "joined"
    (project.root / "app.py").write_text(JOINING_APP.format(out=str(out)), encoding="utf-8")
    project.write_inserts(20261101001)
    assert project.run(command).returncode == 0
    waited = [name for name in out.read_text(encoding="utf-8").split() if "pymongo" in name]
    assert [name for name in waited if "monitor" in name or "kill" in name] == []


def test_a_command_that_fails_exits_promptly_too(project: Project) -> None:
    out = write_app(project, "None")
    project.write("20261101001_fails", "def up(db):\n    raise ValueError('no')\n")
    assert project.run("up").returncode == 1
    assert json.loads(out.read_text(encoding="utf-8"))["joined"] == 0


def test_a_process_that_was_started_for_something_else_waits_for_them(project: Project) -> None:
    out = write_app(project, "None")
    script = "import app; r = app.app.test_cli_runner().invoke(args=['db-migrate', 'status'])\n"
    script += "assert r.exit_code == 0, r.output"
    subprocess.run(
        [sys.executable, "-c", script],
        env=project.environ(PYTHONPATH=f"{project.root}:{project.environ()['PYTHONPATH']}"),
        cwd=project.root,
        check=True,
        timeout=60,
    )
    assert json.loads(out.read_text(encoding="utf-8"))["joined"] > 0


def test_pymongo_keeps_its_threads_under_the_name_that_we_clear(
    db: Database[dict[str, object]],
) -> None:
    db.client.admin.command("ping")
    executors = [ref() for ref in periodic_executor._EXECUTORS]
    assert any(isinstance(found, periodic_executor.PeriodicExecutor) for found in executors)
