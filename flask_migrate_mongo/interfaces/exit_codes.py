"""The exit codes of commands that report, rather than raise, what they found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_migrate_mongo.model.errors import MigrateError

if TYPE_CHECKING:
    from collections.abc import Container

    from flask_migrate_mongo.model.reports import RunReport
    from flask_migrate_mongo.rehearsal import RehearsalReport

DONE = 0
CHECK_FAILED = 4


def of_check(*, passed: bool) -> int:
    """Choose the exit code of `status --check` and of `lint`."""
    return DONE if passed else CHECK_FAILED


def of_run(report: RunReport) -> int:
    """Choose the exit code of `up` and of `down`.

    A dry run that could execute no step is a check that found something.
    """
    if report.failure:
        return report.failure.exit_code
    return of_check(passed=not report.executed_nothing)


def of_rehearsal(report: RehearsalReport, fail_on: Container[str]) -> int:
    """Choose the exit code of `rehearse`: a failed migration goes before a failed check."""
    if report.failures:
        return MigrateError.exit_code
    return of_check(passed=not (report.irreversible and "irreversible" in fail_on))
