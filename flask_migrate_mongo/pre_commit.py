"""The application of the pre-commit hook.

The hook has an environment of its own, in which the application of the project is not installed. Its files are linted
all the same, because lint only reads them. May use Flask and every layer below.
"""

from __future__ import annotations

from pathlib import Path

from flask import Flask

from .extension import MongoMigrate


def create_app() -> Flask:
    """Create an application without settings, in the current folder."""
    app = Flask(__name__, root_path=str(Path.cwd()))
    MongoMigrate(app)
    return app
