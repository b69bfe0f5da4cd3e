"""What runs and dry runs do and have done, as text."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import astuple
from typing import TYPE_CHECKING

from flask_migrate_mongo.engine.options import Observer
from flask_migrate_mongo.model.reports import Outcome, StepState, Verdict
from flask_migrate_mongo.model.values import Direction
from flask_migrate_mongo.process import elapsed

from .console import (
    NOTHING_TO_DO,
    SECOND,
    Console,
    Text,
    brief,
    coloured,
    count,
    err,
    error,
    failure,
    how_far,
    out,
    took,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flask_migrate_mongo.model.reports import NotExecuted, RunReport, Sample, Trial
    from flask_migrate_mongo.model.values import Progress, Step

    from .console import Cell
    from .terminal import Bar

LINE_SECONDS = 10
"""Seconds between two lines of progress where there is no terminal."""

_DID = {Direction.UP: "Applied", Direction.DOWN: "Rolled back"}
_EFFECTS = ("  Collection", "Inserted", "Matched", "Modified", "Deleted", "Upserted")
_VERDICT_STYLES = {Verdict.SUCCEEDS: "green", Verdict.FAILS: "bold red"}


def run(report: RunReport) -> None:
    """Print what a run did, or, for a dry run, what it would do."""
    console, notes = out(), err()
    for warning in report.warnings:
        notes.say(Text(f"Warning: {warning}", "yellow"))
    if report.is_noop:
        console.say(NOTHING_TO_DO[report.direction])
    elif report.dry_run:
        for outcome in report.outcomes:
            if outcome.trial is not None:
                _trial(console, outcome, outcome.trial)
        console.say(_conclusion(report))
    else:
        _results(console, notes, report)


def _title(step: Step) -> str:
    return f"{step.file.version} {step.file.name}"


# --- while it runs


class ProgressReporter(Observer):
    """Prints each step as it starts and as it ends; on a terminal with a spinner between."""

    def __init__(self) -> None:
        self._console = err()
        self._stop: Callable[[], None] | None = None
        self._bar: Bar | None = None
        self._printed_at = elapsed()

    def started(self, step: Step) -> None:
        """Show that the step runs."""
        if self._console.screen is None:
            self._console.say(f"{_title(step)} ...")
        else:
            self._stop = self._console.screen.spin(_title(step))

    def progressed(self, step: Step, progress: Progress) -> None:
        """Show how far the step's backfill is: with a bar, or else a line every ten seconds."""
        if self._console.screen is not None:
            if self._bar is None:
                self.close()
                self._bar = self._console.screen.bar(_title(step))
                self._stop = self._bar.stop
            self._bar.show(progress.done, progress.total, how_far(progress))
        elif elapsed() - self._printed_at >= LINE_SECONDS:
            self._printed_at = elapsed()
            self._console.say(f"{step.version} {how_far(progress)}")

    def ended(self, outcome: Outcome) -> None:
        """Show how the step ended, and how long it took."""
        self.close()
        mark = _mark(outcome, self._console.encoding)
        duration = "" if outcome.took_ms is None else f" in {took(outcome.took_ms)}"
        state = outcome.trial.verdict if outcome.trial else outcome.state
        self._console.say(f"{mark} {_title(outcome.step)}: ", coloured(state.value), duration)

    def phase(self, text: str) -> None:
        """Show what is being done between the steps."""
        self._console.say(Text(f"{text} ...", "dim"))

    def close(self) -> None:
        """Stop what moves, so that the terminal has its cursor again."""
        if self._stop is not None:
            self._stop()
        self._stop = self._bar = None


def _mark(outcome: Outcome, encoding: str) -> str:
    done, failed = ("✓", "✗") if encoding.startswith("utf") else ("+", "!")
    if outcome.failed or outcome.state is StepState.UNKNOWN:
        return failed
    would_succeed = outcome.trial is not None and outcome.trial.verdict is Verdict.SUCCEEDS
    return "-" if outcome.state is StepState.NOT_RUN and not would_succeed else done


# --- when it is over


def _results(console: Console, notes: Console, report: RunReport) -> None:
    # The progress was on this very screen already, unless the results go somewhere else.
    if console.screen is None or notes.screen is None:
        rows = [_row(outcome) for outcome in report.outcomes]
        console.table(("Version", "Name", "State", "Took"), rows)
    console.say(_done(report))
    for outcome in report.outcomes:
        if outcome.error:
            failure(notes, f"{outcome.step.version} {outcome.state.value}", outcome.error)
    if left := [o for o in report.outcomes if o.state is StepState.NOT_RUN]:
        console.say(f"Not run: {', '.join(str(outcome.step.version) for outcome in left)}.")
    if report.error:
        error(report.error)
    elif report.failures:
        command = f"`flask db-migrate {report.direction.value}`"
        console.say(f"Fix the migration, then run {command} again.")


def _row(outcome: Outcome) -> Sequence[Cell]:
    file = outcome.step.file
    return str(file.version), file.name, coloured(outcome.state.value), took(outcome.took_ms)


def _done(report: RunReport) -> str:
    did, done = _DID[report.direction], [o for o in report.outcomes if o.succeeded]
    if not done:
        return f"Nothing was {did.lower()}."
    batch = f" as batch {report.batch}" if report.batch else ""
    return f"{did} {count(len(done))}{batch} in {took(sum(o.took_ms or 0 for o in done))}."


# --- when it was a dry run


def _trial(console: Console, outcome: Outcome, trial: Trial) -> None:
    cause = brief(outcome.error) if outcome.error else trial.reason
    console.say(
        f"{_title(outcome.step)}: ",
        Text(trial.verdict.value, _VERDICT_STYLES.get(trial.verdict, "yellow")),
        f"{f': {cause}' if cause else ''}{_speed(outcome, trial)}",
    )
    if outcome.error and outcome.error.traceback:
        for line in outcome.error.traceback.rstrip().split("\n"):
            console.say(Text(f"  {line}", "dim"))
    rows = (
        (f"  {name}", *(f"{number:,}" if number else "-" for number in astuple(effects)))
        for name, effects in trial.effects.items()
    )
    console.table(_EFFECTS, rows)
    for operation in trial.not_executed:
        style = "red" if operation.violations else ""
        console.say(Text(f"  {_not_executed(operation)}", style))
    for sample in trial.samples:
        _sample(console, sample)


def _speed(outcome: Outcome, trial: Trial) -> str:
    if outcome.took_ms is None:
        return ""
    documents = sum(e.inserted + e.matched + e.deleted + e.upserted for e in trial.effects.values())
    rate = documents * SECOND / max(outcome.took_ms, 1)
    speed = f", {rate:,.0f} documents/s" if documents else ""
    return f" ({took(outcome.took_ms)}{speed})"


def _not_executed(operation: NotExecuted) -> str:
    documents = operation.documents
    counted = "" if documents is None else f"about {documents:,} documents"
    facts = "; ".join(fact for fact in (counted, operation.detail) if fact)
    what = f"not executed: {operation.operation} {operation.collection}"
    return f"{what}: {facts}" if facts else what


def _sample(console: Console, sample: Sample) -> None:
    console.say(f"  {sample.collection} {_json(sample.document_id)}")
    for sign, fields, style in (("-", sample.before, "red"), ("+", sample.after, "green")):
        for path, value in (fields or {}).items():
            console.say(Text(f"    {sign} {path}: {_json(value)}", style))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _conclusion(report: RunReport) -> str:
    verdicts = Counter(o.trial.verdict for o in report.outcomes if o.trial is not None)
    counts = ", ".join(
        f"{verdicts[v]} {v.value.partition(':')[0]}" for v in Verdict if v in verdicts
    )
    nothing = " No migration could be executed." if report.executed_nothing else ""
    of = count(len(report.outcomes))
    return f"Dry run of {of}: {counts}.{nothing} Everything was rolled back: nothing was changed."
