"""The typed tree: what the compiler makes of a function, and what both back ends read.

Every expression has a type (an IntType, `bool`, a Record class, or None for the result of a call without one) and the
source node it came from. Conversions and modular arithmetic are spelled out; nothing is left to infer.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any, TypeAlias

from native.function import AnyFunction, Callee, Signature, Table
from native.intrinsics import Intrinsic
from native.records import Field, Record
from native.types import IntType

Type: TypeAlias = Any  # IntType, bool, a Record class, or None


@dataclass(eq=False)
class Expr:
    """An expression of a type; `at` is where it stands in the source."""

    type: Type
    at: ast.expr


@dataclass(eq=False)
class Const(Expr):
    value: int


@dataclass(eq=False)
class Local(Expr):
    name: str


@dataclass(eq=False)
class Unary(Expr):
    """`-` (checked) and `~` (unsigned: the complement within the width)."""

    op: str
    value: Expr


@dataclass(eq=False)
class Binary(Expr):
    """A checked operator: `+ - * << >> & | ^ // %`, or `tdiv trem min max`. Only a shift count may differ in type."""

    op: str
    left: Expr
    right: Expr


@dataclass(eq=False)
class Modular(Expr):
    """`wrapN(tree)`, `signedN(tree)`; inside are ModularUnary, ModularBinary, Conditional, and leaves of any type."""

    tree: Expr


@dataclass(eq=False)
class ModularUnary(Expr):
    op: str
    value: Expr


@dataclass(eq=False)
class ModularBinary(Expr):
    op: str
    left: Expr
    right: Expr


@dataclass(eq=False)
class ModularLeaf(Expr):
    """An ordinary value, extended by its own sign or cut to the width of the tree."""

    value: Expr


@dataclass(eq=False)
class Compare(Expr):
    """`a < b <= c`: one operator fewer than operands, each operand computed at most once."""

    ops: list[str]
    operands: list[Expr]


@dataclass(eq=False)
class Logic(Expr):
    """`and`, `or`: short circuit."""

    op: str
    values: list[Expr]


@dataclass(eq=False)
class Not(Expr):
    value: Expr


@dataclass(eq=False)
class Conditional(Expr):
    test: Expr
    body: Expr
    orelse: Expr


@dataclass(eq=False)
class Convert(Expr):
    """A checked conversion of an integer or a bool to an integer type."""

    value: Expr


@dataclass(eq=False)
class Call(Expr):
    callee: Callee[..., Any]
    args: list[Expr]


@dataclass(eq=False)
class Apply(Expr):
    """An intrinsic."""

    intrinsic: Intrinsic[..., Any]
    args: list[Expr]


@dataclass(eq=False)
class Pointer(Expr):
    """`Rec(address)`."""

    address: Expr


@dataclass(eq=False)
class StackRecord(Expr):
    """`local(Rec)`."""


@dataclass(eq=False)
class AddressOf(Expr):
    """`record.address`."""

    record: Expr


@dataclass(eq=False)
class Place(Expr):
    """`record.field` or `record.field[index]`: the type is that of what is there."""

    record: Expr
    field: Field
    index: Expr | None


@dataclass(eq=False)
class Load(Expr):
    """One load of a place."""

    place: Place


@dataclass(eq=False)
class Embedded(Expr):
    """The record that stands at a place (no access)."""

    place: Place


@dataclass(eq=False)
class PlaceAddress(Expr):
    """`addressof(place)`."""

    place: Place


@dataclass(eq=False)
class TableLoad(Expr):
    table: Table
    index: Expr


@dataclass(eq=False)
class OldValue(Expr):
    """In an Update: what the place held."""


@dataclass(eq=False)
class Statement:
    at: ast.stmt


@dataclass(eq=False)
class Assign(Statement):
    name: str
    value: Expr


@dataclass(eq=False)
class Store(Statement):
    place: Place
    value: Expr


@dataclass(eq=False)
class Update(Statement):
    """`place op= value`: the place is found once, loaded once, stored once."""

    place: Place
    value: Binary


@dataclass(eq=False)
class Evaluate(Statement):
    value: Expr


@dataclass(eq=False)
class If(Statement):
    test: Expr
    body: list[Statement]
    orelse: list[Statement]


@dataclass(eq=False)
class While(Statement):
    test: Expr
    body: list[Statement]


@dataclass(eq=False)
class ForRange(Statement):
    """`for name in range(start, stop, step)`; the step is a constant other than 0."""

    name: str
    start: Expr
    stop: Expr
    step: int
    body: list[Statement]


@dataclass(eq=False)
class Break(Statement):
    pass


@dataclass(eq=False)
class Continue(Statement):
    pass


@dataclass(eq=False)
class Return(Statement):
    value: Expr | None


@dataclass(eq=False)
class Assert(Statement):
    test: Expr
    message: str


@dataclass(eq=False)
class TypedFunction:
    """A whole function: its locals (parameters included) with their types, and its body."""

    function: AnyFunction
    signature: Signature
    locals: dict[str, Type]
    body: list[Statement]
    filename: str
    source: ast.FunctionDef


def is_record(kind: Type) -> bool:
    return isinstance(kind, type) and issubclass(kind, Record)


def is_integer(kind: Type) -> bool:
    return isinstance(kind, IntType)
