"""Print how big and how tangled the package is: `figures.py [--package CHECKOUT]…`.

Each `--package` names the root of a checkout and becomes a column; without it this checkout is the only
one. A checkout that has a `.venv` is run with it.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import re
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.server.launcher import TestServer  # noqa: E402  (after the path)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PACKAGE = "flask_migrate_mongo"
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_IMPORTS = (ast.Import, ast.ImportFrom)


@dataclass(frozen=True, slots=True)
class Function:
    """A function or a method, from its `def` to its last line."""

    name: str
    lines: int


@dataclass(frozen=True, slots=True)
class Module:
    """What is counted in one file."""

    path: Path
    lines: int
    functions: tuple[Function, ...]
    classes: tuple[str, ...]
    local_imports: int
    noqa: int
    any_words: int


@dataclass(frozen=True, slots=True)
class Calls:
    """What `up` with one empty migration calls in the package."""

    calls: int
    functions: int
    file_changes: int


def read_module(path: Path, package: Path) -> Module:
    """Count what is in one file."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    nodes = list(ast.walk(tree))
    where = path.relative_to(package)
    definitions = [node for node in nodes if isinstance(node, _DEFINITIONS)]
    local = {id(n) for d in definitions for n in ast.walk(d) if isinstance(n, _IMPORTS)}
    return Module(
        path=where,
        lines=len(text.splitlines()),
        functions=tuple(
            Function(f"{where}:{d.name}", (d.end_lineno or d.lineno) - d.lineno + 1)
            for d in definitions
        ),
        # Not those inside another class: `Meta` is a word of the framework.
        classes=tuple(node.name for node in tree.body if isinstance(node, ast.ClassDef)),
        local_imports=len(local),
        noqa=len(re.findall(r"# noqa\b", text)),
        any_words=len(re.findall(r"\bAny\b", text)),
    )


def read_package(package: Path) -> tuple[Module, ...]:
    """Count what is in every file of a package."""
    return tuple(read_module(path, package) for path in sorted(package.rglob("*.py")))


def percentile(values: Sequence[int], share: float) -> int:
    """Find the smallest value that so large a share of the values does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def shared_names(modules: Sequence[Module]) -> dict[str, tuple[str, ...]]:
    """Find the class names that are defined more than once, with the files."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for module in modules:
        for name in module.classes:
            places[name].append(str(module.path))
    return {name: tuple(files) for name, files in sorted(places.items()) if len(files) > 1}


def static_rows(modules: Sequence[Module]) -> dict[str, str]:
    """Word the figures that reading the files gives."""
    functions = [function for module in modules for function in module.functions]
    lengths = [function.lines for function in functions]
    longest = max(functions, key=lambda function: function.lines)
    at_the_top = Counter(len(module.path.parts) for module in modules)[1]
    return {
        "lines": f"{sum(module.lines for module in modules):,}",
        "modules": str(len(modules)),
        "modules at the top of the package": str(at_the_top),
        "functions": f"{len(functions):,}",
        "lines of a function, median": f"{statistics.median(lengths):g}",
        "lines of a function, 95th percentile": str(percentile(lengths, 0.95)),
        "longest function": f"{longest.lines} ({longest.name})",
        "imports inside functions": str(sum(module.local_imports for module in modules)),
        "`noqa`": str(sum(module.noqa for module in modules)),
        "the word `Any`": str(sum(module.any_words for module in modules)),
        "class names defined more than once": str(len(shared_names(modules))),
    }


def call_rows(calls: Calls) -> dict[str, str]:
    """Word the figures that running `up` gives."""
    return {
        "`up` of an empty migration: calls": f"{calls.calls:,}",
        "`up` of an empty migration: functions called": str(calls.functions),
        "`up` of an empty migration: calls into another file": f"{calls.file_changes:,}",
    }


def count_calls(checkout: Path, uri: str) -> Calls:
    """Run `up` with one empty migration on the code of a checkout."""
    own = checkout / ".venv" / "bin" / "python"
    command = [
        str(own if own.exists() else sys.executable),
        str(Path(__file__).with_name("calls.py")),
        str(checkout / PACKAGE),
    ]
    environ = {**os.environ, "PYTHONPATH": str(checkout), "MONGO_URI": uri}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return Calls(*json.loads(done.stdout))


def table(columns: Mapping[str, Mapping[str, str]]) -> str:
    """Lay out the figures: a row each, a column a checkout."""
    names = next(iter(columns.values()))
    rows = [["", *columns]]
    rows += [[name, *(column[name] for column in columns.values())] for name in names]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
    return f"| {' | '.join(cells)} |"


def shared_lines(names: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """List the class names that are defined more than once."""
    for name, files in names.items():
        yield f"- {name}: {', '.join(files)}"


def main(arguments: Sequence[str]) -> None:
    """Print the table, and below it the names that are defined more than once."""
    parser = argparse.ArgumentParser(prog="figures.py", description=__doc__)
    parser.add_argument(
        "--package", type=Path, action="append", metavar="CHECKOUT", help="measure this checkout"
    )
    checkouts = parser.parse_args(arguments).package or [ROOT]
    columns, shared = {}, {}
    for checkout in map(Path.resolve, checkouts):
        modules = read_package(checkout / PACKAGE)
        # A server each, so that no checkout finds the records of another.
        with TestServer() as server:
            calls = count_calls(checkout, server.uri)
        columns[str(checkout)] = static_rows(modules) | call_rows(calls)
        shared[str(checkout)] = shared_names(modules)
    print(table(columns))
    for name, names in shared.items():
        print(
            "\n".join(("", f"Class names defined more than once in {name}:", *shared_lines(names)))
        )


if __name__ == "__main__":
    main(sys.argv[1:])
