"""What `ctx.create_index()` and its neighbours do: on a server, while they wait, and after an interruption."""

from __future__ import annotations

import logging
import re
import signal
import threading
from typing import TYPE_CHECKING, Any

import mongomock
import pytest
from bson.datetime_ms import DatetimeMS
from pymongo import MongoClient
from pymongo.operations import SearchIndexModel

from flask_migrate_mongo.engine.options import Observer, Options
from flask_migrate_mongo.model.errors import DefinitionError, LeaseLostError
from tests.project import Project
from tests.sent import Sent
from tests.server import mongod
from tests.server.launcher import TestServer
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flask_migrate_mongo.model.reports import RunReport
    from flask_migrate_mongo.model.values import Progress, Step

Client = MongoClient[dict[str, Any]]

MANY = 500
BUILDS = """
def up(db, ctx):
    name = ctx.create_index("people", "name", unique=True)
    db.built.insert_one({"name": name})

def down(db, ctx):
    ctx.drop_index("people", "name_1")
    db.built.drop()
"""


def fill(project: Project) -> None:
    project.db.people.insert_many({"_id": n, "name": f"p{n}"} for n in range(MANY))


def building(project: Project) -> list[str]:
    """The names of the indexes that the server builds."""
    found = project.db.command("listIndexes", "people", includeBuildUUIDs=True)
    return [each["spec"]["name"] for each in found["cursor"]["firstBatch"] if "spec" in each]


@pytest.fixture
def hang(admin: Client) -> Iterator[Callable[[str], None]]:
    """Let index builds wait once they have started: hang("alwaysOn"), until hang("off")."""

    def set_mode(mode: str) -> None:
        admin.admin.command("configureFailPoint", "hangAfterStartingIndexBuild", mode=mode)

    set_mode("alwaysOn")
    yield set_mode
    set_mode("off")


def succeeds(report: RunReport) -> None:
    assert report.error is None
    assert [each.error for each in report.outcomes] == [None] * len(report.outcomes)
    assert report.outcomes


def error_of(report: RunReport) -> str:
    """How the only step failed."""
    error = report.outcomes[0].error
    assert error is not None
    assert error.type == DefinitionError.__name__
    return error.message


def test_an_index_is_built_and_dropped(project: Project) -> None:
    fill(project)
    project.write("1_builds", BUILDS)
    succeeds(project.runner().up())
    assert project.db.people.index_information()["name_1"]["unique"]
    assert [each["name"] for each in project.db.built.find()] == ["name_1"]
    succeeds(project.runner().down())
    succeeds(project.runner().up())
    assert "name_1" in project.db.people.index_information()


def test_what_was_dropped_before_is_not_missed(project: Project) -> None:
    project.write("1_drops", 'def up(db, ctx): ctx.drop_index("people", "name")')
    succeeds(project.runner().up())
    fill(project)
    project.write("2_drops", 'def up(db, ctx): ctx.drop_index("people", "name_1")')
    succeeds(project.runner().up())


def test_the_progress_of_a_build_is_reported(
    project: Project, hang: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_migrate_mongo.definitions.waiting.PROGRESS_SECONDS", 0)
    fill(project)
    project.write("1_builds", BUILDS)
    seen: list[Progress] = []

    class Watching(Observer):
        def progressed(self, _: Step, progress: Progress) -> None:
            seen.append(progress)
            hang("off")

    succeeds(project.runner().up(Options(observer=Watching())))
    assert (seen[0].collection, seen[0].total) == ("people", MANY)
    # Nobody knows yet how fast it is.
    assert (seen[0].per_second, seen[0].seconds_left) == (None, None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_build_outlives_its_run_and_the_next_run_waits_for_it(
    project: Project, hang: Callable[[str], None], number: signal.Signals
) -> None:
    fill(project)
    project.write("1_builds", BUILDS)
    with project.spawn("up", MIGRATE_LOCK_TTL="2") as first:
        until(lambda: building(project))
        first.send_signal(number)
        _, errors = first.communicate(timeout=30)
    if number == signal.SIGTERM:
        assert "continues to build the index name_1" in errors
    assert building(project) == ["name_1"]
    with project.spawn("up", "--wait", "30") as second:
        until(lambda: project.db.migrations.find_one({"status": "running"}))
        assert building(project) == ["name_1"]
        assert project.db.built.find_one() is None
        hang("off")
        out, errors = second.communicate(timeout=30)
    assert second.returncode == 0, out + errors
    assert project.db.people.index_information()["name_1"]["unique"]


def test_a_lost_lease_ends_the_wait(project: Project, hang: Callable[[str], None]) -> None:
    fill(project)
    project.write("1_builds", BUILDS)
    reports: list[RunReport] = []
    runner = project.runner(MIGRATE_LOCK_TTL=2)
    thread = threading.Thread(target=lambda: reports.append(runner.up()))
    thread.start()
    until(lambda: building(project))
    project.db.migration_locks.update_one({}, {"$set": {"runId": "another", "locked": True}})
    thread.join(20)
    assert isinstance(reports[0].error, LeaseLostError)
    assert project.db.built.find_one() is None
    hang("off")


@pytest.mark.parametrize("option", ["timeoutMS", "socketTimeoutMS"])
def test_a_build_outlasts_the_timeout_of_the_connection_string(
    project: Project, hang: Callable[[str], None], option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the build took longer than an action is retried.
    monkeypatch.setattr("flask_migrate_mongo.driver.transactions.RETRY_SECONDS", 0)
    fill(project)
    project.write("1_builds", BUILDS)
    timer = threading.Timer(6, hang, ["off"])
    # A busy machine answers the other commands within this time.
    with Client(f"{project.uri}&{option}=2500") as client:
        timer.start()
        report = project.runner(client[project.db.name]).up()
        timer.join()
    succeeds(report)


def test_the_commit_quorum_is_sent(project: Project) -> None:
    fill(project)
    project.write(
        "1_builds",
        'def up(db, ctx): ctx.create_index("people", [("name", -1)], commit_quorum="majority")',
    )
    listener = Sent()
    with MongoClient[dict[str, Any]](project.uri, event_listeners=[listener]) as client:
        project.db = client[project.db.name]
        succeeds(project.runner().up())
    command = next(c for c in listener.of("createIndexes", "people") if "commitQuorum" in c)
    assert command["commitQuorum"] == "majority"


def test_an_index_under_another_name_is_used(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    fill(project)
    project.db.people.create_index("name", unique=True, name="by_name")
    project.write("1_builds", BUILDS)
    with caplog.at_level(logging.WARNING):
        succeeds(project.runner().up())
    assert [each["name"] for each in project.db.built.find()] == ["by_name"]
    assert "people has this index as by_name" in caplog.text


@pytest.mark.parametrize(
    "present",
    [
        {"keys": "other", "name": "name_1"},
        {"keys": "name", "unique": True, "expireAfterSeconds": 5, "name": "name_1"},
        {"keys": "name", "unique": True, "expireAfterSeconds": 5, "name": "old"},
    ],
    ids=["a taken name", "other options", "other options and name"],
)
def test_an_index_that_conflicts_is_named(project: Project, present: dict[str, Any]) -> None:
    fill(project)
    project.db.people.create_index(present.pop("keys"), **present)
    before = project.db.people.index_information()
    project.write("1_builds", BUILDS)
    assert "name_1 of people was not built" in error_of(project.runner().up())
    assert project.db.people.index_information() == before


def test_duplicates_are_named_and_nothing_is_built(project: Project) -> None:
    fill(project)
    project.db.people.insert_one({"name": "p1"})
    project.write("1_builds", BUILDS)
    assert "have the same key" in error_of(project.runner().up())
    assert "name_1" not in project.db.people.index_information()


# --- validators

VALIDATES = """
def up(db, ctx):
    ctx.validate("people", {"name": {"$type": "string"}})
"""


def test_a_validator_is_set_once_all_documents_match(project: Project) -> None:
    fill(project)
    project.db.people.insert_one({"_id": "odd", "name": 5})
    project.write("1_validates", VALIDATES)
    message = error_of(project.runner().up())
    assert message.startswith("people has 1 document whose next update the server would refuse")
    assert "odd" in message
    assert project.db.people.options() == {}
    project.db.people.delete_one({"_id": "odd"})
    succeeds(project.runner().up())
    options = project.db.people.options()
    assert options["validator"] == {"name": {"$type": "string"}}


def test_a_validator_of_no_collection_says_how_to_create_it(project: Project) -> None:
    project.write("1_validates", VALIDATES)
    message = error_of(project.runner().up())
    assert message.startswith("There is no collection people")
    assert "db.create_collection('people')" in message


def test_a_validator_that_warns_may_have_violators(project: Project) -> None:
    project.db.people.insert_one({"_id": "odd", "name": 5})
    project.write("1_validates", VALIDATES.replace("})\n", '}, action="warn")\n'))
    succeeds(project.runner().up())
    assert project.db.people.options()["validationAction"] == "warn"


def test_another_validator_is_replaced_only_on_request(project: Project) -> None:
    project.db.create_collection("people", validator={"age": {"$gt": 0}})
    project.write("1_validates", VALIDATES)
    assert "people has another validator" in error_of(project.runner().up())
    assert project.db.people.options()["validator"] == {"age": {"$gt": 0}}
    project.write("1_validates", VALIDATES.replace("})\n", "}, replace=True)\n"))
    succeeds(project.runner().up())
    assert project.db.people.options()["validator"] == {"name": {"$type": "string"}}


# --- what a server can lack


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project on a server that converts indexes, and has search indexes."""
    if mongod.executable():
        pytest.skip("a MongoDB says by its version what it can")
    with TestServer(newer=True) as server, Client(server.uri) as client:
        uri = server.uri.replace("/?", "/newer?")
        yield Project(tmp_path_factory.mktemp("newer"), client.newer, uri)


UNIQUE = """
def up(db, ctx):
    ctx.make_unique("people", "name_1")
"""


def test_an_index_becomes_unique_once_there_are_no_duplicates(newer: Project) -> None:
    fill(newer)
    newer.db.people.insert_one({"_id": "double", "name": "p1"})
    newer.db.people.create_index("name")
    newer.write("1_unique", UNIQUE)
    message = error_of(newer.runner().up())
    assert "1 key has several documents" in message
    assert "[1, 'double']" in message
    assert "'prepareUnique': False" in message.replace('"', "'")
    newer.db.people.delete_one({"_id": "double"})
    succeeds(newer.runner().up())
    assert newer.db.people.index_information()["name_1"]["unique"]
    # It can be repeated.
    newer.write("3_unique", UNIQUE + "# again\n    assert ctx\n")
    succeeds(newer.runner().up())


def test_an_older_server_converts_no_index(project: Project) -> None:
    if mongod.executable():
        pytest.skip("a MongoDB says by its version what it can")
    fill(project)
    project.db.people.create_index("name")
    project.write("1_unique", UNIQUE)
    assert "that needs MongoDB 6.0" in error_of(project.runner().up())


SEARCH = """
def up(db, ctx):
    ctx.create_search_index("people", {"mappings": {"dynamic": True}}, wait=WAIT)
"""


def test_a_search_index_is_waited_for(newer: Project) -> None:
    newer.db.books.insert_one({})
    newer.write("2_search", SEARCH.replace("people", "books").replace("WAIT", "0"))
    assert "is not finished: it is BUILDING" in error_of(newer.runner().up())
    newer.write("2_search", SEARCH.replace("people", "books").replace("WAIT", "30"))
    succeeds(newer.runner().up())
    assert newer.runner().status().problems == ()


SEARCHES = """
def up(db, ctx):
    ctx.create_search_index("films", {"mappings": {"dynamic": True}}OPTIONS)

def down(db, ctx):
    ctx.drop_search_index("films")
"""


def test_another_search_index_is_replaced_only_on_request(newer: Project) -> None:
    films = newer.db.create_collection("films")
    films.create_search_index(SearchIndexModel({"mappings": {}}))
    newer.write("4_search", SEARCHES.replace("OPTIONS", ""))
    assert "with another definition" in error_of(newer.runner().up())
    newer.write("4_search", SEARCHES.replace("OPTIONS", ", replace=True"))
    succeeds(newer.runner().up())
    (found,) = films.list_search_indexes()
    # Queries could use the old definition all the time, and now use the new one.
    assert (found["status"], found["latestDefinition"]["mappings"]["dynamic"]) == ("READY", True)
    succeeds(newer.runner().down())
    assert list(films.list_search_indexes()) == []


def test_a_deployment_without_search_indexes_is_named(project: Project) -> None:
    fill(project)
    project.write("1_search", SEARCH.replace("WAIT", "1"))
    assert "has no search indexes" in error_of(project.runner().up())


# --- where nothing is waited for


def test_a_transactional_migration_may_not_define(project: Project) -> None:
    project.write("1_builds", "transactional = True\n" + BUILDS)
    assert "no index and changes no validator in a transaction" in error_of(project.runner().up())


def test_a_dry_run_says_what_would_be_defined(project: Project) -> None:
    fill(project)
    project.write("1_builds", BUILDS)
    project.write("2_validates", VALIDATES)
    shown = project.invoke("up", "--dry-run")
    assert re.search(r"createIndexes.*people", shown.output), shown.output
    assert re.search(r"collMod.*people", shown.output), shown.output
    assert set(project.db.people.index_information()) == {"_id_"}
    assert project.db.people.options() == {}


def test_a_rehearsal_defines_in_the_scratch_database(project: Project) -> None:
    fill(project)
    project.write("1_builds", BUILDS)
    shown = project.invoke("rehearse")
    assert shown.exit_code == 0, shown.output
    assert set(project.db.people.index_information()) == {"_id_"}


# --- which index, which validator


@pytest.mark.parametrize(
    ("present", "call", "left"),
    [
        ([{"name": "own"}], 'ctx.drop_index("a", [("y", 1)])', ["_id_"]),
        ([{}], 'ctx.drop_index("a", ["y"])', ["_id_"]),
        ([{}], 'ctx.drop_index("a", (("y", 1),))', ["_id_"]),
        ([], 'ctx.drop_index("a", "y")', ["_id_"]),
        (
            [{"name": "one", "sparse": True}, {"name": "y_1", "unique": True}],
            'ctx.drop_index("a", "y_1")',
            ["_id_", "one"],
        ),
    ],
    ids=["a name of its own", "a list of names", "a tuple", "none", "its name"],
)
def test_an_index_is_found_by_its_keys(
    project: Project, present: list[dict[str, Any]], call: str, left: list[str]
) -> None:
    project.db.a.insert_one({})
    for options in present:
        project.db.a.create_index([("y", 1)], **options)
    project.write("1_drops", f"def up(db, ctx): {call}")
    succeeds(project.runner().up())
    assert [each["name"] for each in project.db.a.list_indexes()] == left


def test_keys_of_two_letters_are_no_pair(project: Project) -> None:
    project.db.a.create_index("w", name="x_y")
    project.db.a.create_index("xy")
    project.write("1_drops", 'def up(db, ctx): ctx.drop_index("a", ["xy"])')
    succeeds(project.runner().up())
    assert [each["name"] for each in project.db.a.list_indexes()] == ["_id_", "x_y"]


def test_of_two_indexes_with_the_same_keys_none_is_dropped(project: Project) -> None:
    project.db.a.create_index("y", name="one", sparse=True)
    project.db.a.create_index("y", name="two", unique=True)
    project.write("1_drops", 'def up(db, ctx): ctx.drop_index("a", [("y", 1)])')
    assert "one, two" in error_of(project.runner().up())
    assert len(list(project.db.a.list_indexes())) == 3


def test_an_index_that_mongomock_does_not_have_is_not_missed(tmp_path: Path) -> None:
    project = Project(tmp_path, mongomock.MongoClient().db, "")
    project.write(
        "1_drops",
        """
        def up(db, ctx):
            db.a.insert_one({})
            ctx.drop_index("a", "b_1")
            ctx.drop_index("a", [("c", 1)])
        """,
    )
    succeeds(project.runner().up())


@pytest.mark.parametrize(
    "rule",
    [
        '{"email": re.compile("@")}',
        '{"at": {"$gt": datetime(2020, 1, 1, tzinfo=timezone.utc)}}',
        '{"kind": {"$in": ("a", "b")}}',
        '{"$jsonSchema": {"required": ("a",)}}',
    ],
)
def test_the_same_validator_is_set_again(project: Project, rule: str) -> None:
    project.db.create_collection("people")
    project.write(
        "1_validates",
        f"""
        import re
        from datetime import datetime, timezone

        def up(db, ctx):
            ctx.validate("people", {rule})
            ctx.validate("people", {rule})
        """,
    )
    succeeds(project.runner().up())


FAR = DatetimeMS(253_402_300_800_005)
"""After the year 9999."""


def test_a_validator_with_a_date_that_python_does_not_have_is_replaced(project: Project) -> None:
    project.db.create_collection("people", validator={"at": {"$lt": FAR}})
    project.write(
        "1_validates",
        'def up(db, ctx): ctx.validate("people", {"x": {"$exists": True}}, replace=True)',
    )
    succeeds(project.runner().up())
