"""Transactions: begun, tried again when the server asks for it, and committed until that is known."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pymongo import ReadPreference
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from flask_migrate_mongo.model.errors import (
    ConnectionFailedError,
    MigrateError,
    OutcomeUnknownError,
    redact,
)
from flask_migrate_mongo.process.clock import elapsed

from .server import is_passing

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator

    from pymongo.client_session import ClientSession

    from .server import Server

RETRY_SECONDS = 120
"""How long a transaction is tried again: the limit of the drivers' convenient transactions API."""

_TRANSIENT = "TransientTransactionError"
_UNKNOWN = "UnknownTransactionCommitResult"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Transactions:
    """How transactions are run on one server."""

    server: Server
    sleep: Callable[[float], None]

    def repeat(self, attempt: Callable[[], _T], log: logging.Logger) -> _T:
        """Make the attempt, again as long as the server calls its failure a passing one.

        What may have been committed is not attempted again: OutcomeUnknownError is raised.
        """
        give_up = elapsed() + RETRY_SECONDS
        tries = 0
        while True:
            try:
                return attempt()
            except OutcomeUnknownError:
                raise
            except (PyMongoError, MigrateError) as exc:
                if not is_transient(exc) or elapsed() >= give_up:
                    raise
                tries += 1
                log.info("The transaction is tried again (%d): %s", tries, redact(str(exc)))
                self.pause(tries)

    def commit(self, session: ClientSession, stands: Callable[[], bool]) -> None:
        """Commit, and come to know whether it was committed. Raises OutcomeUnknownError.

        `stands` looks whether what the transaction wrote is there.
        """
        give_up = elapsed() + RETRY_SECONDS
        tries = 0
        while True:
            try:
                session.commit_transaction()
            except PyMongoError as exc:
                unknown = exc.has_error_label(_UNKNOWN)
                if unknown and elapsed() < give_up:
                    tries += 1
                    self.pause(tries)
                    continue
                if _stands(stands, exc):
                    return
                if unknown:
                    raise _unknown() from exc
                # The driver takes a refused commit for the end of the transaction, and would
                # leave one that is still open to its lifetime, locks and all.
                self.server.kill_session(session.session_id["id"])
                raise
            else:
                return

    def pause(self, tries: int) -> None:
        """Wait between two tries: 5 ms growing by half each time up to half a second, jittered."""
        self.sleep(random.random() * min(0.5, 0.005 * 1.5**tries))  # noqa: S311


@contextlib.contextmanager
def transaction(session: ClientSession) -> Iterator[None]:
    """Begin a transaction that is rolled back at the end of the block, unless it was committed."""
    session.start_transaction(
        read_concern=ReadConcern("snapshot"),
        write_concern=WriteConcern("majority"),
        read_preference=ReadPreference.PRIMARY,
    )
    try:
        yield
    finally:
        if session.in_transaction:
            session.abort_transaction()


def is_transient(exc: BaseException) -> bool:
    """Whether the server, or the connection to it, says that another attempt can succeed."""
    cause: Any = exc if isinstance(exc, PyMongoError) else exc.__cause__
    return isinstance(cause, PyMongoError) and (
        cause.has_error_label(_TRANSIENT) or (isinstance(exc, MigrateError) and is_passing(cause))
    )


def _stands(stands: Callable[[], bool], commit_error: PyMongoError) -> bool:
    try:
        return stands()
    except ConnectionFailedError:
        raise _unknown() from commit_error


def _unknown() -> OutcomeUnknownError:
    return OutcomeUnknownError(
        "The commit was sent, but the server did not reply whether it took effect. Data and record agree either way.",
        "Once the server answers, see whether the migration is applied: [status].",
    )
