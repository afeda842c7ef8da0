"""From the syntax tree of a function to its typed tree: the restricted Python that `native` takes.

**Values** are integers of a declared type (u8…u128, i8…i128), `bool`, and pointers to records. Nothing converts by
itself: both operands of an operator have the same type. A literal takes the type of the other operand; so do constants
(module-level ints and enum members, `module.NAME`, `Enum.MEMBER`, constants of an enclosing function), constant
expressions, `1 << n`, and conditionals of literals. Where nothing gives a literal a type, that is an error.

**Expressions**

* `+ - * << >> & | ^ // % ** -x ~x`. The result has the operands' type and must fit it. `//` and `%` are for unsigned
  types (signed: `tdiv`, `trem`); `**` for constants only. A shift count may be of any unsigned type. `<<` must lose no
  bits. `>>` is arithmetic for signed types. `~x` of an unsigned type is the complement within its width. With `&`, a
  negative literal stands for its two's complement. `& | ^` also take two bools.
* `u32(x)` and the like: checked conversions; of a bool, 0 or 1. `bool(x)`: `x != 0`.
* `wrap32(tree)`, `signed32(tree)` and the like: the `+ - * << & | ^ ~ -` and `x if c else y` tree in the parentheses is
  computed modulo 2**32; what else stands in it is computed as usual, then extended by its own sign or cut. A shift by
  the width or more gives 0.
* `== != < <= > >=`, chained too; `and or not` of bools; `x if c else y`; `min(a, b)`, `max(a, b)`.
* Calls of `@fn` and `@external` functions and of intrinsics, with positional arguments.
* `Rec(address)`, `record.address`, `record.field`, `record.field[i]`, `addressof(record.field)`, `local(Rec)`,
  `TABLE[i]`; and as constants `Rec.size()`, `Rec.offset("field")`, `len(TABLE)`.

**Statements**

* `x = e`, `x: T = e`, `x: T`, `x op= e`, and the same for `record.field` and `record.field[i]`. A local has one type,
  from its declaration or its first assignment, and must have been assigned on every path that reads it.
* `if`/`elif`/`else` (with a constant condition only the chosen branch is looked at), `while`, `for i in range(…)` with
  a constant step (without another type for it `i` is u64, or i64 where a bound is negative), `break`, `continue`,
  `return`, `pass`, calls, docstrings.
* `assert condition, "text"`: checked in the Python run and in debug builds.

Everything else is a CompileError that names file, line and construct: other statements and expressions, tuples,
strings, floats, keyword arguments, globals that are not constants, nested functions, loops with `else`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

from native import tree
from native.expressions import Expressions
from native.function import AnyFunction, type_text
from native.operators import FLEXIBLE
from native.scope import Assigned, Scope
from native.tree import Expr, Statement, Type, is_integer
from native.types import I64, U64

__all__ = ["compile_function"]


def compile_function(function: AnyFunction) -> tree.TypedFunction:
    """Check a function and make its typed tree; CompileError when it is not of this language."""
    return _Compiler(function).compile()


class _Compiler:
    """The statements of one function."""

    def __init__(self, function: AnyFunction) -> None:
        self.signature = function.signature
        self.scope = Scope(function)
        self.values = Expressions(self.scope)
        self.rules = self.values.rules
        self.breaks: list[list[Assigned]] = []

    def compile(self) -> tree.TypedFunction:
        scope, function = self.scope, self.scope.function
        body = self.block(scope.source.body)
        if scope.assigned is not None and self.signature.result is not None:
            raise scope.error(scope.source, f"{function.name} can end without a return")
        filename = function.code.co_filename
        return tree.TypedFunction(function, self.signature, scope.locals, body, filename, scope.source)

    def block(self, nodes: Sequence[ast.stmt]) -> list[Statement]:
        """The statements that control can come to."""
        statements: list[Statement] = []
        for node in nodes:
            if self.scope.assigned is None:
                break
            handler = _STATEMENTS.get(type(node))
            if handler is None:
                raise self.scope.error(node, f"{type(node).__name__} statement is not taken")
            statements.extend(handler(self, node))
        return statements

    def assign(self, node: ast.Assign) -> list[Statement]:
        if len(node.targets) != 1:
            raise self.scope.error(node, "chained assignment is not taken")
        return self.store(node, node.targets[0], node.value)

    def declare(self, node: ast.AnnAssign) -> list[Statement]:
        if not isinstance(node.target, ast.Name):
            raise self.scope.error(node, "only a local can be declared")
        kind = self.scope.type_from(node.annotation)
        name = node.target.id
        if self.scope.locals.setdefault(name, kind) is not kind:
            raise self.scope.error(node, f"{name} is {type_text(self.scope.locals[name])} already")
        return [] if node.value is None else self.store(node, node.target, node.value)

    def store(self, node: ast.stmt, target: ast.expr, value: ast.expr) -> list[Statement]:
        if isinstance(target, ast.Name):
            return [self.bind(node, target.id, self.values.expr(value))]
        place = self.values.place(target)
        return [tree.Store(node, place, self.rules.coerce(self.values.expr(value), place.type))]

    def bind(self, node: ast.stmt, name: str, value: Expr) -> Statement:
        kind = self.scope.locals.get(name)
        if kind is None:
            if value.type is FLEXIBLE:
                raise self.scope.error(node, f"no type for {name}: declare it, as in `{name}: u64 = ...`")
            if value.type is None:
                raise self.scope.error(node, "the call gives no value")
            kind = self.scope.locals[name] = value.type
        value = self.rules.coerce(value, kind)
        assert self.scope.assigned is not None
        self.scope.assigned.add(name)
        return tree.Assign(node, name, value)

    def augment(self, node: ast.AugAssign) -> list[Statement]:
        op = self.values.operator(node.op, node)
        if isinstance(node.target, ast.Name):
            read = ast.copy_location(ast.Name(node.target.id, ast.Load()), node.target)
            value = self.rules.binary(op, self.values.expr(read), self.values.expr(node.value), node.value, node)
            return [self.bind(node, node.target.id, value)]
        place = self.values.place(node.target)
        old = tree.OldValue(place.type, node.target)
        value = self.rules.binary(op, old, self.values.expr(node.value), node.value, node)
        assert isinstance(value, tree.Binary)
        return [tree.Update(node, place, value)]

    def expression(self, node: ast.Expr) -> list[Statement]:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return []  # a docstring
        if not isinstance(node.value, ast.Call):
            raise self.scope.error(node, "a statement of this value does nothing")
        return [tree.Evaluate(node, self.values.expr(node.value))]

    def if_statement(self, node: ast.If) -> list[Statement]:
        test = self.values.condition(node.test)
        if isinstance(test, tree.Const):
            return self.block(node.body if test.value else node.orelse)
        before = self.scope.assigned
        body = self.branch(node.body, before)
        after_body = self.scope.assigned
        orelse = self.branch(node.orelse, before)
        self.scope.assigned = _both(after_body, self.scope.assigned)
        return [tree.If(node, test, body, orelse)]

    def branch(self, nodes: Sequence[ast.stmt], assigned: Assigned) -> list[Statement]:
        self.scope.assigned = None if assigned is None else set(assigned)
        return self.block(nodes)

    def while_statement(self, node: ast.While) -> list[Statement]:
        self.no_else(node)
        test = self.values.condition(node.test)
        forever = isinstance(test, tree.Const) and bool(test.value)
        before = self.scope.assigned
        body, broken = self.loop_body(node.body)
        self.scope.assigned = None if forever else before
        for state in broken:
            self.scope.assigned = _both(self.scope.assigned, state)
        return [tree.While(node, test, body)]

    def for_statement(self, node: ast.For) -> list[Statement]:
        self.no_else(node)
        call = node.iter
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "range"):
            raise self.scope.error(node, "for takes range(...) only")
        if not isinstance(node.target, ast.Name) or call.keywords or not 1 <= len(call.args) <= 3:
            raise self.scope.error(
                node, "for takes one name and range(stop), range(start, stop) or range(start, stop, step)"
            )
        bounds = [self.values.expr(a) for a in call.args[:2]]
        step = self.step(call.args[2]) if len(call.args) == 3 else 1
        if len(bounds) == 1:
            bounds.insert(0, tree.Const(FLEXIBLE, call, 0))
        name = node.target.id
        kind = self.scope.locals.get(name) or self.range_type(bounds)
        start, stop = (self.rules.coerce(b, kind) for b in bounds)
        if not is_integer(self.scope.locals.setdefault(name, kind)):
            raise self.scope.error(node, f"{name} is {type_text(self.scope.locals[name])} already")
        before = set(self.scope.assigned or ())
        self.scope.assigned = before | {name}
        body, _ = self.loop_body(node.body)
        self.scope.assigned = before
        return [tree.ForRange(node, name, start, stop, step, body)]

    def range_type(self, bounds: list[Expr]) -> Type:
        for bound in bounds:
            if bound.type is not FLEXIBLE:
                return bound.type
        negative = any(isinstance(b, tree.Const) and b.value < 0 for b in bounds)
        return I64 if negative else U64

    def step(self, node: ast.expr) -> int:
        step = self.values.expr(node)
        if not isinstance(step, tree.Const) or step.value == 0:
            raise self.scope.error(node, "the step of range is a constant other than 0")
        return step.value

    def loop_body(self, nodes: Sequence[ast.stmt]) -> tuple[list[Statement], list[Assigned]]:
        self.breaks.append([])
        self.scope.assigned = set(self.scope.assigned or ())
        return self.block(nodes), self.breaks.pop()

    def no_else(self, node: ast.While | ast.For) -> None:
        if node.orelse:
            raise self.scope.error(node, "a loop with else is not taken")

    def break_statement(self, node: ast.Break) -> list[Statement]:
        self.breaks[-1].append(self.scope.assigned)
        self.scope.assigned = None
        return [tree.Break(node)]

    def continue_statement(self, node: ast.Continue) -> list[Statement]:
        self.scope.assigned = None
        return [tree.Continue(node)]

    def return_statement(self, node: ast.Return) -> list[Statement]:
        result = self.signature.result
        if (node.value is None) != (result is None):
            raise self.scope.error(node, f"{self.scope.function.name} returns {type_text(result)}")
        value = None if node.value is None else self.rules.coerce(self.values.expr(node.value), result)
        self.scope.assigned = None
        return [tree.Return(node, value)]

    def assert_statement(self, node: ast.Assert) -> list[Statement]:
        message = ast.unparse(node.test)
        if node.msg is not None:
            if not isinstance(node.msg, ast.Constant) or not isinstance(node.msg.value, str):
                raise self.scope.error(node, "the message of assert is a string literal")
            message = node.msg.value
        return [tree.Assert(node, self.values.condition(node.test), message)]

    def nothing(self, node: ast.Pass) -> list[Statement]:
        return []


def _both(a: Assigned, b: Assigned) -> Assigned:
    if a is None or b is None:
        return b if a is None else a
    return a & b


_Handler = Callable[[_Compiler, Any], Any]

_STATEMENTS: dict[type[ast.stmt], _Handler] = {
    ast.Assign: _Compiler.assign,
    ast.AnnAssign: _Compiler.declare,
    ast.AugAssign: _Compiler.augment,
    ast.Expr: _Compiler.expression,
    ast.If: _Compiler.if_statement,
    ast.While: _Compiler.while_statement,
    ast.For: _Compiler.for_statement,
    ast.Break: _Compiler.break_statement,
    ast.Continue: _Compiler.continue_statement,
    ast.Return: _Compiler.return_statement,
    ast.Assert: _Compiler.assert_statement,
    ast.Pass: _Compiler.nothing,
}
