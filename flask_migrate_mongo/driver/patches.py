"""Names of the driver and of threading, replaced for as long as somebody needs it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pymongo

from flask_migrate_mongo.model.errors import UnsupportedDriverError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class Replacement:
    """A name of a class, and what makes its stand-in of the original."""

    owner: type
    name: str
    replace: Callable[[Any], Any]


class Patches:
    """Replacements that are in place while anybody uses them; counted, since uses may overlap."""

    def __init__(self, *replacements: Replacement) -> None:
        self._replacements: Sequence[Replacement] = replacements
        self._mutex = threading.Lock()
        self._users = 0
        self._originals: list[tuple[type, str, Any]] = []

    @property
    def names(self) -> list[tuple[type, str]]:
        """What is replaced."""
        return [(each.owner, each.name) for each in self._replacements]

    def __enter__(self) -> None:
        with self._mutex:
            self._users += 1
            if self._users == 1:
                for each in self._replacements:
                    original = getattr(each.owner, each.name)
                    self._originals.append((each.owner, each.name, original))
                    setattr(each.owner, each.name, each.replace(original))

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """End one use; with the last one the originals are back."""
        with self._mutex:
            self._users -= 1
            if self._users == 0:
                while self._originals:
                    owner, name, original = self._originals.pop()
                    setattr(owner, name, original)


def require(names: Sequence[tuple[type, str]], purpose: str) -> None:
    """Raise UnsupportedDriverError, with the purpose that fails, when one of these is gone."""
    gone = [f"{owner.__name__}.{name}" for owner, name in names if not hasattr(owner, name)]
    if gone:
        msg = (
            f"pymongo {pymongo.version} has no {', '.join(gone)}, so {purpose}. Install a pymongo "
            "from 4.17 on that this version of Flask-Migrate-Mongo was tested with: see "
            "docs/compatibility.md."
        )
        raise UnsupportedDriverError(msg)
