"""What runs, dry runs and rehearsals do and have done, as text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import astuple
from typing import TYPE_CHECKING

from flask_migrate_mongo.engine.options import Observer
from flask_migrate_mongo.model.reports import (
    NotExecuted,
    Outcome,
    RunReport,
    Sample,
    StepState,
    Trial,
    Verdict,
)
from flask_migrate_mongo.model.values import Direction, Plan, Progress, Step
from flask_migrate_mongo.process import elapsed

from . import words
from .console import Cell, Console, Text, coloured, err, error, out

if TYPE_CHECKING:
    from flask_migrate_mongo.rehearsal import Attempt, Estimate, MigrationRehearsal, RehearsalReport

    from .terminal import Bar

LINE_SECONDS = 10
"""Seconds between two lines of progress where there is no terminal."""

_DID = {Direction.UP: "Applied", Direction.DOWN: "Rolled back"}
_EFFECTS = ("  Collection", "Inserted", "Matched", "Modified", "Deleted", "Upserted")
_VERDICT_STYLES = {Verdict.SUCCEEDS: "green", Verdict.FAILS: "bold red"}

_MINUTE = 60
_REHEARSED = ("Version", "Name", "Up", "Down undoes it", "Up again", "On all documents")
_UNDOES: dict[bool | None, Cell] = {
    True: Text("yes", "green"),
    False: Text("no", "bold red"),
    None: "not rehearsed",
}


def run(report: RunReport, warned: tuple[str, ...] = (), *, up_to_there: bool = False) -> None:
    """Print what a run did, or, for a dry run, what it would do; without the warnings that were shown before it.

    `up_to_there` says that a version was given as its end.
    """
    console, notes = out(), err()
    notes.warn(warning for warning in report.warnings if warning not in warned)
    if report.is_noop:
        nothing = words.NOTHING_UP_TO_THERE if up_to_there else words.NOTHING_TO_DO
        console.say(nothing[report.direction])
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
        self._moving = ExitStack()
        self._bar: Bar | None = None
        self._printed_at = elapsed()
        self.warned: tuple[str, ...] = ()

    def planned(self, plan: Plan) -> None:
        """Show the warnings of the plan before anything runs."""
        self.warned = plan.warnings
        self._console.warn(plan.warnings)

    def started(self, step: Step) -> None:
        """Show that the step runs."""
        if self._console.screen is None:
            self._console.say(f"{_title(step)} ...")
        else:
            self._moving.callback(self._console.screen.spin(_title(step)))

    def progressed(self, step: Step, progress: Progress) -> None:
        """Show how far the step's backfill is: with a bar, or else a line every ten seconds."""
        if self._console.screen is not None:
            if self._bar is None:
                self.close()
                self._bar = self._console.screen.bar(_title(step))
                self._moving.callback(self._bar.stop)
            self._bar.show(progress.done, progress.total, str(progress))
        elif elapsed() - self._printed_at >= LINE_SECONDS:
            self._printed_at = elapsed()
            self._console.say(f"{step.version} {progress}")

    def ended(self, outcome: Outcome) -> None:
        """Show how the step ended, and how long it took."""
        self.close()
        mark = _mark(outcome, self._console.encoding)
        duration = "" if outcome.took_ms is None else f" in {words.took(outcome.took_ms)}"
        state = outcome.trial.verdict if outcome.trial else outcome.state
        self._console.say(f"{mark} {_title(outcome.step)}: ", coloured(state.value), duration)

    def phase(self, text: str) -> None:
        """Show what is being done between the steps."""
        self._console.say(Text(f"{text} ...", "dim"))

    def close(self) -> None:
        """Stop what moves, so that the terminal has its cursor again."""
        self._moving.close()
        self._bar = None


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
        rows = [
            (str(o.step.version), o.step.file.name, coloured(o.state.value), words.took(o.took_ms))
            for o in report.outcomes
        ]
        console.table(("Version", "Name", "State", "Took"), rows)
    console.say(_done(report))
    for outcome in report.outcomes:
        if outcome.error:
            notes.failure(f"{outcome.step.version} {outcome.state.value}", outcome.error)
    if left := [o for o in report.outcomes if o.state is StepState.NOT_RUN]:
        console.say(f"Not run: {', '.join(str(outcome.step.version) for outcome in left)}.")
    if report.error:
        error(report.error)
    elif report.failures:
        command = f"`flask db-migrate {report.direction.value}`"
        console.say(f"Fix the migration, then run {command} again.")


def _done(report: RunReport) -> str:
    recorded = sum(outcome.state is StepState.RECORDED for outcome in report.outcomes)
    done = [o for o in report.outcomes if o.succeeded and o.state is not StepState.RECORDED]
    only = (
        f"Recorded {words.count(recorded)} as applied, without running {'it' if recorded == 1 else 'them'}."
        if recorded
        else ""
    )
    if not done:
        return only or f"Nothing was {_DID[report.direction].lower()}."
    times = Counter(outcome.step.direction for outcome in done)
    did = ", then ".join(f"{_DID[each]} {words.count(n)}" for each, n in times.items())
    batch = f" as batch {report.batch}" if report.batch else ""
    took = words.took(sum(outcome.took_ms or 0 for outcome in done))
    return f"{did.capitalize()}{batch} in {took}. {only}".rstrip()


# --- when it was a dry run


def _trial(console: Console, outcome: Outcome, trial: Trial) -> None:
    cause = words.brief(outcome.error) if outcome.error else trial.reason
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
    rate = documents * words.SECOND / max(outcome.took_ms, 1)
    speed = f", {rate:,.0f} documents/s" if documents else ""
    return f" ({words.took(outcome.took_ms)}{speed})"


def _not_executed(operation: NotExecuted) -> str:
    documents = operation.documents
    counted = "" if documents is None else f"about {documents:,} documents"
    facts = "; ".join(filter(None, (counted, operation.detail)))
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
    of = words.count(len(report.outcomes))
    return f"Dry run of {of}: {counts}.{nothing} Everything was rolled back: nothing was changed."


# --- a rehearsal


def rehearsal(report: RehearsalReport) -> None:
    """Print the result of each migration, the changes that its `down()` did not reverse, and an estimate."""
    console, notes = out(), err()
    notes.warn(_warnings(report))
    if not report.migrations:
        console.say("Nothing to rehearse: no migration is pending.")
        return
    console.table(_REHEARSED, map(_rehearsal_row, report.migrations))
    for migration in report.migrations:
        _problems(console, notes, migration)
    copied = [f"{c.documents:,} of {c.of:,} of {c.name}" for c in report.copied if c.of]
    samples = f"documents: {', '.join(copied)}" if copied else "no documents"
    console.say(f"Rehearsed on {samples}.")
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


def _rehearsal_row(migration: MigrationRehearsal) -> Sequence[Cell]:
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
    return Text("failed", "bold red") if attempt.error else words.took(attempt.took_ms)


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return "unknown"
    seconds, low, high = map(_seconds, (estimate.seconds, estimate.low, estimate.high))
    took = f"about {seconds} ({low} to {high})" if estimate.extrapolated else seconds
    return f"{took} for {estimate.documents:,} documents"


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
            notes.failure(f"{version} {name} failed", attempt.error)
    if differences.total:
        console.say(Text(f"{version}: down() does not undo up(). Differences that remain:", "red"))
        for difference in differences.first:
            console.say(f"  {difference}")
        if differences.total > len(differences.first):
            console.say(f"  and {differences.total - len(differences.first):,} more")


def _verdict(console: Console, report: RehearsalReport) -> None:
    if report.irreversible:
        console.say(Text(f"Cannot be rolled back: {_versions(report.irreversible)}.", "yellow"))
    if report.failures:
        problems = f"Problems found in {_versions(report.failures)}."
        console.say(Text(f"{problems} The application's database is unchanged.", "red"))
        again = "Fix the migration, then rehearse again: flask db-migrate rehearse"
        console.say(Text(again, "red"))
    else:
        rehearsed = words.count(len(report.migrations))
        console.say(Text(f"{rehearsed} rehearsed: no problem found.", "green"))


def _versions(migrations: Iterable[MigrationRehearsal]) -> str:
    return ", ".join(str(migration.file.version) for migration in migrations)
