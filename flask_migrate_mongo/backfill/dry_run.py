"""`ctx.backfill()` of a dry run, which executes only the first batches."""

from __future__ import annotations

import contextvars
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask_migrate_mongo.model.reports import Backfilled
from flask_migrate_mongo.process import elapsed

from .batches import BatchedCollection, count_batch
from .checkpoints import DocumentId, IdRange
from .options import BackfillCallable

if TYPE_CHECKING:
    from collections.abc import Callable

    from .options import BackfillArguments


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
    until: float
    batches: int

    def _execute(self, arguments: BackfillArguments) -> Backfilled:
        began = elapsed()
        # In an empty context, because these commands are not allowed in a transaction.
        documents, estimated = contextvars.Context().run(self._open, arguments)
        counts, complete = Backfilled(), True
        after: DocumentId | None = None
        number = 0
        try:
            while batch := documents.read(IdRange(after)):
                if number and (number >= self.batches or elapsed() >= self.until):
                    complete = False
                    break
                result = documents.write(batch, None, check_where=False)
                rejected = sum(change.error is not None for change in batch)
                counts += count_batch(batch, result, rejected=rejected)
                after, number = DocumentId(batch[-1].id), number + 1
        finally:
            documents.close()
        took = elapsed() - began
        self.on_end(
            ExecutedBatches(arguments.collection, counts.scanned, estimated, took, complete)
        )
        return counts

    def _open(self, arguments: BackfillArguments) -> tuple[BatchedCollection, int | None]:
        documents = BatchedCollection(
            self.server, arguments.collection, arguments.change, arguments.batches
        )
        documents.ensure_supported()
        return documents, documents.estimate()
