"""Lints files: reads what they do, asks every rule, and sets aside what comments allow."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flask_migrate_mongo.files import describe, parse, read_content
from flask_migrate_mongo.model.errors import DuplicateVersionError, SourceError

from . import reading
from .calls import Migration
from .findings import Finding, LintReport, Text
from .rules import BY_CODE, REMOVED, RULES, UNEXPLAINED, UNREADABLE, UNUSED, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from flask_migrate_mongo.model.values import Allowance, Direction, MigrationFile


@dataclass(frozen=True, slots=True)
class Collections:
    """The collections that a migration's code names.

    Without `complete` there may be others, whose names it works out while it runs.
    """

    names: frozenset[str]
    complete: bool


def named_collections(content: bytes, *directions: Direction) -> Collections:
    """Return the collections that up() and down(), or only one of them, name.

    Nothing is executed. `content` is that of a file that `describe()` accepts.
    """
    facts = reading.read(ast.parse(content))
    wanted = {None, *directions}
    found = [each for each in facts.references if not directions or each.direction in wanted]
    names = frozenset[str]().union(*(reference.names for reference in found))
    return Collections(names, all(reference.complete for reference in found))


@dataclass(frozen=True, slots=True)
class Linter:
    """Lints files by a choice of rules; `is_own` tells the application's modules from others.

    A file that cannot be used is a finding whatever the choice: nothing else is known of it.
    """

    is_own: Callable[[str], bool] = lambda _: False
    rules: tuple[Rule, ...] = RULES

    def lint(self, paths: Iterable[Path]) -> LintReport:
        """Look at every file, executing none."""
        files: dict[int, MigrationFile] = {}
        findings: list[Finding] = []
        count = 0
        for count, path in enumerate(paths, 1):  # noqa: B007  (it is used below)
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
        kept = tuple(finding for finding in findings if finding.allowed is None)
        return LintReport(count, kept, tuple(f for f in findings if f.allowed is not None))

    def _file(self, path: Path) -> tuple[MigrationFile, list[Finding]]:
        """Look at one file. Raises SourceError."""
        content = read_content(path)
        tree = parse(path, content)
        file = describe(path, content, tree)
        text = Text(path, content, tree)
        migration = Migration(file, tree, reading.read(tree), self.is_own)
        findings: list[Finding] = []
        used: list[Allowance] = []
        for finding in self._findings(migration, text):
            allowance = text.allowing(finding)
            used += [allowance] if allowance else []
            findings.append(replace(finding, allowed=allowance.reason) if allowance else finding)
        return file, [*findings, *self._comments(text, used)]

    def _findings(self, migration: Migration, text: Text) -> Iterator[Finding]:
        seen: set[tuple[str, int, int]] = set()
        for rule in self.rules:
            for hit in rule.check(migration) if rule.check else ():
                finding = text.finding(rule, hit)
                # A function that is called twice is one place in the file.
                place = (rule.code, finding.line, finding.column)
                if place not in seen:
                    seen.add(place)
                    yield finding

    def _comments(self, text: Text, used: Iterable[Allowance]) -> Iterator[Finding]:
        """Yield what is wrong with the comments that allow something."""
        codes = {rule.code for rule in self.rules}
        for allowance in text.allowances:
            if allowance.code in REMOVED:
                continue
            code, message = _objection(allowance, codes)
            if code in codes and allowance not in used:
                yield text.about(allowance, BY_CODE[code], message)


def _objection(allowance: Allowance, codes: set[str]) -> tuple[str, str]:
    """Return which rule a comment breaks that has allowed nothing, and why."""
    if not allowance.code:
        return UNEXPLAINED, "This comment allows nothing: it names no rule."
    if not allowance.reason:
        return UNEXPLAINED, f"This comment does not allow {allowance.code}: it gives no reason."
    if allowance.code not in BY_CODE:
        return UNUSED, f"There is no rule {allowance.code}."
    # Of a rule that was not asked, nothing can be said.
    unused = UNUSED if allowance.code in codes else ""
    return unused, f"There is no {allowance.code} where this comment allows it."


def _unusable(path: Path, problem: SourceError) -> Finding:
    rule, line = BY_CODE[UNREADABLE], problem.line or 1
    return Finding(rule, path, line, 1, line, problem.problem, rule.help())
