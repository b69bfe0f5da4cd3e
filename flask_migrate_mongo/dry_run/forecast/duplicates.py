"""What stands in the way of an index: keys that occur more than once, and parallel arrays.

The keys are computed by the server, under the rules by which it makes an index: a missing field is
null, an array gives a key for each element, an empty one a key of its own, and a subdocument is a
key as a whole. A path goes into the arrays on its way, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pymongo.collection import Collection

    from flask_migrate_mongo.driver.server import Document

FIRST = 5
"""How many of the repeated keys are named."""

_EMPTY: Document = {"": []}  # An empty array's key is not that of null: no value looks like this.


@dataclass(frozen=True, slots=True)
class Repeated:
    """A key that several documents have."""

    key: Mapping[str, Any]
    count: int


@dataclass(frozen=True, slots=True)
class Duplicates:
    """How many keys occur in more than one document, in how many documents, and which keys first."""

    keys: int
    documents: int
    first: tuple[Repeated, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """How many documents an index covers, and which of its paths go through arrays in some."""

    covered: int
    arrays: tuple[str, ...]


class KeySpace:
    """The keys that a collection's documents would have in an index."""

    def __init__(self, collection: Collection[Document], index: Mapping[str, Any]) -> None:
        self._collection = collection
        self._paths = tuple(index["key"])
        self._sparse = bool(index.get("sparse"))
        self._filter = index.get("partialFilterExpression") or {}
        self._options = {"collation": index["collation"]} if index.get("collation") else {}
        self._prefixes = tuple(dict.fromkeys(p for path in self._paths for p in _prefixes(path)))

    def survey(self) -> Survey:
        """Count the covered documents and find the arrays, in one pass."""
        arrays = {
            f"a{n}": {"$sum": _cond({"$isArray": [f"${p}"]}, 1, 0)}
            for n, p in enumerate(self._prefixes)
        }
        found = self._one([*self._covered(), {"$group": {"_id": None, "n": {"$sum": 1}, **arrays}}])
        if found is None:
            return Survey(0, ())
        through = (path for n, path in enumerate(self._prefixes) if found[f"a{n}"])
        return Survey(found["n"], tuple(sorted(through, key=lambda path: path.count("."))))

    def unclear(self, survey: Survey) -> str | None:
        """Return why the keys cannot be computed exactly, or None when they can."""
        if not survey.arrays:
            return None
        if any(part.isdigit() for path in self._paths for part in path.split(".")):
            return "a number in its path may be a position in an array or a name"
        if self._options:
            return "arrays under a collation are compared by the server alone"
        return None

    def parallel_arrays(self, survey: Survey) -> tuple[str, str] | None:
        """Return two paths that are both arrays in one document, of which no index can be made."""
        marks = {path: f"$__{n}" for n, path in enumerate(survey.arrays)}
        for one, other in combinations(survey.arrays, 2):
            if other.startswith(f"{one}."):
                continue
            both = [{"$ne": [marks[one], "no"]}, {"$ne": [marks[other], "no"]}]
            stages = [
                *self._covered(),
                *_unwound(survey.arrays),
                {"$match": {"$expr": {"$and": both}}},
            ]
            if self._one([*stages, {"$limit": 1}]):
                return one, other
        return None

    def duplicates(self, survey: Survey) -> Duplicates:
        """Find the keys that more than one document has."""
        stages = self._from_arrays(survey.arrays) if survey.arrays else self._from_scalars()
        first = [{"$sort": {"n": -1, "_id": 1}}, {"$limit": FIRST}, {"$project": {"n": 1}}]
        facets = {
            "first": first,
            "total": [{"$group": {"_id": None, "keys": {"$sum": 1}, "n": {"$sum": "$n"}}}],
        }
        if survey.arrays:
            facets["documents"] = [
                *({"$unwind": "$documents"}, {"$group": {"_id": "$documents"}}),
                {"$group": {"_id": None, "n": {"$sum": 1}}},
            ]
        found = self._one([*stages, {"$match": {"n": {"$gt": 1}}}, {"$facet": facets}])
        if found is None or not found["total"]:
            return Duplicates(0, 0, ())
        documents = (found["documents"] if survey.arrays else found["total"])[0]["n"]
        repeated = tuple(Repeated(self._named(each["_id"]), each["n"]) for each in found["first"])
        return Duplicates(found["total"][0]["keys"], documents, repeated)

    def _covered(self) -> list[Document]:
        present = [{path: {"$exists": True}} for path in self._paths]
        stages: list[Document] = [{"$match": self._filter}] if self._filter else []
        return [*stages, {"$match": {"$or": present}}] if self._sparse else stages

    def _from_scalars(self) -> list[Document]:
        key = {str(n): _or_null(f"${path}") for n, path in enumerate(self._paths)}
        return [*self._covered(), {"$group": {"_id": key, "n": {"$sum": 1}}}]

    def _from_arrays(self, arrays: Sequence[str]) -> list[Document]:
        marks = {path: f"$__{n}" for n, path in enumerate(arrays)}
        key = {str(n): _element(path, marks) for n, path in enumerate(self._paths)}
        present = [_is_present(path, marks) for path in self._paths]
        kept = [{"$match": {"$expr": {"$or": present}}}] if self._sparse else []
        # By document first: the same key twice in one document's array is one key of it.
        by_document = {"$group": {"_id": {"document": "$_id", "key": key}}}
        by_key = {"_id": "$_id.key", "n": {"$sum": 1}, "documents": {"$push": "$_id.document"}}
        return [*self._covered(), *_unwound(arrays), *kept, by_document, {"$group": by_key}]

    def _named(self, key: Mapping[str, Any]) -> Document:
        values = (key.get(str(n)) for n in range(len(self._paths)))
        return {p: [] if v == _EMPTY else v for p, v in zip(self._paths, values, strict=True)}

    def _one(self, stages: list[Document]) -> Document | None:
        return next(self._collection.aggregate(stages, allowDiskUse=True, **self._options), None)


def _unwound(arrays: Iterable[str]) -> list[Document]:
    """Return the stages that make a document for each element, and mark what was an array."""
    stages: list[Document] = []
    for n, path in enumerate(arrays):
        value = _reached(path)
        kind = _cond({"$eq": [value, []]}, "empty", _cond({"$isArray": [value]}, "array", "no"))
        stages += [
            {"$addFields": {f"__{n}": kind}},
            {"$unwind": {"path": f"${path}", "preserveNullAndEmptyArrays": True}},
        ]
    return stages


def _prefixes(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


def _reached(path: str) -> Any:  # noqa: ANN401
    """Return the value at a path, null where an array in an array is on the way."""
    before = [{"$isArray": [f"${prefix}"]} for prefix in _prefixes(path)[:-1]]
    return _cond({"$or": before}, None, f"${path}") if before else f"${path}"


def _element(path: str, marks: Mapping[str, str]) -> Document:
    value = _or_null(_reached(path))
    if path not in marks:
        return value
    return _cond({"$eq": [marks[path], "empty"]}, {"$literal": _EMPTY}, value)


def _is_present(path: str, marks: Mapping[str, str]) -> Document:
    there = {"$ne": [{"$type": f"${path}"}, "missing"]}
    return {"$or": [there, {"$eq": [marks[path], "empty"]}]} if path in marks else there


def _or_null(value: object) -> Document:
    return {"$ifNull": [value, None]}


def _cond(condition: object, then: object, otherwise: object) -> Document:
    return {"$cond": [condition, then, otherwise]}
