"""What the server of these tests does as mongod, beyond what an answer to one command can show."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient
from pymongo.errors import (
    AutoReconnect,
    CursorNotFound,
    ExecutionTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
)
from pymongo.write_concern import WriteConcern

from tests.sent import Sent
from tests.server.launcher import TestServer
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    Client = MongoClient[dict[str, Any]]
    Statement = Callable[[Database[dict[str, Any]], ClientSession], object]

pytestmark = pytest.mark.usefixtures("unwatched")

INTERRUPTED, LIFETIME_EXCEEDED, NOT_WRITABLE_PRIMARY, STEPPED_DOWN = 11601, 290, 10107, 11602
MANY = 10_000
LONG: dict[str, Statement] = {
    "an update": lambda db, session: db.c.update_many({}, {"$inc": {"n": 1}}, session=session),
    "a delete": lambda db, session: db.c.delete_many({"n": {"$ne": 1}}, session=session),
    "a find": lambda db, session: list(db.c.find({"n": {"$ne": 1}}, session=session)),
    "a merge": lambda db, session: list(db.c.aggregate([{"$merge": "d"}], session=session)),
    "an index build": lambda db, session: db.c.create_index([("n", 1)], session=session),
}
"""Statements over many documents: each takes a good while, and is looked at in between."""


@pytest.fixture(scope="module")
def server() -> Iterator[TestServer]:
    with TestServer() as server:
        yield server


@pytest.fixture(scope="module")
def client(server: TestServer) -> Iterator[Client]:
    options: dict[str, Any] = {"retryWrites": False, "retryReads": False}
    with MongoClient[dict[str, Any]](server.uri, **options) as client:
        yield client


@pytest.fixture
def large(client: Client) -> Iterator[Database[dict[str, Any]]]:
    db = client.large
    db.c.insert_many({"_id": i, "n": 0} for i in range(MANY))
    yield db
    client.drop_database(db)


@pytest.fixture
def small(client: Client) -> Iterator[Database[dict[str, Any]]]:
    client.small.c.insert_many([{"_id": 1, "n": 0}, {"_id": 2, "n": 0}])
    yield client.small
    client.admin.command("killAllSessions", [])
    client.drop_database("small")


def in_flight(statement: Callable[[], object], then: Callable[[], object]) -> BaseException | None:
    """Start a statement in a thread, do something again and again until it ends, and return how it failed."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(statement)
        while not running.done():
            then()
            time.sleep(0.01)
        return running.exception()


def begun(
    statement: Callable[[], object], has_begun: Callable[[], object], then: Callable[[], object]
) -> BaseException | None:
    """Start a statement in a thread, do something as soon as its first write is seen, and return how it failed."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(statement)
        until(has_begun)
        then()
        return running.exception()


def send_impatiently(uri: str, name: str, statement: Callable[[Client], object]) -> None:
    """Send a command, and close the connection before it is answered."""
    sent = Sent()
    with MongoClient[dict[str, Any]](
        uri, socketTimeoutMS=50, retryWrites=False, event_listeners=[sent]
    ) as client:
        while not sent.of(name):  # The handshake may take too long already.
            with pytest.raises(AutoReconnect):
                statement(client)


def killing(client: Client, session: ClientSession) -> Callable[[], object]:
    return lambda: client.admin.command("killSessions", [session.session_id])


@pytest.mark.parametrize("statement", LONG.values(), ids=LONG)
def test_a_killed_session_interrupts_what_runs_in_it(
    statement: Statement, large: Database[dict[str, Any]], client: Client
) -> None:
    with client.start_session() as session:
        failure = in_flight(lambda: statement(large, session), killing(client, session))
    assert isinstance(failure, OperationFailure)
    assert failure.code == INTERRUPTED
    assert not failure.has_error_label("TransientTransactionError")


def test_an_interrupted_index_build_leaves_no_index(
    large: Database[dict[str, Any]], client: Client
) -> None:
    with client.start_session() as session:
        build = LONG["an index build"]
        assert in_flight(lambda: build(large, session), killing(client, session))
    assert list(large.c.index_information()) == ["_id_"]


def test_a_killed_session_leaves_what_runs_in_another_one_alone(
    large: Database[dict[str, Any]], client: Client
) -> None:
    with client.start_session() as session, client.start_session() as other:
        assert not in_flight(lambda: LONG["an update"](large, session), killing(client, other))
    assert large.c.count_documents({"n": 1}) == MANY


def test_a_killed_session_loses_its_cursors(
    small: Database[dict[str, Any]], client: Client
) -> None:
    with client.start_session() as session:
        cursor = small.c.find(batch_size=1, session=session)
        next(cursor)
        killing(client, session)()
        with pytest.raises(CursorNotFound):
            next(cursor)


def test_who_waits_for_a_majority_learns_that_it_was_interrupted() -> None:
    with TestServer(majority=2_000) as server, MongoClient[dict[str, Any]](server.uri) as client:
        collection = client.db.get_collection("c", write_concern=WriteConcern("majority"))
        start = time.monotonic()
        collection.insert_one({"_id": 1})
        assert time.monotonic() - start > 2
        with client.start_session() as session:
            failure = begun(
                lambda: collection.insert_one({"_id": 2}, session=session),
                lambda: collection.find_one({"_id": 2}),
                killing(client, session),
            )
        assert isinstance(failure, PyMongoError)
        assert "interrupted" in str(failure)
        assert collection.count_documents({}) == 2


def test_an_update_goes_on_when_its_client_is_gone(
    server: TestServer, large: Database[dict[str, Any]]
) -> None:
    send_impatiently(
        server.uri, "update", lambda client: client.large.c.update_many({}, {"$inc": {"n": 1}})
    )
    until(lambda: large.c.count_documents({"n": 1}) == MANY)


def test_a_read_ends_when_its_client_is_gone(
    server: TestServer, large: Database[dict[str, Any]]
) -> None:
    # It would write at its end. The end of what starts later says when that would have been.
    reading = {"$match": {"$expr": {"$eq": [{"$size": {"$range": [0, 100]}}, 100]}}}
    pipeline: list[dict[str, Any]] = [reading, {"$out": "left"}]
    send_impatiently(server.uri, "aggregate", lambda client: client.large.c.aggregate(pipeline))
    large.c.aggregate([reading, {"$out": "right"}])
    assert "right" in large.list_collection_names()
    assert "left" not in large.list_collection_names()


@pytest.mark.parametrize(
    "define",
    [
        lambda db: db.c.drop(),
        lambda db: db.c.create_index("n"),
        lambda db: db.c.rename("d"),
        lambda db: db.command("collMod", "c", validationLevel="off"),
        lambda db: db.client.drop_database(db.name),
    ],
    ids=["drop", "createIndexes", "renameCollection", "collMod", "dropDatabase"],
)
@pytest.mark.parametrize("how", ["commit_transaction", "abort_transaction"])
def test_a_definition_waits_until_the_transaction_ends(
    define: Callable[[Database[dict[str, Any]]], object],
    how: str,
    small: Database[dict[str, Any]],
    client: Client,
) -> None:
    with client.start_session() as session:
        session.start_transaction()
        assert small.c.find_one({"_id": 1}, session=session)
        with ThreadPoolExecutor(1) as pool:
            definition = pool.submit(define, small)
            with pytest.raises(FutureTimeoutError):
                definition.result(timeout=0.1)
            getattr(session, how)()
            definition.result(timeout=60)


def test_nobody_overtakes_a_definition_that_waits(
    small: Database[dict[str, Any]], client: Client
) -> None:
    with client.start_session() as session, client.start_session() as late:
        session.start_transaction()
        assert small.c.find_one({"_id": 1}, session=session)
        definition = threading.Thread(target=small.c.create_index, args=["n"])
        reader = threading.Thread(target=small.c.find_one)
        definition.start()
        late.start_transaction()
        refused = _refused_behind_it(small, late)
        assert refused.code == 24
        assert refused.has_error_label("TransientTransactionError")
        reader.start()
        # The transaction that holds the lock goes on, and another collection is free.
        assert small.c.find_one({"_id": 1}, session=session)
        assert small.other.find_one() is None
        reader.join(0.2)
        assert reader.is_alive()
        session.commit_transaction()
        reader.join(20)
        definition.join(20)
    assert not reader.is_alive()
    assert "n_1" in small.c.index_information()


def test_a_definition_waits_for_no_transaction_on_another_collection(
    small: Database[dict[str, Any]], client: Client
) -> None:
    small.other.insert_one({})
    with client.start_session() as session:
        session.start_transaction()
        small.c.update_one({"_id": 1}, {"$set": {"n": 1}}, session=session)
        small.other.drop()
        small.command("createIndexes", "c", indexes=[{"key": {"_id": 1}, "name": "_id_"}])
        with pytest.raises(ExecutionTimeout):
            small.command("drop", "c", maxTimeMS=20)
        session.commit_transaction()


def test_a_statement_that_outlives_its_transaction_is_no_transient_error(client: Client) -> None:
    with (
        TestServer(lifetime=1) as server,
        MongoClient[dict[str, Any]](server.uri, retryWrites=False) as own,
        own.start_session() as session,
    ):
        own.db.c.insert_many({"_id": i, "n": 0} for i in range(MANY))
        session.start_transaction()
        with pytest.raises(OperationFailure) as caught:
            _update_without_end(own.db, session)
        assert caught.value.code == LIFETIME_EXCEEDED
        assert not caught.value.has_error_label("TransientTransactionError")
        assert own.db.c.count_documents({"n": 0}) == MANY


def test_an_election_ends_what_runs_and_refuses_writes_until_it_is_over(
    server: TestServer, large: Database[dict[str, Any]], client: Client
) -> None:
    slow = {"$set": {"n": {"$size": {"$range": [0, 5_000]}}}}
    failure = begun(
        lambda: large.c.update_many({}, [slow]),
        lambda: large.c.find_one({"n": 5_000}),
        lambda: server.step_down(10),
    )
    assert isinstance(failure, (OperationFailure, NotPrimaryError))
    details = failure.details
    assert isinstance(details, dict)
    assert details["code"] == STEPPED_DOWN
    direct = f"mongodb://127.0.0.1:{server.port}/?directConnection=true&retryWrites=false"
    with MongoClient[dict[str, Any]](direct) as stubborn:
        with pytest.raises(NotPrimaryError):
            stubborn.large.c.create_index("n")
        with pytest.raises(NotPrimaryError):
            stubborn.large.c.insert_one({})
        assert stubborn.large.c.find_one()
    with MongoClient[dict[str, Any]](server.uri) as patient:
        patient.large.c.insert_one({})


def test_a_write_that_an_election_refuses_is_tried_again(
    server: TestServer, small: Database[dict[str, Any]]
) -> None:
    with MongoClient[dict[str, Any]](server.uri) as patient:
        patient.small.c.update_one({"_id": 1}, {"$set": {"n": 1}})
        server.step_down(1)
        patient.small.c.update_one({"_id": 1}, {"$set": {"n": 2}})
    assert small.c.count_documents({"n": 2}) == 1


def test_an_election_ends_open_transactions(
    server: TestServer, small: Database[dict[str, Any]], client: Client
) -> None:
    with client.start_session() as session:
        session.start_transaction()
        small.c.update_one({"_id": 1}, {"$set": {"n": 1}}, session=session)
        server.step_down(1)
        with pytest.raises(PyMongoError):
            session.commit_transaction()
    _wait_for_primary(client)
    assert small.c.count_documents({"n": 1}) == 0


ADD_TO_TEXT = {"q": {"_id": 1}, "u": [{"$set": {"n": {"$add": ["$t", 1]}}}]}
GROUP = {"q": {}, "u": [{"$group": {"_id": 1}}]}
SET = {"q": {"_id": 2}, "u": {"$set": {"n": 5}}}


@pytest.mark.parametrize(
    ("statements", "ordered", "errors", "n"),
    [
        ([SET, GROUP, SET], True, [(1, 72)], 1),
        ([SET, GROUP, SET], False, [(1, 72)], 2),
        ([GROUP, SET], True, [(0, 72)], 0),
        ([ADD_TO_TEXT, GROUP, SET], False, [(0, 16554), (1, 72)], 1),
        ([SET, ADD_TO_TEXT, GROUP], True, [(1, 16554)], 1),
    ],
)
def test_a_statement_that_fails_does_not_fail_the_command(
    statements: list[dict[str, Any]],
    errors: list[tuple[int, int]],
    n: int,
    small: Database[dict[str, Any]],
    *,
    ordered: bool,
) -> None:
    small.c.update_one({"_id": 1}, {"$set": {"t": "text"}})
    reply = small.command("update", "c", updates=statements, ordered=ordered)
    assert reply["ok"] == 1
    assert [(each["index"], each["code"]) for each in reply["writeErrors"]] == errors
    assert reply["n"] == n


def test_a_document_that_is_refused_leaves_the_others_of_an_unordered_insert(
    small: Database[dict[str, Any]],
) -> None:
    documents: list[dict[str, Any]] = [{"_id": 1}, {"_id": [1]}, {"_id": 3}]
    reply = small.command("insert", "c", documents=documents, ordered=False)
    assert [(each["index"], each["code"]) for each in reply["writeErrors"]] == [(0, 11000), (1, 53)]
    assert reply["n"] == 1


def _refused_behind_it(db: Database[dict[str, Any]], session: ClientSession) -> OperationFailure:
    """Read in transactions until the server refuses one that would wait behind a definition."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            db.c.find_one({"_id": 1}, session=session)
        except OperationFailure as exc:
            return exc
        session.abort_transaction()
        session.start_transaction()
    raise AssertionError


def _update_without_end(db: Database[dict[str, Any]], session: ClientSession) -> None:
    while True:
        db.c.update_many({}, {"$inc": {"n": 1}}, session=session)


def _wait_for_primary(client: Client) -> None:
    for _ in range(100):
        with contextlib.suppress(PyMongoError):
            if client.admin.command("hello")["isWritablePrimary"]:
                return
        time.sleep(0.1)
