"""Values of documents in a form that JSON holds and people read: relaxed extended JSON, cut to size."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion

READ: CodecOptions[dict[str, object]] = CodecOptions(
    tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
"""How documents are read that are shown: a date that Python cannot hold is no error."""

LONGEST_TEXT = 200
"""Characters of a text that are shown; bytes of binary data."""

MOST_ITEMS = 20
"""Items of an array, and fields of a document, that are shown."""


def document(given: Mapping[str, object]) -> dict[str, object]:
    """Convert a document to what JSON holds."""
    text = json_util.dumps(_cut(given), json_options=json_util.RELAXED_JSON_OPTIONS)
    found: dict[str, object] = json.loads(text)
    return found


def value(given: object) -> object:
    """Convert a value to what JSON holds."""
    return document({"": given})[""]


def text(given: Mapping[str, object]) -> str:
    """Write a document on one line."""
    return json.dumps(document(given), ensure_ascii=False)


def _cut(given: object) -> object:
    if isinstance(given, str):
        if len(given) <= LONGEST_TEXT:
            return given
        return f"{given[:LONGEST_TEXT]}... ({len(given)} characters)"
    if isinstance(given, bytes):
        return given if len(given) <= LONGEST_TEXT else f"{len(given)} bytes"
    if isinstance(given, Mapping):
        kept = {key: _cut(inner) for key, inner in list(given.items())[:MOST_ITEMS]}
        return kept | ({"...": f"{len(given)} fields"} if len(given) > MOST_ITEMS else {})
    if isinstance(given, Sequence):
        items = [_cut(inner) for inner in given[:MOST_ITEMS]]
        return [*items, f"... ({len(given)} items)"] if len(given) > MOST_ITEMS else items
    return given
