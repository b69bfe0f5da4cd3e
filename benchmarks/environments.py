"""Where the competitors are installed: an environment each, in a folder that git ignores."""

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
    """A competitor cannot be installed here; the message says why."""


@cache
def newest_python() -> str:
    """Return the newest Python there is: some peers need a newer one than we do, and all get the same."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in _VERSIONS:
        on_path = shutil.which(f"python{version}")
        found = [*map(str, sorted(pyenv.glob(f"{version}.*/bin/python"))), *filter(None, [on_path])]
        for candidate in found:
            if (
                _answer([candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
                == version
            ):
                return candidate
    return sys.executable


def python_environment(name: str, *requirements: str) -> Path:
    """Make a virtual environment with these packages unless it is there; return its `bin`."""
    folder = HOME / name
    if _is_made(folder, "\n".join((newest_python(), *requirements))):
        return folder / "bin"
    shutil.rmtree(folder, ignore_errors=True)
    _install([newest_python(), "-m", "venv", str(folder)])
    _pip(folder, *requirements)
    _made(folder, "\n".join((newest_python(), *requirements)))
    return folder / "bin"


def node_environment(name: str, *packages: str) -> Path:
    """Install these packages of npm's unless they are there; return the folder of their commands."""
    npm, folder = shutil.which("npm"), HOME / name
    if npm is None or shutil.which("node") is None:
        msg = "node and npm are not there"
        raise UnavailableError(msg)
    if not _is_made(folder, "\n".join(packages)):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _install([npm, "install", "--no-audit", "--no-fund", *packages], folder)
        _made(folder, "\n".join(packages))
    return folder / "node_modules" / ".bin"


def own_environment() -> Path:
    """Install this package as users do, not in place, and again whenever it has changed."""
    folder, source = HOME / OURS, HOME / "source"
    state = f"{newest_python()}\n{_digest()}"
    if _is_made(folder, state):
        return folder / "bin"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for path in map(ROOT.joinpath, _SOURCES):
        if path.is_dir():
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    _install([newest_python(), "-m", "venv", str(folder)])
    _pip(folder, f"{source}[flask-pymongo]")
    _made(folder, state)
    return folder / "bin"


def versions(program: Path) -> dict[str, str]:
    """Return what is installed there: packages and their versions."""
    if program.name == ".bin":
        listed = json.loads((program.parent / ".package-lock.json").read_text())["packages"]
        return {
            path.rpartition("node_modules/")[2]: str(p["version"]) for path, p in listed.items()
        }
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
    stamp = folder / _STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == state


def _made(folder: Path, state: str) -> None:
    (folder / _STAMP).write_text(state, encoding="utf-8")


def _pip(folder: Path, *requirements: str) -> None:
    python = str(folder / "bin" / "python")
    _install([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements])


def _install(command: list[str], folder: Path | None = None) -> None:
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        told = [line for line in lines if "error" in line.lower()] or lines
        raise UnavailableError(told[-1].strip())


def _answer(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
