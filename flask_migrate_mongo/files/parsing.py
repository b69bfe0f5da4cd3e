"""Describes a migration from its name and the syntax tree of its file; nothing is executed."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import inspect
import io
import os
import re
import tokenize
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flask_migrate_mongo.model.errors import SourceError
from flask_migrate_mongo.model.values import MigrationFile, Suppression

from .identity import digest

if TYPE_CHECKING:
    Bound = Mapping[str, ast.stmt | ast.expr]

_Literal = TypeVar("_Literal", str, bool)

UP, DOWN, VERIFY = "up", "down", "verify"
"""The functions of a migration."""

PARAMETERS = ("db", "ctx")
"""The parameters that they may have, by name."""

PLAIN = "Write a plain `def` without `await` and `yield`."
"""The remedy for a function whose call would run nothing."""

_NUMBERED = re.compile(r"(?P<version>[0-9]+)[-_](?P<slug>.+)", re.DOTALL)
"""Matches a file name, with or without its ending, that begins with a version."""

_SLUG_LIMIT = 60
_SLUG_BYTES = 160
"""So that the file name stays below the 255 bytes of most file systems."""

_LOOSE_MARK = re.compile(r"(?<=[a-z0-9_])[\u0300-\u036f]+|^[\u0300-\u036f]+")
"""Matches an accent for which there is no composed letter."""

_CODE = r"MM[0-9]{3}"
_ALLOW = rf"#\s*migrate:\s*allow\b(?P<codes>(?:[\s,]*\b{_CODE}\b)*)(?P<rest>.*)"
_BECAUSE = r"\s+because\s+(?P<reason>\S.*)"

# --- names of files


def version_of(name: str) -> int | None:
    """Read the version at the beginning of a file name."""
    match = _NUMBERED.match(name)
    return int(match["version"]) if match else None


def slug_of(name: str) -> str:
    """Read what follows the version in a file name without its ending."""
    match = _NUMBERED.match(name)
    return match["slug"] if match else ""


def highest_version(folder: Path) -> int:
    """Find the highest version of any file or folder in it, readable or not; 0 when there is none."""
    return max((version_of(path.name) or 0 for path in folder.iterdir()), default=0)


def next_version(highest: int, now: datetime, version_format: str) -> int:
    """Choose the version after both the highest one and the date, "timestamp" or "sequence"."""
    pattern = "%Y%m%d%H%M%S" if version_format == "timestamp" else "%Y%m%d001"
    return max(highest + 1, int(f"{now:{pattern}}"))


def slugify(name: str) -> str:
    """Convert a name to lower-case words joined by `_`, at most 60 characters.

    Letters with accents become ASCII, letters of other scripts stay, if the file system can store them. The result is
    in NFC, and short enough for file systems that store names in NFD, as those of macOS do.
    """
    words = "".join(map(_in_slug, unicodedata.normalize("NFC", name.casefold())))
    slug = re.sub("_+", "_", _LOOSE_MARK.sub("", words))[:_SLUG_LIMIT].strip("_")
    while len(unicodedata.normalize("NFD", slug).encode()) > _SLUG_BYTES:
        slug = slug[:-1].strip("_")
    try:
        os.fsencode(slug)
    except UnicodeEncodeError:
        slug = re.sub("[^a-z0-9]+", "_", slug).strip("_")
    return slug or "migration"


def _in_slug(character: str) -> str:
    """Convert a character to what a slug has of it: ASCII where that is possible, `_` for what is no part of a word."""
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode().lower()
    if plain and plain.isalnum():
        return plain
    return character if unicodedata.category(character)[0] in "LMN" else "_"


# --- contents of files


def read_content(path: Path) -> bytes:
    """Read a file. Raises SourceError, also for one with a line break in its name."""
    if {"\n", "\r"} & set(path.name):
        raise SourceError(path, "its name has a line break. Rename the file.")
    try:
        return path.read_bytes()
    except OSError as exc:
        problem = f"it cannot be read: {exc.strerror}. Fix that, or move it out of the folder."
        raise SourceError(path, problem) from exc


def checksum(content: bytes) -> str:
    """Compute the SHA-256 of a file's content, the same for Windows and Unix line ends."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


def parse(path: Path, content: bytes) -> ast.Module:
    """Parse and compile a file, without executing it. Raises SourceError."""
    try:
        tree = ast.parse(content, filename=str(path))
        # Only the compiler finds, for example, a `return` outside a function.
        compile(tree, str(path), "exec", dont_inherit=True)
    except SyntaxError as exc:
        problem = f"syntax error: {exc.msg}. Fix the file, then try again."
        raise SourceError(path, problem, line=exc.lineno) from exc
    except (ValueError, RecursionError, MemoryError) as exc:
        reason = str(exc) or "it is nested too deeply"
        problem = f"it is not valid Python: {reason}. Fix the file, then try again."
        raise SourceError(path, problem) from exc
    return tree


def describe(path: Path, content: bytes, tree: ast.Module | None = None) -> MigrationFile:
    """Describe a migration from its syntax tree. Raises SourceError."""
    match = _NUMBERED.match(path.stem)
    if match is None:
        raise SourceError(path, _unnumbered(path))
    tree = tree or parse(path, content)
    bound = dict(_bindings(tree))
    name = _literal(path, bound, "name", "")
    description = _literal(path, bound, "description", "")
    transactional = _literal(path, bound, "transactional", default=False)
    idempotent = _literal(path, bound, "idempotent", default=False)
    if not _defines(path, bound, UP):
        raise SourceError(path, "it has no up(). Add `def up(db):` with the change it makes.")
    words = re.sub(r"[-_]+", " ", match["slug"])
    parts = _parts(path, bound, int(match["version"]))
    return MigrationFile(
        folder=path.parent,
        file_name=path.name,
        version=int(match["version"]),
        name=_storable(name) or _storable(words) or match["version"],
        description=_storable(description or ast.get_docstring(tree) or ""),
        transactional=transactional,
        idempotent=idempotent,
        reversible=_defines(path, bound, DOWN) and _is_written(bound[DOWN]),
        checksum=checksum(content),
        suppressions=tuple(s for s in suppressions_in(content) if s.code and s.reason),
        digest=digest(tree),
        slug=match["slug"],
        verifiable=_defines(path, bound, VERIFY),
        replaces=tuple(parts),
        part_slugs=tuple(parts.values()),
        written=_is_written(bound[UP]),
    )


def _unnumbered(path: Path) -> str:
    free = next_version(highest_version(path.parent), datetime.now(timezone.utc), "sequence")
    return (
        "its name has no number with `_` or `-` after it, so its place in the order is unknown. "
        f"Rename it to {free}_{slugify(path.stem)}.py, or to _{path.name} if it is not a migration."
    )


def _storable(text: str) -> str:
    # BSON and JSON cannot hold the lone surrogates that a file, or its name, can contain.
    return text.encode("utf-8", "backslashreplace").decode().strip()


def _bindings(tree: ast.Module) -> Iterator[tuple[str, ast.stmt | ast.expr]]:
    """Yield every name that is bound at the top level, and its value or definition; the last one counts."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, node) for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from _targets(target, node.value)


def _targets(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple):
        parts = value.elts if isinstance(value, ast.Tuple) else [value] * len(target.elts)
        for inner, part in zip(target.elts, parts, strict=False):
            yield from _targets(inner, part)


def _literal(path: Path, bound: Bound, name: str, default: _Literal) -> _Literal:
    """Read the literal that a name is bound to, of the default's type. Raises SourceError."""
    node = bound.get(name)
    if not isinstance(node, ast.expr):
        return default
    if isinstance(node, ast.Constant) and isinstance(node.value, type(default)):
        return node.value
    example = "a plain string in quotes" if isinstance(default, str) else "True or False"
    problem = f"{name} must be {example}: it is read without executing the file."
    raise SourceError(path, problem, line=node.lineno)


def _parts(path: Path, bound: Bound, version: int) -> Mapping[int, str]:
    """Read the versions that a squashed migration replaces, in ascending order, each with its slug. Raises SourceError."""
    node = bound.get("replaces")
    if not isinstance(node, ast.expr):
        return {}
    listed = node.elts if isinstance(node, ast.List | ast.Tuple) else [node]
    names = [str(getattr(each, "value", "")) for each in listed]
    if not all(re.fullmatch(r"[0-9]{1,255}([-_].+)?", name, re.DOTALL) for name in names):
        problem = 'replaces must be a list of names without their ending, such as ["20260101001_add_users"], or of versions.'
        raise SourceError(path, problem, line=node.lineno)
    parts = dict(sorted((int(re.split("[-_]", name)[0]), slug_of(name)) for name in names))
    # Then no migration replaces itself, and no two replace each other.
    if parts and max(parts) >= version:
        problem = f"replaces names {max(parts)}, but a squashed migration has a higher number than all that it replaces."
        raise SourceError(path, problem, line=node.lineno)
    return parts


def _defines(path: Path, bound: Bound, name: str) -> bool:
    node = bound.get(name)
    if node is None or (isinstance(node, ast.Constant) and node.value is None):
        return False
    # A decorator can change the parameters: `check_imported` checks the result.
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.decorator_list:
        _check_written(path, node)
    return True


def _is_written(node: ast.stmt | ast.expr) -> bool:
    """Whether a function does more than raise NotImplementedError, as in a new file, or before a question is answered."""
    if not isinstance(node, ast.FunctionDef):
        return True
    first = node.body[1:2] if ast.get_docstring(node) is not None else node.body[:1]
    error = first[0].exc if first and isinstance(first[0], ast.Raise) else None
    kind = error.func if isinstance(error, ast.Call) else error
    return not (isinstance(kind, ast.Name) and kind.id == "NotImplementedError")


# --- suppressions of lint's findings: `# migrate: allow MM004 because …`


def suppressions_in(content: bytes) -> Iterator[Suppression]:
    """Find every suppression in a file that can be parsed, also those that lack a code or a reason."""
    # Few files have one, and this search costs far less than tokenizing every file.
    if b"migrate:" not in content:
        return
    # Some Pythons execute a file with a comment that is not in the file's encoding. Up to Python 3.11, comments
    # after such a one are not found.
    with contextlib.suppress(SyntaxError, UnicodeDecodeError, tokenize.TokenError):
        for token in tokenize.tokenize(io.BytesIO(content).readline):
            match = re.fullmatch(_ALLOW, token.string)
            if match is None or token.type != tokenize.COMMENT:
                continue
            because = re.fullmatch(_BECAUSE, match["rest"])
            reason = because["reason"].strip() if because else ""
            for code in re.findall(_CODE, match["codes"]) or [""]:
                yield Suppression(code, reason, token.start[0])


# --- the parameters of up() and down(), as written and as imported


def parameters_of(arguments: ast.arguments) -> Iterable[tuple[ast.arg, ast.expr | None]]:
    """List the parameters that have a name and their defaults, without those with `*` or `**`."""
    positional = [*arguments.posonlyargs, *arguments.args]
    required = [None] * (len(positional) - len(arguments.defaults))
    defaults = [*required, *arguments.defaults, *arguments.kw_defaults]
    return zip([*positional, *arguments.kwonlyargs], defaults, strict=True)


def _check_written(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    """Check up() or down() in the syntax tree. Raises SourceError."""
    if isinstance(node, ast.AsyncFunctionDef):
        raise _runs_nothing(path, node.name, node.lineno)
    for given, default in parameters_of(node.args):
        by_position = given in node.args.posonlyargs
        optional = default is not None
        _check(path, node.name, given.arg, given.lineno, by_position=by_position, optional=optional)


def check_imported(path: Path, name: str, function: Callable[..., object]) -> None:
    """Check up() or down() of the imported module. Raises SourceError."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    line = code.co_firstlineno if code and code.co_filename == str(path) else None
    lazy = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(is_lazy(function) for is_lazy in lazy):
        raise _runs_nothing(path, name, line)
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as exc:
        problem = f"the parameters of {name} cannot be read: {exc}. {PLAIN}"
        raise SourceError(path, problem) from exc
    for given in parameters.values():
        variadic = given.kind in (given.VAR_POSITIONAL, given.VAR_KEYWORD)
        by_position = given.kind is given.POSITIONAL_ONLY
        optional = variadic or given.default is not given.empty
        _check(path, name, given.name, line, by_position=by_position, optional=optional)


def _check(
    path: Path, function: str, name: str, line: int | None, *, by_position: bool, optional: bool
) -> None:
    """Refuse a parameter that is not passed and has no default, or that is passed by position."""
    passed = name in PARAMETERS
    if (passed and not by_position) or (optional and not passed):
        return
    problem = (
        f"{function}() asks for {name!r}, but only {' and '.join(PARAMETERS)} can be passed, by "
        f"name. Write `def {function}(db):` or `def {function}(db, ctx):`."
    )
    raise SourceError(path, problem, line=line)


def _runs_nothing(path: Path, function: str, line: int | None) -> SourceError:
    problem = f"{function}() is async or a generator, so a call would run nothing. {PLAIN}"
    return SourceError(path, problem, line=line)
