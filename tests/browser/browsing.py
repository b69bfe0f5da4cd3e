"""A browser for the dashboard: where Chromium is, how it starts, and what a test does with a page."""

from __future__ import annotations

import contextlib
import os
import shutil
from importlib import resources
from typing import TYPE_CHECKING, Any

from playwright.sync_api import sync_playwright

from tests.serving import free_port, gunicorn, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Locator, Page

    from tests.project import Project
    from tests.serving import Serving

READ, UP, RUN, ADMIN = (f"{scope}-token-of-sixteen" for scope in ("read", "up", "run", "admin"))
TOKENS = f"read:{READ},up:{UP},run:{RUN},admin:{ADMIN}"
PREFIX = "/api/migrations"

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")

MISSING = (
    "Chromium is not installed, and the tests of the dashboard need it. "
    "On Debian: apt-get install --no-install-recommends chromium. "
    "CHROMIUM names the program where it is elsewhere."
)

FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)

APP = """
from flask import Flask
from flask_migrate_mongo import MongoMigrate

app = Flask(__name__)
MongoMigrate(app)
"""


def chromium() -> str | None:
    """Find the program of Chromium; None if it is not installed."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, PROGRAMS)), None)


@contextlib.contextmanager
def started(program: str) -> Iterator[Browser]:
    """Start Chromium with a profile of its own, until the end of the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=FLAGS, chromium_sandbox=False
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def dashboard(
    project: Project, *, threads: int = 8, port: int | None = None, **environ: str
) -> Iterator[Serving]:
    """Serve the project's application with its dashboard until the end of the block."""
    (project.root / "app.py").write_text(APP, encoding="utf-8")
    port = port or free_port()
    given = {"MIGRATE_API_TOKEN": TOKENS, "MIGRATE_DASHBOARD": "true", **environ}
    options = ("--threads", str(threads)) if threads > 1 else ()
    with serving(project, gunicorn(port, *options), port, given) as server:
        server.wait_until_it_answers()
        yield server


def follow(page: Page, link: Locator) -> None:
    """Click a link or a button, and wait until the page that it leads to is loaded."""
    with page.expect_navigation():
        link.click()


def axe_source() -> str:
    """Read axe-core, which finds what people with disabilities could not use."""
    return (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def violations(page: Page) -> list[str]:
    """Find the serious and critical violations of a page's accessibility, with the elements that have them."""
    if not page.evaluate("typeof axe === 'object'"):
        # Not as a script in the page, which its policy forbids.
        page.evaluate(axe_source())
    found: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for each in found["violations"]
        if each["impact"] in {"serious", "critical"}
        for node in each["nodes"]
    ]


def overflow(page: Page) -> int:
    """Measure how much wider than the window a page is, in pixels."""
    wider: int = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return wider


def log_in(page: Page, server: Serving, token: str, path: str = "/") -> None:
    """Open a page of the dashboard, and log in with a token."""
    page.goto(f"{server.url}{PREFIX}{path}")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Log in").wait_for(state="detached")
