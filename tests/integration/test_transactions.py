"""Transactional steps: data and record in one commit, and nothing outside it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pymongo
import pytest
from pymongo import MongoClient
from pymongo.common import BaseObject
from pymongo.write_concern import WriteConcern

from flask_migrate_mongo.driver import confinement, transactions
from flask_migrate_mongo.driver.confinement import check_confinement_support
from flask_migrate_mongo.driver.server import Server
from flask_migrate_mongo.driver.transactions import Transactions, transaction
from flask_migrate_mongo.model.errors import (
    ConnectionFailedError,
    OutcomeUnknownError,
    RunStoppedError,
    TransactionsUnsupportedError,
    UnsupportedDriverError,
)
from flask_migrate_mongo.model.reports import StepState
from tests.conftest import APPNAME, uri_with
from tests.project import Project
from tests.server.launcher import TestServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pymongo.database import Database

    from flask_migrate_mongo.model.reports import Outcome
    from tests.conftest import Failpoint

VERSION = 20261101001

CLOUD_OPTIONS = ("w=majority", "readPreference=secondaryPreferred", "retryWrites=true")
"""What the connection strings of hosted clusters say."""


def write(project: Project, body: str, *, head: str = "") -> None:
    lines = "\n    ".join(body.strip().splitlines())
    source = f"{head}\ntransactional = True\n\n\ndef up(db, ctx):\n    {lines}\n"
    project.write(f"{VERSION}_change", source)


def apply(project: Project, **settings: object) -> Outcome:
    report = project.runner(**settings).up()
    assert report.error is None, report.error
    (outcome,) = report.outcomes
    return outcome


def assert_untouched(project: Project, outcome: Outcome, error: str, says: str) -> None:
    """The step failed for this reason, says so in its record, and left no data behind."""
    assert outcome.state is StepState.FAILED
    assert outcome.error is not None
    assert outcome.error.type == error
    assert says in outcome.error.message
    record = project.record(VERSION)
    assert record["status"] == "failed"
    assert record["metadata"]["failure"]["type"] == error
    assert project.trail(VERSION) == ["started", "failed"]
    ours = {"migrations", "migration_locks"}
    others = [n for n in project.db.list_collection_names() if n not in ours]
    assert {name: project.db[name].count_documents({}) for name in others} == dict.fromkeys(
        others, 0
    )


WAYS_TO_WRITE = {
    "the database handed in": "db.people.insert_one({'x': 1})",
    "get_collection": "db.get_collection('people').insert_one({'x': 1})",
    "a collection with options": (
        "from pymongo import WriteConcern\n"
        "db.people.with_options(write_concern=WriteConcern('majority')).insert_one({'x': 1})"
    ),
    "a database with options": (
        "from pymongo import WriteConcern\n"
        "db.with_options(write_concern=WriteConcern(1)).people.insert_one({'x': 1})"
    ),
    "the client of the database": "db.client[db.name].people.insert_one({'x': 1})",
    "the application's own handle": "ctx.app.config['HANDLE'].people.insert_one({'x': 1})",
    "the application's own handle, read back": (
        "people = ctx.app.config['HANDLE'].people\n"
        "people.insert_one({'x': 1})\n"
        "assert people.find_one({'x': 1})\n"
        "assert [d['x'] for d in people.aggregate([{'$match': {'x': 1}}])] == [1]"
    ),
    "an explicit session": "db.people.insert_one({'x': 1}, session=ctx.session)",
    "bulk_write": (
        "from pymongo import InsertOne, UpdateOne\n"
        "db.people.bulk_write([InsertOne({'x': 1}), UpdateOne({}, {'$set': {'y': 1}})])"
    ),
    "find_one_and_update": (
        "db.people.find_one_and_update({'x': 1}, {'$set': {'y': 1}}, upsert=True)"
    ),
    "a database command": ("db.command('insert', 'people', documents=[{'x': 1}])"),
}


@pytest.mark.parametrize("way", WAYS_TO_WRITE.values(), ids=WAYS_TO_WRITE)
@pytest.mark.parametrize("options", [(), CLOUD_OPTIONS], ids=["plain URI", "hosted URI"])
def test_every_way_to_write_joins_the_transaction(
    project: Project, db: Database[Any], mongo_uri: str, way: str, options: tuple[str, ...]
) -> None:
    uri = uri_with(mongo_uri, db.name, f"appname={APPNAME}", *options)
    with pymongo.MongoClient[dict[str, Any]](uri) as client:
        project.db = client[db.name]
        handle = {"HANDLE": project.db}
        write(project, f"{way}\nraise ValueError('after the write')")
        (failed,) = project.runner(**handle).up().outcomes
        assert_untouched(project, failed, "ValueError", "after the write")

        write(project, way)
        (applied,) = project.runner(**handle).up().outcomes
        assert applied.state is StepState.APPLIED, applied.error
        assert project.db.people.count_documents({"x": 1}) == 1
        assert project.record(VERSION)["status"] == "completed"


def test_promise_2_data_and_record_are_one_commit(project: Project, failpoint: Failpoint) -> None:
    """Promise 2: transactional: data and record agree."""
    write(project, "db.people.insert_one({'x': 1})")
    failpoint("commitTransaction", times=1, errorCode=8, errorLabels=[])
    assert_untouched(project, apply(project), "OperationFailure", "failCommand")
    assert apply(project).state is StepState.APPLIED
    assert project.db.people.count_documents({}) == 1


def test_if_the_record_cannot_be_written_the_data_is_rolled_back(
    project: Project, failpoint: Failpoint
) -> None:
    # The updates of a run in turn: the start of the step, its completion, its failure.
    write(project, "db.people.insert_one({'x': 1})")
    failpoint("update", skip=1, times=1, errorCode=8, errorLabels=[])
    assert_untouched(project, apply(project), "DatabaseError", "refused a command")


def test_reads_see_the_writes_before_them(project: Project) -> None:
    write(
        project,
        "db.people.insert_one({'x': 1})\nassert db.people.count_documents({'x': 1}) == 1\n"
        "assert len(list(db.people.find())) == 1\nassert db.people.distinct('x') == [1]",
    )
    assert apply(project).state is StepState.APPLIED


ESCAPES = {
    "a thread": (
        "import threading\nerrors = []\n"
        "def write():\n    try:\n        db.people.insert_one({'x': 1})\n"
        "    except Exception as exc:\n        errors.append(exc)\n"
        "thread = threading.Thread(target=write)\nthread.start()\nthread.join()\nraise errors[0]"
    ),
    "a pool of threads": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor() as pool:\n"
        "    pool.submit(db.people.insert_one, {'x': 1}).result()"
    ),
    "a pool that was there before": "ctx.app.config['POOL'].submit(db.people.insert_one, {}).result()",
    "a session of its own": (
        "with db.client.start_session() as session:\n"
        "    db.people.insert_one({'x': 1}, session=session)"
    ),
    "a session that was there before": (
        "db.people.insert_one({'x': 1}, session=ctx.app.config['SESSION'])"
    ),
    "a session of its own, bound": (
        "with db.client.start_session() as session, session.bind():\n"
        "    db.people.insert_one({'x': 1})"
    ),
    "a session that was there before, bound": (
        "with ctx.app.config['SESSION'].bind(end_session=False):\n"
        "    db.people.insert_one({'x': 1})"
    ),
    "another client": (
        "import pymongo\n"
        "with pymongo.MongoClient(ctx.app.config['URI']) as client:\n"
        "    client[db.name].people.insert_one({'x': 1})"
    ),
    "a thread whose errors nobody reads": (
        "import threading\nthreading.excepthook = lambda args: None\n"
        "thread = threading.Thread(target=db.people.insert_one, args=[{'x': 1}])\n"
        "thread.start()\nthread.join()\nthreading.excepthook = threading.__excepthook__"
    ),
    "a thread of a thread": (
        "import threading\nthreading.excepthook = lambda args: None\n"
        "inner = threading.Thread(target=db.people.insert_one, args=[{'x': 1}])\n"
        "def outer():\n    inner.start()\n    inner.join()\n"
        "thread = threading.Thread(target=outer)\n"
        "thread.start()\nthread.join()\nthreading.excepthook = threading.__excepthook__"
    ),
    "a future that nobody reads": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor() as pool:\n"
        "    pool.submit(db.people.insert_one, {'x': 1})"
    ),
    "a refusal that was caught": (
        "try:\n    db.people.insert_one({'x': 1}, session=ctx.app.config['SESSION'])\n"
        "except Exception:\n    pass"
    ),
    "a commit that was refused and caught": (
        "try:\n    ctx.session.commit_transaction()\nexcept Exception:\n    pass"
    ),
    "an asynchronous client": (
        "import asyncio, pymongo\n"
        "async def write():\n"
        "    async with pymongo.AsyncMongoClient(ctx.app.config['URI']) as client:\n"
        "        await client[db.name].people.insert_one({'x': 1})\n"
        "asyncio.run(write())"
    ),
    "a commit of its own": "db.people.insert_one({'x': 1})\nctx.session.commit_transaction()",
    "a rollback of its own": "ctx.session.abort_transaction()",
    "an end of the session": "ctx.session.end_session()",
    "a transaction within": "with ctx.session.start_transaction():\n    pass",
}


@pytest.mark.parametrize("body", ESCAPES.values(), ids=ESCAPES)
def test_a_write_outside_the_transaction_is_refused_with_an_explanation(
    project: Project, mongo_uri: str, body: str
) -> None:
    write(project, body)
    with ThreadPoolExecutor(1) as pool, project.db.client.start_session() as session:
        pool.submit(int).result()  # its thread runs before the step does
        settings = {"POOL": pool, "SESSION": session, "URI": mongo_uri}
        (outcome,) = project.runner(**settings).up().outcomes
    assert_untouched(project, outcome, "EscapesTransactionError", "transaction")


def test_a_thread_that_outlives_its_step_still_cannot_write(project: Project) -> None:
    write(
        project,
        "import threading\n"
        "def write():\n"
        "    ctx.app.config['GO'].wait(10)\n"
        "    try:\n        db.people.insert_one({'x': 1})\n"
        "    except Exception as exc:\n        ctx.app.config['ERRORS'].append(exc)\n"
        "thread = threading.Thread(target=write)\nthread.start()\n"
        "ctx.app.config['THREADS'].append(thread)",
    )
    go, errors, threads = threading.Event(), list[Exception](), list[threading.Thread]()
    (outcome,) = project.runner(GO=go, ERRORS=errors, THREADS=threads).up().outcomes
    assert outcome.state is StepState.APPLIED
    go.set()
    threads[0].join()
    assert "thread" in str(errors[0])
    assert project.db.people.count_documents({}) == 0
    assert_driver_is_restored()


def test_the_application_s_own_threads_can_write_at_the_same_time(project: Project) -> None:
    write(
        project,
        "db.people.insert_one({'x': 1})\n"
        "ctx.app.config['STARTED'].set()\nassert ctx.app.config['WRITTEN'].wait(10)",
    )
    started, written = threading.Event(), threading.Event()

    def serve_a_request() -> None:
        assert started.wait(10)
        project.db.requests.insert_one({})
        with project.db.client.start_session() as session:
            project.db.requests.insert_one({}, session=session)
        written.set()

    server = threading.Thread(target=serve_a_request)
    server.start()
    (outcome,) = project.runner(STARTED=started, WRITTEN=written).up().outcomes
    server.join()
    assert outcome.state is StepState.APPLIED, outcome.error
    assert project.db.requests.count_documents({}) == 2


ORIGINALS = {(owner, name): getattr(owner, name) for owner, name in confinement.PATCHES.names}


def assert_driver_is_restored() -> None:
    now = {(owner, name): getattr(owner, name) for owner, name in ORIGINALS}
    assert now == ORIGINALS


def test_pymongo_and_threading_are_restored_after_a_step(project: Project) -> None:
    write(project, "raise SystemExit(3)")
    report = project.runner().up()
    assert isinstance(report.error, RunStoppedError)
    assert_untouched(project, report.outcomes[0], "SystemExit", "3")
    assert_driver_is_restored()


def test_a_caught_error_fails_the_step_with_an_explanation(project: Project) -> None:
    write(
        project,
        "db.people.insert_one({'_id': 1})\n"
        "try:\n    db.people.insert_one({'_id': 1})\nexcept Exception:\n    pass",
    )
    outcome = apply(project)
    assert_untouched(project, outcome, "TransactionAbortedError", "E11000 duplicate key")


def test_work_after_a_caught_error_is_explained_by_that_error(project: Project) -> None:
    write(
        project,
        "db.people.insert_one({'_id': 1})\n"
        "try:\n    db.people.insert_one({'_id': 1})\nexcept Exception:\n    pass\n"
        "db.people.insert_one({'_id': 2})",
    )
    outcome = apply(project)
    assert_untouched(project, outcome, "TransactionAbortedError", "E11000 duplicate key")


def test_a_caught_read_error_fails_the_step_too(project: Project) -> None:
    write(
        project,
        "db.people.insert_one({'_id': 1})\n"
        "try:\n    list(db.people.find({'$bad': 1}))\nexcept Exception:\n    pass",
    )
    assert_untouched(project, apply(project), "TransactionAbortedError", "$bad")


def test_a_caught_network_error_does_not_commit_the_rest(
    project: Project, failpoint: Failpoint
) -> None:
    write(
        project,
        "db.people.insert_one({'x': 1})\n"
        "try:\n    db.people.insert_one({'x': 2})\nexcept Exception:\n    pass",
    )
    # Of the inserts, the first claims the record; the third is the one that is caught.
    failpoint("insert", skip=2, times=1, closeConnection=True)
    assert apply(project).state is StepState.APPLIED
    assert sorted(d["x"] for d in project.db.people.find()) == [1, 2]


def test_an_error_that_is_not_caught_is_reported_unchanged(project: Project) -> None:
    write(project, "db.people.insert_one({'_id': 1})\ndb.people.insert_one({'_id': 1})")
    assert_untouched(project, apply(project), "DuplicateKeyError", "E11000")


def test_the_server_s_own_error_says_what_a_transaction_does_not_allow(project: Project) -> None:
    project.db.people.insert_one({"x": 1})
    write(project, "db.people.create_index('x')")
    outcome = apply(project)
    assert outcome.error is not None
    assert outcome.error.type == "OperationFailure"
    assert sorted(project.db.people.index_information()) == ["_id_"]


@pytest.mark.parametrize("code", [112, 251])
def test_a_transient_fault_runs_the_transaction_again(
    project: Project, failpoint: Failpoint, code: int
) -> None:
    write(
        project,
        "ctx.app.config['CALLS'].append(1)\ndb.people.insert_one({'x': 1})\n"
        "db.people.update_many({}, {'$inc': {'x': 1}})",
    )
    calls: list[int] = []
    # The first update records the start, the second one is the migration's own.
    failpoint("update", skip=1, times=2, errorCode=code, errorLabels=["TransientTransactionError"])
    (outcome,) = project.runner(CALLS=calls).up().outcomes
    assert outcome.state is StepState.APPLIED, outcome.error
    assert len(calls) == 3
    assert [d["x"] for d in project.db.people.find()] == [2]
    assert project.trail(VERSION) == ["started", "completed"]


def test_a_server_without_transactions_is_refused_before_anything_runs(
    project: Project, standalone_uri: str
) -> None:
    project.write_inserts(20261101000)
    write(project, "db.people.insert_one({'x': 1})")
    with pymongo.MongoClient[dict[str, Any]](standalone_uri) as client:
        project.db = client[project.db.name]
        with pytest.raises(TransactionsUnsupportedError, match="standalone"):
            project.runner().up()
        assert project.db.list_collection_names() == []


def test_preferred_transactions_are_left_out_on_a_server_without_them(
    project: Project, standalone_uri: str
) -> None:
    write(project, "assert ctx.session is None\ndb.people.insert_one({'x': 1})")
    with pymongo.MongoClient[dict[str, Any]](standalone_uri) as client:
        project.db = client[project.db.name]
        report = project.runner(MIGRATE_TRANSACTIONS="preferred").up()
        assert [o.state for o in report.outcomes] == [StepState.APPLIED]
        assert "without a transaction" in report.warnings[0]
        assert project.db.people.count_documents({}) == 1


def out_of_reach() -> bool:
    raise ConnectionFailedError("gone")


@pytest.mark.parametrize("is_committed", [lambda: False, out_of_reach], ids=["absent", "unknown"])
def test_a_commit_without_a_reply_whose_writes_cannot_be_found_has_an_unknown_outcome(
    db: Database[Any],
    failpoint: Failpoint,
    monkeypatch: pytest.MonkeyPatch,
    is_committed: Callable[[], bool],
) -> None:
    monkeypatch.setattr(transactions, "RETRY_SECONDS", 0)
    # The driver sends it twice.
    failpoint("commitTransaction", times=2, closeConnection=True)
    runner = Transactions(Server(db), sleep=lambda _: pytest.fail("retried"))
    with db.client.start_session() as session, transaction(session):
        db.people.insert_one({}, session=session)
        with pytest.raises(OutcomeUnknownError, match="did not reply"):
            runner.commit(session, is_committed)


def test_a_driver_that_lacks_a_private_name_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(BaseObject, "_write_concern_for")
    with pytest.raises(UnsupportedDriverError, match=r"BaseObject\._write_concern_for"):
        check_confinement_support()


def test_the_handed_database_reads_from_the_primary_and_has_no_write_concern(
    project: Project, db: Database[Any], mongo_uri: str
) -> None:
    write(
        project,
        "ctx.app.config['SEEN'].append((db.read_preference.mongos_mode, db.write_concern.document))",
    )
    seen: list[tuple[str, dict[str, Any]]] = []
    uri = uri_with(mongo_uri, db.name, *CLOUD_OPTIONS)
    with pymongo.MongoClient[dict[str, Any]](uri) as client:
        project.db = client[db.name]
        project.runner(SEEN=seen).up()
        assert seen == [("primary", WriteConcern().document)]


# --- transactions that no attempt can finish


def too_large(outcome: Outcome, says: str) -> None:
    assert outcome.state is StepState.FAILED
    assert outcome.error is not None
    assert outcome.error.type == "TransactionTooLargeError"
    assert says in outcome.error.message
    assert "ctx.backfill()" in outcome.error.message


def test_a_transaction_that_the_cache_cannot_hold_is_not_tried_again(
    project: Project, failpoint: Failpoint
) -> None:
    write(project, "db.people.insert_one({'n': 1})")
    failpoint("insert", times=1, errorCode=388)
    too_large(apply(project), "server's cache")
    assert project.db.people.count_documents({}) == 0


@pytest.mark.parametrize("times", [1, 2])
def test_a_late_write_conflict_is_tried_once_more(
    project: Project, failpoint: Failpoint, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(transactions, "LATE_SECONDS", 0)
    write(project, "db.people.insert_one({'n': 1})")
    labels = ["TransientTransactionError"]
    failpoint("insert", times=times, errorCode=112, errorLabels=labels)
    outcome = apply(project)
    if times == 1:
        assert outcome.state is StepState.APPLIED
    else:
        too_large(outcome, "a write conflict in two attempts")


def test_a_transaction_that_outlives_its_lifetime_runs_only_once(tmp_path: Path) -> None:
    with TestServer(lifetime=2) as server:
        uri = uri_with(server.uri, "shop", f"appname={APPNAME}")
        with MongoClient[dict[str, Any]](uri) as client:
            project = Project(tmp_path, client.shop, uri)
            body = (
                "import time\nctx.app.config['CALLS'].append(1)\n"
                "db.people.insert_one({})\ntime.sleep(3)\ndb.people.insert_one({})"
            )
            write(project, body)
            calls: list[int] = []
            too_large(apply(project, CALLS=calls), "the server allows 2 s")
    assert calls == [1]


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_transaction_that_ends_twice_on_a_server_that_does_not_say_its_limit_is_too_long(
    project: Project, failpoint: Failpoint, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    monkeypatch.setattr(transactions, "SHORTEST_LIFETIME", 0)
    write(project, "db.people.insert_one({'n': 1})")
    labels = ["TransientTransactionError"]
    # After each end the server is asked what it allows, which this user may not know.
    failpoint("insert", "getParameter", times=2 * attempts, errorCode=251, errorLabels=labels)
    outcome = apply(project)
    if attempts == 1:
        assert outcome.state is StepState.APPLIED
    else:
        too_large(outcome, "the server ended it twice")
