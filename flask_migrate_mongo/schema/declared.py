"""What an application declares: collections with their indexes and validators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from itertools import combinations

from flask_migrate_mongo.driver.server import Document, DocumentView

from .identity import Answer, answer, is_id
from .normal_forms import VALIDATION, by_value, collation_form
from .search import SearchIndex

Direction = int | str
"""1, -1, or the kind of an index: "text", "2dsphere", "2d", "hashed"."""

Keys = str | Sequence[str | tuple[str, Direction]] | Mapping[str, Direction]

LEVELS = ("strict", "moderate", "off")
ACTIONS = ("error", "warn", "errorAndLog")


@dataclass(frozen=True, slots=True)
class Index:
    """An index: its keys, its options, and why it exists.

    `keys` is the name of a field, a list of names and of pairs of a name and a direction, or a mapping. `options` holds further
    options as `createIndexes` names them: `bits`, `min` and `max` of a 2d index, `storageEngine`. An option that is None
    is not sent. Raises an error if the values cannot be stored or used.
    """

    keys: Keys
    _: KW_ONLY
    why: str = ""
    name: str | None = None
    unique: bool = False
    sparse: bool = False
    hidden: bool = False
    expire_after: timedelta | float | None = None
    partial: DocumentView | None = None
    collation: DocumentView | None = None
    wildcard_projection: DocumentView | None = None
    weights: DocumentView | None = None
    default_language: str | None = None
    language_override: str | None = None
    options: DocumentView = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.keys:
            msg = "An index has no keys."
            raise ValueError(msg)
        _check_options("index", self.label, self.options, INDEX_PARAMETERS)
        _check_expiry(self.label, self.expire_after)
        by_value(self.spec)

    @property
    def key(self) -> Document:
        """The key pattern."""
        if isinstance(self.keys, Mapping):
            return dict(self.keys)
        keys = [self.keys] if isinstance(self.keys, str) else self.keys
        pairs = ((each, 1) if isinstance(each, str) else each for each in keys)
        return dict(pairs)

    @property
    def label(self) -> str:
        """Its name: the given one, or the one that pymongo would choose."""
        return self.name or name_of(self.key)

    @property
    def spec(self) -> Document:
        """The specification for `createIndexes`."""
        flags = {name: True for name in ("unique", "sparse", "hidden") if getattr(self, name)}
        given = {
            "expireAfterSeconds": seconds(self.expire_after),
            "partialFilterExpression": self.partial,
            "collation": self.collation,
            "wildcardProjection": self.wildcard_projection,
            "weights": self.weights,
            "default_language": self.default_language,
            "language_override": self.language_override,
            **self.options,
        }
        sent = {name: value for name, value in given.items() if value is not None}
        return {"key": self.key, "name": self.label, **flags, **sent}


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection: its indexes, its validator and its other options.

    `level` and `action` are the `validationLevel` and `validationAction`. `expire_after` is that of a time series or a
    clustered collection. `images` keeps the pre- and post-images of documents for change streams. `options` holds the
    options that can be set only when the collection is created, as `create` names them: `capped`, `size` and `max`,
    `timeseries`, `clusteredIndex`. Raises an error if the values cannot be stored or used.
    """

    name: str
    indexes: Sequence[Index] = ()
    _: KW_ONLY
    validator: DocumentView | None = None
    level: str = "strict"
    action: str = "error"
    collation: DocumentView | None = None
    expire_after: timedelta | float | None = None
    images: bool = False
    search_indexes: Sequence[SearchIndex] = ()
    options: DocumentView = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_options("collection", self.name, self.options, COLLECTION_PARAMETERS)
        _check_expiry(self.name, self.expire_after)
        for value, accepted in ((self.level, LEVELS), (self.action, ACTIONS)):
            if value not in accepted:
                msg = f"{self.name}: {value!r} is none of {', '.join(accepted)}."
                raise ValueError(msg)
        by_value(self.create_options)
        self._check_indexes()

    def _check_indexes(self) -> None:
        others = [index for index in self.indexes if not is_id(index.spec)]
        for one, other in combinations(others, 2):
            if answer(self.spec_of(one), self.spec_of(other)) is not Answer.BESIDE:
                msg = f"{self.name}: the server would not accept both {one.label} and {other.label}: they have the same name, or differ only in options that do not make another index."
                raise ValueError(msg)
        names = [each.name for each in self.search_indexes]
        if len(names) > len(set(names)):
            msg = f"{self.name}: two search indexes have the same name."
            raise ValueError(msg)

    def spec_of(self, index: Index) -> Document:
        """Make the specification of an index of this collection, with the collation that it inherits."""
        inherited = {"collation": self.collation} if collation_form(self.collation) else {}
        return {**inherited, **index.spec}

    @property
    def create_options(self) -> Document:
        """The options for `create`."""
        rules = {
            "validator": self.validator,
            "validationLevel": self.level,
            "validationAction": self.action,
        }
        given = {
            **{name: value for name, value in rules.items() if value != VALIDATION[name]},
            "collation": self.collation,
            "expireAfterSeconds": seconds(self.expire_after),
            "changeStreamPreAndPostImages": {"enabled": True} if self.images else None,
            **self.options,
        }
        return {name: value for name, value in given.items() if value is not None}


INDEX_PARAMETERS = {
    "key": "keys",
    "name": "name",
    "unique": "unique",
    "sparse": "sparse",
    "hidden": "hidden",
    "expireAfterSeconds": "expire_after",
    "partialFilterExpression": "partial",
    "collation": "collation",
    "wildcardProjection": "wildcard_projection",
    "weights": "weights",
    "default_language": "default_language",
    "language_override": "language_override",
}
"""The parameters of Index, by the name of the option in the server."""

COLLECTION_PARAMETERS = {
    "validator": "validator",
    "validationLevel": "level",
    "validationAction": "action",
    "collation": "collation",
    "expireAfterSeconds": "expire_after",
    "changeStreamPreAndPostImages": "images",
}
"""The parameters of Collection, by the name of the option in the server."""


def name_of(key: DocumentView) -> str:
    """Build the name that pymongo gives to an index without one."""
    return "_".join(f"{name}_{direction}" for name, direction in key.items())


def seconds(period: timedelta | float | None) -> float | None:
    """Convert a period to seconds, to a whole number where possible."""
    if not isinstance(period, timedelta):
        return period
    found = period.total_seconds()
    return int(found) if found.is_integer() else found


def _check_options(
    kind: str, label: str, options: DocumentView, parameters: dict[str, str]
) -> None:
    for name in options:
        if name in parameters:
            msg = f"The {kind} {label}: write {parameters[name]}=… instead of {name!r} in options."
            raise ValueError(msg)


def _check_expiry(label: str, period: object) -> None:
    if isinstance(period, bool) or not isinstance(period, timedelta | int | float | None):
        msg = f"{label}: expire_after is {period!r}, but it has to be a timedelta or a number of seconds."
        raise TypeError(msg)
