"""What is remembered of unchanged files: as good as reading them, and never trusted too far."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flask_migrate_mongo.files import cache as room
from flask_migrate_mongo.files import source
from flask_migrate_mongo.files.cache import Cache, Stamp
from flask_migrate_mongo.files.source import Discovery, Folder
from flask_migrate_mongo.model.errors import FileChangedError, SourceError
from flask_migrate_mongo.model.values import Direction, Step

if TYPE_CHECKING:
    from collections.abc import Callable

LONG_AGO = time.time_ns() - 3600 * 10**9
SOURCES = {
    "1_plain.py": "# migrate: allow MM001 because nobody goes back\ndef up(db): pass\n",
    "2_all.py": '"""Says what."""\nname = "All ✓"\ntransactional = idempotent = True\n'
    "def up(db, ctx): pass\ndef down(db): pass\n",
    "003-undecodable-\udcff.py": "description = 'x \\udcff'\ndef up(db): pass\n",
    "4_windows.py": "def up(db):\r\n    pass\r\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """Files that are long settled: a change of theirs cannot go unseen."""
    monkeypatch.setattr(room, "YOUNG", -60)
    path = tmp_path / "migrations"
    path.mkdir()
    for name, text in SOURCES.items():
        (path / name).write_bytes(text.encode())
    return Folder(path, Cache(tmp_path / "cache"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read from now on."""
    names: list[str] = []
    original = source.content_of

    def content(path: Path) -> bytes:
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(source, "content_of", content)
    return names


def kept(folder: Folder) -> Path:
    (path,) = (folder.cache.place or Path()).iterdir()
    return path


def shown(found: Discovery) -> str:
    """Return the files with the types of their values, which equality does not tell apart."""
    return repr(found.files)


def test_what_is_remembered_is_what_reading_gives(folder: Folder, read: list[str]) -> None:
    first = folder.discover()
    assert sorted(read) == sorted(SOURCES)
    read.clear()
    again = folder.discover()
    assert read == []
    assert shown(again) == shown(first) == shown(Folder(folder.path).discover())
    assert (again.files, dict(again.readings)) == (first.files, {})


def touch(path: Path) -> None:
    os.utime(path, ns=(LONG_AGO, LONG_AGO))


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"# more\n")


def edit_in_place(path: Path) -> None:
    """Change the content, but neither the size nor the time of the change."""
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"pass", b"None"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def put_another_in_its_place(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes().replace(b"pass", b"None"))
    other.replace(path)


@pytest.mark.parametrize("change", [touch, append, edit_in_place, put_another_in_its_place])
def test_only_a_file_that_changed_is_read_again(
    folder: Folder, read: list[str], change: Callable[[Path], None]
) -> None:
    folder.discover()
    # The clock of the file system has ticked before the change.
    time.sleep(0.02)
    read.clear()
    change(folder.path / "1_plain.py")
    again = folder.discover()
    assert read == ["1_plain.py"]
    assert shown(again) == shown(Folder(folder.path).discover())


def test_files_that_come_and_go_are_noticed(folder: Folder, read: list[str]) -> None:
    folder.discover()
    read.clear()
    (folder.path / "1_plain.py").unlink()
    (folder.path / "5_new.py").write_text("def up(db): pass\n")
    assert [file.version for file in folder.discover().files] == [2, 3, 4, 5]
    assert read == ["5_new.py"]
    assert "1_plain.py" not in kept(folder).read_text()


def test_a_file_that_cannot_be_used_is_read_each_time(folder: Folder, read: list[str]) -> None:
    folder.discover()
    (folder.path / "5_bad.py").write_text("name = 1\n")
    for _ in range(2):
        read.clear()
        with pytest.raises(SourceError, match="5_bad"):
            folder.discover()
        assert read == ["5_bad.py"]


def test_a_file_so_young_that_a_change_could_go_unseen_is_not_remembered(
    folder: Folder, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "YOUNG", 60)
    folder.discover()
    read.clear()
    folder.discover()
    assert sorted(read) == sorted(SOURCES)


def test_a_stamp_is_settled_once_its_times_are_past() -> None:
    now = time.time_ns()
    old, young = now - 10 * 10**9, now - 10**9
    assert Stamp(1, old, old, 1).is_settled
    assert not Stamp(1, young, old, 1).is_settled
    assert not Stamp(1, old, young, 1).is_settled


# --- what is wrong with it is passed over


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    """Leave valid JSON that says something else."""
    path.write_bytes(path.read_bytes().replace(b'"All', b'"Bll', 1))


def rubbish(path: Path) -> None:
    path.write_bytes(os.urandom(200))


def by_another_version(path: Path) -> None:
    document = json.loads(path.read_bytes().partition(b"\n")[2])
    content = json.dumps(document | {"readBy": "another"}).encode()
    path.write_bytes(room._digest(content) + b"\n" + content)


def of_another_folder(path: Path) -> None:
    document = json.loads(path.read_bytes().partition(b"\n")[2])
    content = json.dumps(document | {"folder": "/another"}).encode()
    path.write_bytes(room._digest(content) + b"\n" + content)


def writable_for_all(path: Path) -> None:
    path.chmod(0o666)


def a_link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BREAK = [
    *(cut, empty, flip, rubbish, by_another_version, of_another_folder),
    *(writable_for_all, a_link, a_pipe, a_folder),
]


@pytest.mark.parametrize("damage", BREAK)
def test_what_is_damaged_or_not_ours_is_passed_over(
    folder: Folder, read: list[str], damage: Callable[[Path], None]
) -> None:
    first = folder.discover()
    damage(kept(folder))
    read.clear()
    assert shown(folder.discover()) == shown(first)
    assert sorted(read) == sorted(SOURCES)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give away"
)
def test_what_belongs_to_somebody_else_is_passed_over(folder: Folder, read: list[str]) -> None:
    first = folder.discover()
    os.chown(kept(folder), 12345, -1)
    read.clear()
    assert shown(folder.discover()) == shown(first)
    assert sorted(read) == sorted(SOURCES)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give away"
)
def test_nothing_is_written_to_a_folder_of_somebody_else(folder: Folder) -> None:
    place = folder.cache.place
    assert place is not None
    place.mkdir()
    os.chown(place, 12345, -1)
    folder.discover()
    assert list(place.iterdir()) == []


def test_it_is_for_this_user_alone(folder: Folder) -> None:
    folder.discover()
    path = kept(folder)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("place", ["/dev/null/cache", "/proc/cache", "not/absolute", None])
def test_a_place_that_cannot_be_written_does_no_harm(
    folder: Folder, read: list[str], place: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.path.parent)
    elsewhere = Folder(folder.path, Cache(None if place is None else Path(place)))
    for _ in range(2):
        read.clear()
        assert len(elsewhere.discover().files) == len(SOURCES)
        assert sorted(read) == sorted(SOURCES)
    assert not (folder.path.parent / "not").exists()


def test_a_full_disk_leaves_what_was_kept_and_no_rest(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.discover()
    before = kept(folder).read_bytes()

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (folder.path / "5_new.py").write_text("def up(db): pass\n")
    monkeypatch.setattr(Path, "replace", no_space)
    assert len(folder.discover().files) == 5
    assert kept(folder).read_bytes() == before


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    (tmp_path / "1_a.py").write_text("def up(db): pass\n")
    Folder(tmp_path, Cache.of_user()).discover()
    assert [path.name for path in tmp_path.iterdir()] == ["1_a.py"]


def test_two_folders_are_kept_apart(folder: Folder, tmp_path: Path, read: list[str]) -> None:
    other = Folder(tmp_path / "other", folder.cache)
    other.path.mkdir()
    (other.path / "1_plain.py").write_text("def up(db): pass\n")
    for each in (folder, other):
        each.discover()
    read.clear()
    assert [len(each.discover().files) for each in (folder, other)] == [4, 1]
    assert read == []


# --- loading what was found


def test_a_file_that_was_read_is_not_read_to_be_loaded(folder: Folder, read: list[str]) -> None:
    found = folder.discover()
    read.clear()
    assert callable(folder.load(Step(found.files[0], Direction.UP), found))
    assert read == []


def test_a_file_that_was_remembered_is_read_once_to_be_loaded(
    folder: Folder, read: list[str]
) -> None:
    folder.discover()
    found = folder.discover()
    read.clear()
    assert callable(folder.load(Step(found.files[0], Direction.UP), found))
    assert read == ["1_plain.py"]


@pytest.mark.parametrize("remembered", [False, True])
def test_a_file_that_changed_since_it_was_found_is_refused(
    folder: Folder, *, remembered: bool
) -> None:
    if remembered:
        folder.discover()
    found = folder.discover()
    append(folder.path / "1_plain.py")
    with pytest.raises(FileChangedError):
        folder.load(Step(found.files[0], Direction.UP), found)


def test_a_change_that_left_no_trace_is_refused_once_and_then_read(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = Stamp(1, 1, 1, 1)
    monkeypatch.setattr(source, "_stamp", lambda _: stamp)
    folder.discover()
    append(folder.path / "1_plain.py")
    found = folder.discover()
    with pytest.raises(FileChangedError):
        folder.load(Step(found.files[0], Direction.UP), found)
    found = folder.discover()
    assert callable(folder.load(Step(found.files[0], Direction.UP), found))


def test_of_what_was_read_only_what_is_planned_is_held(folder: Folder) -> None:
    found = folder.discover()
    assert set(found.readings) == {1, 2, 3, 4}
    assert set(found.keeping([2, 9]).readings) == {2}
