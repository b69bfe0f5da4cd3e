"""Lints files: reads what they do, runs every check, and applies the suppressions."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from flask_migrate_mongo.files.parsing import describe, parse, read_content, suppressions_in
from flask_migrate_mongo.model.documents import Report
from flask_migrate_mongo.model.errors import (
    CheckFailedError,
    DuplicateVersionError,
    MigrateError,
    SourceError,
)
from flask_migrate_mongo.model.values import Direction, MigrationFile, Suppression

from .checks import Hit, ParsedMigration
from .reading import read
from .rules import BY_CODE, REMOVED, RULES, UNEXPLAINED, UNREADABLE, UNUSED, Rule

# --- what lint reports


@dataclass(frozen=True, slots=True)
class Finding:
    """A place in a file that breaks a rule, with the message and the advice for it.

    Lines and columns begin with 1. `source` is the text of the line. `suppressed` is the reason in
    the comment that suppresses the finding.
    """

    rule: Rule
    path: Path
    line: int
    column: int
    end_line: int
    message: str
    help: str
    function: str | None = None
    source: str = ""
    suppressed: str | None = None

    @property
    def shown_path(self) -> Path:
        """The path to show: relative for a file below the current folder."""
        here = Path.cwd()
        return self.path.relative_to(here) if self.path.is_relative_to(here) else self.path


_WEIGHTS = {"info": 1, "warning": 2, "error": 3, "never": 4}


@dataclass(frozen=True, slots=True)
class LintReport(Report):
    """The findings in a number of files, and those that comments suppress."""

    _document = "lint"

    files: int
    findings: tuple[Finding, ...]
    suppressed: tuple[Finding, ...] = ()

    @property
    def failure(self) -> MigrateError | None:
        """The error that names all findings; None if none is an error or a warning."""
        if not self.fails("warning"):
            return None
        lines = [f"{f.shown_path}:{f.line}: {f.rule.code} {f.message}" for f in self.findings]
        return CheckFailedError("Lint found problems:", lines)

    def count(self, severity: str) -> int:
        """Count the findings of severity "error", "warning" or "info"."""
        return sum(finding.rule.severity.value == severity for finding in self.findings)

    def fails(self, least: str) -> bool:
        """Whether a finding has at least this severity; no finding is as severe as "never"."""
        return any(_WEIGHTS[f.rule.severity.value] >= _WEIGHTS[least] for f in self.findings)


# --- linting


@dataclass(frozen=True, slots=True)
class Linter:
    """Lints files by some rules. `is_own` says whether a module belongs to the application.

    A file that cannot be used is always a finding, whichever rules are chosen.
    """

    is_own: Callable[[str], bool] = lambda _: False
    rules: tuple[Rule, ...] = RULES

    def lint(self, paths: Iterable[Path], problems: Iterable[SourceError] = ()) -> LintReport:
        """Check every file, and report problems of the folder, too. Executes none."""
        paths = tuple(paths)
        files: dict[int, MigrationFile] = {}
        findings = [_unusable(problem.path, problem) for problem in problems]
        for path in paths:
            try:
                file, found = self._file(path)
            except SourceError as problem:
                findings.append(_unusable(path, problem))
                continue
            findings += found
            twin = files.setdefault(file.version, file)
            if twin is not file:
                both = DuplicateVersionError(file.version, (twin.path, path))
                findings.append(_unusable(path, both))
        findings.sort(key=lambda each: (each.path, each.line, each.column, each.rule.code))
        kept = tuple(finding for finding in findings if finding.suppressed is None)
        suppressed = tuple(finding for finding in findings if finding.suppressed is not None)
        return LintReport(len(paths), kept, suppressed)

    def _file(self, path: Path) -> tuple[MigrationFile, list[Finding]]:
        """Check one file. Raises SourceError."""
        content = read_content(path)
        tree = parse(path, content)
        file = describe(path, content, tree)
        text = SourceText(path, content.splitlines(), tree, tuple(suppressions_in(content)))
        migration = ParsedMigration(file, tree, read(tree), self.is_own)
        found = [(each, text.suppression_of(each)) for each in self._findings(migration, text)]
        findings = (replace(each, suppressed=by.reason) if by else each for each, by in found)
        used = [by for _, by in found]
        unused = (comment for comment in text.suppressions if comment not in used)
        return file, [*findings, *self._without_effect(text, unused)]

    def _findings(self, migration: ParsedMigration, text: SourceText) -> Iterable[Finding]:
        found: dict[tuple[str, int, int], Finding] = {}
        for rule in self.rules:
            for hit in rule.check(migration) if rule.check else ():
                finding = text.finding(rule, hit)
                # A function that is called twice is one place in the file.
                found.setdefault((rule.code, finding.line, finding.column), finding)
        return found.values()

    def _without_effect(self, text: SourceText, unused: Iterable[Suppression]) -> Iterator[Finding]:
        """Yield what is wrong with comments that suppress nothing."""
        codes = {rule.code for rule in self.rules}
        for comment in unused:
            code, message = _problem(comment)
            # If its rule is not run, a comment may still have a finding to suppress.
            unchecked = code == UNUSED and comment.code in BY_CODE.keys() - codes
            if comment.code not in REMOVED and code in codes and not unchecked:
                yield text.finding(BY_CODE[code], Hit(text.place_of(comment), message))


def _problem(comment: Suppression) -> tuple[str, str]:
    """Say which rule a comment breaks that suppresses nothing, and why."""
    if not comment.code:
        return UNEXPLAINED, "This suppression names no rule, so it has no effect."
    if not comment.reason:
        return UNEXPLAINED, f"This suppression of {comment.code} has no reason, so no effect."
    if comment.code not in BY_CODE:
        return UNUSED, f"There is no rule {comment.code}."
    return UNUSED, f"There is no {comment.code} finding here to suppress."


def _unusable(path: Path, problem: SourceError) -> Finding:
    rule, line = BY_CODE[UNREADABLE], problem.line or 1
    return Finding(rule, path, line, 1, line, problem.problem, rule.help())


# --- the text of a file


@dataclass(frozen=True)
class SourceText:
    """The text and the syntax tree of a file, and every comment that is meant to suppress findings."""

    path: Path
    lines: list[bytes]
    tree: ast.Module
    suppressions: tuple[Suppression, ...]

    def finding(self, rule: Rule, hit: Hit) -> Finding:
        """Make a finding of a hit."""
        node = hit.node
        line, offset = (node.lineno, node.col_offset) if node else (1, 0)
        text = self._line(line)
        return Finding(
            rule=rule,
            path=self.path,
            line=line,
            # The syntax tree counts bytes of UTF-8, people and editors count characters.
            column=len(text[:offset].decode("utf-8", "replace")) + 1,
            end_line=(node.end_lineno if node else None) or line,
            message=hit.message,
            help=rule.help(hit.collection),
            function=hit.function,
            source=text.decode("utf-8", "replace").strip(),
        )

    def place_of(self, comment: Suppression) -> ast.Pass:
        """Make a node for a comment: the syntax tree has none."""
        offset = self._line(comment.line).find(b"#")
        return ast.Pass(lineno=comment.line, col_offset=offset, end_lineno=comment.line)

    def suppression_of(self, finding: Finding) -> Suppression | None:
        """Find the comment with a reason that suppresses a finding."""
        for comment in self.suppressions:
            matches = comment.code == finding.rule.code and comment.reason
            if matches and finding.line in self._covered(comment.line):
                return comment
        return None

    def _covered(self, line: int) -> range:
        """Find the lines of the statement that a comment is on, or above.

        A comment above the first statement covers the whole file.
        """
        around = [lines for lines in self._statements if line in lines]
        below = [lines for lines in self._statements if lines.start > line]
        inner = min(around, key=len, default=range(0))
        first = min((lines.start for lines in below), default=0)
        own_line = self._line(line).lstrip().startswith(b"#")
        # A comment on a line of its own is between two statements, or within one of several lines.
        if not own_line or (inner and first not in inner):
            return inner
        if below == self._statements:
            return range(1, len(self.lines) + 1)
        return range(line, max((each.stop for each in below if each.start == first), default=0))

    @cached_property
    def _statements(self) -> list[range]:
        """The lines of every statement, with its decorators."""
        found: list[range] = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.stmt):
                parts = (node, *getattr(node, "decorator_list", ()))
                start = min(part.lineno for part in parts)
                found.append(range(start, (node.end_lineno or node.lineno) + 1))
        return found

    def _line(self, number: int) -> bytes:
        return self.lines[number - 1] if number <= len(self.lines) else b""


# --- what else is known of an application and its files


class Collections(NamedTuple):
    """The collections that a migration's code names.

    Without `complete` there may be others, whose names the code computes at run time.
    """

    names: frozenset[str]
    complete: bool


def named_collections(content: bytes, *directions: Direction) -> Collections:
    """Find the collections that up() and down(), or only one of them, name.

    Executes nothing. `content` must be a file that lint can parse.
    """
    facts = read(ast.parse(content))
    calls = [*facts.at_import]
    for direction in directions or Direction:
        calls += facts.up if direction is Direction.UP else facts.down
    found = [collection for call in calls for collection in call.collections()]
    names = frozenset[str]().union(*(collection.names for collection in found))
    return Collections(names, facts.complete and all(each.complete for each in found))


_PROJECT_FILES = ("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt", ".git")
"""A project's top folder contains one of these."""


def owned_by(import_name: str, root: Path) -> Callable[[str], bool]:
    """Make a function that says whether a top-level module belongs to an application.

    Its own are its package, and modules beside it or above. They are found by file names: nothing is imported.
    """
    root = root.resolve()
    above = (root, *root.parents)
    tops = (each for each in above if any((each / name).exists() for name in _PROJECT_FILES))
    # Without a project, the search ends at the parent.
    folders = above[: above.index(next(tops, root.parent)) + 1]
    places = (*folders, *(folder / "src" for folder in folders))

    @cache
    def is_own(module: str) -> bool:
        files = (
            folder.glob(name) for folder in places for name in (f"{module}.py", f"{module}/*.py")
        )
        return module == import_name.partition(".")[0] or any(map(any, files))

    return is_own
