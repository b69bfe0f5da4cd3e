"""Rehearses an application's migrations, and keeps the report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

from flask_migrate_mongo.files.writing import overwrite
from flask_migrate_mongo.model.errors import InvalidRequestError
from flask_migrate_mongo.rehearsal import Rehearsal, RehearsalOptions, RehearsalReport
from flask_migrate_mongo.state import AppState

from .running import rehearsal


def rehearse(
    state: AppState,
    versions: Iterable[str | int],
    sample: int | None,
    collections: Iterable[str] | None,
) -> RehearsalReport:
    """Rehearse migrations, by default all that are pending, on so many documents of each collection."""
    if sample is not None and sample < 1:
        # MongoDB's limit 0 is none at all: every document would be copied, without a confirmation.
        msg = f"sample is {sample}, but it has to be a whole number from 1, or None for all documents. Nothing was run."
        raise InvalidRequestError(msg, "Leave it out to copy 1000 documents of each collection.")
    named = None if collections is None else tuple(collections)
    options = RehearsalOptions(tuple(map(str, versions)), sample, named)
    return rehearse_and_keep(state, rehearsal(state), options)


def rehearse_and_keep(
    state: AppState, acts: Rehearsal, options: RehearsalOptions
) -> RehearsalReport:
    """Rehearse, and write the report to the file of MIGRATE_REHEARSAL_REPORT.

    If that fails, a warning of the report says so.
    """
    report, path = acts.run(options), state.settings.rehearsal_report
    if path is None or not report.migrations:
        return report
    try:
        overwrite(path, f"{json.dumps(report.to_dict(), indent=2)}\n".encode())
    except OSError as exc:
        warning = f"The report could not be kept in {path}: {exc.strerror}."
        return replace(report, warnings=(*report.warnings, warning))
    return report
