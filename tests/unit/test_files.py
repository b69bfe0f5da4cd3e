"""Migration files: found, read without executing, imported, called."""

from __future__ import annotations

import os
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flask_migrate_mongo.files.folder import Discovery, Folder
from flask_migrate_mongo.files.loading import call, load
from flask_migrate_mongo.files.parsing import checksum, highest_version
from flask_migrate_mongo.model.errors import (
    ConfigurationError,
    DuplicateVersionError,
    FileChangedError,
    ForeignFolderError,
    ImportFailedError,
    SeveralErrors,
    SourceError,
    StepError,
)
from flask_migrate_mongo.model.values import Direction, Record, Step

from .given import a_record, read

if TYPE_CHECKING:
    from collections.abc import Callable

UP = "def up(db): pass\n"
BOTH = "def up(db): return 'up'\ndef down(db): return 'down'\n"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(source: str | bytes = UP, name: str = "1_change.py") -> Path:
        path = tmp_path / name
        path.write_bytes(source if isinstance(source, bytes) else source.encode())
        return path

    return write


def step(path: Path, direction: Direction = Direction.UP) -> Step:
    return Step(read(path), direction)


def function_of(planned: Step) -> Callable[..., object]:
    """Load a step that has one function."""
    ((_, function),) = load(planned).parts
    return function


def problem(path: Path) -> str:
    """Return what is wrong with a file, without the path, which names a folder of the test's."""
    with pytest.raises(SourceError) as caught:
        read(path)
    return str(caught.value).replace(str(path), "FILE")


# --- finding


def test_migrations_are_found_in_ascending_order_of_their_number(
    folder: Folder, write: Callable[..., Path]
) -> None:
    for name in ("10_a.py", "9-b.py", "0100_c.py", "20261122001_d.py"):
        write(name=name)
    found = folder.discover()
    assert [file.version for file in found.files] == [9, 10, 100, 20261122001]
    assert [file.name for file in found.files] == ["b", "a", "c", "d"]


def test_private_and_hidden_files_are_no_migrations(
    folder: Folder, write: Callable[..., Path]
) -> None:
    for name in ("__init__.py", "_shared.py", ".1_hidden.py", "README.md"):
        write("not python at all", name)
    assert folder.discover() == Discovery((), ())


def test_numbered_files_with_another_ending_are_named_as_ignored(
    folder: Folder, write: Callable[..., Path]
) -> None:
    for name in ("1_a.js", "2_b.PY", "3-c.txt", "4_d.py~", "notes.txt"):
        write(name=name)
    found = folder.discover()
    assert (found.files, found.ignored) == ((), ("1_a.js", "2_b.PY", "3-c.txt", "4_d.py~"))


def test_a_folder_called_like_a_migration_is_none(folder: Folder) -> None:
    (folder.path / "1_old.py").mkdir()
    assert folder.discover().files == ()


@pytest.mark.parametrize("other", ["versions", "alembic.ini"])
def test_a_folder_of_alembic_is_recognized(tmp_path: Path, other: str) -> None:
    (tmp_path / "env.py").touch()
    (tmp_path / other).mkdir() if other == "versions" else (tmp_path / other).touch()
    with pytest.raises(ForeignFolderError, match="MIGRATE_DIRECTORY"):
        Folder(tmp_path).discover()


def test_a_link_to_a_migration_is_one(folder: Folder, tmp_path: Path) -> None:
    shared = tmp_path / "_shared"
    shared.mkdir()
    (shared / "change.py").write_text(UP)
    (folder.path / "1_linked.py").symlink_to(shared / "change.py")
    assert [file.version for file in folder.discover().files] == [1]


def test_a_link_that_leads_nowhere_is_named_and_not_ignored(folder: Folder) -> None:
    (folder.path / "1_gone.py").symlink_to(folder.path / "nowhere")
    with pytest.raises(SourceError, match=r"1_gone\.py: it cannot be read: No such file"):
        folder.discover().usable()


def test_a_pipe_called_like_a_migration_is_not_waited_for(folder: Folder) -> None:
    os.mkfifo(folder.path / "1_pipe.py")
    assert folder.discover().files == ()


def test_a_missing_folder_has_no_migrations(tmp_path: Path) -> None:
    assert Folder(tmp_path / "none").discover() == Discovery((), has_folder=False)


@pytest.mark.parametrize(
    ("name", "reason"), [("file", "Not a directory"), ("n" * 300, "File name too long")]
)
def test_a_folder_that_cannot_be_read_is_an_error_with_the_reason(
    tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=f"cannot be read: {reason}.*MIGRATE_DIRECTORY"):
        Folder(tmp_path / name).discover()


def test_two_files_with_one_number_are_both_named(
    folder: Folder, write: Callable[..., Path]
) -> None:
    for name in ("7_one.py", "007-two.py", "8_other.py"):
        write(name=name)
    with pytest.raises(DuplicateVersionError, match=r"007-two\.py and 7_one\.py.*number, 7\."):
        folder.discover().usable()


def test_every_problem_of_a_folder_is_reported_at_once(
    folder: Folder, write: Callable[..., Path]
) -> None:
    write("def up(db:", "1_syntax.py")
    write("", "2_empty.py")
    write(name="unnumbered.py")
    write(name="3_a.py")
    write(name="3_b.py")
    found = folder.discover()
    assert [file.version for file in found.files] == [3]
    with pytest.raises(SeveralErrors) as caught:
        found.usable()
    said = str(caught.value)
    assert said.startswith("4 problems in the migrations folder:\n")
    for fact in ("1_syntax.py:1: syntax", "2_empty.py: it has no up", "unnumbered.py", "3_b.py"):
        assert fact in said
    assert len(caught.value.problems) == 4


def test_a_thousand_migrations_are_all_found(folder: Folder, write: Callable[..., Path]) -> None:
    for number in range(1000):
        write(BOTH, f"{number}_change.py")
    assert [file.version for file in folder.discover().files] == list(range(1000))


def test_the_highest_number_counts_files_that_cannot_be_read_and_folders_too(
    folder: Folder, write: Callable[..., Path]
) -> None:
    assert highest_version(folder.path) == 0
    write("broken(", "5_broken.py")
    assert highest_version(folder.path) == 5
    write(name="6_other.js")
    assert highest_version(folder.path) == 6
    (folder.path / "7_folder").mkdir()
    assert highest_version(folder.path) == 7


# --- files that are applied and unchanged


def trust(path: Path, **changes: Any) -> dict[int, Record]:
    """Return the record of an applied migration whose file has this content."""
    record = a_record(1, checksum=checksum(path.read_bytes()), **changes)
    return {1: record}


def test_an_applied_file_that_is_unchanged_is_described_by_its_record_and_not_parsed(
    folder: Folder, write: Callable[..., Path]
) -> None:
    trusted = trust(write("def up(db:"), name="Name", description="Why", reversible=False)
    (file,) = folder.discover(trusted).files
    assert (file.version, file.name, file.description) == (1, "Name", "Why")
    assert (file.reversible, file.path) == (False, folder.path / "1_change.py")
    assert file.checksum == trusted[1].checksum


def test_the_record_of_a_file_describes_it_as_parsing_does(
    folder: Folder, write: Callable[..., Path]
) -> None:
    path = write(f'"""Why."""\nname = "Name"\n{BOTH}')
    digest = read(path).digest
    trusted = trust(path, name="Name", description="Why.", reversible=True, digest=digest)
    assert folder.discover(trusted) == folder.discover()


def test_an_applied_file_that_has_changed_is_parsed(
    folder: Folder, write: Callable[..., Path]
) -> None:
    trusted = trust(write(UP))
    path = write(f"transactional = True\n{UP}")
    assert folder.discover(trusted).files == (read(path),)
    write("def up(db:")
    with pytest.raises(SourceError, match="syntax error"):
        folder.discover(trusted).usable()


def test_a_record_without_a_checksum_or_of_another_version_is_not_trusted(
    folder: Folder, write: Callable[..., Path]
) -> None:
    path = write(UP)
    other = {2: replace(trust(path)[1], version=2, name="other")}
    unknown = {1: a_record(1, checksum=None, name="unknown")}
    for trusted in (other, unknown):
        assert folder.discover(trusted).files == (read(path),)


def test_two_applied_files_with_one_number_are_both_named(
    folder: Folder, write: Callable[..., Path]
) -> None:
    trusted = trust(write(name="1_a.py"))
    write(name="1_b.py")
    with pytest.raises(DuplicateVersionError, match=r"1_a\.py and 1_b\.py"):
        folder.discover(trusted).usable()


def test_a_file_that_was_not_parsed_does_not_run_without_its_flags(
    folder: Folder, write: Callable[..., Path]
) -> None:
    trusted = trust(write(f"transactional = True\n{UP}"))
    (file,) = folder.discover(trusted).files
    with pytest.raises(SourceError, match="transactional is True once the file is executed"):
        load(Step(file, Direction.UP))


# --- names


@pytest.mark.parametrize("name", ["change.py", "20261122001.py", "1change.py", "v1_change.py"])
def test_a_file_without_a_number_is_named_with_a_name_that_is_free(
    folder: Folder, write: Callable[..., Path], name: str
) -> None:
    write(name="99990101001_far.py")
    said = problem(write(name=name))
    assert "no number" in said
    assert "Rename it to 99990101002_" in said
    assert f"or to _{name} if it is not a migration" in said


@pytest.mark.parametrize("name", ["1_a\nb.py", "1_a\rb.py"])
def test_a_line_break_in_the_name_of_a_file_is_refused_and_hides_no_number(
    folder: Folder, write: Callable[..., Path], name: str
) -> None:
    write(name=name)
    problem = folder.discover().broken[1]
    assert "has a line break" in str(problem)
    assert not {"\n", "\r"} & set(str(problem))


def test_a_file_name_that_is_not_unicode_can_be_stored(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/1_caf\xe9.py"
    with open(path, "wb") as file:  # noqa: PTH123  (the name is bytes)
        file.write(UP.encode())
    (file_,) = Folder(tmp_path).discover().files
    assert file_.name.encode() == b"caf\\udce9"


def test_name_and_description_default_to_the_file_name_and_the_docstring(
    write: Callable[..., Path],
) -> None:
    file = read(write('"""Say what.\n\n    And why.\n"""\n' + UP, "1_add-user_index.py"))
    assert (file.name, file.description) == ("add user index", "Say what.\n\nAnd why.")


@pytest.mark.parametrize(
    "source",
    [
        "name = 'N'\ndescription = 'D'\ntransactional = True\nidempotent = True\n",
        "name: str = 'N'\ndescription: str = 'D'\ntransactional: bool = True\nidempotent: bool = True\n",
        "name, description = 'N', 'D'\ntransactional = idempotent = True\n",
        "(name, (description, transactional)), idempotent = ('N', ('D', True)), True\n",
        "name = 'x'\nname = 'N'\ndescription = 'D'\ntransactional, idempotent = True, True\n",
    ],
)
def test_declarations_are_read_however_they_are_written(
    write: Callable[..., Path], source: str
) -> None:
    file = read(write(source + UP))
    assert (file.name, file.description) == ("N", "D")
    assert (file.transactional, file.idempotent) == (True, True)


def test_nothing_is_declared_by_default(write: Callable[..., Path]) -> None:
    file = read(write("transactional: bool\n" + UP))
    assert (file.transactional, file.idempotent, file.reversible) == (False, False, False)


@pytest.mark.parametrize(
    ("transactional", "idempotent", "safe"),
    [(False, False, False), (True, False, True), (False, True, True)],
)
def test_what_is_transactional_or_idempotent_is_safe_to_repeat(
    write: Callable[..., Path], *, transactional: bool, idempotent: bool, safe: bool
) -> None:
    source = f"transactional = {transactional}\nidempotent = {idempotent}\n{UP}"
    assert read(write(source)).safe_to_repeat == safe


@pytest.mark.parametrize(
    ("declaration", "wanted"),
    [
        ("name = 'a' + x", "a plain string"),
        ("name = f'{1}'", "a plain string"),
        ("name = None", "a plain string"),
        ("name = {[]: 1}", "a plain string"),
        ("description = str(1)", "a plain string"),
        ("description = b'x'", "a plain string"),
        ("name, description = pair()", "a plain string"),
        ("transactional = 1", "True or False"),
        ("transactional = 'yes'", "True or False"),
        ("idempotent = not False", "True or False"),
        ("transactional = DEFAULT = object()", "True or False"),
    ],
)
def test_a_declaration_that_is_not_a_literal_is_refused_with_its_line(
    write: Callable[..., Path], declaration: str, wanted: str
) -> None:
    said = problem(write(f"\n\n{declaration}\n{UP}"))
    assert said.startswith("FILE:3: ")
    assert wanted in said


@pytest.mark.parametrize("name", ["''", "'  '", "'\\n'"])
def test_the_file_name_replaces_a_blank_name(write: Callable[..., Path], name: str) -> None:
    assert read(write(f"name = {name}\n{UP}")).name == "change"


def test_a_file_name_of_nothing_but_separators_is_called_by_its_number(
    write: Callable[..., Path],
) -> None:
    assert read(write(name="1__.py")).name == "1"


def test_lone_surrogates_are_written_out_since_nothing_can_store_them(
    write: Callable[..., Path],
) -> None:
    file = read(write("name, description = 'N \\ud800', 'D \\ud800'\n" + UP))
    assert (file.name, file.description) == ("N \\ud800", "D \\ud800")


# --- up and down


@pytest.mark.parametrize(
    ("source", "reversible"),
    [
        ("def up(db): pass\ndef down(db): pass", True),
        ("def up(db): pass", False),
        (
            "def up(db): pass\ndef down(db):\n    'To do.'\n    raise NotImplementedError('soon')",
            False,
        ),
        ("def up(db): pass\ndef down(db): raise ValueError", True),
        ("def up(db): pass\ndown = None", False),
        ("def up(db): pass\ndef down(db): pass\ndown = None", False),
        ("def up(db): pass\ndown = None\ndef down(db): pass", True),
        ("def up(db): pass\nclass Tools:\n    def down(self): pass", False),
        ("from shared import up, down", True),
        ("from shared import make as up, undo as down", True),
        ("from shared import up as make\nfrom shared import up", False),
        ("import shared\nup = shared.make()\ndown = shared.undo", True),
        ("import shared\nup, down = shared.pair()", True),
        ("up = lambda db: None\ndown: object = lambda db: None", True),
        ("@wrap\ndef up(x): pass\n@wrap\ndef down(x, y): pass", True),
    ],
)
def test_a_down_is_found_however_it_is_bound_and_the_last_binding_counts(
    write: Callable[..., Path], source: str, *, reversible: bool
) -> None:
    assert read(write(source)).reversible == reversible


@pytest.mark.parametrize(
    "source",
    [
        "",
        "def down(db): pass",
        "up = None",
        "up: object",
        "import up",
        "class A:\n    def up(self, db): pass",
    ],
)
def test_a_file_without_up_is_refused(write: Callable[..., Path], source: str) -> None:
    assert problem(write(source)).startswith("FILE: it has no up(). Add `def up(db):`")


@pytest.mark.parametrize("name", ["up", "down"])
def test_an_async_function_is_refused_with_its_line(write: Callable[..., Path], name: str) -> None:
    said = problem(write(f"def up(db): pass\n\nasync def {name}(db): pass"))
    assert said.startswith(f"FILE:3: {name}() is async or a generator")


PARAMETERS = [
    ("", None),
    ("db", None),
    ("ctx", None),
    ("ctx, db", None),
    ("*, db, ctx", None),
    ("db, batch=500", None),
    ("db, *, batch=500", None),
    ("batch=500, /, db=None", None),
    ("db, *args, **kwargs", None),
    ("database", "database"),
    ("db, session", "session"),
    ("db, *, session", "session"),
    ("db, ctx, more", "more"),
    ("self, db", "self"),
    ("db, /", "db"),
    ("db=None, /", "db"),
    ("x, /, db", "x"),
]


@pytest.mark.parametrize(("parameters", "refused"), PARAMETERS)
@pytest.mark.parametrize("name", ["up", "down"])
def test_only_what_can_be_passed_by_name_may_be_asked_for(
    write: Callable[..., Path], name: str, parameters: str, refused: str | None
) -> None:
    path = write(f"{UP}\ndef {name}({parameters}): pass")
    if refused is None:
        assert read(path).version == 1
    else:
        said = problem(path)
        assert said.startswith(f"FILE:3: {name}() asks for {refused!r}, but only db and ctx")
        assert f"`def {name}(db):`" in said


@pytest.mark.parametrize(("parameters", "refused"), PARAMETERS)
def test_the_parameters_of_a_decorated_function_are_checked_when_it_is_loaded(
    write: Callable[..., Path], parameters: str, refused: str | None
) -> None:
    path = write(f"same = lambda f: f\n@same\ndef up({parameters}): pass")
    planned = step(path)
    if refused is None:
        assert callable(load(planned))
    else:
        with pytest.raises(SourceError, match=rf"{path.name}:2: up\(\) asks for '{refused}'"):
            load(planned)


def test_the_line_of_a_wrong_parameter_is_that_of_the_parameter(
    write: Callable[..., Path],
) -> None:
    assert problem(write("def up(\n    db,\n    session,\n): pass")).startswith("FILE:3: ")


# --- files that are not Python


def test_a_syntax_error_is_named_with_its_line(write: Callable[..., Path]) -> None:
    said = problem(write("x = 1\n\ndef up(db)\n    pass"))
    assert said.startswith("FILE:3: syntax error: ")
    assert said.endswith(". Fix the file, then try again.")


@pytest.mark.parametrize("statement", ["return 1", "break", "nonlocal x", "def f(a, a): pass"])
def test_what_only_the_compiler_finds_is_a_syntax_error_too(
    write: Callable[..., Path], statement: str
) -> None:
    assert problem(write(f"{UP}{statement}")).startswith("FILE:2: syntax error: ")


@pytest.mark.parametrize("content", [b"x = 1\0\n", b"\0"])
def test_null_bytes_are_refused(write: Callable[..., Path], content: bytes) -> None:
    assert "null bytes" in problem(write(content + UP.encode()))


def test_a_file_that_is_not_utf_8_is_refused_unless_it_says_its_encoding(
    write: Callable[..., Path],
) -> None:
    latin = f"name = 'Größe'\n{UP}".encode("latin-1")
    assert "utf-8" in problem(write(latin))
    assert read(write(b"# coding: latin-1\n" + latin)).name == "Größe"


def test_an_unknown_encoding_is_refused(write: Callable[..., Path]) -> None:
    assert "syntax error" in problem(write(b"# coding: klingon\n" + UP.encode()))


def test_a_byte_order_mark_is_ignored(write: Callable[..., Path]) -> None:
    path = write(b"\xef\xbb\xbf" + BOTH.encode())
    assert read(path).reversible
    assert function_of(step(path))(None) == "up"


def test_an_expression_too_deep_for_python_is_refused(write: Callable[..., Path]) -> None:
    said = problem(write(f"{UP}x = {'-' * 100_000}1"))
    assert said.startswith("FILE: ")
    assert said.endswith("Fix the file, then try again.")


def test_a_folder_in_the_place_of_a_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    assert "it cannot be read: Is a directory" in problem(tmp_path)


def test_reading_executes_nothing(
    folder: Folder, write: Callable[..., Path], tmp_path: Path
) -> None:
    trace = tmp_path / "executed"
    write(f"open({str(trace)!r}, 'w')\nname = 'n'\n{UP}")
    folder.discover()
    assert not trace.exists()


# --- the checksum


def test_the_checksum_is_indifferent_to_the_line_ends_of_windows(
    write: Callable[..., Path],
) -> None:
    unix = read(write(BOTH)).checksum
    assert read(write(BOTH.replace("\n", "\r\n"))).checksum == unix
    assert read(write(BOTH + "#")).checksum != unix
    assert checksum(b"") != checksum(b"\n")


# --- loading


def test_loading_gives_the_function_of_the_direction(write: Callable[..., Path]) -> None:
    path = write(BOTH)
    assert function_of(step(path))({}) == "up"
    assert function_of(step(path, Direction.DOWN))({}) == "down"


def test_a_loaded_migration_knows_its_file_and_can_be_found_by_name(
    write: Callable[..., Path],
) -> None:
    path = write("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n" + UP)
    function = function_of(step(path))
    module = sys.modules[function.__module__]
    assert module.__file__ == str(path)
    assert module.up is function


def test_loading_leaves_no_compiled_file_behind(folder: Folder, write: Callable[..., Path]) -> None:
    load(step(write()))
    assert [path.name for path in folder.path.iterdir()] == ["1_change.py"]


def test_a_file_that_changed_after_it_was_planned_is_not_imported(
    write: Callable[..., Path],
) -> None:
    planned = step(write())
    write("raise SystemExit('imported')")
    with pytest.raises(FileChangedError, match=r"changed while this run was starting\. Run it"):
        load(planned)


def test_a_change_that_keeps_size_and_times_is_noticed(write: Callable[..., Path]) -> None:
    path = write("def up(db): return 1\n")
    planned, times = step(path), path.stat()
    write("def up(db): return 2\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(FileChangedError):
        load(planned)


def test_a_file_that_is_saved_without_a_change_is_imported(write: Callable[..., Path]) -> None:
    planned = step(write(BOTH))
    os.utime(write(BOTH), (0, 0))
    assert function_of(planned)(None) == "up"


class Rewritten(type(Path())):  # type: ignore[misc]
    """A file that an editor saves right after it was read."""

    def read_bytes(self) -> bytes:
        content: bytes = super().read_bytes()
        self.write_text("raise SystemExit('saved meanwhile')")
        return content


def test_a_file_that_changes_after_it_was_checked_is_imported_as_it_was_checked(
    write: Callable[..., Path],
) -> None:
    planned = step(write(BOTH))
    planned = replace(planned, file=replace(planned.file, folder=Rewritten(planned.file.folder)))
    assert function_of(planned)(None) == "up"
    assert "saved meanwhile" in planned.file.path.read_text()


def test_a_file_that_vanished_after_it_was_planned_is_named(write: Callable[..., Path]) -> None:
    path = write()
    planned = step(path)
    path.unlink()
    with pytest.raises(SourceError, match=r"1_change\.py: it cannot be read: No such file"):
        load(planned)


def test_what_runs_are_the_bytes_that_were_checked_and_not_a_stale_cache(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write("def up(db): return 1\n")
    assert function_of(step(path))(None) == 1
    times = path.stat()
    write("def up(db): return 2\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert function_of(step(path))(None) == 2


def test_two_folders_with_one_version_share_no_module(tmp_path: Path) -> None:
    functions = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1_change.py").write_text(f"x = {name!r}\ndef up(db): return x\n")
        functions.append(function_of(step(tmp_path / name / "1_change.py")))
    assert functions[0].__module__ != functions[1].__module__
    assert [function(None) for function in functions] == ["a", "b"]


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize(
    ("statement", "kind", "said"),
    [
        ("1 / 0", ZeroDivisionError, "division by zero"),
        ("import no_such_module", ModuleNotFoundError, "No module named 'no_such_module'"),
        ("raise SystemExit(3)", SystemExit, "3"),
        ("raise OSError('mongodb://anna:secret@host/')", OSError, "mongodb://***@host/"),
    ],
)
def test_an_exception_during_the_import_is_named_with_its_line_and_kept_as_the_cause(
    write: Callable[..., Path],
    statement: str,
    kind: type[BaseException],
    said: str,
    direction: Direction,
) -> None:
    planned = step(write(f"{BOTH}\n{statement}\n"), direction)
    before = set(sys.modules)
    with pytest.raises(ImportFailedError) as caught:
        load(planned)
    assert str(caught.value) == (
        f"{planned.file.path}:4: importing it raised {kind.__name__}: {said}. Nothing of the plan "
        f"has run. Fix the file, then run `flask db-migrate {direction.value}` again."
    )
    assert type(caught.value.__cause__) is kind
    assert set(sys.modules) == before


def test_the_line_is_that_of_the_migration_when_a_module_of_its_own_fails(
    write: Callable[..., Path],
) -> None:
    planned = step(write(f"{UP}\nimport json\njson.loads('{{')\n"))
    with pytest.raises(ImportFailedError, match=r"1_change\.py:4: importing it raised JSONDecode"):
        load(planned)


def test_the_line_is_the_innermost_one_within_the_migration(write: Callable[..., Path]) -> None:
    planned = step(write(f"def prepare():\n    1 / 0\n{UP}prepare()\n"))
    with pytest.raises(
        ImportFailedError, match=r"1_change\.py:2: importing it raised ZeroDivision"
    ):
        load(planned)


def test_an_interrupt_while_importing_stays_an_interrupt(write: Callable[..., Path]) -> None:
    planned = step(write(f"{UP}raise KeyboardInterrupt"))
    before = set(sys.modules)
    with pytest.raises(KeyboardInterrupt):
        load(planned)
    assert set(sys.modules) == before


def test_an_error_that_cannot_be_printed_is_still_the_cause(write: Callable[..., Path]) -> None:
    source = "class Mute(Exception):\n    def __str__(self): return 1 / 0\nraise Mute\n"
    planned = step(write(UP + source))
    with pytest.raises(ImportFailedError, match="raised Mute: <no message: its __str__"):
        load(planned)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("up = 5", "up is not a function"),
        ("make = lambda: None\nup = make()", "up is not a function"),
        ("async def _up(db): pass\nup = _up", r":1: up\(\) is async or a generator"),
        ("def up(db):\n    yield", r":1: up\(\) is async or a generator"),
        ("async def _up(db): yield\nup = _up", r"up\(\) is async or a generator"),
        ("up = iter", "the parameters of up cannot be read|asks for"),
        ("up = dict", "the parameters of up cannot be read"),
        ("from functools import partial\nup = partial(lambda a, b: 0, a=1)", "asks for 'b'"),
    ],
)
def test_what_could_not_be_called_is_refused_before_anything_runs(
    write: Callable[..., Path], source: str, said: str
) -> None:
    planned = step(write(source))
    with pytest.raises(SourceError, match=said):
        load(planned)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("if True:\n    transactional = True\n", True),
        ("transactional = True\ntransactional &= False\n", False),
        ("globals()['idempotent'] = True\n", True),
    ],
)
def test_a_flag_that_reading_could_not_find_is_refused_before_anything_runs(
    write: Callable[..., Path], source: str, *, value: bool
) -> None:
    planned = step(write(source + UP))
    with pytest.raises(SourceError, match=f" is {value} once the file is executed"):
        load(planned)


def test_a_function_called_like_a_flag_is_no_flag(write: Callable[..., Path]) -> None:
    path = write("def idempotent(f): return f\n@idempotent\ndef up(db): pass\n")
    assert callable(load(step(path)))


# --- calling


def called(function: Callable[..., object]) -> list[object]:
    """Call the function, which appends what it got."""
    got: list[object] = []
    call(types.MethodType(function, got), {"db": "DB", "ctx": "CTX"})
    return got


def test_a_function_gets_the_arguments_that_it_names_in_any_order() -> None:
    def nothing(got: list[object]) -> None:
        got.append(())

    def both(got: list[object], ctx: object, *, db: object, batch: int = 500) -> None:
        got += [db, ctx, batch]

    def one(got: list[object], db: object) -> None:
        got.append(db)

    assert called(nothing) == [()]
    assert called(both) == ["DB", "CTX", 500]
    assert called(one) == ["DB"]


def test_a_function_that_takes_anything_gets_everything() -> None:
    def anything(got: list[object], **kwargs: object) -> None:
        got.append(kwargs)

    assert called(anything) == [{"db": "DB", "ctx": "CTX"}]


def test_a_call_that_only_made_something_to_be_run_later_is_a_failure() -> None:
    async def coroutine() -> None: ...

    def generator() -> object:
        yield

    async def async_generator() -> object:
        yield

    for lazy in (coroutine, generator, async_generator):
        with pytest.raises(StepError, match=f"ran nothing: it returned a {lazy.__name__}"):
            call(lambda lazy=lazy: lazy(), {"db": None, "ctx": None})
