"""Versioned migrations for Flask applications on MongoDB.

PYTEST_DONT_REWRITE: otherwise pytest warns of this package, which has a plugin, in each command of an application that
runs its tests, because it is imported there already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from werkzeug.utils import import_string

from .engine.options import Context
from .extension import MongoMigrate
from .model.errors import (
    CheckFailedError,
    ConfigurationError,
    ConnectionFailedError,
    EscapesTransactionError,
    InvalidRequestError,
    LeaseLostError,
    LockHeldError,
    MigrateError,
    MigrationFailedError,
    RefusedError,
    RehearsalFailedError,
    RunStoppedError,
    SourceError,
)
from .model.reports import RunProgress, RunReport
from .model.values import StatusReport

__all__ = [
    "CheckFailedError",
    "ConfigurationError",
    "ConnectionFailedError",
    "Context",
    "EscapesTransactionError",
    "InvalidRequestError",
    "LeaseLostError",
    "LockHeldError",
    "MigrateError",
    "MigrationFailedError",
    "MongoMigrate",
    "RefusedError",
    "RehearsalFailedError",
    "RunProgress",
    "RunReport",
    "RunStoppedError",
    "SourceError",
    "StatusReport",
]

__version__: str

if not TYPE_CHECKING:

    def __getattr__(name: str) -> str:
        """Read the version from the metadata when it is asked for: few processes need it."""
        if name == "__version__":
            return import_string("importlib.metadata.version")("flask-migrate-mongo")
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
