"""Executes a plan in one transaction that is rolled back, and reports its effects.

Exports `DryRun`. May use the engine and every layer below it.
"""
