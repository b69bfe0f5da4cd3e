"""`flask db-migrate rehearse`, end to end: text, JSON, exit codes, bad input."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from flask_migrate_mongo.model.values import Actor

if TYPE_CHECKING:
    from click.testing import Result

    from tests.project import Project

WELL = """
name = "Active people"

def up(db):
    db.people.update_many({}, {"$set": {"active": True}})

def down(db):
    db.people.update_many({}, {"$unset": {"active": ""}})
"""
FAULTY = WELL.partition("def down")[0] + "def down(db): pass\n"


@pytest.fixture(autouse=True)
def people(project: Project) -> None:
    """Three hundred people."""
    project.db.people.insert_many([{"_id": n, "name": f"P{n}"} for n in range(300)])


def document(result: Result) -> dict[str, Any]:
    """Return the one JSON document that is all of stdout."""
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_good_migration_has_no_problem(project: Project) -> None:
    project.write("1_active", WELL)
    result = project.invoke("rehearse", "--sample", "100")
    assert result.exit_code == 0, result.output
    title, attempts, estimate, *rest = project.result(result.stdout).splitlines()
    assert title == "✓ 1 Active people"
    assert re.fullmatch(
        r"  up\(\) .+ m?s, down\(\) .+ m?s undoes it, up\(\) again .+ m?s", attempts
    )
    assert estimate.startswith("  On all documents: about ")
    assert estimate.endswith("for 300 documents")
    assert rest == [
        "Rehearsed on documents: 100 of 300 of people.",
        "1 migration rehearsed: no problem found.",
    ]


def test_progress_goes_to_standard_error(project: Project) -> None:
    project.write("1_active", WELL)
    stderr = project.invoke("rehearse", "--sample", "100").stderr
    assert f"Running in the scratch database {project.db.name}_rehearsal_" in stderr
    assert "Finding the collections to copy, on 25 documents of each ..." in stderr
    assert "Copied people: 100 of 300 documents ..." in stderr
    assert "Active people" not in stderr


def test_a_faulty_down_exits_with_1_and_shows_what_it_left(project: Project) -> None:
    project.write("1_active", FAULTY)
    result = project.invoke("rehearse")
    assert result.exit_code == 1
    shown = result.stdout
    assert "  down() does not undo up(). Differences that remain:" in shown
    assert "    people document 0 (int), field active: not there → true (bool)" in shown
    assert "    and 295 more" in shown
    assert shown.endswith(
        "Problems found in 1. The application's database is unchanged.\n"
        "Fix the migration, then rehearse again: flask db-migrate rehearse\n"
    )


def test_a_failing_up_exits_with_1_and_shows_where_and_why(project: Project) -> None:
    project.write("1_bad", "def up(db):\n    raise ValueError('no such field')\n")
    project.write("2_active", WELL)
    result = project.invoke("rehearse")
    assert result.exit_code == 1
    assert "  migrations/1_bad.py:2 in up()  raise ValueError('no such field')" in result.stderr
    assert "  up() failed: ValueError: no such field" in result.stderr
    assert "- 2 Active people  not rehearsed" in result.stdout


def test_an_irreversible_one_is_named_and_fails_only_on_demand(project: Project) -> None:
    project.write("1_archive", "def up(db): db.people.delete_many({})\n")
    result = project.invoke("rehearse")
    assert result.exit_code == 0
    assert "irreversible" in result.stdout
    assert "Cannot be rolled back: 1." in result.stdout
    assert project.invoke("rehearse", "--fail-on", "irreversible").exit_code == 4
    project.write("1_archive", WELL)
    assert project.invoke("rehearse", "--fail-on", "irreversible").exit_code == 0
    project.write("1_archive", "def up(db): 1 / 0\n")
    assert project.invoke("rehearse", "--fail-on", "irreversible").exit_code == 1


def test_with_nothing_pending_nothing_is_done(project: Project) -> None:
    result = project.invoke("rehearse")
    nothing = "Nothing to rehearse: no migration is pending.\n"
    assert (result.exit_code, project.result(result.stdout)) == (0, nothing)
    assert document(project.invoke("rehearse", "--json"))["migrations"] == []


def test_the_document_says_the_same(project: Project) -> None:
    project.write("1_active", FAULTY)
    result = project.invoke("rehearse", "--json", "--sample", "100")
    assert result.exit_code == 1
    found = document(result)
    assert found["copied"] == [{"collection": "people", "documents": 100, "of": 300}]
    assert found["database"] not in project.db.client.list_database_names()
    assert (found["locked"], found["removed"], found["warnings"]) == (None, [], [])
    (migration,) = found["migrations"]
    assert (migration["version"], migration["failed"], migration["undoes"]) == ("1", True, False)
    assert migration["differencesTotal"] == 100
    first = migration["differences"][0]
    assert (first["collection"], first["before"], first["after"]) == (
        "people",
        "not there",
        "true (bool)",
    )
    assert migration["collections"] == ["people"]
    for attempt in ("up", "down", "again"):
        assert migration[attempt]["error"] is None
        assert migration[attempt]["executionTime"] >= 0
    estimate = migration["estimate"]
    assert (estimate["documents"], estimate["extrapolated"]) == (300, True)
    assert estimate["lowest"] <= estimate["executionTime"] <= estimate["highest"]


def test_all_documents_are_measured_and_not_estimated(project: Project) -> None:
    project.write("1_active", WELL)
    result = project.invoke("rehearse", "--sample", "all")
    assert result.exit_code == 0
    assert "about" not in result.stdout
    assert "s for 300 documents" in result.stdout


def test_the_collections_can_be_named(project: Project) -> None:
    project.db.cities.insert_one({"_id": 1})
    project.write("1_active", WELL)
    found = document(project.invoke("rehearse", "--json", "--collections", "people, cities,"))
    assert sorted(each["collection"] for each in found["copied"]) == ["cities", "people"]


def test_who_holds_the_lock_is_mentioned(project: Project) -> None:
    project.write("1_active", WELL)
    with project.runner().lease.hold(Actor.current("a long run")):
        text = project.invoke("rehearse")
        found = document(project.invoke("rehearse", "--json"))
    assert (text.exit_code, "(a long run) holds the lock" in text.stderr) == (0, True)
    assert found["locked"]["reason"] == "a long run"


def test_the_history_of_the_real_database_says_nothing_of_a_rehearsal(project: Project) -> None:
    project.write("1_active", WELL)
    assert project.invoke("rehearse").exit_code == 0
    assert project.db.list_collection_names() == ["people"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--sample", "0"), 2, "neither a whole number from 1 on nor `all`"),
        (("--sample", "-5"), 2, "neither a whole number from 1 on nor `all`"),
        (("--sample", "some"), 2, "neither a whole number from 1 on nor `all`"),
        (("--fail-on", "anything"), 2, "irreversible"),
        (("--collections", "peple"), 2, "no collection 'peple'"),
        (("--collections", " , "), 2, "it names no collection"),
        (("--collections", ""), 2, "it names no collection"),
        (("7",), 2, "the number or the name '7'"),
        (("seven",), 2, "seven"),
    ],
)
def test_bad_input_is_refused_with_what_is_accepted(
    project: Project, args: tuple[str, ...], code: int, message: str
) -> None:
    project.write("1_active", WELL)
    result = project.invoke("rehearse", *args)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output
    problem = document(project.invoke("rehearse", "--json", *args))
    assert problem["code"] in {"invalid-request", "unknown-version"}


def test_the_application_s_own_database_is_no_scratch_database(project: Project) -> None:
    project.write("1_active", WELL)
    result = project.invoke("rehearse", MIGRATE_REHEARSAL_DATABASE=project.db.name)
    assert result.exit_code == 6
    assert "another database than the application's" in result.stderr


def test_what_a_migration_writes_elsewhere_is_refused_with_the_remedy(project: Project) -> None:
    project.write(
        "1_elsewhere",
        "def up(db):\n    db.client['other_of_this_test'].people.insert_one({})\n",
    )
    result = project.invoke("rehearse")
    assert result.exit_code == 1
    assert "EscapesRehearsalError" in result.stderr
    assert "Use the `db` that up() and down() receive" in result.stderr
    assert "other_of_this_test" not in project.db.client.list_database_names()


def test_values_of_secret_fields_are_masked_where_they_differ(project: Project) -> None:
    project.db.people.update_many({}, {"$set": {"token": "s3cret-before"}})
    project.write(
        "1_active",
        """
        def up(db):
            db.people.update_many({}, {"$set": {"token": "s3cret-after", "name": "Q"}})

        def down(db):
            db.people.update_many({}, {"$set": {"name": "R"}})
        """,
    )
    result = project.invoke("rehearse", "--sample", "100", "--json")
    assert result.exit_code == 1
    assert "s3cret" not in result.output
    (migration,) = document(result)["migrations"]
    after = {d["what"].rpartition(" ")[2]: d["after"] for d in migration["differences"]}
    assert "***" in after["token"]
    assert "R" in after["name"]
