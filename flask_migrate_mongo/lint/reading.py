"""Reads from the syntax tree what a migration's code does.

Nothing is executed. The reader follows the code of up() and down() once, line by line: through
variables, loops, and functions of the same file. A value that it does not understand is OTHER.
"""

from __future__ import annotations

import ast
import re
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from flask_migrate_mongo.files.parsing import parameters_of

from .facts import (
    BUILT_IN,
    OTHER,
    CodeCall,
    Facts,
    Function,
    Handler,
    Kind,
    NameScope,
    Place,
    Value,
    choice,
)

_BUDGET = 50_000
"""Expressions to follow in up() or down(). Only code whose calls multiply needs more."""

_CALL_COST = 20
"""How many expressions a call counts for: checks compare a call with all calls before it."""

_BY_NAME = {"db": Value(Kind.DATABASE), "ctx": Value(Kind.CONTEXT)}
"""A parameter with one of these names is taken for what migrations use the name for."""


def read(tree: ast.Module) -> Facts:
    """Read what the code does at import, in up() and in down()."""
    reader = _Reader()
    reader.run(tree.body)
    at_import = tuple(reader.calls)
    up, down = reader.enter("up"), reader.enter("down")
    return Facts(at_import, up, down, tuple(reader.imports), reader.complete)


class _Reader(ast.NodeVisitor):
    """Visits the code once and notes calls and imports.

    The visit of an expression returns its value.
    """

    def __init__(self) -> None:
        self.calls: list[CodeCall] = []
        self.imports: list[tuple[ast.stmt, str]] = []
        self.complete = True
        self._scope = ChainMap[str, Value]()
        self._place = Place()
        self._followed: tuple[ast.AST, ...] = ()
        self._returned: list[Value] = []
        self._opened = False
        self._budget = _BUDGET
        self._known: dict[tuple[ast.arguments, tuple[object, ...]], tuple[Value, bool]] = {}

    def enter(self, name: str) -> tuple[CodeCall, ...]:
        """Follow up() or down(). Returns its calls."""
        self.calls, self._known = [], {}
        function = self._scope.get(name, OTHER).function
        if function is not None:
            self._opened, self._budget = False, _BUDGET
            self._follow(function, (), {})
        return tuple(self.calls)

    def run(self, body: Iterable[ast.stmt]) -> None:
        """Visit statements. One that is nested too deeply is skipped."""
        for statement in body:
            try:
                self.visit(statement)
            except RecursionError:
                self.complete = False

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
            self.complete = False
            return OTHER
        value: Value = self.visit(node)
        return value

    @contextmanager
    def _inside(self, place: Place, scope: NameScope | None = None) -> Iterator[None]:
        outer = self._place, self._scope, self._followed, self._returned
        self._place, self._scope = place, self._scope if scope is None else scope
        try:
            yield
        finally:
            self._place, self._scope, self._followed, self._returned = outer

    def _in_loop(self, over: Value) -> Place:
        return replace(self._place, loops=(*self._place.loops, over))

    # --- statements

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for expression in (*node.decorator_list, *node.args.defaults):
            self._eval(expression)
        function = Function(node.name, node.args, node.body, self._scope)
        self._scope[node.name] = Value(Kind.FUNCTION, function=function)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        with self._inside(self._place, self._scope.new_child()):
            self.generic_visit(node)
        self._scope[node.name] = Value(Kind.OTHER, node.name)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        module = ""
        if isinstance(node, ast.ImportFrom):
            module = f"{'.' * node.level}{node.module or ''}."
        for alias in node.names:
            path, bound = module + alias.name, alias.asname or alias.name.partition(".")[0]
            self.imports.append((node, path))
            self._scope[bound] = Value(Kind.IMPORTED, path if module or alias.asname else bound)

    visit_ImportFrom = visit_Import

    def visit_Assign(self, node: ast.Assign) -> None:
        value = self._eval(node.value)
        for target in node.targets:
            self._bind(target, value)

    def visit_AnnAssign(self, node: ast.AnnAssign | ast.NamedExpr) -> Value:
        value = self._eval(node.value) if node.value else OTHER
        self._bind(node.target, value)
        return value

    visit_NamedExpr = visit_AnnAssign

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._extend(node.target, self._eval(node.value))

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            self._returned.append(self._eval(node.value))

    def visit_For(self, node: ast.For) -> None:
        over = self._eval(node.iter)
        self._bind(node.target, over.element)
        with self._inside(self._in_loop(over)):
            self.run(node.body)
        self.run(node.orelse)

    def visit_While(self, node: ast.While) -> None:
        self._eval(node.test)
        with self._inside(self._in_loop(OTHER)):
            self.run(node.body)
        self.run(node.orelse)

    def visit_If(self, node: ast.If) -> None:
        self._eval(node.test)
        # Such a body runs only for type checkers, or in scripts.
        is_never = re.search(r"\b(TYPE_CHECKING|__name__)\b", ast.unparse(node.test))
        self.run(node.orelse if is_never else (*node.body, *node.orelse))

    def visit_With(self, node: ast.With) -> None:
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
            elif value.kind is Kind.RESULT and value.name == "contextlib.suppress":
                handler = _handler(item.context_expr, value.parts)
                place = replace(place, handlers=(*place.handlers, handler))
        with self._inside(place):
            self.run(node.body)

    def visit_Try(self, node: ast.Try) -> None:
        handlers = [*self._place.handlers]
        for each in node.handlers:
            kinds = self._eval(each.type).walk() if each.type else ()
            if not any(isinstance(inner, ast.Raise) for inner in ast.walk(each)):
                handlers.append(_handler(each, kinds))
        with self._inside(replace(self._place, handlers=tuple(handlers))):
            self.run(node.body)
        for each in node.handlers:
            self.run(each.body)
        self.run((*node.orelse, *node.finalbody))

    # --- names

    def _bind(self, target: ast.expr, value: Value) -> None:
        if isinstance(target, ast.Name):
            self._scope[target.id] = value
        elif isinstance(target, ast.Starred):
            self._bind(target.value, value)
        elif isinstance(target, ast.Tuple | ast.List):
            for position, inner in enumerate(target.elts):
                self._bind(inner, value.at(Value(Kind.CONSTANT, constant=position)))
        else:
            self._eval(target)
            if isinstance(target, ast.Subscript):
                self._extend(target.value, value)

    def _extend(self, target: ast.expr, *added: Value) -> None:
        """Note that a variable now also contains these values."""
        if isinstance(target, ast.Name):
            held = self._eval(target)
            if held.kind in {Kind.SEQUENCE, Kind.MAPPING, Kind.OTHER, Kind.RESULT}:
                # Which element is where is not known any more.
                filled = Value(Kind.SEQUENCE, parts=added)
                self._scope[target.id] = Value(Kind.OTHER, parts=(held, filled))

    # --- expressions

    def visit_Constant(self, node: ast.Constant) -> Value:
        return Value(Kind.CONSTANT, constant=node.value)

    def visit_Name(self, node: ast.Name) -> Value:
        unknown = Value(Kind.IMPORTED if node.id in BUILT_IN else Kind.OTHER, node.id)
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

    def visit_Lambda(self, node: ast.Lambda) -> Value:
        function = Function("", node.args, [ast.Return(node.body)], self._scope)
        return Value(Kind.FUNCTION, function=function)

    def visit_ListComp(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> Value:
        made = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        cursor: Value | None = None
        with self._inside(self._place, self._scope.new_child()):
            for part in node.generators:
                over = self._eval(part.iter)
                cursor = cursor or over.cursor
                self._bind(part.target, over.element)
                self._place = self._in_loop(over)
                for test in part.ifs:
                    self._eval(test)
            parts = tuple(self._eval(each) for each in made)
        if cursor is None:
            return Value(Kind.SEQUENCE, parts=parts)
        if isinstance(node, ast.GeneratorExp):
            return Value(Kind.OTHER, parts=(cursor, *parts))
        callee = Value(Kind.IMPORTED, "list")
        self.calls.append(CodeCall(node, callee, self._place, (cursor,)))
        return Value(Kind.RESULT, "list", parts=(cursor, *parts))

    visit_SetComp = visit_GeneratorExp = visit_DictComp = visit_ListComp

    def visit_Subscript(self, node: ast.Subscript) -> Value:
        return self._eval(node.value).at(self._eval(node.slice))

    def visit_Attribute(self, node: ast.Attribute) -> Value:
        return self._eval(node.value).attribute(node.attr)

    # --- calls

    def visit_Call(self, node: ast.Call) -> Value:
        self._budget -= _CALL_COST
        callee = self._eval(node.func)
        args = tuple(self._eval(arg) for arg in node.args)
        keywords = {keyword.arg or "**": self._eval(keyword.value) for keyword in node.keywords}
        if callee.function is not None:
            return self._follow(callee.function, args, keywords)
        starred = any(isinstance(arg, ast.Starred) for arg in node.args)
        complete = not starred and "**" not in keywords
        call = self._follow_callbacks(CodeCall(node, callee, self._place, args, keywords, complete))
        self.calls.append(call)
        if call.on(Kind.SESSION) and call.method.endswith("_transaction"):
            self._opened = call.method == "start_transaction"
        if isinstance(node.func, ast.Attribute) and node.func.attr in {"append", "extend", "add"}:
            self._extend(node.func.value, *call.args)
        if call.path == "getattr" and len(args) > 1:
            base, name = args[:2]
            known = name.constant
            return base.attribute(known) if isinstance(known, str) else base.at(name)
        return call.result()

    def _follow_callbacks(self, call: CodeCall) -> CodeCall:
        """Follow functions of the file that a call passes on, and add what they return."""
        in_transaction = call.method == "with_transaction"
        first = (Value(Kind.SESSION),) if in_transaction else ()
        opened = self._place.opened or in_transaction
        backfill = self._place.backfill or call.is_backfill

        def followed(value: Value) -> Value:
            if value.function is None:
                return value
            return replace(value, parts=(self._follow(value.function, first, {}),))

        with self._inside(replace(self._place, opened=opened, backfill=backfill)):
            args = tuple(map(followed, call.args))
            keywords = {name: followed(value) for name, value in call.keywords.items()}
        place = replace(self._place, opened=self._place.opened or self._opened)
        return replace(call, args=args, keywords=keywords, place=place)

    def _follow(
        self, function: Function, args: Sequence[Value], keywords: Mapping[str, Value]
    ) -> Value:
        """Visit the body of a function of this file. Returns what it returns."""
        if function.arguments in self._followed:
            return OTHER
        place = replace(self._place, function=function.name or self._place.function)
        # All that the body depends on. What it does then is noted already, before this place.
        around = (*function.scope.values(), *args, *keywords.items(), place, self._opened)
        if known := self._known.get((function.arguments, around)):
            value, self._opened = known
            return value
        scope = function.scope.new_child(_parameters(function.arguments, args, keywords))
        with self._inside(place, scope):
            self._followed = (*self._followed, function.arguments)
            self._returned = returned = list[Value]()
            self.run(function.body)
        self._known[function.arguments, around] = choice(returned), self._opened
        return choice(returned)


def _handler(node: ast.expr | ast.excepthandler, catches: Iterable[Value]) -> Handler:
    return Handler(node, frozenset(each.name.rpartition(".")[2] for each in catches))


def _parameters(
    arguments: ast.arguments, args: Sequence[Value], keywords: Mapping[str, Value]
) -> dict[str, Value]:
    """Collect the values of a function's parameters."""
    by_position = zip((*arguments.posonlyargs, *arguments.args), args, strict=False)
    given = {**{parameter.arg: value for parameter, value in by_position}, **keywords}
    values = {rest.arg: OTHER for rest in (arguments.vararg, arguments.kwarg) if rest}
    for parameter, default in parameters_of(arguments):
        name, value = parameter.arg, _BY_NAME.get(parameter.arg, OTHER)
        if isinstance(default, ast.Constant):
            value = Value(Kind.CONSTANT, constant=default.value)
        values[name] = given.get(name, value)
    return values
