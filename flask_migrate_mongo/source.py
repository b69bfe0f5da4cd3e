"""Migration files: found, read from their syntax tree, imported, and scaffolded."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.abc
import importlib.util
import inspect
import os
import re
import sys
import unicodedata
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from .errors import (
    ConfigurationError,
    DuplicateVersionError,
    FileChangedError,
    ImportFailedError,
    InvalidRequestError,
    NoFolderError,
    SeveralSourceErrors,
    SourceError,
    redact,
)
from .model import Direction, MigrationFile, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from types import ModuleType

PARAMETERS = ("db", "ctx")
"""What up() and down() may ask for, by name."""

_NUMBERED = re.compile(r"(?P<version>[0-9]+)[-_](?P<slug>.+)")
_SLUG_LIMIT = 60
_NAME_LIMIT = 1_000
_FLAGS = {"transactional": bool, "idempotent": bool}
_TEXTS = {"name": str, "description": str}


@dataclass(frozen=True, slots=True)
class Discovery:
    """The migrations in a folder, ascending, and the numbered files that are not Python."""

    files: tuple[MigrationFile, ...]
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder that an application's migrations live in."""

    path: Path

    def discover(self) -> Discovery:
        """Read every migration, executing none. Raises SourceError or SeveralSourceErrors."""
        names, ignored = self._names()
        files: list[MigrationFile] = []
        problems: list[SourceError] = []
        for name in names:
            try:
                files.append(read(self.path / name))
            except SourceError as problem:
                problems.append(problem)
        problems += _duplicates(files)
        if problems:
            raise problems[0] if len(problems) == 1 else SeveralSourceErrors(problems)
        return Discovery(tuple(sorted(files, key=lambda file: file.version)), ignored)

    def highest(self) -> int:
        """Return the highest number in use, of any file, readable or not; 0 when there is none."""
        numbers = (_NUMBERED.match(path.name) for path in self.path.iterdir())
        return max((int(match["version"]) for match in numbers if match), default=0)

    def _names(self) -> tuple[list[str], tuple[str, ...]]:
        try:
            found = sorted(entry.name for entry in os.scandir(self.path) if entry.is_file())
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise NoFolderError(self.path) from exc
        visible = [name for name in found if not name.startswith(("_", "."))]
        python = [name for name in visible if name.endswith(".py")]
        ignored = (n for n in visible if not n.endswith(".py") and _NUMBERED.match(n))
        return python, tuple(ignored)


def read(path: Path) -> MigrationFile:
    """Read one migration from its syntax tree, without executing it. Raises SourceError."""
    match = _NUMBERED.fullmatch(path.stem)
    if match is None:
        problem = (
            "its name has no number, so its place in the order is unknown. Rename it to "
            f"{_today()}001_{slugify(path.stem)}.py, or to _{path.name} if it is not a migration."
        )
        raise SourceError(path, problem)
    content = _content(path)
    tree = _parse(path, content)
    values = _declared(path, tree)
    functions = {direction: _function(path, tree, direction) for direction in Direction}
    if not functions[Direction.UP]:
        problem = "it has no up(). Add `def up(db):` with the change it makes."
        raise SourceError(path, problem)
    return MigrationFile(
        version=int(match["version"]),
        path=path,
        name=values.get("name") or re.sub(r"[-_]+", " ", match["slug"]).strip(),
        description=values.get("description") or (ast.get_docstring(tree) or "").strip(),
        transactional=values.get("transactional", False),
        idempotent=values.get("idempotent", False),
        reversible=functions[Direction.DOWN],
        checksum=checksum(content),
    )


def checksum(content: bytes) -> str:
    """Return the SHA-256 of the content with the line ends of every platform taken as equal."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


def load(step: Step) -> Callable[..., object]:
    """Import the step's file, exactly the content that was planned, and return its function.

    Raises ImportFailedError with the cause, FileChangedError, or SourceError for a parameter that
    nothing can be passed to.
    """
    path = step.file.path
    content = _content(path)
    if checksum(content) != step.file.checksum:
        raise FileChangedError(path, "it changed while this run was starting. Run it again.")
    module = _import(path, content)
    function = getattr(module, step.direction.value, None)
    if not callable(function):
        raise SourceError(path, f"{step.direction.value} is not a function.")
    _check_signature(path, function, step.direction)
    return function  # type: ignore[no-any-return]


def call(function: Callable[..., object], available: Mapping[str, object]) -> None:
    """Call up() or down() with those of the available arguments that it names."""
    accepted = inspect.signature(function).parameters
    function(**{name: available[name] for name in PARAMETERS if name in accepted})


class _Planned(importlib.abc.SourceLoader):
    """Imports the bytes that were read, whatever the file says by now."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path = path
        self._content = content

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002  (the loader protocol's)
        return str(self._path)

    def get_data(self, path: str | bytes) -> bytes:  # noqa: ARG002  (the loader protocol's)
        return self._content


def _import(path: Path, content: bytes) -> ModuleType:
    # Two applications in one process may have the same version: the folder is part of the name.
    folder = hashlib.sha256(str(path.parent).encode()).hexdigest()[:8]
    name = f"_migrations_{folder}.v{path.stem.partition('_')[0].partition('-')[0]}"
    spec = importlib.util.spec_from_loader(name, _Planned(path, content))
    assert spec is not None  # noqa: S101  (a loader was given)
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        sys.modules.pop(name, None)
        problem = (
            f"importing it raised {type(exc).__name__}: {redact(str(exc))}. "
            "Nothing of the plan has run. Mend the file, then run `flask db-migrate up` again."
        )
        raise ImportFailedError(path, problem, line=_line_within(path, exc)) from exc
    return module


def _line_within(path: Path, exc: BaseException) -> int | None:
    lines = [t.tb_lineno for t in _frames(exc) if t.tb_frame.f_code.co_filename == str(path)]
    return lines[-1] if lines else None


def _frames(exc: BaseException) -> Iterator[Any]:
    frame = exc.__traceback__
    while frame is not None:
        yield frame
        frame = frame.tb_next


def _check_signature(path: Path, function: Callable[..., object], direction: Direction) -> None:
    for parameter in inspect.signature(function).parameters.values():
        positional_only = parameter.kind is parameter.POSITIONAL_ONLY
        optional = parameter.default is not parameter.empty or parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if positional_only or (parameter.name not in PARAMETERS and not optional):
            raise _bad_parameter(path, direction.value, parameter.name, None)


def _bad_parameter(path: Path, function: str, name: str, line: int | None) -> SourceError:
    problem = (
        f"{function}() asks for {name!r}, but only {' and '.join(PARAMETERS)} can be passed, by "
        f"name. Write `def {function}(db):` or `def {function}(db, ctx):`."
    )
    return SourceError(path, problem, line=line)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise SourceError(path, f"it cannot be read: {exc.strerror}.") from exc


def _parse(path: Path, content: bytes) -> ast.Module:
    try:
        return ast.parse(content, filename=str(path))
    except SyntaxError as exc:
        problem = f"syntax error: {exc.msg}. Mend the file, then try again."
        raise SourceError(path, problem, line=exc.lineno) from exc
    except ValueError as exc:
        raise SourceError(path, f"it is not Python source: {exc}.") from exc


def _declared(path: Path, tree: ast.Module) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for node in tree.body:
        for target, value in _assignments(node):
            wanted = {**_TEXTS, **_FLAGS}.get(target)
            if wanted is not None:
                values[target] = _literal(path, target, value, wanted)
    return values


def _assignments(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, node.value
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
        yield node.target.id, node.value


def _literal(path: Path, target: str, node: ast.expr, wanted: type) -> object:
    value: object = None
    with contextlib.suppress(ValueError):
        value = ast.literal_eval(node)
    if isinstance(value, wanted):
        return value
    example = "True or False" if wanted is bool else "a plain string in quotes"
    problem = f"{target} must be {example}: it is read without executing the file."
    raise SourceError(path, problem, line=node.lineno)


def _function(path: Path, tree: ast.Module, direction: Direction) -> bool:
    # The last binding counts, as it does when Python executes the module.
    found = False
    for node in tree.body:
        if isinstance(node, ast.AsyncFunctionDef) and node.name == direction.value:
            problem = (
                f"{node.name}() is async, which is not supported. Write `def {node.name}(db):`."
            )
            raise SourceError(path, problem, line=node.lineno)
        if isinstance(node, ast.FunctionDef) and node.name == direction.value:
            _check_arguments(path, node)
            found = True
        for name, value in _assignments(node):
            if name == direction.value:
                found = not (isinstance(value, ast.Constant) and value.value is None)
        if isinstance(node, ast.ImportFrom):
            found = found or any((a.asname or a.name) == direction.value for a in node.names)
    return found


def _check_arguments(path: Path, node: ast.FunctionDef) -> None:
    if node.decorator_list:
        return  # What a decorator makes of it is known only when it is loaded.
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    required = positional[: len(positional) - len(arguments.defaults)]
    required += [
        argument
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is None
    ]
    allowed = set(PARAMETERS) - {argument.arg for argument in arguments.posonlyargs}
    for argument in required:
        if argument.arg not in allowed:
            raise _bad_parameter(path, node.name, argument.arg, argument.lineno)


def _duplicates(files: Iterable[MigrationFile]) -> Iterator[DuplicateVersionError]:
    by_version: dict[int, list[Path]] = {}
    for file in files:
        by_version.setdefault(file.version, []).append(file.path)
    for version, paths in sorted(by_version.items()):
        if len(paths) > 1:
            yield DuplicateVersionError(version, paths)


# --- scaffolding


@dataclass(frozen=True, slots=True)
class Scaffold:
    """How new files are made: the form of their number and, when given, the project's template.

    `clock` gives the present in UTC.
    """

    folder: Folder
    version_format: str = "sequence"
    template: Path | None = None
    clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc)

    def create(self, name: str, *, transactional: bool = False) -> Path:
        """Write a new migration file and return its path; no existing file is ever overwritten.

        Raises InvalidRequestError for an empty or overlong name, ConfigurationError for a template
        that does not give a valid migration.
        """
        name = _clean(name)
        self.folder.path.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder.path):
            version = next_version(self.folder.highest(), self.clock(), self.version_format)
            path = self.folder.path / f"{version}_{slugify(name)}.py"
            content = self._render(name, version, transactional=transactional)
            self._check(path, content)
            # "x": the lock keeps other creates out, but not an editor.
            with path.open("xb") as file:
                file.write(content)
        return path

    def _render(self, name: str, version: int, *, transactional: bool) -> bytes:
        import jinja2  # noqa: PLC0415  (Flask's own, but no other command needs it)

        source = DEFAULT_TEMPLATE
        environment = jinja2.Environment(
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
            autoescape=False,  # noqa: S701  (Python, not HTML)
        )
        try:
            if self.template is not None:
                source = self.template.read_text(encoding="utf-8")
            text = environment.from_string(source).render(
                name=repr(name), version=version, slug=slugify(name), transactional=transactional
            )
        except (OSError, UnicodeDecodeError, jinja2.TemplateError) as exc:
            raise self._template_error(str(exc)) from exc
        return text.encode("utf-8")

    def _check(self, path: Path, content: bytes) -> None:
        try:
            tree = _parse(path, content)
            _declared(path, tree)
            if not _function(path, tree, Direction.UP):
                raise self._template_error("it has no up()")
        except SourceError as exc:
            raise self._template_error(str(exc)) from exc

    def _template_error(self, problem: str) -> ConfigurationError:
        return ConfigurationError(
            f"The template {self.template} does not give a migration: {problem}. It may use "
            "{{ name }} (a Python literal), {{ version }}, {{ slug }} and {{ transactional }}."
        )


DEFAULT_TEMPLATE = '''"""Say here what changes, and why."""

name = {{ name }}
{%- if transactional %}
transactional = True
{%- endif %}


def up(db, ctx):
    raise NotImplementedError("Write up() before this migration is run.")


def down(db, ctx):
    raise NotImplementedError("Write down(), or delete it when up() cannot be undone.")
'''


def next_version(highest: int, now: datetime, version_format: str) -> int:
    """Return the number after both the highest in use and the date, in the given format."""
    if version_format == "timestamp":
        return max(highest + 1, int(f"{now:%Y%m%d%H%M%S}"))
    return max(highest + 1, int(f"{now:%Y%m%d}001"))


def slugify(name: str) -> str:
    """Return the name as lower-case ASCII words joined by `_`, at most 60 characters."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "_", ascii_name.lower())[:_SLUG_LIMIT].strip("_")
    return slug or "migration"


def _clean(name: str) -> str:
    # The shell hands over undecodable bytes as lone surrogates, which no file and no BSON can hold.
    name = " ".join(name.encode("utf-8", "replace").decode().split())
    if not name:
        msg = 'The name is empty. Say what changes: `flask db-migrate create "add user index"`.'
        raise InvalidRequestError(msg)
    if len(name) > _NAME_LIMIT:
        msg = (
            f"The name has {len(name)} characters; at most {_NAME_LIMIT} are accepted. Shorten it."
        )
        raise InvalidRequestError(msg)
    return name


def _today() -> str:
    return f"{datetime.now(timezone.utc):%Y%m%d}"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other creates out of the folder; the kernel lets go when this process ends."""
    try:
        import fcntl  # noqa: PLC0415  (not on Windows, where two creates at once are not told apart)
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
