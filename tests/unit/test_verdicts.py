"""The verdict of a dry run: every row of its table, and what makes the end of a step unclear."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from pymongo.errors import AutoReconnect, BulkWriteError, OperationFailure

from flask_migrate_mongo.driver.confinement import Confinement
from flask_migrate_mongo.dry_run.verdicts import StepFacts, judge, why_unclear
from flask_migrate_mongo.model.errors import EscapesTransactionError
from flask_migrate_mongo.model.masking import DEFAULT_MASK
from flask_migrate_mongo.model.reports import Verdict

# --- the table

YES, NO, ANY = (True,), (False,), (True, False)

TABLE = {
    # limit, unclear, fails, ends_transaction, omits, executed: the verdict, and whether the next step can be executed
    (YES, ANY, ANY, ANY, ANY, ANY): (Verdict.TOO_LARGE, False),
    (NO, YES, ANY, ANY, ANY, YES): (Verdict.PARTLY, False),
    (NO, YES, ANY, ANY, ANY, NO): (Verdict.NOT_EXECUTED, False),
    (NO, NO, YES, YES, ANY, ANY): (Verdict.FAILS, False),
    (NO, NO, YES, NO, ANY, ANY): (Verdict.FAILS, True),
    (NO, NO, NO, ANY, YES, YES): (Verdict.PARTLY, True),
    (NO, NO, NO, ANY, YES, NO): (Verdict.NOT_EXECUTED, True),
    (NO, NO, NO, ANY, NO, ANY): (Verdict.SUCCEEDS, True),
}


def facts(*values: bool) -> StepFacts:
    limit, unclear, *rest = values
    return StepFacts("too long" if limit else None, "a thread" if unclear else None, *rest)


def test_exactly_one_row_of_the_table_applies_and_gives_the_verdict() -> None:
    for values in product(ANY, repeat=6):
        (row,) = [
            row for row in TABLE if all(v in cell for v, cell in zip(values, row, strict=True))
        ]
        assert judge(facts(*values)) == TABLE[row], values


# --- what makes an end unclear


def ending(**values: Any) -> Confinement:
    session: Any = None  # It is not looked at.
    return Confinement(session, **values)


def refused(code: int, *labels: str) -> OperationFailure:
    return OperationFailure("no", code, {"errmsg": "no.", "code": code, "errorLabels": labels})


TRANSIENT = "TransientTransactionError"
ESCAPE = EscapesTransactionError("It used a thread. More.", "Remedy.")
LOST = AutoReconnect("closed", errors={"errorLabels": [TRANSIENT]})
BAD = ValueError("bad")
BULK = BulkWriteError({"writeErrors": [{"index": 0, "code": 2, "errmsg": "bad hint"}]})

SAYS_NOTHING = [
    # the end of the step, in a plain one, and in a transactional one
    ({}, None, None),
    ({"raised": BAD}, None, None),
    ({"raised": refused(11000), "failure": refused(11000)}, None, None),
    ({"raised": BAD, "failure": refused(11000)}, None, None),
    ({"failure": refused(112, TRANSIENT)}, "dry run: no. Try again", "dry run: no. Try again"),
    ({"failure": refused(251, TRANSIENT)}, "dry run: its time was over. Try", "its time was over"),
    ({"raised": LOST, "failure": LOST}, "dry run: closed. Try again", "dry run: closed. Try again"),
    ({"failure": refused(27)}, "not built, a_1: no", "not built, a_1: no"),
    ({"failure": BULK}, "not built, a_1: 1 of the writes", "not built, a_1: 1 of the writes"),
    ({"raised": ESCAPE, "escape": ESCAPE}, "It used a thread, which a dry run cannot", None),
    ({"raised": refused(263), "failure": refused(263)}, "allows this in no transaction: no", None),
    ({"failure": refused(11000)}, "it continues after an error", None),
    ({"raised": refused(251), "failure": refused(11000)}, "it continues after an error", None),
]


@pytest.mark.parametrize(("values", "plain", "transactional"), SAYS_NOTHING)
def test_an_end_that_says_nothing_about_a_real_run_is_explained(
    values: dict[str, Any], plain: str | None, transactional: str | None
) -> None:
    for expected, flag in ((plain, False), (transactional, True)):
        found = why_unclear(ending(**values), "a_1", DEFAULT_MASK, transactional=flag)
        assert expected in found if expected and found else found is expected


def test_without_an_index_that_was_not_built_no_error_is_blamed_on_one() -> None:
    end = ending(raised=refused(27), failure=refused(27))
    assert why_unclear(end, "", DEFAULT_MASK, transactional=False) is None
