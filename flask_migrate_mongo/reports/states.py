"""What is recorded and what is planned, as text: status, history, events, the lock, the plan, lint findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import groupby
from textwrap import indent
from typing import TYPE_CHECKING

from flask_migrate_mongo.model.values import (
    COLUMNS,
    Direction,
    Entry,
    Event,
    LockState,
    Origin,
    Record,
    Status,
    StatusReport,
)

from . import words
from .console import STYLES, Cell, Console, Text, coloured, err, out

if TYPE_CHECKING:
    from flask_migrate_mongo.engine.settling import BaselineReport, Renumbered
    from flask_migrate_mongo.engine.squashing import Squashed
    from flask_migrate_mongo.lint.linter import Finding, LintReport
    from flask_migrate_mongo.planning.gate import CheckReport
    from flask_migrate_mongo.planning.importing import ImportReport, MappedEntry
    from flask_migrate_mongo.planning.preview import PlannedStep, Preview

    Row = Sequence[Cell]


_HISTORY = [(column.heading, name) for name, column in COLUMNS.items() if column.heading]
_STATUS = [(h, name) for h, name in _HISTORY if COLUMNS[name].in_table]
_IMPORTED = {
    "to-record": Text("to record", "yellow"),
    "recorded": Text("recorded", "green"),
    "known": Text("left as it is"),
    "not-applied": Text("not applied"),
    "ignored": Text("ignored"),
    "unmapped": Text("no file", "bold red"),
}


# --- status


def status(report: StatusReport) -> None:
    """Print every version with its state, then the totals and the lock."""
    survey, console = report.survey, out()
    found = {
        "applied": survey.applied,
        "running": survey.running,
        "failed": survey.failed,
        "pending": survey.pending,
    }
    holder = report.locked.run_id if report.locked else None
    rows = [
        _status_row(entry, state, holder) for state, entries in found.items() for entry in entries
    ]
    headings = [heading for heading, _ in _STATUS]
    console.table(("Version", "Name", "State", *headings, "Notes"), rows)
    for entry in (*survey.failed, *survey.down_failed):
        if entry.record and entry.record.error:
            what = "failed" if entry in survey.failed else "down() failed"
            console.say_lines(f"{entry.version} {what}: {words.brief(entry.record.error)}", "red")
    shown = ("applied", "pending", "failed", *(("running",) if survey.running else ()))
    totals = ", ".join(f"{len(found[state])} {state}" for state in shown)
    console.say(f"{words.count(survey.total)}: {totals}.")
    if not rows:
        console.say('Make the first one: flask db-migrate create "add user index"')
    _ignored(console, report.ignored)
    for problem in report.problems:
        console.say_lines(str(problem), "red")
    if report.lock is not None:
        lock(report.lock)


def _ignored(console: Console, names: Sequence[str]) -> None:
    if names:
        why = "only files in the folder itself that end in .py are migrations"
        console.say(f"Ignored, because {why}: {', '.join(names)}.")


def _status_row(entry: Entry, state: str, holder: str | None) -> Row:
    record = entry.record
    is_running = record is not None and record.status is Status.RUNNING
    applied = record if record is not None and record.is_applied else None
    notes = {
        "changed since": entry.drifted,
        "file missing": entry.missing,
        "out of order": entry.out_of_order,
        "interrupted": record is not None and record.interrupted,
        "its run crashed": is_running and record is not None and record.run_id != holder,
        "not reversible": not entry.reversible,
        f"replaced by {entry.replaced_by}": entry.replaced_by is not None,
    }
    if applied is not None and applied.origin is not Origin.RUN:
        notes[applied.origin.value] = True
        # Each part of a squashed one was verified when it ran, if it could be.
        notes["not verified"] = not applied.verified and applied.origin is not Origin.SQUASHED
    if applied is not None:
        notes["down failed"] = applied.down_failed
    if record is not None and record.progress is not None:
        notes[f"backfill of {record.progress}"] = True
    return (
        str(entry.version),
        entry.name,
        coloured(state),
        *(_cell(applied, field) if applied else "" for _, field in _STATUS),
        words.those(notes),
    )


# --- the gate


def check(report: CheckReport) -> None:
    """Print each problem with what to do."""
    console = out()
    for problem in report.problems:
        kind = Text(f"{problem.kind.value}: ", "bold red")
        console.say(kind, f"{problem.message} {problem.advice}".rstrip())
    for problem in report.allowed:
        console.say(Text(f"{problem.kind.value} (allowed): ", "yellow"), problem.message)
    _ignored(console, report.ignored)
    console.say(words.problems(len(report.problems)))


# --- what is recorded


def baseline(report: BaselineReport) -> None:
    """Print what was recorded as applied, or would be."""
    console = out()
    rows = (
        (str(file.version), file.name, "passed" if file.verifiable else "not verified")
        for file in report.recorded
    )
    console.table(("Version", "Name", "verify()"), rows)
    what = "Would record" if report.dry_run else "Recorded"
    number = words.count(len(report.recorded))
    console.say(
        f"{what} {number} as applied." if report.recorded else "Nothing to do: nothing is pending."
    )


def renumbered(found: Renumbered) -> None:
    """Print where a file is now, and whether its record followed."""
    console = out()
    console.say(str(found.path))
    if found.record_from is not None:
        console.say(f"The record of {found.record_from} is now that of {found.version}.")


def squashed(found: Squashed) -> None:
    """Print where a squashed migration is, what it replaces, and what to do next."""
    console = out()
    console.say(str(found.file.path))
    console.say(f"It replaces {words.count(len(found.file.replaces))}. Nothing was run.")
    for note in found.notes:
        console.say(Text(note, "yellow"))
    console.say(
        "Read it, and edit it. A database that has all of them only records it; a database that has none runs it."
    )
    console.say("Once each database has all or none of them, their files can be deleted.")


def imported(report: ImportReport) -> None:
    """Print what each entry means here, then what was recorded, and what to type next."""
    console, tool = out(), report.tool.value
    headings = ("Applied at (UTC)", f"Name in {tool}", "File", "State", "Notes")
    console.table(headings, map(_imported_row, report.entries))
    if report.unused:
        names = ", ".join(report.unused)
        console.warn([f"the map has names that {report.collection} does not have: {names}"])
    counts = Counter(each.state.value for each in report.entries)
    if recorded := counts["recorded"]:
        console.say(f"Recorded {words.count(recorded)} as applied. None was run.")
    elif unmapped := counts["unmapped"]:
        number = "1 entry" if unmapped == 1 else f"{unmapped} entries"
        console.say(f"{number} cannot be mapped to a file here. Nothing was recorded.")
        console.say("Write a line `NAME = VERSION` for each into a file, or `NAME = ignore`.")
        console.say("Then add: --map FILE")
    elif waiting := counts["to-record"]:
        console.say(f"Would record {words.count(waiting)} as applied. Nothing was recorded.")
        console.say("To record: the same command with --confirm")
    else:
        console.say(f"Nothing to do: nothing that {tool} has applied is left to record.")


def _imported_row(mapped: MappedEntry) -> Row:
    entry = mapped.entry
    return (
        when(entry.applied_at) if entry.applied_at else "",
        f"{entry.name} ({entry.title})" if entry.title else entry.name,
        mapped.file.file_name if mapped.file else "",
        _IMPORTED[mapped.state.value],
        mapped.note,
    )


def records(page: Sequence[Record]) -> None:
    """Print a page of the history."""
    if not page:
        out().say("Nothing is recorded.")
    rows = ([_cell(record, field) for _, field in _HISTORY] for record in page)
    out().table([heading for heading, _ in _HISTORY], rows)


def _cell(record: Record, field: str) -> Cell:
    value = getattr(record, field)
    if isinstance(value, Status):
        return coloured(value.value)
    if isinstance(value, datetime):
        return when(value)
    if field == "execution_ms":
        return words.took(value)
    return "" if value is None else str(value)


def when(at: datetime) -> str:
    """Format a time in UTC."""
    # A third of what strftime takes, for thousands.
    return at.astimezone(timezone.utc).replace(tzinfo=None).isoformat(" ", "seconds")


def events(log: Sequence[Event]) -> None:
    """Print an event log, the oldest first."""
    if not log:
        out().say("Nothing has happened yet.")
    out().table(("At (UTC)", "Version", "Event", "By", "Took", "Details"), map(_event_row, log))


def _event_row(event: Event) -> Row:
    shown = ("direction", "applied", "reason", "of", "ofRun", "replacedBy", "ofSquashed")
    details = ", ".join(f"{key} {event.details[key]}" for key in shown if key in event.details)
    return (
        when(event.at),
        "lock" if event.version is None else str(event.version),
        coloured(event.kind),
        str(event.details.get("by", "")),
        words.took(event.details.get("executionTime")),
        words.brief(event.error) if event.error else details,
    )


# --- the lock and its run


def lock(state: LockState | None) -> None:
    """Print who holds the lock."""
    console = out()
    if state is None:
        console.say("The lock is free.")
        return
    what = "is held" if state.is_live else "was left"
    console.say(
        f"The lock {what} by {state.holder} ({state.reason}), since {when(state.locked_at)} UTC, "
        f"last heartbeat {when(state.heartbeat_at)} UTC."
    )
    if state.is_live:
        remedy = "If that process is dead: flask db-migrate force-unlock --confirm"
        console.say(f"It ends at {when(state.expires_at)} UTC unless renewed. {remedy}")
    else:
        console.say(f"It expired at {when(state.expires_at)} UTC. The next run takes it over.")


def unlocked(state: LockState | None) -> None:
    """Print whose lock was released by force."""
    if state is None:
        out().say("Nothing to do: the lock is free.")
    else:
        out().say(f"Released the lock of {state.holder} ({state.reason}).")


def asked(record: Record) -> None:
    """Print which migration's backfill got a request."""
    request = f"Request sent to {record.version} {record.name}."
    out().say(f"{request} It takes effect after the current batch.")


# --- the plan, and lint


def plan(found: Preview) -> None:
    """Print the plan of `up`, with its warnings, drift and missing files."""
    console, survey = out(), found.status.survey
    err().warn(found.plan.warnings)
    if found.planned:
        console.say("Would run, in this order:")
        headers = ("Version", "Name", "How", "Undo", "Notes", "Collections")
        console.table(headers, map(_step_row, found.planned))
    else:
        console.say(words.NOTHING_TO_DO[Direction.UP])
    for step in found.planned:
        for finding in step.findings:
            _finding(console, finding)
    for entry in survey.drifted:
        console.say(Text(f"Changed since it was applied: {entry.version} {entry.name}.", "yellow"))
    for entry in survey.missing:
        gone = f"Applied, and its file is missing: {entry.version} {entry.name}."
        console.say(Text(gone, "yellow"))
    _ignored(console, found.status.ignored)
    if found.status.lock is not None:
        lock(found.status.lock)
    if found.planned:
        console.say("See what they do to the data: flask db-migrate up --dry-run")


def _step_row(planned: PlannedStep) -> Row:
    step = planned.step
    notes = {
        "out of order": step.out_of_order,
        "interrupted": step.interrupted,
        "recorded, does not run": bool(step.adopts),
    }
    named = [
        f"{name} ({'new' if documents is None else f'{documents:,}'})"
        for name, documents in planned.collections.items()
    ]
    return (
        str(step.version),
        step.file.name,
        "in a transaction" if step.file.transactional else "plain",
        "reversible" if step.file.reversible else "not reversible",
        words.those(notes),
        ", ".join([*named, *([] if planned.complete else ["others"])]),
    )


def lint(report: LintReport) -> None:
    """Print what lint found, file by file, and how to do better where a rule is met first."""
    console, explained = out(), set[str]()
    for _, found in groupby(report.findings, key=lambda finding: finding.path):
        for finding in found:
            _finding(console, finding)
            if finding.rule.code not in explained:
                explained.add(finding.rule.code)
                console.say_lines(indent(finding.help, "    "), "dim")
        console.say("")
    console.say(_found(report))


def _finding(console: Console, finding: Finding) -> None:
    rule = finding.rule
    console.say(
        f"{finding.shown_path}:{finding.line}:{finding.column}: ",
        Text(rule.code, STYLES[rule.severity.value]),
        f" {finding.message} [{rule.severity.value}]",
    )


def _found(report: LintReport) -> str:
    where = f"in {words.count(report.files)}"
    suppressed = f" {len(report.suppressed)} suppressed by comments." if report.suppressed else ""
    if not report.findings:
        return f"Nothing found {where}.{suppressed}"
    kinds = (("error", "errors"), ("warning", "warnings"), ("info", "hints"))
    counts = ((report.count(one), one, many) for one, many in kinds)
    shown = ", ".join(f"{n} {one if n == 1 else many}" for n, one, many in counts if n)
    return f"Found {where}: {shown}.{suppressed}"
