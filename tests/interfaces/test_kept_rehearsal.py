"""The report that a rehearsal keeps, and who shows it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from flask_migrate_mongo.reports.words import took

from .test_dashboard import SCRIPT, dashboard, page_of, shown
from .test_rest import done, problem

if TYPE_CHECKING:
    from tests.html_pages import Element
    from tests.project import Project

KEPT = {"MIGRATE_REHEARSAL_REPORT": "rehearsal.json"}
GOOD, LEAVES = 1, 2


@pytest.fixture
def rehearsed(project: Project) -> Project:
    """A project with two migrations that were rehearsed: one undoes all, one leaves differences."""
    project.db.people.insert_many([{"_id": n, "name": f"p{n}"} for n in range(40)])
    project.write(
        f"{GOOD}_good",
        """
        def up(db):
            db.people.update_many({}, {"$set": {"active": True}})

        def down(db):
            db.people.update_many({}, {"$unset": {"active": ""}})
        """,
    )
    project.write(
        f"{LEAVES}_leaves",
        f"""
        def up(db):
            db.people.update_many({{}}, {{"$set": {{"name": {SCRIPT!r}}}}})

        def down(db):
            pass
        """,
    )
    assert project.invoke("rehearse", **KEPT).exit_code == 1
    return project


def details(project: Project, version: int, **settings: Any) -> dict[str, Any]:
    result = project.invoke("show", str(version), "--json", **settings)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_show_has_what_the_last_rehearsal_found(rehearsed: Project) -> None:
    report = json.loads((rehearsed.root / "rehearsal.json").read_text())
    for version, entry in zip((GOOD, LEAVES), report["migrations"], strict=True):
        found = details(rehearsed, version, **KEPT)
        assert found["rehearsal"] == {**entry, "rehearsedAt": report["rehearsedAt"]}
        assert found["rehearsedOtherwise"] is False
    text = rehearsed.invoke("show", str(LEAVES), **KEPT).stdout
    assert "  Result            a problem\n" in text
    assert "  down()            leaves 40 differences\n" in text
    assert "  down()            undoes up()\n" in rehearsed.invoke("show", str(GOOD), **KEPT).stdout


def test_a_file_that_changed_since_is_said(rehearsed: Project) -> None:
    path = next(rehearsed.migrations.glob(f"{GOOD}_*"))
    path.write_text(path.read_text().replace("True", "False"))
    assert details(rehearsed, GOOD, **KEPT)["rehearsedOtherwise"] is True
    assert (
        "the file has changed since the rehearsal" in rehearsed.invoke("show", "1", **KEPT).stdout
    )


def test_without_the_setting_or_the_file_or_the_version_there_is_none(rehearsed: Project) -> None:
    assert details(rehearsed, GOOD)["rehearsal"] is None
    other = {"MIGRATE_REHEARSAL_REPORT": "other.json"}
    assert details(rehearsed, GOOD, **other)["rehearsal"] is None
    rehearsed.write("3_later", "def up(db): db.later.drop()\ndef down(db): pass\n")
    found = details(rehearsed, 3, **KEPT)
    assert (found["rehearsal"], found["rehearsedOtherwise"]) == (None, False)
    rehearsed.invoke("rehearse")
    assert sorted(path.name for path in rehearsed.root.glob("*.json")) == ["rehearsal.json"]


def test_a_rehearsal_of_nothing_leaves_the_report_before_it(rehearsed: Project) -> None:
    kept = (rehearsed.root / "rehearsal.json").read_bytes()
    assert rehearsed.invoke("up").exit_code == 0
    assert rehearsed.invoke("rehearse", **KEPT).exit_code == 0
    assert (rehearsed.root / "rehearsal.json").read_bytes() == kept


@pytest.mark.parametrize("content", ["", "[]", '{"migrations": [{}]}', '{"migrations": 1}'])
def test_a_file_that_is_no_report_is_named(rehearsed: Project, content: str) -> None:
    (rehearsed.root / "rehearsal.json").write_text(content)
    refused = rehearsed.invoke("show", "1", **KEPT)
    assert refused.exit_code == 6
    assert f"{rehearsed.root / 'rehearsal.json'} is no report." in refused.stderr
    assert "flask db-migrate rehearse" in refused.stderr
    problem(dashboard(rehearsed, **KEPT)("GET", "/show/1"), 500, "configuration")


def test_a_report_that_cannot_be_read_says_why(rehearsed: Project) -> None:
    refused = rehearsed.invoke("show", "1", MIGRATE_REHEARSAL_REPORT=".")
    assert refused.exit_code == 6
    assert "cannot be read (Is a directory)." in refused.stderr


def test_a_report_that_cannot_be_kept_is_a_warning(rehearsed: Project) -> None:
    settings = {"MIGRATE_REHEARSAL_REPORT": "missing/rehearsal.json"}
    result = rehearsed.invoke("rehearse", str(GOOD), "--json", **settings)
    assert result.exit_code == 0, result.output
    (warning,) = json.loads(result.stdout)["warnings"]
    assert warning.endswith("missing/rehearsal.json: No such file or directory.")


def test_the_page_shows_the_figures_of_the_api(rehearsed: Project) -> None:
    api = dashboard(rehearsed, **KEPT)
    for version in (GOOD, LEAVES):
        found = done(api("GET", f"/show/{version}"))["rehearsal"]
        response = api("GET", f"/dashboard/migrations/{version}")
        section: Element = page_of(response).section("rehearsal")
        assert shown(found["rehearsedAt"]) in section.text
        assert ("failed" if found["failed"] else "succeeded") in section.text
        facts = section.facts()
        for name, call in (("up()", "up"), ("down()", "down"), ("up() again", "again")):
            assert facts[name] == took(found[call]["executionTime"])
        undone = "yes" if found["undoes"] else f"no: {found['differencesTotal']} differences"
        assert facts["Undone by down()"] == undone
        assert facts["Collections"] == ", ".join(found["collections"]) == "people"
        estimate = found["estimate"]
        assert facts["On all documents"] == (
            f"about {took(estimate['executionTime'])}, from {took(estimate['lowest'])} to "
            f"{took(estimate['highest'])}, for {estimate['documents']} documents"
        )
        differences = found["differences"]
        rows = section.rows() if differences else []
        assert len(rows) == len(differences) == (0 if version == GOOD else 5)
        for row, each in zip(rows, differences, strict=True):
            assert row == [" ".join(each[name].split()) for name in each]
        assert ("The first 5 of 40 differences" in section.text) is (version == LEAVES)
        assert SCRIPT not in response.text
    assert not page_of(dashboard(rehearsed)("GET", "/dashboard/migrations/1")).all(id="rehearsal")


def test_a_pipe_in_place_of_the_report_stays(project: Project) -> None:
    project.write_inserts(GOOD)
    pipe = project.root / "rehearsal.json"
    os.mkfifo(pipe)
    assert "could not be kept" in project.invoke("rehearse", **KEPT).output
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    "text", ['{"migrations": [{"version": "1"}], "rehearsedAt": "2026"}', "[" * 200_000]
)
def test_the_report_of_another_program_is_no_report(project: Project, text: str) -> None:
    project.write_inserts(GOOD)
    (project.root / "rehearsal.json").write_text(text)
    shown = project.invoke("show", str(GOOD), **KEPT)
    assert shown.exit_code == 6
    assert "is no report" in shown.output
