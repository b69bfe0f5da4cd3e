"""Records what another tool has applied, under the lease; no migration runs, and the other tool's collection stays as it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from flask_migrate_mongo.model import errors
from flask_migrate_mongo.model.imports import ImportReport, ImportState, MappedEntry
from flask_migrate_mongo.model.values import History, Origin, Tool
from flask_migrate_mongo.planning.identity import check_identity
from flask_migrate_mongo.planning.importing import Choices, map_entries
from flask_migrate_mongo.store.foreign import default_collection, read_entries
from flask_migrate_mongo.store.records import Adoption

from .runner import Runner
from .settling import Settling


@dataclass(frozen=True, slots=True)
class ForeignHistory:
    """The history of another tool: its collection, by default the tool's own, and what a map says about its entries."""

    tool: Tool
    collection: str = ""
    choices: Choices = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the collection."""
        return self.collection or default_collection(self.tool)


def import_history(runner: Runner, source: ForeignHistory, *, confirmed: bool) -> ImportReport:
    """Map the entries of another tool to files, and record those that are applied if it is confirmed.

    Without entries, or if nothing is left to record, no lock is taken. Raises NotImportableError,
    what `check_identity` does, and LockHeldError; if it is confirmed, also
    NotMappedError, and then nothing is recorded.
    """
    report = _look(runner, source, runner.history.load())
    if not confirmed:
        return report
    _ensure_mapped(report)
    if not report.those(ImportState.TO_RECORD):
        return report
    reason = f"applied by {source.tool.value}, imported from {source.name}"
    with Settling.begun(runner, "import-history", reason) as settling:
        # Read again: another run may have changed the history while we waited for the lease.
        report = _look(runner, source, settling.history)
        _ensure_mapped(report)
        entries = (_record(settling, each, at) for at, each in enumerate(report.entries))
        return replace(report, entries=tuple(entries))


def _look(runner: Runner, source: ForeignHistory, history: History) -> ImportReport:
    if source.name in runner.history.collections:
        msg = f"{source.name} is the collection of the history itself. Nothing was recorded."
        remedy = 'Keep the history in another collection than {}: MIGRATE_COLLECTION = "flask_migrations". Or name another one: [from={} collection=NAME].'
        raise errors.NotImportableError(msg, remedy.format(source.tool.value, source.tool.value))
    files = runner.folder.discover().usable()
    check_identity(files, history)
    entries = read_entries(runner.server.collection(source.name), source.tool)
    if not entries:
        msg = f"The collection {source.name} is empty or does not exist. Nothing was recorded."
        remedy = f"Name the collection in which {source.tool.value} keeps its history: [from={source.tool.value} collection=NAME]."
        raise errors.NotImportableError(msg, remedy)
    names = {entry.name for entry in entries}
    unused = tuple(name for name in source.choices if name not in names)
    mapped = map_entries(entries, files, history, source.choices)
    return ImportReport(source.tool, source.name, mapped, unused)


def _ensure_mapped(report: ImportReport) -> None:
    if unmapped := report.those(ImportState.UNMAPPED):
        notes = {each.entry.name: each.note for each in unmapped}
        raise errors.NotMappedError(report.tool, report.collection, notes)


def _record(settling: Settling, mapped: MappedEntry, position: int) -> MappedEntry:
    """Record an entry that is to be recorded, with its place in the order."""
    if mapped.file is None or mapped.state is not ImportState.TO_RECORD:
        return mapped
    adoption = Adoption(
        mapped.file,
        Origin.IMPORTED,
        f"{settling.reason} as {mapped.entry.name}",
        position=position,
        applied_at=mapped.entry.applied_at,
    )
    at = settling.grant.ensure_recent()
    settling.runner.history.record_applied(adoption, settling.run, at)
    return replace(mapped, state=ImportState.RECORDED)
