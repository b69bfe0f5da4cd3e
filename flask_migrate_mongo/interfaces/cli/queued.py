"""The hidden command that carries out an asynchronous run of the REST API in its own process."""

from __future__ import annotations

import signal

import click

from flask_migrate_mongo.interfaces.rest import async_runs

from .output import command, state


@command
@click.argument("run_id")
def run_async(run_id: str) -> None:
    """Carry out a queued run, unless another process or thread does."""
    # The process of the web server may have blocked signals in the thread that started this one: uWSGI does.
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    application = state()
    run = async_runs.claim(application, run_id, detached=True)
    if run is None:
        msg = f"The run {run_id} is not queued, or belongs to another application. Nothing was run."
        raise click.UsageError(msg)
    async_runs.carry_out(application, run)
