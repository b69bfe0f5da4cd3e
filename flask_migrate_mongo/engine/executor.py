"""Calls the functions of migrations, in the application and in a transaction."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pymongo.errors import PyMongoError

from flask_migrate_mongo.backfill import BackfillOptions
from flask_migrate_mongo.driver.confinement import check_confinement_support, confined
from flask_migrate_mongo.files import call
from flask_migrate_mongo.model.errors import TransactionAbortedError, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from flask_migrate_mongo.driver.server import Document, Server
    from flask_migrate_mongo.model.values import Step
    from flask_migrate_mongo.process import StopSwitch

    from .context import Context

NO_SUCH_TRANSACTION = 251


@dataclass(frozen=True, slots=True)
class Executor:
    """Calls the migrations of one application on one server.

    `sleep` takes seconds. `rehearsal` is what migrations get as `ctx.rehearsal`.
    """

    app: Flask
    server: Server
    switch: StopSwitch
    sleep: Callable[[float], None] = time.sleep
    backfills: BackfillOptions = field(default_factory=BackfillOptions)
    rehearsal: bool = False

    def check(self) -> None:
        """Raise UnsupportedDriverError if this driver cannot confine transactional steps."""
        check_confinement_support()

    @contextlib.contextmanager
    def session_for(self, step: Step) -> Iterator[ClientSession | None]:
        """Open the session that the step's transaction runs in; None for a step without one."""
        if step.file.transactional and self.server.transactions_lacking is None:
            with self.server.database.client.start_session() as session:
                yield session
        else:
            yield None

    def call(
        self, function: Callable[..., object], context: Context, db: Database[Document]
    ) -> None:
        """Call `up()` or `down()` in the application's context, where a signal may interrupt it."""
        with self.app.app_context(), self.switch.interruptible():
            call(function, {"db": db, "ctx": context})

    def call_confined(
        self, function: Callable[..., object], context: Context, session: ClientSession
    ) -> None:
        """Call `up()` or `down()` inside the transaction of the session, which it cannot leave.

        Raises what the function raises, EscapesTransactionError, and TransactionAbortedError if the
        function continued after an error that had ended the transaction.
        """
        db = self.server.handle(transactional=True)
        with confined(session) as confinement:
            try:
                self.call(function, context, db)
            except PyMongoError as exc:
                first = confinement.failure
                # The error only says that the transaction had ended before.
                if first is not None and code_of(exc) == NO_SUCH_TRANSACTION != code_of(first):
                    raise caught(first) from first
                raise
        if confinement.escape is not None:
            raise confinement.escape
        if confinement.failure is not None:
            raise caught(confinement.failure) from confinement.failure


def log_of(step: Step) -> logging.Logger:
    """Get the logger that the step's migration uses."""
    return logging.getLogger(f"flask_migrate_mongo.migration.{step.version}")


def caught(first: PyMongoError) -> TransactionAbortedError:
    """Build the error of a migration that continued after this one."""
    return TransactionAbortedError(
        f"The migration continued after an error that it caught: {redact(str(first))}. On the server "
        "that error had already ended the transaction, so nothing of this step is kept.",
        "Check beforehand instead of catching (count, find_one, upsert), or delete `transactional = True`.",
    )


def code_of(exc: BaseException | None) -> object:
    """Read the server's code of an error; None if it has none."""
    return getattr(exc, "code", None)
