"""The tests start real servers if MONGO_TEST_MONGOD names a mongod: a stand-in records how, and starts the tests' own."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient
from pymongo.errors import NotPrimaryError, OperationFailure

from tests.server import launcher, mongod
from tests.server.launcher import TestServer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.project import Project

STAND_IN = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
given = sys.argv
value = lambda name: given[given.index(name) + 1]
own = [] if "--replSet" in given else ["--standalone"]
own += ["--auth"] if "--auth" in given else []
own += ["--host", value("--bind_ip"), "--port", value("--port"), "--storage-path", value("--dbpath") + "/data"]
command = [sys.executable, {daemon!r}, "--enable-test-commands", "--sync-on-commit", *own]
os.execv(sys.executable, command)
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in writes its arguments, a line a server."""
    log, program = tmp_path / "log", tmp_path / "mongod"
    source = STAND_IN.format(python=sys.executable, log=str(log), daemon=str(launcher._DAEMON))
    program.write_text(source, encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("MONGO_TEST_MONGOD", str(program))
    monkeypatch.delenv("MONGO_TEST_MEMBERS", raising=False)
    return log


def started(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def expected(server: TestServer, port: int, *more: str, lifetime: int = 60) -> list[str]:
    return [
        *("--bind_ip", "127.0.0.1", "--port", str(port)),
        *("--dbpath", str(server.folder / str(port)), "--wiredTigerCacheSizeGB", "0.5"),
        *("--setParameter", "enableTestCommands=1"),
        *("--setParameter", f"transactionLifetimeLimitSeconds={lifetime}"),
        *more,
    ]


def test_a_standalone_is_started(log: Path) -> None:
    with TestServer("--standalone") as server, MongoClient[Any](server.uri) as client:
        assert "setName" not in client.admin.command("hello")
        assert started(log) == [expected(server, server.port)]


def test_a_replica_set_of_one_keeps_its_data_when_it_is_killed(log: Path) -> None:
    with TestServer(durable=True, lifetime=20) as server, MongoClient[Any](server.uri) as client:
        client.shop.people.insert_one({"_id": 1})
        server.kill()
        server.start()
        assert client.shop.people.find_one() == {"_id": 1}
        more = ("--replSet", "rs0", "--journalCommitInterval", "1")
        assert started(log) == [expected(server, server.port, *more, lifetime=20)] * 2


def test_a_replica_set_of_three_is_started(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGO_TEST_MEMBERS", "3")
    with TestServer() as server:
        assert server.uri.startswith(
            "mongodb://" + ",".join(f"127.0.0.1:{port}" for port in server.ports) + "/?"
        )
        lines = [expected(server, port, "--replSet", "rs0") for port in server.ports]
        assert sorted(started(log)) == sorted(lines)
    with TestServer("--standalone") as server:
        assert len(server.ports) == 1


def test_access_control_is_switched_on_with_a_key_that_only_its_owner_reads(log: Path) -> None:
    with TestServer(durable=True) as server:
        with MongoClient[Any](server.uri) as client:
            client.admin.command("createUser", "root", pwd="secret", roles=["root"])
        server.require_auth()
        key = server.folder / "key"
        assert key.stat().st_mode & 0o777 == 0o600
        more = ("--auth", "--keyFile", str(key), "--replSet", "rs0", "--journalCommitInterval", "1")
        assert started(log)[1] == expected(server, server.port, *more)
        with MongoClient[Any](server.uri) as client, pytest.raises(OperationFailure):
            client.shop.people.find_one()
        uri = server.uri.replace("mongodb://", "mongodb://root:secret@")
        with MongoClient[Any](uri) as client:
            assert client.shop.people.find_one() is None


class NewMember:
    """A client of a member as mongod documents it: without a configuration, then elected after a while."""

    def __init__(self) -> None:
        self.admin = self
        self.sent: list[Any] = []

    def command(self, name: str, value: object = None) -> dict[str, Any]:
        self.sent.append((name, value))
        match len(self.sent):
            case 1:
                raise NotPrimaryError("it starts")
            case 2:
                return {"isWritablePrimary": False, "isreplicaset": True}
            case 4:
                return {"isWritablePrimary": False, "setName": "rs0", "secondary": True}
        return {"isWritablePrimary": True, "setName": "rs0"}


def test_a_new_replica_set_is_initiated_and_its_election_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    member = NewMember()
    monkeypatch.setattr(
        mongod, "MongoClient", {dict[str, Any]: lambda *_, **__: nullcontext(member)}
    )
    mongod.wait_for_primary([1, 2, 3])
    configuration = {
        "_id": "rs0",
        "members": [
            {"_id": 0, "host": "127.0.0.1:1", "priority": 0},
            {"_id": 1, "host": "127.0.0.1:2", "priority": 0},
            {"_id": 2, "host": "127.0.0.1:3", "priority": 1},
        ],
    }
    asked = ("hello", None)
    assert member.sent == [asked, asked, ("replSetInitiate", configuration), asked, asked]


def test_a_test_is_skipped_on_a_server_that_is_too_old(project: Project) -> None:
    with pytest.raises(pytest.skip.Exception, match="below 999"):
        project.needs(999)
    project.needs(13)
