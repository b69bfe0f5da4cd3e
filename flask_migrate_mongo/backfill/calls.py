"""What a migration calls: `ctx.backfill()`, checked, begun or resumed, and carried out."""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

from pymongo.errors import ExecutionTimeout

from flask_migrate_mongo.driver.transactions import Transactions
from flask_migrate_mongo.model.errors import BackfillError
from flask_migrate_mongo.model.reports import Backfilled
from flask_migrate_mongo.model.values import Progress, Request
from flask_migrate_mongo.process.clock import elapsed

from .batches import Gate, Range, Reader, Work, Worker, Writer, counted, too_many
from .checkpoints import Call, Checkpoint, Key, Notebook, Phase
from .workers import Assignment, Team, portable, prepared, split

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

    from flask_migrate_mongo.driver.server import Document, Server
    from flask_migrate_mongo.process.signals import StopSwitch

    from . import Defaults
    from .batches import Batch, Change
    from .checkpoints import Slot

LOG_SECONDS = 10
POLL_SECONDS = 0.5
RANGES = 8
"""How many ranges an executor is given, of which it works on as many at once as it can."""

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
    workers: int | Executor
    ranges: int

    @property
    def leaves_this_process(self) -> bool:
        """Whether others than threads of this process work on it."""
        return not isinstance(self.workers, int | ThreadPoolExecutor)


class _Callable:
    """What `ctx.backfill` is to those who call it."""

    def __init__(self, server: Server, defaults: Defaults) -> None:
        self._server = server
        self._defaults = defaults

    def __call__(  # noqa: PLR0913  (each is an option of its own)
        self,
        collection: str | Collection[Any],
        change: Change,
        *,
        where: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        workers: int | Executor | None = None,
        ranges: int | None = None,
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
        order = Order(
            _name(collection, self._server),
            _checked(change),
            self._work(where or {}, batch_size, max_per_second, on_error, max_rejected),
            pause_when,
            *self._crew(workers, ranges),
        )
        return self._carry_out(order)

    def _carry_out(self, order: Order) -> Backfilled:
        raise NotImplementedError

    def _work(
        self,
        where: Mapping[str, Any],
        size: int | None,
        rate: float | None,
        on_error: str | None,
        max_rejected: int,
    ) -> Work:
        defaults = self._defaults
        how = on_error or defaults.on_error
        if how not in {"stop", "collect"}:
            msg = f'on_error is {how!r}. Pass "stop" or "collect".'
            raise BackfillError(msg)
        limit = _counted("max_rejected", max_rejected, 0) if how == "collect" else 0
        size = _counted("batch_size", defaults.batch_size if size is None else size, 1)
        rate = defaults.max_per_second if rate is None else rate
        if rate is not None and not rate > 0:
            msg = f"max_per_second is {rate!r}. Pass a number above 0, or leave it out."
            raise BackfillError(msg)
        # No more than a second's worth at once, or the rate would be one on average only.
        size = size if rate is None else min(size, max(1, int(rate)))
        return Work(dict(where), size, rate, min(limit, MOST_REJECTED))

    def _crew(
        self, workers: int | Executor | None, ranges: int | None
    ) -> tuple[int | Executor, int]:
        workers = self._defaults.workers if workers is None else workers
        if not isinstance(workers, Executor):
            workers = _counted("workers", workers, 1)
            return workers, _counted("ranges", workers if ranges is None else ranges, 1)
        return workers, _counted("ranges", RANGES if ranges is None else ranges, 1)


class Backfill(_Callable):
    """`ctx.backfill` of one step."""

    def __init__(self, site: Site) -> None:
        super().__init__(site.server, site.defaults)
        self._site = site
        self._calls = 0

    def _carry_out(self, order: Order) -> Backfilled:
        if order.leaves_this_process:
            portable(order.change)
        number, self._calls = self._calls, self._calls + 1
        with self._site.switch.deferred():
            return self._run(order, number)

    def _run(self, order: Order, number: int) -> Backfilled:
        site = self._site
        with site.server.session() as session:
            call = self._begin(order, number, session)
            if call.checkpoint.phase is Phase.DONE:
                return call.checkpoint.counts
            desk = Desk(site, order, call, number)
            return desk.share() if call.ranges else desk.work_alone(session)

    def _begin(self, order: Order, number: int, session: ClientSession | None) -> Call:
        site, notebook = self._site, self._site.notebook
        found = notebook.find(number)
        session_id = None if session is None else session.session_id["id"]
        if found is None:
            check_kind(site.server, order.collection)
            call = self._plan(order, number)
            notebook.begin(number, call, session=session_id)
            return call
        if found.collection != order.collection:
            raise BackfillError(_out_of_turn(number, found.collection, order.collection))
        if found.checkpoint.phase is not Phase.DONE:
            site.log.info("The backfill of %s continues", order.collection)
            notebook.resume(number, found, site.hold.now(), session=session_id)
        return found

    def _plan(self, order: Order, number: int) -> Call:
        server = self._site.server
        collection = handle(server, order.collection)
        wanted = order.ranges if server.allows_workers else 1
        bounds = split(collection, wanted) if wanted > 1 else []
        if bounds:
            self._site.notebook.open_ranges(number, bounds)
        total = estimate(collection, order.work.where)
        return Call(order.collection, total, len(bounds), Checkpoint())


@dataclass(frozen=True, slots=True)
class Desk:
    """One call that is being worked on."""

    site: Site
    order: Order
    call: Call
    number: int

    def work_alone(self, session: ClientSession | None) -> Backfilled:
        """Do all of it in this thread."""
        site, order = self.site, self.order
        _warn_without_transactions(site)
        prepare = prepared(order.change, order.work)
        collection = handle(site.server, order.collection)
        worker = Worker(
            Reader(site.server, collection, prepare, order.work),
            Writer(site.server, collection, order.work.where, prepare.group),
            order.work,
            site.notebook.slot(self.number),
            Alone(self),
            transactions=Transactions(site.server, site.sleep),
            session=session,
        )
        return worker.run().counts

    def share(self) -> Backfilled:
        """Have it done by several workers, range by range."""
        site, order, notebook = self.site, self.order, self.site.notebook
        bounds = notebook.take_ranges(self.number)
        rate = order.work.max_per_second
        work = replace(order.work, max_per_second=rate / len(bounds) if rate else None)
        change = portable(order.change) if order.leaves_this_process else order.change
        claim = notebook.claim
        assignments = [
            Assignment(
                order.collection,
                claim.ranges.name,
                range_id,
                claim.run.actor.run_id,
                Range(*ends),
                work,
                change,
            )
            for range_id, ends in bounds.items()
        ]
        _warn_without_transactions(site)
        team = Team(site.server, assignments)
        look = Overseer(self, team.checkpoints()).look
        team.work(order.workers, look)
        # The last range was done before the others, perhaps, and has grown since.
        team.reopen_last()
        team.work(order.workers, look)
        return self._finish(team.checkpoints())

    def _finish(self, ends: list[Checkpoint]) -> Backfilled:
        before = self.call.checkpoint
        after = before.next(
            phase=Phase.DONE,
            counts=sum((end.counts for end in ends), before.counts),
            rejected=tuple(document for end in ends for document in end.rejected),
        )
        slot = self.site.notebook.slot(self.number)
        slot.advance(before, after, noted=self.noted(after, None))
        self.site.notebook.drop_ranges(self.number)
        return after.counts

    def noted(self, checkpoint: Checkpoint, progress: Progress | None) -> Mapping[str, Any]:
        """Return what the record is to say besides: the progress, and at the end what was rejected."""
        fields = {} if progress is None else {"metadata.progress": progress_document(progress)}
        if checkpoint.phase is not Phase.DONE or not checkpoint.rejected:
            return fields
        documents = list(checkpoint.rejected)
        rejected = {"collection": self.call.collection, "documents": documents}
        return {**fields, f"metadata.rejected.{self.number}": rejected}

    def check(self, request: str | None) -> None:
        """Raise when the lease is lost, or a stop asked for."""
        self.site.hold.ensure()
        if request == Request.CANCEL.value:
            self.site.switch.throw("a request to cancel it")
        self.site.switch.check_inside()

    def is_to_pause(self, request: str | None) -> bool:
        """Whether somebody, or `pause_when`, wants it to pause."""
        when = self.order.pause_when
        return request == Request.PAUSE.value or (when is not None and bool(when()))


class Overseer:
    """Looks after several workers: says how far they are, and what to tell them."""

    def __init__(self, desk: Desk, before: list[Checkpoint]) -> None:
        self._desk = desk
        self._teller = Teller(desk, sum(each.counts.scanned for each in before))

    def look(self, checkpoints: list[Checkpoint]) -> str | None:
        """Return what the workers are to be told. Raises LeaseLostError, Stopped, RejectedError."""
        desk = self._desk
        scanned = sum(checkpoint.counts.scanned for checkpoint in checkpoints)
        rejected = [document for checkpoint in checkpoints for document in checkpoint.rejected]
        if len(rejected) > desk.order.work.max_rejected:
            raise too_many(rejected)
        progress = self._teller.meter.at(scanned)
        request = desk.site.notebook.note({"metadata.progress": progress_document(progress)})
        self._teller.tell(progress)
        desk.check(request)
        return Request.PAUSE.value if desk.is_to_pause(request) else None


class Alone(Gate):
    """What the only worker of a backfill passes: it works in this very thread."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._teller = Teller(desk, desk.call.checkpoint.counts.scanned)

    def check(self, request: str | None, slot: Slot) -> None:
        """Wait while a pause is asked for; stop when that is."""
        desk = self._desk
        desk.check(request)
        while desk.is_to_pause(request):
            self.sleep(POLL_SECONDS)
            _, request = slot.read()
            desk.check(request)

    def sleep(self, seconds: float) -> None:
        """Wait, but not for long once a stop was asked for."""
        until = elapsed() + seconds
        while (left := until - elapsed()) > 0:
            self._desk.check(None)
            self._desk.site.sleep(min(left, POLL_SECONDS))

    def noted(self, checkpoint: Checkpoint) -> Mapping[str, Any]:
        """Return the progress, for the record. Raises LeaseLostError."""
        # The function may have taken long since the lease was looked at.
        self._desk.site.hold.ensure()
        return self._desk.noted(checkpoint, self._teller.meter.at(checkpoint.counts.scanned))

    def committed(self, checkpoint: Checkpoint) -> None:
        """Tell the progress."""
        self._teller.tell(self._teller.meter.at(checkpoint.counts.scanned))


class Teller:
    """Tells how far a backfill is: whoever shows it each time, the log now and then."""

    def __init__(self, desk: Desk, before: int) -> None:
        self._site = desk.site
        self._logged = elapsed()
        self.meter = Meter(desk.call.collection, desk.call.total, before)

    def tell(self, progress: Progress) -> None:
        """Tell it."""
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


# --- rehearsals


class Rehearsed(NamedTuple):
    """What a dry run did of a backfill; `estimated` is about how many documents all of it concerns."""

    collection: str
    processed: int
    estimated: int | None
    seconds: float
    complete: bool


class Rehearsal(_Callable):
    """`ctx.backfill` of a dry run: does the first batches, in the transaction that is bound.

    It keeps no checkpoint, has no workers, and ends before a batch that would begin after `until`,
    on the clock of `elapsed`, or be one more than `batches`.
    """

    def __init__(
        self,
        server: Server,
        defaults: Defaults,
        note: Callable[[Rehearsed], None],
        *,
        until: float,
        batches: int,
    ) -> None:
        super().__init__(server, defaults)
        self._note = note
        self._until = until
        self._batches = batches

    def _carry_out(self, order: Order) -> Backfilled:
        began = elapsed()
        estimated = contextvars.Context().run(self._look, order)
        collection = self._server.handle(transactional=True)[order.collection]
        prepare = prepared(order.change, order.work)
        reader = Reader(self._server, collection, prepare, order.work)
        writer = Writer(self._server, collection, order.work.where, prepare.group)
        counts, complete = Backfilled(), True
        try:
            for number, batch in enumerate(_batches(reader)):
                if number >= self._batches or (number and elapsed() >= self._until):
                    complete = False
                    break
                counts += counted(batch, writer.write(batch, None, probe=False))
        finally:
            reader.close()
        took = elapsed() - began
        self._note(Rehearsed(order.collection, counts.scanned, estimated, took, complete))
        return counts

    def _look(self, order: Order) -> int | None:
        # In an empty context: a transaction allows neither of these.
        check_kind(self._server, order.collection)
        return estimate(handle(self._server, order.collection), order.work.where)


def _batches(reader: Reader) -> Iterator[Batch]:
    """Yield batch after batch, each above the last: a cursor that ends is opened once more."""
    after: Key | None = None
    while batch := reader.next(Range(after)):
        yield batch
        after = Key(batch[-1].id)


# --- what is asked for


def _name(collection: str | Collection[Any], server: Server) -> str:
    if isinstance(collection, str):
        return collection
    own = getattr(getattr(collection, "database", None), "name", None) == server.database.name
    if not own:
        msg = f"{collection!r} is no collection of the database that is migrated. Pass its name."
        raise BackfillError(msg)
    return collection.name


def _checked(change: Change) -> Change:
    operators = isinstance(change, Mapping) and change and all(k.startswith("$") for k in change)
    if callable(change) or operators or (isinstance(change, list) and change):
        return change
    msg = (
        f"{change!r:.80} is no change. Pass an update, {{'$set': {{...}}}}, a pipeline, "
        "[{'$set': {...}}], or a function that is given a document and returns one of these or None."
    )
    raise BackfillError(msg)


def _counted(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        msg = f"{name} is {value!r}. Pass a whole number from {least} on."
        raise BackfillError(msg)
    return value


def _out_of_turn(number: int, was: str, is_: str) -> str:
    return (
        f"Backfill {number + 1} of this migration was one of {was} when it was interrupted, and is one "
        f"of {is_} now. Call ctx.backfill() in the same order each time, whatever the data is."
    )


# --- the server


def _warn_without_transactions(site: Site) -> None:
    reason = site.server.transactions_lacking
    if reason is not None:
        site.log.warning(
            "A batch of this backfill can be done twice when it is interrupted, since this server "
            "has no transactions (%s).",
            reason,
        )


def handle(server: Server, name: str) -> Collection[Any]:
    """Return the collection as it is read and written."""
    with_transactions = server.transactions_lacking is None
    return server.handle(transactional=with_transactions)[name]


_REFUSED = {
    "viewOn": "a view, which cannot be written to. Backfill the collection that it shows",
    "timeseries": "a time series, whose documents cannot be updated. Write them to a new collection",
    "capped": "capped, and cannot be written to in a transaction. Copy it to one that is not",
}


def check_kind(server: Server, name: str) -> None:
    """Raise BackfillError for what no transaction can update."""
    for option in server.collection_options(name):
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
