"""Squashed migrations: on databases that have what they replace, have none of it, or have a part."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient

from flask_migrate_mongo.files import folder
from flask_migrate_mongo.model.values import Direction
from flask_migrate_mongo.planning.plans import Target
from flask_migrate_mongo.store.history import MigrationHistory
from flask_migrate_mongo.store.records import Run
from tests.project import Project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Failpoint

PARTS = (20260101001, 20260101002, 20260101003)
LATER = 20260201001
SQUASHED = 20260301001


def squash(project: Project, *parts: int, version: int = SQUASHED, extra: str = "") -> None:
    """Write a squashed migration that inserts and deletes what its parts do."""
    listed = ", ".join(f'"{part}"' for part in parts)
    project.write(
        f"{version}_whole",
        f"""
        replaces = [{listed}]
        {extra}

        def up(db):
            db.done.insert_many([{{"version": version}} for version in {parts}])
            db.ran.insert_one({{"whole": {version}}})

        def down(db):
            db.done.delete_many({{"version": {{"$in": {list(parts)}}}}})
        """,
    )


def remove(project: Project, *versions: int) -> None:
    for version in versions:
        next(project.migrations.glob(f"{version}_*")).unlink()


def does(project: Project, *command: str, exit_code: int = 0, **settings: object) -> str:
    result = project.invoke(*command, **settings)
    assert result.exit_code == exit_code, result.output
    return result.output


def done(project: Project) -> list[int]:
    """List what migrations inserted, each as often as it was."""
    return sorted(found["version"] for found in project.db.done.find())


def whole_ran(project: Project) -> int:
    return project.db.ran.count_documents({})


def is_settled(project: Project) -> None:
    """Nothing is left to do, and no command warns of anything."""
    assert "No problem found" in does(project, "check")
    assert "missing" not in does(project, "status", "--check")
    for command in ("up", "plan"):
        output = does(project, command)
        assert "Nothing to do" in output
        assert "missing" not in output


@pytest.fixture(params=["files there", "files gone"])
def tidy(request: pytest.FixtureRequest) -> Callable[[Project], None]:
    """Leave the files of the parts in the folder, or remove them."""

    def _tidy(project: Project) -> None:
        if request.param == "files gone":
            remove(project, *PARTS)

    return _tidy


# --- all, none, some


def test_all_applied_it_is_recorded_and_does_not_run(
    project: Project, tidy: Callable[[Project], None]
) -> None:
    project.write_inserts(*PARTS)
    does(project, "up")
    squash(project, *PARTS)
    tidy(project)
    # Before it is recorded, nothing is missing.
    status = does(project, "status", "--all")
    assert "missing" not in status
    assert "3 applied, 1 pending" in status
    assert "replaced by 20260301001" in status
    found = json.loads(does(project, "check", "--json", exit_code=4))
    assert [problem["kind"] for problem in found["problems"]] == ["pending"]
    plan = does(project, "plan")
    assert "missing" not in plan
    assert "recorded, does not run" in plan
    (step,) = json.loads(does(project, "plan", "--json"))["steps"]
    assert step["recordedOnly"] is True
    output = does(project, "up")
    assert "missing" not in output
    assert "Recorded 1 migration as applied, without running it." in output
    assert whole_ran(project) == 0
    assert done(project) == list(PARTS)
    is_settled(project)
    (shown,) = json.loads(does(project, "status", "--json"))["applied"]
    assert (shown["version"], shown["origin"]) == (str(SQUASHED), "squashed")
    assert project.trail(SQUASHED) == ["squashed"]
    assert project.trail(PARTS[0])[-1] == "replaced"


def test_none_applied_it_runs(project: Project, tidy: Callable[[Project], None]) -> None:
    project.write_inserts(*PARTS)
    squash(project, *PARTS)
    tidy(project)
    found = json.loads(does(project, "check", "--json", exit_code=4))
    assert [problem["kind"] for problem in found["problems"]] == ["pending"]
    does(project, "up")
    assert whole_ran(project) == 1
    assert done(project) == list(PARTS)
    # Its file is not parsed from here on: its record says what it replaces.
    is_settled(project)
    assert project.statuses() == {SQUASHED: "completed"}
    remove(project, SQUASHED)
    assert "missing" in does(project, "up")
    assert whole_ran(project) == 1
    assert done(project) == list(PARTS)


def test_some_applied_it_is_refused_with_the_list(
    project: Project, tidy: Callable[[Project], None]
) -> None:
    project.write_inserts(*PARTS[:2])
    does(project, "up")
    project.write_inserts(PARTS[2])
    squash(project, *PARTS)
    source = {path: path.read_text() for path in project.migrations.iterdir()}
    tidy(project)
    before = list(project.db.migrations.find())
    for command in (("up",), ("plan",), ("up", "--dry-run")):
        output = does(project, *command, exit_code=5)
        assert "replaces 3 migrations, and 2 of them are applied" in output
        assert "20260101003 (not applied). Nothing was run" in output
    found = json.loads(does(project, "check", "--json", exit_code=4))
    assert [problem["kind"] for problem in found["problems"]] == ["partly-squashed"]
    assert "missing" not in does(project, "status", "--all")
    assert done(project) == list(PARTS[:2])
    assert list(project.db.migrations.find()) == before
    # What the message says to do works.
    for path, text in source.items():
        path.write_text(text)
    whole = next(project.migrations.glob(f"{SQUASHED}_*"))
    aside = whole.rename(project.root / whole.name)
    does(project, "up")
    aside.rename(whole)
    does(project, "up")
    is_settled(project)
    assert whole_ran(project) == 0
    assert done(project) == list(PARTS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "failed"}, "20260101002 (failed)"),
        ({"status": "running", "metadata.runId": "another"}, "20260101002 (running)"),
        ({"metadata.downFailed": True}, "20260101002 (its down() failed)"),
        ({"status": "rolled-back"}, "20260101002 (not applied)"),
    ],
)
def test_a_part_that_failed_or_runs_is_refused(
    project: Project, changes: dict[str, object], said: str, tidy: Callable[[Project], None]
) -> None:
    project.write_inserts(*PARTS)
    does(project, "up")
    project.db.migrations.update_one({"version": str(PARTS[1])}, {"$set": changes})
    squash(project, *PARTS)
    tidy(project)
    assert said in does(project, "up", exit_code=5)
    assert whole_ran(project) == 0
    assert project.db.migrations.count_documents({}) == len(PARTS)


def test_parts_that_were_all_rolled_back_count_as_none(project: Project) -> None:
    project.write_inserts(*PARTS)
    does(project, "up")
    does(project, "down", "--steps", "3")
    squash(project, *PARTS)
    does(project, "up")
    assert whole_ran(project) == 1
    is_settled(project)


def test_a_dry_run_and_a_rehearsal_do_not_run_what_is_only_recorded(project: Project) -> None:
    project.write_inserts(*PARTS)
    does(project, "up")
    squash(project, *PARTS)
    output = does(project, "up", "--dry-run")
    assert "it is recorded and does not run" in " ".join(output.split())
    assert "Nothing to rehearse" in does(project, "rehearse")
    assert whole_ran(project) == 0
    assert project.statuses().keys() == set(PARTS)


def test_a_transactional_one_is_recorded_on_a_server_without_transactions(
    standalone_uri: str, tmp_path: Path
) -> None:
    with MongoClient[dict[str, Any]](standalone_uri) as client:
        db = client[f"t_{uuid.uuid4().hex[:12]}"]
        project = Project(tmp_path, db, standalone_uri)
        project.write_inserts(*PARTS)
        does(project, "up")
        squash(project, *PARTS, extra="transactional = True")
        does(project, "up")
        is_settled(project)
        client.drop_database(db)


# --- the order


def test_on_a_fresh_database_it_runs_in_the_place_of_its_parts(project: Project) -> None:
    project.write_inserts(LATER, collection="ran")
    squash(project, *PARTS)
    does(project, "up")
    assert [found.get("whole") for found in project.db.ran.find()] == [SQUASHED, None]
    is_settled(project)


def test_it_takes_the_place_of_its_parts_in_the_order_of_application(
    project: Project, tidy: Callable[[Project], None]
) -> None:
    project.write_inserts(*PARTS)
    does(project, "up")
    project.write_inserts(LATER)
    does(project, "up")
    squash(project, *PARTS)
    tidy(project)
    does(project, "up", MIGRATE_OUT_OF_ORDER="refuse")
    does(project, "down")
    assert done(project) == list(PARTS)
    does(project, "down")
    assert done(project) == []
    assert project.statuses()[SQUASHED] == "rolled-back"


def test_up_to_a_later_version_includes_it(project: Project) -> None:
    project.write_inserts(LATER, LATER + 1)
    squash(project, *PARTS)
    does(project, "up", "--to", str(LATER))
    assert done(project) == [*PARTS, LATER]
    # What follows it is not late, although its number is lower.
    does(project, "up", MIGRATE_OUT_OF_ORDER="refuse")


# --- down, up again, and back to the parts


def test_down_rolls_it_back_as_a_whole_and_up_runs_it(
    project: Project, tidy: Callable[[Project], None]
) -> None:
    project.write_inserts(*PARTS)
    does(project, "up")
    squash(project, *PARTS)
    tidy(project)
    does(project, "up")
    does(project, "down")
    assert done(project) == []
    found = json.loads(does(project, "status", "--json"))
    assert [entry["version"] for entry in found["pending"]] == [str(SQUASHED)]
    assert found["summary"]["total"] == 1
    does(project, "up")
    assert whole_ran(project) == 1
    assert done(project) == list(PARTS)
    is_settled(project)
    does(project, "redo", str(SQUASHED))
    assert whole_ran(project) == 2
    assert done(project) == list(PARTS)
    is_settled(project)


def test_a_squash_that_was_rolled_back_can_be_taken_out_again(project: Project) -> None:
    project.write_inserts(*PARTS)
    does(project, "up")
    squash(project, *PARTS)
    does(project, "up")
    does(project, "down")
    remove(project, SQUASHED)
    does(project, "up")
    assert done(project) == list(PARTS)
    assert whole_ran(project) == 0
    is_settled(project)


def test_forgetting_a_squash_lets_its_parts_count_again(project: Project) -> None:
    project.write_inserts(*PARTS)
    does(project, "up")
    squash(project, *PARTS)
    does(project, "up")
    remove(project, SQUASHED)
    does(project, "resolve", str(SQUASHED), "--forget", "--reason", "squashed too early")
    is_settled(project)
    assert done(project) == list(PARTS)
    assert project.trail(PARTS[0])[-1] == "restored"
    does(project, "down")
    assert done(project) == list(PARTS[:2])


def test_a_part_is_not_settled_by_itself(project: Project) -> None:
    project.write_inserts(*PARTS)
    squash(project, *PARTS)
    does(project, "up")
    for how in ("--applied", "--not-applied", "--forget", "--accept-file"):
        output = does(project, "resolve", str(PARTS[0]), how, "--reason", "r", exit_code=5)
        assert "is a part of the squashed migration 20260301001" in output


def test_a_renumbered_part_does_not_run_again(project: Project) -> None:
    project.write_inserts(*PARTS)
    does(project, "up")
    squash(project, *PARTS)
    does(project, "up")
    part = next(project.migrations.glob(f"{PARTS[0]}_*"))
    part.rename(part.with_name("20260401001_insert.py"))
    assert "renumber 20260401001_insert.py" in does(project, "up", exit_code=5)
    does(project, "renumber", "20260401001_insert.py")
    is_settled(project)
    assert done(project) == list(PARTS)


def test_a_part_that_is_added_to_an_applied_squash_still_runs_there(project: Project) -> None:
    squash(project, *PARTS)
    does(project, "up")
    project.write_inserts(LATER)
    squash(project, *PARTS, LATER)
    assert "changed since" in does(project, "status", "--all")
    does(project, "up")
    assert done(project) == [*PARTS, LATER]


def test_a_squash_that_failed_runs_again(project: Project) -> None:
    project.write_inserts(*PARTS)
    squash(project, *PARTS, extra="idempotent = True")
    whole = next(project.migrations.glob(f"{SQUASHED}_*"))
    source = whole.read_text()
    whole.write_text(source.replace("def up(db):", "def up(db):\n    1 / 0"))
    does(project, "up", exit_code=1)
    found = json.loads(does(project, "check", "--json", exit_code=4))
    assert [problem["kind"] for problem in found["problems"]] == ["failed"]
    whole.write_text(source)
    does(project, "up")
    assert done(project) == list(PARTS)
    is_settled(project)


def test_show_says_what_a_part_is(project: Project) -> None:
    def state(version: int) -> object:
        return json.loads(does(project, "show", str(version), "--json"))["state"]

    project.write_inserts(*PARTS)
    squash(project, *PARTS)
    assert [state(PARTS[0]), state(SQUASHED)] == ["replaced", "pending"]
    does(project, "up")
    assert [state(PARTS[0]), state(SQUASHED)] == ["replaced", "applied"]
    does(project, "down")
    assert [state(PARTS[0]), state(SQUASHED)] == ["replaced", "pending"]
    remove(project, SQUASHED)
    assert state(PARTS[0]) == "pending"
    does(project, "up")
    squash(project, *PARTS)
    assert [state(PARTS[0]), state(SQUASHED)] == ["applied", "pending"]
    does(project, "up")
    assert [state(PARTS[0]), state(SQUASHED)] == ["replaced", "applied"]


def test_settling_a_squash_by_hand_settles_its_parts(project: Project) -> None:
    project.write_inserts(*PARTS)
    does(project, "up")
    does(project, "down")
    squash(project, *PARTS)
    does(project, "resolve", str(SQUASHED), "--applied", "--reason", "did the third by hand")
    is_settled(project)
    assert {project.record(part)["metadata"]["replacedBy"] for part in PARTS} == {str(SQUASHED)}
    does(project, "resolve", str(SQUASHED), "--not-applied", "--reason", "removed all by hand")
    project.db.done.delete_many({})
    does(project, "up")
    assert whole_ran(project) == 1
    is_settled(project)


def test_a_baseline_records_it_with_its_parts(project: Project) -> None:
    squash(project, *PARTS)
    project.write_inserts(*PARTS, LATER)
    output = does(project, "baseline", "--to", str(LATER), "--reason", "restored from a dump")
    assert "Recorded 2 migrations" in output
    is_settled(project)
    assert project.statuses().keys() == {SQUASHED, LATER}


def test_a_baseline_where_the_parts_are_applied_marks_them(project: Project) -> None:
    project.write_inserts(*PARTS)
    does(project, "up")
    squash(project, *PARTS)
    does(project, "baseline", "--reason", "squashed")
    assert {project.record(part)["metadata"]["replacedBy"] for part in PARTS} == {str(SQUASHED)}
    is_settled(project)


def test_up_to_an_applied_squash_runs_nothing_that_came_after_its_parts(project: Project) -> None:
    squash(project, *PARTS)
    does(project, "up")
    project.write_inserts(LATER)
    report = project.runner().run(Target(Direction.UP, to=str(SQUASHED)))
    assert report.outcomes == ()
    assert done(project) == list(PARTS)


def test_the_unchanged_files_of_parts_are_not_parsed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write_inserts(*PARTS)
    does(project, "up")
    squash(project, *PARTS)
    does(project, "up")

    def parses(path: Path, *_: object) -> None:
        raise AssertionError(path)

    monkeypatch.setattr(folder, "describe", parses)
    does(project, "status", "--all")


def test_a_run_that_lost_the_lock_marks_nothing(project: Project) -> None:
    project.write_inserts(*PARTS)
    does(project, "up")
    does(project, "down", "--steps", "3")
    does(project, "up")
    runner = project.runner()
    newest = project.record(PARTS[0])["metadata"]["fence"]
    late = Run(runner.actor("up"), fence=newest - 1, batch=9)
    runner.history.mark_replaced(PARTS, SQUASHED, late, datetime.now(timezone.utc))
    assert {project.record(part)["metadata"]["replacedBy"] for part in PARTS} == {None}


def test_an_older_copy_of_the_folder_runs_no_part_again(project: Project) -> None:
    squash(project, *PARTS)
    does(project, "up")
    remove(project, SQUASHED)
    project.write_inserts(*PARTS)
    does(project, "up")
    assert done(project) == list(PARTS)


# --- a crash between the record of the squash and those of its parts


@pytest.fixture
def half_recorded(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Kill a run after it recorded the squashed migration, and before it marked the parts."""
    project.write_inserts(*PARTS)
    does(project, "up")
    squash(project, *PARTS)
    with monkeypatch.context() as patch:

        def dies(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(MigrationHistory, "mark_replaced", dies)
        assert project.invoke("up").exit_code != 0
    project.db.migration_locks.delete_many({})
    assert project.record(SQUASHED)["status"] == "completed"
    assert not any(project.record(part)["metadata"].get("replacedBy") for part in PARTS)
    return project


def test_after_a_crash_in_between_nothing_is_wrong(
    half_recorded: Project, tidy: Callable[[Project], None]
) -> None:
    tidy(half_recorded)
    is_settled(half_recorded)
    assert json.loads(does(half_recorded, "status", "--json"))["summary"]["total"] == 1


@pytest.mark.parametrize("command", ["down", "up"])
def test_the_next_command_that_acts_completes_it(
    half_recorded: Project, tidy: Callable[[Project], None], command: str
) -> None:
    project = half_recorded
    tidy(project)
    project.write_inserts(*([LATER] if command == "up" else []))
    does(project, command)
    assert {project.record(part)["metadata"]["replacedBy"] for part in PARTS} == {str(SQUASHED)}
    assert project.trail(PARTS[0]).count("replaced") == 1
    assert done(project) == ([*PARTS, LATER] if command == "up" else [])
    if command == "down":
        does(project, "up")
        assert whole_ran(project) == 1
        assert done(project) == list(PARTS)
    is_settled(project)


def test_an_outage_in_between_is_reported_and_heals(project: Project, failpoint: Failpoint) -> None:
    project.write_inserts(*PARTS)
    does(project, "up")
    squash(project, *PARTS)
    # The first update records the squashed one. The driver does not repeat the second, which marks the parts.
    failpoint("update", skip=1, closeConnection=True)
    result = project.invoke("up", "--json")
    assert result.exit_code == 6
    assert [step["state"] for step in json.loads(result.stdout)["steps"]] == ["unknown"]
    assert project.statuses()[SQUASHED] == "completed"
    is_settled(project)
    project.write_inserts(LATER)
    does(project, "up")
    assert {project.record(part)["metadata"]["replacedBy"] for part in PARTS} == {str(SQUASHED)}
    assert whole_ran(project) == 0


def test_a_real_kill_in_between_heals(project: Project) -> None:
    project.write_inserts(*PARTS)
    does(project, "up")
    squash(project, *PARTS)
    app = project.root / "app.py"
    project.command("up")
    app.write_text(
        "import os, signal\n"
        "from flask_migrate_mongo.store.history import MigrationHistory\n"
        "MigrationHistory.mark_replaced = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        + app.read_text()
    )
    assert project.run("up", MIGRATE_LOCK_TTL="2").returncode == -9
    assert project.record(SQUASHED)["status"] == "completed"
    assert not project.record(PARTS[0])["metadata"]["replacedBy"]
    is_settled(project)
    does(project, "down", MIGRATE_LOCK_WAIT=10)
    assert done(project) == []
    assert {project.record(part)["metadata"]["replacedBy"] for part in PARTS} == {str(SQUASHED)}
    does(project, "up")
    is_settled(project)
    assert whole_ran(project) == 1


# --- a squash of a squash, and squashes that contradict each other

WIDER = 20260401001


@pytest.mark.parametrize("history", ["parts applied", "squash recorded", "squash ran", "fresh"])
@pytest.mark.parametrize("narrow", ["narrow one there", "narrow one gone"])
def test_a_squash_of_a_squash(project: Project, history: str, narrow: str) -> None:
    if history in ("parts applied", "squash recorded"):
        project.write_inserts(*PARTS)
        does(project, "up")
    if history == "squash recorded":
        remove(project, *PARTS)
    if history in ("squash recorded", "squash ran"):
        squash(project, *PARTS)
        does(project, "up")
    if history != "fresh":
        project.write_inserts(LATER)
        does(project, "up")
    if history == "parts applied":
        remove(project, *PARTS)
        remove(project, LATER)
    for path in project.migrations.glob("*_whole.py"):
        path.unlink()
    if narrow == "narrow one there":
        squash(project, *PARTS)
    squash(project, *PARTS, LATER, version=WIDER)
    ran = whole_ran(project)
    does(project, "up")
    assert whole_ran(project) == ran + (history == "fresh")
    assert done(project) == [*PARTS, LATER]
    is_settled(project)
    does(project, "down")
    assert done(project) == []
    does(project, "up")
    assert done(project) == [*PARTS, LATER]
    is_settled(project)


def test_a_wider_squash_is_refused_where_only_the_narrow_one_is_applied(project: Project) -> None:
    squash(project, *PARTS)
    does(project, "up")
    remove(project, SQUASHED)
    squash(project, *PARTS, LATER, version=WIDER)
    assert "20260201001 (not applied)" in does(project, "up", exit_code=5)


def test_two_squashes_with_a_part_in_common_are_refused(project: Project) -> None:
    squash(project, *PARTS[:2])
    squash(project, *PARTS[1:], version=WIDER)
    for command in ("status", "plan", "up"):
        output = does(project, command, exit_code=5)
        assert "20260301001_whole.py and 20260401001_whole.py both replace 20260101002" in output
    assert whole_ran(project) == 0


# --- many


@pytest.mark.parametrize("database", ["fresh", "old"])
def test_a_squash_of_30(project: Project, database: str) -> None:
    parts = tuple(range(20260101001, 20260101031))
    project.write_inserts(*parts)
    if database == "old":
        does(project, "up")
        remove(project, *parts)
    squash(project, *parts)
    result = project.invoke("up")
    assert result.exit_code == 0
    assert "20260101" not in result.output
    assert done(project) == list(parts)
    assert whole_ran(project) == (database == "fresh")
    is_settled(project)
