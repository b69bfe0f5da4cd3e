"""Lint: what it follows, what comments suppress, which collections it finds, and that nothing crashes it."""

from __future__ import annotations

import ast
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_migrate_mongo.files.folder import Folder
from flask_migrate_mongo.files.parsing import suppressions_in
from flask_migrate_mongo.lint import reading
from flask_migrate_mongo.lint.checks import ParsedMigration
from flask_migrate_mongo.lint.facts import Value
from flask_migrate_mongo.lint.linter import (
    Collections,
    Linter,
    LintReport,
    named_collections,
    owned_by,
)
from flask_migrate_mongo.lint.rules import BY_CODE, REMOVED, RULES, Severity, chosen
from flask_migrate_mongo.model.errors import InvalidRequestError
from flask_migrate_mongo.model.values import Direction, Suppression

from .given import a_file, read
from .linted import DOWN, HEAD, NAME, codes, confined, found, lint, up

if TYPE_CHECKING:
    from collections.abc import Iterator

STDLIB = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
UNFILTERED = "{}.update_many({{}}, {{'$set': {{'a': 1}}}})"


# --- what it follows


@pytest.mark.parametrize(
    "users",
    [
        "db.users",
        "db['users']",
        "db.get_collection('users')",
        "db.get_collection(name='users').with_options(codec_options=None)",
        "getattr(db, 'users')",
        "db.with_options().users",
        "db.client['shop'].users",
        "db.client.get_database('shop')['users']",
        "db.orders.database.users",
        "{'u': db.users}['u']",
        "[db.orders, db.users][1]",
        "(db.users if ctx else db.users)",
        "(lambda: db.users)()",
        "(lambda name: db[name])('users')",
    ],
)
def test_a_collection_is_known_however_the_code_gets_it(tmp_path: Path, users: str) -> None:
    assigned = (f"them{annotation} = {users}\n" for annotation in ("", ": Collection"))
    bodies = (UNFILTERED.format(users), *(each + UNFILTERED.format("them") for each in assigned))
    for body in bodies:
        (finding,) = found(tmp_path, up(body))
        assert (finding.rule.code, finding.function) == ("MM003", "up")
        assert finding.message.startswith("`db.users.update_many()`")


def test_functions_of_the_file_are_followed_with_what_they_are_given(tmp_path: Path) -> None:
    helper = "\n\ndef clear(people, name='users'):\n    " + UNFILTERED.format("people[name]") + "\n"
    (finding,) = found(tmp_path, up("clear(db)\nclear(db)", down=helper + DOWN))
    assert (finding.function, finding.line) == ("clear", 12)
    assert "db.users" in finding.message


def test_code_that_nothing_calls_is_not_checked(tmp_path: Path) -> None:
    never = "\n\ndef never(db):\n    " + UNFILTERED.format("db.users") + DOWN
    assert codes(tmp_path, up("db.users.find_one()", down=never)) == set()


def test_a_function_that_calls_itself_is_followed_once(tmp_path: Path) -> None:
    again = "\n\ndef again(users):\n    " + UNFILTERED.format("users") + "\n    again(users.more)\n"
    assert codes(tmp_path, up("again(db.users)", down=again + DOWN)) == {"MM003"}


def test_functions_that_multiply_their_calls_take_no_longer_than_the_budget() -> None:
    steps = [
        f"def f{n}(db, x):\n    f{n + 1}(db, {n})\n    f{n + 1}(db, {-n})\n" for n in range(60)
    ]
    source = "".join(steps) + "def f60(db, x):\n    db.users.drop()\n\ndef up(db):\n    f0(db, 0)\n"
    facts = reading.read(ast.parse(source))
    assert 0 < len(facts.up) < reading._BUDGET
    assert not named_collections(source.encode()).complete


def test_functions_that_call_each_other_are_each_followed_once() -> None:
    names = [f"f{n}" for n in range(13)]
    body = "    db.users.drop()\n" + "".join(f"    {name}(db)\n" for name in names)
    functions = "".join(f"def {name}(db):\n{body}\n" for name in names)
    facts = reading.read(ast.parse(f"{functions}def up(db):\n{body}"))
    assert facts.complete
    assert len(facts.up) == len(names) + 1


@pytest.mark.parametrize(
    "body",
    [
        "drop(db.a)\ndrop(db.b)",
        "b = db.b\nfor name in 'ab':\n    drop(b)\ndrop(b)",
        "users = db.a\ndef f(): users.drop()\nf()\nusers = db.b\nf()",
        "b, s = db.b, db.client.start_session()\ndrop(b)\ns.start_transaction()\ndrop(b)",
        "def begin(): s.start_transaction()\ns = db.client.start_session()\nbegin()\ns.commit_transaction()\nbegin()\ndb.b.drop()",
    ],
)
def test_a_function_is_followed_again_where_it_does_something_else(body: str) -> None:
    source = f"def drop(users):\n    users.drop()\n\n{up(body)}"
    *_, last = (call for call in reading.read(ast.parse(source)).up if call.method == "drop")
    opened = "transaction" in body
    assert (last.receiver.label, last.place.opened, last.place.loops) == ("b", opened, ())


def test_functions_that_call_each_other_take_a_limited_number_of_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, walk = 0, Value.walk

    def counted(self: Value) -> Iterator[Value]:
        nonlocal steps
        steps += 1
        return walk(self)

    monkeypatch.setattr(Value, "walk", counted)
    names = [f"f{n}" for n in range(13)]
    functions = "".join(
        f"\n\ndef {name}(db, x=0):\n    db.users.update_many({{'a': 1}}, {{'$unset': {{'{name}': ''}}}})\n"
        "    db.users.create_index('b', unique=True)\n"
        + "".join(f"    {other}(db, 1)\n" for other in names if other != name)
        for name in names
    )
    assert codes(tmp_path, up("f0(db)", down=DOWN + functions)) == {"MM007", "MM008"}
    assert steps < 100_000


def test_an_expression_that_is_nested_too_deeply_is_skipped_and_the_rest_is_checked(
    tmp_path: Path,
) -> None:
    deep = "x = " + "+".join(["1"] * 900)
    assert codes(tmp_path, up(f"{deep}\n" + UNFILTERED.format("db.users"))) == {"MM003"}


def test_a_finding_says_where_it_is_in_characters(tmp_path: Path) -> None:
    source = up("x = 'éé'; db.users.update_many(\n    {},\n    {'$set': {'a': 1}},\n)")
    (finding,) = found(tmp_path, source)
    assert (finding.line, finding.column, finding.end_line) == (7, 15, 10)
    assert finding.source.startswith("x = 'éé'")


def test_a_place_that_is_reached_twice_is_one_finding(tmp_path: Path) -> None:
    down = "\n\ndef down(db):\n    clear(db)\n\n\ndef clear(db):\n    db.users.delete_many({})\n"
    assert len(found(tmp_path, up("clear(db)", down=down))) == 1


# --- files


def test_two_files_with_one_number_are_a_finding_and_the_rest_is_checked(tmp_path: Path) -> None:
    for name in ("1_a.py", "1_b.py", "2_c.py"):
        (tmp_path / name).write_text(up("db.a.find_one({'$where': 'a'})"), encoding="utf-8")
    report = Linter().lint(sorted(tmp_path.glob("*.py")))
    assert [(f.path.name, f.rule.code) for f in report.findings] == [
        ("1_a.py", "MM022"),
        ("1_b.py", "MM000"),
        ("1_b.py", "MM022"),
        ("2_c.py", "MM022"),
    ]
    assert (report.files, "1_a.py and 1_b.py" in report.findings[1].message) == (3, True)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", 1),
        (b"\n\ndef up(db:\n", 3),
        (b"def up(db):\n    return = 1\n", 2),
        (b"name = '\xff'\n\n\ndef up(db):\n    pass\n", 1),
        (b"x = 1\0\n", 1),
        (b"return 1\n", 1),
        (b"def up(db, what):\n    pass\n", 1),
        ("def up(db):\n    pass\n".encode("utf-16"), 1),
    ],
)
def test_a_file_that_cannot_be_used_is_a_finding(tmp_path: Path, content: bytes, line: int) -> None:
    (finding,) = found(tmp_path, content)
    assert (finding.rule.code, finding.line, finding.column) == ("MM000", line, 1)
    assert finding.message


def test_a_file_that_is_not_there_any_more_is_a_finding(tmp_path: Path) -> None:
    (finding,) = Linter().lint([tmp_path / "1_gone.py"]).findings
    assert "No such file" in finding.message


def test_a_file_without_a_number_gets_a_name_proposed(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, up("pass"), "users.py")
    assert "Rename it to" in finding.message


# --- comments


@pytest.mark.parametrize(
    "source",
    [
        up("db.a.find_one({'$where': 'a'})  # migrate: allow MM022 because it is shown"),
        up("# migrate: allow MM022 because it is shown\ndb.a.find_one({'$where': 'a'})"),
        up("# migrate: allow MM022 because it is shown\n\n# a word on it\ndb.a.find_one({'$where': 'a'})"),
        up("db.a.find_one(\n    {'$where': 'a'},  # migrate: allow MM022 because it is shown\n)"),
        up("db.a.find_one(\n    # migrate: allow MM022 because it is shown\n    {'$where': 'a'},\n)"),
        up("# migrate: allow MM022 because it is shown\nfor x in (1, 2):\n    ctx.log.info(x)\n    db.a.find_one({'$where': x})"),
        up("db.a.find_one({'$where': 'a'})").replace("def up", "# migrate: allow MM022 because it is shown\ndef up"),
        up("db.a.find_one({'$where': 'a'})").replace("def up", "# migrate: allow MM022 because it is shown\n@mark\ndef up"),
        up("db.a.find_one({'$where': 'a'})").replace("ctx):", "ctx):  # migrate: allow MM022 because it is shown"),
        "# migrate: allow MM022 because it is shown\n" + up("db.a.find_one({'$where': 'a'})"),
        "#!/usr/bin/python\n#  migrate:allow mm016, MM022 because it is shown\n".replace("mm016, ", "") + up("db.a.find_one({'$where': 'a'})"),
        up("db.a.find_one({'$where': 'a'})  # migrate: allow MM019, MM022 because it is shown"),
    ],
)  # fmt: skip
def test_a_comment_suppresses_findings_in_its_statement_or_the_one_below(
    tmp_path: Path, source: str
) -> None:
    source = source.replace(
        "db.a.find_one({'$where': 'a'})  # migrate: allow MM019",
        "time.sleep(1); db.a.find_one({'$where': 'a'})  # migrate: allow MM019",
    )
    report = lint(tmp_path, source.replace(HEAD, HEAD + "import time\n"))
    assert report.findings == ()
    assert {finding.suppressed for finding in report.suppressed} == {"it is shown"}


@pytest.mark.parametrize(
    "source",
    [
        up("# migrate: allow MM022 because it is shown\nctx.log.info('a')\ndb.a.find_one({'$where': 'a'})"),
        up("db.a.find_one({'$where': 'a'})\n# migrate: allow MM022 because it is shown"),
        up("ctx.log.info('a')  # migrate: allow MM022 because it is shown\ndb.a.find_one({'$where': 'a'})"),
        up("db.a.find_one({'$where': 'a'})  # migrate: allow MM019 because it is shown"),
        up("db.a.find_one({'$where': 'a'})", down=DOWN.replace("def down", "# migrate: allow MM022 because it is shown\ndef down")),
    ],
)  # fmt: skip
def test_a_comment_elsewhere_suppresses_nothing(tmp_path: Path, source: str) -> None:
    assert codes(tmp_path, source) == {"MM022", "MM091"}


def test_a_comment_without_a_reason_suppresses_nothing(tmp_path: Path) -> None:
    for comment in ("allow MM022", "allow MM022 because", "allow MM022 it is shown", "allow"):
        source = up("db.a.find_one({'$where': 'a'})" + f"  # migrate: {comment}")
        assert codes(tmp_path, source) == {"MM022", "MM090"}


def test_a_comment_cannot_suppress_that_a_file_cannot_be_used(tmp_path: Path) -> None:
    source = "# migrate: allow MM000 because it is a draft\nx = 1\n"
    assert codes(tmp_path, source) == {"MM000"}


def test_a_comment_about_a_rule_that_is_not_chosen_is_not_reported(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_text(
        up("db.users.find_one()  # migrate: allow MM022 because I say"), encoding="utf-8"
    )
    asked = chosen(["MM001", "MM091"], [])
    assert Linter(rules=asked).lint([path]).findings == ()
    assert [f.rule.code for f in Linter().lint([path]).findings] == ["MM091"]


@pytest.mark.parametrize("code", sorted(REMOVED))
def test_a_comment_or_a_setting_may_still_name_a_removed_rule(tmp_path: Path, code: str) -> None:
    for comment in (f"allow {code} because it is shown", f"allow {code}"):
        assert found(tmp_path, up(f"db.a.find_one()  # migrate: {comment}")) == ()
    both = f"# migrate: allow {code}, MM019 because it is shown"
    assert codes(tmp_path, up(f"db.a.find_one()  {both}")) == {"MM091"}
    assert chosen([], [code]) == RULES
    with pytest.raises(InvalidRequestError, match=f"no rule {code}"):
        chosen([code], [])


def test_a_string_that_looks_like_a_comment_is_none() -> None:
    assert tuple(suppressions_in(b"x = '# migrate: allow MM001 because'\n")) == ()


def test_a_comment_outside_the_encoding_of_the_file_leaves_the_comments_before_it() -> None:
    first = b"x = 1  # migrate: allow MM001 because it is shown\n"
    found = tuple(suppressions_in(first + b"\n\n# \xe9\n" + first))
    # Until Python 3.11 the tokenizer ends at such a comment.
    assert found[0] == Suppression("MM001", "it is shown", 1)
    assert len(found) == (1 if sys.version_info < (3, 12) else 2)


def test_a_migration_carries_the_suppressions_that_take_effect(tmp_path: Path) -> None:
    path = tmp_path / NAME
    source = up(
        "db.a.find_one({'$where': 'a'})  # migrate: allow MM022, MM019 because it is shown\n# migrate: allow MM001"
    )
    path.write_text(source, encoding="utf-8")
    assert read(path).suppressions == (
        Suppression("MM022", "it is shown", 7),
        Suppression("MM019", "it is shown", 7),
    )


# --- collections


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("db.users.find_one()", {"users"}),
        ("for name in ('a', 'b'):\n    db[name].drop()", {"a", "b"}),
        ("for name, key in (('a', 'x'), ('b', 'y')):\n    db[name].create_index(key)", {"a", "b"}),
        ("for name in {'a': 1, 'b': 2}:\n    db[name].drop()", {"a", "b"}),
        ("for name, key in {'a': 'x'}.items():\n    db[name].create_index(key)", {"a"}),
        ("for i, name in enumerate(sorted(['a', 'b'])):\n    db[name].drop()", {"a", "b"}),
        ("name = 'a' if ctx else 'b'\ndb[name].drop()", {"a", "b"}),
        ("db.users.archive.find_one()", {"users.archive"}),
        ("db.create_collection('a').rename('b')", {"a", "b"}),
        ("db.create_collection('a')", {"a"}),
        ("db.drop_collection('a')\ndb.validate_collection('b')", {"a", "b"}),
        (
            "db.command('collMod', 'a')\ndb.command({'collMod': 'b'})\ndb.command('ping')",
            {"a", "b"},
        ),
        ("ctx.backfill('a', {'$set': {'x': 1}})\nctx.backfill(db.b, CHANGE)", {"a", "b"}),
        ("db.a.aggregate([{'$lookup': {'from': 'b', 'as': 'x'}}, {'$out': 'c'}])", {"a", "b", "c"}),
        ("db.a.aggregate([{'$merge': {'into': {'db': 'x', 'coll': 'b'}}}])", {"a", "b"}),
        ("db.a.aggregate([{'$unionWith': {'coll': 'b'}}, {'$merge': 'c'}])", {"a", "b", "c"}),
        ("db.a.aggregate([{'$unionWith': {'pipeline': [{'$documents': []}]}}])", {"a"}),
    ],
)
def test_the_collections_that_the_code_names_are_found(body: str, names: set[str]) -> None:
    found = named_collections(up(body).encode(), Direction.UP)
    assert found == Collections(frozenset(names), complete=True)


@pytest.mark.parametrize(
    "body",
    [
        "db[f'users_{ctx.app.name}'].drop()",
        "for name in db.list_collection_names():\n    db[name].drop()",
        "elsewhere(db)",
        "ctx.app.mongo.users.insert_one({'a': 1})",
        "db.users.aggregate(pipeline())",
        "db.command(build())",
        "getattr(db, name).drop()",
        "db.client.bulk_write(models)",
    ],
)
def test_it_is_known_when_there_may_be_other_collections(body: str) -> None:
    source = up(f"db.known.find_one()\n{body}").replace(
        HEAD, HEAD + "from tools import elsewhere\n"
    )
    found = named_collections(source.encode(), Direction.UP)
    assert not found.complete
    assert "known" in found.names


def test_up_and_down_are_separate() -> None:
    source = up("db.a.find_one()", down="\n\ndef down(db):\n    db.b.find_one()\n").encode()
    assert named_collections(source, Direction.UP).names == {"a"}
    assert named_collections(source, Direction.DOWN).names == {"b"}
    assert named_collections(source).names == {"a", "b"}


# --- modules of the application


def test_the_modules_of_the_application_are_known_by_their_files(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "shop" / "deep").mkdir(parents=True)
    (project / "src" / "tools").mkdir(parents=True)
    (project / "data").mkdir()
    (tmp_path / "outside.py").touch()
    for name in (
        "pyproject.toml",
        "config.py",
        "shop/models.py",
        "src/tools/__init__.py",
        "data/a.csv",
    ):
        (project / name).touch()
    is_own = owned_by("shop.web", project / "shop" / "deep")
    own = {"shop", "models", "config", "tools"}
    others = {"bson", "data", "outside", "pyproject", "web"}
    for _ in ("looked up", "remembered"):
        assert {module for module in own | others if is_own(module)} == own


def test_without_a_project_the_search_ends_at_the_parent(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("far.py", "a/near.py", "a/b/here.py"):
        (tmp_path / name).touch()
    is_own = owned_by("app", tmp_path / "a" / "b")
    assert [name for name in ("far", "near", "here", "app") if is_own(name)] == [
        "near",
        "here",
        "app",
    ]


# --- choosing


def test_rules_are_chosen_by_their_codes() -> None:
    assert chosen([], []) == RULES
    assert [rule.code for rule in chosen(["MM003", "MM001"], ["MM003"])] == ["MM001"]
    assert [rule.code for rule in chosen([], list(BY_CODE.keys() - {"MM022"}))] == ["MM022"]
    with pytest.raises(InvalidRequestError, match="no rule MM998, MM999"):
        chosen(["MM999"], ["MM998"])


def test_a_rule_that_is_not_chosen_is_not_checked_but_a_broken_file_is_a_finding(
    tmp_path: Path,
) -> None:
    (tmp_path / "1_a.py").write_text(
        confined("db.a.find_one({'$where': 'a'})\ndb.a.drop()"), encoding="utf-8"
    )
    (tmp_path / "2_b.py").write_text("x = (", encoding="utf-8")
    report = Linter(rules=chosen(["MM022"], [])).lint(sorted(tmp_path.glob("*.py")))
    assert [finding.rule.code for finding in report.findings] == ["MM022", "MM000"]


def test_a_report_fails_from_a_severity_on(tmp_path: Path) -> None:
    order = ["info", "warning", "error", "never"]
    (finding,) = found(tmp_path, up("db.a.drop()"))
    for severity in Severity:
        rule = replace(finding.rule, severity=severity)
        report = LintReport(1, (replace(finding, rule=rule),))
        assert report.count(severity.value) == 1
        failing = [least for least in order if report.fails(least)]
        assert failing == order[: order.index(severity.value) + 1]


# --- choosing files


def test_files_folders_and_versions_are_found(tmp_path: Path) -> None:
    for name in ("1_a.py", "20_b.py", "_no.py", "2_c.txt"):
        (tmp_path / name).touch()
    folder = Folder(tmp_path)
    one, other = tmp_path.resolve() / "1_a.py", tmp_path.resolve() / "20_b.py"
    assert {path.resolve() for path in folder.choose([])} == {one, other}
    assert folder.choose(["020"]) == (other,)
    assert folder.choose([str(tmp_path / "1_a.py"), "1", str(tmp_path)])[:1] == (
        tmp_path / "1_a.py",
    )
    assert len(folder.choose(["1", str(tmp_path / "1_a.py"), str(tmp_path)])) == 2
    assert folder.choose([str(tmp_path / "_no.py")]) == ()
    assert folder.choose(["2"]) == folder.choose(["b"]) == (other,)
    for unknown in ("3", "0", "no.py", ""):
        with pytest.raises(InvalidRequestError, match=r"Name files, folders or versions"):
            folder.choose([unknown])


# --- nothing crashes it


def check_everything(tree: ast.Module, name: str, *, transactional: bool) -> int:
    """Run every check on a tree, and count the hits."""
    file = a_file(1, file_name=name, transactional=transactional)
    migration = ParsedMigration(file, tree, reading.read(tree), lambda _: True)
    return sum(len(list(rule.check(migration))) for rule in RULES if rule.check)


@pytest.mark.parametrize("path", STDLIB[::4], ids=lambda path: path.name)
def test_every_check_accepts_any_python_file(tmp_path: Path, path: Path) -> None:
    content = path.read_bytes()
    check_everything(ast.parse(content), path.name, transactional=True)
    # up() calls everything that the file defines, with the arguments of a migration.
    defined = [n.name for n in ast.parse(content).body if isinstance(n, ast.FunctionDef)]
    calls = "\n".join(f"    {name}(db, ctx, db.users.find())" for name in defined)
    called = content + f"\n\ndef up(db, ctx):\n    pass\n{calls}\n".encode()
    report = lint(tmp_path, called)
    assert report.files == 1
    assert "MM000" not in {finding.rule.code for finding in report.findings}


NAMES = st.sampled_from(["db", "ctx", "users", "session", "x", "datetime", "up", "down", "name"])
ATOMS = NAMES | st.sampled_from(
    ["(1)", "'a'", "{}", "[]", "None", "{'$set': {'a': 1}}", "{**x}", "db.users"]
)
METHODS = [
    "find",
    "update_many",
    "start_session",
    "start_transaction",
    "backfill",
    "append",
    "items",
    "drop",
]


def extended(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("{}.{}".format, inner, st.sampled_from(METHODS)),
        st.builds("{}({})".format, inner, inner),
        st.builds("{}(*{}, **{})".format, inner, inner, inner),
        st.builds("{}[{}]".format, inner, inner),
        st.builds("[{} for x in {}]".format, inner, inner),
        st.builds("{{{}: {}}}".format, inner, inner),
        st.builds("({}, {})".format, inner, inner),
        st.builds("(lambda x: {})({})".format, inner, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
    )


EXPRESSIONS = st.recursive(ATOMS, extended, max_leaves=8)
STATEMENTS = st.one_of(
    EXPRESSIONS,
    st.builds("{} = {}".format, NAMES, EXPRESSIONS),
    st.builds("x[{}] = {}".format, EXPRESSIONS, EXPRESSIONS),
    st.builds("for x, *users in {}: {}".format, EXPRESSIONS, EXPRESSIONS),
    st.builds("with {} as session: {}".format, EXPRESSIONS, EXPRESSIONS),
    st.builds("while {}: {}".format, EXPRESSIONS, EXPRESSIONS),
    st.builds("def users(db, x={}): return {}".format, EXPRESSIONS, EXPRESSIONS),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STATEMENTS, max_size=8), st.booleans())
def test_every_check_accepts_any_code_in_up(
    statements: list[str],
    transactional: bool,  # noqa: FBT001  (drawn)
) -> None:
    body = "\n".join(f"    {statement}" for statement in ["pass", *statements])
    tree = ast.parse(f"def up(db, ctx):\n{body}\n\n\ndown = up\n")
    assert check_everything(tree, NAME, transactional=transactional) >= 0
