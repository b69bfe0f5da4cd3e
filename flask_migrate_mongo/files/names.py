"""The global names of a migration's module: where they are bound and used, and how they are renamed."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_SCOPES = (_Function, ast.Lambda, ast.ClassDef, _Comprehension)

_BY_FIELD: Mapping[type[ast.AST], str] = {
    ast.FunctionDef: "name",
    ast.AsyncFunctionDef: "name",
    ast.ClassDef: "name",
    ast.ExceptHandler: "name",
    ast.MatchAs: "name",
    ast.MatchStar: "name",
    ast.MatchMapping: "rest",
}
"""Nodes that bind a name, with the field that holds it."""


class Use(NamedTuple):
    """A place where a global name is bound or read."""

    node: ast.AST
    name: str
    binds: bool


def uses_of(tree: ast.Module) -> tuple[tuple[Use, ...], frozenset[str]]:
    """Find all uses of global names.

    The second value are names that a class binds and reads in its body: which one it reads, only a run shows.
    """
    finder = _Finder()
    finder.visit(tree)
    return tuple(finder.found), frozenset(finder.unclear)


def rename(uses: Iterable[Use], names: Mapping[str, str]) -> None:
    """Rename global names in the syntax tree that the uses are from."""
    for node, name, _ in uses:
        new = names.get(name)
        if new is None:
            continue
        if isinstance(node, ast.Name):
            node.id = new
        elif isinstance(node, ast.alias):
            node.asname = new
        elif isinstance(node, ast.Global):
            node.names = [new if each == name else each for each in node.names]
        else:
            setattr(node, _BY_FIELD[type(node)], new)


def imported_name(alias: ast.alias) -> str:
    """Get the name that a part of an import statement binds."""
    return alias.asname or alias.name.partition(".")[0]


def _read_by(node: ast.AST) -> str | None:
    """Get the name that a node reads, None for none."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        return node.id
    return None


def _bound_by(node: ast.AST) -> str | None:
    """Get the name that a node binds itself, None for none."""
    if isinstance(node, ast.Name):
        return None if _read_by(node) else node.id
    if isinstance(node, ast.alias):
        return imported_name(node)
    field = _BY_FIELD.get(type(node))
    name: str | None = getattr(node, field) if field else None
    return name


def _in_scope(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Walk through the nodes of one scope; scopes in it are yielded, and not entered."""
    for node in nodes:
        yield node
        if isinstance(node, _Comprehension):
            # A walrus in it binds the name outside.
            yield from (each.target for each in ast.walk(node) if isinstance(each, ast.NamedExpr))
        elif not isinstance(node, _SCOPES):
            yield from _in_scope(ast.iter_child_nodes(node))


def _bound_in(body: Iterable[ast.AST]) -> frozenset[str]:
    nodes = list(_in_scope(body))
    elsewhere = {
        name for node in nodes if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names
    }
    return frozenset(filter(None, map(_bound_by, nodes))) - elsewhere


class _Finder(ast.NodeVisitor):
    """Resolves names as Python does: in the class body, the functions around, then the module."""

    def __init__(self) -> None:
        self.found: list[Use] = []
        self.unclear: set[str] = set()
        self._functions: tuple[frozenset[str], ...] = ()
        self._class: frozenset[str] = frozenset()

    def visit(self, node: ast.AST) -> None:
        """Note the global name that a node binds or reads, then visit what is in it."""
        read = _read_by(node)
        name = read or _bound_by(node)
        if name and not any(name in scope for scope in (self._class, *self._functions)):
            self.found.append(Use(node, name, binds=not read))
        super().visit(node)

    def visit_Global(self, node: ast.Global) -> None:
        self.found += [Use(node, name, binds=True) for name in node.names]

    def visit_FunctionDef(self, node: _Function) -> None:
        self._visit_all((*node.decorator_list, node.returns))
        self._visit_function(node, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_function(node, [node.body])

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_all((*node.decorator_list, *node.bases, *node.keywords))
        bound = _bound_in(node.body)
        self.unclear |= bound.intersection(map(_read_by, _in_scope(node.body)))
        with self._inside(*self._functions, _type_parameters(node), body=bound):
            self._visit_all(node.body)

    def _visit_comprehension(self, node: ast.expr) -> None:
        generators: list[ast.comprehension] = getattr(node, "generators", [])
        self.visit(generators[0].iter)
        bound = _bound_in(each.target for each in generators)
        with self._inside(*self._functions, bound, body=self._class):
            for field, value in ast.iter_fields(node):
                if field != "generators":
                    self.visit(value)
            for place, each in enumerate(generators):
                self._visit_all((each.target, *([each.iter] if place else []), *each.ifs))

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit_comprehension

    def _visit_function(self, node: _Function | ast.Lambda, body: Iterable[ast.AST]) -> None:
        children = list(ast.iter_child_nodes(node.args))
        parameters = [each for each in children if isinstance(each, ast.arg)]
        self._visit_all(each for each in children if not isinstance(each, ast.arg))
        self._visit_all(each.annotation for each in parameters)
        own = {each.arg for each in parameters} | _bound_in(body) | _type_parameters(node)
        with self._inside(*self._functions, frozenset(own)):
            self._visit_all(body)

    def _visit_all(self, nodes: Iterable[ast.AST | None]) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node)

    @contextlib.contextmanager
    def _inside(
        self, *functions: frozenset[str], body: frozenset[str] = frozenset()
    ) -> Iterator[None]:
        before = self._functions, self._class
        self._functions, self._class = functions, body
        yield
        self._functions, self._class = before


def _type_parameters(node: ast.AST) -> frozenset[str]:
    # Python has these since 3.12.
    return frozenset(each.name for each in getattr(node, "type_params", ()))
