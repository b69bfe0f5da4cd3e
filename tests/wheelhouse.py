"""Wheels of this package and of what it needs, made without the network from what is installed here."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.project import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

_OWN = "flask-migrate-mongo"
_PACKAGE = "flask_migrate_mongo"


def build(folder: Path, *also: str) -> None:
    """Build the wheel of this package, and pack those of its dependencies and of `also`."""
    _build_own(folder)
    for name in sorted(_closure(_OWN, *also) - {_OWN}):
        _pack(metadata.distribution(name), folder)


def _build_own(folder: Path) -> None:
    options = ("--no-index", "--no-deps", "--no-build-isolation", "-q")
    with tempfile.TemporaryDirectory() as source:
        # A copy: a build leaves files in its folder, which another build would take for its own.
        shutil.copytree(ROOT / _PACKAGE, Path(source, _PACKAGE))
        for name in (
            "pyproject.toml",
            "setup.cfg",
            "README.md",
            "LICENSE",
            f"pytest_{_PACKAGE}.py",
        ):
            shutil.copy(ROOT / name, source)
        command = [sys.executable, "-m", "pip", "wheel", *options, "-w", str(folder), source]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


def _closure(*names: str) -> set[str]:
    """Collect the names of distributions and of all that they need."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found.add(name)
            waiting += _needs(name)
    return found


def _needs(name: str) -> Iterator[str]:
    for line in metadata.requires(name) or ():
        needed = Requirement(line)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            yield needed.name


def _pack(installed: metadata.Distribution, folder: Path) -> None:
    """Write the wheel that an installed distribution came from, without the programs, which pip makes."""
    name = canonicalize_name(installed.metadata["Name"]).replace("-", "_")
    record = f"{name}-{installed.version}.dist-info/RECORD"
    tag = (installed.read_text("WHEEL") or "").rpartition("Tag: ")[2].strip()
    with zipfile.ZipFile(folder / f"{name}-{installed.version}-{tag}.whl", "w") as wheel:
        packed = []
        for file in installed.files or ():
            if _belongs(file):
                parts = file.parts
                if parts[0].endswith(".dist-info"):
                    parts = (record.partition("/")[0], *parts[1:])
                packed.append("/".join(parts))
                wheel.write(str(file.locate()), packed[-1])
        wheel.writestr(record, "".join(f"{each},,\n" for each in (*packed, record)))


def _belongs(file: metadata.PackagePath) -> bool:
    """Whether a file was in the wheel: pip has written the others."""
    made_by_pip = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
    return not {"..", "__pycache__"} & set(file.parts) and file.name not in made_by_pip
