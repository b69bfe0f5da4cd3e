"""What can be known of migrations without running them, as text."""

from __future__ import annotations

from itertools import groupby
from textwrap import indent
from typing import TYPE_CHECKING

from flask_migrate_mongo.model.values import Direction

from . import words
from .cells import Text
from .console import Console, err, out
from .states import lock

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from flask_migrate_mongo.lint.linter import Finding, LintReport
    from flask_migrate_mongo.planning.preview import PlannedStep, Preview

    from .cells import Cell

    Row = Sequence[Cell]


def plan(found: Preview) -> None:
    """Print the plan of `up`, with its warnings, drift and missing files."""
    console, survey = out(), found.status.survey
    for warning in found.plan.warnings:
        words.say(err(), f"Warning: {words.printable(warning)}", "yellow")
    if found.planned:
        words.say(console, "Would run, in this order:")
        headers = ("Version", "Name", "How", "Undo", "Notes", "Collections")
        console.table(headers, map(_step_row, found.planned))
    else:
        words.say(console, words.nothing(Direction.UP))
    for finding in (each for step in found.planned for each in step.findings):
        _finding(console, finding, finding.shown_path)
    for entry in survey.drifted:
        words.say(console, f"Changed since it was applied: {words.named_entry(entry)}.", "yellow")
    for entry in survey.missing:
        words.say(
            console, f"Applied, and its file is missing: {words.named_entry(entry)}.", "yellow"
        )
    if found.status.lock is not None:
        lock(found.status.lock)
    if found.planned:
        words.say(console, "See what they do to the data: flask db-migrate up --dry-run")


def lint(report: LintReport) -> None:
    """Print what lint found, file by file, and how to do better where a rule is met first."""
    console, explained = out(), set[str]()
    for path, found in groupby(report.findings, key=lambda finding: finding.shown_path):
        for finding in found:
            _finding(console, finding, path)
            if finding.rule.code not in explained:
                explained.add(finding.rule.code)
                words.say(console, indent(words.printable_lines(finding.help), "    "), "dim")
        words.say(console, "")
    words.say(console, _found(report))


def lines(texts: Iterable[str]) -> None:
    """Print lines as they are, for a program."""
    console = out()
    for text in texts:
        words.say(console, text)


def _finding(console: Console, finding: Finding, path: Path) -> None:
    rule = finding.rule
    console.say(
        Text(f"{words.printable(str(path))}:{finding.line}:{finding.column}: "),
        Text(rule.code, words.STYLES[rule.severity.value]),
        Text(f" {words.printable(finding.message)} [{rule.severity.value}]"),
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


def _step_row(planned: PlannedStep) -> Row:
    step = planned.step
    notes = {"out of order": step.out_of_order, "interrupted": step.interrupted}
    named = [_sized(name, documents) for name, documents in planned.collections.items()]
    return (
        str(step.version),
        words.printable(step.file.name),
        "in a transaction" if step.file.transactional else "plain",
        "reversible" if step.file.reversible else "not reversible",
        ", ".join(note for note, holds in notes.items() if holds),
        ", ".join([*named, *([] if planned.complete else ["others"])]),
    )


def _sized(name: str, documents: int | None) -> str:
    return f"{words.printable(name)} ({'new' if documents is None else f'{documents:,}'})"
