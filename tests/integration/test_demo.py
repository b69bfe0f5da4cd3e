"""The example: its migrations on real airports, its pages, and the server it starts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import airportsdata
import pytest
from click.testing import CliRunner
from flask import Flask
from pymongo import MongoClient

import example_app
from example_app import data, embedded
from flask_migrate_mongo import MongoMigrate
from flask_migrate_mongo import state as app_state
from flask_migrate_mongo.files.folder import Folder
from flask_migrate_mongo.model.errors import NotReversibleError
from flask_migrate_mongo.wiring import running
from tests.conftest import uri_with
from tests.project import PYTHON_PATH, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask.testing import FlaskClient
    from pymongo.database import Database

    from flask_migrate_mongo.engine.runner import Runner

EXAMPLE = ROOT / "example_app" / "migrations"
OURS = {"migrations", "migration_locks"}

Snapshot = dict[str, tuple[dict[Any, Any], dict[str, Any]]]


def snapshot(db: Database[dict[str, Any]]) -> Snapshot:
    """Return every document and every index of the application's collections."""
    names = set(db.list_collection_names()) - OURS
    return {name: (documents(db, name), dict(db[name].index_information())) for name in names}


def documents(db: Database[dict[str, Any]], name: str) -> dict[Any, Any]:
    # $addToSet gives a set: in which order is the server's business.
    return {
        d["_id"]: {k: set(v) if k == "time_zones" else v for k, v in d.items()}
        for d in db[name].find()
    }


# --- the migrations


@pytest.fixture
def patient_db(db: Database[dict[str, Any]], mongo_uri: str) -> Iterator[Database[dict[str, Any]]]:
    """The test's database for commands that take long: nothing times out."""
    with MongoClient[dict[str, Any]](mongo_uri, appname="demo") as client:
        yield client[db.name]


def runner_for(root: Path, db: Database[dict[str, Any]]) -> Runner:
    (root / "migrations").mkdir()
    app = Flask("demo", root_path=str(root))
    MongoMigrate(app, db)
    return running.runner(app_state.of(app))


def airports_of_every_kind() -> list[dict[str, Any]]:
    """Choose one of each country and time zone, with and without each code: all of them take minutes."""
    kinds: defaultdict[tuple[object, ...], list[dict[str, Any]]] = defaultdict(list)
    for icao, airport in airportsdata.load("ICAO").items():
        found = kinds[airport["country"], airport["tz"], not airport["iata"], not airport["lid"]]
        found.append({"_id": icao, **airport})
    return [airport for found in kinds.values() for airport in found[:1]]


def test_the_indexes_of_the_example_fit_all_the_airports() -> None:
    airports = airportsdata.load("ICAO").values()
    assert all(abs(a["lat"]) <= 90 and abs(a["lon"]) <= 180 for a in airports)
    assert all(isinstance(a["elevation"], float) for a in airports)
    codes = [a["iata"] for a in airports if a["iata"]]
    assert len(codes) == len(set(codes))


def test_each_migration_of_the_example_can_be_undone_and_redone(
    tmp_path: Path, patient_db: Database[dict[str, Any]]
) -> None:
    db = patient_db
    db.airports.insert_many(airports_of_every_kind())
    runner = runner_for(tmp_path, db)
    files = Folder(EXAMPLE).discover().files
    assert len(files) >= 5
    assert [file.name for file in files if not file.reversible] == ["Archive local airfields"]
    assert any(file.transactional for file in files)
    before = snapshot(db)
    for file in files:
        shutil.copy(file.path, tmp_path / "migrations")
        assert not runner.up().failures
        after = snapshot(db)
        assert after != before, f"{file.name} changed nothing"
        if file.reversible:
            assert not runner.down().failures
            assert snapshot(db) == before, f"{file.name} does not undo what it did"
            assert not runner.up().failures
            assert snapshot(db) == after, f"{file.name} does not do the same again"
        else:
            with pytest.raises(NotReversibleError):
                runner.down()
            assert snapshot(db) == after
        before = after


def test_a_load_that_was_cut_short_is_done_again_and_a_complete_one_is_not(
    patient_db: Database[dict[str, Any]],
) -> None:
    patient_db.airports_incoming.insert_one({"_id": "EDDF"})
    loaded = data.load(patient_db)
    assert patient_db.airports.count_documents({}) == loaded > 28_000
    assert patient_db.list_collection_names() == ["airports"]
    patient_db.airports.delete_one({"_id": "EDDF"})
    assert data.load(patient_db) == 0
    assert patient_db.airports.count_documents({}) == loaded - 1


def test_loading_says_what_to_look_at_when_no_server_answers() -> None:
    app = example_app.create_app("mongodb://127.0.0.1:1/aviation")
    result = app.test_cli_runner().invoke(args=["load-airports"])
    assert result.exit_code == 1
    assert "Is its server running, and is MONGO_URI right?" in result.output
    assert example_app.mongo.cx is not None
    example_app.mongo.cx.close()


# --- the pages


@pytest.fixture
def example(db: Database[dict[str, Any]], mongo_uri: str) -> Iterator[Flask]:
    """The application on a handful of the airports, nothing migrated yet."""
    wanted = ("EDDF", "EDFE", "EDDM", "00AA")
    airports = airportsdata.load("ICAO")
    db.airports.insert_many({"_id": icao, **airports[icao]} for icao in wanted)
    app = example_app.create_app(uri_with(mongo_uri, db.name))
    app.testing = True
    yield app
    assert example_app.mongo.cx is not None
    example_app.mongo.cx.close()


@pytest.fixture
def client(example: Flask) -> FlaskClient:
    """A browser on the example after all its migrations."""
    assert not example_app.migrate.up(example).failures
    return example.test_client()


def test_an_airport_is_found_by_its_code_in_any_case(client: FlaskClient) -> None:
    assert client.get("/airports/fra").json == client.get("/airports/FRA").json
    found = client.get("/airports/FRA").get_json()
    assert found["elevation"] == {"feet": 364.0, "metres": 110.9}
    assert client.get("/airports/XXX").status_code == 404


def test_airports_are_found_by_what_is_near_the_nearest_first(client: FlaskClient) -> None:
    found = client.get("/airports/near?lat=50.03&lon=8.57&km=30").get_json()["airports"]
    assert [airport["_id"] for airport in found] == ["EDDF", "EDFE"]


@pytest.mark.parametrize("query", ["", "?lat=x&lon=1", "?lat=91&lon=0", "?lat=nan&lon=0"])
def test_a_place_that_is_none_is_refused(client: FlaskClient, query: str) -> None:
    assert client.get(f"/airports/near{query}").status_code == 400


def test_near_says_what_to_type_before_the_migrations_ran(example: Flask) -> None:
    answer = example.test_client().get("/airports/near?lat=50&lon=8")
    assert answer.status_code == 503
    assert "db-migrate up" in answer.text


def test_countries_come_with_the_most_airports_first(client: FlaskClient) -> None:
    found = client.get("/countries").get_json()["countries"]
    assert [(country["_id"], country["airports"]) for country in found] == [("DE", 3)]
    assert found[0]["highest"]["name"] == "Munich International Airport"


def test_the_example_has_a_dashboard_that_is_closed_until_there_is_a_token(
    client: FlaskClient,
) -> None:
    answer = client.get("/api/migrations/")
    assert (answer.status_code, answer.content_type) == (403, "text/html; charset=utf-8")


def test_the_index_names_pages_that_answer(client: FlaskClient) -> None:
    for page in client.get("/").get_json()["try"]:
        assert client.get(page).status_code == 200, page


def test_a_uri_without_a_database_is_refused_with_the_remedy(mongo_uri: str) -> None:
    with pytest.raises(Exception, match=r"names no database\. Add one: mongodb://localhost"):
        example_app.create_app(uri_with(mongo_uri, ""))
    assert example_app.mongo.cx is not None
    example_app.mongo.cx.close()


# --- the server it starts


@pytest.fixture
def server(tmp_path: Path) -> Iterator[embedded.EmbeddedServer]:
    """A folder for a server that is killed at the end."""
    server = embedded.EmbeddedServer(tmp_path / "data")
    yield server
    if started := server.find():
        kill(server, started.pid)


def kill(server: embedded.EmbeddedServer, pid: int) -> None:
    """Kill it, and return when its folder is free."""
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while server.find() is not None:
        assert time.monotonic() < end, f"{pid} does not end"


def connect(uri: str) -> MongoClient[dict[str, Any]]:
    return MongoClient(uri, serverSelectionTimeoutMS=5_000)


def start_elsewhere(folder: Path) -> subprocess.Popen[str]:
    """Start the server from a process of its own, as the next command does."""
    code = (
        "import pathlib, sys; from example_app.embedded import EmbeddedServer; "
        "print(EmbeddedServer(pathlib.Path(sys.argv[1])).start())"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "PYTHONPATH": PYTHON_PATH},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_server_is_started_once_and_found_again(server: embedded.EmbeddedServer) -> None:
    uri = server.start()
    first = server.find()
    assert first is not None
    assert first.uri == uri == server.start()
    assert server.find() == first
    with connect(uri) as client:
        assert client.get_default_database().name == embedded.DATABASE
        assert client.admin.command("ping")["ok"]


def test_processes_that_start_at_once_share_one_server(server: embedded.EmbeddedServer) -> None:
    starting = [start_elsewhere(server.folder) for _ in range(4)]
    uris = {process.communicate(timeout=60)[0].strip() for process in starting}
    assert uris == {server.start()}


def test_it_outlives_the_process_that_started_it_and_keeps_its_data_when_stopped(
    server: embedded.EmbeddedServer,
) -> None:
    uri = start_elsewhere(server.folder).communicate(timeout=60)[0].strip()
    with connect(uri) as client:
        client.get_default_database().airports.insert_one({"_id": "EDDF"})
    assert server.stop()
    assert server.find() is None
    assert not server.stop()
    with connect(server.start()) as client:
        assert client.get_default_database().airports.find_one() == {"_id": "EDDF"}


def test_a_server_that_was_killed_is_replaced(server: embedded.EmbeddedServer) -> None:
    server.start()
    killed = server.find()
    assert killed is not None
    kill(server, killed.pid)
    with connect(server.start()) as client:
        assert client.admin.command("ping")["ok"]
    replacement = server.find()
    assert replacement is not None
    assert replacement.pid != killed.pid


def test_a_process_that_has_got_the_number_of_a_dead_server_is_left_alone(
    server: embedded.EmbeddedServer,
) -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        server.folder.mkdir()
        recorded = f'{{"pid": {bystander.pid}, "port": 1}}'
        (server.folder / "server.json").write_text(recorded)
        assert server.find() is None
        assert not server.stop()
        assert bystander.poll() is None
        server.start()
        assert server.stop()
        assert bystander.poll() is None
        bystander.kill()


def test_a_server_that_cannot_start_says_why(server: embedded.EmbeddedServer) -> None:
    server.folder.mkdir()
    (server.folder / "db").write_text("in the way")
    with pytest.raises(embedded.EmbeddedServerError, match=r"(?s)ended at once.*db.*Try again"):
        server.start()


def test_with_a_uri_none_is_started(
    monkeypatch: pytest.MonkeyPatch, server: embedded.EmbeddedServer, mongo_uri: str
) -> None:
    monkeypatch.setattr(embedded, "DEMO", server)
    result = CliRunner().invoke(embedded.main, ["start"], env={"MONGO_URI": mongo_uri})
    assert (result.exit_code, "starts none" in result.output) == (0, True)
    monkeypatch.setenv("MONGO_URI", uri_with(mongo_uri, "aviation"))
    example_app.create_app()
    assert example_app.mongo.cx is not None
    example_app.mongo.cx.close()
    assert not server.folder.exists()


def test_its_commands_start_find_and_stop_it(
    monkeypatch: pytest.MonkeyPatch, server: embedded.EmbeddedServer
) -> None:
    monkeypatch.setattr(embedded, "DEMO", server)
    monkeypatch.delenv("MONGO_URI", raising=False)

    def type_in(action: str) -> tuple[int, str]:
        result = CliRunner().invoke(embedded.main, [action])
        return result.exit_code, result.output

    assert type_in("status") == (0, "The demo's server does not run.\n")
    assert type_in("uri")[0] == 1
    _, text = type_in("start")
    assert (0, text.split()[-1] + "\n") == type_in("uri")
    assert text.split()[-1] in type_in("status")[1]
    assert type_in("stop") == (0, "Stopped the demo's server. Its data stays in data/.\n")
    assert type_in("stop") == (0, "Nothing to do: it does not run.\n")
