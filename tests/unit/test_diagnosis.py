"""Each check of `doctor`: what is fine, what is worth a warning, and what is a problem."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flask_migrate_mongo.files.folder import Discovery
from flask_migrate_mongo.model.errors import SettingError, SourceError
from flask_migrate_mongo.planning import diagnosis
from flask_migrate_mongo.planning.diagnosis import OK, PROBLEM, WARNING, Diagnosis, DoctorReport
from flask_migrate_mongo.store.lease import LOCK_ID

from .given import NOW, a_file, a_lock

FOLDER = Path("/shop/migrations")
UNIQUE = {"version_1": {"key": [("version", 1)], "unique": True}}
PLAIN = {"version_1": {"key": [("version", 1)]}}
COMPOUND = {"both": {"key": [("version", 1), ("name", 1)], "unique": True}}
EXPIRING = {"createdAt_1": {"key": [("createdAt", 1)], "expireAfterSeconds": 60}}
RECORD = {"_id": 1, "version": "7", "status": "completed"}
REPLICA_SET = {"setName": "rs0", "hosts": ["a:1", "b:2"], "isWritablePrimary": True, "me": "a:1"}
NEEDED = {"migrations": ("find", "insert"), "migrations.ranges": ("remove",)}
ALL = ["find", "insert", "remove"]
LOCK = {"_id": LOCK_ID, "locked": True, "lockedAt": NOW, "expiresAt": NOW, "fence": 3}


def user(*privileges: Any, roles: Any = ({"role": "x", "db": "shop"},)) -> dict[str, Any]:
    return {
        "authenticatedUsers": [{"user": "anna", "db": "admin"}],
        "authenticatedUserRoles": list(roles),
        "authenticatedUserPrivileges": [
            {"resource": resource, "actions": actions} for resource, actions in privileges
        ],
    }


def on(database: str, collection: str) -> dict[str, str]:
    return {"db": database, "collection": collection}


def rights(auth: dict[str, Any]) -> Diagnosis:
    return diagnosis.rights(auth, "shop", NEEDED)


def history(*documents: dict[str, Any], indexes: Any = UNIQUE) -> Diagnosis:
    return diagnosis.history("migrations", documents, indexes)


def lock(*documents: dict[str, Any], state: Any = None) -> Diagnosis:
    return diagnosis.lock("locks", documents, state)


def api(*callers: str, registered: bool = True, create: bool = False) -> Diagnosis:
    return diagnosis.api(registered=registered, callers=callers, create=create)


def transactions(lacking: str | None, *versions: int, required: bool = True) -> Diagnosis:
    return diagnosis.transactions(lacking, versions, required=required)


def folder(**found: Any) -> Diagnosis:
    return diagnosis.folder("/shop/migrations", Discovery(**{"files": (), **found}))


BAD = SourceError(FOLDER / "1_a.py", "it has no up(). Add one.")
CASES = [
    (diagnosis.driver("4.17", ()), OK, "pymongo 4.17."),
    (diagnosis.driver("5.0.dev0", ()), OK, "pymongo 5.0.dev0."),
    (diagnosis.driver("4.9.2", ()), PROBLEM, "pymongo 4.9.2 is older than 4.17."),
    (diagnosis.driver("4.20", ("MongoClient.x",)), PROBLEM, "has no MongoClient.x, so"),
    (diagnosis.server("shop on a:1", "7.0.5", supported=True), OK, "shop on a:1, version 7.0.5."),
    (diagnosis.server("shop on a:1", None, supported=True), OK, "version unknown."),
    (diagnosis.server("shop on a:1", "4.4", supported=False), PROBLEM, "older than MongoDB 5.0"),
    (diagnosis.topology(REPLICA_SET), OK, "The replica set rs0: a:1, b:2."),
    (diagnosis.topology({"msg": "isdbgrid"}), OK, "A sharded cluster."),
    (diagnosis.topology({}), OK, "A single server, not a replica set."),
    (
        diagnosis.topology({**REPLICA_SET, "isWritablePrimary": False}),
        PROBLEM,
        "a:1 is not the primary of the replica set rs0",
    ),
    (transactions(None, 1), OK, "The server has transactions."),
    (transactions("it is old"), WARNING, "it is old. No migration needs one."),
    (transactions("it is old", 1, required=False), WARNING, "run without."),
    (transactions("it is old", 1, 2, 3, 4), PROBLEM, "are refused: 1, 2, 3, ...."),
    (diagnosis.clock(0.9, 0, 60), OK, "the same time"),
    (diagnosis.clock(-3, 2.5, 60), OK, "the same time"),
    (diagnosis.clock(-3, 0.5, 60), WARNING, "is 2.5 s behind that of the server."),
    (diagnosis.clock(20, 0, 60), WARNING, "is 20.0 s ahead of that of the server."),
    (diagnosis.clock(20.1, 0, 60), PROBLEM, "a third of MIGRATE_LOCK_TTL, 60 s."),
    (diagnosis.clock(0.9, 0, 2), PROBLEM, "is 0.9 s ahead of"),
    (rights({"authenticatedUsers": []}), OK, "Not checked: no user is logged in."),
    (rights(user((on("shop", ""), ALL))), OK, "anna may do what our collections need."),
    (rights(user((on("", ""), ALL))), OK, "anna may do"),
    (rights(user(({"anyResource": True}, ALL))), OK, "anna may do"),
    (rights(user()), WARNING, "does not list the privileges of anna"),
    (rights(user(roles=())), PROBLEM, "anna may not: find, insert on shop.migrations; remove on"),
    (
        rights(user((on("shop", "migrations"), ALL), ({"cluster": True}, ["remove"]))),
        PROBLEM,
        "anna may not: remove on shop.migrations.ranges.",
    ),
    (rights(user((on("other", ""), ALL))), PROBLEM, "find, insert on shop.migrations"),
    (rights(user((on("shop", ""), ["find"]))), PROBLEM, "may not: insert on shop.migrations;"),
    (history(), OK, "migrations has 0 records"),
    (history(indexes={}), OK, "migrations has 0 records"),
    (history(RECORD, {**RECORD, "version": "8"}), OK, "has 2 records, and all are valid."),
    (history(RECORD, indexes=PLAIN), WARNING, "no unique index on `version`"),
    (history(RECORD, indexes=COMPOUND), WARNING, "no unique index on `version`"),
    (history(indexes=EXPIRING), PROBLEM, "because of its index createdAt_1."),
    (history(RECORD, {**RECORD, "version": "07"}), PROBLEM, "several records of a version: 7."),
    (history({"_id": "x", "migrationName": "x"}), PROBLEM, "with these _id: x."),
    (history({**RECORD, "version": "v1.2"}), PROBLEM, "not valid records"),
    (history({**RECORD, "version": 7}), PROBLEM, "not valid records"),
    (history({**RECORD, "status": "done"}), PROBLEM, "not valid records"),
    (history({"_id": 5, "migration": "a", "batch": 1}), PROBLEM, "not valid records"),
    (history({**RECORD, "metadata": {"progress": "half"}}), PROBLEM, "not valid records"),
    (lock(), OK, "The lock is free."),
    (lock(LOCK), OK, "The lock is free."),
    (lock(LOCK, state=a_lock()), WARNING, "anna@web-1:4711 (up) holds the lock since 2026-11-22"),
    (lock(LOCK, state=a_lock(expires_in=-1)), WARNING, "expired at 2026-11-22 10:30:04 UTC"),
    (lock(LOCK, {"_id": 1}), PROBLEM, "that are not the lock, with these _id: 1."),
    (lock({**LOCK, "expiresAt": "soon"}), PROBLEM, "of a wrong type in expiresAt."),
    (lock({**LOCK, "fence": "3"}), PROBLEM, "of a wrong type in fence."),
    (diagnosis.collections({"a": (), "b": ()}), OK, "a and b have no foreign documents."),
    (diagnosis.collections({"a": (), "b": [1]}), PROBLEM, "are in b (with these _id: 1)."),
    (diagnosis.rehearsals((), None, "shop"), OK, "No killed rehearsal"),
    (diagnosis.rehearsals(("x", "y"), "s", "shop"), WARNING, "left these databases: x, y."),
    (diagnosis.rehearsals((), "shop", "shop"), PROBLEM, "MIGRATE_REHEARSAL_DATABASE is shop"),
    (folder(files=(a_file(1),)), OK, "/shop/migrations has 1 migrations."),
    (folder(has_folder=False), WARNING, "/shop/migrations does not exist."),
    (folder(ignored=("1_a.sql",)), WARNING, "are ignored: 1_a.sql."),
    (folder(problems=(BAD, BAD)), PROBLEM, f"{BAD.message} {BAD.message}"),
    (diagnosis.names({"MIGRATE_API": "app.config", "X": "environment"}, ["MIGRATE_API"]), OK, ""),
    (diagnosis.names({"MIGRATE_X": "environment"}, ["A"]), WARNING, "MIGRATE_X (environment)."),
    (diagnosis.conflicts(None), OK, "Each purpose has its own collection."),
    (diagnosis.conflicts(SettingError("A", 1, "2")), PROBLEM, "A is 1, but it accepts 2."),
    (api(registered=False), OK, "not registered"),
    (api(create=True), OK, "closed"),
    (api("tokens with the scope read"), OK, "is open to tokens with the scope read."),
    (api("users that authorize() admits", create=True), WARNING, "It can create files"),
]


@pytest.mark.parametrize(("found", "grade", "text"), CASES)
def test_a_check_finds(found: Diagnosis, grade: diagnosis.Grade, text: str) -> None:
    assert (found.grade, found.message) == (grade, found.message)
    assert text in found.message


@pytest.mark.parametrize("found", [case[0] for case in CASES if case[1] is not OK])
def test_what_is_not_fine_has_a_remedy(found: Diagnosis) -> None:
    assert found.remedy or "Add one" in found.message


def test_a_check_that_is_fine_asks_for_nothing() -> None:
    assert {found.remedy for found, grade, _ in CASES if grade is OK} == {""}


def test_the_nearest_name_of_a_setting_is_suggested() -> None:
    given = {"MIGRATE_LOK_TTL": "environment", "MIGRATE_ZZZ": "app.config"}
    found = diagnosis.names(given, ["MIGRATE_LOCK_TTL", "MIGRATE_API"])
    assert found.remedy == "Did you mean MIGRATE_LOCK_TTL instead of MIGRATE_LOK_TTL?"
    assert "MIGRATE_LOK_TTL (environment), MIGRATE_ZZZ (app.config)" in found.message


def test_remedies_are_in_the_words_of_the_command_line() -> None:
    found = lock(LOCK, state=a_lock(expires_in=timedelta(hours=1).total_seconds()))
    assert found.advice.endswith("`flask db-migrate force-unlock --confirm`.")


def test_only_problems_are_counted() -> None:
    grades = {"a": OK, "b": WARNING, "c": PROBLEM, "d": PROBLEM}
    report = DoctorReport({n: Diagnosis(grade, "x") for n, grade in grades.items()}, ())
    assert report.problems == 2
