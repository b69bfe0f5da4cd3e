"""`create --from-schema`: the migrations that it writes make a real database as declared, and take it back."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient
from pymongo.errors import DuplicateKeyError, OperationFailure

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.schema import Collection, Index
from flask_migrate_mongo.schema.comparison import DifferenceKind, SchemaDiff, compare
from flask_migrate_mongo.schema.dumping import dump
from flask_migrate_mongo.schema.generating import CONVERTS_TO_UNIQUE, Known, generate
from flask_migrate_mongo.schema.live import LiveCollection, SchemaReader
from flask_migrate_mongo.wiring.comparing import schema_inventory
from tests.project import Project
from tests.server import mongod
from tests.server.launcher import TestServer

from .test_schema import INDEXES, NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from click.testing import Result
    from pymongo.database import Database
    from typing_extensions import Self

    from flask_migrate_mongo.model.reports import RunReport

    Document = dict[str, Any]

MODULE = "declared_for_a_test"
OLDEST = 13
"""The wire version of MongoDB 5.0, whose `collMod` does the least."""

QUESTION = re.compile(r"^    raise NotImplementedError\(.*?\)\n", re.DOTALL | re.MULTILINE)
RULE = {"name": {"$type": "string"}}


class Create(Protocol):
    """Runs `create --from-schema` with these declarations."""

    def __call__(self, *declared: Collection, options: tuple[str, ...] = ()) -> Result: ...


@pytest.fixture
def create(project: Project, monkeypatch: pytest.MonkeyPatch) -> Create:
    module = ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)

    def run(*declared: Collection, options: tuple[str, ...] = ()) -> Result:
        vars(module)["collections"] = declared
        return project.invoke(
            "create", "--from-schema", "Change", *options, MIGRATE_SCHEMA=f"{MODULE}:collections"
        )

    return run


def files(project: Project) -> list[Path]:
    return sorted(project.migrations.glob("*.py"))


def version(path: Path) -> str:
    return path.name.partition("_")[0]


def run(project: Project, *args: str) -> None:
    result = project.invoke(*args)
    assert result.exit_code == 0, result.output


def existing(db: Database[Document], name: str) -> tuple[LiveCollection, ...]:
    return tuple(each for each in SchemaReader(db).read() if each.name == name)


def difference(db: Database[Document], *declared: Collection) -> SchemaDiff:
    names = {each.name for each in declared}
    return compare(declared, [each for each in SchemaReader(db).read() if each.name in names])


def as_declared(live: tuple[LiveCollection, ...]) -> list[Collection]:
    names: Document = {}
    exec(dump(live, "A test."), names)
    found: list[Collection] = names["collections"]
    return found


# --- the command


def test_the_files_make_the_database_as_declared_and_take_it_back(
    project: Project, create: Create
) -> None:
    db = project.db
    db.orders.create_index("email")
    db.orders.create_index("seen", expireAfterSeconds=60)
    db.orders.create_index("mine")
    db.create_collection("logs", validator={"a": 1})
    before = SchemaReader(db).read()
    declared = [
        Collection(
            "orders",
            [
                Index("email", name="mail", unique=True, sparse=True, why="logins"),
                Index("seen", expire_after=timedelta(days=1), hidden=True),
                Index([("customer", 1), ("at", -1)]),
            ],
            validator=RULE,
        ),
        Collection("logs", validator={"a": 2}, level="moderate"),
        Collection("new", [Index("x")], options={"capped": True, "size": 4096}),
    ]
    result = create(*declared)
    assert result.exit_code == 0, result.output
    first, second = files(project)
    assert (first.name[11:], second.name[11:]) == ("_change.py", "_change_part_2.py")
    assert int(version(second)) == int(version(first)) + 1
    assert result.stdout.splitlines()[:2] == [str(first), str(second)]
    assert f"flask db-migrate up --to {version(first)}" in result.stdout
    run(project, "lint")

    run(project, "up", "--to", version(first))
    assert difference(db, *declared).differences == ()
    assert db.orders.index_information()["email_1"]["hidden"]
    nothing = create(*declared)
    assert nothing.exit_code == 0
    assert (
        nothing.stdout == "Everything declared is there, or is being built. Nothing was written.\n"
    )
    assert files(project) == [first, second]
    run(project, "up")
    assert difference(db, *declared).differences == ()
    assert set(db.orders.index_information()) == {
        "_id_",
        "mail",
        "seen_1",
        "mine_1",
        "customer_1_at_-1",
    }

    run(project, "down", "--steps", str(len(files(project))))
    names = {each.name for each in before}
    after = tuple(each for each in SchemaReader(db).read() if each.name in names | {"new"})
    assert compare(as_declared(before), after).found == ()
    run(project, "up")
    assert difference(db, *declared).differences == ()


def test_it_can_be_run_again_at_any_point(project: Project, create: Create) -> None:
    project.db.orders.create_index("email")
    declared = [
        Collection("orders", [Index("email", sparse=True)]),
        Collection("new", [Index("x")]),
    ]
    create(*declared)
    project.db.create_collection("new")
    project.db.new.create_index("x")
    project.db.orders.create_index("email", sparse=True, name="email_1_v2")
    run(project, "up")
    assert difference(project.db, *declared).differences == ()
    project.db.new.insert_one({})
    run(project, "down", "--steps", str(len(files(project))))
    # What has documents is not dropped.
    assert project.db.new.count_documents({}) == 1


def test_the_result_is_a_document_too(project: Project, create: Create) -> None:
    declared = Collection("orders", [Index("email")], options={"capped": True, "size": 4096})
    project.db.orders.insert_one({})
    result = create(declared, options=("--json",))
    assert json.loads(result.stdout) == {"paths": list(map(str, files(project))), "questions": 1}
    refused = project.invoke("up")
    assert refused.exit_code == 5
    assert "Nothing was run" in refused.stderr
    assert set(project.db.orders.index_information()) == {"_id_"}
    assert "1 question: each is a `raise NotImplementedError`." in create(declared).stdout
    project.db.orders.drop()
    empty = project.db.create_collection("orders", capped=True, size=4096)
    empty.create_index("email")
    result = create(declared, options=("--json",))
    assert json.loads(result.stdout) == {"paths": [], "questions": 0}


def test_it_goes_with_no_transaction_and_needs_declarations(
    project: Project, create: Create
) -> None:
    result = create(Collection("orders"), options=("--transactional",))
    assert result.exit_code == 2
    result = project.invoke("create", "--from-schema", "x")
    assert result.exit_code == 6
    assert "MIGRATE_SCHEMA" in result.stderr
    assert create(Collection("a" * 9), options=("--json",)).exit_code == 0
    assert len(files(project)) == 1


# --- who builds it again


def compared(project: Project, *args: str) -> tuple[int, str]:
    result = project.invoke(*args, MIGRATE_SCHEMA=f"{MODULE}:collections")
    return result.exit_code, result.stdout


def test_a_dropped_index_that_an_old_release_builds_again_is_found(
    project: Project, create: Create
) -> None:
    project.db.orders.create_index("email")
    declared = Collection("orders", [Index("email", sparse=True)])
    create(declared)
    second = files(project)[1]
    run(project, "up")
    assert compared(project, "schema", "diff")[0] == 0
    # As mongoengine and mongoose do when an application starts.
    project.db.orders.create_index("email")
    project.db.orders.create_index("other")
    code, shown = compared(project, "schema", "diff")
    assert code == 4
    assert (
        f"different  orders email_1: The index is there again: migration {version(second)} dropped it on 20"
        in shown
    )
    assert "note       orders other_1: The index is not declared" in shown
    code, shown = compared(project, "check")
    assert code == 4
    assert "orders email_1: The index is there again" in shown
    with project.app(MIGRATE_SCHEMA=f"{MODULE}:collections").app_context():
        listed = schema_inventory(app_state.current())
    assert [each.kind for each in listed.differences] == [DifferenceKind.RETURNED_INDEX]
    # A migration cannot stop the application.
    assert "Nothing was written" in create(declared).stdout
    assert project.db.orders.index_information().keys() >= {"email_1"}


@pytest.mark.parametrize("how", ["rolled back", "created again", "declared"])
def test_an_index_that_is_meant_to_be_there_again_is_not_found(
    project: Project, create: Create, how: str
) -> None:
    project.write(
        "1_drop",
        """
        def up(db, ctx): ctx.drop_index("orders", [("email", 1)])
        def down(db): db.orders.create_index("email")
        """,
    )
    run(project, "up")
    declared = [Index("email")] if how == "declared" else []
    create(Collection("orders", declared))
    if how == "rolled back":
        run(project, "down")
    elif how == "created again":
        project.write("2_create", 'def up(db, ctx): ctx.create_index("orders", "email")\n')
        run(project, "up")
    else:
        project.db.orders.create_index("email")
    assert "there again" not in compared(project, "schema", "diff")[1]
    assert project.trail(1)[:3] == ["started", "index-dropped", "completed"]


# --- documents that are in the way


def test_documents_that_would_expire_are_counted(project: Project, create: Create) -> None:
    now = datetime.now(timezone.utc)
    ages = [timedelta(minutes=5), timedelta(hours=5), timedelta(days=5)]
    project.db.orders.insert_many({"seen": now - age} for age in ages)
    project.db.orders.insert_one({"seen": "no date"})
    project.db.orders.create_index("seen", expireAfterSeconds=10 * 86_400)
    create(Collection("orders", [Index("seen", expire_after=timedelta(hours=1))]))
    (path,) = files(project)
    assert "deleted at once: 2." in " ".join(path.read_text().replace("    #", "").split())
    assert project.invoke("up").exit_code == 5
    path.write_text(QUESTION.sub("", path.read_text()))
    run(project, "up")
    assert project.db.orders.index_information()["seen_1"]["expireAfterSeconds"] == 3600


def test_documents_that_break_a_validator_are_changed_before_it_is_enforced(
    project: Project, create: Create
) -> None:
    project.db.people.insert_many([{"name": "a"}, {"name": 1}, {"name": 2}])
    declared = Collection("people", validator=RULE)
    create(declared)
    first, second = files(project)
    assert "do not match the validator: 2." in first.read_text()
    assert project.invoke("up").exit_code == 5
    assert project.db.people.options() == {}
    run(project, "up", "--to", version(first))
    assert project.db.people.options()["validationAction"] == "warn"
    backfill = (
        '    ctx.backfill("people", {"$set": {"name": "?"}}, where={"name": {"$type": "number"}})\n'
    )
    second.write_text(QUESTION.sub(backfill, second.read_text()))
    run(project, "up")
    assert difference(project.db, declared).found == ()
    with pytest.raises(OperationFailure, match="failed validation"):
        project.db.people.insert_one({"name": 3})
    run(project, "down", "--steps", "1")
    assert project.db.people.options()["validationAction"] == "warn"
    run(project, "down", "--steps", "1")
    assert difference(project.db, Collection("people")).found == ()


# --- unique all the time


class Duplicates:
    """Writes the same document again and again; none may be accepted."""

    def __init__(self, db: Database[Document]) -> None:
        self.refused = self.accepted = 0
        self._people, self._is_over = db.people, threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _write(self) -> None:
        while not self._is_over.is_set():
            try:
                self._people.insert_one({"email": "a@example.org"})
                self.accepted += 1
            except DuplicateKeyError:
                self.refused += 1

    def wait_for_more(self) -> None:
        """Wait until some more were written."""
        until, end = self.refused + self.accepted + 10, time.monotonic() + 30
        while self.refused + self.accepted < until:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture
def hang(admin: MongoClient[Document]) -> Iterator[Callable[[str], None]]:
    """Let index builds wait once they have started: hang("alwaysOn"), until hang("off")."""

    def set_mode(mode: str) -> None:
        admin.admin.command("configureFailPoint", "hangAfterStartingIndexBuild", mode=mode)

    yield set_mode
    set_mode("off")


def is_building(project: Project) -> bool:
    found = project.db.command("listIndexes", "people", includeBuildUUIDs=True)
    return any("spec" in each for each in found["cursor"]["firstBatch"])


@pytest.mark.parametrize(
    "changed",
    [
        Index("email", unique=True, sparse=True),
        Index("email", name="mail", unique=True, collation={"locale": "en", "strength": 2}),
        Index("email", unique=True, partial={"email": {"$gt": ""}}),
    ],
    ids=["sparse", "collation", "partial"],
)
def test_a_unique_index_is_enforced_at_each_moment_of_its_change(
    project: Project, create: Create, hang: Callable[[str], None], changed: Index
) -> None:
    project.db.people.insert_one({"email": "a@example.org"})
    project.db.people.create_index("email", unique=True)
    assert create(Collection("people", [changed])).exit_code == 0
    assert len(files(project)) == 2
    reports: list[RunReport] = []
    thread = threading.Thread(target=lambda: reports.append(project.runner().up()))
    with Duplicates(project.db) as duplicates:
        hang("alwaysOn")
        thread.start()
        end = time.monotonic() + 30
        while not is_building(project):
            assert time.monotonic() < end
            time.sleep(0.01)
        duplicates.wait_for_more()
        hang("off")
        thread.join()
        duplicates.wait_for_more()
        run(project, "down", "--steps", str(len(files(project))))
        duplicates.wait_for_more()
    assert [each.error for each in reports[0].outcomes] == [None, None]
    assert (duplicates.accepted, duplicates.refused > 30) == (0, True)
    assert project.db.people.index_information()["email_1"]["unique"]


def test_an_index_is_made_unique_by_a_server_that_can(tmp_path: Path) -> None:
    if mongod.executable():
        pytest.skip("a MongoDB says by its version what it can")
    with TestServer(newer=True) as server, MongoClient[Any](server.uri) as client:
        project = Project(tmp_path, client.newer, server.uri.replace("/?", "/newer?"))
        project.db.people.insert_many([{"email": "a"}, {"email": "a"}])
        project.db.people.create_index("email")
        declared = Collection("people", [Index("email", unique=True)])
        diff = difference(project.db, declared)
        (draft,) = generate(diff, "Unique", Known(CONVERTS_TO_UNIQUE))
        project.write("1_unique", draft.source)
        failed = project.invoke("up")
        assert failed.exit_code == 1
        assert "have the same key" in failed.output or "several documents" in failed.output
        # The index is prepared now, and still becomes unique in place.
        (again,) = generate(difference(project.db, declared), "Unique", Known(CONVERTS_TO_UNIQUE))
        assert "ctx.make_unique" in again.source
        project.db.people.delete_one({})
        run(project, "up")
        assert difference(project.db, declared).found == ()
        run(project, "down")
        assert difference(project.db, Collection("people", [Index("email")])).found == ()
        run(project, "up")
        assert difference(project.db, declared).found == ()


# --- any indexes


def build(db: Database[Document], name: str, indexes: list[Document], names: list[str]) -> None:
    """Build those of the indexes that the server accepts."""
    for number, (index, own) in enumerate(zip(indexes, names, strict=False)):
        usual = "_".join(f"{field}_{kind}" for field, kind in index["key"].items())
        spec = {**index, "name": usual if number % 2 else f"{own}{number}"}
        if index.get("collation", {}).get("locale") in {"fr_CA", "da"}:
            # The server of the tests lacks their defaults.
            spec["collation"] = {"locale": "de"}
        try:
            db.command("createIndexes", name, indexes=[spec])
        except OperationFailure as exc:
            event(f"refused {exc.code}")


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(before=INDEXES, after=INDEXES, names=NAMES, step=st.integers(0, 5))
def test_any_indexes_become_any_others_and_come_back(
    project: Project,
    before: list[Document],
    after: list[Document],
    names: list[str],
    step: int,
) -> None:
    db = project.db
    for path in files(project):
        path.unlink()
    for name in ("live", "wanted", "migrations"):
        db.drop_collection(name)
    db.create_collection("live")
    db.create_collection("wanted")
    build(db, "live", before, names)
    # Some indexes are in both.
    build(db, "wanted", [*after, *before[:step]], [*names, *names])
    (wanted,) = as_declared(existing(db, "wanted"))
    declared = replace(wanted, name="live")
    old = existing(db, "live")
    drafts = generate(difference(db, declared), "Change", Known(OLDEST))
    assume(drafts)
    for number, draft in enumerate(drafts, start=1):
        project.write(f"{number}_change", QUESTION.sub("", draft.source))
    run(project, "up", "--to", "1")
    assert difference(db, declared).differences == ()
    run(project, "up")
    assert difference(db, declared).differences == ()
    event(f"{len(drafts)} files")
    run(project, "down", "--steps", str(len(files(project))))
    assert compare(as_declared(old), existing(db, "live")).found == ()
