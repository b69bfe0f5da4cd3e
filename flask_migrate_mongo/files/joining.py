"""Joins migrations into the source of one squashed migration, which a person then edits."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from flask_migrate_mongo.model.errors import SourceError
from flask_migrate_mongo.model.values import MigrationFile

from .names import imported_name, rename, uses_of
from .parsing import DOWN, PARAMETERS, UP, VERIFY, parameters_of, parse

_Names = Mapping[str, str]
_Import = ast.Import | ast.ImportFrom

_DECLARED = frozenset({"name", "description", "transactional", "idempotent", "replaces"})
_OF_EACH = frozenset({UP, DOWN, VERIFY}) | _DECLARED
"""Names that every migration has for itself."""

_BY_TEXT = frozenset({"globals", "eval", "exec"})
"""Functions that find names by their text, which a new name would break."""

_FREE = "a name of Python's own"
_WIDTH = 88
"""The length of a line that formatters have by default."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The source of a squashed migration, and what its reader should look at."""

    content: bytes
    notes: tuple[str, ...]


def join(sources: Sequence[tuple[MigrationFile, bytes]], name: str) -> Joined:
    """Join migrations, in their order. Raises SourceError for one that cannot be joined."""
    parts = [_Part(file, content) for file, content in sources]
    files = [part.file for part in parts]
    for part, names in zip(parts, _chosen_names(parts), strict=True):
        part.rename(names)
    head = [_docstring(name, files), *_imports(parts), _declarations(name, files)]
    functions = [_function(UP, parts, list(_calls_up(parts)))]
    if all(file.reversible for file in files):
        calls = [part.call(DOWN) for part in reversed(parts)]
        functions.append(_function(DOWN, parts, calls))
    text = "\n\n\n".join(["\n\n".join(head), *functions, *(part.section() for part in parts)])
    return Joined(f"{text}\n".encode(), tuple(_notes(parts)))


# --- one migration


@dataclass(frozen=True, slots=True)
class _Statement:
    """A statement of a module: its node, its text with the comments above it, and the empty lines above these.

    `loses` is whether its comments could not be kept.
    """

    node: ast.stmt
    text: str
    space: int
    loses: bool

    @property
    def defines(self) -> bool:
        """Whether formatters keep two empty lines around it."""
        return isinstance(self.node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


class _Part:
    """One migration: its file, and what its module consists of."""

    def __init__(self, file: MigrationFile, content: bytes) -> None:
        self.file = file
        self.names: _Names = {}
        self.tree = parse(file.path, content)
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        self._lines = re.split("\r\n|\r|\n", content.decode(encoding))
        self.uses, self._unclear = uses_of(self.tree)
        # Before they are renamed.
        self._functions = {
            node.name: node for node in self.tree.body if isinstance(node, ast.FunctionDef)
        }
        self._check()

    def _check(self) -> None:
        """Raise SourceError for what cannot be joined."""
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
                self._refuse("it imports `*`, so its names are not known", node)
        by_text = _BY_TEXT & {use.name for use in self.uses if self.meaning[use.name] == _FREE}
        if by_text:
            self._refuse(f"it calls {', '.join(sorted(by_text))}(), which may find names by text")
        needed = {UP: True, DOWN: self.file.reversible, VERIFY: self.file.verifiable}
        for name, is_needed in needed.items():
            if is_needed and name not in self._functions:
                self._refuse(f"its {name} is not written as `def {name}(db):`")

    def _refuse(self, why: str, node: ast.stmt | None = None) -> None:
        problem = f"it cannot be joined: {why}. Nothing was written."
        remedy = "Squash the migrations before it and after it, or write this squash by hand."
        line = node.lineno if node else None
        raise SourceError(self.file.path, problem, line=line, remedy=remedy)

    @cached_property
    def meaning(self) -> Mapping[str, str]:
        """What each global name means: an import, written alone, something of this file, or of Python's own."""
        imported = {
            id(alias): _written(node, alias)
            for node in self.tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        own = str(self.file.version)
        found: dict[str, str] = {}
        for node, name, binds in self.uses:
            if binds:
                meaning = imported.get(id(node), own)
                found[name] = meaning if found.get(name, meaning) == meaning else own
        return {use.name: _FREE for use in self.uses} | found

    @cached_property
    def all_names(self) -> frozenset[str]:
        """Every name in the file, of whichever scope."""
        nodes = list(ast.walk(self.tree))
        return frozenset(
            {node.id for node in nodes if isinstance(node, ast.Name)}
            | {node.arg for node in nodes if isinstance(node, ast.arg)}
            | {use.name for use in self.uses}
        )

    def rename(self, names: _Names) -> None:
        """Give global names other names. Raises SourceError where it is not clear which ones these are."""
        if unclear := self._unclear & names.keys():
            self._refuse(f"a class of it has a name that its module has, too: {min(unclear)}")
        for use in self.uses:
            alias = use.node if isinstance(use.node, ast.alias) else None
            if alias and use.name in names and "." in alias.name and not alias.asname:
                self._refuse(f"it imports a module under a name with another meaning: {use.name}")
        self.names = names

    # --- its text

    @cached_property
    def statements(self) -> Sequence[_Statement]:
        """What its module consists of, with the new names, without its docstring and what it declares."""
        body = self.tree.body
        is_documented = ast.get_docstring(self.tree, clean=False) is not None
        kept = {node for node in body[is_documented:] if not self._is_declaration(node)}
        lines = self._renamed_lines()
        rename(self.uses, self.names)
        ends = [node.end_lineno or node.lineno for node in body]
        places = zip(body, [0, *ends], [*ends[:-1], len(lines)], strict=False)
        return [_statement(n, "\n".join(lines[above:end])) for n, above, end in places if n in kept]

    def _renamed_lines(self) -> list[str]:
        """Replace the names that have a known place in the text."""
        edits: list[tuple[int, int, bytes, bytes]] = []
        lines = [line.encode() for line in self._lines]
        for node, name, _ in self.uses:
            old, new = name.encode(), self.names.get(name, "").encode()
            if isinstance(node, ast.Name):
                edits.append((node.lineno - 1, node.col_offset, old, new))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                line = lines[node.lineno - 1][node.col_offset :]
                if match := re.match(rb"(?:async\s+)?(?:def|class)\s+", line):
                    edits.append((node.lineno - 1, node.col_offset + match.end(), old, new))
        for number, column, old, new in sorted(edits, reverse=True):
            line = lines[number]
            if new and line[column:].startswith(old):
                lines[number] = line[:column] + new + line[column + len(old) :]
        return [line.decode() for line in lines]

    def _is_declaration(self, node: ast.stmt) -> bool:
        """Whether a statement only declares what the squashed migration declares for itself."""
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        target = targets[0]
        is_assigned = isinstance(node, ast.Assign | ast.AnnAssign) and len(targets) == 1
        if not (is_assigned and isinstance(target, ast.Name) and target.id in _OF_EACH):
            return False
        return not any(use.name == target.id and not use.binds for use in self.uses)

    def section(self) -> str:
        """Write what its module consists of, under a comment that names it."""
        text = f"# --- {self.file.version} {_line(self.file.name)}"
        before = None
        for each in self.statements:
            if isinstance(each.node, ast.Import | ast.ImportFrom):
                continue
            is_apart = before is None or before.defines or each.defines
            text += "\n" * (3 if is_apart else min(each.space, 2) + 1) + each.text
            before = each
        return text

    # --- calls of its functions

    def passed(self, name: str) -> tuple[str, ...]:
        """List what one of its functions, if it has that, can be called with."""
        if name not in self._functions:
            return ()
        arguments = self._functions[name].args
        given = {each.arg for each, _ in parameters_of(arguments)}
        return tuple(each for each in PARAMETERS if each in given or arguments.kwarg)

    def call(self, name: str) -> str:
        """Write a call of one of its functions."""
        arguments = self._functions[name].args
        passed = self.passed(name)
        by_position = [each.arg for each in arguments.args][: len(passed)] == list(passed)
        shown = passed if by_position else [f"{each}={each}" for each in passed]
        return f"{self.names[name]}({', '.join(shown)})"


def _statement(node: ast.stmt, text: str) -> _Statement:
    kept = text.strip("\n").rstrip()
    space = len(text) - len(text.lstrip("\n"))
    if _is_text_of(kept, node):
        return _Statement(node, kept, space, loses=False)
    # The place of a name was not found, such as one in an f-string for older Pythons.
    return _Statement(node, ast.unparse(node), space, loses="#" in kept)


def _is_text_of(text: str, node: ast.stmt) -> bool:
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return False
    return ast.dump(tree) == ast.dump(ast.Module([node], []))


# --- names


def _chosen_names(parts: Sequence[_Part]) -> Iterator[_Names]:
    """Choose new names for what each migration has for itself, and where two use one name for different things."""
    meanings: defaultdict[str, set[str]] = defaultdict(set)
    for part in parts:
        for name, meaning in part.meaning.items():
            meanings[name].add(meaning)
    taken = set(meanings).union(*(part.all_names for part in parts))
    for part in parts:
        chosen = {}
        for name, meaning in part.meaning.items():
            others = meanings[name] - {meaning}
            is_import = "import " in meaning
            clashes = any("import " in o or o == _FREE for o in others) if is_import else others
            if meaning != _FREE and (clashes or name in _OF_EACH):
                new = f"{name}_{part.file.version}"
                while new in taken:
                    new += "_"
                taken.add(new)
                chosen[name] = new
        yield chosen


def _written(node: _Import, alias: ast.alias) -> str:
    """Write the import of one name; `import a.b` and `import a` bind the same."""
    if isinstance(node, ast.Import):
        alone: ast.stmt = ast.Import([alias if alias.asname else ast.alias(imported_name(alias))])
    else:
        alone = ast.ImportFrom(node.module, [alias], node.level)
    return ast.unparse(alone)


# --- the parts of the source


def _imports(parts: Iterable[_Part]) -> Iterator[str]:
    """Write the imports of all migrations, each once, in blocks; one with a comment stays as it is."""
    modules: set[str] = set()
    names: defaultdict[str, set[str]] = defaultdict(set)
    commented: dict[str, None] = {}
    for each in (statement for part in parts for statement in part.statements):
        node = each.node
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        bound = {ast.unparse(alias) for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            names["__future__"] |= bound
        elif "#" in each.text:
            commented[each.text] = None
        elif isinstance(node, ast.ImportFrom):
            names["." * node.level + (node.module or "")] |= bound
        else:
            modules |= bound
    if future := names.pop("__future__", None):
        yield _from("__future__", future)
    lines = [f"import {module}" for module in sorted(modules)]
    lines += [_from(module, bound) for module, bound in sorted(names.items())]
    if lines or commented:
        yield "\n".join((*lines, *commented))


def _from(module: str, names: set[str]) -> str:
    line = f"from {module} import {', '.join(sorted(names))}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join((f"from {module} import (", *(f"    {n}," for n in sorted(names)), ")"))


def _docstring(name: str, files: Sequence[MigrationFile]) -> str:
    lines = [f"{_line(name).rstrip('.')}.", ""]
    lines.append("Squashed from these migrations, which it replaces:")
    lines.append("")
    for file in files:
        also = f", squashed from {', '.join(map(str, file.replaces))}" if file.replaces else ""
        lines.append(f"- {file.version} {_line(file.name)}{also}")
    text = "\n".join(lines).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'"""{text}\n"""'


def _line(text: str) -> str:
    """Make a text one line of printable characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _declarations(name: str, files: Sequence[MigrationFile]) -> str:
    lines = [f"name = {_literal(name)}"]
    lines += ["transactional = True"] if all(file.transactional for file in files) else []
    lines += ["idempotent = True"] if all(file.idempotent for file in files) else []
    parts = [part for f in files for part in (f.parts or {f.version: f.slug}).items()]
    # With its slug it is not mistaken for another migration that some database has under the same number.
    names = (f"{version}_{slug}" if slug else str(version) for version, slug in sorted(parts))
    lines += ["replaces = [", *(f"    {_literal(name)}," for name in names), "]"]
    return "\n".join(lines)


def _literal(text: str) -> str:
    """Write a text as formatters do: in double quotes, unless that needs more backslashes."""
    written = repr(text)
    if written.startswith("'") and '"' not in written and "\\'" not in written:
        return f'"{written[1:-1]}"'
    return written


def _function(name: str, parts: Sequence[_Part], calls: Sequence[str]) -> str:
    called = (DOWN,) if name == DOWN else (UP, VERIFY)
    passed = {each for part in parts for function in called for each in part.passed(function)}
    parameters = ", ".join(each for each in PARAMETERS if each in passed)
    return "\n".join((f"def {name}({parameters}):", *(f"    {call}" for call in calls)))


def _calls_up(parts: Sequence[_Part]) -> Iterator[str]:
    for part in parts:
        yield part.call(UP)
        if part.file.verifiable:
            # In its place: a later migration may change what it looks at.
            yield f"if {part.call(VERIFY)} is False:"
            yield f'    raise ValueError("verify() of {part.file.version} returned False")'


def _notes(parts: Sequence[_Part]) -> Iterator[str]:
    """Explain what the squashed migration does not have, although some of the migrations do."""
    files = [part.file for part in parts]
    lacks = (
        ("It is not transactional, because these are not", [f.transactional for f in files]),
        ("It is not idempotent, because these are not", [f.idempotent for f in files]),
        ("It has no down(), because these have none", [f.reversible for f in files]),
    )
    for lack, has in lacks:
        if any(has) and not all(has):
            lacking = [str(f.version) for f, h in zip(files, has, strict=True) if not h]
            yield f"{lack}: {', '.join(lacking)}."
    verified = [str(file.version) for file in files if file.verifiable]
    if verified:
        yield f"It has no verify(): its up() calls those of {', '.join(verified)}, each after its part."
    for part in parts:
        names = (
            getattr(each.node, "name", "a statement") for each in part.statements if each.loses
        )
        for name in names:
            yield f"It lacks comments of {part.file.file_name}: the code of {name} was written anew."
