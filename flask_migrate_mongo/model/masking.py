"""Fields whose values are shown to nobody, and how documents are told apart field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class Mask:
    """Hides the values of the fields of these names, at any depth, and of these dotted paths.

    Upper and lower case are the same.
    """

    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, names: Iterable[str]) -> Mask:
        """Return a mask for these names."""
        return cls(frozenset(name.lower() for name in names))

    def __call__(self, path: str, value: Any) -> Any:  # noqa: ANN401  (any value of a document)
        """Return the value of the field as it may be shown."""
        lowered = path.lower()
        if lowered in self.names or not self.names.isdisjoint(lowered.split(".")):
            return HIDDEN
        if isinstance(value, Mapping):
            return {key: self(f"{path}.{key}", inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self(path, inner) for inner in value]
        return value

    def document(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return the document as it may be shown."""
        return {key: self(key, value) for key, value in document.items()}


NOTHING_MASKED = Mask()


def differing(
    before: Mapping[str, Any], after: Mapping[str, Any], equal: Callable[[Any, Any], bool]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields that differ, by dotted path, as they were and as they are; arrays as a whole."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    return (
        {p: v for p, v in old.items() if p not in new or not equal(v, new[p])},
        {p: v for p, v in new.items() if p not in old or not equal(v, old[p])},
    )


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
