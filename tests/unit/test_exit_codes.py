"""What every error class says of itself, and the exit codes of reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flask_migrate_mongo.interfaces.cli.output import exit_code
from flask_migrate_mongo.model import errors
from flask_migrate_mongo.model.errors import MigrateError
from flask_migrate_mongo.model.reports import Outcome, RunReport, StepState
from flask_migrate_mongo.model.values import Direction
from flask_migrate_mongo.planning.plans import survey

from .given import a_dry_run, a_file, a_record, a_step, recorded

if TYPE_CHECKING:
    from collections.abc import Iterator


def family(kind: type[MigrateError] = MigrateError) -> Iterator[type[MigrateError]]:
    """Yield a class of errors and all that derive from it in the package."""
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from family(child)


FAMILY = list(family())


@pytest.mark.parametrize("kind", FAMILY)
def test_every_error_has_a_code_and_a_title_of_its_own(kind: type[MigrateError]) -> None:
    assert {"code", "title"} <= set(vars(kind))
    assert [other for other in FAMILY if other.code == kind.code] == [kind]
    assert [other for other in FAMILY if other.title == kind.title] == [kind]
    assert kind.code == kind.code.lower().replace("_", "-").replace(" ", "-")
    assert kind.title.endswith(".")


@pytest.mark.parametrize("kind", FAMILY)
def test_every_answer_is_a_failure_for_the_shell_and_for_http(kind: type[MigrateError]) -> None:
    assert kind.exit_code in {1, 2, 3, 4, 5, 6}
    assert 400 <= kind.http_status < 600


@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [
        (errors.StepError, 1, 500),
        (errors.RunStoppedError, 1, 500),
        (errors.MigrationFailedError, 1, 500),
        (errors.NotReadyError, 1, 503),
        (errors.InvalidRequestError, 2, 400),
        (errors.TooManyStepsError, 2, 409),
        (errors.NotConfirmedError, 2, 409),
        (errors.CreateDisabledError, 2, 403),
        (errors.LockHeldError, 3, 409),
        (errors.LeaseLostError, 3, 409),
        (errors.DuplicateVersionError, 5, 409),
        (errors.SeveralErrors, 5, 409),
        (errors.UnwrittenError, 5, 409),
        (errors.NotReversibleError, 5, 409),
        (errors.MissingFileError, 5, 409),
        (errors.DriftError, 5, 409),
        (errors.OutOfOrderError, 5, 409),
        (errors.TransactionsUnsupportedError, 5, 409),
        (errors.NoRunError, 5, 409),
        (errors.SettingError, 6, 500),
        (errors.NoFolderError, 6, 500),
        (errors.UnsupportedDriverError, 6, 500),
        (errors.OutputError, 6, 500),
        (errors.ConnectionFailedError, 6, 503),
        (errors.AccessDeniedError, 6, 503),
        (errors.DatabaseError, 6, 503),
    ],
)
def test_exit_codes_and_http_statuses_are_those_promised(
    kind: type[MigrateError], code: int, status: int
) -> None:
    assert (kind.exit_code, kind.http_status) == (code, status)


def test_an_error_of_an_applications_own_is_answered_like_its_base() -> None:
    class OurLockError(errors.LockHeldError):
        def __init__(self) -> None:
            MigrateError.__init__(self, "ours")

    assert (OurLockError().exit_code, OurLockError().http_status) == (3, 409)
    assert errors.as_migrate_error(ValueError("not ours at all")).exit_code == 1


# --- exit codes of runs


def ended(state: StepState, error: Exception | None = None) -> RunReport:
    outcomes = (Outcome(a_step(1), StepState.APPLIED), Outcome(a_step(2), state))
    return RunReport(Direction.UP, outcomes, executed=True, error=error)


def test_a_run_that_did_everything_exits_with_zero() -> None:
    assert exit_code(ended(StepState.APPLIED)) == 0


def test_a_run_with_nothing_to_do_exits_with_zero() -> None:
    assert exit_code(RunReport(Direction.UP, (), executed=True)) == 0


def test_a_failed_step_exits_with_one_whatever_else_ended_the_run() -> None:
    assert exit_code(ended(StepState.FAILED)) == 1
    assert exit_code(ended(StepState.FAILED, errors.LeaseLostError("why"))) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.LeaseLostError("why"), 3),
        (errors.RunStoppedError("why"), 1),
        (errors.ConnectionFailedError("why"), 6),
        (RuntimeError("of nobody's"), 1),
    ],
)
def test_what_ended_a_run_gives_its_exit_code(error: Exception, code: int) -> None:
    assert exit_code(ended(StepState.NOT_RUN, error)) == code


def test_the_failure_of_a_run_names_the_failed_migrations_and_what_is_kept() -> None:
    failure = ended(StepState.FAILED).failure
    assert isinstance(failure, errors.MigrationFailedError)
    assert failure.versions == (2,)
    assert failure.message == "Failed: 2. The steps that succeeded are kept."
    tried = a_dry_run().failure
    assert tried is not None
    assert tried.message == "Would fail: 1. Nothing was changed."


def test_a_database_is_ready_when_nothing_is_pending_running_or_failed() -> None:
    assert survey([], recorded(a_record(1))).is_ready
    found = survey([a_file(1)], recorded())
    assert not found.is_ready
    said = errors.NotReadyError(found, "no such city.").message
    assert said == "Not ready: 1 pending. The start-up failed: no such city."
