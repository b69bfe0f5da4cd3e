"""Migrations for Flask applications on MongoDB."""

from .errors import MigrateError
from .extension import MongoMigrate

__all__ = ["MigrateError", "MongoMigrate"]
