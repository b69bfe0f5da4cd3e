"""One browser for the tests of a module, and a fresh profile for each test."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from . import browsing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, ConsoleMessage, Page

WAIT_MS = 20_000
"""How long a page may take to show what a test waits for: the machine can be busy."""

expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium. Where it is missing, the tests are skipped, but not in continuous integration.

    Not for the session: Playwright keeps an event loop running, and other tests start their own.
    """
    program = browsing.chromium()
    if program is None:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(browsing.MISSING)
    with browsing.started(program) as started:
        yield started


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open pages in profiles of their own; a test fails if a page's script fails, or its policy refuses something."""
    contexts, problems = [], list[str]()

    def open_page(**options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if is_ours(said) else None)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def is_ours(said: ConsoleMessage) -> bool:
    """Whether a message of the console is a mistake of a page: Chromium also logs each answer that is an error."""
    return said.type == "error" and "Failed to load resource" not in said.text


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    """Open one page."""
    return open_page()
