"""Making new files: names of every kind, numbers that follow, templates, races."""

from __future__ import annotations

import ast
import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import unicodedata
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flask_migrate_mongo.files.folder import Folder
from flask_migrate_mongo.files.loading import load
from flask_migrate_mongo.files.parsing import next_version, slugify
from flask_migrate_mongo.files.scaffold import Scaffold
from flask_migrate_mongo.model.errors import ConfigurationError, InvalidRequestError
from flask_migrate_mongo.model.values import Direction, Step

from .given import NOW, a_record, read

AT_ONCE = 8
ODD_NAMES = [
    "Add User Index",
    "2026 figures 7",
    "Größe à la carte",
    "🚀 launch 🎉",
    "索引を追加",
    'it\'s "quoted"',
    "'''",
    '"""',
    "ends with a backslash \\",
    "{{ name }} {% raw %} {# #}",
    "{name!r} %s $set",
    "line\none\r\ntwo\u2028three",
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\nul:",
    "a" * 300,
    "ß" * 1000,
    "lone \udce9 \ud800 surrogates",
    "tab\t bell\a escape\x1b[31m null\0 delete\x7f",
    "right\u202eto left",
    "-rf *",
    "up",
    "__init__",
    "import os; os.system('true')",
]


def scaffold(folder: Path, **options: object) -> Scaffold:
    return Scaffold(folder, clock=lambda: NOW, **options)  # type: ignore[arg-type]


def with_template(folder: Path, template: str | bytes) -> Scaffold:
    path = folder / "_template.jinja"
    path.write_bytes(template if isinstance(template, bytes) else template.encode())
    return scaffold(folder, template=path)


def normalised(name: str) -> str:
    return " ".join(name.encode("utf-8", "replace").decode().split())


def check(folder: Path, path: Path, name: str) -> None:
    """Check that a new file is where it belongs, is found, and carries the name unharmed."""
    assert path.parent == folder
    slug = path.name.removeprefix("20261122001_").removesuffix(".py")
    assert 1 <= len(slug) <= 60
    assert {unicodedata.category(c)[0] for c in slug} <= set("LMNP")
    assert re.search(r"[\s./\\:*?\"<>|]", slug) is None
    # Also where names are stored decomposed, with the blanks of a temporary file's name around it.
    assert unicodedata.is_normalized("NFC", path.name)
    assert len(unicodedata.normalize("NFD", path.name).encode()) < 200
    assert not path.stem.endswith("_")
    (found,) = Folder(folder).discover().files
    assert (found.path, found.version) == (path, 20261122001)
    assert found.name == normalised(name)
    assert found.name in {
        ast.literal_eval(node.value)
        for node in ast.parse(path.read_bytes()).body
        if isinstance(node, ast.Assign)
    }


# --- names


@pytest.mark.parametrize("transactional", [False, True])
@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
def test_a_file_of_any_name_is_found_with_that_name(
    tmp_path: Path, name: str, *, transactional: bool
) -> None:
    path = scaffold(tmp_path).create(name, transactional=transactional)
    check(tmp_path, path, name)
    assert read(path).transactional == transactional


anything = st.text(st.characters(), max_size=50)


@given(anything.filter(normalised))
@example("\ud800")
@example("\x00")
@example("\x85a\x1c")
def test_a_file_of_any_text_at_all_is_found_with_that_name(name: str) -> None:
    with TemporaryDirectory() as folder:
        check(Path(folder), scaffold(Path(folder)).create(name), name)


@pytest.mark.parametrize("name", ["", "   ", "\n\t", "\u3000\u2028"])
def test_a_blank_name_is_refused_with_an_example_and_makes_nothing(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(InvalidRequestError, match='"add user index"'):
        scaffold(tmp_path / "new").create(name)
    assert list(tmp_path.iterdir()) == []


def test_a_name_may_have_a_thousand_characters_and_no_more(tmp_path: Path) -> None:
    assert len(read(scaffold(tmp_path).create("n" * 1000)).name) == 1000
    with pytest.raises(InvalidRequestError, match="has 1001 characters; at most 1000"):
        scaffold(tmp_path).create("n" * 1001)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Add User Index", "add_user_index"),
        ("  --Élan vital!--  ", "elan_vital"),
        ("v2.0: (final)", "v2_0_final"),
        ("ﬁne ½", "fine_12"),
        ("日本語 を追加", "日本語_を追加"),
        ("Добавить индекс", "добавить_индекс"),
        ("नमस्ते दुनिया", "नमस्ते_दुनिया"),
        ("Straße, Łódź", "strasse_łodz"),
        ("x\u0302 y", "x_y"),
        ("e\u0301lan", "elan"),
        ("🚀", "migration"),
        ("한" * 60, "한" * 17),
        ("", "migration"),
        (f"{'a' * 59} b", "a" * 59),
    ],
)
def test_a_slug_is_lower_case_words_in_ascii_where_that_is_possible(name: str, slug: str) -> None:
    assert slugify(name) == slug


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_migration_of_another_script_is_loaded_and_known_in_both_forms(
    tmp_path: Path, form: Literal["NFC", "NFD"]
) -> None:
    made = scaffold(tmp_path).create("データを追加")
    stored = made.rename(made.with_name(unicodedata.normalize(form, made.name)))
    stored.write_text("def up(db):\n    return 5\n", encoding="utf-8")
    (file,) = Folder(tmp_path).discover().files
    load(Step(file, Direction.UP))
    assert Folder(tmp_path).find("データを追加") == stored
    record = a_record(file.version, slug="データを追加")
    assert not record.has_another_slug(file.slug)


def test_a_file_system_that_knows_only_ascii_gets_only_ascii(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("ascii"))
    assert slugify("add 日本語 names") == "add_names"
    assert slugify("日本語") == "migration"


# --- numbers


@pytest.mark.parametrize(
    ("highest", "version_format", "number"),
    [
        (0, "sequence", 20261122001),
        (20261122001, "sequence", 20261122002),
        (20261121007, "sequence", 20261122001),
        (20261122998, "sequence", 20261122999),
        (20261122999, "sequence", 20261123000),
        (20261123000, "sequence", 20261123001),
        (20271231005, "sequence", 20271231006),
        (0, "timestamp", 20261122103005),
        (20261122103005, "timestamp", 20261122103006),
        (20261122001, "timestamp", 20261122103005),
        (20261122103005, "sequence", 20261122103006),
        (7, "sequence", 20261122001),
        (10**30, "timestamp", 10**30 + 1),
    ],
)
def test_the_next_number_follows_both_the_files_and_the_date(
    highest: int, version_format: str, number: int
) -> None:
    assert next_version(highest, NOW, version_format) == number


@given(
    st.lists(
        st.tuples(
            st.integers(-(10**6), 10**6).map(lambda minutes: NOW + timedelta(minutes=minutes)),
            st.sampled_from(["sequence", "timestamp"]),
        )
    )
)
def test_numbers_always_rise_whatever_the_clock_and_the_format_do(
    creations: list[tuple[datetime, str]],
) -> None:
    numbers = [0]
    for now, version_format in creations:
        numbers.append(next_version(numbers[-1], now, version_format))
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    ("version_format", "digits"), [("sequence", "20261122001"), ("timestamp", "20261122103005")]
)
def test_the_format_is_that_of_the_project(
    tmp_path: Path, version_format: str, digits: str
) -> None:
    path = scaffold(tmp_path, version_format=version_format).create("a")
    assert path.name == f"{digits}_a.py"


def test_the_clock_of_a_new_file_is_utc(tmp_path: Path) -> None:
    before = datetime.now(timezone.utc).replace(microsecond=0)
    path = Scaffold(tmp_path, "timestamp").create("a")
    made = datetime.strptime(path.name[:14], "%Y%m%d%H%M%S").replace(tzinfo=timezone.utc)
    assert before <= made <= datetime.now(timezone.utc)


def test_files_that_are_no_migrations_but_have_numbers_are_followed_too(tmp_path: Path) -> None:
    (tmp_path / "20261122007_old.js").touch()
    assert scaffold(tmp_path).create("a").name == "20261122008_a.py"


def test_a_file_that_an_editor_saves_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    saved = tmp_path / "20261122001_a.py"

    def clock() -> datetime:
        saved.write_text("mine")
        return NOW

    with pytest.raises(ConfigurationError, match="cannot be written to: File exists"):
        Scaffold(tmp_path, clock=clock).create("a")
    assert saved.read_text() == "mine"


def create(folder: Path) -> str:
    """Make a file; called in processes of their own."""
    return scaffold(folder).create("same name").name


def expect_a_number_each(names: list[str]) -> None:
    numbers = sorted(int(name.partition("_")[0]) for name in names)
    assert numbers == list(range(20261122001, 20261122001 + len(names)))


def test_threads_that_create_at_once_get_a_number_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        expect_a_number_each(list(pool.map(create, [tmp_path] * 40)))


def test_processes_that_create_at_once_get_a_number_each(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as pool:
        expect_a_number_each(list(pool.map(create, [tmp_path] * 60)))


def test_a_file_is_created_on_a_file_system_that_cannot_lock_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr("fcntl.flock", flock)
    assert scaffold(tmp_path).create("a").exists()


def test_a_file_is_created_on_a_system_without_file_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert scaffold(tmp_path).create("a").exists()


# --- a file is whole, or does not exist


KILLED = """
import os, signal
{call} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
"""
FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
"""
CREATE = """
import pathlib, sys
from flask_migrate_mongo.files.scaffold import Scaffold
{prepare}
Scaffold(pathlib.Path(sys.argv[1])).create("a")
"""


def create_in_process(folder: Path, prepare: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CREATE.format(prepare=prepare), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("call", ["os.fsync", "os.link"])
def test_a_kill_while_a_file_is_created_leaves_no_migration(tmp_path: Path, call: str) -> None:
    killed = create_in_process(tmp_path, KILLED.format(call=call))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())
    check(tmp_path, scaffold(tmp_path).create("a"), "a")


def test_a_kill_after_the_file_is_created_leaves_it_whole(tmp_path: Path) -> None:
    killed = create_in_process(tmp_path, KILLED.format(call="pathlib.Path.unlink"))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (file,) = Folder(tmp_path).discover().files
    assert (file.name, file.written) == ("a", False)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    full = create_in_process(tmp_path, FULL)
    assert "cannot be written to: File too large" in full.stderr
    assert list(tmp_path.iterdir()) == []


def without_links(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_a_file_is_created_on_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.link", without_links)
    path = scaffold(tmp_path).create("a")
    check(tmp_path, path, "a")
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    path = scaffold(tmp_path).create("a")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert path.stat().st_nlink == 1


# --- the folder


def test_the_folder_is_made_when_it_is_missing(tmp_path: Path) -> None:
    assert scaffold(tmp_path / "far" / "away").create("a").exists()


def test_a_folder_that_cannot_be_made_is_an_error_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigurationError, match=r"cannot be written to: .*MIGRATE_DIRECTORY"):
            scaffold(folder).create("a")


# --- what is in the file


@pytest.mark.parametrize("transactional", [False, True])
def test_a_new_file_can_be_loaded_and_says_that_it_is_to_be_written(
    tmp_path: Path, *, transactional: bool
) -> None:
    file = read(scaffold(tmp_path).create("a", transactional=transactional))
    assert not file.written
    assert not file.reversible
    for direction in Direction:
        function = load(Step(file, direction))
        with pytest.raises(NotImplementedError, match=rf"Write {direction.value}\(\)"):
            function({"db": None, "ctx": None})


def test_a_project_has_its_own_template(tmp_path: Path) -> None:
    template = """\
# {{ version }} {{ slug }} {{ "in a transaction" if transactional else "plain" }}
name = {{ name }}
def up(db):
    db.users.update_many({}, {"$set": {"seen": {"at": None}}})
    db.users.update_many({}, [{"$unset": ["x"]}])
"""
    path = with_template(tmp_path, template).create("It's mine")
    assert path.read_text() == template.replace("{{ name }}", repr("It's mine")).replace(
        '{{ version }} {{ slug }} {{ "in a transaction" if transactional else "plain" }}',
        "20261122001 it_s_mine plain",
    )
    assert not read(path).reversible


def test_a_template_with_a_byte_order_mark_and_windows_line_ends_is_accepted(
    tmp_path: Path,
) -> None:
    template = b"\xef\xbb\xbfname = {{ name }}\r\ndef up(db): pass\r\n"
    assert read(with_template(tmp_path, template).create("Größe")).name == "Größe"


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("name = {{ name", "unexpected end of template"),
        ("{{ nmae }}", "'nmae' is undefined"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ version.bit_length(1) }}", "takes no arguments"),
        ("name = {{ name }}\n", r"it has no up\(\)"),
        ("name = {{ slug }}\ndef up(db): pass", ":1: name must be a plain string"),
        ("def up(db:", ":1: syntax error"),
        ("def up(database): pass", "asks for 'database'"),
        ("def up(db): pass\nasync def down(db): pass", r":2: down\(\) is async"),
        ('{{ "\\ud800" }}', "surrogates not allowed"),
        (b"\xff", "can't decode byte 0xff"),
    ],
)
def test_a_template_that_gives_no_migration_is_refused_and_makes_nothing(
    tmp_path: Path, template: str | bytes, problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        with_template(tmp_path, template).create("a")
    assert f"The template {tmp_path}/_template.jinja does not produce" in str(caught.value)
    assert "{{ name }} (a Python literal)" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["_template.jinja"]


QUOTED = '"""{{ name }}"""\n\ndef up(db): pass\n'
HARMLESS = [type(node) for node in ast.walk(ast.parse(QUOTED))]


@pytest.mark.parametrize(
    "name", ['""" + __import__("os").abort() + """', 'a""" + str(1 / 0) + """', "a ''' + b", "it's"]
)
@pytest.mark.parametrize("template", [QUOTED, QUOTED.replace("{{ name }}", "{{ name[1:-1] }}")])
def test_no_part_of_a_name_becomes_code(tmp_path: Path, template: str, name: str) -> None:
    made = QUOTED
    with contextlib.suppress(ConfigurationError):
        made = with_template(tmp_path, template).create(name).read_text()
    assert [type(node) for node in ast.walk(ast.parse(made))] == HARMLESS


def test_a_name_that_would_become_code_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="would be executed as code"):
        with_template(tmp_path, QUOTED).create('""" + str(1) + """')


def test_a_template_may_depend_on_words_of_the_name(tmp_path: Path) -> None:
    template = "{% if 'index' in name %}idempotent = True\n{% endif %}def up(db): pass\n"
    made = with_template(tmp_path, template).create("an index: don't drop it!")
    assert "idempotent" in made.read_text()


def test_a_missing_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.jinja does not produce .*No such file"):
        scaffold(tmp_path, template=tmp_path / "none.jinja").create("a")


def test_several_files_get_numbers_in_a_row_and_an_error_leaves_none_of_them(
    tmp_path: Path,
) -> None:
    def content(path: Path, version: int) -> bytes:
        return f"# {version} {path.name}".encode()

    def broken(path: Path, version: int) -> bytes:
        assert (tmp_path / f"{version - 1}_third.py").exists()
        raise ValueError(path.name)

    made = scaffold(tmp_path, linear=True).add_all([("First", content), ("Second", content)])
    assert [each.name for each in made] == ["20261122001_first.py", "20261122002_second.py"]
    assert made[1].read_text() == "# 20261122002 20261122002_second.py"
    assert (tmp_path / ".latest").read_text().split()[-1] == "20261122002_second.py"
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match="fourth"):
        scaffold(tmp_path).add_all([("Third", content), ("Fourth", broken)])
    with pytest.raises(InvalidRequestError):
        scaffold(tmp_path).add_all([("Third", content), ("x" * 1001, content)])
    assert sorted(tmp_path.iterdir()) == before
