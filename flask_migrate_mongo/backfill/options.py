"""The arguments of `ctx.backfill()`, and their defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NoReturn

from pymongo.collection import Collection

from flask_migrate_mongo.driver.server import Document, DocumentView, Server, Update
from flask_migrate_mongo.files.loading import PortableFunction
from flask_migrate_mongo.model.errors import BackfillError
from flask_migrate_mongo.model.masking import Mask
from flask_migrate_mongo.model.reports import Backfilled

Change = Update | Callable[[Document], Update | None]

EXECUTOR_RANGES = 8
"""Default number of ranges for an executor, which works on as many at once as it can."""

MAX_REJECTED = 1_000
"""The record stores each rejected document with its error, and is limited in size."""


@dataclass(frozen=True, slots=True)
class BackfillOptions:
    """Defaults for arguments of `ctx.backfill()`, from the settings `MIGRATE_BACKFILL_*`."""

    batch_size: int = 1_000
    workers: int = 1
    max_per_second: float | None = None
    on_error: str = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillArguments:
    """The arguments of one call of `ctx.backfill()`, validated.

    More than `max_rejected` rejected documents stop the backfill. `mask` hides secrets in their errors.
    """

    collection: str
    change: Change | PortableFunction[Update | None]
    where: DocumentView
    batch_size: int
    max_per_second: float | None
    max_rejected: int
    pause_when: Callable[[], object] | None
    workers: int | Executor
    ranges: int
    mask: Mask


@dataclass(kw_only=True)
class BackfillCallable:
    """Validates the arguments of `ctx.backfill()`; subclasses execute the call."""

    server: Server
    options: BackfillOptions
    mask: Mask

    def __call__(  # noqa: PLR0913  (each is an option of its own)
        self,
        collection: str | Collection[Document],
        change: Change,
        *,
        where: DocumentView | None = None,
        batch_size: int | None = None,
        workers: int | Executor | None = None,
        ranges: int | None = None,
        max_per_second: float | None = None,
        pause_when: Callable[[], object] | None = None,
        on_error: str | None = None,
        max_rejected: int = 100,
    ) -> Backfilled:
        """Change the documents of a collection that match `where`, in batches.

        `change` is an update document, an update pipeline, or a function that receives a document and
        returns its update, or None to skip it. Each batch and the checkpoint are one transaction. After
        an interruption the next `up` continues after the last committed batch. The returned counts
        start at the first batch, in whichever run that was.

        Raises BackfillError for arguments that are not valid, and RejectedError for a document that
        the function or the server refused. `on_error="collect"` skips up to `max_rejected` of those.
        """
        rate = self.options.max_per_second if max_per_second is None else max_per_second
        if rate is not None and not rate > 0:
            msg = f"max_per_second is {rate!r}. Use a number above 0, or leave it out."
            raise BackfillError(msg)
        size = _integer(
            "batch_size", self.options.batch_size if batch_size is None else batch_size, least=1
        )
        # A batch of more than a second's documents would exceed the rate while it is written.
        size = size if rate is None else min(size, max(1, int(rate)))
        limit = self._rejected_limit(on_error or self.options.on_error, max_rejected)
        workers = self.options.workers if workers is None else workers
        if not isinstance(workers, Executor):
            workers = _integer("workers", workers, least=1)
        if ranges is None:
            ranges = EXECUTOR_RANGES if isinstance(workers, Executor) else workers
        return self._execute(
            BackfillArguments(
                collection=self._name(collection),
                change=_valid(change),
                where=dict(where or {}),
                batch_size=size,
                max_per_second=rate,
                max_rejected=limit,
                pause_when=pause_when,
                workers=workers,
                ranges=_integer("ranges", ranges, least=1),
                mask=self.mask,
            )
        )

    def _execute(self, arguments: BackfillArguments) -> Backfilled:
        raise NotImplementedError

    def _rejected_limit(self, on_error: str, max_rejected: int) -> int:
        if on_error == "stop":
            return 0
        if on_error == "collect":
            return min(_integer("max_rejected", max_rejected, least=0), MAX_REJECTED)
        msg = f'on_error is {on_error!r}. Use "stop" or "collect".'
        raise BackfillError(msg)

    def _name(self, collection: str | Collection[Document]) -> str:
        if isinstance(collection, str):
            return collection
        database = getattr(getattr(collection, "database", None), "name", None)
        if database != self.server.database.name:
            msg = f"{collection!r} is not a collection of the database of the migrations. Pass its name."
            raise BackfillError(msg)
        return collection.name


def is_update(value: object) -> bool:
    """Whether a value is an update document or a pipeline."""
    if isinstance(value, Mapping):
        return bool(value) and all(key.startswith("$") for key in value)
    return isinstance(value, list) and bool(value)


def _valid(change: Change) -> Change:
    if callable(change) or is_update(change):
        return change
    msg = (
        f"{change!r:.80} is not a valid change. Pass an update, {{'$set': {{...}}}}, a pipeline, "
        "[{'$set': {...}}], or a function that receives a document and returns one of these or None."
    )
    raise BackfillError(msg)


def _integer(name: str, value: int, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        msg = f"{name} is {value!r}. Use a whole number, {least} or more."
        raise BackfillError(msg)
    return value


def refuse_in_transaction(*_: object, **__: object) -> NoReturn:
    """Refuse, as the `ctx.backfill` of a transactional migration. Raises BackfillError."""
    msg = (
        "A transactional migration cannot call ctx.backfill(): the migration is committed once, at its "
        "end, but a backfill after every batch. Delete `transactional = True`, or use `update_many()` "
        "if the collection is small."
    )
    raise BackfillError(msg)
