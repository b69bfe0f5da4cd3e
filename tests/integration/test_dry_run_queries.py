"""The queries that a dry run sends on its own: none of them fails a step, and none scans a whole collection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from flask_migrate_mongo.dry_run.operations import CommandRequest
from flask_migrate_mongo.model.reports import StepState, Verdict
from tests.content import content
from tests.sent import Sent

if TYPE_CHECKING:
    from flask_migrate_mongo.driver.server import Document
    from flask_migrate_mongo.model.reports import Trial
    from tests.conftest import Failpoint
    from tests.project import Project

NO_DISK = 292
"""QueryExceededMemoryLimitNoDiskUseAllowed."""

INDEX_AFTER_A_WRITE = """
def up(db):
    db.items.insert_one({"x": 1})
    db.items.create_index("x", unique=True)
    db.others.insert_one({})
"""


def trial(project: Project) -> Trial:
    (outcome,) = project.dry_runner().up().outcomes
    assert outcome.error is None, outcome.error
    assert outcome.trial is not None
    return outcome.trial


def test_a_check_for_duplicate_keys_that_the_server_refuses_ends_nothing(
    project: Project, failpoint: Failpoint
) -> None:
    project.db.items.insert_one({"x": 2})
    project.write("1_index", INDEX_AFTER_A_WRITE)
    failpoint("aggregate", times=3, errorCode=NO_DISK)  # The count, and the check in both ways.
    found = trial(project)
    assert (found.verdict, found.reason) == (Verdict.PARTLY, None)
    assert "duplicate keys were not checked: " in found.not_executed[0].detail
    assert found.effects["others"].inserted == 1


@pytest.mark.parametrize("change", ["", "db.items.insert_one({'x': 1});"])
def test_it_checks_for_duplicate_keys_where_allow_disk_use_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    results = CommandRequest.results

    def refuse(request: CommandRequest, command: Document, *, inside: bool = False) -> Any:
        if "allowDiskUse" in command:
            msg = "allowDiskUse is not allowed in this atlas tier"
            raise OperationFailure(msg, 8000, {"errmsg": msg})
        return results(request, command, inside=inside)

    monkeypatch.setattr(CommandRequest, "results", refuse)
    project.db.items.insert_one({"x": 2})
    project.write("1_i", f"def up(db): {change} db.items.create_index('x', unique=True)")
    (index,) = trial(project).not_executed
    assert index.detail == 'x_1 on {"x": 1}; there are no duplicate keys'


def test_an_index_is_reported_to_who_may_not_list_indexes(
    project: Project, failpoint: Failpoint
) -> None:
    project.db.items.insert_one({"x": 2})
    project.write("1_i", "def up(db): db.items.create_index('x', unique=True)")
    failpoint("listIndexes", errorCode=13)
    (index,) = trial(project).not_executed
    assert index.detail == 'x_1 on {"x": 1}; there are no duplicate keys'


def test_no_collection_is_counted_document_by_document(project: Project) -> None:
    project.db.items.insert_many({"x": x} for x in range(10))
    project.write(
        "1_all",
        """
        def up(db):
            db.items.delete_one({"x": 9})
            db.items.update_many({}, {"$set": {"y": 1}})
            db.items.create_index("y")
        """,
    )
    sent = Sent()
    with MongoClient[dict[str, Any]](project.uri, event_listeners=[sent]) as client:
        project.db = client[project.db.name]
        found = trial(project)
    assert found.effects["items"].modified == 9
    assert found.not_executed[0].documents == 9
    names = sent.names()
    assert "count" not in names
    pipelines = [each["pipeline"] for each in sent.commands if "pipeline" in each]
    assert [stages for stages in pipelines if "$group" in stages[-1]] == []


def test_a_filter_that_only_queries_accept_is_counted(project: Project) -> None:
    project.db.places.create_index([("at", "2dsphere")])
    project.db.places.insert_many({"at": {"type": "Point", "coordinates": [n, 0]}} for n in (0, 5))
    project.write(
        "1_near",
        """
        HERE = {"$geometry": {"type": "Point", "coordinates": [0, 0]}, "$maxDistance": 1000}


        def up(db):
            db.places.update_many({"at": {"$near": HERE}}, {"$set": {"here": True}})
        """,
    )
    found = trial(project)
    assert (found.verdict, found.effects["places"].modified) == (Verdict.SUCCEEDS, 1)
    (outcome,) = project.runner().up().outcomes
    assert outcome.state is StepState.APPLIED


@pytest.mark.parametrize("write", ["{'$out': 'copy'}", "{'$merge': 'copy'}"])
def test_what_is_read_outside_of_the_transaction_writes_nothing(
    project: Project, write: str
) -> None:
    project.db.items.insert_one({"x": 2})
    project.write(
        "1_s", f"def up(db): db.items.aggregate([{{'$collStats': {{'count': {{}}}}}}, {write}])"
    )
    before = content(project.db)
    found = trial(project)
    assert content(project.db) == before
    assert [(each.operation, each.documents) for each in found.not_executed] == [
        (write.split("'")[1], 1)
    ]
