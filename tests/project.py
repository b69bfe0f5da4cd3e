"""A project of a user's: an application with a folder of migrations, on a database of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask

from flask_migrate_mongo import MongoMigrate
from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.dry_run import DryRunner
from flask_migrate_mongo.wiring import running

from .server.conformance import SITE

if TYPE_CHECKING:
    from click.testing import Result
    from pymongo.database import Database

    from flask_migrate_mongo.engine.runner import Runner

ROOT = Path(__file__).parents[1]

CLUSTERED, CLIENT_BULK_WRITE = 16, 25
"""The wire versions, of MongoDB 5.3 and 8.0, from which servers have clustered collections and `bulkWrite`."""

PYTHON_PATH = os.pathsep.join((str(ROOT), str(SITE)))
"""Where processes of tests find this package, and the module that watches what they send."""

APP = """
from flask import Flask
from flask_migrate_mongo import MongoMigrate

app = Flask(__name__)
MongoMigrate(app)
"""

Process = subprocess.CompletedProcess[str]


class Project:
    """The folder of the application, and the database that it migrates."""

    def __init__(self, root: Path, db: Database[Any], uri: str) -> None:
        self.root = root
        self.db = db
        self.uri = uri
        self.migrations = root / "migrations"
        self.migrations.mkdir()

    def needs(self, wire_version: int) -> None:
        """Skip the test if the server says that it is older."""
        server = self.db.client.admin.command("hello")
        if server["maxWireVersion"] < wire_version:
            pytest.skip(f"the server's wire version is below {wire_version}")

    def write(self, name: str, source: str) -> Path:
        """Write a migration; `name` is that of its file, with or without `.py`."""
        path = self.migrations / (name if "." in name else f"{name}.py")
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        return path

    def write_inserts(self, *versions: int, collection: str = "done") -> None:
        """Write plain, reversible migrations that each insert a document with their version."""
        for version in versions:
            self.write(
                f"{version}_insert",
                f"""
                def up(db):
                    db.{collection}.insert_one({{"version": {version}}})

                def down(db):
                    db.{collection}.delete_one({{"version": {version}}})
                """,
            )

    def app(self, mongo: object = None, **settings: object) -> Flask:
        """Return an application in this process, on this test's database unless `mongo` is given."""
        app = Flask("shop", root_path=str(self.root))
        app.config.from_mapping(settings)
        MongoMigrate(app, self.db if mongo is None else mongo)
        return app

    def runner(self, mongo: object = None, **settings: object) -> Runner:
        """Return the runner of a new application, on this test's database unless `mongo` is given."""
        return running.runner(app_state.of(self.app(mongo, **settings)))

    def dry_runner(self, **settings: object) -> DryRunner:
        """Make the dry runner of a new application."""
        return DryRunner(self.runner(**settings))

    def invoke(self, *args: str, **settings: object) -> Result:
        """Run `flask db-migrate …` in this process."""
        return self.app(**settings).test_cli_runner().invoke(args=["db-migrate", *args])

    def command(self, *args: str) -> list[str]:
        """Return the command line of `flask db-migrate …`, and write the application it needs."""
        app = self.root / "app.py"
        if not app.exists():
            app.write_text(APP, encoding="utf-8")
        return [sys.executable, "-m", "flask", "--app", str(app), "db-migrate", *args]

    def environ(self, **extra: str) -> dict[str, str]:
        """Return the environment of a process of the application."""
        return {**os.environ, "MONGO_URI": self.uri, "PYTHONPATH": PYTHON_PATH, **extra}

    def run(self, *args: str, timeout: float = 120, **environ: str) -> Process:
        """Run `flask db-migrate …` in a process of its own, to its end."""
        return subprocess.run(
            self.command(*args),
            env=self.environ(**environ),
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def spawn(self, *args: str, **environ: str) -> subprocess.Popen[str]:
        """Start `flask db-migrate …` in a process of its own."""
        return subprocess.Popen(
            self.command(*args),
            env=self.environ(**environ),
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def result(self, printed: str) -> str:
        """Return what was printed after the first line, which names the database."""
        first, _, rest = printed.partition("\n")
        assert first.startswith(f"{self.db.name} on "), printed
        return rest

    def record(self, version: int, *, collection: str = "migrations") -> dict[str, Any]:
        """Return the record of a version as it is stored."""
        found = self.db[collection].find_one({"version": str(version)})
        assert found is not None, f"{version} has no record"
        return dict(found)

    def statuses(self) -> dict[int, str]:
        """Return what each record says."""
        return {int(r["version"]): r["status"] for r in self.db.migrations.find()}

    def trail(self, version: int) -> list[str]:
        """Return the kinds of a version's events, oldest first."""
        return [event["event"] for event in self.record(version)["metadata"]["events"]]
