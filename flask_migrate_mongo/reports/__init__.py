"""Reports as text: tables on a terminal, plain aligned columns in a pipe."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plans import lines, lint, plan
    from .rehearsals import rehearsal
    from .runs import Progress, run
    from .states import asked, events, lock, records, status, unlocked
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

_ROOMS = {
    "plans": ("lines", "lint", "plan"),
    "states": ("asked", "events", "lock", "records", "status", "unlocked"),
    "rehearsals": ("rehearsal",),
    "runs": ("Progress", "run"),
    "words": ("error", "printable"),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  (whatever the rooms have)
    # A command shows one kind of report, and need not wait for the others.
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{room}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
