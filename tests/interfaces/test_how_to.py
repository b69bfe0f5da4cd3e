"""The pages of tasks: their commands are typed along, and their other examples are valid."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from flask_migrate_mongo.interfaces.cli import db_migrate
from flask_migrate_mongo.model import errors
from tests.pages import Block, Shell, Typed, Written, as_on_a_laptop, blocks, steps, type_along
from tests.project import APP, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.project import Project

FOLDER = ROOT / "docs" / "how-to"
PAGES = sorted(FOLDER.glob("*.md"))

DOCUMENTS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "unique-index": {
        "users": [
            {"_id": 1, "email": "ada@example.org"},
            {"_id": 2, "email": "grace@example.org"},
            {"_id": 3, "email": "ada@example.org", "phone": "1"},
            {"_id": 4},
            {"_id": 5},
        ]
    },
    "async": {"users": [{"_id": 1}]},
    "zero-downtime": {"users": [{"_id": 1, "address": "Ada Street 1"}, {"_id": 2}]},
}
"""What the database of a page has before its commands are typed."""


def all_blocks(language: str) -> list[tuple[Path, Block]]:
    return [(page, block) for page in PAGES for block in blocks(page) if block.language == language]


_COMMAND = re.compile(r"flask (?:--app \S+ )?(db-migrate [^&#|\n]*)")


def name_of(value: object) -> str:
    return value.stem if isinstance(value, Path) else ""


# --- commands with their output


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(isinstance(s, Typed) for s in steps(page))], ids=name_of
)
def test_each_command_prints_what_the_page_shows(project: Project, page: Path) -> None:
    for collection, documents in DOCUMENTS.get(page.stem, {}).items():
        project.db[collection].insert_many(documents)
    (project.root / "app.py").write_text(APP)
    environ = {
        **project.environ(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    names = {str(project.root): "/home/ada/shop", project.db.name: "shop"}
    with Shell(project.root, environ) as shell:
        assert type_along(page, steps(page), shell, shown=partial(as_on_a_laptop, names=names))


# --- examples that are read and not run


@pytest.mark.parametrize(("page", "block"), all_blocks("python"), ids=name_of)
def test_each_python_example_has_valid_syntax(page: Path, block: Block) -> None:
    ast.parse(block.text, page.name)


@pytest.mark.parametrize(("page", "block"), all_blocks("sh"), ids=name_of)
def test_each_shell_example_has_valid_syntax(page: Path, block: Block) -> None:
    done = subprocess.run(
        ["bash", "-n"], input=block.text, text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    for line in _COMMAND.findall(block.text):
        assert is_valid(shlex.split(line))


def listed_commands(value: object) -> Iterator[list[str]]:
    """Find the commands in a document of YAML: in lists of words, and in texts."""
    if isinstance(value, dict):
        for each in value.values():
            yield from listed_commands(each)
    elif isinstance(value, list):
        if "db-migrate" in value:
            yield value
        for each in value:
            yield from listed_commands(each)
    elif isinstance(value, str) and "db-migrate " in value:
        yield shlex.split(value)


def is_valid(words: list[str]) -> bool:
    """Whether Click accepts the command and its options."""
    name, *args = words[words.index("db-migrate") + 1 :]
    # Click keeps the options of the first context for the process, and `-h` comes from the group.
    group = db_migrate.make_context("db-migrate", [name])
    command = db_migrate.get_command(group, name)
    assert command is not None, f"there is no {name}"
    command.make_context(name, args, parent=group)
    return True


@pytest.mark.parametrize(("page", "block"), all_blocks("yaml"), ids=name_of)
def test_each_yaml_example_is_valid_and_so_are_its_commands(page: Path, block: Block) -> None:
    (document,) = yaml.safe_load_all(block.text)
    assert isinstance(document, dict | list)
    commands = list(listed_commands(document))
    assert commands
    assert all(is_valid(words) for words in commands)


INSTRUCTIONS = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "CMD"}


@pytest.mark.parametrize(("page", "block"), all_blocks("dockerfile"), ids=name_of)
def test_each_dockerfile_has_only_instructions_that_exist(page: Path, block: Block) -> None:
    lines = [line.split(maxsplit=1) for line in block.text.splitlines()]
    assert lines[0][0] == "FROM"
    assert {instruction for instruction, _ in lines} <= INSTRUCTIONS
    (program,) = (ast.literal_eval(rest) for instruction, rest in lines if instruction == "CMD")
    assert isinstance(program, list)


def test_the_pages_show_examples_of_each_kind() -> None:
    for language in ("python", "sh", "yaml", "dockerfile", "console"):
        assert all_blocks(language), language


# --- exit codes


def family(kind: type[errors.MigrateError]) -> Iterator[type[errors.MigrateError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from family(child)


def named_errors(text: str) -> Iterable[str]:
    rows = re.findall(r"^\| (`.+?) \| ", text, re.MULTILINE)
    return [code for row in rows for code in re.findall(r"`([a-z-]+)`", row)]


def test_the_page_on_troubleshooting_has_the_exit_codes_of_the_errors() -> None:
    exit_codes = {kind.code: kind.exit_code for kind in family(errors.MigrateError)}
    page = (FOLDER / "troubleshooting.md").read_text()
    _, *sections = re.split(r"^### Exit code (\d)\n", page, flags=re.MULTILINE)
    shown = dict(zip(map(int, sections[::2]), sections[1::2], strict=True))
    assert shown.keys() == set(exit_codes.values())
    for code, section in shown.items():
        named = named_errors(section)
        assert named, code
        assert {name: exit_codes.get(name) for name in named} == dict.fromkeys(named, code)


# --- the task of Celery


def test_the_task_of_celery_applies_the_migrations(project: Project) -> None:
    for step in steps(FOLDER / "celery.md"):
        assert isinstance(step, Written)
        step.write(project.root)
    project.write_inserts(20261101001)
    code = "from app import apply_migrations; apply_migrations.apply(throw=True)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project.root,
        env=project.environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert project.statuses() == {20261101001: "completed"}


# --- the history of a Node system


def test_the_history_of_a_node_system_is_used_as_it_is(project: Project) -> None:
    project.write_inserts(20250122001, 20250123001)
    now = datetime(2025, 1, 22, tzinfo=timezone.utc)
    project.db.migrations.create_index("version", unique=True)
    project.db.migrations.insert_one(
        {
            "version": "20250122001",
            "name": "Add user index",
            "description": "",
            "status": "completed",
            "appliedAt": now,
            "executionTime": 12,
            "batch": 1,
            "reversible": True,
            "metadata": {},
            "createdAt": now,
            "updatedAt": now,
            "__v": 0,
        }
    )
    project.db.migration_locks.insert_one({"locked": False, "createdAt": now, "updatedAt": now})
    assert project.invoke("up").exit_code == 0
    assert [done["version"] for done in project.db.done.find()] == [20250123001]
    assert project.invoke("down", "--steps", "2").exit_code == 0
    assert set(project.statuses().values()) == {"rolled-back"}
