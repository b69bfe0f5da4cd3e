"""The table of faults: every error has its answer, and there is no answer without an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flask_migrate_mongo.interfaces.faults import DONE, FAULTS, check_code, exit_code, fault_of
from flask_migrate_mongo.model import errors
from flask_migrate_mongo.model.errors import MigrateError
from flask_migrate_mongo.model.reports import Outcome, RunReport, StepState
from flask_migrate_mongo.model.values import Direction
from flask_migrate_mongo.planning.plans import survey

from .given import a_file, a_record, a_step, recorded

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
def test_every_error_has_a_code_of_its_own_and_a_sentence_and_an_answer(
    kind: type[MigrateError],
) -> None:
    assert "code" in vars(kind)
    assert [other for other in FAMILY if other.code == kind.code] == [kind]
    assert kind.code == kind.code.lower().replace("_", "-").replace(" ", "-")
    assert (vars(kind)["__doc__"] or "").partition("\n")[0].endswith(".")
    assert kind in FAULTS


def test_the_table_answers_to_no_error_that_there_is_not() -> None:
    assert set(FAULTS) == set(FAMILY)


@pytest.mark.parametrize("kind", FAMILY)
def test_every_answer_is_a_failure_in_both_languages(kind: type[MigrateError]) -> None:
    answer = FAULTS[kind]
    assert answer.exit_code in {1, 2, 3, 5, 6}
    assert 400 <= answer.http_status < 600


@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [
        (errors.StepError, 1, 500),
        (errors.RunStoppedError, 1, 500),
        (errors.InvalidRequestError, 2, 400),
        (errors.NotConfirmedError, 2, 409),
        (errors.LockHeldError, 3, 409),
        (errors.LeaseLostError, 3, 409),
        (errors.NotReversibleError, 5, 409),
        (errors.MissingFileError, 5, 409),
        (errors.DriftError, 5, 409),
        (errors.OutOfOrderError, 5, 409),
        (errors.TransactionsUnsupportedError, 5, 409),
        (errors.SettingError, 6, 500),
        (errors.NoFolderError, 6, 500),
        (errors.ConnectionFailedError, 6, 503),
        (errors.AccessDeniedError, 6, 503),
    ],
)
def test_exit_codes_and_http_statuses_are_those_promised(
    kind: type[MigrateError], code: int, status: int
) -> None:
    assert FAULTS[kind] == (code, status)


def test_an_error_of_an_applications_own_is_answered_like_the_nearest_one_known() -> None:
    class OurLockError(errors.LockHeldError):
        def __init__(self) -> None:
            MigrateError.__init__(self, "ours")

    assert fault_of(OurLockError()) == FAULTS[errors.LockHeldError]
    assert fault_of(ValueError("not ours at all")) == FAULTS[MigrateError]


# --- exit codes of runs


def ended(state: StepState, error: Exception | None = None) -> RunReport:
    outcomes = (Outcome(a_step(1), StepState.APPLIED), Outcome(a_step(2), state))
    return RunReport(Direction.UP, outcomes, executed=True, error=error)


def test_a_run_that_did_everything_exits_with_zero() -> None:
    assert exit_code(ended(StepState.APPLIED)) == DONE == 0


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


def test_a_check_exits_with_four_unless_everything_is_applied_as_it_is() -> None:
    folder = [a_file(1)]
    assert check_code(survey(folder, recorded(a_record(1)))) == 0
    assert check_code(survey([], recorded())) == 0
    assert check_code(survey(folder, recorded())) == 4
    assert check_code(survey([], recorded(a_record(1)))) == 4
    assert check_code(survey(folder, recorded(a_record(1, checksum="other")))) == 4
