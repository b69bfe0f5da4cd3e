"""Fields whose values are never shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mask:
    """Hides the values of the fields of these names, at any depth, and of these dotted paths.

    Upper and lower case are the same.
    """

    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, names: Iterable[str]) -> Mask:
        """Make a mask for these names."""
        return cls(frozenset(name.lower() for name in names))

    def __call__(self, path: str, value: object) -> object:
        """Hide the value of the field at this path, or what is hidden within it."""
        plain = path.lower().replace('"', "")
        if plain in self.names or not self.names.isdisjoint(plain.split(".")):
            return "***"
        if isinstance(value, Mapping):
            return {key: self(f"{path}.{key}", inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self(path, inner) for inner in value]
        return value

    def document(self, document: Mapping[str, object]) -> dict[str, object]:
        """Hide what is hidden in a document."""
        return {key: self(key, value) for key, value in document.items()}


NOTHING_MASKED = Mask()
