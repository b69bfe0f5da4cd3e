"""Commands that run migrations, that reach a running backfill, and that settle what a run left behind."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import click

from flask_migrate_mongo.engine.options import Options
from flask_migrate_mongo.model.reports import (
    DRY_RUN_SECONDS,
    LONGEST_DRY_RUN,
    MOST_SAMPLES,
    SAMPLES,
    RunReport,
)
from flask_migrate_mongo.model.values import Direction, Request
from flask_migrate_mongo.reports import runs, states
from flask_migrate_mongo.wiring import running as wired
from flask_migrate_mongo.wiring.running import acting, call

from .output import (
    VERSION,
    as_json,
    begin_result,
    command,
    exit_code,
    is_verbose,
    name_database,
    refuse,
    show,
    state,
)

# --- runs


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what `up`, `down` and `redo` have in common."""
    for option in (
        as_json,
        click.option(
            "--wait",
            type=click.FloatRange(min=0),
            metavar="SECONDS",
            help="Wait for the lock of another process.  [default: MIGRATE_LOCK_WAIT]",
        ),
        click.option(
            "--samples",
            type=click.IntRange(0, MOST_SAMPLES),
            default=SAMPLES,
            show_default=True,
            metavar="N",
            help="With --dry-run: documents of each migration to show, before and after.",
        ),
        click.option(
            "--dry-run-limit",
            type=click.FloatRange(min=0.1, max=LONGEST_DRY_RUN),
            default=DRY_RUN_SECONDS,
            show_default=True,
            metavar="SECONDS",
            help="With --dry-run: give up after this time.",
        ),
        click.option(
            "--dry-run",
            is_flag=True,
            help="Execute the plan in a transaction that is rolled back, and show its effects.",
        ),
        click.option(
            "--allow-drift",
            is_flag=True,
            help="Use the file as it is now, although it has changed.",
        ),
    ):
        command = option(command)
    return command


_continue_on_error = click.option(
    "--continue-on-error",
    is_flag=True,
    help="Continue with the next migration if one fails; the exit code is still 1.",
)


@command
@_run_options
@_continue_on_error
@click.option("--steps", type=int, metavar="N", help="Apply only the first N.")
@click.option("--to", type=VERSION, help="Apply only what is pending up to this version.")
def up(**parameters: Any) -> None:  # noqa: ANN401  (click's)
    """Apply every pending migration, the lowest number first.

    Stops at the first failure: what was applied before it stays applied. To run a failed
    migration again, fix it and run `up` again.
    """
    _run(Direction.UP, parameters)


@command
@_run_options
@_continue_on_error
@click.option("--batch", is_flag=True, help="Roll back all that the last `up` applied.")
@click.option("--to", type=VERSION, help="Roll back what was applied after this version.")
@click.option("--steps", type=int, metavar="N", help="Roll back the last N.  [default: 1]")
def down(**parameters: Any) -> None:  # noqa: ANN401  (click's)
    """Roll back the last applied migration, or more.

    In reverse order of application. Refused as a whole if one of them cannot be rolled back.
    """
    _run(Direction.DOWN, parameters)


@command
@click.argument("to", metavar="[VERSION]", type=VERSION, required=False)
@_run_options
def redo(**parameters: Any) -> None:  # noqa: ANN401
    """Roll back one migration and apply it again.

    VERSION, or the last one that is applied or failed. One that is not applied is only applied.
    """
    _run(Direction.UP, {**parameters, "redo": True})


def _run(direction: Direction, parameters: dict[str, Any]) -> None:
    dry_run = parameters["dry_run"]
    if not dry_run:
        refuse("samples", "dry-run-limit", because="need --dry-run")
    acts = acting(state(), dry_run=dry_run)
    database = acts.server.location
    name_database(database)
    begin = partial(begin_result, database)
    observer = click.get_current_context().with_resource(
        closing(runs.ProgressReporter(begin, verbose=is_verbose()))
    )
    report = call(acts, direction, parameters, Options(observer=observer))
    up_to_there = parameters.get("to") is not None
    target = _target(parameters, report)
    text = partial(runs.run, shown=observer, up_to_there=up_to_there, target=target)
    show("up", text, report, exit_code=exit_code(report))


def _target(parameters: dict[str, Any], report: RunReport) -> str:
    """Name what is left of a run as its command did: without it, the next one would do more, or something else."""
    to, steps = parameters.get("to"), parameters.get("steps")
    if to is not None:
        return f"{'' if 'redo' in parameters else ' --to'} {shlex.quote(to)}"
    if steps is not None:
        return f" --steps {steps - sum(outcome.succeeded for outcome in report.outcomes)}"
    return " --batch" if parameters.get("batch") else ""


# --- a running backfill


@command
@as_json
def pause() -> None:
    """Pause the running backfill after its current batch.

    Its run keeps the lock until `resume` or `cancel`.
    """
    _ask(Request.PAUSE)


@command
@as_json
def resume() -> None:
    """Resume a paused backfill.

    To continue an interrupted one, run `up` or `down` again.
    """
    _ask(Request.RESUME)


@command
@as_json
def cancel() -> None:
    """Stop the running backfill after its current batch.

    Its changes are kept. The next `up` or `down` continues from there.
    """
    _ask(Request.CANCEL)


def _ask(request: Request) -> None:
    show(request.value, states.asked, wired.request(state(), request))


# --- what a run left behind


@command
@click.option("--confirm", is_flag=True, help="Confirm that the process that holds it is dead.")
@as_json
def force_unlock(*, confirm: bool) -> None:
    """Release the lock of another process.

    Without --confirm it shows the holder. The lock of a crashed process expires by itself.
    """
    show("force-unlock", states.unlocked, wired.force_unlock(state(), confirmed=confirm))
