"""`import-history` on what the other tools wrote, and the collection of another tool in place of the history."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from bson import json_util

from flask_migrate_mongo.model.errors import ConnectionFailedError
from flask_migrate_mongo.model.values import Actor, Tool
from flask_migrate_mongo.planning.importing import ImportState
from flask_migrate_mongo.store.foreign import default_collection
from flask_migrate_mongo.store.history import MigrationHistory
from flask_migrate_mongo.store.lease import Lease
from tests.project import ROOT

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pymongo.database import Database

    from flask_migrate_mongo.store.lease import Grant
    from flask_migrate_mongo.store.records import Adoption
    from tests.project import Project

RECORDED = ROOT / "tests" / "recorded" / "histories"
TOKEN = "admin-0123456789"

USERS, ORDERS, TOTALS, MORE = 20240110093000, 20240215101500, 20240301080000, 20240302080000
SLUGS = {USERS: "add_users", ORDERS: "add_orders", TOTALS: "add_totals", MORE: "add_more"}


def stored(name: str) -> list[dict[str, Any]]:
    """Return the documents that a tool wrote."""
    documents: list[dict[str, Any]] = json_util.loads((RECORDED / f"{name}.json").read_text())
    return documents


def time_of(document: dict[str, Any]) -> datetime:
    """Return when a tool says that it applied a migration."""
    names = ("appliedAt", "applied", "created_at", "applied_at")
    found = next((document[name] for name in names if name in document), None)
    moment: datetime = found or document["_id"].generation_time
    return moment


def write(project: Project, *versions: int) -> None:
    """Write migrations that leave a document each if they run."""
    for version in versions:
        source = f"def up(db): db.ran.insert_one({{'v': {version}}})\ndef down(db): db.ran.insert_one({{'v': -{version}}})\n"
        project.write(f"{version}_{SLUGS[version]}", source)


def given(project: Project, tool: str, collection: str = "", name: str = "") -> str:
    """Insert the history that a tool wrote, and write the four migrations. Returns the collection."""
    collection = collection or default_collection(Tool(tool))
    project.db[collection].insert_many(stored(name or tool))
    write(project, *SLUGS)
    return collection


def imports(project: Project, tool: str, *more: str, exit_code: int = 0, **settings: Any) -> str:
    """Run `import-history`, and return all that it prints."""
    result = project.invoke("import-history", "--from", tool, *more, **settings)
    assert result.exit_code == exit_code, result.output
    return result.output


def records(project: Project, collection: str = "migrations") -> list[dict[str, Any]]:
    """Return the records in the order of application."""
    key = [("batch", 1), ("metadata.position", 1)]
    return list(project.db[collection].find(sort=key))


def whole(db: Database[Any]) -> dict[str, Any]:
    """Return everything in the database, indexes included."""
    return {
        name: (list(db[name].find(sort=[("_id", 1)])), db[name].index_information())
        for name in sorted(db.list_collection_names())
    }


def states(document: dict[str, Any]) -> list[str]:
    return [entry["state"] for entry in document["entries"]]


# --- what each tool wrote


@pytest.mark.parametrize("tool", [tool.value for tool in Tool])
def test_what_a_tool_applied_is_recorded_in_its_order_with_its_times(
    project: Project, tool: str
) -> None:
    collection = given(project, tool)
    before = whole(project.db)
    shown = json.loads(imports(project, tool, "--json"))
    assert whole(project.db) == before
    assert shown["collection"] == collection
    assert states(shown)[:3] == ["to-record"] * 3
    assert [e["version"] for e in shown["entries"][:3]] == [str(USERS), str(ORDERS), str(TOTALS)]

    output = imports(project, tool, "--confirm")
    assert "Recorded 3 migrations as applied. None was run." in output
    assert whole(project.db)[collection] == before[collection]
    found = records(project)
    assert [int(r["version"]) for r in found] == [USERS, ORDERS, TOTALS]
    times = [time_of(document).replace(tzinfo=None) for document in stored(tool)[:3]]
    assert [record["appliedAt"] for record in found] == times
    assert {r["status"] for r in found} == {"completed"}
    assert {r["batch"] for r in found} == {1}
    assert {r["metadata"]["origin"] for r in found} == {"imported"}
    assert [r["metadata"]["position"] for r in found] == [0, 1, 2]
    event = found[0]["metadata"]["events"][-1]
    assert event["event"] == "imported"
    assert f"applied by {tool}, imported from {collection}" in event["reason"]
    assert "ran" not in project.db.list_collection_names()


@pytest.mark.parametrize("tool", [tool.value for tool in Tool])
def test_a_second_import_writes_nothing_and_the_rest_is_applied_as_usual(
    project: Project, tool: str
) -> None:
    given(project, tool)
    imports(project, tool, "--confirm")
    before = whole(project.db)
    assert "Nothing to do" in imports(project, tool, "--confirm")
    assert "Nothing to do" in imports(project, tool)
    assert whole(project.db) == before
    assert project.invoke("up").exit_code == 0
    assert [d["v"] for d in project.db.ran.find()] == [MORE]
    assert project.invoke("status", "--check").exit_code == 0


def test_down_rolls_back_what_was_imported_the_last_first(project: Project) -> None:
    given(project, "migrate-mongo")
    imports(project, "migrate-mongo", "--confirm")
    assert project.invoke("down", "--steps", "2").exit_code == 0
    assert [d["v"] for d in project.db.ran.find()] == [-TOTALS, -ORDERS]
    # The other collection still says that they are applied: that is not recorded again.
    shown = json.loads(imports(project, "migrate-mongo", "--confirm", "--json"))
    assert states(shown) == ["known", "known", "known"]
    assert shown["entries"][2]["note"] == "has a record here: rolled-back"
    assert project.statuses() == {USERS: "completed", ORDERS: "rolled-back", TOTALS: "rolled-back"}


def test_a_file_that_migrate_mongo_applied_twice_is_one_migration(project: Project) -> None:
    given(project, "migrate-mongo", name="migrate-mongo-file-hash")
    imports(project, "migrate-mongo", "--confirm")
    found = records(project)
    assert [int(r["version"]) for r in found] == [USERS, ORDERS, TOTALS, MORE]
    assert found[0]["appliedAt"] == min(
        d["appliedAt"].replace(tzinfo=None) for d in stored("migrate-mongo-file-hash")
    )


def test_what_pymongo_migrate_rolled_back_stays_pending(project: Project) -> None:
    given(project, "pymongo-migrate")
    shown = json.loads(imports(project, "pymongo-migrate", "--confirm", "--json"))
    assert states(shown) == ["recorded", "recorded", "recorded", "not-applied"]
    assert MORE not in project.statuses()


def test_what_failed_in_mongomig_is_refused_until_it_is_ignored(project: Project) -> None:
    given(project, "mongomig", name="mongomig-failed")
    before = whole(project.db)
    output = imports(project, "mongomig", "--confirm", exit_code=5)
    failed = stored("mongomig-failed")[-1]["_id"]
    assert f"{failed}: it failed there, or still runs" in output
    assert whole(project.db) == before
    path = project.root / "map"
    path.write_text(f"{failed} = ignore\n")
    imports(project, "mongomig", "--confirm", "--map", str(path))
    assert len(records(project)) == 3


# --- what cannot be mapped, and the map


def test_what_has_no_file_is_listed_and_nothing_is_recorded(project: Project) -> None:
    project.db.changelog.insert_many(stored("migrate-mongo"))
    write(project, USERS)
    before = whole(project.db)
    shown = json.loads(imports(project, "migrate-mongo", "--json", exit_code=5))
    assert states(shown) == ["to-record", "unmapped", "unmapped"]
    text = imports(project, "migrate-mongo", exit_code=5)
    assert "2 entries cannot be mapped to a file here. Nothing was recorded." in text
    refused = imports(project, "migrate-mongo", "--confirm", exit_code=5)
    for name in ("20240215101500-add_orders.js", "20240301080000-add_totals.js"):
        assert f"  {name}: no file has its number or its name\n" in refused
    problem = json.loads(imports(project, "migrate-mongo", "--confirm", "--json", exit_code=5))
    assert (problem["code"], problem["status"]) == ("not-mapped", 409)
    assert "20240301080000-add_totals.js" in problem["detail"]
    assert whole(project.db) == before


def test_the_map_settles_what_names_do_not(project: Project, tmp_path: Path) -> None:
    project.db.changelog.insert_many(stored("migrate-mongo"))
    write(project, USERS)
    project.write("7_orders", "def up(db): db.ran.insert_one({})\n")
    path = tmp_path / "map"
    path.write_text(
        "# the rest\n20240215101500-add_orders.js = 7\n"
        "20240301080000-add_totals.js = ignore\nnever.js = 9\n"
    )
    output = imports(project, "migrate-mongo", "--confirm", "--map", str(path))
    assert "the map has names that changelog does not have: never.js" in output
    assert project.statuses() == {USERS: "completed", 7: "completed"}


@pytest.mark.parametrize("content", [b"a.js", b"\xff = 1"])
def test_a_map_that_cannot_be_read_is_refused(project: Project, content: bytes) -> None:
    given(project, "migrate-mongo")
    path = project.root / "map"
    path.write_bytes(content)
    output = imports(project, "migrate-mongo", "--map", str(path), "--json", exit_code=2)
    assert json.loads(output)["code"] == "invalid-request"


# --- the wrong collection


def test_an_empty_collection_is_refused(project: Project) -> None:
    write(project, USERS)
    output = imports(project, "migrate-mongo", "--confirm", exit_code=5)
    assert "changelog is empty or does not exist" in output
    assert whole(project.db) == {}


def test_the_documents_of_another_tool_are_refused(project: Project) -> None:
    given(project, "mongrate", "changelog")
    output = imports(project, "migrate-mongo", "--confirm", exit_code=5)
    assert "migrate-mongo did not write: _id ObjectId(" in output
    assert "It looks like one of mongrate." in output
    assert "migrations" not in project.db.list_collection_names()


def test_the_collection_of_the_history_itself_is_refused(project: Project) -> None:
    given(project, "migrate-mongo", "changelog")
    settings: dict[str, Any] = {
        "MIGRATE_COLLECTION": "changelog",
        "MIGRATE_LOCK_COLLECTION": "locks",
    }
    imports(project, "migrate-mongo", "--confirm", exit_code=5, **settings)
    assert whole(project.db).keys() == {"changelog"}
    project.db.changelog.drop()
    assert project.invoke("up", **settings).exit_code == 0
    output = imports(project, "migrate-mongo", "--confirm", exit_code=5, **settings)
    assert "changelog is the collection of the history itself" in output
    assert "MIGRATE_COLLECTION" in output


# --- under the lease


def test_it_waits_for_the_lock_and_takes_none_only_to_look(
    project: Project, db: Database[Any]
) -> None:
    given(project, "migrate-mongo")
    runner = project.runner()
    with runner.lease.hold(Actor.current("a test")):
        imports(project, "migrate-mongo")
        imports(project, "migrate-mongo", "--confirm", exit_code=3)
    assert project.statuses() == {}
    assert "migrations" not in db.list_collection_names() or not list(db.migrations.find())


def test_what_another_run_recorded_meanwhile_is_not_recorded_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(project, "migrate-mongo")
    hold = Lease.hold

    def after_another(lease: Lease, *args: Any, **kwargs: Any) -> AbstractContextManager[Grant]:
        monkeypatch.setattr(Lease, "hold", hold)
        imports(project, "migrate-mongo", "--confirm")
        return hold(lease, *args, **kwargs)

    monkeypatch.setattr(Lease, "hold", after_another)
    shown = json.loads(imports(project, "migrate-mongo", "--confirm", "--json"))
    assert states(shown) == ["known"] * 3
    assert {record["batch"] for record in records(project)} == {1}


def test_an_entry_that_appears_meanwhile_without_a_file_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(project, "mongrate")
    hold = Lease.hold

    def after_another(lease: Lease, *args: Any, **kwargs: Any) -> AbstractContextManager[Grant]:
        project.db["_migrations"].insert_one({"migration": "20240401000000_new.py"})
        return hold(lease, *args, **kwargs)

    monkeypatch.setattr(Lease, "hold", after_another)
    assert "20240401000000_new.py: no file" in imports(
        project, "mongrate", "--confirm", exit_code=5
    )
    assert project.statuses() == {}


def test_an_import_that_broke_off_is_continued_in_order(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(project, "migrate-mongo")
    with monkeypatch.context() as patch:
        record = MigrationHistory.record_applied

        def failing(history: MigrationHistory, adoption: Adoption, *args: Any) -> None:
            if adoption.file.version == ORDERS:
                msg = "gone"
                raise ConnectionFailedError(msg)
            record(history, adoption, *args)

        patch.setattr(MigrationHistory, "record_applied", failing)
        imports(project, "migrate-mongo", "--confirm", exit_code=6)
    assert project.statuses() == {USERS: "completed"}
    imports(project, "migrate-mongo", "--confirm")
    applied = project.runner().history.load().applied
    assert [each.version for each in applied] == [USERS, ORDERS, TOTALS]


def test_every_field_of_the_document_is_in_the_reference(project: Project) -> None:
    given(project, "migrate-mongo")
    text = (ROOT / "docs" / "reference.md").read_text()
    shown = json.loads(imports(project, "migrate-mongo", "--json"))
    for field in (*shown, *shown["entries"][0]):
        assert f"`{field}`" in text
    for state in ImportState:
        assert f"`{state.value}`" in text


def test_the_page_names_every_tool_with_its_collection() -> None:
    text = (ROOT / "docs" / "other-tools.md").read_text()
    for tool in Tool:
        assert f"| `{tool.value}` | `{default_collection(tool)}` |" in text


# --- a foreign document in the collection of the history

FOREIGN: list[tuple[dict[str, Any], str]] = [
    ({"migrationName": "x"}, "Umzug"),
    ({"version": "v1.2"}, ""),
    ({"version": 7, "status": "done"}, ""),
    ({"migration": "2024_01_10_users", "batch": 1}, "Laravel"),
    (
        {"fileName": "1-a.js", "appliedAt": datetime(2024, 1, 10, tzinfo=timezone.utc)},
        "migrate-mongo",
    ),
    ({"version": "7", "status": "completed", "appliedAt": "yesterday"}, ""),
]
COMMANDS = [
    *("status", "plan", "up", "up --dry-run", "down", "history", "check", "rehearse"),
    *("status --check", "resolve 1 --applied --reason x", "resolve 1 --forget --reason x"),
    *("baseline --reason x", "renumber 1", "import-history --from mongrate --confirm"),
]


@pytest.mark.parametrize(("document", "tool"), FOREIGN, ids=[str(d) for d, _ in FOREIGN])
def test_every_command_names_the_foreign_document_and_both_ways_out(
    project: Project, document: dict[str, Any], tool: str
) -> None:
    project.write_inserts(1, 2)
    project.db.migrations.insert_many([dict(document), {**document, "_id": "other"}])
    key = project.db.migrations.find_one({})
    assert key is not None
    before = whole(project.db)
    for command in COMMANDS:
        result = project.invoke(*command.split())
        assert result.exit_code == 5, (command, result.output)
        assert not isinstance(result.exception, TypeError | ValueError), command
        assert (
            f"The collection migrations holds a document that is not a record of a migration: _id {key['_id']!r}."
            in result.output
        )
        assert f"It looks like one of {tool}." in result.output or not tool
        assert "MIGRATE_COLLECTION = " in result.output
        assert "import-history" in result.output
        problem = json.loads(project.invoke(*command.split(), "--json").output)
        assert (problem["code"], problem["status"]) == ("foreign-document", 409)
    assert whole(project.db) == before


@pytest.mark.parametrize("log", ["x", [1], [{"event": "started"}]])
def test_an_event_log_of_another_tool_is_named(project: Project, log: object) -> None:
    project.db.migrations.insert_one(
        {"_id": 1, "version": "1", "status": "completed", "metadata": {"events": log}}
    )
    for command in (("history", "--events"), ("history", "1")):
        result = project.invoke(*command)
        assert result.exit_code == 5
        assert "not a record of a migration: _id 1." in result.output
    assert project.invoke("status").exit_code == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "status"), ("GET", "history"), ("POST", "up"), ("POST", "down"), ("GET", "health")],
)
def test_rest_answers_409(project: Project, method: str, path: str) -> None:
    project.write_inserts(1)
    project.db.migrations.insert_one({"migrationName": "x"})
    client = project.app(MIGRATE_API_TOKEN=TOKEN).test_client()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = client.open(f"/api/migrations/{path}", method=method, headers=headers)
    assert answer.status_code == 409, answer.text
    problem = json.loads(answer.text)
    assert problem["code"] == "foreign-document"
    assert "MIGRATE_COLLECTION" in problem["detail"]
    assert "import-history" in problem["detail"]


def test_the_lock_can_be_looked_at_and_released(project: Project) -> None:
    project.db.migrations.insert_one({"migrationName": "x"})
    runner = project.runner()
    with runner.lease.hold(Actor.current("a test")):
        assert project.invoke("lock-status").exit_code == 0
        assert project.invoke("force-unlock", "--confirm").exit_code == 0


def test_both_ways_out_lead_out(project: Project) -> None:
    given(project, "migrate-mongo", "migrations")
    output = project.invoke("status").output
    assert (
        "`flask db-migrate import-history --from migrate-mongo --collection migrations`" in output
    )
    settings: dict[str, Any] = {"MIGRATE_COLLECTION": "flask_migrations"}
    imports(project, "migrate-mongo", "--collection", "migrations", "--confirm", **settings)
    assert [int(r["version"]) for r in records(project, "flask_migrations")] == [
        USERS,
        ORDERS,
        TOTALS,
    ]
    assert list(project.db.migrations.find()) == [
        {k: v.replace(tzinfo=None) if isinstance(v, datetime) else v for k, v in d.items()}
        for d in stored("migrate-mongo")
    ]
    assert project.invoke("up", **settings).exit_code == 0
    assert [d["v"] for d in project.db.ran.find()] == [MORE]
