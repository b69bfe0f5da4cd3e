"""Fields whose values are never shown, and the fields in which two documents differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


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


def differing(
    before: Mapping[str, object],
    after: Mapping[str, object],
    equal: Callable[[object, object], bool],
) -> tuple[dict[str, object], dict[str, object]]:
    """Find the fields that differ, by dotted path, as they were and as they are; arrays as a whole.

    A name that itself holds a dot is quoted in the path.
    """
    old, new = dict(_leaves(before)), dict(_leaves(after))
    return (
        {p: v for p, v in old.items() if p not in new or not equal(v, new[p])},
        {p: v for p, v in new.items() if p not in old or not equal(v, old[p])},
    )


def _leaves(document: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in document.items():
        path = f'{prefix}"{key}"' if "." in key else f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value
