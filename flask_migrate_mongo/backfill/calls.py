"""What a migration calls: `ctx.backfill()`, checked, begun or resumed, and carried out."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from pymongo.errors import ExecutionTimeout

from flask_migrate_mongo.errors import BackfillError
from flask_migrate_mongo.model import Backfilled, Progress, Request
from flask_migrate_mongo.server import elapsed, translated
from flask_migrate_mongo.transactions import Transactions

from .batches import Gate, Prepare, PrepareByFunction, Reader, Work, Worker, Writer
from .checkpoints import Call, Checkpoint, Notebook, Phase

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

    from flask_migrate_mongo.server import Document, Server
    from flask_migrate_mongo.stopping import StopSwitch

    from .batches import Change
    from .checkpoints import Slot

LOG_SECONDS = 10
POLL_SECONDS = 0.5
COUNT_MS = 1_000
"""How long counting what is to be done may take; without a count there is no estimate."""

MOST_REJECTED = 1_000
"""Rejected documents are kept in the record, each with its error, so there is a limit."""


class Hold(Protocol):
    """The lease that a backfill runs under."""

    def ensure(self) -> None:
        """Raise LeaseLostError when it is known to be lost."""

    def now(self) -> datetime:
        """Return the server's time."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a call does not say."""

    batch_size: int = 1_000
    workers: int = 1
    max_per_second: float | None = None
    on_error: str = "stop"


@dataclass(frozen=True, slots=True)
class Site:
    """Where a step's backfills run: on which server, under which lease, and who hears of them."""

    server: Server
    switch: StopSwitch
    hold: Hold
    notebook: Notebook
    log: logging.Logger
    tell: Callable[[Progress], None]
    sleep: Callable[[float], None]
    defaults: Defaults


@dataclass(frozen=True, slots=True)
class Order:
    """One call, as it was asked for."""

    collection: str
    change: Change
    work: Work
    pause_when: Callable[[], object] | None

    @property
    def prepare(self) -> Prepare:
        """What makes batches of what is read."""
        if callable(self.change):
            return PrepareByFunction(self.change, collect=self.work.max_rejected > 0)
        return Prepare(self.change)


class Backfill:
    """`ctx.backfill` of one step."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._calls = 0

    def __call__(  # noqa: PLR0913  (each is an option of its own)
        self,
        collection: str | Collection[Any],
        change: Change,
        *,
        where: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        max_per_second: float | None = None,
        pause_when: Callable[[], object] | None = None,
        on_error: str | None = None,
        max_rejected: int = 100,
    ) -> Backfilled:
        """Change the documents of a collection that match `where`, a batch at a time.

        `change` is an update document, an update pipeline, or a function that is given a document
        and returns its update, or None to leave it as it is. Each batch is one transaction together
        with the checkpoint: ended at any instant, the next `up` goes on after the last batch that
        was committed. Returns what was done since the first batch, in whichever run that was.

        Raises BackfillError for what cannot be done, RejectedError for a document that the function
        or the server refused, unless `on_error="collect"` passes over up to `max_rejected` of them.
        """
        defaults = self._site.defaults
        rate = max_per_second if max_per_second is not None else defaults.max_per_second
        how = on_error or defaults.on_error
        if how not in {"stop", "collect"}:
            msg = f'on_error is {how!r}. Hand over "stop" or "collect".'
            raise BackfillError(msg)
        work = _checked_work(
            where or {},
            defaults.batch_size if batch_size is None else batch_size,
            rate,
            max_rejected if how == "collect" else 0,
        )
        order = Order(_name(collection, self._site.server), _checked(change), work, pause_when)
        number, self._calls = self._calls, self._calls + 1
        with self._site.switch.deferred():
            return self._run(order, number)

    def _run(self, order: Order, number: int) -> Backfilled:
        site = self._site
        with sessions(site.server, site.log) as session:
            call = self._begin(order, number, session)
            if call.checkpoint.phase is Phase.DONE:
                return call.checkpoint.counts
            collection = handle(site.server, order.collection)
            prepare = order.prepare
            return (
                Worker(
                    Reader(collection, prepare, order.work),
                    Writer(collection, order.work.where, prepare.group),
                    order.work,
                    site.notebook.slot(number),
                    Alone(site, order, call, number),
                    transactions=Transactions(site.server, site.sleep),
                    session=session,
                )
                .run()
                .counts
            )

    def _begin(self, order: Order, number: int, session: ClientSession | None) -> Call:
        notebook = self._site.notebook
        found = notebook.find(number)
        session_id = None if session is None else session.session_id["id"]
        if found is None:
            check_kind(self._site.server, order.collection)
            call = Call(order.collection, self._estimate(order), 0, Checkpoint())
            notebook.begin(number, call, session=session_id)
            return call
        if found.collection != order.collection:
            raise BackfillError(_out_of_turn(number, found.collection, order.collection))
        if found.checkpoint.phase is not Phase.DONE:
            self._site.log.info(
                "The backfill of %s goes on after %d documents",
                order.collection,
                found.checkpoint.counts.scanned,
            )
            notebook.resume(found, self._site.hold.now(), session=session_id)
        return found

    def _estimate(self, order: Order) -> int | None:
        return estimate(handle(self._site.server, order.collection), order.work.where)


class Alone(Gate):
    """What the only worker of a backfill passes: it works in this very thread."""

    def __init__(self, site: Site, order: Order, call: Call, number: int) -> None:
        self._site = site
        self._call = call
        self._number = number
        self._order = order
        self._meter = Meter(order.collection, call.total, call.checkpoint.counts.scanned)
        self._logged = elapsed()

    def check(self, request: str | None, slot: Slot) -> None:
        """Wait while a pause is asked for; stop when that is."""
        self._check(request)
        waits = request == Request.PAUSE.value
        while waits or (self._order.pause_when is not None and self._order.pause_when()):
            self._site.log.info("The backfill of %s pauses", self._order.collection)
            self.sleep(POLL_SECONDS)
            _, request = slot.read()
            self._check(request)
            waits = request == Request.PAUSE.value

    def _check(self, request: str | None) -> None:
        self._site.hold.ensure()
        if request == Request.CANCEL.value:
            self._site.switch.throw("a request to cancel it")
        self._site.switch.check_inside()

    def sleep(self, seconds: float) -> None:
        """Wait, but not for long once a stop was asked for."""
        until = elapsed() + seconds
        while (left := until - elapsed()) > 0:
            self._check(None)
            self._site.sleep(min(left, POLL_SECONDS))

    def noted(self, checkpoint: Checkpoint) -> Mapping[str, Any]:
        """Return the progress, and at the end what was rejected, for the record."""
        progress = progress_document(self._meter.at(checkpoint.counts.scanned))
        if checkpoint.phase is not Phase.DONE or not checkpoint.rejected:
            return {"metadata.progress": progress}
        rejected = {"collection": self._call.collection, "documents": list(checkpoint.rejected)}
        return {
            "metadata.progress": progress,
            f"metadata.rejected.{self._number}": rejected,
        }

    def committed(self, checkpoint: Checkpoint) -> None:
        """Show the progress, and log it now and then."""
        progress = self._meter.at(checkpoint.counts.scanned)
        self._site.tell(progress)
        if elapsed() - self._logged >= LOG_SECONDS:
            self._logged = elapsed()
            self._site.log.info("%s", worded(progress))


class Meter:
    """Tells from counts how far a backfill is, and how fast it goes in this run."""

    def __init__(self, collection: str, total: int | None, before: int) -> None:
        self._collection = collection
        self._total = total
        self._before = before
        self._began = elapsed()

    def at(self, done: int) -> Progress:
        """Return the progress when so many documents are done."""
        took = elapsed() - self._began
        rate = (done - self._before) / took if took > 0 else None
        total = None if self._total is None else max(self._total, done)
        left = (total - done) / rate if rate and total is not None else None
        return Progress(self._collection, done, total, rate, left)


def progress_document(progress: Progress) -> Document:
    """Return a progress as the record keeps it."""
    rate, left = progress.per_second, progress.seconds_left
    return {
        "collection": progress.collection,
        "done": progress.done,
        "total": progress.total,
        "perSecond": None if rate is None else round(rate, 1),
        "secondsLeft": None if left is None else round(left, 1),
    }


def worded(progress: Progress) -> str:
    """Return a progress as one line."""
    total = "" if progress.total is None else f" of about {progress.total}"
    rate = "" if progress.per_second is None else f", {progress.per_second:.0f} a second"
    left = "" if progress.seconds_left is None else f", {progress.seconds_left:.0f} s left"
    return f"{progress.collection}: {progress.done}{total}{rate}{left}"


def estimate(collection: Collection[Any], where: Mapping[str, Any]) -> int | None:
    """Return about how many documents match; None when counting them would take long."""
    try:
        if not where:
            return collection.estimated_document_count()
        return collection.count_documents(where, maxTimeMS=COUNT_MS)
    except (ExecutionTimeout, NotImplementedError):
        return None


# --- what is asked for


def _name(collection: str | Collection[Any], server: Server) -> str:
    if isinstance(collection, str):
        return collection
    own = getattr(getattr(collection, "database", None), "name", None) == server.database.name
    if not own:
        msg = (
            f"{collection!r} is no collection of the database that is migrated. Hand over its name."
        )
        raise BackfillError(msg)
    return collection.name


def _checked(change: Change) -> Change:
    operators = isinstance(change, Mapping) and change and all(k.startswith("$") for k in change)
    if callable(change) or operators or (isinstance(change, list) and change):
        return change
    msg = (
        f"{change!r:.80} is no change. Hand over an update, {{'$set': {{...}}}}, a pipeline, "
        "[{'$set': {...}}], or a function that is given a document and returns one of these or None."
    )
    raise BackfillError(msg)


def _checked_work(
    where: Mapping[str, Any], batch_size: int, rate: float | None, max_rejected: int
) -> Work:
    for name, value, least in (("batch_size", batch_size, 1), ("max_rejected", max_rejected, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            msg = f"{name} is {value!r}. Hand over a whole number from {least} on."
            raise BackfillError(msg)
    if rate is not None and not rate > 0:
        msg = f"max_per_second is {rate!r}. Hand over a number above 0, or leave it out."
        raise BackfillError(msg)
    # No more than a second's worth at once, or the rate would be one on average only.
    size = batch_size if rate is None else min(batch_size, max(1, int(rate)))
    return Work(dict(where), size, rate, min(max_rejected, MOST_REJECTED))


def _out_of_turn(number: int, was: str, is_: str) -> str:
    return (
        f"Backfill {number + 1} of this migration was one of {was} when it was interrupted, and is one "
        f"of {is_} now. Call ctx.backfill() in the same order each time, whatever the data is."
    )


# --- the server


@contextlib.contextmanager
def sessions(server: Server, log: logging.Logger) -> Iterator[ClientSession | None]:
    """Open the session that the batches' transactions run in; None where there are none."""
    reason = server.lacks_transactions()
    if reason is None:
        with server.database.client.start_session() as session:
            yield session
        return
    log.warning(
        "A batch of this backfill can be done twice when it is interrupted, since this server has no "
        "transactions (%s).",
        reason,
    )
    yield None


def handle(server: Server, name: str) -> Collection[Any]:
    """Return the collection as it is read and written."""
    with_transactions = server.lacks_transactions() is None
    return server.handle(transactional=with_transactions)[name]


_REFUSED = {
    "viewOn": "a view, which cannot be written to. Backfill the collection that it shows",
    "timeseries": "a time series, whose documents cannot be updated. Write them to a new collection",
    "capped": "capped, and cannot be written to in a transaction. Copy it to one that is not",
}


def check_kind(server: Server, name: str) -> None:
    """Raise BackfillError for what no transaction can update."""
    if not server.is_real:
        return
    with translated():
        found = list(server.database.list_collections(filter={"name": name}))
    for option in found[0]["options"] if found else ():
        if option in _REFUSED:
            msg = f"{name} is {_REFUSED[option]}."
            raise BackfillError(msg)


def refused(*_: object, **__: object) -> NoReturn:
    """Be the `ctx.backfill` of a transactional migration. Raises BackfillError."""
    msg = (
        "A transactional migration cannot backfill: it is committed once, at its end, and a backfill "
        "after every batch. Delete `transactional = True`, or write `update_many()` in place of "
        "`ctx.backfill()` if the collection is small."
    )
    raise BackfillError(msg)
