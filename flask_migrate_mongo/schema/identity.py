"""The server's own rule for two indexes: the same, different, or in conflict.

It works on specifications as `createIndexes` takes them and as `listIndexes` shows them. Indexes with different
identities can exist side by side.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from enum import Enum

from flask_migrate_mongo.driver.server import Document, DocumentView

from .normal_forms import by_value, collation_form, conditions, projection_form

Identity = tuple[tuple[str, Hashable], ...]
"""The options that make an index another one, each with its form."""

_IDENTIFYING = frozenset(
    {"key", "unique", "sparse", "collation", "partialFilterExpression", "wildcardProjection"}
)
IGNORED_OPTIONS = frozenset(
    {
        *("name", "v", "ns", "background", "dropDups", "clustered", "originalSpec"),
        *("textIndexVersion", "2dsphereIndexVersion"),
    }
)
"""Options that the server ignores, or sets itself."""

_TEXT: DocumentView = {"default_language": "english", "language_override": "language"}
_FLAGS = frozenset({"hidden", "prepareUnique"})


class Answer(Enum):
    """What `createIndexes` does with an index if another one is there: a refusal has its error code."""

    EXISTS = "exists"
    BESIDE = "beside"
    OTHER_NAME_OR_OPTIONS = 85
    NAME_TAKEN = 86


def identity(spec: DocumentView, inherited: DocumentView | None = None) -> Identity:
    """Find the identity of an index; `inherited` is the collation of its collection, if it names none."""
    return (
        ("key", _key(spec)),
        ("unique", bool(spec.get("unique"))),
        ("sparse", bool(spec.get("sparse"))),
        ("collation", collation_form(spec.get("collation", inherited))),
        ("partialFilterExpression", conditions(spec.get("partialFilterExpression") or {})),
        ("wildcardProjection", projection_form(spec.get("wildcardProjection"))),
    )


def other_options(spec: DocumentView) -> dict[str, Hashable]:
    """List the options that do not belong to the identity, each with its form."""
    return dict(_others({**_TEXT, **spec, "weights": weights(spec)} if is_text(spec) else spec))


def _others(spec: DocumentView) -> Iterator[tuple[str, Hashable]]:
    for name, value in spec.items():
        if name in _FLAGS:
            if value:
                yield name, True
        elif name == "weights":
            yield name, frozenset((field, by_value(weight)) for field, weight in value.items())
        elif name not in _IDENTIFYING | IGNORED_OPTIONS:
            yield name, by_value(value)


def answer(
    present: DocumentView, new: DocumentView, inherited: DocumentView | None = None
) -> Answer:
    """Decide as the server does if `new` is created while `present`, as `listIndexes` shows it, exists."""
    if is_id(new):
        return Answer.EXISTS
    if identity(present) == identity(new, inherited):
        same = present["name"] == new["name"] and _fixed(present) == _fixed(new)
        return Answer.EXISTS if same else Answer.OTHER_NAME_OR_OPTIONS
    if present["name"] == new["name"]:
        return Answer.NAME_TAKEN
    # A collection has at most one text index.
    return Answer.OTHER_NAME_OR_OPTIONS if is_text(present) and is_text(new) else Answer.BESIDE


def has_same_key(one: DocumentView, other: DocumentView) -> bool:
    """Whether two indexes have the same keys in the same order, and text indexes the same fields."""
    same_text = (
        not (is_text(one) and is_text(other)) or weights(one).keys() == weights(other).keys()
    )
    return _key(one) == _key(other) and same_text


def supports(spec: DocumentView, shard_key: DocumentView) -> bool:
    """Whether the server can use the index for a shard key: it drops and hides no index that alone can."""
    keys, wanted = ([(n, by_value(d)) for n, d in key.items()] for key in (spec["key"], shard_key))
    is_whole = not any(spec.get(each) for each in ("sparse", "partialFilterExpression", "hidden"))
    is_simple = collation_form(spec.get("collation")) is None
    return bool(wanted) and keys[: len(wanted)] == wanted and is_whole and is_simple


def is_unique_across_shards(spec: DocumentView, shard_key: DocumentView) -> bool:
    """Whether a sharded collection can have the index: a unique one has to begin with the fields of the shard key."""
    fields, wanted = list(spec["key"]), list(shard_key)
    return not spec.get("unique") or fields[0] == "_id" or fields[: len(wanted)] == wanted


def is_id(spec: DocumentView) -> bool:
    """Whether this is the index on `_id`, which every collection has."""
    return list(spec["key"].items()) == [("_id", 1)]


def is_text(spec: DocumentView) -> bool:
    """Whether this is a text index."""
    return "text" in spec["key"].values()


def weights(spec: DocumentView) -> Document:
    """List the fields of a text index with their weights."""
    fields = [name for name, kind in spec["key"].items() if kind == "text" and name != "_fts"]
    given = spec.get("weights")
    return {**dict.fromkeys(fields, 1), **(given if isinstance(given, Mapping) else {})}


def _key(spec: DocumentView) -> Hashable:
    key: Document = {}
    for name, kind in spec["key"].items():
        # The server puts these two in the place of the fields of a text index.
        key.update({"_fts": "text", "_ftsx": 1} if kind == "text" else {name: kind})
    return by_value(key)


def _fixed(spec: DocumentView) -> dict[str, Hashable]:
    # The server does not look at `hidden` here: it answers "exists", and changes nothing.
    return {name: form for name, form in other_options(spec).items() if name != "hidden"}
