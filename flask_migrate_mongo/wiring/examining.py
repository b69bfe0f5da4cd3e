"""Reads the facts that `doctor` checks. Nothing here writes, takes the lock or executes a migration."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

import pymongo
from bson.errors import BSONError
from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from flask_migrate_mongo.database import FIRST_CONTACT_SECONDS, connected_server
from flask_migrate_mongo.driver import commands, confinement
from flask_migrate_mongo.driver.server import OLDEST_WIRE_VERSION, Document, Server, translated
from flask_migrate_mongo.files.folder import Folder
from flask_migrate_mongo.model.documents import MigratedDatabase
from flask_migrate_mongo.model.errors import (
    AccessDeniedError,
    MigrateError,
    as_migrate_error,
    redact,
)
from flask_migrate_mongo.planning import diagnosis
from flask_migrate_mongo.planning.diagnosis import OK, PROBLEM, WARNING, Diagnosis
from flask_migrate_mongo.rehearsal.scratch import leftovers
from flask_migrate_mongo.settings import SETTINGS, Settings, collision, key_of
from flask_migrate_mongo.state import KEY, AppState
from flask_migrate_mongo.store.lease import Lease
from flask_migrate_mongo.store.records import PROJECTION

_BASIC = ("find", "insert", "update")
_MOST_FOREIGN = 10
_NOT_IN_MONGOMOCK = frozenset({"topology", "rights", "rehearsals"})
_ESSENTIAL = frozenset({"history", "lock"})
"""Checks of what every command reads: a user without the right to it can use none."""


@dataclass(frozen=True, slots=True)
class _Contact:
    """The server, its answer to `hello`, which is empty for mongomock, and the settings."""

    server: Server
    hello: Document
    settings: Settings

    def collection(self, name: str) -> Collection[Document]:
        """Make a handle of one of our collections that can decode the documents of others."""
        return self.server.collection(name)

    def ids(self, name: str, query: Document) -> list[object]:
        """Read the `_id` of some documents."""
        found = self.collection(name).find(query, {"_id": 1}).limit(_MOST_FOREIGN)
        return [each["_id"] for each in found]


def examine(state: AppState, environ: Mapping[str, str] = os.environ) -> diagnosis.DoctorReport:
    """Check the set-up of an application. What cannot be read ends its own check alone."""
    settings, app = state.settings, state.app
    names = (*commands.PATCHES.names, *confinement.PATCHES.names)
    missing = [f"{owner.__name__}.{name}" for owner, name in names if not hasattr(owner, name)]
    given = {**dict.fromkeys(environ, "environment"), **dict.fromkeys(app.config, "app.config")}
    callers = [f"tokens with the scope {each.scope.value}" for each in settings.api_token or ()]
    callers += ["users that authorize() admits"] if state.authorize else []
    location, checks_of_server = _of_server(state)
    checks = {
        "driver": diagnosis.driver(pymongo.version, missing),
        **checks_of_server,
        "folder": _folder(settings),
        "names": diagnosis.names(given, [key_of(name) for name in SETTINGS]),
        "conflicts": diagnosis.conflicts(collision(settings)),
        "api": diagnosis.api(
            registered=any(each.name == KEY for each in app.blueprints.values()),
            callers=list(dict.fromkeys(callers)),
            create=settings.api_create or app.debug,
        ),
    }
    return diagnosis.DoctorReport(checks, tuple(_values(state)), location)


def _values(state: AppState) -> Iterator[diagnosis.SettingValue]:
    for name, setting in SETTINGS.items():
        value = getattr(state.settings, name)
        text = ", ".join(value) if isinstance(value, tuple) and not setting.secret else str(value)
        # Here the whole text is the URI: a password in it may hold even a space.
        masked = re.sub(r"(?s)(?<=://).*@", "***@", redact(text))
        shown = "none" if value is None else "not shown here" if setting.secret else masked
        yield diagnosis.SettingValue(key_of(name), shown, state.sources.get(name, "default"))


def _folder(settings: Settings) -> Diagnosis:
    try:
        return diagnosis.folder(str(settings.directory), Folder(settings.directory).discover())
    except MigrateError as exc:
        return Diagnosis(PROBLEM, exc.message, exc.remedy)


# --- the server


def _of_server(state: AppState) -> tuple[MigratedDatabase | None, dict[str, Diagnosis]]:
    try:
        with translated(), pymongo.timeout(FIRST_CONTACT_SECONDS):
            server = connected_server(state)
            hello = server.database.client.admin.command("hello") if server.sends_commands else {}
    except MigrateError as exc:
        unknown = Diagnosis(WARNING, "Not checked, because the database cannot be reached.")
        problem = Diagnosis(PROBLEM, exc.message, exc.remedy)
        return None, {**dict.fromkeys(_CHECKS, unknown), "server": problem}
    contact = _Contact(server, hello, state.settings)
    return server.location, {name: _checked(name, contact) for name in _CHECKS}


def _checked(name: str, contact: _Contact) -> Diagnosis:
    if name in _NOT_IN_MONGOMOCK and not contact.server.sends_commands:
        return Diagnosis(OK, "Not checked, because mongomock is no server.")
    try:
        with translated(), pymongo.timeout(FIRST_CONTACT_SECONDS):
            return _CHECKS[name](contact)
    except (MigrateError, BSONError) as exc:
        error = as_migrate_error(exc)
        is_fatal = name in _ESSENTIAL and isinstance(exc, AccessDeniedError)
        grade = PROBLEM if is_fatal else WARNING
        return Diagnosis(grade, f"Not checked. {error.message}", error.remedy)


def _server(contact: _Contact) -> Diagnosis:
    database = contact.server.database
    if not contact.server.sends_commands:
        return Diagnosis(OK, f"{database.name} in mongomock, which replaces a server in tests.")
    hosts = ", ".join(f"{host}:{port}" for host, port in sorted(database.client.nodes))
    try:
        version = database.client.admin.command("buildInfo")["version"]
    except PyMongoError:  # A client with a strict API version may not ask.
        version = None
    supported = contact.hello.get("maxWireVersion", 0) >= OLDEST_WIRE_VERSION
    return diagnosis.server(f"{database.name} on {hosts}", version, supported=supported)


def _transactions(contact: _Contact) -> Diagnosis:
    files = Folder(contact.settings.directory).discover().files
    needed_by = [file.version for file in files if file.transactional]
    required = contact.settings.transactions == "required"
    return diagnosis.transactions(contact.server.transactions_lacking, needed_by, required=required)


def _clock(contact: _Contact) -> Diagnosis:
    before = datetime.now(timezone.utc)
    theirs = contact.server.now()
    half = (datetime.now(timezone.utc) - before) / 2
    ahead = before + half - theirs
    return diagnosis.clock(ahead.total_seconds(), half.total_seconds(), contact.settings.lock_ttl)


def _rights(contact: _Contact) -> Diagnosis:
    settings, database = contact.settings, contact.server.database
    needed = {
        settings.collection: (*_BASIC, "createIndex"),
        f"{settings.collection}.ranges": (*_BASIC, "remove"),
        settings.lock_collection: _BASIC,
        settings.run_collection: (*_BASIC, "createIndex"),
    }
    status = database.client.admin.command("connectionStatus", showPrivileges=True)
    return diagnosis.rights(status["authInfo"], database.name, needed)


def _history(contact: _Contact) -> Diagnosis:
    name = contact.settings.collection
    records = contact.collection(name)
    documents = list(records.find({}, {**PROJECTION, "_id": 1}))
    return diagnosis.history(name, documents, records.index_information())


def _lock(contact: _Contact) -> Diagnosis:
    name, ttl = contact.settings.lock_collection, contact.settings.lock_ttl
    documents = list(contact.collection(name).find().limit(_MOST_FOREIGN))
    return diagnosis.lock(name, documents, Lease(contact.server, name, ttl=ttl).inspect())


def _collections(contact: _Contact) -> Diagnosis:
    checkpoints, runs = f"{contact.settings.collection}.ranges", contact.settings.run_collection
    return diagnosis.collections(
        {
            checkpoints: contact.ids(checkpoints, {"call": {"$exists": False}}),
            runs: contact.ids(runs, {"project": {"$exists": False}}),
        }
    )


def _rehearsals(contact: _Contact) -> Diagnosis:
    scratch, own = contact.settings.rehearsal_database, contact.server.database.name
    return diagnosis.rehearsals(leftovers(contact.server, scratch), scratch, own)


_CHECKS: Mapping[str, Callable[[_Contact], Diagnosis]] = {
    "server": _server,
    "topology": lambda contact: diagnosis.topology(contact.hello),
    "transactions": _transactions,
    "clock": _clock,
    "rights": _rights,
    "history": _history,
    "lock": _lock,
    "collections": _collections,
    "rehearsals": _rehearsals,
}
"""The checks that need the server."""
