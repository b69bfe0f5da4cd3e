"""Settles by hand what the history says, under the lease and with a reason: no migration runs.

Only a `baseline` executes code, the verify() of the migrations that it records.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from flask_migrate_mongo.backfill import refuse_in_transaction
from flask_migrate_mongo.files.folder import Discovery
from flask_migrate_mongo.files.loading import load_verify
from flask_migrate_mongo.files.packages import forget_modules
from flask_migrate_mongo.files.parsing import describe, read_content
from flask_migrate_mongo.files.scaffold import Scaffold
from flask_migrate_mongo.model import errors
from flask_migrate_mongo.model.documents import MigratedDatabase, Report
from flask_migrate_mongo.model.squashing import parts_of
from flask_migrate_mongo.model.values import (
    Direction,
    History,
    MigrationFile,
    Origin,
    Record,
    Status,
    Step,
    Tool,
)
from flask_migrate_mongo.planning.identity import (
    check_identity,
    find_version,
    known_names,
)
from flask_migrate_mongo.planning.importing import (
    Choices,
    ImportReport,
    ImportState,
    MappedEntry,
    map_entries,
)
from flask_migrate_mongo.planning.plans import pending, place_of
from flask_migrate_mongo.planning.squashing import adopted
from flask_migrate_mongo.process import Stopped
from flask_migrate_mongo.store.foreign import default_collection, read_entries
from flask_migrate_mongo.store.lease import Grant
from flask_migrate_mongo.store.records import Adoption, Run

from .calling import call_function, log_of
from .options import Context
from .runner import Runner


@contextlib.contextmanager
def _stoppable(runner: Runner) -> Iterator[None]:
    """Let signals stop the block. Raises RunStoppedError."""
    try:
        with runner.switch.installed():
            yield
    except (Stopped, errors.RunStoppedError) as exc:
        msg = f"Stopped by {runner.switch.requested_by}. What was recorded before stays recorded."
        raise errors.RunStoppedError(msg, "Give the same command again.") from exc


@dataclass(frozen=True)
class Settling:
    """A runner that holds the lease to change the history by hand: the history as it is, and the reason."""

    runner: Runner
    grant: Grant
    history: History
    run: Run
    reason: str

    @classmethod
    @contextlib.contextmanager
    def begun(cls, runner: Runner, command: str, reason: str) -> Iterator[Settling]:
        """Hold the lease for the block. Raises InvalidRequestError without a reason, ForeignDocumentError, LockHeldError."""
        # The shell passes undecodable bytes as lone surrogates, which BSON cannot hold.
        reason = reason.encode("utf-8", "replace").decode().strip()
        if not reason:
            msg = "The reason is empty. Nothing was changed."
            raise errors.InvalidRequestError(msg, "Say how you know: [reason=TEXT].")
        # Before our index is created: the collection can be that of another tool.
        runner.history.load()
        holding = runner.lease.hold(runner.actor(command), wait=runner.wait)
        with _stoppable(runner), holding as grant:
            history, run = runner.settle(grant)
            yield cls(runner, grant, history, run, reason)

    @cached_property
    def found(self) -> Discovery:
        """The files in the folder."""
        return self.runner.folder.discover()

    def version(self, name: str | int) -> int:
        """Find the version that a number, the beginning of one, or a slug names."""
        return find_version(name, known_names(self.found.files, self.history.kept))

    def file(self, version: int) -> MigrationFile | None:
        """Find the file of a version. Problems of others do not matter here.

        Raises SourceError for one that cannot be used, and NoFolderError.
        """
        if not self.found.has_folder:
            raise errors.NoFolderError(self.runner.folder.path)
        if version in self.found.broken:
            raise self.found.broken[version]
        return next((file for file in self.found.files if file.version == version), None)

    def own_file(self, version: int) -> MigrationFile | None:
        """Find the file of a version. Raises what `file` does, and NumberTakenError for another migration."""
        file, record = self.file(version), self.history.by_version.get(version)
        if file and record and record.is_open and record.is_of_another(file):
            raise errors.NumberTakenError(record, file)
        return file

    @property
    def present(self) -> frozenset[int]:
        """The versions that have a file, also one that cannot be used."""
        return frozenset(self.found.broken).union(file.version for file in self.found.files)

    def record_of(self, file: MigrationFile) -> Record | None:
        """Find the record that belongs to a file, whatever its number is."""
        own = self.history.by_version.get(file.version)
        if own is not None and own.is_open:
            has_twin = file.version in self.found.broken
            if own.is_certainly(file) or not (has_twin or own.is_of_another(file)):
                return own
        return self.history.elsewhere(file, self.present)

    def refuse_part(self, version: int) -> None:
        """Refuse to settle what a recorded squashed migration replaces. Raises NotResolvableError."""
        squashed = self.history.replaced.get(version)
        if squashed is not None:
            name = self.history.by_version[squashed].name
            msg = f"{version} is a part of the squashed migration {squashed} ({name}), so it has no state of its own. Nothing was changed."
            remedy = (
                f"Settle the squashed one: [resolve {squashed} applied=True|False reason=TEXT]."
            )
            raise errors.NotResolvableError(msg, remedy)

    def refuse_replaced(self, file: MigrationFile) -> None:
        """Refuse to change the number by which a squashed migration knows a file. Raises NotResolvableError."""
        for squashed in self.found.files:
            if file.version in squashed.replaces:
                msg = f"{squashed.file_name} replaces {file.version}, so {file.file_name} keeps its number. Nothing was changed."
                remedy = (
                    f"Delete {squashed.file_name} first, and squash again: [squash FROM TO NAME]."
                )
                raise errors.NotResolvableError(msg, remedy)

    def refuse_forgotten(self, record: Record) -> None:
        """Refuse to forget what would run again then. Raises NotResolvableError or RenumberedError."""
        alone = History((record,))
        moved = next((file for file in self.found.files if alone.elsewhere(file)), None)
        if moved is not None:
            raise errors.RenumberedError(record, moved)
        unrecorded = set(record.replaces).difference(self.history.by_version)
        waiting = [file.file_name for file in self.found.files if file.version in unrecorded]
        if waiting and record.is_open:
            msg = f"{record.version} ({record.name}) ran in place of {', '.join(waiting)}, which would run then. Nothing was changed."
            remedy = f"Restore its file. Or move these out of the folder, forget it, put them back, and record them: [baseline to={max(unrecorded)} reason=TEXT]."
            raise errors.NotResolvableError(msg, remedy)

    def record(self, version: int) -> Record:
        """Find a record. Raises NotResolvableError."""
        self.refuse_part(version)
        record = self.history.by_version.get(version)
        if record is None or record.forgotten:
            msg = f"The history has no record of {version}. Nothing was changed."
            raise errors.NotResolvableError(msg, "See the versions: [status].")
        return record


# --- one version


def resolve(runner: Runner, name: str | int, *, applied: bool, reason: str) -> Record:
    """Set by hand whether a migration is applied, also one that was never recorded.

    Raises InvalidRequestError without a reason, NotResolvableError, and LockHeldError during a run.
    """
    with Settling.begun(runner, "resolve", reason) as settling:
        version = settling.version(name)
        settling.refuse_part(version)
        record = settling.history.by_version.get(version)
        file = settling.own_file(version) if applied else None
        if file is not None and (record is None or not record.is_open):
            parts = parts_of(file, settling.history.records)
            adoption = Adoption(file, Origin.RESOLVED, settling.reason, parts=parts)
            runner.history.record_applied(adoption, settling.run, settling.grant.ensure())
        else:
            record = settling.record(version)
            is_settled = record.status is Status.COMPLETED if applied else not record.is_open
            if is_settled and not record.down_failed:
                state = "applied" if applied else "not applied"
                msg = f"{version} ({record.name}) is recorded as {state} already. Nothing was changed."
                raise errors.NotResolvableError(msg)
            at = settling.grant.ensure()
            runner.history.resolve(
                record, settling.run, at, applied=applied, reason=settling.reason, file=file
            )
    return runner.history.load().by_version[version]


def accept_file(runner: Runner, name: str | int, *, reason: str) -> Record:
    """Record the file as it is now for a migration. Its place in the order of application stays.

    Raises as `resolve` does.
    """
    with Settling.begun(runner, "resolve", reason) as settling:
        version = settling.version(name)
        record = settling.record(version)
        file = settling.file(version)
        if file is None:
            msg = f"{version} ({record.name}) has no file that could be accepted. Nothing was changed."
            remedy = f"If it is gone for good: [resolve {version} forget=True reason=TEXT]."
            raise errors.NotResolvableError(msg, remedy)
        if set(record.replaces) != set(file.replaces):
            msg = f"{file.file_name} replaces other migrations than when it was recorded. Nothing was changed."
            remedy = f"Restore `replaces`. See what it was: [show {version}]."
            raise errors.NotResolvableError(msg, remedy)
        at = settling.grant.ensure()
        runner.history.accept_file(record, file, settling.run, at, reason=settling.reason)
    return runner.history.load().by_version[version]


def forget(runner: Runner, name: str | int, *, reason: str) -> Record:
    """Count a migration whose file is gone as never recorded; its events stay. Raises as `resolve` does."""
    with Settling.begun(runner, "resolve", reason) as settling:
        version = settling.version(name)
        record = settling.record(version)
        file = settling.file(version)
        if file is not None and not record.is_of_another(file):
            msg = f"{version} ({record.name}) has a file: {file.file_name}. Nothing was changed."
            remedy = f"Set its state instead: [resolve {version} applied=True|False reason=TEXT]."
            raise errors.NotResolvableError(msg, remedy)
        settling.refuse_forgotten(record)
        runner.history.forget(record, settling.run, settling.grant.ensure(), reason=settling.reason)
    return runner.history.load().by_version[version]


@dataclass(frozen=True, slots=True)
class Renumbered:
    """Where the file of a migration is now; `record_from` is the number that its record had before it followed."""

    path: Path
    version: int
    record_from: int | None
    database: MigratedDatabase | None = None


def renumber(runner: Runner, scaffold: Scaffold, name: str) -> Renumbered:
    """Give a file the next free number, and let its record follow.

    A file that has a new number already, while its record has the old one, keeps it. After a crash between the
    two, a second call lets the record follow. Raises InvalidRequestError, NotResolvableError, SourceError, LockHeldError.
    """
    with Settling.begun(runner, "renumber", f"renumber {name}") as settling:
        history = settling.history
        file = _described(runner.folder.find(name))
        own = history.by_version.get(file.version)
        settling.refuse_replaced(file)
        record = settling.record_of(file)
        if own is None and record is not None:
            if file.version == max(settling.present):
                scaffold.note(file.path)
        else:
            highest = max(history.by_version, default=0)
            file = _described(scaffold.renumber(file.path, above=highest))
        if record is not None:
            at = settling.grant.ensure()
            runner.history.renumber(record, file, settling.run, at)
        moved = None if record is None else record.version
        return Renumbered(file.path, file.version, moved, runner.server.location)


def _described(path: Path) -> MigrationFile:
    return describe(path, read_content(path))


# --- a whole environment


@dataclass(frozen=True, slots=True)
class BaselineReport(Report):
    """What a baseline recorded as applied, or, for a dry run, would record."""

    _document = "baseline"

    recorded: tuple[MigrationFile, ...]
    dry_run: bool


def baseline(
    runner: Runner, *, reason: str, to: str | int | None = None, dry_run: bool = False
) -> BaselineReport:
    """Record what is pending, up to a version, as applied without running it.

    Each verify() is executed first. Raises VerifyFailedError if one fails, and then records nothing.
    """
    if dry_run:  # Nothing is written, the lock neither.
        chosen = _to_adopt(runner.folder.discover(), runner.history.load(), to)
        with _stoppable(runner):
            _verify(runner, chosen, lambda: None)
        return BaselineReport(chosen, dry_run, database=runner.server.location)
    with Settling.begun(runner, "baseline", reason) as settling:
        chosen = _to_adopt(settling.found, settling.history, to)
        adopts = [adopted(file, settling.history) for file in chosen]
        _verify(runner, chosen, settling.grant.verify)
        for position, (file, parts) in enumerate(zip(chosen, adopts, strict=True)):
            runner.switch.check()
            verified = file.verifiable or None
            adoption = Adoption(
                file, Origin.BASELINE, settling.reason, verified, position, parts=parts
            )
            at = settling.grant.ensure_recent()
            runner.history.record_applied(adoption, settling.run, at)
    return BaselineReport(chosen, dry_run, database=runner.server.location)


def _to_adopt(
    found: Discovery, history: History, to: str | int | None
) -> tuple[MigrationFile, ...]:
    """Choose what a baseline records."""
    files = found.usable()
    check_identity(files, history)
    last = None
    if to is not None:
        last = place_of(find_version(to, known_names(found.files, history.kept)), files)
    return tuple(f for f in pending(files, history) if last is None or f.place <= last)


def _verify(
    runner: Runner, files: Sequence[MigrationFile], ensure_lease: Callable[[], None]
) -> None:
    failed = {}
    db = runner.server.handle(transactional=False)
    forget_modules(runner.folder.path)
    functions = [(file, load_verify(file, runner.mask)) for file in files if file.verifiable]
    for file, function in functions:
        log = log_of(Step(file, Direction.UP))
        context = Context(runner.app, log, ensure_lease, refuse_in_transaction)
        try:
            call_function(function, context, db, runner.switch)
        except (KeyboardInterrupt, Stopped):
            raise
        except BaseException as exc:  # noqa: BLE001  (whatever verify() raises, SystemExit too, is its answer)
            failed[file.version] = (
                f"{file.name}: {type(exc).__name__}: {errors.message_of(exc, runner.mask)}"
            )
    if failed:
        raise errors.VerifyFailedError(failed)


# --- the history of another tool


@dataclass(frozen=True, slots=True)
class ForeignHistory:
    """The history of another tool: its collection, by default the tool's own, and what a map says about its entries."""

    tool: Tool
    collection: str | None
    choices: Choices

    @property
    def name(self) -> str:
        """The name of the collection."""
        return self.collection or default_collection(self.tool)


def import_history(runner: Runner, source: ForeignHistory, *, confirmed: bool) -> ImportReport:
    """Map the entries of another tool to files, and record those that are applied if it is confirmed.

    Without entries, or if nothing is left to record, no lock is taken. Raises NotImportableError, what `check_identity`
    does, and LockHeldError; if it is confirmed, also NotMappedError, and then nothing is recorded.
    """
    report = _look(runner, source, runner.history.load(), confirmed=confirmed)
    if not (confirmed and report.those(ImportState.TO_RECORD)):
        return report
    reason = f"applied by {source.tool.value}, imported from {source.name}"
    with Settling.begun(runner, "import-history", reason) as settling:
        # Read again: another run may have changed the history while we waited for the lease.
        report = _look(runner, source, settling.history, confirmed=True)
        entries = (_record(settling, each, at) for at, each in enumerate(report.entries))
        return replace(report, entries=tuple(entries))


def _look(
    runner: Runner, source: ForeignHistory, history: History, *, confirmed: bool
) -> ImportReport:
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
    report = ImportReport(source.tool, source.name, mapped, unused, runner.server.location)
    if confirmed and (unmapped := report.those(ImportState.UNMAPPED)):
        notes = {each.entry.name: each.note for each in unmapped}
        raise errors.NotMappedError(source.tool, source.name, notes)
    return report


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
