"""Makes what creates and renames an application's files."""

from __future__ import annotations

from flask_migrate_mongo.files.scaffold import Scaffold
from flask_migrate_mongo.state import AppState


def scaffold(state: AppState) -> Scaffold:
    """Make what creates and renames the files of an application's migrations."""
    settings = state.settings
    return Scaffold(
        settings.directory, settings.version_format, settings.template, linear=settings.linear
    )
