"""The checked Python run: the typed tree as Python again, with a check wherever something can go wrong.

Overflow, lost bits and conversions that do not fit raise OverflowError, shifts by the width or more ValueError,
division by zero ZeroDivisionError, an index outside an array IndexError, a failed assertion AssertionError, an access
outside registered memory WildAccess. File and line of the source stand in tracebacks, and debuggers stop on them.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import singledispatchmethod
from typing import Any

from native import operations, tree
from native.compiler import compile_function
from native.function import AnyFunction, Signature, local, type_text
from native.records import field_address
from native.tree import Expr, Statement
from native.types import IntType

__all__ = ["checked"]


def checked(function: AnyFunction) -> Callable[..., Any]:
    """The function as an ordinary Python function that checks its arguments and every step."""
    typed = compile_function(function)
    inner = _PythonRun(typed).build()
    signature = typed.signature

    def run(*args: Any) -> Any:
        _check_arguments(function, signature, args)
        return inner(*args)

    return run


def _check_arguments(function: AnyFunction, signature: Signature, args: tuple[Any, ...]) -> None:
    if len(args) != len(signature.params):
        raise TypeError(f"{function.name} takes {len(signature.params)} arguments, not {len(args)}")
    for param, value in zip(signature.params, args, strict=True):
        kind = param.type
        if isinstance(kind, IntType):
            if not isinstance(value, int):
                raise TypeError(f"{function.name}: {param.name} is {kind}, not {type(value).__name__}")
            if not kind.fits(value):
                raise OverflowError(f"{function.name}: {param.name} = {value} does not fit {kind}")
        elif not isinstance(value, kind):
            raise TypeError(f"{function.name}: {param.name} is {type_text(kind)}, not {type(value).__name__}")


def _shift_left(kind: IntType, value: int, count: int) -> int:
    if count >= kind.bits:
        raise ValueError(f"shift of {kind} by {count}")
    return kind(value << count)


def _shift_right(kind: IntType, value: int, count: int) -> int:
    if count >= kind.bits:
        raise ValueError(f"shift of {kind} by {count}")
    return value >> count


def _modular_shift(kind: IntType, value: int, count: int) -> int:
    return value << count if count < kind.bits else 0


def _fail(message: str) -> None:
    raise AssertionError(message)


_BINARY: dict[str, ast.operator] = {
    "+": ast.Add(),
    "-": ast.Sub(),
    "*": ast.Mult(),
    "&": ast.BitAnd(),
    "|": ast.BitOr(),
    "^": ast.BitXor(),
    "//": ast.FloorDiv(),
    "%": ast.Mod(),
}
_FUNCTIONS: dict[str, Callable[[int, int], int]] = {
    "tdiv": operations.tdiv,
    "trem": operations.trem,
    "min": min,
    "max": max,
}
_COMPARE: dict[str, ast.cmpop] = {
    "==": ast.Eq(),
    "!=": ast.NotEq(),
    "<": ast.Lt(),
    "<=": ast.LtE(),
    ">": ast.Gt(),
    ">=": ast.GtE(),
}
_MAY_OVERFLOW = frozenset(("+", "-", "*", "tdiv"))


class _PythonRun:
    """Builds one function. Helpers get names that no source can contain, so that nothing clashes."""

    def __init__(self, typed: tree.TypedFunction) -> None:
        self.typed = typed
        self.scope: dict[str, Any] = {"__name__": typed.function.python.__module__}
        self.names: dict[int, str] = {}
        self.temporaries = 0

    def build(self) -> Callable[..., Any]:
        name = self.typed.function.name
        params = ", ".join(p.name for p in self.typed.signature.params)
        module = ast.parse(f"def {name}({params}): pass")
        definition = module.body[0]
        assert isinstance(definition, ast.FunctionDef)
        definition.body = self.block(self.typed.body)
        ast.copy_location(definition, self.typed.source)
        ast.fix_missing_locations(module)
        exec(compile(module, self.typed.filename, "exec", dont_inherit=True), self.scope)
        built: Callable[..., Any] = self.scope[name]
        self.scope[name] = None
        return built

    def helper(self, thing: Any) -> ast.expr:
        """A name for an object of the compiler's."""
        if id(thing) not in self.names:
            name = f"@{len(self.names)} {getattr(thing, '__name__', thing)}"
            self.names[id(thing)] = name
            self.scope[name] = thing
        return ast.Name(self.names[id(thing)], ast.Load())

    def apply(self, thing: Any, *args: ast.expr) -> ast.expr:
        return ast.Call(self.helper(thing), list(args), [])

    # --- statements -------------------------------------------------------------------------------------------------

    def block(self, statements: list[Statement]) -> list[ast.stmt]:
        body: list[ast.stmt] = []
        for statement in statements:
            for made in self.statement(statement):
                body.append(ast.copy_location(made, statement.at))
        return body or [ast.Pass()]

    @singledispatchmethod
    def statement(self, node: Statement) -> list[ast.stmt]:
        raise AssertionError(node)

    @statement.register
    def _(self, node: tree.Assign) -> list[ast.stmt]:
        return [ast.Assign([ast.Name(node.name, ast.Store())], self.expr(node.value))]

    @statement.register
    def _(self, node: tree.Store) -> list[ast.stmt]:
        return [ast.Assign([self.place(node.place, ast.Store())], self.expr(node.value))]

    @statement.register
    def _(self, node: tree.Update) -> list[ast.stmt]:
        place = node.place
        record = self.temporary(place.record)
        made: list[ast.stmt] = [record[0]]
        found = tree.Place(place.type, place.at, tree.Local(place.record.type, place.at, record[1]), place.field, None)
        if place.index is not None:
            index = self.temporary(place.index)
            made.append(index[0])
            found.index = tree.Local(place.index.type, place.at, index[1])
        binary = node.value
        value = tree.Binary(binary.type, binary.at, binary.op, tree.Load(place.type, place.at, found), binary.right)
        made.append(ast.Assign([self.place(found, ast.Store())], self.expr(value)))
        return made

    def temporary(self, value: Expr) -> tuple[ast.stmt, str]:
        self.temporaries += 1
        name = f"@temporary {self.temporaries}"
        return ast.Assign([ast.Name(name, ast.Store())], self.expr(value)), name

    @statement.register
    def _(self, node: tree.Evaluate) -> list[ast.stmt]:
        return [ast.Expr(self.expr(node.value))]

    @statement.register
    def _(self, node: tree.If) -> list[ast.stmt]:
        return [ast.If(self.expr(node.test), self.block(node.body), self.block(node.orelse))]

    @statement.register
    def _(self, node: tree.While) -> list[ast.stmt]:
        return [ast.While(self.expr(node.test), self.block(node.body), [])]

    @statement.register
    def _(self, node: tree.ForRange) -> list[ast.stmt]:
        bounds = self.apply(range, self.expr(node.start), self.expr(node.stop), ast.Constant(node.step))
        return [ast.For(ast.Name(node.name, ast.Store()), bounds, self.block(node.body), [])]

    @statement.register
    def _(self, node: tree.Break) -> list[ast.stmt]:
        return [ast.Break()]

    @statement.register
    def _(self, node: tree.Continue) -> list[ast.stmt]:
        return [ast.Continue()]

    @statement.register
    def _(self, node: tree.Return) -> list[ast.stmt]:
        return [ast.Return(None if node.value is None else self.expr(node.value))]

    @statement.register
    def _(self, node: tree.Assert) -> list[ast.stmt]:
        failure = ast.copy_location(ast.Expr(self.apply(_fail, ast.Constant(node.message))), node.at)
        return [ast.If(ast.UnaryOp(ast.Not(), self.expr(node.test)), [failure], [])]

    # --- expressions ------------------------------------------------------------------------------------------------

    def expr(self, node: Expr) -> ast.expr:
        return ast.copy_location(self.expression(node), node.at)

    @singledispatchmethod
    def expression(self, node: Expr) -> ast.expr:
        raise AssertionError(node)

    @expression.register
    def _(self, node: tree.Const) -> ast.expr:
        return ast.Constant(node.value)

    @expression.register
    def _(self, node: tree.Local) -> ast.expr:
        return ast.Name(node.name, ast.Load())

    @expression.register
    def _(self, node: tree.Unary) -> ast.expr:
        value = self.expr(node.value)
        if node.op == "-":
            return self.apply(node.type, ast.UnaryOp(ast.USub(), value))
        if node.type.signed:
            return ast.UnaryOp(ast.Invert(), value)
        return ast.BinOp(value, ast.BitXor(), ast.Constant(node.type.maximum))

    @expression.register
    def _(self, node: tree.Binary) -> ast.expr:
        left, right = self.expr(node.left), self.expr(node.right)
        if node.op in ("<<", ">>"):
            return self.apply(_shift_left if node.op == "<<" else _shift_right, self.helper(node.type), left, right)
        function = _FUNCTIONS.get(node.op)
        value = self.apply(function, left, right) if function else ast.BinOp(left, _BINARY[node.op], right)
        return self.apply(node.type, value) if node.op in _MAY_OVERFLOW else value

    @expression.register
    def _(self, node: tree.Modular) -> ast.expr:
        return self.apply(node.type.wrap, self.expr(node.tree))

    @expression.register
    def _(self, node: tree.ModularUnary) -> ast.expr:
        return ast.UnaryOp(ast.USub() if node.op == "-" else ast.Invert(), self.expr(node.value))

    @expression.register
    def _(self, node: tree.ModularBinary) -> ast.expr:
        left, right = self.expr(node.left), self.expr(node.right)
        if node.op == "<<":
            return self.apply(_modular_shift, self.helper(node.type), left, right)
        return ast.BinOp(left, _BINARY[node.op], right)

    @expression.register
    def _(self, node: tree.ModularLeaf) -> ast.expr:
        return self.expr(node.value)

    @expression.register
    def _(self, node: tree.Compare) -> ast.expr:
        first, *rest = (self.expr(o) for o in node.operands)
        return ast.Compare(first, [_COMPARE[op] for op in node.ops], rest)

    @expression.register
    def _(self, node: tree.Logic) -> ast.expr:
        return ast.BoolOp(ast.And() if node.op == "and" else ast.Or(), [self.expr(v) for v in node.values])

    @expression.register
    def _(self, node: tree.Not) -> ast.expr:
        return ast.UnaryOp(ast.Not(), self.expr(node.value))

    @expression.register
    def _(self, node: tree.Conditional) -> ast.expr:
        return ast.IfExp(self.expr(node.test), self.expr(node.body), self.expr(node.orelse))

    @expression.register
    def _(self, node: tree.Convert) -> ast.expr:
        return self.apply(node.type, self.expr(node.value))

    @expression.register
    def _(self, node: tree.Call) -> ast.expr:
        return self.apply(node.callee, *(self.expr(a) for a in node.args))

    @expression.register
    def _(self, node: tree.Apply) -> ast.expr:
        return self.apply(node.intrinsic.run, *(self.expr(a) for a in node.args))

    @expression.register
    def _(self, node: tree.Pointer) -> ast.expr:
        return self.apply(node.type, self.expr(node.address))

    @expression.register
    def _(self, node: tree.StackRecord) -> ast.expr:
        return self.apply(local, self.helper(node.type))

    @expression.register
    def _(self, node: tree.AddressOf) -> ast.expr:
        return ast.Attribute(self.expr(node.record), "address", ast.Load())

    @expression.register
    def _(self, node: tree.Load) -> ast.expr:
        return self.place(node.place, ast.Load())

    @expression.register
    def _(self, node: tree.Embedded) -> ast.expr:
        return self.place(node.place, ast.Load())

    @expression.register
    def _(self, node: tree.PlaceAddress) -> ast.expr:
        index = ast.Constant(None) if node.place.index is None else self.expr(node.place.index)
        return self.apply(field_address, self.expr(node.place.record), ast.Constant(node.place.field.name), index)

    @expression.register
    def _(self, node: tree.TableLoad) -> ast.expr:
        return ast.Subscript(self.helper(node.table), self.expr(node.index), ast.Load())

    def place(self, place: tree.Place, context: ast.expr_context) -> ast.expr:
        record = self.expr(place.record)
        if place.index is None:
            return ast.copy_location(ast.Attribute(record, place.field.name, context), place.at)
        array = ast.copy_location(ast.Attribute(record, place.field.name, ast.Load()), place.at)
        return ast.copy_location(ast.Subscript(array, self.expr(place.index), context), place.at)
