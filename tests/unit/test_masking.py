"""What is shown of documents, and how they are told apart."""

from __future__ import annotations

from typing import Any

import pytest

from flask_migrate_mongo.dry_run.showing import differing
from flask_migrate_mongo.model.masking import DEFAULT_MASK, DEFAULT_NAMES, NOTHING_MASKED, Mask

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
        ({"password_hash": 1, "oldPassword": 2}, {"password_hash": "***", "oldPassword": "***"}),
        ({"password2": 1, "x-password": 2}, {"password2": "***", "x-password": "***"}),
        ({"users": [{"user": [{"pin": 1}]}]}, {"users": [{"user": [{"pin": "***"}]}]}),
    ],
)
def test_fields_of_these_names_are_hidden_at_any_depth_and_no_others(
    document: dict[str, Any], shown: dict[str, Any]
) -> None:
    assert MASK.document(document) == shown
    assert NOTHING_MASKED.document(document) == document


@pytest.mark.parametrize(
    "name",
    [
        *("access_token", "accessToken", "TOKEN", "token.value", "tokens.0.token", "password_hash"),
        *(
            "clientSecret",
            "client-secret",
            "Authorization",
            "API_KEY",
            "apiKey",
            "apikey",
            "APIKey",
        ),
        *("passwd", "passWord", "x.api.key", "Proxy-Authorization"),
    ],
)
def test_names_that_contain_a_usual_one_are_hidden_by_default(name: str) -> None:
    assert DEFAULT_MASK.hides(name)


def test_the_default_mask_is_that_of_the_default_setting() -> None:
    assert Mask.of(DEFAULT_NAMES) == DEFAULT_MASK


@pytest.mark.parametrize("name", ["name", "tokenizer", "secretary", "key", "api", "n", "", "0.1"])
def test_names_that_only_look_like_one_are_not_hidden(name: str) -> None:
    assert not DEFAULT_MASK.hides(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('dup key: { password: "x" }', "dup key: { password: *** }"),
        ('{ n: 5, user.password: "a", m: 6 }', "{ n: 5, user.password: ***, m: 6 }"),
        ("{'password': 'it\\'s', 'n': 1}", "{'password': ***, 'n': 1}"),
        ("{'password': {'a': ['}', 1]}, 'n': 1}", "{'password': ***, 'n': 1}"),
        ('{"password": "x\\", y"}', '{"password": ***}'),
        (r'"{\"password\": \"x\", \"n\": 1}"', r'"{\"password\": ***, \"n\": 1}"'),
        ('{ password: "a" b" }', "{ password: *** }"),
        ("password: ObjectId('x'), n: 1", "password: ***, n: 1"),
        ("cards: [1, 2] and more", "cards: *** and more"),
        ("?password=x&n=1", "?password=***&n=1"),
        ("PASSWORD = x y\nnext", "PASSWORD = ***\nnext"),
        ("row['password'] == 'x'", "row['password'] == ***"),
        ("{'my password': 1}", "{'my password': ***}"),
        ("password: can't be read", "password: ***"),
        ("password = read(\n  n", "password = ***\n  n"),
        ("failed, full error: {'op': {'n': '}'}} and: x", "failed and: x"),
        ("failed, full error: {'op': ", "failed"),
        ("password: ***", "password: ***"),
        ("the password is wrong: x", "the password is wrong: x"),
        ("mongodb://host/db", "mongodb://host/db"),
    ],
)
def test_in_a_text_the_values_of_hidden_fields_are_replaced(text: str, shown: str) -> None:
    assert MASK.text(text) == shown


def test_a_long_text_is_searched_once() -> None:
    # A search for each of its parts would take hours.
    for part in ("a", "\\", "'", "password='", "password: {", ", full error: {"):
        assert len(MASK.text(part * 300_000)) <= len(part) * 300_000


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
