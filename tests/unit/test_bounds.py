"""What is stored of an asynchronous run fits into one document, whatever happened in it."""

from __future__ import annotations

from typing import Any

import bson
import pytest

from flask_migrate_mongo.interfaces import schemas
from flask_migrate_mongo.model.errors import TRACEBACK_LIMIT
from flask_migrate_mongo.store.bounds import (
    DETAIL_BYTES,
    EVENT_BYTES,
    fitted_problem,
    fitted_report,
    fitted_step,
)
from flask_migrate_mongo.store.runs import EVENTS_KEPT

A_DOCUMENT = 16 * 1024 * 1024


def a_step(**changes: Any) -> dict[str, Any]:
    return {
        "version": "20261101001",
        "name": "change",
        "transactional": False,
        "reversible": True,
        "outOfOrder": False,
        "state": "failed",
        "executionTime": 7,
        "error": {"type": "ValueError", "message": "no", "traceback": "Traceback"},
        **changes,
    }


def a_report(steps: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "database": None,
        "direction": "up",
        "executed": True,
        "dryRun": False,
        "runId": "a" * 32,
        "batch": 1,
        "executionTime": 5,
        "steps": steps,
        "warnings": ["Look."],
        "error": None,
        **changes,
    }


LONG = a_step(
    name="\N{PILE OF POO}" * 1_000,
    error={
        "type": "E" * 1_000,
        "message": "\N{PILE OF POO}" * (TRACEBACK_LIMIT // 4),
        "traceback": "t" * TRACEBACK_LIMIT,
    },
    verdict="would fail",
    reason="r" * 20_000,
    effects={f"c{n}": {"inserted": n} for n in range(100)},
    samples=[{"before": {"a": "b" * 1_000}}] * 10,
)


def test_a_report_that_fits_is_kept_as_it_is() -> None:
    report = a_report([a_step(), a_step(error=None)])
    assert fitted_report(report) == report
    assert fitted_report(a_report([])) == a_report([])


@pytest.mark.parametrize("count", [320, 8_000, 10_000])
def test_a_report_of_long_failures_fits_beside_its_events_and_says_what_was_left_out(
    count: int,
) -> None:
    problem = {"type": "x", "title": "x", "status": 500, "code": "x", "detail": "d" * 1_000_000}
    report = a_report([LONG] * count, warnings=["w" * 10_000] * 2_000, error=problem)
    fitted = fitted_report(report)
    events = [{"event": "ended", "step": fitted_step(LONG)}] * EVENTS_KEPT
    assert len(bson.encode({"report": fitted, "events": events})) < A_DOCUMENT - 100_000
    kept = min(count, 8_000)
    assert [step["state"] for step in fitted["steps"]] == ["failed"] * kept
    notes = [note.rpartition(" ")[2] for note in fitted["warnings"] if "w" * 100 not in note]
    assert notes == [f"{kept}.", *([f"{count - kept}."] if count > kept else []), "1000."]
    assert not schemas.RunDocument().validate(fitted)


def test_only_long_steps_are_shortened_and_keep_their_numbers_and_first_words() -> None:
    long = {**LONG, "name": "change"}
    (kept, short) = fitted_report(
        a_report([a_step(), long]),
    )["steps"]
    assert kept == a_step()
    assert short == long
    brief = fitted_step(long)
    assert len(bson.encode(brief)) < EVENT_BYTES
    assert not {"effects", "samples"} & brief.keys()
    assert brief["error"]["message"].endswith("...")
    assert brief["error"]["traceback"] is None
    assert {name: brief[name] for name in ("version", "name", "executionTime", "verdict")} == {
        "version": "20261101001",
        "name": "change",
        "executionTime": 7,
        "verdict": "would fail",
    }


@pytest.mark.parametrize("odd", [2**70, "\ud800", {1: 2}], ids=["integer", "surrogate", "key"])
def test_a_step_that_cannot_be_stored_is_shortened(odd: object) -> None:
    step = a_step(reason="\ud800", samples=[{"before": {"a": odd}}])
    fitted = fitted_step(step)
    bson.encode(fitted)
    assert (fitted["version"], fitted["state"]) == ("20261101001", "failed")


def test_the_text_of_a_problem_is_bounded() -> None:
    assert fitted_problem({"detail": "short", "code": "x"}) == {"detail": "short", "code": "x"}
    assert len(fitted_problem({"detail": "x" * 1_000_000})["detail"]) == DETAIL_BYTES
