"""Waits for a command that takes long: looks after the lease, signals and the progress meanwhile."""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import pymongo
from pymongo.database import Database
from pymongo.errors import PyMongoError

from flask_migrate_mongo.driver.server import Document, Server, translated
from flask_migrate_mongo.driver.transactions import Transactions
from flask_migrate_mongo.model.errors import ConnectionFailedError, MigrateError
from flask_migrate_mongo.model.values import Progress
from flask_migrate_mongo.process import StopSwitch, elapsed
from flask_migrate_mongo.schema.live import Scanned, SchemaReader
from flask_migrate_mongo.store.lease import Grant

POLL_SECONDS = 0.2
"""How often the lease and requests to stop are looked at."""

PROGRESS_SECONDS = 2
"""How often the server is asked how far a build is."""

LOG_SECONDS = 10

_T = TypeVar("_T")


@dataclass(kw_only=True)
class Waiting:
    """How a step waits, under the lease of its run. `on_progress` is called while an index is built.

    `note` adds an event of this kind to the event log, with the names of a collection and an index.
    """

    server: Server
    lease: Grant
    switch: StopSwitch
    log: logging.Logger
    sleep: Callable[[float], None]
    on_progress: Callable[[Progress], None]
    note: Callable[[str, str, str], None]

    def build(self, collection: str, name: str, send: Callable[[Database[Document]], _T]) -> _T:
        """Send what builds an index, and return when it is built, with the progress meanwhile.

        The statement is sent outside of the step's session, so a build continues on the server if this run is
        stopped, crashes or loses its lease. Sent again, it waits for the same build. So a build outlasts elections,
        lost connections, and timeouts of the connection string.

        Raises LeaseLostError, and Stopped.
        """
        with self.server.spare() as server:
            build = _Build(self, server, collection, name)
            try:
                return build.wait_for(lambda: _without_limit(send, server))
            except BaseException:
                if build.is_running():
                    self.log.warning(
                        "The server continues to build the index %s of %s. The next `up` waits for it.",
                        name,
                        collection,
                    )
                raise

    def check(self) -> None:
        """Raise LeaseLostError, or Stopped if a signal or a request stops the run."""
        self.lease.ensure()
        self.switch.check_inside()


class _Build:
    """One build of an index, as this process sees it."""

    def __init__(self, step: Waiting, server: Server, collection: str, name: str) -> None:
        self._step, self._server = step, server
        self._collection, self._name = collection, name
        self._began = self._asked = self._logged = elapsed()
        self._sees_progress = server.sends_commands
        self._first_seen: tuple[int, float] | None = None

    def wait_for(self, send: Callable[[], _T]) -> _T:
        transactions = Transactions(self._server, self._step.sleep)
        while True:
            try:
                return transactions.repeat(lambda: self._attempt(send), self._step.log)
            except ConnectionFailedError:
                # A connection string can limit a command to less than a build takes.
                if not self.is_running():
                    raise

    def is_running(self) -> bool:
        """Whether the server builds the index at this moment; False if it does not answer."""
        reader = SchemaReader(self._server.database)
        with contextlib.suppress(PyMongoError, MigrateError):
            found = contextvars.Context().run(reader.indexes, self._collection)
            return any(each.building and each.name == self._name for each in found)
        return False

    def _attempt(self, send: Callable[[], _T]) -> _T:
        ending = _started(send)
        while not concurrent.futures.wait([ending], POLL_SECONDS).done:
            self._step.check()
            if elapsed() - self._asked >= PROGRESS_SECONDS:
                self._report()
        with translated():
            return ending.result()

    def _report(self) -> None:
        self._asked = elapsed()
        progress = self._progress()
        if progress is not None:
            self._step.on_progress(progress)
        if elapsed() - self._logged >= LOG_SECONDS:
            self._logged = elapsed()
            waited = f"{elapsed() - self._began:.0f} s so far"
            shown = progress or f"{self._collection}, {waited}"
            self._step.log.info("Building the index %s: %s", self._name, shown)

    def _progress(self) -> Progress | None:
        """Read how many documents the build has scanned; None if the server does not say."""
        if not self._sees_progress:
            return None
        found = contextvars.Context().run(self._scanned)
        if found is None:
            return None
        done, total = found
        # A run that waits for the build of an earlier one did not see its beginning.
        done_before, since = self._first_seen = self._first_seen or (done, elapsed())
        per_second = (done - done_before) / (elapsed() - since) if done > done_before else None
        left = (total - done) / per_second if per_second else None
        return Progress(self._collection, done, total, per_second, left)

    def _scanned(self) -> Scanned | None:
        try:
            return SchemaReader(self._server.database).scanned(self._collection)
        except PyMongoError as exc:
            self._sees_progress = False
            self._step.log.info(
                "The progress of index builds is not shown: that needs the role clusterMonitor (%s).",
                type(exc).__name__,
            )
            return None


def _without_limit(send: Callable[[Database[Document]], _T], server: Server) -> _T:
    """Send without the `timeoutMS` of the connection string: the server would end the build with it."""
    with pymongo.timeout(0):
        return send(server.handle(transactional=False))


def _started(send: Callable[[], _T]) -> Future[_T]:
    """Call in a thread of its own, in an empty context: outside of the session that the step has bound."""
    ending: Future[_T] = Future()

    def settle() -> None:
        try:
            ending.set_result(send())
        except BaseException as exc:  # noqa: BLE001  (raised again where its result is read)
            ending.set_exception(exc)

    # A daemon, because a run that is stopped does not wait for it.
    threading.Thread(
        target=contextvars.Context().run, args=(settle,), name="migrate-build", daemon=True
    ).start()
    return ending
