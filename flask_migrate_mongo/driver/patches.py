"""Names of pymongo and threading that are replaced while a block needs it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

import pymongo

from flask_migrate_mongo.model.errors import UnsupportedDriverError

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Replacement:
    """A name of a class, and the function that makes its replacement from the original."""

    owner: type
    name: str
    replace: Callable[..., object]


class Patches:
    """Replacements that are in place while they have users; counted, since users may overlap."""

    def __init__(self, *replacements: Replacement) -> None:
        self._replacements = replacements
        self._mutex = threading.Lock()
        self._users = 0
        self._originals = contextlib.ExitStack()

    @property
    def names(self) -> list[tuple[type, str]]:
        """The replaced names, each with its class."""
        return [(each.owner, each.name) for each in self._replacements]

    def __enter__(self) -> None:
        """Add a user; for the first one, replace the names."""
        with self._mutex:
            self._users += 1
            if self._users == 1:
                for each in self._replacements:
                    original = getattr(each.owner, each.name)
                    self._originals.callback(setattr, each.owner, each.name, original)
                    setattr(each.owner, each.name, each.replace(original))

    def __exit__(self, *_: object) -> None:
        """Remove a user; after the last one, restore the originals."""
        with self._mutex:
            self._users -= 1
            if self._users == 0:
                self._originals.close()


def require(names: Sequence[tuple[type, str]], purpose: str) -> None:
    """Raise UnsupportedDriverError if one of the names is missing; `purpose` is what then fails."""
    missing = [f"{owner.__name__}.{name}" for owner, name in names if not hasattr(owner, name)]
    if missing:
        msg = f"pymongo {pymongo.version} has no {', '.join(missing)}, so {purpose}."
        raise UnsupportedDriverError(msg)


@contextlib.contextmanager
def assigned(variable: ContextVar[_T], value: _T) -> Iterator[None]:
    """Give a variable a value inside the block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
