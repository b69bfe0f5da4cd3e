"""What a person sees and does on the dashboard, in a browser."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from flask_migrate_mongo.model.values import Actor
from tests.integration.test_runs import FIRST, SECOND
from tests.interfaces.test_rest_runs import slow_backfill
from tests.waiting import until

from .browsing import (
    ADMIN,
    PREFIX,
    READ,
    RUN,
    UP,
    dashboard,
    follow,
    log_in,
    overflow,
    violations,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.project import Project
    from tests.serving import Serving

PATIENT_MS = 60_000
"""For what a page shows only when a new process runs, or a server is there again."""

HOSTILE = "<script>document.title = 'broken in'</script><img src=x onerror=alert(1)>"


@pytest.fixture
def server(project: Project) -> Iterator[Serving]:
    with dashboard(project) as server:
        yield server


# --- who may look


def test_without_a_token_nothing_is_shown(project: Project, server: Serving, page: Page) -> None:
    project.write_inserts(FIRST)
    for path in ("/", "/dashboard/plan", "/dashboard/runs"):
        answer = page.goto(f"{server.url}{PREFIX}{path}")
        assert answer is not None
        assert answer.status == 401
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        assert project.db.name not in page.content()
        assert str(FIRST) not in page.content()


def test_a_wrong_token_is_refused_and_a_right_one_opens_the_page_that_was_wanted(
    project: Project, server: Serving, page: Page
) -> None:
    project.write_inserts(FIRST)
    page.goto(f"{server.url}{PREFIX}/dashboard/plan")
    page.get_by_label("Token").fill("not-a-token-at-all")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("This token is not known.")
    page.get_by_label("Token").fill(READ)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Plan of up")).to_be_visible()
    expect(page.get_by_role("rowheader", name=str(FIRST))).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def test_who_may_only_read_sees_no_button_that_would_be_refused(
    project: Project, server: Serving, page: Page
) -> None:
    project.write_inserts(FIRST, SECOND)
    project.runner().up(steps=1)
    log_in(page, server, READ)
    for link in ("Plan", "Runs", "Overview"):
        follow(page, page.get_by_role("navigation").get_by_role("link", name=link))
        expect(page.get_by_role("main")).to_be_visible()
        allowed = {"Show", "Show the plan", "Log out"}
        assert set(page.get_by_role("button").all_inner_texts()) <= allowed
        assert page.locator("form[method=post]").count() == 0


# --- what is wrong


def test_a_failed_migration_is_found_and_read(
    project: Project, server: Serving, page: Page
) -> None:
    project.write_inserts(FIRST)
    project.write(f"{SECOND}_x", "def up(db):\n    raise ValueError('no such city')\n")
    project.runner().up()
    log_in(page, server, ADMIN)
    page.get_by_role("link", name="1 failed").click()
    page.get_by_role("row", name=str(SECOND)).get_by_role("link").click()
    expect(page.get_by_role("main")).to_contain_text("failed")
    expect(page.get_by_role("main")).to_contain_text("ValueError")
    expect(page.get_by_role("main")).to_contain_text("no such city")


def test_hostile_names_and_errors_are_text(project: Project, server: Serving, page: Page) -> None:
    project.write(
        f"{FIRST}_x", f'name = "{HOSTILE}"\ndef up(db):\n    raise ValueError("{HOSTILE}")\n'
    )
    log_in(page, server, ADMIN)
    page.get_by_role("link", name="Plan").click()
    expect(page.get_by_role("main")).to_contain_text(HOSTILE)
    page.get_by_role("button", name="Apply on").click()
    expect(page.get_by_role("main")).to_contain_text("failed")
    expect(page.locator(".error")).to_contain_text(HOSTILE)
    page.get_by_role("navigation").get_by_role("link", name="Overview").click()
    expect(page.get_by_role("main")).to_contain_text(HOSTILE)
    page.get_by_role("row", name=str(FIRST)).get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(HOSTILE)
    assert "broken in" not in page.title().replace(HOSTILE, "")
    assert page.locator("main script, main img").count() == 0


# --- runs


def test_a_dry_run_shows_its_effects_on_its_page(
    project: Project, server: Serving, page: Page
) -> None:
    project.db.people.insert_one({"_id": 1, "name": "Ada"})
    project.write(
        f"{FIRST}_names",
        """
        transactional = True

        def up(db):
            db.people.update_many({}, {"$rename": {"name": "full_name"}})
        """,
    )
    log_in(page, server, UP, "/dashboard/plan")
    page.get_by_role("button", name="Start the dry run").click()
    expect(page.get_by_role("cell", name="would succeed")).to_be_visible()
    effects = page.get_by_role("table", name=f"Effects of {FIRST}")
    figures = effects.get_by_role("row", name="people").get_by_role("cell")
    expect(figures).to_have_text(["0", "1", "1", "0", "0"])
    before_and_after = ['"name": "Ada"', '"full_name": "Ada"']
    expect(page.locator("pre.json")).to_contain_text(before_and_after)
    assert project.statuses() == {}


def progress(page: Page) -> int:
    """Read how many documents the page says are done."""
    value = page.get_by_role("progressbar").get_attribute("value")
    return int(value or 0)


def apply(page: Page, server: Serving, token: str = UP) -> None:
    """Start a run, and wait until its page shows the progress of its backfill."""
    log_in(page, server, token, "/dashboard/plan")
    page.get_by_role("button", name="Apply on").click()
    page.get_by_role("progressbar").wait_for(timeout=PATIENT_MS)


@pytest.fixture
def gates(project: Project) -> Iterator[tuple[Path, Path]]:
    """Write a migration that changes 600 documents, and waits for a file after 100 and after 400; return the files.

    Between the two it takes three seconds, so that its progress is stored again.
    """
    project.db.people.insert_many([{"_id": n} for n in range(600)])
    first, second = project.root / "first-gate", project.root / "second-gate"
    project.write(
        f"{FIRST}_backfill",
        f"""
        import time
        from pathlib import Path

        GATES = {{100: Path({str(first)!r}), 400: Path({str(second)!r})}}

        def wait(doc):
            while doc["_id"] in GATES and not GATES[doc["_id"]].exists():
                time.sleep(0.02)
            if 100 <= doc["_id"] < 400:
                time.sleep(0.01)
            return {{"$inc": {{"n": 1}}}}

        def up(db, ctx):
            ctx.backfill("people", wait, batch_size=10)
        """,
    )
    yield first, second
    # Also after a failure: nothing waits for ever.
    first.touch()
    second.touch()


def succeeds(page: Page) -> None:
    """Wait until the page says that its run has succeeded."""
    expect(page.locator("#part-state .state")).to_have_text("✓ succeeded", timeout=PATIENT_MS)


@pytest.mark.parametrize("threads", [8, 1])
def test_a_run_is_followed_to_its_end_with_a_stream_or_without(
    project: Project, gates: tuple[Path, Path], page: Page, threads: int
) -> None:
    first_gate, second_gate = gates
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with dashboard(project, threads=threads) as server:
        apply(page, server)
        first = progress(page)
        first_gate.touch()
        until(lambda: progress(page) > first)
        expect(page.get_by_role("main")).to_contain_text("of about 600 documents")
        second_gate.touch()
        succeeds(page)
        expect(page.get_by_role("row", name=str(FIRST))).to_contain_text("applied")
        expect(page.locator("#announcement")).to_have_text("The run is succeeded.")
        assert page.get_by_role("button", name="Pause").count() == 0
        assert any(url.endswith("/events") for url in asked) is (threads > 1)
        count = len(asked)
        page.wait_for_timeout(2_500)
        assert len(asked) == count, "a run that is over is not asked for again"


def test_a_backfill_is_paused_resumed_and_stopped(
    project: Project, server: Serving, page: Page
) -> None:
    slow_backfill(project, 10_000)
    apply(page, server)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    expect(page.get_by_role("main")).to_contain_text("documents, paused")
    done = project.db.people.count_documents({"n": 1})
    assert progress(page) == done
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.get_by_role("link", name="Stop this run ...").click()
    expect(page.get_by_role("main")).to_contain_text("after the current batch")
    page.get_by_role("button", name="Stop the run").click()
    expect(page.locator("#part-state .state")).to_have_text("■ cancelled")
    assert 0 < project.db.people.count_documents({"n": 1}) < 10_000


def test_down_is_refused_until_the_right_name_was_typed(
    project: Project, server: Serving, page: Page
) -> None:
    project.write_inserts(FIRST)
    project.runner().up()
    log_in(page, server, RUN, "/dashboard/plan?direction=down")
    page.get_by_label("To confirm, type the name of the database").fill("shop")
    page.get_by_role("button", name="Roll back on").click()
    expect(page.get_by_role("alert")).to_contain_text("not the name of the database")
    assert project.statuses() == {FIRST: "completed"}
    page.get_by_label("To confirm, type the name of the database").fill(project.db.name)
    page.get_by_role("button", name="Roll back on").click()
    expect(page.get_by_role("row", name=str(FIRST))).to_contain_text("rolled-back")
    assert project.statuses() == {FIRST: "rolled-back"}


def test_the_lock_is_released_from_the_overview(
    project: Project, server: Serving, page: Page
) -> None:
    with project.runner().lease.hold(Actor.current("a test")):
        log_in(page, server, ADMIN)
        page.get_by_role("link", name="Release the lock ...").click()
        expect(page.get_by_role("main")).to_contain_text("Do it only if that process is dead")
        page.get_by_label("To confirm, type the name of the database").fill(project.db.name)
        page.get_by_role("button", name="Release the lock").click()
        expect(page.get_by_role("heading", name="The lock is released")).to_be_visible()


def test_a_page_that_hears_nothing_says_so_and_recovers(
    gates: tuple[Path, Path], server: Serving, page: Page
) -> None:
    first_gate, second_gate = gates
    apply(page, server)
    freshness = page.locator("#freshness")
    expect(freshness).to_be_hidden(timeout=PATIENT_MS)
    os.killpg(server.process.pid, signal.SIGSTOP)
    try:
        expect(freshness).to_be_visible(timeout=PATIENT_MS)
        expect(freshness).to_contain_text("last heard from the server")
    finally:
        os.killpg(server.process.pid, signal.SIGCONT)
    expect(freshness).to_be_hidden(timeout=PATIENT_MS)
    seen = progress(page)
    first_gate.touch()
    until(lambda: progress(page) > seen)
    second_gate.touch()
    succeeds(page)


def test_a_page_outlives_a_restart_of_the_server(
    project: Project, gates: tuple[Path, Path], page: Page
) -> None:
    first_gate, second_gate = gates
    with dashboard(project) as server:
        apply(page, server)
        port = server.port
    expect(page.locator("#freshness")).to_be_visible(timeout=PATIENT_MS)
    with dashboard(project, port=port):
        expect(page.locator("#freshness")).to_be_hidden(timeout=PATIENT_MS)
        seen = progress(page)
        first_gate.touch()
        until(lambda: progress(page) > seen)
        second_gate.touch()
        succeeds(page)


# --- without a script, on a small window, for everybody


def test_without_a_script_every_page_is_read_and_runs_are_started(
    project: Project, server: Serving, open_page: Callable[..., Page]
) -> None:
    project.write_inserts(FIRST, SECOND)
    project.runner().up(steps=1)
    credentials = {"username": "anybody", "password": UP}
    page = open_page(java_script_enabled=False, http_credentials=credentials)
    page.goto(f"{server.url}{PREFIX}/dashboard/plan")
    page.get_by_role("link", name="log in through the browser").click()
    expect(page.get_by_role("heading", name=project.db.name)).to_be_visible()
    for button, expected in (("Start the dry run", "would succeed"), ("Apply on", "applied")):
        page.goto(f"{server.url}{PREFIX}/dashboard/plan")
        follow(page, page.get_by_role("button", name=button))
        while (again := page.get_by_role("link", name="Load it again")).count():
            follow(page, again)
        expect(page.get_by_role("row", name=str(SECOND))).to_contain_text(expected)
    assert project.statuses() == {FIRST: "completed", SECOND: "completed"}
    for link in ("Runs", "Plan", "Overview"):
        page.get_by_role("navigation", name="Dashboard").get_by_role("link", name=link).click()
        expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.get_by_role("row", name=str(FIRST)).get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(str(FIRST))


DECLARED = """
from flask_migrate_mongo.schema import Collection, Index, SearchIndex

text = SearchIndex({"mappings": {"dynamic": True}}, why="the search box")
collections = [
    Collection("people", [Index("name", why="the list of people")], search_indexes=[text]),
    Collection("missing", validator={"name": {"$type": "string"}}),
]
"""
SETTINGS: dict[str, Any] = {
    "MIGRATE_SCHEMA": "declared:collections",
    "MIGRATE_REHEARSAL_REPORT": "rehearsal.json",
}


@pytest.fixture
def furnished(project: Project) -> Iterator[tuple[Serving, dict[str, str]]]:
    """Serve a project with a page of each kind; give the path of each."""
    (project.root / "declared.py").write_text(DECLARED, encoding="utf-8")
    project.db.people.insert_many([{"_id": n, "name": "x" * 200} for n in range(3)])
    project.write_inserts(FIRST)
    project.runner().up()
    long_text = "a-word-without-any-blank-" * 20
    project.write(f"{SECOND}_fails", f"def up(db):\n    raise ValueError({long_text!r})\n")
    project.runner().up()
    project.write(
        f"{SECOND + 1}_names",
        """
        transactional = True

        def up(db):
            db.people.update_many({}, {"$set": {"note": "y" * 200}})
            db.people.create_index("name")

        def down(db):
            db.people.drop_index("name_1")
        """,
    )
    # Its `down()` leaves differences, which the page lists.
    assert project.invoke("rehearse", str(SECOND + 1), **SETTINGS).exit_code == 1
    paths = {
        "overview": "/",
        "migration": f"/dashboard/migrations/{SECOND}",
        "rehearsed migration": f"/dashboard/migrations/{SECOND + 1}",
        "schema": "/dashboard/schema",
        "plan": "/dashboard/plan",
        "plan of down": "/dashboard/plan?direction=down",
        "runs": "/dashboard/runs",
        "lock": "/dashboard/lock",
        "problem": "/dashboard/migrations/77",
    }
    with dashboard(project, **SETTINGS) as server:
        yield server, paths


def with_runs(page: Page, server: Serving, paths: dict[str, str]) -> dict[str, str]:
    """Start a dry run and a run; return the paths of all pages."""
    found = dict(paths)
    for button, name in (("Start the dry run", "dry run"), ("Apply on", "run")):
        page.goto(f"{server.url}{PREFIX}/dashboard/plan")
        page.get_by_role("button", name=button).click()
        page.locator("#live:not([data-page])").wait_for()
        found[name] = page.url.removeprefix(f"{server.url}{PREFIX}")
    found["stop"] = f"{found['run']}/cancel"
    return found


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_no_page_has_a_serious_violation_of_accessibility_in_light_and_dark(
    open_page: Callable[..., Page], furnished: tuple[Serving, dict[str, str]]
) -> None:
    server, fixed = furnished
    page = open_page(bypass_csp=True)
    page.goto(f"{server.url}{PREFIX}/")
    assert violations(page) == [], "the login"
    page.set_extra_http_headers(bearer(ADMIN))
    paths = with_runs(page, server, fixed)
    found = {}
    for name, path in paths.items():
        page.goto(f"{server.url}{PREFIX}{path}")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found[f"{name}, {scheme}"] = violations(page)
    assert {name: each for name, each in found.items() if each} == {}


def test_no_page_scrolls_sideways_on_a_small_window(
    open_page: Callable[..., Page], furnished: tuple[Serving, dict[str, str]]
) -> None:
    server, fixed = furnished
    page = open_page(viewport={"width": 360, "height": 740})
    page.goto(f"{server.url}{PREFIX}/")
    wider = {"login": overflow(page)}
    page.set_extra_http_headers(bearer(ADMIN))
    for name, path in with_runs(page, server, fixed).items():
        page.goto(f"{server.url}{PREFIX}{path}")
        wider[name] = overflow(page)
    assert {name: each for name, each in wider.items() if each > 0} == {}


def test_every_page_forbids_what_it_does_not_need(
    open_page: Callable[..., Page], furnished: tuple[Serving, dict[str, str]]
) -> None:
    server, fixed = furnished
    page = open_page(extra_http_headers=bearer(ADMIN))
    for path in with_runs(page, server, fixed).values():
        answer = page.goto(f"{server.url}{PREFIX}{path}")
        assert answer is not None
        headers: dict[str, Any] = answer.all_headers()
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
