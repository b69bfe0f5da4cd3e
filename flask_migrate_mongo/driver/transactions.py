"""Transactions: begun, retried when the server asks for it, and committed with a known outcome."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pymongo import ReadPreference
from pymongo.client_session import ClientSession
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from flask_migrate_mongo.model.errors import (
    ConnectionFailedError,
    MigrateError,
    OutcomeUnknownError,
    TransactionTooLargeError,
    message_of,
)
from flask_migrate_mongo.process import elapsed

from .server import MAJORITY, Server, code_of, driver_error, is_passing

RETRY_SECONDS = 120
"""How long an action is retried: the limit of the drivers' convenient transactions API."""

DEFAULT_LIFETIME = 60
"""MongoDB's default of transactionLifetimeLimitSeconds, which not every user may read."""

SHORTEST_LIFETIME = 20
"""An attempt of this length that expires twice is too long, if the server does not say what it allows."""

LATE_SECONDS = 10
"""An attempt that meets a write conflict only after this time has changed a lot."""

_WRITE_CONFLICT = 112
_TOO_LARGE_FOR_CACHE = 388
_EXPIRED = frozenset({251, 290})
"""NoSuchTransaction between two statements, TransactionExceededLifetimeLimitSeconds in one."""

_T = TypeVar("_T")

_log = logging.getLogger("flask_migrate_mongo.transactions")


def is_transient(exc: BaseException) -> bool:
    """Whether another attempt of the transaction can succeed, and the failed one was not committed."""
    cause = driver_error(exc)
    if cause is None or isinstance(exc, OutcomeUnknownError | TransactionTooLargeError):
        return False
    is_ours = isinstance(exc, MigrateError)
    return cause.has_error_label("TransientTransactionError") or (is_ours and is_passing(cause))


class TransactionLimits:
    """Ends the attempts of a transaction that is too long or too large for the server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._late_conflicts = self._late_ends = 0

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Raise TransactionTooLargeError if the block's error shows that no attempt can succeed."""
        began = elapsed()
        try:
            yield
        except (PyMongoError, MigrateError) as exc:
            limit = self._exceeded(code_of(exc), elapsed() - began)
            if limit is None:
                raise
            raise TransactionTooLargeError(limit) from exc

    def _exceeded(self, code: int | None, seconds: float) -> str | None:
        if code == _TOO_LARGE_FOR_CACHE:
            return "it changes more than fits into the server's cache"
        if code in _EXPIRED:
            known = None
            with contextlib.suppress(PyMongoError):  # It must not hide the error that is looked at.
                known = self._server.transaction_seconds()
            allowed = known or DEFAULT_LIFETIME
            self._late_ends += known is None and seconds >= SHORTEST_LIFETIME
            if seconds >= allowed:
                return f"it ran for {seconds:.0f} s, and the server allows {allowed:.0f} s"
            if self._late_ends > 1:
                return f"the server ended it twice, the last time after {seconds:.0f} s"
        # Near the limit of its cache the server reports a conflict in each attempt, with no other writer.
        if code == _WRITE_CONFLICT and seconds >= LATE_SECONDS:
            self._late_conflicts += 1
            if self._late_conflicts > 1:
                return (
                    f"it met a write conflict in two attempts, each after {LATE_SECONDS} s or more"
                )
        return None


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
                log.info("Retry %d, because of: %s", tries, message_of(exc))
                # Growing from 5 ms to half a second, with jitter, so that two writers part.
                self.sleep(random.random() * min(0.5, 0.005 * 1.5**tries))  # noqa: S311

    def commit(self, session: ClientSession, is_committed: Callable[[], bool]) -> None:
        """Commit, and find out whether the commit took effect. Raises OutcomeUnknownError.

        `is_committed` looks whether the writes of the transaction are there.
        """
        try:
            with self.server.killing_on_stop(session):
                self.repeat(session.commit_transaction, _log, _is_unknown)
        except KeyboardInterrupt as exc:
            # The server may have taken the commit before it was interrupted.
            raise OutcomeUnknownError from exc
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
            self.server.kill_session(session.session_id["id"], is_ours=True)
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
        write_concern=MAJORITY,
        read_preference=ReadPreference.PRIMARY,
    )
    try:
        yield
    finally:
        if session.in_transaction:
            session.abort_transaction()
