"""What settling by hand refuses, since a change would be made twice or a record would be of another file."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from flask_migrate_mongo import MongoMigrate
from flask_migrate_mongo.engine.options import Options
from flask_migrate_mongo.model.reports import StepState

from .test_team_history import HALF, MIGRATION, VERIFIED, Team

if TYPE_CHECKING:
    from tests.project import Project

REASON = ("--reason", "looked")
FAILS = 'raise ValueError("not yet")'
SQUASH = "replaces = [1, 2]\n" + MIGRATION


@pytest.fixture
def team(project: Project) -> Team:
    return Team(project)


def record(team: Team, version: int) -> dict[str, object]:
    return team.project.record(version)


# --- redo


@pytest.mark.parametrize("version", [(), ("2",), ("b",)], ids=["last", "number", "slug"])
def test_a_redo_that_failed_is_redone_without_the_one_before_it(
    team: Team, version: tuple[str, ...]
) -> None:
    team.write("1_a")
    path = team.write("2_b")
    team.does("up")
    good = path.read_text()
    path.write_text(good.replace("def up(db):", f"def up(db):\n    {FAILS}"))
    assert "not yet" in team.does("redo", "--allow-drift", exit_code=1)
    path.write_text(good)
    output = team.does("redo", *version)
    assert "Applied 1 migration" in output
    assert "Rolled back" not in output
    assert team.runs() == {"a": 1, "b": 2}
    assert team.db.ran.count_documents({"undone": {"$exists": True}}) == 1
    assert "Rolled back 1 migration, then applied 1 migration" in team.does("redo")
    team.is_settled()


def test_a_transactional_migration_is_redone_in_its_transaction(team: Team) -> None:
    stops = f"\n    if db.stops.find_one():\n        {FAILS}\n\n\ndef down"
    team.write("1_a", "transactional = True\n" + MIGRATION.replace("\n\n\ndef down", stops))
    team.does("up")
    team.db.stops.insert_one({})
    assert "not yet" in team.does("redo", exit_code=1)
    team.ran_once("a")


def test_a_pending_migration_that_is_redone_is_applied(team: Team) -> None:
    team.write("1_a")
    assert "Nothing to do" in team.does("redo")
    team.does("redo", "a")
    team.ran_once("a")
    team.does("redo", "7", exit_code=2)


def test_a_part_of_a_squash_is_not_redone_alone(team: Team) -> None:
    team.write("1_a")
    team.write("2_b")
    team.write("9_all", SQUASH)
    for _ in range(2):
        assert "Redo that one: `flask db-migrate redo 9`" in team.does("redo", "1", exit_code=2)
        team.does("up")
    team.ran_once("all")
    path = team.write("10_c")
    team.does("up")
    team.does("down")
    path.unlink()
    assert "10 has no file. Nothing was run." in team.does("redo", "10", exit_code=2)


@pytest.mark.parametrize("continues", [False, True])
def test_a_redo_whose_down_fails_does_not_apply_it_again(team: Team, continues: bool) -> None:  # noqa: FBT001
    team.write("1_a", MIGRATION.replace("def down(db):", f"def down(db):\n    {FAILS}"))
    team.does("up")
    report = team.project.runner().redo(options=Options(continue_on_error=continues))
    assert [outcome.state for outcome in report.outcomes] == [StepState.FAILED, StepState.NOT_RUN]
    assert "redo" in team.does("redo", exit_code=1)
    team.ran_once("a")


def test_what_was_only_recorded_is_not_rolled_back_as_what_up_applied(team: Team) -> None:
    team.write("1_a")
    team.does("up")
    team.write("2_b")
    team.does("baseline", *REASON)
    output = team.does("down", "--batch", exit_code=2)
    assert "2 (b) was recorded as baseline" in output
    team.does("down", "--steps", "1")
    team.does("down", "--batch")
    assert team.project.statuses() == {1: "rolled-back", 2: "rolled-back"}


# --- files that cannot be used, or that are not there


def test_what_is_broken_is_not_missing_and_is_not_forgotten(team: Team) -> None:
    path = team.write("1_a")
    team.does("up")
    good = path.read_text()
    path.write_text("def up(db:")
    assert "missing" not in team.does("status", "--all")
    team.check("unusable")
    for flag in ("--forget", "--accept-file", "--applied"):
        assert "syntax error" in team.does("resolve", "1", flag, *REASON, exit_code=5)
    path.write_text(good)
    team.is_settled()


def test_without_the_folder_nothing_is_forgotten(team: Team) -> None:
    team.write("1_a")
    team.does("up")
    folder = team.project.migrations
    hidden = folder.rename(folder.with_name("elsewhere"))
    output = team.does("resolve", "1", "--forget", *REASON, exit_code=6)
    assert "does not exist" in output
    team.check("missing", "unusable")
    hidden.rename(folder)
    team.is_settled()


def test_with_two_files_of_one_number_none_is_settled(team: Team) -> None:
    team.write("1_a")
    team.does("up")
    twin = team.write("1_b")
    for flag in ("--forget", "--accept-file", "--applied"):
        assert "same number" in team.does("resolve", "1", flag, *REASON, exit_code=5)
    twin.unlink()
    team.is_settled()


def test_what_moved_to_another_number_is_not_forgotten(team: Team) -> None:
    path = team.write("1_a")
    team.does("up")
    moved = path.rename(path.with_name("3_a.py"))
    output = team.does("resolve", "1", "--forget", *REASON, exit_code=5)
    assert f"renumber {moved.name}" in output
    team.does("renumber", moved.name)
    team.is_settled()
    team.ran_once("a")


# --- numbers


def test_a_file_that_moved_and_changed_is_the_same_migration(team: Team) -> None:
    path = team.write("1_a")
    team.does("up")
    moved = path.rename(path.with_name("3_a.py"))
    moved.write_text(moved.read_text().replace("undone", "rolled_back"))
    team.refuses(moved.name, "1")
    team.does("renumber", moved.name)
    # That it has changed stays known.
    team.check("changed")
    team.does("resolve", "3", "--accept-file", *REASON)
    team.is_settled()
    team.ran_once("a")


def test_a_record_does_not_follow_the_twin_of_its_file(team: Team) -> None:
    path = team.write("1_a")
    # As another tool recorded it, without a checksum.
    team.db.migrations.insert_one({"version": "1", "name": "a", "status": "completed"})
    twin = team.write("1_b")
    team.does("renumber", twin.name)
    team.check("pending")
    assert record(team, 1)["name"] == "a"
    team.does("renumber", path.name)
    assert team.db.migrations.count_documents({"version": "1"}) == 0
    team.does("up")
    team.ran_once("b")


def test_an_unfinished_backfill_survives_a_new_number(team: Team) -> None:
    path = team.write("1_a")
    team.project.invoke("up")
    checkpoint = {"checksum": "of the file that began it"}
    team.db.migrations.update_one(
        {"version": "1"}, {"$set": {"status": "failed", "metadata.checkpoint": checkpoint}}
    )
    path.rename(path.with_name("3_a.py"))
    team.does("renumber", "3_a.py")
    assert "half-way through its backfill" in team.does("up", exit_code=5)
    team.does("resolve", "3", "--accept-file", *REASON)
    assert "half-way through its backfill" in team.does("up", exit_code=5)
    team.does("resolve", "3", "--not-applied", *REASON)
    team.does("up")


def test_a_part_of_a_squash_keeps_its_number(team: Team) -> None:
    parts = [team.write("1_a"), team.write("2_b")]
    team.write("9_all", SQUASH)
    output = team.does("renumber", parts[0].name, exit_code=5)
    assert "9_all.py replaces 1" in output
    assert parts[0].exists()


@pytest.mark.parametrize(
    ("one", "other"), [("日本", "中国"), ("größe", "groesse"), ("ключ", "индекс")]
)
def test_names_in_any_script_are_told_apart(team: Team, one: str, other: str) -> None:
    path = team.write(f"1_{one}")
    team.does("up")
    path.unlink()
    path = team.write(f"1_{other}")
    team.refuses(path.name)
    path.unlink()
    team.write(f"1_{one}")
    team.write(f"2_{other}")
    assert "No migration has" in team.does("up", "--to", "!", exit_code=2)
    team.does("up", "--to", other)
    assert team.does("history", one).count("applied") == 1
    team.does("redo", one)


# --- squashed migrations


def test_a_squash_that_ran_is_not_forgotten_while_its_parts_would_run(team: Team) -> None:
    squash = team.write("9_all", SQUASH)
    team.does("up")
    squash.unlink()
    team.write("1_a")
    team.write("2_b")
    output = team.does("resolve", "9", "--forget", *REASON, exit_code=5)
    assert "ran in place of 1_a.py, 2_b.py" in output
    for name in ("1_a.py", "2_b.py"):
        (team.project.migrations / name).unlink()
    team.does("resolve", "9", "--forget", *REASON)
    team.is_settled()


def test_a_squash_does_not_take_another_migration_for_its_part(team: Team) -> None:
    # On this database 2 was somebody's experiment, whose file was never merged.
    team.write("1_a")
    experiment = team.write("2_x")
    team.does("up")
    experiment.unlink()
    (team.project.migrations / "1_a.py").unlink()
    team.write("9_all", SQUASH.replace("[1, 2]", '["1_a", "2_b"]'))
    assert "recorded for another migration, x" in team.does("up", exit_code=5)
    assert "accept-file" in team.does("check", exit_code=4)
    team.ran_once("a", "x")
    # With the number alone nobody can know it.
    team.write("9_all", SQUASH.replace("[1, 2]", '["1_a", 2]'))
    assert "Recorded 1 migration" in team.does("up")


def test_a_squash_with_other_parts_is_not_accepted(team: Team) -> None:
    squash = team.write("9_all", SQUASH)
    team.does("up")
    squash.write_text(squash.read_text().replace("[1, 2]", "[1, 2, 3]"))
    output = team.does("resolve", "9", "--accept-file", *REASON, exit_code=5)
    assert "replaces other migrations" in output


def test_a_baseline_records_no_squash_that_is_partly_applied(team: Team) -> None:
    team.write("1_a")
    team.does("up")
    team.write("2_b")
    team.write("9_all", SQUASH)
    output = team.does("baseline", *REASON, exit_code=5)
    assert "2 (not applied)" in output
    assert team.project.statuses() == {1: "completed"}


def test_versions_that_no_number_of_the_database_holds_are_squashed(team: Team) -> None:
    long = 2**70
    team.write(f"{long}_a")
    team.does("up")
    team.write(f"{long + 1}_all", f"replaces = [{long}]\n" + MIGRATION)
    team.does("up")
    team.is_settled()
    team.ran_once("a")
    assert record(team, long)["metadata"]["replacedBy"] == str(long + 1)  # type: ignore[index]


# --- what is recorded


def test_the_file_that_settles_a_failed_migration_is_the_one_that_is_recorded(team: Team) -> None:
    path = team.write("1_a", MIGRATION.replace("def up(db):", f"def up(db):\n    {FAILS}"))
    team.does("up", exit_code=1)
    path.write_text(MIGRATION.format(name="a"))
    team.does("resolve", "1", "--applied", *REASON)
    # Otherwise the file would count as changed.
    team.is_settled()
    team.ran_once()


def test_a_record_is_not_settled_by_the_file_of_another_migration(team: Team) -> None:
    path = team.write("1_a", MIGRATION.replace("def up(db):", f"def up(db):\n    {FAILS}"))
    team.does("up", exit_code=1)
    path.unlink()
    team.write("1_b")
    assert "another one" in team.does("resolve", "1", "--applied", *REASON, exit_code=5)


def test_what_is_forgotten_is_not_named_any_more(team: Team) -> None:
    path = team.write("1_a")
    team.does("up")
    path.unlink()
    team.does("resolve", "a", "--forget", *REASON)
    team.write("2_a")
    team.does("up", "--to", "a")
    assert team.runs() == {"a": 2}
    team.does("resolve", "a", "--not-applied", *REASON)
    assert team.project.statuses()[2] == "pending"
    # Its events are found still.
    assert "forgotten" in team.does("history", "1")


def test_a_number_that_is_stored_as_a_number_is_of_another_tool(team: Team) -> None:
    team.write("1_a")
    team.db.migrations.insert_one({"version": 1, "name": "a", "status": "completed"})
    output = team.does("up", exit_code=5)
    assert "MIGRATE_COLLECTION" in output
    team.ran_once()


# --- input, signals and a folder that cannot be written to


def test_a_reason_that_is_no_text_is_stored_as_far_as_it_is_one(team: Team) -> None:
    team.write("1_a")
    team.does("resolve", "1", "--applied", "--reason", "caf\udce9")
    assert "caf?" in team.does("history", "1")


def test_flags_that_contradict_each_other_are_refused(team: Team) -> None:
    team.write("1_a")
    output = team.does("resolve", "1", "--applied", "--not-applied", *REASON, exit_code=2)
    assert "one of" in output
    assert team.project.statuses() == {}


def test_names_that_no_file_can_have_name_nothing(team: Team) -> None:
    team.write("1_a")
    for name in ("9" * 5_000, "x" * 5_000):
        team.does("up", "--to", name, exit_code=2)
        team.does("renumber", name, exit_code=2)


def test_a_limit_that_leaves_nothing_is_not_called_everything(team: Team) -> None:
    team.write("1_a")
    team.does("up", "--to", "1")
    team.write("2_b")
    assert "no migration up to this version is pending" in team.does("up", "--to", "1")
    assert "no migration was applied after this version" in team.does("down", "--to", "1")


def test_python_takes_a_version_as_a_number(team: Team) -> None:
    team.write("1_a")
    team.write("2_b")
    app, migrate = team.project.app(), MongoMigrate()
    assert len(migrate.up(app, to=1).outcomes) == 1
    migrate.redo(app, version=1)
    assert team.runs() == {"a": 2}


def test_a_latest_that_cannot_be_read_is_stale_and_leaves_no_file(team: Team) -> None:
    team.write("1_a")
    team.does("up")
    (team.project.migrations / ".latest").mkdir()
    assert ".latest" in team.does("check", exit_code=4, MIGRATE_LINEAR=True)
    before = sorted(team.project.migrations.iterdir())
    output = team.does("create", "next", exit_code=6, MIGRATE_LINEAR=True)
    assert "cannot be written to" in output
    assert sorted(team.project.migrations.iterdir()) == before


def test_a_file_that_was_given_the_newest_number_by_hand_is_noted(team: Team) -> None:
    path = team.write("1_a")
    team.does("up")
    path.rename(path.with_name("3_a.py"))
    team.does("renumber", "3_a.py", MIGRATE_LINEAR=True)
    assert (team.project.migrations / ".latest").read_text().strip() == "3_a.py"


@pytest.mark.parametrize("verify", ["holds", "partial(holds)"])
def test_a_verify_with_another_name_has_not_passed_if_it_returns_false(
    team: Team, verify: str
) -> None:
    source = f"from functools import partial\n{MIGRATION}\n\ndef holds(db):\n    return False\n"
    team.write("1_a", f"{source}\n\nverify = {verify}\n")
    assert "returned False" in team.does("baseline", *REASON, exit_code=5)
    assert "returned False" in team.does("up", exit_code=1)


def test_a_verify_that_exits_has_not_passed(team: Team) -> None:
    team.write("1_a", VERIFIED.replace("assert", "raise SystemExit(0)\n    assert"))
    assert "SystemExit" in team.does("baseline", *REASON, exit_code=5)
    assert team.project.statuses() == {}


def test_a_signal_ends_a_baseline_and_releases_the_lock(team: Team) -> None:
    slow = HALF.replace("def up(db)", "def up(db):\n    pass\n\n\ndef verify(db)")
    team.write("1_half", slow.replace("{ending}", "time.sleep(60)"))
    process = team.project.spawn("baseline", *REASON)
    end = time.monotonic() + 30
    while team.runs() == {}:
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output = "".join(filter(None, process.communicate(timeout=30)))
    assert "Stopped by SIGTERM" in output
    assert "Traceback" not in output
    assert "is free" in team.does("lock-status")
    assert team.project.statuses() == {}
