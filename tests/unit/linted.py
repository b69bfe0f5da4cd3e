"""Sources to lint: whole files, or the bodies of an up() with all around it that no rule minds."""

from __future__ import annotations

from textwrap import dedent, indent
from typing import TYPE_CHECKING

from flask_migrate_mongo.lint import Finding, Linter, LintReport

if TYPE_CHECKING:
    from pathlib import Path

NAME = "20261122001_change_users.py"
HEAD = '"""Change the users."""\n\n'
DOWN = "\n\ndef down(db):\n    db.users.delete_one({'_id': 1})\n"


def up(body: str, *, flags: str = "idempotent = True", down: str = DOWN) -> str:
    """Return a migration with this body of up()."""
    return f"{HEAD}{flags}\n\n\ndef up(db, ctx):\n{indent(dedent(body).strip(), '    ')}\n{down}"


def confined(body: str) -> str:
    """Return a transactional migration with this body of up()."""
    return up(body, flags="transactional = True")


def plain(body: str) -> str:
    """Return a migration with this body of up() that is neither transactional nor idempotent."""
    return up(body, flags="")


def lint(folder: Path, source: str | bytes, name: str = NAME) -> LintReport:
    """Lint one file; the application's own modules are called `shop`."""
    path = folder / name
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    return Linter(is_own=lambda module: module in {"shop", "json", ""}).lint([path])


def found(folder: Path, source: str | bytes, name: str = NAME) -> tuple[Finding, ...]:
    """Return what lint finds in one file."""
    return lint(folder, source, name).findings


def codes(folder: Path, source: str | bytes, name: str = NAME) -> set[str]:
    """Return the codes of what lint finds in one file."""
    return {finding.rule.code for finding in found(folder, source, name)}
