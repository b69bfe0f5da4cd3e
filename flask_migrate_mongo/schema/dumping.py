"""Writes live collections as a Python module that declares them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import groupby

from flask_migrate_mongo.driver.server import Document, DocumentView

from .declared import COLLECTION_PARAMETERS, INDEX_PARAMETERS, Collection, Index, name_of
from .identity import IGNORED_OPTIONS, is_text, weights
from .layout import Node, Writer, call, lay_out, listed, prefixed, quoted
from .live import IGNORED_COLLECTION_OPTIONS, LiveCollection
from .normal_forms import VALIDATION, by_value, collation_defaults, collation_form
from .search import SEARCH, LiveSearchIndex, SearchIndex

_PACKAGE = "flask_migrate_mongo.schema"
_SIMPLE = {"locale": "simple"}
_UNITS = {"days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}

# Not written, because an index or a collection without them is the same.
_INDEX_DEFAULTS: DocumentView = {
    **dict.fromkeys(("unique", "sparse", "hidden", "prepareUnique"), False),
    "default_language": "english",
    "language_override": "language",
    "partialFilterExpression": {},
}
_COLLECTION_DEFAULTS: DocumentView = {
    "capped": False,
    **VALIDATION,
    "changeStreamPreAndPostImages": {"enabled": False},
}


def dump(collections: Sequence[LiveCollection], title: str) -> str:
    """Write a module with the list `collections`. Views are left out."""
    writer = _SchemaWriter()
    calls = [writer.collection(each) for each in collections if each.kind != "view"]
    body = "\n".join(lay_out(prefixed("collections = ", listed(calls))))
    blocks = ["\n".join(block) for block in imports(writer.names)]
    return "\n\n".join((f'"""{title}"""', *blocks, body)) + "\n"


def imports(names: Iterable[tuple[str, str]]) -> Iterator[list[str]]:
    """Write the imports in two blocks: those of the standard library, then the others."""
    for _, block in groupby(sorted(names, key=_place), key=lambda each: each[0] != "datetime"):
        yield [
            f"from {module} import {', '.join(name for _, name in group)}"
            for module, group in groupby(block, key=lambda each: each[0])
        ]


def _place(name: tuple[str, str]) -> tuple[bool, str, str]:
    return (name[0] != "datetime", *name)


class _SchemaWriter(Writer):
    """Writes collections and indexes."""

    def collection(self, live: LiveCollection) -> Node:
        """Write a collection with its indexes."""
        collation = live.options.get("collation")
        options = {
            name: value
            for name, value in live.options.items()
            if name not in IGNORED_COLLECTION_OPTIONS
            and not _is_default(name, value, _COLLECTION_DEFAULTS)
        }
        if "collation" in options:
            options["collation"] = _shortened(options["collation"])
        if isinstance(clustered := options.get("clusteredIndex"), dict):
            options["clusteredIndex"] = {n: v for n, v in clustered.items() if n != "v"}
        indexes = [self._index(each.spec, collation) for each in live.own_indexes]
        named: dict[str, Node] = {"indexes": listed(indexes)} if indexes else {}
        if searches := [each for each in live.search_indexes or () if each.definition is not None]:
            named["search_indexes"] = listed(map(self._search_index, searches))
        named |= self._named(options, COLLECTION_PARAMETERS)
        return self._declaration(Collection, quoted(live.name), named)

    def _index(self, spec: DocumentView, inherited: DocumentView | None) -> Node:
        key = given_key(spec)
        options = given_options(spec, inherited)
        named: dict[str, Node] = {}
        if spec["name"] != name_of(key):
            named["name"] = quoted(spec["name"])
        named |= {**self._named(options, INDEX_PARAMETERS), "why": '"?"'}
        return self._declaration(Index, self.keys(key), named)

    def _search_index(self, live: LiveSearchIndex) -> Node:
        named = search_options(live.name, live.kind)
        return self._declaration(SearchIndex, self.value(live.definition), {**named, "why": '"?"'})

    def _declaration(self, kind: type, first: Node, named: dict[str, Node]) -> Node:
        self.names.add((_PACKAGE, kind.__name__))
        return call(kind.__name__, first, **named)

    def _named(self, options: DocumentView, parameters: dict[str, str]) -> dict[str, Node]:
        """Write the options that have a parameter in its order, and then the others together."""
        named: dict[str, Node] = {
            parameter: self._argument(name, options[name])
            for name, parameter in parameters.items()
            if name in options
        }
        others = {name: value for name, value in options.items() if name not in parameters}
        return {**named, "options": self.value(others)} if others else named

    def _argument(self, option: str, value: object) -> Node:
        if option == "expireAfterSeconds" and isinstance(value, int | float):
            return self._period(value)
        is_flag = option in {"unique", "sparse", "hidden", "changeStreamPreAndPostImages"}
        return "True" if is_flag else self.value(value)

    def _period(self, seconds: float) -> Node:
        if not math.isfinite(seconds) or abs(seconds) > timedelta.max.total_seconds():
            return self.value(seconds)
        unit = next((u for u, size in _UNITS.items() if seconds and seconds % size == 0), "seconds")
        count = seconds / _UNITS[unit]
        return self.call(
            timedelta, **{unit: self.value(int(count) if count == int(count) else count)}
        )


def given_options(spec: DocumentView, inherited: DocumentView | None) -> Document:
    """List the options of an index but for its name, without what it is given anyway: what a server adds, or `inherited`."""
    options = {
        name: value
        for name, value in spec.items()
        if name not in {"key", *IGNORED_OPTIONS} and not _is_default(name, value, _INDEX_DEFAULTS)
    }
    if is_text(spec) and set(weights(spec).values()) == {1}:
        options.pop("weights", None)
    own = options.pop("collation", _SIMPLE)
    if collation_form(own) != collation_form(inherited):
        options["collation"] = _shortened(own)
    return options


def search_options(name: str, kind: str | None) -> dict[str, Node]:
    """Write the name and the kind of a search index, but for the usual ones."""
    given = {"name": (name, "default"), "kind": (kind or SEARCH, SEARCH)}
    return {option: quoted(own) for option, (own, usual) in given.items() if own != usual}


def given_key(spec: DocumentView) -> Document:
    """Find the key as it is given: a text index shows its fields in its weights alone."""
    key: Document = {}
    for name, kind in spec["key"].items():
        if name == "_fts":
            key.update(dict.fromkeys(weights(spec), "text"))
        elif not (name == "_ftsx" and is_text(spec)):
            key[name] = _direction(kind)
    return key


def _direction(kind: object) -> object:
    """Make an int of 1.0 and of Int64(1), which mean the same as 1."""
    return int(kind) if isinstance(kind, int | float) and kind == int(kind) else kind


def _is_default(name: str, value: object, defaults: DocumentView) -> bool:
    if defaults.get(name) is False:
        # The server takes 0 for a flag, too, and stores it.
        return not value
    return name in defaults and by_value(value) == by_value(defaults[name])


def _shortened(collation: DocumentView) -> Document:
    """Leave out what the server adds to a collation."""
    added = {**collation_defaults(collation["locale"]), "version": collation.get("version")}
    return {
        name: value
        for name, value in collation.items()
        if name not in added or by_value(value) != by_value(added[name])
    }
