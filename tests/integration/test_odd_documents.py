"""Documents that MongoDB holds and Python cannot, values that BSON lacks, and fields with dots in their names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from pymongo.errors import OperationFailure

from tests.integration.test_backfill import VERSION, counts, up, write

if TYPE_CHECKING:
    from pymongo.collection import Collection

    from tests.project import Project

FUTURE, PAST = DatetimeMS(8_640_000_000_000_000), DatetimeMS(-62_282_865_600_000)
"""Dates of the years 275760 and -5."""


ODD: dict[int, Any] = {
    3: {"_id": 3, "n": 0, "at": FUTURE},
    7: {"_id": 7, "n": 0, "deep": [{"at": PAST}]},
}


def readable(people: Collection[Any]) -> Collection[Any]:
    """Return a handle that reads every document."""
    options = people.codec_options.with_options(
        datetime_conversion=DatetimeConversion.DATETIME_AUTO
    )
    return people.with_options(codec_options=options)


def insert(project: Project) -> Collection[Any]:
    """Insert 20 documents, two of which Python cannot hold."""
    people = project.db.people
    people.insert_many([ODD.get(n, {"_id": n, "n": 0}) for n in range(20)])
    return readable(people)


def unchanged(people: Collection[Any]) -> list[object]:
    return [document["_id"] for document in people.find({"n": 0}).sort("_id", 1)]


ADD_ONE = 'lambda doc: {"$set": {"n": doc["n"] + 1}}'


# --- backfills


@pytest.mark.parametrize("more", ["", ", workers=3", ', where={"n": 0}'])
def test_documents_that_python_cannot_decode_are_collected_and_the_others_changed(
    project: Project, more: str
) -> None:
    people = insert(project)
    write(project, f'backfill("people", {ADD_ONE}, batch_size=4, on_error="collect"{more})')
    up(project)
    assert unchanged(people) == [3, 7]
    assert counts(project)["rejected"] == 2
    kept = project.record(VERSION)["metadata"]["rejected"]["0"]["documents"]
    assert {each["_id"]: each["error"].partition(":")[0] for each in kept} == dict.fromkeys(
        (3, 7), "InvalidBSON"
    )


@pytest.mark.parametrize("id_", ODD)
def test_a_document_that_python_cannot_decode_is_named(project: Project, id_: int) -> None:
    project.db.people.insert_many([{"_id": 1, "n": 0}, ODD[id_]])
    write(project, f'backfill("people", {ADD_ONE}, batch_size=1)')
    (outcome,) = project.runner().up().failures
    assert outcome.error is not None
    assert outcome.error.type == "RejectedError"
    assert outcome.error.message.startswith(
        f"The driver cannot decode the document with _id {id_}: InvalidBSON: "
    )
    assert "The batches before it are kept." in outcome.error.message
    assert unchanged(readable(project.db.people)) == [id_]


@pytest.mark.parametrize("change", ['{"$inc": {"n": 1}}', '[{"$set": {"n": {"$add": ["$n", 1]}}}]'])
@pytest.mark.parametrize("more", ["", ", workers=3", ', where={"at": {"$ne": 1}}'])
def test_an_update_and_a_pipeline_need_no_decoding(
    project: Project, change: str, more: str
) -> None:
    people = insert(project)
    write(project, f'backfill("people", {change}, batch_size=4{more})')
    up(project)
    assert unchanged(people) == []
    assert counts(project)["modified"] == 20


def test_a_rejected_document_can_have_an_id_that_python_cannot_decode(project: Project) -> None:
    try:
        project.db.people.insert_many([{"_id": PAST, "n": 0}, {"_id": FUTURE, "n": 0}])
    except OperationFailure:
        pytest.skip("the server of the tests lacks such dates in indexes")
    change = 'lambda doc: {"$set": {"n": 1}}'
    write(project, f'backfill("people", {change}, on_error="collect", batch_size=1)')
    up(project)
    assert counts(project)["rejected"] == 2
    exact = CodecOptions[dict[str, Any]](datetime_conversion=DatetimeConversion.DATETIME_MS)
    record = project.db.migrations.with_options(codec_options=exact).find_one({})
    assert record is not None
    kept = record["metadata"]["rejected"]["0"]["documents"]
    assert [each["_id"] for each in kept] == [PAST, FUTURE]
    for command in (["status"], ["history"], ["show", str(VERSION)], ["doctor"], ["up"]):
        assert project.invoke(*command).exit_code == 0, command


# What a function returns for the document 5, and what is said of it.
UNKNOWN = {
    "a Decimal": ("decimal.Decimal(1)", "BSON cannot hold the update of", "InvalidDocument: "),
    "a long int": ("2 ** 63", "BSON cannot hold the update of", "OverflowError: "),
    "a set": ("{1}", "BSON cannot hold the update of", "InvalidDocument: "),
    "half a character": (r"'\ud800'", "BSON cannot hold the update of", "UnicodeEncodeError: "),
    "a UUID": ("uuid.UUID(int=1)", "BSON cannot hold the update of", "ValueError: "),
    "more than a message": ("'x' * 50_000_000", "The server refused", "update"),
}


@pytest.mark.parametrize("on_error", ["stop", "collect"])
@pytest.mark.parametrize("form", ["{}", "[{}]"], ids=["update", "pipeline"])
@pytest.mark.parametrize("value", UNKNOWN)
def test_a_value_that_bson_lacks_is_like_a_document_that_the_server_rejects(
    project: Project, value: str, form: str, on_error: str
) -> None:
    source, said, kind = UNKNOWN[value]
    project.db.people.insert_many([{"_id": n, "n": 0} for n in range(20)])
    update = f'{{"$set": {{"n": {source} if doc["_id"] in {{5, 6}} else 1}}}}'
    change = f"lambda doc: {form.format(update)}"
    call = f'backfill("people", {change}, batch_size=4, on_error="{on_error}")'
    write(project, call, head="import decimal\nimport uuid")
    report = project.runner().up()
    if on_error == "stop":
        (outcome,) = report.failures
        assert outcome.error is not None
        assert outcome.error.message.startswith(f"{said} the document with _id 5: {kind}")
        assert unchanged(project.db.people)[0] in {4, 5}
    else:
        assert report.failures == ()
        assert unchanged(project.db.people) == [5, 6]
        assert (counts(project)["rejected"], counts(project)["modified"]) == (2, 18)


# --- dry runs and rehearsals


@pytest.mark.parametrize(
    "change",
    [
        'db.people.update_many({}, {"$inc": {"n": 1}})',
        'db.people.update_one({"_id": 3}, {"$inc": {"n": 1}})',
        "db.people.delete_many({})",
        'db.people.insert_one({"_id": 100, "at": FUTURE})',
        'db.people.update_one({"_id": 100}, {"$set": {"at": FUTURE}}, upsert=True)',
        'ctx.backfill("people", {"$inc": {"n": 1}})',
        'ctx.backfill("people", lambda doc: {"$set": {"n": 1}}, on_error="collect")',
    ],
)
def test_a_dry_run_and_a_rehearsal_show_documents_that_python_cannot_decode(
    project: Project, change: str
) -> None:
    people = project.db.people
    people.insert_many(list(ODD.values()))
    source = f"""
    from bson.datetime_ms import DatetimeMS
    FUTURE = DatetimeMS({int(FUTURE)})

    def up(db, ctx):
        {change}

    def down(db):
        db.people.update_many({{}}, {{"$set": {{"undone": FUTURE}}}})
    """
    project.write("1_odd", source)
    for command in (["up", "--dry-run", "--samples", "20"], ["rehearse"]):
        for more in ([], ["--json"]):
            done = project.invoke(*command, *more)
            assert "InvalidBSON" not in done.output + done.stderr
            assert "codec can't decode" not in done.output + done.stderr
            assert done.exception is None or isinstance(done.exception, SystemExit)
            failed = command[0] == "rehearse"  # down() does not reverse up().
            assert done.exit_code == int(failed), done.output + done.stderr
    assert project.invoke("up").exit_code == 0


def test_a_dry_run_collects_what_bson_cannot_hold(project: Project) -> None:
    project.db.people.insert_many([{"_id": n, "n": 0} for n in range(5)])
    change = 'lambda doc: {"$set": {"n": 2 ** 70 if doc["_id"] == 3 else 1}}'
    write(project, f'backfill("people", {change}, on_error="collect")')
    (outcome,) = project.dry_runner().up().outcomes
    assert outcome.trial is not None
    assert outcome.error is None
    assert outcome.trial.effects["people"].modified == 4


def test_paths_in_a_dry_run_show_dots_in_names(project: Project) -> None:
    project.db.items.insert_one({"_id": 1, "usb.speed": 1, "a": {"b.c": 1}})
    project.write(
        "1_dots",
        """
        def up(db):
            db.items.replace_one({"_id": 1}, {"usb": {"speed": 1}, "a": {"b": {"c": 1}}})
        """,
    )
    (outcome,) = project.dry_runner().up().outcomes
    assert outcome.trial is not None
    (sample,) = outcome.trial.samples
    assert sample.before == {'"usb.speed"': 1, 'a."b.c"': 1}
    assert sample.after == {"usb.speed": 1, "a.b.c": 1}
    lines = [line.strip() for line in project.invoke("up", "--dry-run").stdout.splitlines()]
    for shown in ('- "usb.speed": 1', '- a."b.c": 1', "+ usb.speed: 1", "+ a.b.c: 1"):
        assert shown in lines
    (step,) = json.loads(project.invoke("up", "--dry-run", "--json").stdout)["steps"]
    assert step["samples"][0]["before"] == {'"usb.speed"': 1, 'a."b.c"': 1}
