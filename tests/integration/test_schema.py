"""The declared schema and the live database: `schema dump` and `schema diff` on a real server."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import textwrap
import uuid
from collections import Counter
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import mongoengine
import mongomock
import pytest
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from pymongo import IndexModel, MongoClient
from pymongo.errors import OperationFailure

from flask_migrate_mongo.model.errors import ConnectionFailedError, SchemaAccessError
from flask_migrate_mongo.schema import Collection, Index, from_mongoengine, json_schema
from flask_migrate_mongo.schema.comparison import DifferenceKind, compare
from flask_migrate_mongo.schema.dumping import dump
from flask_migrate_mongo.schema.live import LiveCollection, LiveIndex, SchemaReader
from flask_migrate_mongo.schema.search import LiveSearchIndex
from tests.sent import Sent
from tests.server.launcher import TestServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result
    from pymongo.database import Database

    from tests.conftest import Failpoint
    from tests.project import Project

    Document = dict[str, Any]

RUFF = Path(sys.executable).with_name("ruff")
HEAD = "from datetime import timedelta\nfrom flask_migrate_mongo.schema import Collection, Index\n"


class Diff(Protocol):
    """Runs `schema diff` with these declarations."""

    def __call__(self, declarations: str, *options: str, **settings: object) -> Result: ...


@pytest.fixture
def diff(project: Project, monkeypatch: pytest.MonkeyPatch) -> Diff:
    monkeypatch.syspath_prepend(project.root)

    def run(declarations: str, *options: str, **settings: object) -> Result:
        name = f"schema_{uuid.uuid4().hex}"
        source = HEAD + textwrap.dedent(declarations)
        (project.root / f"{name}.py").write_text(source, encoding="utf-8")
        given: Document = {"MIGRATE_SCHEMA": f"{name}:collections", **settings}
        return project.invoke("schema", "diff", *options, **given)

    return run


def found_in(result: Result) -> list[tuple[str, str, str | None]]:
    document = json.loads(result.stdout)
    found = document["differences"] + document["notes"]
    return [(each["kind"], each["collection"], each["index"]) for each in found]


def code(result: Result) -> str:
    found: str = json.loads(result.stdout)["code"]
    return found


# --- what is compared


def test_a_diff_right_after_a_dump_finds_nothing(project: Project) -> None:
    project.write_inserts(1)
    assert project.run("up").returncode == 0
    project.db.create_collection("caps", capped=True, size=4096)
    project.db.orders.create_index([("customer", 1), ("at", -1)])
    project.db.orders.create_index(
        "email", unique=True, partialFilterExpression={"email": {"$gt": ""}}
    )
    project.db.orders.create_index("seen", expireAfterSeconds=86_400, hidden=True)
    project.db.command(
        "collMod", "caps", validator={"$jsonSchema": {"required": ["a"]}}, validationAction="warn"
    )
    dumped = project.run("schema", "dump", "--output", "shop_schema.py")
    assert (dumped.returncode, dumped.stdout) == (0, "shop_schema.py\n"), dumped.stderr
    assert project.run("schema", "dump").stdout == (project.root / "shop_schema.py").read_text()
    diff = project.run("schema", "diff", MIGRATE_SCHEMA="shop_schema:collections")
    assert (diff.returncode, project.result(diff.stdout)) == (
        0,
        "0 differences, 0 notes. Compared 3 declared collections with 3 indexes.\n",
    ), diff.stderr


def test_what_is_missing_and_what_differs_is_a_line_each_and_exits_with_4(
    project: Project, diff: Diff
) -> None:
    project.db.orders.create_index("email")
    project.db.orders.create_index("seen", expireAfterSeconds=60)
    declarations = """
        collections = [
            Collection("orders", [
                Index("email", unique=True),
                Index("seen", expire_after=timedelta(seconds=30)),
                Index("customer", why="the order page"),
            ], validator={"a": 1}),
            Collection("users"),
        ]
    """
    result = diff(declarations)
    assert result.exit_code == 4
    assert project.result(result.stdout).splitlines() == [
        'different  orders: validator is declared as {"a": 1} and is not set. collMod changes it. Documents that are stored already are not checked.',
        "different  orders email_1: Another index is in its place. unique is declared as true and is not set. Build it beside the live one, under another name, then drop the live one.",
        "different  orders seen_1: expireAfterSeconds is declared as 30 and is 60. collMod changes it. Documents that are older are then deleted at once.",
        "missing    orders customer_1: The index does not exist. Queries that need it scan the collection. It is for: the order page.",
        "missing    users: The collection does not exist.",
        "5 differences, 0 notes. Compared 2 declared collections with 3 indexes.",
    ]
    as_json = diff(declarations, "--json")
    assert as_json.exit_code == 4
    assert found_in(as_json) == [
        ("collection-option", "orders", None),
        ("other-index", "orders", "email_1"),
        ("index-option", "orders", "seen_1"),
        ("missing-index", "orders", "customer_1"),
        ("missing-collection", "users", None),
    ]


def test_what_nobody_declared_fails_only_if_it_is_asked_for(project: Project, diff: Diff) -> None:
    project.db.orders.create_index("a")
    project.db.logs.insert_one({})
    declarations = 'collections = [Collection("orders")]'
    result = diff(declarations, "--json")
    assert result.exit_code == 0
    assert found_in(result) == [
        ("undeclared-index", "orders", "a_1"),
        ("undeclared-collection", "logs", None),
    ]
    note = json.loads(result.stdout)["notes"][0]
    assert (note["size"], note["accesses"]) == (0, 0)
    assert diff(declarations, "--strict").exit_code == 4
    named = 'collections = [Collection("orders", [Index("a", name="x")]), Collection("logs")]'
    assert diff(named, "--strict").exit_code == 0


def test_views_system_collections_our_own_and_other_databases_are_left_out(
    project: Project, diff: Diff, admin: MongoClient[Document]
) -> None:
    project.write_inserts(1)
    assert project.invoke("up").exit_code == 0
    project.db.command("create", "recent", viewOn="done", pipeline=[])
    project.db.create_collection("series", timeseries={"timeField": "at"})
    for name in ("system.js", "enxcol_.done.esc"):
        project.db[name].insert_one({})
    other = admin[f"{project.db.name}_other"]
    other.things.create_index("a")
    try:
        declarations = """
            collections = [
                Collection("done"),
                Collection("series", options={"timeseries": {"timeField": "at"}}),
            ]
        """
        assert found_in(diff(declarations, "--json")) == []
        names = [each.name for each in SchemaReader(project.db).read()]
        assert {"migrations", "recent"} <= set(names)
        assert [name for name in names if name.startswith(("system.", "enxcol_."))] == []
        dumped = project.invoke("schema", "dump").stdout
        assert "migration" not in dumped.replace("flask_migrate_mongo", "")
        assert "recent" not in dumped
    finally:
        admin.drop_database(other.name)


def test_a_function_may_make_the_declarations(project: Project, diff: Diff) -> None:
    project.db.orders.insert_one({})
    result = diff('def collections():\n    yield Collection("orders")\n')
    assert result.exit_code == 0, result.stderr


# --- what cannot be compared


@pytest.mark.parametrize(
    ("declarations", "error"),
    [
        ("collections = []", "no-schema"),
        ("collections = None", "bad-schema"),
        ('collections = ["orders"]', "bad-schema"),
        ('collections = [Collection("a"), Collection("a")]', "bad-schema"),
        ("others = []", "bad-schema"),
        ('collections = [Collection("a", [Index("a"), Index("a", hidden=True)])]', "bad-schema"),
        ("raise OSError('mongodb://u:secret@h/')", "bad-schema"),
    ],
)
def test_a_comparison_of_nothing_is_an_error_and_no_success(
    diff: Diff, declarations: str, error: str
) -> None:
    result = diff(declarations, "--json")
    assert (result.exit_code, code(result)) == (6, error)
    assert "secret" not in result.stdout


def test_without_the_setting_and_without_a_server_nothing_is_compared(
    project: Project, diff: Diff
) -> None:
    result = project.invoke("schema", "diff", "--json")
    assert (result.exit_code, code(result)) == (6, "no-schema")
    assert "flask db-migrate schema dump" in json.loads(result.stdout)["detail"]
    app = project.app(mongomock.MongoClient().shop)
    result = app.test_cli_runner().invoke(args=["db-migrate", "schema", "dump"])
    assert result.exit_code == 6
    assert "mongomock" in result.stderr


def test_a_dump_never_overwrites_a_file(project: Project) -> None:
    path = project.root / "there.py"
    path.write_text("# mine", encoding="utf-8")
    result = project.invoke("schema", "dump", "--output", str(path))
    assert result.exit_code == 5
    assert path.read_text() == "# mine"
    assert "exists already" in result.stderr


# --- rights


@pytest.fixture(scope="module")
def guarded() -> Iterator[TestServer]:
    """A server with users who may do different things."""
    roles = {
        "stranger": [("read", "other")],
        "writer": [("readWrite", "shop")],
        "watcher": [("readWrite", "shop"), ("clusterMonitor", "admin")],
    }
    with TestServer(durable=True) as server:
        with MongoClient[Any](server.uri) as client:
            client.shop.orders.create_index("a")
            client.shop.users.create_index("b")
            for name, given_roles in roles.items():
                bound = [{"role": role, "db": where} for role, where in given_roles]
                client.admin.command("createUser", name, pwd="secret", roles=bound)
        server.require_auth()
        yield server


@pytest.fixture
def as_user(guarded: TestServer) -> Iterator[Callable[[str], tuple[SchemaReader, Sent]]]:
    clients: list[MongoClient[Document]] = []

    def reader(name: str) -> tuple[SchemaReader, Sent]:
        sent = Sent()
        uri = f"mongodb://{name}:secret@127.0.0.1:{guarded.port}/?authSource=admin"
        clients.append(MongoClient(uri, event_listeners=[sent]))
        return SchemaReader(clients[-1].shop), sent

    yield reader
    for client in clients:
        client.close()


def test_missing_rights_are_an_error_that_names_the_role(
    as_user: Callable[[str], tuple[SchemaReader, Sent]],
) -> None:
    reader, _ = as_user("stranger")
    with pytest.raises(SchemaAccessError, match=r"listCollections of shop.*the role `read`"):
        reader.read()


def test_a_user_who_may_read_sees_sizes_and_one_with_cluster_monitor_sees_the_use(
    as_user: Callable[[str], tuple[SchemaReader, Sent]],
) -> None:
    names = ["orders", "users"]
    for user, accesses, commands in (("writer", None, 3), ("watcher", 0, 2)):
        reader, sent = as_user(user)
        assert [each.name for each in reader.read()] == names
        sent.commands.clear()
        use = reader.usage(names)[("orders", "a_1")]
        assert (use.size, use.accesses) == (0, accesses)
        # What was refused once is not asked again.
        assert sent.taken() == ["aggregate"] * commands


def test_listing_indexes_refused_is_an_error_too(
    db: Database[Document], failpoint: Failpoint
) -> None:
    db.orders.create_index("a")
    failpoint("listIndexes", errorCode=13)
    with pytest.raises(SchemaAccessError, match=f"listIndexes of {db.name}.orders"):
        SchemaReader(db).read()


# --- how much is asked


@pytest.fixture
def watched(project: Project) -> Iterator[Callable[[], tuple[SchemaReader, Sent]]]:
    with contextlib.ExitStack() as stack:

        def reader() -> tuple[SchemaReader, Sent]:
            sent = Sent()
            client = stack.enter_context(MongoClient[Any](project.uri, event_listeners=[sent]))
            return SchemaReader(client[project.db.name]), sent

        yield reader


def test_builds_are_asked_for_and_no_more_where_the_server_does_not_know_the_option(
    project: Project, failpoint: Failpoint, watched: Callable[[], tuple[SchemaReader, Sent]]
) -> None:
    for name in "abc":
        project.db[name].create_index("x")
    reader, sent = watched()
    assert len(reader.read()) == 3
    assert [each["includeBuildUUIDs"] for each in sent.of("listIndexes")] == [True] * 3
    reader, sent = watched()
    failpoint("listIndexes", errorCode=323)
    assert [len(each.indexes) for each in reader.read()] == [2, 2, 2]
    assert ["includeBuildUUIDs" in each for each in sent.of("listIndexes")] == [
        *(True, False, False),
        False,
    ]


def test_progress_that_is_not_shown_for_now_is_an_error_and_progress_that_is_refused_is_none(
    project: Project, failpoint: Failpoint
) -> None:
    live = LiveCollection("people", indexes=(LiveIndex({"name": "x_1"}, building=True),))
    reader = SchemaReader(project.db)
    failpoint("aggregate", errorCode=13)
    assert reader.builds([live]) == {}
    failpoint("aggregate", times=1, errorCode=112)
    with pytest.raises(ConnectionFailedError):
        reader.builds([live])


def test_a_collection_that_is_dropped_meanwhile_is_no_error(
    project: Project, failpoint: Failpoint
) -> None:
    project.db.a.insert_one({})
    project.db.b.insert_one({})
    failpoint("listIndexes", errorCode=26)
    assert [each.name for each in SchemaReader(project.db).read()] == ["b"]


def test_60_collections_with_200_indexes_take_two_commands_a_collection_at_most(
    project: Project, diff: Diff
) -> None:
    for number in range(60):
        count = 4 if number < 20 else 3
        indexes = [IndexModel(f"f{field}", unique=field == 0) for field in range(count)]
        project.db[f"c{number}"].create_indexes(indexes)
    sent = Sent()
    declarations = 'collections = [Collection(f"c{n}") for n in range(60)]'
    with MongoClient[Any](project.uri, event_listeners=[sent]) as client:
        project.db = client[project.db.name]
        result = diff(declarations, "--json")
        assert len(json.loads(result.stdout)["notes"]) == 200
        # One is refused, since the server has no search indexes.
        taken = Counter(sent.taken())
        assert taken == {"listCollections": 1, "listIndexes": 60, "aggregate": 60 + 1}
        assert taken.total() <= 2 + 2 * 60
        # Our own collections count. One more command reads the history.
        project.write_inserts(1)
        assert project.invoke("up").exit_code == 0
        collections = len(project.db.list_collection_names())
        sent.commands.clear()
        assert diff(declarations).exit_code == 0
        taken = Counter(sent.taken())
    assert taken["aggregate"] == 60 + 2
    assert taken.total() <= 2 + 2 * collections


# --- databases that others made


class Person(mongoengine.Document):  # type: ignore[misc]
    email = mongoengine.EmailField(unique=True, sparse=True)
    name = mongoengine.StringField()
    born = mongoengine.DateTimeField()
    home = mongoengine.PointField()
    area = mongoengine.GeoPointField()
    meta: ClassVar[Document] = {
        "collection": "people",
        "allow_inheritance": True,
        "index_background": True,
        "indexes": [
            "name",
            ("name", "-born"),
            {"fields": ["born"], "expireAfterSeconds": 3600, "cls": False},
            {
                "fields": ["$name"],
                "default_language": "german",
                "weights": {"name": 3},
                "cls": False,
            },
            {"fields": ["#name"], "cls": False},
            {"fields": ["name"], "collation": {"locale": "en", "strength": 2}, "name": "any_case"},
            {
                "fields": ["email"],
                "partialFilterExpression": {"email": {"$exists": True}},
                "name": "p",
            },
        ],
    }


class Employee(Person):
    number = mongoengine.IntField(unique_with="name")


class Event(mongoengine.Document):  # type: ignore[misc]
    text = mongoengine.StringField()
    meta: ClassVar[Document] = {
        "max_size": 5000,
        "max_documents": 3,
        "index_opts": {"sparse": True},
        "indexes": ["text"],
    }


def test_a_database_that_mongoengine_made_is_as_its_documents_say(
    db: Database[Document], mongo_uri: str
) -> None:
    kinds = (Person, Employee, Event)
    mongoengine.connect(db.name, host=mongo_uri, uuidRepresentation="standard")
    try:
        for kind in kinds:
            kind.ensure_indexes()
    finally:
        mongoengine.disconnect()
        for kind in kinds:
            kind._collection = None
    live = SchemaReader(db).read()
    declared = from_mongoengine(Person, Event)
    assert compare(declared, live).found == ()
    assert sum(len(each.indexes) for each in declared) == 12
    db.people.drop_index("any_case")
    assert [each.kind for each in compare(declared, SchemaReader(db).read()).found] == [
        DifferenceKind.MISSING_INDEX
    ]


class Order(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")
    id: ObjectId = Field(default_factory=ObjectId, alias="_id")
    count: int
    weight: float
    at: datetime
    tags: list[str] = []
    note: str | None = None


def test_a_validator_of_a_model_accepts_what_pymongo_stores_of_it(db: Database[Document]) -> None:
    declared = Collection("orders", [Index("at")], validator=json_schema(Order))
    db.command({"create": "orders", **declared.create_options})
    db.command("createIndexes", "orders", indexes=[each.spec for each in declared.indexes])
    assert compare([declared], SchemaReader(db).read()).found == ()
    for count in (1, 2**40):
        order = Order(count=count, weight=1, at=datetime.now(timezone.utc))
        db.orders.insert_one(order.model_dump(by_alias=True))
    for wrong in ({"count": "1"}, {"count": 1.5}, {"weight": "x"}, {"other": 1}, {"at": "now"}):
        with pytest.raises(OperationFailure, match="failed validation"):
            db.orders.insert_one({**order.model_dump(by_alias=True), "_id": ObjectId(), **wrong})


# --- any database

FIELDS = st.sampled_from(["a", "b", "c.d", "größe", 'it"s', "x" * 30])
DIRECTIONS = st.sampled_from([1, -1, 1.0, Int64(1), "hashed", "2dsphere", "text"])
VALUES = st.one_of(
    st.integers(-5, 2**40),
    st.floats(allow_nan=False),
    st.text("ab\"'é\n", max_size=5),
    st.booleans(),
    st.just(Decimal128("1.50")),
    st.just(ObjectId("0" * 24)),
    st.datetimes(datetime(1, 1, 1), datetime(9999, 1, 1)),  # noqa: DTZ001  (BSON has no zones)
)
CONDITIONS = st.dictionaries(
    FIELDS,
    VALUES
    | st.dictionaries(
        st.sampled_from(["$gt", "$lt", "$gte", "$eq"]), VALUES, min_size=1, max_size=2
    )
    | st.just({"$exists": True})
    | st.sampled_from(["string", 2]).map(lambda kind: {"$type": kind}),
    max_size=3,
)
COLLATIONS = st.sampled_from(
    [
        {"locale": "de"},
        {"locale": "simple"},
        {"locale": "en", "strength": 2},
        {"locale": "fr_CA", "backwards": True, "numericOrdering": True},
        {"locale": "da", "caseFirst": "upper"},
    ]
)
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "unique": st.booleans(),
    "sparse": st.booleans(),
    "hidden": st.booleans(),
    "background": st.booleans(),
    "expireAfterSeconds": st.sampled_from([0, 60, 3600.0, 86_400, 90, Int64(7 * 86_400)]),
    "partialFilterExpression": CONDITIONS,
    "collation": COLLATIONS,
}
PLAIN = st.fixed_dictionaries(
    {"key": st.dictionaries(FIELDS, DIRECTIONS, min_size=1, max_size=3)}, optional=OPTIONS
)
TEXT = st.fixed_dictionaries(
    {"key": st.dictionaries(FIELDS, st.just("text"), min_size=1, max_size=2)},
    optional={
        "weights": st.dictionaries(FIELDS, st.integers(1, 9), max_size=2),
        "default_language": st.sampled_from(["english", "german"]),
        "language_override": st.sampled_from(["language", "lang"]),
        "collation": st.just({"locale": "simple"}),
    },
)
WILDCARD = st.fixed_dictionaries(
    {"key": st.sampled_from([{"$**": 1}, {"a.$**": -1}])},
    optional={
        "wildcardProjection": st.sampled_from([{"a": 1}, {"a": 0, "b": 0}, {"a": 1, "_id": True}]),
        "partialFilterExpression": CONDITIONS,
    },
)
TWO_D = st.fixed_dictionaries({"key": st.just({"a": "2d"})}, optional={"bits": st.integers(2, 30)})
INDEXES = st.lists(st.one_of(PLAIN, PLAIN, TEXT, WILDCARD, TWO_D), max_size=6)
NAMES = st.lists(st.text("ab_1.-é\"' ", max_size=9), min_size=6, max_size=6)
CREATED = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "collation": COLLATIONS,
            "validator": CONDITIONS | st.just({"$jsonSchema": {"required": ["a", "b"]}}),
            "validationLevel": st.sampled_from(["strict", "moderate", "off"]),
            "validationAction": st.sampled_from(["error", "warn"]),
            "changeStreamPreAndPostImages": st.booleans().map(lambda on: {"enabled": on}),
        },
    ),
    st.just({"capped": True, "size": 5000, "max": 7}),
    st.just({"timeseries": {"timeField": "at", "metaField": "a"}, "expireAfterSeconds": 90}),
    st.just({"clusteredIndex": {"key": {"_id": 1}, "unique": True}, "expireAfterSeconds": 60}),
)
SEARCHES = st.dictionaries(
    st.text("ab_-é\"'", min_size=1, max_size=9) | st.just("default"),
    st.tuples(
        st.sampled_from(["search", "vectorSearch"]),
        st.dictionaries(FIELDS, VALUES | st.lists(VALUES, max_size=2), max_size=2).map(
            lambda fields: {"mappings": {"dynamic": True, "fields": fields}}
        ),
    ),
    max_size=2,
)
_number = itertools.count()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(created=CREATED, indexes=INDEXES, names=NAMES, own_names=st.booleans(), searches=SEARCHES)
def test_a_diff_after_a_dump_is_empty_for_any_indexes_with_any_options(
    db: Database[Document],
    created: Document,
    indexes: list[Document],
    names: list[str],
    own_names: bool,  # noqa: FBT001  (hypothesis passes it)
    searches: dict[str, tuple[str, Document]],
) -> None:
    name = f"c{next(_number)}"
    try:
        db.command({"create": name, **created})
    except OperationFailure:
        event("no collection")
        return
    for number, (index, own) in enumerate(zip(indexes, names, strict=False)):
        usual = "_".join(f"{field}_{kind}" for field, kind in index["key"].items())
        try:
            db.command(
                "createIndexes",
                name,
                indexes=[{**index, "name": f"{own}{number}" if own_names else usual}],
            )
            event("index")
        except OperationFailure as exc:
            event(f"refused {exc.code}")
    # The server of this test has no search indexes.
    found = tuple(LiveSearchIndex(label, *each) for label, each in searches.items())
    live = [
        replace(each, search_indexes=found) for each in SchemaReader(db).read() if each.name == name
    ]
    source = dump(live, "A test.")
    declared: Document = {}
    exec(source, declared)
    assert compare(declared["collections"], live).found == ()
    if RUFF.exists():
        command = [str(RUFF), "format", "--isolated", "-"]
        done = subprocess.run(command, input=source, capture_output=True, text=True, check=True)
        assert done.stdout == source
    db.drop_collection(name)


def test_a_flag_that_is_stored_as_0_is_dumped_as_it_is(project: Project, diff: Diff) -> None:
    project.db.people.create_index("a", sparse=0, unique=0)
    project.db.people.create_index("b", sparse=1, unique=1)
    assert diff(project.invoke("schema", "dump").stdout).exit_code == 0


def test_a_declaration_with_a_uuid_is_counted(project: Project, diff: Diff) -> None:
    project.db.people.insert_one({"x": 1})
    source = """
        import uuid
        collections = [
            Collection(
                "people",
                [Index("at", expire_after=3600, partial={"tenant": uuid.UUID(int=3)})],
                validator={"tenant": {"$ne": uuid.UUID(int=4)}},
            )
        ]
    """
    assert diff(source).exit_code == 4
    (path,) = project.root.glob("schema_*.py")
    made = project.invoke(
        "create", "--from-schema", "tenants", MIGRATE_SCHEMA=f"{path.stem}:collections"
    )
    assert made.exit_code == 0, made.output
