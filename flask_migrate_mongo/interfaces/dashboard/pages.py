"""Serves the pages: who may read them, how they are rendered, and the one place where an error becomes a page."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import cast

from flask import Response, request, url_for
from jinja2 import Environment, PackageLoader, StrictUndefined
from werkzeug.exceptions import HTTPException

from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.interfaces.rest.access import admit, check_length
from flask_migrate_mongo.interfaces.rest.answers import described, document
from flask_migrate_mongo.interfaces.rest.routes import BY_ACTION, Page, page_of
from flask_migrate_mongo.model import errors

from . import texts
from .forms import FIELD, check_form, form_token

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # With `no-referrer` a browser would send forms with the origin `null`.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

ASSETS = {"style.css": "text/css", "script.js": "text/javascript", "icon.svg": "image/svg+xml"}

LINKS = (
    ("overview", "Overview"),
    ("plan", "Plan"),
    ("runs", "Runs"),
    ("schema", "Schema"),
)
"""The pages that the head of each page links."""

_FOREVER = "public, max-age=31536000, immutable"


def enter() -> None:
    """Check the access to a page, and the token of a form. Raises MigrateError."""
    page = cast("Page", page_of(request.endpoint))
    if page.action is not None:
        scope = BY_ACTION[page.action].scope
        admit(app_state.current(), page.action, scope, request)
    check_length()
    if page.method != "GET":
        check_form(request)


def explain(exc: Exception) -> Response:
    """Answer to an error with a page; without access, with a page to log in."""
    if isinstance(exc, HTTPException) and exc.response is not None:
        return cast("Response", exc.response)
    error, headers = described(exc)
    if isinstance(error, errors.UnauthenticatedError):
        response = show("login.html", {"wrong": error.wrong}, error.http_status)
        # Only where the visitor asks for it: a browser shows a dialog of its own.
        if request.args.get("login") == "basic":
            headers = {"WWW-Authenticate": 'Basic realm="migrations", charset="UTF-8"'}
    else:
        problem = document("error", error)
        response = show("problem.html", {"problem": problem}, error.http_status)
    response.headers.update(headers)
    return response


def show(template: str, values: Mapping[str, object], code: int = 200) -> Response:
    """Render a page."""
    page, has_schema = page_of(request.endpoint), app_state.current().settings.schema is not None
    links = [(name, label) for name, label in LINKS if name != "schema" or has_schema]
    found = _environment().get_template(template)
    text = found.render(**values, links=links, current="" if page is None else page.name)
    return Response(text, code, HEADERS, content_type="text/html; charset=utf-8")


def asset(name: str) -> Response:
    """Answer with the stylesheet or the script. Their addresses change with their content."""
    if name not in ASSETS:
        raise errors.UnknownPathError
    headers = {**HEADERS, "Cache-Control": _FOREVER}
    return Response(_content(name), 200, headers, content_type=f"{ASSETS[name]}; charset=utf-8")


def asset_url(name: str) -> str:
    """Make the address of the stylesheet or the script."""
    return url_for(".page-asset", name=name, v=sha256(_content(name)).hexdigest()[:12])


@cache
def _content(name: str) -> bytes:
    return files(__package__).joinpath("static").joinpath(name).read_bytes()


@cache
def _environment() -> Environment:
    """Make an environment of our own: that of the application can have other settings, and other templates."""
    made = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= texts.FILTERS
    made.globals |= {
        "asset": asset_url,
        "form_field": FIELD,
        "form_token": form_token,
        "url_for": url_for,
    }
    return made
