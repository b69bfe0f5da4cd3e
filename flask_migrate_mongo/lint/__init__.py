"""Finds harmful code in migrations without running them.

`linter.Linter` checks files by `rules.RULES` and makes a `LintReport` of `Finding`s. `named_collections` finds
the collections that a migration names. The package reads files and their syntax trees only: it
imports no migration and uses no driver.
"""

from .linter import Collections, Finding, Linter, LintReport, named_collections, owned_by
from .rules import BY_CODE, REMOVED, RULES, Rule, Severity, chosen

__all__ = [
    "BY_CODE",
    "REMOVED",
    "RULES",
    "Collections",
    "Finding",
    "LintReport",
    "Linter",
    "Rule",
    "Severity",
    "chosen",
    "named_collections",
    "owned_by",
]
