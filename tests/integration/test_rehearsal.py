"""A rehearsal runs migrations for real, on samples, in a database of its own that is dropped."""

from __future__ import annotations

import builtins
import contextlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from bson import DatetimeMS, Int64
from flask import Flask
from pymongo import MongoClient
from pymongo.monitoring import CommandListener

from example_app import data
from flask_migrate_mongo import MongoMigrate
from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.driver.commands import Command
from flask_migrate_mongo.driver.server import Server
from flask_migrate_mongo.model.errors import (
    AccessDeniedError,
    EscapesRehearsalError,
    InvalidRequestError,
    RehearsalUnsupportedError,
    ScratchTakenError,
    SettingError,
    TransactionsUnsupportedError,
)
from flask_migrate_mongo.model.values import Actor
from flask_migrate_mongo.rehearsal import (
    MigrationRehearsal,
    RehearsalOptions,
    RehearsalReport,
    scratch,
)
from flask_migrate_mongo.rehearsal.comparison import RAW, Snapshot, listed
from flask_migrate_mongo.rehearsal.guard import forbidden_write
from flask_migrate_mongo.rehearsal.scratch import (
    MARKER,
    ScratchDatabase,
    prefix_for,
)
from flask_migrate_mongo.wiring import running
from tests.conftest import APPNAME, uri_with
from tests.project import ROOT, Project
from tests.server.lossy_proxy import LossyProxy
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pymongo.database import Database
    from pymongo.monitoring import (
        CommandFailedEvent,
        CommandStartedEvent,
        CommandSucceededEvent,
    )

    Db = Database[dict[str, Any]]

WELL = """
def up(db):
    db.people.update_many({}, {"$set": {"active": True}})

def down(db):
    db.people.update_many({}, {"$unset": {"active": ""}})
"""


@pytest.fixture(autouse=True)
def nothing_left(db: Db, admin: MongoClient[dict[str, Any]]) -> Iterator[None]:
    """Whatever a test does, its scratch databases are gone afterwards."""
    yield
    for name in scratches(db):
        admin.drop_database(name)


@pytest.fixture
def people(db: Db) -> Db:
    """Two hundred people."""
    db.people.insert_many([{"_id": n, "name": f"P{n}", "age": n % 90} for n in range(200)])
    return db


def rehearse(project: Project, *args: Any, settings: Any = None, **options: Any) -> RehearsalReport:
    """Rehearse in this process."""
    app = project.app(**(settings or {}))
    with app.app_context():
        return running.rehearsal(app_state.of(app)).run(RehearsalOptions(*args, **options))


def one(project: Project, *args: Any, **options: Any) -> MigrationRehearsal:
    """Rehearse the only migration, and see that nothing is left of it."""
    before = content(project.db)
    report = rehearse(project, *args, **options)
    assert content(project.db) == before
    assert scratches(project.db) == []
    assert report.warnings == ()
    return report.migrations[0]


def content(db: Db) -> dict[str, object]:
    """Every document, index and option of a database, byte for byte."""
    return {info["name"]: one_content(db, info) for info in db.list_collections()}


def one_content(db: Db, info: Any) -> object:
    if info["type"] == "view":
        return info["options"]
    found: Any = db.get_collection(info["name"], codec_options=RAW).find()
    indexes = db[info["name"]].index_information()
    return info["options"], sorted(bytes(d.raw) for d in found), indexes


def scratches(db: Db) -> list[str]:
    """The scratch databases that there are of a database."""
    prefix = prefix_for(db.name)
    return [name for name in db.client.list_database_names() if name.startswith(prefix)]


def a_scratch(db: Db, name: str) -> ScratchDatabase:
    """Name a scratch database of a database, which is not created yet."""
    actor, full = Actor.current("rehearse"), f"{prefix_for(db.name)}{name}"
    return ScratchDatabase(Server(db), full, actor, frozenset(), lambda: None)


# --- what is found out


def test_a_good_migration_goes_up_down_and_up_again(project: Project, people: Db) -> None:
    project.write("1_active", WELL)
    done = one(project)
    assert (done.failed, done.undoes, done.differences.total) == (False, True, 0)
    assert [each.error for each in done.attempts] == [None, None, None]
    assert done.touched == ("people",)
    assert project.statuses() == {}


@pytest.mark.parametrize(
    ("up", "down", "found"),
    [
        (
            'db.people.update_many({}, {"$unset": {"age": ""}})',
            "pass",
            "people document 0 (int), field age: 0 (int) → not there",
        ),
        (
            'db.people.update_many({}, [{"$set": {"age": {"$toString": "$age"}}}])',
            'db.people.update_many({}, [{"$set": {"age": {"$toDouble": "$age"}}}])',
            "people document 0 (int), field age: 0 (int) → 0.0 (double)",
        ),
        (
            'db.people.create_index("name")',
            "pass",
            "people index name_1: not there → there",
        ),
        ('db.people.drop_index("age_1")', "pass", "people index age_1: there → gone"),
        (
            'db.people.drop_index("age_1")',
            'db.people.create_index("age", unique=False, sparse=True)',
            "people index age_1, sparse: not there → true (bool)",
        ),
        (
            'db.people.insert_one({"_id": "new"})',
            "pass",
            'people document "new" (string): not there → there',
        ),
        (
            'db.people.delete_one({"_id": 7})',
            "pass",
            "people document 7 (int): there → gone",
        ),
        (
            'db.create_collection("empty")',
            "pass",
            "empty collection: not there → there",
        ),
        ("db.people.drop()", "pass", "people collection: there → gone"),
        (
            'db.command("collMod", "people", validator={"name": {"$exists": True}})',
            "pass",
            'people options, validator: not there → {"name": {"$exists": true}} (object)',
        ),
    ],
)
def test_what_a_down_does_not_undo_is_named(
    project: Project, people: Db, up: str, down: str, found: str
) -> None:
    people.people.create_index("age")
    project.write("1_faulty", f"def up(db):\n    {up}\ndef down(db):\n    {down}\n")
    done = one(project)
    assert done.failed
    assert done.undoes is False
    assert found in map(str, done.differences.first)


def test_only_the_first_differences_are_shown_and_all_are_counted(
    project: Project, people: Db
) -> None:
    project.write(
        "1_faulty",
        'def up(db):\n    db.people.update_many({}, {"$inc": {"age": 1}})\ndef down(db): pass\n',
    )
    done = one(project, sample=50)
    assert (len(done.differences.first), done.differences.total) == (5, 50)


def test_the_order_of_fields_is_no_difference_and_odd_documents_are_compared(
    project: Project, db: Db
) -> None:
    db.odd.insert_many(
        [
            {"_id": 1, "a": 1, "b": float("nan"), "c": [{"y": 1, "x": Int64(2)}]},
            {"_id": "1", "a": Int64(1), "b": datetime(1, 1, 1, tzinfo=timezone.utc)},
            {"_id": {"x": 1}, "a": None, "b": b"\0"},
            {"_id": 1.5, "a": [], "b": {}},
        ]
    )
    project.write(
        "1_order",
        """
        def up(db):
            db.odd.update_many({}, {"$rename": {"a": "z"}})

        def down(db):
            db.odd.update_many({}, {"$rename": {"z": "a"}})
        """,
    )
    assert not one(project).failed


def test_a_migration_without_down_is_irreversible_and_no_failure(
    project: Project, people: Db
) -> None:
    project.write("1_archive", "def up(db):\n    db.people.delete_many({})\n")
    project.write("2_active", WELL)
    report = rehearse(project)
    assert [p.file.version for p in report.irreversible] == [1]
    assert not report.failures
    assert (report.migrations[0].undoes, report.migrations[0].again) == (None, None)


@pytest.mark.parametrize("transactional", [True, False])
def test_an_up_that_fails_is_reported_and_what_follows_is_not_rehearsed(
    project: Project, people: Db, *, transactional: bool
) -> None:
    project.write("1_active", WELL)
    project.write("2_bad", f"transactional = {transactional}\ndef up(db):\n    1 / 0\n")
    project.write_inserts(3)
    first, second, third = rehearse(project).migrations
    assert not first.failed
    assert second.up is not None
    assert second.up.error is not None
    assert second.up.error.type == "ZeroDivisionError"
    assert (second.failed, third.up, third.failed) == (True, None, False)
    assert scratches(people) == []


def test_a_down_that_fails_is_reported(project: Project, people: Db) -> None:
    project.write("1_bad", WELL.partition("def down")[0] + "def down(db):\n    1 / 0\n")
    done = one(project)
    assert done.down is not None
    assert done.down.error is not None
    assert (done.failed, done.undoes, done.again) == (True, False, None)


def test_an_up_that_does_not_work_twice_is_reported(project: Project, people: Db) -> None:
    project.write(
        "1_once",
        """
        calls = __import__("sys").modules.setdefault("_calls_of_this_test", [])

        def up(db):
            db.people.count_documents({})
            if db.marks.find_one() is not None:
                raise ValueError("twice")

        def down(db):
            db.marks.insert_one({"_id": 1})
        """,
    )
    done = one(project)
    assert done.again is not None
    assert done.again.error is not None
    assert (done.again.error.message, done.failed) == ("twice", True)


def test_migrations_are_rehearsed_one_after_the_other_each_on_what_those_before_it_made(
    project: Project, people: Db
) -> None:
    project.write("1_active", WELL)
    project.write(
        "2_only_active",
        """
        def up(db):
            found = db.people.update_many({"active": True}, {"$set": {"seen": 1}}).matched_count
            assert found, "the first one is not applied"

        def down(db):
            db.people.update_many({}, {"$unset": {"seen": ""}})
        """,
    )
    report = rehearse(project)
    assert len(report.migrations) == 2
    assert not report.failures


@pytest.mark.parametrize("transactional", [False, True])
def test_every_call_of_a_rehearsal_says_that_it_is_one(
    project: Project, people: Db, monkeypatch: pytest.MonkeyPatch, *, transactional: bool
) -> None:
    calls: list[bool] = []
    monkeypatch.setattr("builtins.calls_of_this_test", calls, raising=False)
    project.write(
        "1_sends_mails",
        f"""
        transactional = {transactional}
        calls = __builtins__["calls_of_this_test"]

        def up(db, ctx):
            calls.append(ctx.rehearsal)

        def down(db, ctx):
            calls.append(ctx.rehearsal)
        """,
    )
    assert not one(project).failed
    assert len(calls) >= 6
    assert all(calls)
    calls.clear()
    assert not project.runner().up().failures
    assert calls == [False]


def test_a_backfill_with_several_workers_leaves_no_difference(project: Project, people: Db) -> None:
    project.write(
        "1_active",
        """
        def up(db, ctx):
            ctx.backfill("people", {"$set": {"active": True}}, workers=2, batch_size=20)

        def down(db, ctx):
            ctx.backfill("people", {"$unset": {"active": ""}}, workers=2, batch_size=20)
        """,
    )
    done = one(project)
    assert (done.failed, done.undoes, done.touched) == (False, True, ("people",))


def test_an_applied_version_and_one_that_does_not_exist_are_refused(
    project: Project, people: Db
) -> None:
    project.write("1_active", WELL)
    project.write("2_active", WELL.replace("active", "other"))
    with pytest.raises(InvalidRequestError, match="number or the name '5'"):
        rehearse(project, ("5",))
    assert [p.file.version for p in rehearse(project, ("2",)).migrations] == [2]
    assert not project.runner().up().failures
    with pytest.raises(InvalidRequestError, match="2 is applied here"):
        rehearse(project, ("2",))
    assert rehearse(project).migrations == ()
    assert scratches(people) == []


@pytest.mark.timeout(600)
def test_the_example_passes_on_the_real_airports(tmp_path: Path, db: Db, mongo_uri: str) -> None:
    with MongoClient[dict[str, Any]](mongo_uri, appname="demo") as client:
        loaded = data.load(client[db.name])
        app = Flask("demo", root_path=str(ROOT / "example_app"))
        MongoMigrate(app, client[db.name])
        with app.app_context():
            report = running.rehearsal(app_state.of(app)).run(RehearsalOptions())
        assert client[db.name].list_collection_names() == ["airports"]
    assert not report.failures
    assert [p.file.name for p in report.irreversible] == ["Archive local airfields"]
    assert all(p.undoes for p in report.migrations if p.file.reversible)
    assert [(c.name, c.documents, c.of) for c in report.copied] == [("airports", 1000, loaded)]
    for migration in report.migrations:
        assert migration.estimate is not None
        assert migration.estimate.documents == loaded
        low, high = migration.estimate.low, migration.estimate.high
        assert 0 < low < migration.estimate.seconds < high


# --- what is copied


def test_what_is_touched_is_copied_and_nothing_else(project: Project, people: Db) -> None:
    people.cities.insert_many([{"_id": n} for n in range(30)])
    people.unrelated.insert_one({})
    project.write(
        "1_join",
        """
        def up(db):
            stages = [
                {"$lookup": {"from": "cities", "localField": "age", "foreignField": "_id", "as": "c"}},
                {"$match": {"c": {"$ne": []}}},
                {"$out": "joined"},
            ]
            db.people.aggregate(stages)
            assert db.joined.find_one(), "the cities were not there"

        def down(db):
            db.joined.drop()
        """,
    )
    report = rehearse(project, sample=100)
    assert not report.failures
    copied = {c.name: (c.documents, c.of) for c in report.copied}
    assert copied == {"people": (100, 200), "cities": (30, 30)}


def test_who_lists_the_collections_gets_all_of_them(project: Project, people: Db) -> None:
    people.cities.insert_one({"_id": 1})
    project.write(
        "1_all",
        """
        def up(db):
            names = set(db.list_collection_names())
            assert {"people", "cities"} <= names, names

        def down(db): pass
        """,
    )
    assert not one(project).failed


def test_a_collection_with_queryable_encryption_is_left_out_and_said(
    project: Project, people: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encrypted(*given: Any) -> dict[str, Any]:
        found = listed(*given)
        if "people" in found:
            found["people"]["options"]["encryptedFields"] = {"fields": []}
        return found

    monkeypatch.setattr(scratch, "listed", encrypted)
    people.create_collection("enxcol_.people.esc")
    project.write(
        "1_count",
        "def up(db):\n    db.list_collection_names()\n    assert not db.people.count_documents({})",
    )
    report = rehearse(project)
    assert not report.failures
    assert not {"people", "enxcol_.people.esc"} & {each.name for each in report.copied}
    assert "1 uses people, which has Queryable Encryption and cannot be copied" in str(
        report.warnings
    )


def test_named_collections_are_copied_instead_of_those_touched(
    project: Project, people: Db
) -> None:
    people.cities.insert_one({"_id": 1})
    project.write("1_active", WELL)
    report = rehearse(project, collections=("cities",))
    assert [c.name for c in report.copied] == ["cities"]
    with pytest.raises(InvalidRequestError, match="no collection 'peple'"):
        rehearse(project, collections=("peple",))
    assert scratches(people) == []


def test_a_large_copy_of_all_documents_has_to_be_confirmed(
    project: Project, people: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_migrate_mongo.rehearsal.rehearsal.MOST_BYTES", 1_000)
    project.write("1_active", WELL)
    with pytest.raises(InvalidRequestError, match=r"all documents of people: about 0 MB"):
        rehearse(project, sample=None)
    assert scratches(people) == []
    phases: list[str] = []
    report = rehearse(project, sample=None, collections=("people",), on_phase=phases.append)
    assert [each.documents == each.of for each in report.copied] == [True]
    assert "Copying all documents of people: about 0 MB" in phases
    assert rehearse(project).migrations


def test_all_documents_are_copied_on_demand_and_then_nothing_is_extrapolated(
    project: Project, people: Db
) -> None:
    project.write("1_active", WELL)
    report = rehearse(project, sample=None)
    assert [(c.documents, c.of) for c in report.copied] == [(200, 200)]
    estimate = report.migrations[0].estimate
    assert estimate is not None
    assert (estimate.extrapolated, estimate.documents) == (False, 200)


@pytest.mark.parametrize("transactional", [True, False])
def test_a_copy_has_the_options_indexes_and_views_of_the_real_one(
    project: Project, db: Db, *, transactional: bool
) -> None:
    db.create_collection(
        "people", validator={"age": {"$type": "int"}}, collation={"locale": "de", "strength": 1}
    )
    old = [{"_id": n, "age": "old", "at": n} for n in range(10)]
    db.people.insert_many(old, bypass_document_validation=True)
    db.people.create_index("age", partialFilterExpression={"age": {"$exists": True}})
    db.people.create_index([("at", -1)], unique=True, name="moment")
    db.people.create_index("born", expireAfterSeconds=60)
    db.create_collection("ring", capped=True, size=8192, max=3)
    db.ring.insert_many([{"_id": n} for n in range(3)])
    db.create_collection("old", viewOn="people", pipeline=[{"$match": {"at": {"$gt": 4}}}])
    project.write(
        "1_look",
        f"""
        import json

        transactional = {transactional}

        def up(db, ctx):
            assert db.old.count_documents({{}}) == 5
            assert db.ring.count_documents({{}}) == 3
            db.people.insert_one({{"_id": 100, "age": 1, "at": 100}})

        def down(db):
            db.people.delete_one({{"_id": 100}})
        """,
    )
    project.write(
        "2_look",
        """
        import json

        def up(db):
            options = {i["name"]: i["options"] for i in db.list_collections()}
            assert options["people"]["validator"] == {"age": {"$type": "int"}}
            assert options["people"]["collation"]["locale"] == "de"
            assert (options["ring"]["capped"], options["ring"]["max"]) == (True, 3)
            found = db.people.index_information()
            assert found["age_1"]["partialFilterExpression"] == {"age": {"$exists": True}}
            assert (found["moment"]["unique"], found["moment"]["key"]) == (True, [("at", -1)])
            # Nothing expires between two looks.
            assert found["born_1"]["expireAfterSeconds"] > 10**9

        def down(db): pass
        """,
    )
    report = rehearse(project)
    errors = [a.error for p in report.migrations for a in p.attempts if a.error]
    assert errors == []
    assert not report.failures, [p.differences for p in report.failures]


class SentCommands(CommandListener):
    """Keeps the commands that were sent."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.commands.append(dict(event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Ignored."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Ignored."""


def test_a_copied_ttl_index_expires_nothing_and_does_not_reach_back_before_1970(
    db: Db, mongo_uri: str
) -> None:
    db.people.create_index("born", expireAfterSeconds=60)
    db.people.insert_one({"_id": 1, "born": datetime(1970, 1, 3, tzinfo=timezone.utc)})
    sent = SentCommands()
    with MongoClient[dict[str, Any]](mongo_uri, event_listeners=[sent]) as client:
        assert a_scratch(client[db.name], "ttl").copy("people", None).ttl_indexes == ("born_1",)
    ((index,),) = [command["indexes"] for command in sent.commands if "createIndexes" in command]
    oldest = datetime.now(timezone.utc) - timedelta(seconds=index["expireAfterSeconds"])
    # The server refuses an earlier time with code 67.
    assert (
        datetime(1970, 1, 1, tzinfo=timezone.utc)
        < oldest
        < datetime(1970, 1, 3, tzinfo=timezone.utc)
    )


@pytest.mark.parametrize("fails", [True, False])
def test_a_problem_of_a_collection_with_a_ttl_says_that_the_copy_has_another_one(
    project: Project, people: Db, *, fails: bool
) -> None:
    people.people.create_index("born", expireAfterSeconds=60)
    project.write(
        "1_active", WELL.partition("def down")[0] + "def down(db): pass\n" if fails else WELL
    )
    warnings = rehearse(project).warnings
    assert len(warnings) == fails
    if fails:
        assert "In the copy of people, expireAfterSeconds of born_1 is so long" in warnings[0]


@pytest.mark.parametrize("transactional", [False, True])
def test_what_down_alone_touches_is_copied_then(
    project: Project, people: Db, *, transactional: bool
) -> None:
    people.backup.insert_one({"_id": 1, "name": "kept"})
    project.write(
        "1_backup",
        f"""
        transactional = {transactional}

        def up(db):
            db.people.update_one({{"_id": 1}}, {{"$set": {{"touched": 1}}}})

        def down(db):
            db.people.update_one({{"_id": 1}}, {{"$unset": {{"touched": ""}}}})
            assert db.backup.find_one()["name"] == "kept"
        """,
    )
    report = rehearse(project)
    assert not report.failures
    assert sorted(c.name for c in report.copied) == ["backup", "people"]
    assert report.migrations[0].touched == ("people",)


def test_a_transaction_sees_what_was_brought_in_after_it_had_begun(
    project: Project, people: Db
) -> None:
    people.cities.insert_one({"_id": 1})
    project.write(
        "1_both",
        """
        transactional = True

        def up(db):
            db.people.update_many({}, {"$set": {"active": True}})
            assert db.cities.find_one() is not None, "brought in too late"

        def down(db):
            db.people.update_many({}, {"$unset": {"active": ""}})
        """,
    )
    assert not one(project).failed


@pytest.mark.parametrize("transactional", [False, True])
def test_what_only_a_full_sample_leads_to_is_copied_in_the_middle_of_an_up(
    project: Project, people: Db, *, transactional: bool
) -> None:
    people.cities.insert_many([{"_id": n} for n in range(10)])
    project.write(
        "1_many",
        f"""
        transactional = {transactional}

        def up(db):
            if db.people.count_documents({{}}) > 50:
                assert db.cities.find_one({{"_id": 3}}) is not None
                db.cities.update_many({{}}, {{"$set": {{"x": 1}}}})

        def down(db):
            if db.people.count_documents({{}}) > 50:
                db.cities.update_many({{}}, {{"$unset": {{"x": ""}}}})
        """,
    )
    report = rehearse(project, sample=100)
    assert not report.failures, report.failures
    assert report.migrations[0].touched == ("cities", "people")


def test_of_documents_that_are_too_large_to_keep_it_is_known_that_they_differ(people: Db) -> None:
    before = Snapshot(people, frozenset(), lambda: None, budget=0).take()
    assert before.compare().total == 0
    for fields in ({"name": "n", "age": "a"}, {"a": "age", "n": "name"}):
        people.people.update_many({}, {"$rename": fields})
    assert before.compare().total == 0
    people.people.update_one({"_id": 3}, {"$set": {"age": 3.0}})
    (found,) = before.compare().first
    assert str(found) == "people document 3 (int): unknown (too large to keep) → changed"


def test_the_latest_state_is_compared_even_if_the_application_reads_that_of_a_majority(
    people: Db, mongo_uri: str
) -> None:
    sent = SentCommands()
    uri = uri_with(mongo_uri, people.name, "readConcernLevel=majority")
    with MongoClient[dict[str, Any]](uri, event_listeners=[sent]) as client:
        Snapshot(client[people.name], frozenset(), lambda: None).take()
    assert [c["readConcern"]["level"] for c in sent.commands if "find" in c] == ["local"]


def test_a_document_as_long_as_a_digest_is_compared_like_any_other(db: Db) -> None:
    db.tags.insert_one({"_id": "a"})
    assert Snapshot(db, frozenset(), lambda: None).take().compare().total == 0


# --- nothing is written elsewhere

APP = """
import os

from flask import Flask
from flask_migrate_mongo import MongoMigrate
from pymongo import MongoClient

app = Flask(__name__)
client = MongoClient(os.environ["MONGO_URI"])
db = client.get_default_database()
MongoMigrate(app, db)
"""

ESCAPES = {
    "the application's global handle": "app_db.people.update_many({}, {'$set': {'x': 1}})",
    "a client of its own": (
        "\n    with MongoClient(os.environ['MONGO_URI']) as own:"
        "\n        own.get_default_database().people.delete_many({})"
    ),
    "a thread": (
        "t = threading.Thread(target=app_db.people.delete_many, args=({},)); t.start(); t.join()"
    ),
    "an error it caught": "\n    try: app_db.people.drop()\n    except Exception: pass",
    "$out": "db.people.aggregate([{'$out': {'db': app_db.name, 'coll': 'people'}}])",
    "$merge": "db.people.aggregate([{'$merge': {'into': {'db': app_db.name, 'coll': 'new'}}}])",
    "a rename": "db.people.rename('x'); app_db.people.rename('new')",
    "dropDatabase": "app_db.client.drop_database(app_db.name)",
    "an index": "app_db.people.create_index('name')",
    "a user": "db.command('createUser', 'eve', pwd='x', roles=[])",
}


@pytest.mark.parametrize("transactional", [False, True])
@pytest.mark.parametrize("how", ESCAPES)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_write_outside_of_the_scratch_database_is_refused_and_reported(
    project: Project, people: Db, how: str, *, transactional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONGO_URI", project.uri)
    monkeypatch.setattr("builtins.app_db_of_this_test", people, raising=False)
    project.write(
        "1_escapes",
        f"import os, threading\nfrom pymongo import MongoClient\ntransactional = {transactional}\n"
        "app_db = __builtins__['app_db_of_this_test']\n"
        f"def up(db):\n    db.people.find_one()\n    {ESCAPES[how]}\n",
    )
    before = content(people)
    report = rehearse(project)
    assert content(people) == before
    (done,) = report.migrations
    assert done.up is not None
    assert done.up.error is not None
    if not transactional:
        assert done.up.error.type == "EscapesRehearsalError"
        assert "`db` that up()" in done.up.error.message
        assert "The command was not sent" in done.up.error.message
    assert scratches(people) == []


def test_a_thread_that_outlives_its_migration_is_kept_in_until_the_end(
    project: Project, people: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, tried = threading.Event(), list[int]()
    leaked: list[str] = []
    nagging: list[threading.Thread] = []

    def nag() -> None:
        nagging.append(threading.current_thread())
        while not over.is_set():
            with contextlib.suppress(EscapesRehearsalError):
                tried.append(1)
                people.people.update_one({"_id": 1}, {"$set": {"escaped": True}})
                # It is let through once the rehearsal is over, when its database is gone.
                leaked.extend(n for n in people.client.list_database_names() if "rehearsal" in n)
                return

    monkeypatch.setattr("builtins.of_this_test", nag, raising=False)
    head = "import threading\nnag = __builtins__['of_this_test']\n"
    start = "    if db.people.count_documents({}) == 200: threading.Thread(target=nag).start()\n"
    project.write("1_starts", f"{head}def up(db):\n{start}def down(db): pass\n")
    project.write("2_active", WELL)
    try:
        rehearse(project)
    finally:
        over.set()
        for thread in nagging:
            thread.join()
    assert len(tried) > 10
    assert leaked == []


def test_what_is_read_outside_of_the_sample_is_reported(
    project: Project, people: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.app_db_of_this_test", people, raising=False)
    project.write(
        "1_reads",
        "app_db = __builtins__['app_db_of_this_test']\ndef up(db):\n    app_db.people.find_one()\n",
    )
    done = one(project)
    assert done.elsewhere == (f"{people.name}.people",)
    assert not done.failed


@pytest.mark.parametrize(
    "statement",
    [
        "[db.drop_collection(n) for n in db.list_collection_names()]",
        "db.client.drop_database(db.name)",
    ],
)
def test_a_migration_that_drops_everything_drops_the_scratch_database_and_is_told_so(
    project: Project, people: Db, statement: str
) -> None:
    project.write("1_drops", f"def up(db):\n    {statement}\n")
    done = one(project)
    assert done.up is not None
    assert done.up.error is not None
    assert done.up.error.type == "LeaseLostError"


# --- the scratch database


@pytest.mark.parametrize("transactional", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_rehearsal_and_its_database_is_dropped(
    project: Project, people: Db, number: int, *, transactional: bool
) -> None:
    project.write(
        "1_waits",
        f"""
        import time
        transactional = {transactional}

        def up(db):
            db.people.update_many({{}}, {{"$set": {{"x": 1}}}})
            if db.people.count_documents({{}}) > 50:
                print("ready", flush=True)
                time.sleep(60)
        """,
    )
    before = content(people)
    process = project.spawn("rehearse", "--sample", "100")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert len(scratches(people)) == 1
    process.send_signal(number)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 1, stderr
    assert "The rehearsal was stopped" in stderr
    assert scratches(people) == []
    assert content(people) == before


def test_a_signal_in_the_middle_of_copying_stops_it_too(
    project: Project, people: Db, failpoint: Any
) -> None:
    project.write("1_active", WELL)
    failpoint("insert", skip=1, times=None, blockConnection=True, blockTimeMS=1500)
    process = project.spawn("rehearse", "--collections", "people")
    until(lambda: scratches(people) or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, "The rehearsal was stopped" in stderr) == (1, True), stderr
    assert scratches(people) == []


@pytest.fixture
def kept_sessions() -> Iterator[None]:
    """Sessions that migrations keep beyond their end are ended afterwards."""
    builtins.__dict__["_sessions_of_this_test"] = []
    yield
    for session in builtins.__dict__.pop("_sessions_of_this_test"):
        session.end_session()


LEFT_OPEN = """
kept = __import__("builtins").__dict__["_sessions_of_this_test"]

def leave_open(db):
    session = db.client.start_session()
    kept.append(session)
    session.start_transaction()
    db.people.update_one({"_id": 1}, {"$set": {"x": 1}}, session=session)
"""


@pytest.mark.usefixtures("kept_sessions")
def test_a_transaction_that_a_migration_leaves_open_holds_up_nothing(
    project: Project, people: Db
) -> None:
    fails = "def up(db):\n    leave_open(db)\n    raise ValueError('left open')\n"
    project.write("1_open", f"{LEFT_OPEN}\n{fails}")
    began = time.monotonic()
    (done,) = rehearse(project).migrations
    assert done.failed
    assert time.monotonic() - began < 40
    assert scratches(people) == []


@pytest.mark.usefixtures("kept_sessions")
def test_the_next_attempt_does_not_wait_for_a_transaction_that_was_left_open(
    project: Project, people: Db
) -> None:
    down = "    db.people.update_one({'_id': 1}, {'$unset': {'x': ''}})"
    project.write(
        "1_open", f"{LEFT_OPEN}\ndef up(db):\n    leave_open(db)\ndef down(db):\n{down}\n"
    )
    began = time.monotonic()
    report = rehearse(project)
    assert time.monotonic() - began < 40
    assert not report.failures
    assert report.warnings == (
        "1 left a transaction open. It was ended, and its changes were rolled back.",
    )
    assert scratches(people) == []


def test_a_drop_waits_only_so_long_for_a_transaction_of_another_process(
    people: Db, admin: MongoClient[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_migrate_mongo.rehearsal.scratch.DROP_SECONDS", 1)
    scratch = a_scratch(people, "busy")
    scratch.create()
    scratch.copy("people", None)
    with admin.start_session() as session, session.start_transaction():
        admin[scratch.database.name].people.delete_one({"_id": 1}, session=session)
        began = time.monotonic()
        assert "could not be dropped" in str(scratch.drop())
        assert time.monotonic() - began < 15


def test_the_mark_comes_back_when_a_migration_drops_it(project: Project, people: Db) -> None:
    project.write("1_drops", f"def up(db):\n    db.drop_collection({MARKER!r})\n")
    project.write(
        "2_looks", f"def up(db):\n    assert db.get_collection({MARKER!r}).find_one()['of']\n"
    )
    assert not rehearse(project).failures


def test_what_a_killed_rehearsal_leaves_is_removed_by_one_that_comes_an_hour_later(
    project: Project, people: Db
) -> None:
    project.write(
        "1_waits",
        "import time\ndef up(db):\n    print('ready', flush=True)\n    time.sleep(60)\n",
    )
    process = project.spawn("rehearse")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.communicate()
    (left,) = scratches(people)
    project.write("1_waits", "def up(db): pass\n")
    assert rehearse(project).removed == ()
    assert scratches(people) == [left]
    age(people, left)
    assert rehearse(project).removed == (left,)
    assert scratches(people) == []


def age(db: Db, name: str, **changes: Any) -> None:
    """Make a scratch database two hours old, or differ otherwise."""
    old = datetime.now(timezone.utc) - timedelta(hours=2)
    fields = {"createdAt": old, "aliveAt": old, **changes}
    db.client[name][MARKER].update_one({}, {"$set": fields})


def test_a_rehearsal_of_over_an_hour_that_is_alive_is_no_leftover(
    project: Project, people: Db
) -> None:
    project.write("1_active", WELL)
    scratch = a_scratch(people, "long")
    scratch.create()
    age(people, scratch.database.name)
    scratch.renew_mark()
    assert rehearse(project).removed == ()
    assert scratches(people) == [scratch.database.name]
    scratch.drop()


def test_the_mark_is_renewed_at_each_attempt_and_while_documents_are_copied(
    project: Project, people: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[datetime] = []
    monkeypatch.setattr(builtins, "seen_by_this_test", seen, raising=False)
    look = f"seen_by_this_test.append(db.get_collection({MARKER!r}).find_one()['aliveAt'])"
    project.write("1_looks", f"def up(db):\n    {look}\ndef down(db):\n    {look}\n")
    assert not rehearse(project).failures
    assert len(set(seen)) == len(seen) == 6
    monkeypatch.setattr("flask_migrate_mongo.rehearsal.scratch.RENEW_SECONDS", 0)
    scratch = a_scratch(people, "long")
    scratch.create()
    age(people, scratch.database.name)
    scratch.copy("people", None)
    mark = scratch.database[MARKER].find_one()
    assert mark is not None
    assert mark["aliveAt"] - mark["createdAt"] > timedelta(hours=1)


def test_what_bears_no_mark_or_that_of_another_database_is_no_leftover(
    project: Project, people: Db
) -> None:
    prefix = prefix_for(people.name)
    project.write("1_active", WELL)
    people.client[f"{prefix}mine"].diary.insert_one({"_id": 1})
    people.client[f"{prefix}other"][MARKER].insert_one({"_id": "marker"})
    age(people, f"{prefix}other", of="another")
    assert rehearse(project).removed == ()
    assert sorted(scratches(people)) == [f"{prefix}mine", f"{prefix}other"]
    assert people.client[f"{prefix}mine"].diary.count_documents({}) == 1


def test_a_database_that_is_not_ours_is_neither_written_to_nor_dropped(
    project: Project, people: Db
) -> None:
    name = f"{prefix_for(people.name)}precious"
    people.client[name].diary.insert_one({"_id": 1})
    project.write("1_active", WELL)
    with pytest.raises(ScratchTakenError, match="No rehearsal created it"):
        rehearse(project, settings={"MIGRATE_REHEARSAL_DATABASE": name})
    assert content(people.client[name]).keys() == {"diary"}


def test_a_database_in_which_mongodb_kept_the_list_of_views_alone_is_taken(
    people: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server of the tests drops it with the last view.
    monkeypatch.setattr(people.__class__, "list_collection_names", lambda _: ["system.views"])
    scratch = a_scratch(people, "named")
    scratch.create()
    monkeypatch.undo()
    assert scratches(people) == [scratch.database.name]


def test_the_database_of_a_rehearsal_that_is_under_way_is_not_taken(
    project: Project, people: Db
) -> None:
    name = f"{prefix_for(people.name)}named"
    project.write("1_active", WELL)
    settings = {"MIGRATE_REHEARSAL_DATABASE": name}
    marker = {"_id": "marker", "of": people.name, "host": "web-1", "pid": 7}
    people.client[name][MARKER].insert_one({**marker, "createdAt": datetime.now(timezone.utc)})
    with pytest.raises(ScratchTakenError, match="on web-1, pid 7"):
        rehearse(project, settings=settings)
    assert scratches(people) == [name]
    age(people, name)
    report = rehearse(project, settings=settings)
    assert (report.removed, report.scratch_database) == ((name,), name)
    assert scratches(people) == []


def test_of_two_rehearsals_that_create_the_same_database_at_once_one_is_refused(
    people: Db, failpoint: Any
) -> None:
    failpoint("insert", times=2, blockConnection=True, blockTimeMS=500)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(a_scratch(people, "named").create) for _ in range(2)]
    (refused,) = filter(None, [each.exception() for each in both])
    assert isinstance(refused, ScratchTakenError)
    assert f"pid {os.getpid()}" in str(refused)


def test_the_application_s_own_database_is_refused_as_scratch_database(
    project: Project, people: Db
) -> None:
    project.write("1_active", WELL)
    before = content(people)
    with pytest.raises(SettingError, match="another database than the application's"):
        rehearse(project, settings={"MIGRATE_REHEARSAL_DATABASE": people.name})
    assert content(people) == before


def test_a_long_name_of_a_database_leaves_room_for_the_scratch_one(
    project: Project, db: Db, admin: MongoClient[dict[str, Any]]
) -> None:
    long = db.client[f"{db.name}_{'x' * (62 - len(db.name))}"]
    project.write("1_active", WELL)
    long.people.insert_one({"_id": 1})
    app = project.app(mongo=long)
    try:
        with app.app_context():
            report = running.rehearsal(app_state.of(app)).run(RehearsalOptions())
        assert report.scratch_database is not None
        assert len(report.scratch_database) == 63
        assert not report.failures
        assert report.scratch_database not in admin.list_database_names()
    finally:
        admin.drop_database(long.name)


# --- where it works


def test_it_works_without_transactions_but_for_transactional_migrations(
    tmp_path: Path, standalone_uri: str, db: Db
) -> None:
    uri = uri_with(standalone_uri, db.name, f"appname={APPNAME}")
    with MongoClient[dict[str, Any]](uri) as client:
        project = Project(tmp_path, client[db.name], uri)
        client[db.name].people.insert_many([{"_id": n} for n in range(20)])
        project.write("1_active", WELL)
        assert not one(project).failed
        project.write("2_transactional", "transactional = True\n" + WELL)
        with pytest.raises(TransactionsUnsupportedError, match="standalone"):
            rehearse(project)
        assert scratches(project.db) == []
        client.drop_database(db.name)


def test_it_is_refused_on_mongomock(project: Project) -> None:
    import mongomock  # noqa: PLC0415

    app = project.app(mongo=mongomock.MongoClient().shop)
    with app.app_context(), pytest.raises(RehearsalUnsupportedError, match="no server"):
        running.rehearsal(app_state.of(app)).run(RehearsalOptions())


def test_a_pool_of_one_connection_is_enough(tmp_path: Path, people: Db, mongo_uri: str) -> None:
    uri = uri_with(mongo_uri, people.name, "maxPoolSize=1", "waitQueueTimeoutMS=2000")
    with MongoClient[dict[str, Any]](uri) as client:
        project = Project(tmp_path, client[people.name], uri)
        project.write("1_active", "transactional = True\n" + WELL)
        project.write("2_other", WELL.replace("active", "other"))
        report = rehearse(project)
    assert not report.failures


def test_who_holds_the_real_lock_is_said_and_nobody_is_kept_waiting(
    project: Project, people: Db
) -> None:
    project.write("1_active", WELL)
    with project.runner().lease.hold(Actor.current("a long run")):
        report = rehearse(project)
    assert report.lock is not None
    assert report.lock.reason == "a long run"
    assert not report.failures


def test_the_failure_to_drop_is_said_and_masks_nothing(
    project: Project, people: Db, failpoint: Any
) -> None:
    project.write("1_active", WELL)
    failpoint("dropDatabase", "drop", times=5, skip=1, errorCode=13)
    report = rehearse(project)
    assert not report.failures
    (warning,) = report.warnings
    assert "could not be dropped" in warning
    assert "an hour old" in warning


def test_a_user_who_may_not_write_to_other_databases_is_told_so(
    project: Project, people: Db, failpoint: Any
) -> None:
    project.write("1_active", WELL)
    failpoint("insert", times=1, errorCode=13)
    with pytest.raises(AccessDeniedError):
        rehearse(project)


@pytest.fixture
def sent() -> list[dict[str, Any]]:
    """The commands that a user with readWriteAnyDatabase alone sent."""
    return []


@pytest.fixture
def read_write_any_database(
    tmp_path: Path, db: Db, mongo_uri: str, sent: list[dict[str, Any]]
) -> Iterator[Project]:
    """A project of the usual user of Atlas, who may neither drop databases nor bypass validators."""

    def forbids(command: dict[str, Any]) -> bool:
        sent.append(command)
        refused = {"dropDatabase", "collMod"}
        return next(iter(command)) in refused or command.get("bypassDocumentValidation") is True

    port = int(mongo_uri.split("/")[2].rpartition(":")[2])
    with LossyProxy(port) as proxy:
        proxy.forbids = forbids
        uri = f"mongodb://127.0.0.1:{proxy.port}/{db.name}?directConnection=true"
        with MongoClient[dict[str, Any]](uri) as client:
            yield Project(tmp_path, client[db.name], uri)


def test_a_user_who_may_not_drop_databases_drops_the_collections_the_mark_last(
    read_write_any_database: Project, people: Db, sent: list[dict[str, Any]]
) -> None:
    people.create_collection("names", viewOn="people", pipeline=[])
    project = read_write_any_database
    project.write("1_active", f"{WELL}    db.names.find_one()\n")
    report = rehearse(project)
    assert not report.failures
    assert report.warnings == ()
    assert scratches(people) == []
    dropped = [command["drop"] for command in sent if "drop" in command]
    assert dropped[-1] == MARKER
    assert dropped.count(MARKER) == 2
    assert {"names", "people"} < set(dropped)


def test_a_validator_is_bypassed_only_where_there_is_one_and_the_user_may(
    read_write_any_database: Project, people: Db, sent: list[dict[str, Any]]
) -> None:
    people.command("collMod", "people", validator={"age": {"$gte": 5}})
    people.cities.insert_one({"_id": 1})
    project = read_write_any_database
    project.write("1_active", f"{WELL}    db.cities.find_one()\n")
    report = rehearse(project)
    assert not report.failures
    invalid = people.people.count_documents({"age": {"$lt": 5}})
    copied = {each.name: each.documents for each in report.copied}
    assert copied == {"cities": 1, "people": 200 - invalid}
    (warning,) = report.warnings
    assert f"{invalid} documents of people were not copied: its validator refuses them" in warning
    assert scratches(people) == []
    assert [c["insert"] for c in sent if c.get("bypassDocumentValidation")] == ["people"]


def test_a_user_who_may_not_list_databases_is_told_which_are_not_looked_for(
    project: Project, people: Db, failpoint: Any
) -> None:
    project.write("1_active", WELL)
    named, other = a_scratch(people, "named"), a_scratch(people, "other")
    for each in (named, other):
        each.create()
        age(people, each.database.name)
    failpoint("listDatabases", times=1, errorCode=13)
    report = rehearse(project, settings={"MIGRATE_REHEARSAL_DATABASE": named.database.name})
    assert not report.failures
    assert report.removed == (named.database.name,)
    (warning,) = report.warnings
    assert "This user may not list databases" in warning
    assert f"Drop what is named {prefix_for(people.name)}..." in warning
    assert scratches(people) == [other.database.name]


def test_a_leftover_that_cannot_be_removed_is_a_warning(
    project: Project, people: Db, failpoint: Any
) -> None:
    project.write("1_active", WELL)
    scratch = a_scratch(people, "left")
    scratch.create()
    age(people, scratch.database.name)
    failpoint("dropDatabase", "drop", times=2, errorCode=13)
    report = rehearse(project)
    assert not report.failures
    assert report.removed == ()
    (warning,) = report.warnings
    assert f"The database {scratch.database.name} of a crashed rehearsal could not be" in warning
    assert scratches(people) == [scratch.database.name]
    assert rehearse(project).removed == (scratch.database.name,)


def test_afterwards_the_driver_is_as_it_was(project: Project, people: Db) -> None:
    from flask_migrate_mongo.driver import commands as wire  # noqa: PLC0415

    before = [vars(owner)[name] for owner, name in wire.PATCHES.names]
    project.write("1_active", WELL)
    rehearse(project)
    assert [vars(owner)[name] for owner, name in wire.PATCHES.names] == before


# --- what is copied


def rehearsed(project: Project, up: str, down: str = "pass") -> str:
    """Rehearse one migration, which succeeds; return what is printed."""
    project.write("20261101001_one", f"def up(db, ctx):\n    {up}\n\n\ndef down(db):\n    {down}\n")
    done = project.invoke("rehearse")
    assert done.exit_code == 0, done.output
    return done.output


SET, UNSET = (
    f'db.people.update_many({{}}, {{"${each}": {{"z": 1}}}})' for each in ("set", "unset")
)


def test_an_index_with_a_simple_collation_is_copied_as_it_is(project: Project) -> None:
    project.db.create_collection("people", collation={"locale": "en", "strength": 2})
    project.db.people.create_index("code", unique=True, collation={"locale": "simple"})
    project.db.people.insert_many([{"code": "a"}, {"code": "A"}])
    rehearsed(project, SET, UNSET)


@pytest.mark.parametrize(
    "call",
    ['ctx.validate("people", {"a": {"$exists": True}})', 'db.create_collection("new")'],
)
def test_looking_for_one_collection_copies_no_other(project: Project, call: str) -> None:
    project.db.people.insert_one({"a": 1})
    project.db.huge.insert_one({"b": 1})
    project.write("20261101001_one", f"def up(db, ctx):\n    {call}\n")
    assert "huge" not in project.invoke("rehearse").output


@pytest.mark.parametrize("call", ["db.create_collection(", 'db.command("create", '])
def test_a_view_that_the_migration_creates_shows_what_there_is(project: Project, call: str) -> None:
    project.db.people.insert_many([{"active": True}, {"active": False}])
    rehearsed(
        project,
        f'{call}"active", viewOn="people", pipeline=[{{"$match": {{"active": True}}}}])\n'
        "    assert db.active.count_documents({}) == 1",
        'db.drop_collection("active")',
    )


def test_dates_that_python_does_not_have_are_copied_in_options_and_indexes(
    project: Project,
) -> None:
    far = DatetimeMS(253_402_300_800_005)
    project.db.create_collection("people", validator={"at": {"$not": {"$gt": far}}})
    project.db.people.create_index("y", partialFilterExpression={"at": {"$lt": far}})
    project.db.people.insert_one({"x": 1})
    rehearsed(project, SET, UNSET)


@pytest.mark.parametrize(
    "name",
    [
        *("listShards", "balancerStatus", "getShardMap", "replSetGetConfig", "getLog"),
        *("getDefaultRWConcern", "connPoolStats", "validateDBMetadata", "getClusterParameter"),
    ],
)
def test_a_command_that_only_reads_the_server_is_allowed(name: str) -> None:
    assert forbidden_write(Command("admin", {name: 1}), "home") is None
