"""Rehearses migrations: up, down and up again, executed on samples in a scratch database."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flask_migrate_mongo.driver.commands import (
    check_listener_support,
    listening_everywhere,
    without_listeners,
)
from flask_migrate_mongo.driver.server import translated
from flask_migrate_mongo.model.errors import (
    InvalidRequestError,
    RehearsalUnsupportedError,
    RunStoppedError,
)
from flask_migrate_mongo.model.masking import NOTHING_MASKED
from flask_migrate_mongo.model.values import Actor
from flask_migrate_mongo.planning.plans import pending

from .estimation import estimate
from .results import MigrationRehearsal, RehearsalReport
from .sandbox import SAMPLE, RehearsalOptions, Sandbox
from .scratch import ScratchDatabase, name_for, remove_leftovers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flask_migrate_mongo.driver.server import Server
    from flask_migrate_mongo.engine.runner import Runner
    from flask_migrate_mongo.model.masking import Mask
    from flask_migrate_mongo.model.values import History, MigrationFile

    from .estimation import Timing
    from .sandbox import MakeRunner

    Timings = Mapping[int, Sequence[Timing]]

TRIAL_SHARE = 4
"""The trial, which finds the collections and gives a second timing, uses a quarter of the sample."""

DEFAULTS = RehearsalOptions()


def choose(
    files: Sequence[MigrationFile], history: History, versions: Sequence[int]
) -> tuple[MigrationFile, ...]:
    """Choose the pending migrations of these versions, or all, in ascending order.

    Raises InvalidRequestError.
    """
    known = {file.version for file in files}
    for version in versions:
        if version not in known:
            msg = f"There is no migration {version}."
            raise InvalidRequestError(msg, "See the versions: [status].")
        if history.is_applied(version):
            msg = f"{version} is applied here, so the samples have its changes already."
            remedy = "Rehearse it where it is pending, or roll it back first: [down]."
            raise InvalidRequestError(msg, remedy)
    return tuple(f for f in pending(files, history) if not versions or f.version in versions)


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
    mask: Mask = NOTHING_MASKED

    def run(self, options: RehearsalOptions = DEFAULTS) -> RehearsalReport:
        """Rehearse, and drop the scratch database in any case.

        Raises what refuses the migrations before anything runs, and RunStoppedError.
        """
        runner = self.runner
        if not runner.server.sends_commands:
            raise RehearsalUnsupportedError
        check_listener_support()
        seen = runner.look()
        files = choose(seen.found.files, seen.history, options.versions)
        removed = remove_leftovers(runner.server, self.name)
        if not files:
            return RehearsalReport(removed=removed)
        with runner.switch.installed(), runner.server.spare() as real:
            report = self._run_in_scratch(real, files, options)
            lock = runner.lease.inspect()
        return replace(report, lock=lock if lock and lock.is_live else None, removed=removed)

    def _run_in_scratch(
        self, real: Server, files: tuple[MigrationFile, ...], options: RehearsalOptions
    ) -> RehearsalReport:
        actor, check = Actor.current("rehearse"), self.runner.switch.check
        name = self.name or name_for(real.database.name, actor.run_id)
        scratch = ScratchDatabase(real, name, actor, self.ours, check)
        _check_known(options.collections or (), scratch)
        scratch.create()
        sandbox = Sandbox(self.runner, self.make_runner, scratch, self.ours, options)
        # Until the database is dropped: a migration may leave a thread that still writes.
        with listening_everywhere(sandbox.guard):
            try:
                trials = _try_out(sandbox, files, options)
                sandbox.restart()
                migrations = self._rehearse(sandbox, files, trials)
                check()
            except RunStoppedError as exc:
                raise _stopped(name) from exc
            finally:
                not_dropped = sandbox.drop()
        warnings = (not_dropped,) if not_dropped else ()
        return RehearsalReport(name, migrations, tuple(sandbox.copied.values()), warnings=warnings)

    def _rehearse(
        self, sandbox: Sandbox, files: tuple[MigrationFile, ...], trials: Timings
    ) -> tuple[MigrationRehearsal, ...]:
        """Rehearse each migration after those before it, until an attempt raises an error."""
        done: list[MigrationRehearsal] = []
        for count, file in enumerate(files, start=1):
            done.append(self._rehearse_last(sandbox, files[:count], trials.get(file.version, ())))
            if done[-1].raised:
                break
        return (*done, *map(MigrationRehearsal, files[len(done) :]))

    def _rehearse_last(
        self, sandbox: Sandbox, files: tuple[MigrationFile, ...], trials: Sequence[Timing]
    ) -> MigrationRehearsal:
        before = sandbox.snapshot()
        done = MigrationRehearsal(files[-1], up := sandbox.up(files))
        timings = [up.timing]
        if done.file.reversible and not up.error:
            done = replace(done, down=sandbox.down(files))
            if not done.raised:
                with translated(), without_listeners():
                    differences = before.compare(self.mask)
                again = sandbox.up(files)
                done = replace(done, differences=differences, again=again)
                timings.append(again.timing)
        return done if done.raised else replace(done, estimate=estimate(trials, timings))


def _try_out(
    sandbox: Sandbox, files: tuple[MigrationFile, ...], options: RehearsalOptions
) -> Timings:
    """Run the migrations on a part of the sample, to find the collections and to time each `up()`."""
    sandbox.limit = max(1, (options.sample or SAMPLE) // TRIAL_SHARE)
    options.on_phase(f"Finding the collections to copy, on {sandbox.limit} documents of each")
    sandbox.copy(frozenset(options.collections or ()))
    timings: dict[int, Sequence[Timing]] = {}
    for count, file in enumerate(files, start=1):
        timings[file.version] = _time_last(sandbox, files[:count])
        if not timings[file.version]:
            break
    return timings


def _time_last(sandbox: Sandbox, files: tuple[MigrationFile, ...]) -> tuple[Timing, ...]:
    """Time the last `up()`, twice if it can be rolled back; an empty tuple if it fails."""
    first = sandbox.up(files)
    if first.error:
        return ()
    if not files[-1].reversible or sandbox.down(files).error:
        return (first.timing,)
    second = sandbox.up(files)
    return () if second.error else (first.timing, second.timing)


def _check_known(names: Sequence[str], scratch: ScratchDatabase) -> None:
    for name in names:
        if name not in scratch.available:
            msg = f"There is no collection {name!r} to copy."
            remedy = (
                "Without [collections=NAMES], the collections that the migrations touch are copied."
            )
            raise InvalidRequestError(msg, remedy)


def _stopped(name: str) -> RunStoppedError:
    return RunStoppedError(
        f"The rehearsal was stopped. It wrote only to its scratch database {name}, which was dropped.",
        "Rehearse again: [rehearse].",
    )
