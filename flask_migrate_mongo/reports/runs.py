"""What runs, dry runs and rehearsals do and have done, as text."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import astuple
from functools import partial
from typing import TYPE_CHECKING

from flask_migrate_mongo.engine.calling import log_of
from flask_migrate_mongo.engine.options import Observer
from flask_migrate_mongo.model.errors import RunStoppedError
from flask_migrate_mongo.model.reports import (
    Effects,
    NotExecuted,
    Outcome,
    RunReport,
    Sample,
    StepState,
    Trial,
    Verdict,
)
from flask_migrate_mongo.model.values import Direction, ErrorInfo, LockState, Plan, Progress, Step
from flask_migrate_mongo.process import elapsed

from . import failures, logs, words
from .console import Cell, Console, Text, err, error, out, width
from .states import when

if TYPE_CHECKING:
    from flask_migrate_mongo.rehearsal import Attempt, Estimate, MigrationRehearsal, RehearsalReport

    from .live import LiveStep

_EFFECTS = ("inserted", "matched", "modified", "deleted", "upserted")
_RESUME = "To continue: flask db-migrate resume"

LINE_SECONDS = 60
"""Seconds between two lines about a step that runs, where there is no terminal."""

_DID = {Direction.UP: "Applied", Direction.DOWN: "Rolled back"}
_ENDED = {
    StepState.APPLIED: Text("applied", "green"),
    StepState.ROLLED_BACK: Text("rolled back", "magenta"),
    StepState.RECORDED: Text("recorded as applied, without running it", "green"),
    StepState.FAILED: Text("failed", "bold red"),
    StepState.UNKNOWN: Text("not known whether it took effect", "bold red"),
    StepState.NOT_RUN: Text("not run", "dim"),
}
_VERDICT_STYLES = {Verdict.SUCCEEDS: "green", Verdict.FAILS: "bold red"}

_MINUTE = 60


def run(
    report: RunReport, shown: ProgressReporter, *, up_to_there: bool = False, target: str = ""
) -> None:
    """Print what a run did, or, for a dry run, what it would do; without what was shown while it ran.

    `up_to_there` says that a version was given as its end. `target` is how the command names what is left of the run.
    """
    console, notes = shown.results, shown.notes
    notes.warn(warning for warning in report.warnings if warning not in shown.warned)
    if report.is_noop:
        nothing = words.NOTHING_UP_TO_THERE if up_to_there else words.NOTHING_TO_DO
        console.say(nothing[report.direction])
    elif report.dry_run:
        for outcome in report.outcomes:
            if outcome.trial is not None:
                _trial(console, outcome, outcome.trial, verbose=shown.verbose)
        console.indented(_conclusion(report), by=0)
    else:
        _results(console, report)
    if not report.is_noop:
        for line in failures.advice(report, verbose=shown.verbose, target=target):
            notes.indented(line, by=0)


def _title(step: Step) -> str:
    return f"{step.file.version} {step.file.name}"


# --- while it runs


class ProgressReporter(Observer):
    """Prints one line for each step that ended, and why one failed; below the name of a step, what it logs.

    While a step runs, a terminal shows for how long, and how far it is; a pipe gets a line a minute. `begin` is called
    before each line of the result. `results` and `notes` are the consoles that the whole run is printed on.
    """

    def __init__(self, begin: Callable[[], None] = lambda: None, *, verbose: bool = False) -> None:
        self._begin = begin
        self.verbose = verbose
        self.warned: tuple[str, ...] = ()
        self.results, self.notes = out(), err()
        self._activity: LiveStep | None = None
        self._logged, self._over = ExitStack(), threading.Event()
        self._total = self._number = 0
        self._named: Step | None = None
        self._phase = ""
        self._progress: Progress | None = None

    def waiting(self, lock: LockState, seconds: float) -> None:
        """Show who holds the lock."""
        self.close()
        user = lock.holder.partition("@")[0]
        held = int((lock.seen_at - lock.locked_at).total_seconds())
        self.notes.indented(
            f"Waiting for the lock of {user} on {lock.host}, pid {lock.pid} ({lock.reason}), since "
            f"{when(lock.locked_at)} UTC ({_whole(held)}), for at most {seconds:.0f} s ...",
            by=0,
        )
        self._show_activity("", "Waiting")

    def planned(self, plan: Plan) -> None:
        """Show the warnings of the plan before anything runs."""
        self.close()
        self._total, self._number = len(plan.steps), 0
        self.warned = plan.warnings
        self.notes.warn(plan.warnings)

    def started(self, step: Step) -> None:
        """Show that the step runs."""
        self._number += 1
        self._named = self._progress = None
        self._show_activity(self._position(step), _title(step))
        if self._activity is None:
            self._over = threading.Event()
            threading.Thread(
                target=self._say_regularly, args=(step, self._over), daemon=True
            ).start()
        self._logged.enter_context(logs.shown(log_of(step), partial(self._say_below, step)))

    def _position(self, step: Step) -> str:  # noqa: ARG002  (a rehearsal shows the direction)
        return f"{self._number} of {self._total}  " if self._total > 1 else ""

    def _show_activity(self, position: str, title: str) -> None:
        if self.notes.screen is not None:
            self._activity = self.notes.screen.activity(position, title)

    def _say_regularly(self, step: Step, over: threading.Event) -> None:
        began = elapsed()
        while not over.wait(LINE_SECONDS):
            running = f"running for {_whole(int(elapsed() - began))}"
            self._say_below(step, str(self._progress or running))

    def _say_below(self, step: Step, text: str) -> None:
        """Print a text below the name of the step, which stands there once."""
        if self._named != step:
            self._named = step
            self.notes.titled(self._position(step), _title(step), ":")
        for line in text.split("\n"):
            self.notes.indented(line)

    def progressed(self, step: Step, progress: Progress) -> None:
        """Show how far the step's backfill is: at once on a terminal, and where it is paused or resumed."""
        was_paused = self._progress is not None and self._progress.paused
        self._progress = progress
        if self._activity is not None:
            self._activity.show(progress.done, progress.total, str(progress))
        if progress.paused and not was_paused:
            self._say_below(step, f"{failures.done(progress)} done, paused\n{_RESUME}")
        elif was_paused and not progress.paused:
            self._say_below(step, "resumed")

    def ended(self, outcome: Outcome) -> None:
        """Show how the step ended, and how long it took."""
        self.close()
        if outcome.trial is not None:
            return
        console = self.results if outcome.succeeded else self.notes
        if outcome.succeeded:
            self._begin()
        mark, title = _mark(outcome, console.encoding), _title(outcome.step)
        console.titled(mark, title, "  ", *_end(outcome))
        if not outcome.succeeded:
            _explain(console, outcome, verbose=self.verbose)

    def phase(self, text: str) -> None:
        """Show what is being done between the steps."""
        if text != self._phase:
            self.notes.indented(Text(f"{text} ...", "dim"), by=0)
        self._phase = text

    def close(self) -> None:
        """Stop what moves, so that the terminal has its cursor again, and show no more of the log."""
        self._over.set()
        if self._activity is not None:
            self._activity.stop()
            self._activity = None
        self._logged.close()


class RehearsalReporter(ProgressReporter):
    """Shows what a rehearsal does at the moment; its report shows how that ended."""

    def _position(self, step: Step) -> str:
        return f"{step.direction.value}  "

    def ended(self, outcome: Outcome) -> None:  # noqa: ARG002
        """Stop to show it."""
        self.close()


def _whole(seconds: int) -> str:
    return f"{seconds} s" if seconds < _MINUTE else words.took(seconds * words.SECOND)


def _signs(encoding: str) -> tuple[str, str]:
    """Choose the signs for success and failure."""
    return ("✓", "✗") if encoding.startswith("utf") else ("+", "!")


def _mark(outcome: Outcome, encoding: str) -> Text:
    done, failed = _signs(encoding)
    if failures.stopped_by(outcome):
        return Text("- ", "yellow")
    if outcome.failed or outcome.state is StepState.UNKNOWN:
        return Text(f"{failed} ", "bold red")
    return Text(f"{done} ", "green") if outcome.succeeded else Text("- ")


def _end(outcome: Outcome) -> Iterator[Cell]:
    by = failures.stopped_by(outcome)
    yield _ENDED[outcome.state] if by is None else Text("stopped", "yellow")
    if outcome.took_ms is not None:
        yield f" {'in' if outcome.succeeded else 'after'} {words.took(outcome.took_ms)}"
    if by is not None:
        yield f" by {by}"


def _explain(console: Console, outcome: Outcome, *, verbose: bool) -> None:
    """Print where a step failed, why, and what is kept."""
    is_stopped = failures.stopped_by(outcome) is not None
    _place(console, outcome.error, outcome.step)
    if outcome.failed and outcome.error is not None and not is_stopped:
        for line in words.brief(outcome.error).split("\n"):
            console.indented(Text(line, "red"))
        if verbose:
            _traceback(console, outcome.error)
    if kept := failures.kept(outcome):
        console.indented(kept)


def _place(console: Console, info: ErrorInfo | None, step: Step) -> None:
    """Print the line of the migration that led to an error, and on a line of its own if the screen is too narrow."""
    found = failures.place(info, step)
    if found is None:
        return
    columns = width(str(found)) + width(found.source) + len("  ") * 2
    if console.screen is not None and columns > console.screen.columns:
        console.indented(str(found))
        console.indented(found.source, by=4)
    else:
        console.indented(f"{found}  {found.source}".rstrip())


def _traceback(console: Console, error: ErrorInfo) -> None:
    for line in (error.traceback or "").rstrip().split("\n"):
        console.say(Text(f"    {line}".rstrip(), "dim"))


# --- when it is over


def _results(console: Console, report: RunReport) -> None:
    if conclusion := f"{_done(report)} {_left(report)}".strip():
        console.indented(conclusion, by=0)
    # What a step says itself is not said again.
    is_said = isinstance(report.error, RunStoppedError) and any(
        map(failures.stopped_by, report.failures)
    )
    if report.error and not is_said:
        error(report.error)


def _left(report: RunReport) -> str:
    ended = {o.step.version for o in report.outcomes if o.state is not StepState.NOT_RUN}
    left = {o.step.version for o in report.outcomes} - ended
    if not left:
        return ""
    what = "later migration" if ended else "migration"
    return f"{len(left)} {what}{'s were' if len(left) > 1 else ' was'} not run."


def _done(report: RunReport) -> str:
    recorded = sum(outcome.state is StepState.RECORDED for outcome in report.outcomes)
    done = [o for o in report.outcomes if o.succeeded and o.state is not StepState.RECORDED]
    only = (
        f"Recorded {words.count(recorded)} as applied, without running {'it' if recorded == 1 else 'them'}."
        if recorded
        else ""
    )
    if not done:
        # A part of a backfill is not nothing.
        is_partly = any(outcome.backfill for outcome in report.outcomes)
        return only or ("" if is_partly else f"No migration was {_DID[report.direction].lower()}.")
    times = Counter(outcome.step.direction for outcome in done)
    did = ", then ".join(f"{_DID[each]} {words.count(n)}" for each, n in times.items())
    batch = f" as batch {report.batch}" if report.batch else ""
    return f"{did.capitalize()}{batch} in {words.took(report.took_ms)}. {only}".rstrip()


# --- when it was a dry run


def _trial(console: Console, outcome: Outcome, trial: Trial, *, verbose: bool) -> None:
    mark = _trial_mark(trial.verdict, console.encoding)
    verdict, _, remedy = trial.verdict.value.partition(": ")
    shown = Text(verdict, _VERDICT_STYLES.get(trial.verdict, "yellow"))
    console.titled(mark, _title(outcome.step), "  ", shown, _speed(outcome, trial))
    for line in filter(None, (trial.reason, remedy)):
        console.indented(line)
    if outcome.error is not None:
        _explain(console, outcome, verbose=verbose)
    for name, effects in trial.effects.items():
        console.indented(f"{name}: {_counts(effects)}")
    for operation in trial.not_executed:
        console.indented(Text(_not_executed(operation), "red" if operation.violations else ""))
    for sample in trial.samples:
        _sample(console, sample)


def _trial_mark(verdict: Verdict, encoding: str) -> Text:
    done, failed = _signs(encoding)
    mark = {Verdict.SUCCEEDS: done, Verdict.FAILS: failed}.get(verdict, "-")
    return Text(f"{mark} ", _VERDICT_STYLES.get(verdict, "yellow"))


def _counts(effects: Effects) -> str:
    counts = zip(_EFFECTS, astuple(effects), strict=True)
    return ", ".join(f"{number:,} {name}" for name, number in counts if number) or "nothing changed"


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
    console.indented(f"{sample.collection} {_json(sample.document_id)}")
    for sign, fields, style in (("-", sample.before, "red"), ("+", sample.after, "green")):
        for path, value in (fields or {}).items():
            console.indented(Text(f"{sign} {path}: {_json(value)}", style), by=4)


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


def rehearsal(report: RehearsalReport, *, verbose: bool = False) -> None:
    """Print the result of each migration, the changes that its `down()` did not reverse, and an estimate."""
    console, notes = out(), err()
    notes.warn(_warnings(report))
    if not report.migrations:
        console.say("Nothing to rehearse: no migration is pending.")
        return
    for migration in report.migrations:
        _rehearsed(console, notes, migration, verbose=verbose)
    copied = [f"{c.documents:,} of {c.of:,} of {c.name}" for c in report.copied if c.of]
    samples = f"documents: {', '.join(copied)}" if copied else "no documents"
    console.indented(f"Rehearsed on {samples}.", by=0)
    _verdict(console, report)
    if not verbose and any(migration.raised for migration in report.migrations):
        notes.say("Traceback: -v")


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


def _rehearsed(
    console: Console, notes: Console, migration: MigrationRehearsal, *, verbose: bool
) -> None:
    """Print how each attempt of a migration ended, then its problems, then how long it takes on all documents."""
    file = migration.file
    done, failed = _signs(console.encoding)
    mark = Text(f"{failed} ", "bold red") if migration.failed else Text(f"{done} ", "green")
    if migration.up is None:
        console.titled("- ", f"{file.version} {file.name}", Text("  not rehearsed", "yellow"))
        return
    console.titled(mark, f"{file.version} {file.name}")
    console.indented(*_attempts(migration))
    _problems(console, notes, migration, verbose=verbose)
    if migration.estimate is not None or not migration.raised:
        console.indented(f"On all documents: {_estimate(migration.estimate)}")


def _attempts(migration: MigrationRehearsal) -> Iterator[Cell]:
    yield from _attempt("up()", migration.up)
    if not migration.file.reversible:
        yield Text(", irreversible", "yellow")
    yield from _attempt(", down()", migration.down)
    if migration.undoes is not None and migration.down and not migration.down.error:
        yield " undoes it" if migration.undoes else Text(" does not undo it", "bold red")
    yield from _attempt(", up() again", migration.again)


def _attempt(name: str, attempt: Attempt | None) -> Iterator[Cell]:
    if attempt is not None:
        yield f"{name} "
        yield Text("failed", "bold red") if attempt.error else words.took(attempt.took_ms)


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


def _problems(
    console: Console, notes: Console, migration: MigrationRehearsal, *, verbose: bool
) -> None:
    attempts = {"up()": migration.up, "down()": migration.down, "up() again": migration.again}
    for name, attempt in attempts.items():
        if attempt and attempt.error:
            step = Step(migration.file, Direction.UP)
            _place(notes, attempt.error, step)
            notes.indented(Text(f"{name} failed: {words.brief(attempt.error)}", "red"))
            if verbose:
                _traceback(notes, attempt.error)
    differences = migration.differences
    if differences.total:
        console.indented(Text("down() does not undo up(). Differences that remain:", "red"))
        for difference in differences.first:
            console.indented(str(difference), by=4)
        if differences.total > len(differences.first):
            console.indented(f"and {differences.total - len(differences.first):,} more", by=4)


def _verdict(console: Console, report: RehearsalReport) -> None:
    if report.irreversible:
        console.indented(
            Text(f"Cannot be rolled back: {_versions(report.irreversible)}.", "yellow"), by=0
        )
    if report.failures:
        problems = f"Problems found in {_versions(report.failures)}."
        console.indented(Text(f"{problems} The application's database is unchanged.", "red"), by=0)
        again = "Fix the migration, then rehearse again: flask db-migrate rehearse"
        console.indented(Text(again, "red"), by=0)
    else:
        rehearsed = words.count(len(report.migrations))
        console.indented(Text(f"{rehearsed} rehearsed: no problem found.", "green"), by=0)


def _versions(migrations: Iterable[MigrationRehearsal]) -> str:
    return ", ".join(str(migration.file.version) for migration in migrations)
