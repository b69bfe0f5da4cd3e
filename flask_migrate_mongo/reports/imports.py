"""How the history of another tool maps to files here, as text."""

from __future__ import annotations

from flask_migrate_mongo.model.imports import ImportReport, ImportState, MappedEntry

from . import words
from .console import Text, out
from .states import when

_SHOWN = {
    ImportState.TO_RECORD: Text("to record", "yellow"),
    ImportState.RECORDED: Text("recorded", "green"),
    ImportState.KNOWN: Text("left as it is"),
    ImportState.NOT_APPLIED: Text("not applied"),
    ImportState.IGNORED: Text("ignored"),
    ImportState.UNMAPPED: Text("no file", "bold red"),
}


def imported(report: ImportReport) -> None:
    """Print what each entry means here, then what was recorded, and what to type next."""
    console, tool = out(), report.tool.value
    headings = ("Applied at (UTC)", f"Name in {tool}", "File", "State", "Notes")
    console.table(headings, map(_row, report.entries))
    if report.unused:
        names = ", ".join(report.unused)
        console.warn([f"the map has names that {report.collection} does not have: {names}"])
    waiting = len(report.those(ImportState.TO_RECORD))
    recorded = len(report.those(ImportState.RECORDED))
    unmapped = len(report.those(ImportState.UNMAPPED))
    if recorded:
        console.say(f"Recorded {words.count(recorded)} as applied. None was run.")
    elif unmapped:
        number = "1 entry" if unmapped == 1 else f"{unmapped} entries"
        console.say(f"{number} cannot be mapped to a file here. Nothing was recorded.")
        console.say("Write a line `NAME = VERSION` for each into a file, or `NAME = ignore`.")
        console.say("Then add: --map FILE")
    elif waiting:
        console.say(f"Would record {words.count(waiting)} as applied. Nothing was recorded.")
        console.say("To record: the same command with --confirm")
    else:
        console.say(f"Nothing to do: nothing that {tool} has applied is left to record.")


def _row(mapped: MappedEntry) -> tuple[str | Text, ...]:
    entry = mapped.entry
    return (
        when(entry.applied_at) if entry.applied_at else "",
        f"{entry.name} ({entry.title})" if entry.title else entry.name,
        mapped.file.file_name if mapped.file else "",
        _SHOWN[mapped.state],
        mapped.note,
    )
