"""Sharded collections: the index that supports a shard key stays, and a unique one has to begin with it."""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from flask_migrate_mongo.schema import Collection, Index
from flask_migrate_mongo.schema.comparison import compare
from flask_migrate_mongo.schema.live import SchemaReader
from tests.project import Project
from tests.sent import Sent
from tests.server import mongod
from tests.server.launcher import TestServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

    Document = dict[str, Any]

MODULE = "declared_for_shards"
GERMAN = {"locale": "de"}
KEEPS = 'region_1 supports the shard key {"region": 1}: it is neither dropped nor hidden.'


@pytest.fixture(scope="module")
def cluster() -> Iterator[TestServer]:
    if mongod.executable():
        pytest.skip("a mongod is no mongos")
    with TestServer(sharded=True) as server:
        yield server


@pytest.fixture
def sharded(
    cluster: TestServer, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Project]:
    """A project with the sharded collection `orders`."""
    name = f"s{abs(hash(request.node.name)) % 10**9}"
    uri = cluster.uri.replace("/?", f"/{name}?")
    with MongoClient[Any](uri) as client:
        db = client[name]
        db.orders.create_index("region")
        client.admin.command("shardCollection", f"{name}.orders", key={"region": 1})
        yield Project(tmp_path_factory.mktemp("sharded"), db, uri)


class Invoke(Protocol):
    """Runs a command with these indexes declared for `orders`."""

    def __call__(self, *args: str, indexes: list[Index]) -> Result: ...


@pytest.fixture
def invoke(sharded: Project, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    module = ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)

    def run(*args: str, indexes: list[Index]) -> Result:
        vars(module)["collections"] = [Collection("orders", indexes)]
        return sharded.invoke(*args, MIGRATE_SCHEMA=f"{MODULE}:collections")

    return run


def written(project: Project) -> list[str]:
    """Read the written files, each as one line."""
    paths = sorted(project.migrations.glob("*.py"))
    return [" ".join(path.read_text().replace("    #", "").split()) for path in paths]


def test_the_index_that_supports_the_shard_key_is_no_undeclared_one(
    sharded: Project, invoke: Invoke
) -> None:
    sharded.db.orders.create_index("old")
    result = invoke("schema", "diff", "--strict", "--json", indexes=[])
    assert [each["index"] for each in json.loads(result.stdout)["notes"]] == ["old_1"]


def test_the_index_that_supports_the_shard_key_stays_beside_the_one_that_replaces_it(
    sharded: Project, invoke: Invoke
) -> None:
    declared = [Index("region", unique=True)]
    result = invoke("schema", "diff", indexes=declared)
    assert "Build it beside the live one, under another name. " + KEEPS in result.stdout
    assert invoke("create", "--from-schema", "x", indexes=declared).exit_code == 0
    (source,) = written(sharded)
    assert KEEPS in source
    for command in ("up", "down", "up"):
        assert sharded.invoke(command).exit_code == 0
    indexes = sharded.db.orders.index_information()
    assert set(indexes) == {"_id_", "region_1", "region_1_v2"}
    assert "hidden" not in indexes["region_1"]
    assert invoke("schema", "diff", "--strict", indexes=declared).exit_code == 0


@pytest.mark.parametrize(
    "changed",
    [Index("region", hidden=True), Index("region", expire_after=60)],
    ids=["hidden", "TTL"],
)
def test_what_would_hide_or_drop_the_index_that_supports_the_shard_key_is_a_question(
    sharded: Project, invoke: Invoke, changed: Index
) -> None:
    assert KEEPS in invoke("schema", "diff", indexes=[changed]).stdout
    assert invoke("create", "--from-schema", "x", indexes=[changed]).exit_code == 0
    (source,) = written(sharded)
    assert 'raise NotImplementedError("How is region_1 of orders changed?")' in source
    assert "collMod" not in source
    assert "drop_index" not in source


def test_an_index_is_dropped_if_another_one_supports_the_shard_key_and_it_does_not(
    sharded: Project, invoke: Invoke
) -> None:
    sharded.db.orders.create_index("region", sparse=True, name="sparse")
    declared = [Index("region", sparse=True, collation=GERMAN, name="sparse"), Index("region")]
    assert invoke("create", "--from-schema", "x", indexes=declared).exit_code == 0
    result = sharded.invoke("up")
    assert result.exit_code == 0, result.output
    assert set(sharded.db.orders.index_information()) == {"_id_", "region_1", "sparse_v2"}


def test_a_unique_index_that_does_not_begin_with_the_shard_key_is_a_question(
    sharded: Project, invoke: Invoke
) -> None:
    declared = [Index("email", unique=True), Index([("region", 1), ("email", 1)], unique=True)]
    with pytest.raises(OperationFailure, match="cannot create unique index"):
        sharded.db.orders.create_index("email", unique=True)
    result = invoke("schema", "diff", indexes=declared)
    refused = 'The server refuses it: a unique index of this collection has to begin with the shard key {"region": 1}.'
    assert result.stdout.count(refused) == 1
    assert invoke("create", "--from-schema", "x", indexes=declared).exit_code == 0
    (source,) = written(sharded)
    assert '"Which unique index does orders get instead of email_1?"' in source
    assert 'ctx.create_index("orders", "email"' not in source
    assert 'ctx.create_index("orders", [("region", 1), ("email", 1)], unique=True)' in source


def test_the_server_keeps_the_index_and_the_error_says_what_to_do(sharded: Project) -> None:
    sharded.write("1_drop", 'def up(db, ctx):\n    ctx.drop_index("orders", "region_1")\n')
    result = sharded.invoke("up")
    assert result.exit_code == 1
    assert "no other index of orders supports the shard key" in result.stderr
    assert "region_1" in sharded.db.orders.index_information()


def test_a_unique_index_that_the_server_refuses_says_why(sharded: Project) -> None:
    sharded.write("1_unique", 'def up(db, ctx): ctx.create_index("orders", "email", unique=True)\n')
    result = sharded.invoke("up")
    assert result.exit_code == 1
    assert "let its keys begin with the shard key" in result.stderr


def test_shard_keys_take_one_command(sharded: Project) -> None:
    sent = Sent()
    with MongoClient[Any](sharded.uri, event_listeners=[sent]) as client:
        live = SchemaReader(client[sharded.db.name]).read()
    assert [each.shard_key for each in live] == [{"region": 1}]
    assert sent.names()[:3] == ["listCollections", "find", "listIndexes"]
    assert sent.names().count("find") == 1


def test_without_the_right_to_read_shard_keys_a_diff_works_and_no_migration_is_written(
    sharded: Project, cluster: TestServer, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = sharded.db.name
    admin = sharded.db.client.admin
    admin.command(
        "configureFailPoint",
        "failCommand",
        mode="alwaysOn",
        data={"failCommands": ["find"], "errorCode": 13, "namespace": "config.collections"},
    )
    try:
        (live,) = SchemaReader(sharded.db).read()
        assert live.shard_key == {}
        assert compare([Collection("orders", [Index("region")])], [live]).found == ()
        result = invoke("create", "--from-schema", "x", indexes=[Index("region", unique=True)])
    finally:
        admin.command("configureFailPoint", "failCommand", mode="off")
    assert result.exit_code == 6, (name, result.output)
    assert "clusterMonitor" in result.stderr
    assert written(sharded) == []
