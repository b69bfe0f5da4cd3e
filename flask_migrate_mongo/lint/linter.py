"""Lints files: reads what they do, runs every check, and applies the suppressions."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flask_migrate_mongo.files import describe, parse, read_content
from flask_migrate_mongo.model.errors import DuplicateVersionError, SourceError

from .checking import ParsedMigration
from .findings import Finding, LintReport
from .reading import read
from .rules import BY_CODE, REMOVED, RULES, UNEXPLAINED, UNREADABLE, UNUSED, Rule
from .source_text import SourceText

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from flask_migrate_mongo.model.values import Direction, MigrationFile, Suppression


@dataclass(frozen=True, slots=True)
class Collections:
    """The collections that a migration's code names.

    Without `complete` there may be others, whose names the code computes at run time.
    """

    names: frozenset[str]
    complete: bool


def named_collections(content: bytes, *directions: Direction) -> Collections:
    """Find the collections that up() and down(), or only one of them, name.

    Executes nothing. `content` must be a file that lint can parse.
    """
    wanted = {None, *directions}
    references = read(ast.parse(content)).references
    found = [each for each in references if not directions or each.direction in wanted]
    names = frozenset[str]().union(*(reference.names for reference in found))
    return Collections(names, all(reference.complete for reference in found))


@dataclass(frozen=True, slots=True)
class Linter:
    """Lints files by some rules. `is_own` says whether a module belongs to the application.

    A file that cannot be used is always a finding, whichever rules are chosen.
    """

    is_own: Callable[[str], bool] = lambda _: False
    rules: tuple[Rule, ...] = RULES

    def lint(self, paths: Iterable[Path]) -> LintReport:
        """Check every file. Executes none."""
        paths = tuple(paths)
        files: dict[int, MigrationFile] = {}
        findings: list[Finding] = []
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
        text = SourceText(path, content, tree)
        findings: list[Finding] = []
        used: list[Suppression] = []
        for finding in self._findings(ParsedMigration(file, tree, read(tree), self.is_own), text):
            comment = text.suppression_of(finding)
            if comment is None:
                findings.append(finding)
            else:
                used.append(comment)
                findings.append(replace(finding, suppressed=comment.reason))
        unused = (comment for comment in text.suppressions if comment not in used)
        return file, [*findings, *self._without_effect(text, unused)]

    def _findings(self, migration: ParsedMigration, text: SourceText) -> Iterator[Finding]:
        seen: set[tuple[str, int, int]] = set()
        for rule in self.rules:
            for hit in rule.check(migration) if rule.check else ():
                finding = text.finding(rule, hit)
                # A function that is called twice is one place in the file.
                place = (rule.code, finding.line, finding.column)
                if place not in seen:
                    seen.add(place)
                    yield finding

    def _without_effect(self, text: SourceText, unused: Iterable[Suppression]) -> Iterator[Finding]:
        """Yield what is wrong with comments that suppress nothing."""
        codes = {rule.code for rule in self.rules}
        for comment in unused:
            code, message = _problem(comment)
            # If its rule is not run, a comment may still have a finding to suppress.
            unchecked = code == UNUSED and comment.code in BY_CODE.keys() - codes
            if comment.code not in REMOVED and code in codes and not unchecked:
                yield text.finding_at(comment, BY_CODE[code], message)


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
