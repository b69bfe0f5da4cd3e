"""The words and cells that reports are made of."""

from __future__ import annotations

from datetime import timezone
from typing import TYPE_CHECKING

from flask_migrate_mongo.model.values import Direction

from .cells import Text
from .console import Console, err

if TYPE_CHECKING:
    from datetime import datetime

    from flask_migrate_mongo.model.values import Entry, ErrorInfo, Progress, Step

SECOND = 1_000
"""Milliseconds."""


STYLES = {
    "applied": "green",
    "completed": "green",
    "pending": "yellow",
    "running": "cyan",
    "failed": "bold red",
    "unknown": "bold red",
    "rolled-back": "magenta",
    "not-run": "dim",
    "error": "bold red",
    "warning": "yellow",
    "info": "cyan",
}


def say(console: Console, text: str, style: str = "") -> None:
    """Print a text, in one style."""
    console.say(Text(text, style))


def error(exc: Exception) -> None:
    """Print the error that ended a command."""
    say(err(), f"Error: {printable_lines(str(exc))}", "bold red")


def printable(text: str) -> str:
    """Put the text on one line, and escape everything that could control a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """Make each line printable."""
    return "\n".join(map(printable, text.split("\n")))


def nothing(direction: Direction) -> str:
    """Say that there is nothing to do."""
    if direction is Direction.UP:
        return "Nothing to do: every migration is applied."
    return "Nothing to do: no migration is applied."


def failure(console: Console, title: str, info: ErrorInfo) -> None:
    """Print an error with its traceback, where it has one."""
    if info.traceback:
        say(console, printable_lines(info.traceback.rstrip()), "dim")
    say(console, summary(title, info), "red")


def summary(title: str, info: ErrorInfo) -> str:
    """Put an error on one line, after a title."""
    return printable_lines(f"{title}: {info.type}: {info.message}")


def brief(info: ErrorInfo) -> str:
    """Put an error on one line."""
    return printable(f"{info.type}: {info.message}")


def title(step: Step) -> str:
    """Name a step."""
    return f"{step.version} {printable(step.file.name)}"


def state(state: str) -> Text:
    """Colour a state."""
    return Text(printable(state), style=STYLES.get(state, ""))


def when(at: datetime | None) -> str:
    """Format a time in UTC; blank if there is none."""
    if at is None:
        return ""
    # A third of what strftime takes, for thousands.
    return at.astimezone(timezone.utc).replace(tzinfo=None).isoformat(" ", "seconds")


def took(ms: int | None) -> str:
    """Format a duration; blank if there is none."""
    if ms is None:
        return ""
    return f"{ms} ms" if ms < SECOND else f"{ms / SECOND:.2f} s"


def count(number: int) -> str:
    """Count migrations in words."""
    return "1 migration" if number == 1 else f"{number} migrations"


def how_far(progress: Progress) -> str:
    """Describe how far a backfill is, how fast it is, and how long it still takes."""
    total = "" if progress.total is None else f" of about {progress.total:,}"
    rate = "" if progress.per_second is None else f", {progress.per_second:,.0f} a second"
    left = "" if progress.seconds_left is None else f", {left_over(progress.seconds_left)} left"
    return f"{printable(progress.collection)}: {progress.done:,}{total}{rate}{left}"


def left_over(seconds: float) -> str:
    """Format a duration as a clock shows it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def named_entry(entry: Entry) -> str:
    """Name a version."""
    return f"{entry.version} {printable(entry.name)}"
