"""What a migration is: its digest, its number and its names, and what can be mistaken."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_migrate_mongo.files import identity
from flask_migrate_mongo.files.identity import digest
from flask_migrate_mongo.model.errors import (
    AmbiguousVersionError,
    CopiedError,
    MigrateError,
    NumberTakenError,
    RenumberedError,
    UnknownVersionError,
)
from flask_migrate_mongo.model.values import MigrationFile, Record, Status
from flask_migrate_mongo.planning.identity import (
    check_identity,
    find_version,
    known_names,
    mistaken,
)

from .given import a_file, a_record, recorded

BASE = """
name = "x"


def up(db):
    db.users.update_many({}, {"$set": {"a": 1}})
"""

# --- the digest


def of(source: str) -> str:
    return digest(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "# a comment\n" + BASE,
        '"""Why."""\n' + BASE,
        BASE.replace('"', "'"),
        BASE.replace("(db):", "(db):\n    'What it does.'"),
        BASE.replace("\n    db.", "\n\n    (db)."),
        BASE.replace('{}, {"$set"', '{\n    }, {"$set"').replace("1}})", "1,}},)"),
        BASE.replace("\n", "\r\n"),
        BASE.replace('"x"', '"" "x"'),
        BASE.replace('"x"', 'u"x"'),
        BASE.replace("1", "0x1"),
    ],
)
def test_comments_docstrings_quotes_and_layout_do_not_count(source: str) -> None:
    assert of(source) == of(BASE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (BASE, BASE.replace("1", "2")),
        (BASE, BASE.replace("1", "1.0")),
        (BASE, BASE.replace("1", "True")),
        (BASE, BASE.replace("1", '"1"')),
        (BASE, BASE.replace('"a"', 'b"a"')),
        (BASE, BASE.replace("up", "down")),
        (BASE, BASE.replace("update_many", "update_one")),
        (BASE, BASE.replace('name = "x"', 'name = "y"')),
        (BASE, BASE + "\ntransactional = True\n"),
        ("x = [1, [2]]", "x = [[1, 2]]"),
        ("x = -1", "x = 1"),
        ("x = 1, 2", "x = [1, 2]"),
        ("a\nb", "b\na"),
        ("x = 'a\\0b'", "x = 'a', 'b'"),
        ("def f(a, /): 1", "def f(a): 1"),
        ("def f(a=1): 1", "def f(*, a=1): 1"),
        ("x = f'{a}'", "x = f'{a!r}'"),
        ("x = f'{a}b'", "x = f'{a}c'"),
        ("if a: b\nelse: c", "if a: c\nelse: b"),
        ("def f():\n    'doc'\n    'text'", "def f():\n    'doc'"),
    ],
)
def test_what_code_does_counts(one: str, other: str) -> None:
    assert of(one) != of(other)


def test_a_formatter_that_removes_the_brackets_of_del_makes_no_difference() -> None:
    assert of("del (a, b)") == of("del a, b")


def test_a_tree_of_any_depth_has_a_digest() -> None:
    deep: ast.expr = ast.Constant(1)
    for _ in range(20_000):
        deep = ast.UnaryOp(ast.Not(), deep)
    assert len(digest(ast.Module([ast.Expr(deep)], []))) == 64


def corpus(number: int = 200) -> list[Path]:
    """List files that people wrote: every so many of the installed packages."""
    packages = Path(sysconfig.get_path("purelib"))
    found = [p for p in sorted(packages.rglob("*.py")) if 500 < p.stat().st_size < 12_000]
    return found[:: max(1, len(found) // number)][:number]


def pythons() -> dict[str, str]:
    """Find the interpreters of this machine by their version."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {}
    for minor in range(10, 15):
        for python in (
            *sorted(pyenv.glob(f"3.{minor}.*/bin/python")),
            shutil.which(f"python3.{minor}"),
        ):
            if (
                python
                and subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode
                == 0
            ):
                found[f"3.{minor}"] = str(python)
                break
    return found


DIGESTS = """
import ast, json, pathlib, runpy, sys, warnings
warnings.simplefilter("ignore")
digest = runpy.run_path(sys.argv[1])["digest"]

def of(path):
    try:
        return digest(ast.parse(pathlib.Path(path).read_bytes()))
    except SyntaxError:  # An installed package may be written for newer versions.
        return None

print(json.dumps([of(path) for path in json.load(sys.stdin)]))
"""


def test_every_python_computes_the_same_digests_for_200_files() -> None:
    files = json.dumps(list(map(str, corpus())))
    found = [
        json.loads(
            subprocess.run(
                [python, "-c", DIGESTS, str(identity.__file__)],
                input=files,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for python in pythons().values()
    ]
    of_each_file = [digests for digests in zip(*found, strict=True) if None not in digests]
    assert len(of_each_file) > 180
    assert [digests for digests in of_each_file if len(set(digests)) > 1] == []


@pytest.mark.skipif(find_spec("ruff") is None, reason="ruff is installed for development only")
def test_a_formatter_changes_no_digest_of_200_files(tmp_path: Path) -> None:
    before = {}
    for number, path in enumerate(corpus()):
        copy = tmp_path / f"{number}.py"
        copy.write_bytes(path.read_bytes())
        before[copy] = digest(ast.parse(copy.read_bytes()))
    style = ["--isolated", "--config", "format.quote-style='single'", "--line-length", "60"]
    subprocess.run(
        [sys.executable, "-m", "ruff", "format", "-q", *style, str(tmp_path)], check=True
    )
    after = {copy: copy.read_bytes() for copy in before}
    assert {copy: digest(ast.parse(content)) for copy, content in after.items()} == before


# --- names


KNOWN = {
    20261124001: frozenset({"add_users"}),
    20261124002: frozenset({"add_orders", "orders"}),
    20261201001: frozenset({"add_users"}),
    7: frozenset({"seven"}),
}


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("20261124002", 20261124002),
        ("020261124002", 20261124002),
        ("7", 7),
        ("202612", 20261201001),
        ("add_orders", 20261124002),
        ("add-orders", 20261124002),
        ("Add orders", 20261124002),
        ("orders", 20261124002),
    ],
)
def test_a_version_is_named_by_its_number_the_beginning_of_it_or_its_slug(
    name: str, version: int
) -> None:
    assert find_version(name, KNOWN) == version


@pytest.mark.parametrize("name", ["2026", "20261124", "add_users"])
def test_a_name_of_several_versions_is_refused_with_their_numbers(name: str) -> None:
    with pytest.raises(AmbiguousVersionError, match=r"20261124001, .*Give the whole number\.$"):
        find_version(name, KNOWN)


@pytest.mark.parametrize("name", ["8", "", "users", "add", "\u0667", "-7", "7.0", "x" * 5_000])
def test_a_name_of_no_version_is_refused(name: str) -> None:
    with pytest.raises(UnknownVersionError, match="flask db-migrate status") as caught:
        find_version(name, KNOWN)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("names", [("fix", "fix"), ("?", "?")])
def test_a_changed_file_whose_record_is_gone_is_found_beside_others_of_its_name(
    names: tuple[str, str],
) -> None:
    gone, there = (a_record(n, slug=slug) for n, slug in enumerate(names, 1))
    moved = a_file(3, slug=names[0], checksum="changed", digest="changed")
    (problem,) = problems([a_file(2, slug=names[1]), moved], gone, there)
    assert isinstance(problem, RenumberedError)
    other = a_file(3, slug="!", checksum="changed", digest="changed")
    assert problems([a_file(2, slug=names[1]), other], gone, there) == []


def test_a_name_without_letters_and_digits_names_nothing() -> None:
    with pytest.raises(UnknownVersionError):
        find_version("!", known_names([a_file(1, slug="?")], ()))


@given(st.dictionaries(st.integers(0, 10**12), st.just(frozenset[str]())), st.text("0123456789"))
def test_a_number_never_names_another_one_unless_it_is_the_only_one_that_begins_so(
    known: dict[int, frozenset[str]], name: str
) -> None:
    try:
        found = find_version(name, known)
    except (UnknownVersionError, AmbiguousVersionError):
        return
    alone = [version for version in known if str(version).startswith(name)]
    assert found == int(name) or alone == [found]


# --- what can be mistaken


def problems(files: list[MigrationFile], *records: Record) -> list[MigrateError]:
    return list(mistaken(files, recorded(*records)))


def test_an_unchanged_a_changed_and_a_renamed_file_are_the_recorded_migration() -> None:
    for file in (
        a_file(1),
        a_file(1, checksum="other"),
        a_file(1, slug="renamed", file_name="1_renamed.py"),
        a_file(1, slug="renamed", checksum="formatted", digest="code of sum of 1"),
    ):
        assert problems([file], a_record(1)) == []


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.RUNNING])
def test_a_file_with_another_slug_and_other_code_is_another_migration(status: Status) -> None:
    alice = a_record(1, status, slug="alice_adds_a")
    (problem,) = problems([a_file(1, slug="bob", file_name="1_bob.py", checksum="b")], alice)
    assert isinstance(problem, NumberTakenError)
    for said in ("alice_adds_a", "1_bob.py", alice.state, "renumber 1_bob.py", "--accept-file"):
        assert said in str(problem)


@pytest.mark.parametrize("status", [Status.PENDING, Status.ROLLED_BACK])
def test_the_number_of_what_left_nothing_is_free(status: Status) -> None:
    alice = a_record(1, status, slug="alice_adds_a")
    assert problems([a_file(1, slug="bob", checksum="b")], alice) == []


def test_a_record_that_does_not_say_its_slug_or_its_digest_is_not_called_another_one() -> None:
    changed = a_file(1, slug="bob", checksum="b")
    assert problems([changed], a_record(1, slug=None)) == []
    assert problems([changed], a_record(1, checksum=None)) == []


@pytest.mark.parametrize("known", ["digest", "checksum"])
def test_a_pending_file_with_recorded_code_is_that_migration_under_a_new_number(known: str) -> None:
    digest = "code of sum of 2" if known == "digest" else None
    records = [a_record(1), a_record(2, digest=digest)]
    moved = a_file(
        4, checksum="sum of 2" if known == "checksum" else "x", digest="code of sum of 2"
    )
    (problem,) = problems([a_file(1), moved], *records)
    assert isinstance(problem, RenumberedError)
    for said in ("4_change.py", "under 2", "renumber 4_change.py"):
        assert said in str(problem)


def test_a_copy_of_an_applied_file_is_refused_and_both_are_named() -> None:
    (problem,) = problems([a_file(1), a_file(4, digest="code of sum of 1")], a_record(1))
    assert isinstance(problem, CopiedError)
    assert "1_change.py, 4_change.py" in str(problem)


def test_copies_among_the_pending_files_are_refused() -> None:
    (problem,) = problems([a_file(1), a_file(2, digest="code of sum of 1"), a_file(3)])
    assert isinstance(problem, CopiedError)
    assert "1_change.py, 2_change.py" in str(problem)


def test_of_many_copies_ten_are_named_and_the_others_counted() -> None:
    copies = [a_file(n, digest="the same code") for n in range(1, 14)]
    (problem,) = problems(copies)
    assert "10_change.py and 3 more. Nothing was run." in str(problem)


def test_two_applied_migrations_may_do_the_same() -> None:
    files = [a_file(1), a_file(2, checksum="c", digest="code of sum of 1")]
    records = a_record(1), a_record(2, checksum="c", digest="code of sum of 1")
    assert problems(files, *records) == []


def test_several_problems_are_reported_at_once() -> None:
    files = [a_file(1, slug="bob", checksum="b"), a_file(4, digest="code of sum of 2")]
    with pytest.raises(MigrateError, match=r"^2 problems") as caught:
        check_identity(files, recorded(a_record(1), a_record(2)))
    assert "1_change.py" in str(caught.value)
