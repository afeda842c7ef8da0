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
import enum
import operator
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from native import operations, tree
from native.errors import CompileError
from native.function import AnyFunction, Callee, Table, local, type_text
from native.intrinsics import AnyInteger, Intrinsic
from native.records import Field, Record
from native.source import syntax
from native.tree import Expr, Statement, Type, is_integer, is_record
from native.types import I64, U64, IntType, Modular

__all__ = ["compile_function"]


class _Flexible:
    """The type of a literal until something gives it one."""

    __name__ = "literal"


FLEXIBLE = _Flexible()

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
_COMPARE: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_COMPARE_FOLD: dict[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_MODULAR = frozenset(["+", "-", "*", "<<", "&", "|", "^"])
_BOOLEAN = frozenset(["&", "|", "^"])
_SHIFTS = frozenset(("<<", ">>"))

Assigned = set[str] | None  # the locals that have a value; None where control does not come


def compile_function(function: AnyFunction) -> tree.TypedFunction:
    """Check a function and make its typed tree; CompileError when it is not of this language."""
    return _Compiler(function).compile()


class _ArrayValue:
    """`record.field` where the field is an array: only to be indexed or taken the address of."""

    def __init__(self, record: Expr, field: Field, at: ast.expr) -> None:
        self.record, self.field, self.at = record, field, at


class _Compiler:
    def __init__(self, function: AnyFunction) -> None:
        self.function = function
        self.signature = function.signature
        self.source = syntax(function)
        self.locals: dict[str, Type] = {p.name: p.type for p in self.signature.params}
        self.names = set(function.code.co_varnames) | {
            n.id for n in ast.walk(self.source) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        self.assigned: Assigned = set(self.locals)
        self.breaks: list[list[Assigned]] = []

    def compile(self) -> tree.TypedFunction:
        body = self.block(self.source.body)
        if self.assigned is not None and self.signature.result is not None:
            raise self.error(self.source, f"{self.function.name} can end without a return")
        filename = self.function.code.co_filename
        return tree.TypedFunction(self.function, self.signature, self.locals, body, filename, self.source)

    def error(self, at: ast.AST, message: str) -> CompileError:
        line = getattr(at, "lineno", self.source.lineno)
        text = ast.unparse(at).partition("\n")[0] if isinstance(at, ast.expr | ast.stmt) else ""
        if isinstance(at, ast.FunctionDef):
            text = ""
        shown = f"{message}: {text}" if text else message
        return CompileError(shown, self.function.code.co_filename, line)

    # --- statements -------------------------------------------------------------------------------------------------

    def block(self, nodes: Sequence[ast.stmt]) -> list[Statement]:
        """The statements that control can come to."""
        statements: list[Statement] = []
        for node in nodes:
            if self.assigned is None:
                break
            handler = _STATEMENTS.get(type(node))
            if handler is None:
                raise self.error(node, f"{type(node).__name__} statement is not taken")
            statements.extend(handler(self, node))
        return statements

    def assign(self, node: ast.Assign) -> list[Statement]:
        if len(node.targets) != 1:
            raise self.error(node, "chained assignment is not taken")
        return self.store(node, node.targets[0], node.value)

    def declare(self, node: ast.AnnAssign) -> list[Statement]:
        if not isinstance(node.target, ast.Name):
            raise self.error(node, "only a local can be declared")
        kind = self.type_from(node.annotation)
        name = node.target.id
        if self.locals.setdefault(name, kind) is not kind:
            raise self.error(node, f"{name} is {type_text(self.locals[name])} already")
        return [] if node.value is None else self.store(node, node.target, node.value)

    def store(self, node: ast.stmt, target: ast.expr, value: ast.expr) -> list[Statement]:
        if isinstance(target, ast.Name):
            return [self.bind(node, target.id, self.expr(value))]
        place = self.place(target)
        return [tree.Store(node, place, self.coerce(self.expr(value), place.type))]

    def bind(self, node: ast.stmt, name: str, value: Expr) -> Statement:
        kind = self.locals.get(name)
        if kind is None:
            if value.type is FLEXIBLE:
                raise self.error(node, f"no type for {name}: declare it, as in `{name}: u64 = ...`")
            if value.type is None:
                raise self.error(node, "the call gives no value")
            kind = self.locals[name] = value.type
        value = self.coerce(value, kind)
        assert self.assigned is not None
        self.assigned.add(name)
        return tree.Assign(node, name, value)

    def augment(self, node: ast.AugAssign) -> list[Statement]:
        op = self.operator(node.op, node)
        if isinstance(node.target, ast.Name):
            read = ast.copy_location(ast.Name(node.target.id, ast.Load()), node.target)
            value = self.binary(op, self.expr(read), self.expr(node.value), node.value, node)
            return [self.bind(node, node.target.id, value)]
        place = self.place(node.target)
        old = tree.OldValue(place.type, node.target)
        value = self.binary(op, old, self.expr(node.value), node.value, node)
        assert isinstance(value, tree.Binary)
        return [tree.Update(node, place, value)]

    def expression(self, node: ast.Expr) -> list[Statement]:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return []  # a docstring
        if not isinstance(node.value, ast.Call):
            raise self.error(node, "a statement of this value does nothing")
        return [tree.Evaluate(node, self.expr(node.value))]

    def if_statement(self, node: ast.If) -> list[Statement]:
        test = self.condition(node.test)
        if isinstance(test, tree.Const):
            return self.block(node.body if test.value else node.orelse)
        before = self.assigned
        body = self.branch(node.body, before)
        after_body = self.assigned
        orelse = self.branch(node.orelse, before)
        self.assigned = _both(after_body, self.assigned)
        return [tree.If(node, test, body, orelse)]

    def branch(self, nodes: Sequence[ast.stmt], assigned: Assigned) -> list[Statement]:
        self.assigned = None if assigned is None else set(assigned)
        return self.block(nodes)

    def while_statement(self, node: ast.While) -> list[Statement]:
        self.no_else(node)
        test = self.condition(node.test)
        forever = isinstance(test, tree.Const) and bool(test.value)
        before = self.assigned
        body, broken = self.loop_body(node.body)
        self.assigned = None if forever else before
        for state in broken:
            self.assigned = _both(self.assigned, state)
        return [tree.While(node, test, body)]

    def for_statement(self, node: ast.For) -> list[Statement]:
        self.no_else(node)
        call = node.iter
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "range"):
            raise self.error(node, "for takes range(...) only")
        if not isinstance(node.target, ast.Name) or call.keywords or not 1 <= len(call.args) <= 3:
            raise self.error(node, "for takes one name and range(stop), range(start, stop) or range(start, stop, step)")
        bounds = [self.expr(a) for a in call.args[:2]]
        step = self.step(call.args[2]) if len(call.args) == 3 else 1
        if len(bounds) == 1:
            bounds.insert(0, tree.Const(FLEXIBLE, call, 0))
        name = node.target.id
        kind = self.locals.get(name) or self.range_type(bounds)
        start, stop = (self.coerce(b, kind) for b in bounds)
        if not is_integer(self.locals.setdefault(name, kind)):
            raise self.error(node, f"{name} is {type_text(self.locals[name])} already")
        before = set(self.assigned or ())
        self.assigned = before | {name}
        body, _ = self.loop_body(node.body)
        self.assigned = before
        return [tree.ForRange(node, name, start, stop, step, body)]

    def range_type(self, bounds: list[Expr]) -> Type:
        for bound in bounds:
            if bound.type is not FLEXIBLE:
                return bound.type
        negative = any(isinstance(b, tree.Const) and b.value < 0 for b in bounds)
        return I64 if negative else U64

    def step(self, node: ast.expr) -> int:
        step = self.expr(node)
        if not isinstance(step, tree.Const) or step.value == 0:
            raise self.error(node, "the step of range is a constant other than 0")
        return step.value

    def loop_body(self, nodes: Sequence[ast.stmt]) -> tuple[list[Statement], list[Assigned]]:
        self.breaks.append([])
        self.assigned = set(self.assigned or ())
        return self.block(nodes), self.breaks.pop()

    def no_else(self, node: ast.While | ast.For) -> None:
        if node.orelse:
            raise self.error(node, "a loop with else is not taken")

    def break_statement(self, node: ast.Break) -> list[Statement]:
        self.breaks[-1].append(self.assigned)
        self.assigned = None
        return [tree.Break(node)]

    def continue_statement(self, node: ast.Continue) -> list[Statement]:
        self.assigned = None
        return [tree.Continue(node)]

    def return_statement(self, node: ast.Return) -> list[Statement]:
        result = self.signature.result
        if (node.value is None) != (result is None):
            raise self.error(node, f"{self.function.name} returns {type_text(result)}")
        value = None if node.value is None else self.coerce(self.expr(node.value), result)
        self.assigned = None
        return [tree.Return(node, value)]

    def assert_statement(self, node: ast.Assert) -> list[Statement]:
        message = ast.unparse(node.test)
        if node.msg is not None:
            if not isinstance(node.msg, ast.Constant) or not isinstance(node.msg.value, str):
                raise self.error(node, "the message of assert is a string literal")
            message = node.msg.value
        return [tree.Assert(node, self.condition(node.test), message)]

    def nothing(self, node: ast.Pass) -> list[Statement]:
        return []

    # --- expressions ------------------------------------------------------------------------------------------------

    def expr(self, node: ast.expr) -> Expr:
        """A value; its type may still be FLEXIBLE."""
        value = self.value(node)
        if isinstance(value, _ArrayValue):
            raise self.error(node, "an array is not a value: index it")
        return value

    def value(self, node: ast.expr) -> Expr | _ArrayValue:
        handler = _EXPRESSIONS.get(type(node))
        if handler is None:
            raise self.error(node, f"{type(node).__name__} expression is not taken")
        value: Expr | _ArrayValue = handler(self, node)
        return value

    def condition(self, node: ast.expr) -> Expr:
        test = self.expr(node)
        if test.type is not bool:
            raise self.error(node, f"a condition is a bool, not {self.describe(test)} (compare it with 0)")
        return test

    def integer(self, node: ast.expr, default: IntType | None = None) -> Expr:
        """An integer of some type; a literal takes `default`."""
        value = self.expr(node)
        if value.type is FLEXIBLE and default is not None:
            return self.coerce(value, default)
        if not is_integer(value.type):
            raise self.error(node, f"an integer of a declared type is needed, not {self.describe(value)}")
        return value

    def describe(self, value: Expr) -> str:
        return "a literal" if value.type is FLEXIBLE else type_text(value.type)

    def coerce(self, value: Expr, kind: Type) -> Expr:
        """`value` as a value of the type: the same type, or a literal that fits."""
        if value.type is kind:
            return value
        if value.type is FLEXIBLE and isinstance(kind, IntType):
            return self.give_type(value, kind)
        raise self.error(value.at, f"{type_text(kind)} is needed, this is {self.describe(value)}")

    def give_type(self, value: Expr, kind: IntType) -> Expr:
        """A flexible tree with the type it stands beside."""
        match value:
            case tree.Const():
                if not kind.fits(value.value):
                    raise self.error(value.at, f"{value.value} does not fit {kind}")
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

    def constant(self, node: ast.Constant) -> Expr:
        if isinstance(node.value, bool):
            return tree.Const(bool, node, node.value)
        if isinstance(node.value, int):
            return tree.Const(FLEXIBLE, node, node.value)
        raise self.error(node, f"a {type(node.value).__name__} is not taken")

    def name(self, node: ast.Name) -> Expr:
        if node.id not in self.names:
            return self.static_constant(node)
        if node.id not in (self.assigned or ()):
            raise self.error(node, f"{node.id} may have no value here")
        return tree.Local(self.locals[node.id], node, node.id)

    def static_constant(self, node: ast.expr) -> Expr:
        value = self.static(node)
        if isinstance(value, bool):
            return tree.Const(bool, node, value)
        if isinstance(value, int):
            return tree.Const(FLEXIBLE, node, int(value))
        raise self.error(node, f"a {type(value).__name__} is not a constant of this language")

    def static(self, node: ast.expr) -> Any:
        """What a name, or an attribute of a module or a class, is outside the function."""
        if isinstance(node, ast.Name):
            if node.id in self.names:
                raise self.error(node, f"the local {node.id} is no constant")
            try:
                return self.function.lookup(node.id)
            except (KeyError, ValueError):
                raise self.error(node, f"unknown name {node.id}") from None
        if isinstance(node, ast.Attribute):
            owner = self.static(node.value)
            if isinstance(owner, ModuleType | type | enum.Enum) and hasattr(owner, node.attr):
                return getattr(owner, node.attr)
        raise self.error(node, "unknown name" if isinstance(node, ast.Attribute) else "this is not a constant")

    def is_static(self, node: ast.expr) -> bool:
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id not in self.names

    def type_from(self, node: ast.expr) -> Type:
        annotation = node.value if isinstance(node, ast.Constant) else self.static(node)
        try:
            kind = self.function.resolve_type(annotation)
        except CompileError as error:
            raise self.error(node, error.message.partition(": ")[2]) from None
        if kind is None:
            raise self.error(node, "a local cannot be None")
        return kind

    def attribute(self, node: ast.Attribute) -> Expr | _ArrayValue:
        if self.is_static(node):
            return self.static_constant(node)
        record = self.record(node.value)
        if node.attr == "address":
            return tree.AddressOf(U64, node, record)
        field = record.type.fields.get(node.attr)
        if field is None:
            raise self.error(node, f"{record.type.__name__} has no field {node.attr}")
        if field.count is not None:
            return _ArrayValue(record, field, node)
        return self.contents(tree.Place(field.type, node, record, field, None))

    def record(self, node: ast.expr) -> Expr:
        record = self.expr(node)
        if not is_record(record.type):
            raise self.error(node, f"a record is needed, this is {self.describe(record)}")
        return record

    def contents(self, place: tree.Place) -> Expr:
        if is_integer(place.type):
            return tree.Load(place.type, place.at, place)
        return tree.Embedded(place.type, place.at, place)

    def subscript(self, node: ast.Subscript) -> Expr:
        if self.is_static(node.value):
            owner = self.static(node.value)
            if not isinstance(owner, Table):
                raise self.error(node, f"a {type(owner).__name__} cannot be indexed")
            index = self.integer(node.slice, U64)
            return tree.TableLoad(owner.element, node, owner, self.check_index(index, len(owner)))
        array = self.value(node.value)
        if not isinstance(array, _ArrayValue):
            raise self.error(node, f"{self.describe(array)} cannot be indexed")
        index = self.check_index(self.integer(node.slice, U64), array.field.count or 0)
        return self.contents(tree.Place(array.field.type, node, array.record, array.field, index))

    def check_index(self, index: Expr, count: int) -> Expr:
        if isinstance(index, tree.Const) and (index.value < 0 or (count and index.value >= count)):
            raise self.error(index.at, f"index {index.value} of {count}")
        return index

    def place(self, node: ast.expr) -> tree.Place:
        """The target of an assignment."""
        if isinstance(node, ast.Attribute | ast.Subscript):
            value = self.value(node)
            if isinstance(value, tree.Load):
                return value.place
        raise self.error(node, "this cannot be assigned to")

    def operator(self, op: ast.operator, node: ast.AST) -> str:
        symbol = _OPERATORS.get(type(op))
        if symbol is None:
            raise self.error(node, f"operator {type(op).__name__} is not taken")
        return symbol

    def binary_operation(self, node: ast.BinOp) -> Expr:
        op = self.operator(node.op, node)
        return self.binary(op, self.expr(node.left), self.expr(node.right), node, node)

    def binary(self, op: str, left: Expr, right: Expr, at: ast.expr, whole: ast.AST) -> Expr:
        """An operator of two values, literals folded or given the other's type."""
        if isinstance(left, tree.Const) and isinstance(right, tree.Const) and FLEXIBLE is left.type is right.type:
            return self.fold(op, left, right, at)
        if op == "**":
            raise self.error(whole, "** is for constants only")
        if op in _SHIFTS:
            return self.shift(op, left, right, at, whole)
        if left.type is FLEXIBLE is right.type:
            return tree.Binary(FLEXIBLE, at, op, left, right)
        if left.type is bool is right.type and op in _BOOLEAN:
            return tree.Binary(bool, at, op, left, right)
        kind = right.type if left.type is FLEXIBLE else left.type
        left, right = self.operand(op, left, kind, whole), self.operand(op, right, kind, whole)
        if op in ("//", "%", "tdiv", "trem") and kind.signed != (op in ("tdiv", "trem")):
            wants = "a signed type" if op in ("tdiv", "trem") else "an unsigned type (signed: tdiv, trem)"
            raise self.error(whole, f"{op} is for {wants}, not {kind}")
        if op in ("//", "%", "tdiv", "trem") and isinstance(right, tree.Const) and right.value == 0:
            raise self.error(whole, "division by zero")
        return tree.Binary(kind, at, op, left, right)

    def operand(self, op: str, value: Expr, kind: Type, whole: ast.AST) -> Expr:
        if not is_integer(kind):
            raise self.error(whole, f"{op} is not for {type_text(kind)}")
        if op == "&" and not kind.signed and isinstance(value, tree.Const) and -(1 << kind.bits) <= value.value < 0:
            return tree.Const(kind, value.at, kind.wrap(value.value))
        if value.type is not kind and value.type is not FLEXIBLE:
            raise self.error(whole, f"{op} of {type_text(kind)} and {type_text(value.type)}")
        return self.coerce(value, kind)

    def shift(self, op: str, left: Expr, right: Expr, at: ast.expr, whole: ast.AST) -> Expr:
        count = self.shift_count(right)
        if left.type is FLEXIBLE:
            return tree.Binary(FLEXIBLE, at, op, left, count)
        if not is_integer(left.type):
            raise self.error(whole, f"{op} is not for {type_text(left.type)}")
        if isinstance(count, tree.Const) and count.value >= left.type.bits:
            raise self.error(whole, f"shift of {left.type} by {count.value}")
        return tree.Binary(left.type, at, op, left, count)

    def shift_count(self, count: Expr) -> Expr:
        if count.type is FLEXIBLE:
            return self.coerce(count, U64)
        if not is_integer(count.type) or count.type.signed:
            raise self.error(count.at, f"a shift count is unsigned, this is {self.describe(count)}")
        return count

    def fold(self, op: str, left: tree.Const, right: tree.Const, at: ast.expr) -> Expr:
        if op not in _FOLD:
            raise self.error(at, f"{op} of two literals: give one a type")
        if op in ("<<", ">>", "**") and not 0 <= right.value <= 4096:
            raise self.error(at, f"{op} by {right.value}")
        if op in ("//", "%") and right.value == 0:
            raise self.error(at, "division by zero")
        return tree.Const(FLEXIBLE, at, _FOLD[op](left.value, right.value))

    def unary(self, node: ast.UnaryOp) -> Expr:
        if isinstance(node.op, ast.Not):
            test = self.condition(node.operand)
            return (
                tree.Const(bool, node, not test.value) if isinstance(test, tree.Const) else tree.Not(bool, node, test)
            )
        value = self.expr(node.operand)
        if (
            isinstance(node.op, ast.UAdd)
            or value.type is bool
            or not (is_integer(value.type) or value.type is FLEXIBLE)
        ):
            raise self.error(node, f"operator {type(node.op).__name__} of {self.describe(value)}")
        op = "-" if isinstance(node.op, ast.USub) else "~"
        if isinstance(value, tree.Const) and value.type is FLEXIBLE:
            return tree.Const(FLEXIBLE, node, -value.value if op == "-" else ~value.value)
        return tree.Unary(value.type, node, op, value)

    def comparison(self, node: ast.Compare) -> Expr:
        ops = [_COMPARE.get(type(op)) for op in node.ops]
        if None in ops:
            raise self.error(node, "this comparison is not taken (`is`, `in`)")
        operands = [self.expr(n) for n in (node.left, *node.comparators)]
        names = [op for op in ops if op]
        if all(isinstance(o, tree.Const) and o.type is FLEXIBLE for o in operands):
            values = [o.value for o in operands if isinstance(o, tree.Const)]
            truth = all(_COMPARE_FOLD[op](a, b) for op, a, b in zip(names, values, values[1:], strict=False))
            return tree.Const(bool, node, truth)
        kind = next((o.type for o in operands if o.type is not FLEXIBLE), None)
        if kind is None:
            raise self.error(node, "comparison of literals: give one a type")
        if kind is bool and not {"==", "!="}.issuperset(names):
            raise self.error(node, "bools are compared with == and != only")
        if not (is_integer(kind) or kind is bool):
            raise self.error(node, f"{type_text(kind)} cannot be compared (compare addresses)")
        for operand in operands:
            if operand.type is not kind and operand.type is not FLEXIBLE:
                raise self.error(node, f"comparison of {type_text(kind)} and {type_text(operand.type)}")
        return tree.Compare(bool, node, names, [self.coerce(o, kind) for o in operands])

    def logic(self, node: ast.BoolOp) -> Expr:
        values = [self.condition(v) for v in node.values]
        return tree.Logic(bool, node, "and" if isinstance(node.op, ast.And) else "or", values)

    def conditional(self, node: ast.IfExp) -> Expr:
        test = self.condition(node.test)
        if isinstance(test, tree.Const):
            return self.expr(node.body if test.value else node.orelse)
        body, orelse = self.expr(node.body), self.expr(node.orelse)
        kind = orelse.type if body.type is FLEXIBLE else body.type
        if kind is None:
            raise self.error(node, "the call gives no value")
        if kind is FLEXIBLE:
            return tree.Conditional(FLEXIBLE, node, test, body, orelse)
        if kind is not orelse.type and orelse.type is not FLEXIBLE:
            raise self.error(node, f"a choice of {type_text(kind)} and {self.describe(orelse)}")
        return tree.Conditional(kind, node, test, self.coerce(body, kind), self.coerce(orelse, kind))

    # --- calls ------------------------------------------------------------------------------------------------------

    def call(self, node: ast.Call) -> Expr:
        if node.keywords or any(isinstance(a, ast.Starred) for a in node.args):
            raise self.error(node, "only positional arguments")
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("size", "offset"):
            return self.layout_constant(node, node.func)
        if not self.is_static(node.func):
            raise self.error(node, "only functions with a global name can be called")
        target = self.static(node.func)
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
            return tree.Pointer(target, node, self.coerce(self.expr(self.argument(node)), U64))
        for function, handler in _SPECIAL:
            if target is function:
                result: Expr = handler(self, node)
                return result
        name = getattr(target, "__name__", type(target).__name__)
        raise self.error(node, f"call of {name}, which is not an @fn")

    def argument(self, node: ast.Call) -> ast.expr:
        if len(node.args) != 1:
            raise self.error(node, f"one argument is needed, not {len(node.args)}")
        return node.args[0]

    def arguments(self, node: ast.Call, params: Sequence[Type]) -> list[Expr]:
        if len(node.args) != len(params):
            raise self.error(node, f"{len(params)} arguments are needed, not {len(node.args)}")
        args: list[Expr] = []
        for arg, kind in zip(node.args, params, strict=True):
            if kind is AnyInteger:
                args.append(tree.Modular(I64, arg, tree.ModularLeaf(I64, arg, self.integer(arg, I64))))
            else:
                args.append(self.coerce(self.expr(arg), kind))
        return args

    def layout_constant(self, node: ast.Call, func: ast.Attribute) -> Expr:
        record = self.static(func.value) if self.is_static(func.value) else None
        if not is_record(record):
            raise self.error(node, "size and offset are of a Record class")
        assert isinstance(record, type) and issubclass(record, Record)
        if func.attr == "size" and not node.args:
            return tree.Const(FLEXIBLE, node, record.size())
        name = node.args[0] if len(node.args) == 1 else None
        if func.attr == "offset" and isinstance(name, ast.Constant) and name.value in record.fields:
            return tree.Const(FLEXIBLE, node, record.offset(name.value))
        raise self.error(
            node, f"{record.__name__} has no such field" if func.attr == "offset" else "size takes nothing"
        )

    def conversion(self, node: ast.Call, kind: IntType) -> Expr:
        value = self.expr(self.argument(node))
        if value.type is FLEXIBLE:
            return self.give_type(value, kind)
        if not (is_integer(value.type) or value.type is bool):
            raise self.error(node, f"{kind} of {self.describe(value)}")
        return value if value.type is kind else tree.Convert(kind, node, value)

    def modular(self, node: ast.expr, kind: IntType, at: ast.expr) -> Expr:
        return tree.Modular(kind, at, self.modular_tree(node, kind))

    def modular_tree(self, node: ast.expr, kind: IntType) -> Expr:
        if isinstance(node, ast.BinOp) and _OPERATORS.get(type(node.op)) in _MODULAR:
            left = self.modular_tree(node.left, kind)
            if isinstance(node.op, ast.LShift):
                return tree.ModularBinary(kind, node, "<<", left, self.shift_count(self.expr(node.right)))
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
            value = self.coerce(value, kind)
        if not is_integer(value.type):
            raise self.error(node, f"modular arithmetic of {self.describe(value)}")
        return tree.ModularLeaf(kind, node, value)

    def local_record(self, node: ast.Call) -> Expr:
        record = self.static(self.argument(node))
        if not is_record(record):
            raise self.error(node, "local takes a Record class")
        return tree.StackRecord(record, node)

    def address_of(self, node: ast.Call) -> Expr:
        value = self.value(self.argument(node))
        if isinstance(value, _ArrayValue):
            return tree.PlaceAddress(U64, node, tree.Place(value.field.type, node, value.record, value.field, None))
        if isinstance(value, tree.Load | tree.Embedded):
            return tree.PlaceAddress(U64, node, value.place)
        raise self.error(node, "addressof takes a field or an element of one")

    def two_operands(self, node: ast.Call) -> Expr:
        if len(node.args) != 2 or not isinstance(node.func, ast.Name | ast.Attribute):
            raise self.error(node, f"two arguments are needed, not {len(node.args)}")
        op = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        left, right = (self.expr(a) for a in node.args)
        if left.type is FLEXIBLE is right.type:
            raise self.error(node, f"{op} of two literals: give one a type")
        return self.binary(op, left, right, node, node)

    def truth(self, node: ast.Call) -> Expr:
        value = self.expr(self.argument(node))
        if value.type is bool:
            return value
        value = self.integer(self.argument(node))
        return tree.Compare(bool, node, ["!="], [value, tree.Const(value.type, node, 0)])

    def length(self, node: ast.Call) -> Expr:
        argument = self.argument(node)
        target = self.static(argument) if self.is_static(argument) else self.value(argument)
        if isinstance(target, _ArrayValue):
            return tree.Const(FLEXIBLE, node, target.field.count or 0)
        if isinstance(target, Table):
            return tree.Const(FLEXIBLE, node, len(target))
        raise self.error(node, "len takes a table or an array field")


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

_EXPRESSIONS: dict[type[ast.expr], _Handler] = {
    ast.Constant: _Compiler.constant,
    ast.Name: _Compiler.name,
    ast.Attribute: _Compiler.attribute,
    ast.Subscript: _Compiler.subscript,
    ast.BinOp: _Compiler.binary_operation,
    ast.UnaryOp: _Compiler.unary,
    ast.Compare: _Compiler.comparison,
    ast.BoolOp: _Compiler.logic,
    ast.IfExp: _Compiler.conditional,
    ast.Call: _Compiler.call,
}

_SPECIAL: list[tuple[Any, _Handler]] = [
    (local, _Compiler.local_record),
    (operations.addressof, _Compiler.address_of),
    (operations.tdiv, _Compiler.two_operands),
    (operations.trem, _Compiler.two_operands),
    (min, _Compiler.two_operands),
    (max, _Compiler.two_operands),
    (bool, _Compiler.truth),
    (len, _Compiler.length),
]
