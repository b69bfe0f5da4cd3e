"""The gate for deployments: everything that is not as the files say, each with what to do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from flask_migrate_mongo.files.latest import stale
from flask_migrate_mongo.model.errors import MigrateError
from flask_migrate_mongo.model.values import Entry, Survey
from flask_migrate_mongo.model.wording import Wording, cli, render

from .identity import mistaken
from .plans import Inspector, pending, survey
from .squashing import partly_squashed


class Kind(str, Enum):
    """What is wrong; the values are those that can be allowed."""

    PENDING = "pending"
    RUNNING = "running"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    CHANGED = "changed"
    MISSING = "missing"
    OUT_OF_ORDER = "out-of-order"
    MISTAKEN = "mistaken"
    UNUSABLE = "unusable"
    STALE = "stale"
    LINT = "lint"
    PARTLY_SQUASHED = "partly-squashed"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as the files say. `remedy` is in the neutral terms of `wording`."""

    kind: Kind
    message: str
    remedy: str = ""

    def explain(self, wording: Wording = cli) -> str:
        """Render message and remedy in the terms of an interface."""
        return f"{self.message} {render(self.remedy, wording)}".rstrip()


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The problems that count, and those of kinds that were allowed."""

    problems: tuple[Problem, ...]
    allowed: tuple[Problem, ...] = ()
    ignored: tuple[str, ...] = ()


def check(
    inspector: Inspector,
    *,
    linear: bool,
    allowed: Collection[Kind] = (),
    lint: Callable[[Iterable[Path]], Iterable[Problem]] = lambda _: (),
) -> CheckReport:
    """Compare the files with the history, without the lock, writes or a migration's code.

    With `linear`, `.latest` has to name the newest file. `lint` finds problems in the files.
    """
    state = inspector.look()
    files = state.found.files
    in_doubt = tuple(mistaken(files, state.history))
    partly = tuple(partly_squashed(pending(files, state.history), state.history))
    refused = {v for error in in_doubt for v in error.versions}
    refused |= {v for error in partly for v in error.versions}
    found = [
        *(_problem(Kind.UNUSABLE, error) for error in state.found.problems),
        *(_problem(Kind.MISTAKEN, error) for error in in_doubt),
        *(_problem(Kind.PARTLY_SQUASHED, error) for error in partly),
        *_of_survey(survey(files, state.history), refused),
    ]
    if linear and (error := stale([file.path for file in files])):
        found.append(_problem(Kind.STALE, error))
    found += lint(file.path for file in files)
    return CheckReport(
        tuple(each for each in found if each.kind not in allowed),
        tuple(each for each in found if each.kind in allowed),
        state.found.ignored,
    )


def _problem(kind: Kind, error: MigrateError) -> Problem:
    return Problem(kind, error.message, error.remedy)


def _of_survey(found: Survey, in_doubt: Container[int]) -> Iterator[Problem]:
    """Find what is not applied as its file says, but for versions that could be mistaken."""
    judges = (
        (found.pending, _of_pending),
        (found.running, _of_running),
        (found.failed, _of_failed),
        (found.applied, _of_applied),
    )
    for entries, judge in judges:
        for entry in entries:
            if entry.version not in in_doubt:
                yield from judge(entry)


def _of(kind: Kind, entry: Entry, what: str, remedy: str) -> Problem:
    return Problem(kind, f"{entry.version} ({entry.name}) {what}.", remedy)


def _of_pending(entry: Entry) -> Iterator[Problem]:
    if entry.out_of_order:
        what = "is pending, and a migration with a higher number is applied"
        yield _of(Kind.OUT_OF_ORDER, entry, what, "Apply it: [up].")
    else:
        yield _of(Kind.PENDING, entry, "is pending", "Apply it: [up].")


def _of_running(entry: Entry) -> Iterator[Problem]:
    yield _of(Kind.RUNNING, entry, "is running, or its run crashed", "See its run: [lock-status].")


def _of_failed(entry: Entry) -> Iterator[Problem]:
    version = entry.version
    if entry.file is None:
        remedy = (
            f"Restore the file, or forget the record: [resolve {version} forget=True reason=TEXT]."
        )
        yield _of(Kind.FAILED, entry, "failed, and its file is gone", remedy)
    elif entry.record is not None and entry.record.interrupted:
        what = "ended half-way, and may have changed a part of its data"
        remedy = f"Look at the data. Then run it again: [up]. Or record its state: [resolve {version} applied=True|False reason=TEXT]."
        yield _of(Kind.INTERRUPTED, entry, what, remedy)
    else:
        yield _of(Kind.FAILED, entry, "failed", "Fix the cause, then: [up].")


def _of_applied(entry: Entry) -> Iterator[Problem]:
    version = entry.version
    if entry.missing:
        remedy = (
            f"Restore the file, or forget the record: [resolve {version} forget=True reason=TEXT]."
        )
        yield _of(Kind.MISSING, entry, "is applied, and its file is gone", remedy)
    if entry.drifted:
        remedy = (
            f"Restore the file, or accept it: [resolve {version} accept_file=True reason=TEXT]."
        )
        yield _of(Kind.CHANGED, entry, "has changed since it was applied", remedy)
    if entry.record is not None and entry.record.down_failed:
        remedy = f"Fix its down(), then: [down]. Or record that it is applied: [resolve {version} applied=True reason=TEXT]."
        yield _of(Kind.FAILED, entry, "is applied, and its last down() failed", remedy)
