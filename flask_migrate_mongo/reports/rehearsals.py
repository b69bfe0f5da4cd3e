"""The report of a rehearsal, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .console import Console, Text, count, err, failure, out, took

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flask_migrate_mongo.rehearsal import Attempt, Estimate, MigrationRehearsal, RehearsalReport

    from .console import Cell

_MINUTE = 60
_HEADERS = ("Version", "Name", "Up", "Down undoes it", "Up again", "On all documents")
_UNDOES: dict[bool | None, Cell] = {
    True: Text("yes", "green"),
    False: Text("no", "bold red"),
    None: "not rehearsed",
}


def rehearsal(report: RehearsalReport) -> None:
    """Print the result of each migration, the changes that its `down()` did not reverse, and an estimate."""
    console, notes = out(), err()
    for text in _warnings(report):
        notes.say(Text(f"Warning: {text}", "yellow"))
    if not report.migrations:
        console.say("Nothing to rehearse: no migration is pending.")
        return
    console.table(_HEADERS, map(_row, report.migrations))
    for migration in report.migrations:
        _problems(console, notes, migration)
    console.say(f"Rehearsed on {_samples(report)}.")
    _verdict(console, report)


def _warnings(report: RehearsalReport) -> Iterable[str]:
    if report.removed:
        yield f"Removed the databases that crashed rehearsals had left: {', '.join(report.removed)}."
    if report.lock:
        yield (
            f"{report.lock.holder} ({report.lock.reason}) holds the lock: it may be changing the "
            "documents that were copied."
        )
    yield from report.warnings
    for migration in report.migrations:
        if migration.elsewhere:
            yield (
                f"{migration.file.version} read documents outside the sample: "
                f"{', '.join(migration.elsewhere)}. Use the `db` that up() is given."
            )


def _row(migration: MigrationRehearsal) -> Sequence[Cell]:
    file = migration.file
    return (
        str(file.version),
        file.name,
        _attempt(migration.up),
        _UNDOES[migration.undoes] if file.reversible else Text("irreversible", "yellow"),
        _attempt(migration.again),
        _estimate(migration.estimate),
    )


def _attempt(attempt: Attempt | None) -> Cell:
    if attempt is None:
        return ""
    return Text("failed", "bold red") if attempt.error else took(attempt.took_ms)


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return "unknown"
    documents = f"for {estimate.documents:,} documents"
    if not estimate.extrapolated:
        return f"{_seconds(estimate.seconds)} {documents}"
    low, high = _seconds(estimate.low), _seconds(estimate.high)
    return f"about {_seconds(estimate.seconds)} ({low} to {high}) {documents}"


def _seconds(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{seconds:.1f} s" if seconds < _MINUTE / 6 else f"{seconds:.0f} s"
    minutes = seconds / _MINUTE
    return f"{minutes:.0f} min" if minutes < 2 * _MINUTE else f"{minutes / _MINUTE:.1f} h"


def _problems(console: Console, notes: Console, migration: MigrationRehearsal) -> None:
    version, differences = migration.file.version, migration.differences
    attempts = {"up": migration.up, "down": migration.down, "second up": migration.again}
    for name, attempt in attempts.items():
        if attempt and attempt.error:
            failure(notes, f"{version} {name} failed", attempt.error)
    if differences.total:
        console.say(Text(f"{version}: down() does not undo up(). Differences that remain:", "red"))
        for difference in differences.first:
            console.say(f"  {difference}")
        if differences.total > len(differences.first):
            console.say(f"  and {differences.total - len(differences.first):,} more")


def _samples(report: RehearsalReport) -> str:
    copied = [f"{c.documents:,} of {c.of:,} of {c.name}" for c in report.copied if c.of]
    return f"documents: {', '.join(copied)}" if copied else "no documents"


def _verdict(console: Console, report: RehearsalReport) -> None:
    if report.irreversible:
        console.say(Text(f"Cannot be rolled back: {_versions(report.irreversible)}.", "yellow"))
    if not report.failures:
        console.say(Text(f"{count(len(report.migrations))} rehearsed: no problem found.", "green"))
        return
    problems = f"Problems found in {_versions(report.failures)}."
    console.say(Text(f"{problems} The application's database is unchanged.", "red"))
    again = "Fix the migration, then rehearse again: flask db-migrate rehearse"
    console.say(Text(again, "red"))


def _versions(migrations: Iterable[MigrationRehearsal]) -> str:
    return ", ".join(str(migration.file.version) for migration in migrations)
