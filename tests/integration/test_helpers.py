"""Helpers that migrations share: `from ._helpers import total`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from flask_migrate_mongo.model.errors import ImportFailedError
from tests.project import Project

if TYPE_CHECKING:
    from pathlib import Path

VERSION = 20261127001
USES = """
from ._helpers import greeting

def up(db):
    db.done.insert_one({"says": greeting()})

def down(db):
    from . import _helpers
    db.done.insert_one({"says": _helpers.greeting()})

def verify(db):
    return db.done.count_documents({"says": greeting()}) > 0
"""


def says(project: Project, text: str) -> None:
    project.write("_helpers", f"def greeting():\n    return {text!r}\n")


def said(project: Project) -> list[str]:
    return [document["says"] for document in project.db.done.find()]


@pytest.mark.parametrize("head", ["", "transactional = True"])
def test_a_migration_imports_from_a_file_beside_it(project: Project, head: str) -> None:
    says(project, "hello")
    project.write(f"{VERSION}_uses", head + USES)
    assert [f.version for f in project.runner().folder.discover().usable()] == [VERSION]
    assert project.runner().up().failure is None
    assert project.runner().down().failure is None
    assert said(project) == ["hello", "hello"]
    assert project.dry_runner().up().failure is None
    project.db.done.insert_one({"says": "hello"})
    assert project.invoke("baseline", "--reason", "a test").exit_code == 0


def test_a_helper_may_be_a_package_and_import_another_helper(project: Project) -> None:
    (project.migrations / "_shared").mkdir()
    (project.migrations / "_shared" / "words.py").write_text("from .._helpers import greeting\n")
    says(project, "hello")
    project.write(f"{VERSION}_uses", USES.replace("._helpers", "._shared.words"))
    assert project.runner().up().failure is None
    assert said(project) == ["hello"]


def test_each_run_of_a_process_reads_the_helpers_again(project: Project) -> None:
    project.write(f"{VERSION}_uses", USES)
    for text in ("one", "and two", "finally three"):
        says(project, text)
        assert project.runner().redo(VERSION).failure is None
    assert said(project) == ["one", *("and two",) * 2, *("finally three",) * 2]


def test_applications_with_the_same_names_in_one_process_do_not_mix(
    project: Project, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Project(tmp_path / "other", project.db.client[f"{project.db.name}_other"], project.uri)
    for each, text in ((project, "this"), (other, "that")):
        says(each, text)
        each.write(f"{VERSION}_uses", USES)
    try:
        for each in (project, other, project, other):
            assert each.runner().redo(VERSION).failure is None
        assert {*said(project)} == {"this"}
        assert {*said(other)} == {"that"}
    finally:
        other.db.client.drop_database(other.db.name)


def test_a_change_of_a_helper_is_no_change_of_the_migrations_that_use_it(project: Project) -> None:
    says(project, "hello")
    project.write(f"{VERSION}_uses", USES)
    project.runner().up()
    says(project, "good-bye")
    assert project.runner().status().survey.applied[0].drifted is False


def test_a_helper_that_is_missing_fails_before_anything_runs(project: Project) -> None:
    project.write_inserts(VERSION - 1)
    project.write(f"{VERSION}_uses", USES)
    with pytest.raises(ImportFailedError, match="_helpers"):
        project.runner().up()
    assert project.db.done.count_documents({}) == 0


def test_no_module_of_a_folder_is_left_under_a_name_of_its_own(project: Project) -> None:
    says(project, "hello")
    project.write(f"{VERSION}_uses", USES)
    before = set(sys.modules)
    project.runner().up()
    added = {
        name for name in set(sys.modules) - before if "helpers" in name or str(VERSION) in name
    }
    assert {name.partition(".")[0] for name in added} == {"flask_migrate_mongo"}
