"""Why a step ended without success: where in its author's code, what is kept of what it did, and what to type next."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pymongo.errors import ConnectionFailure

from flask_migrate_mongo.model.errors import DatabaseError, RunStoppedError
from flask_migrate_mongo.model.reports import Outcome, RunReport, StepState
from flask_migrate_mongo.model.values import Direction, ErrorInfo, Progress, Step
from flask_migrate_mongo.process import Stopped

_FRAME = re.compile(
    r'^[ |]*File "(?P<path>.+)", line (?P<line>\d+), in (?P<function>.+)\n(?P<source>.*)',
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class CodeLine:
    """A line of a migration, and the function that it is in."""

    path: Path
    line: int
    function: str
    source: str

    def __str__(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}:{self.line} in {self.function}()"


def lines_of(traceback: str, folder: Path) -> list[CodeLine]:
    """Find the lines of a recorded traceback that are in this folder, in their order."""
    found = (
        CodeLine(Path(f["path"]), int(f["line"]), f["function"], _source(f["source"]))
        for f in _FRAME.finditer(traceback)
    )
    return [each for each in found if folder in each.path.parents]


def _source(line: str) -> str:
    # Without the source, the next frame follows.
    text = line.strip(" |")
    return "" if text.startswith('File "') else text


def place(error: ErrorInfo | None, step: Step) -> CodeLine | None:
    """Find the last line of the author's own code, not of the driver's, that led to an error."""
    lines = lines_of(error.traceback or "", step.file.folder) if error else []
    return lines[-1] if lines else None


def stopped_by(outcome: Outcome) -> str | None:
    """Name what stopped a step: a signal, or a request; None if it ended for another reason."""
    if isinstance(outcome.cause, KeyboardInterrupt):
        return "KeyboardInterrupt"
    return str(outcome.cause) if isinstance(outcome.cause, Stopped) else None


def kept(outcome: Outcome) -> str:
    """Say what is kept of a step that ended without success; blank if the error says it."""
    step, progress = outcome.step, outcome.backfill
    if outcome.state is not StepState.FAILED:
        return ""
    still = " It is still applied." if step.direction is Direction.DOWN else ""
    if outcome.in_transaction:
        return f"Transactional: nothing of it was kept.{still}"
    if progress is not None:
        return f"{done(progress)} done; `{step.direction.value}` continues there.{still}"
    why = "Its server has no transactions" if step.file.transactional else "Not transactional"
    return f"{why}: {_written(outcome)}.{still}"


def _written(outcome: Outcome) -> str:
    step = outcome.step
    lines = lines_of((outcome.error and outcome.error.traceback) or "", step.file.folder)
    own = [each for each in lines if each.function == step.direction.value]
    return f"what it wrote before line {own[-1].line} stays" if own else "what it wrote stays"


def done(progress: Progress) -> str:
    """Count the documents that a backfill has done."""
    total = "" if progress.total is None else f" of about {progress.total:,}"
    return f"{progress.collection}: {progress.done:,}{total} documents"


# --- what to type next


def advice(report: RunReport, *, verbose: bool, target: str = "") -> Iterator[str]:
    """Say what to type after a run that did not succeed. `target` is how the command names what is left of it."""
    failed = [outcome for outcome in report.failures if stopped_by(outcome) is None]
    command = f"flask db-migrate {_command(report)}{target}{' --dry-run' if report.dry_run else ''}"
    if failed:
        yield f"{_remedy(failed)}, then: {command}{_accepting(failed)}"
        recorded = f", or flask db-migrate show {failed[0].step.version}"
        if not verbose:
            yield f"Traceback: -v{'' if report.dry_run else recorded}"
    elif isinstance(report.error, RunStoppedError):
        yield f"To continue: {command}"


def _command(report: RunReport) -> str:
    directions = {outcome.step.direction for outcome in report.outcomes}
    return "redo" if len(directions) > 1 else report.direction.value


def _remedy(failed: list[Outcome]) -> str:
    if any(_is_outage(outcome.cause) for outcome in failed):
        return "Wait until the server answers"
    return "Fix the file" if len(failed) == 1 else "Fix the files"


def _is_outage(cause: BaseException | None) -> bool:
    return isinstance(cause, ConnectionFailure | DatabaseError)


def _accepting(failed: list[Outcome]) -> str:
    """Name the option with which a file runs that changed after it was applied, or half-way through its backfill."""
    changes = any(
        (o.backfill is not None or o.step.direction is Direction.DOWN) and not _is_outage(o.cause)
        for o in failed
    )
    return " --allow-drift" if changes else ""
