"""The hidden command that carries out an asynchronous run of the REST API in its own process."""

from __future__ import annotations

import click

from flask_migrate_mongo.interfaces.rest import async_runs

from .output import command, state


@command
@click.argument("run_id")
def run_async(run_id: str) -> None:
    """Carry out a queued run, unless another process or thread does."""
    application = state()
    run = async_runs.claim(application, run_id, detached=True)
    if run is None:
        msg = f"The run {run_id} is not queued, or belongs to another application. Nothing was run."
        raise click.UsageError(msg)
    async_runs.carry_out(application, run)
