"""`flask db-migrate plan`: what `up` would run, without running it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from flask_migrate_mongo.model.values import Actor
from flask_migrate_mongo.planning import preview
from tests.content import content

if TYPE_CHECKING:
    from tests.project import Project


def planned(project: Project, **settings: object) -> dict[str, Any]:
    result = project.invoke("plan", "--json", **settings)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


@pytest.fixture
def shop(project: Project) -> Project:
    """A project of which 2, 3 and 9 are applied, 3 has changed since, and 9 is gone."""
    project.write_inserts(2, 3, 9)
    project.invoke("up")
    project.write("3_insert", "def up(db): pass\ndef down(db): pass\n")
    (project.migrations / "9_insert.py").unlink()
    project.db.users.insert_many({} for _ in range(1200))
    project.write(
        "1_late",
        """
        raise SystemExit("this file was executed")

        def up(db):
            db.users.update_many({}, {"$set": {"a": 1}})
            db.made.insert_one({})
        """,
    )
    project.write(
        "10_in_one_go",
        """
        transactional = True

        def up(db):
            db[f"u{1}sers"].delete_one({"_id": 1})

        def down(db):
            db.done.insert_one({})
        """,
    )
    return project


def test_it_tells_what_would_run_in_order_and_what_there_is_to_know(shop: Project) -> None:
    plan = planned(shop)
    first, second = plan["steps"]
    assert (first["version"], first["outOfOrder"], first["reversible"]) == ("1", True, False)
    assert (second["version"], second["outOfOrder"], second["reversible"]) == ("10", False, True)
    assert (first["transactional"], second["transactional"]) == (False, True)
    assert first["collections"] == [
        {"collection": "made", "documents": None},
        {"collection": "users", "documents": 1200},
    ]
    assert (first["collectionsComplete"], second["collectionsComplete"]) == (True, False)
    assert second["collections"] == []
    assert {"MM001", "MM003"} <= {finding["code"] for finding in first["findings"]}
    assert [entry["version"] for entry in plan["drifted"]] == ["3"]
    assert [entry["version"] for entry in plan["missing"]] == ["9"]
    assert plan["locked"] is None


def test_it_prints_the_same(shop: Project) -> None:
    result = shop.invoke("plan")
    shown = shop.result(result.stdout).splitlines()
    assert shown[0] == "Would run, in this order:"
    assert shown[2].split() == [
        *("1", "late", "plain", "not", "reversible", "out", "of", "order"),
        *("made", "(new),", "users", "(1,200)"),
    ]
    assert shown[3].split() == [
        *("10", "in", "one", "go", "in", "a", "transaction", "reversible", "others"),
    ]
    assert any("1_late.py:4:1: MM001" in line for line in shown)
    assert "Changed since it was applied: 3 insert." in shown
    assert "Applied, and its file is missing: 9 insert." in shown
    assert shown[-1] == "See what they do to the data: flask db-migrate up --dry-run"


def test_it_warns_of_a_transaction_over_a_large_collection(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "MANY", 100)
    project.db.users.insert_many({} for _ in range(101))
    project.db.roles.insert_many({} for _ in range(100))
    change = "def up(db): db.users.update_many({}, [{'$set': {'a': 1}}]); db.roles.delete_one({})"
    project.write("1_plain", change)
    project.write("2_atomic", f"transactional = True\n{change}")
    (warning,) = planned(project)["warnings"]
    assert warning.startswith(
        "2 uses collections of more than 100 documents in one transaction: users (101). "
    )
    assert "ctx.backfill()" in warning


def test_it_executes_nothing_writes_nothing_and_takes_no_lock(shop: Project) -> None:
    before = content(shop.db)
    planned(shop)
    assert content(shop.db) == before
    with shop.runner().lease.hold(Actor.current("a test")):
        held = planned(shop)["locked"]
    assert held["reason"] == "a test"


def test_it_is_refused_as_up_is(shop: Project) -> None:
    up = shop.invoke("up", "--json", MIGRATE_OUT_OF_ORDER="refuse")
    plan = shop.invoke("plan", "--json", MIGRATE_OUT_OF_ORDER="refuse")
    assert up.exit_code == plan.exit_code == 5
    assert json.loads(plan.stdout)["code"] == json.loads(up.stdout)["code"] == "out-of-order"


def test_with_nothing_to_do_it_says_so(project: Project) -> None:
    result = project.invoke("plan")
    assert (result.exit_code, project.result(result.stdout)) == (
        0,
        "Nothing to do: every migration is applied.\n",
    )
    assert project.db.list_collection_names() == []


def test_findings_that_a_comment_allows_are_left_out(project: Project) -> None:
    project.write(
        "1_one_way",
        """
        # migrate: allow MM001 because nobody goes back


        def up(db):
            db.users.delete_one({"_id": 1})
        """,
    )
    (step,) = planned(project)["steps"]
    assert "MM001" not in {finding["code"] for finding in step["findings"]}
