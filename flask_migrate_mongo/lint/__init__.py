"""Lint: what can be told of a migration without running it, and what of it will do harm."""

from .engine import Collections, Linter, named_collections
from .findings import Finding, LintReport
from .ownership import Ownership
from .rules import BY_CODE, REMOVED, RULES, UNREADABLE, Rule, Severity, chosen

__all__ = [
    "BY_CODE",
    "REMOVED",
    "RULES",
    "UNREADABLE",
    "Collections",
    "Finding",
    "LintReport",
    "Linter",
    "Ownership",
    "Rule",
    "Severity",
    "chosen",
    "named_collections",
]
