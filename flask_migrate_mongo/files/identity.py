"""The digest of a migration: of what its code does, not of how it is written.

Comments, docstrings, quotes and layout do not count. The digest is the same on every Python from 3.10 on.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator

_NOT_COUNTED = frozenset({"ctx", "kind", "type_ignores"})
"""Fields of nodes: whether a name is read or written, which its place says, and the prefix of `u"text"`."""


def digest(tree: ast.Module) -> str:
    """Compute the SHA-256 of a syntax tree, as hexadecimal digits."""
    found = hashlib.sha256()
    for token in _tokens(tree):
        # Its length first, so that no text can look like the end of one token and the begin of another.
        found.update(len(token).to_bytes(8, "big") + token)
    return found.hexdigest()


def _tokens(tree: ast.Module) -> Iterator[bytes]:
    # Not recursive: how deep a function may call itself differs between the versions of Python.
    waiting: list[object] = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, bytes):
            yield part
        elif isinstance(part, ast.AST):
            yield f"({type(part).__name__}".encode()
            waiting += [b")", *reversed(list(_parts(part)))]
        elif isinstance(part, list):
            yield b"["
            waiting += [b"]", *reversed(part)]
        else:
            yield _constant(part)


def _parts(node: ast.AST) -> Iterator[object]:
    """Yield the fields of a node that are not empty, each after its name.

    A field that only newer versions of Python have is empty in the code of older ones.
    """
    for name, value in ast.iter_fields(node):
        if name in _NOT_COUNTED or value is None:
            continue
        counted = _counted(node, name, value) if isinstance(value, list) else value
        if counted != []:
            yield name.encode()
            yield counted


def _counted(node: ast.AST, name: str, values: list[object]) -> list[object]:
    if name == "body" and isinstance(
        node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    ):
        return values[1:] if ast.get_docstring(node, clean=False) is not None else values
    if isinstance(node, ast.JoinedStr):
        return list(_joined(values))
    if isinstance(node, ast.Delete):
        # A formatter removes the parentheses of `del (a, b)`.
        return [target for value in values for target in _flat(value)]
    return values


def _flat(target: object) -> Iterable[object]:
    return target.elts if isinstance(target, ast.Tuple) else (target,)


def _joined(values: list[object]) -> Iterator[object]:
    """Join adjacent texts of an f-string, and leave out empty ones: versions of Python split it differently."""
    text = ""
    for value in values:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            text += value.value
            continue
        if text:
            yield ast.Constant(text)
        text = ""
        yield value
    if text:
        yield ast.Constant(text)


def _constant(value: object) -> bytes:
    if isinstance(value, str):
        # Not its repr(): which characters that escapes differs between the versions of Python.
        return b"str:" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return b"bytes:" + value
    if isinstance(value, int) and not isinstance(value, bool):
        # Python refuses to write very long numbers in decimal digits.
        return f"int:{value:x}".encode()
    return f"{type(value).__name__}:{value!r}".encode()
