"""Who may use the REST door: tokens with a scope each, and the application's own login."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from flask_migrate_mongo.model.errors import (
    ApiClosedError,
    ConfigurationError,
    ForbiddenError,
    UnauthenticatedError,
)

if TYPE_CHECKING:
    from flask import Request, Response

Authorize = Callable[[str, "Request"], object]
"""The application's own answer to whether a request may do an action: True or False."""

SHORTEST = 16
"""Characters: what is shorter can be guessed."""

# The characters that RFC 6750 allows in a bearer token; no comma and no colon is among them.
_TOKEN = rf"[A-Za-z0-9\-._~+/]{{{SHORTEST},}}=*"
_ENTRY = r"(?:(?P<scope>[^:]*):)?(?P<secret>[^:]*)"


class Scope(str, Enum):
    """What a caller may do; each includes those before it."""

    READ = "read"
    RUN = "run"
    ADMIN = "admin"

    def includes(self, other: Scope) -> bool:
        """Whether who has this scope may do what needs the other one."""
        return _BREADTH[self] >= _BREADTH[other]


class Route(NamedTuple):
    """One endpoint: the action, the request that asks for it, the scope it needs, its view."""

    action: str
    method: str
    path: str
    scope: Scope
    view: Callable[..., Response]


_BREADTH = {scope: breadth for breadth, scope in enumerate(Scope)}


@dataclass(frozen=True, slots=True)
class Token:
    """A token, of which only the digest is kept, and what it allows."""

    digest: bytes = field(repr=False)
    scope: Scope


def tokens(value: object) -> tuple[Token, ...]:
    """Read tokens from a text or a mapping of tokens to scopes.

    A text is one token, with every right, or `read:TOKEN,run:TOKEN,admin:TOKEN`. Raises ValueError
    or TypeError, neither of which shows a token.
    """
    pairs = value.items() if isinstance(value, Mapping) else _pairs(value)
    found = {_digest(_checked(secret)): _widest(scopes) for secret, scopes in pairs}
    if not found or len(found) < len(pairs):
        raise ValueError
    return tuple(Token(digest, scope) for digest, scope in found.items())


def _pairs(value: object) -> list[tuple[str, str]]:
    if not isinstance(value, str):
        raise TypeError
    entries = [re.fullmatch(_ENTRY, entry.strip()) for entry in value.split(",")]
    if None in entries:
        raise ValueError
    return [(e["secret"], e["scope"] or Scope.ADMIN.value) for e in entries if e]


def _checked(secret: object) -> str:
    if not isinstance(secret, str) or not re.fullmatch(_TOKEN, secret):
        raise ValueError
    return secret


def _widest(scopes: object) -> Scope:
    named = [scopes] if isinstance(scopes, str) else scopes
    if not isinstance(named, Iterable):
        raise TypeError
    # Looked up by hand: the message of Scope(name) would show the name, which may be the token.
    known = [_SCOPES.get(name) if isinstance(name, str) else None for name in named]
    if not known or None in known:
        raise ValueError
    return max((scope for scope in known if scope), key=_BREADTH.__getitem__)


_SCOPES = {scope.value: scope for scope in Scope}


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets requests in: those with a token of ours, and those that the application vouches for."""

    tokens: tuple[Token, ...] = ()
    authorize: Authorize | None = None

    def admit(self, action: str, scope: Scope, request: Request) -> None:
        """Return if the request may do the action.

        Raises ApiClosedError, UnauthenticatedError or ForbiddenError.
        """
        if not self.tokens and self.authorize is None:
            raise ApiClosedError
        given = _bearer(request)
        granted = self._scope_of(given)
        if granted is not None:
            _check_scope(granted, scope)
        elif self.authorize is not None and _vouched(self.authorize(action, request)):
            _check_same_site(request)
        elif self.tokens:
            raise UnauthenticatedError(wrong=given is not None)
        else:
            msg = "The application does not let you do this. Log in as somebody who may."
            raise ForbiddenError(msg)

    def _scope_of(self, given: str | None) -> Scope | None:
        # Every token is compared, in constant time, so that the time taken tells nothing of any.
        digest, found = _digest(given or ""), None
        for token in self.tokens:
            if hmac.compare_digest(digest, token.digest):
                found = token.scope
        return found


def _bearer(request: Request) -> str | None:
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    return given.strip() if kind.lower() == "bearer" else None


def _check_scope(granted: Scope, needed: Scope) -> None:
    if not granted.includes(needed):
        msg = (
            f"This token may {granted.value}, and this needs {needed.value}. Use a token that "
            "MIGRATE_API_TOKEN gives that scope."
        )
        raise ForbiddenError(msg)


def _vouched(answer: object) -> bool:
    # A redirect to a login page, or a coroutine, is true in Python and would let anybody in.
    if isinstance(answer, bool):
        return answer
    msg = (
        f"authorize(action, request) returned an object of type {type(answer).__name__}. Return "
        "True or False from it."
    )
    raise ConfigurationError(msg)


def _check_same_site(request: Request) -> None:
    """Refuse what a form on another site could have sent with its visitor's login."""
    if request.method not in {"GET", "HEAD"} and not request.headers.get("X-Requested-With"):
        msg = (
            "A request that changes something and is let in by the application's login needs the "
            "header X-Requested-With, which no form of another site can send. Add it: "
            "`X-Requested-With: fetch`."
        )
        raise ForbiddenError(msg)
