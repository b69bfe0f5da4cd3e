"""`ctx.backfill()` of a step: begin or resume a call, execute it, and follow requests. And that of a dry run."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError

from flask_migrate_mongo.driver.server import Document
from flask_migrate_mongo.driver.tracing import position
from flask_migrate_mongo.driver.transactions import Transactions
from flask_migrate_mongo.model.errors import BackfillError
from flask_migrate_mongo.model.reports import Backfilled
from flask_migrate_mongo.model.values import Progress, Request
from flask_migrate_mongo.process import StopSwitch, elapsed
from flask_migrate_mongo.store.lease import Grant
from flask_migrate_mongo.store.records import Claim

from .batches import POLL_SECONDS, Batch, BatchedCollection, Worker, WorkerControl, checkpoint_after
from .checkpoints import Checkpoint, CheckpointStore, IdRange, Phase, StoredBackfill
from .executors import RangeTask, WorkerPool, sendable
from .options import BackfillArguments, BackfillCallable
from .progress import ProgressMeter

if TYPE_CHECKING:
    import logging


_T = TypeVar("_T")


@dataclass(kw_only=True)
class Backfill(BackfillCallable):
    """`ctx.backfill` of one step, under the lease of its run.

    `claim` is the step's record, which stores the checkpoints. `on_begin` is called with what earlier runs have done, and
    `on_progress` after each batch.
    """

    claim: Claim
    lease: Grant
    switch: StopSwitch
    log: logging.Logger
    sleep: Callable[[float], None]
    on_progress: Callable[[Progress], None]
    on_begin: Callable[[Progress], None] = lambda _: None
    _numbers: Iterator[int] = field(default_factory=count, init=False)

    def _execute(self, arguments: BackfillArguments) -> Backfilled:
        with self.switch.deferred(), self.server.session() as session:
            store = CheckpointStore(self.claim, next(self._numbers), session)
            return BackfillJob(self, arguments, store, session).run()


@dataclass
class BackfillJob(WorkerControl):
    """One call of `ctx.backfill()`, from its begin, or its resumption, to its end.

    As the control of its workers it stops them when the lease is lost, or when a signal or a request
    stops the run, and pauses them on request.
    """

    _step: Backfill
    _arguments: BackfillArguments
    _store: CheckpointStore
    _session: ClientSession | None

    def __post_init__(self) -> None:
        # A function that cannot be sent is refused here, before anything is stored.
        self._sent = sendable(self._arguments)
        self._documents = BatchedCollection(self._step.server, self._arguments)
        self._transactions = Transactions(self._step.server, self._step.sleep)

    def run(self) -> Backfilled:
        """Begin or resume the call, and execute it to its end."""
        stored = self._repeat(self._store.find)
        if stored is None:
            stored = self._repeat(self._begin)
        else:
            self._resume(stored)
        if stored.state.phase is Phase.DONE:
            if stored.ranges:  # A run that was killed here has left them.
                self._repeat(self._store.delete_ranges)
            return stored.state.counts
        if (reason := self._step.server.transactions_lacking) is not None:
            self._step.log.warning(
                "This server has no transactions (%s). If this backfill is interrupted, a batch of it "
                "can be executed twice.",
                reason,
            )
        scanned = self._repeat(lambda: self._store.scanned(stored))
        self._meter = ProgressMeter(
            stored.collection, stored.total, scanned, self._step.on_progress, self._step.log
        )
        self._step.on_begin(Progress(stored.collection, scanned, stored.total))
        if stored.has_workers:
            self._run_workers()
        worker = Worker(
            self._documents, self._store.checkpoint, self, self._transactions, self._session
        )
        counts = worker.run()
        if stored.ranges:
            self._repeat(self._store.delete_ranges)
        return counts

    def _repeat(self, action: Callable[[], _T]) -> _T:
        """Repeat an action over elections and lost connections, as long as the lease is held."""

        def held() -> _T:
            self._step.lease.ensure()
            return action()

        return self._transactions.repeat(held, self._step.log)

    def _begin(self) -> StoredBackfill:
        self._documents.ensure_supported()
        ranges = []
        if self._arguments.ranges > 1 and self._step.server.allows_workers:
            ranges = self._documents.sample_ranges(self._arguments.ranges)
            self._store.create_ranges(ranges)
        total = self._documents.estimate()
        stored = StoredBackfill(self._arguments.collection, total, len(ranges))
        self._store.begin(stored)
        return stored

    def _resume(self, stored: StoredBackfill) -> None:
        collection = self._arguments.collection
        if stored.collection != collection:
            msg = (
                f"Backfill {self._store.number + 1} of this migration changed {stored.collection} "
                f"before it was interrupted, but now changes {collection}. Call ctx.backfill() in the "
                "same order each time."
            )
            raise BackfillError(msg)
        if stored.state.phase is not Phase.DONE:
            self._step.log.info("The backfill of %s continues", collection)
            at = self._step.lease.ensure()
            self._repeat(lambda: self._store.resume(stored, at))

    def _run_workers(self) -> None:
        """Work on the ranges with several workers, and combine their checkpoints into that of the record."""
        ranges = self._repeat(self._store.take_over_ranges)
        sent, name = self._sent, self._store.ranges.name
        if sent.max_per_second:
            sent = replace(sent, max_per_second=sent.max_per_second / len(ranges))
        tasks = [
            RangeTask(sent, name, range_id, self._store.run_id, bounds, position())
            for range_id, bounds in ranges.items()
        ]
        pool = WorkerPool(self._step.server, self._store, tasks)
        pool.run(self._arguments.workers, self._check_workers)
        after = self._repeat(self._store.read_ranges).combined
        self._repeat(lambda: self._store.checkpoint.advance(after, fields={}))

    def _check_workers(self) -> Request | None:
        """Report the progress of all workers, and decide whether they pause.

        Raises LeaseLostError, Stopped, RejectedError.
        """
        ranges = self._repeat(self._store.read_ranges)
        combined, self._meter.ranges = ranges.combined, ranges.progress
        self._documents.ensure_few_rejected(combined.rejected)
        update = {"$set": self.fields_with(combined)}
        request = self._repeat(lambda: self._store.checkpoint.update(update))
        self.committed(combined)
        return Request.PAUSE if self.is_paused(request) else None

    # --- the control of workers

    def is_paused(self, request: Request | None) -> bool:
        """Whether a request, or `pause_when`, pauses the backfill.

        Raises LeaseLostError, and Stopped if a signal or a request stops the run.
        """
        if request is Request.CANCEL:
            self._step.switch.request_stop("a request to cancel it")
        self._ensure_running()
        pause_when = self._arguments.pause_when
        paused = request is Request.PAUSE or (pause_when is not None and bool(pause_when()))
        if paused is not self._meter.paused:
            self._show_pause(paused=paused)
        return paused

    def _show_pause(self, *, paused: bool) -> None:
        """Record and report that a pause began or ended."""
        progress = self._meter.pause() if paused else self._meter.resume()
        update = {"$set": {"metadata.progress": progress.document()}}
        self._repeat(lambda: self._store.checkpoint.update(update))
        self._step.on_progress(progress)

    def sleep(self, seconds: float) -> None:
        """Wait, but not for long once the run is stopped."""
        until = elapsed() + seconds
        while (left := until - elapsed()) > 0:
            self._ensure_running()
            self._step.sleep(min(left, POLL_SECONDS))

    def _ensure_running(self) -> None:
        self._step.lease.ensure()
        self._step.switch.check_inside()

    def fields_with(self, checkpoint: Checkpoint) -> Document:
        """Build the progress, and at the end what was rejected. Raises LeaseLostError."""
        # The migration's function may have taken long since the last check.
        self._step.lease.ensure()
        progress = self._meter.at(checkpoint.counts.scanned)
        fields: Document = {"metadata.progress": progress.document()}
        if checkpoint.phase is Phase.DONE and checkpoint.rejected:
            fields[f"metadata.rejected.{self._store.number}"] = {
                "collection": self._arguments.collection,
                "documents": list(checkpoint.rejected),
            }
        return fields

    def committed(self, checkpoint: Checkpoint) -> None:
        """Report the progress."""
        self._meter.report(checkpoint.counts.scanned)


# --- in a dry run


@dataclass(frozen=True, slots=True)
class ExecutedBatches:
    """The part of a backfill that a dry run executed; `estimated` documents are in the whole of it."""

    collection: str
    processed: int
    estimated: int | None
    seconds: float
    complete: bool


@dataclass(kw_only=True)
class DryRunBackfill(BackfillCallable):
    """`ctx.backfill` of a dry run: executes the first batches in the transaction of the dry run.

    It stores no checkpoint and has no workers. It stops after `batches` batches, or at the time `until`
    on the clock of `elapsed`, but never before the first batch. `on_end` receives what was executed.
    """

    on_end: Callable[[ExecutedBatches], None]
    on_refused: Callable[[str], BaseException]
    until: float
    batches: int

    def _execute(self, arguments: BackfillArguments) -> Backfilled:
        sendable(arguments)  # A real run would refuse it.
        began = elapsed()
        # In an empty context, because these commands are not allowed in a transaction.
        documents, estimated = contextvars.Context().run(self._open, arguments)
        done = Checkpoint()
        with contextlib.closing(documents):
            for executed in count():
                batch = documents.read(IdRange(done.at))
                is_over = executed >= self.batches or elapsed() >= self.until
                if not batch or (executed and is_over):
                    break
                done = checkpoint_after(done, batch, self._write(documents, batch))
                documents.ensure_few_rejected(done.rejected)
        took, complete = elapsed() - began, batch is None
        scanned = done.counts.scanned
        self.on_end(ExecutedBatches(arguments.collection, scanned, estimated, took, complete))
        return done.counts

    def _write(self, documents: BatchedCollection, batch: Batch) -> tuple[int, int]:
        """Write a batch. A real run looks for the document that was refused, for which this transaction is lost."""
        try:
            return documents.write(batch, None)
        except BulkWriteError as exc:
            if not documents.arguments.max_rejected:
                raise
            raise self.on_refused(documents.arguments.collection) from exc

    def _open(self, arguments: BackfillArguments) -> tuple[BatchedCollection, int | None]:
        documents = BatchedCollection(self.server, arguments)
        documents.ensure_supported()
        return documents, documents.estimate()
