"""Commands that settle by hand what a run left behind."""

from __future__ import annotations

import click

from flask_migrate_mongo.reports import states
from flask_migrate_mongo.wiring.running import runner

from .output import as_json, command, show, state


@command("force-unlock")
@click.option("--confirm", is_flag=True, help="Confirm that the process that holds it is dead.")
@as_json
def force_unlock(*, confirm: bool, as_json: bool) -> None:
    """Release the lock of another process.

    Without --confirm it shows the holder. The lock of a crashed process expires by itself.
    """
    released = runner(state()).force_unlock(confirmed=confirm)
    show("force-unlock", states.unlocked, released, as_json=as_json)


@command()
@click.argument("version", type=int)
@click.option("--applied/--not-applied", "applied", required=True, help="Its true state.")
@click.option("--reason", required=True, help="How you know; it is stored in the event log.")
@as_json
def resolve(version: int, *, applied: bool, reason: str, as_json: bool) -> None:
    """Set whether VERSION is applied, after a look at the data.

    For a migration that was interrupted half-way, or whose record is known to be wrong.
    """
    record = runner(state()).resolve(version, applied=applied, reason=reason)
    show("resolve", states.records, (record,), as_json=as_json)
