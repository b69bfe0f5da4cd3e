"""Reports as text: tables on a terminal, plain aligned columns in a pipe."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import astuple
from datetime import timezone
from itertools import groupby
from textwrap import indent
from typing import TYPE_CHECKING, NamedTuple

from . import showing
from .console import Bar, Console, Text, err, out
from .model import Direction, Expected, Outcome, StepState, Verdict
from .runner import Observer
from .server import elapsed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime
    from pathlib import Path

    from .linting import Finding, LintReport
    from .model import (
        Effects,
        Entry,
        ErrorInfo,
        Event,
        LockState,
        Prediction,
        Record,
        RunReport,
        Sample,
        StatusReport,
        Step,
        Survey,
        Trial,
    )
    from .model import Progress as Backfilling
    from .preview import Glance, Preview
    from .rehearsal import Performance, RehearsalReport, Turn
    from .rehearsal.estimation import Estimate

    Row = Sequence[Text]

LINE_SECONDS = 10
"""Seconds between two lines of progress where there is no terminal."""

_SECOND = 1_000
_MINUTE = 60
_STYLES = {
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
_VERDICTS = {
    Verdict.SUCCEEDS: "green",
    Verdict.FAILS: "bold red",
    Verdict.NOT_REHEARSED: "yellow",
    Verdict.TOO_LARGE: "yellow",
}
_SHORT = {
    Verdict.SUCCEEDS: "would succeed",
    Verdict.FAILS: "would fail",
    Verdict.NOT_REHEARSED: "not rehearsed",
    Verdict.TOO_LARGE: "too large",
}
_EXPECTATIONS = {
    Expected.DONE: "",
    Expected.NO_OP: "dim",
    Expected.FAILS: "red",
    Expected.UNKNOWN: "yellow",
}
_EFFECTS = ("  Collection", "Inserted", "Matched", "Modified", "Deleted", "Upserted")
_DID = {Direction.UP: "Applied", Direction.DOWN: "Rolled back"}


class _Marks(NamedTuple):
    """What a line of progress begins with."""

    done: str
    not_run: str
    failed: str


_MARKS = _Marks("✓", "-", "✗")
_ASCII_MARKS = _Marks("+", "-", "!")


def _say(console: Console, text: str, style: str = "") -> None:
    console.say(Text(text, style))


# --- reports


def status(report: StatusReport) -> None:
    """Print every version with its state, then the totals and the lock."""
    survey, console = report.survey, out()
    groups = {
        "applied": survey.applied,
        "running": survey.running,
        "failed": survey.failed,
        "pending": survey.pending,
    }
    rows = [_status_row(entry, state) for state, found in groups.items() for entry in found]
    console.table(("Version", "Name", "State", "Applied at (UTC)", "Took", "Notes"), rows)
    for entry in survey.failed:
        if entry.record and entry.record.error:
            _say(console, _summary(f"{entry.version} failed", entry.record.error), "red")
    _say(console, f"{_count(survey.total)}: {_totals(survey)}.")
    if not rows:
        _say(console, 'Make the first one: flask db-migrate create "add user index"')
    if report.ignored:
        names = ", ".join(map(printable, report.ignored))
        _say(console, f"Passed over, since they do not end in .py: {names}.")
    if report.lock is not None:
        lock(report.lock)


def records(page: Sequence[Record]) -> None:
    """Print a page of the history."""
    console = out()
    if not page:
        _say(console, "Nothing is recorded.")
        return
    times = ("Applied at (UTC)", "Rolled back at (UTC)")
    headers = ("Version", "Name", "Status", *times, "Took", "Batch")
    console.table(headers, map(_record_row, page))


def events(trail: Sequence[Event]) -> None:
    """Print a trail, oldest first."""
    console = out()
    if not trail:
        _say(console, "Nothing has happened yet.")
        return
    headers = ("At (UTC)", "Version", "Event", "By", "Took", "Details")
    console.table(headers, map(_event_row, trail))


def lock(state: LockState | None) -> None:
    """Print who holds the lock."""
    console = out()
    if state is None:
        _say(console, "The lock is free.")
        return
    what = "is held" if state.is_live else "was left"
    _say(
        console,
        f"The lock {what} by {printable(state.holder)} ({printable(state.reason)}), since "
        f"{_when(state.locked_at)} UTC, last heartbeat {_when(state.heartbeat_at)} UTC.",
    )
    if state.is_live:
        remedy = "If that process is dead: flask db-migrate force-unlock --confirm"
        _say(console, f"It ends at {_when(state.expires_at)} UTC unless renewed. {remedy}")
    else:
        _say(console, f"It expired at {_when(state.expires_at)} UTC and holds nobody off any more.")


def unlocked(state: LockState | None) -> None:
    """Print whose lock was released by force."""
    if state is None:
        _say(out(), "Nothing to do: the lock is free.")
    else:
        whose = f"{printable(state.holder)} ({printable(state.reason)})"
        _say(out(), f"Released the lock of {whose}.")


def asked(record: Record) -> None:
    """Print which migration's backfill something was asked of."""
    name = f"{record.version} {printable(record.name)}"
    _say(out(), f"Asked of {name}. It is heeded after the batch in hand.")


def run(report: RunReport) -> None:
    """Print what a run did, or, for a dry run, what it would do."""
    console, notes = out(), err()
    for warning in report.warnings:
        _say(notes, f"Warning: {printable(warning)}", "yellow")
    if report.is_noop:
        _say(console, _nothing(report.direction))
    elif report.executed and report.dry_run:
        _dry_run(console, report)
    elif report.executed:
        _results(console, notes, report)
    else:
        _plan(console, report)


def lint(report: LintReport) -> None:
    """Print what lint found, file by file, and how to do better where a rule is met first."""
    console, explained = out(), set[str]()
    for path, found in groupby(report.findings, key=lambda finding: finding.shown_path):
        for finding in found:
            _finding(console, finding, path)
            if finding.rule.code not in explained:
                explained.add(finding.rule.code)
                _say(console, indent(_printable_lines(finding.help), "    "), "dim")
        _say(console, "")
    _say(console, _found(report))


def lines(texts: Iterable[str]) -> None:
    """Print lines as they are, for a program."""
    console = out()
    for text in texts:
        _say(console, text)


def plan(found: Preview) -> None:
    """Print what `up` would run, and what there is to know before."""
    console, survey = out(), found.status.survey
    for warning in found.plan.warnings:
        _say(err(), f"Warning: {printable(warning)}", "yellow")
    if found.glances:
        _say(console, "Would run, in this order:")
        headers = ("Version", "Name", "How", "Undo", "Notes", "Collections")
        console.table(headers, map(_glance_row, found.glances))
    else:
        _say(console, _nothing(Direction.UP))
    for finding in (each for glance in found.glances for each in glance.findings):
        _finding(console, finding, finding.shown_path)
    for entry in survey.drifted:
        _say(console, f"Changed since it was applied: {_named_entry(entry)}.", "yellow")
    for entry in survey.missing:
        _say(console, f"Applied, and its file is missing: {_named_entry(entry)}.", "yellow")
    if found.status.lock is not None:
        lock(found.status.lock)
    if found.glances:
        _say(console, "See what they do to the data: flask db-migrate up --dry-run")


def rehearsal(report: RehearsalReport) -> None:
    """Print how each migration did, what its down() did not undo, and how long it would take."""
    console, notes = out(), err()
    for text in _rehearsal_warnings(report):
        _say(notes, f"Warning: {printable(text)}", "yellow")
    if not report.performances:
        _say(console, "Nothing to rehearse: no migration is pending.")
        return
    headers = ("Version", "Name", "Up", "Down undoes it", "Up again", "On all documents")
    console.table(headers, map(_performance_row, report.performances))
    for performance in report.performances:
        _performance(console, notes, performance)
    _say(console, f"Rehearsed on {_samples(report)}.")
    _verdict(console, report)


def error(exc: Exception) -> None:
    """Print why a command did not do what it was asked for."""
    _say(err(), f"Error: {_printable_lines(str(exc))}", "bold red")


def printable(text: str) -> str:
    """Return the text on one line, with everything that could steer a terminal written out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


class Progress(Observer):
    """Prints each step as it starts and as it ends; on a terminal with a spinner between."""

    def __init__(self) -> None:
        self._console = err()
        self._stop: Callable[[], None] | None = None
        self._bar: Bar | None = None
        self._told = elapsed()

    def started(self, step: Step) -> None:
        """Show that the step runs."""
        self._stop = self._console.spin(_title(step))

    def progressed(self, step: Step, progress: Backfilling) -> None:
        """Show how far the step's backfill is: with a bar, or else a line every ten seconds."""
        if self._console.is_terminal:
            if self._bar is None:
                self.close()
                self._bar = self._console.bar(_title(step))
            self._bar.show(progress.done, progress.total, _how_far(progress))
        elif elapsed() - self._told >= LINE_SECONDS:
            self._told = elapsed()
            _say(self._console, f"{step.version} {_how_far(progress)}")

    def ended(self, outcome: Outcome) -> None:
        """Show how the step ended, and how long it took."""
        self.close()
        mark = _mark(outcome, self._console.encoding)
        took = "" if outcome.took_ms is None else f" in {_took(outcome.took_ms)}"
        state = outcome.trial.verdict if outcome.trial else outcome.state
        title = Text(f"{mark} {_title(outcome.step)}: ")
        self._console.say(title, _state(state.value), Text(took))

    def phase(self, text: str) -> None:
        """Show what is being done between the steps."""
        _say(self._console, f"{printable(text)} ...", "dim")

    def close(self) -> None:
        """Stop what moves, so that the terminal has its cursor again."""
        if self._stop is not None:
            self._stop()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _how_far(progress: Backfilling) -> str:
    total = "" if progress.total is None else f" of about {progress.total:,}"
    rate = "" if progress.per_second is None else f", {progress.per_second:,.0f} a second"
    left = "" if progress.seconds_left is None else f", {_left_over(progress.seconds_left)} left"
    return f"{printable(progress.collection)}: {progress.done:,}{total}{rate}{left}"


def _left_over(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


# --- parts of reports


def _nothing(direction: Direction) -> str:
    if direction is Direction.UP:
        return "Nothing to do: every migration is applied."
    return "Nothing to do: no migration is applied."


def _totals(survey: Survey) -> str:
    counts = {"applied": survey.applied, "pending": survey.pending, "failed": survey.failed}
    if survey.running:
        counts["running"] = survey.running
    return ", ".join(f"{len(found)} {state}" for state, found in counts.items())


def _plan(console: Console, report: RunReport) -> None:
    _say(console, f"Would run, in this order ({report.direction.value}):")
    console.table(("Version", "Name", "How", "Undo", "Notes"), map(_plan_row, report.outcomes))
    _say(console, "Nothing was executed: this is the plan, not a rehearsal of it.")


def _dry_run(console: Console, report: RunReport) -> None:
    for outcome in report.outcomes:
        if outcome.trial is not None:
            _trial(console, outcome, outcome.trial)
    _say(console, _conclusion(report))


def _trial(console: Console, outcome: Outcome, trial: Trial) -> None:
    verdict = (
        trial.verdict.value
        if outcome.error is None
        else f"{trial.verdict.value}: {_brief(outcome.error)}"
    )
    reason = f": {printable(trial.reason)}" if trial.reason else ""
    console.say(
        Text(f"{_title(outcome.step)}: "),
        Text(verdict, _VERDICTS[trial.verdict]),
        Text(f"{reason}{_speed(outcome, trial)}"),
    )
    if outcome.error and outcome.error.traceback:
        _say(console, _indented(outcome.error.traceback.rstrip()), "dim")
    for version in trial.depends_on:
        _say(console, f"  builds on what is only predicted of {version}", "yellow")
    rows = [_effects_row(name, effects) for name, effects in trial.effects.items()]
    console.table(_EFFECTS, rows)
    for prediction in trial.predicted:
        _say(console, f"  {_predicted(prediction)}", _EXPECTATIONS[prediction.expected])
    for sample in trial.samples:
        _sample(console, sample)


def _conclusion(report: RunReport) -> str:
    verdicts = Counter(o.trial.verdict for o in report.outcomes if o.trial is not None)
    counts = ", ".join(f"{verdicts[v]} {_SHORT[v]}" for v in Verdict if v in verdicts)
    return f"Dry run of {_count(len(report.outcomes))}: {counts}. All of it was taken back: nothing was changed."


def _speed(outcome: Outcome, trial: Trial) -> str:
    if outcome.took_ms is None:
        return ""
    documents = sum(e.inserted + e.matched + e.deleted + e.upserted for e in trial.effects.values())
    rate = (
        f", {documents * _SECOND / max(outcome.took_ms, 1):,.0f} documents/s" if documents else ""
    )
    return f" ({_took(outcome.took_ms)}{rate})"


def _predicted(prediction: Prediction) -> str:
    where = printable(prediction.collection)
    return f"{prediction.operation} {where}: {_printable_lines(prediction.detail)}"


def _sample(console: Console, sample: Sample) -> None:
    _say(console, f"  {printable(sample.collection)} {printable(showing.text(sample.document_id))}")
    for sign, fields, style in (("-", sample.before, "red"), ("+", sample.after, "green")):
        for path, value in (fields or {}).items():
            _say(console, f"    {sign} {printable(f'{path}: {showing.text(value)}')}", style)


def _brief(info: ErrorInfo) -> str:
    return printable(f"{info.type}: {info.message}")


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in _printable_lines(text).split("\n"))


def _results(console: Console, notes: Console, report: RunReport) -> None:
    # The progress was on this very screen already, unless the results go somewhere else.
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        headers = ("Version", "Name", "State", "Took")
        console.table(headers, map(_outcome_row, report.outcomes))
    _done(console, report)
    for outcome in report.outcomes:
        if outcome.error:
            _failure(notes, f"{outcome.step.version} {outcome.state.value}", outcome.error)
    _left(console, report)
    if report.error:
        error(report.error)
    elif report.failures:
        command = f"`flask db-migrate {report.direction.value}`"
        _say(console, f"Mend the migration, then run {command} again.")


def _done(console: Console, report: RunReport) -> None:
    done = report.in_state(StepState.APPLIED, StepState.ROLLED_BACK)
    if not done:
        _say(console, f"Nothing was {_DID[report.direction].lower()}.")
        return
    took = sum(outcome.took_ms or 0 for outcome in done)
    batch = f" as batch {report.batch}" if report.batch else ""
    _say(console, f"{_DID[report.direction]} {_count(len(done))}{batch} in {_took(took)}.")


def _left(console: Console, report: RunReport) -> None:
    left = report.in_state(StepState.NOT_RUN)
    if left:
        versions = ", ".join(str(outcome.step.version) for outcome in left)
        _say(console, f"Not run: {versions}.")


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
    undoes = {
        True: Text("yes", "green"),
        False: Text("no", "bold red"),
        None: Text("not rehearsed"),
    }
    known = Text("irreversible", "yellow") if not performance.file.reversible else None
    return (
        Text(str(performance.file.version)),
        Text(printable(performance.file.name)),
        _turn(performance.up),
        known or undoes[performance.undoes],
        _turn(performance.again),
        Text(_estimate(performance.estimate)),
    )


def _turn(turn: Turn | None) -> Text:
    if turn is None:
        return Text("")
    return Text("failed", "bold red") if turn.error else Text(_took(turn.took_ms))


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
            _failure(notes, f"{version} {name} failed", turn.error)
    if left.total:
        _say(console, f"{version}: down() does not undo up(). What is not as it was:", "red")
        for difference in left.first:
            _say(console, f"  {printable(str(difference))}")
        if left.total > len(left.first):
            _say(console, f"  and {left.total - len(left.first):,} more")


def _samples(report: RehearsalReport) -> str:
    copied = [f"{c.documents:,} of {c.of:,} of {printable(c.name)}" for c in report.copied if c.of]
    return f"documents: {', '.join(copied)}" if copied else "no documents"


def _verdict(console: Console, report: RehearsalReport) -> None:
    if report.irreversible:
        versions = ", ".join(str(each.file.version) for each in report.irreversible)
        _say(console, f"Cannot be undone: {versions}.", "yellow")
    if report.failures:
        versions = ", ".join(str(each.file.version) for each in report.failures)
        _say(console, f"Not fit to be run: {versions}. Mend that, then rehearse again.", "red")
    else:
        _say(console, f"{_count(len(report.performances))} rehearsed: fit to be run.", "green")


def _failure(console: Console, title: str, info: ErrorInfo) -> None:
    if info.traceback:
        _say(console, _printable_lines(info.traceback.rstrip()), "dim")
    _say(console, _summary(title, info), "red")


def _summary(title: str, info: ErrorInfo) -> str:
    return _printable_lines(f"{title}: {info.type}: {info.message}")


def _mark(outcome: Outcome, encoding: str) -> str:
    marks = _MARKS if encoding.startswith("utf") else _ASCII_MARKS
    if outcome.failed or outcome.state is StepState.UNKNOWN:
        return marks.failed
    would_succeed = outcome.trial is not None and outcome.trial.verdict is Verdict.SUCCEEDS
    return marks.not_run if outcome.state is StepState.NOT_RUN and not would_succeed else marks.done


def _title(step: Step) -> str:
    return f"{step.version} {printable(step.file.name)}"


# --- findings


def _finding(console: Console, finding: Finding, path: Path) -> None:
    rule = finding.rule
    console.say(
        Text(f"{printable(str(path))}:{finding.line}:{finding.column}: "),
        Text(rule.code, _STYLES[rule.severity.value]),
        Text(f" {printable(finding.message)} [{rule.severity.value}]"),
    )


def _found(report: LintReport) -> str:
    where = f"in {_count(report.files)}"
    allowed = f" {len(report.allowed)} allowed by comments." if report.allowed else ""
    if not report.findings:
        return f"Nothing found {where}.{allowed}"
    kinds = (("error", "errors"), ("warning", "warnings"), ("info", "hints"))
    counts = ((report.count(one), one, many) for one, many in kinds)
    shown = ", ".join(f"{n} {one if n == 1 else many}" for n, one, many in counts if n)
    return f"Found {where}: {shown}.{allowed}"


# --- rows


def _status_row(entry: Entry, state: str) -> Row:
    record = entry.record
    notes = {
        "changed since": entry.drifted,
        "file missing": entry.missing,
        "out of order": entry.out_of_order,
        "interrupted": record is not None and record.interrupted,
        _backfilling(record): record is not None and record.progress is not None,
        "not reversible": not entry.reversible,
    }
    applied = record if record is not None and record.is_applied else None
    return (
        Text(str(entry.version)),
        Text(printable(entry.name)),
        _state(state),
        Text(_when(applied.applied_at) if applied else ""),
        Text(_took(applied.execution_ms) if applied else ""),
        Text(", ".join(note for note, holds in notes.items() if holds)),
    )


def _backfilling(record: Record | None) -> str:
    progress = record.progress if record is not None else None
    return f"backfill at {_how_far(progress)}" if progress is not None else "no backfill"


def _record_row(record: Record) -> Row:
    return (
        Text(str(record.version)),
        Text(printable(record.name)),
        _state(record.status.value),
        Text(_when(record.applied_at)),
        Text(_when(record.rolled_back_at)),
        Text(_took(record.execution_ms)),
        Text(str(record.batch or "")),
    )


def _event_row(event: Event) -> Row:
    return (
        Text(_when(event.at)),
        Text("lock" if event.version is None else str(event.version)),
        _state(event.kind),
        Text(printable(str(event.details.get("by", "")))),
        Text(_took(event.details.get("executionTime"))),
        Text(printable(_remark(event))),
    )


def _outcome_row(outcome: Outcome) -> Row:
    return (
        Text(str(outcome.step.version)),
        Text(printable(outcome.step.file.name)),
        _state(outcome.state.value),
        Text(_took(outcome.took_ms)),
    )


def _effects_row(name: str, effects: Effects) -> Row:
    figures = (f"{number:,}" if number else "-" for number in astuple(effects))
    return (Text(f"  {printable(name)}"), *map(Text, figures))


def _glance_row(glance: Glance) -> Row:
    step = glance.step
    notes = {"out of order": step.out_of_order, "interrupted": step.interrupted}
    named = [_sized(name, documents) for name, documents in glance.collections.items()]
    return (
        Text(str(step.version)),
        Text(printable(step.file.name)),
        Text("in a transaction" if step.file.transactional else "plain"),
        Text("reversible" if step.file.reversible else "not reversible"),
        Text(", ".join(note for note, holds in notes.items() if holds)),
        Text(", ".join([*named, *([] if glance.complete else ["others"])])),
    )


def _sized(name: str, documents: int | None) -> str:
    return f"{printable(name)} ({'new' if documents is None else f'{documents:,}'})"


def _named_entry(entry: Entry) -> str:
    return f"{entry.version} {printable(entry.name)}"


def _plan_row(outcome: Outcome) -> Row:
    step = outcome.step
    return (
        Text(str(step.version)),
        Text(printable(step.file.name)),
        Text("in a transaction" if step.file.transactional else "plain"),
        Text("reversible" if step.file.reversible else "not reversible"),
        Text("out of order" if step.out_of_order else ""),
    )


def _remark(event: Event) -> str:
    if event.error:
        return f"{event.error.type}: {event.error.message}"
    shown = ("direction", "applied", "reason", "of", "ofRun")
    return ", ".join(f"{key} {event.details[key]}" for key in shown if key in event.details)


# --- cells


def _state(state: str) -> Text:
    return Text(printable(state), style=_STYLES.get(state, ""))


def _when(at: datetime | None) -> str:
    return f"{at.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}" if at else ""


def _took(ms: int | None) -> str:
    if ms is None:
        return ""
    return f"{ms} ms" if ms < _SECOND else f"{ms / _SECOND:.2f} s"


def _count(number: int) -> str:
    return "1 migration" if number == 1 else f"{number} migrations"
