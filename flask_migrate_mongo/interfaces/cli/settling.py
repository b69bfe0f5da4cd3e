"""Commands that settle by hand what is recorded; no migration runs."""

from __future__ import annotations

import click

from flask_migrate_mongo.engine import settling
from flask_migrate_mongo.reports import states
from flask_migrate_mongo.wiring.creating import scaffold
from flask_migrate_mongo.wiring.running import runner

from .output import VERSION, as_json, command, show, state

_reason = click.option(
    "--reason", required=True, help="How you know; it is stored in the event log."
)


@command
@click.argument("version", type=VERSION)
@click.option("--applied", "wanted", flag_value="applied", help="It is applied.")
@click.option("--not-applied", "wanted", flag_value="not-applied", help="It is not applied.")
@click.option(
    "--accept-file", "wanted", flag_value="accept-file", help="Its file is right as it is now."
)
@click.option(
    "--forget", "wanted", flag_value="forget", help="Its file is gone for good; its events stay."
)
@_reason
@as_json
def resolve(version: str, *, wanted: str | None, reason: str) -> None:
    """Settle what is recorded of VERSION after a look at the data.

    For a migration that ended half-way, whose file changed on purpose or is gone, or whose record is known to be wrong.
    """
    if wanted is None:
        msg = "Give one of --applied, --not-applied, --accept-file and --forget."
        raise click.UsageError(msg)
    acting = runner(state())
    if wanted == "accept-file":
        record = settling.accept_file(acting, version, reason=reason)
    elif wanted == "forget":
        record = settling.forget(acting, version, reason=reason)
    else:
        record = settling.resolve(acting, version, applied=wanted == "applied", reason=reason)
    show("resolve", states.records, (record,))


@command
@click.option("--to", type=VERSION, help="The last version to record.  [default: the newest]")
@click.option("--dry-run", is_flag=True, help="Only show what would be recorded.")
@_reason
@as_json
def baseline(*, to: str | None, dry_run: bool, reason: str) -> None:
    """Record pending migrations as applied, without running them.

    For a database that has their changes already. The verify() of a migration is executed, and has to pass.
    """
    report = settling.baseline(runner(state()), reason=reason, to=to, dry_run=dry_run)
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
