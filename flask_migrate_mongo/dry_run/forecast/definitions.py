"""When two index definitions are the same, when they conflict, and which ones the server refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .foreseen import refusal, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flask_migrate_mongo.driver.server import Document

_MAX_INDEXES = 64
_NOT_COMPARED = frozenset(
    {
        *("key", "name", "v", "ns", "background", "dropDups", "hidden"),
        # These are part of the signature instead.
        *("unique", "sparse", "collation", "partialFilterExpression"),
        *("textIndexVersion", "2dsphereIndexVersion", "2dIndexVersion"),
    }
)
_OF_THE_ID = frozenset({"key", "name", "v", "ns", "collation"})
_COLLATION: Document = {
    "caseLevel": False,
    "caseFirst": "off",
    "strength": 3,
    "numericOrdering": False,
    "alternate": "non-ignorable",
    "maxVariable": "punct",
    "normalization": False,
    "backwards": False,
}
_NOT_IN_FILTERS = frozenset(
    {"$ne", "$nin", "$not", "$nor", "$regex", "$where", "$expr", "$near", "$nearSphere", "$text"}
)


def as_kept(index: Mapping[str, Any], collation: Mapping[str, Any] | None = None) -> Document:
    """Return a definition as the server keeps it, in a collection of this collation."""
    full = {"v": 2, **index, "key": dict(index["key"])}
    if _is_of_the_id(full):
        full["name"] = "_id_"
    collation = full.pop("collation", None) or collation
    if collation and collation["locale"] != "simple":
        full["collation"] = {**_COLLATION, **collation}
    return full


def check(index: Mapping[str, Any]) -> None:
    """Raise what the server says of a definition that it takes in no collection."""
    if _is_of_the_id(index) and (odd := sorted(set(index) - _OF_THE_ID)):
        message = f"The field '{odd[0]}' is not valid for an _id index specification"
        raise refusal(197, message)
    if problem := _problem(index):
        raise refusal(67, problem)


def already(there: Mapping[str, Document], wanted: Document) -> Document | None:
    """Return the one that is the same, or raise what the server says of a conflict."""
    if _is_of_the_id(wanted):
        return there.get("_id_", wanted)
    if (same_name := there.get(wanted["name"])) is not None:
        return _of_that_name(same_name, wanted)
    signature = _signature(wanted)
    alike = next((each for each in there.values() if _signature(each) == signature), None)
    if alike is not None:
        what = "Index" if _options(alike) == _options(wanted) else "An equivalent index"
        raise refusal(85, f"{what} already exists with a different name: {alike['name']}")
    if len(there) >= _MAX_INDEXES:
        raise refusal(67, f"add index fails, too many indexes: {_MAX_INDEXES} are there")
    return None


def special(index: Mapping[str, Any]) -> str | None:
    """Return the kind of an index whose values the server examines by rules of that kind."""
    if any("$**" in path for path in index["key"]):
        return "wildcard"
    return next((kind for kind in index["key"].values() if isinstance(kind, str)), None)


def ordered(key: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return a key such that the order counts when it is compared."""
    return list(key.items())


def _of_that_name(there: Document, wanted: Document) -> Document:
    both = f"Requested index: {shown(wanted)}, existing index: {shown(there)}"
    if _signature(there) != _signature(wanted):
        message = "An existing index has the same name as the requested index."
        raise refusal(86, f"{message} {both}")
    if _options(there) != _options(wanted):
        message = "An equivalent index already exists with the same name but different options."
        raise refusal(85, f"{message} {both}")
    return there


def _problem(index: Mapping[str, Any]) -> str | None:
    query = index.get("partialFilterExpression")
    if "expireAfterSeconds" in index and len(index["key"]) > 1:
        return "TTL indexes are single-field indexes, compound indexes do not support TTL"
    if index.get("sparse") and query is not None:
        return 'cannot mix "partialFilterExpression" and "sparse" options'
    if bad := _NOT_IN_FILTERS.intersection(_operators(query)):
        return f"Expression not supported in partial index: {min(bad)}"
    if index.get("unique") and special(index) in ("wildcard", "hashed"):
        return f"Index type '{special(index)}' does not support the unique option"
    return None


def _is_of_the_id(index: Mapping[str, Any]) -> bool:
    return ordered(index["key"]) in ([("_id", 1)], [("_id", -1)])


def _signature(index: Mapping[str, Any]) -> object:
    """Return what no two indexes of a collection have in common."""
    collation = {**_COLLATION, **index["collation"]} if index.get("collation") else {}
    collation.pop("version", None)
    flags = bool(index.get("unique")), bool(index.get("sparse"))
    return ordered(index["key"]), flags, collation, index.get("partialFilterExpression")


def _options(index: Mapping[str, Any]) -> Document:
    return {name: value for name, value in index.items() if name not in _NOT_COMPARED}


def _operators(query: object) -> Iterator[str]:
    if isinstance(query, dict):
        for name, value in query.items():
            if name.startswith("$"):
                yield name
            if name == "$exists" and not value:
                yield "$not"
            yield from _operators(value)
    elif isinstance(query, list):
        for each in query:
            yield from _operators(each)
