"""What a dry run shows: values as JSON holds them and people read them, and unique indexes with their duplicate keys.

Values are relaxed extended JSON, cut to size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from bson import encode, json_util

from flask_migrate_mongo.driver.server import EXACT, Document
from flask_migrate_mongo.model.masking import Mask
from flask_migrate_mongo.model.reports import Violation

READ = EXACT.with_options(unicode_decode_error_handler="backslashreplace")
"""How documents are read that are shown: what Python cannot hold, dates and texts, is no error."""

LONGEST_TEXT = 200
"""Characters of a text that are shown; bytes of binary data."""

MOST_ITEMS = 20
"""Items of an array, and fields of a document, that are shown."""

MOST_KEYS = 5
"""Duplicate keys that are shown."""


def document(given: Mapping[str, object]) -> dict[str, object]:
    """Convert a document to what JSON holds."""
    text = json_util.dumps(_cut(given), json_options=json_util.RELAXED_JSON_OPTIONS)
    found: dict[str, object] = json.loads(text)
    return found


def value(given: object) -> object:
    """Convert a value to what JSON holds."""
    return document({"": given})[""]


def text(given: Mapping[str, object]) -> str:
    """Write a document on one line."""
    return json.dumps(document(given), ensure_ascii=False)


def _cut(given: object) -> object:
    if isinstance(given, str):
        if len(given) <= LONGEST_TEXT:
            return given
        return f"{given[:LONGEST_TEXT]}... ({len(given)} characters)"
    if isinstance(given, bytes):
        return given if len(given) <= LONGEST_TEXT else f"{len(given)} bytes"
    if isinstance(given, Mapping):
        kept = {key: _cut(inner) for key, inner in list(given.items())[:MOST_ITEMS]}
        return kept | ({"...": f"{len(given)} fields"} if len(given) > MOST_ITEMS else {})
    if isinstance(given, Sequence):
        items = [_cut(inner) for inner in given[:MOST_ITEMS]]
        return [*items, f"... ({len(given)} items)"] if len(given) > MOST_ITEMS else items
    return given


def differing(
    before: Mapping[str, object], after: Mapping[str, object]
) -> tuple[dict[str, object], dict[str, object]]:
    """Find the fields that differ, by dotted path, as they were and as they are; arrays as a whole.

    A name that itself holds a dot is quoted in the path.
    """
    old, new = dict(_leaves(before)), dict(_leaves(after))
    # As BSON: 1 and 1.0 are equal in Python, and different values in a collection.
    same = {p for p in old.keys() & new.keys() if encode({"": old[p]}) == encode({"": new[p]})}
    return (
        {path: value for path, value in old.items() if path not in same},
        {path: value for path, value in new.items() if path not in same},
    )


def _leaves(document: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in document.items():
        path = f'{prefix}"{key}"' if "." in key else f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


# --- indexes that are not built


def may_refuse(index: Document) -> bool:
    """Whether documents can violate the index: it is unique, or of a kind that checks values."""
    return bool(index.get("unique")) or uncheckable(index) is not None


def uncheckable(index: Document) -> str | None:
    """Explain why duplicate keys cannot be searched for; None if they can."""
    key = index["key"]
    if all(order in (1, -1) for order in key.values()) and not any("$" in path for path in key):
        return None
    return "only the server knows the keys of this kind of index"


def duplicates_query(index: Document) -> Document:
    """Make the aggregation that finds duplicate keys, and first of all arrays, which have several keys."""
    paths = list(index["key"])
    prefixes = {prefix for path in paths for prefix in accumulate(path.split("."), "{}.{}".format)}
    arrays = {"$or": [{"$isArray": [f"${prefix}"]} for prefix in sorted(prefixes)]}
    key = {str(n): {"$ifNull": [f"${path}", None]} for n, path in enumerate(paths)}
    stages: list[Document] = [{"$match": index.get("partialFilterExpression") or {}}]
    if index.get("sparse"):
        stages.append({"$match": {"$or": [{path: {"$exists": True}} for path in paths]}})
    stages += [
        {"$group": {"_id": {"arrays": arrays, "key": key}, "n": {"$sum": 1}}},
        {"$match": {"$or": [{"_id.arrays": True}, {"n": {"$gt": 1}}]}},
        {"$sort": {"_id.arrays": -1, "n": -1, "_id.key": 1}},
        {"$limit": MOST_KEYS},
    ]
    collation = {"collation": index["collation"]} if index.get("collation") else {}
    return {"pipeline": stages, **collation}


def violations(index: Document, found: list[Document], mask: Mask) -> tuple[Violation, ...] | str:
    """Read the result of the check; a text says why it has none."""
    if found and found[0]["_id"]["arrays"]:
        return "some documents have arrays in these fields"
    keys = [dict(zip(index["key"], each["_id"]["key"].values(), strict=True)) for each in found]
    shown = [document(mask.document(key)) for key in keys]
    return tuple(Violation(key, each["n"]) for key, each in zip(shown, found, strict=True))


def index(given: Document, found: tuple[Violation, ...] | str | None) -> str:
    """Describe an index, with what the check for duplicate keys found."""
    built = f"{given['name']} on {text(given['key'])}"
    if found is None:
        return built
    if isinstance(found, str):
        return f"{built}; duplicate keys were not checked: {found}"
    if not found:
        return f"{built}; there are no duplicate keys"
    keys = ", ".join(f"{text(each.key)} {each.count:,} times" for each in found)
    return f"{built}; duplicate keys: {keys}{', ...' if len(found) == MOST_KEYS else ''}"
