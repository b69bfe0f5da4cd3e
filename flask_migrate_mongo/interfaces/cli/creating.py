"""Commands that write a migration. They run nothing; only a comparison with the database needs one."""

from __future__ import annotations

import click

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.engine import squashing
from flask_migrate_mongo.files.folder import Folder
from flask_migrate_mongo.reports import states
from flask_migrate_mongo.reports.console import out
from flask_migrate_mongo.wiring.creating import scaffold

from .output import VERSION, as_json, command, refuse, show, state


@command
@click.argument("name")
@click.option("--transactional", is_flag=True, help="Create one that runs in a transaction.")
@click.option(
    "--from-schema",
    is_flag=True,
    help="Write what makes the database as MIGRATE_SCHEMA declares, in one file or two.",
)
@as_json
def create(name: str, *, transactional: bool, from_schema: bool) -> None:
    """Create a migration file called NAME and print its path.

    Its number follows both the newest file and today's date. Next, write its up() and down().

    Example: flask db-migrate create "add user index"
    """
    if from_schema:
        # Everything else here needs no driver.
        from flask_migrate_mongo.wiring.generating import create_from_schema  # noqa: PLC0415

        refuse("transactional", because="cannot change existing indexes and validators")
        show("create-from-schema", states.generated, create_from_schema(state(), name))
        return
    made = scaffold(app_state.current()).create(name, transactional=transactional)
    show("create", lambda path: out().write([str(path)]), made)


@command
@click.argument("first", metavar="FROM", type=VERSION)
@click.argument("last", metavar="TO", type=VERSION)
@click.argument("name")
@as_json
def squash(first: str, last: str, name: str) -> None:
    """Join the migrations FROM to TO into a new one called NAME.

    It runs nothing, and needs no database. Read the new file, and edit it. On a database that has all that it
    replaces, the next `up` records it without running it. On a new database it runs instead of them.

    Example: flask db-migrate squash 20260101001 20260630004 "first half of 2026"
    """
    app = app_state.current()
    folder = Folder(app.settings.directory)
    written = squashing.squash(folder, scaffold(app), first, last, name)
    show("squash", states.squashed, written)
