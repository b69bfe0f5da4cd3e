"""`show`: everything about one version, also if its file or its record is missing, broken or of another."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient

from tests.content import content
from tests.sent import Sent

if TYPE_CHECKING:
    from tests.project import Project

ALICE = '''
"""Adds a."""
name = "Adds a"
transactional = True
def up(db):
    db.things.insert_one({"a": 1})
def down(db):
    db.things.delete_one({"a": 1})
def verify(db):
    return True
'''
BOB = "idempotent = True\ndef up(db):\n    db.things.insert_one({'b': 1})\n"
BOOM = "def up(db):\n    raise ValueError('boom')\n"


def shown(project: Project, *args: str, exit_code: int = 0) -> dict[str, Any]:
    result = project.invoke("show", *args, "--json")
    assert result.exit_code == exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def text(project: Project, *args: str) -> str:
    result = project.invoke("show", *args)
    assert result.exit_code == 0, result.output
    return str(result.output)


@pytest.fixture
def applied(project: Project) -> Project:
    """A project whose first migration is applied."""
    project.write("20260101001_alice", ALICE)
    project.runner(MIGRATE_APP_VERSION="1.2").up()
    return project


@pytest.mark.parametrize("name", ["20260101001", "2026", "alice"])
def test_an_applied_version_shows_its_file_and_its_record(applied: Project, name: str) -> None:
    found = shown(applied, name)
    (file,), record = found["files"], found["record"]
    assert (found["version"], found["name"], found["state"]) == (
        "20260101001",
        "Adds a",
        "applied",
    )
    assert file["path"].endswith("20260101001_alice.py")
    assert file["description"] == "Adds a."
    assert [file[k] for k in ("transactional", "idempotent", "reversible", "verify")] == [
        *(True, False, True, True)
    ]
    assert file["replaces"] == []
    assert file["digest"] == record["digest"]
    assert not found["changed"]
    assert (record["batch"], record["origin"], record["verified"]) == (1, "run", True)
    assert record["appliedAt"] is not None
    assert "@" in record["holder"]
    assert record["appVersion"] == "1.2"
    assert [event["event"] for event in found["events"]] == ["started", "completed"]
    assert found["problems"] == found["findings"] == []
    assert file["source"] is None


def test_the_text_says_the_same(applied: Project) -> None:
    lines = [line.split() for line in applied.result(text(applied, "alice")).splitlines()]
    assert lines[0] == ["20260101001", "Adds", "a:", "applied"]
    assert ["Flags", "transactional,", "reversible,", "with", "verify()"] in lines
    assert ["Batch", "1"] in lines
    assert ["Verified", "yes"] in lines
    assert ["App", "version", "1.2"] in lines


def test_a_version_that_has_only_a_file(project: Project) -> None:
    project.write("1_bob", BOB)
    found = shown(project, "1")
    assert (found["state"], found["record"], found["events"]) == ("pending", None, [])
    assert found["files"][0]["idempotent"]
    assert [finding["code"] for finding in found["findings"]] == ["MM001"]
    said = text(project, "1")
    assert "It has no record." in said
    assert "MM001" in said


def test_a_version_that_has_only_a_record(applied: Project) -> None:
    (applied.migrations / "20260101001_alice.py").unlink()
    found = shown(applied, "alice")
    assert (found["state"], found["name"], found["files"]) == ("applied", "Adds a", [])
    assert "It has no file." in text(applied, "alice", "--source")
    (applied.migrations).rmdir()
    assert shown(applied, "alice")["record"]["version"] == "20260101001"


def test_a_broken_file_shows_its_problem_and_its_text(project: Project) -> None:
    project.write("1_bad", "def up(db:\n")
    found = shown(project, "1", "--source")
    assert (found["state"], found["name"]) == ("unusable", "bad")
    assert "syntax error" in found["files"][0]["problem"]["detail"]
    assert found["files"][0]["name"] is None
    assert found["files"][0]["source"] == "def up(db:\n"
    assert "syntax error" in text(project, "bad")


def test_a_broken_file_of_an_applied_version(applied: Project) -> None:
    applied.write("20260101001_alice", "def up(db:\n")
    found = shown(applied, "alice")
    assert (found["state"], len(found["problems"])) == ("applied", 1)


def test_a_file_that_cannot_be_read(project: Project) -> None:
    (project.migrations / "1_gone.py").symlink_to("nowhere.py")
    found = shown(project, "gone", "--source")
    assert "cannot be read" in found["problems"][0]["detail"]
    assert found["files"][0]["source"] is None


def test_a_number_that_another_migration_has_shows_both(applied: Project) -> None:
    (applied.migrations / "20260101001_alice.py").unlink()
    applied.write("20260101001_bob", BOB)
    for name in ("alice", "bob"):
        found = shown(applied, name)
        assert [problem["code"] for problem in found["problems"]] == ["number-taken"]
        assert found["files"][0]["path"].endswith("20260101001_bob.py")
        assert (found["record"]["slug"], found["record"]["name"]) == ("alice", "Adds a")
    said = text(applied, "bob")
    assert "20260101001_bob.py is another one" in said
    assert "applied, alice" in said


def test_two_files_of_one_number_are_both_shown(project: Project) -> None:
    project.write("1_alice", ALICE)
    project.write("1_bob", BOB)
    found = shown(project, "bob")
    assert [problem["code"] for problem in found["problems"]] == ["duplicate-version"]
    assert [file["path"][-8:] for file in found["files"]] == ["alice.py", "1_bob.py"]


def test_a_file_with_a_new_number_names_its_record(applied: Project) -> None:
    old = applied.migrations / "20260101001_alice.py"
    old.rename(applied.migrations / "20260101002_alice.py")
    found = shown(applied, "20260101002")
    assert [problem["code"] for problem in found["problems"]] == ["renumbered"]


def test_a_changed_file_is_seen(applied: Project) -> None:
    applied.write("20260101001_alice", ALICE + "# A comment.\n")
    assert not shown(applied, "alice")["changed"]
    applied.write("20260101001_alice", ALICE.replace('"a": 1', '"a": 2'))
    found = shown(applied, "alice")
    assert found["changed"]
    assert found["files"][0]["digest"] != found["record"]["digest"]
    assert "The file has changed since the migration was run." in text(applied, "alice")


def test_a_failure_shows_its_traceback(project: Project) -> None:
    project.write("1_bad", BOOM)
    project.runner().up()
    found = shown(project, "bad")
    assert (found["state"], found["record"]["interrupted"]) == ("failed", True)
    assert "1_bad.py" in found["record"]["error"]["traceback"]
    said = text(project, "bad")
    assert "Traceback (most recent call last)" in said
    assert "Error: ValueError: boom" in said


def test_the_progress_of_a_backfill_is_shown(project: Project) -> None:
    project.db.things.insert_many({"_id": n} for n in range(30))
    project.write(
        "1_half",
        """
        def up(db, ctx):
            def change(document):
                if document["_id"] == 20:
                    raise ValueError("twenty")
                return {"$set": {"seen": True}}
            ctx.backfill("things", change, batch_size=10)
        """,
    )
    project.runner().up()
    progress = shown(project, "half")["progress"]
    assert progress["collection"] == "things"
    assert progress["done"] == 20
    assert "things: 20 of about 30" in text(project, "half")


def test_the_state_after_down_and_after_the_file_is_gone(applied: Project) -> None:
    applied.runner().down()
    assert shown(applied, "alice")["state"] == "pending"
    (applied.migrations / "20260101001_alice.py").unlink()
    assert shown(applied, "alice")["state"] == "rolled-back"


def test_the_source_cannot_control_a_terminal(project: Project) -> None:
    content = b"# \x1b[2J \xff\r\ndef up(db):\r\n\tdb.things.insert_one({})\r\n"
    (project.migrations / "1_odd.py").write_bytes(content)
    said = text(project, "odd", "--source")
    assert "\x1b" not in said
    assert "# \\x1b[2J \\xff\n" in said
    assert "def up(db):\n    db.things.insert_one({})\n" in said
    assert "insert_one" not in text(project, "odd").partition("MM001")[0]


@pytest.mark.parametrize(("name", "code"), [("9", "unknown-version"), ("1", "ambiguous-version")])
def test_a_name_of_none_or_of_several(project: Project, name: str, code: str) -> None:
    project.write_inserts(10, 11)
    assert shown(project, name, exit_code=2)["code"] == code


def test_it_executes_nothing_and_writes_nothing(project: Project) -> None:
    project.write_inserts(1)
    project.runner().up()
    marker = project.root / "executed"
    project.write("1_insert", f"open({str(marker)!r}, 'w')\ndef up(db): pass\n")
    before, sent = content(project.db), Sent()
    with MongoClient[dict[str, Any]](project.uri, event_listeners=[sent]) as client:
        app = project.app(client[project.db.name])
        with project.runner().lease.hold(project.runner().actor("up")):
            locked = content(project.db)
            result = app.test_cli_runner().invoke(args=["db-migrate", "show", "1", "--source"])
            assert content(project.db) == locked
    assert result.exit_code == 0, result.output
    assert before["migrations"] == locked["migrations"]
    assert set(sent.names()) <= {"hello", "find", "endSessions"}
    assert not marker.exists()
