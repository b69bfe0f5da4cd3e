"""The package of each folder of migrations, so that these import their helpers: `from ._helpers import total`.

A file whose name begins with `_` is no migration, and can be imported by those beside it. The name of the package contains
the path of the folder: applications with the same names of files do not mix, and a process that multiprocessing has spawned
finds what it unpickles.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

__path__: list[str] = []
"""Makes this module a package for Python, with the package of each folder in it."""


def module_name(path: Path) -> str:
    """Build the name under which a migration's file is imported."""
    return f"{_package(path.parent)}.{path.stem.replace('.', '_')}"


def import_content(name: str, path: Path, content: bytes) -> ModuleType:
    """Import this content as the module of a file, whatever the file contains by now."""
    loader = ContentLoader(path, content)
    spec = importlib.machinery.ModuleSpec(name, loader, origin=str(path))
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def forget_modules(folder: Path) -> None:
    """Let the next import of a helper read its file again."""
    package = _package(folder)
    for name in tuple(sys.modules):
        if name == package or name.startswith(f"{package}."):
            del sys.modules[name]
    importlib.invalidate_caches()


def _package(folder: Path) -> str:
    return f"{__name__}.{os.fsencode(folder).hex()}"


class ContentLoader(importlib.abc.SourceLoader):
    """Imports content that was read and checked, and leaves no compiled file."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content

    def get_filename(self, _fullname: str) -> str:
        """Get the path of the file."""
        return str(self.path)

    def get_data(self, _path: str | bytes) -> bytes:
        """Get the content."""
        return self.content


class _PackageFinder(importlib.abc.MetaPathFinder):
    """Finds the package of a folder by its name. Python finds the files in it."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        parent, _, folder = fullname.rpartition(".")
        if parent != __name__:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = [os.fsdecode(bytes.fromhex(folder))]
        return spec


sys.meta_path.append(_PackageFinder())
