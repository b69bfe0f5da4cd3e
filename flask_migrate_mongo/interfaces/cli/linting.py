"""The command that lints files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.interfaces import exit_codes
from flask_migrate_mongo.reports import code_scanning, plans
from flask_migrate_mongo.wiring import linting

from .output import command, json_format, print_document, print_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flask_migrate_mongo.lint.linter import LintReport


def _codes(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    codes = [code.strip().upper() for value in values for code in value.split(",")]
    if not all(codes):
        msg = "it is empty where a rule like MM001 should be."
        raise click.BadParameter(msg)
    return tuple(codes)


@command()
@click.argument("files", nargs=-1)
@click.option(
    "--format",
    "layout",
    type=click.Choice(("text", "json", "github", "sarif")),
    default="text",
    show_default=True,
    is_eager=True,
    callback=json_format,
    help="For people, for programs, for GitHub's annotations, for code scanning.",
)
@click.option(
    "--select",
    multiple=True,
    metavar="CODES",
    callback=_codes,
    help="Only these rules: MM001,MM004.",
)
@click.option(
    "--ignore", multiple=True, metavar="CODES", callback=_codes, help="All but these rules."
)
@click.option(
    "--fail-on",
    type=click.Choice(("error", "warning", "info", "never")),
    default="warning",
    show_default=True,
    help="Exit with 4 if a finding has this severity or a higher one.",
)
@click.pass_context
def lint(
    ctx: click.Context,
    /,
    *,
    files: tuple[str, ...],
    layout: str,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    fail_on: str,
) -> None:
    """Find harmful code in migrations, without executing them.

    FILES are paths or versions; without them all migrations are checked. It needs no database.
    """
    show: dict[str, Callable[[LintReport], None]] = {
        "text": plans.lint,
        "json": lambda report: print_document("lint", report),
        "github": lambda report: plans.lines(code_scanning.github(report)),
        "sarif": lambda report: print_json(code_scanning.sarif(report)),
    }
    report = linting.lint(app_state.current(), files, select=select, ignore=ignore)
    show[layout](report)
    ctx.exit(exit_codes.of_check(passed=not report.fails(fail_on)))
