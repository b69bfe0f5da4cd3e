"""Words that reports share: counts, durations, errors."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from flask_migrate_mongo.model.values import Direction, ErrorInfo

SECOND, MINUTE = 1_000, 60_000
"""Milliseconds."""

_UNITS = {"year": 31_557_600, "day": 86_400, "hour": 3_600, "minute": 60}
"""Seconds."""

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
    if ms < MINUTE:
        return f"{ms} ms" if ms < SECOND else f"{ms / SECOND:.2f} s"
    minutes, seconds = divmod(round(ms / SECOND), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def ago(at: datetime, now: datetime) -> str:
    """Say how long ago something was."""
    seconds = (now - at).total_seconds()
    for unit, length in _UNITS.items():
        if (number := int(seconds // length)) > 0:
            return f"{number} {unit}{'s' * (number > 1)} ago"
    return "just now"


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
