"""The one table that gives every error its exit code and its HTTP status."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from flask_migrate_mongo.model import errors

if TYPE_CHECKING:
    from collections.abc import Container

    from flask_migrate_mongo.lint import LintReport
    from flask_migrate_mongo.model.reports import RunReport
    from flask_migrate_mongo.model.values import Survey
    from flask_migrate_mongo.rehearsal import RehearsalReport

DONE = 0
CHECK_FAILED = 4


class Fault(NamedTuple):
    """How the doors answer to an error."""

    exit_code: int
    http_status: int


_FAILED = Fault(1, 500)
_USAGE = Fault(2, 400)
_LOCKED = Fault(3, 409)
_REFUSED = Fault(5, 409)
_UNUSABLE = Fault(6, 500)
_UNREACHABLE = Fault(6, 503)

FAULTS: dict[type, Fault] = {
    errors.MigrateError: _FAILED,
    errors.InvalidRequestError: _USAGE,
    errors.TooManyStepsError: Fault(2, 409),
    errors.ConfigurationError: _UNUSABLE,
    errors.SettingError: _UNUSABLE,
    errors.NoDatabaseError: _UNUSABLE,
    errors.NoFolderError: _UNUSABLE,
    errors.ConnectionFailedError: _UNREACHABLE,
    errors.AccessDeniedError: _UNREACHABLE,
    errors.DatabaseError: _UNREACHABLE,
    errors.UnsupportedDriverError: _UNUSABLE,
    errors.SourceError: _REFUSED,
    errors.SeveralSourceErrors: _REFUSED,
    errors.DuplicateVersionError: _REFUSED,
    errors.ImportFailedError: _REFUSED,
    errors.FileChangedError: _REFUSED,
    errors.RefusedError: _REFUSED,
    errors.NotReversibleError: _REFUSED,
    errors.MissingFileError: _REFUSED,
    errors.DriftError: _REFUSED,
    errors.OutOfOrderError: _REFUSED,
    errors.TransactionsUnsupportedError: _REFUSED,
    errors.InterruptedRefusedError: _REFUSED,
    errors.HalfBackfilledError: _REFUSED,
    errors.NotResolvableError: _REFUSED,
    errors.DryRunTooLongError: _REFUSED,
    errors.ScratchTakenError: _REFUSED,
    errors.RehearsalUnsupportedError: _REFUSED,
    errors.LockHeldError: _LOCKED,
    errors.LeaseLostError: _LOCKED,
    errors.NotConfirmedError: Fault(2, 409),
    errors.NoRunError: _REFUSED,
    errors.StepError: _FAILED,
    errors.BackfillError: _FAILED,
    errors.RejectedError: _FAILED,
    errors.WorkerLostError: _FAILED,
    errors.EscapesTransactionError: _FAILED,
    errors.EscapesRehearsalError: _FAILED,
    errors.TransactionAbortedError: _FAILED,
    errors.OutcomeNotRecordedError: _FAILED,
    errors.OutcomeUnknownError: _FAILED,
    errors.RunStoppedError: _FAILED,
    errors.ApiClosedError: Fault(2, 403),
    errors.UnauthenticatedError: Fault(2, 401),
    errors.ForbiddenError: Fault(2, 403),
    errors.CreateDisabledError: Fault(2, 403),
    errors.UnknownPathError: Fault(2, 404),
    errors.UnknownVersionError: Fault(2, 404),
    errors.UnknownRunError: Fault(2, 404),
    errors.MethodNotAllowedError: Fault(2, 405),
    errors.BodyTooLargeError: Fault(2, 413),
    errors.NotJsonError: Fault(2, 415),
    errors.MigrationFailedError: _FAILED,
    errors.NotReadyError: Fault(1, 503),
}


def fault_of(error: Exception) -> Fault:
    """Return how to answer to an error: as to the nearest of its classes that has an entry."""
    return next((FAULTS[kind] for kind in type(error).__mro__ if kind in FAULTS), _FAILED)


def exit_code(report: RunReport) -> int:
    """Return the exit code of a run: that of a failed migration before that of what ended the run.

    A dry run that could execute no step is a check that found something.
    """
    if report.failures:
        return _FAILED.exit_code
    if report.executed_nothing:
        return CHECK_FAILED
    return DONE if report.error is None else fault_of(report.error).exit_code


def failure_of(report: RunReport) -> Exception | None:
    """Return the error that stands for a run: of a failed migration before what ended the run."""
    if report.failures:
        versions = [outcome.step.version for outcome in report.failures]
        return errors.MigrationFailedError(versions, report.direction.value, dry_run=report.dry_run)
    return report.error


def not_ready(survey: Survey, startup_failure: str | None = None) -> errors.NotReadyError | None:
    """Return why an application should not serve yet, or None."""
    groups = {"pending": survey.pending, "running": survey.running, "failed": survey.failed}
    waiting = [f"{len(found)} {state}" for state, found in groups.items() if found]
    if not waiting:
        return None
    cause = f" The start-up failed: {startup_failure.rstrip('.')}." if startup_failure else ""
    return errors.NotReadyError(
        f"Not ready: {', '.join(waiting)}.{cause} Run what is left: `flask db-migrate up`."
    )


def lint_code(report: LintReport, least: str) -> int:
    """Return the exit code of `lint`, which fails on findings of a severity, or worse, or "never"."""
    return CHECK_FAILED if report.fails(least) else DONE


def check_code(survey: Survey) -> int:
    """Return the exit code of `status --check`."""
    return DONE if survey.is_clean else CHECK_FAILED


def rehearsal_code(report: RehearsalReport, fail_on: Container[str]) -> int:
    """Return the exit code of `rehearse`: that of a failed migration before that of a check."""
    if report.failures:
        return _FAILED.exit_code
    return CHECK_FAILED if report.irreversible and "irreversible" in fail_on else DONE
