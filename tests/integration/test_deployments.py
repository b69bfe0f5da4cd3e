"""Each command works on each kind of deployment, with the options of connection strings that people use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient

from tests.project import Project
from tests.server.launcher import TestServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Failpoint

Client = MongoClient[dict[str, Any]]

PASSWORD = "correct-horse"
DOCUMENTS = 400

PLAIN = """
def up(db):
    db.people.create_index("name")
    db.people.update_many({}, {"$set": {"seen": True}})

def down(db):
    db.people.update_many({}, {"$unset": {"seen": ""}})
    db.people.drop_index("name_1")
"""
BACKFILL = """
def up(db, ctx):
    ctx.backfill("people", {"$inc": {"n": 1}}, workers=8, batch_size=20)

def down(db, ctx):
    ctx.backfill("people", {"$inc": {"n": -1}}, workers=8, batch_size=20)
"""
TRANSACTIONAL = """
transactional = True

def up(db):
    db.visits.insert_one({"_id": 1})
    db.people.update_one({"_id": 0}, {"$set": {"first": True}})

def down(db):
    db.people.update_one({"_id": 0}, {"$unset": {"first": ""}})
    db.visits.delete_one({"_id": 1})
"""
STRICT_APP = """
import os

from flask import Flask
from flask_migrate_mongo import MongoMigrate
from pymongo import MongoClient
from pymongo.server_api import ServerApi

app = Flask(__name__)
client = MongoClient(os.environ["MONGO_URI"], server_api=ServerApi("1", strict=True))
MongoMigrate(app, client.get_default_database())
"""


@dataclass(frozen=True)
class Deployment:
    """A database that was filled by an administrator, as a project sees it."""

    project: Project
    admin: Client

    @property
    def people(self) -> list[dict[str, Any]]:
        """The documents that the migrations change."""
        return list(self.admin[self.project.db.name].people.find().sort("_id", 1))

    def run(self, *command: str) -> str:
        """Run a command in a process of its own; it ends well."""
        done = self.project.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


def filled(
    tmp_path: Path, admin: Client, name: str, uri: str, *, transactional: bool = True
) -> Deployment:
    project = Project(tmp_path, admin[name], uri)
    project.write("1_plain", PLAIN)
    project.write("2_backfill", BACKFILL)
    if transactional:
        project.write("3_transactional", TRANSACTIONAL)
    admin[name].create_collection("visits")
    admin[name].people.insert_many([{"_id": n, "name": f"p{n}", "n": 0} for n in range(DOCUMENTS)])
    return Deployment(project, admin)


def migrates_up_and_down(on: Deployment, *, rehearses: bool = True) -> None:
    """Run every command that a release needs, and look at the documents after each."""
    before = on.people
    steps = len(list(on.project.migrations.glob("[0-9]*.py")))
    on.run("plan")
    on.run("up", "--dry-run")
    assert on.people == before
    if rehearses:
        on.run("rehearse")
        assert on.people == before
    on.run("up")
    assert [(each["n"], each["seen"]) for each in on.people] == [(1, True)] * DOCUMENTS
    on.run("status")
    on.run("history", "--events")
    on.run("down", "--steps", str(steps), "--dry-run")
    on.run("down", "--steps", str(steps))
    assert on.people == before


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[TestServer, Client]]:
    """A server with access control, and a client of its administrator."""
    with TestServer(durable=True) as server:
        with Client(server.uri) as client:
            client.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
        server.require_auth()
        uri = server.uri.replace("mongodb://", f"mongodb://root:{PASSWORD}@")
        with Client(uri) as admin:
            yield server, admin


@pytest.mark.parametrize(
    "options",
    [
        "",
        "timeoutMS=20000",
        "readConcernLevel=majority",
        "retryWrites=false",
        "w=majority&readPreference=secondaryPreferred",
        "w=1&journal=true",
        "compressors=zlib",
        "uuidRepresentation=standard&tz_aware=true",
    ],
)
def test_connection_strings(tmp_path: Path, project: Project, admin: Client, options: str) -> None:
    folder = tmp_path / "matrix"
    folder.mkdir()
    uri = f"{project.uri}&{options}" if options else project.uri
    migrates_up_and_down(filled(folder, admin, project.db.name, uri))


def test_a_client_with_strict_api_version_1(
    tmp_path: Path, project: Project, admin: Client
) -> None:
    folder = tmp_path / "matrix"
    folder.mkdir()
    deployment = filled(folder, admin, project.db.name, project.uri)
    (folder / "app.py").write_text(STRICT_APP, encoding="utf-8")
    migrates_up_and_down(deployment)


def test_a_server_without_kill_sessions(
    tmp_path: Path, project: Project, admin: Client, failpoint: Failpoint
) -> None:
    folder = tmp_path / "matrix"
    folder.mkdir()
    failpoint("killSessions", times=1_000, errorCode=59)
    migrates_up_and_down(filled(folder, admin, project.db.name, project.uri))


def test_a_standalone(tmp_path: Path, standalone_uri: str) -> None:
    with Client(standalone_uri) as admin:
        uri = standalone_uri.replace("/?", "/shop?")
        deployment = filled(tmp_path, admin, "shop", uri, transactional=False)
        before = deployment.people
        assert "standalone" in deployment.project.run("up", "--dry-run").stdout
        deployment.run("rehearse")
        deployment.run("up")
        assert [each["n"] for each in deployment.people] == [1] * DOCUMENTS
        deployment.run("down", "--steps", "2")
        assert deployment.people == before
        admin.drop_database("shop")


@pytest.mark.parametrize(
    ("user", "roles"),
    [
        ("writer", [{"role": "readWrite", "db": "shop"}]),
        ("atlas", [{"role": "readWriteAnyDatabase", "db": "admin"}]),
    ],
)
def test_a_user_with_the_least_rights(
    tmp_path: Path, guarded: tuple[TestServer, Client], user: str, roles: list[dict[str, str]]
) -> None:
    server, admin = guarded
    admin.admin.command("createUser", user, pwd=PASSWORD, roles=roles)
    uri = server.uri.replace("mongodb://", f"mongodb://{user}:{PASSWORD}@")
    uri = uri.replace("/?", "/shop?authSource=admin&")
    deployment = filled(tmp_path, admin, "shop", uri)
    migrates_up_and_down(deployment, rehearses=user == "atlas")
    admin.drop_database("shop")
    assert {"admin", "shop", "config", "local"} >= set(admin.list_database_names())


def test_unacknowledged_writes_are_refused(tmp_path: Path, project: Project, admin: Client) -> None:
    folder = tmp_path / "matrix"
    folder.mkdir()
    deployment = filled(folder, admin, project.db.name, f"{project.uri}&w=0")
    done = deployment.project.run("up")
    assert done.returncode == 6
    assert "w=0" in done.stdout + done.stderr


def test_one_connection_is_enough_for_all_but_a_dry_run(
    tmp_path: Path, project: Project, admin: Client
) -> None:
    folder = tmp_path / "matrix"
    folder.mkdir()
    deployment = filled(folder, admin, project.db.name, f"{project.uri}&maxPoolSize=1")
    before = deployment.people
    refused = deployment.project.run("up", "--dry-run")
    assert refused.returncode == 6
    assert "Set maxPoolSize to 2 or more" in refused.stderr
    for command in (["plan"], ["rehearse"], ["up"], ["status"], ["down", "--steps", "3"]):
        deployment.run(*command)
    assert deployment.people == before
