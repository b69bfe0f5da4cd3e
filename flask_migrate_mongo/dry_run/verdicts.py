"""The verdict of a dry run on a step, from what is known once its code has ended."""

from __future__ import annotations

from dataclasses import dataclass

from pymongo.errors import PyMongoError

from flask_migrate_mongo.driver.confinement import NO_SUCH_TRANSACTION, Confinement
from flask_migrate_mongo.driver.server import code_of, detail_of
from flask_migrate_mongo.driver.transactions import is_transient
from flask_migrate_mongo.model.errors import message_of
from flask_migrate_mongo.model.masking import Mask
from flask_migrate_mongo.model.reports import Verdict

_NOT_IN_A_TRANSACTION = frozenset({72, 263})
"""InvalidOptions, for what needs another read concern, and OperationNotSupportedInTransaction."""

_NEEDS_AN_INDEX = frozenset({2, 27, 291})
"""BadValue for a hint, IndexNotFound, NoQueryExecutionPlans."""


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What is known of a step once its code has ended."""

    limit: str | None
    """The limit of the dry run that it reached."""
    unclear: str | None
    """Why its end says nothing about a real run."""
    fails: bool
    """Whether it ended with an error."""
    ends_transaction: bool
    """Whether nothing can run in the transaction after such an error: it undoes the step, or ends the whole run."""
    omits: bool
    """Whether some of its operations were not executed."""
    executed: bool
    """Whether any command of it was executed."""


def judge(facts: StepFacts) -> tuple[Verdict, bool]:
    """Choose the verdict; the second value says whether the transaction can serve the next step."""
    if facts.limit:
        return Verdict.TOO_LARGE, False
    if facts.fails and not facts.unclear:
        return Verdict.FAILS, not facts.ends_transaction
    if not (facts.unclear or facts.omits):
        return Verdict.SUCCEEDS, True
    return Verdict.PARTLY if facts.executed else Verdict.NOT_EXECUTED, not facts.unclear


def why_unclear(
    ending: Confinement, unbuilt: str, mask: Mask, *, transactional: bool
) -> str | None:
    """Explain why the end of a step says nothing about a real run; None if it does.

    `unbuilt` names the indexes that were not built. What only a plain step may do fails a transactional one in a real
    run, too.
    """
    first, failure, plain = ending.failure or ending.raised, ending.failure, not transactional
    text = "" if first is None else message_of(first, mask)
    text = detail_of(first, mask) if isinstance(first, PyMongoError) else text
    ended = "its time was over" if code_of(first) == NO_SUCH_TRANSACTION else text
    escape = str(ending.escape).partition(". ")[0]
    lost = first is not None and is_transient(first)
    needs_index = unbuilt and code_of(first) in _NEEDS_AN_INDEX
    escapes = plain and ending.escape is not None
    refused = plain and code_of(failure) in _NOT_IN_A_TRANSACTION
    continues = plain and failure is not None and (ending.raised is None or ending.is_late)
    reasons = {
        f"the server ended the transaction of this dry run: {ended}. Try again": lost,
        f"it may need an index that was not built, {unbuilt}: {text}": needs_index,
        f"{escape}, which a dry run cannot roll back": escapes,
        f"the server allows this in no transaction: {text}": refused,
        f"it continues after an error, which ended the transaction of the dry run: {text}": continues,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)
