"""The JSON documents: their shape is a contract."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from flask_migrate_mongo.interfaces import documents
from flask_migrate_mongo.model import errors
from flask_migrate_mongo.model.reports import Outcome, RunReport, StepState, not_run
from flask_migrate_mongo.model.values import (
    Direction,
    Entry,
    ErrorInfo,
    Event,
    Status,
    StatusReport,
    Survey,
)
from flask_migrate_mongo.planning.plans import survey

from .given import NOW, a_dry_run, a_file, a_lock, a_record, a_step, recorded

SAME = "2026-11-22T10:30:05.123Z"
ERROR = ErrorInfo("ValueError", "no such city", "Traceback ...")
ERROR_DOCUMENT = {"type": "ValueError", "message": "no such city", "traceback": "Traceback ..."}
LOCK = {
    "lockedBy": "anna@web-1:4711",
    "host": "web-1",
    "pid": 4711,
    "runId": "f00d",
    "reason": "up",
    "fence": 7,
    "lockedAt": "2026-11-22T10:28:35.123Z",
    "heartbeatAt": "2026-11-22T10:29:35.123Z",
    "expiresAt": "2026-11-22T11:00:05.123Z",
    "expired": False,
}


def same_as_json(document: object) -> bool:
    """Whether JSON keeps the document as it is, with nothing to convert."""
    return bool(json.loads(json.dumps(document)) == document)


# --- status


def everything() -> StatusReport:
    files = [
        a_file(1),
        a_file(2, checksum="other"),
        a_file(4, reversible=False),
        a_file(5, transactional=True),
        a_file(6),
        a_file(7),
    ]
    history = recorded(
        a_record(1, applied_at=NOW, execution_ms=12, batch=1),
        a_record(2, applied_at=NOW, execution_ms=0, batch=2),
        a_record(3, applied_at=NOW, batch=3),
        a_record(4, Status.FAILED, error=ERROR),
        a_record(6, Status.RUNNING, direction=Direction.DOWN, batch=1),
    )
    return StatusReport(survey(files, history), a_lock(), ("8_old.js",))


def test_the_status_document_is_that_of_the_contract() -> None:
    document = documents.status(everything())
    applied = {
        "version": "1",
        "name": "change 1",
        "reversible": True,
        "appliedAt": SAME,
        "executionTime": 12,
        "batch": 1,
        "drifted": False,
        "missing": False,
    }
    changed = {"version": "2", "name": "change 2", "executionTime": 0, "batch": 2, "drifted": True}
    gone = {"version": "3", "name": "change 3", "executionTime": None, "batch": 3, "missing": True}
    waiting = {"reversible": True, "transactional": False, "outOfOrder": True}
    assert document == {
        "applied": [applied, applied | changed, applied | gone],
        "pending": [
            {"version": "5", "name": "change 5", **waiting, "transactional": True},
            {"version": "7", "name": "change 7", **waiting, "outOfOrder": False},
        ],
        "failed": [
            {
                "version": "4",
                "name": "change 4",
                **waiting,
                "reversible": False,
                "error": ERROR_DOCUMENT,
            }
        ],
        "running": [{"version": "6", "name": "change 6", "reversible": True, "direction": "down"}],
        "locked": LOCK,
        "summary": {
            "total": 7,
            "applied": 3,
            "pending": 2,
            "failed": 1,
            "running": 1,
            "drifted": 1,
            "missing": 1,
            "outOfOrder": 2,
        },
        "ignored": ["8_old.js"],
    }
    assert same_as_json(document)


def test_the_status_of_an_empty_project_has_every_part() -> None:
    document = documents.status(StatusReport(survey([], recorded()), None))
    assert document["locked"] is None
    assert set(document["summary"].values()) == {0}
    assert [document[part] for part in ("applied", "pending", "failed", "running")] == [[]] * 4


def test_a_lock_that_expired_locks_nothing() -> None:
    report = replace(everything(), lock=a_lock(expires_in=-1))
    assert documents.status(report)["locked"] is None


def test_what_failed_and_lost_its_file_is_in_the_status_too() -> None:
    lost = survey([], recorded(a_record(1, Status.FAILED, error=ERROR)))
    (failed,) = documents.status(StatusReport(lost, None))["failed"]
    assert (failed["name"], failed["error"], failed["transactional"]) == (
        "change 1",
        ERROR_DOCUMENT,
        False,
    )


def test_an_entry_without_a_record_has_nulls_where_nothing_is_known() -> None:
    bare = Entry(1, a_file(1), None)
    document = documents.status(StatusReport(Survey((bare,), (), (bare,), (bare,)), None))
    assert [document["applied"][0][key] for key in ("appliedAt", "executionTime", "batch")] == [
        None
    ] * 3
    assert document["failed"][0]["error"] is None
    assert document["running"][0]["direction"] is None


def test_what_another_tool_applied_has_no_batch() -> None:
    found = survey([a_file(1)], recorded(a_record(1, batch=0)))
    (applied,) = documents.status(StatusReport(found, None))["applied"]
    assert applied["batch"] is None


# --- history and trail


def test_a_record_in_the_history_has_the_fields_of_the_contract() -> None:
    record = a_record(
        20261122001,
        Status.ROLLED_BACK,
        description="Why.",
        applied_at=NOW,
        rolled_back_at=NOW + timedelta(seconds=1),
        updated_at=NOW + timedelta(seconds=2),
        execution_ms=1234,
        error=ERROR,
        batch=3,
    )
    document = documents.history([record])
    assert document == {
        "history": [
            {
                "version": "20261122001",
                "name": "change 20261122001",
                "description": "Why.",
                "status": "rolled-back",
                "appliedAt": SAME,
                "rolledBackAt": "2026-11-22T10:30:06.123Z",
                "executionTime": 1234,
                "error": ERROR_DOCUMENT,
                "reversible": True,
                "batch": 3,
                "updatedAt": "2026-11-22T10:30:07.123Z",
            }
        ]
    }
    assert same_as_json(document)


def test_what_never_happened_is_null_in_the_history() -> None:
    (record,) = documents.history([a_record(1, Status.PENDING)])["history"]
    absent = ("appliedAt", "rolledBackAt", "executionTime", "error", "batch", "updatedAt")
    assert {record[key] for key in absent} == {None}


def test_an_event_has_its_details_beside_version_kind_time_and_error() -> None:
    details = {"direction": "up", "by": "anna@web-1:4711", "executionTime": 5, "runId": "f00d"}
    trail = [Event("failed", NOW, 7, details, ERROR), Event("unlocked", NOW, None, {})]
    document = documents.events(trail)
    assert document == {
        "events": [
            {"version": "7", "event": "failed", "at": SAME, **details, "error": ERROR_DOCUMENT},
            {"version": None, "event": "unlocked", "at": SAME, "error": None},
        ]
    }
    assert list(document["events"][0])[:3] == ["version", "event", "at"]
    assert same_as_json(document)


def test_a_detail_of_an_event_replaces_none_of_its_own_fields_and_can_be_a_time() -> None:
    details = {"version": 9, "error": "x", "startedAt": NOW}
    (event,) = documents.events([Event("started", NOW, 7, details)])["events"]
    assert event == {
        "version": "7",
        "event": "started",
        "at": SAME,
        "startedAt": SAME,
        "error": None,
    }


# --- the lock


def test_the_lock_has_the_fields_of_the_contract() -> None:
    assert documents.lock(a_lock()) == LOCK
    assert documents.lock(None) is None
    assert same_as_json(LOCK)


def test_the_lock_status_says_whether_anyone_is_held_off() -> None:
    assert documents.lock_status(None) == {"locked": False, "lock": None}
    assert documents.lock_status(a_lock()) == {"locked": True, "lock": LOCK}
    expired = documents.lock_status(a_lock(expires_in=0))
    assert (expired["locked"], expired["lock"]["expired"]) == (False, True)


def test_a_release_says_whose_lock_it_was() -> None:
    assert documents.released(a_lock()) == {"released": LOCK}
    assert documents.released(None) == {"released": None}


# --- runs


def test_a_run_says_what_became_of_every_step() -> None:
    outcomes = (
        Outcome(a_step(1, transactional=True), StepState.APPLIED, 12),
        Outcome(
            replace(a_step(2, reversible=False), out_of_order=True), StepState.FAILED, 3, ERROR
        ),
        *not_run([a_step(3)]),
    )
    report = RunReport(
        Direction.UP, outcomes, executed=True, run_id="f00d", batch=4, warnings=("Look.",)
    )
    document = documents.run(report)
    last = {
        "version": "3",
        "name": "change 3",
        "state": "not-run",
        "executionTime": None,
        "transactional": False,
        "reversible": True,
        "outOfOrder": False,
        "error": None,
    }
    failed = {"version": "2", "name": "change 2", "state": "failed", "executionTime": 3}
    first = {"version": "1", "name": "change 1", "state": "applied", "executionTime": 12}
    assert document == {
        "direction": "up",
        "executed": True,
        "dryRun": False,
        "runId": "f00d",
        "batch": 4,
        "steps": [
            last | first | {"transactional": True},
            last | failed | {"reversible": False, "outOfOrder": True, "error": ERROR_DOCUMENT},
            last,
        ],
        "warnings": ["Look."],
        "error": None,
    }
    assert same_as_json(document)


def test_a_dry_run_says_of_each_step_what_it_would_do() -> None:
    document = documents.run(a_dry_run("goods"))
    assert (document["executed"], document["dryRun"], document["batch"]) == (True, True, None)
    first, last = document["steps"]
    told = ("verdict", "reason", "effects", "notExecuted", "samples")
    assert {key: first[key] for key in told} == {
        "verdict": "would fail",
        "reason": None,
        "effects": {
            "goods": {"inserted": 1, "matched": 2000, "modified": 3, "deleted": 4, "upserted": 5}
        },
        "notExecuted": [
            {
                "operation": "createIndexes",
                "collection": "goods",
                "documents": 3,
                "detail": "goods",
                "violations": [{"key": {"a": 1}, "count": 2}],
            },
            {"operation": "drop", "collection": "goods", "documents": None, "detail": ""},
        ],
        "samples": [
            {"collection": "goods", "id": 7, "before": {"goods": 1}, "after": {"goods": "goods"}},
            {"collection": "goods", "id": 8, "before": None, "after": {"_id": 8}},
        ],
    }
    assert (first["state"], first["executionTime"]) == ("not-run", 250)
    assert (last["verdict"], last["reason"]) == ("not executed", "goods would fail before it")
    assert same_as_json(document)


def test_a_plan_that_was_only_looked_at_has_neither_run_nor_batch() -> None:
    document = documents.run(RunReport(Direction.DOWN, not_run([a_step(1)]), executed=False))
    assert (document["direction"], document["executed"]) == ("down", False)
    assert (document["runId"], document["batch"]) == (None, None)


def test_a_run_that_something_ended_carries_the_problem() -> None:
    lost = errors.LeaseLostError("why")
    report = RunReport(Direction.UP, (), executed=True, error=lost)
    assert documents.run(report)["error"] == documents.problem(lost)


# --- problems


def test_a_problem_has_the_fields_of_rfc_9457_and_the_code() -> None:
    document = documents.problem(errors.LockHeldError(a_lock()))
    assert document == {
        "type": "urn:flask-migrate-mongo:lock-held",
        "title": "Somebody else holds the lock.",
        "status": 409,
        "detail": str(errors.LockHeldError(a_lock())),
        "code": "lock-held",
        "lock": documents.lock(a_lock()),
    }
    assert same_as_json(document)


def test_an_error_of_nobodys_is_a_problem_too_without_its_secrets() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise LookupError

    problem = documents.problem(ValueError("mongodb://anna:secret@host"))
    assert (problem["status"], problem["code"]) == (500, "error")
    assert problem["detail"] == "mongodb://***@host"
    assert documents.problem(MuteError())["detail"].startswith("<no message")


def test_an_error_class_of_an_applications_own_without_a_docstring_has_a_title() -> None:
    class OurError(errors.RefusedError):
        code = "ours"

    problem = documents.problem(OurError("no"))
    assert (problem["title"], problem["status"], problem["code"]) == ("OurError", 409, "ours")


# --- times


@pytest.mark.parametrize(
    ("at", "written"),
    [
        (None, None),
        (NOW, SAME),
        (NOW.replace(microsecond=0), "2026-11-22T10:30:05.000Z"),
        (NOW.astimezone(timezone(timedelta(hours=5, minutes=30))), SAME),
        (datetime(1, 1, 1, tzinfo=timezone.utc), "0001-01-01T00:00:00.000Z"),
    ],
)
def test_a_time_is_written_in_utc_to_the_millisecond(
    at: datetime | None, written: str | None
) -> None:
    assert documents.moment(at) == written
