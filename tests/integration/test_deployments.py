"""Each command works on each kind of deployment, with the options of connection strings that people use."""

from __future__ import annotations

import re
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask
from pymongo import MongoClient

from flask_migrate_mongo import MongoMigrate
from flask_migrate_mongo.interfaces.cli import db_migrate
from flask_migrate_mongo.schema import Collection, Index
from flask_migrate_mongo.schema.live import SchemaReader
from tests.project import ROOT, Project
from tests.server import mongod
from tests.server.launcher import TestServer
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from click.testing import Result

    from tests.conftest import Failpoint

Client = MongoClient[dict[str, Any]]

PASSWORD = "correct-horse"
DOCUMENTS = 100
DECLARED = [Collection("people", indexes=[Index("name", why="search by name")])]

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
    ctx.backfill("people", {"$inc": {"n": 1}}, workers=4, batch_size=20)

def down(db, ctx):
    ctx.backfill("people", {"$inc": {"n": -1}}, workers=4, batch_size=20)
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
SLOW = """
def up(db, ctx):
    ctx.backfill("people", {"$inc": {"n": 1}}, batch_size=2, max_per_second=4)
"""
ADMINISTRATIVE = """
def up(db):
    db.command("collMod", "people", validator={"name": {"$type": "string"}})
    db.people.insert_one({"_id": -1}, bypass_document_validation=True)

def down(db):
    db.people.delete_one({"_id": -1})
    db.command("collMod", "people", validator={})
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
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def people(self) -> list[dict[str, Any]]:
        """The documents that the migrations change."""
        return list(self.admin[self.project.db.name].people.find().sort("_id", 1))

    def run(self, *command: str) -> str:
        """Run a command in this process, with a client that it opens; it ends well."""
        done = self.invoke(*command)
        assert done.exit_code == 0, done.output
        return done.output

    def invoke(self, *command: str) -> Result:
        """Run a command in this process, with a client that it opens."""
        app = Flask("shop", root_path=str(self.project.root))
        app.config.from_mapping(MONGO_URI=self.project.uri, **self.settings)
        MongoMigrate(app)
        return app.test_cli_runner().invoke(args=["db-migrate", *command])


class DeploymentOfProcesses(Deployment):
    """The same, for an `app.py` of the test's own: each command is a process."""

    def run(self, *command: str) -> str:
        """Run a command in a process of its own; it ends well."""
        done = self.project.run(*command, **self.settings)
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
        "timeoutMS=2000",
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
    deployment = DeploymentOfProcesses(
        filled(folder, admin, project.db.name, project.uri).project, admin
    )
    (folder / "app.py").write_text(STRICT_APP, encoding="utf-8")
    for works in (looks, rehearses, migrates, needs_no_server):
        works(deployment)


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
        assert "standalone" in deployment.invoke("up", "--dry-run").output
        deployment.run("rehearse")
        deployment.run("up")
        assert [each["n"] for each in deployment.people] == [1] * DOCUMENTS
        deployment.run("down", "--steps", "2")
        assert deployment.people == before
        admin.drop_database("shop")


def test_a_server_with_the_name_of_a_set_and_no_transactions(tmp_path: Path) -> None:
    if mongod.executable():
        pytest.skip("a MongoDB has transactions")
    with TestServer(transactions=False) as server, Client(server.uri) as admin:
        deployment = filled(tmp_path, admin, "shop", server.uri.replace("/?", "/shop?"))
        refused = deployment.invoke("up")
        assert refused.exit_code == 5, refused.output
        assert "it refuses them: no such command: 'commitTransaction'" in refused.output
        assert admin.shop.visits.count_documents({}) == 0
        deployment.run("up", "--to", "2")
        assert [each["n"] for each in deployment.people] == [1] * DOCUMENTS


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


# --- the least rights

NOWHERE = "mongodb://127.0.0.1:1/shop"


def needs_no_server(on: Deployment) -> None:
    on.run("lint", "--fail-on", "error")
    on.run("create", "more")
    on.run("squash", "1", "2", "both")


def looks(on: Deployment) -> None:
    for command in ("status", "plan", "history", "lock-status"):
        on.run(command)
    on.run("check", "--allow", "pending")
    on.run("show", "1", "--source")
    on.run("schema", "dump")
    on.settings["MIGRATE_SCHEMA"] = f"{__name__}:DECLARED"
    on.run("create", "--from-schema", "indexed")
    next(on.project.migrations.glob("*_indexed.py")).unlink()
    del on.settings["MIGRATE_SCHEMA"]


def examines(on: Deployment) -> None:
    on.run("doctor")


def migrates(on: Deployment) -> None:
    migrates_up_and_down(on, rehearses=False)
    on.project.write("4_slow", SLOW)
    shop = on.admin[on.project.db.name]
    with on.project.spawn("up", **on.settings) as run:
        until(lambda: shop.people.find_one({"n": 2}))
        for command in ("pause", "resume", "cancel"):
            on.run(command)
        run.communicate(timeout=30)
    with on.project.spawn("up", **on.settings) as run:
        until(lambda: shop.migration_locks.find_one({"locked": True}))
        run.send_signal(signal.SIGKILL)
    on.run("force-unlock", "--confirm")
    on.run("resolve", "4", "--applied", "--reason", "looked at it")
    on.project.write("5_last", "def up(db): pass\ndef down(db): pass\n")
    on.run("baseline", "--reason", "restored")
    on.run("redo", "5")
    on.run("renumber", "5")
    shop.changelog.insert_one({"fileName": "5-last.js", "appliedAt": datetime.now(timezone.utc)})
    on.run("import-history", "--from", "migrate-mongo")


def administrates(on: Deployment) -> None:
    on.project.write("4_administrative", ADMINISTRATIVE)
    on.run("up")
    on.run("down", "--steps", "4")


def rehearses(on: Deployment) -> None:
    on.run("rehearse")


def rehearses_in_a_database_of_the_settings(on: Deployment) -> None:
    on.settings["MIGRATE_REHEARSAL_DATABASE"] = "shop_rehearsal"
    on.run("rehearse")


def rehearses_what_administrates(on: Deployment) -> None:
    on.project.write("4_administrative", ADMINISTRATIVE)
    on.run("rehearse")


@dataclass(frozen=True)
class Row:
    """A row of the table of docs/compatibility.md, and what shows that it is true."""

    commands: str
    roles: str
    granted: tuple[tuple[str, str], ...]
    works: Callable[[Deployment], None]
    too_little: tuple[tuple[str, str], ...] = ()
    """Roles with which it does not work."""


READ, WRITE, ADMINISTRATE = ("read", "shop"), ("readWrite", "shop"), ("dbAdmin", "shop")
WRITE_ANY, ADMINISTRATE_ANY = ("readWriteAnyDatabase", "admin"), ("dbAdminAnyDatabase", "admin")
SPECIAL = "of a migration with `collMod`, or with `bypass_document_validation`"
ROWS = (
    Row(
        "`create` without `--from-schema`, `lint`, `squash`",
        "none: they do not connect",
        (),
        needs_no_server,
    ),
    Row(
        "`status`, `plan`, `check`, `history`, `lock-status`, `show`, `schema`, `create --from-schema`",
        "`read` on the database",
        (READ,),
        looks,
        (("read", "other"),),
    ),
    Row("`doctor`", "any: it names the rights that the user lacks", (READ,), examines),
    Row(
        "`up`, `down`, `pause`, `resume`, `cancel`, `redo`, `force-unlock`, `resolve`, `baseline`, `renumber`, `import-history`, and dry runs of `up` and `down`",
        "`readWrite` on the database",
        (WRITE,),
        migrates,
        (READ,),
    ),
    Row(
        f"`up` and `down` {SPECIAL}",
        "`readWrite` and `dbAdmin` on the database",
        (WRITE, ADMINISTRATE),
        administrates,
        (WRITE,),
    ),
    Row(
        "`rehearse` with `MIGRATE_REHEARSAL_DATABASE`",
        "`readWrite` on the database and on that database",
        (WRITE, ("readWrite", "shop_rehearsal")),
        rehearses_in_a_database_of_the_settings,
        (WRITE,),
    ),
    Row("`rehearse`", "`readWriteAnyDatabase`", (WRITE_ANY,), rehearses, (WRITE,)),
    Row(
        f"`rehearse` {SPECIAL}",
        "`readWriteAnyDatabase` and `dbAdminAnyDatabase`",
        (WRITE_ANY, ADMINISTRATE_ANY),
        rehearses_what_administrates,
        (WRITE_ANY,),
    ),
)


@pytest.fixture
def as_user(
    tmp_path: Path, guarded: tuple[TestServer, Client]
) -> Iterator[Callable[[tuple[tuple[str, str], ...]], Deployment]]:
    """Fill the database `shop`, for a user with certain roles and no others to migrate it."""
    server, admin = guarded

    def fill(roles: tuple[tuple[str, str], ...]) -> Deployment:
        granted = [{"role": role, "db": database} for role, database in roles]
        admin.admin.command("createUser", "migrations", pwd=PASSWORD, roles=granted)
        deployment = filled(tmp_path, admin, "shop", NOWHERE)
        uri = server.uri.replace("mongodb://", f"mongodb://migrations:{PASSWORD}@")
        named = uri.replace("/?", "/shop?authSource=admin&")
        deployment.settings["MIGRATE_MONGO_URI"] = named if roles else NOWHERE
        return deployment

    yield fill
    admin.admin.command("dropUser", "migrations")
    for name in set(admin.list_database_names()) - {"admin", "config", "local"}:
        admin.drop_database(name)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.works.__name__)
def test_these_roles_are_enough(
    as_user: Callable[[tuple[tuple[str, str], ...]], Deployment], row: Row
) -> None:
    deployment = as_user(row.granted)
    row.works(deployment)
    assert not [name for name in deployment.admin.list_database_names() if "rehearsal" in name]


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.too_little], ids=lambda row: row.works.__name__
)
def test_fewer_roles_are_not_enough(
    as_user: Callable[[tuple[tuple[str, str], ...]], Deployment], row: Row
) -> None:
    deployment = as_user(row.too_little)
    with pytest.raises(AssertionError, match=r"(?i)not authorized|refused access"):
        row.works(deployment)


def test_who_may_not_see_operations_sees_a_build_without_its_progress(
    as_user: Callable[[tuple[tuple[str, str], ...]], Deployment],
) -> None:
    deployment = as_user((READ,))
    shop = deployment.admin["shop"]

    def hang(mode: str) -> None:
        shop.client.admin.command("configureFailPoint", "hangAfterStartingIndexBuild", mode=mode)

    hang("alwaysOn")
    with (
        ThreadPoolExecutor(1) as pool,
        Client(deployment.settings["MIGRATE_MONGO_URI"]) as user,
    ):
        try:
            pool.submit(shop.people.create_index, "name")
            own, all_seeing = SchemaReader(user["shop"]), SchemaReader(shop)
            until(lambda: any(each.building for each in all_seeing.indexes("people")))
            assert all_seeing.builds(own.read()) == {"people": (0, DOCUMENTS)}
            assert own.builds(own.read()) == {}
        finally:
            hang("off")


def test_the_table_of_rights_says_what_was_tested_for_each_command() -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    table = text.partition("| command | roles |\n|---|---|\n")[2].partition("\n\n")[0]
    assert table.splitlines() == [f"| {row.commands} | {row.roles} |" for row in ROWS]
    assert set(db_migrate.list_commands(None)) <= set(re.findall("`([a-z-]+)`", table))  # type: ignore[arg-type]


def test_unacknowledged_writes_are_refused(tmp_path: Path, project: Project, admin: Client) -> None:
    folder = tmp_path / "matrix"
    folder.mkdir()
    deployment = filled(folder, admin, project.db.name, f"{project.uri}&w=0")
    done = deployment.invoke("up")
    assert done.exit_code == 6
    assert "w=0" in done.output


def test_one_connection_is_enough_for_all_but_a_dry_run(
    tmp_path: Path, project: Project, admin: Client
) -> None:
    folder = tmp_path / "matrix"
    folder.mkdir()
    deployment = filled(folder, admin, project.db.name, f"{project.uri}&maxPoolSize=1")
    before = deployment.people
    refused = deployment.invoke("up", "--dry-run")
    assert refused.exit_code == 6
    assert "Set maxPoolSize to 2 or more" in refused.stderr
    for command in (["plan"], ["rehearse"], ["up"], ["status"], ["down", "--steps", "3"]):
        deployment.run(*command)
    assert deployment.people == before
