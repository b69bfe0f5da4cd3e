"""What an application pays at import for an extension that most of its processes never use."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.project import Project

EAGER = {
    "flask_migrate_mongo",
    "flask_migrate_mongo.engine",
    "flask_migrate_mongo.engine.options",
    "flask_migrate_mongo.extension",
    "flask_migrate_mongo.interfaces",
    "flask_migrate_mongo.interfaces.cli",
    "flask_migrate_mongo.interfaces.rest",
    "flask_migrate_mongo.interfaces.rest.routes",
    "flask_migrate_mongo.model",
    "flask_migrate_mongo.model.access",
    "flask_migrate_mongo.model.documents",
    "flask_migrate_mongo.model.errors",
    "flask_migrate_mongo.model.masking",
    "flask_migrate_mongo.model.reports",
    "flask_migrate_mongo.model.values",
    "flask_migrate_mongo.model.wording",
    "flask_migrate_mongo.settings",
    "flask_migrate_mongo.state",
    "flask_migrate_mongo.wiring",
}
"""What importing the package takes; all else is imported when a command runs or a request comes."""

SITE = """
import atexit, json, sys
atexit.register(lambda: json.dump(sorted(sys.modules), open({out!r}, "w")))
"""


def imported(project: Project, *args: str) -> set[str]:
    """Return the modules that a fresh interpreter has imported at its end."""
    out = project.root / "modules.json"
    site = project.root / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(SITE.format(out=str(out)), encoding="utf-8")
    path = f"{site}:{project.environ()['PYTHONPATH']}"
    done = subprocess.run(
        [sys.executable, *args],
        env=project.environ(PYTHONPATH=path),
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(out.read_text(encoding="utf-8")))


def ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] == "flask_migrate_mongo"}


def of(modules: set[str], *packages: str) -> set[str]:
    return {name for name in modules if name.partition(".")[0] in packages}


def app(
    project: Project, *, extension: bool = True, head: str = "", dashboard: bool = False
) -> Path:
    """Write an application, with or without the extension."""
    path = project.root / "shop.py"
    lines = [head, "from flask import Flask", "app = Flask(__name__)"]
    lines += [f"app.config['MIGRATE_DASHBOARD'] = {dashboard}"]
    if extension:
        lines += ["from flask_migrate_mongo import MongoMigrate", "MongoMigrate(app)"]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def flask(project: Project, *args: str) -> set[str]:
    return imported(project, "-m", "flask", "--app", "shop.py", *args)


def test_importing_the_package_imports_neither_rich_nor_the_runner_nor_pymongo(
    project: Project,
) -> None:
    modules = imported(project, "-c", "import flask_migrate_mongo")
    assert ours(modules) == EAGER
    assert of(modules, "rich", "pymongo", "bson", "gridfs", "opentelemetry") == set()


def test_importing_the_signals_imports_blinker_alone(project: Project) -> None:
    modules = imported(project, "-c", "import flask_migrate_mongo.signals")
    assert ours(modules) == EAGER | {"flask_migrate_mongo.signals"}
    assert of(modules, "rich", "pymongo", "bson", "gridfs") == set()


def test_importing_the_package_adds_nothing_of_the_standard_library_to_flask_and_pymongo(
    project: Project,
) -> None:
    without = imported(project, "-c", "import flask, flask.cli, pymongo")
    having = imported(project, "-c", "import flask, flask.cli, pymongo, flask_migrate_mongo")
    assert having - without == EAGER


@pytest.mark.parametrize("command", [("routes",), ("--help",)])
def test_a_flask_command_of_another_kind_pays_for_none_of_it(
    project: Project, command: tuple[str, ...]
) -> None:
    app(project, extension=False)
    without = flask(project, *command)
    app(project)
    having = flask(project, *command)
    assert ours(having) >= EAGER
    heavy = ("rich", "pymongo", "bson", "marshmallow", "webargs", "apispec")
    assert of(having - without, *heavy) == set()


def test_an_application_with_a_dashboard_imports_no_page_before_somebody_opens_one(
    project: Project,
) -> None:
    app(project)
    without = flask(project, "routes")
    app(project, dashboard=True)
    assert flask(project, "routes") == without


def test_an_application_that_uses_pymongo_gets_no_more_of_it(project: Project) -> None:
    app(project, extension=False, head="import pymongo")
    without = flask(project, "routes")
    app(project, head="import pymongo")
    having = flask(project, "routes")
    assert of(having, "pymongo", "bson", "gridfs") == of(without, "pymongo", "bson", "gridfs")


def test_the_pytest_plugin_imports_nothing_but_itself(project: Project) -> None:
    (project.root / "test_it.py").write_text("def test_it(): pass\n", encoding="utf-8")
    command = ("-m", "pytest", "--collect-only", "-p", "no:cacheprovider")
    without = imported(project, *command, "-p", "no:flask-migrate-mongo")
    having = imported(project, *command)
    assert having - without == {"pytest_flask_migrate_mongo"}
    assert of(having, "flask", "pymongo", "flask_migrate_mongo") == set()


def test_create_imports_no_driver(project: Project) -> None:
    app(project)
    modules = flask(project, "db-migrate", "create", "x")
    assert of(modules, "rich", "pymongo", "bson") == set()


def test_a_command_that_looks_imports_what_it_needs_and_in_a_pipe_no_rich(
    project: Project,
) -> None:
    app(project)
    modules = flask(project, "db-migrate", "status")
    assert {"pymongo", "flask_migrate_mongo.planning.plans"} <= modules
    assert of(modules, "rich") == set()
    assert of(modules, "opentelemetry") == set()
    only_to_run = ("backfill", "engine.runner", "lint", "rehearsal")
    assert modules & {f"flask_migrate_mongo.{folder}" for folder in only_to_run} == set()
