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
import traceback
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flask_migrate_mongo.model.errors import (
    ConfigurationError,
    DuplicateVersionError,
    FileChangedError,
    ImportFailedError,
    InvalidRequestError,
    NoFolderError,
    SeveralSourceErrors,
    SourceError,
    StepError,
    message_of,
)
from flask_migrate_mongo.model.values import Direction, MigrationFile, Step

from . import suppressions as allowances
from .cache import Cache, Stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from types import ModuleType

    from .cache import Known

PARAMETERS = ("db", "ctx")
"""What up() and down() may ask for, by name."""

_NUMBERED = re.compile(r"(?P<version>[0-9]+)[-_](?P<slug>.+)", re.DOTALL)
_SLUG_LIMIT = 60
_NAME_LIMIT = 1_000
_FLAGS = ("transactional", "idempotent")
_DECLARED: dict[str, type] = {"name": str, "description": str, **dict.fromkeys(_FLAGS, bool)}


class Reading(NamedTuple):
    """The content of a file, and the stamp that the file had before it was read."""

    stamp: Stamp | None
    content: bytes


class Discovery(NamedTuple):
    """The migrations in a folder, ascending, and the numbered files that are not Python.

    `readings` are of those that had to be read, by version: none is read twice in a run.
    """

    files: tuple[MigrationFile, ...]
    ignored: tuple[str, ...]
    readings: Mapping[int, Reading]

    def keeping(self, versions: Iterable[int]) -> Discovery:
        """Return it with the content of these alone."""
        kept = {v: self.readings[v] for v in versions if v in self.readings}
        return self._replace(readings=kept)


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder that an application's migrations live in."""

    path: Path
    cache: Cache = field(default_factory=Cache)

    def discover(self) -> Discovery:
        """Read every migration, executing none. Raises SourceError or SeveralSourceErrors.

        A file is read when the cache does not know it, or not with the stamp that it has now.
        """
        stamps, ignored = self._stamps()
        known = self.cache.load(self.path)
        found: dict[str, MigrationFile] = {}
        readings: dict[int, Reading] = {}
        problems: list[SourceError] = []
        for name, stamp in stamps.items():
            seen, file = known.get(name, (None, None))
            if file is None or seen != stamp:
                try:
                    file, content = _read(self.path / name)
                except SourceError as problem:
                    problems.append(problem)
                    continue
                readings[file.version] = Reading(stamp, content)
            found[name] = file
        problems += _duplicates(found.values())
        if problems:
            raise problems[0] if len(problems) == 1 else SeveralSourceErrors(problems)
        if readings or len(known) > len(found):
            self._remember(stamps, found, known)
        files = sorted(found.values(), key=lambda file: file.version)
        return Discovery(tuple(files), ignored, readings)

    def load(self, step: Step, found: Discovery) -> Callable[..., object]:
        """Import the step's file as it was found, and return its function. Raises like `load`."""
        try:
            return load(step, found.readings.get(step.version))
        except FileChangedError:
            # Should it have changed without changing its stamp, the next run reads it.
            self.cache.forget(self.path)
            raise

    def _remember(
        self, stamps: Mapping[str, Stamp | None], found: Mapping[str, MigrationFile], known: Known
    ) -> None:
        settled = {
            name: (stamp, found[name])
            for name, stamp in stamps.items()
            if stamp is not None and stamp.is_settled
        }
        if settled != known:
            self.cache.store(self.path, settled)

    def choose(self, wanted: Iterable[str]) -> tuple[Path, ...]:
        """Return the files that paths or versions mean; without any, all migrations.

        A folder stands for the migrations in it. Raises InvalidRequestError, and what a folder
        raises that cannot be read.
        """
        chosen = [path for each in wanted for path in self._meant(each)]
        paths = chosen or ([] if wanted else [self.path / name for name in self._stamps()[0]])
        return tuple({path.resolve(): path for path in paths}.values())

    def _meant(self, wanted: str) -> list[Path]:
        path = self.path.__class__(wanted)
        if wanted and path.is_dir():
            return [path / name for name in Folder(path)._stamps()[0]]  # noqa: SLF001
        if wanted and (path.exists() or path.is_symlink()):
            return [] if path.name.startswith(("_", ".")) else [path]
        names = self._stamps()[0] if wanted.isdecimal() else []
        matches = ((name, _NUMBERED.match(name)) for name in names)
        found = [self.path / name for name, m in matches if m and int(m["version"]) == int(wanted)]
        if not found:
            raise InvalidRequestError(
                f"There is no file {wanted!r}, and no migration with that number in {self.path}. "
                "Name files, folders or versions, or nothing for all migrations."
            )
        return found

    def highest(self) -> int:
        """Return the highest number in use, of any file, readable or not; 0 when there is none."""
        numbers = (_NUMBERED.match(path.name) for path in self.path.iterdir())
        return max((int(match["version"]) for match in numbers if match), default=0)

    def _stamps(self) -> tuple[dict[str, Stamp | None], tuple[str, ...]]:
        try:
            # A link that leads nowhere is named rather than passed over: it may be an applied file.
            entries = [e for e in os.scandir(self.path) if e.is_file() or e.is_symlink()]
        except FileNotFoundError as exc:
            raise NoFolderError(self.path) from exc
        except OSError as exc:
            raise _unusable(self.path, "read", exc) from exc
        visible = [entry for entry in entries if not entry.name.startswith(("_", "."))]
        visible.sort(key=lambda entry: entry.name)
        python = {entry.name: _stamp(entry) for entry in visible if entry.name.endswith(".py")}
        ignored = (e.name for e in visible if e.name not in python and _NUMBERED.match(e.name))
        return python, tuple(ignored)


def _stamp(file: os.DirEntry[str] | Path) -> Stamp | None:
    try:
        return Stamp.of(file.stat())
    except OSError:
        return None


def read(path: Path) -> MigrationFile:
    """Read one migration from its syntax tree, without executing it. Raises SourceError."""
    return _read(path)[0]


def _read(path: Path) -> tuple[MigrationFile, bytes]:
    content = content_of(path)
    return described(path, content), content


def described(path: Path, content: bytes, tree: ast.Module | None = None) -> MigrationFile:
    """Return what a migration says of itself. Raises SourceError."""
    match = _NUMBERED.fullmatch(path.stem)
    if match is None:
        raise SourceError(path, _unnumbered(path))
    tree = tree or parse(path, content)
    values = _declared(path, tree)
    functions = {direction: _defines(path, tree, direction) for direction in Direction}
    if not functions[Direction.UP]:
        problem = "it has no up(). Add `def up(db):` with the change it makes."
        raise SourceError(path, problem)
    words = re.sub(r"[-_]+", " ", match["slug"])
    return MigrationFile(
        folder=path.parent,
        file_name=path.name,
        version=int(match["version"]),
        name=_storable(values.get("name", "")) or _storable(words) or match["version"],
        description=_storable(values.get("description") or ast.get_docstring(tree) or ""),
        transactional=values.get("transactional", False),
        idempotent=values.get("idempotent", False),
        reversible=functions[Direction.DOWN],
        checksum=checksum(content),
        allowances=allowances.granted(content),
    )


def _unnumbered(path: Path) -> str:
    free = next_version(Folder(path.parent).highest(), datetime.now(timezone.utc), "sequence")
    return (
        "its name has no number with `_` or `-` after it, so its place in the order is unknown. "
        f"Rename it to {free}_{slugify(path.stem)}.py, or to _{path.name} if it is not a migration."
    )


def _storable(text: str) -> str:
    # Neither BSON nor JSON holds the lone surrogates that a file, or its name, can contain.
    return text.encode("utf-8", "backslashreplace").decode().strip()


def checksum(content: bytes) -> str:
    """Return the SHA-256 of the content, the same for Windows' line ends as for Unix'."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


def load(step: Step, reading: Reading | None = None) -> Callable[..., object]:
    """Import the step's file, exactly the content that was planned, and return its function.

    The file is read unless its reading is handed over. Raises ImportFailedError with the cause,
    FileChangedError, or SourceError for a function that cannot be called with what there is, and
    for a flag that reading it did not find.
    """
    path = step.file.path
    content = reading.content if reading else content_of(path)
    changed_since = reading is not None and _stamp(path) != reading.stamp
    if changed_since or checksum(content) != step.file.checksum:
        raise FileChangedError(path, "it changed while this run was starting. Run it again.")
    module = _import(step, content)
    function = getattr(module, step.direction.value, None)
    if not callable(function):
        problem = (
            f"{step.direction.value} is not a function. Write `def {step.direction.value}(db):`."
        )
        raise SourceError(path, problem)
    _check_flags(step.file, module)
    _check_function(path, step.direction, function)
    return function  # type: ignore[no-any-return]


def call(function: Callable[..., object], available: Mapping[str, object]) -> None:
    """Call up() or down() with those of the available arguments that it names.

    Raises StepError when that only made something that would still have to be run.
    """
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [name for name in PARAMETERS if takes_any or name in parameters]
    result = function(**{name: available[name] for name in names})
    if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        with contextlib.suppress(AttributeError):  # Closed, or Python warns that nobody awaited it.
            result.close()  # type: ignore[union-attr]
        raise StepError(f"Calling it ran nothing: it returned a {type(result).__name__}. {_PLAIN}")


_PLAIN = "Write a plain `def` without `await` and `yield`."


class _Planned(importlib.abc.SourceLoader):
    """Imports the bytes that were read, whatever the file says by now."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path = path
        self._content = content

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002  (the loader protocol's)
        return str(self._path)

    def get_data(self, path: str | bytes) -> bytes:  # noqa: ARG002  (the loader protocol's)
        return self._content


def _import(step: Step, content: bytes) -> ModuleType:
    path = step.file.path
    # Two applications in one process may have the same version: the folder is part of the name.
    folder = hashlib.sha256(os.fsencode(path.parent)).hexdigest()[:8]
    name = f"_migrations_{folder}.v{step.version}"
    try:
        return _execute(name, path, content)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        raise _import_failed(step, exc) from exc


def _execute(name: str, path: Path, content: bytes) -> ModuleType:
    spec = importlib.util.spec_from_loader(name, _Planned(path, content))
    assert spec is not None  # noqa: S101  (a loader was given)
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


class Parcel(NamedTuple):
    """A function of a migration, as it travels to a process that cannot import the migration."""

    module: str
    path: Path
    content: bytes
    name: str

    def unpack(self) -> Callable[..., Any]:
        """Return the function, from the very content that was planned."""
        module = sys.modules.get(self.module) or _execute(self.module, self.path, self.content)
        return getattr(module, self.name)  # type: ignore[no-any-return]


def parcel(function: Callable[..., Any]) -> Parcel | None:
    """Return a migration's function as it travels; None for one that is imported from elsewhere."""
    module = sys.modules.get(getattr(function, "__module__", ""))
    spec = getattr(module, "__spec__", None)
    if spec is None or not isinstance(spec.loader, _Planned):
        return None
    path = Path(spec.loader.get_filename(spec.name))
    return Parcel(spec.name, path, spec.loader.get_data(str(path)), function.__qualname__)


def _import_failed(step: Step, exc: BaseException) -> ImportFailedError:
    path = step.file.path
    frames = traceback.walk_tb(exc.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == str(path)]
    problem = (
        f"importing it raised {type(exc).__name__}: {message_of(exc).rstrip('.')}. Nothing of the plan "
        "has run."
    )
    remedy = f"Fix the file, then run [{step.direction.value}] again."
    return ImportFailedError(path, problem, line=lines[-1] if lines else None, remedy=remedy)


def _check_flags(file: MigrationFile, module: ModuleType) -> None:
    """Refuse a flag that an `if` or a loop has set: the plan was made, and shown, without it."""
    for flag in _FLAGS:
        value = getattr(module, flag, False)
        if isinstance(value, bool) and value != getattr(file, flag):
            problem = (
                f"{flag} is {value} once the file is executed, but that cannot be read from it. "
                f"Write `{flag} = {value}` on a line of its own that is not indented."
            )
            raise SourceError(file.path, problem)


def content_of(path: Path) -> bytes:
    """Return what is in a file. Raises SourceError."""
    try:
        return path.read_bytes()
    except OSError as exc:
        problem = (
            f"it cannot be read: {exc.strerror}. Fix that, or move the file out of the folder."
        )
        raise SourceError(path, problem) from exc


def parse(path: Path, content: bytes) -> ast.Module:
    """Return the syntax tree of a file that could be executed. Raises SourceError."""
    try:
        tree = ast.parse(content, filename=str(path))
        # Compiled, not executed: nothing earlier finds, say, a `return` outside a function.
        compile(tree, str(path), "exec", dont_inherit=True)
    except SyntaxError as exc:
        problem = f"syntax error: {exc.msg}. Fix the file, then try again."
        raise SourceError(path, problem, line=exc.lineno) from exc
    except (ValueError, RecursionError, MemoryError) as exc:
        reason = str(exc) or "it is nested too deeply"
        problem = f"it cannot be read as Python: {reason}. Fix the file, then try again."
        raise SourceError(path, problem) from exc
    return tree


def _bindings(tree: ast.Module) -> Iterator[tuple[str, ast.stmt | ast.expr]]:
    """Yield every name that the module binds at its top level, with what it is bound to."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, node) for alias in node.names)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                yield from _targets(target, node.value)
        elif isinstance(node, ast.AnnAssign) and node.value:
            yield from _targets(node.target, node.value)


def _targets(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple):
        parts = value.elts if isinstance(value, ast.Tuple) else [value] * len(target.elts)
        for inner, part in zip(target.elts, parts, strict=False):
            yield from _targets(inner, part)


def _declared(path: Path, tree: ast.Module) -> dict[str, Any]:
    return {
        name: _literal(path, name, bound)
        for name, bound in _bindings(tree)
        if name in _DECLARED and isinstance(bound, ast.expr)
    }


def _literal(path: Path, name: str, node: ast.expr) -> object:
    wanted = _DECLARED[name]
    if isinstance(node, ast.Constant) and isinstance(node.value, wanted):
        return node.value
    example = "True or False" if wanted is bool else "a plain string in quotes"
    problem = f"{name} must be {example}: it is read without executing the file."
    raise SourceError(path, problem, line=node.lineno)


def _defines(path: Path, tree: ast.Module, direction: Direction) -> bool:
    # The last binding counts, as it does when Python executes the module.
    found = False
    for name, bound in _bindings(tree):
        if name == direction.value:
            found = not (isinstance(bound, ast.Constant) and bound.value is None)
            _check_written(path, name, bound)
    return found


# --- what up() and down() may look like


class _Parameter(NamedTuple):
    """A parameter of up() or down(), as written or as imported."""

    name: str
    by_position_only: bool
    optional: bool
    line: int | None


def _check_written(path: Path, name: str, node: ast.AST) -> None:
    # What a decorator makes of a function is known only when it is loaded.
    if getattr(node, "decorator_list", None):
        return
    if isinstance(node, ast.AsyncFunctionDef):
        raise _runs_nothing(path, name, node.lineno)
    if isinstance(node, ast.FunctionDef):
        _check_parameters(path, name, _written(node.args))


def _check_function(path: Path, direction: Direction, function: Callable[..., object]) -> None:
    code = getattr(inspect.unwrap(function), "__code__", None)
    line = code.co_firstlineno if code and code.co_filename == str(path) else None
    lazy = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(is_lazy(function) for is_lazy in lazy):
        raise _runs_nothing(path, direction.value, line)
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as exc:
        problem = f"{direction.value} has no parameters that can be read: {exc}. {_PLAIN}"
        raise SourceError(path, problem) from exc
    _check_parameters(path, direction.value, (_loaded(p, line) for p in parameters.values()))


def _written(arguments: ast.arguments) -> Iterator[_Parameter]:
    positional = [*arguments.posonlyargs, *arguments.args]
    first_optional = len(positional) - len(arguments.defaults)
    for place, given in enumerate(positional):
        by_position_only = place < len(arguments.posonlyargs)
        yield _Parameter(given.arg, by_position_only, place >= first_optional, given.lineno)
    for given, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _Parameter(
            given.arg, by_position_only=False, optional=bool(default), line=given.lineno
        )


def _loaded(given: inspect.Parameter, line: int | None) -> _Parameter:
    variadic = given.kind in (given.VAR_POSITIONAL, given.VAR_KEYWORD)
    optional = variadic or given.default is not given.empty
    return _Parameter(given.name, given.kind is given.POSITIONAL_ONLY, optional, line)


def _check_parameters(path: Path, function: str, parameters: Iterable[_Parameter]) -> None:
    for name, by_position_only, optional, line in parameters:
        ours = name in PARAMETERS
        if (ours and by_position_only) or not (ours or optional):
            problem = (
                f"{function}() asks for {name!r}, but only {' and '.join(PARAMETERS)} can be "
                f"passed, by name. Write `def {function}(db):` or `def {function}(db, ctx):`."
            )
            raise SourceError(path, problem, line=line)


def _runs_nothing(path: Path, function: str, line: int | None) -> SourceError:
    problem = f"{function}() is async or a generator, so calling it would run nothing. {_PLAIN}"
    return SourceError(path, problem, line=line)


def _duplicates(files: Collection[MigrationFile]) -> Iterator[DuplicateVersionError]:
    uses = Counter(file.version for file in files)
    for version in sorted(version for version, number in uses.items() if number > 1):
        yield DuplicateVersionError(version, [f.path for f in files if f.version == version])


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
        try:
            self.folder.path.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder.path):
                return self._write(name, transactional=transactional)
        except OSError as exc:
            raise _unusable(self.folder.path, "written to", exc) from exc

    def _write(self, name: str, *, transactional: bool) -> Path:
        version = next_version(self.folder.highest(), self.clock(), self.version_format)
        path = self.folder.path / f"{version}_{slugify(name)}.py"
        content = self._render(name, version, transactional=transactional)
        try:
            described(path, content)
        except SourceError as exc:
            raise self._template_error(exc) from exc
        # "x": the lock keeps other creates out, but not an editor.
        with path.open("xb") as file:
            file.write(content)
        return path

    def _render(self, name: str, version: int, *, transactional: bool) -> bytes:
        import jinja2  # noqa: PLC0415  (Flask's own, but no other command needs it)

        environment = jinja2.Environment(
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
            autoescape=False,  # noqa: S701  (Python, not HTML)
        )
        try:
            source = self.template.read_text("utf-8") if self.template else DEFAULT_TEMPLATE
            text = environment.from_string(source).render(
                name=repr(name), version=version, slug=slugify(name), transactional=transactional
            )
            return text.encode("utf-8")
        except Exception as exc:
            raise self._template_error(exc) from exc

    def _template_error(self, problem: Exception) -> ConfigurationError:
        return ConfigurationError(
            f"The template {self.template} does not give a migration: "
            f"{message_of(problem).rstrip('.')}. It may use {{{{ name }}}} (a Python literal), "
            "{{ version }}, {{ slug }} and {{ transactional }}."
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
        msg = "The name is empty."
        raise InvalidRequestError(msg, 'Say what changes: [create "add user index"].')
    if len(name) > _NAME_LIMIT:
        msg = (
            f"The name has {len(name)} characters; at most {_NAME_LIMIT} are accepted. Shorten it."
        )
        raise InvalidRequestError(msg)
    return name


def _unusable(folder: Path, how: str, exc: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"The migrations folder {folder} cannot be {how}: {exc.strerror or exc}.",
        "Fix that, or set MIGRATE_DIRECTORY to another folder.",
    )


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
        # Some network file systems lock no folders: there, too, they are not told apart.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
