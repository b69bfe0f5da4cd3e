"""Every collection and index, as declared and as live, with its size and its use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from flask_migrate_mongo.driver.server import DocumentView

from .comparison import UNDECLARED, DifferenceKind, SchemaDiff, SchemaDifference
from .declared import Collection, Index
from .identity import identity
from .live import (
    IGNORED_COLLECTION_OPTIONS,
    IndexUse,
    LiveCollection,
    LiveIndex,
    Scanned,
    Usage,
)
from .search import LiveSearchIndex, SearchIndex


class Agreement(str, Enum):
    """Whether the declared side and the live one agree."""

    SAME = "same"
    DIFFERENT = "different"
    BUILDING = "building"
    MISSING = "missing"
    UNDECLARED = "undeclared"
    AUTOMATIC = "automatic"
    """The server creates it itself."""
    UNSUPPORTED = "unsupported"
    """The server has no search indexes, so this one was not compared."""


@dataclass(frozen=True, slots=True)
class InventoryIndex:
    """An index with both its specifications; None for the one that there is not.

    `build` is how far its build is; None if it is not being built, or the server does not say.
    """

    name: str
    agreement: Agreement
    declared: DocumentView | None = None
    live: DocumentView | None = None
    why: str = ""
    use: IndexUse = field(default_factory=IndexUse)
    build: Scanned | None = None


@dataclass(frozen=True, slots=True)
class InventorySearchIndex:
    """A search or vector index with both its definitions, and how far the server is with it.

    `status` is the server's word. None for what there is not, or what the server does not show.
    """

    name: str
    kind: str | None
    agreement: Agreement
    declared: DocumentView | None = None
    live: DocumentView | None = None
    why: str = ""
    status: str | None = None
    queryable: bool | None = None


@dataclass(frozen=True, slots=True)
class InventoryCollection:
    """A collection with the options as declared and as live; None for those that there are not."""

    name: str
    kind: str
    agreement: Agreement
    declared: DocumentView | None = None
    live: DocumentView | None = None
    indexes: tuple[InventoryIndex, ...] = ()
    search_indexes: tuple[InventorySearchIndex, ...] = ()


_OF_KINDS = {
    DifferenceKind.MISSING_COLLECTION: Agreement.MISSING,
    DifferenceKind.MISSING_INDEX: Agreement.MISSING,
    DifferenceKind.MISSING_SEARCH_INDEX: Agreement.MISSING,
    DifferenceKind.BUILDING_INDEX: Agreement.BUILDING,
    DifferenceKind.UNREADY_SEARCH_INDEX: Agreement.BUILDING,
    DifferenceKind.OTHER_NAME: Agreement.SAME,
    # Nothing of the collection itself differs.
    DifferenceKind.NO_SEARCH: Agreement.SAME,
    DifferenceKind.RETURNED_INDEX: Agreement.UNDECLARED,
    **dict.fromkeys(UNDECLARED, Agreement.UNDECLARED),
}


_ONLY_LIVE = frozenset({DifferenceKind.UNDECLARED_INDEX, DifferenceKind.RETURNED_INDEX})


def inventory(
    declared: Sequence[Collection],
    live: Sequence[LiveCollection],
    diff: SchemaDiff,
    usage: Usage,
    builds: Mapping[str, Scanned],
) -> tuple[InventoryCollection, ...]:
    """List the declared collections, then those that are only live, each with what `diff` found.

    `builds` are how far the builds of indexes are, by the name of the collection.
    """
    existing, names = {each.name: each for each in live}, {each.name for each in declared}
    pairs: list[tuple[Collection | None, LiveCollection | None]]
    pairs = [(each, existing.get(each.name)) for each in declared]
    pairs += [(None, each) for each in live if each.name not in names]
    listed = (_collection(one, other, diff, usage) for one, other in pairs)
    return tuple(_with_build(each, builds.get(each.name)) for each in listed)


def _collection(
    declared: Collection | None, live: LiveCollection | None, diff: SchemaDiff, usage: Usage
) -> InventoryCollection:
    name = declared.name if declared else live.name if live else ""
    found = [each for each in diff.found if each.collection == name]
    indexes = [*_declared(declared, live, found), *_only_live(declared, live, found)]
    return InventoryCollection(
        name,
        live.kind if live else "collection",
        _agreement((each for each in found if each.index_name is None), declared),
        declared.create_options if declared else None,
        _options(live),
        tuple(_with_use(each, name, usage) for each in indexes),
        tuple(_search_indexes(declared, live, found)),
    )


def _agreement(
    found: Iterable[SchemaDifference], declared: Collection | Index | SearchIndex | None
) -> Agreement:
    kinds = {_OF_KINDS.get(each.kind, Agreement.DIFFERENT) for each in found}
    if declared is None:
        return Agreement.UNDECLARED
    return next((each for each in Agreement if each in kinds - {Agreement.SAME}), Agreement.SAME)


def _options(live: LiveCollection | None) -> Mapping[str, object] | None:
    if live is None:
        return None
    return {n: v for n, v in live.options.items() if n not in IGNORED_COLLECTION_OPTIONS}


def _declared(
    declared: Collection | None, live: LiveCollection | None, found: Sequence[SchemaDifference]
) -> Iterator[InventoryIndex]:
    present = {identity(each.spec): each for each in live.indexes} if live else {}
    for index in declared.indexes if declared else ():
        of_index = [each for each in found if each.index is index]
        spec = declared.spec_of(index) if declared else {}
        other = next((each.live_index for each in of_index), None) or present.get(identity(spec))
        # In a collection that is missing, no index has a difference of its own.
        agreement = _agreement(of_index, index) if live else Agreement.MISSING
        yield InventoryIndex(index.label, agreement, spec, other.spec if other else None, index.why)


def _only_live(
    declared: Collection | None, live: LiveCollection | None, found: Sequence[SchemaDifference]
) -> Iterator[InventoryIndex]:
    if live is None:
        return
    own = {each.name for each in live.own_indexes}
    undeclared = {each.live_name for each in found if each.kind in _ONLY_LIVE}
    for each in live.indexes:
        if each.name not in own:
            yield InventoryIndex(each.name, Agreement.AUTOMATIC, live=each.spec)
        elif declared is None or each.name in undeclared:
            yield InventoryIndex(each.name, _of_live(each), live=each.spec)


def _of_live(index: LiveIndex) -> Agreement:
    return Agreement.BUILDING if index.building else Agreement.UNDECLARED


def _with_use(index: InventoryIndex, collection: str, usage: Usage) -> InventoryIndex:
    name = str(index.live["name"]) if index.live else None
    return replace(index, use=usage.get((collection, name), IndexUse()))


def _with_build(collection: InventoryCollection, build: Scanned | None) -> InventoryCollection:
    if build is None:
        return collection
    indexes = (
        replace(each, build=build) if each.agreement is Agreement.BUILDING else each
        for each in collection.indexes
    )
    return replace(collection, indexes=tuple(indexes))


def _search_indexes(
    declared: Collection | None, live: LiveCollection | None, found: Sequence[SchemaDifference]
) -> Iterator[InventorySearchIndex]:
    present = {each.name: each for each in (live and live.search_indexes) or ()}
    for index in declared.search_indexes if declared else ():
        agreement = _agreement((each for each in found if each.search is index), index)
        if live is None:
            agreement = Agreement.MISSING
        elif live.search_indexes is None:
            agreement = Agreement.UNSUPPORTED
        listed = _live_search(index.name, agreement, present.pop(index.name, None))
        yield replace(listed, kind=index.kind, declared=index.definition, why=index.why)
    for name, left in present.items():
        yield _live_search(name, Agreement.UNDECLARED, left)


def _live_search(
    name: str, agreement: Agreement, live: LiveSearchIndex | None
) -> InventorySearchIndex:
    if live is None:
        return InventorySearchIndex(name, None, agreement)
    return InventorySearchIndex(
        *(name, live.kind, agreement),
        live=live.definition,
        status=live.status,
        queryable=live.queryable,
    )
