"""Compares what is declared with what is live, purely: values in, typed differences out."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from flask_migrate_mongo.driver.server import DocumentView
from flask_migrate_mongo.model.values import Event

from .declared import Collection, Index
from .identity import identity, is_id, is_text, is_unique_across_shards, other_options, weights
from .live import IGNORED_COLLECTION_OPTIONS, IndexUse, LiveCollection, LiveIndex, Usage
from .normal_forms import by_value, collation_form, conditions, json_schema_form, validation
from .search import LiveSearchIndex, SearchIndex


class DifferenceKind(str, Enum):
    """What differs. The last five are notes: nothing declared is missing or different."""

    MISSING_COLLECTION = "missing-collection"
    FIXED_OPTION = "fixed-option"
    """An option that can be set only when a collection is created."""
    COLLECTION_OPTION = "collection-option"
    MISSING_INDEX = "missing-index"
    OTHER_INDEX = "other-index"
    """An index with another identity has the name, or the key, of a declared one."""
    INDEX_OPTION = "index-option"
    """An index differs in options that make no other index, so the two cannot exist side by side."""
    BUILDING_INDEX = "building-index"
    MISSING_SEARCH_INDEX = "missing-search-index"
    OTHER_SEARCH_INDEX = "other-search-index"
    UNREADY_SEARCH_INDEX = "unready-search-index"
    RETURNED_INDEX = "returned-index"
    """An index that a migration dropped, and that is there again."""
    OTHER_NAME = "other-name"
    NO_SEARCH = "no-search"
    """The server has no search indexes, so the declared ones are not compared."""
    UNDECLARED_INDEX = "undeclared-index"
    UNDECLARED_SEARCH_INDEX = "undeclared-search-index"
    UNDECLARED_COLLECTION = "undeclared-collection"


UNDECLARED = frozenset(
    {
        DifferenceKind.UNDECLARED_INDEX,
        DifferenceKind.UNDECLARED_SEARCH_INDEX,
        DifferenceKind.UNDECLARED_COLLECTION,
    }
)
"""What is live, and nobody declared."""

_NOTES = UNDECLARED | {DifferenceKind.OTHER_NAME, DifferenceKind.NO_SEARCH}


class Way(str, Enum):
    """How a change can be made."""

    COLL_MOD = "collMod"
    BESIDE = "beside"
    """Build the new index beside the old one, then drop the old one: there is always an index."""
    REBUILD = "rebuild"
    """Drop the index and build it again: in between there is none."""
    NEW_COLLECTION = "new-collection"
    UPDATE = "updateSearchIndex"
    """Queries use the old definition until the server has built the new one."""


@dataclass(frozen=True, slots=True)
class Change:
    """An option with its two values, as the server names and shows them; None for one that is not given."""

    option: str
    declared: object
    live: object
    way: Way


@dataclass(frozen=True, slots=True)
class SchemaDifference:
    """One difference between what is declared and what is live, with both sides of it."""

    kind: DifferenceKind
    collection: str
    index: Index | None = None
    live_index: LiveIndex | None = None
    changes: tuple[Change, ...] = ()
    declared: Collection | None = None
    live: LiveCollection | None = None
    use: IndexUse = field(default_factory=IndexUse)
    search: SearchIndex | None = None
    live_search: LiveSearchIndex | None = None
    dropped: Event | None = None
    """How a migration dropped the index."""

    @property
    def is_note(self) -> bool:
        """Whether everything declared is there all the same."""
        return self.kind in _NOTES

    @property
    def index_name(self) -> str | None:
        """The name of the declared index, or else of the live one."""
        declared = self.search.name if self.search else None
        return self.index.label if self.index else declared or self.live_name

    @property
    def keeps_live_index(self) -> bool:
        """Whether the live index supports the shard key, so that it is neither dropped nor hidden."""
        return bool(self.live and self.live_index and self.live.needs(self.live_index))

    @property
    def is_refused(self) -> bool:
        """Whether the server refuses the declared index, which is unique, because of the shard key."""
        key = self.live.shard_key if self.live else {}
        return self.index is not None and not is_unique_across_shards(self.index.spec, key)

    @property
    def live_name(self) -> str | None:
        """The name of the live index."""
        live = self.live_index or self.live_search
        return None if live is None else live.name


@dataclass(frozen=True, slots=True)
class SchemaDiff:
    """The differences and the notes, and how much was compared."""

    found: tuple[SchemaDifference, ...]
    collections: int
    indexes: int

    @property
    def differences(self) -> tuple[SchemaDifference, ...]:
        """What is declared, and missing or different."""
        return tuple(each for each in self.found if not each.is_note)

    @property
    def notes(self) -> tuple[SchemaDifference, ...]:
        """What is no difference, but worth knowing."""
        return tuple(each for each in self.found if each.is_note)

    def with_usage(self, usage: Usage) -> SchemaDiff:
        """Add how large and how used the indexes are that nobody declared."""
        found = tuple(
            replace(each, use=usage.get((each.collection, each.live_name), IndexUse()))
            if each.kind is DifferenceKind.UNDECLARED_INDEX
            else each
            for each in self.found
        )
        return replace(self, found=found)

    def with_dropped(self, dropped: Mapping[tuple[str, str], Event]) -> SchemaDiff:
        """Add how a migration dropped undeclared indexes, which are there again."""
        found = tuple(_returned(each, dropped) for each in self.found)
        return replace(self, found=found)


def _returned(
    found: SchemaDifference, dropped: Mapping[tuple[str, str], Event]
) -> SchemaDifference:
    event = dropped.get((found.collection, found.live_name or ""))
    if event is None or found.kind is not DifferenceKind.UNDECLARED_INDEX:
        return found
    return replace(found, kind=DifferenceKind.RETURNED_INDEX, dropped=event)


def compare(declared: Sequence[Collection], live: Sequence[LiveCollection]) -> SchemaDiff:
    """Compare the declared collections with the live ones, in this order."""
    existing = {each.name: each for each in live}
    found = [diff for each in declared for diff in _of_collection(each, existing.get(each.name))]
    names = {each.name for each in declared}
    found += [
        SchemaDifference(DifferenceKind.UNDECLARED_COLLECTION, each.name, live=each)
        for each in live
        if each.name not in names and each.kind != "view"
    ]
    return SchemaDiff(tuple(found), len(declared), sum(len(each.indexes) for each in declared))


def _of_collection(declared: Collection, live: LiveCollection | None) -> Iterator[SchemaDifference]:
    name = declared.name
    if live is None:
        yield SchemaDifference(DifferenceKind.MISSING_COLLECTION, name, declared=declared)
        return
    if live.kind == "view":
        change = Change("type", "collection", "view", Way.NEW_COLLECTION)
        yield SchemaDifference(
            DifferenceKind.FIXED_OPTION, name, changes=(change,), declared=declared, live=live
        )
        return
    for change in _option_changes(declared.create_options, live.options):
        is_fixed = change.way is Way.NEW_COLLECTION
        kind = DifferenceKind.FIXED_OPTION if is_fixed else DifferenceKind.COLLECTION_OPTION
        yield SchemaDifference(kind, name, changes=(change,), declared=declared, live=live)
    for each in (*_of_indexes(declared, live), *_of_search_indexes(declared, live)):
        yield replace(each, declared=declared, live=live)


# --- options of collections

_CHANGEABLE = frozenset(
    {
        *("validator", "validationLevel", "validationAction", "expireAfterSeconds"),
        "changeStreamPreAndPostImages",
    }
)
_BLOCK = 256
"""Bytes: some servers round the size of a capped collection up to a multiple of it."""

_SPANS = {"seconds": 3_600, "minutes": 86_400, "hours": 2_592_000}
"""How many seconds a bucket of a time series spans, by its granularity."""


def _option_changes(declared: DocumentView, live: DocumentView) -> Iterator[Change]:
    wanted, present = _option_forms(declared), _option_forms(live)
    names = wanted.keys() | present.keys()
    if wanted["capped"] != present["capped"]:
        # They belong to it.
        names -= {"size", "max"}
    for name in sorted(names):
        if wanted.get(name) != present.get(name):
            way = Way.COLL_MOD if name in _CHANGEABLE else Way.NEW_COLLECTION
            yield Change(name, declared.get(name), live.get(name), way)


def _option_forms(options: DocumentView) -> dict[str, Hashable]:
    """Make forms of the options, with those that the server fills in; None for what is not set."""
    rest = {n: by_value(v) for n, v in options.items() if n not in IGNORED_COLLECTION_OPTIONS}
    images = options.get("changeStreamPreAndPostImages") or {}
    rules = validation(options)
    return {
        **rest,
        **rules,
        "validator": conditions(rules["validator"]),
        "changeStreamPreAndPostImages": bool(images.get("enabled")),
        "collation": collation_form(options.get("collation")),
        "capped": bool(options.get("capped")),
        "size": -(-int(options.get("size") or 0) // _BLOCK) if options.get("capped") else None,
        "timeseries": _time_series(options.get("timeseries")),
        "clusteredIndex": _clustered(options.get("clusteredIndex")),
    }


def _time_series(given: DocumentView | None) -> Hashable:
    if given is None:
        return None
    whole = dict(given)
    if "bucketRoundingSeconds" not in whole:
        whole.setdefault("granularity", "seconds")
        whole.setdefault("bucketMaxSpanSeconds", _SPANS.get(whole["granularity"]))
    return frozenset((name, by_value(value)) for name, value in whole.items())


def _clustered(given: object) -> Hashable:
    if not isinstance(given, Mapping):
        return by_value(given) if given else None
    whole = {"name": "_id_", **given}
    return frozenset((name, by_value(value)) for name, value in whole.items() if name != "v")


# --- indexes

_TWO_D = {"bits": by_value(26), "min": by_value(-180), "max": by_value(180)}


def _of_indexes(declared: Collection, live: LiveCollection) -> Iterator[SchemaDifference]:
    wanted = {identity(declared.spec_of(i)): i for i in declared.indexes if not is_id(i.spec)}
    present = {identity(each.spec): each for each in live.indexes}
    missing = {own: index for own, index in wanted.items() if own not in present}
    rest = [each for each in live.own_indexes if identity(each.spec) not in wanted]
    others = _counterparts(list(missing.values()), rest)
    for own, index in wanted.items():
        if own in present:
            yield from _of_pair(declared, index, present[own])
        elif (other := others.get(index.label)) is None:
            yield SchemaDifference(DifferenceKind.MISSING_INDEX, declared.name, index)
        else:
            changes = tuple(_differing(declared.spec_of(index), other.spec))
            yield SchemaDifference(DifferenceKind.OTHER_INDEX, declared.name, index, other, changes)
    taken = {other.name for other in others.values()}
    for left in rest:
        if left.name not in taken and not live.needs(left):
            yield SchemaDifference(DifferenceKind.UNDECLARED_INDEX, declared.name, live_index=left)


def _counterparts(missing: Sequence[Index], rest: Sequence[LiveIndex]) -> dict[str, LiveIndex]:
    """Find the live index that is in the place of a missing one: by its name, then by its key."""
    found: dict[str, LiveIndex] = {}
    for fits in (_have_same_name, _have_same_key):
        for index in missing:
            taken = {each.name for each in found.values()}
            for each in rest:
                if index.label not in found and each.name not in taken and fits(index, each):
                    found[index.label] = each
    return found


def _have_same_name(index: Index, live: LiveIndex) -> bool:
    return index.label == live.name


def _have_same_key(index: Index, live: LiveIndex) -> bool:
    # The key is the first part of an identity.
    both_text = is_text(index.spec) and is_text(live.spec)
    return both_text or identity(index.spec)[0] == identity(live.spec)[0]


def _of_pair(declared: Collection, index: Index, live: LiveIndex) -> Iterator[SchemaDifference]:
    name = declared.name
    if live.building:
        yield SchemaDifference(DifferenceKind.BUILDING_INDEX, name, index, live)
        return
    if changes := tuple(_differing(declared.spec_of(index), live.spec)):
        yield SchemaDifference(DifferenceKind.INDEX_OPTION, name, index, live, changes)
    if index.label != live.name:
        yield SchemaDifference(DifferenceKind.OTHER_NAME, name, index, live)


def _differing(declared: DocumentView, live: DocumentView) -> Iterator[Change]:
    """List the options in which two indexes differ, those of the identity first."""
    is_other = identity(declared) != identity(live)
    only_one = is_text(declared) and is_text(live)
    for (name, one), (_, other) in zip(identity(declared), identity(live), strict=True):
        if one != other:
            way = Way.REBUILD if only_one else Way.BESIDE
            yield Change(name, declared.get(name), live.get(name), way)
    wanted, present = _options(declared), _options(live)
    for name in sorted(wanted.keys() | present.keys()):
        new, old = _value(declared, name), _value(live, name)
        # A default of one kind of index is no option of another one.
        is_set = (new, old) != (None, None)
        if is_set and wanted.get(name) != present.get(name):
            way = Way.BESIDE if is_other and not only_one else _way(name, declared)
            yield Change(name, new, old, way)


def _value(spec: DocumentView, option: str) -> object:
    return weights(spec) if option == "weights" else spec.get(option)


def _options(spec: DocumentView) -> dict[str, Hashable]:
    is_two_d = "2d" in spec["key"].values()
    return {**(_TWO_D if is_two_d else {}), **other_options(spec)}


def _way(option: str, declared: DocumentView) -> Way:
    is_changeable = option in {"hidden", "prepareUnique"} or (
        # No command removes it.
        option == "expireAfterSeconds" and option in declared
    )
    return Way.COLL_MOD if is_changeable else Way.REBUILD


# --- search indexes


def _of_search_indexes(declared: Collection, live: LiveCollection) -> Iterator[SchemaDifference]:
    name = declared.name
    if live.search_indexes is None:
        if declared.search_indexes:
            yield SchemaDifference(DifferenceKind.NO_SEARCH, name)
        return
    present = {each.name: each for each in live.search_indexes}
    for index in declared.search_indexes:
        other = present.pop(index.name, None)
        if kind := _kind_of_search(index, other):
            changes = tuple(_changes_of_search(index, other)) if other else ()
            yield SchemaDifference(kind, name, changes=changes, search=index, live_search=other)
    for left in present.values():
        yield SchemaDifference(DifferenceKind.UNDECLARED_SEARCH_INDEX, name, live_search=left)


def _kind_of_search(index: SearchIndex, live: LiveSearchIndex | None) -> DifferenceKind | None:
    if live is None:
        return DifferenceKind.MISSING_SEARCH_INDEX
    if any(_changes_of_search(index, live)):
        return DifferenceKind.OTHER_SEARCH_INDEX
    return None if live.is_ready else DifferenceKind.UNREADY_SEARCH_INDEX


def _changes_of_search(index: SearchIndex, live: LiveSearchIndex) -> Iterator[Change]:
    if live.kind not in (None, index.kind):
        yield Change("type", index.kind, live.kind, Way.BESIDE)
    if live.differs_from(index.definition):
        yield Change("definition", index.definition, live.definition, Way.UPDATE)


# --- what differs inside a validator


def changed_paths(declared: DocumentView, live: DocumentView, path: str = "") -> Iterator[str]:
    """Find the dotted paths at which two validators differ."""
    for name in {**declared, **live}:
        sides = [{name: each[name]} if name in each else {} for each in (declared, live)]
        if json_schema_form(sides[0]) == json_schema_form(sides[1]):
            continue
        one, other = declared.get(name), live.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from changed_paths(one, other, f"{path}{name}.")
        else:
            yield f"{path}{name}"
