"""Indexes that a dry run does not build: what is known of them all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask_migrate_mongo.model.reports import Violation

from . import showing

if TYPE_CHECKING:
    from flask_migrate_mongo.driver.server import Document
    from flask_migrate_mongo.model.masking import Mask

FIRST = 5
"""How many of the duplicate keys are named."""


def may_refuse(index: Document) -> bool:
    """Whether documents can violate the index: it is unique, or of a kind that checks values."""
    return bool(index.get("unique")) or uncheckable(index) is not None


def uncheckable(index: Document) -> str | None:
    """Explain why duplicate keys cannot be searched for; None if they can."""
    key = index["key"]
    if all(order in (1, -1) for order in key.values()) and not any("$" in path for path in key):
        return None
    return "only the server knows the keys of this kind of index"


def check(index: Document) -> Document:
    """Make the aggregation that finds duplicate keys, and first of all arrays, which have several keys."""
    paths = list(index["key"])
    prefixes = {path[:end] for path in paths for end in _ends(path)}
    arrays = {"$or": [{"$isArray": [f"${prefix}"]} for prefix in sorted(prefixes)]}
    key = {str(n): {"$ifNull": [f"${path}", None]} for n, path in enumerate(paths)}
    stages: list[Document] = [{"$match": index.get("partialFilterExpression") or {}}]
    if index.get("sparse"):
        stages.append({"$match": {"$or": [{path: {"$exists": True}} for path in paths]}})
    stages += [
        {"$group": {"_id": {"arrays": arrays, "key": key}, "n": {"$sum": 1}}},
        {"$match": {"$or": [{"_id.arrays": True}, {"n": {"$gt": 1}}]}},
        {"$sort": {"_id.arrays": -1, "n": -1, "_id.key": 1}},
        {"$limit": FIRST},
    ]
    collation = {"collation": index["collation"]} if index.get("collation") else {}
    return {"pipeline": stages, "allowDiskUse": True, **collation}


def _ends(path: str) -> list[int]:
    return [n for n, letter in enumerate(path) if letter == "."] + [len(path)]


def violations(index: Document, found: list[Document], mask: Mask) -> tuple[Violation, ...] | str:
    """Read the result of the check; a text says why it has none."""
    if found and found[0]["_id"]["arrays"]:
        return "some documents have arrays in these fields"
    paths = list(index["key"])
    keys = [{path: each["_id"]["key"][str(n)] for n, path in enumerate(paths)} for each in found]
    shown = [showing.document(mask.document(key)) for key in keys]
    return tuple(Violation(key, each["n"]) for key, each in zip(shown, found, strict=True))


def described(index: Document, found: tuple[Violation, ...] | str | None) -> str:
    """Describe the index, with what the check for duplicate keys found."""
    built = f"{index['name']} on {showing.text(index['key'])}"
    if found is None:
        return built
    if isinstance(found, str):
        return f"{built}; duplicate keys were not checked: {found}"
    if not found:
        return f"{built}; there are no duplicate keys"
    keys = ", ".join(f"{showing.text(each.key)} {each.count:,} times" for each in found)
    return f"{built}; duplicate keys: {keys}{', ...' if len(found) == FIRST else ''}"
