"""Writes a file whole or not at all, whenever the process is killed or the disk is full."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


def write_new(path: Path, content: bytes) -> None:
    """Create a file with this content. Raises FileExistsError.

    On a file system without hard links a kill can leave an empty file.
    """
    with _written_beside(path, content) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:
            path.touch(exist_ok=False)
            try:
                temporary.replace(path)
            except OSError:
                path.unlink()
                raise


def overwrite(path: Path, content: bytes) -> None:
    """Give a file, which need not exist, this content. A link to one stays. Raises FileExistsError for a device or a pipe."""
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        # The new file would take its place: of /dev/null, too.
        raise FileExistsError(errno.EEXIST, "it is no file that could be replaced", str(path))
    with _written_beside(path, content) as temporary:
        temporary.replace(path)


@contextlib.contextmanager
def _written_beside(path: Path, content: bytes) -> Iterator[Path]:
    # A hidden file is no migration.
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
