"""Finds harmful code in migrations without running them.

`Linter` checks files by `RULES` and makes a `LintReport` of `Finding`s. `named_collections` finds
the collections that a migration names. The package reads files and their syntax trees only: it
imports no migration and uses no driver.
"""

from .findings import Finding, LintReport
from .linter import Collections, Linter, named_collections
from .ownership import Ownership
from .rules import BY_CODE, REMOVED, RULES, Rule, Severity, chosen

__all__ = [
    "BY_CODE",
    "REMOVED",
    "RULES",
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
