"""A newcomer types what the first pages say, in an environment that has nothing but the wheels."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient

from tests import wheelhouse
from tests.conftest import uri_with
from tests.pages import Shell, Typed, as_on_a_laptop, steps, type_along
from tests.project import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo.database import Database

# Environments are made and filled, on a machine that may be busy.
pytestmark = pytest.mark.timeout(400)

README, START = ROOT / "README.md", ROOT / "docs" / "start.md"
TUTORIAL = ROOT / "docs" / "tutorial.md"

_ADDRESS = re.compile(r"mongodb://localhost:27017/(\w+)")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install` finds instead of a package index."""
    folder = tmp_path_factory.mktemp("wheels")
    wheelhouse.build(folder, "airportsdata")
    return folder


class Newcomer:
    """A person with an empty home, Python, a server, and a page to type from."""

    def __init__(self, home: Path, wheels: Path, uri: str, database: str) -> None:
        self._home = home
        self._uri, self._database = uri, database
        self._named = ""
        (bin_folder := home.parent / "bin").mkdir()
        python = bin_folder / "python3"
        python.write_text(f'#!/bin/sh\nexec {Path(sys.executable).resolve()} "$@"\n')
        python.chmod(0o755)
        pip = {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(wheels)}
        self._environ = {
            "HOME": str(home),
            "PATH": f"{bin_folder}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            **{f"PIP_{name}": value for name, value in pip.items()},
        }

    def follow(self, page: Path, *, standalone: bool = False) -> list[str]:
        """Type all that a page says, and list the commands."""
        self._home.mkdir()
        listed = [step for step in steps(page) if _is_for(step, standalone=standalone)]
        with Shell(self._home, self._environ) as shell:
            return type_along(page, listed, shell, command=self._here, shown=self._there)

    def _here(self, command: str) -> str:
        """Name the server of this test in a command."""
        if address := _ADDRESS.search(command):
            self._named = address[1]
        return _ADDRESS.sub(lambda _: shlex.quote(self._uri), command)

    def _there(self, printed: str) -> str:
        """Show an output as the computer of the page's reader does."""
        return as_on_a_laptop(printed, {str(self._home): "/home/ada", self._database: self._named})


def _is_for(step: object, *, standalone: bool) -> bool:
    """Whether a step can be done on this server: the page shows what differs on a standalone one."""
    if not isinstance(step, Typed):
        return True
    if step.server is not None:
        return standalone
    return not (standalone and "--dry-run" in step.command)


@pytest.fixture
def newcomer(
    tmp_path: Path, wheels: Path, db: Database[dict[str, Any]], mongo_uri: str
) -> Newcomer:
    """A newcomer with a replica set."""
    return Newcomer(tmp_path / "ada", wheels, uri_with(mongo_uri, db.name), db.name)


def test_the_readme_leads_to_an_applied_migration(newcomer: Newcomer) -> None:
    typed = newcomer.follow(README)
    assert "pip install -q flask-migrate-mongo" in typed
    assert {"flask db-migrate up", "flask db-migrate down"} <= set(typed)


def test_the_five_minutes_print_what_they_show(newcomer: Newcomer) -> None:
    typed = newcomer.follow(START)
    assert len(typed) > 12
    assert {"flask db-migrate up --dry-run", "flask db-migrate rehearse"} <= set(typed)


def test_the_tutorial_prints_what_it_shows(newcomer: Newcomer) -> None:
    typed = newcomer.follow(TUTORIAL)
    assert typed.count("flask db-migrate rehearse") == 3
    assert typed.count("flask db-migrate up") == 3


@pytest.fixture
def with_standalone(tmp_path: Path, wheels: Path, standalone_uri: str) -> Iterator[Newcomer]:
    """A newcomer with a server that has no transactions."""
    name = f"t_{tmp_path.name[-40:]}"
    yield Newcomer(tmp_path / "ada", wheels, uri_with(standalone_uri, name), name)
    with MongoClient[dict[str, Any]](standalone_uri) as client:
        client.drop_database(name)


def test_they_do_so_on_a_standalone_server_with_the_difference_that_they_name(
    with_standalone: Newcomer,
) -> None:
    typed = with_standalone.follow(START, standalone=True)
    assert typed.count("flask db-migrate up --dry-run") == 1
    assert "echo $?" in typed


def test_the_readme_needs_no_replica_set(with_standalone: Newcomer) -> None:
    assert "flask db-migrate up" in with_standalone.follow(README, standalone=True)


@pytest.mark.parametrize("page", [README, START], ids=lambda page: page.name)
def test_the_line_that_starts_a_replica_set_is_one_line_for_a_shell(page: Path) -> None:
    lines = [line for line in page.read_text().splitlines() if line.startswith("docker run")]
    assert len(lines) == 1
    words = shlex.split(lines[0])
    assert words[:3] == ["docker", "run", "-d"]
    # From the host and from the container, the member has the same address.
    assert "localhost:27017" in words[words.index("--eval") + 1]
    assert words[words.index("-p") + 1] == "127.0.0.1:27017:27017"
