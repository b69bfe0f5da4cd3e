"""Bounds the documents that are stored of an asynchronous run: a document of MongoDB has at most 16 MB."""

from __future__ import annotations

from collections.abc import Sequence

import bson
from bson.errors import BSONError

from flask_migrate_mongo.driver.server import Document

REPORT_BYTES = 8_000_000
"""Of the steps of a report. The rest is for its warnings, and for the events of the run."""

MOST_STEPS = 8_000
EVENT_BYTES = 2_000
MOST_WARNINGS = 1_000
WARNING_BYTES = 2_000
DETAIL_BYTES = 16_000
WORDS_BYTES = 150
"""Of each text in a step that is shortened, so that MOST_STEPS of them fit."""


def fitted_report(report: Document) -> Document:
    """Shorten what one document cannot hold of a report, and say so in its warnings."""
    steps, warnings = report["steps"], report["warnings"]
    allowed = REPORT_BYTES // max(1, min(len(steps), MOST_STEPS))
    kept = [fitted_step(step, allowed) for step in steps[:MOST_STEPS]]
    shortened = sum(now is not before for now, before in zip(kept, steps, strict=False))
    left_out = {
        "Steps that are shortened because this report is too large, the history has their errors": shortened,
        "Steps at the end that are left out": len(steps) - len(kept),
        "Warnings that are left out": len(warnings[MOST_WARNINGS:]),
    }
    notes = [f"{what}: {count}." for what, count in left_out.items() if count]
    shown = [_cut(warning, WARNING_BYTES) for warning in warnings[:MOST_WARNINGS]]
    error = report["error"] and fitted_problem(report["error"])
    return {**report, "steps": kept, "warnings": [*notes, *shown], "error": error}


def fitted_step(step: Document, allowed: int = EVENT_BYTES) -> Document:
    """Shorten the document of a step that is larger, or cannot be stored, to numbers and first words."""
    try:
        if len(bson.encode(step)) <= allowed:
            return step
    except (BSONError, ValueError, OverflowError):
        pass
    values = {key: value for key, value in step.items() if not isinstance(value, dict | list)}
    error = step["error"] and {**_words(step["error"]), "traceback": None}
    return {**_words(values), "error": error}


def fitted_plan(steps: Sequence[Document]) -> list[Document]:
    """Shorten the steps of a plan, and leave out those at the end that are too many."""
    return [_words(step) for step in steps[:MOST_STEPS]]


def fitted_problem(problem: Document) -> Document:
    """Shorten the text of a problem document."""
    return {**problem, "detail": _cut(problem["detail"], DETAIL_BYTES)}


def _words(values: Document) -> Document:
    return {
        key: _cut(value, WORDS_BYTES) if isinstance(value, str) else value
        for key, value in values.items()
    }


def _cut(text: str, most: int) -> str:
    """Cut a text to so many bytes; what cannot be encoded is escaped."""
    raw = text.encode("utf-8", "backslashreplace")
    whole = raw if len(raw) <= most else raw[: most - 3] + b"..."
    return whole.decode("utf-8", "ignore")
