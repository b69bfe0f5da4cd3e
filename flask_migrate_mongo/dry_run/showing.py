"""Values of documents in a form that JSON holds and people read: relaxed extended JSON, cut to size."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST_TEXT = 200
"""Characters of a text that are shown; bytes of binary data."""

MOST_ITEMS = 20
"""Items of an array, and fields of a document, that are shown."""


def document(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document's fields as JSON holds them."""
    from bson import json_util  # noqa: PLC0415  (only those who show documents need it)

    text = json_util.dumps(_cut(given), json_options=json_util.RELAXED_JSON_OPTIONS)
    return json.loads(text)  # type: ignore[no-any-return]


def value(given: object) -> Any:  # noqa: ANN401  (whatever JSON has)
    """Return a value as JSON holds it."""
    return document({"": given})[""]


def text(given: object) -> str:
    """Return a value, as JSON holds it, on one line."""
    return json.dumps(value(given), ensure_ascii=False)


def _cut(given: Any) -> Any:  # noqa: ANN401
    if isinstance(given, str):
        return (
            given
            if len(given) <= LONGEST_TEXT
            else f"{given[:LONGEST_TEXT]}... ({len(given)} characters)"
        )
    if isinstance(given, bytes):
        return given if len(given) <= LONGEST_TEXT else f"{len(given)} bytes"
    if isinstance(given, Mapping):
        kept = {key: _cut(inner) for key, inner in list(given.items())[:MOST_ITEMS]}
        return kept | ({"...": f"{len(given)} fields"} if len(given) > MOST_ITEMS else {})
    if isinstance(given, Sequence):
        items = [_cut(inner) for inner in given[:MOST_ITEMS]]
        return [*items, f"... ({len(given)} items)"] if len(given) > MOST_ITEMS else items
    return given
