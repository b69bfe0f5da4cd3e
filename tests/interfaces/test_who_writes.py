"""Which commands change the history: those that run migrations, those that settle it by hand, and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flask_migrate_mongo.interfaces.cli import db_migrate
from tests.content import content

if TYPE_CHECKING:
    from tests.project import Project

CHANGING = {
    "up",
    "down",
    "redo",
    "resolve",
    "baseline",
    "renumber",
    "import-history",
    "pause",
    "resume",
    "cancel",
}
RELEASING = {"force-unlock"}
LOOKING: dict[str, list[tuple[str, ...]]] = {
    "status": [(), ("--check",), ("--json",)],
    "plan": [()],
    "check": [()],
    "lint": [()],
    "history": [(), ("--events",), ("1",)],
    "lock-status": [()],
    "create": [("x",)],
    "doctor": [()],
    "squash": [("1", "4", "x")],
    "show": [("1",), ("2", "--source")],
    "rehearse": [()],
    "schema": [("dump",), ("diff",)],
}
DRY: list[tuple[str, ...]] = [("up", "--dry-run"), ("down", "--dry-run"), ("redo", "--dry-run")]
DRY += [("baseline", "--dry-run", "--reason", "r"), ("down", "--batch", "--dry-run")]


@pytest.fixture
def team(project: Project) -> Project:
    """A history in which each state occurs: applied, changed, missing, failed, interrupted, rolled back, pending."""
    project.write_inserts(1, 2, 3, 4)
    project.write("5_fails", "transactional = True\n\ndef up(db): 1 / 0\n")
    project.invoke("up")
    project.write("6_half", "def up(db): 1 / 0\n")
    project.invoke("up", "--continue-on-error")
    (project.migrations / "2_insert.py").unlink()
    with (project.migrations / "3_insert.py").open("a") as file:
        file.write("EDITED = True\n")
    project.write_inserts(7)
    return project


def test_every_command_is_one_or_the_other() -> None:
    names = set(db_migrate.list_commands(None))  # type: ignore[arg-type]
    assert names == CHANGING | RELEASING | LOOKING.keys()


@pytest.mark.parametrize(
    "command", [(name, *args) for name, forms in LOOKING.items() for args in forms] + DRY
)
def test_a_command_that_looks_changes_no_record(team: Project, command: tuple[str, ...]) -> None:
    before = content(team.db)
    team.invoke(*command)
    after = content(team.db)
    assert after["migrations"] == before["migrations"]
    # The lock of a baseline is all that a dry run may touch.
    locks = {"migration_locks"} if command[0] == "baseline" else set()
    assert {k: v for k, v in after.items() if k not in locks} == {
        k: v for k, v in before.items() if k not in locks
    }
