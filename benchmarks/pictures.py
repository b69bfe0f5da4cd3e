"""Draws what the commands print in a terminal, as SVG files for the documents: `make pictures`.

It runs the real commands of the demo on the demo's server, in a database of its own that it drops again. Times, rates and
ids differ from run to run; the port of the server is written as MongoDB's own.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pymongo
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
COLUMNS, ROWS = 92, 50
DATABASE = "flights"

_FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'Liberation Mono', monospace"
# rich's own template loads its font from a server on the web.
TEMPLATE = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, monospace", _FONTS
)

_MOVES = re.compile(r"(\n|\x1b\[1A|\x1b\[2K)")
_NO_STYLES = re.compile(r"\x1b\[\?[0-9;]*[a-zA-Z]|\r")

_FAILING = """
name = "Berlin Brandenburg"


def up(db):
    db.airports.delete_one({"_id": "EDDT"})
    db.airports.insert_one({"_id": "EDDB", "iata": "BER"})
"""
_LATER = "def up(db): pass"


def left_on_screen(raw: str) -> str:
    """Leave out what a terminal erases again, such as a spinner; keep the colours."""
    lines, row = [""], 0
    for part in _MOVES.split(raw):
        if part == "\n":
            row += 1
            lines += [""] * (row - len(lines) + 1)
        elif part == "\x1b[1A":
            row = max(0, row - 1)
        elif part == "\x1b[2K":
            lines[row] = ""
        else:
            lines[row] += _NO_STYLES.sub("", part)
    return "\n".join(lines).strip("\n")


def picture(title: str, ansi: str, *, columns: int = COLUMNS) -> str:
    """Draw what a terminal shows as SVG."""
    console = Console(
        record=True, file=io.StringIO(), width=columns, force_terminal=True, color_system="standard"
    )
    # The picture ends a few pixels too early for the letters of its last line.
    console.print(Text.from_ansi(f"{ansi}\n"))
    name = re.sub(r"\W+", "-", title).strip("-")
    drawn = console.export_svg(title=title, code_format=TEMPLATE, unique_id=name)
    return "".join(f"{line.rstrip()}\n" for line in drawn.splitlines())


def run(command: Sequence[str], environ: Mapping[str, str]) -> str:
    """Run a command in a terminal; return all that it wrote."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    with subprocess.Popen(
        command, env=environ, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs
    ):
        os.close(theirs)
        written = b"".join(_read(ours))
    os.close(ours)
    return written.decode()


def _read(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            part = os.read(descriptor, 65_536)
        except OSError:  # How Linux reports that the other end is closed.
            return
        if not part:
            return
        yield part


class Demo:
    """The demo's application on its own server, in a database for the pictures."""

    def __init__(self, uri: str, folder: Path) -> None:
        self._uri = uri
        self._flask = (str(Path(sys.executable).with_name("flask")), "--app", "example_app")
        left_out = {"CI", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}
        self._environ = {
            **{name: value for name, value in os.environ.items() if name not in left_out},
            "MONGO_URI": uri,
            "MIGRATE_DIRECTORY": str(folder),
            "TERM": "xterm-256color",
            "PYTHONUTF8": "1",
        }

    def flask(self, *arguments: str) -> str:
        """Run `flask …`."""
        return run((*self._flask, *arguments), self._environ)

    def draw(self, name: str, *arguments: str) -> None:
        """Run `flask db-migrate …`, and draw what it prints."""
        shown = left_on_screen(self.flask("db-migrate", *arguments))
        shown = re.sub(r"127\.0\.0\.1:\d+", "localhost:27017", shown)
        path = PICTURES / f"{name}.svg"
        path.write_text(picture(f"flask db-migrate {' '.join(arguments)}", shown), encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


def draw_all(demo: Demo, folder: Path) -> None:
    """Draw each picture, in the order in which a user would meet them."""
    demo.flask("load-airports")
    demo.flask("db-migrate", "up", "--to", "20261110001")
    limits = ("--dry-run-limit", "50", "--samples", "1")
    demo.draw("dry-run", "up", "--dry-run", *limits, "--to", "20261112001")
    demo.draw("run", "up")
    (folder / "20261127001_berlin.py").write_text(_FAILING, encoding="utf-8")
    (folder / "20261127002_later.py").write_text(_LATER, encoding="utf-8")
    demo.draw("failure", "up")
    demo.draw("status", "status")
    demo.draw("history", "history")


def main() -> None:
    """Start the demo's server if it does not run, and draw all pictures."""
    embedded = (sys.executable, "-m", "example_app.embedded")
    environ = {name: value for name, value in os.environ.items() if name != "MONGO_URI"}
    was_running = subprocess.run(
        (*embedded, "uri"), cwd=ROOT, env=environ, capture_output=True, check=False
    )
    subprocess.run((*embedded, "start"), cwd=ROOT, env=environ, check=True)
    found = subprocess.run(
        (*embedded, "uri"), cwd=ROOT, env=environ, check=True, capture_output=True, text=True
    )
    uri = re.sub(r"/\w+$", f"/{DATABASE}", found.stdout.strip())
    PICTURES.mkdir(exist_ok=True)
    try:
        with (
            tempfile.TemporaryDirectory() as root,
            pymongo.MongoClient[dict[str, object]](uri) as client,
        ):
            folder = Path(root) / "migrations"
            shutil.copytree(ROOT / "example_app" / "migrations", folder)
            client.drop_database(DATABASE)
            draw_all(Demo(uri, folder), folder)
            client.drop_database(DATABASE)
    finally:
        if was_running.returncode:
            subprocess.run((*embedded, "stop"), cwd=ROOT, env=environ, check=True)


if __name__ == "__main__":
    main()
