"""Reports as text: tables on a terminal, plain aligned columns in a pipe."""

from .plans import lines, lint, plan
from .records import asked, events, lock, records, status, unlocked
from .rehearsals import rehearsal
from .runs import Progress, run
from .words import error, printable

__all__ = [
    "Progress",
    "asked",
    "error",
    "events",
    "lines",
    "lint",
    "lock",
    "plan",
    "printable",
    "records",
    "rehearsal",
    "run",
    "status",
    "unlocked",
]
