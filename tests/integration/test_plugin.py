"""The pytest plugin, in runs of pytest of their own: what it redirects, what it refuses, and what it leaves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flask_migrate_mongo.testing import __all__ as exported
from flask_migrate_mongo.testing.redirect import PREFIX, uri_of
from tests.conftest import uri_with
from tests.project import PYTHON_PATH, Project
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pymongo.database import Database

pytest_plugins = ["pytester"]

# Each starts pytest in another process, or several times: on a busy machine that takes long.
pytestmark = pytest.mark.timeout(300)


READY_MADE = {name for name in exported if name.startswith("test_")}
SWITCHED_ON = "from flask_migrate_mongo.testing import *\n"

HEAD = """
import atexit
import os
import pytest
from datetime import datetime, timezone
from flask import Flask
from flask_migrate_mongo import MigrateError, MongoMigrate
from flask_migrate_mongo.testing import Migrations
from flask_pymongo import PyMongo
from pymongo import MongoClient

URI = os.environ["MONGO_URI"]
NAME = URI.rpartition("/")[2].partition("?")[0]
"""

SHOP = "app = Flask(__name__)\nMongoMigrate(app)\n"

CONFTEST = """
import pytest
import shop

@pytest.fixture
def app():
    return shop.app
"""

FIRST = """
idempotent = True

def up(db):
    db.done.create_index("first")

def down(db):
    db.done.drop_index("first_1")
"""
SECOND = FIRST.replace("first", "second")


class Shop(Project):
    """A project with tests of its own."""

    def __init__(self, pytester: pytest.Pytester, db: Database[Any], uri: str) -> None:
        super().__init__(pytester.path, db, uri)
        self._pytester = pytester

    def files(self, **sources: str) -> None:
        """Write modules of the project; each can use the names in HEAD."""
        for name, source in sources.items():
            (self.root / f"{name}.py").write_text(HEAD + source, encoding="utf-8")

    def pytest(self, *args: str) -> pytest.RunResult:
        """Run pytest in a process of its own, where each warning is an error."""
        options = ("-W", "error", "-p", "no:cacheprovider", "--import-mode=importlib", "-rA")
        return self._pytester.runpytest_subprocess(*options, *args)


@pytest.fixture
def shop(
    pytester: pytest.Pytester, db: Database[Any], mongo_uri: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shop]:
    """A project whose application has a database with a document in it, which no test of the project touches."""
    found = Shop(pytester, db, uri_with(mongo_uri, db.name))
    monkeypatch.setenv("MONGO_URI", found.uri)
    monkeypatch.setenv("MIGRATE_TEST_URI", mongo_uri)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((PYTHON_PATH, str(found.root))))
    # Only the plugin under test: the others of this environment take a second to import.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "pytest_flask_migrate_mongo")
    monkeypatch.setenv("TMPDIR", str(pytester.mkdir("tmp")))
    # Under CI, pytest repeats each message whole in its summary.
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("BUILD_NUMBER", raising=False)
    found.files(shop=SHOP)
    pytester.makeconftest(CONFTEST)
    found.write("20261101001_first", FIRST)
    found.write("20261101002_second", SECOND)
    db.users.insert_one({"_id": "own"})
    yield found
    assert db.list_collection_names() == ["users"]
    assert list(db.users.find()) == [{"_id": "own"}]


# --- the fixture


def test_each_test_has_a_fresh_database_that_is_dropped_and_a_client_that_is_closed(
    shop: Shop,
) -> None:
    shop.files(
        test_it="""
from pathlib import Path
from pymongo.errors import InvalidOperation

seen = []

def test_one(migrations):
    migrations.up()
    seen.append(migrations.db)
    Path(migrations.db.name).touch()
    assert {"first_1", "second_1"} < set(migrations.db.done.index_information())

def test_two(migrations):
    assert migrations.db.list_collection_names() == []
    Path(migrations.db.name).touch()
    with pytest.raises(InvalidOperation):
        seen[0].done.find_one()
"""
    )
    shop.pytest().assert_outcomes(passed=2)
    names = {path.name for path in shop.root.glob(f"{PREFIX}*")}
    assert len(names) == 2
    assert not names & set(shop.db.client.list_database_names())


def test_a_test_puts_documents_in_before_a_version_and_looks_after_it_and_after_down(
    shop: Shop,
) -> None:
    shop.write(
        "20261101003_lower_case",
        """
        transactional = True
        def up(db):
            db.users.update_many({}, [{"$set": {"email": {"$toLower": "$email"}}}])
        def down(db):
            db.users.update_many({}, [{"$set": {"email": {"$toUpper": "$email"}}}])
        """,
    )
    shop.write("20261101004_flag", "def up(db, ctx): db.flags.insert_one({'_id': ctx.rehearsal})")
    shop.write("20261101005_breaks", "def up(db):\n    raise ValueError('no such thing')\n")
    shop.files(
        test_it="""
def versions(entries):
    return [entry.version % 1000 for entry in entries]

def test_there_and_back(migrations: Migrations):
    db = migrations.db
    migrations.up_before("lower_case")
    assert versions(migrations.status().survey.applied) == [1, 2]
    db.users.insert_one({"_id": 1, "email": "ADA@X"})
    report = migrations.up_to("20261101003")
    assert versions(outcome.step for outcome in report.outcomes) == [3]
    assert db.users.find_one() == {"_id": 1, "email": "ada@x"}
    assert versions(migrations.status().survey.pending) == [4, 5]
    migrations.down()
    assert db.users.find_one() == {"_id": 1, "email": "ADA@X"}
    migrations.up(to=20261101003)
    with pytest.raises(MigrateError, match="20261101003 is applied already"):
        migrations.up_before(20261101003)
    migrations.down(to="20261101001")
    assert versions(migrations.status().survey.applied) == [1]
    migrations.up(steps=1)
    migrations.down(steps=2)
    assert versions(migrations.status().survey.applied) == []
    assert migrations.up_before("20261101001").is_noop

def test_no_mails_are_sent(migrations):
    migrations.up_to("flag")
    assert migrations.db.flags.find_one() == {"_id": True}

def test_a_failure_that_is_expected(migrations):
    with pytest.raises(MigrateError, match="ValueError: no such thing"):
        migrations.up()
    assert versions(migrations.status().survey.failed) == [5]

def test_a_failure_that_is_not(migrations):
    migrations.up()
"""
    )
    result = shop.pytest()
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            '*/20261101005_breaks.py", line 2, in up',
            ">       migrations.up()",
            "E       *up() of 20261101005 (breaks) failed: ValueError: no such thing",
        ]
    )


# --- the ready-made tests


TWICE = """
idempotent = True

def up(db):
    db.things.update_many({"a": 1}, {"$set": {"twice": True}})

def down(db):
    db.things.update_many({"a": 1}, {"$unset": {"twice": True}})
"""

OF_FILES = {
    "test_every_migration_can_be_imported",
    "test_the_migrations_have_one_order",
    "test_lint_finds_nothing",
}

DEFECTS: dict[str, tuple[Mapping[str, str], set[str], str]] = {
    "none": ({}, set(), ""),
    "no_folder": ({}, {*OF_FILES}, "*/no_folder/migrations does not exist.*"),
    "import": (
        {"20261101003_x.py": "import no_such_module\ndef up(db): db.a.find_one()\n"},
        READY_MADE - {"test_the_migrations_have_one_order"},
        "*20261101003_x.py:1: importing it raised ModuleNotFoundError: No module named 'no_such*",
    ),
    "syntax": (
        {"20261101003_x.py": "def up(db)\n"},
        READY_MADE - {"test_the_migrations_have_one_order"},
        "*20261101003_x.py:1: *",
    ),
    "escape": (
        {
            "20261101003_x.py": "import shop\nshop.own.users.find_one()\ndef up(db): db.a.find_one()\n"
        },
        READY_MADE - {"test_the_migrations_have_one_order"},
        "*A test tried to send find to *",
    ),
    "number": (
        {"20261101002_other.py": FIRST},
        READY_MADE - {"test_every_migration_can_be_imported"},
        "*20261101002_other.py and 20261101002_second.py have the same number*",
    ),
    "copy": (
        {"20261101003_x.py": TWICE, "20261101004_x.py": TWICE},
        READY_MADE - {"test_every_migration_can_be_imported", "test_lint_finds_nothing"},
        "*the same migration under several numbers: 20261101003_x.py, 20261101004_x.py*",
    ),
    "latest": (
        {".latest": "20261101001_first.py"},
        {"test_the_migrations_have_one_order", "test_nothing_is_left_to_do_after_up"},
        "*it names '20261101001_first.py', and the newest migration is 20261101002_second.py*",
    ),
    "lint": (
        {"20261101003_x.py": "def up(db):\n    db.things.delete_many({'a': 1})\n"},
        {"test_lint_finds_nothing"},
        "*20261101003_x.py:*: MM001 *",
    ),
    "index": (
        {"20261101003_x.py": FIRST.replace("first", "third").replace("drop_index", "find_one")},
        {"test_down_reverses_up"},
        "*20261101003_x.py: done index third_1: not there*there*",
    ),
    "value": (
        {"20261101003_x.py": TWICE.replace('{"$unset": {"twice": True}}', '{"$set": {"a": 0}}')},
        {"test_down_reverses_up"},
        "*20261101003_x.py: things document 1 (int), field a: 1 (int) *0 (int)*",
    ),
    "history": (
        {
            "20261101003_x.py": """
idempotent = True

# migrate: allow MM001 because it is a test
def up(db):
    db.get_collection("migr" + "ations").delete_many({"version": "20261101001"})
"""
        },
        {"test_nothing_is_left_to_do_after_up"},
        "*20261101001 (first) is pending*",
    ),
}

READY_MADE_AND_APP = f"""
from pathlib import Path
{SWITCHED_ON}

@pytest.fixture
def app():
    here = Path(__file__).parent
    app = Flask("shop", root_path=str(here))
    app.config["MIGRATE_LINEAR"] = (here / "migrations" / ".latest").exists()
    MongoMigrate(app)
    return app

@pytest.fixture
def migration_data(migrations):
    migrations.db.things.insert_one({{"_id": 1, "a": 1}})
"""


def failed(result: pytest.RunResult) -> Mapping[str, set[str]]:
    """Return the names of the tests that failed, by their folder."""
    found = defaultdict[str, set[str]](set)
    for line in result.outlines:
        if line.startswith("FAILED "):
            path, _, name = line.removeprefix("FAILED ").partition(" - ")[0].partition("::")
            found[path.partition("/")[0]].add(name)
    return found


def test_the_ready_made_tests_pass_on_a_good_project_and_fail_on_one_with_a_defect(
    shop: Shop,
) -> None:
    shop.files(shop=f"{SHOP}own = MongoClient(URI)[NAME]\n")
    for name, (files, _, _) in DEFECTS.items():
        (migrations := shop.root / name / "migrations").mkdir(parents=True)
        good = {"20261101001_first.py": FIRST, "20261101002_second.py": SECOND}
        for file, source in {**good, **files}.items():
            (migrations / file).write_text(source)
        (shop.root / name / "test_it.py").write_text(HEAD + READY_MADE_AND_APP)
    (shop.root / "no_folder" / "migrations").rename(shop.root / "moved")
    result = shop.pytest()
    found = failed(result)
    assert {name: found[name] for name in DEFECTS} == {n: d[1] for n, d in DEFECTS.items()}
    for _, _, message in DEFECTS.values():
        result.stdout.fnmatch_lines([f"{message}*"])


# --- the application's own database


WAYS = """
opened = []

def client(*args):
    opened.append(MongoClient(*args))
    return opened[-1]

def py_mongo(app, *args):
    mongo = PyMongo(app, *args)
    opened.append(mongo.cx)
    return mongo

WAYS = {
    "MONGO_URI in the environment": lambda app: MongoMigrate(app),
    "MONGO_URI": lambda app: (app.config.update(MONGO_URI=URI), MongoMigrate(app)),
    "MIGRATE_MONGO_URI": lambda app: (
        app.config.update(MIGRATE_MONGO_URI=URI), MongoMigrate(app, client(URI)[NAME])
    ),
    "MIGRATE_DATABASE": lambda app: (
        app.config.update(MIGRATE_DATABASE=NAME), MongoMigrate(app, client(URI))
    ),
    "a database": lambda app: MongoMigrate(app, client(URI)[NAME]),
    "a client": lambda app: MongoMigrate(app, client(URI)),
    "a callable": lambda app: MongoMigrate(app, lambda: client(URI)[NAME]),
    "a PyMongo": lambda app: MongoMigrate(app, py_mongo(app, URI)),
    "a PyMongo and MIGRATE_DATABASE": lambda app: (
        app.config.update(MIGRATE_DATABASE=NAME), MongoMigrate(app, py_mongo(app, URI))
    ),
}
"""

TEST_WAYS = """
from flask_migrate_mongo.database import database_of
import shop

@pytest.fixture(params=shop.WAYS, scope="module")
def app(request):
    app = Flask("shop", root_path=str(os.getcwd()))
    shop.WAYS[request.param](app)
    yield app
    app.extensions["mongo_migrate"].close()
    while shop.opened:
        shop.opened.pop().close()

def test_from_python(app, migrations):
    assert migrations.db.name != NAME
    migrations.up()
    assert "first_1" in migrations.db.done.index_information()

def test_by_command(migrations, app):
    done = app.test_cli_runner().invoke(args=["db-migrate", "up", "--json"])
    assert done.exit_code == 0, done.output
    assert "first_1" in migrations.db.done.index_information()
    assert app.config["MONGO_URI"] == os.environ["MONGO_URI"]
    assert f"/{migrations.db.name}" in os.environ["MONGO_URI"]

def test_afterwards_all_is_as_before(app):
    assert os.environ["MONGO_URI"] == URI
    assert app.config.get("MONGO_URI", URI) == URI
    assert database_of(app.extensions["mongo_migrate"]).name == NAME
"""


def test_whichever_way_an_application_names_its_database_no_test_touches_it(shop: Shop) -> None:
    shop.files(shop=WAYS, test_it=TEST_WAYS)
    shop.pytest().assert_outcomes(passed=3 * 9)


def test_the_variables_of_the_environment_that_name_a_database_lead_no_test_to_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATE_MONGO_URI", shop.uri)
    monkeypatch.setenv("MIGRATE_DATABASE", shop.db.name)
    shop.files(shop=WAYS, test_it=TEST_WAYS)
    shop.pytest("-k", "from_python").assert_outcomes(passed=9, deselected=18)


TEST_ESCAPES = """
import threading
import shop

USES = (
    lambda db: shop.own.users.insert_one({}),
    lambda db: shop.own.users.find_one(),
    lambda db: shop.own.list_collection_names(),
    lambda db: shop.own.users.aggregate([{"$out": {"db": NAME, "coll": "users"}}]),
    lambda db: db.users.aggregate([{"$merge": {"into": {"db": NAME, "coll": "users"}}}]),
    lambda db: shop.own.client.admin.command("renameCollection", f"{NAME}.users", to=f"{NAME}.x"),
    lambda db: shop.own.client.drop_database(NAME),
    lambda db: threading.Thread(target=shop.own.users.drop).run(),
)

@pytest.mark.parametrize("caught", [True, False])
@pytest.mark.parametrize("use", USES)
def test_it(migrations, monkeypatch, use, caught):
    def act(db):
        try:
            use(db)
        except Exception:
            if not caught:
                raise
    monkeypatch.setattr(shop, "act", act, raising=False)
    with pytest.raises(MigrateError, match="A test tried to send .*The command was not sent"):
        migrations.up()

def test_what_the_test_itself_does_is_not_refused(migrations):
    assert shop.own.users.find_one() == {"_id": "own"}
"""


def test_a_migration_that_uses_a_client_of_the_application_is_refused(shop: Shop) -> None:
    shop.files(
        shop="own = MongoClient(URI)[NAME]\napp = Flask(__name__)\nMongoMigrate(app, own)\n",
        test_it=TEST_ESCAPES,
    )
    shop.write("20261101003_escapes", "import shop\ndef up(db):\n    shop.act(db)\n")
    shop.pytest().assert_outcomes(passed=8 * 2 + 1)


def test_the_pymongo_of_the_application_leads_to_the_database_of_the_test_as_it_is_configured(
    shop: Shop,
) -> None:
    shop.write(
        "20261101003_global",
        """
        import shop
        transactional = True
        def up(db):
            shop.mongo.db.users.insert_one({"_id": 1, "at": shop.NOW})
            assert db.users.find_one()["at"].tzinfo
        """,
    )
    shop.files(
        shop="""
NOW = datetime(2026, 11, 27, tzinfo=timezone.utc)
app = Flask(__name__)
mongo = PyMongo(app, URI, tz_aware=True)
MongoMigrate(app, mongo)
app.get("/")(lambda: {"id": mongo.db.users.find_one_or_404({})["_id"]})
""",
        test_it="""
import shop

def test_it(migrations, app):
    assert app.test_client().get("/").status_code == 404
    migrations.up()
    assert app.test_client().get("/").json == {"id": 1}

def test_afterwards_it_leads_to_its_own():
    assert shop.mongo.db.name == shop.mongo.cx.get_default_database().name == NAME
""",
    )
    shop.pytest().assert_outcomes(passed=2)


# --- which application


def test_without_a_fixture_app_the_application_is_loaded_as_flask_does_and_may_use_no_database(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLASK_APP", raising=False)
    (shop.root / "conftest.py").unlink()
    own = "app = Flask(__name__)\nown = MongoClient(URI)[NAME]\natexit.register(own.client.close)\n"
    always = "app.config['MIGRATE_ON_START'] = 'always'\n"
    set_up = "MongoMigrate(app, own)\n"
    shop.files(
        writes=f"{own}own.users.insert_one({{}})\n{set_up}",
        reads=f"{own}own.users.find_one()\n{set_up}",
        migrates=f"{own}{always}{set_up}",
        ends=f"{own}{always}app.config['MIGRATE_ON_START_FAIL_HARD'] = True\n{set_up}",
        test_loaded=f"""
@pytest.fixture(autouse=True, params=[("FLASK_APP", "shop:app"), ("MIGRATE_APP", "shop")])
def _variables(request, monkeypatch):
    monkeypatch.setenv("FLASK_APP", "no_such_module")
    monkeypatch.setenv(*request.param)

{SWITCHED_ON}
""",
        test_refused="""
@pytest.fixture(autouse=True, params=["writes", "reads", "migrates", "ends"])
def _variable(request, monkeypatch):
    monkeypatch.setenv("FLASK_APP", request.param)

def test_it(migrations): pass
""",
        test_none="def test_it(migrations): pass",
        test_no_flask="""
@pytest.fixture
def app(): return "shop"
def test_it(migrations): pass
""",
        test_not_set_up="""
@pytest.fixture
def app(): return Flask("x")
def test_it(migrations): pass
""",
        test_fixture_fails="""
@pytest.fixture
def app(no_such_fixture): return Flask("x")
def test_it(migrations): pass
""",
    )
    result = shop.pytest()
    result.assert_outcomes(passed=2 * len(READY_MADE), errors=4 + 4)
    said = result.stdout.str()
    assert said.count("\nThe application was not loaded. A test tried to send ") == 4
    assert "The application was not loaded. Could not locate a Flask application" in said
    assert said.count("\nWrite a fixture `app` in conftest.py that returns the application.") == 5
    assert "The fixture `app` is an object of type str." in said
    assert "is not set up for the application 'x'" in said
    assert "fixture 'no_such_fixture' not found" in said


# --- which server


NOTES = """
from pathlib import Path

@pytest.fixture(autouse=True)
def _note(request):
    if "migrations" in request.fixturenames:
        db = request.getfixturevalue("migrations").db
        Path(db.name).write_text(str(db.client.address[1]))
"""


def answers(port: str) -> bool:
    """Whether a server accepts connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


def left_by_servers(shop: Shop) -> list[Path]:
    return list((shop.root / "tmp").glob("migrate-test-*"))


def test_with_two_workers_each_has_a_server_of_its_own_that_ends_with_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MIGRATE_TEST_URI")
    (shop.root / "conftest.py").write_text(CONFTEST + NOTES)
    shop.files(
        test_it=f"""
{SWITCHED_ON}
@pytest.mark.parametrize("number", range(8))
def test_it(migrations, number):
    assert migrations.db.list_collection_names() == []
    assert len(migrations.up().outcomes) == 2
"""
    )
    shop.pytest("-p", "xdist", "-n", "2").assert_outcomes(passed=8 + len(READY_MADE))
    ports = [path.read_text() for path in shop.root.glob(f"{PREFIX}*")]
    assert (len(ports), len(set(ports))) == (10, 2)
    assert not any(map(answers, ports))
    assert left_by_servers(shop) == []


def test_the_server_of_killed_tests_ends_and_leaves_no_files(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MIGRATE_TEST_URI")
    (shop.root / "conftest.py").write_text(CONFTEST + NOTES)
    shop.files(test_it="import signal\ndef test_it(migrations):\n    signal.pause()\n")

    def port_of_test() -> str | None:
        return next((path.read_text() for path in shop.root.glob(f"{PREFIX}*")), None)

    with subprocess.Popen([sys.executable, "-m", "pytest"], cwd=shop.root) as process:
        try:
            port = until(port_of_test)
            assert answers(port)
            assert left_by_servers(shop)
        finally:
            process.kill()
    until(lambda: not answers(port))
    until(lambda: not left_by_servers(shop))


def test_a_server_that_does_not_answer_is_an_error_that_names_the_setting(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "serverSelectionTimeoutMS=100&connectTimeoutMS=100"
    monkeypatch.setenv("MIGRATE_TEST_URI", f"mongodb://127.0.0.1:1/?{options}")
    shop.files(test_it="def test_it(migrations): pass")
    result = shop.pytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["The server of MIGRATE_TEST_URI cannot be used. The database does not answer: *127.0.0.1*"]
    )


def test_on_mongomock_plain_migrations_run_and_what_it_cannot_do_is_refused(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATE_TEST_URI", "mongomock://")
    shop.files(
        test_it=f"""
{SWITCHED_ON}
def test_plain(migrations):
    assert migrations.db.list_collection_names() == []
    migrations.up_to("20261101002")
    assert "second_1" in migrations.db.done.index_information()
    migrations.down()
    assert "second_1" not in migrations.db.done.index_information()

def test_transactional(migrations):
    path = migrations.app.root_path + "/migrations/20261101003_x.py"
    with open(path, "w") as file:
        file.write("transactional = True\\ndef up(db): db.done.insert_one({{}})")
    with pytest.raises(MigrateError, match=r"transaction.*\\(mongomock has no sessions\\): 20261101003"):
        migrations.up()
"""
    )
    result = shop.pytest()
    result.assert_outcomes(passed=len(READY_MADE) - 1 + 2, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * mongomock cannot be compared*"])


def environment(folder: Path, *without: str) -> tuple[Path, str]:
    """Make an interpreter and its path: with the packages of this one but for some, and no programs beside it."""
    (python := folder / "python").symlink_to(sys.executable)
    (packages := folder / "packages").mkdir()
    for path in Path(pytest.__file__).parents[1].iterdir():
        if not path.name.startswith(without or "-"):
            (packages / path.name).symlink_to(path)
    return python, os.pathsep.join((PYTHON_PATH, str(packages)))


@pytest.fixture
def elsewhere(
    shop: Shop, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., pytest.RunResult]:
    """Run the tests of a project with packages that are installed elsewhere, without some of them."""
    folder = pytester.mkdir("environment")

    def run(*without: str, program: str = "") -> pytest.RunResult:
        python, path = environment(folder, *without)
        if program:
            python.with_name("secantusd-py").write_text(program)
            python.with_name("secantusd-py").chmod(0o755)
        monkeypatch.delenv("MIGRATE_TEST_URI")
        monkeypatch.setenv("PATH", "")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join((path, str(shop.root))))
        return pytester.run(python, "-S", "-m", "pytest", "-W", "error", "-rA", "test_it.py")

    return run


def test_without_a_server_and_mongomock_a_test_is_an_error_that_says_what_to_install(
    shop: Shop, elsewhere: Callable[..., pytest.RunResult]
) -> None:
    shop.files(test_it=SWITCHED_ON)
    result = elsewhere("mongomock")
    result.assert_outcomes(passed=len(OF_FILES), errors=2)
    result.stdout.fnmatch_lines(
        ["There is no server for the tests of migrations*`pip install 'flask-migrate-mongo*"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_without_a_server_the_tests_run_on_mongomock(
    shop: Shop, elsewhere: Callable[..., pytest.RunResult]
) -> None:
    shop.files(test_it=SWITCHED_ON)
    elsewhere().assert_outcomes(passed=len(READY_MADE) - 1, skipped=1)


def test_a_server_that_does_not_start_is_an_error_with_its_log(
    shop: Shop, elsewhere: Callable[..., pytest.RunResult]
) -> None:
    shop.files(test_it="def test_it(migrations): pass")
    result = elsewhere(program="#!/bin/sh\necho 'no space left'\nexit 1\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*secantusd-py, does not start. Its log:*", "no space left*"])
    assert left_by_servers(shop) == []


# --- connection strings


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("mongodb://a", "mongodb://a/n"),
        ("mongodb://a,b:1/", "mongodb://a,b:1/n"),
        ("mongodb://a/shop?replicaSet=r", "mongodb://a/n?replicaSet=r"),
        ("mongodb://u:p@a", "mongodb://u:p@a/n?authSource=admin"),
        ("mongodb+srv://u:p@a/users?w=1", "mongodb+srv://u:p@a/n?w=1&authSource=users"),
        ("mongodb://u:p@a/x?authSource=$external", "mongodb://u:p@a/n?authSource=$external"),
        (
            "mongodb://k:s@a/?authMechanism=MONGODB-AWS",
            "mongodb://k:s@a/n?authMechanism=MONGODB-AWS&authSource=$external",
        ),
        (
            "mongodb://u:p@a/x?authMechanism=PLAIN",
            "mongodb://u:p@a/n?authMechanism=PLAIN&authSource=x",
        ),
        (
            "mongodb://u:p@a/?authMechanism=SCRAM-SHA-256",
            "mongodb://u:p@a/n?authMechanism=SCRAM-SHA-256&authSource=admin",
        ),
    ],
)
def test_the_database_in_a_connection_string_is_replaced_and_users_stay_where_they_are(
    server: str, expected: str
) -> None:
    assert uri_of(server, "n") == expected
