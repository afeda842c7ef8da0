"""Expressions: from the syntax tree to typed values. What is taken is said in `native.compiler`."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

from native import operations, tree
from native.function import Callee, Table, local
from native.intrinsics import AnyInteger, Intrinsic
from native.operators import FLEXIBLE, Rules
from native.records import Field, Record
from native.scope import Scope
from native.tree import Expr, Type, is_integer, is_record
from native.types import I64, U64, IntType, Modular

__all__ = ["Expressions"]

_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.LShift: "<<",
    ast.RShift: ">>",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
}
_COMPARE: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_MODULAR = frozenset(["+", "-", "*", "<<", "&", "|", "^"])


class _ArrayValue:
    """`record.field` where the field is an array: only to be indexed or taken the address of."""

    def __init__(self, record: Expr, field: Field, at: ast.expr) -> None:
        self.record, self.field, self.at = record, field, at


class Expressions:
    """The expressions of one function."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.rules = Rules(scope)

    def expr(self, node: ast.expr) -> Expr:
        """A value; its type may still be FLEXIBLE."""
        value = self.value(node)
        if isinstance(value, _ArrayValue):
            raise self.scope.error(node, "an array is not a value: index it")
        return value

    def value(self, node: ast.expr) -> Expr | _ArrayValue:
        handler = _EXPRESSIONS.get(type(node))
        if handler is None:
            raise self.scope.error(node, f"{type(node).__name__} expression is not taken")
        value: Expr | _ArrayValue = handler(self, node)
        return value

    def condition(self, node: ast.expr) -> Expr:
        test = self.expr(node)
        if test.type is not bool:
            raise self.scope.error(node, f"a condition is a bool, not {self.rules.describe(test)} (compare it with 0)")
        return test

    def integer(self, node: ast.expr, default: IntType | None = None) -> Expr:
        """An integer of some type; a literal takes `default`."""
        value = self.expr(node)
        if value.type is FLEXIBLE and default is not None:
            return self.rules.coerce(value, default)
        if not is_integer(value.type):
            raise self.scope.error(node, f"an integer of a declared type is needed, not {self.rules.describe(value)}")
        return value

    def constant(self, node: ast.Constant) -> Expr:
        if isinstance(node.value, bool):
            return tree.Const(bool, node, node.value)
        if isinstance(node.value, int):
            return tree.Const(FLEXIBLE, node, node.value)
        raise self.scope.error(node, f"a {type(node.value).__name__} is not taken")

    def name(self, node: ast.Name) -> Expr:
        if node.id not in self.scope.names:
            return self.static_constant(node)
        if node.id not in (self.scope.assigned or ()):
            raise self.scope.error(node, f"{node.id} may have no value here")
        return tree.Local(self.scope.locals[node.id], node, node.id)

    def static_constant(self, node: ast.expr) -> Expr:
        value = self.scope.static(node)
        if isinstance(value, bool):
            return tree.Const(bool, node, value)
        if isinstance(value, int):
            return tree.Const(FLEXIBLE, node, int(value))
        raise self.scope.error(node, f"a {type(value).__name__} is not a constant of this language")

    def attribute(self, node: ast.Attribute) -> Expr | _ArrayValue:
        if self.scope.is_static(node):
            return self.static_constant(node)
        record = self.record(node.value)
        if node.attr == "address":
            return tree.AddressOf(U64, node, record)
        field = record.type.fields.get(node.attr)
        if field is None:
            raise self.scope.error(node, f"{record.type.__name__} has no field {node.attr}")
        if field.count is not None:
            return _ArrayValue(record, field, node)
        return self.contents(tree.Place(field.type, node, record, field, None))

    def record(self, node: ast.expr) -> Expr:
        record = self.expr(node)
        if not is_record(record.type):
            raise self.scope.error(node, f"a record is needed, this is {self.rules.describe(record)}")
        return record

    def contents(self, place: tree.Place) -> Expr:
        if is_integer(place.type):
            return tree.Load(place.type, place.at, place)
        return tree.Embedded(place.type, place.at, place)

    def subscript(self, node: ast.Subscript) -> Expr:
        if self.scope.is_static(node.value):
            owner = self.scope.static(node.value)
            if not isinstance(owner, Table):
                raise self.scope.error(node, f"a {type(owner).__name__} cannot be indexed")
            index = self.integer(node.slice, U64)
            return tree.TableLoad(owner.element, node, owner, self.check_index(index, len(owner)))
        array = self.value(node.value)
        if not isinstance(array, _ArrayValue):
            raise self.scope.error(node, f"{self.rules.describe(array)} cannot be indexed")
        index = self.check_index(self.integer(node.slice, U64), array.field.count or 0)
        return self.contents(tree.Place(array.field.type, node, array.record, array.field, index))

    def check_index(self, index: Expr, count: int) -> Expr:
        if isinstance(index, tree.Const) and (index.value < 0 or (count and index.value >= count)):
            raise self.scope.error(index.at, f"index {index.value} of {count}")
        return index

    def place(self, node: ast.expr) -> tree.Place:
        """The target of an assignment."""
        if isinstance(node, ast.Attribute | ast.Subscript):
            value = self.value(node)
            if isinstance(value, tree.Load):
                return value.place
        raise self.scope.error(node, "this cannot be assigned to")

    def operator(self, op: ast.operator, node: ast.AST) -> str:
        symbol = _OPERATORS.get(type(op))
        if symbol is None:
            raise self.scope.error(node, f"operator {type(op).__name__} is not taken")
        return symbol

    def binary_operation(self, node: ast.BinOp) -> Expr:
        op = self.operator(node.op, node)
        return self.rules.binary(op, self.expr(node.left), self.expr(node.right), node, node)

    def unary(self, node: ast.UnaryOp) -> Expr:
        if isinstance(node.op, ast.Not):
            test = self.condition(node.operand)
            if isinstance(test, tree.Const):
                return tree.Const(bool, node, not test.value)
            return tree.Not(bool, node, test)
        if isinstance(node.op, ast.UAdd):
            raise self.scope.error(node, "operator + of one operand is not taken")
        return self.rules.negate("-" if isinstance(node.op, ast.USub) else "~", self.expr(node.operand), node)

    def comparison(self, node: ast.Compare) -> Expr:
        ops = [_COMPARE[type(op)] for op in node.ops if type(op) in _COMPARE]
        if len(ops) != len(node.ops):
            raise self.scope.error(node, "this comparison is not taken (`is`, `in`)")
        return self.rules.compare(ops, [self.expr(n) for n in (node.left, *node.comparators)], node)

    def logic(self, node: ast.BoolOp) -> Expr:
        values = [self.condition(v) for v in node.values]
        return tree.Logic(bool, node, "and" if isinstance(node.op, ast.And) else "or", values)

    def conditional(self, node: ast.IfExp) -> Expr:
        test = self.condition(node.test)
        if isinstance(test, tree.Const):
            return self.expr(node.body if test.value else node.orelse)
        return self.rules.choose(test, self.expr(node.body), self.expr(node.orelse), node)

    def call(self, node: ast.Call) -> Expr:
        if node.keywords or any(isinstance(a, ast.Starred) for a in node.args):
            raise self.scope.error(node, "only positional arguments")
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("size", "offset"):
            return self.layout_constant(node, node.func)
        if not self.scope.is_static(node.func):
            raise self.scope.error(node, "only functions with a global name can be called")
        target = self.scope.static(node.func)
        if isinstance(target, Callee):
            params = [p.type for p in target.signature.params]
            return tree.Call(target.signature.result, node, target, self.arguments(node, params))
        if isinstance(target, Intrinsic):
            return tree.Apply(target.result, node, target, self.arguments(node, target.params))
        if isinstance(target, IntType):
            return self.conversion(node, target)
        if isinstance(target, Modular):
            return self.modular(self.argument(node), target.type, node)
        if is_record(target):
            return tree.Pointer(target, node, self.rules.coerce(self.expr(self.argument(node)), U64))
        for function, handler in _SPECIAL:
            if target is function:
                result: Expr = handler(self, node)
                return result
        name = getattr(target, "__name__", type(target).__name__)
        raise self.scope.error(node, f"call of {name}, which is not an @fn")

    def argument(self, node: ast.Call) -> ast.expr:
        if len(node.args) != 1:
            raise self.scope.error(node, f"one argument is needed, not {len(node.args)}")
        return node.args[0]

    def arguments(self, node: ast.Call, params: Sequence[Type]) -> list[Expr]:
        if len(node.args) != len(params):
            raise self.scope.error(node, f"{len(params)} arguments are needed, not {len(node.args)}")
        args: list[Expr] = []
        for arg, kind in zip(node.args, params, strict=True):
            if kind is AnyInteger:
                args.append(tree.Modular(I64, arg, tree.ModularLeaf(I64, arg, self.integer(arg, I64))))
            else:
                args.append(self.rules.coerce(self.expr(arg), kind))
        return args

    def layout_constant(self, node: ast.Call, func: ast.Attribute) -> Expr:
        record = self.scope.static(func.value) if self.scope.is_static(func.value) else None
        if not is_record(record):
            raise self.scope.error(node, "size and offset are of a Record class")
        assert isinstance(record, type) and issubclass(record, Record)
        if func.attr == "size" and not node.args:
            return tree.Const(FLEXIBLE, node, record.size())
        name = node.args[0] if len(node.args) == 1 else None
        if func.attr == "offset" and isinstance(name, ast.Constant) and name.value in record.fields:
            return tree.Const(FLEXIBLE, node, record.offset(name.value))
        raise self.scope.error(
            node, f"{record.__name__} has no such field" if func.attr == "offset" else "size takes nothing"
        )

    def conversion(self, node: ast.Call, kind: IntType) -> Expr:
        value = self.expr(self.argument(node))
        if value.type is FLEXIBLE:
            return self.rules.give_type(value, kind)
        if not (is_integer(value.type) or value.type is bool):
            raise self.scope.error(node, f"{kind} of {self.rules.describe(value)}")
        return value if value.type is kind else tree.Convert(kind, node, value)

    def modular(self, node: ast.expr, kind: IntType, at: ast.expr) -> Expr:
        return tree.Modular(kind, at, self.modular_tree(node, kind))

    def modular_tree(self, node: ast.expr, kind: IntType) -> Expr:
        if isinstance(node, ast.BinOp) and _OPERATORS.get(type(node.op)) in _MODULAR:
            left = self.modular_tree(node.left, kind)
            if isinstance(node.op, ast.LShift):
                return tree.ModularBinary(kind, node, "<<", left, self.rules.shift_count(self.expr(node.right)))
            return tree.ModularBinary(kind, node, _OPERATORS[type(node.op)], left, self.modular_tree(node.right, kind))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Invert):
            op = "-" if isinstance(node.op, ast.USub) else "~"
            return tree.ModularUnary(kind, node, op, self.modular_tree(node.operand, kind))
        if isinstance(node, ast.IfExp):
            test = self.condition(node.test)
            if isinstance(test, tree.Const):
                return self.modular_tree(node.body if test.value else node.orelse, kind)
            body, orelse = self.modular_tree(node.body, kind), self.modular_tree(node.orelse, kind)
            return tree.Conditional(kind, node, test, body, orelse)
        value = self.expr(node)
        if isinstance(value, tree.Const):
            return tree.Const(kind, node, kind.wrap(value.value))
        if value.type is FLEXIBLE:
            value = self.rules.coerce(value, kind)
        if not is_integer(value.type):
            raise self.scope.error(node, f"modular arithmetic of {self.rules.describe(value)}")
        return tree.ModularLeaf(kind, node, value)

    def local_record(self, node: ast.Call) -> Expr:
        record = self.scope.static(self.argument(node))
        if not is_record(record):
            raise self.scope.error(node, "local takes a Record class")
        return tree.StackRecord(record, node)

    def address_of(self, node: ast.Call) -> Expr:
        value = self.value(self.argument(node))
        if isinstance(value, _ArrayValue):
            return tree.PlaceAddress(U64, node, tree.Place(value.field.type, node, value.record, value.field, None))
        if isinstance(value, tree.Load | tree.Embedded):
            return tree.PlaceAddress(U64, node, value.place)
        raise self.scope.error(node, "addressof takes a field or an element of one")

    def two_operands(self, node: ast.Call) -> Expr:
        if len(node.args) != 2 or not isinstance(node.func, ast.Name | ast.Attribute):
            raise self.scope.error(node, f"two arguments are needed, not {len(node.args)}")
        op = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        left, right = (self.expr(a) for a in node.args)
        if left.type is FLEXIBLE is right.type:
            raise self.scope.error(node, f"{op} of two literals: give one a type")
        return self.rules.binary(op, left, right, node, node)

    def truth(self, node: ast.Call) -> Expr:
        value = self.expr(self.argument(node))
        if value.type is bool:
            return value
        value = self.integer(self.argument(node))
        return tree.Compare(bool, node, ["!="], [value, tree.Const(value.type, node, 0)])

    def length(self, node: ast.Call) -> Expr:
        argument = self.argument(node)
        target = self.scope.static(argument) if self.scope.is_static(argument) else self.value(argument)
        if isinstance(target, _ArrayValue):
            return tree.Const(FLEXIBLE, node, target.field.count or 0)
        if isinstance(target, Table):
            return tree.Const(FLEXIBLE, node, len(target))
        raise self.scope.error(node, "len takes a table or an array field")


_Handler = Callable[[Expressions, Any], Any]

_EXPRESSIONS: dict[type[ast.expr], _Handler] = {
    ast.Constant: Expressions.constant,
    ast.Name: Expressions.name,
    ast.Attribute: Expressions.attribute,
    ast.Subscript: Expressions.subscript,
    ast.BinOp: Expressions.binary_operation,
    ast.UnaryOp: Expressions.unary,
    ast.Compare: Expressions.comparison,
    ast.BoolOp: Expressions.logic,
    ast.IfExp: Expressions.conditional,
    ast.Call: Expressions.call,
}

_SPECIAL: list[tuple[Any, _Handler]] = [
    (local, Expressions.local_record),
    (operations.addressof, Expressions.address_of),
    (operations.tdiv, Expressions.two_operands),
    (operations.trem, Expressions.two_operands),
    (min, Expressions.two_operands),
    (max, Expressions.two_operands),
    (bool, Expressions.truth),
    (len, Expressions.length),
]
