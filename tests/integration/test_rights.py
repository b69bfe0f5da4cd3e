"""With access control, the server of these tests allows each role what a real mongod 5.0 allowed it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from tests.server.launcher import TestServer
from tests.server.replay import RECORDED

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("unwatched")

RIGHTS: dict[str, dict[str, int]] = json.loads((RECORDED / "rights.json").read_text("utf-8"))
ROLES = list(RIGHTS["find"])
REFUSED = 13
SHOP, OTHER, ADMIN = "shop", "other", "admin"

Command = dict[str, Any]


def pipeline(*stages: Command) -> Command:
    return {"aggregate": "c", "pipeline": list(stages), "cursor": {}}


def of_database(*stages: Command) -> Command:
    return {**pipeline(*stages), "aggregate": 1}


INDEXES = [{"key": {"a": 1}, "name": "a_1"}]
INSERT = {"insert": "c", "documents": [{}]}
COMMANDS: dict[str, tuple[str, Command]] = {
    "find": (SHOP, {"find": "c"}),
    "insert": (SHOP, INSERT),
    "update": (SHOP, {"update": "c", "updates": [{"q": {}, "u": {"$set": {"a": 1}}}]}),
    "delete": (SHOP, {"delete": "c", "deletes": [{"q": {"a": 9}, "limit": 1}]}),
    "findAndModify": (SHOP, {"findAndModify": "c", "query": {}, "update": {"$set": {"a": 1}}}),
    "insert, bypassDocumentValidation": (SHOP, {**INSERT, "bypassDocumentValidation": True}),
    "aggregate": (SHOP, pipeline()),
    "aggregate $collStats count": (SHOP, pipeline({"$collStats": {"count": {}}})),
    "aggregate $collStats storageStats": (SHOP, pipeline({"$collStats": {"storageStats": {}}})),
    "aggregate $indexStats": (SHOP, pipeline({"$indexStats": {}})),
    "aggregate $out": (SHOP, pipeline({"$out": "d"})),
    "aggregate $merge": (SHOP, pipeline({"$merge": "d"})),
    "aggregate $merge to another database": (
        SHOP,
        pipeline({"$merge": {"into": {"db": OTHER, "coll": "d"}}}),
    ),
    "aggregate $out to another database": (SHOP, pipeline({"$out": {"db": OTHER, "coll": "d"}})),
    "aggregate $unionWith": (SHOP, pipeline({"$unionWith": "d"})),
    "aggregate $changeStream": (SHOP, pipeline({"$changeStream": {}})),
    "aggregate $currentOp allUsers false": (
        ADMIN,
        of_database({"$currentOp": {"allUsers": False}}),
    ),
    "aggregate $currentOp allUsers": (ADMIN, of_database({"$currentOp": {"allUsers": True}})),
    "aggregate $listLocalSessions": (SHOP, of_database({"$listLocalSessions": {}})),
    "aggregate $planCacheStats": (SHOP, pipeline({"$planCacheStats": {}})),
    "count": (SHOP, {"count": "c"}),
    "distinct": (SHOP, {"distinct": "c", "key": "a"}),
    "explain": (SHOP, {"explain": {"find": "c"}}),
    "collStats": (SHOP, {"collStats": "c"}),
    "dbStats": (SHOP, {"dbStats": 1}),
    "dataSize": (SHOP, {"dataSize": "shop.c"}),
    "validate": (SHOP, {"validate": "c"}),
    "listCollections": (SHOP, {"listCollections": 1}),
    "listCollections nameOnly authorizedCollections": (
        SHOP,
        {"listCollections": 1, "nameOnly": True, "authorizedCollections": True},
    ),
    "listIndexes": (SHOP, {"listIndexes": "c"}),
    "listDatabases": (ADMIN, {"listDatabases": 1}),
    "listDatabases authorizedDatabases": (
        ADMIN,
        {"listDatabases": 1, "authorizedDatabases": True},
    ),
    "create": (SHOP, {"create": "new"}),
    "create capped": (SHOP, {"create": "caps", "capped": True, "size": 4096}),
    "create a view": (SHOP, {"create": "view", "viewOn": "c", "pipeline": []}),
    "createIndexes": (SHOP, {"createIndexes": "c", "indexes": INDEXES}),
    "dropIndexes": (SHOP, {"dropIndexes": "c", "index": "a_1"}),
    "collMod validator": (SHOP, {"collMod": "c", "validator": {}}),
    "collMod index hidden": (SHOP, {"collMod": "c", "index": {"name": "b_1", "hidden": True}}),
    "renameCollection": (ADMIN, {"renameCollection": "shop.new", "to": "shop.newer"}),
    "renameCollection to another database": (
        ADMIN,
        {"renameCollection": "shop.newer", "to": "other.newer"},
    ),
    "drop": (SHOP, {"drop": "newer"}),
    "convertToCapped": (SHOP, {"convertToCapped": "d", "size": 4096}),
    "compact": (SHOP, {"compact": "c"}),
    "reIndex": (SHOP, {"reIndex": "c"}),
    "other database: create": (OTHER, {"create": "new"}),
    "other database: insert": (OTHER, INSERT),
    "other database: createIndexes": (OTHER, {"createIndexes": "c", "indexes": INDEXES}),
    "other database: drop": (OTHER, {"drop": "new"}),
    "other database: dropDatabase": (OTHER, {"dropDatabase": 1}),
    "other database: collMod": (OTHER, {"collMod": "c", "validator": {}}),
    "other database: listCollections": (OTHER, {"listCollections": 1}),
    "hello": (ADMIN, {"hello": 1}),
    "ping": (ADMIN, {"ping": 1}),
    "buildInfo": (ADMIN, {"buildInfo": 1}),
    "connectionStatus": (ADMIN, {"connectionStatus": 1}),
    "usersInfo of oneself": (ADMIN, {"usersInfo": "$user"}),
    "getParameter": (ADMIN, {"getParameter": 1, "transactionLifetimeLimitSeconds": 1}),
    "setParameter": (ADMIN, {"setParameter": 1, "logLevel": 0}),
    "serverStatus": (ADMIN, {"serverStatus": 1}),
    "replSetGetStatus": (ADMIN, {"replSetGetStatus": 1}),
    "hostInfo": (ADMIN, {"hostInfo": 1}),
    "top": (ADMIN, {"top": 1}),
    "currentOp": (ADMIN, {"currentOp": 1}),
    "currentOp $ownOps": (ADMIN, {"currentOp": 1, "$ownOps": True}),
    "killOp of nothing": (ADMIN, {"killOp": 1, "op": 0}),
    "killSessions of none": (ADMIN, {"killSessions": []}),
    "killSessions of a foreign one": (ADMIN, {"killSessions": []}),
    "killAllSessions": (ADMIN, {"killAllSessions": []}),
    "killAllSessionsByPattern": (ADMIN, {"killAllSessionsByPattern": []}),
    "refreshSessions": (ADMIN, {"refreshSessions": []}),
    "configureFailPoint": (ADMIN, {"configureFailPoint": "failCommand", "mode": "off"}),
    "read local.oplog.rs": ("local", {"find": "oplog.rs", "limit": 1}),
    "collStats of the oplog": ("local", {"collStats": "oplog.rs"}),
    "find config.transactions": ("config", {"find": "transactions", "limit": 1}),
    "profile level": (SHOP, {"profile": -1}),
    # Without the lock, which would stop all that follows; it needs the same right.
    "fsync lock": (ADMIN, {"fsync": 1}),
    "drop shop (last)": (SHOP, {"dropDatabase": 1}),
}


@pytest.fixture(scope="module")
def guarded() -> Iterator[TestServer]:
    """A server with one user for each role."""
    with TestServer(durable=True) as server:
        with MongoClient[dict[str, Any]](server.uri) as client:
            for role in ROLES:
                bindings = [{"role": each, "db": _database_of(each)} for each in role.split("+")]
                client.admin.command("createUser", role, pwd="secret", roles=bindings)
        server.require_auth()
        yield server


def _database_of(role: str) -> str:
    of_one = role in {"read", "readWrite", "dbAdmin", "dbOwner"}
    return SHOP if of_one else ADMIN


def test_there_is_a_command_for_each_row() -> None:
    assert list(COMMANDS) == list(RIGHTS)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_what_mongod_allowed_it(role: str, guarded: TestServer) -> None:
    with MongoClient[dict[str, Any]](
        guarded.uri, username=role, password="secret", authSource=ADMIN
    ) as client:
        refused = {
            name: _is_refused(client, database, command, role)
            for name, (database, command) in COMMANDS.items()
        }
    assert refused == {name: codes[role] == REFUSED for name, codes in RIGHTS.items()}


def _is_refused(
    client: MongoClient[dict[str, Any]], database: str, command: Command, role: str
) -> bool:
    filled = {key: role if value == "$user" else value for key, value in command.items()}
    try:
        client[database].command(filled)
    except OperationFailure as exc:
        return exc.code == REFUSED
    return False


def test_who_did_not_log_in_may_do_nothing(guarded: TestServer) -> None:
    with MongoClient[dict[str, Any]](guarded.uri) as client, pytest.raises(OperationFailure):
        client.shop.c.find_one()
