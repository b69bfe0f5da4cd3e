"""A run among processes: those that its migrations start, and those that stop it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from flask_migrate_mongo.engine.options import Options
from flask_migrate_mongo.model.errors import RunStoppedError
from flask_migrate_mongo.model.reports import StepState
from tests.project import Project
from tests.server.launcher import TestServer
from tests.waiting import until

VERSION = 20261127001

STARTS = [
    pytest.param(
        method,
        marks=pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
        id=method,
    )
    for method in ("fork", "forkserver", "spawn")
]


def started(project: Project, source: str, *args: str, marks: int = 1) -> subprocess.Popen[str]:
    """Start `up` of one migration in a group of its own, and return when its code runs, in so many processes."""
    mark = project.root / "mark"
    project.write(f"{VERSION}_step", source)
    process = subprocess.Popen(
        project.command("up", *args),
        env=project.environ(MARK=str(mark), GO=str(project.root / "go")),
        cwd=project.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until(lambda: len([*project.root.glob("mark*")]) == marks or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    return process


# --- processes that a migration starts

POOL = """
from multiprocessing import get_context

from ._helpers import double


def square(number):
    return number * number


def up(db):
    with get_context("{method}").Pool(2) as pool:
        squares, doubles = pool.map(square, range(5)), pool.map(double, range(5))
    db.results.insert_one({{"squares": squares, "doubles": doubles}})
"""


@pytest.mark.parametrize("method", STARTS)
@pytest.mark.parametrize("head", ["", "transactional = True"], ids=["plain", "transactional"])
def test_a_migration_can_use_a_pool_of_processes(project: Project, method: str, head: str) -> None:
    project.write("_helpers", "def double(number):\n    return number * 2\n")
    project.write(f"{VERSION}_pool", head + POOL.format(method=method))
    done = project.run("up")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Stopped" not in done.stderr
    (found,) = project.db.results.find({}, {"_id": 0})
    assert found == {"squares": [0, 1, 4, 9, 16], "doubles": [0, 2, 4, 6, 8]}


WORKERS = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from ._helpers import step


def change(doc):
    Path(os.environ["MARK"] + str(os.getpid())).touch()
    while not Path(os.environ["GO"]).exists():
        time.sleep(0.02)
    if not Path(os.environ["GO"] + "-fast").exists():
        time.sleep(0.05)
    return {{"$inc": {{"n": step()}}}}


def up(db, ctx):
    with ProcessPoolExecutor(2, mp_context=get_context("{method}")) as executor:
        ctx.backfill("people", change, batch_size=5, workers=executor, ranges=4)
"""


# Not forkserver: Python's server of that method ends itself at SIGTERM.
@pytest.mark.parametrize("method", [STARTS[0], STARTS[2]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_for_the_whole_group_stops_the_workers_of_a_backfill_after_their_batch(
    project: Project, method: str, number: signal.Signals
) -> None:
    project.db.people.insert_many([{"_id": n} for n in range(800)])
    project.write("_helpers", "def step():\n    return 1\n")
    run = started(project, WORKERS.format(method=method), marks=2)
    os.killpg(run.pid, number)
    time.sleep(0.2)
    (project.root / "go").touch()
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 1
    assert f" by {number.name}" in stderr
    assert project.record(VERSION)["metadata"]["failure"]["type"] == "Stopped"
    changed = project.db.people.count_documents({"n": 1})
    assert 0 < changed < 800
    (project.root / "go-fast").touch()
    environ: dict[str, Any] = {"MARK": str(project.root / "mark"), "GO": str(project.root / "go")}
    assert project.run("up", **environ).returncode == 0
    assert project.db.people.count_documents({"n": 1}) == 800


# --- what stops a run

WAITS = """
import os, time
from pathlib import Path
{head}

def up(db):
    db.people.insert_one({{}})
    Path(os.environ["MARK"]).touch()
    while not Path(os.environ["GO"]).exists():
        db.people.find_one()
        time.sleep(0.02)
"""


def test_a_lost_terminal_stops_a_run_as_a_signal_does(project: Project) -> None:
    run = started(project, WAITS.format(head=""))
    run.send_signal(signal.SIGHUP)
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 1
    assert " by SIGHUP" in stderr
    assert project.runner().lock() is None
    assert project.statuses() == {VERSION: "failed"}


def test_a_run_under_nohup_goes_on_without_its_terminal(project: Project) -> None:
    mark, go = project.root / "mark", project.root / "go"
    project.write(f"{VERSION}_step", WAITS.format(head=""))
    run = subprocess.Popen(
        ["nohup", *project.command("up")],
        env=project.environ(MARK=str(mark), GO=str(go)),
        cwd=project.root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until(mark.exists)
    run.send_signal(signal.SIGHUP)
    go.touch()
    run.communicate(timeout=60)
    assert (run.returncode, project.statuses()) == (0, {VERSION: "completed"})


@pytest.mark.parametrize("head", ["", "transactional = True"], ids=["plain", "transactional"])
def test_a_signal_ends_a_run_soon_though_the_database_hangs(tmp_path: Path, head: str) -> None:
    with TestServer() as server, MongoClient[dict[str, Any]](server.uri) as client:
        project = Project(tmp_path, client.shop, server.uri.replace("/?", "/shop?"))
        run = started(project, WAITS.format(head=head))
        server.suspend()
        time.sleep(0.5)
        began = time.monotonic()
        run.send_signal(signal.SIGTERM)
        _, stderr = run.communicate(timeout=60)
        took = time.monotonic() - began
        server.resume()
    assert took < 25
    assert run.returncode == 1
    assert "could not be recorded" in stderr
    assert " step  stopped after " in stderr


@pytest.mark.parametrize("head", ["", "transactional = True"], ids=["plain", "transactional"])
def test_what_is_no_exception_ends_the_run_although_it_should_continue_on_errors(
    project: Project, head: str
) -> None:
    # gunicorn ends a worker that is too slow like this, in its handler of SIGABRT.
    project.write(f"{VERSION}_exits", f"{head}\ndef up(db):\n    raise SystemExit(1)\n")
    project.write_inserts(VERSION + 1)
    report = project.runner().up(Options(continue_on_error=True))
    assert isinstance(report.error, RunStoppedError)
    assert [o.state for o in report.outcomes] == [StepState.FAILED, StepState.NOT_RUN]
    dry = project.dry_runner().up(Options(continue_on_error=True))
    assert [o.trial.verdict.value for o in dry.outcomes if o.trial] == [
        "would fail",
        "not executed",
    ]


def test_json_says_what_was_stopped(project: Project) -> None:
    run = started(project, WAITS.format(head=""), "--json")
    run.send_signal(signal.SIGTERM)
    stdout, _ = run.communicate(timeout=60)
    assert json.loads(stdout)["error"]["code"] == "stopped"
