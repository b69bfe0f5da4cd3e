"""What a rehearsal found out, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import words
from .cells import Text
from .console import Console, err, out

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flask_migrate_mongo.rehearsal import Estimate, Performance, RehearsalReport, Turn

    from .cells import Cell

    Row = Sequence[Cell]

_MINUTE = 60


def rehearsal(report: RehearsalReport) -> None:
    """Print how each migration did, what its down() did not undo, and how long it would take."""
    console, notes = out(), err()
    for text in _rehearsal_warnings(report):
        words.say(notes, f"Warning: {words.printable(text)}", "yellow")
    if not report.performances:
        words.say(console, "Nothing to rehearse: no migration is pending.")
        return
    headers = ("Version", "Name", "Up", "Down undoes it", "Up again", "On all documents")
    console.table(headers, map(_performance_row, report.performances))
    for performance in report.performances:
        _performance(console, notes, performance)
    words.say(console, f"Rehearsed on {_samples(report)}.")
    _verdict(console, report)


def _rehearsal_warnings(report: RehearsalReport) -> Iterable[str]:
    if report.removed:
        yield f"Removed what killed rehearsals had left: {', '.join(report.removed)}."
    if report.lock:
        yield (
            f"{report.lock.holder} ({report.lock.reason}) holds the lock: the samples may be of data "
            "that is being changed."
        )
    yield from report.warnings
    for performance in report.performances:
        if performance.elsewhere:
            yield (
                f"{performance.file.version} read outside of the sample: "
                f"{', '.join(performance.elsewhere)}. Use the `db` that up() is given."
            )


def _performance_row(performance: Performance) -> Row:
    undoes: dict[bool | None, Cell] = {
        True: Text("yes", "green"),
        False: Text("no", "bold red"),
        None: "not rehearsed",
    }
    known = Text("irreversible", "yellow") if not performance.file.reversible else None
    return (
        str(performance.file.version),
        words.printable(performance.file.name),
        _turn(performance.up),
        known or undoes[performance.undoes],
        _turn(performance.again),
        _estimate(performance.estimate),
    )


def _turn(turn: Turn | None) -> Cell:
    if turn is None:
        return ""
    return Text("failed", "bold red") if turn.error else words.took(turn.took_ms)


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


def _performance(console: Console, notes: Console, performance: Performance) -> None:
    version, left = performance.file.version, performance.left
    named = {"up": performance.up, "down": performance.down, "second up": performance.again}
    for name, turn in named.items():
        if turn and turn.error:
            words.failure(notes, f"{version} {name} failed", turn.error)
    if left.total:
        words.say(console, f"{version}: down() does not undo up(). What is not as it was:", "red")
        for difference in left.first:
            words.say(console, f"  {words.printable(str(difference))}")
        if left.total > len(left.first):
            words.say(console, f"  and {left.total - len(left.first):,} more")


def _samples(report: RehearsalReport) -> str:
    copied = [
        f"{c.documents:,} of {c.of:,} of {words.printable(c.name)}" for c in report.copied if c.of
    ]
    return f"documents: {', '.join(copied)}" if copied else "no documents"


def _verdict(console: Console, report: RehearsalReport) -> None:
    if report.irreversible:
        versions = ", ".join(str(each.file.version) for each in report.irreversible)
        words.say(console, f"Cannot be undone: {versions}.", "yellow")
    if report.failures:
        versions = ", ".join(str(each.file.version) for each in report.failures)
        words.say(console, f"Not safe to run: {versions}. Fix that, then rehearse again.", "red")
    else:
        words.say(
            console, f"{words.count(len(report.performances))} rehearsed: fit to be run.", "green"
        )
