"""What people type: commands of other tools, misspelled ones, -h, -v, --version, and the Tab key."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from flask_migrate_mongo.interfaces.cli import db_migrate
from flask_migrate_mongo.interfaces.cli.hints import _ELSEWHERE, hint
from tests.commands import all_commands
from tests.project import APP, Process, Project

COMMANDS = all_commands()


@pytest.mark.parametrize("typed", _ELSEWHERE)
def test_what_a_hint_names_exists(typed: str) -> None:
    assert typed not in COMMANDS
    ways = hint(typed, COMMANDS).splitlines()[1:]
    for way in ways:
        words = way.partition("flask db-migrate ")[2].split()
        command = COMMANDS.get(words[0]) or COMMANDS[" ".join(words[:2])]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options
    assert ways


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("upgrade", "To apply pending migrations: flask db-migrate up"),
        ("Downgrade", "To roll back the last migration: flask db-migrate down"),
        ("show_migrations", "flask db-migrate status --all"),
        ("showmigrations", "To see every migration: flask db-migrate status --all"),
        ("stauts", "Did you mean: status?"),
        ("forceunlock", "Did you mean: force-unlock?"),
        ("xyzzy", "See all commands: flask db-migrate --help"),
    ],
)
def test_an_unknown_command_is_answered_with_what_to_type(
    project: Project, typed: str, answer: str
) -> None:
    result = project.invoke(typed)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: There is no `{typed}` here.")
    assert answer in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", [(), *((name,) for name in ("status", "up", "schema"))])
def test_h_is_help(project: Project, command: tuple[str, ...]) -> None:
    short, long = (project.invoke(*command, option) for option in ("-h", "--help"))
    assert (short.exit_code, short.stdout) == (0, long.stdout)


def test_the_version_is_that_of_the_package(project: Project) -> None:
    expected = f"Flask-Migrate-Mongo {version('flask-migrate-mongo')}\n"
    assert project.invoke("--version").stdout == expected


@pytest.mark.parametrize(
    ("args", "verbose"),
    [
        (["-v", "status"], True),
        (["status", "-v"], True),
        (["status", "--verbose", "--json"], True),
        (["status"], False),
        (["create", "--", "-v"], False),
    ],
)
def test_v_is_known_before_and_behind_the_command(args: list[str], *, verbose: bool) -> None:
    context = db_migrate.make_context("db-migrate", list(args))
    assert context.meta["flask_migrate_mongo.verbose"] is verbose


def test_the_help_lists_each_command_in_one_section(project: Project) -> None:
    text = project.invoke("--help").stdout
    context = click.Context(db_migrate)
    for name in db_migrate.list_commands(context):
        assert sum(line.split()[:1] == [name] for line in text.splitlines()) == 1
    titles = [line for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == ["Options:", "Apply:", "Look:", "Write:", "Repair and take over:"]


# --- completion

FLASK = Path(sys.executable).with_name("flask")


def completed(project: Project, *words: str, **environ: str) -> Process:
    """Press the Tab key behind the last word, in a shell whose server is down."""
    project.command()
    typed = ["flask", "--app", "app.py", "db-migrate", *words]
    given = {
        **project.environ(MONGO_URI="mongodb://127.0.0.1:1/shop"),
        "_FLASK_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(typed),
        "COMP_CWORD": str(len(typed) - 1),
        **environ,
    }
    return subprocess.run(
        [FLASK], env=given, cwd=project.root, capture_output=True, text=True, check=False
    )


def offered(done: Process) -> list[str]:
    return [line.partition(",")[2] for line in done.stdout.split()]


def test_names_of_commands_are_completed(project: Project) -> None:
    assert offered(completed(project, "re")) == [
        "redo",
        "rehearse",
        "resume",
        "renumber",
        "resolve",
    ]


@pytest.mark.parametrize(
    ("words", "versions"),
    [
        (("up", "--to", "2026"), ["20261101001", "20261102001"]),
        (("show", "20261102"), ["20261102001"]),
        (("down", "--to", "insert"), ["insert", "insert"]),
        (("history", "3"), []),
    ],
)
def test_versions_are_completed_from_the_files_alone(
    project: Project, words: tuple[str, ...], versions: list[str]
) -> None:
    project.write_inserts(20261101001, 20261102001)
    done = completed(project, *words)
    assert (offered(done), done.stderr) == (versions, "")


@pytest.mark.parametrize(
    "app",
    [
        "raise ValueError('no such setting')",
        "import sys\nsys.exit(3)",
        "from flask import Flask\napp = Flask(__name__)",
        APP.replace("MongoMigrate(app)", "app.config['MIGRATE_LOCK_TTL'] = 'x'\nMongoMigrate(app)"),
    ],
    ids=["broken", "exits", "not set up", "a bad setting"],
)
def test_a_prompt_never_shows_an_error(project: Project, app: str) -> None:
    (project.root / "app.py").write_text(app, encoding="utf-8")
    done = completed(project, "show", "2")
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_without_a_folder_nothing_is_offered(project: Project) -> None:
    project.migrations.rmdir()
    done = completed(project, "show", "2")
    assert (done.stdout.strip(), done.stderr) == ("", "")
