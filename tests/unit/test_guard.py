"""The guard of a rehearsal refuses writes to other databases, and finds the collections that commands name."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.errors import OperationFailure

from flask_migrate_mongo.driver.commands import Command
from flask_migrate_mongo.rehearsal.guard import (
    EVERYTHING,
    SandboxGuard,
    forbidden_write,
    keyed_statements,
    named_collections,
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
def test_a_command_that_stays_inside_or_only_reads_is_allowed(command: Command) -> None:
    assert forbidden_write(command, HOME) is None


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
def test_a_command_that_would_change_anything_else_is_refused(
    command: Command, what: str | None
) -> None:
    found = forbidden_write(command, HOME)
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
def test_a_command_names_its_collections_at_any_depth(command: Command, names: set[str]) -> None:
    assert named_collections(command) == names


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
def test_documents_named_by_their_id_are_counted(command: Command, count: int) -> None:
    assert keyed_statements(command) == count


IN_TRANSACTION = {"autocommit": False, "lsid": {"id": b"1"}}


def test_a_transaction_that_began_before_a_copy_runs_once_more() -> None:
    guard = SandboxGuard(HOME, frozenset(), copy=lambda _: True)
    with pytest.raises(OperationFailure) as caught:
        guard.sending(a_command(HOME, find="a", **IN_TRANSACTION))
    assert caught.value.has_error_label("TransientTransactionError")


def test_a_transaction_that_begins_with_this_command_or_needs_no_copy_continues() -> None:
    SandboxGuard(HOME, frozenset(), copy=lambda _: True).sending(
        a_command(HOME, find="a", startTransaction=True, **IN_TRANSACTION)
    )
    SandboxGuard(HOME, frozenset(), copy=lambda _: False).sending(
        a_command(HOME, find="a", **IN_TRANSACTION)
    )


def test_transactions_are_open_until_they_are_committed_or_aborted() -> None:
    guard = SandboxGuard(HOME, frozenset(), copy=lambda _: False)
    for session, end in ((b"1", "commitTransaction"), (b"2", "abortTransaction"), (b"3", None)):
        said = {"autocommit": False, "lsid": {"id": session}}
        guard.sending(a_command(HOME, find="a", **said))
        if end:
            guard.sending(a_command("admin", **{end: 1}, **said))
    assert guard.activity.open == {b"3"}


def test_a_session_that_is_used_otherwise_or_elsewhere_is_none_of_an_open_transaction() -> None:
    guard = SandboxGuard(HOME, frozenset(), copy=lambda _: False)
    first, second, third = ({"lsid": {"id": session}} for session in (b"1", b"2", b"3"))
    guard.sending(a_command(HOME, find="a", autocommit=False, **first))
    guard.sending(a_command(REAL, find="a", **first))
    guard.sending(a_command(REAL, find="a", autocommit=False, **second))
    guard.sending(
        a_command("admin", bulkWrite=1, nsInfo=[{"ns": f"{HOME}.a"}], autocommit=False, **third)
    )
    assert guard.activity.open == {b"3"}


def test_our_own_collections_are_neither_copied_nor_timed() -> None:
    asked: list[str] = []

    def copy(names: frozenset[str]) -> bool:
        asked.extend(names)
        return False

    guard = SandboxGuard(HOME, frozenset({"migrations"}), copy)
    for name in ("migrations", "users"):
        command = a_command(HOME, update=name, updates=[])
        guard.sending(command)
        guard.answered(command, {})
    activity = guard.activity
    assert (asked, set(activity.spent), activity.touched) == (
        ["users"],
        {"users"},
        {"users"},
    )
