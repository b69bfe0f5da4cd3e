"""Executes a plan in one transaction that is rolled back, and reports its effects.

Exports `DryRunner`, which is given a runner and has `up` and `down` like it. What a transaction cannot hold is not
executed, and reported: `DECISIONS` in decisions.py says so for each command. May use the engine and every layer below it.
"""

from .dry_runner import DryRunner

__all__ = ["DryRunner"]
