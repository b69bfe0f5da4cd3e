"""A secret in a document that is refused is in no output, no record and no log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from bson.json_util import dumps

from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.project import Project

# With quotes, which texts of the server do not escape.
PLANTED = "hunter2\" 'hunter2"
READ, RUN = "reader-0123456789", "runner-0123456789"
ROOT = "/api/migrations"
READS = ("/status", "/history", "/history/1/events", "/health", "/lock/status")

HEADER = """
from bson import Int64
from decimal import Decimal
from pymongo import InsertOne, UpdateOne

def up(db, ctx):
    secret = ctx.app.config["PLANTED"]
    document = {"email": "b", "password": secret, "user": {"accessToken": secret}}
"""

WAYS = {
    "insert_one": "db.people.insert_one(document)",
    "a hidden key": "db.people.insert_one({'_id': 3, 'password': secret})",
    "a hidden key in a compound index": "db.people.insert_one({'n': 5, 'clientSecret': secret})",
    "insert_many": "db.people.insert_many([{'email': 'c'}, document])",
    "unordered": "db.people.insert_many([document, {**document, '_id': 1}], ordered=False)",
    "update_one": "db.people.update_one({'email': 'a'}, {'$set': document})",
    "find_one_and_update": "db.people.find_one_and_update({'email': 'a'}, {'$set': document})",
    "bulk_write": "db.people.bulk_write([InsertOne({'email': 'd'}), UpdateOne({'email': 'a'}, {'$set': document})])",
    "a validator": "db.strict.insert_one({'password': secret})",
    "a validator of many": "db.strict.insert_many([{'n': 1}, {'password': secret}])",
    "a message": "raise ValueError(f'not valid: {document}, Authorization: Bearer {secret}')",
    "a wrapped error": """
    try:
        db.people.insert_many([document])
    except Exception as exc:
        raise RuntimeError(f"failed: {exc}") from exc""",
    "a caught error": """
    try:
        db.people.insert_one({'_id': 3, 'password': secret})
    except Exception:
        pass
    raise LookupError("late")""",
    "a value that BSON does not know": "db.people.insert_one({**document, 'price': Decimal(1)})",
    "a backfill that the server rejects": "ctx.backfill('people', lambda found: {'$set': document})",
    "collected": """
    ctx.backfill('people', lambda found: {'$set': document}, on_error='collect')
    raise LookupError("late")""",
    "a backfill by a function that fails": """
    def change(found):
        raise ValueError(found, document)
    ctx.backfill('people', change, on_error='collect')
    ctx.backfill('people', change)""",
    "a backfill by threads": """
    def change(found):
        return {'$set': document}
    ctx.backfill('people', change, workers=2)""",
}


NAMES = {
    "default": {},
    "iban": dict.fromkeys(("password", "Token", "Secret", "Authorization"), "Iban"),
}
"""Names of hidden fields: the default ones, and what stands for them if MIGRATE_REDACT names another one."""


def prepare(project: Project, way: str, flags: str, names: dict[str, str]) -> None:
    """Write a migration that the server, or BSON, refuses; its fields have other names."""

    def named(source: str) -> str:
        for name, other in names.items():
            source = source.replace(name, other)
        return source

    people = project.db.people
    people.create_index("email", unique=True, sparse=True)
    people.create_index(named("password"), unique=True, sparse=True)
    people.create_index(["n", named("clientSecret")], unique=True, sparse=True)
    people.insert_many(
        [
            {"_id": 1, "email": "a"},
            {"_id": 2, "email": "b", named("password"): PLANTED},
            {"_id": 4, "n": 5, named("clientSecret"): PLANTED},
        ]
    )
    schema = {"required": ["n"], "properties": {named("password"): {"enum": ["other"]}}}
    project.db.create_collection("strict", validator={"$jsonSchema": schema})
    project.write("1_refused", named(f"{flags}\n{HEADER}    {WAYS[way].strip()}\n"))


def stored(project: Project) -> str:
    """Dump everything but the application's own documents."""
    names = set(project.db.list_collection_names()) - {"people", "strict"}
    return "".join(dumps(list(project.db[name].find())) for name in sorted(names))


def outputs(project: Project, settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Run and show everything in each interface, and yield what each says."""
    commands = (["up", "--dry-run"], ["up"], ["rehearse"], ["status"], ["history"], ["show", "1"])
    for command in (*commands, ["check"], ["plan"], ["status", "--check"]):
        for more in ([], ["--json"]):
            done = project.invoke(*command, *more, **settings)
            yield " ".join((*command, *more)), done.output + done.stderr
    client = project.app(**settings).test_client()
    runner = {"Authorization": f"Bearer {RUN}"}
    for path in ("/up?dryRun=true", "/up"):
        yield f"POST {path}", client.post(f"{ROOT}{path}", headers=runner).text
    started = client.post(f"{ROOT}/up", headers={**runner, "Prefer": "respond-async"})
    run = started.headers["Location"]
    until(lambda: client.get(run, headers=runner).get_json()["state"] == "failed")
    places = {path: f"{ROOT}{path}" for path in READS} | {"run": run, "run events": f"{run}/events"}
    for token in (READ, RUN):
        for name, path in places.items():
            answer = client.get(path, headers={"Authorization": f"Bearer {token}"})
            yield f"{token} {name}", answer.text
    app = project.app(**settings, MIGRATE_ON_START="always")
    yield "start", str(app.extensions["mongo_migrate"].startup_failure)
    yield "stored", stored(project)


@pytest.mark.parametrize(
    ("flags", "names"),
    [("", "iban"), ("transactional = True", "default")],
    ids=["plain", "transactional"],
)
@pytest.mark.parametrize("way", WAYS)
def test_a_secret_in_a_refused_document_is_in_no_output_no_record_and_no_log(
    project: Project, caplog: pytest.LogCaptureFixture, way: str, flags: str, names: str
) -> None:
    if "backfill" in WAYS[way]:
        flags = ""
    prepare(project, way, flags, NAMES[names])
    tokens = {READ: "read", RUN: "run"}
    settings: dict[str, Any] = {"PLANTED": PLANTED, "MIGRATE_API_TOKEN": tokens}
    if names != "default":
        settings["MIGRATE_REDACT"] = names
    caplog.set_level("DEBUG", "flask_migrate_mongo")
    found = dict(outputs(project, settings))
    found["log"] = caplog.text
    assert {where: text for where, text in found.items() if "hunter2" in text} == {}
    # Each has said something of it, and only who may run migrations sees how they failed.
    kind = project.record(1)["metadata"]["failure"]["type"]
    said = ("up", "up --json", "show 1", "start", "log", "stored", "POST /up")
    for where in (*said, f"{READ} /status", f"{READ} run", f"{RUN} run events"):
        assert kind in found[where], where
    # A dry run cannot leave out what the server refuses.
    assert ("leaves them out" if way == "collected" else "would fail") in found["up --dry-run"]
    assert found["rehearse"]
    shown = {where for where, text in found.items() if "Traceback" in text}
    # An event of a run is bounded, and has no long traceback.
    assert {f"{RUN} {path}" for path in ("/status", "/history", "run")} <= shown
    assert not {where for where in shown if where.startswith(READ)}
