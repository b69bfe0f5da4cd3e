"""Commands that run migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flask_migrate_mongo.engine.options import Options
from flask_migrate_mongo.interfaces import exit_codes
from flask_migrate_mongo.model.reports import (
    DRY_RUN_SECONDS,
    LONGEST_DRY_RUN,
    MOST_SAMPLES,
    SAMPLES,
)
from flask_migrate_mongo.reports import runs
from flask_migrate_mongo.wiring import running

from .output import as_json, command, refuse, show, state
from .progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask_migrate_mongo.dry_run import DryRunner
    from flask_migrate_mongo.engine.runner import Runner
    from flask_migrate_mongo.model.reports import RunReport


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what `up` and `down` have in common."""
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
        click.option(
            "--continue-on-error",
            is_flag=True,
            help="Continue with the next migration if one fails; the exit code is still 1.",
        ),
    ):
        command = option(command)
    return command


@command()
@_run_options
@click.pass_context
def up(
    ctx: click.Context,
    /,
    *,
    as_json: bool,
    allow_drift: bool,
    **options: Any,  # noqa: ANN401  (click's)
) -> None:
    """Apply every pending migration, the lowest number first.

    Stops at the first failure: what was applied before it stays applied. To run a failed
    migration again, fix it and run `up` again.
    """
    report = _acting(options).up(_options(options), allow_drift=allow_drift)
    _finish(ctx, report, as_json=as_json)


@command()
@_run_options
@click.option(
    "--steps",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="How many migrations to roll back.",
)
@click.pass_context
def down(
    ctx: click.Context,
    /,
    *,
    as_json: bool,
    steps: int,
    allow_drift: bool,
    **options: Any,  # noqa: ANN401
) -> None:
    """Roll back the last applied migration, or the last N.

    In reverse order of application. Refused as a whole if one of them cannot be rolled back.
    """
    report = _acting(options).down(_options(options), steps=steps, allow_drift=allow_drift)
    _finish(ctx, report, as_json=as_json)


def _acting(options: dict[str, Any]) -> Runner | DryRunner:
    dry_run = options.pop("dry_run")
    if not dry_run:
        refuse("samples", "dry-run-limit", because="need --dry-run")
    return running.acting(state(), dry_run=dry_run)


def _options(options: dict[str, Any]) -> Options:
    return Options(observer=progress(), **options)


def _finish(ctx: click.Context, report: RunReport, *, as_json: bool) -> None:
    show("up", runs.run, report, as_json=as_json)
    ctx.exit(exit_codes.of_run(report))
