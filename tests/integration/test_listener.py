"""Listeners see and refuse commands before they are sent."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from bson.raw_bson import RawBSONDocument
from pymongo import InsertOne, MongoClient, UpdateOne, monitoring
from pymongo.errors import BulkWriteError, OperationFailure

from flask_migrate_mongo.driver import commands
from flask_migrate_mongo.driver.commands import (
    listening,
    listening_everywhere,
    outside_transaction,
    without_listeners,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pymongo.database import Database

    from flask_migrate_mongo.driver.commands import Command

    Db = Database[dict[str, Any]]

NAMES = list(commands.PATCHES.names)


class Recorder:
    """Keeps what it sees, and refuses the commands of one name."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses
        self.sent: list[tuple[str, str | None]] = []
        self.replies: list[tuple[str, Mapping[str, Any]]] = []

    def sending(self, command: Command) -> None:
        self.sent.append((command.name, command.collection))
        if command.name == self.refuses:
            raise RuntimeError(f"no {command.name}")

    def answered(self, command: Command, reply: Mapping[str, Any]) -> None:
        self.replies.append((command.name, reply))


def test_a_listener_sees_the_commands_of_every_handle_and_their_replies(db: Db) -> None:
    recorder = Recorder()
    with listening(recorder):
        db.a.insert_many([{"_id": 1}, {"_id": 2}])
        db.client.get_database(db.name).get_collection("b").insert_one({})
        db.a.bulk_write([InsertOne({"_id": 3}), UpdateOne({"_id": 1}, {"$set": {"x": 1}})])
        found = list(db.a.find({}, batch_size=2))
    assert len(found) == 3
    assert recorder.sent == [
        *(("insert", "a"), ("insert", "b"), ("insert", "a"), ("update", "a")),
        *(("find", "a"), ("getMore", "a")),
    ]
    assert [(name, reply.get("n")) for name, reply in recorder.replies] == [
        *(("insert", 2), ("insert", 1), ("insert", 1), ("update", 1)),
        *(("find", None), ("getMore", None)),
    ]


def test_a_command_contains_the_statements_of_a_bulk_write(db: Db) -> None:
    seen: list[Command] = []

    class Keeper(Recorder):
        def sending(self, command: Command) -> None:
            seen.append(command)

    with listening(Keeper()):
        db.a.bulk_write([InsertOne({"_id": 3}), UpdateOne({"_id": 1}, {"$set": {"x": 1}})])
    assert [d["_id"] for d in seen[0].document["documents"]] == [3]
    assert [u["q"] for u in seen[1].document["updates"]] == [{"_id": 1}]
    assert seen[0].database == db.name


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("insert", lambda c: c.insert_one({})),
        ("insert", lambda c: c.bulk_write([InsertOne({})])),
        ("update", lambda c: c.update_many({}, {"$set": {"x": 1}})),
        ("delete", lambda c: c.delete_many({})),
        ("findAndModify", lambda c: c.find_one_and_delete({})),
        ("drop", lambda c: c.drop()),
        ("createIndexes", lambda c: c.create_index("x")),
    ],
)
def test_a_refused_command_is_not_sent_and_the_refusal_reaches_the_caller(
    db: Db, name: str, act: Callable[[Any], object]
) -> None:
    db.a.insert_one({"_id": 1})
    with listening(Recorder(refuses=name)), pytest.raises(RuntimeError, match=f"no {name}"):
        act(db.a)
    assert list(db.a.find()) == [{"_id": 1}]
    assert list(db.a.index_information()) == ["_id_"]


def test_a_connection_can_be_used_after_a_refusal(mongo_uri: str, db: Db) -> None:
    with (
        MongoClient[Any](mongo_uri, maxPoolSize=1, waitQueueTimeoutMS=500) as client,
        listening(Recorder(refuses="insert")),
    ):
        for _ in range(3):
            with pytest.raises(RuntimeError):
                client[db.name].a.insert_one({})
        assert client[db.name].a.find_one() is None


def test_a_single_write_that_fails_is_part_of_a_reply(db: Db) -> None:
    db.a.create_index("x", unique=True)
    recorder = Recorder()
    with listening(recorder), pytest.raises(BulkWriteError):
        db.a.insert_many([{"x": 1}, {"x": 1}])
    assert [(name, reply["n"]) for name, reply in recorder.replies] == [("insert", 1)]


def test_a_command_that_fails_has_no_reply_and_its_error_is_the_server_s(db: Db) -> None:
    recorder = Recorder()
    with listening(recorder), pytest.raises(OperationFailure, match="nonsense"):
        db.command("nonsense")
    assert recorder.sent == [("nonsense", None)]
    assert recorder.replies == []
    assert not commands._sent


def test_only_a_listener_of_the_whole_process_sees_the_commands_of_another_thread(db: Db) -> None:
    mine, everybody = Recorder(), Recorder()
    with listening(mine), listening_everywhere(everybody):
        thread = threading.Thread(target=lambda: db.a.insert_one({}))
        thread.start()
        thread.join()
    assert mine.sent == []
    assert everybody.sent == [("insert", "a")]


def test_no_listener_sees_our_own_commands(db: Db) -> None:
    mine, everybody = Recorder(), Recorder()
    with listening(mine), listening_everywhere(everybody):
        with without_listeners():
            db.a.insert_one({})
        assert outside_transaction(lambda: db.a.count_documents({})) == 1
        db.b.insert_one({})
    assert mine.sent == everybody.sent == [("insert", "b")]


def test_the_application_s_own_listeners_still_see_every_command(mongo_uri: str, db: Db) -> None:
    class Own(monitoring.CommandListener):
        names: list[str] = []  # noqa: RUF012

        def started(self, event: monitoring.CommandStartedEvent) -> None:
            self.names.append(event.command_name)

        def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
            self.names.append(f"{event.command_name} done")

        def failed(self, event: monitoring.CommandFailedEvent) -> None:
            self.names.append(f"{event.command_name} failed")

    with (
        MongoClient[Any](mongo_uri, event_listeners=[Own()]) as client,
        listening(Recorder()),
    ):
        client[db.name].a.insert_one({"_id": 1})
    assert Own.names[:2] == ["insert", "insert done"]


def test_replies_may_be_of_the_application_s_own_document_class(mongo_uri: str, db: Db) -> None:
    recorder = Recorder()
    with (
        MongoClient[RawBSONDocument](mongo_uri, document_class=RawBSONDocument) as client,
        listening(recorder),
    ):
        client[db.name].a.update_one({}, {"$set": {"x": 1}}, upsert=True)
    assert [(name, reply["n"]) for name, reply in recorder.replies] == [("update", 1)]


def test_pymongo_is_restored_afterwards(db: Db) -> None:
    # Not those of the import: the watch of these tests is put on again after it was suspended.
    before = [vars(owner)[name] for owner, name in NAMES]
    with listening(Recorder()), listening_everywhere(Recorder()):
        db.a.insert_one({})
        assert [vars(owner)[name] for owner, name in NAMES] != before
    assert [vars(owner)[name] for owner, name in NAMES] == before
