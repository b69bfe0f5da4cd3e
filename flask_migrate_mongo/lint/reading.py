"""Reads from the syntax tree what a migration's code does.

Nothing is executed. The reader follows the code of up() and down() once, line by line: through
variables, loops, and functions of the same file. A value that it does not understand is OTHER.
"""

from __future__ import annotations

import ast
import builtins
from collections import ChainMap
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from flask_migrate_mongo.model.values import Direction

from .evaluation import (
    MOST_CHOICES,
    attribute,
    choice,
    collection_in,
    collections_of,
    cursor_of,
    element,
    element_at,
    result_of,
)
from .facts import (
    ANY_COLLECTION,
    OTHER,
    CodeCall,
    Facts,
    Function,
    Handler,
    Import,
    Kind,
    NameScope,
    Place,
    Value,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_BUILT_IN = frozenset(dir(builtins))
_BUDGET = 50_000
"""Expressions to follow in up() or down(). Only code whose calls multiply needs more."""


def read(tree: ast.Module) -> Facts:
    """Read what the code does at import, in up() and in down()."""
    reader = _Reader()
    at_import = reader.calls
    reader.run(tree.body)
    up, down = reader.enter(Direction.UP), reader.enter(Direction.DOWN)
    imports, references = tuple(reader.imports), tuple(reader.references)
    return Facts(tuple(at_import), tuple(up), tuple(down), imports, references)


class _Reader(ast.NodeVisitor):
    """Visits the code once and notes calls, imports and collections.

    The visit of an expression returns its value.
    """

    def __init__(self) -> None:
        self.calls: list[CodeCall] = []
        self.imports: list[Import] = []
        self.references: list[tuple[Direction | None, Value]] = []
        self._module = self._scope = ChainMap[str, Value]()
        self._place = Place()
        self._followed: list[ast.AST] = []
        self._returned: list[Value] = []
        self._opened = False
        self._budget = _BUDGET

    def enter(self, direction: Direction) -> list[CodeCall]:
        """Follow up() or down(). Returns its calls."""
        self.calls = []
        function = self._module.get(direction.value, OTHER).function
        if function is not None:
            self._place, self._opened, self._budget = Place(direction), False, _BUDGET
            self._follow(function, (), {})
        return self.calls

    def run(self, body: Iterable[ast.stmt]) -> None:
        """Visit statements. One that is nested too deeply is skipped."""
        for statement in body:
            try:
                self.visit(statement)
            except RecursionError:
                self._refer()

    def generic_visit(self, node: ast.AST) -> Value:
        return Value(Kind.OTHER, parts=tuple(self._children(node)))

    def _children(self, node: ast.AST) -> Iterator[Value]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                yield self._eval(child)
            elif isinstance(child, ast.stmt):
                self.run([child])
            else:
                yield from self._children(child)

    def _eval(self, node: ast.expr) -> Value:
        self._budget -= 1
        if self._budget < 0:
            self._refer()
            return OTHER
        value: Value = self.visit(node)
        return value

    @contextmanager
    def _inside(self, place: Place, scope: NameScope | None = None) -> Iterator[None]:
        outer = self._place, self._scope
        self._place, self._scope = place, self._scope if scope is None else scope
        try:
            yield
        finally:
            self._place, self._scope = outer

    def _in_loop(self, over: Value) -> Place:
        return replace(self._place, loops=(*self._place.loops, over))

    # --- statements

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        defaults = (*node.args.defaults, *filter(None, node.args.kw_defaults))
        for expression in (*node.decorator_list, *defaults):
            self._eval(expression)
        self._scope[node.name] = Value(Kind.FUNCTION, function=Function(node, self._scope))

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for expression in (*node.bases, *node.decorator_list):
            self._eval(expression)
        with self._inside(self._place, self._scope.new_child()):
            self.run(node.body)
        self._scope[node.name] = Value(Kind.OTHER, node.name)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.imports.append(Import(node, alias.name))
            bound = alias.asname or alias.name.partition(".")[0]
            path = alias.name if alias.asname else bound
            self._scope[bound] = Value(Kind.NAMED, path)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            path = f"{node.module}.{alias.name}" if node.module else alias.name
            self.imports.append(Import(node, path, node.level))
            self._scope[alias.asname or alias.name] = Value(Kind.NAMED, path)

    def visit_Assign(self, node: ast.Assign) -> None:
        value = self._eval(node.value)
        for target in node.targets:
            self._bind(target, value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._bind(node.target, self._eval(node.value))

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        value = self._eval(node.value)
        if isinstance(node.target, ast.Name):
            self._extend(node.target, (value,))

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            self._returned.append(self._eval(node.value))

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        over = self._eval(node.iter)
        self._bind(node.target, element(over))
        with self._inside(self._in_loop(over)):
            self.run(node.body)
        self.run(node.orelse)

    visit_AsyncFor = visit_For

    def visit_While(self, node: ast.While) -> None:
        self._eval(node.test)
        with self._inside(self._in_loop(OTHER)):
            self.run(node.body)
        self.run(node.orelse)

    def visit_If(self, node: ast.If) -> None:
        self._eval(node.test)
        self.run(node.orelse if _is_never(node.test) else (*node.body, *node.orelse))

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        opened, place = self._opened, self._place
        for item in node.items:
            value = self._eval(item.context_expr)
            if item.optional_vars is not None:
                self._bind(item.optional_vars, value)
            if value.kind is Kind.TRANSACTION:
                place = replace(place, opened=True)
                # The transaction ends with the block, not at a commit further down.
                self._opened = opened
            elif value.kind is Kind.BINDING:
                place = replace(place, bound=True)
            elif value.kind is Kind.MADE and value.name == "contextlib.suppress":
                names = (part.name.rpartition(".")[2] for part in value.parts[1:])
                handler = Handler(item.context_expr, frozenset(names))
                place = replace(place, handlers=(*place.handlers, handler))
        with self._inside(place):
            self.run(node.body)

    visit_AsyncWith = visit_With

    def visit_Try(self, node: ast.Try) -> None:
        handlers = (*self._place.handlers, *_swallowing(node.handlers))
        with self._inside(replace(self._place, handlers=handlers)):
            self.run(node.body)
        for handler in node.handlers:
            self.run(handler.body)
        self.run((*node.orelse, *node.finalbody))

    # --- names

    def _bind(self, target: ast.expr, value: Value) -> None:
        if isinstance(target, ast.Name):
            self._scope[target.id] = value
        elif isinstance(target, ast.Starred):
            self._bind(target.value, value)
        elif isinstance(target, ast.Tuple | ast.List):
            for position, inner in enumerate(target.elts):
                index = Value(Kind.CONSTANT, constant=position)
                self._bind(inner, element_at(value, index) or Value(Kind.OTHER, parts=(value,)))
        elif isinstance(target, ast.Subscript):
            self._eval(target.slice)
            self._extend(target.value, (value,))
        else:
            self._eval(target)

    def _extend(self, target: ast.expr, added: Sequence[Value]) -> None:
        """Note that a variable now also contains these values."""
        value = self._eval(target)
        growing = value.kind in {Kind.SEQUENCE, Kind.MAPPING, Kind.OTHER, Kind.MADE}
        if not growing or not isinstance(target, ast.Name):
            return
        # The values of known keys stay in place; an added value has no known key.
        keyed, rest = value.parts[: len(value.keys)], value.parts[len(value.keys) :]
        parts = (*keyed, *(*rest, *added)[-MOST_CHOICES:])
        self._scope[target.id] = replace(value, parts=parts)

    # --- expressions

    def visit_Constant(self, node: ast.Constant) -> Value:
        return Value(Kind.CONSTANT, constant=node.value)

    def visit_Name(self, node: ast.Name) -> Value:
        unknown = Value(Kind.NAMED if node.id in _BUILT_IN else Kind.OTHER, node.id)
        return self._scope.get(node.id, unknown)

    def visit_Dict(self, node: ast.Dict) -> Value:
        keys = tuple(OTHER if key is None else self._eval(key) for key in node.keys)
        parts = tuple(self._eval(value) for value in node.values)
        return Value(Kind.MAPPING, keys=keys, parts=parts)

    def visit_List(self, node: ast.List | ast.Tuple | ast.Set) -> Value:
        return Value(Kind.SEQUENCE, parts=tuple(self._eval(each) for each in node.elts))

    visit_Tuple = visit_Set = visit_List

    def visit_IfExp(self, node: ast.IfExp) -> Value:
        self._eval(node.test)
        return choice([self._eval(node.body), self._eval(node.orelse)])

    def visit_BoolOp(self, node: ast.BoolOp) -> Value:
        return choice([self._eval(each) for each in node.values])

    def visit_NamedExpr(self, node: ast.NamedExpr) -> Value:
        value = self._eval(node.value)
        self._bind(node.target, value)
        return value

    def visit_Lambda(self, node: ast.Lambda) -> Value:
        return Value(Kind.FUNCTION, function=Function(node, self._scope))

    def visit_ListComp(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> Value:
        made = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        cursor: Value | None = None
        with self._inside(self._place, self._scope.new_child()):
            for part in node.generators:
                over = self._eval(part.iter)
                cursor = cursor or cursor_of(over)
                self._bind(part.target, element(over))
                self._place = self._in_loop(over)
                for test in part.ifs:
                    self._eval(test)
            parts = tuple(self._eval(each) for each in made)
        if cursor is None:
            return Value(Kind.SEQUENCE, parts=parts)
        if isinstance(node, ast.GeneratorExp):
            return Value(Kind.OTHER, parts=(cursor, *parts))
        callee = Value(Kind.NAMED, "list")
        self.calls.append(CodeCall(node, callee, self._place, (cursor,)))
        return Value(Kind.MADE, "list", parts=(cursor, *parts))

    visit_SetComp = visit_GeneratorExp = visit_DictComp = visit_ListComp

    def visit_Subscript(self, node: ast.Subscript) -> Value:
        base, index = self._eval(node.value), self._eval(node.slice)
        if base.kind is Kind.CLIENT:
            return Value(Kind.DATABASE)
        if base.kind in {Kind.DATABASE, Kind.COLLECTION}:
            return collection_in(base, index)
        if base.kind is Kind.CURSOR and isinstance(node.slice, ast.Slice):
            return replace(base, constant=True)
        return element_at(base, index) or Value(Kind.OTHER, parts=(base, index))

    def visit_Attribute(self, node: ast.Attribute) -> Value:
        return attribute(self._eval(node.value), node.attr)

    # --- calls

    def visit_Call(self, node: ast.Call) -> Value:
        callee = self._eval(node.func)
        args = [self._eval(arg) for arg in node.args if not isinstance(arg, ast.Starred)]
        keywords = {k.arg: self._eval(k.value) for k in node.keywords if k.arg is not None}
        spread = [self._eval(arg.value) for arg in node.args if isinstance(arg, ast.Starred)]
        spread += [self._eval(keyword.value) for keyword in node.keywords if keyword.arg is None]
        if callee.function is not None:
            return self._follow(callee.function, args, keywords)
        call = CodeCall(node, callee, self._place, tuple(args), keywords, complete=not spread)
        if any(value.function is not None for value in call.given):
            call = self._follow_callbacks(call)
        if self._opened:
            call = replace(call, place=replace(self._place, opened=True))
        self.calls.append(call)
        self._note(call)
        if isinstance(node.func, ast.Attribute) and node.func.attr in {"append", "extend", "add"}:
            self._extend(node.func.value, call.args)
        if call.path == "getattr" and len(args) > 1:
            return _getattr(*call.args[:2])
        made = result_of(call)
        return replace(made, parts=(*made.parts, *spread)) if spread else made

    def _follow_callbacks(self, call: CodeCall) -> CodeCall:
        """Follow functions of the file that a call passes on, and add what they return."""
        in_transaction = call.method == "with_transaction"
        first = (Value(Kind.SESSION),) if in_transaction else ()
        place = replace(
            self._place,
            loops=(*self._place.loops, *filter(cursor_of, call.args)),
            opened=self._place.opened or in_transaction,
            backfill=self._place.backfill or call.is_backfill,
        )

        def followed(value: Value) -> Value:
            if value.function is None:
                return value
            return replace(value, parts=(self._follow(value.function, first, {}),))

        with self._inside(place):
            args = tuple(map(followed, call.args))
            keywords = {name: followed(value) for name, value in call.keywords.items()}
        return replace(call, args=args, keywords=keywords)

    def _follow(
        self, function: Function, args: Sequence[Value], keywords: Mapping[str, Value]
    ) -> Value:
        """Visit the body of a function of this file. Returns what it returns."""
        node = function.node
        if node in self._followed:
            return OTHER
        scope = function.scope.new_child(dict(_parameters(node.args, args, keywords)))
        place = self._place
        body: list[ast.stmt]
        if isinstance(node, ast.Lambda):
            body = [ast.Return(node.body)]
        else:
            place, body = replace(place, function=node.name), node.body
        outer, self._returned = self._returned, []
        self._followed.append(node)
        try:
            with self._inside(place, scope):
                self.run(body)
            return choice(self._returned)
        finally:
            self._followed.pop()
            self._returned = outer

    # --- notes

    def _note(self, call: CodeCall) -> None:
        """Note what a call does to the transaction, and which collections it names."""
        if call.on(Kind.SESSION):
            if call.method == "start_transaction":
                self._opened = True
            elif call.method in {"commit_transaction", "abort_transaction"}:
                self._opened = False
        named = (name for name in collections_of(call) if name.kind is not Kind.COLLECTION)
        used = (v.receiver if v.kind is Kind.METHOD else v for v in (call.callee, *call.given))
        for value in (*(collection_in(OTHER, name) for name in named), *used):
            if value.kind is Kind.COLLECTION:
                self._refer(value)
        # A function of another file that gets the database may use any collection.
        elsewhere = not call.method and call.path not in _BUILT_IN
        if elsewhere and any(v.kind in {Kind.DATABASE, Kind.CLIENT} for v in call.given):
            self._refer()

    def _refer(self, collection: Value = ANY_COLLECTION) -> None:
        self.references.append((self._place.direction, collection))


def _getattr(base: Value, name: Value) -> Value:
    if isinstance(name.constant, str):
        return attribute(base, name.constant)
    return collection_in(base, name) if base.kind is Kind.DATABASE else OTHER


# --- syntax


def _is_never(test: ast.expr) -> bool:
    """Whether a condition holds only for type checkers or scripts."""
    names = {_name(inner) for inner in ast.walk(test) if isinstance(inner, ast.expr)}
    return not names.isdisjoint({"TYPE_CHECKING", "__name__"})


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _swallowing(handlers: Iterable[ast.ExceptHandler]) -> Iterator[Handler]:
    """Describe the `except` clauses that raise no error themselves."""
    for node in handlers:
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        names = frozenset(_name(kind) for kind in kinds if kind is not None)
        if not any(isinstance(inner, ast.Raise) for inner in ast.walk(node)):
            yield Handler(node, names)


_BY_NAME = {"db": Value(Kind.DATABASE), "ctx": Value(Kind.CONTEXT)}
"""A parameter with one of these names is taken for what migrations use the name for."""


def _parameters(
    arguments: ast.arguments, args: Sequence[Value], keywords: Mapping[str, Value]
) -> Iterator[tuple[str, Value]]:
    """Yield the name and the value of each parameter."""
    positional = [parameter.arg for parameter in (*arguments.posonlyargs, *arguments.args)]
    keyword_only = [parameter.arg for parameter in arguments.kwonlyargs]
    defaults = (
        *zip(reversed(positional), reversed(arguments.defaults), strict=False),
        *zip(keyword_only, arguments.kw_defaults, strict=True),
    )
    constants = {
        name: Value(Kind.CONSTANT, constant=default.value)
        for name, default in defaults
        if isinstance(default, ast.Constant)
    }
    given = {**constants, **dict(zip(positional, args, strict=False)), **keywords}
    for name in (*positional, *keyword_only):
        yield name, given.get(name) or _BY_NAME.get(name, OTHER)
    for rest in filter(None, (arguments.vararg, arguments.kwarg)):
        yield rest.arg, OTHER
