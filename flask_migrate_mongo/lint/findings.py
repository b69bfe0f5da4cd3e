"""What lint found, and where; which of it the comments of a file allow."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flask_migrate_mongo.files import suppressions as allowances

if TYPE_CHECKING:
    from flask_migrate_mongo.model.values import Allowance

    from .calls import Hit
    from .rules import Rule


@dataclass(frozen=True, slots=True)
class Finding:
    """Where a file breaks a rule, what happens there, and what to do instead.

    Lines and columns begin with 1. `source` is the line itself; `allowed`, the reason that a comment
    in the file gives for it.
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
    allowed: str | None = None

    @property
    def shown_path(self) -> Path:
        """The path as it is shown: from the current folder, for a file that is below it."""
        here = Path.cwd()
        return self.path.relative_to(here) if self.path.is_relative_to(here) else self.path


_WEIGHTS = {"info": 1, "warning": 2, "error": 3, "never": 4}


@dataclass(frozen=True, slots=True)
class LintReport:
    """What lint found in so many files, apart from what comments allow."""

    files: int
    findings: tuple[Finding, ...]
    allowed: tuple[Finding, ...] = ()

    def count(self, severity: str) -> int:
        """Return how many findings are an "error", a "warning" or an "info"."""
        return sum(finding.rule.severity.value == severity for finding in self.findings)

    def fails(self, least: str) -> bool:
        """Whether something was found that is at least so bad; nothing is as bad as "never"."""
        return any(_WEIGHTS[f.rule.severity.value] >= _WEIGHTS[least] for f in self.findings)


@dataclass(frozen=True)
class Text:
    """A file as it is written: what findings point to, and what its comments allow."""

    path: Path
    content: bytes
    tree: ast.Module

    def finding(self, rule: Rule, hit: Hit) -> Finding:
        """Return what a rule's hit means, in this file."""
        node = hit.node
        line, offset = (node.lineno, node.col_offset) if node else (1, 0)
        return Finding(
            rule=rule,
            path=self.path,
            line=line,
            column=self._column(line, offset),
            end_line=(node.end_lineno if node else None) or line,
            message=hit.what,
            help=rule.help(hit.collection),
            function=hit.function,
            source=self._line(line).decode("utf-8", "replace").strip(),
        )

    def about(self, allowance: Allowance, rule: Rule, message: str) -> Finding:
        """Return a finding about a comment itself."""
        line = allowance.line
        column = self._column(line, self._line(line).find(b"#"))
        source = self._line(line).decode("utf-8", "replace").strip()
        return Finding(rule, self.path, line, column, line, message, rule.help(), None, source)

    def allowing(self, finding: Finding) -> Allowance | None:
        """Return the comment that allows a finding and says why."""
        for allowance in self.allowances:
            matches = allowance.code == finding.rule.code and allowance.reason
            if matches and finding.line in self._covered(allowance):
                return allowance
        return None

    @cached_property
    def allowances(self) -> tuple[Allowance, ...]:
        """Every comment that means to allow something."""
        return allowances.read(self.content)

    def _covered(self, allowance: Allowance) -> range:
        """Return the lines of the statement that a comment stands on, or, on a line of its own, above.

        Above the first statement of the file it is all lines.
        """
        line = allowance.line
        around = [lines for lines in self._statements if line in lines]
        if not self._line(line).lstrip().startswith(b"#") or any(map(self._is_simple, around)):
            return min(around, key=len, default=range(0))
        below = [lines for lines in self._statements if lines.start > line]
        if below == self._statements:
            return range(1, len(self._lines) + 1)
        first = min((lines.start for lines in below), default=0)
        return range(line, max((each.stop for each in below if each.start == first), default=0))

    def _is_simple(self, lines: range) -> bool:
        """Whether no other statement is within these lines, so that a comment is within one."""
        within = [each for each in self._statements if each.start in lines and each != lines]
        return len(lines) > 1 and not within

    @cached_property
    def _statements(self) -> list[range]:
        """The lines of every statement, its decorators among them."""
        nodes = (node for node in ast.walk(self.tree) if isinstance(node, ast.stmt))
        return [range(_start(node), (node.end_lineno or node.lineno) + 1) for node in nodes]

    @cached_property
    def _lines(self) -> list[bytes]:
        return self.content.splitlines()

    def _line(self, number: int) -> bytes:
        return self._lines[number - 1] if number <= len(self._lines) else b""

    def _column(self, line: int, offset: int) -> int:
        # The syntax tree counts bytes of UTF-8, people and editors count characters.
        return len(self._line(line)[:offset].decode("utf-8", "replace")) + 1


def _start(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])
