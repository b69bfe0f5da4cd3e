"""What the page of the schema says of indexes while they are built, and of search indexes."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flask_migrate_mongo.schema import Collection, Index, SearchIndex
from tests.integration.test_definitions import BUILDS, MANY, building, fill, hang
from tests.integration.test_schema_search import BOTH, TEXT, atlas, searched
from tests.waiting import until

from .test_dashboard import dashboard, page_of, search_facts, search_facts_of
from .test_rest import done

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.html_pages import Element
    from tests.project import Project

__all__ = ["atlas", "hang", "searched"]  # Fixtures.

MODULE = "declared_for_the_page"


def looked_at(
    project: Project, monkeypatch: pytest.MonkeyPatch, declared: Collection
) -> tuple[dict[str, Any], Element]:
    """Ask the API for the only collection, and read its part of the page."""
    module = ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)
    vars(module)["collections"] = [declared]
    api = dashboard(project, MIGRATE_SCHEMA=f"{MODULE}:collections")
    found: dict[str, Any] = done(api("GET", "/schema?inventory=true"))["inventory"][0]
    return found, page_of(api("GET", "/dashboard/schema")).section("collection-1")


def test_a_build_shows_how_far_it_is(
    project: Project, hang: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(project)
    project.write("1_builds", BUILDS)
    with project.spawn("up") as run:
        until(lambda: building(project))
        declared = Collection("people", [Index("name", unique=True)])
        found, section = looked_at(project, monkeypatch, declared)
        hang("off")
        run.communicate(timeout=30)
    index = next(each for each in found["indexes"] if each["name"] == "name_1")
    assert (index["agreement"], index["scanned"], index["toScan"]) == ("building", 0, MANY)
    row = next(row for row in section.rows() if row[0].startswith("name_1"))
    assert row[1].endswith(f"building 0 of {MANY} documents, 0%")
    found, section = looked_at(project, monkeypatch, declared)
    assert {(each["scanned"], each["toScan"]) for each in found["indexes"]} == {(None, None)}
    assert "documents" not in section.text


def test_search_indexes_are_shown_with_what_the_server_says_of_them(
    searched: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = Collection("films", search_indexes=[*BOTH, SearchIndex(TEXT, name="later")])
    searched.write(
        "1_search",
        f"def up(db, ctx):\n"
        f"    ctx.create_search_index('films', {TEXT!r})\n"
        f"    ctx.create_search_index('films', {{'mappings': {{'dynamic': True}}}}, name='later')\n"
        f"    ctx.create_search_index('films', {TEXT!r}, name='extra')\n",
    )
    assert not searched.runner().up().failures
    found, section = looked_at(searched, monkeypatch, declared)
    listed = found["searchIndexes"]
    assert {each["name"]: each["agreement"] for each in listed} == {
        "default": "same",
        "plots": "missing",
        "later": "different",
        "extra": "undeclared",
    }
    assert (listed[0]["status"], listed[0]["queryable"]) == ("READY", True)
    (_, table) = section.all("table")
    assert list(map(search_facts, table.rows())) == list(map(search_facts_of, listed))
