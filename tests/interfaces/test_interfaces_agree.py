"""One table of cases drives the command line and the API: the same outcome, the same document."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient

from flask_migrate_mongo.model.values import Actor
from tests.project import Project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pymongo.database import Database

TOKEN = "admin-0123456789"
PROBLEM = {"type", "title", "status", "detail", "code"}
VOLATILE = {
    *("runId", "lockedAt", "heartbeatAt", "expiresAt", "appliedAt", "rolledBackAt", "updatedAt"),
    *("at", "executionTime", "traceback", "by", "ofRun", "reason", "fence", "id", "$oid"),
}


@dataclass(frozen=True)
class Case:
    """What is there, what is requested of each interface, and how each reports how it ended."""

    name: str
    given: Callable[[Project], object]
    command: tuple[str, ...]
    request: tuple[str, str]
    exit_code: int
    status: int
    body: dict[str, Any] | None = None
    held: bool = False


def nothing(project: Project) -> None:
    """Leave the project empty."""


def pending(project: Project) -> None:
    project.write_inserts(1, 2)
    project.write("3_tx", "transactional = True\ndef up(db): db.done.insert_one({})")


def applied(project: Project) -> None:
    pending(project)
    assert project.invoke("up").exit_code == 0


def undoable(project: Project) -> None:
    project.write_inserts(1, 2)
    assert project.invoke("up").exit_code == 0


def failing(project: Project) -> None:
    project.write_inserts(1, 3)
    project.write("2_fails", "def up(db): raise ValueError('no such field')")


def failed(project: Project) -> None:
    failing(project)
    assert project.invoke("up").exit_code == 1


def bad_down(project: Project) -> None:
    project.write("1_x", "def up(db): pass\ndef down(db): raise ValueError('stuck')")
    assert project.invoke("up").exit_code == 0


def drifted(project: Project) -> None:
    undoable(project)
    project.write("2_insert", "def up(db): pass\ndef down(db): pass")


def gone(project: Project) -> None:
    undoable(project)
    (project.migrations / "2_insert.py").unlink()


def broken(project: Project) -> None:
    project.write("1_x", "def up(")


def no_import(project: Project) -> None:
    project.write("1_x", "import nowhere_to_be_found\ndef up(db): pass")


def dropping(project: Project) -> None:
    project.db.old.insert_one({})
    project.write("1_drop", "def up(db): db.old.drop()")


def no_folder(project: Project) -> None:
    project.migrations.rmdir()


CASES = [
    Case("status of nothing", nothing, ("status",), ("GET", "/status"), 0, 200),
    Case("status pending", pending, ("status",), ("GET", "/status"), 0, 200),
    Case("status failed", failed, ("status",), ("GET", "/status"), 0, 200),
    Case("status drifted", drifted, ("status",), ("GET", "/status"), 0, 200),
    Case("status locked", pending, ("status",), ("GET", "/status"), 0, 200, held=True),
    Case("status broken", broken, ("status",), ("GET", "/status"), 0, 200),
    Case("status no folder", no_folder, ("status",), ("GET", "/status"), 0, 200),
    Case("up nothing", nothing, ("up",), ("POST", "/up"), 0, 200),
    Case("up", pending, ("up",), ("POST", "/up"), 0, 200),
    Case("up again", applied, ("up",), ("POST", "/up"), 0, 200),
    Case("up dry", pending, ("up", "--dry-run"), ("POST", "/up?dryRun=true"), 0, 200),
    Case("up dry failing", failing, ("up", "--dry-run"), ("POST", "/up?dryRun=true"), 1, 500),
    Case("up dry of a drop", dropping, ("up", "--dry-run"), ("POST", "/up?dryRun=true"), 4, 200),
    Case(
        "up dry without samples",
        pending,
        ("up", "--dry-run", "--samples", "0", "--dry-run-limit", "9"),
        ("POST", "/up?dryRun=true&samples=0&dryRunLimit=9"),
        0,
        200,
    ),
    Case("up failing", failing, ("up",), ("POST", "/up"), 1, 500),
    Case(
        "up going on",
        failing,
        ("up", "--continue-on-error"),
        ("POST", "/up?continueOnError=true"),
        1,
        500,
    ),
    Case("up locked", pending, ("up",), ("POST", "/up"), 3, 409, held=True),
    Case("up waiting", pending, ("up", "--wait", "1"), ("POST", "/up?wait=1"), 3, 409, held=True),
    Case("up broken", broken, ("up",), ("POST", "/up"), 5, 409),
    Case("up no import", no_import, ("up",), ("POST", "/up"), 5, 409),
    Case("down nothing", nothing, ("down",), ("POST", "/down"), 0, 200),
    Case("down", undoable, ("down",), ("POST", "/down"), 0, 200),
    Case("down two", undoable, ("down", "--steps", "2"), ("POST", "/down?steps=2"), 0, 200),
    Case("down too many", undoable, ("down", "--steps", "9"), ("POST", "/down?steps=9"), 2, 409),
    Case("down zero", undoable, ("down", "--steps", "0"), ("POST", "/down?steps=0"), 2, 400),
    Case("down dry", undoable, ("down", "--dry-run"), ("POST", "/down?dryRun=true"), 0, 200),
    Case("down irreversible", applied, ("down",), ("POST", "/down"), 5, 409),
    Case("down failing", bad_down, ("down",), ("POST", "/down"), 1, 500),
    Case("down drifted", drifted, ("down",), ("POST", "/down"), 5, 409),
    Case(
        "down drift allowed",
        drifted,
        ("down", "--allow-drift"),
        ("POST", "/down?allowDrift=true"),
        0,
        200,
    ),
    Case("down missing", gone, ("down",), ("POST", "/down"), 5, 409),
    Case("history", failed, ("history",), ("GET", "/history"), 0, 200),
    Case(
        "history page",
        applied,
        ("history", "--limit", "1", "--skip", "1", "--status", "completed"),
        ("GET", "/history?limit=1&skip=1&status=completed"),
        0,
        200,
    ),
    Case(
        "history limit", applied, ("history", "--limit", "0"), ("GET", "/history?limit=0"), 2, 400
    ),
    Case("events", failed, ("history", "2"), ("GET", "/history/2/events"), 0, 200),
    Case("lock free", nothing, ("lock-status",), ("GET", "/lock/status"), 0, 200),
    Case("lock held", nothing, ("lock-status",), ("GET", "/lock/status"), 0, 200, held=True),
    Case("unlock free", nothing, ("force-unlock",), ("POST", "/lock/release"), 0, 200),
    Case("unlock", nothing, ("force-unlock",), ("POST", "/lock/release"), 2, 409, held=True),
    Case(
        "unlock confirmed",
        nothing,
        ("force-unlock", "--confirm"),
        ("POST", "/lock/release?confirm=true"),
        0,
        200,
        held=True,
    ),
    Case("create", nothing, ("create", "A b"), ("POST", "/"), 0, 201, body={"name": "A b"}),
    Case(
        "create transactional",
        nothing,
        ("create", "A b", "--transactional"),
        ("POST", "/"),
        0,
        201,
        body={"name": "A b", "transactional": True},
    ),
    Case("create blank", nothing, ("create", " "), ("POST", "/"), 2, 400, body={"name": " "}),
]


@pytest.fixture
def twins(tmp_path: Path, db: Database[Any], project: Project) -> tuple[Project, Project]:
    """Two projects alike, on databases of their own."""
    (tmp_path / "other").mkdir()
    other = db.client[f"{db.name}_other"]
    return project, Project(tmp_path / "other", other, project.uri)


def prepare(case: Case, project: Project) -> contextlib.AbstractContextManager[object]:
    case.given(project)
    lease = project.runner().lease
    return lease.hold(Actor.current("a test")) if case.held else contextlib.nullcontext()


def plain(value: Any, project: Project) -> Any:
    """Return a document without what differs from one run to the next."""
    if isinstance(value, dict):
        return {k: plain(v, project) for k, v in value.items() if k not in VOLATILE}
    if isinstance(value, list):
        return [plain(item, project) for item in value]
    if isinstance(value, str):
        # Each interface words commands and options in its own terms.
        text = value.replace(str(project.root), "ROOT").replace(project.db.name, "DATABASE")
        text = re.sub(r"`[^`]*`", "COMMAND", text)
        return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|for \d+ s|\d{11}", "TIME", text)
    return value


def state(project: Project) -> object:
    """Return what the project and its database look like afterwards."""
    files = sorted(re.sub(r"^\d{11}", "N", p.name) for p in project.root.glob("migrations/*.py"))
    done = [d.get("version") for d in project.db.done.find()]
    return files, project.statuses(), done, project.runner().lock() is None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_doors_do_the_same_and_say_the_same(
    twins: tuple[Project, Project], case: Case
) -> None:
    one, other = twins
    with prepare(case, one):
        shown = one.invoke(*case.command, "--json")
        state_one = state(one)
    with prepare(case, other):
        app = other.app(MIGRATE_API_TOKEN=TOKEN, MIGRATE_API_CREATE=True)
        method, path = case.request
        answer = app.test_client().open(
            f"/api/migrations{path}",
            method=method,
            json=case.body,
            headers={"Authorization": f"Bearer {TOKEN}"},
        )
        state_other = state(other)
    other.db.client.drop_database(other.db.name)
    assert (shown.exit_code, answer.status_code) == (case.exit_code, case.status), answer.text
    assert state_one == state_other
    said, answered = plain(json.loads(shown.stdout), one), plain(answer.get_json(), other)
    if "steps" in said:
        # The API says of a run that failed, besides what it did, what kind of problem that is.
        answered = {k: v for k, v in answered.items() if k not in PROBLEM}
    if said.get("code") == "invalid-request":
        # Each interface explains its own spelling of a parameter.
        said.pop("detail")
        answered.pop("detail")
    assert answered == said


def test_every_endpoint_with_a_command_is_compared() -> None:
    compared = {re.sub(r"\?.*|/\d+/", "", case.request[1]) for case in CASES}
    assert {"/status", "/up", "/down", "/history", "/lock/status", "/lock/release", "/"} <= compared


def test_the_databases_of_the_cases_are_their_own(twins: tuple[Project, Project]) -> None:
    one, other = twins
    assert one.db.name != other.db.name
    assert isinstance(one.db.client, MongoClient)
