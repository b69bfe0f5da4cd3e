"""What is written waits for a majority, so that a failover cannot undo it, but not for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient

from flask_migrate_mongo.model.errors import ConnectionFailedError

from .test_sessions import Sent

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
