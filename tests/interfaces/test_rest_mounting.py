"""The API where an application puts it: below blueprints with a login, and beside CSRF protection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from flask import Blueprint, Flask, Response, abort, redirect, request
from flask_wtf import CSRFProtect

from flask_migrate_mongo import MongoMigrate
from flask_migrate_mongo.state import KEY
from tests.interfaces.test_rest import ADMIN, Api, done, problem, untouched

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

    from tests.project import Project

BEARER = {"Authorization": f"Bearer {ADMIN}"}
FETCH = {"X-Requested-With": "fetch"}


def host(project: Project, **settings: Any) -> Flask:
    app = Flask("shop", root_path=str(project.root))
    app.config.from_mapping(MIGRATE_API=False, **settings)
    return app


# --- a blueprint for each application


def test_a_hook_of_one_application_guards_no_other(project: Project) -> None:
    project.write_inserts(1)
    migrate = MongoMigrate()

    def create_app(*, maintenance: bool) -> Flask:
        app = host(project, MIGRATE_API_TOKEN=ADMIN)
        migrate.init_app(app, project.db)
        api = migrate.make_blueprint()
        api.before_request(lambda: abort(503) if maintenance else None)
        app.register_blueprint(api)
        return app

    closed, opened = create_app(maintenance=True), create_app(maintenance=False)
    assert Api(closed)("GET", "/status").get_json()["code"] == "http-503"
    assert Api(opened)("GET", "/status").status_code == 200


def test_one_migrate_opens_the_api_of_each_application_once(project: Project) -> None:
    migrate = MongoMigrate()
    for prefix in ("/one", "/two"):
        app = Flask("shop", root_path=str(project.root))
        app.config.from_mapping(MIGRATE_API_TOKEN=ADMIN, MIGRATE_URL_PREFIX=prefix)
        for _ in range(2):
            migrate.init_app(app, project.db)
        assert app.test_client().get(f"{prefix}/status", headers=BEARER).status_code == 200


# --- below a blueprint with a login


def login() -> Response | None:
    user = request.cookies.get("user")
    if user is None:
        return redirect("/login")  # type: ignore[return-value]
    return None if user == "ada" else abort(403)


def below_a_login(project: Project, **more: Any) -> Flask:
    """Make an application with the API below a blueprint whose hook logs its users in."""
    app = host(project, **more)
    migrate = MongoMigrate(app, project.db, authorize=lambda action, request: True)
    admin = Blueprint("admin", __name__, url_prefix="/admin")
    admin.before_request(login)
    admin.register_blueprint(migrate.make_blueprint(), url_prefix="/migrations")
    app.register_blueprint(admin)
    return app


def as_user(app: Flask, name: str | None, method: str, path: str, **more: Any) -> TestResponse:
    client = app.test_client()
    if name:
        client.set_cookie("user", name)
    return client.open(f"/admin/migrations{path}", method=method, **more)


def test_the_login_of_the_blueprint_above_guards_every_endpoint(project: Project) -> None:
    project.write_inserts(1)
    app = below_a_login(project)
    for method, path in (("GET", "/status"), ("POST", "/up"), ("GET", "/health"), ("POST", "/")):
        stranger = as_user(app, None, method, path, headers=FETCH)
        assert (stranger.status_code, stranger.location) == (302, "/login")
        other = as_user(app, "eve", method, path, headers=FETCH)
        assert (other.status_code, other.get_json()["code"]) == (403, "http-403")
    untouched(project)


def test_who_the_blueprint_above_lets_in_can_migrate(project: Project) -> None:
    project.write_inserts(1)
    app = below_a_login(project)
    assert done(as_user(app, "ada", "GET", "/status"))["summary"]["pending"] == 1
    problem(as_user(app, "ada", "POST", "/up"), 403, "forbidden")
    done(as_user(app, "ada", "POST", "/up", headers=FETCH))
    assert project.statuses() == {1: "completed"}
    assert as_user(app, "ada", "GET", "/openapi.json").get_json()["servers"] == [
        {"url": "/admin/migrations"}
    ]
    problem(as_user(app, "ada", "GET", "/nothing"), 404, "not-found")


def test_without_rules_of_its_own_the_api_stays_closed_below_a_login(project: Project) -> None:
    app = host(project)
    migrate = MongoMigrate(app, project.db)
    admin = Blueprint("admin", __name__, url_prefix="/admin")
    admin.register_blueprint(migrate.make_blueprint(), url_prefix="/migrations")
    app.register_blueprint(admin)
    problem(as_user(app, "ada", "GET", "/status"), 403, "api-closed")


# --- beside the CSRF protection of Flask-WTF


def protected(project: Project, authorize: Any = None) -> tuple[Flask, CSRFProtect]:
    app = Flask("shop", root_path=str(project.root))
    app.config.from_mapping(SECRET_KEY="x", MIGRATE_API_TOKEN=ADMIN)
    MongoMigrate(app, project.db, authorize=authorize)
    return app, CSRFProtect(app)


def test_csrf_protection_refuses_a_token_until_the_blueprint_is_exempt(project: Project) -> None:
    project.write_inserts(1)
    app, csrf = protected(project)
    refused = Api(app)("POST", "/up")
    assert (refused.status_code, refused.get_json()["code"]) == (400, "http-400")
    assert "CSRF" in refused.get_json()["detail"]
    untouched(project)
    csrf.exempt(app.blueprints[KEY])
    done(Api(app)("POST", "/up"))
    assert project.statuses() == {1: "completed"}


def test_an_exempt_api_still_refuses_what_a_form_of_another_site_can_send(
    project: Project,
) -> None:
    project.write_inserts(1)
    app, csrf = protected(project, authorize=lambda action, request: True)
    csrf.exempt(app.blueprints[KEY])
    login = Api(app, None)
    problem(login("POST", "/up", headers={"Cookie": "session=1"}), 403, "forbidden")
    untouched(project)
    done(login("POST", "/up", headers=FETCH))


@pytest.mark.parametrize("exempt", [False, True])
def test_the_blueprint_below_another_one_is_exempt_by_itself(
    project: Project, *, exempt: bool
) -> None:
    app = host(project, SECRET_KEY="x", MIGRATE_API_TOKEN=ADMIN)
    csrf, migrate = CSRFProtect(app), MongoMigrate(app, project.db)
    api = migrate.make_blueprint()
    if exempt:
        csrf.exempt(api)
    admin = Blueprint("admin", __name__, url_prefix="/admin")
    admin.register_blueprint(api, url_prefix="/migrations")
    app.register_blueprint(admin)
    answer = as_user(app, None, "POST", "/up", headers=BEARER)
    assert answer.status_code == (200 if exempt else 400)
