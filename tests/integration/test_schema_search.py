"""Search and vector indexes: declared, compared, dumped and written, on a server that has them."""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from pymongo import MongoClient
from pymongo.operations import SearchIndexModel

from flask_migrate_mongo.model.errors import SchemaAccessError
from flask_migrate_mongo.schema import Collection, Index, SearchIndex
from flask_migrate_mongo.schema.comparison import SchemaDiff, compare
from flask_migrate_mongo.schema.dumping import dump
from flask_migrate_mongo.schema.live import SchemaReader
from tests.project import Project
from tests.sent import Sent
from tests.server import mongod
from tests.server.launcher import TestServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

    Document = dict[str, Any]

MODULE = "declared_for_search"
TEXT: Document = {"mappings": {"fields": {"title": {"type": "string"}}}}
VECTORS: Document = {
    "fields": [
        {"type": "vector", "path": "plot", "numDimensions": 8, "similarity": "cosine"},
        {"type": "filter", "path": "year"},
    ]
}
BOTH = [
    SearchIndex(TEXT, why="the search box"),
    SearchIndex(VECTORS, name="plots", kind="vectorSearch"),
]


@pytest.fixture(scope="module")
def atlas() -> Iterator[TestServer]:
    if mongod.executable():
        pytest.skip("a mongod has no search indexes")
    with TestServer(newer=True) as server:
        yield server


@pytest.fixture
def searched(
    atlas: TestServer, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Project]:
    """A project on a server with search indexes, with the collection `films`."""
    name = f"s{abs(hash(request.node.name)) % 10**9}"
    uri = atlas.uri.replace("/?", f"/{name}?")
    with MongoClient[Any](uri) as client:
        client[name].create_collection("films")
        yield Project(tmp_path_factory.mktemp("searched"), client[name], uri)


class Invoke(Protocol):
    """Runs a command with these declarations."""

    def __call__(self, *args: str, declared: Collection) -> Result: ...


@pytest.fixture
def invoke(project: Project, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    return _invoking(project, monkeypatch)


@pytest.fixture
def invoke_searched(searched: Project, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    return _invoking(searched, monkeypatch)


def _invoking(project: Project, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    module = ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)

    def run(*args: str, declared: Collection) -> Result:
        vars(module)["collections"] = [declared]
        return project.invoke(*args, MIGRATE_SCHEMA=f"{MODULE}:collections")

    return run


def difference(project: Project, declared: Collection) -> SchemaDiff:
    live = [each for each in SchemaReader(project.db).read() if each.name == declared.name]
    return compare([declared], live)


def succeeds(project: Project, *args: str) -> None:
    result = project.invoke(*args)
    assert result.exit_code == 0, result.output


def test_declared_search_indexes_are_built_changed_and_dropped(
    searched: Project, invoke_searched: Invoke
) -> None:
    declared = Collection("films", search_indexes=BOTH)
    result = invoke_searched("schema", "diff", declared=declared)
    assert result.exit_code == 4
    assert result.stdout.splitlines()[1:3] == [
        "missing    films default: The search index does not exist. Queries that need it find nothing. It is for: the search box.",
        "missing    films plots: The search index does not exist. Queries that need it find nothing.",
    ]
    assert invoke_searched("create", "--from-schema", "a", declared=declared).exit_code == 0
    succeeds(searched, "up")
    # What the server adds to a definition is no difference.
    assert difference(searched, declared).found == ()

    changed = Collection("films", search_indexes=[SearchIndex({"mappings": {"dynamic": True}})])
    diff = difference(searched, changed)
    assert [(each.kind.value, each.index_name) for each in diff.found] == [
        ("other-search-index", "default"),
        ("undeclared-search-index", "plots"),
    ]
    assert invoke_searched("create", "--from-schema", "b", declared=changed).exit_code == 0
    succeeds(searched, "up")
    assert difference(searched, changed).differences == ()
    succeeds(searched, "down", "--steps", "1")
    assert difference(searched, declared).found == ()
    succeeds(searched, "down", "--steps", "1")
    assert list(searched.db.films.list_search_indexes()) == []
    # The names are free at once.
    succeeds(searched, "up")
    assert difference(searched, changed).differences == ()


def test_a_diff_right_after_a_dump_of_search_indexes_is_empty(searched: Project) -> None:
    films = searched.db.films
    films.create_search_index(
        SearchIndexModel({"mappings": {"dynamic": True}, "storedSource": True})
    )
    films.create_search_index(SearchIndexModel(VECTORS, "plots", "vectorSearch"))
    live = [each for each in SchemaReader(searched.db).read() if each.name == "films"]
    names: Document = {}
    source = dump(live, "A test.")
    exec(source, names)
    assert 'name="plots"' in source
    diff = compare(names["collections"], live)
    assert {each.kind.value for each in diff.found} == {"unready-search-index"}


def test_a_search_index_that_is_being_built_is_a_difference(
    searched: Project, invoke_searched: Invoke
) -> None:
    searched.db.films.create_search_index(SearchIndexModel(TEXT))
    declared = Collection("films", search_indexes=[SearchIndex(TEXT)])
    result = invoke_searched("schema", "diff", declared=declared)
    assert result.exit_code == 4
    assert (
        "building   films default: The search index cannot be used yet: it is BUILDING."
        in result.stdout
    )
    # There is nothing to do but to wait.
    result = invoke_searched("create", "--from-schema", "x", declared=declared)
    assert "Nothing was written" in result.stdout


def test_another_kind_is_built_under_another_name(
    searched: Project, invoke_searched: Invoke
) -> None:
    searched.db.films.create_search_index(SearchIndexModel(TEXT))
    declared = Collection("films", search_indexes=[SearchIndex(VECTORS, kind="vectorSearch")])
    assert (
        "declare it under another name"
        in invoke_searched("schema", "diff", declared=declared).stdout
    )
    invoke_searched("create", "--from-schema", "x", declared=declared)
    (path,) = searched.migrations.glob("*.py")
    assert "raise NotImplementedError" in path.read_text()


def test_an_undeclared_search_index_is_a_note_that_counts_with_strict(
    searched: Project, invoke_searched: Invoke
) -> None:
    searched.db.films.create_search_index(SearchIndexModel(TEXT))
    declared = Collection("films")
    assert invoke_searched("schema", "diff", declared=declared).exit_code == 0
    result = invoke_searched("schema", "diff", "--strict", declared=declared)
    assert result.exit_code == 4
    assert "note       films default: The search index is not declared." in result.stdout


def test_a_new_collection_gets_its_search_indexes(
    searched: Project, invoke_searched: Invoke
) -> None:
    declared = Collection("books", [Index("isbn")], search_indexes=[SearchIndex(TEXT)])
    invoke_searched("create", "--from-schema", "x", declared=declared)
    succeeds(searched, "up")
    assert difference(searched, declared).found == ()


def test_a_server_without_search_indexes_compares_the_rest_and_says_so(
    project: Project, invoke: Invoke
) -> None:
    project.db.create_collection("films")
    declared = Collection("films", search_indexes=BOTH)
    result = invoke("schema", "diff", declared=declared)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1] == (
        "note       films: The server has no search indexes, so 2 declared ones were not compared."
    )
    result = invoke("create", "--from-schema", "x", "--json", declared=declared)
    assert json.loads(result.stdout)["paths"] == []


def test_a_refused_right_is_no_server_without_search_indexes(searched: Project) -> None:
    admin = searched.db.client.admin
    data = {"failCommands": ["aggregate"], "errorCode": 13}
    admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)
    with pytest.raises(SchemaAccessError, match=r"\$listSearchIndexes of .*\.films"):
        SchemaReader(searched.db).read()


@pytest.mark.parametrize("code", [31082, 6047401, 8000, 323])
def test_a_server_without_search_indexes_is_asked_once(searched: Project, code: int) -> None:
    searched.db.create_collection("more")
    admin, sent = searched.db.client.admin, Sent()
    data = {"failCommands": ["aggregate"], "errorCode": code}
    with MongoClient[Any](searched.uri, event_listeners=[sent]) as client:
        admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)
        live = SchemaReader(client[searched.db.name]).read()
    assert [each.search_indexes for each in live] == [None, None]
    assert sent.names().count("aggregate") == 1


def test_a_server_with_search_indexes_takes_one_more_command_a_collection(
    searched: Project,
) -> None:
    searched.db.create_collection("more")
    sent = Sent()
    with MongoClient[Any](searched.uri, event_listeners=[sent]) as client:
        assert len(SchemaReader(client[searched.db.name]).read()) == 2
    assert sent.names()[:-1] == ["listCollections", *["listIndexes", "aggregate"] * 2]
