"""What lint reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .rules import Rule


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
class LintReport:
    """The findings in a number of files, and those that comments suppress."""

    files: int
    findings: tuple[Finding, ...]
    suppressed: tuple[Finding, ...] = ()

    def count(self, severity: str) -> int:
        """Count the findings of severity "error", "warning" or "info"."""
        return sum(finding.rule.severity.value == severity for finding in self.findings)

    def fails(self, least: str) -> bool:
        """Whether a finding has at least this severity; no finding is as severe as "never"."""
        return any(_WEIGHTS[f.rule.severity.value] >= _WEIGHTS[least] for f in self.findings)
