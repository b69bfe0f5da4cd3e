"""The parameters that up() and down() may have, checked as written and as imported."""

from __future__ import annotations

import ast
import inspect
from typing import TYPE_CHECKING

from flask_migrate_mongo.model.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PARAMETERS = ("db", "ctx")
"""The parameters that up() and down() may have, by name."""

PLAIN = "Write a plain `def` without `await` and `yield`."
"""The remedy for a function whose call would run nothing."""


def check_written(path: Path, name: str, node: ast.AST) -> None:
    """Check up() or down() in the syntax tree. Raises SourceError."""
    # A decorator can change the parameters: `check_imported` checks the result.
    if getattr(node, "decorator_list", None):
        return
    if isinstance(node, ast.AsyncFunctionDef):
        raise _runs_nothing(path, name, node.lineno)
    if isinstance(node, ast.FunctionDef):
        _check_arguments(path, name, node.args)


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


def _check_arguments(path: Path, function: str, arguments: ast.arguments) -> None:
    positional = [*arguments.posonlyargs, *arguments.args]
    first_optional = len(positional) - len(arguments.defaults)
    for place, given in enumerate(positional):
        by_position, optional = place < len(arguments.posonlyargs), place >= first_optional
        _check(path, function, given.arg, given.lineno, by_position=by_position, optional=optional)
    for given, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        _check(path, function, given.arg, given.lineno, by_position=False, optional=bool(default))


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
