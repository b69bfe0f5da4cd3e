"""Sources to lint: whole files, or the body of an up() in a file that breaks no rule itself."""

from __future__ import annotations

from textwrap import dedent, indent
from typing import TYPE_CHECKING

from flask_migrate_mongo.lint.linter import Finding, Linter, LintReport

if TYPE_CHECKING:
    from pathlib import Path

NAME = "20261122001_change_users.py"
HEAD = '"""Change the users."""\n\n'
DOWN = "\n\ndef down(db):\n    db.users.delete_one({'_id': 1})\n"


def up(body: str, *, flags: str = "idempotent = True", down: str = DOWN) -> str:
    """Make a migration with this body of up()."""
    return f"{HEAD}{flags}\n\n\ndef up(db, ctx):\n{indent(dedent(body).strip(), '    ')}\n{down}"


def confined(body: str) -> str:
    """Make a transactional migration with this body of up()."""
    return up(body, flags="transactional = True")


def plain(body: str) -> str:
    """Make a migration with this body of up() that is neither transactional nor idempotent."""
    return up(body, flags="")


def lint(folder: Path, source: str | bytes, name: str = NAME) -> LintReport:
    """Lint one file. The application owns the module `shop`."""
    path = folder / name
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    return Linter(is_own=lambda module: module in {"shop", "json", ""}).lint([path])


def found(folder: Path, source: str | bytes, name: str = NAME) -> tuple[Finding, ...]:
    """List the findings in one file."""
    return lint(folder, source, name).findings


def codes(folder: Path, source: str | bytes, name: str = NAME) -> set[str]:
    """Collect the codes of the findings in one file."""
    return {finding.rule.code for finding in found(folder, source, name)}
