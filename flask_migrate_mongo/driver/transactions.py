"""Transactions: begun, retried when the server asks for it, and committed with a known outcome."""

from __future__ import annotations

import contextlib
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

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
from flask_migrate_mongo.process import elapsed

from .server import is_passing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pymongo.client_session import ClientSession

    from .server import Server

RETRY_SECONDS = 120
"""How long an action is retried: the limit of the drivers' convenient transactions API."""

_T = TypeVar("_T")

_log = logging.getLogger("flask_migrate_mongo.transactions")


def is_transient(exc: BaseException) -> bool:
    """Whether another attempt of the transaction can succeed, and the failed one was not committed."""
    if isinstance(exc, OutcomeUnknownError):
        return False
    cause = exc if isinstance(exc, PyMongoError) else exc.__cause__
    if not isinstance(cause, PyMongoError):
        return False
    is_ours = isinstance(exc, MigrateError)
    return cause.has_error_label("TransientTransactionError") or (is_ours and is_passing(cause))


def _is_unknown(exc: BaseException) -> bool:
    return isinstance(exc, PyMongoError) and exc.has_error_label("UnknownTransactionCommitResult")


@dataclass(frozen=True, slots=True)
class Transactions:
    """Runs transactions on one server."""

    server: Server
    sleep: Callable[[float], None]

    def repeat(
        self,
        action: Callable[[], _T],
        log: logging.Logger,
        can_retry: Callable[[BaseException], bool] = is_transient,
    ) -> _T:
        """Call the action until it succeeds, or fails with an error that cannot be retried.

        After RETRY_SECONDS every error is raised.
        """
        give_up = elapsed() + RETRY_SECONDS
        tries = 0
        while True:
            try:
                return action()
            except (PyMongoError, MigrateError) as exc:
                if not can_retry(exc) or elapsed() >= give_up:
                    raise
                tries += 1
                log.info("Retry %d, because of: %s", tries, redact(str(exc)))
                # Growing from 5 ms to half a second, with jitter, so that two writers part.
                self.sleep(random.random() * min(0.5, 0.005 * 1.5**tries))  # noqa: S311

    def commit(self, session: ClientSession, is_committed: Callable[[], bool]) -> None:
        """Commit, and find out whether the commit took effect. Raises OutcomeUnknownError.

        `is_committed` looks whether the writes of the transaction are there.
        """
        try:
            self.repeat(session.commit_transaction, _log, _is_unknown)
        except PyMongoError as exc:
            try:
                if is_committed():
                    return
            except ConnectionFailedError:
                raise OutcomeUnknownError from exc
            if _is_unknown(exc):
                raise OutcomeUnknownError from exc
            # The driver takes a refused commit for the end of the transaction. One that is still
            # open would keep its locks until the server ends it.
            self.server.kill_session(session.session_id["id"])
            raise


@contextlib.contextmanager
def transaction(session: ClientSession) -> Iterator[None]:
    """Begin a transaction, which is rolled back at the end of the block unless it was committed."""
    topology = session.client.topology_description.topology_type_name
    # A transaction on a replica set has one snapshot in any case, and may create collections and
    # indexes only with `local`. On mongos, `local` would let shards be read at different times.
    level = "snapshot" if topology in {"Sharded", "LoadBalanced"} else "local"
    session.start_transaction(
        read_concern=ReadConcern(level),
        write_concern=WriteConcern("majority"),
        read_preference=ReadPreference.PRIMARY,
    )
    try:
        yield
    finally:
        if session.in_transaction:
            session.abort_transaction()
