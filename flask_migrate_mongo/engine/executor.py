"""How one step runs: plain, or in a transaction together with its record."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pymongo.errors import PyMongoError

from flask_migrate_mongo.backfill import Defaults
from flask_migrate_mongo.files.source import call
from flask_migrate_mongo.model.errors import TransactionAbortedError, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from flask import Flask
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from flask_migrate_mongo.driver.confinement import Confinement
    from flask_migrate_mongo.driver.server import Server
    from flask_migrate_mongo.driver.transactions import Transactions
    from flask_migrate_mongo.model.reports import Backfilled
    from flask_migrate_mongo.model.values import Progress, Step
    from flask_migrate_mongo.process.signals import StopSwitch
    from flask_migrate_mongo.store.history import Claim

NO_SUCH_TRANSACTION = 251


@dataclass(frozen=True, slots=True)
class Context:
    """What up() and down() get as `ctx`.

    `ensure_lease()` asks the server and raises LeaseLostError when this run no longer holds the lock:
    long loops of plain migrations call it before each batch of writes. `backfill()` is such a loop
    that goes on where it was interrupted. `session` is None in a plain migration. With `rehearsal`
    nothing of what is written will stay: what cannot be taken back, a mail say, should be left out.
    """

    app: Flask
    log: logging.Logger
    ensure_lease: Callable[[], None]
    backfill: Callable[..., Backfilled]
    session: ClientSession | None = None
    rehearsal: bool = False


class Hold(Protocol):
    """The lease that a step runs under."""

    def now(self) -> datetime:
        """Return the server's time."""

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

    def claimed(self) -> Claim:
        """Return the record as it is claimed for the step, for its backfills' checkpoints."""

    def progressed(self, progress: Progress) -> None:
        """Hear of a batch of a backfill that was committed."""


@dataclass(frozen=True, slots=True)
class Executor:
    """Runs the steps of one application against one server. `rehearsal` is what they get as `ctx.rehearsal`."""

    app: Flask
    server: Server
    switch: StopSwitch
    sleep: Callable[[float], None] = time.sleep
    backfills: Defaults = field(default_factory=Defaults)
    rehearsal: bool = False

    def check(self) -> None:
        """Raise before anything runs when transactional steps could not be confined."""
        from flask_migrate_mongo.driver.confinement import check_driver  # noqa: PLC0415  (only a transactional step needs it)

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
        log = log_of(step)
        backfill = self._backfill(step, ledger, hold, log)
        context = Context(self.app, log, hold.verify, backfill, session, self.rehearsal)
        if session is not None:
            self._transactional(function, ledger, context, hold)
        else:
            self._call(function, context)
            ledger.done()

    def _backfill(
        self, step: Step, ledger: Ledger, hold: Hold, log: logging.Logger
    ) -> Callable[..., Backfilled]:
        """Return `ctx.backfill`, which is made when it is called first: most steps never do."""

        @functools.cache
        def made() -> Callable[..., Backfilled]:
            from flask_migrate_mongo.backfill.calls import Backfill, Site, refused  # noqa: PLC0415
            from flask_migrate_mongo.backfill.checkpoints import Notebook  # noqa: PLC0415

            if step.file.transactional:
                return refused
            book, tell = Notebook(ledger.claimed()), ledger.progressed
            return Backfill(
                Site(self.server, self.switch, hold, book, log, tell, self.sleep, self.backfills)
            )

        # Two threads must not make two of them: each counts the calls from 0.
        making = threading.Lock()

        def backfill(*arguments: Any, **options: Any) -> Backfilled:  # noqa: ANN401  (passed on)
            with making:
                begun = made()
            return begun(*arguments, **options)

        return backfill

    def _call(self, function: Callable[..., object], context: Context) -> None:
        self.call(function, context, self.server.handle(transactional=context.session is not None))

    def call(self, function: Callable[..., object], context: Context, db: Database[Any]) -> None:
        """Call up() or down() as a migration expects to be called."""
        with self.app.app_context(), self.switch.interruptible():
            call(function, {"db": db, "ctx": context})

    def _transactional(
        self, function: Callable[..., object], ledger: Ledger, context: Context, hold: Hold
    ) -> None:
        def attempt() -> None:
            hold.ensure()
            self._attempt(function, ledger, context, hold)

        self._transactions.repeat(attempt, context.log)

    def _attempt(
        self, function: Callable[..., object], ledger: Ledger, context: Context, hold: Hold
    ) -> None:
        # Late: neither what only looks nor a plain step comes here.
        from flask_migrate_mongo.driver.confinement import confined  # noqa: PLC0415
        from flask_migrate_mongo.driver.transactions import transaction  # noqa: PLC0415

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
            self._transactions.commit(session, ledger.stands)

    @property
    def _transactions(self) -> Transactions:
        from flask_migrate_mongo.driver.transactions import Transactions  # noqa: PLC0415  (as above)

        return Transactions(self.server, self.sleep)


def log_of(step: Step) -> logging.Logger:
    """Return the logger that the step's migration gets."""
    return logging.getLogger(f"flask_migrate_mongo.migration.{step.version}")


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


def code_of(exc: BaseException | None) -> object:
    """Return the server's code for an error, None when it has none."""
    return getattr(exc, "code", None)
