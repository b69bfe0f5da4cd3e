"""Documents of mongoengine, whose first use sends createIndexes, in transactional migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flask_migrate_mongo.model.reports import StepState, Verdict

if TYPE_CHECKING:
    from tests.project import Project

MIGRATION = """
import mongoengine

transactional = True


class Person(mongoengine.Document):
    email = mongoengine.StringField(unique=True)
    meta = {"collection": "people"}


def up(db):
    db.create_collection("badges")
    db.badges.create_index("number", unique=True)
    db.badges.insert_one({"number": 1})
    mongoengine.connect(db.name, uuidRepresentation="standard", mongo_client_class=lambda *_, **__: db.client)
    try:
        Person(email="ada@example.org").save()
    finally:
        # Not `disconnect()`, which would close the application's client.
        mongoengine.connection._connections.clear()
        mongoengine.connection._connection_settings.clear()
        mongoengine.connection._dbs.clear()


def down(db):
    db.people.delete_many({})
    db.badges.delete_many({})
"""


@pytest.mark.parametrize("exists", [False, True], ids=["a new collection", "with its index"])
def test_a_transactional_migration_saves_a_document(project: Project, *, exists: bool) -> None:
    if exists:
        project.db.people.create_index("email", unique=True, name="email_1")
        project.db.people.insert_one({"email": "eve@example.org", "_cls": "Person"})
    project.write("1_people", MIGRATION)
    (trial,) = project.dry_runner().up().outcomes
    assert trial.error is None, trial.error
    assert trial.trial is not None
    assert trial.trial.verdict is Verdict.SUCCEEDS
    assert "badges" not in project.db.list_collection_names()
    (outcome,) = project.runner().up().outcomes
    assert outcome.state is StepState.APPLIED
    assert project.db.badges.index_information()["number_1"]["unique"]
    assert project.db.people.count_documents({}) == 1 + exists
