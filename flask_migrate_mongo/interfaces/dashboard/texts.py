"""How values of the API's documents are written on the pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from flask_migrate_mongo.reports.words import took

_STEP = 1_000
"""Between a unit of size and the next one."""


def when(moment: str | None) -> str:
    """Write a time of a document to the second; it is in UTC."""
    return "" if moment is None else moment[:19].replace("T", " ")


def number(value: float | None) -> str:
    """Write a number with separators between thousands."""
    return "" if value is None else f"{value:,}"


def size(count: int | None) -> str:
    """Write a number of bytes."""
    if count is None:
        return ""
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= _STEP and len(units) > 1:
        value /= _STEP
        units.pop(0)
    return f"{count:,} bytes" if units[0] == "bytes" else f"{value:,.1f} {units[0]}"


def specification(found: Mapping[str, object] | None) -> str:
    """Write the keys of an index, and its options but for those that say nothing about it."""
    if found is None:
        return "none"
    shown = {
        k: v for k, v in found.items() if k not in {"key", "name", "v", "ns"} and v is not False
    }
    keys = [f"{name} {direction}" for name, direction in _items(found.get("key"))]
    return ", ".join([*keys, *(k if v is True else f"{k} {value(v)}" for k, v in shown.items())])


def _items(found: object) -> Iterable[tuple[str, object]]:
    return found.items() if isinstance(found, Mapping) else ()


def value(found: object) -> str:
    """Write any value of JSON in one line."""
    return found if isinstance(found, str) else json.dumps(found, default=str, ensure_ascii=False)


def seconds(found: float) -> str:
    """Write seconds as a duration, without parts of a second."""
    return took(max(1, round(found)) * 1000).replace(".00 s", " s")


def pretty(found: object) -> str:
    """Write any value of JSON in several lines."""
    return json.dumps(found, default=str, ensure_ascii=False, indent=2)


FILTERS: Mapping[str, Callable[..., str]] = {
    each.__name__: each
    for each in (when, took, seconds, number, size, specification, value, pretty)
}
"""The filters of the templates."""
