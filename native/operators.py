"""The rules of operators: which types they take, what they give, and how a literal gets its type.

Nothing converts by itself. A literal, and what is made only of literals, is *flexible* until it stands beside a value
of some type, which it then takes.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable

from native import tree
from native.function import type_text
from native.scope import Scope
from native.tree import Expr, Type, is_integer
from native.types import U64, IntType

__all__ = ["FLEXIBLE", "Rules"]


class _Flexible:
    """The type of a literal until something gives it one."""

    __name__ = "literal"


FLEXIBLE = _Flexible()

_FOLD: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "<<": operator.lshift,
    ">>": operator.rshift,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}
_COMPARE_FOLD: dict[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_BOOLEAN = frozenset(["&", "|", "^"])
_SHIFTS = frozenset(("<<", ">>"))
_DIVISIONS = {"//": False, "%": False, "tdiv": True, "trem": True}  # whether they are for signed types


class Rules:
    """Makes typed operations, or errors, out of typed operands."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def describe(self, value: Expr) -> str:
        return "a literal" if value.type is FLEXIBLE else type_text(value.type)

    def coerce(self, value: Expr, kind: Type) -> Expr:
        """`value` as a value of the type: the same type, or a literal that fits."""
        if value.type is kind:
            return value
        if value.type is FLEXIBLE and isinstance(kind, IntType):
            return self.give_type(value, kind)
        raise self.scope.error(value.at, f"{type_text(kind)} is needed, this is {self.describe(value)}")

    def give_type(self, value: Expr, kind: IntType) -> Expr:
        """A flexible tree with the type it stands beside."""
        match value:
            case tree.Const():
                if not kind.fits(value.value):
                    raise self.scope.error(value.at, f"{value.value} does not fit {kind}")
                return tree.Const(kind, value.at, value.value)
            case tree.Conditional():
                body, orelse = self.coerce(value.body, kind), self.coerce(value.orelse, kind)
                return tree.Conditional(kind, value.at, value.test, body, orelse)
            case tree.Unary():
                return tree.Unary(kind, value.at, value.op, self.coerce(value.value, kind))
            case tree.Binary():
                left = self.coerce(value.left, kind)
                return self.binary(value.op, left, value.right, value.at, value.at)
        raise AssertionError(value)

    def binary(self, op: str, left: Expr, right: Expr, at: ast.expr, whole: ast.AST) -> Expr:
        """An operator of two values, literals folded or given the other's type."""
        if isinstance(left, tree.Const) and isinstance(right, tree.Const) and FLEXIBLE is left.type is right.type:
            return self.fold(op, left, right, at)
        if op == "**":
            raise self.scope.error(whole, "** is for constants only")
        if op in _SHIFTS:
            return self.shift(op, left, right, at, whole)
        if left.type is FLEXIBLE is right.type:
            return tree.Binary(FLEXIBLE, at, op, left, right)
        if left.type is bool is right.type and op in _BOOLEAN:
            return tree.Binary(bool, at, op, left, right)
        kind = right.type if left.type is FLEXIBLE else left.type
        left, right = self.operand(op, left, kind, whole), self.operand(op, right, kind, whole)
        if op in _DIVISIONS:
            self.check_division(op, kind, right, whole)
        return tree.Binary(kind, at, op, left, right)

    def check_division(self, op: str, kind: IntType, divisor: Expr, whole: ast.AST) -> None:
        if kind.signed != _DIVISIONS[op]:
            wants = "a signed type" if _DIVISIONS[op] else "an unsigned type (signed: tdiv, trem)"
            raise self.scope.error(whole, f"{op} is for {wants}, not {kind}")
        if isinstance(divisor, tree.Const) and divisor.value == 0:
            raise self.scope.error(whole, "division by zero")

    def operand(self, op: str, value: Expr, kind: Type, whole: ast.AST) -> Expr:
        if not is_integer(kind):
            raise self.scope.error(whole, f"{op} is not for {type_text(kind)}")
        if op == "&" and not kind.signed and isinstance(value, tree.Const) and -(1 << kind.bits) <= value.value < 0:
            return tree.Const(kind, value.at, kind.wrap(value.value))
        if value.type is not kind and value.type is not FLEXIBLE:
            raise self.scope.error(whole, f"{op} of {type_text(kind)} and {type_text(value.type)}")
        return self.coerce(value, kind)

    def shift(self, op: str, left: Expr, right: Expr, at: ast.expr, whole: ast.AST) -> Expr:
        count = self.shift_count(right)
        if left.type is FLEXIBLE:
            return tree.Binary(FLEXIBLE, at, op, left, count)
        if not is_integer(left.type):
            raise self.scope.error(whole, f"{op} is not for {type_text(left.type)}")
        if isinstance(count, tree.Const) and count.value >= left.type.bits:
            raise self.scope.error(whole, f"shift of {left.type} by {count.value}")
        return tree.Binary(left.type, at, op, left, count)

    def shift_count(self, count: Expr) -> Expr:
        if count.type is FLEXIBLE:
            return self.coerce(count, U64)
        if not is_integer(count.type) or count.type.signed:
            raise self.scope.error(count.at, f"a shift count is unsigned, this is {self.describe(count)}")
        return count

    def fold(self, op: str, left: tree.Const, right: tree.Const, at: ast.expr) -> Expr:
        if op not in _FOLD:
            raise self.scope.error(at, f"{op} of two literals: give one a type")
        if op in ("<<", ">>", "**") and not 0 <= right.value <= 4096:
            raise self.scope.error(at, f"{op} by {right.value}")
        if op in ("//", "%") and right.value == 0:
            raise self.scope.error(at, "division by zero")
        return tree.Const(FLEXIBLE, at, _FOLD[op](left.value, right.value))

    def negate(self, op: str, value: Expr, at: ast.expr) -> Expr:
        """`-x` and `~x`."""
        if isinstance(value, tree.Const) and value.type is FLEXIBLE:
            return tree.Const(FLEXIBLE, at, -value.value if op == "-" else ~value.value)
        if not (is_integer(value.type) or value.type is FLEXIBLE):
            raise self.scope.error(at, f"operator {op} of {self.describe(value)}")
        return tree.Unary(value.type, at, op, value)

    def compare(self, ops: list[str], operands: list[Expr], at: ast.expr) -> Expr:
        """A comparison, chained or not."""
        if all(isinstance(o, tree.Const) and o.type is FLEXIBLE for o in operands):
            values = [o.value for o in operands if isinstance(o, tree.Const)]
            truth = all(_COMPARE_FOLD[op](a, b) for op, a, b in zip(ops, values, values[1:], strict=False))
            return tree.Const(bool, at, truth)
        kind = next((o.type for o in operands if o.type is not FLEXIBLE), None)
        if kind is None:
            raise self.scope.error(at, "comparison of literals: give one a type")
        if kind is bool and not {"==", "!="}.issuperset(ops):
            raise self.scope.error(at, "bools are compared with == and != only")
        if not (is_integer(kind) or kind is bool):
            raise self.scope.error(at, f"{type_text(kind)} cannot be compared (compare addresses)")
        for operand in operands:
            if operand.type is not kind and operand.type is not FLEXIBLE:
                raise self.scope.error(at, f"comparison of {type_text(kind)} and {type_text(operand.type)}")
        return tree.Compare(bool, at, ops, [self.coerce(o, kind) for o in operands])

    def choose(self, test: Expr, body: Expr, orelse: Expr, at: ast.expr) -> Expr:
        """`body if test else orelse`."""
        kind = orelse.type if body.type is FLEXIBLE else body.type
        if kind is None:
            raise self.scope.error(at, "the call gives no value")
        if kind is FLEXIBLE:
            return tree.Conditional(FLEXIBLE, at, test, body, orelse)
        if kind is not orelse.type and orelse.type is not FLEXIBLE:
            raise self.scope.error(at, f"a choice of {type_text(kind)} and {self.describe(orelse)}")
        return tree.Conditional(kind, at, test, self.coerce(body, kind), self.coerce(orelse, kind))
