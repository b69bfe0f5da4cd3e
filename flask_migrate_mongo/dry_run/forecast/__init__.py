"""What the operations would do that a dry run does not make, since no transaction allows them."""

from .handles import Forecast, RehearsedCollection, RehearsedDatabase

__all__ = ["Forecast", "RehearsedCollection", "RehearsedDatabase"]
