"""How far a backfill is, and how fast: measured, stored and reported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_migrate_mongo.model.values import Progress
from flask_migrate_mongo.process import elapsed

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from flask_migrate_mongo.driver.server import Document

    from .checkpoints import StoredBackfill

LOG_SECONDS = 10


class ProgressMeter:
    """Measures the progress of one call of `ctx.backfill()`, from now on."""

    def __init__(
        self,
        stored: StoredBackfill,
        log: logging.Logger,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._stored = stored
        self._log = log
        self._on_progress = on_progress
        self.start(stored.checkpoint.counts.scanned)

    def start(self, done: int) -> None:
        """Measure from now on; `done` documents were processed before."""
        self._done_before = done
        self._began = self._logged = elapsed()

    def at(self, done: int) -> Progress:
        """Compute the progress after this number of documents."""
        took = elapsed() - self._began
        rate = (done - self._done_before) / took if took > 0 else None
        total = None if self._stored.total is None else max(self._stored.total, done)
        left = (total - done) / rate if rate and total is not None else None
        return Progress(self._stored.collection, done, total, rate, left)

    def report(self, progress: Progress) -> None:
        """Report it to the observer, and every ten seconds to the log."""
        self._on_progress(progress)
        if elapsed() - self._logged >= LOG_SECONDS:
            self._logged = elapsed()
            self._log.info("%s", _line(progress))


def progress_document(progress: Progress) -> Document:
    """Build the stored document of a progress."""
    rate, left = progress.per_second, progress.seconds_left
    return {
        "collection": progress.collection,
        "done": progress.done,
        "total": progress.total,
        "perSecond": None if rate is None else round(rate, 1),
        "secondsLeft": None if left is None else round(left, 1),
    }


def _line(progress: Progress) -> str:
    total = "" if progress.total is None else f" of about {progress.total}"
    rate = "" if progress.per_second is None else f", {progress.per_second:.0f} a second"
    left = "" if progress.seconds_left is None else f", {progress.seconds_left:.0f} s left"
    return f"{progress.collection}: {progress.done}{total}{rate}{left}"
