"""Several workers on one backfill: threads, processes, or machines, each on a range of its own."""

from __future__ import annotations

import logging
import pickle
import time
from concurrent.futures import BrokenExecutor, CancelledError, Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import bson
import pymongo

from flask_migrate_mongo.driver.server import Server, translated
from flask_migrate_mongo.driver.transactions import Transactions
from flask_migrate_mongo.files import PortableFunction
from flask_migrate_mongo.model.errors import (
    BackfillError,
    LeaseLostError,
    MigrateError,
    WorkerLostError,
)
from flask_migrate_mongo.model.values import Request

from .batches import (
    Gate,
    Prepare,
    PrepareByFunction,
    Range,
    Reader,
    Work,
    Worker,
    Writer,
)
from .checkpoints import Checkpoint, Key, Phase, Slot, exact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from bson.codec_options import CodecOptions
    from pymongo.collection import Collection

    from .batches import Change, Update

SAMPLES = 50
"""`_id`s that are looked at for each range, so that the ranges come out about as large as each other."""

POLL_SECONDS = 0.5
LAST_BATCH_SECONDS = 120
"""How long workers that were told to stop are waited for."""

TAKE_OVERS = 5

_log = logging.getLogger("flask_migrate_mongo.backfill")


@dataclass(frozen=True, slots=True)
class Site:
    """How a worker of another process comes to the database; it holds what the connection string holds."""

    client: Mapping[str, Any] = field(repr=False)
    database: str
    options: CodecOptions[Any] = field(repr=False)

    @classmethod
    def of(cls, server: Server) -> Site:
        """Return how this process came there."""
        options = {k: v for k, v in server.client_options.items() if k != "event_listeners"}
        return cls(options, server.database.name, server.database.codec_options)


@dataclass(frozen=True, slots=True)
class Assignment:
    """One range of a backfill, for whoever works on it; `ranges` is where its checkpoint is kept."""

    collection: str
    ranges: str
    range_id: str
    run_id: str
    bounds: Range
    work: Work
    change: Update | PortableFunction[Update | None] | Callable[..., Update | None]

    @property
    def prepare(self) -> Prepare:
        """What makes batches of what is read."""
        change = self.change.resolve() if isinstance(self.change, PortableFunction) else self.change
        return prepared(change, self.work)


def prepared(change: Change, work: Work) -> Prepare:
    """Return what makes batches of what is read."""
    if callable(change):
        return PrepareByFunction(change, collect=work.max_rejected > 0)
    return Prepare(change)


# --- in the worker


class _Halted(Exception):  # noqa: N818  (it is no error)
    """The worker was asked to stop."""


class _AsTold(Gate):
    """What a worker passes that only the document of its range tells what to do."""

    def check(self, request: str | None, slot: Slot) -> None:
        """Wait while a pause is asked for; stop when that is."""
        while request == Request.PAUSE.value:
            time.sleep(POLL_SECONDS)
            _, request = slot.read()
        if request == Request.CANCEL.value:
            raise _Halted

    def sleep(self, seconds: float) -> None:
        """Wait, for the sake of the rate."""
        time.sleep(seconds)


def carry_out(site: Site, assignment: Assignment) -> bool:
    """Work on a range, in a process of its own; whether it is done."""
    # One connection string is as good here as there; a client is not.
    with pymongo.MongoClient(**{**site.client, "connect": False}) as client:
        database = client.get_database(site.database, codec_options=site.options)
        return carry_out_on(Server(database), assignment)


def carry_out_on(server: Server, assignment: Assignment) -> bool:
    """Work on a range; whether it is done, and not stopped before. Raises LeaseLostError."""
    with server.session() as session:
        own = _slot(server, assignment)
        _announce(server, assignment, None if session is None else session.session_id["id"])
        collection = server.handle(transactional=session is not None)[assignment.collection]
        prepare = assignment.prepare
        worker = Worker(
            Reader(server, collection, prepare, assignment.work),
            Writer(server, collection, assignment.work.where, prepare.group),
            assignment.work,
            own,
            _AsTold(),
            transactions=Transactions(server, time.sleep),
            session=session,
            bounds=assignment.bounds,
        )
        return _persist(worker, own)


def _persist(worker: Worker, slot: Slot) -> bool:
    tries = 0
    while True:
        try:
            worker.run()
        except _Halted:
            return False
        except LeaseLostError:
            # Somebody who worked on this range before may have committed once more.
            tries += 1
            slot.read()
            if tries > TAKE_OVERS:
                raise
        else:
            return True


def _slot(server: Server, assignment: Assignment) -> Slot:
    ranges = exact(server.collection(assignment.ranges))
    condition = {"_id": assignment.range_id, "runId": assignment.run_id}
    return Slot(ranges, condition, "state", "request")


def _announce(server: Server, assignment: Assignment, session: bytes | None) -> None:
    """Say who works on the range, and end the transaction of whoever did before."""
    slot = _slot(server, assignment)
    with translated():
        before = slot.collection.find_one_and_update(
            slot.condition, {"$set": {"session": session}}, projection={"session": 1}
        )
    if before is not None and before.get("session") is not None:
        server.kill_session(before["session"])


# --- where the backfill was called


def split(collection: Collection[Any], wanted: int) -> list[Range]:
    """Return ranges that hold about as many documents each, and together every document."""
    sample = [
        {"$sample": {"size": wanted * SAMPLES}},
        {"$project": {"_id": 1}},
        {"$sort": {"_id": 1}},
    ]
    with translated():
        found = [d["_id"] for d in exact(collection).aggregate(sample)]
    chosen = [found[len(found) * n // wanted] for n in range(1, wanted)] if found else []
    # By their bytes: True is 1 to Python, and two different `_id`s to the server.
    ends = [Key(id_) for id_ in {bson.encode({"_id": i}): i for i in chosen}.values()]
    return [Range(a, b) for a, b in zip([None, *ends], [*ends, None], strict=True)]


def portable(
    change: Change,
) -> Update | PortableFunction[Update | None] | Callable[..., Update | None]:
    """Return the change as it travels to another process. Raises BackfillError when it cannot."""
    if not callable(change):
        return change
    name = getattr(change, "__qualname__", type(change).__qualname__)
    packed = PortableFunction.of(change) or change
    try:
        if "<" in name:
            raise pickle.PicklingError(name)  # noqa: TRY301  (the same remedy)
        pickle.dumps(packed)
    except Exception as exc:
        msg = (
            f"{name} cannot be sent to another process. Write it as a function at the top level of the "
            "migration, without anything around it, or use threads: `workers=4`."
        )
        raise BackfillError(msg) from exc
    return packed


class Team:
    """The workers of one backfill, from the first submission until the last one has ended."""

    def __init__(self, server: Server, assignments: Sequence[Assignment]) -> None:
        self._server = server
        self._assignments = assignments
        self._ranges = exact(server.collection(assignments[0].ranges))
        self._told: str | None = None

    def work(
        self, executor: Executor | int, look: Callable[[list[Checkpoint]], str | None]
    ) -> None:
        """Have the ranges worked on; `look` hears how far they are, and says what to tell them.

        Whatever `look` raises, or a worker fails with, ends the others after the batch they have in
        hand. Raises WorkerLostError.
        """
        with self._server.spare() as server:
            if isinstance(executor, int):
                with ThreadPoolExecutor(executor, "migrate-backfill") as own:
                    self._await(
                        [own.submit(carry_out_on, server, a) for a in self._assignments], look
                    )
            elif isinstance(executor, ThreadPoolExecutor):
                submitted = [executor.submit(carry_out_on, server, a) for a in self._assignments]
                self._await(submitted, look)
            else:
                site = Site.of(self._server)
                submitted = [executor.submit(carry_out, site, a) for a in self._assignments]
                self._await(submitted, look)

    def _await(
        self, futures: list[Future[bool]], look: Callable[[list[Checkpoint]], str | None]
    ) -> None:
        waiting: set[Future[bool]] = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=POLL_SECONDS)
                for future in done:
                    _check(future)
                self._tell(look(self.checkpoints()))
        except BaseException as exc:
            self._end(waiting, lost=isinstance(exc, WorkerLostError))
            raise

    def reopen_last(self) -> None:
        """Let the last range, which has no upper end, be looked at once more, above what is done."""
        slot = _slot(self._server, self._assignments[-1])
        done, _ = slot.read()
        above = done.next(phase=Phase.FIRST, at=done.first_end or done.at, stays=True)
        slot.advance(done, above, noted={})

    def checkpoints(self) -> list[Checkpoint]:
        """Return how far each range is."""
        with translated():
            found = list(self._ranges.find(self._ours, {"state": 1}))
        return [Checkpoint.read(each["state"]) for each in found]

    def _tell(self, request: str | None) -> None:
        if request != self._told:
            with translated():
                self._ranges.update_many(self._ours, {"$set": {"request": request}})
            self._told = request

    def _end(self, waiting: set[Future[bool]], *, lost: bool) -> None:
        for future in waiting:
            future.cancel()
        try:
            if lost:
                self._end_sessions()
            self._tell(Request.CANCEL.value)
            wait(waiting, timeout=LAST_BATCH_SECONDS)
            # Whoever still works, unheard of, commits nothing more.
            with translated():
                self._ranges.update_many(self._ours, {"$set": {"runId": None}})
        except MigrateError as exc:
            # Not raised: what ended the backfill is what matters.
            _log.warning("The workers were not told to stop: %s", exc)

    def _end_sessions(self) -> None:
        """End what a dead worker may have begun: its transaction would keep a range for up to 60 s."""
        with translated():
            found = list(self._ranges.find(self._ours, {"session": 1}))
        for session in {each["session"] for each in found if each.get("session")}:
            self._server.kill_session(session)

    @property
    def _ours(self) -> dict[str, Any]:
        ids = [assignment.range_id for assignment in self._assignments]
        return {"_id": {"$in": ids}, "runId": self._assignments[0].run_id}


def _check(future: Future[bool]) -> None:
    """Raise what the worker failed with."""
    try:
        future.result()
    except (BrokenExecutor, CancelledError) as exc:
        raise _died(exc) from exc
    except Exception as exc:
        if type(exc).__name__ == "KilledWorker":  # Dask's, which need not be installed.
            raise _died(exc) from exc
        raise


def _died(exc: BaseException) -> WorkerLostError:
    return WorkerLostError(
        f"A process that worked on the backfill died ({type(exc).__name__}). Every committed "
        "batch is kept.",
        "Run the migration again: it continues after the last of them.",
    )
