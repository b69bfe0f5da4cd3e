"""Calls the functions of migrations, in the application and in a transaction."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pymongo.errors import PyMongoError

from flask_migrate_mongo.driver.confinement import confined
from flask_migrate_mongo.files.loading import call
from flask_migrate_mongo.model.errors import TransactionAbortedError, redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from flask_migrate_mongo.driver.server import Document
    from flask_migrate_mongo.model.values import Step
    from flask_migrate_mongo.process import StopSwitch

    from .options import Context

NO_SUCH_TRANSACTION = 251
INTERRUPTED = 11601


def call_function(
    function: Callable[..., object], context: Context, db: Database[Document], switch: StopSwitch
) -> None:
    """Call `up()` or `down()` in the application's context, where a signal may interrupt it."""
    with context.app.app_context(), switch.interruptible():
        call(function, {"db": db, "ctx": context})


def call_confined(
    function: Callable[..., object],
    context: Context,
    session: ClientSession,
    db: Database[Document],
    switch: StopSwitch,
) -> None:
    """Call `up()` or `down()` inside the transaction of the session, which it cannot leave.

    Raises what the function raises, EscapesTransactionError, and TransactionAbortedError if the
    function continued after an error, because most errors end the transaction.
    """
    with confined(session) as confinement:
        try:
            call_function(function, context, db, switch)
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
        "most errors end the transaction, so nothing of this step is kept.",
        "Check beforehand instead of catching (count, find_one, upsert), or delete `transactional = True`.",
    )


def code_of(exc: BaseException | None) -> object:
    """Read the server's code of an error; None if it has none."""
    return getattr(exc, "code", None)
