"""Times whole processes from the outside, the competitors in turn."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LIMIT_SECONDS = 60.0

_SLOW, _SLOWER = 3.0, 10.0
_TOLD = 160
_WEIGHING_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Run:
    """One process from start to end; `peak` is the most memory it had, in MB, if it was weighed."""

    seconds: float
    peak: float
    code: int
    output: str


def no_flaw(_: Run) -> None:
    """Find nothing wrong."""


def nothing() -> None:
    """Prepare nothing."""


@dataclass(frozen=True, slots=True)
class Competitor:
    """A command to be timed; `prepare` runs before each time, `flaw` says what is wrong after it."""

    name: str
    command: Sequence[str]
    folder: Path
    environ: Mapping[str, str]
    prepare: Callable[[], None] = nothing
    flaw: Callable[[Run], str | None] = no_flaw
    weighed: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """What was measured of one competitor, or why it was not."""

    name: str
    values: tuple[float, ...] = ()
    failure: str | None = None

    @property
    def median(self) -> float | None:
        """The median; a competitor that failed once has none."""
        return statistics.median(self.values) if self.values and not self.failure else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """All runs of one competitor."""

    name: str
    runs: tuple[Run, ...]
    failure: str | None

    @property
    def seconds(self) -> Series:
        """How long they took."""
        return Series(self.name, tuple(run.seconds for run in self.runs), self.failure)

    @property
    def peaks(self) -> Series:
        """How much memory they needed, in MB."""
        return Series(self.name, tuple(run.peak for run in self.runs), self.failure)


@dataclass(frozen=True, slots=True)
class Rounds:
    """How often each is timed: `fast` times, or fewer when it takes long; `limit` ends one run."""

    fast: int = 7
    limit: float = LIMIT_SECONDS

    def of(self, seconds: float) -> int:
        """Return how many runs of so many seconds are wanted."""
        return min(self.fast, 3 if seconds > _SLOWER else 5 if seconds > _SLOW else self.fast)


class FailedError(Exception):
    """A competitor did not do what it was to do."""


def interleaved(competitors: Sequence[Competitor], rounds: Rounds) -> tuple[Outcome, ...]:
    """Time A B C A B C …; the first round warms caches up and counts for what takes long only."""
    lanes = [_Lane(competitor, rounds) for competitor in competitors]
    while active := [lane for lane in lanes if lane.is_active]:
        for lane in active:
            lane.go()
    return tuple(lane.outcome for lane in lanes)


class _Lane:
    def __init__(self, competitor: Competitor, rounds: Rounds) -> None:
        self._competitor = competitor
        self._rounds = rounds
        self._runs: list[Run] = []
        self._warm = False
        self._failure: str | None = None

    @property
    def is_active(self) -> bool:
        if self._failure is not None:
            return False
        return not self._runs or len(self._runs) < self._rounds.of(self._runs[0].seconds)

    @property
    def outcome(self) -> Outcome:
        return Outcome(self._competitor.name, tuple(self._runs), self._failure)

    def go(self) -> None:
        try:
            run = timed(self._competitor, self._rounds.limit)
        except FailedError as exc:
            self._failure = str(exc)
            return
        if self._warm or run.seconds > _SLOW:
            self._runs.append(run)
        self._warm = True


def timed(competitor: Competitor, limit: float) -> Run:
    """Prepare, run once, and look at what it did. Raises FailedError."""
    competitor.prepare()
    run = process(
        competitor.command,
        competitor.folder,
        competitor.environ,
        limit,
        weighed=competitor.weighed,
    )
    if run.seconds >= limit:
        msg = f"not done after {limit:.0f} s"
        raise FailedError(msg)
    if run.code:
        raise FailedError(_told(run))
    if flaw := competitor.flaw(run):
        raise FailedError(flaw)
    return run


def process(
    command: Sequence[str],
    folder: Path,
    environ: Mapping[str, str],
    limit: float,
    *,
    weighed: bool = False,
) -> Run:
    """Run a command to its end, or to its limit; its memory is looked at on request."""
    with tempfile.TemporaryFile() as output:
        begin = time.perf_counter()
        child = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        alarm = threading.Timer(limit, _end, (child.pid,))
        alarm.start()
        scale = _Scale(child.pid)
        if weighed:
            scale.start()
        try:
            code = child.wait()
        except BaseException:
            _end(child.pid)
            raise
        finally:
            alarm.cancel()
            scale.ended.set()
        seconds = time.perf_counter() - begin
        output.seek(0)
        told = output.read().decode(errors="replace")
    return Run(seconds, scale.peak, code, told)


class _Scale(threading.Thread):
    """Looks at the most memory that a process had so far, in MB, for as long as it lives.

    What `wait4` tells includes what the parent had when it forked, which is more than we look for.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0
        self.ended = threading.Event()
        self._status = Path(f"/proc/{pid}/status")

    def run(self) -> None:
        while not self.ended.wait(_WEIGHING_SECONDS):
            with contextlib.suppress(OSError):
                lines = self._status.read_text(encoding="utf-8").splitlines()
                highest = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
                self.peak = max(self.peak, *(int(kilobytes) / 1024 for kilobytes in highest), 0.0)


def _end(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _told(run: Run) -> str:
    lines = [line.strip() for line in run.output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()] or lines[-1:]
    said = errors[-1] if errors else "it said nothing"
    return f"exit code {run.code}: {said[:_TOLD]}"
