"""Golden files: what commands print in a terminal, each in a file of tests/golden.

`pytest --write-golden` writes the files anew. Read the difference before you commit it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pexpect

from .project import Project

if TYPE_CHECKING:
    from pymongo.database import Database

FOLDER = Path(__file__).with_name("golden")
COLUMNS, ROWS = 80, 24
SECONDS = 60
"""How long a command may take."""

# Placeholders are as wide as what they replace, so that columns stay where they are.
_PLACEHOLDERS: Mapping[str, str] = {
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d": "YYYY-MM-DD hh:mm:ss",
    r"\bt_[0-9a-f]{12}\b": "shop__________",
    r"\bt_[0-9a-f]{12}_rehearsal_[0-9a-f]{8}\b": "shop___________rehearsal_########",
    r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b": "<uuid>".ljust(36, "_"),
    r"\b[0-9a-f]{32}\b": "<run id>".ljust(32, "_"),
    r"(?<=127\.0\.0\.1:)\d{5}": "27017",
    r"/tmp/golden-\w{8}": "/home/anna/theshop/x",
    r"\b[\d,]+ documents/s": "# documents/s",
    # Not as wide: they stand in texts, not in columns.
    r"replica set [\w-]+(?=[):])": "replica set rs0",
    r"version \d+\.\d+\.\d+": "version #.#.#",
    r"\bfor \d+ s\b": "for # s",
    r"\(\d+ s\)": "(# s)",
    r"pymongo \d[\w.]*": "pymongo #.#.#",
    r"\b(\d+ ms|\d+\.\d\d? s) {2,}": "# ms  ",
    r"\b(\d+ ms|\d+\.\d\d? s)\b": "# ms",
    r"\bat most \d+ s\b": "at most # s",
}
_UP, _ERASE = "\x1b[1A", "\x1b[2K"
_MOVES = re.compile(r"(\n|\x1b\[1A|\x1b\[2K)")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\r")


def run_in_terminal(
    command: Sequence[str], environ: Mapping[str, str], *, columns: int = COLUMNS, cwd: Path
) -> str:
    """Run a command in a terminal without colours; return all that it printed and its exit code."""
    child = pexpect.spawn(
        command[0],
        list(command[1:]),
        env={**_without_ci(environ), "NO_COLOR": "1", "TERM": "xterm", "COLUMNS": str(columns)},
        cwd=str(cwd),
        dimensions=(ROWS, columns),
        encoding="utf-8",
        timeout=SECONDS,
    )
    child.expect(pexpect.EOF)
    child.close()
    code = f"\n[exit code {child.exitstatus}]" if child.exitstatus else ""
    return visible(child.before) + code


def _without_ci(environ: Mapping[str, str]) -> dict[str, str]:
    """Leave out variables with which rich, or pytest, takes a terminal for something else."""
    left_out = {"CI", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "LINES"}
    return {name: value for name, value in environ.items() if name not in left_out}


def visible(raw: str) -> str:
    """Leave out the control sequences, and what was drawn to be overwritten."""
    lines, row = [""], 0
    for part in _MOVES.split(raw):
        if part == "\n":
            row += 1
            lines += [""] * (row - len(lines) + 1)
        elif part == _UP:
            row = max(0, row - 1)
        elif part == _ERASE:
            lines[row] = ""
        else:
            lines[row] += _ESCAPES.sub("", part)
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def normalized(text: str) -> str:
    """Replace what differs from run to run."""
    today = f"{datetime.now(timezone.utc):%Y%m%d}"
    text = re.sub(rf"\b{today}(?=\d{{3}}(?:_|\b))", "YYYYMMDD", text)
    for pattern, placeholder in _PLACEHOLDERS.items():
        text = re.sub(pattern, placeholder, text)
    return text


def width(line: str) -> int:
    """Count the columns of a terminal that a line takes."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in line
    )


def too_wide(text: str, columns: int) -> list[str]:
    """List the lines that a terminal of this width would wrap."""
    return [line for line in text.split("\n") if width(line) > columns]


class Golden:
    """Compares captures with their files, or writes the files."""

    def __init__(self, *, writes: bool) -> None:
        self._writes = writes

    def check(self, name: str, text: str, *, columns: int = COLUMNS) -> None:
        """Compare what was printed with tests/golden/NAME.txt, and look whether it fits the terminal."""
        path, found = FOLDER / f"{name}.txt", f"{normalized(text)}\n"
        if self._writes:
            FOLDER.mkdir(exist_ok=True)
            path.write_text(found, encoding="utf-8")
        _, _, printed = text.partition("\n")
        assert too_wide(printed, columns) == []
        assert path.is_file(), f"there is no {path.name}: run pytest --write-golden"
        assert found == path.read_text(encoding="utf-8")


class Shop(Project):
    """A project in a folder whose path is always as long, so that lines wrap in the same places."""

    def __init__(self, root: Path, db: Database[Any], uri: str, golden: Golden) -> None:
        super().__init__(root, db, uri)
        self.golden = golden

    def apply(self, *, days_ago: int = 4) -> None:
        """Apply what is pending, and make its times, holders and durations the same in each test."""
        self.invoke("up")
        self.settle(days_ago)

    def settle(self, days_ago: int = 4) -> None:
        """Make what is recorded the same in each test."""
        at = datetime.now(timezone.utc) - timedelta(days=days_ago, hours=1)
        for record in self.db.migrations.find():
            events = record["metadata"].get("events", [])
            for event in events:
                took = {"executionTime": 12} if "executionTime" in event else {}
                event.update({"at": at, "by": "anna@web-1:4711", **took})
            given: dict[str, object] = {
                name: at for name in ("appliedAt", "rolledBackAt") if record.get(name)
            }
            given |= {"executionTime": 12} if record.get("executionTime") is not None else {}
            metadata = {"metadata.events": events, "metadata.holder": "anna@web-1:4711"}
            self.db.migrations.update_one({"_id": record["_id"]}, {"$set": given | metadata})

    def prints(
        self, name: str, *args: str, columns: int = COLUMNS, environ: Mapping[str, str] = {}
    ) -> str:
        """Run `flask db-migrate …` in a terminal, and compare what it prints with the golden file of this name."""
        given = " ".join(f'"{arg}"' if " " in arg else arg for arg in args)
        printed = run_in_terminal(
            self.command(*args), {**self.environ(), **environ}, columns=columns, cwd=self.root
        )
        self.golden.check(name, f"$ flask db-migrate {given}\n{printed}", columns=columns)
        return printed
