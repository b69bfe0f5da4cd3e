"""Creates migration files, from a template or from other files, and gives them new numbers."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import jinja2

from flask_migrate_mongo.model.errors import ConfigurationError, InvalidRequestError, message_of

from .folder import ensure_own, note_latest, unusable
from .parsing import describe, highest_version, next_version, parse, slug_of, slugify
from .writing import write_new

if sys.platform != "win32":
    import fcntl


Content = Callable[[Path, int], bytes]
"""Makes the content of a file from its path and its number."""

_NAME_LIMIT = 1_000

_TEMPLATE = '''"""Say here what changes, and why."""

name = {{ name }}
{%- if transactional %}
transactional = True
{%- endif %}


def up(db, ctx):
    raise NotImplementedError("Write up() before this migration is run.")


def down(db, ctx):
    raise NotImplementedError("Write down(), or delete it when up() cannot be rolled back.")
'''


@dataclass(frozen=True, slots=True)
class Scaffold:
    """Creates migration files: in which folder, with which form of version, from which template.

    With `linear`, the file `.latest` names the newest. `clock` gives the present in UTC.
    """

    folder: Path
    version_format: str = "sequence"
    template: Path | None = None
    linear: bool = False
    clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc)

    def create(self, name: str, *, transactional: bool = False) -> Path:
        """Create a migration file; no existing file is ever overwritten.

        Raises InvalidRequestError for an empty or overlong name, ConfigurationError for a template that does not
        produce a valid migration, or a folder that cannot be written to.
        """
        name = clean(name)
        return self.add(
            name,
            lambda path, version: self._render(path, name, version, transactional=transactional),
        )

    def add(self, name: str, content: Content) -> Path:
        """Write a file with the next free number. Raises as `add_all` does."""
        (path,) = self.add_all([(name, content)])
        return path

    def add_all(self, files: Sequence[tuple[str, Content]]) -> tuple[Path, ...]:
        """Write files, each a name and its content, with the next free numbers: all of them, or none after an error.

        Raises InvalidRequestError for an empty or overlong name, and ConfigurationError for a folder that cannot be
        written to.
        """
        slugs = [slugify(clean(name)) for name, _ in files]
        written: list[Path] = []
        with self._next_version() as first:
            version = first
            try:
                for slug, (_, content) in zip(slugs, files, strict=True):
                    path = self.folder / f"{version}_{slug}.py"
                    write_new(path, content(path, version))
                    written.append(path)
                    version = next_version(version, self.clock(), self.version_format)
                self.note(written[-1])
            except BaseException:
                for path in reversed(written):
                    path.unlink()
                raise
        return tuple(written)

    def renumber(self, path: Path, *, above: int) -> Path:
        """Rename a file to the next free number above this one; no existing file is ever overwritten.

        Raises ConfigurationError for a folder that cannot be written to.
        """
        with self._next_version(above) as version:
            renamed = self.folder / f"{version}_{slug_of(path.stem)}.py"
            # Only if the name is free, which `rename` does not check.
            write_new(renamed, path.read_bytes())
            path.unlink()
            self.note(renamed)
        return renamed

    @contextlib.contextmanager
    def _next_version(self, above: int = 0) -> Iterator[int]:
        """Choose the next free number, and keep other creates out of the folder while the block uses it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            ensure_own(self.folder)
            with _locked(self.folder):
                highest = max(highest_version(self.folder), above)
                yield next_version(highest, self.clock(), self.version_format)
        except OSError as exc:
            raise unusable(self.folder, "written to", exc) from exc

    def note(self, newest: Path) -> None:
        """Note in `.latest` which file is the newest, in a linear folder."""
        if self.linear:
            note_latest(newest)

    def _render(self, path: Path, name: str, version: int, *, transactional: bool) -> bytes:
        try:
            source = self.template.read_text("utf-8") if self.template else _TEMPLATE
            template = jinja2.Template(
                source, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
            )

            def content_for(name: str) -> bytes:
                text: str = template.render(
                    name=repr(name),
                    version=version,
                    slug=slugify(name),
                    transactional=transactional,
                )
                return text.encode()

            content = content_for(name)
            describe(path, content)
            _ensure_no_code(path, content, content_for(re.sub(r"[^\w ]", "_", name)))
        except Exception as exc:
            raise ConfigurationError(
                f"The template {self.template} does not produce a migration: "
                f"{message_of(exc).rstrip('.')}. It may use {{{{ name }}}} (a Python literal), "
                "{{ version }}, {{ slug }} and {{ transactional }}."
            ) from exc
        return content


def _ensure_no_code(path: Path, content: bytes, harmless: bytes) -> None:
    """Raise ValueError if the content is other code than with a name of letters, digits and `_` alone."""
    kinds = [[type(node) for node in ast.walk(parse(path, each))] for each in (content, harmless)]
    if kinds[0] != kinds[1]:
        msg = "the name would be executed as code. Write {{ name }} without quotes around it"
        raise ValueError(msg)


def clean(name: str) -> str:
    """Write a name on one line. Raises InvalidRequestError for an empty or overlong one."""
    # The shell passes undecodable bytes as lone surrogates, which files and BSON cannot hold.
    name = " ".join(name.encode("utf-8", "replace").decode().split())
    if not name:
        raise InvalidRequestError(
            "The name is empty.", 'Say what changes: [create "add user index"].'
        )
    if len(name) > _NAME_LIMIT:
        raise InvalidRequestError(
            f"The name has {len(name)} characters; at most {_NAME_LIMIT} are accepted. Shorten it."
        )
    return name


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other creates out of the folder, so that each gets its own version.

    The kernel releases the lock when this process ends. Windows, and some network file systems, cannot lock a folder:
    there two creates at once can get the same version.
    """
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
