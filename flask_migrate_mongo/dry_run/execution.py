"""One step after the other, executed in the open transaction of a dry run, and judged."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pymongo
from pymongo.errors import PyMongoError

from flask_migrate_mongo.backfill import DryRunBackfill, refuse_in_transaction
from flask_migrate_mongo.driver.commands import listening
from flask_migrate_mongo.driver.confinement import confined
from flask_migrate_mongo.driver.transactions import is_transient
from flask_migrate_mongo.engine.calling import (
    NO_SUCH_TRANSACTION,
    call_function,
    caught,
    code_of,
    log_of,
)
from flask_migrate_mongo.engine.options import Context
from flask_migrate_mongo.model.errors import capture, redact
from flask_migrate_mongo.model.reports import Outcome, StepState, Trial, Verdict
from flask_migrate_mongo.process import Stopped, elapsed

from .effects import Recorder
from .requests import answered_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask_migrate_mongo.engine.runner import Runner
    from flask_migrate_mongo.model.errors import EscapesTransactionError
    from flask_migrate_mongo.model.masking import Mask
    from flask_migrate_mongo.model.values import Step

    from .budget import Budget
    from .operations import OperationFilter

BATCHES = 10
"""How many batches of a backfill are executed: enough to see its effects and its speed."""

_NOT_IN_A_TRANSACTION = frozenset({72, 263})
"""InvalidOptions, for what needs another read concern, and OperationNotSupportedInTransaction."""

_NEEDS_AN_INDEX = frozenset({2, 27, 291})
"""BadValue for a hint, IndexNotFound, NoQueryExecutionPlans."""


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a step's function ended: what it raised, and what ended the transaction or tried to leave it."""

    raised: BaseException | None
    first_error: PyMongoError | None
    escape: EscapesTransactionError | None

    @property
    def is_late(self) -> bool:
        """Whether what was raised only says that the transaction had ended before."""
        return code_of(self.raised) == NO_SUCH_TRANSACTION != code_of(self.first_error)

    @property
    def failure(self) -> BaseException | None:
        """The error that a step in a transaction of its own would fail with."""
        if self.raised is not None and not (self.is_late and self.first_error):
            return self.raised
        return self.escape or (caught(self.first_error) if self.first_error else None)


@dataclass(frozen=True, slots=True)
class StepExecution:
    """Executes steps in one open transaction, each on what those before it have left."""

    runner: Runner
    operations: OperationFilter
    budget: Budget
    mask: Mask
    samples: int

    def execute(self, step: Step, function: Callable[..., object]) -> tuple[Outcome, bool]:
        """Execute a step; the second value says whether the transaction can serve the next one."""
        recorder = Recorder(self.operations, self.budget, self.mask, samples=self.samples)
        began = elapsed()
        ending = self._call(step, function, recorder)
        took_ms = round((elapsed() - began) * 1000)
        entries = self.operations.take()
        verdict, reason, failure = self._judge(step, ending)
        if verdict is Verdict.PARTLY or (verdict is Verdict.SUCCEEDS and entries):
            verdict = Verdict.PARTLY if recorder.executed else Verdict.NOT_EXECUTED
        samples = tuple(recorder.samples)
        trial = Trial(verdict, reason, dict(recorder.effects), entries, samples)
        error = None if failure is None else capture(failure)
        # A transactional step that fails rolls its writes back, which this transaction cannot.
        stands = failure is not None and not (step.file.transactional or ending.first_error)
        alive = stands or (reason is None and failure is None)
        return Outcome(step, StepState.NOT_RUN, took_ms, error, trial), alive

    def _call(self, step: Step, function: Callable[..., object], recorder: Recorder) -> _Ending:
        raised: BaseException | None = None
        server, session = self.runner.server, self.operations.session
        # What a transaction cannot hold fails a transactional step in a real run, too.
        plain = (
            contextlib.nullcontext() if step.file.transactional else answered_by(self.operations)
        )
        # The server and the driver end one long command; 0 would mean no limit.
        limit = pymongo.timeout(max(self.budget.seconds_left, 0.001))
        with confined(session) as confinement, listening(recorder), plain, limit:
            try:
                database = server.handle(transactional=True)
                call_function(function, self._context(step), database, self.runner.switch)
            except (KeyboardInterrupt, Stopped):
                raise
            except BaseException as exc:  # noqa: BLE001  (what a migration raises, SystemExit too, is its failure)
                raised = exc
        if self._is_timeout(raised) or self._is_timeout(confinement.failure):
            self.budget.time_out()
        return _Ending(raised, confinement.failure, confinement.escape)

    def _context(self, step: Step) -> Context:
        app, log, session = self.runner.app, log_of(step), self.operations.session
        if step.file.transactional:
            return Context(
                app, log, _ensure_nothing, refuse_in_transaction, session, rehearsal=True
            )
        # Half of the time that is left: the rest of the step needs some, too.
        until = elapsed() + self.budget.seconds_left / 2
        backfill = DryRunBackfill(
            server=self.runner.server,
            options=self.runner.backfills,
            on_end=self.operations.add_backfill,
            until=until,
            batches=BATCHES,
        )
        return Context(app, log, _ensure_nothing, backfill, rehearsal=True)

    def _is_timeout(self, exc: BaseException | None) -> bool:
        """Whether the driver or the server has ended a command because of our limit."""
        return isinstance(exc, PyMongoError) and exc.timeout and self.budget.is_nearly_over

    def _judge(
        self, step: Step, ending: _Ending
    ) -> tuple[Verdict, str | None, BaseException | None]:
        """Find the verdict, the reason for it, and the error of the step."""
        if self.budget.refusal is not None:
            return Verdict.TOO_LARGE, self.budget.refusal, None
        reason = self.operations.ended or self._unclear(ending)
        if reason is None and not step.file.transactional:
            reason = _only_here(ending)
        if reason is not None:
            return Verdict.PARTLY, reason, None
        if ending.failure is not None:
            return Verdict.FAILS, None, ending.failure
        return Verdict.SUCCEEDS, None, None

    def _unclear(self, ending: _Ending) -> str | None:
        """Explain why an error says nothing about a real run; None if it does."""
        first = ending.first_error or ending.raised
        if first is None:
            return None
        text = redact(str(first))
        if is_transient(first):
            text = text if code_of(first) != NO_SUCH_TRANSACTION else "its time was over"
            return f"the server ended the transaction of this dry run: {text}. Try again"
        if self.operations.unbuilt and code_of(first) in _NEEDS_AN_INDEX:
            return f"it may need an index that was not built, {self.operations.unbuilt}: {text}"
        return None


def _only_here(ending: _Ending) -> str | None:
    """Explain why the step fails in a dry run only; None if a real run fails, too."""
    if ending.escape is not None:
        what = str(ending.escape).partition(". ")[0]
        return f"{what}, which a dry run cannot roll back"
    first = ending.first_error
    if first is None:
        return None
    text = redact(str(first))
    if code_of(first) in _NOT_IN_A_TRANSACTION:
        return f"the server allows this in no transaction: {text}"
    if ending.raised is None or ending.is_late:
        return f"it continues after an error, which ended the transaction of the dry run: {text}"
    return None


def _ensure_nothing() -> None:
    """Replace the check of the lease, which a dry run does not hold."""
