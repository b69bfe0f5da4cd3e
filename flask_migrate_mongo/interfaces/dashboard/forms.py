"""Protects the forms of the dashboard from other sites: a browser sends a login by itself, but not this token.

The token is in the form and in a cookie. A page of another site can send the cookie with a request, but it can read neither. No
state and no key is needed, so every worker process accepts the forms of the others.
"""

from __future__ import annotations

import hmac
import re
import secrets
from urllib.parse import urlsplit

from flask import Request, Response, after_this_request, g, request, url_for

from flask_migrate_mongo.model.errors import ForbiddenError

FIELD = "form_token"
"""The name of the hidden field."""

COOKIE = "migrate_form_token"
_SHAPE = r"[A-Za-z0-9_-]{43}"
_OWN_SITE = frozenset({"same-origin", "none"})
_AGAIN = "Open the page again, and send the form from there."


def form_token() -> str:
    """Get the token for the hidden field of a form, and let the answer set its cookie. A page has one token."""
    token = g.get(COOKIE) or _stored(request) or secrets.token_urlsafe(32)
    if COOKIE not in g:
        setattr(g, COOKIE, token)
        after_this_request(_keep)
    return str(token)


def check_form(request: Request) -> None:
    """Refuse a form that no page of this dashboard sent. Raises ForbiddenError."""
    _check_site(request)
    stored, given = _stored(request), request.form.get(FIELD, "")
    if stored is None or not hmac.compare_digest(stored.encode(), given.encode()):
        raise ForbiddenError("This form has no valid token. Nothing was done.", _AGAIN)


def _stored(request: Request) -> str | None:
    found = request.cookies.get(COOKIE, "")
    return found if re.fullmatch(_SHAPE, found) else None


def _keep(response: Response) -> Response:
    response.set_cookie(
        COOKIE,
        getattr(g, COOKIE),
        path=url_for(".page-overview").rstrip("/"),
        secure=request.is_secure,
        httponly=True,
        samesite="Strict",
    )
    return response


def _check_site(request: Request) -> None:
    """Refuse what the browser itself says that another site has sent."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        # It also holds where a proxy changes the name of the host.
        is_own = site in _OWN_SITE
    else:
        is_own = origin is None or urlsplit(origin).netloc == request.host
    if not is_own:
        raise ForbiddenError("Another site has sent this form. Nothing was done.", _AGAIN)
