"""What `show` knows of one version, and what `doctor` found, as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flask_migrate_mongo.model.values import Record
from flask_migrate_mongo.planning.details import FileDetails, VersionDetails
from flask_migrate_mongo.planning.diagnosis import DoctorReport, Grade

from . import states, words
from .console import Text, coloured, out

_GRADES = {Grade.OK: "green", Grade.WARNING: "yellow", Grade.PROBLEM: "bold red"}


def doctor(report: DoctorReport) -> None:
    """Print one line for each check, then the settings."""
    console = out()
    for name, found in report.checks.items():
        grade = Text(f"{found.grade.value:<9}", _GRADES[found.grade])
        console.say(grade, f"{name:<14}{found.message} {found.advice}".rstrip(), hang=23)
    rows = ((each.name, each.source, each.value) for each in report.settings)
    console.table(("Setting", "From", "Value"), rows)
    console.say(words.problems(report.problems))


# --- one version


def details(found: VersionDetails) -> None:
    """Print the state of a version, its problems, its files and its record, then the long parts."""
    console, record = out(), found.record
    console.say(f"{found.version} {found.name}: ", coloured(found.state))
    for problem in found.problems:
        console.say_lines(str(problem), "red")
    if found.changed:
        console.say(Text("The file has changed since the migration was run.", "yellow"))
    for each in found.files:
        _facts(_of_file(each))
    if not found.files:
        console.say("It has no file.")
    if record is None:
        console.say("It has no record.")
    else:
        _facts(_of_record(record))
    if found.rehearsal is not None:
        _facts(_of_rehearsal(found, found.rehearsal))
    _long_parts(found)


def _long_parts(found: VersionDetails) -> None:
    console, record = out(), found.record
    if found.lint.findings:
        states.lint(found.lint)
    if record is not None and record.error is not None:
        console.failure("Error", record.error)
    if found.events:
        states.event_log(found.events)
    for each in found.files:
        if each.source is not None:
            console.say(Text(f"Text of {each.path}:", "bold"))
            console.say_lines(
                each.source.replace("\r\n", "\n").expandtabs(4).rstrip("\n"), wraps=False
            )


def _facts(facts: Iterable[tuple[str, object]]) -> None:
    for label, value in facts:
        if value not in (None, ""):
            out().say(f"  {label:<18}{value}")


def _of_file(found: FileDetails) -> Iterator[tuple[str, object]]:
    yield "File", found.path
    file = found.file
    if file is None:
        return
    flags = {
        "transactional": file.transactional,
        "idempotent": file.idempotent,
        "reversible": file.reversible,
        "with verify()": file.verifiable,
    }
    yield "Description", file.description
    yield "Flags", words.those(flags) or "none"
    yield "Replaces", ", ".join(map(str, file.replaces))
    yield "Digest", file.digest


def _of_rehearsal(found: VersionDetails, kept: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "Rehearsed at", f"{kept['rehearsedAt'][:19].replace('T', ' ')} UTC"
    yield "Result", ("no problem", "a problem")[kept["failed"]]
    if kept["undoes"] is not None:
        left = kept["differencesTotal"]
        yield (
            "down()",
            f"leaves {left:,} {'difference' if left == 1 else 'differences'}"
            if left
            else "undoes up()",
        )
    if estimate := kept["estimate"]:
        yield "On all documents", f"about {words.took(estimate['executionTime'])}"
    if found.is_rehearsed_otherwise:
        yield "Notes", "the file has changed since the rehearsal"


def _of_record(record: Record) -> Iterator[tuple[str, object]]:
    yield "Recorded as", f"{record.status.word}, {record.slug or record.name}"
    yield "Recorded digest", record.digest or record.checksum
    for label, at in (("Applied at", record.applied_at), ("Rolled back at", record.rolled_back_at)):
        yield label, at and f"{states.when(at)} UTC"
    yield "Took", words.took(record.execution_ms)
    yield "Batch", record.batch
    yield "Origin", record.origin.value
    yield "Verified", None if record.verified is None else ("no", "yes")[record.verified]
    yield "Holder", record.holder
    yield "App version", record.app_version
    yield "Replaced by", record.replaced_by
    yield "Backfill", record.progress
    notes = {"interrupted": record.interrupted, "down() failed": record.down_failed}
    yield "Notes", words.those(notes)
