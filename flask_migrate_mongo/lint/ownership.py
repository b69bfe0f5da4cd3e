"""Finds by file names, importing nothing, which modules belong to the application."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PROJECT_FILES = ("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt", ".git")
"""A project's top folder contains one of these."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Knows the application's modules: its own package, and modules beside or above it."""

    import_name: str
    folders: tuple[Path, ...]
    _known: dict[str, bool] = field(default_factory=dict)

    @classmethod
    def of(cls, import_name: str, root: Path) -> Ownership:
        """Find the folders of an application by its import name and its root path."""
        folders = _up_to_project(root.resolve())
        return cls(import_name, (*folders, *(folder / "src" for folder in folders)))

    def __call__(self, module: str) -> bool:
        """Whether a top-level module belongs to the application."""
        if module not in self._known:
            own = module == self.import_name.partition(".")[0]
            self._known[module] = own or any(_has(folder, module) for folder in self.folders)
        return self._known[module]


def _up_to_project(root: Path) -> tuple[Path, ...]:
    """List the folders from the application's up to its project's, or to its parent without one."""
    folders = (root, *root.parents)
    for height, folder in enumerate(folders, 1):
        if any((folder / name).exists() for name in _PROJECT_FILES):
            return folders[:height]
    return folders[:2]


def _has(folder: Path, module: str) -> bool:
    package = folder / module
    return (folder / f"{module}.py").is_file() or (package.is_dir() and any(package.glob("*.py")))
