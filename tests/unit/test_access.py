"""Who is let in: tokens and what they allow, the application's own login, and what is told to whom."""

from __future__ import annotations

import hmac
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, Request
from werkzeug.test import EnvironBuilder

from flask_migrate_mongo.interfaces.rest.access import admit
from flask_migrate_mongo.model.access import SHORTEST, Authorize, Scope, Token, tokens
from flask_migrate_mongo.model.errors import (
    ApiClosedError,
    ConfigurationError,
    ForbiddenError,
    MigrateError,
    SettingError,
    UnauthenticatedError,
)
from flask_migrate_mongo.settings import SETTINGS, Settings, read
from flask_migrate_mongo.state import AppState

if TYPE_CHECKING:
    from collections.abc import Callable

READ, RUN, ADMIN = "r" * SHORTEST, "u" * SHORTEST, "a" * SHORTEST
APPLY = "p" * SHORTEST


def test_the_setting_says_how_long_a_token_has_to_be() -> None:
    assert f"at least {SHORTEST} letters" in SETTINGS["api_token"].accepts


THREE = tokens({READ: "read", RUN: "run", ADMIN: "admin"})
FOUR = tokens(f"read:{READ},up:{APPLY},run:{RUN},admin:{ADMIN}")


def a_request(authorization: str | None = None, method: str = "GET", **headers: str) -> Request:
    if authorization is not None:
        headers["Authorization"] = authorization
    return Request(EnvironBuilder(method=method, headers=list(headers.items())).get_environ())


def bearer(token: str) -> str:
    return f"Bearer {token}"


def api(known: tuple[Token, ...] | None = None, authorize: Authorize | None = None) -> AppState:
    """Make the state of an application whose API knows these tokens, and this login."""
    return AppState(Flask("shop"), Settings(api_token=known), authorize=authorize)


def refusal(
    state: AppState, request: Request, scope: Scope = Scope.READ
) -> type[MigrateError] | None:
    """Return the class of the error that the request is refused with, None if it is let in."""
    try:
        admit(state, "status", scope, request)
    except MigrateError as exc:
        return type(exc)
    return None


# --- the setting


def test_a_single_token_may_do_everything() -> None:
    (token,) = tokens(ADMIN)
    assert token.scope is Scope.ADMIN


@pytest.mark.parametrize(
    "value",
    [
        f"read:{READ},run:{RUN},admin:{ADMIN}",
        f" read:{READ} ,\n run:{RUN}, {ADMIN} ",
        {READ: "read", RUN: ["read", "run"], ADMIN: ("admin",)},
    ],
)
def test_several_tokens_have_a_scope_each(value: object) -> None:
    assert tokens(value) == THREE


@pytest.mark.parametrize(
    "value",
    [
        *(None, 1, True, b"bytes" * 9, [ADMIN], "", "  ", ",", {}, "a" * (SHORTEST - 1)),
        *(f"{ADMIN},", f"{ADMIN} {READ}", f"write:{ADMIN}", f"{ADMIN}:read", f":{ADMIN}:"),
        *(f"read:{READ},run:{READ}", f"{ADMIN}é", f"{ADMIN}\n{READ}", f"{ADMIN}\x00"),
        *({ADMIN: ""}, {ADMIN: []}, {ADMIN: None}, {ADMIN: "write"}, {ADMIN: ["read", 1]}),
        *({1: "read"}, {"read": ADMIN}, {"short": "read"}),
    ],
)
def test_a_bad_value_is_refused_without_showing_a_token(value: object) -> None:
    app = Flask("shop")
    app.config["MIGRATE_API_TOKEN"] = value
    if value is None:
        assert read(app, {}).api_token is None
        return
    with pytest.raises(SettingError, match=r"^MIGRATE_API_TOKEN is not shown here, but") as caught:
        read(app, {})
    shown = "".join(traceback.format_exception(caught.value))
    assert ADMIN not in shown
    assert READ not in shown


def test_neither_settings_nor_the_state_show_a_token_or_its_digest() -> None:
    app = Flask("shop")
    app.config["MIGRATE_API_TOKEN"] = ADMIN
    settings = read(app, {})
    assert settings.api_token is not None
    shown = repr(settings) + repr(api(settings.api_token))
    assert ADMIN not in shown
    assert repr(settings.api_token[0].digest) not in shown


def test_a_token_may_be_all_that_the_standard_allows() -> None:
    odd = "AZaz09-._~+/AZaz09-._~+/=="
    assert refusal(api(tokens(odd)), a_request(bearer(odd))) is None


# --- tokens


def test_without_token_and_login_nobody_gets_in() -> None:
    for given in (None, bearer(ADMIN), "Bearer ", "Bearer"):
        assert refusal(api(), a_request(given)) is ApiClosedError


@pytest.mark.parametrize(
    ("token", "allowed"),
    [
        (READ, {"read"}),
        (APPLY, {"read", "up"}),
        (RUN, {"read", "up", "run"}),
        (ADMIN, set(Scope)),
    ],
)
def test_a_scope_includes_the_smaller_ones_and_no_other(token: str, allowed: set[str]) -> None:
    for scope in Scope:
        expected = None if scope.value in allowed else ForbiddenError
        assert refusal(api(FOUR), a_request(bearer(token)), scope) is expected


@pytest.mark.parametrize(
    "given",
    [
        *(None, "", "Bearer", "Bearer ", READ, f"Basic {READ}", f"Token {READ}"),
        *(bearer(READ[:-1]), bearer(READ + "r"), bearer(READ.upper()), bearer(f"{READ} {RUN}")),
        *(bearer(f"{READ},{RUN}"), bearer("*"), bearer("é" * 16), bearer(f"read:{READ}")),
    ],
)
def test_what_is_no_token_of_ours_is_not_let_in(given: str | None) -> None:
    assert refusal(api(THREE), a_request(given)) is UnauthenticatedError


def test_the_word_bearer_may_be_written_in_any_way() -> None:
    for word in ("Bearer", "bearer", "BEARER"):
        assert refusal(api(THREE), a_request(f"{word}  {READ} ")) is None


def test_a_missing_token_is_told_from_a_wrong_one() -> None:
    for given, wrong in ((None, False), (bearer("x"), True)):
        with pytest.raises(UnauthenticatedError) as caught:
            admit(api(THREE), "status", Scope.READ, a_request(given))
        assert caught.value.wrong is wrong
        assert str(caught.value).endswith("`Authorization: Bearer TOKEN`.")


@pytest.mark.parametrize("given", [READ, ADMIN, "x"])
def test_every_token_is_compared_in_constant_time_whichever_matches(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    compared = []
    compare = hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    refusal(api(THREE), a_request(bearer(given)))
    assert compared == [(32, 32)] * 3


# --- the application's login


def login(answer: Any, *, known: bool = False) -> AppState:
    return api(THREE if known else None, lambda action, request: answer)


def test_the_login_is_asked_with_the_action_and_the_request() -> None:
    asked: list[tuple[str, Request]] = []

    def authorize(action: str, request: Request) -> bool:
        asked.append((action, request))
        return True

    request = a_request()
    admit(api(authorize=authorize), "lock-status", Scope.READ, request)
    assert asked == [("lock-status", request)]


def test_the_login_lets_in_and_keeps_out() -> None:
    assert refusal(login(True), a_request()) is None  # noqa: FBT003
    assert refusal(login(False), a_request()) is ForbiddenError  # noqa: FBT003


def test_with_a_login_the_tokens_hold_too() -> None:
    assert refusal(login(False, known=True), a_request(bearer(READ))) is None  # noqa: FBT003
    assert refusal(login(True, known=True), a_request(bearer(READ)), Scope.RUN) is ForbiddenError  # noqa: FBT003
    assert refusal(login(True, known=True), a_request(bearer("of the application's"))) is None  # noqa: FBT003
    assert refusal(login(False, known=True), a_request()) is UnauthenticatedError  # noqa: FBT003


@pytest.mark.parametrize("answer", [None, 1, 0, "", "yes", ("/login", 302), object()])
def test_an_answer_that_is_neither_true_nor_false_lets_nobody_in(answer: object) -> None:
    assert refusal(login(answer), a_request()) is ConfigurationError


def test_a_login_that_raises_lets_nobody_in() -> None:
    def authorize(action: str, request: Request) -> bool:
        raise LookupError(action)

    with pytest.raises(LookupError):
        admit(api(authorize=authorize), "status", Scope.READ, a_request())


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "X"])
@pytest.mark.parametrize("header", [{}, {"Cookie": "session=1"}, {"X-Requested-With": ""}])
def test_a_change_that_the_login_lets_in_needs_the_header_of_a_script(
    method: str, header: dict[str, str]
) -> None:
    request = a_request(None, method, **header)
    assert refusal(login(True), request) is ForbiddenError  # noqa: FBT003
    sent = a_request(None, method, **{**header, "X-Requested-With": "fetch"})
    assert refusal(login(True), sent) is None  # noqa: FBT003


def test_looking_and_tokens_need_no_such_header() -> None:
    for method in ("GET", "HEAD"):
        assert refusal(login(True), a_request(None, method)) is None  # noqa: FBT003
    assert refusal(api(THREE), a_request(bearer(RUN), "POST"), Scope.RUN) is None


@pytest.mark.parametrize(
    "ask",
    [
        lambda: admit(api(), "up", Scope.RUN, a_request()),
        lambda: admit(api(THREE), "up", Scope.RUN, a_request(bearer(READ))),
        lambda: admit(api(THREE), "up", Scope.RUN, a_request(bearer("wrong" * 9))),
        lambda: admit(login(False), "up", Scope.RUN, a_request()),  # noqa: FBT003
        lambda: admit(login(True), "up", Scope.RUN, a_request(None, "POST")),  # noqa: FBT003
    ],
)
def test_every_refusal_ends_with_what_to_do_and_shows_no_token(ask: Callable[[], None]) -> None:
    with pytest.raises(MigrateError) as caught:
        ask()
    said = str(caught.value)
    assert said.endswith(".")
    assert not any(token in said for token in (READ, RUN, ADMIN, "wrong" * 9))
