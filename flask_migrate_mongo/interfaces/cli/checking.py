"""Commands that look at files and database, with what lint finds."""

from __future__ import annotations

import click

from flask_migrate_mongo.driver.server import DocumentView
from flask_migrate_mongo.planning.gate import Kind
from flask_migrate_mongo.reports import examining, states
from flask_migrate_mongo.wiring import checking
from flask_migrate_mongo.wiring.details import version_details
from flask_migrate_mongo.wiring.looking import inspector

from . import output
from .comparing import new_only_option
from .output import VERSION, as_json, command, state


def _kinds(_: click.Context, __: click.Parameter, value: str | None) -> tuple[Kind, ...]:
    names = [name.strip() for name in (value or "").split(",") if name.strip()]
    unknown = sorted(set(names) - {kind.value for kind in Kind})
    if unknown:
        known = ", ".join(kind.value for kind in Kind)
        msg = f"{', '.join(unknown)} is not known. The kinds are {known}."
        raise click.BadParameter(msg)
    return tuple(map(Kind, names))


@command
@click.option("--allow", metavar="KINDS", callback=_kinds, help="Do not count these: pending,lint.")
@new_only_option
@as_json
def check(*, allow: tuple[Kind, ...], new_only: DocumentView | None) -> None:
    """Compare the database with the files and the declared schema.

    Exits with 4 if a migration is pending, running, failed, interrupted, changed, missing, out of order, partly squashed,
    mistaken for another one, unusable or stale, if lint finds an error, or if something that MIGRATE_SCHEMA declares is
    missing or different. Each problem is listed with what to do.
    """
    report = checking.check(state(), allow, new_only)
    output.show("check", states.check, report, exit_code=output.exit_code(report))


@command
@as_json
def plan() -> None:
    """Show the plan of `up`, and what lint finds in it.

    Executes no migration's code, takes no lock and writes nothing.
    """
    output.show("plan", states.plan, checking.plan(state()))


@command
@click.argument("version", type=VERSION)
@click.option("--source", is_flag=True, help="Show the text of the file, too.")
@as_json
def show(version: str, *, source: bool) -> None:
    """Show everything that is known of VERSION.

    VERSION is a number, the beginning of one, or the name in the file's name. Executes no migration's code and takes no lock.
    """
    found = state()
    shown = version_details(found, inspector(found), version, with_source=source)
    output.show("show", examining.details, shown)
