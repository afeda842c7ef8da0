"""One function: the typed tree as the text of an LLVM function.

Locals are stack slots (LLVM makes registers of them). Every access to a record is one load or store of the field's
width and order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import singledispatchmethod
from typing import Any

from native import tree
from native.failure import Site
from native.function import Callee, Table
from native.intrinsics import INTRINSICS, Intrinsic
from native.llvmoperators import ARITHMETIC, binary, compare, negate
from native.llvmwriter import Writer, llvm_type
from native.tree import Expr, Statement, is_integer

__all__ = ["FunctionText", "header"]

_CONVENTIONS = {
    "ccc": "",
    "fastcc": "fastcc ",
    "preserve_most": "preserve_mostcc ",
    "preserve_all": "preserve_allcc ",
    "preserve_none": "preserve_nonecc ",
}
_ORDERS = {
    "plain": ("", ""),
    "relaxed": (" monotonic", " monotonic"),
    "acquire": (" acquire", " release"),
}


def header(callee: Callee[..., Any], names: Iterable[str]) -> str:
    """`i64 @symbol(ptr %a, …)`. Parameters carry no extension: IR text calls these too."""
    signature = callee.signature
    params = ", ".join(f"{llvm_type(p.type)}{name}" for p, name in zip(signature.params, names, strict=True))
    extension = ""
    if signature.result is bool or (is_integer(signature.result) and signature.result.bits < 32):
        extension = "signext " if is_integer(signature.result) and signature.result.signed else "zeroext "
    return f"{_CONVENTIONS[callee.cc]}{extension}{llvm_type(signature.result)} @{callee.symbol}({params})"


@dataclass
class _Loop:
    """Where continue and break go."""

    again: str
    end: str
    broken: bool = False


class FunctionText:
    """Writes one function, and notes what it uses. `sites` is where a debug build collects its checks."""

    def __init__(self, typed: tree.TypedFunction, sites: list[Site] | None) -> None:
        self.w = Writer(typed, sites)
        self.typed = typed
        self.callees: list[Callee[..., Any]] = []
        self.intrinsics: list[Intrinsic[..., Any]] = []
        self.tables: list[Table] = []
        self._loops: list[_Loop] = []
        self._old: list[str] = []  # what OldValue stands for

    def build(self, linkage: str) -> str:
        """The whole definition."""
        function = self.typed.function
        for name, kind in self.typed.locals.items():
            self.w.slots.append(f"  %v.{name} = alloca {llvm_type(kind)}")
        for p in self.typed.signature.params:
            self.w.emit(f"store {llvm_type(p.type)} %a.{p.name}, ptr %v.{p.name}")
        self.block(self.typed.body)
        if self.w.open:
            self.w.emit("ret void")
        head = header(function, (f" %a.{p.name}" for p in self.typed.signature.params))
        body = "\n".join([*self.w.slots, *self.w.lines])
        return f"define {linkage} {head} {self.attributes()} {{\nentry:\n{body}\n}}\n"

    def attributes(self) -> str:
        words = ["nounwind"]
        if self.typed.function.inline and not self.w.debug:
            words.append("alwaysinline")
        if self.typed.function.cold:
            words += ["cold", "noinline"]
        return " ".join([*words, '"no-jump-tables"="true"'])

    def block(self, statements: list[Statement]) -> None:
        for statement in statements:
            self.w.line = statement.at.lineno
            self.statement(statement)

    @singledispatchmethod
    def statement(self, node: Statement) -> None:
        raise AssertionError(node)

    @statement.register
    def _(self, node: tree.Assign) -> None:
        value = self.expr(node.value)
        self.w.emit(f"store {llvm_type(node.value.type)} {value}, ptr %v.{node.name}")

    @statement.register
    def _(self, node: tree.Store) -> None:
        # Python computes the value first, then finds the place.
        value = self.expr(node.value)
        self.store(node.place, self.address(node.place), value)

    @statement.register
    def _(self, node: tree.Update) -> None:
        where = self.address(node.place)
        self._old.append(self.load(node.place, where))
        value = self.expr(node.value)
        self._old.pop()
        self.store(node.place, where, value)

    @statement.register
    def _(self, node: tree.Evaluate) -> None:
        self.expr(node.value)

    @statement.register
    def _(self, node: tree.If) -> None:
        yes, no, end = self.w.new_label("then"), self.w.new_label("else"), self.w.new_label("end")
        self.w.branch(self.expr(node.test), yes, no if node.orelse else end)
        self.w.start(yes)
        self.block(node.body)
        reached = self.w.open or not node.orelse
        self.w.jump(end)
        if node.orelse:
            self.w.start(no)
            self.block(node.orelse)
            reached = reached or self.w.open
            self.w.jump(end)
        if reached:
            self.w.start(end)

    @statement.register
    def _(self, node: tree.While) -> None:
        head, body, end = self.w.new_label("while"), self.w.new_label("body"), self.w.new_label("end")
        self.w.jump(head)
        self.w.start(head)
        self.w.branch(self.expr(node.test), body, end)
        broken = self.loop(node.body, body, head, end)
        self.w.start(end)
        if isinstance(node.test, tree.Const) and not broken:
            self.w.emit("unreachable")
            self.w.open = False

    def loop(self, body: list[Statement], start: str, again: str, end: str) -> bool:
        """The body and the jump back; True when a break leaves it."""
        self.w.start(start)
        self._loops.append(_Loop(again, end))
        self.block(body)
        self.w.jump(again)
        return self._loops.pop().broken

    @statement.register
    def _(self, node: tree.ForRange) -> None:
        kind = node.start.type
        n, up = llvm_type(kind), node.step > 0
        start, stop = self.expr(node.start), self.expr(node.stop)
        counter = self.w.slot(n)
        self.w.emit(f"store {n} {start}, ptr {counter}")
        body, again, step, end = (self.w.new_label(x) for x in ("for", "next", "step", "end"))
        self.w.branch(compare(self.w, "<" if up else ">", kind, start, stop), body, end)
        self.w.start(body)
        self.w.emit(f"store {n} {self.w.temp(f'load {n}, ptr {counter}')}, ptr %v.{node.name}")
        inner = self.w.new_label("body")
        self.w.jump(inner)
        self.loop(node.body, inner, again, end)
        self.w.start(again)
        now = self.w.temp(f"load {n}, ptr {counter}")
        left = self.w.temp(f"sub {n} {stop}, {now}" if up else f"sub {n} {now}, {stop}")
        self.w.branch(self.w.temp(f"icmp ugt {n} {left}, {abs(node.step)}"), step, end)
        self.w.start(step)
        self.w.emit(f"store {n} {self.w.temp(f'add {n} {now}, {node.step}')}, ptr {counter}")
        self.w.jump(body)
        self.w.start(end)

    @statement.register
    def _(self, node: tree.Break) -> None:
        self._loops[-1].broken = True
        self.w.jump(self._loops[-1].end)

    @statement.register
    def _(self, node: tree.Continue) -> None:
        self.w.jump(self._loops[-1].again)

    @statement.register
    def _(self, node: tree.Return) -> None:
        kind = llvm_type(self.typed.signature.result)
        self.w.emit("ret void" if node.value is None else f"ret {kind} {self.expr(node.value)}")
        self.w.open = False

    @statement.register
    def _(self, node: tree.Assert) -> None:
        if self.w.debug:
            self.w.check_text(self.expr(node.test), "assert", node.message)

    def expr(self, node: Expr) -> str:
        """Write what computes it; the LLVM value."""
        result: str = self.expression(node)
        return result

    @singledispatchmethod
    def expression(self, node: Expr) -> str:
        raise AssertionError(node)

    @expression.register
    def _(self, node: tree.Const) -> str:
        return str(bool(node.value)).lower() if node.type is bool else str(node.value)

    @expression.register
    def _(self, node: tree.Local) -> str:
        return self.w.temp(f"load {llvm_type(node.type)}, ptr %v.{node.name}")

    @expression.register
    def _(self, node: tree.OldValue) -> str:
        return self._old[-1]

    @expression.register
    def _(self, node: tree.Unary) -> str:
        value, n = self.expr(node.value), llvm_type(node.type)
        if node.op == "~":
            return self.w.temp(f"xor {n} {value}, -1")
        return negate(self.w, node, value)

    @expression.register
    def _(self, node: tree.Binary) -> str:
        left = self.expr(node.left)
        return binary(self.w, node, left, self.expr(node.right))

    @expression.register
    def _(self, node: tree.Modular) -> str:
        return self.expr(node.tree)

    @expression.register
    def _(self, node: tree.ModularUnary) -> str:
        value, n = self.expr(node.value), llvm_type(node.type)
        return self.w.temp(f"sub {n} 0, {value}" if node.op == "-" else f"xor {n} {value}, -1")

    @expression.register
    def _(self, node: tree.ModularBinary) -> str:
        left, n = self.expr(node.left), llvm_type(node.type)
        right = self.expr(node.right)
        if node.op != "<<":
            return self.w.temp(f"{ARITHMETIC[node.op]} {n} {left}, {right}")
        if isinstance(node.right, tree.Const):
            return self.w.temp(f"shl {n} {left}, {right}") if node.right.value < node.type.bits else "0"
        bits = node.right.type.bits
        inside = self.w.temp(f"icmp ult i{bits} {right}, {node.type.bits}") if node.right.type.maximum >= 8 else "true"
        count = self.w.resize(right, bits, False, node.type.bits)
        count = self.w.temp(f"and {n} {count}, {node.type.bits - 1}")
        return self.w.temp(f"select i1 {inside}, {n} {self.w.temp(f'shl {n} {left}, {count}')}, {n} 0")

    @expression.register
    def _(self, node: tree.ModularLeaf) -> str:
        kind = node.value.type
        return self.w.resize(self.expr(node.value), kind.bits, kind.signed, node.type.bits)

    @expression.register
    def _(self, node: tree.Compare) -> str:
        kind = node.operands[0].type
        left = self.expr(node.operands[0])
        end = self.w.new_label("compared")
        arms: list[tuple[str, str]] = []
        test = ""
        for op, operand in zip(node.ops, node.operands[1:], strict=True):
            if test:
                more = self.w.new_label("and")
                arms.append(("false", self.w.label))
                self.w.branch(test, more, end)
                self.w.start(more)
            right = self.expr(operand)
            test = compare(self.w, op, kind, left, right)
            left = right
        if not arms:
            return test
        arms.append((test, self.w.label))
        self.w.jump(end)
        self.w.start(end)
        return self.w.choose(bool, arms)

    @expression.register
    def _(self, node: tree.Logic) -> str:
        end = self.w.new_label("decided")
        arms: list[tuple[str, str]] = []
        for value in node.values[:-1]:
            test, more = self.expr(value), self.w.new_label(node.op)
            arms.append(("false" if node.op == "and" else "true", self.w.label))
            self.w.branch(test, *((more, end) if node.op == "and" else (end, more)))
            self.w.start(more)
        arms.append((self.expr(node.values[-1]), self.w.label))
        self.w.jump(end)
        self.w.start(end)
        return self.w.choose(bool, arms)

    @expression.register
    def _(self, node: tree.Not) -> str:
        return self.w.temp(f"xor i1 {self.expr(node.value)}, true")

    @expression.register
    def _(self, node: tree.Conditional) -> str:
        yes, no, end = self.w.new_label("yes"), self.w.new_label("no"), self.w.new_label("either")
        self.w.branch(self.expr(node.test), yes, no)
        arms: list[tuple[str, str]] = []
        for label, value in ((yes, node.body), (no, node.orelse)):
            self.w.start(label)
            arms.append((self.expr(value), self.w.label))
            self.w.jump(end)
        self.w.start(end)
        return self.w.choose(node.type, arms)

    @expression.register
    def _(self, node: tree.Convert) -> str:
        kind, source = node.type, node.value.type
        value = self.expr(node.value)
        if source is bool:
            return self.w.temp(f"zext i1 {value} to i{kind.bits}")
        if self.w.debug:
            for op, bound in ((">=", kind.minimum), ("<=", kind.maximum)):
                if not (source.minimum >= bound if op == ">=" else source.maximum <= bound):
                    ok = compare(self.w, op, source, value, str(bound))
                    self.w.check(ok, "overflow", node, f"does not fit {kind}")
        return self.w.resize(value, source.bits, source.signed, kind.bits)

    @expression.register
    def _(self, node: tree.Call) -> str:
        callee = node.callee
        self.callees.append(callee)
        args = ", ".join(f"{llvm_type(a.type)} {self.expr(a)}" for a in node.args)
        call = f"call {_CONVENTIONS[callee.cc]}{llvm_type(node.type)} @{callee.symbol}({args})"
        result = ""
        if node.type is None:
            self.w.emit(call)
        else:
            result = self.w.temp(call)
        if self.w.debug:
            self.w.check_callee()
        return result

    @expression.register
    def _(self, node: tree.Apply) -> str:
        intrinsic = node.intrinsic
        self.intrinsics.append(intrinsic)
        args = [self.expr(a) for a in node.args]
        for check in intrinsic.checks if self.w.debug else ():
            name = self.template(check.ir, args)
            self.w.check(f"{name}.ok", check.kind, node, f"is not possible ({check.kind})")
        return self.template(intrinsic.ir, args)

    def template(self, text: str, args: list[str]) -> str:
        self.w.count += 1
        name = f"%t{self.w.count}"
        for line in text.format(*args, r=name).split("\n"):
            self.w.emit(line)
        return name

    @expression.register
    def _(self, node: tree.Pointer) -> str:
        return self.w.temp(f"inttoptr i64 {self.expr(node.address)} to ptr")

    @expression.register
    def _(self, node: tree.StackRecord) -> str:
        size = max(node.type.size(), 1)
        self.w.count += 1
        name = f"%s{self.w.count}"
        self.w.slots.append(f"  {name} = alloca [{size} x i8], align {max(node.type.align, 16)}")
        self.intrinsics.append(_FILL)
        self.w.emit(f"call void @llvm.memset.p0.i64(ptr align 16 {name}, i8 0, i64 {size}, i1 false)")
        return name

    @expression.register
    def _(self, node: tree.AddressOf) -> str:
        return self.w.temp(f"ptrtoint ptr {self.expr(node.record)} to i64")

    @expression.register
    def _(self, node: tree.Load) -> str:
        return self.load(node.place, self.address(node.place))

    @expression.register
    def _(self, node: tree.Embedded) -> str:
        return self.address(node.place)

    @expression.register
    def _(self, node: tree.PlaceAddress) -> str:
        return self.w.temp(f"ptrtoint ptr {self.address(node.place)} to i64")

    @expression.register
    def _(self, node: tree.TableLoad) -> str:
        self.tables.append(node.table)
        index = self.index(node.index, len(node.table), node)
        n = llvm_type(node.type)
        where = self.w.temp(f"getelementptr {n}, ptr @{node.table.symbol}, i64 {index}")
        return self.w.temp(f"load {n}, ptr {where}")

    def index(self, node: Expr, count: int, whole: Expr) -> str:
        """An index as i64, in a debug build checked against the count."""
        index = self.w.resize(self.expr(node), node.type.bits, node.type.signed, 64)
        if self.w.debug and not isinstance(node, tree.Const):
            problem = f"is outside the {count} elements"
            if count:
                self.w.check(self.w.temp(f"icmp ult i64 {index}, {count}"), "index", whole, problem)
            elif node.type.signed:
                self.w.check(self.w.temp(f"icmp sge i64 {index}, 0"), "index", whole, problem)
        return index

    def address(self, place: tree.Place) -> str:
        base = self.expr(place.record)
        field = place.field
        if place.index is None:
            return self.offset(base, str(field.offset))
        if isinstance(place.index, tree.Const):
            return self.offset(base, str(field.offset + place.index.value * field.stride))
        index = self.index(place.index, field.count or 0, place)
        scaled = self.w.temp(f"mul i64 {index}, {field.stride}")
        return self.offset(self.offset(base, scaled), str(field.offset))

    def offset(self, base: str, offset: str) -> str:
        return base if offset == "0" else self.w.temp(f"getelementptr i8, ptr {base}, i64 {offset}")

    def check_alignment(self, place: tree.Place, where: str) -> None:
        size = place.type.size
        if self.w.debug and size > 1:
            low = self.w.temp(f"and i64 {self.w.temp(f'ptrtoint ptr {where} to i64')}, {size - 1}")
            self.w.check(self.w.temp(f"icmp eq i64 {low}, 0"), "misaligned", place, "is misaligned")

    def load(self, place: tree.Place, where: str) -> str:
        self.check_alignment(place, where)
        order, _ = _ORDERS[place.field.order]
        atomic = "atomic " if order else ""
        return self.w.temp(f"load {atomic}{llvm_type(place.type)}, ptr {where}{order}, align {place.type.size}")

    def store(self, place: tree.Place, where: str, value: str) -> None:
        self.check_alignment(place, where)
        _, order = _ORDERS[place.field.order]
        atomic = "atomic " if order else ""
        self.w.emit(f"store {atomic}{llvm_type(place.type)} {value}, ptr {where}{order}, align {place.type.size}")


_FILL = INTRINSICS["fill"]
