"""Search and vector indexes: as they are declared, as the server lists them, and when two definitions mean the same."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import KW_ONLY, dataclass

from flask_migrate_mongo.driver.server import Document, DocumentView

from .normal_forms import by_value

SEARCH, VECTOR = "search", "vectorSearch"

NO_SEARCH = frozenset({59, 115, 303, 304, 323, 8000, 31082, 40324, 6047401})
"""How servers refuse `$listSearchIndexes` that have no search indexes.

They do not know the command or the stage, it does not belong to the strict API version, it is not allowed in this Atlas tier, the
search process is not configured, or the server is older than 8.2 and not in Atlas.
"""

_FAILED = "FAILED"
_NOT_BUILT = frozenset({"PENDING", "BUILDING", _FAILED, "DELETING", "DOES_NOT_EXIST"})


@dataclass(frozen=True, slots=True)
class SearchIndex:
    """A search index, or with `kind="vectorSearch"` a vector index: its definition, and why it exists.

    Raises an error if the values cannot be stored or used.
    """

    definition: DocumentView
    _: KW_ONLY
    why: str = ""
    name: str = "default"
    kind: str = SEARCH

    def __post_init__(self) -> None:
        if self.kind not in (SEARCH, VECTOR):
            msg = f"The search index {self.name}: {self.kind!r} is neither {SEARCH} nor {VECTOR}."
            raise ValueError(msg)
        by_value(self.definition)


@dataclass(frozen=True, slots=True)
class LiveSearchIndex:
    """A search index as `$listSearchIndexes` shows it. Amazon DocumentDB shows neither kind nor definition."""

    name: str
    kind: str | None = None
    definition: Document | None = None
    status: str = "READY"
    queryable: bool = True

    @classmethod
    def of(cls, listed: DocumentView) -> LiveSearchIndex:
        """Read an entry of `$listSearchIndexes`."""
        definition, status = listed.get("latestDefinition"), str(listed.get("status", "READY"))
        is_queryable = bool(listed.get("queryable"))
        return cls(listed["name"], listed.get("type"), definition, status, is_queryable)

    @property
    def is_ready(self) -> bool:
        """Whether queries use its latest definition."""
        return self.queryable and self.status not in _NOT_BUILT

    @property
    def has_failed(self) -> bool:
        """Whether its build failed."""
        return self.status == _FAILED

    def differs_from(self, definition: DocumentView) -> bool:
        """Whether its definition is known, and another one."""
        return self.definition is not None and search_form(self.definition) != search_form(
            definition
        )


# --- definitions

# What Atlas adds to a definition, or takes for what it leaves out.
_FIELD_DEFAULTS: Mapping[object, DocumentView] = {
    "autocomplete": {
        "analyzer": "lucene.standard",
        "minGrams": 2,
        "maxGrams": 15,
        "tokenization": "edgeGram",
        "foldDiacritics": True,
    },
    "document": {"dynamic": False, "fields": {}},
    "embeddedDocuments": {"dynamic": False, "fields": {}},
    "geo": {"indexShapes": False},
    "number": {"representation": "double", "indexDoubles": True, "indexIntegers": True},
    "string": {"indexOptions": "offsets", "norms": "include", "store": True},
    "token": {"normalizer": "none"},
    "vector": {
        "quantization": "none",
        "indexingMethod": "hnsw",
        "hnswOptions": {"maxEdges": 16, "numEdgeCandidates": 100},
    },
}
_DEFAULTS: DocumentView = {
    "analyzer": "lucene.standard",
    "analyzers": [],
    "mappings": {},
    "numPartitions": 1,
    "storedSource": False,
    "synonyms": [],
}


def search_form(definition: DocumentView) -> Hashable:
    """Complete a definition, and make a form in which the order of fields does not count."""
    whole = {**_DEFAULTS, **definition}
    whole.setdefault("searchAnalyzer", whole["analyzer"])
    whole["mappings"] = {**_FIELD_DEFAULTS["document"], **whole["mappings"]}
    return _form(whole)


def _form(value: object) -> Hashable:
    if isinstance(value, Mapping):
        return frozenset((name, _part(name, each)) for name, each in _completed(value).items())
    if isinstance(value, list | tuple):
        return tuple(map(_form, value))
    return by_value(value)


def _part(name: str, value: object) -> Hashable:
    if name == "fields" and isinstance(value, Mapping):
        # A field can have several types, as a list.
        return frozenset((field, _unordered(each)) for field, each in value.items())
    # The fields of a vector index are a list.
    return _unordered(value) if name == "fields" else _form(value)


def _unordered(value: object) -> Hashable:
    return frozenset(map(_form, value if isinstance(value, list | tuple) else [value]))


def _completed(field: DocumentView) -> DocumentView:
    kind = field.get("type")
    return {**_FIELD_DEFAULTS.get(kind, {}), **field} if isinstance(kind, str) else field
