"""The command that takes over the history of another migration tool."""

from __future__ import annotations

from typing import TextIO

import click

from flask_migrate_mongo.engine import importing
from flask_migrate_mongo.model.errors import NotMappedError
from flask_migrate_mongo.model.imports import ImportState
from flask_migrate_mongo.model.values import Tool
from flask_migrate_mongo.planning.importing import Choices, parse_map
from flask_migrate_mongo.reports import imports
from flask_migrate_mongo.wiring.running import runner

from .output import as_json, command, show, state


def _choices(_: click.Context, __: click.Parameter, file: TextIO | None) -> Choices:
    if file is None:
        return {}
    try:
        with file:
            return parse_map(file.read())
    except UnicodeDecodeError as exc:
        msg = f"it is not UTF-8: {exc}."
        raise click.BadParameter(msg) from exc


@command
@click.option(
    "--from",
    "tool",
    type=click.Choice([tool.value for tool in Tool]),
    required=True,
    help="The tool that has applied the migrations.",
)
@click.option("--collection", metavar="NAME", help="Its collection.  [default: that of the tool]")
@click.option(
    "--map",
    "choices",
    type=click.File(encoding="utf-8"),
    callback=_choices,
    metavar="FILE",
    help="A text file with a line `their-name = our-version` for each entry that is not found by its number or name, or `their-name = ignore`.",
)
@click.option("--confirm", is_flag=True, help="Record them. Without it, only show them.")
@as_json
def import_history(tool: str, *, collection: str | None, choices: Choices, confirm: bool) -> None:
    """Record what another migration tool has applied.

    Shows which file here each entry of its history means. No migration runs, and the other collection stays as it is.
    Exits with 5 if an entry cannot be mapped.
    """
    source = importing.ForeignHistory(Tool(tool), collection or "", choices)
    report = importing.import_history(runner(state()), source, confirmed=confirm)
    code = NotMappedError.exit_code if report.those(ImportState.UNMAPPED) else 0
    show("import-history", imports.imported, report, exit_code=code)
