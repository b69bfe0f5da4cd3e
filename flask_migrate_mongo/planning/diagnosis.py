"""The checks of `doctor`: each function decides from facts that were read before."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from enum import Enum

from flask_migrate_mongo.driver.server import Document, DocumentView
from flask_migrate_mongo.files.folder import Discovery
from flask_migrate_mongo.model.documents import MigratedDatabase
from flask_migrate_mongo.model.errors import MigrateError
from flask_migrate_mongo.model.values import LockState
from flask_migrate_mongo.model.wording import Advised
from flask_migrate_mongo.store.lease import LOCK_ID
from flask_migrate_mongo.store.records import is_record

OLDEST_DRIVER = (4, 17)
CLOCK_SECONDS = 1
"""How far apart the clocks of this machine and the server may be without a warning."""

_MOST_NAMED = 3
_PREFIX = "MIGRATE_"
_LOCK_FIELDS: Mapping[str, type] = {
    "lockedAt": datetime,
    "heartbeatAt": datetime,
    "expiresAt": datetime,
    "fence": int,
}


class Grade(str, Enum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


OK, WARNING, PROBLEM = Grade


@dataclass(frozen=True, slots=True)
class Diagnosis(Advised):
    """What one check found. `remedy` is in the neutral terms of `wording`."""

    grade: Grade
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class SettingValue:
    """One setting as it is shown, without secrets, and where its value comes from."""

    name: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """What each check found, by its name, and every setting."""

    checks: Mapping[str, Diagnosis]
    settings: tuple[SettingValue, ...]
    database: MigratedDatabase | None = None

    @property
    def problems(self) -> int:
        """How many checks found a problem."""
        return sum(each.grade is PROBLEM for each in self.checks.values())


# --- the driver and the server


def driver(version: str, missing: Sequence[str]) -> Diagnosis:
    """Check the version of pymongo, and the names in it that this package replaces."""
    remedy = "Install a version of pymongo that docs/compatibility.md lists."
    if tuple(map(int, re.findall(r"[0-9]+", version)[:2])) < OLDEST_DRIVER:
        needed = ".".join(map(str, OLDEST_DRIVER))
        return Diagnosis(PROBLEM, f"pymongo {version} is older than {needed}.", remedy)
    if missing:
        message = f"pymongo {version} has no {', '.join(missing)}, so transactional migrations and dry runs fail."
        return Diagnosis(PROBLEM, message, remedy)
    return Diagnosis(OK, f"pymongo {version}.")


def server(where: str, version: str | None, *, supported: bool) -> Diagnosis:
    """Check the version of the server, which is None if the server does not say it."""
    found = f"{where}, version {version or 'unknown'}"
    if supported:
        return Diagnosis(OK, f"{found}.")
    message = f"{found}: older than MongoDB 5.0, so `up` and `down` are refused."
    return Diagnosis(PROBLEM, message, "Upgrade it, one major version after the other.")


def topology(hello: DocumentView) -> Diagnosis:
    """Check which kind of deployment answered, and that it accepts writes."""
    if hello.get("msg") == "isdbgrid":
        return Diagnosis(OK, "A sharded cluster.")
    if "setName" not in hello:
        return Diagnosis(OK, "A single server, not a replica set.")
    if hello.get("isWritablePrimary"):
        hosts = ", ".join(hello.get("hosts", ()))
        return Diagnosis(OK, f"The replica set {hello['setName']}: {hosts}.")
    message = f"{hello.get('me', 'It')} is not the primary of the replica set {hello['setName']}, so it refuses writes."
    remedy = "Remove directConnection=true from the connection string, or wait for an election."
    return Diagnosis(PROBLEM, message, remedy)


def transactions(lacking: str | None, needed_by: Sequence[int], *, required: bool) -> Diagnosis:
    """Check that the server has transactions, or that no migration in the folder is refused without them."""
    if lacking is None:
        return Diagnosis(OK, "The server has transactions.")
    found = f"The server has no transactions: {lacking}."
    remedy = "Use a replica set (a single node is enough)."
    if not (needed_by and required):
        note = "Transactional migrations run without." if needed_by else "No migration needs one."
        return Diagnosis(WARNING, f"{found} {note}", remedy)
    message = f"{found} These migrations are refused: {_some(needed_by)}."
    return Diagnosis(PROBLEM, message, f'{remedy} Or set MIGRATE_TRANSACTIONS = "preferred".')


def clock(ahead: float, unsure: float, ttl: float) -> Diagnosis:
    """Check how far this machine's clock is ahead of the server's, in seconds, give or take `unsure`."""
    apart = max(0.0, abs(ahead) - unsure)
    if apart <= min(CLOCK_SECONDS, ttl / 3):
        return Diagnosis(OK, "This machine and the server have the same time.")
    side = "ahead of" if ahead > 0 else "behind"
    message = f"The clock of this machine is {apart:.1f} s {side} that of the server."
    remedy = "Synchronize both clocks with NTP."
    if apart <= ttl / 3:
        return Diagnosis(WARNING, message, remedy)
    limit = f"That is more than a third of MIGRATE_LOCK_TTL, {ttl:g} s."
    return Diagnosis(PROBLEM, f"{message} {limit}", remedy)


def rights(auth: DocumentView, database: str, needed: Mapping[str, Iterable[str]]) -> Diagnosis:
    """Check the answer of connectionStatus for the actions that each of our collections needs."""
    users = ", ".join(each["user"] for each in auth.get("authenticatedUsers", ()))
    privileges = auth.get("authenticatedUserPrivileges", ())
    if not users:
        message = "Not checked: no user is logged in."
        return Diagnosis(OK, f"{message} Without access control, everything is allowed.")
    if not privileges and auth.get("authenticatedUserRoles"):
        message = f"The server does not list the privileges of {users}, so they were not checked."
        return Diagnosis(WARNING, message, f"The role readWrite on {database} is enough.")
    lacking = [
        f"{', '.join(sorted(missing))} on {database}.{name}"
        for name, actions in needed.items()
        if (missing := set(actions) - _granted(privileges, database, name))
    ]
    if not lacking:
        return Diagnosis(OK, f"{users} may do what our collections need.")
    remedy = f"Grant the role readWrite on {database}, or set MIGRATE_MONGO_URI for another user."
    return Diagnosis(PROBLEM, f"{users} may not: {'; '.join(lacking)}.", remedy)


def _granted(privileges: Iterable[DocumentView], database: str, collection: str) -> set[str]:
    """Collect the actions that are allowed on a collection. In a resource, "" is every name."""
    found: set[str] = set()
    for each in privileges:
        resource = each["resource"]
        is_in = resource.get("db") in ("", database)
        is_on = is_in and resource.get("collection") in ("", collection)
        if is_on or resource.get("anyResource"):
            found.update(each["actions"])
    return found


# --- our collections


def history(
    name: str, documents: Sequence[Document], indexes: Mapping[str, DocumentView]
) -> Diagnosis:
    """Check the stored records and the indexes of their collection."""
    versions = Counter(map(_version_of, documents))
    expiring = [index for index, found in indexes.items() if "expireAfterSeconds" in found]
    others = [each["_id"] for each in documents if _version_of(each) is None]
    doubled = [v for v, number in versions.items() if v is not None and number > 1]
    if expiring:
        message = f"The server deletes records from {name}, because of its index {_some(expiring)}."
        return Diagnosis(PROBLEM, message, "Drop that index.")
    if others:
        return _foreign(name, "valid records", others, "MIGRATE_COLLECTION")
    if doubled:
        message = f"{name} has several records of a version: {_some(doubled)}."
        remedy = "Look at the data, then delete the records that are wrong."
        return Diagnosis(PROBLEM, message, remedy)
    unique = [list(found["key"]) for found in indexes.values() if found.get("unique")]
    if documents and [("version", 1)] not in unique:
        message = f"{name} has no unique index on `version`."
        return Diagnosis(WARNING, message, "The next run creates it: [up].")
    return Diagnosis(OK, f"{name} has {len(documents)} records, and all are valid.")


def _foreign(name: str, expected: str, ids: Sequence[object], setting: str) -> Diagnosis:
    message = f"{name} has documents that are not {expected}, with these _id: {_some(ids)}."
    remedy = f"Move them to another collection, or set {setting} to a new one."
    return Diagnosis(PROBLEM, message, remedy)


def _version_of(document: Document) -> int | None:
    """Read the version of a record; None if the document is not a valid record."""
    is_valid = isinstance(document.get("version"), str) and is_record(document)
    return int(document["version"]) if is_valid else None


def lock(name: str, documents: Sequence[DocumentView], state: LockState | None) -> Diagnosis:
    """Check the documents of the lock's collection, and who holds the lock."""
    others = [each["_id"] for each in documents if each["_id"] != LOCK_ID]
    if others:
        return _foreign(name, "the lock", others, "MIGRATE_LOCK_COLLECTION")
    broken = [
        key
        for each in documents
        for key, kind in _LOCK_FIELDS.items()
        if not isinstance(each.get(key), kind | None)
    ]
    if broken:
        message = f"The lock in {name} has a value of a wrong type in {', '.join(broken)}."
        remedy = "Make sure that nothing runs, then delete that document."
        return Diagnosis(PROBLEM, message, remedy)
    if state is None:
        return Diagnosis(OK, "The lock is free.")
    by = f"{state.holder} ({state.reason})"
    if state.expired:
        message = f"The lock of {by} expired at {state.expires_at:%Y-%m-%d %H:%M:%S} UTC: its run crashed."
        return Diagnosis(WARNING, message, "The next run takes it over: [up].")
    message = f"{by} holds the lock since {state.locked_at:%Y-%m-%d %H:%M:%S} UTC."
    remedy = "Wait for that run. If its process is dead: [force-unlock confirm=True]."
    return Diagnosis(WARNING, message, remedy)


def collections(foreign: Mapping[str, Sequence[object]]) -> Diagnosis:
    """Check the other collections for documents that are not ours, each given by its `_id`."""
    listed = [f"{name} (with these _id: {_some(ids)})" for name, ids in foreign.items() if ids]
    if not listed:
        return Diagnosis(OK, f"{' and '.join(foreign)} have no foreign documents.")
    message = f"Foreign documents, which a run may delete, are in {' and '.join(listed)}."
    remedy = "Set MIGRATE_RUN_COLLECTION, or MIGRATE_COLLECTION, to a new collection."
    return Diagnosis(PROBLEM, message, remedy)


def rehearsals(leftovers: Sequence[str], scratch: str | None, database: str) -> Diagnosis:
    """Check the scratch databases: those that killed rehearsals left, and the name that a setting gives."""
    if scratch == database:
        message = f"MIGRATE_REHEARSAL_DATABASE is {database}, the application's own database."
        return Diagnosis(PROBLEM, message, "Set it to a database that does not exist.")
    if leftovers:
        message = f"Killed rehearsals left these databases: {_some(leftovers)}."
        return Diagnosis(WARNING, message, "The next rehearsal drops them: [rehearse].")
    return Diagnosis(OK, "No killed rehearsal left a database.")


# --- files and settings


def folder(path: str, found: Discovery) -> Diagnosis:
    """Check the folder of the migrations and the files in it."""
    if not found.has_folder:
        remedy = "Create it with the first migration: [create NAME]. Or set MIGRATE_DIRECTORY."
        return Diagnosis(WARNING, f"The migrations folder {path} does not exist.", remedy)
    if found.problems:
        message = " ".join(each.message for each in found.problems)
        return Diagnosis(PROBLEM, message, found.problems[0].remedy)
    if found.ignored:
        remedy = "Only files in the folder itself that end in .py are migrations: move them into it, or delete them."
        return Diagnosis(WARNING, f"Files in {path} are ignored: {_some(found.ignored)}.", remedy)
    return Diagnosis(OK, f"{path} has {len(found.files)} migrations.")


def names(given: Mapping[str, str], known: Collection[str]) -> Diagnosis:
    """Check the names of settings, each with the place where it is given."""
    unknown = [name for name in given if name.startswith(_PREFIX) and name not in known]
    if not unknown:
        return Diagnosis(OK, "Every MIGRATE_* name is that of a setting.")
    listed = ", ".join(f"{name} ({given[name]})" for name in unknown)
    # Without the prefix, by which all would be similar.
    suffixes = {name.removeprefix(_PREFIX): name for name in known}
    near = {name: get_close_matches(name.removeprefix(_PREFIX), suffixes, 1) for name in unknown}
    hints = [f"Did you mean {suffixes[n[0]]} instead of {name}?" for name, n in near.items() if n]
    message = f"These are not settings, and have no effect: {listed}."
    return Diagnosis(WARNING, message, " ".join(hints) or "Remove them.")


def conflicts(collision: MigrateError | None) -> Diagnosis:
    """Check that no collection has two purposes."""
    if collision is not None:
        return Diagnosis(PROBLEM, collision.message, collision.remedy)
    return Diagnosis(OK, "Each purpose has its own collection.")


def api(*, registered: bool, callers: Sequence[str], create: bool) -> Diagnosis:
    """Check who may use the REST API, and whether they may create files."""
    if not registered:
        return Diagnosis(OK, "The REST API is not registered.")
    if not callers:
        return Diagnosis(OK, "The REST API is closed: no access rules are configured.")
    message = f"The REST API is open to {', '.join(callers)}."
    if not create:
        return Diagnosis(OK, message)
    remedy = "In production, set MIGRATE_API_CREATE = False, and turn the debug mode off."
    return Diagnosis(WARNING, f"{message} It can create files, which are then run.", remedy)


def _some(values: Iterable[object]) -> str:
    texts = list(map(str, values))
    return ", ".join(texts[:_MOST_NAMED]) + (", ..." if len(texts) > _MOST_NAMED else "")
