"""What is recorded and what is planned, as text: status, history, events, the lock, the plan, lint findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from itertools import groupby
from textwrap import indent
from typing import TYPE_CHECKING, NamedTuple

from flask_migrate_mongo.files.parsing import version_of
from flask_migrate_mongo.model.values import (
    APPLIED,
    COLUMNS,
    Direction,
    Entry,
    Event,
    LockState,
    Origin,
    Record,
    Status,
    StatusReport,
    Survey,
)

from . import words
from .console import STYLES, Cell, Console, Text, coloured, err, out

if TYPE_CHECKING:
    from flask_migrate_mongo.engine.settling import BaselineReport, Renumbered
    from flask_migrate_mongo.engine.squashing import Squashed
    from flask_migrate_mongo.lint.linter import Finding, LintReport
    from flask_migrate_mongo.model.reports import (
        EventsReport,
        HistoryReport,
        LockReport,
        ReleaseReport,
        RequestReport,
    )
    from flask_migrate_mongo.planning.gate import CheckReport
    from flask_migrate_mongo.planning.importing import ImportReport, MappedEntry
    from flask_migrate_mongo.planning.preview import PlannedStep, Preview
    from flask_migrate_mongo.wiring.generating import Generated

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


_FIRST = 'Make the first one: flask db-migrate create "add user index"'
_UP = "flask db-migrate up"
_RESOLVE = "flask db-migrate resolve VERSION"
_REASON = "--reason TEXT"

MOST_LISTED = 20
"""How many versions in one state the short status lists."""

# --- status


def status(report: StatusReport, now: datetime | None = None) -> None:
    """Print how many are applied, what is pending, and what needs a person, each with what to type next."""
    survey, console = report.survey, out()
    console.say(_applied(console, survey, now or datetime.now(timezone.utc)))
    for group in _groups(report):
        _print_group(console, group)
    if not survey.total:
        console.say(f"  {_FIRST}")
    elif len(survey.applied) == survey.total:
        console.say("  Nothing is pending.")
    _ignored(console, report.ignored)
    for problem in report.problems:
        console.say_lines(str(problem), "red")
    if report.lock is not None:
        _lock(console, report.lock)


def _applied(console: Console, survey: Survey, now: datetime) -> str:
    dated = [each for each in survey.applied if each.record and each.record.applied_at]
    last = max(dated, key=lambda each: each.record.order if each.record else (), default=None)
    if last is None or last.record is None or last.record.applied_at is None:
        return f"  {len(survey.applied)} applied"
    before = f"  {len(survey.applied)} applied, last {last.version} "
    after = f" ({words.ago(last.record.applied_at, now)})"
    return before + console.shortened(last.name, len(before) + len(after)) + after


class _Group(NamedTuple):
    """Versions in one state, which is in need of one command."""

    title: str
    style: str
    entries: Sequence[Entry]
    remedy: str = ""


def _groups(report: StatusReport) -> Iterator[_Group]:
    survey, crashed = report.survey, report.crashed
    running = [e for e in survey.running if e not in crashed]
    halfway = [e for e in survey.failed if e.record is not None and e.record.interrupted]
    failed = [e for e in survey.failed if e not in halfway and not e.missing]
    gone = [e for e in (*survey.applied, *survey.failed) if e.missing and e not in halfway]
    late = [e for e in survey.pending if e.out_of_order]
    yield _Group("running", "cyan", running, "See its run: flask db-migrate lock-status")
    yield _Group("left running by a run that crashed", "red", crashed, f"Continue: {_UP}")
    yield _Group("failed", "bold red", failed, f"Fix the cause, then: {_UP}")
    yield _Group(
        "interrupted half-way",
        "bold red",
        halfway,
        f"Look at the data. Then: {_UP}, or {_RESOLVE} --applied|--not-applied {_REASON}",
    )
    yield _Group(
        "applied, whose last down() failed",
        "bold red",
        survey.down_failed,
        f"Fix down(), then: flask db-migrate down, or {_RESOLVE} --applied {_REASON}",
    )
    yield _Group("pending", "yellow", survey.pending, f"Apply: {_UP}" if survey.pending else "")
    yield _Group(
        "of them out of order: a higher number is applied",
        "yellow",
        late,
        "To apply in order, first: flask db-migrate renumber VERSION",
    )
    yield _Group(
        "changed since applied",
        "yellow",
        survey.drifted,
        f"Compare: flask db-migrate show VERSION. Accept: {_RESOLVE} --accept-file {_REASON}",
    )
    yield _Group(
        "recorded, and the file is missing",
        "yellow",
        gone,
        f"Restore the file, or: {_RESOLVE} --forget {_REASON}",
    )


def _print_group(console: Console, group: _Group) -> None:
    if not group.entries:
        return
    console.say(f"  {len(group.entries)} ", Text(group.title, group.style))
    shown = group.entries[:MOST_LISTED]
    rows = [(str(each.version), each.name, _short_notes(each)) for each in shown]
    console.table(("Version", "Name", "Notes"), rows, indent=4, headed=False)
    if len(group.entries) > len(shown):
        console.say(
            f"    and {len(group.entries) - len(shown)} more: flask db-migrate status --all"
        )
    if len(group.entries) == 1:
        remedy = group.remedy.replace("VERSION", str(group.entries[0].version))
    else:
        remedy = group.remedy
    console.say(Text(f"    {remedy}", "dim"))


def _short_notes(entry: Entry) -> str:
    record, file = entry.record, entry.file
    if (
        record is not None
        and record.error is not None
        and (entry.status is Status.FAILED or record.down_failed)
    ):
        return words.brief(record.error)
    if record is not None and record.progress is not None:
        return f"backfill of {record.progress}"
    if file is None or entry.status is not Status.PENDING:
        return ""
    return words.those(
        {
            "transactional": file.transactional,
            "idempotent": file.idempotent,
            "not reversible": not file.reversible,
            "not written yet": not file.written,
            f"replaced by {entry.replaced_by}": entry.replaced_by is not None,
        }
    )


def full_status(report: StatusReport) -> None:
    """Print every version with its state, then the totals and the lock."""
    survey, console = report.survey, out()
    found = {
        "applied": survey.applied,
        "running": survey.running,
        "failed": survey.failed,
        "pending": survey.pending,
    }
    crashed = report.crashed
    rows = [
        _status_row(entry, state, has_crashed=entry in crashed)
        for state, entries in found.items()
        for entry in entries
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
        console.say(_FIRST)
    _ignored(console, report.ignored)
    for problem in report.problems:
        console.say_lines(str(problem), "red")
    if report.lock is not None:
        _lock(console, report.lock)


def _ignored(console: Console, names: Sequence[str]) -> None:
    if names:
        why = "only files in the folder itself that end in .py are migrations"
        console.say(
            f"Ignored, because {why}: {', '.join(names)}. Move them into the folder, or delete them."
        )


def _status_row(entry: Entry, state: str, *, has_crashed: bool) -> Row:
    record = entry.record
    applied = record if record is not None and record.is_applied else None
    notes = {
        "changed since": entry.drifted,
        "file missing": entry.missing,
        "out of order": entry.out_of_order,
        "interrupted": record is not None and record.interrupted,
        "its run crashed": has_crashed,
        "not written yet": entry.file is not None and not entry.file.written,
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


def generated(found: Generated) -> None:
    """Print where the migrations from the declared schema are, and what to do next."""
    console = out()
    if not found.paths:
        console.say("Everything declared is there, or is being built. Nothing was written.")
        return
    console.write(list(map(str, found.paths)))
    if found.questions:
        questions = "1 question" if found.questions == 1 else f"{found.questions} questions"
        console.say(Text(f"{questions}: each is a `raise NotImplementedError`.", "yellow"))
    if len(found.paths) > 1:
        first = version_of(found.paths[0].name)
        console.say(
            f"The second one finishes what the first one begins. Keep it for a later release: flask db-migrate up --to {first}"
        )


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


def records(page: HistoryReport) -> None:
    """Print a page of the history."""
    if not page.records:
        out().say("Nothing is recorded.")
    rows = ([_cell(record, field) for _, field in _HISTORY] for record in page.records)
    out().table([heading for heading, _ in _HISTORY], rows)


def _cell(record: Record, field: str) -> Cell:
    value = getattr(record, field)
    if isinstance(value, Status):
        return coloured(value.word)
    if isinstance(value, datetime):
        return when(value)
    if field == "execution_ms":
        return words.took(value)
    return "" if value is None else str(value)


def when(at: datetime) -> str:
    """Format a time in UTC."""
    # A third of what strftime takes, for thousands.
    return at.astimezone(timezone.utc).replace(tzinfo=None).isoformat(" ", "seconds")


def events(report: EventsReport) -> None:
    """Print an event log, the oldest first."""
    if not report.events:
        out().say("Nothing has happened yet.")
    event_log(report.events)


def event_log(log: Sequence[Event]) -> None:
    """Print events, the oldest first."""
    out().table(("At (UTC)", "Version", "Event", "By", "Took", "Details"), map(_event_row, log))


def _event_row(event: Event) -> Row:
    shown = ("direction", "applied", "reason", "of", "ofRun", "replacedBy", "ofSquashed")
    usual = {("direction", Direction.UP.value)}
    given = [(key, event.details[key]) for key in shown if key in event.details]
    details = ", ".join(f"{key} {value}" for key, value in given if (key, value) not in usual)
    return (
        when(event.at),
        "lock" if event.version is None else str(event.version),
        coloured(APPLIED if event.kind == Status.COMPLETED.value else event.kind),
        str(event.details.get("by", "")),
        words.took(event.details.get("executionTime")),
        words.brief(event.error) if event.error else details,
    )


# --- the lock and its run


def lock(report: LockReport) -> None:
    """Print who holds the lock."""
    if report.lock is None:
        out().say("The lock is free.")
    else:
        _lock(out(), report.lock)


def _lock(console: Console, state: LockState) -> None:
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


def unlocked(report: ReleaseReport) -> None:
    """Print whose lock was released by force."""
    state = report.released
    if state is None:
        out().say("Nothing to do: the lock is free.")
    else:
        out().say(f"Released the lock of {state.holder} ({state.reason}).")


def asked(report: RequestReport) -> None:
    """Print which migration's backfill got a request."""
    request = f"Request sent to {report.record.version} {report.record.name}."
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
        _lock(console, found.status.lock)
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
                more = f"{finding.help}\n\nThe rule, with examples: {finding.rule.page}"
                console.say_lines(indent(more, "    "), "dim")
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
