"""An application that is installed from a wheel finds its migrations, or says how to put them into it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.project import APP, ROOT

if TYPE_CHECKING:
    from tests.project import Project

# Building and installing takes long on a busy machine.
pytestmark = pytest.mark.timeout(300)

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "shop"
version = "1"

[tool.setuptools]
packages = ["shop"]
"""


def pip(project: Project, *args: str) -> None:
    """Run pip, without the network."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *args]
    done = subprocess.run(
        command, cwd=project.root, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr


def environment_in(folder: Path) -> Path:
    """Create an environment that also has the packages of this one, and return its interpreter."""
    venv.create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(str(Path(pytest.__file__).parents[1]))
    return folder / "bin" / "python"


def install(project: Project, python: Path, source: Path) -> None:
    """Build a wheel, and install it."""
    options = ("--no-index", "--no-deps", "-q")
    wheels = project.root / "wheels"
    pip(project, "wheel", "--no-build-isolation", *options, "-w", str(wheels), str(source))
    (wheel,) = wheels.glob("*.whl")
    pip(project, "--python", str(python), "install", "--force-reinstall", *options, str(wheel))


def run(project: Project, python: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the installed application."""
    return subprocess.run(
        [python, "-m", "flask", "--app", "shop", "db-migrate", *args],
        env=project.environ(),
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_wheel_without_the_folder_says_what_to_add_and_with_that_it_is_found(
    project: Project,
) -> None:
    project.write_inserts(20261101001)
    package = (source := project.root / "source") / "shop"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(APP)
    project.migrations.rename(package / "migrations")
    python = environment_in(project.root / "environment")

    (source / "pyproject.toml").write_text(PYPROJECT)
    install(project, python, source)
    for command in ("status", "lint"):
        said = run(project, python, command)
        text = " ".join((said.stdout + said.stderr).split())
        assert "The installed package shop was built without it." in text
        assert (
            '`tool.setuptools.package-data` of pyproject.toml: `"shop" = ["migrations/*.py"]`'
            in text
        )
    assert "The installed package shop was built without it." in run(project, python, "up").stderr
    assert project.statuses() == {}

    added = '[tool.setuptools.package-data]\n"shop" = ["migrations/*.py"]\n'
    (source / "pyproject.toml").write_text(f"{PYPROJECT}\n{added}")
    install(project, python, source)
    up = run(project, python, "up")
    assert up.returncode == 0, up.stderr
    assert project.statuses() == {20261101001: "completed"}


FLASK_TEST = """
import pytest, sys
import flask_migrate_mongo

sys.exit(pytest.main(["-W", "error", "-p", "no:cacheprovider", "test_it.py"]))
"""


def test_the_wheel_of_this_package_has_the_plugin_also_for_a_command_that_runs_pytest(
    project: Project, mongo_uri: str
) -> None:
    source = project.root / "source"
    shutil.copytree(ROOT / "flask_migrate_mongo", source / "flask_migrate_mongo")
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copy(ROOT / "pytest_flask_migrate_mongo.py", source)
    python = environment_in(project.root / "environment")
    install(project, python, source)
    (package,) = project.root.glob("environment/lib/python*/site-packages/flask_migrate_mongo")
    parts = [f"interfaces/dashboard/{part}" for part in ("templates/*.html", "static/*")]
    found = {path.relative_to(package) for part in parts for path in package.glob(part)}
    source_of = ROOT / "flask_migrate_mongo"
    assert found == {p.relative_to(source_of) for part in parts for p in source_of.glob(part)}
    assert len(found) > len(parts)
    (project.root / "app.py").write_text(APP)
    (project.root / "test_it.py").write_text("from flask_migrate_mongo.testing import *\n")
    project.write_inserts()
    done = subprocess.run(
        [python, "-c", FLASK_TEST],
        env={**project.environ(MIGRATE_TEST_URI=mongo_uri), "PYTHONPATH": ""},
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 5 passed in " in done.stdout
