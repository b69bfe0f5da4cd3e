"""The command that checks everything before a deployment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from flask_migrate_mongo.lint.linter import Linter
from flask_migrate_mongo.lint.rules import Severity
from flask_migrate_mongo.planning import gate
from flask_migrate_mongo.planning.gate import Kind, Problem
from flask_migrate_mongo.reports import states
from flask_migrate_mongo.wiring.linting import linter
from flask_migrate_mongo.wiring.looking import inspector

from .output import CHECK_FAILED, as_json, command, show, state


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
@as_json
def check(*, allow: tuple[Kind, ...]) -> None:
    """Check that the database is as the files say.

    Exits with 4 if a migration is pending, running, failed, interrupted, changed, missing, out of order, mistaken for
    another one, unusable or stale, or if lint finds an error. Each problem is listed with what to do.
    """
    found = state()
    linting = linter(found)
    report = gate.check(
        inspector(found),
        linear=found.settings.linear,
        allowed=allow,
        lint=lambda paths: _errors(linting, paths),
    )
    show("check", states.check, report, exit_code=CHECK_FAILED if report.problems else 0)


def _errors(linting: Linter, paths: Iterable[Path]) -> Iterator[Problem]:
    for finding in linting.lint(paths).findings:
        if finding.rule.severity is Severity.ERROR:
            where = f"{finding.shown_path}:{finding.line}"
            message = f"{where}: {finding.rule.code} {finding.message}"
            yield Problem(Kind.LINT, message, "See how to do it better: [lint].")
