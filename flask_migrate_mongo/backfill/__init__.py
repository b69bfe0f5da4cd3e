"""Changes of documents in batches, which resume where they were interrupted.

Exports `Backfill`, the `ctx.backfill` of a step; `DryRunBackfill`, that of a dry run; `refuse_in_transaction`, that of
a transactional migration; and `BackfillOptions`, their defaults. May use pymongo, the driver, and the records of the
store; knows neither the engine nor the settings.
"""

from .job import Backfill, DryRunBackfill, ExecutedBatches
from .options import BackfillOptions, refuse_in_transaction

__all__ = [
    "Backfill",
    "BackfillOptions",
    "DryRunBackfill",
    "ExecutedBatches",
    "refuse_in_transaction",
]
