"""Versioned migrations for Flask applications on MongoDB."""

from .engine.options import Context
from .extension import MongoMigrate
from .model.errors import (
    ConfigurationError,
    ConnectionFailedError,
    LeaseLostError,
    LockHeldError,
    MigrateError,
    RefusedError,
    SourceError,
)
from .model.reports import RunReport
from .model.values import StatusReport

__all__ = [
    "ConfigurationError",
    "ConnectionFailedError",
    "Context",
    "LeaseLostError",
    "LockHeldError",
    "MigrateError",
    "MongoMigrate",
    "RefusedError",
    "RunReport",
    "SourceError",
    "StatusReport",
]
