"""What reading a folder's migrations gave, kept so that only files that changed are read again.

Nothing depends on it: whatever is wrong with what was kept, or with the place, the files are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
import sys
import time
from dataclasses import astuple, dataclass
from functools import cache
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flask_migrate_mongo.model.values import Allowance, MigrationFile

if TYPE_CHECKING:
    from collections.abc import Mapping

YOUNG = 2.0
"""Seconds in which a second change of a file may leave no trace in its times; on FAT it is two."""

_READERS = ("source.py", "suppressions.py", "../model/values.py", "cache.py")
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH

_log = logging.getLogger("flask_migrate_mongo.cache")


class Stamp(NamedTuple):
    """What changes when a file does."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> Stamp:
        """Return that of a file."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)

    @property
    def is_settled(self) -> bool:
        """Whether a change from now on would make another stamp."""
        return max(self.mtime_ns, self.ctime_ns) / 1e9 + YOUNG < time.time()


Known = dict[str, tuple[Stamp, MigrationFile]]
"""Files by their names, each as it was when it had that stamp."""


@dataclass(frozen=True, slots=True)
class Cache:
    """A place for what is known of the migrations of folders; None keeps nothing.

    Readable and writable for this user alone, and believed only when it is.
    """

    place: Path | None = None

    @classmethod
    def of_user(cls) -> Cache:
        """Return the one in the platform's folder for what can be made again."""
        import platformdirs  # noqa: PLC0415  (needed by commands that read the files)

        try:
            return cls(platformdirs.user_cache_path("flask-migrate-mongo", appauthor=False))
        except RuntimeError as exc:
            _log.debug("There is no place to keep anything: %s", exc)
            return cls()

    def load(self, folder: Path) -> Known:
        """Return what is known of a folder's files."""
        path = self._path(folder)
        try:
            return _decoded(folder, _own(path)) if path else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as exc:
            _log.debug("Nothing is taken from %s: %s", path, exc)
            return {}

    def store(self, folder: Path, known: Known) -> None:
        """Keep what is known of a folder's files, in place of what was."""
        path = self._path(folder)
        if path is None:
            return
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(path, _encoded(folder, known))
        except (OSError, TypeError) as exc:
            _log.debug("Nothing is kept in %s: %s", path, exc)

    def forget(self, folder: Path) -> None:
        """Keep nothing of a folder."""
        path = self._path(folder)
        with contextlib.suppress(OSError):
            if path:
                path.unlink(missing_ok=True)

    def _path(self, folder: Path) -> Path | None:
        # Relative, without a home, in some versions of platformdirs: it would be made anywhere.
        if self.place is None or not self.place.is_absolute():
            return None
        return self.place / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}.json"


# --- what is in the file: a digest, and on the next line the document that it is of


def _encoded(folder: Path, known: Known) -> bytes:
    files = {name: [stamp, _contained(file)] for name, (stamp, file) in known.items()}
    document = {"readBy": _reader(), "folder": str(folder), "files": files}
    content = json.dumps(document, separators=(",", ":")).encode()
    return _digest(content) + b"\n" + content


def _decoded(folder: Path, data: bytes) -> Known:
    digest, _, content = data.partition(b"\n")
    if digest != _digest(content):
        msg = "it is damaged"
        raise ValueError(msg)
    document: Mapping[str, Any] = json.loads(content)
    if document["readBy"] != _reader() or document["folder"] != str(folder):
        msg = "another version wrote it, or it is of another folder"
        raise ValueError(msg)
    return {
        name: (Stamp(*stamp), _file(folder, name, contained))
        for name, (stamp, contained) in document["files"].items()
    }


def _contained(file: MigrationFile) -> list[Any]:
    _folder, _file_name, *contained = astuple(file)
    return contained


def _file(folder: Path, name: str, contained: list[Any]) -> MigrationFile:
    *values, allowances = contained
    return MigrationFile(*[folder, name, *values, tuple(starmap(Allowance, allowances))])


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


@cache
def _reader() -> str:
    """Return what tells the code that reads files, and the Python it runs on, from any other."""
    found = hashlib.sha256(sys.version.encode())
    for name in _READERS:
        found.update((Path(__file__).parent / name).read_bytes())
    return found.hexdigest()


# --- the file


def _own(path: Path) -> bytes:
    """Read a file. Raises OSError unless it is this user's, and nobody else could have written it."""
    # Neither through a link nor waiting for whom a pipe belongs to.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        _ensure_own(os.fstat(file.fileno()), stat.S_ISREG)
        return file.read()


def _replace(path: Path, data: bytes) -> None:
    import tempfile  # noqa: PLC0415  (only for what changed)

    _ensure_own(path.parent.stat(), stat.S_ISDIR)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def _ensure_own(found: os.stat_result, is_kind: Any) -> None:  # noqa: ANN401  (of the stat module)
    mine = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
    # Windows has no such bits: there, the folder is the user's own profile.
    private = os.name == "nt" or not found.st_mode & _OTHERS_MAY_WRITE
    if not (mine and private and is_kind(found.st_mode)):
        msg = "it is not this user's alone"
        raise PermissionError(msg)
