"""Says what a difference between the declared schema and the database means, in one line."""

from __future__ import annotations

from bson import json_util
from bson.binary import UuidRepresentation

from .comparison import Change, DifferenceKind, SchemaDifference, Way, changed_paths
from .declared import Index
from .live import IndexUse
from .normal_forms import TTL
from .search import SearchIndex

RELAXED_JSON = json_util.RELAXED_JSON_OPTIONS.with_options(
    uuid_representation=UuidRepresentation.STANDARD
)
"""How values are shown: as relaxed Extended JSON. A declaration may hold a UUID."""

_LONGEST = 60
_MOST_PATHS = 5


def number(count: int, one: str, many: str = "") -> str:
    """Write a number with what it counts."""
    return f"1 {one}" if count == 1 else f"{count:,} {many or f'{one}s'}"


def sentence(found: SchemaDifference) -> str:
    """Say what differs and what it means."""
    place = (
        found.collection if found.index_name is None else f"{found.collection} {found.index_name}"
    )
    return f"{place}: {_MEANINGS[found.kind](found)}{'' if found.is_note else sharding(found)}"


def sharding(found: SchemaDifference) -> str:
    """Say what the shard key forbids."""
    key = _shown(found.live.shard_key if found.live else {})
    if found.is_refused:
        return f" The server refuses it: a unique index of this collection has to begin with the shard key {key}."
    if found.keeps_live_index:
        return f" {found.live_name} supports the shard key {key}: it is neither dropped nor hidden."
    return ""


def _missing_collection(found: SchemaDifference) -> str:
    indexes = len(found.declared.indexes) if found.declared else 0
    without = f" An insert would create it without its {number(indexes, 'index', 'indexes')}."
    return f"The collection does not exist.{without if indexes else ''}"


def _fixed_option(found: SchemaDifference) -> str:
    return f"{all_said(found)} It can be set only when a collection is created: copy the documents into a new one."


def _collection_option(found: SchemaDifference) -> str:
    [change] = found.changes
    note = (
        " Documents that are stored already are not checked."
        if change.option == "validator"
        else ""
    )
    return f"{all_said(found)} collMod changes it.{note}{_expiry(change)}"


def _missing_index(found: SchemaDifference) -> str:
    spec = found.index.spec if found.index else {}
    if spec.get("unique"):
        effect = "Duplicates are accepted."
    else:
        effect = "Nothing expires." if TTL in spec else "Queries that need it scan the collection."
    why = purpose(found.index) if found.index else ""
    return f"The index does not exist. {effect} {why}".rstrip()


def purpose(index: Index | SearchIndex) -> str:
    """Say what an index is for, if its declaration does."""
    return "" if index.why in {"", "?"} else f"It is for: {index.why.rstrip('.')}."


def _other_index(found: SchemaDifference) -> str:
    live = found.live_name
    if any(change.way is Way.REBUILD for change in found.changes):
        how = "A collection has only one text index, so it has to be dropped first: in between there is none."
    else:
        is_same = live == found.index_name
        old = "the live one" if is_same else live
        name = ", under another name" if is_same else ""
        then = "" if found.keeps_live_index else f", then drop {old}"
        how = f"Build it beside {old}{name}{then}."
    return f"Another index is in its place. {all_said(found)} {how}"


def _index_option(found: SchemaDifference) -> str:
    how = "collMod changes it."
    if any(change.way is Way.REBUILD for change in found.changes):
        how = "The index has to be dropped and built again: in between there is none."
    elif any(change.option == TTL and change.live is None for change in found.changes):
        how = "collMod adds it, from MongoDB 5.1."
    return f"{all_said(found)} {how}{''.join(map(_expiry, found.changes))}"


def _building(_: SchemaDifference) -> str:
    return "The index is being built. Until it is finished, it is not used and enforces nothing."


def _missing_search_index(found: SchemaDifference) -> str:
    why = purpose(found.search) if found.search else ""
    return f"The search index does not exist. Queries that need it find nothing. {why}".rstrip()


def _other_search_index(found: SchemaDifference) -> str:
    how = "Queries use the live one until the server has built the declared one."
    if any(change.way is Way.BESIDE for change in found.changes):
        how = "The kind of a search index never changes: declare it under another name."
    return f"{all_said(found)} {how}"


def _unready_search_index(found: SchemaDifference) -> str:
    live = found.live_search
    if live and live.has_failed:
        return "The build of the search index failed. Drop it, then create it again."
    return f"The search index cannot be used yet: it is {live.status if live else 'missing'}."


def _no_search(found: SchemaDifference) -> str:
    count = len(found.declared.search_indexes) if found.declared else 0
    return f"The server has no search indexes, so {number(count, 'declared one', 'declared ones')} {'was' if count == 1 else 'were'} not compared."


def _undeclared_search_index(_: SchemaDifference) -> str:
    return "The search index is not declared."


def _returned_index(found: SchemaDifference) -> str:
    event = found.dropped
    when = (
        f"migration {event.version} dropped it on {event.at:%Y-%m-%d}"
        if event
        else "a migration dropped it"
    )
    return (
        f"The index is there again: {when}. An older release of the application, or an ODM that creates "
        "indexes when it starts, builds it. Stop that, then drop it again. Or declare it."
    )


def _other_name(found: SchemaDifference) -> str:
    return f"The index exists as {found.live_name}. Nothing has to be done; a hint() has to use that name."


def _undeclared_index(found: SchemaDifference) -> str:
    return f"The index is not declared{_use(found.use)}."


def _undeclared_collection(found: SchemaDifference) -> str:
    indexes = len(found.live.own_indexes) if found.live else 0
    return f"The collection is not declared ({number(indexes, 'index', 'indexes')})."


_MEANINGS = {
    DifferenceKind.MISSING_COLLECTION: _missing_collection,
    DifferenceKind.FIXED_OPTION: _fixed_option,
    DifferenceKind.COLLECTION_OPTION: _collection_option,
    DifferenceKind.MISSING_INDEX: _missing_index,
    DifferenceKind.OTHER_INDEX: _other_index,
    DifferenceKind.INDEX_OPTION: _index_option,
    DifferenceKind.BUILDING_INDEX: _building,
    DifferenceKind.MISSING_SEARCH_INDEX: _missing_search_index,
    DifferenceKind.OTHER_SEARCH_INDEX: _other_search_index,
    DifferenceKind.UNREADY_SEARCH_INDEX: _unready_search_index,
    DifferenceKind.RETURNED_INDEX: _returned_index,
    DifferenceKind.OTHER_NAME: _other_name,
    DifferenceKind.NO_SEARCH: _no_search,
    DifferenceKind.UNDECLARED_INDEX: _undeclared_index,
    DifferenceKind.UNDECLARED_SEARCH_INDEX: _undeclared_search_index,
    DifferenceKind.UNDECLARED_COLLECTION: _undeclared_collection,
}


# --- parts


def all_said(found: SchemaDifference) -> str:
    """Say all that differs."""
    return f"{'; '.join(map(said, found.changes))}."


def said(change: Change) -> str:
    """Say how an option differs: its two values, or where two documents differ."""
    if isinstance(change.declared, dict) and isinstance(change.live, dict):
        paths = list(changed_paths(change.declared, change.live))
        more = ", ..." if len(paths) > _MOST_PATHS else ""
        return f"{change.option} differs at {', '.join(paths[:_MOST_PATHS])}{more}"
    return f"{change.option} is declared as {_shown(change.declared)} and is {_shown(change.live)}"


def _shown(value: object) -> str:
    if value is None:
        return "not set"
    text = json_util.dumps(value, json_options=RELAXED_JSON, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _expiry(change: Change) -> str:
    if change.option != TTL or not is_shorter(change.declared, change.live):
        return ""
    return " Documents that are older are then deleted at once."


def is_shorter(new: object, old: object) -> bool:
    """Whether a new period deletes documents that the old one, or none, keeps."""
    if not isinstance(new, int | float):
        return False
    return not isinstance(old, int | float) or new < old


def _use(use: IndexUse) -> str:
    if use.size is None:
        return ""
    size = f"{use.size / 1_000_000:.1f} MB"
    if use.accesses is None:
        return f" ({size}; how often it is used, a user with the role clusterMonitor sees)"
    since = f" since {use.since:%Y-%m-%d}" if use.since else ""
    return f" ({size}, used {number(use.accesses, 'time')}{since})"
