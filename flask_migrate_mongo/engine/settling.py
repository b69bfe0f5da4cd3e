"""Settles by hand what the history says, under the lease and with a reason: no migration runs.

Only a `baseline` executes code, the verify() of the migrations that it records.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flask_migrate_mongo.backfill import refuse_in_transaction
from flask_migrate_mongo.files.loading import load_verify
from flask_migrate_mongo.files.parsing import describe, read_content
from flask_migrate_mongo.files.scaffold import Scaffold
from flask_migrate_mongo.model import errors
from flask_migrate_mongo.model.squashing import parts_of
from flask_migrate_mongo.model.values import (
    Direction,
    History,
    MigrationFile,
    Origin,
    Record,
    Status,
    Step,
)
from flask_migrate_mongo.planning.identity import (
    Recorded,
    check_identity,
    find_version,
    known_names,
)
from flask_migrate_mongo.planning.plans import pending, place_of
from flask_migrate_mongo.store.lease import Grant
from flask_migrate_mongo.store.records import Adoption, Run

from .calling import call_function, log_of
from .options import Context
from .runner import Runner


@dataclass(frozen=True, slots=True)
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
        if not reason.strip():
            msg = "The reason is empty. Nothing was changed."
            raise errors.InvalidRequestError(msg, "Say how you know: [reason=TEXT].")
        # Before our index is created: the collection can be that of another tool.
        runner.history.load()
        with runner.lease.hold(runner.actor(command), wait=runner.wait) as grant:
            history, run = runner.settle(grant)
            yield cls(runner, grant, history, run, reason)

    def files(self) -> dict[int, MigrationFile]:
        """Read the files that can be used, by their version: problems of others do not matter here."""
        return {file.version: file for file in self.runner.folder.discover().files}

    def version(self, name: str, files: dict[int, MigrationFile]) -> int:
        """Find the version that a number, the beginning of one, or a slug names."""
        return find_version(name, known_names(files.values(), self.history.records))

    def refuse_part(self, version: int) -> None:
        """Refuse to settle what a recorded squashed migration replaces. Raises NotResolvableError."""
        squashed = self.history.replaced.get(version)
        if squashed is not None:
            name = self.history.by_version[squashed].name
            msg = f"{version} is a part of the squashed migration {squashed} ({name}), so it has no state of its own. Nothing was changed."
            raise errors.NotResolvableError(
                msg,
                f"Settle the squashed one: [resolve {squashed} applied=True|False reason=TEXT].",
            )

    def record(self, version: int) -> Record:
        """Find a record. Raises NotResolvableError."""
        self.refuse_part(version)
        record = self.history.by_version.get(version)
        if record is None or record.forgotten:
            msg = f"The history has no record of {version}. Nothing was changed."
            raise errors.NotResolvableError(msg, "See the versions: [status].")
        return record


# --- one version


def resolve(runner: Runner, name: str, *, applied: bool, reason: str) -> Record:
    """Set by hand whether a migration is applied, also one that was never recorded.

    Raises InvalidRequestError without a reason, NotResolvableError, and LockHeldError during a run.
    """
    with Settling.begun(runner, "resolve", reason) as settling:
        files = settling.files()
        version = settling.version(name, files)
        settling.refuse_part(version)
        record = settling.history.by_version.get(version)
        if applied and version in files and (record is None or not record.is_open):
            parts = parts_of(files[version], settling.history.records)
            adoption = Adoption(files[version], Origin.RESOLVED, reason, parts=parts)
            runner.history.record_applied(adoption, settling.run, settling.grant.ensure())
        else:
            record = settling.record(version)
            _ensure_unsettled(record, applied=applied)
            at = settling.grant.ensure()
            runner.history.resolve(record, settling.run, at, applied=applied, reason=reason)
    return runner.history.load().by_version[version]


def _ensure_unsettled(record: Record, *, applied: bool) -> None:
    is_settled = record.status is Status.COMPLETED if applied else not record.is_open
    if is_settled and not record.down_failed:
        state = "applied" if applied else "not applied"
        msg = (
            f"{record.version} ({record.name}) is recorded as {state} already. Nothing was changed."
        )
        raise errors.NotResolvableError(msg)


def accept_file(runner: Runner, name: str, *, reason: str) -> Record:
    """Record the file as it is now for a migration. Its place in the order of application stays.

    Raises as `resolve` does.
    """
    with Settling.begun(runner, "resolve", reason) as settling:
        files = settling.files()
        version = settling.version(name, files)
        record = settling.record(version)
        if version not in files:
            runner.folder.discover().usable()
            msg = f"{version} ({record.name}) has no file that could be accepted. Nothing was changed."
            raise errors.NotResolvableError(
                msg, f"If it is gone for good: [resolve {version} forget=True reason=TEXT]."
            )
        at = settling.grant.ensure()
        runner.history.accept_file(record, files[version], settling.run, at, reason=reason)
    return runner.history.load().by_version[version]


def forget(runner: Runner, name: str, *, reason: str) -> Record:
    """Count a migration whose file is gone as never recorded; its events stay. Raises as `resolve` does."""
    with Settling.begun(runner, "resolve", reason) as settling:
        files = settling.files()
        version = settling.version(name, files)
        record = settling.record(version)
        file = files.get(version)
        if file is not None and not record.is_of_another(file):
            msg = f"{version} ({record.name}) has a file: {file.file_name}. Nothing was changed."
            raise errors.NotResolvableError(
                msg, f"Set its state instead: [resolve {version} applied=True|False reason=TEXT]."
            )
        runner.history.forget(record, settling.run, settling.grant.ensure(), reason=reason)
    return runner.history.load().by_version[version]


@dataclass(frozen=True, slots=True)
class Renumbered:
    """Where the file of a migration is now; `record_from` is the number that its record had before it followed."""

    path: Path
    version: int
    record_from: int | None


def renumber(runner: Runner, scaffold: Scaffold, name: str) -> Renumbered:
    """Give a file the next free number, and let its record follow.

    A file that has a new number already, while its record has the old one, keeps it. After a crash between the
    two, a second call lets the record follow. Raises UnknownFileError, AmbiguousFileError, SourceError, LockHeldError.
    """
    with Settling.begun(runner, "renumber", f"renumber {name}") as settling:
        history = settling.history
        file = _described(runner.folder.find(name))
        own = history.by_version.get(file.version)
        record = Recorded(history).elsewhere(file)
        if record is None and own is not None and own.is_open and own.is_unchanged(file):
            record = own
        is_free = own is None and record is not None
        if not is_free:
            highest = max(history.by_version, default=0)
            file = _described(scaffold.renumber(file.path, above=highest))
        if record is not None:
            at = settling.grant.ensure()
            runner.history.renumber(record, file, settling.run, at)
        moved = None if record is None else record.version
        return Renumbered(file.path, file.version, moved)


def _described(path: Path) -> MigrationFile:
    return describe(path, read_content(path))


# --- a whole environment


@dataclass(frozen=True, slots=True)
class Baselined:
    """A migration that a baseline records; `verified` is None if it has no verify()."""

    file: MigrationFile
    verified: bool | None


@dataclass(frozen=True, slots=True)
class BaselineReport:
    """What a baseline recorded as applied, or, for a dry run, would record."""

    recorded: tuple[Baselined, ...]
    dry_run: bool


def baseline(
    runner: Runner, *, reason: str, to: str | None = None, dry_run: bool = False
) -> BaselineReport:
    """Record what is pending, up to a version, as applied without running it.

    Each verify() is executed first. Raises VerifyFailedError if one fails, and then records nothing.
    """
    with Settling.begun(runner, "baseline", reason) as settling:
        files = {file.version: file for file in runner.folder.discover().usable()}
        check_identity(tuple(files.values()), settling.history)
        chosen = list(pending(files.values(), settling.history))
        if to is not None:
            last = place_of(settling.version(to, files), files.values())
            chosen = [file for file in chosen if file.place <= last]
        recorded = tuple(Baselined(file, True if file.verifiable else None) for file in chosen)
        _verify(settling, chosen)
        for position, each in enumerate(() if dry_run else recorded):
            parts = parts_of(each.file, settling.history.records)
            adoption = Adoption(
                each.file, Origin.BASELINE, reason, each.verified, position, parts=parts
            )
            at = settling.grant.ensure_recent()
            runner.history.record_applied(adoption, settling.run, at)
    return BaselineReport(recorded, dry_run)


def _verify(settling: Settling, files: list[MigrationFile]) -> None:
    runner, failed = settling.runner, {}
    functions = [(file, load_verify(file)) for file in files if file.verifiable]
    for file, function in functions:
        step = Step(file, Direction.UP)
        context = Context(runner.app, log_of(step), settling.grant.verify, refuse_in_transaction)
        try:
            call_function(
                function, context, runner.server.handle(transactional=False), runner.switch
            )
        except Exception as exc:  # noqa: BLE001  (whatever verify() raises is its answer)
            failed[file.version] = f"{file.name}: {type(exc).__name__}: {errors.message_of(exc)}"
    if failed:
        raise errors.VerifyFailedError(failed)
