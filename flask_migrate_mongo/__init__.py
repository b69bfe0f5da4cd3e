"""Migrations for Flask applications on MongoDB."""

from .extension import MongoMigrate
from .model.errors import MigrateError

__all__ = ["MigrateError", "MongoMigrate"]
