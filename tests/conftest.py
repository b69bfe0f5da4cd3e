"""What the tests share: a real server over a socket, and a fresh database for each test."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import hypothesis
import pytest
from bson.binary import UUID_SUBTYPE, Binary
from pymongo import MongoClient, common
from pymongo.monitoring import _EventListeners

from flask_migrate_mongo.store import lease

from .golden import Golden, Shop
from .project import Project
from .server.countdown import Countdown
from .server.findings import Conformance
from .server.launcher import TestServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pymongo.database import Database

# A busy machine is no failure.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

APPNAME = f"app{os.environ.get('PYTEST_XDIST_WORKER', '')}"
"""What the application under test calls itself, so that failpoints hit it, not the fixtures and other workers."""


CONFORMANCE = pytest.StashKey[Conformance]()


class Failpoint(Protocol):
    """Makes commands of the application fail: failpoint("insert", errorCode=112)."""

    def __call__(
        self, *commands: str, times: int | None = 1, skip: int = 0, **data: object
    ) -> None:
        """Let the next `times` of these commands fail, or all for None, after `skip` of them.

        With both, the commands to skip are counted in this process: those of others do not count.
        """


def uri_with(uri: str, database: str, *options: str) -> str:
    """Return the URI with a database and options."""
    base, _, rest = uri.partition("?")
    host = base.split("/")[2]
    query = "&".join(part for part in (rest, *options) if part)
    return f"mongodb://{host}/{database}?{query}"


@pytest.fixture(scope="session", autouse=True)
def _impatient_driver() -> Iterator[None]:
    """Let the driver look for a lost server 20 times a second and not twice: faults cost less time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "MIN_HEARTBEAT_INTERVAL", 0.05)
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes golden files."""
    parser.addoption("--write-golden", action="store_true", help="Write the files of tests/golden.")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Check what this process, and each that it starts, sends against what mongod accepts."""
    conformance = session.config.stash[CONFORMANCE] = Conformance()
    session.config.add_cleanup(conformance.stop)


@pytest.fixture(autouse=True)
def _conforms(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test in which a command was sent that mongod refuses, or a new kind of one that few accept."""
    yield
    assert request.config.stash[CONFORMANCE].findings() == []


@pytest.fixture(scope="module")
def unwatched(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let a module send what mongod refuses, because it tests how the server answers."""
    with request.config.stash[CONFORMANCE].suspended():
        yield


@pytest.fixture(scope="session")
def mongo_uri() -> Iterator[str]:
    """A server for all tests: that of MONGO_TEST_URI, a real replica set, or one of our own."""
    if uri := os.environ.get("MONGO_TEST_URI"):
        yield uri
        return
    with TestServer() as server:
        yield server.uri


@pytest.fixture(scope="session")
def standalone_uri() -> Iterator[str]:
    """A server without transactions."""
    with TestServer("--standalone") as server:
        yield server.uri


@pytest.fixture
def durable_server() -> Iterator[TestServer]:
    """A server of this test's own, to be killed: what it acknowledged survives."""
    with TestServer(durable=True) as server:
        yield server


@pytest.fixture(scope="session")
def admin(mongo_uri: str) -> Iterator[MongoClient[dict[str, Any]]]:
    """A client that no failpoint hits."""
    with MongoClient[dict[str, Any]](mongo_uri, appname="fixtures", retryWrites=False) as client:
        # Now its session is known, and is none of those that a test used first.
        client.admin.command("ping")
        yield client


@pytest.fixture
def end_sessions(
    admin: MongoClient[dict[str, Any]], request: pytest.FixtureRequest
) -> Callable[[], None]:
    """End what the processes of this test left open; those of other workers on the server go on."""
    conformance = request.config.stash[CONFORMANCE]
    conformance.sessions()

    # The watch lets only a function of this name end sessions that this process may use.
    def _end_own_statement() -> None:
        ids = [{"id": Binary(session, UUID_SUBTYPE)} for session in conformance.sessions()]
        if ids:
            admin.admin.command("killSessions", ids)

    return _end_own_statement


@pytest.fixture
def db(
    mongo_uri: str, admin: MongoClient[dict[str, Any]], end_sessions: Callable[[], None]
) -> Iterator[Database[dict[str, Any]]]:
    """A fresh database; afterwards no open transaction and no data of this test is left."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    options: dict[str, Any] = {"serverSelectionTimeoutMS": 5_000, "socketTimeoutMS": 20_000}
    with MongoClient[dict[str, Any]](mongo_uri, appname=APPNAME, **options) as client:
        yield client[name]
    # First, because a drop waits for open transactions.
    end_sessions()
    admin.drop_database(name)


@pytest.fixture
def failpoint(
    admin: MongoClient[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Failpoint]:
    """Arm the server's failCommand failpoint, which a server has once: other workers wait for it."""
    countdown = Countdown(admin)
    monkeypatch.setattr(_EventListeners, "publish_command_start", countdown.patched())

    def arm(*commands: str, times: int | None = 1, skip: int = 0, **data: object) -> None:
        hit = {"failCommands": list(commands), "appName": APPNAME, **data}

        def configure(mode: object) -> None:
            admin.admin.command("configureFailPoint", "failCommand", mode=mode, data=hit)

        countdown.stop()
        if skip:
            # A run that is so slow that it asks again whether it still holds the lease sends one more.
            monkeypatch.setattr(lease, "RECENT_SECONDS", 60)
        if times is None:
            configure({"skip": skip} if skip else "alwaysOn")
        elif skip == 0:
            configure({"times": times})
        else:
            countdown.begin(commands, skip, lambda: configure({"times": times}))

    with (Path(tempfile.gettempdir()) / "failpoint.lock").open("w") as lock:
        if os.environ.get("MONGO_TEST_URI"):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield arm
        admin.admin.command("configureFailPoint", "failCommand", mode="off")


@pytest.fixture
def project(tmp_path: Path, db: Database[dict[str, Any]], mongo_uri: str) -> Project:
    """A user's project on a fresh database."""
    return Project(tmp_path, db, uri_with(mongo_uri, db.name, f"appname={APPNAME}"))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """What compares captures with golden files."""
    return Golden(writes=cast("bool", request.config.getoption("--write-golden")))


@pytest.fixture
def shop(golden: Golden, db: Database[dict[str, Any]], mongo_uri: str) -> Iterator[Shop]:
    """A user's project, whose commands run in a terminal."""
    if os.environ.get("MONGO_TEST_URI"):
        pytest.skip("another server has other hosts")
    root = Path(tempfile.mkdtemp(prefix="golden-", dir="/tmp"))
    yield Shop(root, db, uri_with(mongo_uri, db.name), golden)
    shutil.rmtree(root)
