"""Indexes and validators that a migration defines: built with progress, and safe to repeat.

Exports `Definitions`, which `ctx.create_index()` and its neighbours call in a step and in a dry run; `Waiting`, how a step waits for a
build; and `Keys`, the type of an index's keys. May use pymongo, the driver, the schema's rule for equal indexes, and the lease of the
store; knows neither the engine nor the settings.
"""

from .definitions import Definitions, Keys
from .waiting import Waiting

__all__ = ["Definitions", "Keys", "Waiting"]
