"""The documents say what the code does: tables agree with it, examples run, links lead somewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click
import pytest

from flask_migrate_mongo.driver import commands as wire
from flask_migrate_mongo.driver import confinement
from flask_migrate_mongo.driver.transactions import DEFAULT_LIFETIME, RETRY_SECONDS
from flask_migrate_mongo.dry_run.effects import BYTES_LIMIT, DOCUMENTS_LIMIT
from flask_migrate_mongo.engine.runner import START_SECONDS
from flask_migrate_mongo.interfaces import schemas
from flask_migrate_mongo.interfaces.cli import db_migrate
from flask_migrate_mongo.model import errors
from flask_migrate_mongo.model.reports import DRY_RUN_SECONDS, LockReport
from flask_migrate_mongo.model.values import LockState, Status
from flask_migrate_mongo.schema import Collection, Index
from flask_migrate_mongo.settings import SETTINGS, Settings, key_of
from flask_migrate_mongo.store.lease import BEATS_PER_TTL
from tests.commands import all_commands
from tests.pages import Typed, steps
from tests.project import ROOT
from tests.purposes import purposes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.project import Project

DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
REFERENCE = ROOT / "docs" / "reference.md"

_EXAMPLE = re.compile(r"^```python file=(\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PYTHON = re.compile(r"^ *```python[^\n]*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


# --- the tables of the reference; each function gives the line that has to be there


def setting_row(name: str) -> str:
    setting, given = SETTINGS[name], Settings.__dataclass_fields__[name].default
    default = "none" if given is None else f"`{given}`"
    return f"| `{key_of(name)}` | {default} | {setting.accepts} | {purposes()[name]} |"


def parameter_row(parameter: click.Parameter, context: click.Context) -> str:
    """Return an option as `--help` shows it, an argument by its name."""
    if not isinstance(parameter, click.Option):
        need = "needed" if parameter.required else "optional"
        return f"| `{parameter.make_metavar(context)}` | {need} |"
    shown = parameter.get_help_record(context)
    assert shown is not None, f"{parameter.name} is hidden"
    usage, text = (part.replace("|", "\\|") for part in shown)
    return f"| `{usage}` | {' '.join(text.split())} |"


def command_section(name: str, command: click.Command) -> str:
    """Return the heading of a command, its first sentence and its parameters."""
    context = click.Context(command, info_name=name)
    rows = [parameter_row(parameter, context) for parameter in command.params]
    summary = (command.help or "").partition("\n\n")[0].replace("\n", " ")
    table = "\n".join(["| | |", "|---|---|", *rows])
    return f"### `flask db-migrate {name}`\n\n{summary}\n\n{table}\n"


def error_row(kind: type[errors.MigrateError]) -> str:
    return f"| `{kind.code}` | {kind.exit_code} | {kind.http_status} | {kind.title} |"


def error_kinds(
    kind: type[errors.MigrateError] = errors.MigrateError,
) -> Iterator[type[errors.MigrateError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from error_kinds(below)


COMMANDS = all_commands()


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_is_in_the_reference(setting: str) -> None:
    assert setting_row(setting) in REFERENCE.read_text().splitlines()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_in_the_reference_with_each_of_its_options(name: str) -> None:
    assert command_section(name, COMMANDS[name]) in REFERENCE.read_text()


@pytest.mark.parametrize("kind", list(error_kinds()), ids=lambda kind: kind.code)
def test_every_error_is_in_the_reference(kind: type[errors.MigrateError]) -> None:
    assert error_row(kind) in REFERENCE.read_text().splitlines()


def test_the_reference_has_no_command_and_no_setting_that_does_not_exist() -> None:
    text = REFERENCE.read_text()
    commands = re.findall(r"^### `flask db-migrate ([a-z -]+)`$", text, re.MULTILINE)
    assert sorted(commands) == sorted(COMMANDS)
    known = set(map(key_of, SETTINGS))
    for page in PAGES:
        named = set(re.findall(r"\bMIGRATE_[A-Z_]+\b", page.read_text()))
        assert named <= known, page.name


def test_every_option_that_a_page_names_exists() -> None:
    known = {
        option
        for command in COMMANDS.values()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    for page in PAGES:
        for match in re.finditer(r"flask db-migrate [^`\n]*", page.read_text()):
            line = match[0]
            named = set(re.findall(r"(?<!\S)--[a-z-]+", line)) - {"--help"}
            assert named <= known, f"{page.name}: {line}"


def test_the_names_of_the_driver_that_are_relied_on_are_documented() -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text()
    patched = (*confinement.PATCHES.names, *confinement.PLAIN_PATCHES.names, *wire.PATCHES.names)
    relied_on = {f"{owner.__name__}.{name}" for owner, name in patched}
    relied_on |= {
        "ClientSession._server_session",
        "_ServerSession._transaction_id",
        "MongoClient._init_kwargs",
        "periodic_executor._EXECUTORS",
    }
    documented = set(re.findall(r"^\| `(\w+\.\w+)` \|", text, re.MULTILINE))
    assert documented == relied_on


# --- the figures in what is explained


TIMES = {2: "twice", 3: "three times", 4: "four times", 5: "five times"}
FIGURES = [
    ("explanation/lease.md", f"renews it {TIMES[BEATS_PER_TTL]} in that period"),
    ("reliability.md", f"renews the lock** {TIMES[BEATS_PER_TTL]} within"),
    ("explanation/dry-run.md", f"a dry run ends after {DRY_RUN_SECONDS:.0f} seconds"),
    (
        "performance.md",
        f"after {DRY_RUN_SECONDS:.0f} seconds (`--dry-run-limit`), {DOCUMENTS_LIMIT:,} documents",
    ),
    (
        "dry-run.md",
        f"({DRY_RUN_SECONDS:.0f} seconds by default), or writes more than {DOCUMENTS_LIMIT:,} documents",
    ),
    *((page, f"{BYTES_LIMIT >> 20} MB") for page in ("performance.md", "dry-run.md")),
    ("explanation/transactions.md", f"{DEFAULT_LIFETIME} seconds by default"),
    ("reliability.md", f"A transaction is run again, for up to {RETRY_SECONDS} s."),
    ("reliability.md", f"Recording is tried again for up to {START_SECONDS} s"),
]


@pytest.mark.parametrize(("page", "sentence"), FIGURES)
def test_a_figure_is_the_one_of_the_code(page: str, sentence: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert sentence in " ".join(text.split())


def test_the_explained_states_are_those_that_status_shows() -> None:
    text = (ROOT / "docs" / "explanation" / "states.md").read_text(encoding="utf-8")
    shown = {status.word for status in Status} - {Status.ROLLED_BACK.word}
    assert set(re.findall(r"^\| `([a-z]+)` \|", text, re.MULTILINE)) == shown | {"interrupted"}


# --- the JSON documents


DECLARED = [Collection("migration_locks", [Index("x")], validator={"x": 1}), Collection("none")]
USERS_OWN = {"effects", "id", "before", "after", "declared", "live"}
"""Fields that hold names and values of the user's own."""


def fields(document: object) -> Iterator[str]:
    """Return the name of every field, at any depth."""
    if isinstance(document, dict):
        for name, value in document.items():
            yield name
            yield from () if name in USERS_OWN else fields(value)
    elif isinstance(document, list):
        for value in document:
            yield from fields(value)


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("up",),
        ("down", "--dry-run"),
        ("up", "--dry-run"),
        ("history",),
        ("history", "--events"),
        ("lock-status",),
        ("force-unlock",),
        ("create", "a name"),
        ("rehearse",),
        ("down", "--steps", "0"),
        ("plan",),
        ("show", "20261101003", "--source"),
        ("doctor",),
        ("schema", "diff"),
    ],
    ids=" ".join,
)
def test_every_field_of_a_json_document_is_in_the_reference(
    project: Project, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATE_SCHEMA", f"{__name__}:DECLARED")
    project.write_inserts(20261101001)
    assert project.invoke("up").exit_code == 0
    project.write_inserts(20261101002)
    project.write("20261101003_fails", "def up(db):\n    raise ValueError('no')\n")
    if command != ("up",):
        project.invoke("up")
    text = REFERENCE.read_text()
    printed = json.loads(project.invoke(*command, "--json").stdout)
    assert [name for name in fields(printed) if f"`{name}`" not in text] == []


def test_every_field_that_a_lock_is_shown_with_is_in_the_reference() -> None:
    now = datetime(2026, 11, 22, tzinfo=timezone.utc)
    lock = LockState("holder", "host", 1, "run", "up", 1, now, now, now, now)
    shown = list(fields(schemas.document("lock-status", LockReport(lock))))
    assert len(shown) > 10
    assert [name for name in shown if f"`{name}`" not in REFERENCE.read_text()] == []


# --- the examples


def examples(page: Path) -> list[tuple[str, str]]:
    """Return the files that a page shows, with their content."""
    return _EXAMPLE.findall(page.read_text())


def typed_along(page: Path) -> bool:
    """Whether other tests type the commands of the page, which then uses its files itself."""
    return any(isinstance(step, Typed) for step in steps(page))


WITH_EXAMPLES = [page for page in PAGES if examples(page) and not typed_along(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_has_no_syntax_error(page: Path) -> None:
    sources = [textwrap.dedent(source) for source in _PYTHON.findall(page.read_text())]
    if page.name == "MM000.md":  # Its first example is what no parser reads.
        with pytest.raises(SyntaxError):
            compile(sources.pop(0), page, "exec")
    for source in sources:
        compile(source, page, "exec")


def test_the_pages_show_examples_that_run() -> None:
    assert {"migrations.md", "database.md"} <= {page.name for page in WITH_EXAMPLES}


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run_up_and_down(project: Project, page: Path) -> None:
    project.db.airports.insert_one({"_id": "EDDF", "lon": 8.5, "lat": 50.0, "elevation": 364.0})
    project.db.users.insert_many([{"email": "Ada@Example.org "}, {"email": None}])
    before = {name: list(project.db[name].find()) for name in ("airports", "users")}
    for name, source in examples(page):
        (project.root / name).write_text(source, encoding="utf-8")
    project.write_inserts(20260101001)
    up = project.run("up")
    assert up.returncode == 0, up.stdout + up.stderr
    steps = len(list(project.migrations.glob("*.py")))
    down = project.run("down", "--steps", str(steps))
    assert down.returncode == 0, down.stdout + down.stderr
    assert {name: list(project.db[name].find()) for name in before} == before


FACTORY = """
from flask import Flask
from flask_pymongo import PyMongo

from flask_migrate_mongo import MongoMigrate

mongo = PyMongo()


def create_app():
    app = Flask(__name__)
    app.config["MONGO_URI"] = "mongodb://a-server-that-no-test-may-use/shop"
    mongo.init_app(app)
    MongoMigrate(app, mongo)
    return app
"""


def test_the_tests_on_the_page_about_testing_pass(
    project: Project, mongo_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, source in [("app.py", FACTORY), *examples(ROOT / "docs" / "how-to" / "test.md")]:
        (project.root / name).write_text(source, encoding="utf-8")
    monkeypatch.setenv("MIGRATE_TEST_URI", mongo_uri)
    # Here `tests` is imported before pytest, since processes of these tests are watched.
    watched = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", *watched, "-p", "no:cacheprovider"],
        env=project.environ(),
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert " 6 passed in " in done.stdout, done.stdout


@pytest.mark.parametrize("module", ["shop_schema", "orders_schema"])
def test_the_declarations_of_the_page_on_the_schema_are_compared(
    project: Project, module: str
) -> None:
    for name, source in examples(ROOT / "docs" / "schema.md"):
        (project.root / name).write_text(source, encoding="utf-8")
    assert project.run("up").returncode == 0
    diff = project.run("schema", "diff", MIGRATE_SCHEMA=f"{module}:collections")
    expected = 0 if module == "shop_schema" else 4
    assert diff.returncode == expected, diff.stdout + diff.stderr


def test_the_ways_to_hand_over_a_database_all_lead_to_it(project: Project) -> None:
    apps = [name for name, _ in examples(ROOT / "docs" / "database.md") if name.startswith("app")]
    assert len(apps) >= 3
    project.write_inserts(20261101001)
    for name, source in examples(ROOT / "docs" / "database.md"):
        if name not in apps:
            continue
        (project.root / "app.py").write_text(source, encoding="utf-8")
        for direction, left in (("up", 1), ("down", 0)):
            run = project.run(direction)
            assert run.returncode == 0, f"{name}: {run.stderr}"
            assert project.db.done.count_documents({}) == left, name


# --- the links


def anchors(page: Path) -> set[str]:
    """Return the anchors that the page's headings make."""
    headings = _HEADING.findall(_FENCED.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_between_the_pages_leads_somewhere(page: Path) -> None:
    for link in _LINK.findall(_FENCED.sub("", page.read_text())):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_the_commands_of_the_help_are_those_of_an_application(project: Project) -> None:
    assert project.app().cli.commands["db-migrate"] is db_migrate
