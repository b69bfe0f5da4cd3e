"""What was asked for is done, or nothing is: by a run that begins late, by a stop, and by what is said to do next."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flask import abort
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect

from flask_migrate_mongo import MongoMigrate
from flask_migrate_mongo.interfaces.rest import async_runs
from flask_migrate_mongo.model.errors import InvalidRequestError, NotConfirmedError
from flask_migrate_mongo.model.values import Actor
from tests.integration.test_runs import FIRST, SECOND
from tests.interfaces.test_dashboard import dashboard
from tests.interfaces.test_dashboard_runs import read, send
from tests.interfaces.test_rest import APPLY, PREFIX, READ, RUN, TOKENS, Api
from tests.interfaces.test_rest_runs import ASYNC, slow_backfill
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.project import Project

THIRD = SECOND + 1
OVER = {"succeeded", "failed", "refused", "cancelled", "lost"}


def ended(project: Project, run_id: str) -> dict[str, Any]:
    """Wait for the end of a run, and return what is stored of it."""

    def found() -> dict[str, Any] | None:
        stored: dict[str, Any] | None = project.db.migration_runs.find_one({"_id": run_id})
        return stored if stored and stored["state"] in OVER else None

    return until(found)


def started(project: Project, api: Api, path: str = "/up") -> dict[str, Any]:
    """Start a run, and wait for its end."""
    accepted = api("POST", path, headers=ASYNC)
    assert accepted.status_code == 202, accepted.text
    return ended(project, accepted.get_json()["runId"])


# --- a run that begins late


def test_a_rollback_that_waited_for_the_lock_rolls_back_what_its_page_showed_or_nothing(
    project: Project,
) -> None:
    project.write_inserts(FIRST, SECOND)
    project.runner().up()
    project.write(
        f"{THIRD}_deployed",
        """
        import time

        def up(db):
            while db.gate.find_one() is None:
                time.sleep(0.02)
            db.done.insert_one({"version": 3})

        def down(db):
            db.done.delete_one({"version": 3})
        """,
    )
    deployment = project.spawn("up")
    until(lambda: project.db.migrations.find_one({"version": str(THIRD)}))
    api = dashboard(project, RUN, MIGRATE_LOCK_WAIT=60)
    page = read(api, "/dashboard/plan?direction=down")
    name = project.db.name
    sent = send(api, page, f"Roll back on {name}", typedName=name)
    assert sent.status_code == 303, sent.text
    project.db.gate.insert_one({})
    deployment.communicate(timeout=60)
    run = ended(project, sent.headers["Location"].rpartition("/")[2])
    assert "not the one that was confirmed" in str(run["report"]["error"])
    assert project.statuses() == dict.fromkeys((FIRST, SECOND, THIRD), "completed")


@pytest.fixture
def losing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], bool]], None]:
    """Lose the connection at writes of a run's plan: losing(lambda number: number == 1)."""
    write, seen = Collection.find_one_and_update, [0]

    def arm(is_lost: Callable[[int], bool]) -> None:
        def write_or_lose(
            self: Any, condition: Any, change: Any, *args: Any, **options: Any
        ) -> Any:
            if self.name == "migration_runs" and "steps" in change.get("$set", {}):
                seen[0] += 1
                if is_lost(seen[0]):
                    raise AutoReconnect("connection closed")
            return write(self, condition, change, *args, **options)

        monkeypatch.setattr(Collection, "find_one_and_update", write_or_lose)

    return arm


def test_an_outage_when_a_run_begins_loses_nothing_of_its_plan(
    project: Project, losing: Callable[[Callable[[int], bool]], None]
) -> None:
    project.write_inserts(FIRST, SECOND)
    losing(lambda number: number == 1)
    run = started(project, Api(project.app(MIGRATE_API_TOKEN=TOKENS), APPLY))
    assert run["state"] == "succeeded"
    assert [step["version"] for step in run["steps"]] == [str(FIRST), str(SECOND)]


def test_a_run_whose_plan_cannot_be_recorded_begins_nothing(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    losing: Callable[[Callable[[int], bool]], None],
) -> None:
    monkeypatch.setattr(async_runs, "AWAY_SECONDS", 1)
    project.write_inserts(FIRST)
    losing(lambda _: True)
    started(project, Api(project.app(MIGRATE_API_TOKEN=TOKENS), APPLY))
    assert project.statuses() == {}


def test_a_run_that_is_cancelled_before_it_has_its_plan_has_no_steps(
    project: Project, losing: Callable[[Callable[[int], bool]], None]
) -> None:
    project.write_inserts(FIRST, SECOND)

    def cancel(_: int) -> bool:
        project.db.migration_runs.update_many({}, {"$set": {"cancelRequested": True}})
        return False

    losing(cancel)
    run = started(project, Api(project.app(MIGRATE_API_TOKEN=TOKENS), APPLY))
    assert (run["state"], run["steps"]) == ("cancelled", [])
    assert project.statuses() == {}


def test_a_path_in_sys_path_is_left_out_for_the_process_of_a_run(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [tmp_path / "none", *sys.path])
    assert str(tmp_path / "none") not in async_runs._environment()["PYTHONPATH"]


def test_another_lock_than_the_one_that_was_seen_is_not_released(project: Project) -> None:
    runner = project.runner()
    with runner.lease.hold(Actor.current("one")) as grant:
        pass
    with runner.lease.hold(Actor.current("another")) as now:
        with pytest.raises(NotConfirmedError):
            runner.force_unlock(confirmed=True, fence=grant.fence)
        assert runner.lock() is not None
        assert runner.force_unlock(confirmed=True, fence=now.fence) is not None


# --- a stop


def test_cancelling_the_backfill_of_a_start_leaves_the_server_running(project: Project) -> None:
    slow_backfill(project, 3_000)
    project.command()
    (project.root / "serve.py").write_text("from app import app\nprint('serves', flush=True)\n")
    process = subprocess.Popen(
        [sys.executable, "serve.py"],
        cwd=project.root,
        env=project.environ(MIGRATE_ON_START="always"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: project.db.people.find_one({"n": 1}) or process.poll() is not None)
    assert project.invoke("cancel").exit_code == 0
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "serves\n")


# --- what is said to do next


@pytest.mark.parametrize(
    ("command", "next_one"),
    [
        ("up", "up"),
        (f"up --to {SECOND}", f"up --to {SECOND}"),
        ("up --steps 2", "up --steps 1"),
        ("up --steps 2 --dry-run", "up --steps 2 --dry-run"),
    ],
)
def test_after_a_failure_the_same_and_no_more_is_advised(
    project: Project, command: str, next_one: str
) -> None:
    project.write_inserts(FIRST, THIRD)
    project.write(f"{SECOND}_fails", "def up(db): raise ValueError")
    assert f"then: flask db-migrate {next_one}\n" in project.invoke(*command.split()).output


@pytest.mark.parametrize(
    ("command", "next_one"),
    [
        (f"down --to {FIRST}", f"down --to {FIRST} --allow-drift"),
        ("down --batch", "down --batch --allow-drift"),
        (f"redo {SECOND}", f"redo {SECOND} --allow-drift"),
    ],
)
def test_after_a_failed_rollback_the_same_is_advised(
    project: Project, command: str, next_one: str
) -> None:
    project.write_inserts(FIRST)
    project.write(f"{SECOND}_fails", "def up(db): pass\ndef down(db): raise ValueError")
    project.runner().up()
    assert f"then: flask db-migrate {next_one}\n" in project.invoke(*command.split()).output


# --- what is shown, and to whom


def test_a_reader_sees_no_values_of_documents_in_a_dry_run(project: Project) -> None:
    project.db.people.insert_many([{"_id": n, "name": "Ada Lovelace"} for n in range(2)])
    project.write(f"{FIRST}_x", 'def up(db): db.people.update_many({}, {"$set": {"n": 1}})')
    project.write(f"{SECOND}_y", 'def up(db): db.people.create_index("name", unique=True)')
    runs = dashboard(project, APPLY)
    run = started(project, runs, "/up?dryRun=true&samples=2")
    reads = dashboard(project, READ)
    for path in (
        f"/runs/{run['_id']}",
        f"/runs/{run['_id']}/events",
        f"/dashboard/runs/{run['_id']}",
    ):
        assert "Lovelace" in runs("GET", path).text, path
        assert "Lovelace" not in reads("GET", path).text, path


@pytest.mark.parametrize("fails", [lambda: abort(401), lambda: 1 / 0], ids=["abort", "an error"])
def test_health_is_answered_although_the_login_refuses_everybody_by_an_error(
    project: Project, fails: Callable[[], object]
) -> None:
    project.write_inserts(FIRST)
    project.runner().up()
    app = project.app()
    other = type(app)("other", root_path=str(project.root))
    MongoMigrate(other, project.db, authorize=lambda *_: bool(fails()))
    assert other.test_client().get(f"{PREFIX}/health").status_code == 200


def test_an_invalid_request_does_not_make_an_application_unready(project: Project) -> None:
    project.write_inserts(FIRST)
    project.runner().up()
    asked = project.app(MIGRATE_API_TOKEN=TOKENS).test_client()
    assert asked.get(f"{PREFIX}/health?ts=1").status_code == 400


@pytest.mark.parametrize("sample", [0, -5])
def test_a_sample_of_nothing_is_not_everything(project: Project, sample: int) -> None:
    project.write_inserts(FIRST)
    with pytest.raises(InvalidRequestError):
        MongoMigrate().rehearse(project.app(), sample=sample)
