"""Who may do what over REST: scopes, and tokens that allow one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from flask import Request

Authorize = Callable[[str, Request], object]
"""The application's own answer to whether a request may do an action: True or False."""

SHORTEST = 16
"""Characters: what is shorter can be guessed."""

# The characters that RFC 6750 allows in a bearer token; no comma and no colon is among them.
_TOKEN = rf"[A-Za-z0-9\-._~+/]{{{SHORTEST},}}=*"


class Scope(str, Enum):
    """What a caller may do; each includes those before it."""

    READ = "read"
    UP = "up"
    RUN = "run"
    ADMIN = "admin"

    def includes(self, other: Scope) -> bool:
        """Whether who has this scope may do what needs the other one."""
        scopes = list(Scope)
        return scopes.index(self) >= scopes.index(other)


@dataclass(frozen=True, slots=True)
class Token:
    """The digest of a token, and what the token allows."""

    digest: bytes = field(repr=False)
    scope: Scope


def tokens(value: object) -> tuple[Token, ...]:
    """Read tokens from a text or a mapping of tokens to scopes.

    A text is one token, with every right, or `read:TOKEN,up:TOKEN,run:TOKEN,admin:TOKEN`. Raises ValueError
    or TypeError; no message shows a token.
    """
    pairs = value.items() if isinstance(value, Mapping) else _pairs(value)
    found: dict[bytes, Scope] = {}
    for secret, scopes in pairs:
        if not isinstance(secret, str) or not re.fullmatch(_TOKEN, secret):
            raise ValueError
        found[digest_of(secret)] = _widest(scopes)
    if not found or len(found) < len(pairs):
        raise ValueError
    return tuple(Token(digest, scope) for digest, scope in found.items())


def _pairs(value: object) -> list[tuple[str, str]]:
    if not isinstance(value, str):
        raise TypeError
    entries = (entry.strip().rpartition(":") for entry in value.split(","))
    return [(secret, scope or Scope.ADMIN.value) for scope, _, secret in entries]


def _widest(scopes: object) -> Scope:
    named = [scopes] if isinstance(scopes, str) else scopes
    if not isinstance(named, Iterable):
        raise TypeError
    wanted = set(named)
    # Not Scope(name), whose message would show the name, which may be the token.
    known = [scope for scope in Scope if scope.value in wanted]
    if not known or len(known) < len(wanted):
        raise ValueError
    return known[-1]


def digest_of(secret: str) -> bytes:
    """Hash a token: nothing else of it is kept."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
