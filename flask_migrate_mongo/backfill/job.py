"""`ctx.backfill()` of a step: begin or resume a call, execute it, and follow requests meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING

from flask_migrate_mongo.driver.transactions import Transactions
from flask_migrate_mongo.model.errors import BackfillError
from flask_migrate_mongo.model.values import Request
from flask_migrate_mongo.process import elapsed

from .batches import (
    POLL_SECONDS,
    BatchedCollection,
    Worker,
    WorkerControl,
    ensure_few_rejected,
)
from .checkpoints import Checkpoint, CheckpointStore, Phase, StoredBackfill
from .executors import RangeTask, WorkerPool, portable
from .options import BackfillCallable
from .progress import ProgressMeter, progress_document

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator, Mapping

    from pymongo.client_session import ClientSession

    from flask_migrate_mongo.driver.server import Document
    from flask_migrate_mongo.model.reports import Backfilled
    from flask_migrate_mongo.model.values import Progress
    from flask_migrate_mongo.process import StopSwitch
    from flask_migrate_mongo.store.lease import Grant
    from flask_migrate_mongo.store.records import Claim

    from .checkpoints import IdRange
    from .options import BackfillArguments


@dataclass(kw_only=True)
class Backfill(BackfillCallable):
    """`ctx.backfill` of one step, under the lease of its run.

    `claim` is the step's record, which stores the checkpoints. `on_progress` is called after each batch.
    """

    claim: Claim
    lease: Grant
    switch: StopSwitch
    log: logging.Logger
    sleep: Callable[[float], None]
    on_progress: Callable[[Progress], None]
    _numbers: Iterator[int] = field(default_factory=count, init=False)

    def _execute(self, arguments: BackfillArguments) -> Backfilled:
        job = BackfillJob(self, arguments, CheckpointStore(self.claim, next(self._numbers)))
        with self.switch.deferred(), self.server.session() as session:
            return job.run(session)


class BackfillJob(WorkerControl):
    """One call of `ctx.backfill()`, from its begin, or its resumption, to its end.

    As the control of its workers it stops them when the lease is lost, or when a signal or a request
    stops the run, and pauses them on request.
    """

    def __init__(
        self, step: Backfill, arguments: BackfillArguments, store: CheckpointStore
    ) -> None:
        self._step = step
        self._arguments = arguments
        self._store = store
        # A function that cannot be sent is refused here, before anything is stored.
        change = arguments.change
        self._sent_change = portable(change) if arguments.uses_processes else change
        self._documents = BatchedCollection(
            step.server, arguments.collection, change, arguments.batches
        )

    def run(self, session: ClientSession | None) -> Backfilled:
        """Begin or resume the call, and execute it to its end."""
        session_id = None if session is None else session.session_id["id"]
        stored = self._store.find()
        if stored is None:
            stored = self._begin(session_id)
        else:
            self._resume(stored, session_id)
        if stored.checkpoint.phase is Phase.DONE:
            return stored.checkpoint.counts
        self._warn_without_transactions()
        self._meter = ProgressMeter(stored, self._step.log, self._step.on_progress)
        # Once the workers are done, the checkpoint in the record continues after their ranges.
        if stored.ranges and stored.checkpoint.batches == 0:
            self._run_workers(stored.checkpoint)
        server, sleep = self._step.server, self._step.sleep
        transactions = Transactions(server, sleep)
        worker = Worker(self._documents, self._store.checkpoint, self, transactions, session)
        counts = worker.run().counts
        if stored.ranges:
            self._store.delete_ranges()
        return counts

    def _begin(self, session_id: bytes | None) -> StoredBackfill:
        self._documents.ensure_supported()
        ranges = []
        if self._arguments.ranges > 1 and self._step.server.allows_workers:
            ranges = self._documents.sample_ranges(self._arguments.ranges)
            self._store.create_ranges(ranges)
        total = self._documents.estimate()
        stored = StoredBackfill(self._arguments.collection, total, len(ranges))
        self._store.begin(stored, session_id)
        return stored

    def _resume(self, stored: StoredBackfill, session_id: bytes | None) -> None:
        collection = self._arguments.collection
        if stored.collection != collection:
            msg = (
                f"Backfill {self._store.number + 1} of this migration changed {stored.collection} "
                f"before it was interrupted, but now changes {collection}. Call ctx.backfill() in the "
                "same order each time."
            )
            raise BackfillError(msg)
        if stored.checkpoint.phase is not Phase.DONE:
            self._step.log.info("The backfill of %s continues", collection)
            self._store.resume(stored, self._step.lease.ensure(), session_id)

    def _warn_without_transactions(self) -> None:
        reason = self._step.server.transactions_lacking
        if reason is not None:
            self._step.log.warning(
                "This server has no transactions (%s). If this backfill is interrupted, a batch of it "
                "can be executed twice.",
                reason,
            )

    def _run_workers(self, before: Checkpoint) -> None:
        """Work on the ranges with several workers, and store their sum as the checkpoint of the record.

        The last range has no upper end, and may have grown after its worker was done. So the checkpoint
        is not yet at its end.
        """
        ranges = self._store.take_over_ranges()
        pool = WorkerPool(self._step.server, self._tasks(ranges))
        self._meter.start(sum(each.counts.scanned for each in pool.checkpoints()))
        pool.run(self._arguments.workers, self._check_workers)
        ends = pool.checkpoints()
        last, (*_, bounds) = ends[-1], ranges.values()
        after = Checkpoint(
            at=last.first_end or last.at or bounds.after,
            stays=True,  # Each range had its last pass.
            batches=before.batches + 1,
            counts=sum((each.counts for each in ends), before.counts),
            rejected=tuple(document for each in ends for document in each.rejected),
        )
        self._store.checkpoint.advance(before, after, fields={})

    def _tasks(self, ranges: Mapping[str, IdRange]) -> list[RangeTask]:
        options = self._arguments.batches
        if options.max_per_second:
            options = replace(options, max_per_second=options.max_per_second / len(ranges))
        return [
            RangeTask(
                collection=self._arguments.collection,
                change=self._sent_change,
                options=options,
                ranges=self._store.ranges.name,
                range_id=range_id,
                run_id=self._store.run_id,
                bounds=bounds,
            )
            for range_id, bounds in ranges.items()
        ]

    def _check_workers(self, checkpoints: list[Checkpoint]) -> Request | None:
        """Report the progress of all workers, and decide whether they pause.

        Raises LeaseLostError, Stopped, RejectedError.
        """
        rejected = [document for each in checkpoints for document in each.rejected]
        ensure_few_rejected(rejected, self._arguments.batches.max_rejected)
        progress = self._meter.at(sum(each.counts.scanned for each in checkpoints))
        request = self._store.set_fields({"metadata.progress": progress_document(progress)})
        self._meter.report(progress)
        self.check(request)
        return Request.PAUSE if self.is_paused(request) else None

    # --- the control of workers

    def check(self, request: Request | None) -> None:
        """Raise if the lease is lost, or if a signal or a request stops the run."""
        self._step.lease.ensure()
        if request is Request.CANCEL:
            self._step.switch.request_stop("a request to cancel it")
        self._step.switch.check_inside()

    def is_paused(self, request: Request | None) -> bool:
        """Whether a request, or `pause_when`, pauses the backfill."""
        pause_when = self._arguments.pause_when
        return request is Request.PAUSE or (pause_when is not None and bool(pause_when()))

    def sleep(self, seconds: float) -> None:
        """Wait, but not for long once the run is stopped."""
        until = elapsed() + seconds
        while (left := until - elapsed()) > 0:
            self.check(None)
            self._step.sleep(min(left, POLL_SECONDS))

    def fields_with(self, checkpoint: Checkpoint) -> Document:
        """Build the progress, and at the end what was rejected. Raises LeaseLostError."""
        # The migration's function may have taken long since the last check.
        self._step.lease.ensure()
        progress = progress_document(self._meter.at(checkpoint.counts.scanned))
        fields: Document = {"metadata.progress": progress}
        if checkpoint.phase is Phase.DONE and checkpoint.rejected:
            fields[f"metadata.rejected.{self._store.number}"] = {
                "collection": self._arguments.collection,
                "documents": list(checkpoint.rejected),
            }
        return fields

    def committed(self, checkpoint: Checkpoint) -> None:
        """Report the progress."""
        self._meter.report(self._meter.at(checkpoint.counts.scanned))
