"""Rehearses migrations: up, down and up again, executed on samples in a scratch database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flask_migrate_mongo.driver.commands import (
    check_listener_support,
    listening_everywhere,
    without_listeners,
)
from flask_migrate_mongo.driver.server import Server, translated
from flask_migrate_mongo.engine.options import Observer, Options
from flask_migrate_mongo.engine.runner import Runner
from flask_migrate_mongo.files.folder import Discovery, Folder
from flask_migrate_mongo.model.errors import (
    InvalidRequestError,
    LeaseLostError,
    RehearsalUnsupportedError,
    RunStoppedError,
    capture,
)
from flask_migrate_mongo.model.values import Actor, Direction, History, MigrationFile, Record
from flask_migrate_mongo.planning.identity import find_version, known_names
from flask_migrate_mongo.planning.plans import Target, check_written, pending
from flask_migrate_mongo.planning.squashing import adopted

from .comparison import Snapshot
from .guard import EVERYTHING, SandboxGuard
from .results import (
    Activity,
    Attempt,
    CopiedCollection,
    MigrationRehearsal,
    RehearsalReport,
    estimate,
    warnings_of,
)
from .scratch import RENEW_SECONDS, ScratchDatabase, name_for, remove_leftovers, sibling

MakeRunner = Callable[[Server, Folder], Runner]
"""Makes a runner whose migrations see `ctx.rehearsal`."""

SAMPLE = 1_000
"""How many documents of each collection are copied by default."""

TRIAL_SHARE = 4
"""The trial, which finds the collections and gives a second timing, uses a quarter of the sample."""

MOST_BYTES = 5 * 1024**3
"""A copy of all documents that is larger needs a confirmation: it takes disk space and oplog of the real server."""


@dataclass(frozen=True, slots=True)
class RehearsalOptions:
    """How to rehearse.

    Without `versions`, everything pending; `sample` None copies all documents; `collections` None copies those that
    the migrations touch. `on_phase` receives what is done between the steps, as text.
    """

    versions: tuple[str, ...] = ()
    sample: int | None = SAMPLE
    collections: tuple[str, ...] | None = None
    observer: Observer = field(default_factory=Observer)
    on_phase: Callable[[str], object] = lambda _: None


def choose(
    files: Sequence[MigrationFile], history: History, names: Sequence[str]
) -> tuple[MigrationFile, ...]:
    """Choose the pending migrations of these versions, or all, in ascending order.

    Raises InvalidRequestError, UnknownVersionError, AmbiguousVersionError, PartlySquashedError and UnwrittenError.
    """
    known = known_names(files, ())
    versions = {find_version(name, known) for name in names}
    for version in sorted(versions):
        if history.is_applied(version):
            msg = f"{version} is applied here, so the samples have its changes already."
            remedy = "Rehearse it where it is pending, or roll it back first: [down]."
            raise InvalidRequestError(msg, remedy)
    waiting = (f for f in pending(files, history) if not versions or f.version in versions)
    # A squashed migration whose parts are applied does not run, and the samples have its changes already.
    chosen = tuple(file for file in waiting if not adopted(file, history))
    check_written(chosen)
    return chosen


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Rehearses the migrations of one application.

    `runner` is that of the real database, which is not changed; `make_runner` makes those of the scratch database.
    `ours` names this package's own collections, `name` the scratch database.
    """

    runner: Runner
    make_runner: MakeRunner
    ours: frozenset[str]
    name: str | None = None

    @translated()
    def run(self, options: RehearsalOptions) -> RehearsalReport:
        """Rehearse, and drop the scratch database in any case.

        Raises what refuses the migrations before anything runs, and RunStoppedError.
        """
        runner = self.runner
        if not runner.server.sends_commands:
            raise RehearsalUnsupportedError
        check_listener_support()
        seen = runner.look()
        files = choose(seen.found.usable(), seen.history, options.versions)
        removed, warnings = remove_leftovers(runner.server, self.name)
        if not files:
            location = runner.server.location
            return RehearsalReport(removed=removed, warnings=warnings, database=location)
        with runner.switch.installed(), runner.server.spare() as real:
            report = self._run_in_scratch(real, files, options)
            lock = runner.lease.inspect()
        warnings += report.warnings
        lock = lock if lock and lock.is_live else None
        return replace(
            report,
            lock=lock,
            removed=removed,
            warnings=warnings,
            database=runner.server.location,
            at=runner.server.now(),
        )

    def _run_in_scratch(
        self, real: Server, files: tuple[MigrationFile, ...], options: RehearsalOptions
    ) -> RehearsalReport:
        actor, check = Actor.current("rehearse"), self.runner.switch.check
        name = self.name or name_for(real.database.name, actor.run_id)
        scratch = ScratchDatabase(real, name, actor, self.ours, check)
        for each in options.collections or ():
            if each not in scratch.available:
                raise InvalidRequestError(
                    f"There is no collection {each!r} to copy.",
                    "Without [collections=NAMES], the collections that the migrations touch are copied.",
                )
        scratch.create()
        options.on_phase(f"Running in the scratch database {name}, which is dropped at the end")
        sandbox = Sandbox(self, scratch, options)
        # Until the database is dropped: a migration may leave a thread that still writes.
        with listening_everywhere(sandbox.guard):
            try:
                finding = f"Finding the collections to copy, on {sandbox.limit} documents of each"
                options.on_phase(finding)
                sandbox.copy(frozenset(options.collections or ()))
                trials = sandbox.rehearse(files)
                sandbox.restart()
                done = sandbox.rehearse(files)
                check()
            except RunStoppedError as exc:
                raise RunStoppedError(
                    f"The rehearsal was stopped. It wrote only to its scratch database {name}, which was dropped.",
                    "Rehearse again: [rehearse].",
                ) from exc
            finally:
                with self.runner.switch.deferred():
                    sandbox.end_transactions(sandbox.guard.activity)
                    not_dropped = scratch.drop()
        migrations = tuple(
            replace(each, estimate=estimate(trial.timed, each.timed))
            for each, trial in zip(done, trials, strict=True)
        )
        found = warnings_of(migrations, sandbox.copied, scratch.encrypted)
        warnings = (*found, *not_dropped)
        return RehearsalReport(name, migrations, tuple(sandbox.copied.values()), warnings=warnings)


@dataclass(frozen=True, slots=True)
class _SelectedFiles(Folder):
    """A folder in which only some migrations are found, as they were parsed before the rehearsal began."""

    files: tuple[MigrationFile, ...] = ()

    def discover(self, _trusted: Mapping[int, Record] = {}) -> Discovery:
        """Find the selected migrations."""
        return Discovery(self.files)


class Sandbox:
    """Runs migrations in the scratch database, one step at a time, and copies what they touch.

    `limit` is how many documents of a collection are copied: a part of the sample, until `restart`.
    """

    def __init__(
        self, rehearsal: Rehearsal, scratch: ScratchDatabase, options: RehearsalOptions
    ) -> None:
        self.copied: dict[str, CopiedCollection] = {}
        self.guard = SandboxGuard(scratch.database.name, scratch.skip, self.copy)
        self._rehearsal = rehearsal
        self._scratch = scratch
        self._options = options
        self.limit: int | None = max(1, (options.sample or SAMPLE) // TRIAL_SHARE)
        self._snapshot: Snapshot | None = None

    def restart(self) -> None:
        """Remove everything, and copy again what was copied before, with the full sample.

        Raises InvalidRequestError for a large copy of all documents, unless its collections were named.
        """
        names = frozenset(self.copied)
        if self._options.sample is None:
            size = sum(each.size for each in self.copied.values())
            what = f"all documents of {', '.join(sorted(names))}: about {size / 1024**2:,.0f} MB"
            if size > MOST_BYTES and self._options.collections is None:
                raise InvalidRequestError(
                    f"The rehearsal would copy {what}, on the disk and in the oplog of this server.",
                    "Name these collections to confirm it: [collections=NAMES]. Or copy a sample.",
                )
            self._options.on_phase(f"Copying {what}")
        self.end_transactions(self.guard.activity)
        self._scratch.clear()
        self.copied, self._snapshot, self.limit = {}, None, self._options.sample
        self.copy(names)

    def rehearse(self, files: tuple[MigrationFile, ...]) -> tuple[MigrationRehearsal, ...]:
        """Rehearse each migration after those before it, until an attempt raises an error."""
        done: list[MigrationRehearsal] = []
        for count in range(1, len(files) + 1):
            done.append(self._rehearse_last(files[:count]))
            if done[-1].raised:
                break
        return (*done, *map(MigrationRehearsal, files[len(done) :]))

    @translated()
    @without_listeners()
    def copy(self, names: frozenset[str]) -> bool:
        """Copy those of these collections that are not copied yet, and those that a view among them shows.

        Returns whether there was one to copy.
        """
        self._scratch.renew_mark(RENEW_SECONDS)
        available = self._scratch.available
        shown = (each for name in names for each in self._scratch.shown_by(name))
        wanted = set(available) if EVERYTHING in names else available.keys() & names.union(shown)
        if self._options.collections is not None:
            wanted &= set(self._options.collections)
        new = wanted - self.copied.keys()
        for name in sorted(new):
            copied = self.copied[name] = self._scratch.copy(name, self.limit)
            if self._snapshot is not None:
                # Copied during an `up()`: its `down()` has to restore this collection too.
                self._snapshot.take(name)
            self._options.on_phase(f"Copied {name}: {copied.documents} of {copied.of} documents")
        return bool(new)

    def _rehearse_last(self, files: tuple[MigrationFile, ...]) -> MigrationRehearsal:
        """Rehearse the last of these files; those before it are applied already."""
        before = self._snapshot = Snapshot(
            self._scratch.database, self._scratch.skip, self._scratch.check
        )
        with without_listeners():
            before.take()
        done = MigrationRehearsal(files[-1], self._attempt(Target(Direction.UP), files))
        if done.raised or not done.file.reversible:
            return done
        done = replace(done, down=self._attempt(Target(Direction.DOWN), files))
        if done.raised:
            return done
        with without_listeners():
            differences = before.compare(self._rehearsal.runner.mask)
        again = self._attempt(Target(Direction.UP), files)
        return replace(done, differences=differences, again=again)

    def _attempt(self, target: Target, files: tuple[MigrationFile, ...]) -> Attempt:
        """Apply or roll back the last of these files."""
        self._scratch.check()
        self._scratch.renew_mark()
        real = self._rehearsal.runner
        # The application's own client, so that a transaction includes the application's global handle.
        home = sibling(real.server.database, self._scratch.database.name)
        runner = self._rehearsal.make_runner(Server(home), _SelectedFiles(real.folder.path, files))
        report = runner.run(target, Options(observer=self._options.observer))
        # Nobody else uses this history and this lock: if they are lost, the migration dropped them.
        if report.error and not isinstance(report.error, LeaseLostError):
            raise report.error
        (outcome,) = report.outcomes
        activity, self.guard.activity = self.guard.activity, Activity()
        self.end_transactions(activity)
        error = outcome.error
        # A refused write counts even if the migration caught the error, or a thread of its own ran into it.
        if error is None and activity.escapes:
            error = capture(activity.escapes[0], real.mask)
        took_ms = max(0, (outcome.took_ms or 0) - round(activity.excluded * 1000))
        return Attempt(took_ms, error, activity, self.copied)

    def end_transactions(self, activity: Activity) -> None:
        """End what a migration left open, for which all else would wait."""
        for session in tuple(activity.open):
            self._scratch.real.kill_session(session)
