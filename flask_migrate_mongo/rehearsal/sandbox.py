"""The sandbox of a rehearsal: a scratch database, the guard of it, and runners that run single steps in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flask_migrate_mongo.driver.commands import without_listeners
from flask_migrate_mongo.driver.server import Server, translated
from flask_migrate_mongo.engine.options import Observer, Options
from flask_migrate_mongo.engine.runner import Runner
from flask_migrate_mongo.files import Discovery, Folder
from flask_migrate_mongo.model.errors import LeaseLostError, capture

from .comparison import Snapshot
from .estimation import SampleSize, Timing
from .guard import EVERYTHING, Activity, SandboxGuard
from .results import Attempt
from .scratch import MARKER, CopiedCollection, ScratchDatabase, sibling

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flask_migrate_mongo.model.reports import RunReport
    from flask_migrate_mongo.model.values import MigrationFile, Record

MakeRunner = Callable[[Server, Folder], Runner]
"""Makes a runner whose migrations see `ctx.rehearsal`."""

SAMPLE = 1_000
"""How many documents of each collection are copied by default."""


@dataclass(frozen=True, slots=True)
class RehearsalOptions:
    """How to rehearse.

    Without `versions`, everything pending; `sample` None copies all documents; `collections` None copies those that
    the migrations touch. `on_phase` receives what is done between the steps, as text.
    """

    versions: tuple[int, ...] = ()
    sample: int | None = SAMPLE
    collections: tuple[str, ...] | None = None
    observer: Observer = field(default_factory=Observer)
    on_phase: Callable[[str], object] = lambda _: None


@dataclass(frozen=True, slots=True)
class _SelectedFiles(Folder):
    """A folder in which only some migrations are found, as they were parsed before the rehearsal began."""

    files: tuple[MigrationFile, ...] = ()

    def discover(self, _trusted: Mapping[int, Record] = {}) -> Discovery:
        """Find the selected migrations."""
        return Discovery(self.files, ())


class Sandbox:
    """Runs migrations in the scratch database, one step at a time, and copies what they touch.

    `limit` is how many documents of a collection are copied. `ours` names this package's own collections.
    """

    def __init__(
        self,
        runner: Runner,
        make_runner: MakeRunner,
        scratch: ScratchDatabase,
        ours: frozenset[str],
        options: RehearsalOptions,
    ) -> None:
        self._skip = ours | {MARKER}
        self.limit = options.sample
        self.copied: dict[str, CopiedCollection] = {}
        self.guard = SandboxGuard(scratch.database.name, self._skip, self.copy)
        self._runner = runner
        self._make_runner = make_runner
        self._scratch = scratch
        self._options = options
        self._check = runner.switch.check
        self._snapshot: Snapshot | None = None

    def up(self, files: Sequence[MigrationFile]) -> Attempt:
        """Apply the last of these files; those before it are applied already."""
        runner, options = self._prepare(files)
        return self._attempt(runner.up(options))

    def down(self, files: Sequence[MigrationFile]) -> Attempt:
        """Roll back the last of these files."""
        runner, options = self._prepare(files)
        return self._attempt(runner.down(options))

    def snapshot(self) -> Snapshot:
        """Take a snapshot, to which later copies are added."""
        with translated(), without_listeners():
            self._snapshot = Snapshot(self._scratch.database, self._skip, self._check).take()
        return self._snapshot

    def copy(self, names: frozenset[str]) -> bool:
        """Copy those of these collections that are not copied yet, and those that a view among them shows.

        Returns whether there was one to copy.
        """
        available = self._scratch.available
        shown = (each for name in names for each in self._scratch.shown_by(name))
        wanted = set(available) if EVERYTHING in names else available.keys() & names.union(shown)
        if self._options.collections is not None:
            wanted &= set(self._options.collections)
        new = wanted - self.copied.keys()
        for name in sorted(new):
            self._copy_one(name)
        return bool(new)

    def restart(self) -> None:
        """Remove everything, and copy again what was copied before, with the full sample."""
        names = frozenset(self.copied)
        with without_listeners():
            self._scratch.clear(self.guard.open_transactions)
        self.copied.clear()
        self.limit = self._options.sample
        self.copy(names)

    def drop(self) -> str | None:
        """Drop the scratch database; a failure becomes a warning."""
        with without_listeners():
            return self._scratch.drop(self.guard.open_transactions)

    def _prepare(self, files: Sequence[MigrationFile]) -> tuple[Runner, Options]:
        """Make a runner for which the last of these files is the only one to run."""
        self._check()
        with without_listeners():
            self._scratch.remark()
        real = self._runner
        folder = _SelectedFiles(real.folder.path, tuple(files))
        # The application's own client, so that a transaction includes the application's global handle.
        home = sibling(real.server.database, self._scratch.database.name)
        return self._make_runner(Server(home), folder), Options(observer=self._options.observer)

    def _attempt(self, report: RunReport) -> Attempt:
        # Nobody else uses this history and this lock: if they are lost, the migration dropped them.
        if report.error and not isinstance(report.error, LeaseLostError):
            raise report.error
        (outcome,) = report.outcomes
        activity, self.guard.activity = self.guard.activity, Activity()
        error = outcome.error
        # A refused write counts even if the migration caught the error, or a thread of its own ran into it.
        if error is None and activity.escapes:
            error = capture(activity.escapes[0])
        took_ms = max(0, (outcome.took_ms or 0) - round(activity.excluded * 1000))
        sizes = {name: SampleSize(c.documents, c.of) for name, c in self.copied.items()}
        timing = Timing(took_ms / 1000, activity.times, sizes)
        touched, elsewhere = frozenset(activity.touched), frozenset(activity.elsewhere)
        return Attempt(took_ms, error, touched, elsewhere, timing)

    def _copy_one(self, name: str) -> None:
        with translated(), without_listeners():
            copied = self.copied[name] = self._scratch.copy(name, self.limit)
            if self._snapshot is not None:
                # Copied during an `up()`: its `down()` has to restore this collection too.
                self._snapshot.add(name)
        self._options.on_phase(f"Copied {name}: {copied.documents} of {copied.of} documents")
