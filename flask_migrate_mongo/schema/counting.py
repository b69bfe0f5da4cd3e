"""Counts the documents that a change of the schema affects: those that would expire, and those that break a rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from pymongo.database import Database

from flask_migrate_mongo.driver.server import Document, DocumentView, translated

from .comparison import SchemaDiff, SchemaDifference
from .declared import seconds
from .live import LiveCollection
from .meanings import is_shorter
from .normal_forms import TTL, VALIDATION

_SENT = CodecOptions[Document](uuid_representation=UuidRepresentation.STANDARD)

_LONGEST = 2**31 - 1
"""Seconds: the server has no longer period."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many documents would be deleted at once, by collection and index, and how many break a new validator."""

    expired: dict[tuple[str, str | None], int] = field(default_factory=dict)
    violators: dict[str, int] = field(default_factory=dict)


def count(diff: SchemaDiff, database: Database[Document], now: datetime) -> Counts:
    """Count them, each with one command; what nothing changes is not counted."""
    counts = Counts()
    # A declaration may hold a UUID, whatever the application stores.
    database = database.with_options(_SENT)
    with translated():
        for found in diff.differences:
            documents = database[found.collection]
            for expired in expiring(found, now):
                number = documents.count_documents(expired)
                counts.expired[found.collection, found.index_name] = number
            for validator in enforced(found):
                number = documents.count_documents({"$nor": [validator]})
                counts.violators[found.collection] = number
    return counts


def expiring(found: SchemaDifference, now: datetime) -> Iterator[DocumentView]:
    """Build the filter of those that a shorter period, or a new one, deletes; nothing if there is none such."""
    if found.live is None:
        return
    if found.index is not None:
        key, spec = next(iter(found.index.key)), found.index.spec
        before = {} if found.live_index is None else found.live_index.spec
        if is_shorter(spec.get(TTL), before.get(TTL)):
            partial = spec.get("partialFilterExpression", {})
            yield {"$and": [partial, {key: {"$lt": _limit(spec[TTL], now)}}]}
    elif found.declared is not None and any(each.option == TTL for each in found.changes):
        period = seconds(found.declared.expire_after)
        if period is not None and is_shorter(period, found.live.options.get(TTL)):
            yield {_date_of(found.live): {"$lt": _limit(period, now)}}


def _limit(period: float, now: datetime) -> datetime:
    # The server takes NaN for the longest period, too.
    return now - timedelta(seconds=period if abs(period) < _LONGEST else _LONGEST)


def _date_of(live: LiveCollection) -> str:
    return str((live.options.get("timeseries") or {}).get("timeField", "_id"))


def enforced(found: SchemaDifference) -> Iterator[DocumentView]:
    """Yield the declared validator if a change makes the server refuse each update of a document that breaks it."""
    declared = found.declared
    if declared is None or not any(each.option in VALIDATION for each in found.changes):
        return
    if declared.validator and declared.level == "strict" and declared.action != "warn":
        yield declared.validator
