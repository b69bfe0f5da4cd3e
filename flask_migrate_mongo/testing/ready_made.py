"""Tests that fit every project. A project imports them into a test file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from flask_migrate_mongo.files.folder import Discovery, Folder, stale
from flask_migrate_mongo.files.loading import load
from flask_migrate_mongo.model.errors import DuplicateVersionError, MigrateError, NoFolderError
from flask_migrate_mongo.model.values import Direction, History, MigrationFile, Step
from flask_migrate_mongo.planning import gate
from flask_migrate_mongo.planning.identity import mistaken
from flask_migrate_mongo.rehearsal.comparison import Snapshot, indexes, listed
from flask_migrate_mongo.state import AppState
from flask_migrate_mongo.wiring.linting import linter
from flask_migrate_mongo.wiring.looking import own_collections

from .migrations import Migrations
from .redirect import confined


def test_every_migration_can_be_imported(migration_state: AppState) -> None:
    """Import each file as a run does, and look for its functions. No migration runs."""
    found = _discovered(migration_state)
    problems = [str(each) for each in found.problems if not isinstance(each, DuplicateVersionError)]
    with migration_state.app.app_context(), confined():
        problems += [str(problem) for file in found.files for problem in _import_problems(file)]
    _fail_for("These migrations cannot be imported:", problems)


def test_the_migrations_have_one_order(migration_state: AppState) -> None:
    """Look for numbers and code that two files share, and, with MIGRATE_LINEAR, at `.latest`."""
    found = _discovered(migration_state)
    paths = [file.path for file in found.files]
    late = stale(paths) if migration_state.settings.linear else None
    twins = [each for each in found.problems if isinstance(each, DuplicateVersionError)]
    conflicts = (*twins, *mistaken(found.files, History()), *([late] if late else []))
    _fail_for("The order of the migrations is not clear:", map(str, conflicts))


def test_lint_finds_nothing(migration_state: AppState) -> None:
    """Lint every file with the rules that `flask db-migrate lint` uses."""
    _discovered(migration_state)
    report = linter(migration_state).lint(Folder(migration_state.settings.directory).choose(()))
    _fail_with(report.failure)


@pytest.mark.usefixtures("migration_data")
def test_down_reverses_up(migrations: Migrations, migration_state: AppState) -> None:
    """Apply each migration, roll it back, compare the database with before, and apply it again."""
    runner = migrations.runner()
    if not runner.server.sends_commands:
        pytest.skip("mongomock cannot be compared, because it lists no collections with options.")
    ours = own_collections(runner.server, migration_state.settings)
    problems: list[str] = []
    for step in runner.plan()[0].steps:
        before = Snapshot(migrations.db, ours, check=lambda: None).take()
        migrations.up(steps=1)
        if step.file.reversible:
            migrations.down()
            before.skip |= _left_empty(before)
            problems += [f"{step.file.file_name}: {each}" for each in before.compare().first]
            migrations.up(steps=1)
    _fail_for("down() does not restore what was there before up():", problems)


@pytest.mark.usefixtures("migration_data")
def test_nothing_is_left_to_do_after_up(migrations: Migrations, migration_state: AppState) -> None:
    """Apply everything, and find what `flask db-migrate check` finds, but for lint and the schema."""
    migrations.up()
    report = gate.check(migrations.runner(), linear=migration_state.settings.linear)
    _fail_with(report.failure)


def _left_empty(before: Snapshot) -> frozenset[str]:
    """Find the new collections with nothing in them: an index creates its collection, and dropping it leaves that."""
    db = before.database
    new = (i for name, i in listed(db, before.skip).items() if name not in before.parts)
    return frozenset(
        info["name"]
        for info in new
        if not info["options"] and len(indexes(db, info)) == 1 and not db[info["name"]].find_one()
    )


def _discovered(state: AppState) -> Discovery:
    found = Folder(state.settings.directory).discover()
    if not found.has_folder:
        pytest.fail(str(NoFolderError(state.settings.directory)), pytrace=False)
    return found


def _import_problems(file: MigrationFile) -> Iterator[MigrateError]:
    for direction in Direction if file.reversible else (Direction.UP,):
        try:
            load(Step(file, direction))
        except MigrateError as exc:
            yield exc


def _fail_with(failure: MigrateError | None) -> None:
    """Fail the test with what a report says."""
    if failure is not None:
        pytest.fail(failure.message, pytrace=False)


def _fail_for(headline: str, problems: Iterable[str]) -> None:
    """Fail the test if there are problems."""
    if found := list(problems):
        pytest.fail("\n  ".join((headline, *found)), pytrace=False)
