"""What the REST door takes: parameters and bodies, the odd ones above all, and its description."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from flask import Request
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from flask_migrate_mongo.interfaces import schemas
from flask_migrate_mongo.interfaces.rest import operations, routes
from flask_migrate_mongo.interfaces.rest.operations import openapi
from flask_migrate_mongo.model import values as model
from flask_migrate_mongo.model.errors import InvalidRequestError, LockHeldError, NotJsonError
from flask_migrate_mongo.model.reports import (
    EventsReport,
    HistoryReport,
    LockReport,
    Outcome,
    ReleaseReport,
    RunReport,
    StepState,
)
from flask_migrate_mongo.model.values import Event, StatusReport
from flask_migrate_mongo.planning.plans import survey

from .given import LOCATION, NOW, a_file, a_lock, a_record, a_step, recorded

if TYPE_CHECKING:
    from marshmallow import Schema


def query(schema: type[Schema], text: str) -> dict[str, Any]:
    return operations.parse(schema, Request(EnvironBuilder(query_string=text).get_environ()))


def body(content: bytes, kind: str | None = "application/json") -> dict[str, Any]:
    builder = EnvironBuilder(method="POST", data=content, content_type=kind)
    return operations.parse(operations.NewMigration, Request(builder.get_environ()), "json")


# --- parameters


def test_without_parameters_the_defaults_hold() -> None:
    plain = {"dry_run": False, "continue_on_error": False, "allow_drift": False}
    assert query(operations.UpQuery, "") == plain
    assert query(operations.DownQuery, "") == {**plain, "batch": False}
    assert query(operations.HistoryQuery, "") == {"limit": 50, "skip": 0}
    assert query(operations.ReleaseQuery, "") == {"confirm": False}
    assert query(operations.NoQuery, "") == {}


def test_parameters_are_read() -> None:
    text = "dryRun=true&continueOnError=true&wait=300&steps=10000&allowDrift=true"
    assert query(operations.DownQuery, text) == {
        "dry_run": True,
        "continue_on_error": True,
        "wait": 300,
        "steps": 10_000,
        "allow_drift": True,
        "batch": False,
    }
    page = query(operations.HistoryQuery, "limit=1000&skip=7&status=rolled-back")
    assert page == {"limit": 1000, "skip": 7, "status": model.Status.ROLLED_BACK}


@pytest.mark.parametrize("value", ["", "1", "0", "yes", "True", "TRUE", "on", " true", "null"])
@pytest.mark.parametrize("name", ["dryRun", "continueOnError", "allowDrift"])
def test_only_true_and_false_are_flags(name: str, value: str) -> None:
    with pytest.raises(InvalidRequestError, match=name):
        query(operations.DownQuery, f"{name}={value}")


@pytest.mark.parametrize(
    "value",
    [
        *("", "-1", "+1", "1.0", "1e2", "0x1", "%201", "1%20", "1_0", "01", "nan", "inf", "null"),
        *("%D9%A3", "%EF%BC%91", "9" * 11, "9" * 5000, "true", "1%00", "1%0A", "[]"),
    ],
)
@pytest.mark.parametrize("name", ["limit", "skip"])
def test_only_plain_digits_are_numbers(name: str, value: str) -> None:
    with pytest.raises(InvalidRequestError, match=name):
        query(operations.HistoryQuery, f"{name}={value}")


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (operations.HistoryQuery, "limit=0"),
        (operations.HistoryQuery, "limit=1001"),
        (operations.HistoryQuery, "skip=1000000001"),
        (operations.HistoryQuery, "status=done"),
        (operations.HistoryQuery, "status="),
        (operations.DownQuery, "steps=0"),
        (operations.DownQuery, "steps=10001"),
        (operations.UpQuery, "wait=301"),
    ],
)
def test_a_value_out_of_its_bounds_is_refused(schema: type[Schema], text: str) -> None:
    with pytest.raises(InvalidRequestError, match=text.partition("=")[0]):
        query(schema, text)


@pytest.mark.parametrize(
    "text", ["batch=true", "dry_run=true", "dryrun=true", "x", "=", "dryRun[]=1"]
)
def test_an_unknown_parameter_is_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(
        InvalidRequestError,
        match=r"Accepted: .*, continueOnError, wait, allowDrift, steps, to\.$",
    ):
        query(operations.UpQuery, text)
    with pytest.raises(InvalidRequestError, match=r"Leave the parameters out\.$"):
        query(operations.NoQuery, text)


@pytest.mark.parametrize("text", ["dryRun=true&dryRun=false", "dryRun=true&dryRun=true"])
def test_a_parameter_that_is_given_twice_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="Give each parameter once"):
        query(operations.UpQuery, text)


@given(st.text(max_size=60))
def test_any_query_at_all_is_understood_or_refused(text: str) -> None:
    encoded = text.encode("utf-8", "replace").decode("latin-1")
    environ = {**EnvironBuilder().get_environ(), "QUERY_STRING": encoded}
    with contextlib.suppress(InvalidRequestError):
        operations.parse(operations.DownQuery, Request(environ))


# --- bodies


def repr_of(content: bytes) -> str:
    return f"{content[:20]!r} and {len(content)}"


def test_a_body_is_read() -> None:
    found = {"name": "Add User Index", "transactional": False}
    assert body(b'{"name": "Add User Index"}') == found
    assert body(b'{"name": "x", "transactional": true}', "application/json; charset=utf-8") == {
        "name": "x",
        "transactional": True,
    }


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"name", b"\xff\xfe", b"nul", b"[", b"[" * 16_000, b'{"a":' * 3_000),
        *(b"[]", b"1", b'"name"', b"null", b"true", b"{}", b'[{"name": "x"}]'),
        *(b'{"name": null}', b'{"name": 1}', b'{"name": ["x"]}', b'{"name": {"$ne": 1}}'),
        *(b'{"name": ""}', b'{"name": " \\n"}', b'{"name": "' + b"n" * 1001 + b'"}'),
        *(b'{"name": "x", "path": "/etc"}', b'{"name": "x", "transactional": 1}'),
        *(b'{"name": "x", "transactional": "true"}', b'{"name": ' + b"9" * 5_000 + b"}"),
    ],
    ids=repr_of,
)
def test_a_body_that_is_no_new_migration_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        body(content)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json"]
)
def test_a_body_of_another_type_is_not_looked_at(kind: str | None) -> None:
    with pytest.raises(NotJsonError):
        body(b'{"name": "x"}', kind)


# --- documents


def fits(name: str, value: object) -> None:
    """Check a document against its schema, which refuses unknown fields."""
    assert schemas.DOCUMENTS[name]().validate(schemas.document(name, value)) == {}


def test_every_document_is_as_its_schema_says() -> None:
    error = model.ErrorInfo("ValueError", "no")
    failed = a_record(2, model.Status.FAILED, error=error)
    running = a_record(3, model.Status.RUNNING)
    found = survey([a_file(n) for n in (1, 2, 3, 4)], recorded(a_record(1), failed, running))
    fits("status", StatusReport(found, a_lock(), ("5_x.txt",)))
    fits("status", StatusReport(found, None))
    fits("history", HistoryReport((a_record(1), failed, running), database=LOCATION))
    fits("events", EventsReport((Event("failed", NOW, 1, {"by": "x"}, error),)))
    fits("lock-status", LockReport(a_lock()))
    fits("lock-status", LockReport(None))
    fits("force-unlock", ReleaseReport(a_lock()))
    fits("health", {"ready": True, "summary": found})
    fits("error", LockHeldError(a_lock()))
    fits("create", a_file(1).path)


@pytest.mark.parametrize("state", StepState)
def test_every_run_is_as_its_schema_says(state: StepState) -> None:
    outcome = Outcome(a_step(1), state, 5, model.ErrorInfo("ValueError", "no", "trace"))
    lost = LockHeldError(a_lock())
    report = RunReport(model.Direction.UP, (outcome,), True, "f00d", 3, ("beware",), lost)  # noqa: FBT003
    fits("up", report)
    failed = schemas.document("error", lost) | schemas.document("up", report)
    assert schemas.ProblemDocument().validate(failed) == {}


def test_a_schema_refuses_what_it_does_not_know() -> None:
    document = schemas.document("lock-status", LockReport(None))
    assert schemas.LockStatusDocument().validate({**document, "more": 1})
    assert schemas.LockStatusDocument().validate({"locked": True})


# --- the description


def test_every_route_is_described_and_nothing_else() -> None:
    actions = {route.action for route in routes.ROUTES}
    assert set(operations.QUERIES) <= actions <= set(schemas.DOCUMENTS)
    spec = openapi("/prefix")
    assert spec["openapi"] == "3.1.0"
    assert spec["servers"] == [{"url": "/prefix"}]
    described = {(m.upper(), path) for path, found in spec["paths"].items() for m in found}
    assert described == {
        (r.method, r.path.replace("<", "{").replace(">", "}")) for r in routes.ROUTES
    }


def test_every_operation_says_how_it_may_end() -> None:
    for found in openapi("")["paths"].values():
        for operation in found.values():
            assert {"400", "401", "403", "500", "503"} <= set(operation["responses"])
            assert operation["summary"]
