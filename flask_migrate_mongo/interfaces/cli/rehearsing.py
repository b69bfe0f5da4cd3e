"""The command that rehearses migrations."""

from __future__ import annotations

from collections.abc import Container
from contextlib import closing
from functools import partial

import click

from flask_migrate_mongo.rehearsal import RehearsalOptions, RehearsalReport
from flask_migrate_mongo.reports import runs
from flask_migrate_mongo.wiring.rehearsing import rehearse_and_keep
from flask_migrate_mongo.wiring.running import rehearsal

from .output import CHECK_FAILED, VERSION, as_json, command, is_verbose, name_database, show, state


def _sample_size(_: click.Context, __: click.Parameter, value: str) -> int | None:
    if value == "all":
        return None
    if not value.isdecimal() or int(value) < 1:
        msg = f"{value!r} is neither a whole number from 1 on nor `all`."
        raise click.BadParameter(msg)
    return int(value)


def _names(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(filter(None, map(str.strip, value.split(","))))
    if not names:
        msg = "it names no collection."
        raise click.BadParameter(msg)
    return names


@command
@click.argument("versions", type=VERSION, nargs=-1, metavar="[VERSION]...")
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
    callback=_names,
    help="Collections to copy, separated by commas.  [default: those that are touched]",
)
@click.option(
    "--fail-on",
    type=click.Choice(["irreversible"]),
    multiple=True,
    help="Exit with 4 if a migration has no down().",
)
@as_json
def rehearse(
    *,
    versions: tuple[str, ...],
    sample: int | None,
    collections: tuple[str, ...] | None,
    fail_on: tuple[str, ...],
) -> None:
    """Run up, down and up again on samples, in a scratch database.

    Reports whether down() rolls back all of up(), whether up() works twice, and how long it takes on all
    documents.
    Without VERSION, everything pending.
    """
    shown = click.get_current_context().with_resource(closing(runs.RehearsalReporter()))
    options = RehearsalOptions(versions, sample, collections, shown, shown.phase)
    acts = rehearsal(state())
    name_database(acts.runner.server.location)
    report = rehearse_and_keep(state(), acts, options)
    text = partial(runs.rehearsal, verbose=is_verbose())
    show("rehearse", text, report, exit_code=exit_code(report, fail_on))


def exit_code(report: RehearsalReport, fail_on: Container[str]) -> int:
    """Choose the exit code of `rehearse`: a failed migration goes before a failed check."""
    if report.failure:
        return report.failure.exit_code
    return CHECK_FAILED if report.irreversible and "irreversible" in fail_on else 0
