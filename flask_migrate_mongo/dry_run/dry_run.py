"""A plan executed for real, in one transaction that is never committed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pymongo
from pymongo.errors import PyMongoError

from flask_migrate_mongo.backfill import DryRunBackfill, ExecutedBatches, refuse_in_transaction
from flask_migrate_mongo.driver import listener as wire
from flask_migrate_mongo.driver.confinement import confined
from flask_migrate_mongo.driver.server import elapsed
from flask_migrate_mongo.driver.transactions import is_transient, transaction
from flask_migrate_mongo.engine.executor import (
    NO_SUCH_TRANSACTION,
    Context,
    caught,
    code_of,
    log_of,
)
from flask_migrate_mongo.model.errors import (
    DryRunTooLongError,
    NotRehearsableError,
    capture,
    redact,
)
from flask_migrate_mongo.model.reports import (
    Expected,
    Outcome,
    Prediction,
    StepState,
    Trial,
    Verdict,
)
from flask_migrate_mongo.process.signals import Stopped

from .effects import DOCUMENTS_LIMIT, Budget, Recorder, masked
from .forecast import Forecast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from flask_migrate_mongo.engine.executor import Executor
    from flask_migrate_mongo.model.errors import EscapesTransactionError, TooLargeToRehearseError
    from flask_migrate_mongo.model.masking import Mask
    from flask_migrate_mongo.model.values import Plan, Step

    Functions = Mapping[int, Callable[..., object]]

BATCHES = 10
"""How many batches of a backfill a dry run makes: enough to see what it does, and how fast."""

_CHANGES = (Expected.DONE, Expected.UNKNOWN)

_NOT_IN_A_TRANSACTION = 263
"""OperationNotSupportedInTransaction."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Whom to tell of a step that begins, and of what it would do."""

    started: Callable[[Step], None]
    ended: Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class DryRun:
    """Rehearses the steps of a plan, each on what those before it have left.

    `readable` names a collection that may be read. `seconds` and `documents`, how many may be written, are for all of
    them together. `samples` is how many documents of each step are shown before and after.
    """

    executor: Executor
    readable: str
    mask: Mask
    seconds: float
    samples: int
    documents: int = DOCUMENTS_LIMIT

    def check(self) -> None:
        """Raise UnsupportedDriverError when migrations could not be kept inside the transaction.

        Raises DryRunTooLongError when the server would end that before the dry run is to.
        """
        self.executor.check()
        wire.check_driver()
        allowed = self.executor.server.transaction_seconds()
        if allowed is not None and self.seconds >= allowed:
            raise DryRunTooLongError(self.seconds, allowed)

    def carry_out(
        self, plan: Plan, functions: Functions, listener: Listener, *, continue_on_error: bool
    ) -> tuple[Outcome, ...]:
        """Return what each step would do, having taken everything back."""
        outcomes: list[Outcome] = []
        over: str | None = None
        with self._opened() as opened:
            for step in plan.steps:
                if over is None:
                    listener.started(step)
                    outcome, may_go_on = opened.rehearse(step, functions[step.version])
                    if not (may_go_on and (continue_on_error or not outcome.failed)):
                        over = _over(outcome)
                else:
                    outcome = _unreached(step, over)
                outcomes.append(outcome)
                listener.ended(outcome)
        return tuple(outcomes)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[_Opened]:
        server, budget = self.executor.server, Budget(self.seconds, documents=self.documents)
        with server.database.client.start_session() as session:
            in_time = False
            try:
                with transaction(session):
                    yield _Opened(self, session, budget)
                    in_time = budget.seconds_left > 0
            finally:
                if not in_time:
                    # What a limit or a signal cut short may still run on the server, with its locks.
                    server.kill_session(session.session_id["id"])


class _Opened:
    """The open transaction of a dry run, and what is known of what was done in it."""

    def __init__(self, dry_run: DryRun, session: ClientSession, budget: Budget) -> None:
        self._dry_run = dry_run
        self._session = session
        self._budget = budget
        self._database = dry_run.executor.server.handle(transactional=True)
        self._forecast = Forecast(self._database, self._write_unheard, dry_run.mask)
        self._predicted: dict[str, set[int]] = {}
        # The first command begins the transaction, and must be none whose sending is still undecided.
        self._database[dry_run.readable].find_one({}, {"_id": 1}, session=session)

    def rehearse(self, step: Step, function: Callable[..., object]) -> tuple[Outcome, bool]:
        """Return what the step would do, and whether the transaction can serve the next one."""
        session_id = self._session.session_id["id"]
        recorder = Recorder(self._database, session_id, self._budget, samples=self._dry_run.samples)
        backfilled: list[ExecutedBatches] = []
        backfill = self._backfill(backfilled.append)
        began = elapsed()
        end = self._call(step, function, recorder, backfill)
        took_ms = round((elapsed() - began) * 1000)
        verdict, reason, failure = _judge(step, end)
        predicted = (*self._forecast.take(), *recorder.unknown, *map(_begun, backfilled))
        trial = self._trial(step, recorder, predicted, verdict, reason)
        error = None if failure is None else capture(failure)
        # A transactional step that fails takes its writes back, which this transaction cannot.
        stands = verdict is Verdict.FAILS and not (step.file.transactional or end.first_error)
        alive = verdict is Verdict.SUCCEEDS or stands
        return Outcome(step, StepState.NOT_RUN, took_ms, error, trial), alive

    def _backfill(self, on_end: Callable[[ExecutedBatches], None]) -> DryRunBackfill:
        """Return what does the first batches of a step's backfills."""
        executor, until = self._dry_run.executor, elapsed() + self._budget.seconds_left / 2
        return DryRunBackfill(
            server=executor.server,
            options=executor.backfills,
            on_end=on_end,
            until=until,
            batches=BATCHES,
        )

    def _context(self, step: Step, backfill: DryRunBackfill) -> Context:
        in_one_go = step.file.transactional
        return Context(
            self._dry_run.executor.app,
            log_of(step),
            _unheld,
            refuse_in_transaction if in_one_go else backfill,
            self._session if in_one_go else None,
            rehearsal=True,
        )

    def _call(
        self,
        step: Step,
        function: Callable[..., object],
        recorder: Recorder,
        backfill: DryRunBackfill,
    ) -> _End:
        context = self._context(step, backfill)
        raised: BaseException | None = None
        broken: tuple[Prediction, ...] = ()
        with confined(self._session) as confinement, wire.tapped(recorder), self._timeout():
            try:
                self._dry_run.executor.call(function, context, self._handle(step))
                broken = self._forecast.settle(recorder.effects)
            except (KeyboardInterrupt, Stopped):
                raise
            except BaseException as exc:  # noqa: BLE001  (what a migration raises, SystemExit too, is its failure)
                raised = exc
        failure = confinement.failure
        late = self._is_late(raised) or self._is_late(failure)
        refusal = self._budget.timed_out() if late else self._budget.refusal
        return _End(raised, failure, confinement.escape, refusal, _failing(broken))

    def _is_late(self, exc: BaseException | None) -> bool:
        """Whether the driver or the server has cut a command short for our limit."""
        return isinstance(exc, PyMongoError) and exc.timeout and self._budget.is_nearly_over

    def _timeout(self) -> contextlib.AbstractContextManager[Any]:
        # One long command is ended by the server and by the driver; 0 would mean no limit.
        return pymongo.timeout(max(self._budget.seconds_left, 0.001))

    def _write_unheard(self, documents: int) -> None:
        self._budget.admit(documents)
        self._budget.spend(documents)

    def _handle(self, step: Step) -> Database[Any]:
        # What a transaction does not allow fails a transactional migration, for real as well as here.
        return self._database if step.file.transactional else self._forecast.database

    def _trial(
        self,
        step: Step,
        recorder: Recorder,
        predicted: tuple[Prediction, ...],
        verdict: Verdict,
        reason: str | None,
    ) -> Trial:
        used = recorder.touched.union(prediction.collection for prediction in predicted)
        earlier = {version for name in used for version in self._predicted.get(name, ())}
        changed = {each.collection for each in predicted if each.expected in _CHANGES}
        # A new name is in no prediction's `collection`, but the forecast knows of it.
        for name in changed | (self._forecast.touched - self._predicted.keys()):
            self._predicted.setdefault(name, set()).add(step.version)
        return Trial(
            verdict,
            reason,
            dict(recorder.effects),
            predicted,
            tuple(masked(sample, self._dry_run.mask) for sample in recorder.samples),
            tuple(sorted(earlier)),
        )


@dataclass(frozen=True, slots=True)
class _End:
    """How a step's function ended: what it raised, what ended the transaction, and what was refused."""

    raised: BaseException | None
    first_error: PyMongoError | None
    escape: EscapesTransactionError | None
    refusal: TooLargeToRehearseError | None
    broken_rule: Prediction | None = None

    @property
    def is_late(self) -> bool:
        """Whether what was raised only says that the transaction had ended before."""
        return code_of(self.raised) == NO_SUCH_TRANSACTION != code_of(self.first_error)

    @property
    def failure(self) -> BaseException | None:
        """What a step in a transaction of its own would fail with."""
        if self.raised is not None and not (self.is_late and self.first_error):
            return self.raised
        return self.escape or (caught(self.first_error) if self.first_error else None)


def _judge(step: Step, end: _End) -> tuple[Verdict, str | None, BaseException | None]:
    """Return the verdict, the reason where it needs one, and what the step would fail with."""
    if end.refusal is not None:
        return Verdict.TOO_LARGE, end.refusal.why, None
    reason = _unclear(end) or (None if step.file.transactional else _not_as_plain(end))
    if reason is not None:
        return Verdict.NOT_REHEARSED, reason, None
    if end.failure is not None:
        return Verdict.FAILS, None, end.failure
    if end.broken_rule is not None:
        return Verdict.FAILS, end.broken_rule.detail.removeprefix("would fail: "), None
    return Verdict.SUCCEEDS, None, None


def _unclear(end: _End) -> str | None:
    """Return why it is unknown what a step would do, whatever kind it is."""
    if isinstance(end.raised, NotRehearsableError):
        return str(end.raised)
    first = end.first_error or end.raised
    if first is not None and is_transient(first):
        detail = (
            redact(str(first)) if code_of(first) != NO_SUCH_TRANSACTION else "its time was over"
        )
        return f"the server ended the transaction of this dry run: {detail}. Try again"
    return None


def _not_as_plain(end: _End) -> str | None:
    """Return what a plain step may do for real, and not in the transaction of a dry run."""
    if end.escape is not None:
        what = str(end.escape).partition(". ")[0]
        return f"{what}, which a dry run cannot take back"
    first = end.first_error
    if first is None:
        return None
    if code_of(first) == _NOT_IN_A_TRANSACTION:
        return f"the server allows this in no transaction: {redact(str(first))}"
    if end.raised is None or end.is_late:
        return (
            "it goes on after an error, which the transaction of a dry run does not survive: "
            f"{redact(str(first))}"
        )
    return None


def _failing(predictions: Iterable[Prediction]) -> Prediction | None:
    """Return the first that says that a write would have failed on the way."""
    return next((each for each in predictions if each.expected is Expected.FAILS), None)


def _begun(done: ExecutedBatches) -> Prediction:
    """Return what is said of a backfill of which the first batches were made."""
    facts: dict[str, Any] = {"documents": done.processed, "estimatedDocuments": done.estimated}
    if done.estimated is None or not done.processed:
        what = (
            f"its first {done.processed:,} documents were changed; how many there are is not known"
        )
        return Prediction("backfill", done.collection, Expected.UNKNOWN, what, facts)
    seconds = done.seconds * max(done.estimated / done.processed, 1)
    detail = (
        f"{done.processed:,} of about {done.estimated:,} documents were changed here; at that speed all of "
        f"them take about {seconds:,.0f} s"
    )
    facts["estimatedSeconds"] = round(seconds, 1)
    return Prediction("backfill", done.collection, Expected.DONE, detail, facts)


def _over(outcome: Outcome) -> str:
    """Return why the steps after this one are not rehearsed."""
    assert outcome.trial is not None  # noqa: S101
    if outcome.trial.verdict is Verdict.FAILS:
        return f"{outcome.step.version} would fail before it"
    return f"{outcome.step.version}, on which it may build, was not rehearsed to its end"


def _unreached(step: Step, reason: str) -> Outcome:
    return Outcome(step, StepState.NOT_RUN, trial=Trial(Verdict.NOT_REHEARSED, reason, {}))


def _unheld() -> None:
    """Stand for the lease, which a dry run does not hold and need not hold."""
