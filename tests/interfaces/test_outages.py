"""A database that cannot be reached: what a command says while it waits, and at the end."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest
from pymongo import MongoClient

from flask_migrate_mongo import ConnectionFailedError, MongoMigrate
from flask_migrate_mongo.driver.outages import remedy_of, remedy_of_set_up
from flask_migrate_mongo.interfaces.cli import output
from tests.conftest import uri_with
from tests.project import Process, Project

APP = """
import os
from flask import Flask
from pymongo import MongoClient
from flask_migrate_mongo import MongoMigrate

app = Flask(__name__)
client = MongoClient(os.environ["MONGO_URI"])
MongoMigrate(app, client.shop)
"""
"""An application with a client of its own, as with Flask-PyMongo."""


@pytest.fixture
def closed_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


def status(project: Project, uri: str, *args: str) -> Process:
    project.root.joinpath("app.py").write_text(APP, encoding="utf-8")
    return project.run("status", *args, MONGO_URI=uri)


def test_a_command_says_which_hosts_it_waits_for_as_long_as_its_client_is_set_to_wait(
    project: Project, closed_port: int
) -> None:
    began = time.monotonic()
    uri = f"mongodb://anna:s3cret@127.0.0.1:{closed_port}/shop?serverSelectionTimeoutMS=4000"
    done = status(project, uri)
    assert time.monotonic() - began >= 4
    waiting, error = done.stderr.splitlines()
    assert waiting == f"Waiting for shop on 127.0.0.1:{closed_port} ..."
    assert error.startswith(
        f"Error: The database does not answer: 127.0.0.1:{closed_port}: [Errno 111] Connection refused. "
        "No server listens there. Check that the server is running, and that host and port are right in MONGO_URI"
    )
    assert (done.returncode, done.stdout) == (6, "")
    assert "s3cret" not in done.stderr


def test_the_limit_of_the_applications_client_is_not_shortened(
    project: Project, closed_port: int
) -> None:
    uri = f"mongodb://127.0.0.1:{closed_port}/shop"
    with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=6000) as client:
        app = project.app(client.shop, MONGO_URI=uri)
        began = time.monotonic()
        with pytest.raises(ConnectionFailedError):
            MongoMigrate().status(app)
    assert time.monotonic() - began >= 6


def test_with_json_standard_output_is_the_error_alone(project: Project, closed_port: int) -> None:
    uri = f"mongodb://127.0.0.1:{closed_port}/shop?serverSelectionTimeoutMS=8000"
    done = status(project, uri, "--json")
    assert json.loads(done.stdout)["code"] == "no-connection"
    assert "Waiting for shop on" in done.stderr


def test_a_command_whose_database_answers_says_nothing_of_waiting(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "SILENT_SECONDS", 30)
    done = project.invoke("status")
    assert (done.exit_code, done.stderr) == (0, "")


def test_a_client_with_tls_at_a_server_without_it_is_told_so(
    project: Project, mongo_uri: str
) -> None:
    options = ("tls=true", "connectTimeoutMS=500", "serverSelectionTimeoutMS=3000")
    done = status(project, uri_with(mongo_uri, "shop", *options))
    assert done.returncode == 6
    assert "SSL handshake failed: 127.0.0.1" in done.stderr
    assert "If the server does not use TLS, remove tls=true from MONGO_URI" in done.stderr


@pytest.mark.parametrize("own", [True, False])
def test_a_name_without_an_srv_record_is_named(project: Project, *, own: bool) -> None:
    uri = "mongodb+srv://anna:s3cret@nosuch.example.invalid/shop"
    done = project.run("status", MONGO_URI=uri) if own else status(project, uri)
    assert done.returncode == 6
    assert "nosuch.example.invalid" in done.stderr
    assert "The SRV record of a mongodb+srv:// host cannot be read." in done.stderr
    assert "s3cret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_our_own_client_names_the_hosts_that_it_has_not_heard_of(
    project: Project, mongo_uri: str
) -> None:
    # Its limit ends before the handshake does.
    done = project.run("status", MONGO_URI=uri_with(mongo_uri, "shop", "tls=true"))
    host = mongo_uri.split("/")[2].split("?", maxsplit=1)[0]
    assert f"The database does not answer: {host}: nothing was heard." in done.stderr
    assert "that tls=true is set if, and only if, the server uses TLS" in done.stderr


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("db1:27017: [Errno 111] Connection refused", "No server listens there."),
        ("db1:27017: [WinError 10061] target machine actively refused it", "No server listens"),
        ("db1:27017: [Errno -2] Name or service not known", "name of the host"),
        ("db1:27017: [Errno 8] nodename nor servname provided", "name of the host"),
        ("db1:27017: [Errno 11001] getaddrinfo failed", "name of the host"),
        ("SSL handshake failed: db1:27017: [SSL: WRONG_VERSION_NUMBER]", "TLS handshake"),
        ("SSL handshake failed: certificate verify failed: self-signed", "tlsCAFile"),
        ("db1:27017: connection closed", "add tls=true"),
        ("db1:27017: timed out", "firewall"),
        ('No replica set members available for replica set name "x"', "rs.status()"),
        ("something else", ""),
    ],
)
def test_what_to_do_follows_from_what_was_seen(message: str, remedy: str) -> None:
    found = remedy_of(message)
    assert remedy in found
    assert bool(found) is bool(remedy)


def test_a_bad_connection_string_is_answered_with_a_good_one() -> None:
    assert "mongodb://user:password@localhost" in remedy_of_set_up("Invalid URI scheme")
    assert "SRV record" in remedy_of_set_up("The resolution lifetime expired after 21 seconds")
