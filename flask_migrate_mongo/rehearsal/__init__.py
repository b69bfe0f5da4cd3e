"""Rehearses migrations: up, down and up again, executed on samples in a scratch database.

Exports `Rehearsal`, its options, and the values of its report. It is given a runner, and what makes runners of the
scratch database; it may use every layer below, and no interface.
"""

from .estimation import Estimate
from .rehearsal import Rehearsal
from .results import Attempt, MigrationRehearsal, RehearsalReport
from .sandbox import SAMPLE, RehearsalOptions

__all__ = [
    "SAMPLE",
    "Attempt",
    "Estimate",
    "MigrationRehearsal",
    "Rehearsal",
    "RehearsalOptions",
    "RehearsalReport",
]
