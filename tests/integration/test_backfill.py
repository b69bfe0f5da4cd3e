"""`ctx.backfill()` changes every document exactly once."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from bson import Binary, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion

from flask_migrate_mongo.backfill import BackfillOptions, DryRunBackfill, ExecutedBatches
from flask_migrate_mongo.driver.confinement import confined
from flask_migrate_mongo.driver.server import Server
from flask_migrate_mongo.driver.transactions import transaction
from flask_migrate_mongo.model.masking import DEFAULT_MASK
from flask_migrate_mongo.process import elapsed
from tests.project import CLUSTERED

if TYPE_CHECKING:
    from flask_migrate_mongo.model.reports import RunReport
    from tests.project import Project

VERSION = 20261101001

FORMS = {
    "an update": '{"$inc": {"n": 1}}',
    "a pipeline": '[{"$set": {"n": {"$add": [{"$ifNull": ["$n", 0]}, 1]}}}]',
    "a function": 'lambda doc: {"$set": {"n": doc.get("n", 0) + 1}}',
}


def write(project: Project, call: str, *, head: str = "", down: str = "pass") -> None:
    """Write a migration whose up() is one call, and which stores the result of that."""
    project.write(
        f"{VERSION}_backfill",
        f"""
from dataclasses import asdict
{head}

def up(db, ctx):
    done = ctx.{call}
    db.results.insert_one(asdict(done))


def down(db, ctx):
    {down}
""",
    )


def up(project: Project, **settings: object) -> RunReport:
    report = project.runner(**settings).up()
    assert report.error is None, report.error
    assert report.failures == (), report.failures[0].error
    return report


def counts(project: Project) -> dict[str, Any]:
    found = project.db.results.find_one({}, {"_id": 0}, sort=[("_id", -1)])
    assert found is not None
    return dict(found)


def values(project: Project) -> list[Any]:
    return [d.get("n") for d in project.db.people.find().sort("_id", 1)]


@pytest.mark.parametrize("change", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 25])
def test_every_document_is_changed_once(project: Project, change: str, size: int) -> None:
    if size:
        project.db.people.insert_many([{"_id": n} for n in range(size)])
    write(project, f'backfill("people", {change}, batch_size=10)')
    up(project)
    assert values(project) == [1] * size
    assert counts(project) == {
        "scanned": size,
        "matched": size,
        "modified": size,
        "skipped": 0,
        "rejected": 0,
    }


COLLECTIONS: dict[str, dict[str, Any]] = {
    "clustered by its _id": {"clusteredIndex": {"key": {"_id": 1}, "unique": True}},
    "with a collation": {"collation": {"locale": "en", "strength": 2}},
}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("change", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("options", COLLECTIONS.values(), ids=COLLECTIONS)
def test_a_clustered_or_collated_collection_is_changed_once_too(
    project: Project, options: dict[str, Any], change: str, workers: int
) -> None:
    if "clusteredIndex" in options:
        project.needs(CLUSTERED)
    project.db.create_collection("people", **options)
    names = [f"{letter}{number}" for letter in "bAcD" for number in range(10)]
    project.db.people.insert_many([{"_id": name} for name in names])
    write(project, f'backfill("people", {change}, batch_size=7, workers={workers})')
    up(project)
    assert values(project) == [1] * len(names)


# --- arguments


def test_where_selects_documents_and_a_function_may_skip_some(project: Project) -> None:
    project.db.people.insert_many([{"_id": n, "even": n % 2 == 0} for n in range(20)])
    change = 'lambda doc: {"$inc": {"n": 1}} if doc["_id"] < 10 else None'
    write(project, f'backfill("people", {change}, where={{"even": True}}, batch_size=3)')
    up(project)
    assert values(project) == [1, None] * 5 + [None] * 10
    expected = {"scanned": 10, "matched": 5, "modified": 5, "skipped": 5, "rejected": 0}
    assert counts(project) == expected


@pytest.mark.parametrize("change", FORMS.values(), ids=FORMS)
def test_ids_of_every_type_are_reached(project: Project, change: str) -> None:
    ids: list[Any] = [
        *(
            None,
            1,
            2.5,
            Int64(2**40),
            Decimal128("7.1"),
            "a",
            "",
            {"a": 1},
            {"a": 1, "b": {"c": 2}},
        ),
        *(b"xx", Binary(b"0" * 16, 3), uuid.uuid4(), ObjectId(), True, False, MinKey(), MaxKey()),
        *(datetime(2026, 1, 1, tzinfo=timezone.utc), Timestamp(1, 2)),
    ]
    options: CodecOptions[Any] = CodecOptions(
        uuid_representation=UuidRepresentation.STANDARD,
        datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    )
    people = project.db.get_collection("people", codec_options=options)
    people.insert_many([{"_id": each} for each in ids])
    write(project, f'backfill("people", {change}, batch_size=1)')
    database = project.db.client.get_database(project.db.name, codec_options=options)
    report = project.runner(database).up()
    assert report.failures == (), report.failures[0].error
    assert [d.get("n") for d in people.find()] == [1] * len(ids)
    assert project.invoke("status", "--json").exit_code == 0


def test_a_batch_is_bounded_by_its_bytes_too(project: Project) -> None:
    project.db.people.insert_many([{"_id": n, "fat": "x" * 15_000_000} for n in range(3)])
    write(project, 'backfill("people", lambda doc: {"$inc": {"n": len(doc["fat"])}})')
    up(project)
    assert project.db.people.count_documents({"n": 15_000_000}) == 3


def test_a_where_on_the_id_holds_too(project: Project) -> None:
    project.db.people.insert_many([{"_id": n} for n in range(20)])
    write(
        project,
        f'backfill("people", {FORMS["an update"]}, where={{"_id": {{"$gte": 5}}}}, batch_size=4)',
    )
    up(project)
    assert values(project) == [None] * 5 + [1] * 15


def test_several_backfills_follow_each_other_and_down_can_backfill_too(project: Project) -> None:
    project.db.people.insert_many([{"_id": n} for n in range(12)])
    project.write(
        f"{VERSION}_two",
        """
        def up(db, ctx):
            ctx.backfill(db.people, {"$inc": {"n": 1}}, batch_size=5)
            ctx.backfill("people", {"$inc": {"n": 10}}, batch_size=5)

        def down(db, ctx):
            ctx.backfill("people", {"$inc": {"n": -11}}, batch_size=5)
        """,
    )
    up(project)
    assert values(project) == [11] * 12
    assert project.runner().down().failures == ()
    assert values(project) == [0] * 12
    up(project)
    assert values(project) == [11] * 12


def test_a_backfill_that_is_done_leaves_no_checkpoint(project: Project) -> None:
    project.db.people.insert_many([{"_id": n} for n in range(12)])
    write(project, 'backfill("people", {"$inc": {"n": 1}}, batch_size=5)')
    up(project)
    metadata = project.record(VERSION)["metadata"]
    assert not {"checkpoint", "progress", "request"} & metadata.keys()


def test_a_backfill_that_was_rolled_back_without_one_starts_again(project: Project) -> None:
    project.db.people.insert_many([{"_id": n} for n in range(12)])
    undo = 'db.people.update_many({}, {"$unset": {"n": ""}})'
    write(project, 'backfill("people", {"$inc": {"n": 1}}, batch_size=5)', down=undo)
    for _ in range(2):
        up(project)
        assert values(project) == [1] * 12
        assert project.runner().down().failures == ()
        assert values(project) == [None] * 12


REFUSED = {
    'backfill("people", {"n": 1})': "is not a valid change",
    'backfill("people", {})': "is not a valid change",
    'backfill("people", [])': "is not a valid change",
    'backfill("people", lambda doc: {"n": 1})': "Return an update",
    'backfill("people", lambda doc: 7)': "Return an update",
    'backfill("people", {"$inc": {"n": 1}}, batch_size=-1)': "batch_size is -1",
    'backfill("people", {"$inc": {"n": 1}}, max_per_second=-1)': "max_per_second is -1",
    'backfill("people", {"$inc": {"n": 1}}, on_error="ignore")': "on_error is 'ignore'",
    'backfill("people", {"$inc": {"n": 1}}, on_error="collect", max_rejected=-1)': "max_rejected is -1",
    'backfill(db.client.other.people, {"$inc": {"n": 1}})': "not a collection of the database",
    'backfill("a_view", {"$inc": {"n": 1}})': "a view",
    'backfill("capped", {"$inc": {"n": 1}})': "capped",
    'backfill("measures", {"$inc": {"n": 1}})': "a time series",
}


@pytest.mark.parametrize("call", REFUSED, ids=list(REFUSED))
def test_invalid_arguments_and_collections_are_refused_with_a_remedy(
    project: Project, call: str
) -> None:
    project.db.people.insert_one({"_id": 1})
    project.db.create_collection("a_view", viewOn="people", pipeline=[])
    project.db.create_collection("capped", capped=True, size=4096)
    project.db.create_collection("measures", timeseries={"timeField": "at"})
    write(project, call)
    (failure,) = project.runner().up().failures
    assert failure.error is not None
    assert failure.error.type == "BackfillError"
    assert REFUSED[call] in failure.error.message
    assert values(project) == [None]


def test_a_transactional_migration_may_not_backfill(project: Project) -> None:
    project.db.people.insert_one({"_id": 1})
    write(project, f'backfill("people", {FORMS["an update"]})', head="transactional = True")
    (failure,) = project.runner().up().failures
    assert failure.error is not None
    assert "Delete `transactional = True`" in failure.error.message
    assert values(project) == [None]


# --- documents that cannot be changed


@pytest.mark.parametrize("change", [FORMS["an update"], FORMS["a function"]])
def test_a_document_that_is_refused_stops_the_backfill_and_is_named(
    project: Project, change: str
) -> None:
    project.db.people.insert_many([{"_id": n, "n": "text" if n == 17 else 0} for n in range(30)])
    write(project, f'backfill("people", {change}, batch_size=5)')
    (failure,) = project.runner().up().failures
    assert failure.error is not None
    assert failure.error.type == "RejectedError"
    assert "_id 17" in failure.error.message
    assert values(project)[:15] == [1] * 15
    assert values(project)[18:] == [0] * 12
    project.db.people.update_one({"_id": 17}, {"$set": {"n": 0}})
    up(project)
    assert values(project) == [1] * 30


@pytest.mark.parametrize("change", [FORMS["an update"], FORMS["a function"]])
@pytest.mark.parametrize("where", [{}, {"done": None}])
def test_documents_that_are_refused_can_be_collected(
    project: Project, change: str, where: dict[str, Any]
) -> None:
    people = [{"_id": n, "n": "text" if n in {3, 17} else 0} for n in range(30)]
    project.db.people.insert_many(people)
    write(project, f'backfill("people", {change}, where={where}, batch_size=5, on_error="collect")')
    up(project)
    assert [d["_id"] for d in project.db.people.find({"n": {"$ne": 1}})] == [3, 17]
    assert counts(project) == {
        "scanned": 30,
        "matched": 28,
        "modified": 28,
        "skipped": 0,
        "rejected": 2,
    }
    kept = project.record(VERSION)["metadata"]["rejected"]["0"]
    assert kept["collection"] == "people"
    assert [r["_id"] for r in kept["documents"]] == [3, 17]
    assert all(r["error"] for r in kept["documents"])


def test_more_rejected_documents_than_allowed_stop_it(project: Project) -> None:
    project.db.people.insert_many([{"_id": n, "n": "text"} for n in range(30)])
    write(
        project,
        f'backfill("people", {FORMS["a function"]}, on_error="collect", max_rejected=7)',
    )
    (failure,) = project.runner().up().failures
    assert failure.error is not None
    assert "max_rejected" in failure.error.message


# --- documents inserted meanwhile

INSERTING = """
def change(doc):
    if doc["_id"] == 10:
        for each in (-1, 5.5, 100, 200):
            DB.people.insert_one({"_id": each})
    return {"$inc": {"n": 1}, "$set": {"done": True}}
"""


def insert_meanwhile(project: Project, where: str) -> dict[Any, Any]:
    project.db.people.insert_many([{"_id": n} for n in range(20)])
    project.write(
        f"{VERSION}_insert",
        f"""
{INSERTING}
def up(db, ctx):
    global DB
    DB = db
    ctx.backfill("people", change, where={where}, batch_size=5)
""",
    )
    up(project)
    return {d["_id"]: d.get("n") for d in project.db.people.find()}


def test_documents_inserted_above_are_found_with_any_where(project: Project) -> None:
    found = insert_meanwhile(project, "{}")
    assert found.pop(-1) is None
    assert found.pop(5.5) is None
    assert set(found.values()) == {1}
    assert {100, 200} <= set(found)


def test_documents_inserted_below_are_found_if_where_excludes_those_that_are_done(
    project: Project,
) -> None:
    found = insert_meanwhile(project, '{"done": None}')
    assert set(found.values()) == {1}
    assert {-1, 5.5, 100, 200} <= set(found)


def test_no_document_is_changed_twice_if_where_matches_some_that_are_done(
    project: Project,
) -> None:
    # Those with n below 2 still match after the change, the others do not.
    project.db.people.insert_many([{"_id": n, "n": n % 3} for n in range(20)])
    write(
        project,
        f'backfill("people", {FORMS["an update"]}, where={{"n": {{"$lt": 3}}}}, batch_size=4)',
    )
    up(project)
    assert values(project) == [n % 3 + 1 for n in range(20)]


# --- in a dry run


def dry_run(
    project: Project, executed: list[ExecutedBatches], *, seconds: float, batches: int
) -> DryRunBackfill:
    return DryRunBackfill(
        server=Server(project.db),
        options=BackfillOptions(),
        mask=DEFAULT_MASK,
        on_end=executed.append,
        on_refused=AssertionError,
        until=elapsed() + seconds,
        batches=batches,
    )


@pytest.mark.parametrize("change", ["an update", "a function"])
def test_a_dry_run_executes_the_first_batches_in_its_transaction(
    project: Project, change: str
) -> None:
    project.db.people.insert_many([{"_id": n} for n in range(50)])
    update: Any = {"$inc": {"n": 1}}
    function = {"an update": update, "a function": lambda _: update}[change]
    executed: list[ExecutedBatches] = []
    backfill = dry_run(project, executed, seconds=60, batches=2)
    with project.db.client.start_session() as session, transaction(session), confined(session):
        done = backfill("people", function, batch_size=10, workers=4, max_rejected=5)
        assert project.db.people.count_documents({"n": 1}) == 20
    assert (done.scanned, done.modified) == (20, 20)
    (batches,) = executed
    assert (batches.collection, batches.processed, batches.estimated) == ("people", 20, 50)
    assert batches.seconds > 0
    assert not batches.complete
    assert values(project) == [None] * 50
    assert set(project.db.list_collection_names()) == {"people"}


@pytest.mark.parametrize(("people", "complete"), [(10, True), (50, False)])
def test_a_dry_run_ends_in_time_and_says_whether_it_is_complete(
    project: Project, people: int, *, complete: bool
) -> None:
    project.db.people.insert_many([{"_id": n} for n in range(people)])
    executed: list[ExecutedBatches] = []
    backfill = dry_run(project, executed, seconds=0, batches=99)
    with project.db.client.start_session() as session, transaction(session), confined(session):
        done = backfill("people", {"$inc": {"n": 1}}, batch_size=10)
    assert done.scanned == 10
    assert [each.complete for each in executed] == [complete]
