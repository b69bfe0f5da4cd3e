"""Words that reports share: counts, durations, errors."""

from __future__ import annotations

from flask_migrate_mongo.model.values import Direction, ErrorInfo

SECOND = 1_000
"""Milliseconds."""

NOTHING_TO_DO = {
    Direction.UP: "Nothing to do: every migration is applied.",
    Direction.DOWN: "Nothing to do: no migration is applied.",
}


def took(ms: int | None) -> str:
    """Format a duration; blank if there is none."""
    if ms is None:
        return ""
    return f"{ms} ms" if ms < SECOND else f"{ms / SECOND:.2f} s"


def count(number: int) -> str:
    """Count migrations in words."""
    return "1 migration" if number == 1 else f"{number} migrations"


def brief(info: ErrorInfo) -> str:
    """Describe an error without its traceback."""
    return f"{info.type}: {info.message}"
