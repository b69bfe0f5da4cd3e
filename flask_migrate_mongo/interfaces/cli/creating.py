"""The command that creates a file."""

from __future__ import annotations

import click

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.wiring.creating import scaffold

from .output import as_json, command, show


@command
@click.argument("name")
@click.option("--transactional", is_flag=True, help="Create one that runs in a transaction.")
@as_json
def create(name: str, *, transactional: bool) -> None:
    """Create a migration file called NAME and print its path.

    Its number follows both the newest file and today's date. Next, write its up() and down().

    Example: flask db-migrate create "add user index"
    """
    made = scaffold(app_state.current()).create(name, transactional=transactional)
    show("create", click.echo, made)
