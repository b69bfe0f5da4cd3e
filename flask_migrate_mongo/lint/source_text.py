"""The text of a file: where findings are in it, and which of them its comments suppress."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from flask_migrate_mongo.files import suppressions

from .findings import Finding

if TYPE_CHECKING:
    from pathlib import Path

    from flask_migrate_mongo.model.values import Suppression

    from .checking import Hit
    from .rules import Rule


@dataclass(frozen=True)
class SourceText:
    """The text and the syntax tree of a file."""

    path: Path
    content: bytes
    tree: ast.Module

    def finding(self, rule: Rule, hit: Hit) -> Finding:
        """Make a finding of a hit."""
        node = hit.node
        line, offset = (node.lineno, node.col_offset) if node else (1, 0)
        return Finding(
            rule=rule,
            path=self.path,
            line=line,
            column=self._column(line, offset),
            end_line=(node.end_lineno if node else None) or line,
            message=hit.message,
            help=rule.help(hit.collection),
            function=hit.function,
            source=self._shown(line),
        )

    def finding_at(self, comment: Suppression, rule: Rule, message: str) -> Finding:
        """Make a finding about a comment."""
        line = comment.line
        column = self._column(line, self._line(line).find(b"#"))
        help_ = rule.help()
        return Finding(
            rule, self.path, line, column, line, message, help_, source=self._shown(line)
        )

    def suppression_of(self, finding: Finding) -> Suppression | None:
        """Find the comment with a reason that suppresses a finding."""
        for comment in self.suppressions:
            matches = comment.code == finding.rule.code and comment.reason
            if matches and finding.line in self._covered(comment.line):
                return comment
        return None

    @cached_property
    def suppressions(self) -> tuple[Suppression, ...]:
        """Every comment that is meant to suppress findings."""
        return suppressions.read(self.content)

    def _covered(self, line: int) -> range:
        """Find the lines of the statement that a comment is on, or above.

        A comment above the first statement covers the whole file.
        """
        around = [lines for lines in self._statements if line in lines]
        own_line = self._line(line).lstrip().startswith(b"#")
        if not own_line or any(map(self._is_simple, around)):
            return min(around, key=len, default=range(0))
        below = [lines for lines in self._statements if lines.start > line]
        if below == self._statements:
            return range(1, len(self._lines) + 1)
        first = min((lines.start for lines in below), default=0)
        return range(line, max((each.stop for each in below if each.start == first), default=0))

    def _is_simple(self, lines: range) -> bool:
        """Whether a statement of several lines contains no other statement."""
        within = [each for each in self._statements if each.start in lines and each != lines]
        return len(lines) > 1 and not within

    @cached_property
    def _statements(self) -> list[range]:
        """The lines of every statement, with its decorators."""
        nodes = (node for node in ast.walk(self.tree) if isinstance(node, ast.stmt))
        return [range(_start(node), (node.end_lineno or node.lineno) + 1) for node in nodes]

    @cached_property
    def _lines(self) -> list[bytes]:
        return self.content.splitlines()

    def _line(self, number: int) -> bytes:
        return self._lines[number - 1] if number <= len(self._lines) else b""

    def _shown(self, line: int) -> str:
        return self._line(line).decode("utf-8", "replace").strip()

    def _column(self, line: int, offset: int) -> int:
        # The syntax tree counts bytes of UTF-8, people and editors count characters.
        return len(self._line(line)[:offset].decode("utf-8", "replace")) + 1


def _start(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])
