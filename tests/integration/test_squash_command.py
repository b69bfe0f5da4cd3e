"""`flask db-migrate squash`: the file that it writes, and what that does on a server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from flask_migrate_mongo.files.folder import Folder
from tests.content import content
from tests.project import ROOT, Project

if TYPE_CHECKING:
    from pathlib import Path

    from pymongo.database import Database

FIRST, SECOND, THIRD = 20260101001, 20260215001, 20260303001

USERS = '''
"""Give every user a state."""

from pymongo import UpdateOne

name = "State of users"
idempotent = True

STATE = "new"


def change(user):
    # Nobody is old yet.
    return {"$set": {"state": STATE, "label": f"{STATE}-{user['_id']}"}}


def up(db):
    users = list(db.users.find({"state": {"$exists": False}}))
    db.users.bulk_write([UpdateOne({"_id": user["_id"]}, change(user)) for user in users])


def down(db):
    db.users.update_many({}, {"$unset": {"state": "", "label": ""}})
'''

ORDERS = '''
"""Index the orders."""

name = "Index of orders"
idempotent = True

STATE = "paid"


def change(order):
    return {"$set": {"state": STATE}}


def up(db, ctx):
    ctx.backfill("orders", change, where={"state": {"$exists": False}}, batch_size=2)
    db.orders.create_index("state")


def down(db):
    db.orders.drop_index("state_1")
    db.orders.update_many({}, {"$unset": {"state": ""}})


def verify(db):
    return "state_1" in db.orders.index_information()
'''

TOTALS = '''
"""Count what there is."""

idempotent = True


def up(db):
    db.totals.replace_one(
        {"_id": "all"},
        {"users": db.users.count_documents({"state": "new"}), "orders": db.orders.count_documents({"state": "paid"})},
        upsert=True,
    )


def down(db):
    db.totals.drop()
'''


@pytest.fixture
def shop(project: Project) -> Project:
    project.write(f"{FIRST}_users", USERS)
    project.write(f"{SECOND}_orders", ORDERS)
    project.write(f"{THIRD}_totals", TOTALS)
    return project


def fill(db: Database[Any]) -> None:
    db.users.insert_many([{"_id": number} for number in range(3)])
    db.orders.insert_many([{"_id": number} for number in range(5)])


def data(db: Database[Any]) -> dict[str, Any]:
    """Return all that is not this package's own, and not empty."""
    found = content(db)
    return {
        name: each
        for name, each in found.items()
        if not name.startswith("migration") and (each.documents or name == "totals")
    }


def does(project: Project, *command: str, exit_code: int = 0, **settings: object) -> str:
    result = project.invoke(*command, **settings)
    assert result.exit_code == exit_code, result.output
    return result.output


def written(project: Project, *command: str, **settings: object) -> Path:
    result = project.invoke("squash", *command, "--json", **settings)
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    found: Path = project.migrations / shown["path"].rpartition("/")[2]
    return found


def sibling(project: Project, folder: Path, name: str) -> Project:
    """Make a project on another database, with a copy of the files."""
    (folder / name).mkdir()
    other = Project(folder / name, project.db.client[f"{project.db.name}_{name}"], project.uri)
    shutil.copytree(project.migrations, other.migrations, dirs_exist_ok=True)
    return other


def test_the_joined_migration_does_what_the_single_ones_do(shop: Project, tmp_path: Path) -> None:
    joined = sibling(shop, tmp_path, "joined")
    fill(shop.db)
    fill(joined.db)
    before = data(shop.db)
    path = written(joined, str(FIRST), str(THIRD), "the first quarter")
    assert "# Nobody is old yet." in path.read_text()
    try:
        does(shop, "up")
        does(joined, "up")
        assert joined.db.migrations.count_documents({}) == 1
        assert data(joined.db) == data(shop.db) != before
        does(shop, "down", "--steps", "3")
        does(joined, "down")
        assert data(joined.db) == data(shop.db) == before
        does(joined, "up")
        assert data(joined.db) != before
    finally:
        joined.db.client.drop_database(joined.db)


def test_where_the_single_ones_are_applied_it_is_recorded(shop: Project) -> None:
    fill(shop.db)
    does(shop, "up")
    before = data(shop.db)
    written(shop, str(FIRST), str(THIRD), "the first quarter")
    does(shop, "up")
    does(shop, "status", "--check")
    assert data(shop.db) == before
    for path in shop.migrations.glob("2026[01]*"):
        if "quarter" not in path.name:
            path.unlink()
    does(shop, "check")
    assert "missing" not in does(shop, "up")


def test_what_it_prints_and_writes(shop: Project) -> None:
    before = {path.name: path.read_bytes() for path in shop.migrations.iterdir()}
    output = does(shop, "squash", "202601", "totals", "The first   quarter")
    assert "the_first_quarter.py" in output
    assert "It replaces 3 migrations. Nothing was run." in output
    assert "calls those of 20260215001" in output
    (path,) = (path for path in shop.migrations.iterdir() if path.name not in before)
    assert all((shop.migrations / name).read_bytes() == held for name, held in before.items())
    source = path.read_text()
    assert 'name = "The first quarter"' in source
    assert "idempotent = True" in source
    assert "- 20260101001 State of users" in source
    assert shop.db.list_collection_names() == []
    assert json.loads(does(shop, "lint", path.name[:11], "--format", "json", "--fail-on", "error"))


@pytest.mark.skipif(find_spec("ruff") is None, reason="ruff is installed for development only")
def test_a_linter_and_a_formatter_accept_what_it_writes(shop: Project) -> None:
    path = written(shop, "202601", "totals", "The first quarter")
    check = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", str(path)]
    assert subprocess.run(check, check=False).returncode == 0
    inserts = range(20260401001, 20260401031)
    shop.write_inserts(*inserts)
    path = written(shop, str(inserts[0]), str(inserts[-1]), "thirty")
    check = [sys.executable, "-m", "ruff", "format", "--isolated", "--check", str(path)]
    assert subprocess.run(check, check=False).returncode == 0


def test_its_json(shop: Project) -> None:
    shown = json.loads(does(shop, "squash", str(FIRST), "orders", "two", "--json"))
    assert shown["replaces"] == shown["joined"] == [str(FIRST), str(SECOND)]
    assert shown["path"].endswith(f"{shown['version']}_two.py")
    assert (shown["transactional"], shown["idempotent"], shown["reversible"]) == (False, True, True)
    assert shown["notes"] == [
        "It has no verify(): its up() calls those of 20260215001, each after its part."
    ]


def test_the_file_latest_names_it(shop: Project) -> None:
    path = written(shop, str(FIRST), str(THIRD), "all", MIGRATE_LINEAR=True)
    assert (shop.migrations / ".latest").read_text().strip() == path.name
    assert int(path.name.partition("_")[0]) > THIRD


def test_it_needs_no_database(shop: Project) -> None:
    run = shop.run("squash", str(FIRST), str(THIRD), "all", MONGO_URI="mongodb://127.0.0.1:1/shop")
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def up(db:\n", "syntax error"),
        ("from os.path import *\n\n\ndef up(db):\n    pass\n", "cannot be joined: it imports `*`"),
        ("up = print\n", "cannot be joined: its up is not written as"),
    ],
)
def test_what_cannot_be_joined_is_refused(shop: Project, source: str, said: str) -> None:
    shop.write(f"{SECOND}_orders", source)
    before = sorted(shop.migrations.iterdir())
    assert said in does(shop, "squash", str(FIRST), str(THIRD), "all", exit_code=5)
    assert sorted(shop.migrations.iterdir()) == before


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ((str(FIRST), str(FIRST), "one"), "there is only one migration. Nothing was written."),
        ((str(THIRD), str(FIRST), "back"), "there is no migration. Nothing was written."),
        ((str(FIRST), str(THIRD), " "), "The name is empty."),
        ((str(FIRST), "nobody", "all"), "No migration has the number or the name 'nobody'"),
        (("2026", str(THIRD), "all"), "means 3 migrations"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(
    shop: Project, command: tuple[str, ...], said: str
) -> None:
    before = sorted(shop.migrations.iterdir())
    assert said in does(shop, "squash", *command, exit_code=2)
    assert sorted(shop.migrations.iterdir()) == before


def test_a_file_that_changes_meanwhile_is_refused(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    discover = Folder.discover

    def changes(folder: Folder, *given: Any) -> Any:
        found = discover(folder, *given)
        shop.write(f"{SECOND}_orders", ORDERS.replace("paid", "sent"))
        return found

    monkeypatch.setattr(Folder, "discover", changes)
    assert "it changed while it was read" in does(
        shop, "squash", str(FIRST), str(THIRD), "all", exit_code=5
    )


def test_a_squash_of_a_squash_replaces_what_that_replaces(shop: Project) -> None:
    fill(shop.db)
    does(shop, "up")
    before = data(shop.db)
    narrow = written(shop, str(FIRST), str(SECOND), "narrow")
    assert "is replaced by the squashed migration" in does(
        shop, "squash", str(FIRST), str(THIRD), "again", exit_code=2
    )
    wide = written(shop, "narrow", str(THIRD), "wide")
    source = wide.read_text()
    assert f"narrow, squashed from {FIRST}, {SECOND}" in source
    assert [v in source for v in (f'"{FIRST}_', f'"{SECOND}_', f'"{THIRD}_')] == [True] * 3
    narrow.unlink()
    does(shop, "up")
    does(shop, "status", "--check")
    assert data(shop.db) == before
    does(shop, "down")
    does(shop, "up")
    assert data(shop.db) == before
    does(shop, "status", "--check")


def test_30_migrations_are_joined(project: Project) -> None:
    numbers = range(20260101001, 20260101031)
    project.write_inserts(*numbers)
    written(project, str(numbers[0]), str(numbers[-1]), "thirty")
    for each in project.migrations.glob("*_insert.py"):
        each.unlink()
    does(project, "up")
    assert [found["version"] for found in project.db.done.find()] == list(numbers)
    does(project, "down")
    assert project.db.done.count_documents({}) == 0


def test_the_example_application_can_be_squashed(project: Project) -> None:
    folder = ROOT / "example_app" / "migrations"
    for path in folder.glob("2*.py"):
        shutil.copy(path, project.migrations)
    path = written(project, "blank_iata_codes", "country_summary", "all of it")
    project.db.airports.insert_one({"_id": "EDDF", "lon": 8.5, "lat": 50.0, "elevation": 364.0})
    does(project, "up")
    assert "airports" in path.read_text()
    assert project.db.airports.find_one({"elevation.feet": 364.0})
