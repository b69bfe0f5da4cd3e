"""How one step runs: plain, or in a transaction together with its record."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pymongo import ReadPreference
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from .confinement import check_driver, confined
from .errors import (
    ConnectionFailedError,
    MigrateError,
    OutcomeUnknownError,
    TransactionAbortedError,
    redact,
)
from .server import Server, elapsed, is_passing
from .source import call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from .confinement import Confinement
    from .model import Step
    from .stopping import StopSwitch

RETRY_SECONDS = 120
"""How long a transaction is tried again: the limit of the drivers' convenient transactions API."""

_TRANSIENT = "TransientTransactionError"
_UNKNOWN = "UnknownTransactionCommitResult"
NO_SUCH_TRANSACTION = 251


@dataclass(frozen=True, slots=True)
class Context:
    """What up() and down() get as `ctx`.

    `ensure_lease()` asks the server and raises LeaseLostError when this run no longer holds the lock:
    long loops of plain migrations call it before each batch of writes. `session` is None in a plain migration.
    With `rehearsal` nothing of what is written will stay: what cannot be taken back, a mail say, should be left out.
    """

    app: Flask
    log: logging.Logger
    ensure_lease: Callable[[], None]
    session: ClientSession | None = None
    rehearsal: bool = False


class Hold(Protocol):
    """The lease that a step runs under."""

    def ensure(self) -> None:
        """Raise LeaseLostError when it is known to be lost."""

    def verify(self) -> None:
        """Ask the server, and raise LeaseLostError when it is lost."""


class Ledger(Protocol):
    """Where a step's success is recorded."""

    def done(self, session: ClientSession | None = None) -> None:
        """Record the success, with a session as part of its transaction."""

    def stands(self) -> bool:
        """Whether the success is recorded already."""


@dataclass(frozen=True, slots=True)
class Executor:
    """Runs the steps of one application against one server."""

    app: Flask
    server: Server
    switch: StopSwitch
    sleep: Callable[[float], None] = time.sleep

    def check(self) -> None:
        """Raise before anything runs when transactional steps could not be confined."""
        check_driver()

    @contextlib.contextmanager
    def session_for(self, step: Step) -> Iterator[ClientSession | None]:
        """Open the session that the step's transaction runs in; None for a plain step."""
        if step.file.transactional and self.server.transactions_lacking is None:
            with self.server.database.client.start_session() as session:
                yield session
        else:
            yield None

    def run(
        self,
        step: Step,
        function: Callable[..., object],
        ledger: Ledger,
        hold: Hold,
        session: ClientSession | None,
    ) -> None:
        """Run the step and record its success; whatever up() or down() raises comes out as it is."""
        context = Context(self.app, log_of(step), hold.verify, session)
        if session is not None:
            self._transactional(function, ledger, context, hold)
        else:
            self._call(function, context)
            ledger.done()

    def _call(self, function: Callable[..., object], context: Context) -> None:
        self.call(function, context, self.server.handle(transactional=context.session is not None))

    def call(self, function: Callable[..., object], context: Context, db: Database[Any]) -> None:
        """Call up() or down() as a migration expects to be called."""
        with self.app.app_context(), self.switch.interruptible():
            call(function, {"db": db, "ctx": context})

    def _transactional(
        self, function: Callable[..., object], ledger: Ledger, context: Context, hold: Hold
    ) -> None:
        give_up = elapsed() + RETRY_SECONDS
        tries = 0
        while True:
            hold.ensure()
            try:
                self._attempt(function, ledger, context, hold)
            except OutcomeUnknownError:
                raise  # What may have been committed is not run again.
            except (PyMongoError, MigrateError) as exc:
                if not is_transient(exc) or elapsed() >= give_up:
                    raise
                tries += 1
                context.log.info("The transaction is tried again (%d): %s", tries, redact(str(exc)))
                self._pause(tries)
            else:
                return

    def _attempt(
        self, function: Callable[..., object], ledger: Ledger, context: Context, hold: Hold
    ) -> None:
        session = context.session
        assert session is not None  # noqa: S101
        with transaction(session):
            with confined(session) as confinement:
                try:
                    self._call(function, context)
                except PyMongoError as exc:
                    _explain(exc, confinement)
                    raise
            if confinement.escape is not None:
                raise confinement.escape
            if confinement.failure is not None:
                raise caught(confinement.failure) from confinement.failure
            # The record is part of the transaction: both are committed, or neither.
            ledger.done(session)
            hold.ensure()
            self._commit(session, ledger)

    def _commit(self, session: ClientSession, ledger: Ledger) -> None:
        """Commit, and come to know whether it was committed. Raises OutcomeUnknownError."""
        give_up = elapsed() + RETRY_SECONDS
        tries = 0
        while True:
            try:
                session.commit_transaction()
            except PyMongoError as exc:
                unknown = exc.has_error_label(_UNKNOWN)
                if unknown and elapsed() < give_up:
                    tries += 1
                    self._pause(tries)
                    continue
                if _stands(ledger, exc):
                    return
                if unknown:
                    raise _unknown() from exc
                # The driver takes a refused commit for the end of the transaction, and would
                # leave one that is still open to its lifetime, locks and all.
                self.server.kill_session(session.session_id["id"])
                raise
            else:
                return

    def _pause(self, tries: int) -> None:
        # 5 ms growing by half each time up to half a second, jittered: the drivers' own rule.
        self.sleep(random.random() * min(0.5, 0.005 * 1.5**tries))  # noqa: S311


def log_of(step: Step) -> logging.Logger:
    """Return the logger that the step's migration gets."""
    return logging.getLogger(f"flask_migrate_mongo.migration.{step.version}")


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


def _stands(ledger: Ledger, commit_error: PyMongoError) -> bool:
    try:
        return ledger.stands()
    except ConnectionFailedError:
        raise _unknown() from commit_error


def _unknown() -> OutcomeUnknownError:
    return OutcomeUnknownError(
        "The commit was sent, but the server never said whether it took effect. Data and record "
        "agree either way: once the server answers, `flask db-migrate status` tells which it is."
    )


def _explain(exc: PyMongoError, confinement: Confinement) -> None:
    """Raise an explanation when the error only says that the transaction had ended before."""
    first = confinement.failure
    if first is not None and code_of(exc) == NO_SUCH_TRANSACTION != code_of(first):
        raise caught(first) from first


def caught(first: PyMongoError) -> TransactionAbortedError:
    """Return the error of a migration that went on after this one."""
    return TransactionAbortedError(
        f"The migration went on after an error that it caught: {redact(str(first))}. On the server "
        "that error had already ended the transaction, so nothing of this step is kept. Check "
        "beforehand instead of catching (count, find_one, upsert), or delete "
        "`transactional = True`."
    )


def is_transient(exc: BaseException) -> bool:
    """Whether the transaction that it ended would be worth another try."""
    cause: Any = exc if isinstance(exc, PyMongoError) else exc.__cause__
    return isinstance(cause, PyMongoError) and (
        cause.has_error_label(_TRANSIENT) or (isinstance(exc, MigrateError) and is_passing(cause))
    )


def code_of(exc: BaseException | None) -> object:
    """Return the server's code for an error, None when it has none."""
    return getattr(exc, "code", None)
