"""Everything about one version, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import states, words
from .console import Text, coloured, out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask_migrate_mongo.model.values import Record
    from flask_migrate_mongo.planning.details import FileDetails, VersionDetails


def details(found: VersionDetails) -> None:
    """Print the state of a version, its problems, its files and its record, then the long parts."""
    console, record = out(), found.record
    console.say(f"{found.version} {found.name}: ", coloured(found.state))
    for problem in found.problems:
        console.say_lines(str(problem), "red")
    if found.changed:
        console.say(Text("The file has changed since the migration was run.", "yellow"))
    for each in found.files:
        _facts(dict(_of_file(each)))
    if not found.files:
        console.say("It has no file.")
    if record is None:
        console.say("It has no record.")
    else:
        _facts(dict(_of_record(record)))
    _long_parts(found)


def _long_parts(found: VersionDetails) -> None:
    console, record = out(), found.record
    if found.lint.findings:
        states.lint(found.lint)
    if record is not None and record.error is not None:
        console.failure("Error", record.error)
    if found.events:
        states.events(found.events)
    for each in found.files:
        if each.source is not None:
            console.say(Text(f"Text of {each.path}:", "bold"))
            console.say_lines(each.source.replace("\r\n", "\n").expandtabs(4).rstrip("\n"))


def _facts(facts: dict[str, object]) -> None:
    for label, value in facts.items():
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
    yield "Flags", ", ".join(flag for flag, holds in flags.items() if holds) or "none"
    yield "Replaces", ", ".join(map(str, file.replaces))
    yield "Digest", file.digest


def _of_record(record: Record) -> Iterator[tuple[str, object]]:
    yield "Recorded as", f"{record.status.value}, {record.slug or record.name}"
    yield "Recorded digest", record.digest or record.checksum
    for label, at in (("Applied at", record.applied_at), ("Rolled back at", record.rolled_back_at)):
        yield label, f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else None
    yield "Took", words.took(record.execution_ms)
    yield "Batch", record.batch
    yield "Origin", record.origin.value
    yield "Verified", None if record.verified is None else ("no", "yes")[record.verified]
    yield "Holder", record.holder
    yield "App version", record.app_version
    yield "Replaced by", record.replaced_by
    yield "Backfill", record.progress
    notes = {"interrupted": record.interrupted, "down() failed": record.down_failed}
    yield "Notes", ", ".join(note for note, holds in notes.items() if holds)
