"""The command that shows everything about one version."""

from __future__ import annotations

import click

from flask_migrate_mongo.planning.details import details
from flask_migrate_mongo.reports import showing
from flask_migrate_mongo.wiring.linting import linter
from flask_migrate_mongo.wiring.looking import inspector

from . import output


@output.command
@click.argument("version", type=output.VERSION)
@click.option("--source", is_flag=True, help="Show the text of the file, too.")
@output.as_json
def show(version: str, *, source: bool) -> None:
    """Show everything that is known of VERSION.

    VERSION is a number, the beginning of one, or the name in the file's name. Executes no migration's code and takes no lock.
    """
    found = output.state()
    shown = details(inspector(found), linter(found), version, with_source=source)
    output.show("show", showing.details, shown)
