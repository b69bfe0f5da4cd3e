"""What is shown of documents, and how they are told apart."""

from __future__ import annotations

from typing import Any

import pytest

from flask_migrate_mongo.dry_run.showing import differing
from flask_migrate_mongo.model.masking import NOTHING_MASKED, Mask

MASK = Mask.of(["Password", "user.pin", "cards"])


@pytest.mark.parametrize(
    ("document", "shown"),
    [
        ({"password": 1, "name": 2}, {"password": "***", "name": 2}),
        ({"PassWord": 1}, {"PassWord": "***"}),
        ({"deep": {"password": 1, "b": 2}}, {"deep": {"password": "***", "b": 2}}),
        ({"list": [{"password": 1}, 2]}, {"list": [{"password": "***"}, 2]}),
        ({"user": {"pin": 1}, "pin": 2}, {"user": {"pin": "***"}, "pin": 2}),
        ({"cards": [{"no": 1}]}, {"cards": "***"}),
        ({"cards.0.no": 1, "a.password.b": 1}, {"cards.0.no": "***", "a.password.b": "***"}),
        ({'"a.password"': 1}, {'"a.password"': "***"}),
        ({"passwords": 1, "pass": 2}, {"passwords": 1, "pass": 2}),
    ],
)
def test_fields_of_these_names_are_hidden_at_any_depth_and_no_others(
    document: dict[str, Any], shown: dict[str, Any]
) -> None:
    assert MASK.document(document) == shown
    assert NOTHING_MASKED.document(document) == document


@pytest.mark.parametrize(
    ("before", "after", "old", "new"),
    [
        ({"a": 1}, {"a": 1}, {}, {}),
        ({"a": 1}, {"a": 1.0}, {"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"b": 1}, {"a": 1}, {"b": 1}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, {"a.c": 2}, {"a.c": 3}),
        ({"a": {"b": 1}}, {"a": 5}, {"a.b": 1}, {"a": 5}),
        ({"a": [1, 2]}, {"a": [1, 3]}, {"a": [1, 2]}, {"a": [1, 3]}),
        ({"a": {}}, {"a": {"b": 1}}, {"a": {}}, {"a.b": 1}),
        ({"a": None}, {}, {"a": None}, {}),
        ({"a.b": 1}, {"a": {"b": 1}}, {'"a.b"': 1}, {"a.b": 1}),
    ],
)
def test_only_the_fields_that_differ_are_told(
    before: dict[str, Any], after: dict[str, Any], old: dict[str, Any], new: dict[str, Any]
) -> None:
    assert differing(before, after) == (old, new)
