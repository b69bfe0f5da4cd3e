"""The pages of runs: what they say, what their forms do, and that both is what the API answers and does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from flask_migrate_mongo.interfaces.dashboard import charts, runs
from flask_migrate_mongo.interfaces.rest.routes import BY_ACTION, PAGES
from flask_migrate_mongo.model.access import Scope
from flask_migrate_mongo.model.values import Actor, Direction
from tests.integration.test_runs import FIRST, SECOND, gate, importable, store_of
from tests.interfaces.test_dashboard import SCRIPT, dashboard, page_of, shown
from tests.interfaces.test_rest import ADMIN, APPLY, PREFIX, READ, RUN, Api, done
from tests.interfaces.test_rest_runs import slow_backfill
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from werkzeug.test import TestResponse

    from tests.html_pages import Element
    from tests.project import Project

THIRD = SECOND + 1


@pytest.fixture(autouse=True)
def _importable(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    importable(project, monkeypatch)


# --- forms, as a browser sends them


def form_of(page: Element, button: str) -> Element:
    """Find the form with this button."""
    (found,) = (form for form in page.all("form") if button in [b.text for b in form.all("button")])
    return found


def send(api: Api, page: Element, button: str, **typed: str) -> TestResponse:
    """Fill in a form of a page, and send it."""
    form = form_of(page, button)
    fields = {
        field.attributes["name"]: field.attributes.get("value", "") for field in form.all("input")
    }
    assert typed.keys() <= fields.keys()
    path = form.attributes["action"]
    return api("POST", path, data={**fields, **typed})


def started(api: Api, response: TestResponse) -> dict[str, Any]:
    """Follow a form that started a run, until the run has ended."""
    assert response.status_code == 303, response.text
    run_id = response.headers["Location"].rpartition("/")[2]
    assert response.headers["Location"] == f"{PREFIX}/dashboard/runs/{run_id}"
    until(lambda: done(api("GET", f"/runs/{run_id}"))["report"] is not None)
    run: dict[str, Any] = done(api("GET", f"/runs/{run_id}"))
    return run


def read(api: Api, path: str, status: int = 200) -> Element:
    return page_of(api("GET", path), status)


# --- the plan


def test_the_plan_says_what_would_run_in_which_order_and_where(project: Project) -> None:
    project.write_inserts(SECOND, FIRST)
    project.db.done.insert_many([{}, {}])
    api = dashboard(project)
    planned = done(api("GET", "/plan"))
    page = read(api, "/dashboard/plan")
    verdict = page.one("p", **{"class": "verdict"}).text
    assert "these 2 migrations in this order" in verdict
    assert all(host in verdict for host in planned["database"]["hosts"])
    assert project.db.name in verdict
    rows = page.one("main").rows()
    assert [row[:2] for row in rows] == [
        [str(n), f"{step['version']} {step['name']}"] for n, step in enumerate(planned["steps"], 1)
    ]
    for row, step in zip(rows, planned["steps"], strict=True):
        assert row[2:5] == ["no", "yes", "done (2)"], step
    assert [row[1] for row in read(api, "/dashboard/plan?steps=1").one("main").rows()] == [
        f"{FIRST} insert"
    ]


def test_a_plan_without_steps_has_nothing_to_start(project: Project) -> None:
    api = dashboard(project)
    for direction in Direction:
        page = read(api, f"/dashboard/plan?direction={direction.value}")
        assert [form.attributes["method"] for form in page.all("form")] == ["get"]


def test_empty_fields_of_the_form_are_left_out(project: Project) -> None:
    project.write_inserts(FIRST, SECOND)
    api = dashboard(project)
    assert len(read(api, "/dashboard/plan?direction=up&steps=").one("main").rows()) == 2
    project.runner().up()
    path = "/dashboard/plan?direction=down&steps=&batch=true"
    assert len(read(api, path).one("main").rows()) == 2
    assert read(api, "/dashboard/plan?steps=x", 400).one("h1").text
    assert read(api, "/dashboard/plan?stepz=1", 400).one("h1").text


# --- starting


def test_a_form_applies_what_its_page_has_shown(project: Project) -> None:
    project.write_inserts(FIRST, SECOND)
    api = dashboard(project, APPLY)
    page = read(api, "/dashboard/plan?steps=1")
    run = started(api, send(api, page, f"Apply on {project.db.name}"))
    assert (run["direction"], run["dryRun"], run["state"]) == ("up", False, "succeeded")
    assert project.statuses() == {FIRST: "completed"}


def test_a_run_ends_at_the_version_that_was_typed(project: Project) -> None:
    project.write_inserts(FIRST, SECOND, THIRD)
    api, name = dashboard(project, RUN), project.db.name
    page = read(api, f"/dashboard/plan?to={SECOND}")
    assert page.one("input", id="to").attributes["value"] == str(SECOND)
    assert started(api, send(api, page, f"Apply on {name}"))["state"] == "succeeded"
    assert project.statuses() == {FIRST: "completed", SECOND: "completed"}

    page = read(api, f"/dashboard/plan?direction=down&to={FIRST}")
    assert [row[1] for row in page.one("main").rows()] == [f"{SECOND} insert"]
    sent = send(api, page, f"Roll back on {name}", typedName=name)
    assert started(api, sent)["state"] == "succeeded"
    assert project.statuses() == {FIRST: "completed", SECOND: "rolled-back"}

    unknown = read(api, "/dashboard/plan?to=77", 404)
    assert "77" in unknown.one("main").text


def test_a_plan_that_has_changed_is_shown_again_and_nothing_is_started(project: Project) -> None:
    project.write_inserts(FIRST)
    api = dashboard(project)
    page = read(api, "/dashboard/plan")
    project.write_inserts(SECOND)
    for button in ("Start the dry run", f"Apply on {project.db.name}"):
        again = page_of(send(api, page, button), 409)
        assert again.one(role="alert").text == runs._CHANGED
        assert len(again.one("main").rows()) == 2
    assert project.db.migration_runs.count_documents({}) == 0
    assert started(api, send(api, again, f"Apply on {project.db.name}"))["state"] == "succeeded"


def test_a_dry_run_shows_its_effects_and_leaves_nothing(project: Project) -> None:
    project.db.people.insert_many([{"_id": n, "name": f"P{n}"} for n in range(3)])
    project.write(
        f"{FIRST}_people",
        f"""
        transactional = True

        def up(db):
            db.people.update_many({{}}, {{"$set": {{"note": {SCRIPT!r}}}}})
            db.other.insert_one({{"x": 1}})
        """,
    )
    project.write(f"{SECOND}_drop", "def up(db):\n    db.people.drop()\n")
    api = dashboard(project, APPLY)
    run = started(api, send(api, read(api, "/dashboard/plan"), "Start the dry run"))
    page = read(api, f"/dashboard/runs/{run['runId']}")
    rows = page.section("steps").rows()
    for row, step in zip(rows, run["report"]["steps"], strict=True):
        assert row[0] == f"{step['version']} {step['name']}"
        assert row[1][2:].startswith(step["verdict"])
        assert (step["reason"] or "")[:30] in row[1]
    effects = page.section("effects")
    first, second = run["report"]["steps"]
    tables = {table.one("caption").text: table for table in effects.all("table")}
    figures = ("inserted", "matched", "modified", "deleted", "upserted")
    assert tables[f"Effects of {FIRST}"].rows() == [
        [name, *(str(found[each]) for each in figures)] for name, found in first["effects"].items()
    ]
    assert {"people", "other"} == set(first["effects"])
    assert [row[:3] for row in tables[f"Not executed in {SECOND}"].rows()] == [
        [each["operation"], each["collection"], str(each["documents"])]
        for each in second["notExecuted"]
    ]
    assert len(effects.all("div", **{"class": "sample"})) == len(first["samples"]) >= 2
    assert SCRIPT in effects.text
    assert page.one("main").all("script") == []
    assert project.db.other.count_documents({}) == 0
    assert project.statuses() == {}


@pytest.mark.parametrize("typed", ["", "shop", "T_0"])
def test_down_needs_the_name_of_the_database(project: Project, typed: str) -> None:
    project.write_inserts(FIRST)
    project.runner().up()
    api = dashboard(project, RUN)
    page = read(api, "/dashboard/plan?direction=down")
    button = f"Roll back on {project.db.name}"
    again = page_of(send(api, page, button, typedName=typed), 400)
    assert again.one(role="alert").text == runs._OTHER_NAME
    assert project.db.migration_runs.count_documents({}) == 0
    run = started(api, send(api, again, button, typedName=f" {project.db.name} "))
    assert run["report"]["steps"][0]["state"] == "rolled-back"


def test_a_dry_run_of_down_needs_no_name(project: Project) -> None:
    project.write_inserts(FIRST)
    project.runner().up()
    api = dashboard(project, RUN)
    page = read(api, "/dashboard/plan?direction=down")
    run = started(api, send(api, page, "Start the dry run"))
    assert (run["direction"], run["dryRun"]) == ("down", True)
    assert project.statuses() == {FIRST: "completed"}


def test_a_run_that_is_refused_says_why(project: Project) -> None:
    project.write_inserts(FIRST)
    api = dashboard(project)
    page = read(api, "/dashboard/plan")
    with project.runner().lease.hold(Actor.current("a test")):
        refused = page_of(send(api, page, f"Apply on {project.db.name}"), 409)
    assert "a test" in refused.one("main").text
    assert project.statuses() == {}


# --- who may do what

POSTS = [page for page in PAGES if page.method == "POST"]


def path_to(page: Any) -> str:
    return str(page.path.replace("<run_id>", "0" * 32))


@pytest.mark.parametrize("page", POSTS, ids=lambda page: page.name)
def test_every_form_needs_the_scope_of_its_action_and_its_token(
    project: Project, page: Any
) -> None:
    scope = BY_ACTION[page.action].scope
    below = [each for each in Scope if not each.includes(scope)]
    tokens = dict(zip(Scope, (READ, APPLY, RUN, ADMIN), strict=True))
    for each in below:
        page_of(dashboard(project, tokens[each])("POST", path_to(page), data={}), 403)
    without_token = page_of(dashboard(project, tokens[scope])("POST", path_to(page), data={}), 403)
    assert "no valid token" in without_token.one("main").text
    assert page_of(dashboard(project, None)("POST", path_to(page), data={}), 401)


def test_no_page_shows_a_button_that_would_be_refused(project: Project) -> None:
    project.write_inserts(FIRST, SECOND)
    project.runner().up(steps=1)
    of = {"directory": str(project.migrations), "collection": "migrations"}
    store_of(project).create("a" * 32, Direction.UP, {}, of)
    buttons = {READ: (0, 0, 0), APPLY: (2, 0, 1), RUN: (2, 2, 1), ADMIN: (2, 2, 1)}
    for token, expected in buttons.items():
        api = dashboard(project, token)
        paths = ("plan", "plan?direction=down", f"runs/{'a' * 32}")
        pages = [read(api, f"/dashboard/{path}") for path in paths]
        links = [a for a in pages[2].all("a") if a.attributes["href"].endswith("/cancel")]
        forms = [
            [f for f in page.all("form") if f.attributes["method"] == "post"] for page in pages
        ]
        assert (len(forms[0]), len(forms[1]), len(links)) == expected
        releases = [a for a in read(api, "/").all("a") if a.attributes["href"].endswith("/lock")]
        assert releases == []


# --- a run


def test_a_run_shows_the_figures_of_the_api_while_it_works_and_when_it_has_ended(
    project: Project,
) -> None:
    fast = slow_backfill(project)
    project.write_inserts(SECOND)
    api = dashboard(project, APPLY)
    response = send(api, read(api, "/dashboard/plan"), f"Apply on {project.db.name}")
    path = response.headers["Location"].removeprefix(PREFIX)
    api_path = path.removeprefix("/dashboard")

    def seen() -> dict[str, Any]:
        found: dict[str, Any] = done(api("GET", api_path))
        return found

    until(lambda: "progress" in (seen()["current"] or {}))
    page_of_run = read(api, path)
    assert send(api, page_of_run, "Pause").status_code == 303
    until(lambda: seen()["current"]["progress"]["paused"])
    run, page = seen(), read(api, path)
    progress = run["current"]["progress"]
    section = page.section("progress")
    assert f"{progress['done']:,} of about {progress['total']:,} documents, paused" in section.text
    bar = section.one("progress").attributes
    assert (bar["value"], bar["max"]) == (str(progress["done"]), str(progress["total"]))
    assert section.facts()["Rate"] == f"{progress['perSecond']} documents a second"
    assert [row[0].split()[0] for row in page.section("steps").rows()] == [
        step["version"] for step in run["steps"]
    ]
    assert [row[1].split()[-1] for row in page.section("steps").rows()] == ["running", "waiting"]
    facts = page.section("state").facts()
    assert facts["Run"] == run["runId"]
    assert facts["Accepted"] == shown(run["createdAt"])
    fast.touch()
    assert send(api, page, "Resume").status_code == 303
    until(lambda: seen()["report"] is not None)
    run, page = seen(), read(api, path)
    facts = page.section("state").facts()
    assert facts["Batch"] == str(run["report"]["batch"])
    assert facts["Ended"] == shown(run["updatedAt"])
    for row, step in zip(page.section("steps").rows(), run["report"]["steps"], strict=True):
        assert row[1].endswith(step["state"])
    assert "data-page" not in page.one(id="live").attributes
    assert [form.attributes["method"] for form in page.all("form")] == []


def test_a_run_is_stopped_after_a_page_that_says_what_that_means(
    project: Project, tmp_path: Path
) -> None:
    mark, go = gate(project, tmp_path)
    project.write_inserts(SECOND)
    api = dashboard(project, APPLY)
    response = send(api, read(api, "/dashboard/plan"), f"Apply on {project.db.name}")
    until(mark.exists)
    path = response.headers["Location"].removeprefix(PREFIX)
    (link,) = (a for a in read(api, path).all("a") if a.text.startswith("Stop this run"))
    asked = read(api, link.attributes["href"].removeprefix(PREFIX))
    assert done(api("GET", path.removeprefix("/dashboard")))["cancelRequested"] is False
    assert send(api, asked, "Stop the run").status_code == 303
    assert "A stop was requested." in read(api, path).section("state").text
    go.touch()
    assert started(api, response)["state"] == "cancelled"
    assert project.statuses() == {FIRST: "completed"}


def test_a_run_that_failed_shows_its_error_to_who_may_run(project: Project) -> None:
    project.write(f"{FIRST}_x", f"def up(db):\n    raise ValueError({SCRIPT!r})\n")
    api = dashboard(project, APPLY)
    run = started(api, send(api, read(api, "/dashboard/plan"), f"Apply on {project.db.name}"))
    path = f"/dashboard/runs/{run['runId']}"
    response = api("GET", path)
    assert SCRIPT not in response.text
    section = page_of(response).section("steps")
    (error,) = section.all("div", **{"class": "error"})
    assert SCRIPT in error.text
    assert "Traceback" in error.text
    reader = read(dashboard(project, READ), path)
    assert SCRIPT not in reader.text
    assert reader.section("steps").all("pre") == []


def test_workers_are_shown_with_what_each_has_done(project: Project) -> None:
    of = {"directory": str(project.migrations), "collection": "migrations"}
    store = store_of(project)
    store.create("a" * 32, Direction.UP, {}, of)
    ranges = [{"done": 1200, "state": "done"}, {"done": 7, "state": "working"}]
    figures = {
        "done": 1207,
        "total": 5000,
        "perSecond": 20.5,
        "secondsLeft": 185.0,
        "leastSecondsLeft": 120.0,
        "mostSecondsLeft": 3900.0,
        "paused": False,
        "rates": [10.0, 20.5, 5.0],
    }
    progress = {"collection": "people", **figures, "ranges": ranges}
    current = {"version": str(FIRST), "name": "x", "progress": progress}
    store.touch("a" * 32, current=current)
    section = read(dashboard(project), f"/dashboard/runs/{'a' * 32}").section("progress")
    assert [[row[0], row[1].split()[-1], row[2]] for row in section.rows()] == [
        ["1", "done", "1,200"],
        ["2", "working", "7"],
    ]
    facts = section.facts()
    assert facts["Rate"] == "20.5 documents a second"
    assert facts["Time left"] == "about 3 min 05 s (from 2 min 00 s to 1 h 05 min)"
    assert "from 5.0 to 20.5, now 5.0" in section.one("figcaption").text
    assert section.one("polyline").attributes["points"] == charts.line([10.0, 20.5, 5.0])


def test_a_line_reaches_from_zero_to_its_highest_value() -> None:
    assert charts.line([0, 5, 10]) == "0.0,30.0 50.0,15.0 100.0,0.0"
    assert charts.line([0, 0]) == "0.0,30.0 100.0,30.0"
    assert charts.line([4]) == "0.0,0.0"


def test_the_list_of_runs_is_that_of_the_api(project: Project) -> None:
    project.write_inserts(FIRST)
    api = dashboard(project, APPLY)
    assert "There are no runs yet." in read(api, "/dashboard/runs").one("main").text
    for button in ("Start the dry run", f"Apply on {project.db.name}"):
        started(api, send(api, read(api, "/dashboard/plan"), button))
    listed = done(api("GET", "/runs"))["runs"]
    rows = read(api, "/dashboard/runs").one("main").rows()
    assert len(rows) == len(listed) == 2
    for row, run in zip(rows, listed, strict=True):
        kind = "up, dry run" if run["dryRun"] else "up"
        assert row[0] == f"{kind} {run['runId'][:8]}"
        assert row[1].endswith(run["state"])
        assert row[2:4] == [shown(run["createdAt"]), shown(run["updatedAt"])]


def test_a_run_that_is_not_known_is_not_found(project: Project) -> None:
    for run_id in ("0" * 32, "none"):
        read(dashboard(project), f"/dashboard/runs/{run_id}", 404)
        read(dashboard(project), f"/dashboard/runs/{run_id}/cancel", 404)


def test_only_a_server_with_threads_is_asked_for_a_stream(project: Project) -> None:
    of = {"directory": str(project.migrations), "collection": "migrations"}
    store_of(project).create("a" * 32, Direction.UP, {}, of)
    api, path = dashboard(project), f"/dashboard/runs/{'a' * 32}"
    for threads in (True, False):
        response = api("GET", path, environ_overrides={"wsgi.multithread": threads})
        assert ("data-events" in page_of(response).one(id="live").attributes) is threads


# --- the lock


def test_the_lock_is_released_after_the_name_of_the_database_was_typed(project: Project) -> None:
    api = dashboard(project)
    assert "The lock is free" in read(api, "/dashboard/lock").one("main").text
    with project.runner().lease.hold(Actor.current("a test")):
        lock = done(api("GET", "/lock/status"))["lock"]
        page = read(api, "/dashboard/lock")
        facts = page.one("main").facts()
        assert facts["Holder"] == lock["lockedBy"]
        assert facts["Since"] == shown(lock["lockedAt"])
        again = page_of(send(api, page, "Release the lock", typedName="shop"), 400)
        assert again.one(role="alert").text == runs._OTHER_NAME
        assert done(api("GET", "/lock/status"))["locked"] is True
        said = page_of(send(api, again, "Release the lock", typedName=project.db.name))
        assert lock["lockedBy"] in said.one("main").text
        assert done(api("GET", "/lock/status"))["locked"] is False


def test_another_lock_than_the_one_that_was_shown_is_not_released(project: Project) -> None:
    api = dashboard(project)
    with project.runner().lease.hold(Actor.current("one")):
        page = read(api, "/dashboard/lock")
    with project.runner().lease.hold(Actor.current("another")):
        again = page_of(send(api, page, "Release the lock", typedName=project.db.name), 409)
        assert again.one(role="alert").text == runs._OTHER_LOCK
        assert done(api("GET", "/lock/status"))["locked"] is True
