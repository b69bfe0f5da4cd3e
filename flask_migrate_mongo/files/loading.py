"""Imports a migration's file, and calls its functions."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from flask_migrate_mongo.model.errors import (
    FileChangedError,
    ImportFailedError,
    SourceError,
    StepError,
    message_of,
)
from flask_migrate_mongo.model.masking import DEFAULT_MASK, Mask
from flask_migrate_mongo.model.values import MigrationFile, Step

from .packages import ContentLoader, import_content, module_name
from .parsing import PARAMETERS, PLAIN, UP, VERIFY, check_imported, checksum, read_content

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class StepFunction:
    """What a step calls, each with its name in the file: up(), then verify() if there is one; or down()."""

    parts: tuple[tuple[str, Callable[..., object]], ...]

    def __call__(self, available: Mapping[str, object]) -> None:
        """Call them with those available arguments that each names. Raises StepError."""
        for name, function in self.parts:
            if call(function, available) is False and name == VERIFY:
                raise StepError(
                    "verify() returned False, so the migration did not have its effect."
                )


def load(step: Step, mask: Mask = DEFAULT_MASK) -> StepFunction:
    """Import the step's file, exactly the content that was planned, and find its functions.

    Raises FileChangedError, ImportFailedError with the cause, or SourceError: for a
    file that cannot be read, a function that cannot be called with `PARAMETERS`, and a flag that differs from the plan.
    """
    file, name = step.file, step.direction.value
    module = _imported(file, name, mask)
    names = (UP, VERIFY) if name == UP and file.verifiable else (name,)
    return StepFunction(tuple((each, _checked(file, module, each)) for each in names))


def load_verify(file: MigrationFile, mask: Mask) -> StepFunction:
    """Import a file, and find its verify() alone. Raises as `load` does."""
    return StepFunction(((VERIFY, _checked(file, _imported(file, VERIFY, mask), VERIFY)),))


def _imported(file: MigrationFile, name: str, mask: Mask) -> ModuleType:
    path, content = file.path, read_content(file.path)
    if checksum(content) != file.checksum:
        raise FileChangedError(path, "it changed while this run was starting. Run it again.")
    try:
        module = import_content(module_name(path), path, content)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        frames = traceback.walk_tb(exc.__traceback__)
        lines = [line for frame, line in frames if frame.f_code.co_filename == str(path)]
        problem = (
            f"importing it raised {type(exc).__name__}: {message_of(exc, mask).rstrip('.')}. Nothing of "
            "the plan has run."
        )
        remedy = f"Fix the file, then run [{name}] again." if name != VERIFY else "Fix the file."
        line = lines[-1] if lines else None
        raise ImportFailedError(path, problem, line=line, remedy=remedy) from exc
    _check_flags(file, module)
    return module


def _checked(file: MigrationFile, module: ModuleType, name: str) -> Callable[..., object]:
    function: object = getattr(module, name, None)
    if not callable(function):
        raise SourceError(file.path, f"{name} is not a function. Write `def {name}(db):`.")
    check_imported(file.path, name, function)
    return function


def call(function: Callable[..., object], available: Mapping[str, object]) -> object:
    """Call a function of a migration with those available arguments that it names.

    Raises StepError when the call ran nothing, and only returned a coroutine or a generator.
    """
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [name for name in PARAMETERS if takes_any or name in parameters]
    result = function(**{name: available[name] for name in names})
    if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        # Python warns of a coroutine that is neither awaited nor closed.
        getattr(result, "close", lambda: None)()
        raise StepError(f"The call ran nothing: it returned a {type(result).__name__}. {PLAIN}")
    return result


@dataclass(frozen=True, slots=True)
class PortableFunction(Generic[_Result]):
    """A migration's top-level function, in a form for a process that cannot import the migration."""

    module: str
    path: Path
    content: bytes
    name: str

    @classmethod
    def of(cls, function: Callable[..., _Result]) -> PortableFunction[_Result] | None:
        """Convert a migration's function; None for one that is imported from elsewhere."""
        module = sys.modules.get(getattr(function, "__module__", ""))
        loader = getattr(module, "__loader__", None)
        if module is None or not isinstance(loader, ContentLoader):
            return None
        return cls(module.__name__, loader.path, loader.content, function.__qualname__)

    def resolve(self) -> Callable[..., _Result]:
        """Find the function in the migration, imported from the content that was planned."""
        module = sys.modules.get(self.module) or import_content(
            self.module, self.path, self.content
        )
        function: Callable[..., _Result] = getattr(module, self.name)
        return function


def _check_flags(file: MigrationFile, module: ModuleType) -> None:
    """Refuse a flag that an `if` or a loop sets: it is missing in the plan."""
    for flag, planned in (("transactional", file.transactional), ("idempotent", file.idempotent)):
        value = getattr(module, flag, False)
        if isinstance(value, bool) and value != planned:
            problem = (
                f"{flag} is {value} once the file is executed, but that cannot be read from it. "
                f"Write `{flag} = {value}` on a line of its own that is not indented."
            )
            raise SourceError(file.path, problem)
