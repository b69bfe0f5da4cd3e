"""Commands that settle by hand what is recorded, or take it over from another tool; no migration runs."""

from __future__ import annotations

from typing import TextIO

import click

from flask_migrate_mongo.engine import settling
from flask_migrate_mongo.model.errors import NotMappedError
from flask_migrate_mongo.model.values import Tool
from flask_migrate_mongo.planning.importing import Choices, ImportState, parse_map
from flask_migrate_mongo.reports import states
from flask_migrate_mongo.wiring import settling as wired
from flask_migrate_mongo.wiring.creating import scaffold
from flask_migrate_mongo.wiring.running import runner

from .output import VERSION, as_json, command, show, state

_reason = click.option(
    "--reason", required=True, help="How you know; it is stored in the event log."
)


@command
@click.argument("version", type=VERSION)
@click.option("--applied", is_flag=True, help="It is applied.")
@click.option("--not-applied", is_flag=True, help="It is not applied.")
@click.option("--accept-file", is_flag=True, help="Its file is right as it is now.")
@click.option("--forget", is_flag=True, help="Its file is gone for good; its events stay.")
@_reason
@as_json
def resolve(version: str, *, reason: str, **flags: bool) -> None:
    """Settle what is recorded of VERSION after a look at the data.

    For a migration that ended half-way, whose file changed on purpose or is gone, or whose record is known to be wrong.
    """
    wanted = [name for name, is_given in flags.items() if is_given]
    if len(wanted) != 1:
        msg = "Give one of --applied, --not-applied, --accept-file and --forget."
        raise click.UsageError(msg)
    (way,) = wanted
    value = {"not_applied": {"applied": False}}.get(way, {way: True})
    report = wired.resolve(state(), version, reason=reason, **value)
    show("resolve", states.records, report)


@command
@click.option("--to", type=VERSION, help="The last version to record.  [default: the newest]")
@click.option("--dry-run", is_flag=True, help="Only show what would be recorded.")
@_reason
@as_json
def baseline(*, to: str | None, dry_run: bool, reason: str) -> None:
    """Record pending migrations as applied, without running them.

    For a database that has their changes already. The verify() of a migration is executed, and has to pass.
    """
    report = wired.baseline(state(), to=to, reason=reason, dry_run=dry_run)
    show("baseline", states.baseline, report)


@command
@click.argument("file", type=VERSION)
@as_json
def renumber(file: str) -> None:
    """Give FILE the next free number, and let its record follow.

    FILE is its name or its version. A file that has a new number already keeps it.
    """
    found = state()
    show("renumber", states.renumbered, settling.renumber(runner(found), scaffold(found), file))


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
    source = settling.ForeignHistory(Tool(tool), collection, choices)
    report = settling.import_history(runner(state()), source, confirmed=confirm)
    code = NotMappedError.exit_code if report.those(ImportState.UNMAPPED) else 0
    show("import-history", states.imported, report, exit_code=code)
