"""Reads what a migration's code does from its syntax tree.

Nothing is executed. The code that up() and down() reach is followed once, in the order of its lines:
through variables, loops, and functions of the same file. What is not understood is OTHER.
"""

from __future__ import annotations

import ast
import builtins
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flask_migrate_mongo.model.values import Direction

from .facts import (
    Call,
    Facts,
    Handler,
    Import,
    Place,
    Reference,
    collections_of,
    is_backfill,
    result_of,
)
from .values import (
    CHOICES,
    OTHER,
    PROPERTIES,
    UNMISTAKABLE,
    Kind,
    Scope,
    Value,
    below,
    choice,
    cursor_of,
    element,
    element_at,
    member,
    method,
    texts_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

_BUILT_IN = frozenset(dir(builtins))
_BUDGET = 50_000
"""Expressions that are followed in one file: far more than any has, unless its calls multiply."""


def read(tree: ast.Module) -> Facts:
    """Return what the code does at import, in up() and in down()."""
    reader = _Reader()
    reader.run(tree.body)
    for direction in Direction:
        reader.enter(direction)
    return Facts(tuple(reader.calls), tuple(reader.imports), tuple(reader.references))


class _Reader:
    """Goes through the code once, and writes down what it meets."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.imports: list[Import] = []
        self.references: list[Reference] = []
        self._module = self._scope = Scope()
        self._place = Place()
        self._stack: list[ast.AST] = []
        self._returned: list[Value] = []
        self._opened = False
        self._budget = _BUDGET

    def enter(self, direction: Direction) -> None:
        """Follow up() or down()."""
        function = self._module.find(direction.value)
        if function is not None and function.kind is Kind.FUNCTION:
            self._place, self._opened, self._budget = Place(direction), False, _BUDGET
            self._follow(function)

    # --- statements

    def run(self, body: Iterable[ast.stmt]) -> None:
        for statement in body:
            try:
                _STATEMENTS.get(type(statement), _Reader.any_statement)(self, statement)
            except RecursionError:
                self._refer(OTHER)

    def any_statement(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._eval(child)
            elif isinstance(child, ast.stmt):
                self.run([child])
            else:
                self.any_statement(child)

    def on_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for expression in (*node.decorator_list, *_defaults(node.args)):
            self._eval(expression)
        self._scope.names[node.name] = Value(Kind.FUNCTION, node, node.name, scope=self._scope)

    def on_class(self, node: ast.ClassDef) -> None:
        for expression in (*node.bases, *node.decorator_list):
            self._eval(expression)
        self._inside(node.body, self._place, Scope(self._scope))
        self._scope.names[node.name] = Value(Kind.OTHER, node, node.name)

    def on_import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.imports.append(Import(node, alias.name))
            bound = alias.asname or alias.name.partition(".")[0]
            path = alias.name if alias.asname else bound
            self._scope.names[bound] = Value(Kind.NAMED, node, path)

    def on_import_from(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            path = f"{node.module}.{alias.name}" if node.module else alias.name
            self.imports.append(Import(node, path, node.level))
            self._scope.names[alias.asname or alias.name] = Value(Kind.NAMED, node, path)

    def on_assign(self, node: ast.Assign) -> None:
        value = self._eval(node.value)
        for target in node.targets:
            self._bind(target, value)

    def on_annotated(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._bind(node.target, self._eval(node.value))

    def on_augmented(self, node: ast.AugAssign) -> None:
        value = self._eval(node.value)
        if isinstance(node.target, ast.Name):
            self._extend(node.target, (value,))

    def on_return(self, node: ast.Return) -> None:
        if node.value is not None:
            self._returned.append(self._eval(node.value))

    def on_for(self, node: ast.For | ast.AsyncFor) -> None:
        over = self._eval(node.iter)
        self._bind(node.target, element(over))
        self._inside(node.body, replace(self._place, loops=(*self._place.loops, over)))
        self.run(node.orelse)

    def on_while(self, node: ast.While) -> None:
        self._eval(node.test)
        self._inside(node.body, replace(self._place, loops=(*self._place.loops, OTHER)))
        self.run(node.orelse)

    def on_if(self, node: ast.If) -> None:
        self._eval(node.test)
        if _is_never(node.test):
            self.run(node.orelse)
        else:
            self.run((*node.body, *node.orelse))

    def on_with(self, node: ast.With | ast.AsyncWith) -> None:
        before, place = self._opened, self._place
        for item in node.items:
            value = self._eval(item.context_expr)
            if item.optional_vars is not None:
                self._bind(item.optional_vars, value)
            if value.kind is Kind.TRANSACTION:
                place = replace(place, opened=True)
            elif value.kind is Kind.BINDING:
                place = replace(place, bound=True)
            elif value.kind is Kind.MADE and value.name == "contextlib.suppress":
                place = replace(place, handlers=(*place.handlers, _suppressing(item, value)))
        if place.opened and not self._place.opened:
            self._opened = before
        self._inside(node.body, place)

    def on_try(self, node: ast.Try) -> None:
        handlers = tuple(_handler(handler) for handler in node.handlers)
        self._inside(node.body, replace(self._place, handlers=(*self._place.handlers, *handlers)))
        for handler in node.handlers:
            self.run(handler.body)
        self.run((*node.orelse, *node.finalbody))

    def _inside(self, body: Iterable[ast.stmt], place: Place, scope: Scope | None = None) -> None:
        outer = self._place, self._scope
        self._place, self._scope = place, scope or self._scope
        try:
            self.run(body)
        finally:
            self._place, self._scope = outer

    # --- names

    def _bind(self, target: ast.expr, value: Value) -> None:
        if isinstance(target, ast.Name):
            self._scope.names[target.id] = value
        elif isinstance(target, ast.Starred):
            self._bind(target.value, value)
        elif isinstance(target, ast.Tuple | ast.List):
            for place, inner in enumerate(target.elts):
                index = Value(Kind.CONSTANT, constant=place)
                self._bind(inner, element_at(value, index) or Value(Kind.OTHER, parts=(value,)))
        elif isinstance(target, ast.Subscript):
            self._eval(target.slice)
            self._extend(target.value, (value,))
        else:
            self._eval(target)

    def _extend(self, target: ast.expr, added: Sequence[Value]) -> None:
        """Remember that something became part of what a name stands for."""
        if not isinstance(target, ast.Name):
            self._eval(target)
            return
        value = self._eval(target)
        if value.kind in {Kind.SEQUENCE, Kind.MAPPING, Kind.OTHER, Kind.MADE}:
            parts = (*value.parts, *added)[-CHOICES:]
            if value.kind is Kind.MAPPING:
                # Last, where no key is: what is known of the keys stays.
                parts = (*value.parts[: len(value.keys)], *parts[len(value.keys) :])
            self._scope.names[target.id] = replace(value, parts=parts)

    # --- expressions

    def _eval(self, node: ast.expr) -> Value:
        self._budget -= 1
        if self._budget < 0:
            self._refer(OTHER)
            return OTHER
        return _EXPRESSIONS.get(type(node), _Reader.any_expression)(self, node)

    def any_expression(self, node: ast.expr) -> Value:
        return Value(Kind.OTHER, node, parts=tuple(self._children(node)))

    def _children(self, node: ast.AST) -> Iterator[Value]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                yield self._eval(child)
            elif not isinstance(child, ast.expr_context | ast.operator):
                yield from self._children(child)

    def of_constant(self, node: ast.Constant) -> Value:
        return Value(Kind.CONSTANT, node, constant=node.value)

    def of_load(self, node: ast.Name) -> Value:
        found = self._scope.find(node.id)
        if found is not None:
            return found
        return Value(Kind.NAMED if node.id in _BUILT_IN else Kind.OTHER, node, node.id)

    def of_mapping(self, node: ast.Dict) -> Value:
        keys = tuple(OTHER if key is None else self._eval(key) for key in node.keys)
        parts = tuple(self._eval(value) for value in node.values)
        return Value(Kind.MAPPING, node, keys=keys, parts=parts)

    def of_sequence(self, node: ast.List | ast.Tuple | ast.Set) -> Value:
        return Value(Kind.SEQUENCE, node, parts=tuple(self._eval(each) for each in node.elts))

    def of_either(self, node: ast.IfExp | ast.BoolOp) -> Value:
        if isinstance(node, ast.IfExp):
            self._eval(node.test)
        options = node.values if isinstance(node, ast.BoolOp) else [node.body, node.orelse]
        return choice([self._eval(each) for each in options])

    def of_named(self, node: ast.NamedExpr) -> Value:
        value = self._eval(node.value)
        self._bind(node.target, value)
        return value

    def of_lambda(self, node: ast.Lambda) -> Value:
        return Value(Kind.FUNCTION, node, scope=self._scope)

    def of_comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> Value:
        outer = self._place, self._scope
        self._scope = Scope(self._scope)
        try:
            cursor = self._generate(node.generators)
            made = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            parts = tuple(self._eval(each) for each in made)
        finally:
            self._place, self._scope = outer
        if cursor is None:
            return Value(Kind.SEQUENCE, node, parts=parts)
        gathered = (cursor, *parts)
        if isinstance(node, ast.GeneratorExp):
            return Value(Kind.OTHER, node, parts=gathered)
        callee = Value(Kind.NAMED, node, "list")
        self.calls.append(Call(node, callee, self._place, (cursor,)))
        return Value(Kind.MADE, node, "list", parts=gathered)

    def _generate(self, generators: Iterable[ast.comprehension]) -> Value | None:
        """Go through the loops of a comprehension, and return the cursor that one goes over."""
        cursor: Value | None = None
        for part in generators:
            over = self._eval(part.iter)
            cursor = cursor or cursor_of(over)
            self._bind(part.target, element(over))
            self._place = replace(self._place, loops=(*self._place.loops, over))
            for test in part.ifs:
                self._eval(test)
        return cursor

    def of_subscript(self, node: ast.Subscript) -> Value:
        base, index = self._eval(node.value), self._eval(node.slice)
        if base.kind is Kind.CLIENT:
            return Value(Kind.DATABASE, node)
        if base.kind is Kind.DATABASE:
            return self._collection(node, index)
        if base.kind is Kind.COLLECTION:
            return below(base, node, index)
        if base.kind is Kind.CURSOR and isinstance(node.slice, ast.Slice):
            return replace(base, node=node, constant=True)
        return element_at(base, index) or Value(Kind.OTHER, node, parts=(base, index))

    def of_attribute(self, node: ast.Attribute) -> Value:
        return self._member(self._eval(node.value), node.attr, node)

    def _member(self, base: Value, name: str, node: ast.expr) -> Value:
        found = member(base, name, node)
        if found is not None:
            return found
        if base.kind is Kind.DATABASE and name not in PROPERTIES:
            return self._collection(node, Value(Kind.CONSTANT, node, constant=name), name)
        if name in UNMISTAKABLE:
            return method(Value(Kind.COLLECTION, node, complete=False), name, node)
        if base.kind is Kind.NAMED:
            return Value(Kind.NAMED, node, f"{base.name}.{name}")
        return Value(Kind.OTHER, node, name, parts=(base,))

    def _got(self, base: Value, name: Value, node: ast.expr) -> Value:
        """Return what getattr() gives."""
        if isinstance(name.constant, str):
            return self._member(base, name.constant, node)
        return self._collection(node, name) if base.kind is Kind.DATABASE else OTHER

    def _collection(self, node: ast.AST, which: Value, attribute: str = "") -> Value:
        names, complete = texts_of(which)
        return Value(Kind.COLLECTION, node, attribute, names=names, complete=complete)

    def _refer(self, value: Value) -> None:
        complete = value.kind is Kind.COLLECTION and value.complete
        self.references.append(Reference(value.names, complete, self._place.direction))

    def _refer_to(self, value: Value) -> None:
        """Write down which collection is called, handed on, or what a method is called on."""
        used = value.parts[0] if value.kind is Kind.METHOD else value
        if used.kind is Kind.COLLECTION:
            self._refer(used)

    # --- calls

    def of_call(self, node: ast.Call) -> Value:
        callee = self._eval(node.func)
        args = [self._eval(arg) for arg in node.args if not isinstance(arg, ast.Starred)]
        starred = [self._eval(arg.value) for arg in node.args if isinstance(arg, ast.Starred)]
        keywords = {k.arg: self._eval(k.value) for k in node.keywords if k.arg is not None}
        double = [self._eval(keyword.value) for keyword in node.keywords if keyword.arg is None]
        if callee.kind is Kind.FUNCTION:
            return self._follow(callee, args, keywords)
        if any(value.kind is Kind.FUNCTION for value in (*args, *keywords.values())):
            args, keywords = self._follow_given(callee, args, keywords)
        place = replace(self._place, opened=True) if self._opened else self._place
        complete = not (starred or double)
        call = Call(node, callee, place, tuple(args), keywords, complete)
        self.calls.append(call)
        self._note(call)
        if call.path == "getattr" and len(args) > 1:
            return self._got(args[0], args[1], node)
        if isinstance(node.func, ast.Attribute) and node.func.attr in {"append", "extend", "add"}:
            self._extend(node.func.value, args)
        made = result_of(call)
        if made.kind is Kind.COLLECTION and call.on(Kind.DATABASE):
            return self._collection(node, call.argument(0, "name") or OTHER)
        return replace(made, parts=(*made.parts, *starred, *double)) if starred or double else made

    def _follow_given(
        self, callee: Value, args: list[Value], keywords: dict[str, Value]
    ) -> tuple[list[Value], dict[str, Value]]:
        """Follow functions of the file that are handed to others, which will call them."""
        cursors = tuple(value for value in args if cursor_of(value))
        outer = self._place
        hand = callee.kind is Kind.METHOD and callee.name == "with_transaction"
        first = Value(Kind.SESSION) if hand else None
        self._place = replace(
            outer,
            loops=(*outer.loops, *cursors),
            opened=outer.opened or hand,
            backfill=outer.backfill or is_backfill(callee),
        )

        def followed(value: Value) -> Value:
            if value.kind is not Kind.FUNCTION:
                return value
            return replace(value, parts=(self._follow(value, [first] if first else []),))

        try:
            return [followed(v) for v in args], {k: followed(v) for k, v in keywords.items()}
        finally:
            self._place = outer

    def _follow(
        self,
        function: Value,
        args: Sequence[Value] = (),
        keywords: Mapping[str, Value] | None = None,
    ) -> Value:
        """Go through the body of a function of this file, and return what it returns."""
        node = function.node
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)  # noqa: S101
        if node in self._stack:
            return OTHER
        scope = Scope(function.scope)
        scope.names.update(_bound(node.args, args, keywords or {}))
        outer, self._returned = self._returned, []
        self._stack.append(node)
        place = replace(self._place, function=function.name or self._place.function)
        try:
            self._inside(_body(node), place, scope)
            return choice(self._returned)
        finally:
            self._stack.pop()
            self._returned = outer

    def _note(self, call: Call) -> None:
        """Write down what a call says of transactions and of collections."""
        if call.on(Kind.SESSION):
            if call.method == "start_transaction":
                self._opened = True
            elif call.method in {"commit_transaction", "abort_transaction"}:
                self._opened = False
        for which in collections_of(call):
            names, complete = texts_of(which)
            if which.kind is not Kind.COLLECTION:
                self.references.append(Reference(names, complete, call.place.direction))
        for value in (call.callee, *call.given):
            if value.kind in {Kind.COLLECTION, Kind.METHOD}:
                self._refer_to(value)
        if call.callee.kind is not Kind.METHOD and call.path not in _BUILT_IN:
            handed = (value.kind in {Kind.DATABASE, Kind.CLIENT} for value in call.given)
            if any(handed):
                self._refer(OTHER)


# --- syntax


def _is_never(test: ast.expr) -> bool:
    """Whether it is a condition that holds for type checkers, or for scripts, alone."""
    names = {_name(inner) for inner in ast.walk(test) if isinstance(inner, ast.expr)}
    return not names.isdisjoint({"TYPE_CHECKING", "__name__"})


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _handler(node: ast.ExceptHandler) -> Handler:
    kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    names = frozenset(_name(kind) for kind in kinds if kind is not None)
    raises = any(isinstance(inner, ast.Raise) for part in node.body for inner in ast.walk(part))
    return Handler(node, names, raises)


def _suppressing(item: ast.withitem, value: Value) -> Handler:
    names = frozenset(part.name.rpartition(".")[2] for part in value.parts[1:])
    return Handler(item.context_expr, names, raises=False)


def _defaults(arguments: ast.arguments) -> Iterator[ast.expr]:
    yield from arguments.defaults
    yield from (default for default in arguments.kw_defaults if default is not None)


def _default_values(arguments: ast.arguments) -> Iterator[tuple[str, Value]]:
    positional = [*arguments.posonlyargs, *arguments.args]
    last = positional[len(positional) - len(arguments.defaults) :]
    pairs = [*zip(last, arguments.defaults, strict=True)]
    pairs += [(p, d) for p, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d]
    for parameter, default in pairs:
        if isinstance(default, ast.Constant):
            yield parameter.arg, Value(Kind.CONSTANT, default, constant=default.value)


_BY_NAME = {"db": Value(Kind.DATABASE), "ctx": Value(Kind.CONTEXT)}


def _bound(
    arguments: ast.arguments, args: Sequence[Value], keywords: Mapping[str, Value]
) -> Iterator[tuple[str, Value]]:
    """Yield what each parameter stands for; `db` and `ctx` are what they are called everywhere."""
    positional = [parameter.arg for parameter in (*arguments.posonlyargs, *arguments.args)]
    every = [*positional, *(parameter.arg for parameter in arguments.kwonlyargs)]
    given = {
        **dict(_default_values(arguments)),
        **dict(zip(positional, args, strict=False)),
        **keywords,
    }
    for name in every:
        yield name, given.get(name) or _BY_NAME.get(name, OTHER)
    for rest in (arguments.vararg, arguments.kwarg):
        if rest is not None:
            yield rest.arg, OTHER


def _body(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> list[ast.stmt]:
    return [ast.Return(node.body)] if isinstance(node, ast.Lambda) else node.body


_STATEMENTS: dict[type, Callable[[_Reader, Any], None]] = {
    ast.FunctionDef: _Reader.on_function,
    ast.AsyncFunctionDef: _Reader.on_function,
    ast.ClassDef: _Reader.on_class,
    ast.Import: _Reader.on_import,
    ast.ImportFrom: _Reader.on_import_from,
    ast.Assign: _Reader.on_assign,
    ast.AnnAssign: _Reader.on_annotated,
    ast.AugAssign: _Reader.on_augmented,
    ast.Return: _Reader.on_return,
    ast.For: _Reader.on_for,
    ast.AsyncFor: _Reader.on_for,
    ast.While: _Reader.on_while,
    ast.If: _Reader.on_if,
    ast.With: _Reader.on_with,
    ast.AsyncWith: _Reader.on_with,
    ast.Try: _Reader.on_try,
}
_EXPRESSIONS: dict[type, Callable[[_Reader, Any], Value]] = {
    ast.Constant: _Reader.of_constant,
    ast.Name: _Reader.of_load,
    ast.Dict: _Reader.of_mapping,
    ast.List: _Reader.of_sequence,
    ast.Tuple: _Reader.of_sequence,
    ast.Set: _Reader.of_sequence,
    ast.IfExp: _Reader.of_either,
    ast.BoolOp: _Reader.of_either,
    ast.NamedExpr: _Reader.of_named,
    ast.Lambda: _Reader.of_lambda,
    ast.ListComp: _Reader.of_comprehension,
    ast.SetComp: _Reader.of_comprehension,
    ast.GeneratorExp: _Reader.of_comprehension,
    ast.DictComp: _Reader.of_comprehension,
    ast.Subscript: _Reader.of_subscript,
    ast.Attribute: _Reader.of_attribute,
    ast.Call: _Reader.of_call,
}
