"""Words that reports share: counts, durations, errors, progress."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_migrate_mongo.model.values import Direction

if TYPE_CHECKING:
    from flask_migrate_mongo.model.values import ErrorInfo, Progress

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


def how_far(progress: Progress) -> str:
    """Describe how far a backfill is, how fast it is, and how long it still takes."""
    total = "" if progress.total is None else f" of about {progress.total:,}"
    rate = "" if progress.per_second is None else f", {progress.per_second:,.0f} a second"
    left = "" if progress.seconds_left is None else f", {_clock(progress.seconds_left)} left"
    return f"{progress.collection}: {progress.done:,}{total}{rate}{left}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
