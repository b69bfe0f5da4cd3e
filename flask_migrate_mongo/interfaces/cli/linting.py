"""The command that lints files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.lint.linter import LintReport
from flask_migrate_mongo.reports import code_scanning, states
from flask_migrate_mongo.reports.console import out
from flask_migrate_mongo.wiring import linting

from .output import CHECK_FAILED, command, note_format, print_json, show


def _codes(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    codes = [code.strip().upper() for value in values for code in value.split(",")]
    if not all(codes):
        msg = "it is empty where a rule like MM001 should be."
        raise click.BadParameter(msg)
    return tuple(codes)


@command
@click.argument("files", nargs=-1)
@click.option(
    "--format",
    "layout",
    type=click.Choice(("text", "json", "github", "sarif")),
    default="text",
    show_default=True,
    is_eager=True,
    callback=note_format,
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
def lint(
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
    text: dict[str, Callable[[LintReport], None]] = {
        "github": lambda report: out().write(code_scanning.github(report)),
        "sarif": lambda report: print_json(code_scanning.sarif(report)),
    }
    report = linting.lint(app_state.current(), files, select, ignore)
    exit_code = CHECK_FAILED if report.fails(fail_on) else 0
    show("lint", text.get(layout, states.lint), report, exit_code=exit_code)
