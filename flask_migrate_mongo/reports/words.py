"""Words that reports share: counts, durations, errors."""

from __future__ import annotations

from collections.abc import Mapping

from flask_migrate_mongo.model.values import Direction, ErrorInfo

SECOND = 1_000
"""Milliseconds."""

NOTHING_TO_DO = {
    Direction.UP: "Nothing to do: every migration is applied.",
    Direction.DOWN: "Nothing to do: no migration is applied.",
}
NOTHING_UP_TO_THERE = {
    Direction.UP: "Nothing to do: no migration up to this version is pending.",
    Direction.DOWN: "Nothing to do: no migration was applied after this version.",
}


def took(ms: int | None) -> str:
    """Format a duration; blank if there is none."""
    if ms is None:
        return ""
    return f"{ms} ms" if ms < SECOND else f"{ms / SECOND:.2f} s"


def count(number: int) -> str:
    """Count migrations in words."""
    return "1 migration" if number == 1 else f"{number} migrations"


def problems(number: int) -> str:
    """Say how many problems were found."""
    return f"{number or 'No'} problem{'s' * (number > 1)} found."


def those(notes: Mapping[str, bool]) -> str:
    """List the notes that hold."""
    return ", ".join(note for note, holds in notes.items() if holds)


def brief(info: ErrorInfo) -> str:
    """Describe an error without its traceback."""
    return f"{info.type}: {info.message}"
