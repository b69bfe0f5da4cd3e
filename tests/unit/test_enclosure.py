"""Which commands a rehearsal refuses, and which collections a command is about."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.errors import OperationFailure

from flask_migrate_mongo.driver.commands import Command
from flask_migrate_mongo.rehearsal.enclosure import (
    EVERYTHING,
    Enclosure,
    collections_of,
    keyed_statements,
    trespass,
)

HOME, REAL = "shop_rehearsal_1", "shop"


def a_command(database: str, **document: Any) -> Command:
    return Command(database, document)


@pytest.mark.parametrize(
    "command",
    [
        a_command(HOME, update="users"),
        a_command(HOME, dropDatabase=1),
        a_command(HOME, aggregate="users", pipeline=[{"$out": "other"}]),
        a_command(HOME, aggregate="users", pipeline=[{"$merge": "other"}]),
        a_command(HOME, aggregate="users", pipeline=[{"$merge": {"into": "other"}}]),
        a_command(HOME, mapReduce="users", out={"inline": 1}),
        a_command(REAL, find="users"),
        a_command(REAL, aggregate="users", pipeline=[{"$match": {}}]),
        a_command("admin", hello=1),
        a_command("admin", commitTransaction=1),
        a_command("admin", endSessions=[]),
        a_command("admin", renameCollection=f"{HOME}.a", to=f"{HOME}.b"),
        a_command("admin", bulkWrite=1, nsInfo=[{"ns": f"{HOME}.a.b"}]),
    ],
)
def test_what_stays_inside_or_only_looks_is_let_through(command: Command) -> None:
    assert trespass(command, HOME) is None


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (a_command(REAL, update="users"), "send update to shop.users"),
        (a_command(REAL, findAndModify="users"), "send findAndModify to shop.users"),
        (a_command(REAL, dropDatabase=1), "send dropDatabase to shop"),
        (a_command(REAL, createIndexes="users"), "send createIndexes to shop.users"),
        (a_command(REAL, somethingNew="users"), "send somethingNew to shop.users"),
        (
            a_command(REAL, aggregate="users", pipeline=[{"$out": "x"}]),
            "send aggregate to shop.users",
        ),
        (
            a_command(HOME, aggregate="users", pipeline=[{"$out": {"db": REAL, "coll": "x"}}]),
            f"send aggregate to {HOME}.users",
        ),
        (
            a_command(
                HOME, aggregate="a", pipeline=[{"$merge": {"into": {"db": REAL, "coll": "x"}}}]
            ),
            f"send aggregate to {HOME}.a",
        ),
        (a_command(HOME, mapReduce="a", out={"merge": "x", "db": REAL}), None),
        (a_command("admin", renameCollection=f"{HOME}.a", to=f"{REAL}.a"), None),
        (a_command("admin", renameCollection=f"{REAL}.a", to=f"{HOME}.a"), None),
        (a_command("admin", bulkWrite=1, nsInfo=[{"ns": f"{HOME}.a"}, {"ns": f"{REAL}.a"}]), None),
        (a_command("admin", setParameter=1), "send setParameter to admin"),
        (a_command(HOME, createUser="eve"), f"send createUser to {HOME}"),
        (a_command(HOME, grantRolesToUser="eve"), None),
    ],
)
def test_what_would_change_anything_else_is_refused(command: Command, what: str | None) -> None:
    found = trespass(command, HOME)
    assert found is not None
    assert what is None or found.startswith(what)


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (a_command(HOME, update="users"), {"users"}),
        (a_command(HOME, getMore=1, collection="users"), {"users"}),
        (a_command(HOME, aggregate=1, pipeline=[]), set()),
        (a_command(HOME, dbStats=1), set()),
        (a_command(HOME, listCollections=1), {EVERYTHING}),
        (a_command("admin", renameCollection=f"{HOME}.a.b", to=f"{HOME}.c"), {"a.b", "c"}),
        (a_command("admin", bulkWrite=1, nsInfo=[{"ns": f"{HOME}.a.b"}]), {"a.b"}),
        (
            a_command(
                HOME,
                aggregate="a",
                pipeline=[
                    {"$lookup": {"from": "b", "pipeline": [{"$unionWith": {"coll": "c"}}]}},
                    {"$facet": {"x": [{"$graphLookup": {"from": "d"}}]}},
                    {"$unionWith": "e"},
                    {"$merge": {"into": "f"}},
                ],
            ),
            set("abcdef"),
        ),
    ],
)
def test_the_collections_that_a_command_is_about(command: Command, names: set[str]) -> None:
    assert collections_of(command) == names


@pytest.mark.parametrize(
    ("command", "count"),
    [
        (a_command(HOME, insert="a", documents=[{}, {}]), 2),
        (a_command(HOME, update="a", updates=[{"q": {"_id": 1}, "u": {}}]), 1),
        (a_command(HOME, update="a", updates=[{"q": {"_id": 1}}, {"q": {"x": 1}}]), 0),
        (a_command(HOME, update="a", updates=[{"q": {}, "u": {}}]), 0),
        (a_command(HOME, delete="a", deletes=[{"q": {"_id": {"$gt": 1}}}]), 0),
        (a_command(HOME, delete="a", deletes=[{"q": {"_id": {"x": 1}}}]), 1),
        (a_command(HOME, find="a", filter={"_id": 1}), 1),
        (a_command(HOME, find="a", filter={}), 0),
        (a_command(HOME, findAndModify="a", query={"_id": 1}), 1),
        (a_command(HOME, aggregate="a", pipeline=[]), 0),
    ],
)
def test_how_many_single_documents_a_command_is_for(command: Command, count: int) -> None:
    assert keyed_statements(command) == count


IN_TRANSACTION = {"autocommit": False, "lsid": {"id": b"1"}}


def test_a_transaction_that_began_before_documents_came_is_begun_again() -> None:
    enclosure = Enclosure(HOME, frozenset(), bring=lambda _: True)
    with pytest.raises(OperationFailure) as caught:
        enclosure.sending(a_command(HOME, find="a", **IN_TRANSACTION))
    assert caught.value.has_error_label("TransientTransactionError")


def test_one_that_begins_with_this_very_command_and_one_that_lacks_nothing_go_on() -> None:
    Enclosure(HOME, frozenset(), bring=lambda _: True).sending(
        a_command(HOME, find="a", startTransaction=True, **IN_TRANSACTION)
    )
    Enclosure(HOME, frozenset(), bring=lambda _: False).sending(
        a_command(HOME, find="a", **IN_TRANSACTION)
    )


def test_transactions_are_open_until_they_are_committed_or_aborted() -> None:
    enclosure = Enclosure(HOME, frozenset(), bring=lambda _: False)
    for session, end in ((b"1", "commitTransaction"), (b"2", "abortTransaction"), (b"3", None)):
        said = {"autocommit": False, "lsid": {"id": session}}
        enclosure.sending(a_command(HOME, find="a", **said))
        if end:
            enclosure.sending(a_command("admin", **{end: 1}, **said))
    assert enclosure.open_transactions == (b"3",)


def test_our_own_collections_are_neither_brought_in_nor_timed() -> None:
    asked: list[str] = []

    def bring(name: str) -> bool:
        asked.append(name)
        return False

    enclosure = Enclosure(HOME, frozenset({"migrations"}), bring)
    for name in ("migrations", "users"):
        command = a_command(HOME, update=name, updates=[])
        enclosure.sending(command)
        enclosure.answered(command, {})
    assert (asked, set(enclosure.spent), enclosure.touched) == (["users"], {"users"}, {"users"})
