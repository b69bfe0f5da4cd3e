"""Time whole processes from the outside, the competitors in turn."""

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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

LIMIT_SECONDS = 60.0

_SLOW, _SLOWER = 3.0, 10.0
_REASON_LENGTH = 160


@dataclass(frozen=True, slots=True)
class Run:
    """One process from start to end."""

    seconds: float
    code: int
    output: str


def no_flaw(_: Run) -> None:
    """Find nothing wrong."""


def nothing() -> None:
    """Prepare nothing."""


@dataclass(frozen=True, slots=True)
class Competitor:
    """A command to time: `prepare` runs before it each time, `flaw` finds what is wrong after it."""

    name: str
    command: Sequence[str]
    folder: Path
    environ: Mapping[str, str]
    prepare: Callable[[], None] = nothing
    flaw: Callable[[Run], str | None] = no_flaw


@dataclass(frozen=True, slots=True)
class Series:
    """The seconds of one competitor, or the reason why it has none."""

    name: str
    seconds: tuple[float, ...] = ()
    failure: str | None = None

    @property
    def median(self) -> float | None:
        """The median; a competitor that failed once has none."""
        return statistics.median(self.seconds) if self.seconds and not self.failure else None


@dataclass(frozen=True, slots=True)
class Rounds:
    """How often a command is timed: `fast` times, or fewer when it takes long; `limit` ends one run."""

    fast: int = 7
    limit: float = LIMIT_SECONDS

    def for_seconds(self, seconds: float) -> int:
        """Choose the number of runs of a command that takes so many seconds."""
        return min(self.fast, 3 if seconds > _SLOWER else 5 if seconds > _SLOW else self.fast)


class FailedError(Exception):
    """A competitor did not do its work."""


def interleaved(competitors: Sequence[Competitor], rounds: Rounds) -> tuple[Series, ...]:
    """Time A B C A B C …; the first round warms up, and counts only for what takes long."""
    lanes = [_Lane(competitor, rounds) for competitor in competitors]
    while active := [lane for lane in lanes if lane.is_active]:
        for lane in active:
            lane.run_once()
    return tuple(lane.series for lane in lanes)


class _Lane:
    def __init__(self, competitor: Competitor, rounds: Rounds) -> None:
        self._competitor = competitor
        self._rounds = rounds
        self._seconds: list[float] = []
        self._is_warm = False
        self._failure: str | None = None

    @property
    def is_active(self) -> bool:
        if self._failure is not None:
            return False
        return not self._seconds or len(self._seconds) < self._rounds.for_seconds(self._seconds[0])

    @property
    def series(self) -> Series:
        return Series(self._competitor.name, tuple(self._seconds), self._failure)

    def run_once(self) -> None:
        try:
            run = timed(self._competitor, self._rounds.limit)
        except FailedError as exc:
            self._failure = str(exc)
            return
        if self._is_warm or run.seconds > _SLOW:
            self._seconds.append(run.seconds)
        self._is_warm = True


def timed(competitor: Competitor, limit: float) -> Run:
    """Prepare, run once, and check the result. Raises FailedError."""
    competitor.prepare()
    run = process(competitor.command, competitor.folder, competitor.environ, limit)
    if run.seconds >= limit:
        msg = f"not done after {limit:.0f} s"
        raise FailedError(msg)
    if run.code:
        raise FailedError(_reason(run))
    if flaw := competitor.flaw(run):
        raise FailedError(flaw)
    return run


def process(command: Sequence[str], folder: Path, environ: Mapping[str, str], limit: float) -> Run:
    """Run a command to its end, or kill it and its children at the limit."""
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
        alarm = threading.Timer(limit, _kill, (child.pid,))
        alarm.start()
        try:
            code = child.wait()
        except BaseException:
            _kill(child.pid)
            raise
        finally:
            alarm.cancel()
        seconds = time.perf_counter() - begin
        output.seek(0)
        return Run(seconds, code, output.read().decode(errors="replace"))


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _reason(run: Run) -> str:
    lines = [line.strip() for line in run.output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()] or lines[-1:]
    last = errors[-1] if errors else "no output"
    return f"exit code {run.code}: {last[:_REASON_LENGTH]}"
