"""What the distributions hold, what the package says of itself, and the hook that it offers to pre-commit."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

import flask_migrate_mongo

ROOT = Path(__file__).parents[2]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"


def build(kind: str, source: Path, built: Path) -> Path:
    """Build one distribution without the network, and return its file."""
    code = BUILD.format(kind=kind)
    command = [sys.executable, "-c", code, str(built)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (archive,) = built.iterdir()
    return archive


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, without what is not in version control."""
    source = tmp_path_factory.mktemp("distribution") / "source"
    skipped = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist")
    shutil.copytree(ROOT, source, ignore=skipped)
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", source)
    return source


@pytest.fixture(scope="module")
def sdist(source: Path) -> Path:
    """The source distribution, unpacked."""
    archive = build("sdist", source, source.with_name("sdist"))
    with tarfile.open(archive) as found:
        found.extractall(source.with_name("unpacked"), filter="data")
    (unpacked,) = source.with_name("unpacked").iterdir()
    return unpacked


def files_in(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_a_source_distribution_holds_what_is_in_the_repository(source: Path, sdist: Path) -> None:
    needed = {name for name in files_in(source) if ".egg-info/" not in name}
    assert {"docs/reliability.md", "tests/conftest.py", "CHANGELOG.md", "Makefile"} <= needed
    assert needed - files_in(sdist) <= {".ci/run"}


def test_the_wheel_that_is_built_from_it_holds_the_package_and_nothing_else(sdist: Path) -> None:
    wheel = build("wheel", sdist, sdist.parent.with_name("wheel"))
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        metadata = message_from_bytes(archive.read(f"{info}/METADATA"))
        typed = archive.getinfo("flask_migrate_mongo/py.typed")
    package = {f"flask_migrate_mongo/{name}" for name in files_in(ROOT / "flask_migrate_mongo")}
    assert {name for name in names if not name.startswith(info)} == {
        *package,
        "pytest_flask_migrate_mongo.py",
    }
    assert typed.file_size == 0
    assert f"{info}/licenses/LICENSE" in names
    assert metadata["Author"] == "The Flask-Migrate-Mongo authors"
    assert metadata["License-Expression"] == "MIT"
    # An address that does not exist would be worse than none.
    assert metadata.get_all("Project-URL") is None
    assert str(metadata.get_payload()).startswith("# Flask-Migrate-Mongo\n")


def test_the_version_is_that_of_the_metadata() -> None:
    assert flask_migrate_mongo.__version__ == version("flask-migrate-mongo")
    assert not hasattr(flask_migrate_mongo, "no_such_name")


# --- the hook for pre-commit


@pytest.fixture
def hook() -> dict[str, Any]:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    return dict(hook)


def run_hook(hook: dict[str, Any], folder: Path, *files: str) -> subprocess.CompletedProcess[str]:
    """Run its command as pre-commit does: in the root of a repository, with the files that changed."""
    program, *args = shlex.split(hook["entry"])
    command = [str(Path(sys.executable).with_name(program)), *args, *files]
    return subprocess.run(
        command,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


CLEAN = """
def up(db):
    db.users.update_many({"seen": {"$exists": False}}, {"$set": {"seen": 0}})


def down(db):
    db.users.update_many({"seen": {"$exists": True}}, {"$unset": {"seen": ""}})
"""


def test_the_hook_lints_files_without_the_application(hook: dict[str, Any], tmp_path: Path) -> None:
    (folder := tmp_path / "shop" / "migrations").mkdir(parents=True)
    # An application that cannot be imported here: its packages are not in the hook's environment.
    (tmp_path / "app.py").write_text("import a_package_that_is_not_installed\n")
    (folder / "20261101001_seen.py").write_text(CLEAN)
    (folder / "20261101002_drop.py").write_text("def up(db):\n    db.users.drop()\n")
    clean, harmful = (f"shop/migrations/2026110100{n}" for n in ("1_seen.py", "2_drop.py"))
    done = run_hook(hook, tmp_path, clean)
    assert (done.returncode, done.stderr) == (0, "")
    done = run_hook(hook, tmp_path, clean, harmful)
    assert done.returncode == 4
    assert f"{harmful}:2:5: MM008" in done.stdout


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("shop/migrations/20261101001_seen.py", True),
        ("migrations/1-seen.py", True),
        ("shop/migrations/_prices.py", False),
        ("shop/migrations/versions/4f1b_users.py", False),
        ("shop/models/20261101001_seen.py", False),
    ],
)
def test_the_hook_takes_migrations_only(hook: dict[str, Any], path: str, *, taken: bool) -> None:
    assert bool(re.search(hook["files"], path)) is taken
