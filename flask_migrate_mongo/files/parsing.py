"""Describes a migration from the syntax tree of its file; nothing is executed."""

from __future__ import annotations

import ast
import hashlib
import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING, TypeVar

from flask_migrate_mongo.model.errors import SourceError
from flask_migrate_mongo.model.values import Direction, MigrationFile

from . import suppressions
from .names import NUMBERED, highest_version, next_version, slugify
from .signature import check_written

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    Bound = Mapping[str, ast.stmt | ast.expr]

_Literal = TypeVar("_Literal", str, bool)


def read_content(path: Path) -> bytes:
    """Read a file. Raises SourceError."""
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
    match = NUMBERED.match(path.stem)
    if match is None:
        raise SourceError(path, _unnumbered(path))
    tree = tree or parse(path, content)
    bound = dict(_bindings(tree))
    name = _literal(path, bound, "name", "")
    description = _literal(path, bound, "description", "")
    transactional = _literal(path, bound, "transactional", default=False)
    idempotent = _literal(path, bound, "idempotent", default=False)
    if not _defines(path, bound, Direction.UP):
        raise SourceError(path, "it has no up(). Add `def up(db):` with the change it makes.")
    words = re.sub(r"[-_]+", " ", match["slug"])
    return MigrationFile(
        folder=path.parent,
        file_name=path.name,
        version=int(match["version"]),
        name=_storable(name) or _storable(words) or match["version"],
        description=_storable(description or ast.get_docstring(tree) or ""),
        transactional=transactional,
        idempotent=idempotent,
        reversible=_defines(path, bound, Direction.DOWN),
        checksum=checksum(content),
        suppressions=suppressions.granted(content),
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


def _defines(path: Path, bound: Bound, direction: Direction) -> bool:
    node = bound.get(direction.value)
    if node is None or (isinstance(node, ast.Constant) and node.value is None):
        return False
    check_written(path, direction.value, node)
    return True
