"""Collects what the processes of a test sent that mongod would refuse, or that few deployments accept."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conformance import EXPECTED_NOTES, FOLDER, watch

if TYPE_CHECKING:
    from collections.abc import Iterator


class Conformance:
    """Watches this process and those that it starts, and collects what they report in a folder."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="conformance-"))
        self._seen: dict[Path, int] = {}
        self._unread: dict[bool, list[str]] = {True: [], False: []}
        self._patch = pytest.MonkeyPatch()
        self._watch()

    def _watch(self) -> None:
        self._patch.setenv(FOLDER, str(self._folder))
        watch(self._patch.setattr)

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Do not watch for a while."""
        self._patch.undo()
        try:
            yield
        finally:
            self._watch()

    def stop(self) -> None:
        """End the watch."""
        self._patch.undo()
        shutil.rmtree(self._folder, ignore_errors=True)

    def findings(self) -> list[str]:
        """Take the violations, and the notes that are not expected, since the last call."""
        return sorted({line for line in self._taken(sessions=False) if _is_finding(line)})

    def sessions(self) -> list[bytes]:
        """Take the ids of the sessions that were first used since the last call."""
        return [bytes.fromhex(line.split("\t")[1]) for line in self._taken(sessions=True)]

    def _taken(self, *, sessions: bool) -> list[str]:
        for line in self._lines():
            self._unread[line.startswith("session\t")].append(line)
        found, self._unread[sessions] = self._unread[sessions], []
        return found

    def _lines(self) -> Iterator[str]:
        for log in self._folder.iterdir():
            with log.open(encoding="utf-8") as lines:
                lines.seek(self._seen.get(log, 0))
                yield from lines.read().splitlines()
                self._seen[log] = lines.tell()


def _is_finding(line: str) -> bool:
    kind, text, name = line.split("\t")
    return kind == "violation" or (text, name) not in EXPECTED_NOTES
