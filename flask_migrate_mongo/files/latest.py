"""The file `.latest`: it names the newest migration, so that two branches with new migrations conflict in git."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flask_migrate_mongo.model.errors import StaleLatestError

from .parsing import version_of

NAME = ".latest"


def write(path: Path) -> None:
    """Note that a migration is the newest one of its folder."""
    (path.parent / NAME).write_text(f"{path.name}\n", encoding="utf-8")


def stale(paths: Sequence[Path]) -> StaleLatestError | None:
    """Find that `.latest` does not name the newest of a folder's migrations; None if it does."""
    if not paths:
        return None
    newest = max(paths, key=lambda path: version_of(path.name) or 0)
    latest = newest.parent / NAME
    named = latest.read_text("utf-8", "replace").strip() if latest.exists() else ""
    return None if named == newest.name else StaleLatestError(latest, named, newest.name)
