"""Draws the pages of the dashboard, as PNG files for the documents: `make pictures`.

It serves an application of its own on a server of the tests, runs its migrations on the pages, and takes pictures with Chromium.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.browser import browsing  # noqa: E402  (after the path)
from tests.project import Project  # noqa: E402
from tests.server.launcher import TestServer  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, ViewportSize

    from tests.serving import Serving

PICTURES = ROOT / "docs" / "pictures"
WIDE: ViewportSize = {"width": 1180, "height": 860}
NARROW: ViewportSize = {"width": 380, "height": 820}
WAIT_MS = 90_000
CUSTOMERS = 12_000

APPLIED = {
    "20261002001_unique_emails": "db.customers.create_index('email', unique=True)",
    "20261002002_order_status": "db.orders.update_many({}, {'$set': {'status': 'paid'}})",
    "20261019001_index_of_orders": "db.orders.create_index([('customer', 1), ('at', -1)])",
}

DRY = '''
"""Split the name of a customer into its parts."""

transactional = True


def up(db):
    parts = {"$split": ["$name", " "]}
    db.customers.update_many(
        {"_id": {"$lt": 500}},
        [{"$set": {"first": {"$first": parts}, "last": {"$last": parts}}}, {"$unset": "name"}],
    )
    db.orders.delete_many({"at": {"$lt": 10}})
'''

BACKFILL = '''
"""Give each customer a loyalty level."""

import time

name = "Loyalty levels"


def level(customer):
    time.sleep(0.005)
    return {"$set": {"level": "gold" if customer["spent"] > 900 else "silver"}}


def up(db, ctx):
    ctx.backfill("customers", level, batch_size=100, workers=4)


def down(db, ctx):
    ctx.backfill("customers", {"$unset": {"level": ""}}, where={"level": {"$exists": True}})
'''

FAILING = '''
"""Give every order the currency of its customer."""


def up(db):
    for order in db.orders.find({"currency": None}):
        customer = db.customers.find_one({"_id": order["customer"]})
        db.orders.update_one({"_id": order["_id"]}, {"$set": {"currency": customer["currency"]}})
'''


@contextmanager
def shop() -> Iterator[Project]:
    """Make the application, with documents and applied migrations."""
    with TestServer() as server, tempfile.TemporaryDirectory() as folder:
        uri = server.uri.replace("/?", "/shop?")
        with MongoClient[dict[str, Any]](uri) as client:
            project = Project(Path(folder), client["shop"], uri)
            fill(project)
            yield project


def fill(project: Project) -> None:
    """Insert the documents, and apply the first migrations."""
    db = project.db
    names = ("Ada Lovelace", "Grace Hopper", "Alan Turing", "Edsger Dijkstra")
    db.customers.insert_many(
        {"_id": n, "name": names[n % 4], "email": f"c{n}@shop.example", "spent": n % 1_000}
        for n in range(CUSTOMERS)
    )
    db.orders.insert_many({"customer": n, "at": n, "status": "draft"} for n in range(40))
    for name, code in APPLIED.items():
        project.write(name, f"def up(db):\n    {code}\n\n\ndef down(db):\n    pass\n")
        project.runner().up()


def take(page: Page, name: str) -> None:
    """Take a picture of what the window shows."""
    page.mouse.move(0, 0)
    page.screenshot(path=PICTURES / f"dashboard-{name}.png")


def start(page: Page, server: Serving, button: str) -> None:
    """Start what the plan shows."""
    page.goto(f"{server.url}{browsing.PREFIX}/dashboard/plan")
    page.get_by_role("button", name=button).click()


def over(page: Page) -> None:
    """Wait until the run of a page has ended."""
    page.locator("#live:not([data-page])").wait_for()


def draw(browser: Browser, project: Project, server: Serving) -> None:
    """Go through the pages, and take the pictures."""
    headers = {"Authorization": f"Bearer {browsing.ADMIN}"}
    page = browser.new_page(viewport=WIDE, extra_http_headers=headers, color_scheme="light")
    page.set_default_timeout(WAIT_MS)
    dry = project.write("20261103001_names", DRY)
    start(page, server, "Start the dry run")
    over(page)
    take(page, "dry-run")
    dry.unlink()
    project.write("20261127001_loyalty", BACKFILL)
    project.write("20261127002_currencies", FAILING)
    page.goto(f"{server.url}{browsing.PREFIX}/dashboard/plan")
    take(page, "plan")
    start(page, server, "Apply on")
    page.locator(".spark").wait_for()
    page.get_by_text("(from").wait_for()
    take(page, "run")
    over(page)
    page.goto(f"{server.url}{browsing.PREFIX}/dashboard/migrations/20261127002")
    # Not its record and file, which name this machine.
    page.locator("section", has=page.get_by_role("heading", name="Source")).screenshot(
        path=PICTURES / "dashboard-migration.png"
    )
    project.write("20261130001_newsletter", "def up(db):\n    db.letters.create_index('sent')\n")
    page.goto(f"{server.url}{browsing.PREFIX}/")
    take(page, "overview")
    page.set_viewport_size(NARROW)
    page.emulate_media(color_scheme="dark")
    page.goto(f"{server.url}{browsing.PREFIX}/")
    take(page, "narrow")


def main() -> None:
    """Draw all pictures."""
    program = browsing.chromium()
    if program is None:
        raise SystemExit(browsing.MISSING)
    PICTURES.mkdir(exist_ok=True)
    with (
        shop() as project,
        browsing.dashboard(project) as server,
        browsing.started(program) as browser,
    ):
        draw(browser, project, server)


if __name__ == "__main__":
    main()
