"""The gate for deployments: everything that is not as the files say, each with what to do."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from flask_migrate_mongo.files.folder import stale
from flask_migrate_mongo.model.documents import Report
from flask_migrate_mongo.model.errors import CheckFailedError, MigrateError, NoFolderError
from flask_migrate_mongo.model.values import Entry, Status, Survey
from flask_migrate_mongo.model.wording import Advised

from .identity import mistaken
from .plans import Inspector, ProjectState, pending, survey
from .squashing import partly_squashed

if TYPE_CHECKING:
    from flask_migrate_mongo.lint.linter import Linter, LintReport
    from flask_migrate_mongo.schema.report import SchemaReport


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
    SCHEMA = "schema"


_FIX = "Fix it, then check again: [check]."


@dataclass(frozen=True, slots=True)
class Problem(Advised):
    """One thing that is not as the files say. `remedy` is in the neutral terms of `wording`."""

    kind: Kind
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class CheckReport(Report):
    """The problems that count, and those of kinds that were allowed, or known before."""

    _document = "check"

    problems: tuple[Problem, ...]
    allowed: tuple[Problem, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def failure(self) -> MigrateError | None:
        """The error that names all problems; None if there is none."""
        lines = [f"{each.message} {each.advice}" for each in self.problems]
        return CheckFailedError("The check found problems:", lines) if lines else None


def check(
    inspector: Inspector,
    *,
    linear: bool,
    allowed: Collection[Kind] = (),
    linter: Linter | None = None,
    schema: SchemaReport | None = None,
    seen: ProjectState | None = None,
) -> CheckReport:
    """Compare the files with the history, without the lock, writes or a migration's code.

    `seen` is the state if it was read already. With `linear`, `.latest` has to name the newest file. With a linter, its errors are problems. What counts
    of the schema is a problem each.
    """
    state = inspector.look() if seen is None else seen
    files, paths = state.found.files, [file.path for file in state.found.files]
    in_doubt = tuple(mistaken(files, state.history, state.found.broken))
    partly = tuple(partly_squashed(pending(files, state.history), state.history))
    refused = {v for error in in_doubt for v in error.versions}
    refused |= {v for error in partly for v in error.versions}
    late = stale(paths) if linear else None
    is_lost = state.history.kept and not state.found.has_folder
    no_folder = (NoFolderError(inspector.folder.path),) if is_lost else ()
    found = [
        *_of_errors(Kind.UNUSABLE, (*no_folder, *state.found.problems)),
        *_of_errors(Kind.MISTAKEN, in_doubt),
        *_of_errors(Kind.PARTLY_SQUASHED, partly),
        *_of_survey(survey(files, state.history, state.found.broken), refused),
        *_of_errors(Kind.STALE, [late] if late else []),
        *(_of_lint(linter.lint(paths)) if linter else ()),
        *(_of_schema(schema.messages) if schema else ()),
    ]
    known = _of_schema(schema.known_messages) if schema else ()
    return CheckReport(
        tuple(each for each in found if each.kind not in allowed),
        (*(each for each in found if each.kind in allowed), *known),
        state.found.ignored,
        database=inspector.server.location,
    )


def _of_errors(kind: Kind, found: Iterable[MigrateError]) -> Iterator[Problem]:
    return (Problem(kind, error.message, error.remedy or _FIX) for error in found)


def _of_lint(report: LintReport) -> Iterator[Problem]:
    for finding in report.findings:
        if finding.rule.severity.value == "error":
            where = f"{finding.shown_path}:{finding.line}"
            message = f"{where}: {finding.rule.code} {finding.message}"
            yield Problem(Kind.LINT, message, "See how to do it better: [lint].")


def _of_schema(messages: Iterable[str]) -> Iterator[Problem]:
    remedy = "Make the change in a migration, or in the declaration. Compare again: [schema diff]."
    return (Problem(Kind.SCHEMA, message, remedy) for message in messages)


def _of_survey(found: Survey, in_doubt: Container[int]) -> Iterator[Problem]:
    """Find what is not applied as its file says, but for versions that could be mistaken."""
    for entry in (*found.pending, *found.running, *found.failed, *found.applied):
        if entry.version not in in_doubt:
            of_entry = _of_applied if entry.status is Status.COMPLETED else _of_others
            for kind, what, remedy in of_entry(entry):
                yield Problem(kind, f"{entry.version} ({entry.name}) {what}.", remedy)


def _of_others(entry: Entry) -> Iterator[tuple[Kind, str, str]]:
    version, record = entry.version, entry.record
    if entry.status is Status.RUNNING:
        yield Kind.RUNNING, "is running, or its run crashed", "See its run: [lock-status]."
    elif entry.status is Status.PENDING and entry.out_of_order:
        what = "is pending, and a migration with a higher number is applied"
        yield Kind.OUT_OF_ORDER, what, "Apply it: [up]."
    elif entry.status is Status.PENDING and entry.file is not None and not entry.file.written:
        yield Kind.PENDING, "is not written yet", "Write its up(), or move it out of the folder."
    elif entry.status is Status.PENDING:
        yield Kind.PENDING, "is pending", "Apply it: [up]."
    elif entry.missing:
        yield Kind.FAILED, "failed, and its file is gone", _FORGET.format(version)
    elif record is not None and record.interrupted:
        what = "ended half-way, and may have changed a part of its data"
        remedy = f"Look at the data. Then run it again: [up]. Or record its state: [resolve {version} applied=True|False reason=TEXT]."
        yield Kind.INTERRUPTED, what, remedy
    else:
        yield Kind.FAILED, "failed", "Fix the cause, then: [up]."


def _of_applied(entry: Entry) -> Iterator[tuple[Kind, str, str]]:
    version, record = entry.version, entry.record
    if entry.missing:
        yield Kind.MISSING, "is applied, and its file is gone", _FORGET.format(version)
    if entry.drifted:
        accept = f"[resolve {version} accept_file=True reason=TEXT]"
        remedy = f"Restore the file, or accept it: {accept}."
        yield Kind.CHANGED, "has changed since it was applied", remedy
    if record is not None and record.down_failed:
        remedy = f"Fix its down(), then: [down]. Or record that it is applied: [resolve {version} applied=True reason=TEXT]."
        yield Kind.FAILED, "is applied, and its last down() failed", remedy


_FORGET = "Restore the file, or forget the record: [resolve {} forget=True reason=TEXT]."
