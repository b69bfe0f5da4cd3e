"""Where the database comes from: every form an application can hand it over in, and none."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import mongomock
import pytest
from flask import Flask, current_app, g
from flask_pymongo import PyMongo
from pymongo import AsyncMongoClient, MongoClient
from pymongo.database import Database
from pymongo.write_concern import WriteConcern
from werkzeug.local import LocalProxy

from flask_migrate_mongo import MigrateError, MongoMigrate, database
from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.database import connected_server, database_of
from flask_migrate_mongo.driver.server import MongomockServer, Server, server_of
from flask_migrate_mongo.model.errors import (
    ConfigurationError,
    ConnectionFailedError,
    NoDatabaseError,
    SettingError,
)
from flask_migrate_mongo.model.values import Actor
from tests.conftest import APPNAME, uri_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

    from tests.project import Project


def bare(project: Project, **settings: object) -> Flask:
    """Return an application of the project's that has no extension yet."""
    app = Flask("shop", root_path=str(project.root))
    app.config.from_mapping(settings)
    return app


def invoke(app: Flask, *args: str) -> Result:
    return app.test_cli_runner().invoke(args=["db-migrate", *args])


def found(app: Flask) -> Database[Any]:
    """Return the database that the application's migrations would change."""
    with app.app_context():
        return database_of(app_state.of(app))


def pymongo(app: Flask | None = None) -> Any:
    """Return a Flask-PyMongo; its attributes are None until it is set up."""
    return PyMongo(app)


def applies(app: Flask, project: Project) -> None:
    """Check that `up` of this application changes this test's database."""
    project.write_inserts(1)
    result = invoke(app, "up")
    assert result.exit_code == 0, result.output
    assert project.statuses() == {1: "completed"}
    assert project.db.done.count_documents({"version": 1}) == 1


@pytest.fixture
def elsewhere(
    db: Database[Any], admin: MongoClient[dict[str, Any]]
) -> Iterator[Database[dict[str, Any]]]:
    """A second database."""
    yield db.client[f"{db.name}_b"]
    admin.drop_database(f"{db.name}_b")


# --- the forms


def test_the_uri_alone_is_enough(project: Project) -> None:
    app = bare(project, MONGO_URI=project.uri)
    MongoMigrate(app)
    applies(app, project)


def test_a_database_handed_to_the_constructor_is_migrated(project: Project) -> None:
    app = bare(project)
    MongoMigrate(app, project.db)
    applies(app, project)


def test_a_database_handed_to_init_app_is_migrated(project: Project) -> None:
    app = bare(project)
    MongoMigrate().init_app(app, project.db)
    applies(app, project)


def test_a_database_handed_over_before_init_app_is_migrated(project: Project) -> None:
    app = bare(project)
    MongoMigrate(mongo=project.db).init_app(app)
    applies(app, project)


def test_init_app_without_a_database_takes_the_uri(project: Project) -> None:
    app = bare(project, MONGO_URI=project.uri)
    MongoMigrate().init_app(app)
    applies(app, project)


def test_the_factory_pattern_works_with_a_pymongo_made_at_import(project: Project) -> None:
    mongo, migrate = pymongo(), MongoMigrate()

    def create_app() -> Flask:
        app = bare(project, MONGO_URI=project.uri)
        mongo.init_app(app)
        migrate.init_app(app, mongo)
        return app

    applies(create_app(), project)
    mongo.cx.close()


def test_a_pymongo_handed_over_before_its_own_init_app_is_migrated(project: Project) -> None:
    app = bare(project, MONGO_URI=project.uri)
    mongo = pymongo()
    MongoMigrate(app, mongo)
    mongo.init_app(app)
    applies(app, project)
    mongo.cx.close()


def test_a_pymongo_that_was_never_set_up_is_named_with_the_remedy(project: Project) -> None:
    app = bare(project)
    MongoMigrate(app, pymongo())
    with pytest.raises(ConfigurationError, match=r"type PyMongo.* after its init_app\(\)"):
        found(app)


def test_a_pymongo_without_a_database_needs_migrate_database(
    project: Project, mongo_uri: str
) -> None:
    app = bare(project, MONGO_URI=mongo_uri)
    mongo = pymongo(app)
    MongoMigrate(app, mongo)
    assert mongo.db is None
    result = invoke(app, "status")
    assert result.exit_code == 6
    assert "MIGRATE_DATABASE" in result.stderr
    app.config["MIGRATE_DATABASE"] = project.db.name
    MongoMigrate(app, mongo)
    applies(app, project)
    mongo.cx.close()


def test_migrate_database_chooses_another_one_of_a_pymongo(
    project: Project, elsewhere: Database[Any]
) -> None:
    app = bare(project, MONGO_URI=project.uri, MIGRATE_DATABASE=elsewhere.name)
    mongo = pymongo(app)
    MongoMigrate(app, mongo)
    assert found(app).name == elsewhere.name
    mongo.cx.close()


def test_migrate_database_chooses_another_one_than_the_uri(
    project: Project, elsewhere: Database[Any]
) -> None:
    app = bare(project, MONGO_URI=project.uri, MIGRATE_DATABASE=elsewhere.name)
    MongoMigrate(app)
    project.write_inserts(1)
    assert invoke(app, "up").exit_code == 0
    assert elsewhere.done.count_documents({}) == 1
    assert project.db.list_collection_names() == []


def test_the_database_of_a_pymongo_is_migrated(project: Project) -> None:
    app = bare(project, MONGO_URI=project.uri)
    mongo = pymongo(app)
    MongoMigrate(app, mongo.db)
    applies(app, project)
    mongo.cx.close()


def test_a_client_is_migrated_in_the_database_of_its_uri_and_never_in_one_called_db(
    project: Project,
) -> None:
    app = bare(project)
    with MongoClient[dict[str, Any]](project.uri) as client:
        MongoMigrate(app, client)
        assert found(app).name == project.db.name
        applies(app, project)


def test_a_client_without_a_database_takes_migrate_database_or_says_so(
    project: Project, mongo_uri: str
) -> None:
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        named, nameless = bare(project, MIGRATE_DATABASE=project.db.name), bare(project)
        MongoMigrate(named, client)
        MongoMigrate(nameless, client)
        assert isinstance(found(named), Database)
        assert found(named).name == project.db.name
        with pytest.raises(NoDatabaseError, match="MIGRATE_DATABASE"):
            found(nameless)


@pytest.mark.parametrize("returns", ["database", "pymongo", "client"])
def test_a_callable_is_asked_when_a_command_runs(project: Project, returns: str) -> None:
    app = bare(project, MONGO_URI=project.uri)
    mongo = pymongo(app)
    answers = {"database": project.db, "pymongo": mongo, "client": mongo.cx}
    calls = []

    def give() -> object:
        calls.append(current_app.name)
        return answers[returns]

    MongoMigrate(app, give)
    assert calls == []
    applies(app, project)
    assert calls == ["shop"]
    mongo.cx.close()


def test_a_proxy_is_resolved_so_that_the_heartbeat_works_without_the_context(
    project: Project,
) -> None:
    app = bare(project, MIGRATE_LOCK_TTL=2)
    MongoMigrate(app, LocalProxy(lambda: g.setdefault("db", project.db)))
    project.write(
        "1_slow",
        """
        import time

        def up(db):
            lock = db.migration_locks.find_one()
            until = time.monotonic() + 10
            while db.migration_locks.find_one()["heartbeatAt"] == lock["heartbeatAt"]:
                assert time.monotonic() < until, "no heartbeat"
                time.sleep(0.05)
        """,
    )
    result = invoke(app, "up")
    assert result.exit_code == 0, result.output


def useless(project: Project) -> dict[str, object]:
    asynchronous: AsyncMongoClient[Any] = AsyncMongoClient(project.uri, connect=False)
    mock: Any = mongomock.MongoClient()
    return {
        "a string": project.uri,
        "a number": 3,
        "a collection": project.db.things,
        "an object without a database": SimpleNamespace(cx=None, db=None),
        "an object whose db is a string": SimpleNamespace(db="shop"),
        "a callable of nothing": lambda: None,
        "a callable of a string": lambda: project.uri,
        "an asynchronous client": asynchronous,
        "an asynchronous database": asynchronous.shop,
        "a mongomock collection": mock.shop.things,
    }


WHAT = (
    "a string",
    "a number",
    "a collection",
    "an object without a database",
    "an object whose db is a string",
    "a callable of nothing",
    "a callable of a string",
    "an asynchronous client",
    "an asynchronous database",
    "a mongomock collection",
)


@pytest.mark.parametrize("what", WHAT)
def test_something_useless_is_named_with_what_can_be_handed_over(
    project: Project, what: str
) -> None:
    app = bare(project)
    MongoMigrate(app, useless(project)[what])
    with pytest.raises(ConfigurationError, match=r"holds no database\. Pass a PyMongo"):
        found(app)
    result = invoke(app, "status")
    assert result.exit_code == 6
    assert project.uri not in result.output


def test_an_error_of_the_callable_comes_out_as_it_is(project: Project) -> None:
    app = bare(project)
    MongoMigrate(app, lambda: dict[str, object]()["no such key"])
    with pytest.raises(KeyError, match="no such key"):
        found(app)


# --- settings


def test_the_uri_of_the_config_goes_before_that_of_the_environment(
    project: Project, elsewhere: Database[Any], mongo_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONGO_URI", uri_with(mongo_uri, elsewhere.name))
    app = bare(project, MONGO_URI=project.uri)
    MongoMigrate(app)
    assert found(app).name == project.db.name
    app_state.of(app).close()


def test_the_uri_of_the_environment_is_enough(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONGO_URI", project.uri)
    app = bare(project)
    MongoMigrate(app)
    applies(app, project)


def test_the_options_of_a_hosted_clusters_uri_do_no_harm(project: Project, mongo_uri: str) -> None:
    options = ("w=majority", "readPreference=secondaryPreferred", "retryWrites=true")
    app = bare(project, MONGO_URI=uri_with(mongo_uri, project.db.name, *options))
    mongo = pymongo(app)
    MongoMigrate(app, mongo)
    project.write("2_tx", "transactional = True\ndef up(db):\n    db.tx.insert_one({})\n")
    project.write(
        "3_tx", "transactional = True\ndef up(db):\n    db.tx.insert_one({})\n    1 / 0\n"
    )
    project.write_inserts(1)
    result = invoke(app, "up")
    assert result.exit_code == 1
    assert project.statuses() == {1: "completed", 2: "completed", 3: "failed"}
    assert project.db.tx.count_documents({}) == 1
    mongo.cx.close()


def test_two_applications_in_one_process_have_their_own_databases_and_settings(
    project: Project, elsewhere: Database[Any]
) -> None:
    migrate = MongoMigrate()
    (project.root / "other").mkdir()
    (project.root / "other" / "5_other.py").write_text("def up(db): db.other.insert_one({})\n")
    project.write_inserts(1)
    first, second = bare(project), bare(project, MIGRATE_DIRECTORY="other", MIGRATE_COLLECTION="m")
    migrate.init_app(first, project.db)
    migrate.init_app(second, elsewhere)
    assert [invoke(app, "up").exit_code for app in (first, second)] == [0, 0]
    assert set(project.db.list_collection_names()) == {"done", "migrations", "migration_locks"}
    assert set(elsewhere.list_collection_names()) == {"other", "m", "migration_locks"}
    with first.app_context():
        assert migrate.status().survey.applied[0].version == 1
    assert migrate.status(second).survey.applied[0].version == 5


def test_a_setting_that_is_not_accepted_leaves_the_application_as_it_was(project: Project) -> None:
    app = bare(project, MIGRATE_LOCK_TTL="soon")
    before = (dict(app.extensions), list(app.cli.commands), dict(app.config), app.json)
    migrate = MongoMigrate(mongo=project.db)
    with pytest.raises(SettingError, match=r"MIGRATE_LOCK_TTL is 'soon', .* number of seconds"):
        migrate.init_app(app)
    assert (dict(app.extensions), list(app.cli.commands), dict(app.config), app.json) == before
    app.config["MIGRATE_LOCK_TTL"] = 60
    migrate.init_app(app)
    applies(app, project)


def test_an_application_without_the_extension_says_how_to_set_it_up(project: Project) -> None:
    app = bare(project)
    with app.app_context(), pytest.raises(MigrateError, match=r"'shop'.*MongoMigrate\(app\)"):
        MongoMigrate().status()


# --- the client


def test_the_applications_own_client_is_used_and_left_open(project: Project) -> None:
    app = bare(project, MONGO_URI=project.uri)
    mongo = pymongo(app)
    MongoMigrate(app, mongo)
    assert found(app).client is mongo.cx
    applies(app, project)
    assert app_state.of(app).own_client is None
    assert mongo.db.done.count_documents({}) == 1
    mongo.cx.close()


def test_a_client_of_ours_is_made_when_a_command_needs_it_and_closed_after_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = bare(project, MONGO_URI=project.uri)
    MongoMigrate(app)
    state = app_state.of(app)
    made: list[MongoClient[Any]] = []
    connect = database._connect

    def counted(key: str, uri: str) -> MongoClient[Any]:
        made.append(connect(key, uri))
        return made[-1]

    monkeypatch.setattr(database, "_connect", counted)
    assert invoke(app, "create", "x").exit_code == 0
    assert made == []
    invoke(app, "status")
    assert len(made) == 1
    assert state.own_client is None
    with pytest.raises(Exception, match="after close"):
        made[0].admin.command("ping")


def test_one_process_has_one_client_of_ours_however_often_it_is_asked_for(
    project: Project,
) -> None:
    app = bare(project, MONGO_URI=project.uri)
    MongoMigrate(app)
    assert found(app).client is found(app).client
    app_state.of(app).close()


@pytest.mark.parametrize(
    ("limit", "options"), [(0.3, ""), (9, "?serverSelectionTimeoutMS=300")], ids=["ours", "its own"]
)
def test_a_server_that_does_not_answer_at_first_is_not_waited_for_long(
    project: Project, monkeypatch: pytest.MonkeyPatch, limit: float, options: str
) -> None:
    monkeypatch.setattr("flask_migrate_mongo.database.FIRST_CONTACT_SECONDS", limit)
    app = bare(project, MONGO_URI=f"mongodb://127.0.0.1:1/shop{options}")
    MongoMigrate(app)
    began = time.monotonic()
    with pytest.raises(ConnectionFailedError):
        connected_server(app_state.of(app))
    assert time.monotonic() - began < 8


def test_later_the_client_waits_for_a_server_as_long_as_the_driver_does(project: Project) -> None:
    app = bare(project, MONGO_URI=project.uri)
    MongoMigrate(app)
    assert found(app).client.options.server_selection_timeout == 30
    app_state.of(app).close()


def in_process(project: Project, source: str) -> list[Any]:
    """Run a script in a process of its own, with warnings as errors; return what it printed as JSON."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            textwrap.dedent(source),
        ],
        env=project.environ(ROOT_PATH=str(project.root)),
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


FORKED = """
import json, os
from flask import Flask
from flask_migrate_mongo import MongoMigrate
from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.database import connected_server, database_of

app = Flask("shop", root_path=os.environ["ROOT_PATH"])
migrate = MongoMigrate(app)
state = app_state.of(app)
{before}
child = os.fork()
if child == 0:
    mine = database_of(state).client
    report = migrate.up(app)
    print(json.dumps({{"own": mine is not {parents}, "applied": len(report.outcomes)}}), flush=True)
    state.close()
    os._exit(0)
status = os.waitpid(child, 0)[1]
applied = len(migrate.status(app).survey.applied)
print(json.dumps({{"child": status, "applied": applied}}), flush=True)
state.close()
"""


def test_a_client_of_ours_is_made_after_the_fork(project: Project) -> None:
    project.write_inserts(1)
    child, parent = in_process(project, FORKED.format(before="", parents="None"))
    assert child == {"own": True, "applied": 1}
    assert parent == {"child": 0, "applied": 1}


def test_a_client_that_was_made_before_a_fork_is_not_used_after_it(project: Project) -> None:
    project.write_inserts(1)
    before = "before = database_of(state).client\nbefore.admin.command('ping')"
    child, parent = in_process(project, FORKED.format(before=before, parents="before"))
    assert child == {"own": True, "applied": 1}
    assert parent == {"child": 0, "applied": 1}


def test_an_application_that_goes_away_takes_our_client_with_it(project: Project) -> None:
    project.write_inserts(1)
    script = """
        import gc, json, os
        from flask import Flask
        from flask_migrate_mongo import MongoMigrate

        def run():
            app = Flask("shop", root_path=os.environ["ROOT_PATH"])
            return MongoMigrate(app).up(app)

        outcomes = len(run().outcomes)
        gc.collect()
        print(json.dumps(outcomes))
        """
    assert in_process(project, script) == [1]


# --- separate credentials

NOWHERE = "mongodb://127.0.0.1:1/nowhere"
"""A server that does not exist: who uses it fails."""


@pytest.mark.parametrize("transactional", [False, True])
def test_migrations_with_a_uri_of_their_own_do_not_use_the_clients_of_the_application(
    project: Project, *, transactional: bool
) -> None:
    app = bare(project, MONGO_URI=NOWHERE, MIGRATE_MONGO_URI=project.uri)
    with MongoClient[Any](NOWHERE, connect=False) as unused:
        MongoMigrate(app, unused)
        project.write(
            "2_more", f"transactional = {transactional}\ndef up(db):\n    db.more.find_one()"
        )
        project.write_inserts(1)
        result = invoke(app, "up")
        assert result.exit_code == 0, result.output
        assert project.statuses() == {1: "completed", 2: "completed"}
        assert app_state.of(app).own_client is None
        assert invoke(app, "rehearse").exit_code == 0


@pytest.mark.parametrize("form", ["a database", "a client", "a callable", "MONGO_URI"])
@pytest.mark.parametrize(
    ("path", "settings", "expected"),
    [
        ("", {}, "nowhere"),
        ("own", {}, "own"),
        ("own", {"MIGRATE_DATABASE": "chosen"}, "chosen"),
        ("", {"MIGRATE_DATABASE": "chosen"}, "chosen"),
    ],
)
def test_the_database_of_migrations_with_a_uri_of_their_own(
    project: Project,
    mongo_uri: str,
    form: str,
    path: str,
    settings: dict[str, str],
    expected: str,
) -> None:
    uri = uri_with(mongo_uri, path)
    app = bare(project, MONGO_URI=NOWHERE, MIGRATE_MONGO_URI=uri, **settings)
    with MongoClient[Any](NOWHERE, connect=False) as client:
        forms = {"a database": client.nowhere, "a client": client, "a callable": lambda: client}
        MongoMigrate(app, forms.get(form))
        chosen = found(app)
    assert chosen.name == expected
    assert chosen.client is not client
    app_state.of(app).close()


def test_a_uri_for_migrations_needs_the_name_of_a_database_somewhere(project: Project) -> None:
    app = bare(project, MIGRATE_MONGO_URI="mongodb://127.0.0.1:1/")
    MongoMigrate(app)
    with pytest.raises(NoDatabaseError, match="MIGRATE_DATABASE"):
        found(app)


@pytest.mark.parametrize("command", ["status", "up", "rehearse"])
@pytest.mark.parametrize("host", ["127.0.0.1:1", "127.0.0.1:port"])
def test_the_password_of_migrations_is_never_shown(
    project: Project, caplog: pytest.LogCaptureFixture, command: str, host: str
) -> None:
    project.write_inserts(1)
    uri = f"mongodb://anna:hunter2@{host}/shop?serverSelectionTimeoutMS=50"
    app = bare(project, MIGRATE_MONGO_URI=uri)
    with caplog.at_level(logging.DEBUG):
        MongoMigrate(app, project.db)
        done = invoke(app, command)
    assert done.exit_code == 6
    assert "MIGRATE_MONGO_URI" in done.stderr
    assert "hunter2" not in done.output + done.stderr + caplog.text + repr(app_state.of(app))


def test_the_password_of_migrations_is_masked_in_records(project: Project) -> None:
    source = "def up(db, ctx):\n    raise ValueError(ctx.app.config['MIGRATE_MONGO_URI'])"
    project.write("1_fails", source)
    uri = project.uri.replace("mongodb://", "mongodb://anna:hunter2@")
    app = bare(project, MIGRATE_MONGO_URI=project.uri)
    MongoMigrate(app)
    app.config["MIGRATE_MONGO_URI"] = uri
    done = invoke(app, "up", "--json")
    assert done.exit_code == 1
    assert "://***@" in done.stdout
    assert "hunter2" not in done.output + str(project.record(1))


def test_a_transactional_migration_with_the_applications_own_handle_is_refused(
    project: Project,
) -> None:
    app = bare(project, MIGRATE_MONGO_URI=project.uri, HANDLE=project.db)
    MongoMigrate(app, project.db)
    body = "ctx.app.config['HANDLE'].people.insert_one({})"
    project.write("1_own", f"transactional = True\ndef up(db, ctx):\n    {body}")
    done = invoke(app, "up")
    assert done.exit_code == 1
    assert "With MIGRATE_MONGO_URI, the application's own client is another one" in done.stderr
    assert project.db.people.find_one() is None


@pytest.mark.parametrize("concern", ["the URI", "the database", "MIGRATE_MONGO_URI"])
def test_unacknowledged_writes_are_refused_wherever_they_are_asked_for(
    project: Project, concern: str
) -> None:
    app, given = bare(project), None
    unacknowledged = f"{project.uri}&w=0"
    if concern == "the database":
        given = project.db.with_options(write_concern=WriteConcern(w=0))
    else:
        key = "MONGO_URI" if concern == "the URI" else concern
        app.config[key] = unacknowledged
    MongoMigrate(app, given)
    project.write_inserts(1)
    done = invoke(app, "up")
    assert done.exit_code == 6
    assert "w=0" in done.stderr
    assert project.db.list_collection_names() == []


# --- the application is left as it was


def test_the_application_keeps_its_json_logging_error_pages_and_client(project: Project) -> None:
    # What the API adds to an application has tests of its own.
    app = bare(project, MONGO_URI=project.uri, MIGRATE_API=False)
    mongo = pymongo(app)

    @app.errorhandler(404)
    def not_found(_: Exception) -> tuple[str, int]:
        return "ours", 404

    root = logging.getLogger()

    def state() -> tuple[object, ...]:
        loggers = ["", "flask", app.name, "pymongo", "flask_migrate_mongo"]
        return (
            app.json,
            mongo.cx,
            mongo.db,
            mongo.cx.options.event_listeners
            if hasattr(mongo.cx.options, "event_listeners")
            else (),
            {k: dict(v) for k, v in app.error_handler_spec[None].items()},
            dict(app.blueprints),
            {name: list(f) for name, f in app.before_request_funcs.items()},
            {name: list(f) for name, f in app.after_request_funcs.items()},
            list(app.teardown_appcontext_funcs),
            [rule.rule for rule in app.url_map.iter_rules()],
            [(logging.getLogger(n).level, logging.getLogger(n).handlers[:]) for n in loggers],
            (root.disabled, logging.root.manager.disable),
        )

    before = state()
    MongoMigrate(app, mongo)
    assert state() == before
    project.write("1_tx", "transactional = True\ndef up(db):\n    db.done.insert_one({})\n")
    project.write("2_bad", "def up(db):\n    1 / 0\n")
    assert invoke(app, "up").exit_code == 1
    assert state() == before
    assert app.test_client().get("/nowhere").text == "ours"
    mongo.cx.close()


def test_a_migration_runs_inside_the_application_context(project: Project) -> None:
    project.write(
        "1_context",
        """
        from flask import current_app

        def up(db, ctx):
            assert ctx.app.name == current_app.name
            db.done.insert_one({"name": current_app.name, "secret": current_app.config["SECRET"]})
        """,
    )
    assert project.invoke("up", SECRET="s").exit_code == 0
    assert project.db.done.find_one({}, {"_id": 0}) == {"name": "shop", "secret": "s"}


def test_a_run_from_code_outside_of_any_context_has_the_application_context_too(
    project: Project,
) -> None:
    project.write(
        "1_context",
        """
        from flask import current_app

        def up(db):
            db.done.insert_one({"name": current_app.name})
        """,
    )
    report = project.runner().up()
    assert report.failures == ()
    assert project.db.done.find_one({}, {"_id": 0}) == {"name": "shop"}


# --- mongomock


@pytest.fixture
def mock() -> Any:
    return mongomock.MongoClient().shop


def run(project: Project, mock: Any, *args: str, **settings: object) -> Result:
    return invoke(project.app(mock, **settings), *args)


def test_the_server_is_chosen_by_the_type_of_the_client(db: Database[Any], mock: Any) -> None:
    assert type(server_of(db)) is Server
    assert type(server_of(mock)) is MongomockServer


def test_plain_migrations_work_on_mongomock(project: Project, mock: Any) -> None:
    project.write_inserts(1, 2)
    up = run(project, mock, "up")
    assert up.exit_code == 0, up.output
    assert [d["version"] for d in mock.done.find()] == [1, 2]
    assert json.loads(run(project, mock, "status", "--json").stdout)["summary"]["applied"] == 2
    assert run(project, mock, "down").exit_code == 0
    assert [d["version"] for d in mock.done.find()] == [1]
    assert run(project, mock, "status", "--check").exit_code == 4
    assert "rolled-back" in run(project, mock, "history").stdout
    assert run(project, mock, "history", "--events").exit_code == 0
    assert run(project, mock, "up").exit_code == 0
    name, nothing = run(project, mock, "up").stdout.splitlines()
    assert name.endswith(" (mongomock)")
    assert nothing.startswith("Nothing to do")


def test_a_failure_on_mongomock_is_recorded_and_fixed(project: Project, mock: Any) -> None:
    path = project.write("1_bad", "def up(db):\n    1 / 0\n")
    assert run(project, mock, "up").exit_code == 1
    assert mock.migrations.find_one()["metadata"]["failure"]["type"] == "ZeroDivisionError"
    path.write_text("def up(db):\n    db.done.insert_one({})\n")
    assert run(project, mock, "up").exit_code == 0
    assert mock.migrations.find_one()["status"] == "completed"


def test_the_lock_holds_on_mongomock(project: Project, mock: Any) -> None:
    project.write_inserts(1)
    with project.runner(mock).lease.hold(Actor.current("a test")):
        assert run(project, mock, "up").exit_code == 3
        assert "a test" in run(project, mock, "lock-status").stdout
        assert run(project, mock, "force-unlock", "--confirm").exit_code == 0
        assert run(project, mock, "up").exit_code == 0


def test_a_pymongo_that_a_test_has_patched_with_mongomock_is_migrated(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_pymongo.MongoClient", mongomock.MongoClient)
    app = bare(project, MONGO_URI="mongodb://localhost/shop")
    mongo = pymongo(app)
    MongoMigrate(app, mongo)
    project.write_inserts(1)
    assert invoke(app, "up").exit_code == 0
    assert mongo.db.done.count_documents({}) == 1


def test_a_mongomock_client_is_migrated_in_the_database_that_is_named(project: Project) -> None:
    client: Any = mongomock.MongoClient()
    project.write_inserts(1)
    assert run(project, client, "up", MIGRATE_DATABASE="shop").exit_code == 0
    assert client.shop.done.count_documents({}) == 1
    assert "MIGRATE_DATABASE" in run(project, client, "up").stderr


# --- servers without transactions


TRANSACTIONAL = "transactional = True\ndef up(db):\n    db.tx.insert_one({})\ndef down(db):\n    db.tx.delete_many({})\n"


@pytest.fixture(params=["standalone", "mongomock"])
def simple(request: pytest.FixtureRequest, db: Database[Any]) -> Iterator[tuple[Any, str]]:
    """A database without transactions, and why it has none."""
    if request.param == "mongomock":
        yield mongomock.MongoClient().shop, "mongomock has no sessions"
        return
    uri = request.getfixturevalue("standalone_uri")
    with MongoClient[dict[str, Any]](uri, appname=APPNAME) as client:
        yield client[db.name], "it is a standalone"


def test_a_transactional_migration_is_refused_before_anything_runs(
    project: Project, simple: tuple[Any, str]
) -> None:
    database, reason = simple
    project.write_inserts(1)
    project.write("2_tx", TRANSACTIONAL)
    for args in (("up",), ("up", "--dry-run")):
        result = run(project, database, *args)
        assert result.exit_code == 5, result.output
        assert reason in result.stderr
        assert ": 2. Nothing was run." in result.stderr
        assert 'MIGRATE_TRANSACTIONS = "preferred"' in result.stderr
    assert database.list_collection_names() == []
    assert run(project, database, "status").exit_code == 0


def test_transactions_that_are_only_preferred_are_left_out_with_a_warning(
    project: Project, simple: tuple[Any, str]
) -> None:
    database, reason = simple
    project.write_inserts(1)
    project.write("2_tx", TRANSACTIONAL)
    up = run(project, database, "up", MIGRATE_TRANSACTIONS="preferred")
    assert up.exit_code == 0, up.output
    assert f"Warning: Run without a transaction, since this server has none ({reason}" in up.stderr
    assert database.tx.count_documents({}) == 1
    assert run(project, database, "down", MIGRATE_TRANSACTIONS="preferred").exit_code == 0
    assert database.tx.count_documents({}) == 0


def test_plain_migrations_work_on_a_standalone_server(
    project: Project, standalone_uri: str
) -> None:
    with MongoClient[dict[str, Any]](standalone_uri) as client:
        database = client[project.db.name]
        project.write_inserts(1, 2)
        assert run(project, database, "up").exit_code == 0
        assert run(project, database, "down", "--steps", "2").exit_code == 0
        assert run(project, database, "up").exit_code == 0
        assert database.done.count_documents({}) == 2
