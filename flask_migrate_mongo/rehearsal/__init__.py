"""Rehearses migrations: up, down and up again, executed on samples in a scratch database.

Exports `Rehearsal`, its options, and the values of its report. It is given a runner, and what makes runners of the
scratch database; it may use every layer below, and no interface.
"""

from .rehearsal import SAMPLE, Rehearsal, RehearsalOptions
from .results import Attempt, Estimate, MigrationRehearsal, RehearsalReport

__all__ = [
    "SAMPLE",
    "Attempt",
    "Estimate",
    "MigrationRehearsal",
    "Rehearsal",
    "RehearsalOptions",
    "RehearsalReport",
]
