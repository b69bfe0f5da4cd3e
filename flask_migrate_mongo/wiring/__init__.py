"""Makes the objects that do the work from the state of an application.

Exports functions that take an `AppState`: `looking` for what needs no run, `checking` and `linting` for what lint
finds in it, `comparing` for the schema, `running` for runs and dry runs, `rehearsing`, and `settling` for what is settled by hand. `creating`, `generating`
and `examining`, which only the command line needs, are imported by their own names. A module is imported when it is first used, so that a look loads no
engine. May use the settings, the database and every layer below.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import checking, comparing, linting, looking, rehearsing, running, settling

__all__ = ["checking", "comparing", "linting", "looking", "rehearsing", "running", "settling"]


def __getattr__(name: str) -> ModuleType:
    """Import a module of this folder at its first use (PEP 562)."""
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
