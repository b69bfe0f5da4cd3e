"""Where the tools are installed: each has its own environment, in a folder that git ignores."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".bench"
OURS = "flask-migrate-mongo"

_VERSIONS = ("3.13", "3.12", "3.11", "3.10")
_STAMP = ".installed"
_SOURCES = ("flask_migrate_mongo", "pyproject.toml", "setup.cfg", "README.md", "LICENSE")


class UnavailableError(Exception):
    """A tool cannot be installed here; the message says why."""


@cache
def newest_python() -> str:
    """Find the newest Python: mongomig needs 3.11, and every tool gets the same."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    show = "import sys; print('%d.%d' % sys.version_info[:2])"
    for version in _VERSIONS:
        on_path = shutil.which(f"python{version}")
        found = [*map(str, sorted(pyenv.glob(f"{version}.*/bin/python"))), *filter(None, [on_path])]
        for candidate in found:
            if _answer([candidate, "-c", show]) == version:
                return candidate
    return sys.executable


def python_environment(name: str, *requirements: str) -> Path:
    """Make a virtual environment with these packages unless it is there; its `bin` is returned."""
    folder, state = HOME / name, "\n".join((newest_python(), *requirements))
    if not _is_made(folder, state):
        _make(folder, state, *requirements)
    return folder / "bin"


def own_environment() -> Path:
    """Install this package as users do, not in place, and again whenever it has changed."""
    folder, source = HOME / OURS, HOME / "source"
    state = f"{newest_python()}\n{_digest()}"
    if _is_made(folder, state):
        return folder / "bin"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for path in map(ROOT.joinpath, _SOURCES):
        if path.is_dir():
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    _make(folder, state, f"{source}[flask-pymongo]")
    return folder / "bin"


def versions(program: Path) -> dict[str, str]:
    """List the packages that are installed there, with their versions."""
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
    )
    found: dict[str, str] = json.loads(_answer([str(program / "python"), "-c", code]))
    return found


def _digest() -> str:
    files = [ROOT / "pyproject.toml", ROOT / "setup.cfg"]
    files += sorted((ROOT / "flask_migrate_mongo").rglob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _is_made(folder: Path, state: str) -> bool:
    mark = folder / _STAMP
    return mark.is_file() and mark.read_text(encoding="utf-8") == state


def _make(folder: Path, state: str, *requirements: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    python = str(folder / "bin" / "python")
    _run([newest_python(), "-m", "venv", str(folder)])
    _run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements])
    (folder / _STAMP).write_text(state, encoding="utf-8")


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        errors = [line for line in lines if "error" in line.lower()] or lines
        raise UnavailableError(errors[-1].strip())


def _answer(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
