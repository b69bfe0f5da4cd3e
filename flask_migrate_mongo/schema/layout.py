"""Writes Python literals and calls, laid out as `ruff format` and Black lay them out."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson.binary import Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.errors import InvalidBSON
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp

WIDTH = 88
"""The shortest line length in common use: what is laid out for it stays as it is at a longer one."""

_INDENT = 4


@dataclass(frozen=True, slots=True)
class Group:
    """Items between brackets: on one line if they fit, else each on a line of its own."""

    opening: str
    items: tuple[Node, ...]
    closing: str


Node = str | Group


def call(function: str, /, *arguments: Node, **named: Node) -> Group:
    """Write a call."""
    items = (*arguments, *(prefixed(f"{key}=", value) for key, value in named.items()))
    return Group(f"{function}(", items, ")")


def listed(items: Iterable[Node]) -> Group:
    """Write a list."""
    return Group("[", tuple(items), "]")


def prefixed(prefix: str, node: Node) -> Node:
    """Put a name or a key in front of a value."""
    if isinstance(node, str):
        return f"{prefix}{node}"
    return Group(f"{prefix}{node.opening}", node.items, node.closing)


def lay_out(node: Node, indent: int = 0, end: str = "") -> Iterator[str]:
    """Break the node into lines."""
    line = f"{' ' * indent}{_flat(node)}{end}"
    if isinstance(node, str) or not node.items or _width(line) <= WIDTH:
        yield line
        return
    yield f"{' ' * indent}{node.opening}"
    for item in node.items:
        yield from lay_out(item, indent + _INDENT, ",")
    yield f"{' ' * indent}{node.closing}{end}"


def _flat(node: Node) -> str:
    if isinstance(node, str):
        return node
    return f"{node.opening}{', '.join(map(_flat, node.items))}{node.closing}"


def _width(line: str) -> int:
    return len(line) + sum(unicodedata.east_asian_width(c) in "WF" for c in line)


# --- literals


class Writer:
    """Writes BSON values, and notes the names that the module has to import, each with its module."""

    def __init__(self) -> None:
        self.names: set[tuple[str, str]] = set()

    def value(self, value: object) -> Node:
        """Write a value."""
        if isinstance(value, Mapping):
            items = (prefixed(f"{quoted(key)}: ", self.value(v)) for key, v in value.items())
            return Group("{", tuple(items), "}")
        if isinstance(value, list):
            return listed(map(self.value, value))
        if isinstance(value, DatetimeMS | datetime):
            return self._moment(value if isinstance(value, DatetimeMS) else DatetimeMS(value))
        parts = _PARTS.get(type(value))
        return (
            _plain(value)
            if parts is None
            else self.call(type(value), *map(self.value, parts(value)))
        )

    def keys(self, key: Mapping[str, object]) -> Node:
        """Write the keys of an index as pymongo takes them."""
        if list(key.values()) == [1]:
            return quoted(next(iter(key)))
        return listed(
            Group("(", (quoted(name), self.value(direction)), ")")
            for name, direction in key.items()
        )

    def call(self, kind: type, /, *arguments: Node, **named: Node) -> Node:
        """Write a call of a class that the module imports."""
        self.names.add((kind.__module__, kind.__name__))
        return call(kind.__name__, *arguments, **named)

    def _moment(self, value: DatetimeMS) -> Node:
        try:
            moment = value.as_datetime()
        except InvalidBSON:  # Before the year 1, or after 9999.
            return self.call(DatetimeMS, str(int(value)))
        self.names |= {("datetime", "datetime"), ("datetime", "timezone")}
        parts = [moment.year, moment.month, moment.day]
        parts += [moment.hour, moment.minute, moment.second, moment.microsecond]
        while len(parts) > len(("year", "month", "day")) and not parts[-1]:
            parts.pop()
        return call("datetime", *map(str, parts), tzinfo="timezone.utc")


_PARTS: Mapping[type, Callable[[Any], tuple[object, ...]]] = {
    ObjectId: lambda value: (str(value),),
    Decimal128: lambda value: (str(value),),
    MinKey: lambda _: (),
    MaxKey: lambda _: (),
    Binary: lambda value: (bytes(value), value.subtype),
    Regex: lambda value: (value.pattern, value.flags),
    Timestamp: lambda value: (value.time, value.inc),
    Code: lambda value: (str(value), *(() if value.scope is None else (value.scope,))),
    DBRef: lambda value: (value.collection, value.id, *filter(None, [value.database])),
}
"""The arguments that make an equal value, by its type."""


def _plain(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, int):
        # Also an Int64: MongoDB compares numbers by value.
        return str(int(value))
    if isinstance(value, float):
        return repr(value).replace("e+", "e") if math.isfinite(value) else f'float("{value}")'
    return quoted(value)


def quoted(value: object) -> str:
    """Write a text, or bytes, between double quotes, unless single ones need fewer escapes."""
    shown = repr(value)
    if shown.endswith('"'):
        return shown
    prefix, _, inner = shown[:-1].partition("'")
    if inner.count('"') > inner.count("\\'"):
        return shown
    inner = inner.replace("\\'", "'").replace('"', '\\"')
    return f'{prefix}"{inner}"'
