"""Several workers on one backfill, each on a range: threads, processes, or a cluster such as Dask's."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass, field, replace
from itertools import count

import pymongo
from bson.codec_options import CodecOptions
from pymongo.collection import Collection

from flask_migrate_mongo.driver import tracing
from flask_migrate_mongo.driver.server import Document, DocumentView, Server, translated
from flask_migrate_mongo.driver.transactions import Transactions
from flask_migrate_mongo.files.loading import PortableFunction
from flask_migrate_mongo.model.errors import (
    BackfillError,
    LeaseLostError,
    MigrateError,
    WorkerLostError,
)
from flask_migrate_mongo.model.values import Request
from flask_migrate_mongo.process import StopSwitch

from .batches import BatchedCollection, Worker, WorkerCancelledError, WorkerControl
from .checkpoints import CheckpointStore, IdRange, Phase, StoredCheckpoint
from .options import BackfillArguments

CHECK_SECONDS = 0.5
"""How often the workers are checked, and requests are sent to them."""

END_SECONDS = 120
"""How long cancelled workers may take to finish their current batch."""

RESULT_SECONDS = 1
"""How long a worker that was terminated lives on after its range, to send the result."""

MAX_CONFLICTS = 5
"""How often a worker tries again after another worker has advanced its checkpoint."""

_log = logging.getLogger("flask_migrate_mongo.backfill")


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How a worker process connects to the database; contains everything of the connection string."""

    client: DocumentView = field(repr=False)
    database: str
    codec: CodecOptions[Document] = field(repr=False)

    @classmethod
    def of(cls, server: Server) -> ConnectionOptions:
        """Read how this process is connected."""
        client = {k: v for k, v in server.client_options.items() if k != "event_listeners"}
        return cls(client, server.database.name, server.database.codec_options)


@dataclass(frozen=True, slots=True)
class RangeTask:
    """One range of a backfill, for a worker in any process.

    `ranges` is the collection of its checkpoint, `trace` the span of the step.
    """

    arguments: BackfillArguments
    ranges: str
    range_id: str
    run_id: str
    bounds: IdRange
    trace: Mapping[str, str]


def sendable(arguments: BackfillArguments) -> BackfillArguments:
    """Convert arguments for the workers. Raises BackfillError for a function that cannot be sent."""
    if isinstance(arguments.workers, int | ThreadPoolExecutor):
        return arguments
    # Only this process can call `pause_when`, and has the executor.
    sent = replace(arguments, pause_when=None, workers=1)
    change = arguments.change
    if not callable(change):
        return sent
    name = getattr(change, "__qualname__", type(change).__qualname__)
    converted = PortableFunction.of(change) or change
    try:
        pickle.dumps(converted)
        can_be_sent = "<" not in name  # A lambda, or a function within a function.
    except Exception:  # noqa: BLE001  (pickle raises whatever the object raises)
        can_be_sent = False
    if can_be_sent:
        return replace(sent, change=converted)
    msg = (
        f"{name} cannot be sent to another process. Define it as a function at the top level of the "
        "migration, or use threads: `workers=4`."
    )
    raise BackfillError(msg)


# --- in the worker


def work_in_process(connection: ConnectionOptions, task: RangeTask) -> None:
    """Work on a range in a process without a client.

    A signal, such as a Ctrl-C for all processes of the run, is left to the process of the migration, which ends the range.
    """
    options, switch = {**connection.client, "connect": False}, StopSwitch()
    try:
        with switch.installed(), switch.deferred(), pymongo.MongoClient(**options) as client:
            database = client.get_database(connection.database, codec_options=connection.codec)
            work_in_thread(Server(database), task)
    finally:
        if switch.requested_by == signal.SIGTERM.name:
            # A pool that lost a worker terminates the others, and then waits for them without end.
            later = threading.Timer(RESULT_SECONDS, os.kill, [os.getpid(), signal.SIGTERM])
            later.daemon = True
            later.start()


def work_in_thread(server: Server, task: RangeTask) -> None:
    """Work on a range, until it is done or cancelled. Raises LeaseLostError, RejectedError."""
    documents = BatchedCollection(server, task.arguments)
    ranges = server.collection(task.ranges)
    condition = {"_id": task.range_id, "runId": task.run_id}
    checkpoint = StoredCheckpoint(ranges, condition, "state", "request")
    transactions = Transactions(server, time.sleep)
    with tracing.continued(task.trace), server.session() as session:
        own = None if session is None else session.session_id["id"]
        before = transactions.repeat(lambda: _begin(ranges, condition, own), _log)
        # A worker that had the range before may have died in its transaction. A retry finds our own.
        if before not in {None, own}:
            server.kill_session(before)
        _run(Worker(documents, checkpoint, WorkerControl(), transactions, session, task.bounds))


def _begin(
    ranges: Collection[Document], condition: DocumentView, session_id: bytes | None
) -> bytes | None:
    """Store the session of a range that is not done, and read that of the worker before."""
    unfinished = {**condition, "state.phase": {"$ne": Phase.DONE.value}}
    own = {"$set": {"session": session_id}}
    with translated():
        return (ranges.find_one_and_update(unfinished, own, {"session": 1}) or {}).get("session")


def _run(worker: Worker) -> None:
    for conflicts in count(1):
        try:
            with contextlib.suppress(WorkerCancelledError):
                worker.run()
        except LeaseLostError:
            # An earlier worker on this range may have committed one more batch. If another run has
            # taken over instead, reading the checkpoint fails.
            worker.read_checkpoint()
            if conflicts > MAX_CONFLICTS:
                raise
        else:
            return


# --- in the process of the migration


@dataclass(slots=True)
class WorkerPool:
    """The workers of one backfill."""

    server: Server
    store: CheckpointStore
    tasks: Sequence[RangeTask]
    _sent: Request | None = None

    def run(self, workers: int | Executor, check: Callable[[], Request | None]) -> None:
        """Work on all ranges. `check` is called regularly, and returns a request to send.

        An exception of `check` or of a worker ends the other workers after their current batch.
        Raises WorkerLostError if a process died.
        """
        with self.server.spare() as server, _opened(workers) as executor:
            if isinstance(executor, ThreadPoolExecutor):
                futures = [executor.submit(work_in_thread, server, task) for task in self.tasks]
            else:
                connection = ConnectionOptions.of(self.server)
                futures = [
                    executor.submit(work_in_process, connection, task) for task in self.tasks
                ]
            self._wait(futures, check)

    def _wait(self, futures: list[Future[None]], check: Callable[[], Request | None]) -> None:
        running = set(futures)
        try:
            while running:
                done, running = wait(running, timeout=CHECK_SECONDS)
                for future in done:
                    _raise_failure(future)
                self._send(check())
        except BaseException as exc:
            self._end(running, died=isinstance(exc, WorkerLostError))
            raise

    def _send(self, request: Request | None) -> None:
        if request != self._sent:
            self._set({"request": None if request is None else request.value})
            self._sent = request

    def _set(self, fields: DocumentView) -> None:
        # Whether or not the lease is still held: it changes only ranges of this run.
        retries = Transactions(self.server, time.sleep)
        retries.repeat(lambda: self.store.set_in_ranges(fields), _log)

    def _end(self, running: set[Future[None]], *, died: bool) -> None:
        for future in running:
            future.cancel()
        try:
            if died:
                # The transaction of a dead worker would lock its documents for up to 60 s.
                for session_id in self.store.range_sessions():
                    self.server.kill_session(session_id)
            self._send(Request.CANCEL)
            _, unreachable = wait(running, timeout=END_SECONDS)
            # A worker that still runs, out of reach, commits nothing more. Only its session is killed later.
            self._set({"runId": None} if unreachable else {"runId": None, "session": None})
        except MigrateError as exc:
            # Only logged, so that the exception that ended the backfill is the one that is raised.
            _log.warning("The workers could not be cancelled: %s", exc)


def _opened(workers: int | Executor) -> contextlib.AbstractContextManager[Executor]:
    if isinstance(workers, int):
        return ThreadPoolExecutor(workers, "migrate-backfill")
    return contextlib.nullcontext(workers)  # The migration opened it, and closes it.


def _raise_failure(future: Future[None]) -> None:
    try:
        future.result()
    except Exception as exc:
        # Dask, which raises KilledWorker, need not be installed.
        died = isinstance(exc, BrokenExecutor | CancelledError)
        if died or type(exc).__name__ == "KilledWorker":
            raise WorkerLostError(
                f"A worker process of the backfill died ({type(exc).__name__}). All committed batches "
                "are kept.",
                "Run the migration again: it continues after them.",
            ) from exc
        raise
