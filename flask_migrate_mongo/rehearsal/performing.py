"""Rehearses migrations: up, down and up again, for real, on samples in a scratch database."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flask_migrate_mongo.driver.commands import read_by
from flask_migrate_mongo.driver.listener import check_driver, tapped_everywhere, unheard
from flask_migrate_mongo.driver.server import Server, translated
from flask_migrate_mongo.engine.options import Observer, Options
from flask_migrate_mongo.files.source import Discovery, Folder
from flask_migrate_mongo.model.errors import (
    InvalidRequestError,
    LeaseLostError,
    RehearsalUnsupportedError,
    RunStoppedError,
    capture,
)
from flask_migrate_mongo.model.values import Actor
from flask_migrate_mongo.planning import plans as planning

from .comparison import Differences, Mask, Snapshot, compare, take
from .enclosure import EVERYTHING, Enclosure
from .estimation import Estimate, Size, Timing, estimate
from .scratch import MARKER, Copied, Scratch, like, name_for, remove_leftovers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from flask_migrate_mongo.engine.runner import Runner
    from flask_migrate_mongo.model.reports import Outcome, RunReport
    from flask_migrate_mongo.model.values import ErrorInfo, History, LockState, MigrationFile, Step

    MakeRunner = Callable[[Server, Folder], Runner]

SAMPLE = 1_000
"""Documents of each collection that are copied, unless told otherwise."""

TRIAL_SHARE = 4
"""The trial, which finds out what is touched and gives a second timing, has a quarter of the sample."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to rehearse, and on what.

    No versions stand for everything pending, no sample size for all documents, no collections for
    those that the migrations touch.
    """

    versions: tuple[int, ...] = ()
    sample: int | None = SAMPLE
    collections: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One call of up() or down(): how long it took, and the error that it ended with."""

    took_ms: int
    error: ErrorInfo | None = None


@dataclass(frozen=True, slots=True)
class Performance:
    """How one migration did: up, down and up again; None for a turn that it did not come to.

    `left` is what down() did not undo. `elsewhere` names what was read outside of the sample.
    """

    file: MigrationFile
    up: Turn | None = None
    down: Turn | None = None
    again: Turn | None = None
    left: Differences = field(default_factory=Differences)
    touched: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    estimate: Estimate | None = None

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns that it came to."""
        return tuple(turn for turn in (self.up, self.down, self.again) if turn)

    @property
    def broke(self) -> bool:
        """Whether a turn ended with an error, after which nothing more can be rehearsed."""
        return any(turn.error for turn in self.turns)

    @property
    def failed(self) -> bool:
        """Whether it is not fit to be run: a turn failed, or down() does not undo up()."""
        return self.broke or bool(self.left.total)

    @property
    def undoes(self) -> bool | None:
        """Whether down() undoes up(); None when that was not found out."""
        if self.down is None:
            return None
        return not (self.down.error or self.left.total)


@dataclass(frozen=True, slots=True)
class RehearsalReport:
    """What a rehearsal found out.

    `lock` is who held the real database's lock meanwhile; `removed` names what killed rehearsals had left.
    """

    database: str | None = None
    performances: tuple[Performance, ...] = ()
    copied: tuple[Copied, ...] = ()
    lock: LockState | None = None
    removed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[Performance, ...]:
        """The migrations that are not fit to be run."""
        return tuple(p for p in self.performances if p.failed)

    @property
    def irreversible(self) -> tuple[Performance, ...]:
        """Those without a down()."""
        return tuple(p for p in self.performances if not p.file.reversible)


@dataclass(frozen=True, slots=True)
class Audience:
    """Who hears how a rehearsal goes: of its phases as text, of its steps as of those of any run."""

    say: Callable[[str], object] = lambda _: None
    observer: Observer = field(default_factory=Observer)


@dataclass(frozen=True, slots=True)
class Chosen(Folder):
    """A folder of which some migrations are looked at."""

    versions: frozenset[int] = frozenset()

    def discover(self) -> Discovery:
        """Read every migration, and return those."""
        found = Folder.discover(self)
        return found._replace(files=tuple(f for f in found.files if f.version in self.versions))


def choose(
    files: Sequence[MigrationFile], history: History, versions: Sequence[int]
) -> tuple[MigrationFile, ...]:
    """Return what is to be rehearsed, in ascending order. Raises InvalidRequestError."""
    pending = planning.pending(files, history)
    known = {file.version for file in files}
    for version in versions:
        if version not in known:
            msg = (
                f"There is no migration {version}. `flask db-migrate status` lists those there are."
            )
            raise InvalidRequestError(msg)
        if history.is_applied(version):
            msg = (
                f"{version} is applied here, so that the samples have its changes already. Rehearse "
                "it where it is pending, or undo it first: `flask db-migrate down`."
            )
            raise InvalidRequestError(msg)
    return tuple(file for file in pending if not versions or file.version in versions)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Rehearses the migrations of one application.

    `runner` is that of the real database, of which nothing is changed; `make_runner` makes those of the scratch
    database. `ours` names the collections that are this package's own.
    """

    runner: Runner
    make_runner: MakeRunner
    ours: frozenset[str]
    name: str | None = None
    mask: Mask = lambda _, value: value

    def run(self, request: Request, audience: Audience | None = None) -> RehearsalReport:
        """Rehearse, drop the scratch database whatever happens, and return what was found out.

        Raises what refuses the migrations before anything ran, and RunStoppedError.
        """
        if not self.runner.server.is_real:
            raise RehearsalUnsupportedError
        check_driver()
        files = choose(
            self.runner.folder.discover().files, self.runner.history.load(), request.versions
        )
        removed = remove_leftovers(self.runner.server, self.name)
        if not files:
            return RehearsalReport(removed=removed)
        audience = audience or Audience()
        with self.runner.switch.installed(), self.runner.server.spare() as real:
            report = self._on(real, files, request, audience)
        return replace(report, removed=removed)

    def _on(
        self,
        real: Server,
        files: tuple[MigrationFile, ...],
        request: Request,
        audience: Audience,
    ) -> RehearsalReport:
        actor = Actor.current("rehearse")
        name = self.name or name_for(real.database.name, actor.run_id)
        scratch = Scratch(real, name, actor, self.ours, self.runner.switch.check)
        _check_known(request.collections, scratch)
        scratch.create()
        stage = _Stage(self, scratch, request, audience)
        # To the very end: a thread that a migration has left behind is kept in as well.
        with tapped_everywhere(stage.enclosure):
            try:
                report = stage.perform(files)
                self.runner.switch.check()
            except RunStoppedError as exc:
                raise _stopped(name) from exc
            finally:
                not_dropped = stage.clear_away()
        lock = self.runner.lock()
        warnings = (*report.warnings, *([not_dropped] if not_dropped else []))
        return replace(report, lock=lock if lock and lock.is_live else None, warnings=warnings)


class _Stage:
    """The scratch database while migrations are rehearsed in it."""

    def __init__(
        self, rehearsal: Rehearsal, scratch: Scratch, request: Request, audience: Audience
    ) -> None:
        self._rehearsal = rehearsal
        self._scratch = scratch
        self._request = request
        self._audience = audience
        self._skip = rehearsal.ours | {MARKER}
        self._copied: dict[str, Copied] = {}
        self._before: Snapshot | None = None
        self._limit = request.sample
        self.enclosure = Enclosure(scratch.database.name, self._skip, self._bring)

    def perform(self, files: tuple[MigrationFile, ...]) -> RehearsalReport:
        """Try what the migrations touch and how long they take on little, then rehearse them."""
        trial = self._try(files)
        touched = sorted(self._copied)
        self._start_over()
        for name in touched:
            self._bring(name)
        performances = self._rehearse(files, trial)
        return RehearsalReport(
            self._scratch.database.name, performances, tuple(self._copied.values())
        )

    def clear_away(self) -> str | None:
        """Drop the scratch database, and return why it could not be dropped."""
        with unheard():
            return self._scratch.drop(self.enclosure.open_transactions)

    def _start_over(self) -> None:
        with unheard():
            self._scratch.clear(self.enclosure.open_transactions)
        self._copied.clear()
        self._limit = self._request.sample

    def _try(self, files: tuple[MigrationFile, ...]) -> Mapping[int, Sequence[Timing]]:
        """Run the migrations on a part of the sample, and return how long each up() took."""
        self._limit = max(1, (self._request.sample or SAMPLE) // TRIAL_SHARE)
        self._audience.say(f"Finding out what is touched, on {self._limit} documents of each")
        for name in self._request.collections or ():
            self._bring(name)
        timings: dict[int, Sequence[Timing]] = {}
        for position, file in enumerate(files, start=1):
            timings[file.version] = self._trial(files[:position])
            if not timings[file.version]:
                break
        return timings

    def _trial(self, files: tuple[MigrationFile, ...]) -> Sequence[Timing]:
        """Return how long up() took, the second time as well if there is one; nothing if it failed."""
        first = self._up(files)
        if first.error:
            return ()
        timing = self._timing(first)
        if not files[-1].reversible or self._down(files).error:
            return (timing,)
        second = self._up(files)
        return () if second.error else (timing, self._timing(second))

    def _rehearse(
        self, files: tuple[MigrationFile, ...], trial: Mapping[int, Sequence[Timing]]
    ) -> tuple[Performance, ...]:
        performances: list[Performance] = []
        for position, file in enumerate(files, start=1):
            performance = self._performance(files[:position], trial.get(file.version, ()))
            performances.append(performance)
            if performance.broke:
                break
        return (*performances, *map(Performance, files[len(performances) :]))

    def _performance(
        self, files: tuple[MigrationFile, ...], trial: Sequence[Timing]
    ) -> Performance:
        """Rehearse the last of these files; those before it are applied in the scratch database."""
        before = self._before = self._snapshot()
        up, heard = self._up(files), self.enclosure
        done = Performance(files[-1], up, touched=tuple(sorted(heard.touched)))
        timings, elsewhere = [self._timing(up)], set(heard.elsewhere)
        if done.file.reversible and not up.error:
            done = replace(done, down=self._down(files))
            elsewhere |= heard.elsewhere
            if not done.broke:
                done = replace(done, left=self._left(before), again=self._up(files))
                timings.append(self._timing(done.again or up))
        guess = None if done.broke else estimate(trial, timings)
        return replace(done, elsewhere=tuple(sorted(elsewhere)), estimate=guess)

    def _left(self, before: Snapshot) -> Differences:
        with translated(), unheard():
            return compare(before, self._scratch.database, self._skip, self._rehearsal.mask)

    # --- the turns

    def _up(self, files: Sequence[MigrationFile]) -> Turn:
        return self._turn(files, lambda runner, options: runner.up(options))

    def _down(self, files: Sequence[MigrationFile]) -> Turn:
        return self._turn(files, lambda runner, options: runner.down(options))

    def _turn(
        self, files: Sequence[MigrationFile], act: Callable[[Runner, Options], RunReport]
    ) -> Turn:
        """Let a runner of the scratch database make the one step that there is to make."""
        self._rehearsal.runner.switch.check()
        with unheard():
            self._scratch.remark()
        real = self._rehearsal.runner
        versions = frozenset(file.version for file in files)
        folder = Chosen(real.folder.path, real.folder.cache, versions)
        # On the application's own client, where transactions take in its global handle.
        home = like(real.server.database, self._scratch.database.name)
        runner = self._rehearsal.make_runner(Server(home), folder)
        observer = _Beginning(self.enclosure, self._audience.observer)
        report = act(runner, Options(observer=observer))
        (outcome,) = report.outcomes
        # Nobody else is here: who drops the history, say, has only itself to blame.
        if report.error and not isinstance(report.error, LeaseLostError):
            raise report.error
        return self._judged(outcome)

    def _judged(self, outcome: Outcome) -> Turn:
        took_ms = max(0, (outcome.took_ms or 0) - round(self.enclosure.lost * 1000))
        error = outcome.error
        # An escape that a migration caught, or that a thread of its own ran into, counts as well.
        if error is None and self.enclosure.escapes:
            error = capture(self.enclosure.escapes[0])
        return Turn(took_ms, error)

    def _timing(self, turn: Turn) -> Timing:
        sizes = {name: Size(c.documents, c.of) for name, c in self._copied.items()}
        heard = self.enclosure
        return Timing(
            turn.took_ms / 1000,
            fixed=heard.fixed,
            keyed=heard.keyed,
            statements=heard.statements,
            by_collection=dict(heard.spent),
            sizes=sizes,
        )

    # --- the documents

    def _bring(self, name: str) -> bool:
        """Copy a collection, and what it is a view of, unless that was done; return whether it was not."""
        if name == EVERYTHING:
            wanted = sorted(self._scratch.available)
        else:
            wanted = [name, *_under(self._scratch.available, name)]
        if self._request.collections is not None:
            wanted = [each for each in wanted if each in self._request.collections]
        new = [n for n in wanted if n in self._scratch.available and n not in self._copied]
        for each in new:
            self._copy(each)
        return bool(new)

    def _copy(self, name: str) -> None:
        with translated(), unheard():
            copied = self._copied[name] = self._scratch.copy(name, self._limit)
            if self._before is not None:
                # In the middle of an up(), it is part of what down() has to come back to.
                (info,) = self._scratch.database.list_collections(filter={"name": name})
                self._before.add(self._scratch.database, info, self._rehearsal.runner.switch.check)
        self._audience.say(f"Copied {name}: {copied.documents} of {copied.of} documents")

    def _snapshot(self) -> Snapshot:
        with translated(), unheard():
            return take(self._scratch.database, self._skip, self._rehearsal.runner.switch.check)


class _Beginning(Observer):
    """Tells the enclosure when a step begins, and the observer of everything."""

    def __init__(self, enclosure: Enclosure, observer: Observer) -> None:
        self.enclosure = enclosure
        self._observer = observer

    def started(self, step: Step) -> None:
        self._observer.started(step)
        self.enclosure.begin()

    def ended(self, outcome: Outcome) -> None:
        self._observer.ended(outcome)


def _under(available: Mapping[str, Mapping[str, Any]], view: str) -> Iterator[str]:
    """Yield the collections that a view shows, at any depth."""
    options = available.get(view, {}).get("options", {})
    if "viewOn" in options:
        read = (name.partition(".")[2] for name in read_by(options.get("pipeline"), ""))
        for below in (options["viewOn"], *read):
            yield below
            yield from _under(available, below)


def _check_known(names: Sequence[str] | None, scratch: Scratch) -> None:
    unknown = [name for name in names or () if name not in scratch.available]
    if unknown:
        msg = (
            f"There is no collection {unknown[0]!r} to take samples of. Leave `--collections` out to "
            "take those that the migrations touch."
        )
        raise InvalidRequestError(msg)


def _stopped(name: str) -> RunStoppedError:
    return RunStoppedError(
        f"The rehearsal was stopped. Nothing but its scratch database {name} was written to, and that "
        "was dropped. Rehearse again: `flask db-migrate rehearse`."
    )
