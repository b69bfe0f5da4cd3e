"""What runs do and have done, as text."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from flask_migrate_mongo.engine.options import Observer
from flask_migrate_mongo.model.reports import Outcome, StepState, Verdict
from flask_migrate_mongo.model.values import Direction
from flask_migrate_mongo.process import elapsed

from . import words
from .cells import Text
from .console import Console, err, out
from .trials import dry_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flask_migrate_mongo.model.reports import RunReport
    from flask_migrate_mongo.model.values import Progress, Step

    from .cells import Cell
    from .terminal import Bar

    Row = Sequence[Cell]

LINE_SECONDS = 10
"""Seconds between two lines of progress where there is no terminal."""

_DID = {Direction.UP: "Applied", Direction.DOWN: "Rolled back"}


class _Marks(NamedTuple):
    """What a line of progress begins with."""

    done: str
    not_run: str
    failed: str


_MARKS = _Marks("✓", "-", "✗")
_ASCII_MARKS = _Marks("+", "-", "!")


def run(report: RunReport) -> None:
    """Print what a run did, or, for a dry run, what it would do."""
    console, notes = out(), err()
    for warning in report.warnings:
        words.say(notes, f"Warning: {words.printable(warning)}", "yellow")
    if report.is_noop:
        words.say(console, words.nothing(report.direction))
    elif report.dry_run:
        dry_run(console, report)
    else:
        _results(console, notes, report)


class ProgressReporter(Observer):
    """Prints each step as it starts and as it ends; on a terminal with a spinner between."""

    def __init__(self) -> None:
        self._console = err()
        self._stop: Callable[[], None] | None = None
        self._bar: Bar | None = None
        self._printed_at = elapsed()

    def started(self, step: Step) -> None:
        """Show that the step runs."""
        self._stop = self._console.spin(words.title(step))

    def progressed(self, step: Step, progress: Progress) -> None:
        """Show how far the step's backfill is: with a bar, or else a line every ten seconds."""
        if self._console.is_terminal:
            if self._bar is None:
                self.close()
                self._bar = self._console.bar(words.title(step))
            self._bar.show(progress.done, progress.total, words.how_far(progress))
        elif elapsed() - self._printed_at >= LINE_SECONDS:
            self._printed_at = elapsed()
            words.say(self._console, f"{step.version} {words.how_far(progress)}")

    def ended(self, outcome: Outcome) -> None:
        """Show how the step ended, and how long it took."""
        self.close()
        mark = _mark(outcome, self._console.encoding)
        took = "" if outcome.took_ms is None else f" in {words.took(outcome.took_ms)}"
        state = outcome.trial.verdict if outcome.trial else outcome.state
        title = Text(f"{mark} {words.title(outcome.step)}: ")
        self._console.say(title, words.state(state.value), Text(took))

    def phase(self, text: str) -> None:
        """Show what is being done between the steps."""
        words.say(self._console, f"{words.printable(text)} ...", "dim")

    def close(self) -> None:
        """Stop what moves, so that the terminal has its cursor again."""
        if self._stop is not None:
            self._stop()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _results(console: Console, notes: Console, report: RunReport) -> None:
    # The progress was on this very screen already, unless the results go somewhere else.
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        headers = ("Version", "Name", "State", "Took")
        console.table(headers, map(_outcome_row, report.outcomes))
    _done(console, report)
    for outcome in report.outcomes:
        if outcome.error:
            words.failure(notes, f"{outcome.step.version} {outcome.state.value}", outcome.error)
    _left(console, report)
    if report.error:
        words.error(report.error)
    elif report.failures:
        command = f"`flask db-migrate {report.direction.value}`"
        words.say(console, f"Fix the migration, then run {command} again.")


def _done(console: Console, report: RunReport) -> None:
    done = report.in_state(StepState.APPLIED, StepState.ROLLED_BACK)
    if not done:
        words.say(console, f"Nothing was {_DID[report.direction].lower()}.")
        return
    took = sum(outcome.took_ms or 0 for outcome in done)
    batch = f" as batch {report.batch}" if report.batch else ""
    words.say(
        console, f"{_DID[report.direction]} {words.count(len(done))}{batch} in {words.took(took)}."
    )


def _left(console: Console, report: RunReport) -> None:
    left = report.in_state(StepState.NOT_RUN)
    if left:
        versions = ", ".join(str(outcome.step.version) for outcome in left)
        words.say(console, f"Not run: {versions}.")


def _mark(outcome: Outcome, encoding: str) -> str:
    marks = _MARKS if encoding.startswith("utf") else _ASCII_MARKS
    if outcome.failed or outcome.state is StepState.UNKNOWN:
        return marks.failed
    would_succeed = outcome.trial is not None and outcome.trial.verdict is Verdict.SUCCEEDS
    return marks.not_run if outcome.state is StepState.NOT_RUN and not would_succeed else marks.done


def _outcome_row(outcome: Outcome) -> Row:
    return (
        str(outcome.step.version),
        words.printable(outcome.step.file.name),
        words.state(outcome.state.value),
        words.took(outcome.took_ms),
    )
