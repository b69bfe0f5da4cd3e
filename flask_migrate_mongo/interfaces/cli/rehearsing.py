"""The command that rehearses migrations."""

from __future__ import annotations

import click

from flask_migrate_mongo.interfaces import exit_codes
from flask_migrate_mongo.rehearsal import RehearsalOptions
from flask_migrate_mongo.reports import rehearsals
from flask_migrate_mongo.wiring.rehearsing import rehearsal

from .output import as_json, command, show, state
from .progress import progress


def _sample_size(_: click.Context, __: click.Parameter, value: str) -> int | None:
    if value == "all":
        return None
    if not value.isdecimal() or int(value) < 1:
        msg = f"{value!r} is neither a whole number from 1 on nor `all`."
        raise click.BadParameter(msg)
    return int(value)


@command()
@click.argument("versions", type=int, nargs=-1, metavar="[VERSION]...")
@click.option(
    "--sample",
    default="1000",
    show_default=True,
    metavar="N",
    callback=_sample_size,
    help="Documents to copy of each collection, or `all`.",
)
@click.option(
    "--collections",
    metavar="NAMES",
    help="Collections to copy, separated by commas.  [default: those that are touched]",
)
@click.option(
    "--fail-on",
    type=click.Choice(["irreversible"]),
    multiple=True,
    help="Exit with 4 if a migration has no down().",
)
@as_json
@click.pass_context
def rehearse(
    ctx: click.Context,
    /,
    *,
    versions: tuple[int, ...],
    sample: int | None,
    collections: str | None,
    fail_on: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run up, down and up again on samples, in a scratch database.

    Reports whether down() rolls back all of up(), whether up() works twice, and how long it takes on all
    documents.
    Without VERSION, everything pending.
    """
    named = None if collections is None else tuple(filter(None, collections.split(",")))
    shown = progress()
    options = RehearsalOptions(versions, sample, named, shown, shown.phase)
    report = rehearsal(state()).run(options)
    show("rehearse", rehearsals.rehearsal, report, as_json=as_json)
    ctx.exit(exit_codes.of_rehearsal(report, fail_on))
