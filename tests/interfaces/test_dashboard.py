"""The dashboard: who may read it, what its pages say, and that they say no more than the API."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from flask import Flask
from pymongo import MongoClient
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_migrate_mongo import MongoMigrate
from flask_migrate_mongo.interfaces.dashboard import forms, texts
from flask_migrate_mongo.interfaces.rest.routes import PAGES, Page
from flask_migrate_mongo.model.errors import ForbiddenError
from flask_migrate_mongo.model.values import Actor, Direction
from flask_migrate_mongo.reports.words import took
from flask_migrate_mongo.store.runs import RunStore
from tests.html_pages import Element, read_page
from tests.interfaces.test_rest import ADMIN, PREFIX, READ, TOKENS, Api, done, problem
from tests.sent import Sent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

    from tests.project import Project

SCRIPT = "<script>alert(1)</script>"
VERSION = 20261101001
POLICY = {
    "default-src": "'self'",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
DATA = [page for page in PAGES if page.action is not None and page.method == "GET"]
RUN_ID = "a" * 32


def dashboard(project: Project, token: str | None = ADMIN, **settings: object) -> Api:
    """Return a client of an application with a dashboard."""
    given = {"MIGRATE_API_TOKEN": TOKENS, "MIGRATE_DASHBOARD": True, **settings}
    return Api(project.app(**given), token)


def basic(token: str) -> dict[str, str]:
    return {"Authorization": f"Basic {b64encode(f'anybody:{token}'.encode()).decode()}"}


def path_of(page: Page) -> str:
    path = page.path.replace("<version>", str(VERSION)).replace("<name>", "style.css")
    return path.replace("<path:rest>", "nothing-here").replace("<run_id>", RUN_ID)


def page_of(response: TestResponse, status: int = 200) -> Element:
    """Check that the response is a page of the dashboard, and read it."""
    assert response.status_code == status, response.text
    assert response.content_type == "text/html; charset=utf-8"
    headers = response.headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy == POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"
    page = read_page(response.text)
    assert page.one("html").attributes["lang"] == "en"
    return page


# --- there or not


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_without_the_setting_there_is_no_page(project: Project, page: Page) -> None:
    path = path_of(page)
    response = dashboard(project, MIGRATE_DASHBOARD=False)("GET", path)
    if path == "/":
        # As before: only a POST makes a file there.
        problem(response, 405, "method-not-allowed")
        assert response.headers["Allow"] == "POST"
    else:
        problem(response, 404, "not-found")


def test_a_dashboard_that_is_registered_by_hand_is_where_the_application_puts_it(
    project: Project,
) -> None:
    app = Flask("shop", root_path=str(project.root))
    app.config.from_mapping(MIGRATE_API=False, MIGRATE_DASHBOARD=True, MIGRATE_API_TOKEN=ADMIN)
    migrate = MongoMigrate(app, project.db)
    app.register_blueprint(migrate.make_blueprint(), url_prefix="/ops")
    headers = {"Authorization": f"Bearer {ADMIN}"}
    page = page_of(app.test_client().get("/ops/", headers=headers))
    assert page.one("body").attributes["data-prefix"] == "/ops/"


# --- access


@pytest.mark.parametrize("page", DATA, ids=lambda page: page.name)
@pytest.mark.parametrize("token", [None, ADMIN])
def test_every_page_is_closed_until_the_application_opens_it(
    project: Project, page: Page, token: str | None
) -> None:
    response = dashboard(project, token, MIGRATE_API_TOKEN=None)("GET", path_of(page))
    said = page_of(response, 403)
    assert "Set MIGRATE_API_TOKEN" in said.one("main").text
    assert project.db.name not in response.text
    assert said.one("nav").all("a") == []


@pytest.mark.parametrize("page", DATA, ids=lambda page: page.name)
@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong-0123456789"}, basic("wrong-0123456789")]
)
def test_without_a_known_token_a_page_without_data_asks_for_one(
    project: Project, page: Page, headers: dict[str, str]
) -> None:
    project.write_inserts(VERSION)
    for name, given in (("Bearer", ""), ("Basic", "?login=basic")):
        response = dashboard(project, None)("GET", path_of(page) + given, headers=headers)
        said = page_of(response, 401)
        assert response.headers["WWW-Authenticate"].split()[0] == name
        assert said.one("form", id="login").attributes["hidden"] == ""
        assert [e.text for e in said.all(role="alert")] == ["This token is not known."] * bool(
            headers
        )
        assert said.one("nav").all("a") == []
        assert not {project.db.name, str(VERSION)} & set(said.one("body").text.split())


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_opens_a_page_as_a_bearer_or_as_the_password_of_the_browser(
    project: Project, token: str
) -> None:
    for headers in ({"Authorization": f"Bearer {token}"}, basic(token)):
        page = page_of(dashboard(project, None)("GET", "/", headers=headers))
        assert page.one("h1").text == project.db.name


def test_only_the_pages_take_a_token_as_a_password(project: Project) -> None:
    api = dashboard(project, None)
    problem(api("GET", "/status", headers=basic(ADMIN)), 401, "unauthenticated")
    problem(api("POST", "/up", headers=basic(ADMIN)), 401, "unauthenticated")
    problem(api("GET", "/nothing-here", headers=basic(ADMIN)), 401, "unauthenticated")


@pytest.mark.parametrize("is_operator", [True, False])
def test_the_login_of_the_application_decides_with_the_actions_of_the_api(
    project: Project, *, is_operator: bool
) -> None:
    project.write_inserts(VERSION)
    asked: list[str] = []
    app = Flask("shop", root_path=str(project.root))
    app.config["MIGRATE_DASHBOARD"] = True

    def may(action: str, _: object) -> bool:
        asked.append(action)
        return is_operator

    MongoMigrate(app, project.db, authorize=may)
    for page in DATA:
        asked.clear()
        response = Api(app, None)("GET", path_of(page))
        assert asked[0] == page.action
        if not is_operator:
            said = page_of(response, 403)
            assert project.db.name not in response.text
            assert "Log in as somebody who may." in said.one("main").text


def test_the_stylesheet_and_the_script_need_no_token_and_change_their_address(
    project: Project,
) -> None:
    client = dashboard(project, None)
    page = page_of(client("GET", "/"), 401)
    addresses = [
        page.one("link", rel="stylesheet").attributes["href"],
        page.one("link", rel="icon").attributes["href"],
        page.one("script").attributes["src"],
    ]
    for address in addresses:
        response = client("GET", address)
        assert response.status_code == 200
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "immutable" in response.headers["Cache-Control"]
        assert urlsplit(address).query.startswith("v=")
    for name in ("other.css", "..%2fviews.py", "%2e%2e/templates/base.html"):
        assert client("GET", f"/dashboard/static/{name}").status_code in {401, 404}


# --- for every page


def every_page(api: Api) -> Iterator[Element]:
    """Read each page, an error and the login."""
    for page in DATA:
        response = api("GET", path_of(page))
        yield page_of(response, 404 if page.name == "unknown" else 200)
    yield page_of(api("GET", "/dashboard/migrations/77"), 404)
    del api.headers["Authorization"]
    yield page_of(api("GET", "/"), 401)


def add(project: Project, version: int) -> None:
    """Write a migration that is like no other one."""
    project.write(
        f"{version}_add_{version}", f"def up(db):\n    db.added.insert_one({{'_id': {version}}})\n"
    )


@pytest.fixture
def furnished(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a declared schema, and something applied, failed and pending."""
    (project.root / "declared.py").write_text(
        "from flask_migrate_mongo.schema import Collection, Index, SearchIndex\n"
        "text = SearchIndex({'mappings': {'dynamic': True}}, why='the search box')\n"
        "collections = [Collection('done', [Index('version')], search_indexes=[text])]\n"
    )
    monkeypatch.syspath_prepend(str(project.root))
    project.write_inserts(VERSION, VERSION + 1)
    assert not project.runner().up().failures
    project.write(
        f"{VERSION + 2}_fails", f"def up(db):\n    raise ValueError({SCRIPT!r}, 'x@example.com')\n"
    )
    assert project.runner().up().failures
    add(project, VERSION + 3)
    runner, of = project.runner(), {"directory": "", "collection": "migrations"}
    store = RunStore(runner.server, "migration_runs", runner.lease)
    store.create(RUN_ID, Direction.UP, {"dry_run": True}, of)
    return project


SCHEMA = {"MIGRATE_SCHEMA": "declared:collections"}


def test_no_page_has_inline_code_or_styles_or_leads_elsewhere(furnished: Project) -> None:
    for page in every_page(dashboard(furnished, **SCHEMA)):
        assert page.all("style") == []
        for element in page.all():
            assert not {n for n in element.attributes if n == "style" or n.startswith("on")}
            for name in {"href", "src", "action"} & element.attributes.keys():
                address = element.attributes[name]
                assert address.startswith((f"{PREFIX}/", "#")), address
        assert [script.text for script in page.all("script")] == [""]


def test_behind_a_proxy_and_below_a_prefix_every_address_has_the_prefix(
    furnished: Project,
) -> None:
    api = dashboard(furnished, **SCHEMA)
    api.app.wsgi_app = ProxyFix(api.app.wsgi_app, x_prefix=1)  # type: ignore[method-assign]
    api.headers["X-Forwarded-Prefix"] = "/shop"
    for page in every_page(api):
        for element in page.all():
            for name in {"href", "src", "action", "data-prefix"} & element.attributes.keys():
                assert element.attributes[name].startswith((f"/shop{PREFIX}/", "#"))


def test_every_page_has_landmarks_a_skip_link_and_tables_with_captions_and_heads(
    furnished: Project,
) -> None:
    for page in every_page(dashboard(furnished, **SCHEMA)):
        main = page.one("main")
        assert page.all("a")[0].attributes["href"] == f"#{main.attributes['id']}"
        assert len(main.all("h1")) == 1
        assert page.one("head").one("title").text
        for table in page.all("table"):
            assert table.one("caption").text
            assert {cell.attributes.get("scope") for cell in table.all("th")} <= {"col", "row"}
        ids = [element.attributes["id"] for element in page.all() if "id" in element.attributes]
        assert len(ids) == len(set(ids))
        labelled = {label.attributes["for"] for label in page.all("label")}
        for control in (*page.all("input"), *page.all("select")):
            hidden = control.attributes.get("type") == "hidden"
            assert hidden or control.attributes["id"] in labelled


def test_a_page_of_the_database_that_does_not_answer_says_so(project: Project) -> None:
    nobody = "mongodb://127.0.0.1:1/shop"
    settings = {"MIGRATE_API_TOKEN": ADMIN, "MIGRATE_DASHBOARD": True}
    with MongoClient[dict[str, Any]](nobody, serverSelectionTimeoutMS=50) as client:
        app = project.app(client, **settings)
        for path in ("/", f"/dashboard/migrations/{VERSION}"):
            said = page_of(Api(app)("GET", path), 503)
            assert "503" in said.one("main").text


# --- the overview


def tiles(page: Element) -> dict[str, int]:
    """Read the numbers of the overview by the filters that they lead to."""
    found = page.one("ul", **{"aria-label": "Number of migrations in each state"}).all("a")
    return {
        urlsplit(a.attributes["href"]).query.removeprefix("state="): int(
            a.one("span", **{"class": "count"}).text.replace(",", "")
        )
        for a in found
    }


def shown(moment: str | None) -> str:
    return (moment or "")[:19].replace("T", " ")


def test_every_figure_of_the_overview_is_in_the_answers_of_the_api(furnished: Project) -> None:
    add(furnished, VERSION - 1)
    changed = next(furnished.migrations.glob(f"{VERSION}_*"))
    changed.write_text(changed.read_text().replace("insert_one", "insert_many"))
    next(furnished.migrations.glob(f"{VERSION + 1}_*")).unlink()
    furnished.db.migrations.update_one(
        {"version": str(VERSION + 2)}, {"$set": {"metadata.interrupted": True}}
    )
    api = dashboard(furnished, **SCHEMA)
    status = done(api("GET", "/status"))
    check = done(api("GET", "/check?quick=true"))
    page = page_of(api("GET", "/"))

    summary = status["summary"]
    assert tiles(page) == {
        "applied": summary["applied"],
        "pending": summary["pending"],
        "failed": summary["failed"],
        "running": summary["running"],
        "interrupted": sum(each["interrupted"] for each in status["failed"]),
        "changed": summary["drifted"],
        "missing": summary["missing"],
        "out-of-order": summary["outOfOrder"],
    }
    assert {count for name, count in tiles(page).items() if name not in {"applied", "pending"}} == {
        0,
        1,
    }
    assert page.one("h1").text == status["database"]["name"]
    assert all(host in page.one("main").text for host in status["database"]["hosts"])

    rows = page.section("to-do").rows()
    assert len(rows) == len(check["problems"]) >= 5
    problems = sorted(check["problems"], key=lambda each: bool(each["kind"] == "pending"))
    assert problems != check["problems"]
    for row, expected in zip(rows, problems, strict=True):
        assert row[0].endswith(expected["kind"])
        assert row[1] == expected["message"]
        assert row[2].replace(" ", "") == expected["remedy"].replace("`", "").replace(" ", "")

    listed = {row[0].split()[0]: row for row in page.section("migrations").rows()}
    assert len(listed) == summary["total"]
    for entry in status["applied"]:
        row = listed[entry["version"]]
        assert row[2] == shown(entry["appliedAt"])
        assert row[3] == f"{entry['executionTime']} ms"
        assert row[4] == str(entry["batch"])
    (failed,) = status["failed"]
    assert failed["error"]["message"] in listed[failed["version"]][5]

    (batch,) = page.section("batches").rows()
    last = max(each["appliedAt"] for each in status["applied"])
    took = sum(each["executionTime"] for each in status["applied"])
    assert batch == ["1", shown(last), "2", f"{took} ms"]
    assert page.section("months").rows() == [[last[:7], "2"]]
    assert len(page.section("batches").all("rect")) == 1


def test_the_overview_says_who_holds_the_lock_and_when_it_is_free(project: Project) -> None:
    project.write_inserts(VERSION)
    api = dashboard(project)
    assert page_of(api("GET", "/")).section("lock").text == "Lock The lock is free."
    with project.runner().lease.hold(Actor.current("a test")):
        lock = done(api("GET", "/lock/status"))["lock"]
        facts = page_of(api("GET", "/")).section("lock").facts()
    assert facts["Holder"] == lock["lockedBy"]
    assert facts["Since"] == shown(lock["lockedAt"])
    assert facts["Run"] == lock["runId"]


def test_when_everything_is_applied_the_overview_lists_no_problem(project: Project) -> None:
    project.write_inserts(VERSION)
    project.runner().up()
    page = page_of(dashboard(project)("GET", "/"))
    assert "Everything is applied" in page.one("main").text
    assert page.all("section", **{"aria-labelledby": "to-do"}) == []


def test_the_overview_sends_no_more_commands_than_the_status(project: Project) -> None:
    project.write_inserts(*range(1, 31))
    project.runner().up()
    listener = Sent()
    with MongoClient[dict[str, Any]](project.uri, event_listeners=[listener]) as client:
        project.db = client[project.db.name]
        api = dashboard(project)
        for path in ("/status", "/", "/status", "/"):
            assert api("GET", path).status_code == 200
            needed = listener.taken()
        done(api("GET", "/status"))
        assert needed == listener.taken() != []


def test_the_list_is_filtered_and_divided_into_pages_by_the_server(project: Project) -> None:
    project.write_inserts(*range(1, 121))
    project.runner().up(steps=110)
    api = dashboard(project)

    def rows(query: str) -> list[str]:
        section = page_of(api("GET", f"/?{query}")).section("migrations")
        return [row[0].split()[0] for row in section.rows()] if section.all("table") else []

    assert rows("") == [*map(str, range(111, 121)), *map(str, range(110, 70, -1))]
    assert rows("page=3") == [*map(str, range(20, 0, -1))]
    assert rows("page=99") == rows("page=3")
    assert rows("page=x") == rows("page=0") == rows("")
    assert rows("state=pending") == [*map(str, range(111, 121))]
    assert rows("q=12") == ["120", "12"]
    assert rows("state=applied&q=12") == ["12"]
    assert rows("q=INSERT&state=pending") == rows("state=pending")
    assert rows("q=nothing") == []
    assert rows("state=no-such-state") == rows("")
    pager = page_of(api("GET", "/?q=insert&page=2")).one(**{"aria-label": "Pages of the list"})
    addresses = [a.attributes["href"] for a in pager.all("a")]
    assert addresses == [
        f"{PREFIX}/?q=insert&page=1#migrations",
        f"{PREFIX}/?q=insert&page=3#migrations",
    ]


def test_what_migrations_say_is_escaped_on_the_overview(project: Project) -> None:
    project.write(
        f"{VERSION}_x", f'name = "{SCRIPT}"\ndef up(db):\n    raise ValueError("{SCRIPT}")\n'
    )
    project.runner().up()
    response = dashboard(project)("GET", f"/?q={SCRIPT}&state={SCRIPT}")
    assert SCRIPT not in response.text
    assert page_of(response).one("main").all("script") == []
    assert SCRIPT in page_of(dashboard(project)("GET", "/")).section("migrations").text


# --- forms


def sent(client: FlaskClient, token: str, **headers: str) -> str:
    """Check a form as a page does, and say what is wrong with it."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    with client.application.test_request_context(
        f"{PREFIX}/", method="POST", data={forms.FIELD: token}, headers=headers
    ) as context:
        try:
            forms.check_form(context.request)
        except ForbiddenError as exc:
            return exc.message
    return ""


@pytest.fixture
def page_token(project: Project) -> tuple[FlaskClient, str, str]:
    """A client, the token that a page of it has, and the cookie that came with it."""
    api = dashboard(project)
    with api.app.test_request_context(f"{PREFIX}/"):
        token = forms.form_token()
        assert forms.form_token() == token
        response = api.app.process_response(api.app.make_response(""))
    cookie = response.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", f"Path={PREFIX}"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    return api.client, token, cookie.partition(";")[0]


def test_a_form_with_the_token_of_its_page_is_accepted_by_every_process(
    project: Project, page_token: tuple[FlaskClient, str, str]
) -> None:
    _, token, cookie = page_token
    other = dashboard(project)
    assert other.app.secret_key is None
    for site in ({}, {"Sec_Fetch_Site": "same-origin"}, {"Origin": "http://localhost"}):
        assert sent(other.client, token, Cookie=cookie, **site) == ""


def test_a_form_without_the_token_or_from_another_site_is_refused(
    page_token: tuple[FlaskClient, str, str],
) -> None:
    client, token, cookie = page_token
    no_token = "This form has no valid token. Nothing was done."
    assert sent(client, token) == no_token
    assert sent(client, "", Cookie=cookie) == no_token
    assert sent(client, token[:-1] + "é", Cookie=cookie) == no_token
    assert sent(client, "x" * 43, Cookie=cookie) == no_token
    assert sent(client, "", Cookie=f"{forms.COOKIE}=") == no_token
    elsewhere = "Another site has sent this form. Nothing was done."
    for site in ("cross-site", "same-site"):
        assert sent(client, token, Cookie=cookie, Sec_Fetch_Site=site) == elsewhere
    for origin in ("null", "http://evil.example", "http://localhost:81"):
        assert sent(client, token, Cookie=cookie, Origin=origin) == elsewhere


# --- one migration

COLLECTS = """
\"\"\"<script>alert(1)</script> in the docstring.\"\"\"

name = "<script>alert(1)</script>"


def up(db, ctx):
    ctx.log.warning("<script>alert(1)</script>")
    ctx.backfill("users", older, batch_size=2, on_error="collect")
    # migrate: allow MM003 because <script>alert(1)</script> is a reason
    db.users.update_many({}, {"$set": {"seen": True}})
    db.users.update_many({}, {"$set": {"more": True}})
    raise ValueError("<script>alert(1)</script> in {'email': 'x@example.com'}")


def older(user):
    if user["_id"] in {"<script>alert(1)</script>", 2}:
        raise ValueError("<script>alert(1)</script> 'x@example.com'")
    return {"$set": {"age": 1}}
"""


@pytest.fixture
def failed(project: Project) -> Project:
    """A project whose migration failed after a backfill that skipped documents."""
    project.db.users.insert_many([{"_id": key} for key in (1, 2, 3, SCRIPT)])
    project.write(f"{VERSION}_collects", COLLECTS)
    (failure,) = project.runner().up().failures
    assert failure.error is not None
    assert "x@example.com" in failure.error.message
    return project


def migration(api: Api, version: object = VERSION) -> tuple[Element, dict[str, Any], str]:
    """Read the page of a migration, and what the API shows of it."""
    response = api("GET", f"/dashboard/migrations/{version}")
    return page_of(response), done(api("GET", f"/show/{version}?source=true")), response.text


def test_every_figure_of_a_migration_is_in_the_answer_of_the_api(failed: Project) -> None:
    page, found, _ = migration(dashboard(failed))
    record, (file,) = found["record"], found["files"]
    assert page.one("h1").text == f"{VERSION} {found['name']}" == f"{VERSION} {SCRIPT}"
    facts = page.section("record").facts()
    assert facts["Recorded as"] == f"{record['status']}, {record['slug']}"
    assert facts["Batch"] == str(record["batch"])
    assert facts["Took"] == took(record["executionTime"])
    assert facts["Run by"] == record["holder"]
    assert facts["Digest"] == record["digest"]
    facts = page.section("file").facts()
    assert (facts["Path"], facts["Digest"]) == (file["path"], file["digest"])
    assert facts["Reversible"] == ("yes" if file["reversible"] else "no")

    rows = page.section("backfill").rows()
    assert len(rows) == len(found["rejected"]) == 2
    for row, rejected in zip(rows, found["rejected"], strict=True):
        assert row[0] == rejected["collection"] == "users"
        assert row[1] == str(rejected["id"])
        assert row[2] == rejected["error"]["message"]
    progress = found["progress"]
    assert f"{progress['done']} of about {progress['total']}" in page.section("backfill").text

    events = page.section("events").rows()
    assert [row[0] for row in events] == [shown(each["at"]) for each in found["events"][::-1]]
    for row, event in zip(events, found["events"][::-1], strict=True):
        assert row[1].endswith(event["event"])
        assert row[2] == event["by"]


def test_the_source_has_what_lint_finds_at_its_line_with_the_reasons(failed: Project) -> None:
    page, found, _ = migration(dashboard(failed))
    lines = page.section("source-1").one("tbody").all("tr")
    assert [line.one("pre").text for line in lines] == [
        " ".join(line.split()) for line in COLLECTS.splitlines()
    ]
    at = {number: line.all("div") for number, line in enumerate(lines, start=1)}
    expected = [*found["findings"], *found["suppressed"]]
    assert len(expected) >= 3
    assert [each["reason"] for each in found["suppressed"]] == [f"{SCRIPT} is a reason"]
    assert sum(map(len, at.values())) == len(expected)
    for finding in expected:
        text = " ".join(box.text for box in at[finding["line"]])
        assert finding["code"] in text
        said = finding.get("reason", finding["message"]).replace("`", "")
        assert said.replace(" ", "") in text.replace(" ", "")


@pytest.mark.parametrize(("token", "sees"), [(READ, False), (ADMIN, True)])
def test_only_who_may_run_sees_the_traceback_and_the_values_in_messages(
    failed: Project, token: str, *, sees: bool
) -> None:
    page, found, html = migration(dashboard(failed, token))
    assert bool(found["record"]["error"]["traceback"]) is sees
    assert bool(page.section("error").all("pre")) is sees
    beside_the_source = html.replace(str(page.section("source-1")), "")
    in_source = COLLECTS.count("x@example.com")
    assert (beside_the_source.count("x@example.com") > in_source) is sees
    hint = "The whole message, and the traceback, need a token with the scope up ."
    assert (hint in page.section("error").text) is not sees


def test_what_a_migration_says_is_escaped_everywhere(failed: Project) -> None:
    page, _, html = migration(dashboard(failed))
    assert SCRIPT not in html
    assert page.one("main").all("script") == []
    for part in ("error", "backfill", "source-1", "events"):
        assert SCRIPT in page.section(part).text
    assert SCRIPT in page.one("title").text
    assert page.one("main").text.count(f"{SCRIPT} in the docstring.") == 2


def test_a_migration_without_a_file_or_a_record_says_so(furnished: Project) -> None:
    next(furnished.migrations.glob(f"{VERSION}_*")).unlink()
    api = dashboard(furnished)
    gone, _, _ = migration(api)
    assert "resolve 20261101001 --forget" in gone.section("file").text
    waiting, _, _ = migration(api, VERSION + 3)
    assert "never started" in waiting.section("record").text
    assert waiting.section("events").text == "Events Nothing has happened yet."


def test_a_file_that_cannot_be_used_has_its_problem_and_its_source(project: Project) -> None:
    project.write(f"{VERSION}_broken", f"def up(db:  # {SCRIPT}\n")
    page, found, html = migration(dashboard(project))
    assert page.one(**{"aria-label": "Problem"}).text.startswith(found["problems"][0]["title"])
    assert SCRIPT in page.section("source-1").text
    assert SCRIPT not in html


def test_show_finds_a_migration_by_its_name_and_answers_404_for_none(project: Project) -> None:
    project.write_inserts(VERSION)
    api = dashboard(project)
    assert done(api("GET", "/show/insert"))["version"] == str(VERSION)
    assert done(api("GET", "/show/insert"))["files"][0]["source"] is None
    problem(api("GET", "/show/77"), 404, "unknown-version")
    problem(api("GET", "/show/insert?sources=true"), 400, "invalid-request")


# --- the schema


def search_facts(row: list[str]) -> list[str]:
    """Take the name and the state from a row about a search index, without the sign and the reason, and the rest."""
    return [row[0].split()[0], row[1].split()[-1], *row[2:]]


def search_facts_of(index: dict[str, Any]) -> list[str]:
    """Build the row that shows a search index of the API's document."""
    sides = [index[side] and texts.value(index[side]) for side in ("declared", "live")]
    says = (index["status"] or "") + (", not queryable" if index["queryable"] is False else "")
    return [
        *(index["name"], index["agreement"], index["kind"] or ""),
        *(side or "none" for side in sides),
        says,
    ]


def test_every_figure_of_the_schema_is_in_the_answer_of_the_api(furnished: Project) -> None:
    furnished.db.done.create_index("nickname", name=f"{SCRIPT}")
    furnished.db.other.insert_one({})
    api = dashboard(furnished, **SCHEMA)
    found = done(api("GET", "/schema?inventory=true"))
    response = api("GET", "/dashboard/schema")
    page = page_of(response)
    for part in ("differences", "notes"):
        expected = [[each["kind"], " ".join(each["message"].split())] for each in found[part]]
        assert page.section(part).rows() == expected != []
    assert {each["name"] for each in found["inventory"]} >= {"done", "other"}
    indexes = [index for each in found["inventory"] for index in each["indexes"]]
    assert None not in {index["size"] for index in indexes if index["live"] is not None}
    for number, collection in enumerate(found["inventory"], start=1):
        section = page.section(f"collection-{number}")
        assert section.one("h2").text.startswith(collection["name"])
        assert section.one("h2").text.endswith(collection["agreement"])
        tables = [table.rows() for table in section.all("table")]
        rows = tables.pop(0) if collection["indexes"] else []
        searches = tables.pop(0) if collection["searchIndexes"] else []
        assert tables == []
        for row, index in zip(searches, collection["searchIndexes"], strict=True):
            assert search_facts(row) == search_facts_of(index)
        for row, index in zip(rows, collection["indexes"], strict=True):
            assert row[0].startswith(index["name"])
            assert row[1].endswith(index["agreement"])
            assert row[4] == texts.size(index["size"])
            assert row[5] == texts.number(index["accesses"])
            assert row[6] == shown(index["since"])
    assert SCRIPT not in response.text


def test_without_the_inventory_the_schema_is_as_the_command_prints_it(furnished: Project) -> None:
    assert "inventory" not in done(dashboard(furnished, **SCHEMA)("GET", "/schema"))


def test_the_schema_is_linked_only_where_one_is_declared(furnished: Project) -> None:
    always = ["Overview", "Plan", "Runs"]
    for settings, links in (({}, always), (SCHEMA, [*always, "Schema"])):
        nav = page_of(dashboard(furnished, **settings)("GET", "/")).one("nav", id="nav")
        assert [a.text for a in nav.all("a")] == links
        assert nav.one("a", **{"aria-current": "page"}).text == "Overview"
    said = page_of(dashboard(furnished)("GET", "/dashboard/schema"), 404)
    assert "MIGRATE_SCHEMA is not set" in said.one("main").text


# --- the check of the API


def test_a_quick_check_leaves_out_lint_and_the_schema(furnished: Project) -> None:
    furnished.write(
        f"{VERSION + 4}_lint", "def up(db):\n    db.command('eval', 'x')\n    db.users.remove({})\n"
    )
    api = dashboard(furnished, **SCHEMA)
    kinds = {each["kind"] for each in done(api("GET", "/check"))["problems"]}
    quick = {each["kind"] for each in done(api("GET", "/check?quick=true"))["problems"]}
    assert kinds - quick == {"lint", "schema"}
    assert quick == {"pending", "interrupted"}
