"""File names of migrations: a version, a separator, and a slug."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

NUMBERED = re.compile(r"(?P<version>[0-9]+)[-_](?P<slug>.+)", re.DOTALL)
"""Matches a file name, with or without its ending, that begins with a version."""

_SLUG_LIMIT = 60


def version_of(name: str) -> int | None:
    """Read the version at the beginning of a file name."""
    match = NUMBERED.match(name)
    return int(match["version"]) if match else None


def highest_version(folder: Path) -> int:
    """Find the highest version of any file or folder in it, readable or not; 0 when there is none."""
    return max((version_of(path.name) or 0 for path in folder.iterdir()), default=0)


def next_version(highest: int, now: datetime, version_format: str) -> int:
    """Choose the version after both the highest one and the date, "timestamp" or "sequence"."""
    pattern = "%Y%m%d%H%M%S" if version_format == "timestamp" else "%Y%m%d001"
    return max(highest + 1, int(f"{now:{pattern}}"))


def slugify(name: str) -> str:
    """Convert a name to lower-case ASCII words joined by `_`, at most 60 characters."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "_", ascii_name.lower())[:_SLUG_LIMIT].strip("_")
    return slug or "migration"
