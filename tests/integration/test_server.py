"""What is written waits for a majority, so that a failover cannot undo it, but not for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pymongo
import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from flask_migrate_mongo.model.errors import ConfigurationError, ConnectionFailedError
from tests.sent import Sent

if TYPE_CHECKING:
    from tests.conftest import Failpoint
    from tests.project import Project

OURS = {"w": "majority", "wtimeout": 60_000}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"w": "majority"}),
        ("w=1", {"w": "majority"}),
        ("w=1&journal=true", {"w": "majority", "j": True}),
        ("w=majority&wtimeoutMS=5000", {"w": "majority", "wtimeout": 5_000}),
    ],
)
def test_a_plain_step_writes_to_a_majority(
    project: Project, options: str, expected: dict[str, Any]
) -> None:
    project.write_inserts(1)
    sent = Sent()
    uri = f"{project.uri}&{options}" if options else project.uri
    with MongoClient[dict[str, Any]](uri, event_listeners=[sent]) as client:
        project.db = client[project.db.name]
        project.runner().up()
    (insert,) = sent.of("insert", "done")
    assert insert["writeConcern"] == expected
    ours = sent.of("update") + sent.of("findAndModify") + sent.of("createIndexes")
    assert len(ours) > 3
    assert all(command["writeConcern"] == OURS for command in ours)


def test_a_majority_that_does_not_confirm_is_named(project: Project, failpoint: Failpoint) -> None:
    project.write_inserts(1)
    failpoint(
        "findAndModify",
        times=1,
        writeConcernError={"code": 64, "errmsg": "waiting for replication timed out"},
    )
    with pytest.raises(ConnectionFailedError, match="No majority of the replica set") as raised:
        project.runner().up()
    assert "rs.status()" in str(raised.value)
    assert project.runner().lock() is None


def test_a_server_before_mongodb_5_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write_inserts(1)
    project.runner().status()
    monkeypatch.setattr("flask_migrate_mongo.driver.server.OLDEST_WIRE_VERSION", 1_000)
    with pytest.raises(ConfigurationError, match=r"older than MongoDB 5\.0"):
        project.runner().up()
    assert project.db.list_collection_names() == []


def test_a_refused_kill_is_said_once(
    project: Project, failpoint: Failpoint, caplog: pytest.LogCaptureFixture
) -> None:
    failpoint("killSessions", times=2, errorCode=59)
    server = project.runner().server
    server.kill_session(b"0" * 16)
    server.kill_session(b"1" * 16)
    assert caplog.text.count("could not be killed") == 1


def test_a_transaction_of_a_session_that_cannot_be_killed_is_ended(
    project: Project, failpoint: Failpoint
) -> None:
    failpoint("killSessions", times=1, errorCode=59)
    project.db.people.insert_one({"_id": 1})
    with MongoClient[dict[str, Any]](project.uri) as crashed, crashed.start_session() as session:
        people = crashed[project.db.name].people
        session.start_transaction()
        people.update_one({"_id": 1}, {"$set": {"by": "it"}}, session=session)
        project.runner().server.kill_session(session.session_id["id"])
        with pymongo.timeout(5):
            project.db.people.update_one({"_id": 1}, {"$set": {"by": "the next"}})
        with pytest.raises(OperationFailure):
            session.commit_transaction()
    assert project.db.people.find_one() == {"_id": 1, "by": "the next"}


def test_a_transaction_that_cannot_be_ended_either_hides_no_error(
    project: Project, failpoint: Failpoint, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="flask_migrate_mongo")
    failpoint("killSessions", "find", times=2, errorCode=59)
    project.runner().server.kill_session(b"2" * 16)
    assert "could not be killed" in caplog.text
    assert "could not be ended either" in caplog.text
