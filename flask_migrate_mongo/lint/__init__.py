"""Finds harmful code in migrations without running them.

`linter.Linter` checks files by `rules.RULES` and makes a `LintReport` of `Finding`s. `linter.named_collections` finds
the collections that a migration names. May read files and their syntax trees only: imports no migration, uses no driver.
"""
