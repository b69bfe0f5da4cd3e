"""The JSON documents: their shape is a contract."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import bson
import pytest

from flask_migrate_mongo.interfaces import schemas
from flask_migrate_mongo.interfaces.schemas import document as dumped
from flask_migrate_mongo.lint.linter import Finding, LintReport
from flask_migrate_mongo.lint.rules import BY_CODE
from flask_migrate_mongo.model import errors
from flask_migrate_mongo.model.reports import (
    EventsReport,
    HistoryReport,
    LockReport,
    Outcome,
    ReleaseReport,
    RequestReport,
    RunReport,
    StepState,
)
from flask_migrate_mongo.model.values import (
    COLUMNS,
    Direction,
    Entry,
    ErrorInfo,
    Event,
    Plan,
    Progress,
    RangeProgress,
    RangeState,
    Status,
    StatusReport,
    Survey,
)
from flask_migrate_mongo.model.wording import cli, rest
from flask_migrate_mongo.planning.plans import survey
from flask_migrate_mongo.planning.preview import PlannedStep, Preview
from flask_migrate_mongo.rehearsal import Attempt, MigrationRehearsal, RehearsalReport
from flask_migrate_mongo.rehearsal.comparison import Difference, Differences
from flask_migrate_mongo.rehearsal.results import Activity, CopiedCollection, Estimate
from flask_migrate_mongo.store.records import read
from flask_migrate_mongo.store.runs import RunState, StoredRun
from tests.commands import all_commands

from .given import LOCATION, NOW, a_dry_run, a_file, a_lock, a_record, a_step, recorded

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


DATABASE = {
    "name": "shop",
    "hosts": ["db1:27017", "db2:27017"],
    "kind": "replica-set",
    "replicaSet": "rs0",
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
    return StatusReport(survey(files, history), a_lock(), ("8_old.js",), database=LOCATION)


def test_the_status_document_is_that_of_the_contract() -> None:
    document = dumped("status", everything())
    applied = {
        "version": "1",
        "name": "change 1",
        "reversible": True,
        "appliedAt": SAME,
        "executionTime": 12,
        "batch": 1,
        "origin": "run",
        "verified": None,
        "downFailed": False,
        "drifted": False,
        "missing": False,
    }
    changed = {"version": "2", "name": "change 2", "executionTime": 0, "batch": 2, "drifted": True}
    gone = {"version": "3", "name": "change 3", "executionTime": None, "batch": 3, "missing": True}
    waiting = {"reversible": True, "transactional": False, "outOfOrder": True}
    assert document == {
        "database": DATABASE,
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
                "interrupted": False,
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
        "problems": [],
    }
    assert same_as_json(document)


def test_the_status_of_an_empty_project_has_every_part() -> None:
    document = dumped("status", StatusReport(survey([], recorded()), None))
    assert document["locked"] is None
    assert set(document["summary"].values()) == {0}
    assert [document[part] for part in ("applied", "pending", "failed", "running")] == [[]] * 4


def test_a_lock_that_expired_locks_nothing() -> None:
    report = replace(everything(), lock=a_lock(expires_in=-1))
    assert dumped("status", report)["locked"] is None


def test_what_failed_and_lost_its_file_is_in_the_status_too() -> None:
    lost = survey([], recorded(a_record(1, Status.FAILED, error=ERROR)))
    (failed,) = dumped("status", StatusReport(lost, None))["failed"]
    assert (failed["name"], failed["error"], failed["transactional"]) == (
        "change 1",
        ERROR_DOCUMENT,
        False,
    )


def test_an_entry_without_a_record_has_nulls_where_nothing_is_known() -> None:
    bare = Entry(1, a_file(1), None)
    document = dumped("status", StatusReport(Survey((bare,), (), (bare,), (bare,)), None))
    assert [document["applied"][0][key] for key in ("appliedAt", "executionTime", "batch")] == [
        None
    ] * 3
    assert document["failed"][0]["error"] is None
    assert document["running"][0]["direction"] is None


def test_what_another_tool_applied_has_no_batch() -> None:
    record = read({"version": "1", "status": "completed", "batch": 0})
    found = survey([a_file(1)], recorded(record))
    (applied,) = dumped("status", StatusReport(found, None))["applied"]
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
    document = dumped("history", HistoryReport((record,), database=LOCATION))
    assert document == {
        "database": DATABASE,
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
                "origin": "run",
                "verified": None,
                "downFailed": False,
            }
        ],
    }
    assert same_as_json(document)


def test_what_never_happened_is_null_in_the_history() -> None:
    (record,) = dumped("history", HistoryReport((a_record(1, Status.PENDING),)))["history"]
    absent = ("appliedAt", "rolledBackAt", "executionTime", "error", "batch", "updatedAt")
    assert {record[key] for key in absent} == {None}


def test_an_event_has_its_details_beside_version_kind_time_and_error() -> None:
    details = {"direction": "up", "by": "anna@web-1:4711", "executionTime": 5, "runId": "f00d"}
    trail = [Event("failed", NOW, 7, details, ERROR), Event("unlocked", NOW, None, {})]
    document = dumped("events", EventsReport(tuple(trail), database=LOCATION))
    assert document == {
        "database": DATABASE,
        "events": [
            {"version": "7", "event": "failed", "at": SAME, **details, "error": ERROR_DOCUMENT},
            {"version": None, "event": "unlocked", "at": SAME, "error": None},
        ],
    }
    assert list(document["events"][0])[:3] == ["version", "event", "at"]
    assert same_as_json(document)


def test_a_detail_of_an_event_replaces_none_of_its_own_fields_and_can_be_a_time() -> None:
    details = {"version": 9, "error": "x", "startedAt": NOW}
    (event,) = dumped("events", EventsReport((Event("started", NOW, 7, details),)))["events"]
    assert event == {
        "version": "7",
        "event": "started",
        "at": SAME,
        "startedAt": SAME,
        "error": None,
    }


# --- the lock


def test_the_lock_has_the_fields_of_the_contract() -> None:
    assert dumped("lock-status", LockReport(a_lock(), database=LOCATION))["lock"] == LOCK
    assert same_as_json(LOCK)


def test_the_lock_status_says_whether_anyone_is_held_off() -> None:
    assert dumped("lock-status", LockReport(None)) == {
        "database": None,
        "locked": False,
        "lock": None,
    }
    assert dumped("lock-status", LockReport(a_lock(), database=LOCATION)) == {
        "database": DATABASE,
        "locked": True,
        "lock": LOCK,
    }
    expired = dumped("lock-status", LockReport(a_lock(expires_in=0)))
    assert (expired["locked"], expired["lock"]["expired"]) == (False, True)


def test_a_release_says_whose_lock_it_was() -> None:
    assert dumped("force-unlock", ReleaseReport(a_lock(), database=LOCATION)) == {
        "database": DATABASE,
        "released": LOCK,
    }
    assert dumped("force-unlock", ReleaseReport(None)) == {"database": None, "released": None}


# --- runs


def test_a_run_says_what_became_of_every_step() -> None:
    outcomes = (
        Outcome(a_step(1, transactional=True), StepState.APPLIED, 12),
        Outcome(
            replace(a_step(2, reversible=False), out_of_order=True), StepState.FAILED, 3, ERROR
        ),
        Outcome(a_step(3)),
    )
    report = RunReport(
        Direction.UP,
        outcomes,
        executed=True,
        run_id="f00d",
        batch=4,
        warnings=("Look.",),
        took_ms=40,
        database=LOCATION,
    )
    document = dumped("up", report)
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
        "database": DATABASE,
        "direction": "up",
        "executed": True,
        "dryRun": False,
        "runId": "f00d",
        "batch": 4,
        "executionTime": 40,
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
    document = dumped("up", a_dry_run("goods"))
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
    document = dumped("up", RunReport(Direction.DOWN, (Outcome(a_step(1)),), executed=False))
    assert (document["direction"], document["executed"]) == ("down", False)
    assert (document["runId"], document["batch"]) == (None, None)


def test_a_run_that_something_ended_carries_the_problem() -> None:
    lost = errors.LeaseLostError("why")
    report = RunReport(Direction.UP, (), executed=True, error=lost)
    assert dumped("up", report)["error"] == dumped("error", lost)


# --- problems


def test_a_problem_has_the_fields_of_rfc_9457_and_the_code() -> None:
    document = dumped("error", errors.LockHeldError(a_lock()))
    assert document == {
        "type": "urn:flask-migrate-mongo:lock-held",
        "title": "Another process holds the lock.",
        "status": 409,
        "detail": str(errors.LockHeldError(a_lock())),
        "code": "lock-held",
        "lock": LOCK,
    }
    assert same_as_json(document)


def test_an_error_of_nobodys_is_a_problem_too_without_its_secrets() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise LookupError

    problem = dumped("error", ValueError("mongodb://anna:secret@host"))
    assert (problem["status"], problem["code"]) == (500, "error")
    assert problem["detail"] == "mongodb://***@host"
    assert dumped("error", MuteError())["detail"].startswith("<no message")


def test_an_error_class_of_an_applications_own_has_the_title_of_its_base() -> None:
    class OurError(errors.RefusedError):
        """Its docstring is no part of an answer."""

        code = "ours"

    problem = dumped("error", OurError("no"))
    title = errors.RefusedError.title
    assert (problem["title"], problem["status"], problem["code"]) == (title, 409, "ours")


def test_a_problem_speaks_the_language_of_the_interface_that_shows_it() -> None:
    drift = errors.DriftError(1, "change", a_file(1).path)
    stopped = RunReport(Direction.DOWN, (), executed=True, error=drift)
    for words, remedy in ((cli, "`flask db-migrate down --"), (rest, "`POST down?")):
        assert remedy in dumped("error", drift, words)["detail"]
        assert remedy in dumped("up", stopped, words)["error"]["detail"]


# --- plans, rehearsals, lint

FINDING = Finding(BY_CODE["MM001"], Path("/shop/1_x.py"), 1, 2, 3, "It waits.", "Wait less.", "up")
FINDING_DOCUMENT = {
    "code": "MM001",
    "severity": FINDING.rule.severity.value,
    "path": "/shop/1_x.py",
    "line": 1,
    "column": 2,
    "endLine": 3,
    "function": "up",
    "message": "It waits.",
    "help": "Wait less.",
}


def test_a_plan_shows_its_steps_and_what_to_know_before() -> None:
    step = replace(a_step(5, idempotent=True), interrupted=True)
    planned = PlannedStep(step, {"goods": 3, "new": None}, complete=True, findings=(FINDING,))
    report = everything()
    plan = Plan(Direction.UP, (step,), ("Look.",))
    assert dumped("plan", Preview(plan, (planned,), report, database=LOCATION)) == {
        "database": DATABASE,
        "direction": "up",
        "steps": [
            {
                "version": "5",
                "name": "change 5",
                "transactional": False,
                "idempotent": True,
                "reversible": True,
                "outOfOrder": False,
                "interrupted": True,
                "recordedOnly": False,
                "collections": [
                    {"collection": "goods", "documents": 3},
                    {"collection": "new", "documents": None},
                ],
                "collectionsComplete": True,
                "findings": [FINDING_DOCUMENT],
            }
        ],
        "drifted": [{"version": "2", "name": "change 2", "reversible": True}],
        "missing": [{"version": "3", "name": "change 3", "reversible": True}],
        "ignored": ["8_old.js"],
        "locked": LOCK,
        "warnings": ["Look."],
    }


def test_a_rehearsal_shows_every_turn_of_every_migration() -> None:
    left = Differences((Difference("goods", "count", "1", "2"),), 4)
    estimate = Estimate(10, 1.2345, 0.5, 3.0)
    up = Attempt(5, activity=Activity(touched={"goods"}, elsewhere={"other"}))
    first = MigrationRehearsal(a_file(1), up, Attempt(6, ERROR), None, left, estimate)
    migrations = (first, MigrationRehearsal(a_file(2)))
    copied = (CopiedCollection("goods", 10, 100),)
    report = RehearsalReport(
        "scratch", migrations, copied, a_lock(), ("old",), ("Look.",), NOW, database=LOCATION
    )
    untouched: dict[str, object] = {
        "version": "2",
        "name": "change 2",
        "transactional": False,
        "reversible": True,
        "digest": a_file(2).digest,
        "failed": False,
        **dict.fromkeys(("up", "down", "again", "undoes", "estimate")),
        "differences": [],
        "differencesTotal": 0,
        "collections": [],
        "elsewhere": [],
    }
    failed = {
        "version": "1",
        "name": "change 1",
        "digest": a_file(1).digest,
        "failed": True,
        "up": {"executionTime": 5, "error": None},
        "down": {"executionTime": 6, "error": ERROR_DOCUMENT},
        "undoes": False,
        "differences": [{"collection": "goods", "what": "count", "before": "1", "after": "2"}],
        "differencesTotal": 4,
        "collections": ["goods"],
        "elsewhere": ["other"],
        "estimate": {
            "documents": 10,
            "executionTime": 1234,
            "lowest": 500,
            "highest": 3000,
            "extrapolated": True,
        },
    }
    assert dumped("rehearse", report) == {
        "database": DATABASE,
        "scratchDatabase": "scratch",
        "rehearsedAt": SAME,
        "copied": [{"collection": "goods", "documents": 10, "of": 100}],
        "migrations": [untouched | failed, untouched],
        "removed": ["old"],
        "locked": LOCK,
        "warnings": ["Look."],
    }


def test_lint_shows_its_findings_and_how_many_there_are() -> None:
    severity = FINDING.rule.severity.value
    summary = {"files": 3, "findings": 1, "errors": 0, "warnings": 0, "infos": 0, "allowed": 1}
    assert dumped("lint", LintReport(3, (FINDING,), (FINDING,))) == {
        "findings": [FINDING_DOCUMENT],
        "summary": summary | {f"{severity}s": 1},
    }


# --- asynchronous runs and backfills


def test_an_asynchronous_run_shows_what_was_stored_of_it() -> None:
    run = StoredRun(
        "a" * 32, "up", {}, RunState.RUNNING, detached=True, created_at=NOW, updated_at=NOW
    )
    document: dict[str, object] = {
        "runId": "a" * 32,
        "direction": "up",
        "dryRun": False,
        "state": "running",
        "detached": True,
        "cancelRequested": False,
        **dict.fromkeys(("current", "report", "error")),
        "steps": [],
        "createdAt": SAME,
        "updatedAt": SAME,
    }
    assert dumped("run", run) == document
    parts: dict[str, Any] = {
        "current": {"version": "1"},
        "report": {"runId": "x"},
        "error": {"code": "x"},
    }
    assert dumped("run", replace(run, **parts)) == document | parts
    assert dumped("run", replace(run, options={"dry_run": True}))["dryRun"] is True
    steps = [{"version": "1", "name": "change 1", "state": "waiting", "executionTime": None}]
    assert [dumped("run-step", a_step(1))] == steps
    assert dumped("run", replace(run, steps=tuple(steps)))["steps"] == steps
    results = {"steps", "report", "error"}
    listed = {key: value for key, value in document.items() if key not in results}
    assert dumped("runs", (run,)) == {"runs": [listed]}


def test_an_event_of_a_run_has_what_was_stored_with_it() -> None:
    event = {"sequence": 1, "event": "ended", "at": NOW, "state": "running", "current": None}
    assert dumped("run-event", event) == {**event, "at": SAME}


def test_the_progress_of_a_backfill_is_rounded_and_is_in_the_status() -> None:
    ranges = (RangeProgress(4, RangeState.DONE), RangeProgress(1, RangeState.WORKING))
    progress = Progress("goods", 5, None, 1.26, None, rates=(1.0, 2.5), ranges=ranges)
    expected = {
        "collection": "goods",
        "done": 5,
        "perSecond": 1.3,
        **dict.fromkeys(("total", "secondsLeft", "leastSecondsLeft", "mostSecondsLeft")),
        "paused": False,
        "rates": [1.0, 2.5],
        "ranges": [{"done": 4, "state": "done"}, {"done": 1, "state": "working"}],
    }
    assert dumped("progress", progress) == expected
    found = survey([a_file(1)], recorded(a_record(1, Status.RUNNING, progress=progress)))
    (running,) = dumped("status", StatusReport(found, None))["running"]
    assert running["progress"] == expected


def test_the_progress_that_is_stored_is_the_one_that_is_read() -> None:
    ranges = (RangeProgress(4, RangeState.DONE), RangeProgress(1, RangeState.WORKING))
    progress = Progress(
        "goods", 5, 9, 1.26, 3.2, 2.0, 4.0, paused=True, rates=(2.5,), ranges=ranges
    )
    assert Progress.read(bson.decode(bson.encode(progress.document()))) == progress
    assert Progress.read({"collection": "goods", "done": 5}) == Progress("goods", 5)


def test_a_request_to_a_backfill_names_its_migration() -> None:
    document = dumped("pause", RequestReport(a_record(1, run_id="f00d"), database=LOCATION))
    assert document == {"database": DATABASE, "version": "1", "name": "change 1", "runId": "f00d"}


# --- one table


def test_every_column_of_a_record_that_is_shown_is_in_the_history_and_the_status() -> None:
    (record,) = dumped("history", HistoryReport((a_record(1),)))["history"]
    assert list(record) == [column.shown for column in COLUMNS.values() if column.shown]
    (applied,) = dumped("status", everything())["applied"][:1]
    assert {c.shown for c in COLUMNS.values() if c.in_status} <= set(applied)


def test_every_command_has_a_document() -> None:
    commands = all_commands()
    printing = {n for n, c in commands.items() if any(p.name == "as_json" for p in c.params)}
    assert {name.replace(" ", "-") for name in (*printing, "lint")} <= set(schemas.DOCUMENTS)
    assert {"status", "schema diff"} <= printing


# --- times


@pytest.mark.parametrize(
    ("at", "written"),
    [
        (NOW, SAME),
        (NOW.replace(microsecond=0), "2026-11-22T10:30:05.000Z"),
        (NOW.astimezone(timezone(timedelta(hours=5, minutes=30))), SAME),
        (datetime(1, 1, 1, tzinfo=timezone.utc), "0001-01-01T00:00:00.000Z"),
    ],
)
def test_a_time_is_written_in_utc_to_the_millisecond(at: datetime, written: str) -> None:
    assert schemas.moment(at) == written
