"""Joining migrations: what the source of a squashed one looks like, and what its names mean."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from flask_migrate_mongo.files.joining import Joined, join
from flask_migrate_mongo.files.names import rename, uses_of
from flask_migrate_mongo.files.parsing import describe
from flask_migrate_mongo.lint.linter import Linter
from flask_migrate_mongo.model.errors import SourceError
from tests.project import ROOT

if TYPE_CHECKING:
    from pathlib import Path


class Calls:
    """A database that notes what is inserted."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def insert(self, what: object) -> None:
        self.made.append(what)


def joined(folder: Path, *sources: str | bytes) -> Joined:
    """Join files with these sources, numbered from 1."""
    files = []
    for number, source in enumerate(sources, 1):
        content = source.encode() if isinstance(source, str) else source
        files.append((describe(folder / f"{number}_part.py", content), content))
    return join(files, "the whole")


def text(folder: Path, *sources: str | bytes) -> str:
    return joined(folder, *sources).content.decode()


def run(source: str, function: str = "up") -> list[Any]:
    """Call a function of a source with a database, and return what it inserted."""
    space: dict[str, Any] = {"__name__": "joined"}
    exec(compile(source, "joined", "exec"), space)
    db = Calls()
    names = ast.parse(source).body
    (node,) = (n for n in names if isinstance(n, ast.FunctionDef) and n.name == function)
    available = {"db": db, "ctx": "the context"}
    space[function](**{each.arg: available[each.arg] for each in node.args.args})
    return db.made


def test_the_functions_are_called_in_order_and_those_of_down_in_reverse(tmp_path: Path) -> None:
    sources = [
        f"def up(db): db.insert('up {n}')\ndef down(db): db.insert('down {n}')\n" for n in (1, 2, 3)
    ]
    source = text(tmp_path, *sources)
    assert run(source) == ["up 1", "up 2", "up 3"]
    assert run(source, "down") == ["down 3", "down 2", "down 1"]


def test_the_whole_file(tmp_path: Path) -> None:
    first = '''
        """Give all users a flag."""
        from datetime import datetime, timezone
        import re

        name = "Flag the users"
        transactional = True

        # As of today.
        BATCH = 100


        def up(db):
            # Only those that have none.
            db.insert(BATCH)


        def down(db, ctx):
            db.insert(-BATCH)
    '''
    second = """
        from datetime import date, datetime
        import re

        transactional = True
        idempotent = True
        BATCH = 200


        def up(db):
            db.insert((BATCH, re.sub("a", "b", "a")))


        def down(db):
            db.insert(-BATCH)
    """
    assert text(tmp_path, textwrap.dedent(first), textwrap.dedent(second)) == textwrap.dedent(
        '''\
        """the whole.

        Squashed from these migrations, which it replaces:

        - 1 Flag the users
        - 2 part
        """

        import re
        from datetime import date, datetime, timezone

        name = "the whole"
        transactional = True
        replaces = [
            "1_part",
            "2_part",
        ]


        def up(db):
            up_1(db)
            up_2(db)


        def down(db, ctx):
            down_2(db)
            down_1(db, ctx)


        # --- 1 Flag the users


        # As of today.
        BATCH_1 = 100


        def up_1(db):
            # Only those that have none.
            db.insert(BATCH_1)


        def down_1(db, ctx):
            db.insert(-BATCH_1)


        # --- 2 part


        BATCH_2 = 200


        def up_2(db):
            db.insert((BATCH_2, re.sub("a", "b", "a")))


        def down_2(db):
            db.insert(-BATCH_2)
        '''
    )


@pytest.mark.parametrize(
    ("one", "other", "made"),
    [
        # A constant, and a helper that uses it.
        ("N = 1\ndef f(): return N\ndef up(db): db.insert(f())", "N = 2\ndef f(): return -N\ndef up(db): db.insert(f())", [1, -2]),
        # In an f-string, for which old Pythons do not know the places of names.
        ('N = 1\ndef up(db): db.insert(f"""\n{N:>{N + 1}} {N!r}""")', "N = 2\ndef up(db): db.insert(N)", ["\n 1 1", 2]),
        # A parameter, a local name, a comprehension, a lambda and an attribute of the same name are other things.
        ("N = 1\ndef f(N): return N\ndef up(db): db.insert(f(N=5))", "N = 2\ndef up(db):\n    db.insert([N for N in (7, 8)] + [N])", [5, [7, 8, 2]]),
        ("N = 1\nclass A:\n    N = 3\n    def m(self): return N\ndef up(db): db.insert((A.N, A().m()))", "N = 2\ndef up(db): db.insert((lambda N: N)(9) + N)", [(3, 1), 11]),
        # `global`, a walrus, a name that a loop or `except` binds.
        ("N = 1\ndef g():\n    global N\n    N += 1\ndef up(db):\n    g()\n    db.insert(N)", "def up(db): db.insert([N := n for n in (1, 2)] + [N])\nN = 2", [2, [1, 2, 2]]),
        ("for N in (1, 2): pass\ndef up(db): db.insert(N)", "try: 1 / 0\nexcept ZeroDivisionError as N: M = str(N)\ndef up(db): db.insert(M)", [2, "division by zero"]),
        # One name, imported from two modules; one import, and an own name; a name of Python's own.
        ("from math import floor as f\ndef up(db): db.insert(f(1.5))", "from math import ceil as f\ndef up(db): db.insert(f(1.5))", [1, 2]),
        ("from math import floor\ndef up(db): db.insert(floor(1.5))", "def floor(n): return -n\ndef up(db): db.insert(floor(1))", [1, -1]),
        ("def list(x): return 'mine'\ndef up(db): db.insert(list('ab'))", "def up(db): db.insert(list('ab'))", ["mine", ["a", "b"]]),
        ("from math import floor as len\ndef up(db): db.insert(len(1.5))", "def up(db): db.insert(len('ab'))", [1, 2]),
        # What a migration declares can be read in it, and its functions can call each other.
        ('name = "N"\ndef up(db): db.insert(name)', "def up(db): down(db)\ndef down(db): db.insert(2)", ["N", 2]),
        # Two statements on a line, a decorator, a nested function, a string with several lines.
        ("N = 1; M = N + 1\ndef up(db): db.insert(M)", "def twice(f): return lambda db: (f(db), f(db))\n@twice\ndef up(db): db.insert('twice')", [2, "twice", "twice"]),
        ("N = 1\ndef up(db):\n    def N(): return 3\n    db.insert(N())", 'N = """\nN\n"""\ndef up(db): db.insert(N)', [3, "\nN\n"]),
        # Other parameters, and none.
        ("def up(ctx, db): db.insert(ctx)", "def up(*, ctx, db, **more): db.insert((ctx, more))\n", ["the context", ("the context", {})]),
        ("def up(): pass", "def up(db, size=3): db.insert(size)", [3]),
        # The names that are chosen are taken already.
        ("N = 1\nN_1 = 5\ndef up(db, up_1=7): db.insert((N, N_1, up_1))", "N = 2\ndef up(db): db.insert(N)", [(1, 5, 7), 2]),
        # Text that is not ASCII before a name; match; other encodings and line ends.
        ('N = 1\ndef up(db): db.insert(("äö\N{SNOWMAN}", N))', "N = 2\ndef up(db):\n    match (3, 4):\n        case (N, _): db.insert(N)", [("äö\N{SNOWMAN}", 1), 3]),
        ("# coding: latin-1\r\nN = 'ä'\r\ndef up(db):\r\n    db.insert(N)\r\n".encode("latin-1"), b"\xef\xbb\xbfN = 2\ndef up(db): db.insert(N)", ["ä", 2]),
        ("def up(db): db.insert(1)\ndef verify(db): db.insert('verified')", "def up(db): db.insert(2)", [1, "verified", 2]),
    ],
)  # fmt: skip
def test_joined_migrations_do_what_they_do_alone(
    tmp_path: Path, one: str | bytes, other: str | bytes, made: list[Any]
) -> None:
    assert run(text(tmp_path, one, other)) == made


def test_a_verify_that_returns_false_ends_up(tmp_path: Path) -> None:
    source = text(tmp_path, "def up(db): pass\ndef verify(db): return False\n", "def up(db): 1 / 0")
    with pytest.raises(ValueError, match=r"verify\(\) of 1 returned False"):
        run(source)


@pytest.mark.parametrize(
    "source",
    [
        "from math import *\ndef up(db): pass\n",
        "up = lambda db: None\n",
        "from other import up\n",
        "def up(db): globals()['x'] = 1\n",
        "def up(db): eval('1')\n",
        "def up(db): pass\ndown = up\n",
        "N = 1\nclass A:\n    N = N\ndef up(db): pass\n",
    ],
)
def test_what_cannot_be_joined_is_refused_by_its_name(tmp_path: Path, source: str) -> None:
    with pytest.raises(SourceError, match=r"2_part.*cannot be joined: .*Nothing was written\."):
        joined(tmp_path, "N = 1\ndef up(db): pass\n", source)


def test_flags_need_all_and_notes_say_whose_is_missing(tmp_path: Path) -> None:
    whole = joined(
        tmp_path,
        "transactional = True\nidempotent = True\ndef up(db): pass\ndef down(db): pass\n",
        "idempotent = True\ndef up(db): pass\n",
        "idempotent = True\ndef up(db): pass\ndef verify(db): pass\n",
    )
    source = whole.content.decode()
    assert "transactional" not in source
    assert "idempotent = True" in source
    assert "def down(" not in source
    assert whole.notes == (
        "It is not transactional, because these are not: 2, 3.",
        "It has no down(), because these have none: 2, 3.",
        "It has no verify(): its up() calls those of 3, each after its part.",
    )


@pytest.mark.parametrize("name", ['"""', "\\", "a\\", 'ends with "', "it's", "a\u2028b", "a\x00b"])
def test_names_of_every_kind_make_a_valid_file(tmp_path: Path, name: str) -> None:
    content = f"name = {name!r}\ndef up(db): pass\n".encode()
    files = [(describe(tmp_path / f"{n}_part.py", content), content) for n in (1, 2)]
    whole = join(files, name)
    found = describe(tmp_path / "3_whole.py", whole.content)
    assert found.name == name.strip()
    assert found.replaces == (1, 2)


@pytest.mark.skipif(find_spec("ruff") is None, reason="ruff is installed for development only")
def test_formatted_files_without_clashes_make_a_formatted_file(tmp_path: Path) -> None:
    files = []
    for path in sorted((ROOT / "example_app" / "migrations").glob("2*.py")):
        content = path.read_bytes()
        files.append((describe(path, content), content))
    target = tmp_path / "20991231001_whole.py"
    target.write_bytes(join(files, "it's all of it").content)
    check = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "100"]
    assert subprocess.run([*check, "--check", target], check=False).returncode == 0
    assert Linter().lint([target]).count("error") == 0
    assert "# Drop the index first" in target.read_text()


def test_a_note_says_which_comments_were_not_kept(tmp_path: Path) -> None:
    source = "N = 1\ndef g():\n    # why\n    global N\n    N = 2\ndef up(db): g()\n"
    whole = joined(tmp_path, source, "N = 1\ndef up(db): pass  # kept\n")
    assert whole.notes == ("It lacks comments of 1_part.py: the code of g was written anew.",)
    assert b"# kept" in whole.content


def test_every_use_of_a_global_name_is_found() -> None:
    source = (
        "import x.y, z as N\n"
        "def f(a=N, *b: N, c: N = 1, **d) -> N:\n"
        "    def g(N): return N\n"
        "    return [N for N in N], {N: N for _ in ()}, (N for M in N if N), lambda x=N: N\n"
        "class C(N, metaclass=N):\n"
        "    def m(self): return N\n"
        "async def h():\n"
        "    nonlocal_ = 1\n"
        "    async with N as q: del q\n"
        "    global G\n"
        "    G = N\n"
    )
    tree = ast.parse(source)
    uses, unclear = uses_of(tree)
    assert unclear == frozenset()
    assert {use.name for use in uses if use.binds} == {"x", "N", "f", "C", "h", "G"}
    rename(uses, {"N": "new", "G": "other"})
    renamed = ast.unparse(tree)
    assert "z as new" in renamed
    assert "def g(N):\n        return N" in renamed
    assert "[N for N in new], {new: new for _ in ()}, (new for M in new if new)" in renamed
    assert "lambda x=new: new" in renamed
    assert "def f(a=new, *b: new, c: new=1, **d) -> new:" in renamed
    assert "class C(new, metaclass=new):" in renamed
    assert "global other" in renamed
