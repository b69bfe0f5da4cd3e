"""Which modules are the application's own: told by where their files are, importing none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MARKS = ("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt", ".git")
"""What a project's top folder has in it."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Tells the application's modules: its own package, and what is beside or above it."""

    import_name: str
    folders: tuple[Path, ...]
    _known: dict[str, bool] = field(default_factory=dict)

    @classmethod
    def of(cls, import_name: str, root: Path) -> Ownership:
        """Return that of an application, by its import name and its root path."""
        folders = _up_to_the_project(root.resolve())
        return cls(import_name, (*folders, *(folder / "src" for folder in folders)))

    def __call__(self, module: str) -> bool:
        """Whether a top-level module is the application's own."""
        if module not in self._known:
            own = module == self.import_name.partition(".")[0]
            self._known[module] = own or any(_has(folder, module) for folder in self.folders)
        return self._known[module]


def _up_to_the_project(root: Path) -> tuple[Path, ...]:
    """Return the folders from the application's up to its project's; without one, its parent."""
    folders = (root, *root.parents)
    for height, folder in enumerate(folders, 1):
        if any((folder / mark).exists() for mark in _MARKS):
            return folders[:height]
    return folders[:2]


def _has(folder: Path, module: str) -> bool:
    if (folder / f"{module}.py").is_file():
        return True
    package = folder / module
    return package.is_dir() and any(package.glob("*.py"))
