"""Backfills on servers that elect a primary, limit transactions and cursors, or refuse a command."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, BulkWriteError, OperationFailure

from flask_migrate_mongo.backfill import executors
from flask_migrate_mongo.driver import transactions
from flask_migrate_mongo.driver.server import Server, translated
from flask_migrate_mongo.model.errors import LeaseLostError
from tests.integration.test_backfill import FORMS, VERSION, counts, up, values
from tests.sent import Sent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask_migrate_mongo.model.reports import RunReport
    from tests.conftest import Failpoint
    from tests.project import Project

PEOPLE = 40

SOURCE = """
from dataclasses import asdict


def up(db, ctx):
    hook = ctx.app.config.get("HOOK", lambda doc: None)

    def increment(doc):
        hook(doc)
        return {{"$inc": {{"n": 1}}}}

    ctx.app.config.get("BEFORE", lambda: None)()
    done = ctx.backfill("people", {change}, batch_size={batch}, workers={workers})
    db.results.insert_one(asdict(done))


def down(db, ctx):
    ctx.backfill("people", {{"$inc": {{"n": -1}}}}, workers={workers})
"""


def prepare(
    project: Project, change: str = "increment", *, workers: int = 1, batch: int = 5
) -> None:
    project.write(
        f"{VERSION}_increment", SOURCE.format(change=change, workers=workers, batch=batch)
    )
    project.db.people.insert_many([{"_id": n} for n in range(PEOPLE)])


@pytest.fixture
def heard(project: Project) -> Iterator[tuple[MongoClient[dict[str, Any]], Sent]]:
    """A client of the project's server, and the commands that it sends."""
    commands = Sent()
    with MongoClient[dict[str, Any]](project.uri, event_listeners=[commands]) as client:
        yield client, commands


def run(project: Project, client: MongoClient[dict[str, Any]], **settings: object) -> RunReport:
    return project.runner(client[project.db.name], **settings).up()


# --- sessions


def sessions(project: Project) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {"done": [], "first": []}
    for each in project.db["migrations.ranges"].find():
        found[each["state"]["phase"]].append(each["session"])
    return found


def test_a_finished_range_has_no_session_that_a_later_run_could_kill(
    project: Project, heard: tuple[MongoClient[dict[str, Any]], Sent]
) -> None:
    client, commands = heard
    prepare(project, workers=2)
    seen: list[dict[str, list[object]]] = []

    def fail_last(doc: Any) -> None:
        while doc["_id"] == PEOPLE - 1 and not sessions(project)["done"]:
            pass
        if doc["_id"] == PEOPLE - 1:
            seen.append(sessions(project))
            msg = "not yet"
            raise ValueError(msg)

    assert len(run(project, client, HOOK=fail_last).failures) == 1
    ((finished,), (working,)) = seen[0]["done"], seen[0]["first"]
    assert finished is None
    assert working is not None
    assert sessions(project) == {"done": [None], "first": [None]}

    def look(doc: Any) -> None:
        if doc["_id"] == PEOPLE - 1:
            time.sleep(0.2)  # The other range, which is done, has had its worker.
            seen.append(sessions(project))

    assert run(project, client, HOOK=look).failures == ()
    assert seen[1]["done"] == [None]
    assert values(project) == [1] * PEOPLE
    assert commands.of("killSessions") == []


def test_a_worker_does_not_kill_its_own_session(
    project: Project,
    heard: tuple[MongoClient[dict[str, Any]], Sent],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, commands = heard
    prepare(project, workers=2)
    begin = executors._begin
    lost: list[bytes | None] = []

    def lossy(*arguments: Any) -> bytes | None:
        before = begin(*arguments)
        if not lost:
            lost.append(before)
            with translated():
                msg = "the reply was lost"
                raise AutoReconnect(msg)
        return before

    monkeypatch.setattr(executors, "_begin", lossy)
    assert run(project, client).failures == ()
    assert lost == [None]
    assert values(project) == [1] * PEOPLE
    assert commands.of("killSessions") == []


# --- limits of transactions


def limited(monkeypatch: pytest.MonkeyPatch, code: int, most: int) -> list[int]:
    """Refuse each bulk of more documents than a limit; return the sizes of all bulks."""
    sizes: list[int] = []
    bulk_update = Server.bulk_update

    def refuse(*arguments: Any, **options: Any) -> tuple[int, int]:
        sizes.append(len(arguments[2]))
        if sizes[-1] > most:
            labels = ["TransientTransactionError"] if code in {112, 251} else []
            raise OperationFailure("no", code, {"code": code, "errorLabels": labels})
        return bulk_update(*arguments, **options)

    monkeypatch.setattr(Server, "bulk_update", refuse)
    return sizes


@pytest.mark.parametrize(("code", "tries"), [(112, 3), (251, 3), (290, 1), (388, 1)])
def test_a_batch_that_is_too_large_for_the_server_is_halved(
    project: Project, monkeypatch: pytest.MonkeyPatch, code: int, tries: int
) -> None:
    monkeypatch.setattr(transactions, "RETRY_SECONDS", 2)
    prepare(project, batch=20)
    sizes = limited(monkeypatch, code, 5)
    up(project)
    assert values(project) == [1] * PEOPLE
    assert counts(project)["modified"] == PEOPLE
    assert Counter(sizes) == {20: 2 * tries, 10: 4 * tries, 5: 8}


@pytest.mark.parametrize("command", ["update", "findAndModify"])
def test_a_batch_that_is_too_large_for_the_cache_continues(
    project: Project, failpoint: Failpoint, command: str
) -> None:
    prepare(project)
    armed: list[int] = []

    def arm(doc: Any) -> None:
        if doc["_id"] == 12:
            armed.append(12)
            failpoint(command, times=1, errorCode=388)

    up(project, HOOK=arm)
    assert armed == [12]
    assert values(project) == [1] * PEOPLE
    assert counts(project)["modified"] == PEOPLE


def test_a_document_that_alone_is_too_large_stops_the_backfill(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(project, batch=2)
    sizes = limited(monkeypatch, 388, 0)
    (failure,) = project.runner().up().failures
    assert failure.error is not None
    assert sizes == [2, 1]
    assert values(project) == [None] * PEOPLE


# --- elections

ELECTION = [91, 189, 10107, 11600, 11602, 13435]


@pytest.mark.parametrize(
    "fault", [*({"errorCode": code} for code in ELECTION), {"closeConnection": True}], ids=str
)
def test_an_election_while_the_ranges_are_deleted_is_waited_for(
    project: Project, failpoint: Failpoint, fault: dict[str, Any]
) -> None:
    prepare(project, workers=2)

    def arm(doc: Any) -> None:
        if doc["_id"] == PEOPLE - 1:
            failpoint("delete", times=2, **fault)

    up(project, HOOK=arm)
    assert values(project) == [1] * PEOPLE
    assert project.db["migrations.ranges"].count_documents({}) == 0


@pytest.mark.parametrize(
    "command",
    ["listCollections", "aggregate", "delete", "insert", "update", "find", "findAndModify"],
)
@pytest.mark.parametrize("code", [91, 11602])
def test_an_election_while_a_backfill_with_workers_begins_is_waited_for(
    project: Project, failpoint: Failpoint, command: str, code: int
) -> None:
    prepare(project, workers=2)
    up(project, BEFORE=lambda: failpoint(command, times=2, errorCode=code))
    assert values(project) == [1] * PEOPLE
    assert counts(project)["modified"] == PEOPLE


@pytest.mark.parametrize("command", ["find", "findAndModify", "update"])
def test_an_election_while_a_backfill_resumes_is_waited_for(
    project: Project, failpoint: Failpoint, command: str
) -> None:
    prepare(project, workers=2)

    def fail(doc: Any) -> None:
        if doc["_id"] in {12, 32}:
            msg = "not yet"
            raise ValueError(msg)

    assert len(project.runner(HOOK=fail).up().failures) == 1
    up(project, BEFORE=lambda: failpoint(command, times=2, errorCode=11602))
    assert values(project) == [1] * PEOPLE
    assert counts(project)["modified"] == PEOPLE


@pytest.mark.parametrize("command", ["find", "findAndModify"])
def test_an_election_while_the_workers_are_polled_is_waited_for(
    project: Project, failpoint: Failpoint, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(executors, "CHECK_SECONDS", 0.01)
    prepare(project, workers=2)
    armed: list[int] = []

    def arm(doc: Any) -> None:
        if doc["_id"] % 10 == 7:
            armed.append(doc["_id"])
            failpoint(command, times=2, errorCode=11602)

    up(project, HOOK=arm)
    assert len(armed) == 4
    assert values(project) == [1] * PEOPLE


def test_a_run_that_loses_its_lease_while_it_waits_repeats_nothing(
    project: Project, failpoint: Failpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "RETRY_SECONDS", 60)
    prepare(project, workers=2)
    another = {"$set": {"runId": "another"}}
    steal = threading.Timer(1, lambda: project.db.migration_locks.update_one({}, another))

    def arm(doc: Any) -> None:
        if doc["_id"] == PEOPLE - 1:
            failpoint("delete", times=10_000, errorCode=11602)
            steal.start()

    began = time.monotonic()
    report = project.runner(HOOK=arm, MIGRATE_LOCK_TTL=2).up()
    assert time.monotonic() - began < 40
    steal.join()
    assert isinstance(report.error, LeaseLostError)
    assert project.db["migrations.ranges"].count_documents({}) == 2


# --- cursors


@pytest.mark.parametrize("change", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("code", [43, 50, 175, 237, 11601])
def test_a_cursor_that_the_server_ends_is_opened_again(
    project: Project, failpoint: Failpoint, change: str, code: int
) -> None:
    prepare(project, change)
    up(project, BEFORE=lambda: failpoint("getMore", times=1, errorCode=code))
    assert values(project) == [1] * PEOPLE
    assert counts(project)["scanned"] == PEOPLE


def test_a_query_that_ends_before_its_first_batch_stops_the_backfill(
    project: Project, failpoint: Failpoint
) -> None:
    prepare(project)

    def arm(doc: Any) -> None:
        if doc["_id"] == 12:
            failpoint("getMore", "find", times=2, errorCode=50)

    (failure,) = project.runner(HOOK=arm).up().failures
    assert failure.error is not None
    assert failure.error.type == "ExecutionTimeout"
    assert values(project) == [1] * 15 + [None] * 25
    up(project)
    assert values(project) == [1] * PEOPLE


# --- refused commands


class Encrypter:
    """Encrypts nothing, in the place of the driver's automatic encryption, which needs a library."""

    _bypass_auto_encryption = False

    def encrypt(self, _: str, command: Any, __: Any) -> Any:
        return command

    def decrypt(self, response: bytes) -> bytes:
        return response

    def close(self) -> None:
        """Close nothing."""


@pytest.mark.parametrize("change", FORMS.values(), ids=FORMS)
def test_a_client_with_automatic_encryption(project: Project, change: str) -> None:
    prepare(project, change, batch=7)
    encrypting: Any = project.db.client
    encrypting._encrypter = Encrypter()
    with pytest.raises(Exception, match="does not support auto encryption"):
        project.db.people.find_raw_batches()
    up(project)
    assert values(project) == [1] * PEOPLE
    assert counts(project)["scanned"] == PEOPLE
    encrypting._encrypter = None


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_refuses_count_to_a_client_with_strict_api_version_1(
    project: Project, failpoint: Failpoint, workers: int
) -> None:
    prepare(project, workers=workers)
    failpoint("count", times=1_000, errorCode=323)
    up(project)
    assert values(project) == [1] * PEOPLE
    assert project.runner().down().failures == ()
    assert values(project) == [0] * PEOPLE


def test_a_server_without_coll_stats_counts_with_count(
    project: Project, failpoint: Failpoint
) -> None:
    prepare(project)
    totals: list[int] = []

    def look(_: Any) -> None:
        calls = project.record(VERSION)["metadata"]["checkpoint"]["calls"]
        totals.append(calls["0"]["total"])

    up(project, BEFORE=lambda: failpoint("aggregate", times=1, errorCode=40324), HOOK=look)
    assert set(totals) == {PEOPLE}


def test_own_writes_do_not_wait_forever_for_a_majority(
    project: Project, heard: tuple[MongoClient[dict[str, Any]], Sent]
) -> None:
    client, commands = heard
    prepare(project, workers=2)
    assert run(project, client).failures == ()
    own = [
        each
        for name in ("insert", "update", "delete", "findAndModify")
        for each in commands.of(name)
        if each[name] == "migrations.ranges" and "autocommit" not in each
    ]
    assert len(own) > 5
    limited = {"w": "majority", "wtimeout": 60_000}
    assert [each for each in own if each["writeConcern"] != limited] == []


# --- shard keys


def test_a_change_of_the_shard_key_stops_at_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(project, FORMS["an update"])
    tries: list[int] = []
    text = "Multi-update operations are not allowed when updating the shard key field."

    def refuse(*arguments: Any, **_: Any) -> tuple[int, int]:
        tries.append(len(arguments))
        raise BulkWriteError({"writeErrors": [{"code": 72, "errmsg": text, "index": 0}]})

    monkeypatch.setattr(Server, "bulk_update", refuse)
    (failure,) = project.runner().up().failures
    assert failure.error is not None
    assert failure.error.type == "BackfillError"
    assert re.search(r"shard key.*update_one\(\)", failure.error.message, re.DOTALL)
    assert len(tries) == 1


@pytest.mark.parametrize(("batch", "multi"), [(1, False), (5, True)])
def test_one_document_is_not_updated_with_multi(
    project: Project,
    heard: tuple[MongoClient[dict[str, Any]], Sent],
    batch: int,
    *,
    multi: bool,
) -> None:
    client, commands = heard
    prepare(project, FORMS["an update"], batch=batch)
    assert run(project, client).failures == ()
    updates = commands.of("update", "people")
    assert {bool(each["updates"][0]["multi"]) for each in updates} == {multi}
