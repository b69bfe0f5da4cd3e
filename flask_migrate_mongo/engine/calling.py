"""Calls the functions of migrations, in the application and in a transaction."""

from __future__ import annotations

import logging

from pymongo.client_session import ClientSession
from pymongo.database import Database

from flask_migrate_mongo.driver.confinement import Confinement, confined
from flask_migrate_mongo.driver.server import Document
from flask_migrate_mongo.files.loading import StepFunction
from flask_migrate_mongo.model.values import Step
from flask_migrate_mongo.process import Stopped, StopSwitch

from .options import Context


def call_function(
    function: StepFunction, context: Context, db: Database[Document], switch: StopSwitch
) -> None:
    """Call `up()`, with `verify()`, or `down()` in the application's context, where a signal may interrupt it."""
    with context.app.app_context(), switch.interruptible():
        function({"db": db, "ctx": context})


def call_confined(
    function: StepFunction,
    context: Context,
    session: ClientSession,
    db: Database[Document],
    switch: StopSwitch,
) -> Confinement:
    """Call `up()`, with `verify()`, or `down()` inside the transaction of the session, which it cannot leave.

    Raises only what a signal does; all other errors are in the result.
    """
    with confined(session) as confinement:
        try:
            call_function(function, context, db, switch)
        except (KeyboardInterrupt, Stopped):
            raise
        except BaseException as exc:  # noqa: BLE001  (what a migration raises, SystemExit too, is its failure)
            confinement.raised = exc
    return confinement


def log_of(step: Step) -> logging.Logger:
    """Get the logger that the step's migration uses."""
    return logging.getLogger(f"flask_migrate_mongo.migration.{step.version}")
