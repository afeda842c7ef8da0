"""The machine run: the typed tree as LLVM IR text.

Locals are stack slots (LLVM makes registers of them). Every access to a record is one load or store of the field's
width and order. In a release build nothing is checked: what would raise in the Python run gives an unspecified result,
but no undefined behaviour of LLVM's (no wrap flags, shift counts masked, divisors guarded). A debug build checks
everything but the address itself; see `native.failure`.

`Module` collects what a unit needs: functions with everything they call, tables, declarations.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import singledispatchmethod
from typing import Any

from native import tree
from native.compiler import compile_function
from native.errors import CompileError
from native.failure import FAILURE_IR, Site
from native.function import AnyFunction, Callee, External, Function, Signature, Table
from native.intrinsics import INTRINSICS, Intrinsic
from native.tree import Expr, Statement, Type, is_integer
from native.types import IntType

__all__ = ["Module"]

_DEFINED = re.compile(r"^define\b[^@\n]*@\"?([-\w.$]+)\"?\s*\(", re.MULTILINE)
_DECLARED = re.compile(r"^declare\b[^@\n]*@\"?([-\w.$]+)\"?\s*\(.*$", re.MULTILINE)
_CONVENTIONS = {
    "ccc": "",
    "fastcc": "fastcc ",
    "preserve_most": "preserve_mostcc ",
    "preserve_all": "preserve_allcc ",
    "preserve_none": "preserve_nonecc ",
}
_ARITHMETIC = {"+": "add", "-": "sub", "*": "mul", "&": "and", "|": "or", "^": "xor"}
_PREDICATES = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_ORDERS = {
    "plain": ("", ""),
    "relaxed": (" monotonic", " monotonic"),
    "acquire": (" acquire", " release"),
}


def llvm_type(kind: Type) -> str:
    if isinstance(kind, IntType):
        return f"i{kind.bits}"
    if kind is bool:
        return "i1"
    return "void" if kind is None else "ptr"


def _header(callee: Callee[..., Any], names: Iterable[str]) -> str:
    """`i64 @symbol(ptr %a, …)`. Parameters carry no extension: IR text calls these too."""
    signature = callee.signature
    params = ", ".join(f"{llvm_type(p.type)}{name}" for p, name in zip(signature.params, names, strict=True))
    extension = ""
    if signature.result is bool or (is_integer(signature.result) and signature.result.bits < 32):
        extension = "signext " if is_integer(signature.result) and signature.result.signed else "zeroext "
    return f"{_CONVENTIONS[callee.cc]}{extension}{llvm_type(signature.result)} @{callee.symbol}({params})"


class Module:
    """The IR of a unit, and in a debug build the sites of its checks."""

    def __init__(self, exported: frozenset[str], debug: bool, extra_ir: str) -> None:
        self.exported = exported  # symbols that stay visible
        self.debug = debug
        self.sites: list[Site] = []
        self._extra = extra_ir
        self._defined = set(_DEFINED.findall(extra_ir))
        self._texts: dict[str, str] = {}
        self._declares: dict[str, str] = {}
        self._tables: dict[str, Table] = {}
        self._waiting: list[AnyFunction] = []
        self._seen: dict[str, Callee[..., Any]] = {}

    def add(self, functions: Iterable[AnyFunction]) -> None:
        """Compile functions and everything they call."""
        for function in functions:
            self.use(function)
        while self._waiting:
            function = self._waiting.pop()
            self._texts[function.symbol] = _FunctionText(self, compile_function(function)).build()

    def use(self, callee: Callee[..., Any]) -> None:
        """Note that something calls it."""
        known = self._seen.setdefault(callee.symbol, callee)
        if known is not callee and not isinstance(callee, External):
            raise CompileError(f"two functions are called {callee.symbol}")
        if known is callee and callee.symbol not in self._texts and callee not in self._waiting:
            if isinstance(callee, Function):
                self._waiting.append(callee)
            elif callee.symbol not in self._defined:
                self._declares[callee.symbol] = f"declare {_header(callee, [''] * len(callee.signature.params))}"

    def use_intrinsic(self, intrinsic: Intrinsic[..., Any]) -> None:
        if intrinsic.declares:
            name = re.search(r"@([-\w.$]+)", intrinsic.declares.rpartition("define")[2])
            assert name
            self._declares.setdefault(name[1], intrinsic.declares)

    def use_table(self, table: Table) -> None:
        self._tables[table.symbol] = table

    def site(self, kind: str, text: str, filename: str, line: int) -> int:
        self.sites.append(Site(kind, text, filename, line))
        return len(self.sites) - 1

    def text(self) -> str:
        """The whole module."""
        own = "\n".join([*self._declares.values(), *(FAILURE_IR,) * self.debug])
        mine = {*self._texts, *_DEFINED.findall(own), *_DECLARED.findall(own)}
        extra = _DECLARED.sub(lambda m: "" if m[1] in mine | self._defined else m[0], self._extra)
        tables = (_table_text(t) for t in self._tables.values())
        return "\n".join([own, *tables, *self._texts.values(), extra, ""])


def _table_text(table: Table) -> str:
    kind = f"i{table.element.bits}"
    values = ", ".join(f"{kind} {v}" for v in table.values)
    return f"@{table.symbol} = internal constant [{len(table)} x {kind}] [{values}]"


@dataclass
class _Loop:
    """Where continue and break go."""

    again: str
    end: str
    broken: bool = False


class _FunctionText:
    """Writes one function."""

    def __init__(self, module: Module, typed: tree.TypedFunction) -> None:
        self.module = module
        self.typed = typed
        self.function = typed.function
        self.signature: Signature = typed.signature
        self.lines: list[str] = []
        self.slots: list[str] = []
        self.count = 0
        self.label = "entry"
        self.open = True
        self.loops: list[_Loop] = []
        self.line = typed.source.lineno
        self.old: list[str] = []  # what OldValue stands for

    def build(self) -> str:
        for name, kind in self.typed.locals.items():
            self.slots.append(f"  %v.{name} = alloca {llvm_type(kind)}")
        for p in self.signature.params:
            self.emit(f"store {llvm_type(p.type)} %a.{p.name}, ptr %v.{p.name}")
        self.block(self.typed.body)
        if self.open:
            self.emit("ret void")
        head = _header(self.function, (f" %a.{p.name}" for p in self.signature.params))
        linkage = "dso_local" if self.function.symbol in self.module.exported else "internal"
        body = "\n".join([*self.slots, *self.lines])
        return f"define {linkage} {head} {self.attributes()} {{\nentry:\n{body}\n}}\n"

    def attributes(self) -> str:
        words = ["nounwind"]
        if self.function.inline and not self.module.debug:
            words.append("alwaysinline")
        if self.function.cold:
            words += ["cold", "noinline"]
        return " ".join([*words, '"no-jump-tables"="true"'])

    # --- writing ----------------------------------------------------------------------------------------------------

    def emit(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def temp(self, text: str) -> str:
        self.count += 1
        self.emit(f"%t{self.count} = {text}")
        return f"%t{self.count}"

    def new_label(self, name: str) -> str:
        self.count += 1
        return f"{name}{self.count}"

    def start(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.label, self.open = label, True

    def jump(self, label: str) -> None:
        if self.open:
            self.emit(f"br label %{label}")
            self.open = False

    def branch(self, test: str, yes: str, no: str) -> None:
        self.emit(f"br i1 {test}, label %{yes}, label %{no}")
        self.open = False

    def choose(self, kind: Type, arms: list[tuple[str, str]]) -> str:
        return self.temp(f"phi {llvm_type(kind)} " + ", ".join(f"[ {value}, %{label} ]" for value, label in arms))

    def resize(self, value: str, bits: int, signed: bool, to: int) -> str:
        """Extend by the sign, or cut."""
        if bits == to:
            return value
        return self.temp(f"{'trunc' if to < bits else 'sext' if signed else 'zext'} i{bits} {value} to i{to}")

    # --- checks -----------------------------------------------------------------------------------------------------

    def check(self, ok: str, kind: str, text: str) -> None:
        """Debug build: leave the function unless the i1 holds."""
        site = self.module.site(kind, text, self.typed.filename, self.line)
        good, bad = self.new_label("ok"), self.new_label("fail")
        self.branch(ok, good, bad)
        self.start(bad)
        self.emit(f"call void @native.fail(i64 {site})")
        self.leave()
        self.start(good)

    def leave(self) -> None:
        kind = self.signature.result
        zero = {"void": "", "ptr": " null", "i1": " false"}.get(llvm_type(kind), " 0")
        self.emit(f"ret {llvm_type(kind)}{zero}")

    def check_callee(self) -> None:
        """Debug build: leave the function when the one just called has failed."""
        failed, good, bad = self.temp("call i1 @native.pending()"), self.new_label("ok"), self.new_label("failed")
        self.branch(failed, bad, good)
        self.start(bad)
        self.leave()
        self.start(good)

    # --- statements -------------------------------------------------------------------------------------------------

    def block(self, statements: list[Statement]) -> None:
        for statement in statements:
            self.line = statement.at.lineno
            self.statement(statement)

    @singledispatchmethod
    def statement(self, node: Statement) -> None:
        raise AssertionError(node)

    @statement.register
    def _(self, node: tree.Assign) -> None:
        value = self.expr(node.value)
        self.emit(f"store {llvm_type(node.value.type)} {value}, ptr %v.{node.name}")

    @statement.register
    def _(self, node: tree.Store) -> None:
        # Python computes the value first, then finds the place.
        value = self.expr(node.value)
        self.store(node.place, self.address(node.place), value)

    @statement.register
    def _(self, node: tree.Update) -> None:
        where = self.address(node.place)
        self.old.append(self.load(node.place, where))
        value = self.expr(node.value)
        self.old.pop()
        self.store(node.place, where, value)

    @statement.register
    def _(self, node: tree.Evaluate) -> None:
        self.expr(node.value)

    @statement.register
    def _(self, node: tree.If) -> None:
        yes, no, end = self.new_label("then"), self.new_label("else"), self.new_label("end")
        self.branch(self.expr(node.test), yes, no if node.orelse else end)
        self.start(yes)
        self.block(node.body)
        reached = self.open or not node.orelse
        self.jump(end)
        if node.orelse:
            self.start(no)
            self.block(node.orelse)
            reached = reached or self.open
            self.jump(end)
        if reached:
            self.start(end)

    @statement.register
    def _(self, node: tree.While) -> None:
        head, body, end = self.new_label("while"), self.new_label("body"), self.new_label("end")
        self.jump(head)
        self.start(head)
        self.branch(self.expr(node.test), body, end)
        broken = self.loop(node.body, body, head, end)
        self.start(end)
        if isinstance(node.test, tree.Const) and not broken:
            self.emit("unreachable")
            self.open = False

    def loop(self, body: list[Statement], start: str, again: str, end: str) -> bool:
        """The body and the jump back; True when a break leaves it."""
        self.start(start)
        self.loops.append(_Loop(again, end))
        self.block(body)
        self.jump(again)
        return self.loops.pop().broken

    @statement.register
    def _(self, node: tree.ForRange) -> None:
        kind = node.start.type
        n, up = llvm_type(kind), node.step > 0
        start, stop = self.expr(node.start), self.expr(node.stop)
        counter = self.slot(n)
        self.emit(f"store {n} {start}, ptr {counter}")
        body, again, step, end = (self.new_label(x) for x in ("for", "next", "step", "end"))
        self.branch(self.compare("<" if up else ">", kind, start, stop), body, end)
        self.start(body)
        self.emit(f"store {n} {self.temp(f'load {n}, ptr {counter}')}, ptr %v.{node.name}")
        inner = self.new_label("body")
        self.jump(inner)
        self.loop(node.body, inner, again, end)
        self.start(again)
        now = self.temp(f"load {n}, ptr {counter}")
        left = self.temp(f"sub {n} {stop}, {now}" if up else f"sub {n} {now}, {stop}")
        self.branch(self.temp(f"icmp ugt {n} {left}, {abs(node.step)}"), step, end)
        self.start(step)
        self.emit(f"store {n} {self.temp(f'add {n} {now}, {node.step}')}, ptr {counter}")
        self.jump(body)
        self.start(end)

    def slot(self, kind: str) -> str:
        self.count += 1
        self.slots.append(f"  %s{self.count} = alloca {kind}")
        return f"%s{self.count}"

    @statement.register
    def _(self, node: tree.Break) -> None:
        self.loops[-1].broken = True
        self.jump(self.loops[-1].end)

    @statement.register
    def _(self, node: tree.Continue) -> None:
        self.jump(self.loops[-1].again)

    @statement.register
    def _(self, node: tree.Return) -> None:
        kind = llvm_type(self.signature.result)
        self.emit("ret void" if node.value is None else f"ret {kind} {self.expr(node.value)}")
        self.open = False

    @statement.register
    def _(self, node: tree.Assert) -> None:
        if self.module.debug:
            self.check(self.expr(node.test), "assert", node.message)

    # --- expressions ------------------------------------------------------------------------------------------------

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
        return self.temp(f"load {llvm_type(node.type)}, ptr %v.{node.name}")

    @expression.register
    def _(self, node: tree.OldValue) -> str:
        return self.old[-1]

    @expression.register
    def _(self, node: tree.Unary) -> str:
        value, n = self.expr(node.value), llvm_type(node.type)
        if node.op == "~":
            return self.temp(f"xor {n} {value}, -1")
        return self.arithmetic("-", node, "0", value)

    @expression.register
    def _(self, node: tree.Binary) -> str:
        left = self.expr(node.left)
        right = self.expr(node.right)
        n = llvm_type(node.type)
        if node.op in ("+", "-", "*"):
            return self.arithmetic(node.op, node, left, right)
        if node.op in _ARITHMETIC:
            return self.temp(f"{_ARITHMETIC[node.op]} {n} {left}, {right}")
        if node.op in ("<<", ">>"):
            return self.shift(node, left, right)
        if node.op in ("min", "max"):
            test = self.compare("<" if node.op == "min" else ">", node.type, left, right)
            return self.temp(f"select i1 {test}, {n} {left}, {n} {right}")
        return self.divide(node, left, right)

    def arithmetic(self, op: str, node: Expr, left: str, right: str) -> str:
        """`+ - *`, in a debug build in twice the width to see whether the result fits."""
        kind = node.type
        word = _ARITHMETIC[op]
        if self.module.debug:
            wide = f"i{2 * kind.bits}"
            extend = "sext" if kind.signed else "zext"
            a, b = (self.temp(f"{extend} i{kind.bits} {v} to {wide}") for v in (left, right))
            full = self.temp(f"{word} {wide} {a}, {b}")
            cut = self.temp(f"trunc {wide} {full} to i{kind.bits}")
            back = self.temp(f"{extend} i{kind.bits} {cut} to {wide}")
            self.check(self.temp(f"icmp eq {wide} {full}, {back}"), "overflow", self.text(node, f"overflows {kind}"))
            return cut
        return self.temp(f"{word} i{kind.bits} {left}, {right}")

    def text(self, node: Expr, problem: str) -> str:
        return f"{ast.unparse(node.at)} {problem}"

    def shift(self, node: tree.Binary, left: str, right: str) -> str:
        kind, n = node.type, llvm_type(node.type)
        count_type = node.right.type
        constant = isinstance(node.right, tree.Const)
        if self.module.debug and not constant and count_type.maximum >= kind.bits:
            small = self.temp(f"icmp ult i{count_type.bits} {right}, {kind.bits}")
            self.check(small, "shift", self.text(node, f"shifts {kind} by its width or more"))
        count = right if constant else self.resize(right, count_type.bits, False, kind.bits)
        if not constant:
            count = self.temp(f"and {n} {count}, {kind.bits - 1}")
        down = "ashr" if kind.signed else "lshr"
        if node.op == ">>":
            return self.temp(f"{down} {n} {left}, {count}")
        result = self.temp(f"shl {n} {left}, {count}")
        if self.module.debug:
            back = self.temp(f"{down} {n} {result}, {count}")
            self.check(self.temp(f"icmp eq {n} {back}, {left}"), "overflow", self.text(node, f"loses bits of {kind}"))
        return result

    def divide(self, node: tree.Binary, left: str, right: str) -> str:
        kind, n = node.type, llvm_type(node.type)
        word = {"//": "udiv", "%": "urem", "tdiv": "sdiv", "trem": "srem"}[node.op]
        if isinstance(node.right, tree.Const) and node.right.value > 0:
            return self.temp(f"{word} {n} {left}, {right}")
        zero = self.temp(f"icmp eq {n} {right}, 0")
        if self.module.debug:
            self.check(self.temp(f"xor i1 {zero}, true"), "zero", self.text(node, "divides by zero"))
        bad = zero
        if kind.signed:
            lowest = self.temp(f"icmp eq {n} {left}, {kind.minimum}")
            minus = self.temp(f"icmp eq {n} {right}, -1")
            over = self.temp(f"and i1 {lowest}, {minus}")
            if self.module.debug and node.op == "tdiv":
                self.check(self.temp(f"xor i1 {over}, true"), "overflow", self.text(node, f"overflows {kind}"))
            bad = self.temp(f"or i1 {zero}, {over}")
        divisor = self.temp(f"select i1 {bad}, {n} 1, {n} {right}")
        return self.temp(f"{word} {n} {left}, {divisor}")

    @expression.register
    def _(self, node: tree.Modular) -> str:
        return self.expr(node.tree)

    @expression.register
    def _(self, node: tree.ModularUnary) -> str:
        value, n = self.expr(node.value), llvm_type(node.type)
        return self.temp(f"sub {n} 0, {value}" if node.op == "-" else f"xor {n} {value}, -1")

    @expression.register
    def _(self, node: tree.ModularBinary) -> str:
        left, n = self.expr(node.left), llvm_type(node.type)
        right = self.expr(node.right)
        if node.op != "<<":
            return self.temp(f"{_ARITHMETIC[node.op]} {n} {left}, {right}")
        if isinstance(node.right, tree.Const):
            return self.temp(f"shl {n} {left}, {right}") if node.right.value < node.type.bits else "0"
        bits = node.right.type.bits
        inside = self.temp(f"icmp ult i{bits} {right}, {node.type.bits}") if node.right.type.maximum >= 8 else "true"
        count = self.resize(right, bits, False, node.type.bits)
        count = self.temp(f"and {n} {count}, {node.type.bits - 1}")
        return self.temp(f"select i1 {inside}, {n} {self.temp(f'shl {n} {left}, {count}')}, {n} 0")

    @expression.register
    def _(self, node: tree.ModularLeaf) -> str:
        kind = node.value.type
        return self.resize(self.expr(node.value), kind.bits, kind.signed, node.type.bits)

    def compare(self, op: str, kind: Type, left: str, right: str) -> str:
        n = llvm_type(kind)
        if op in ("==", "!="):
            return self.temp(f"icmp {'eq' if op == '==' else 'ne'} {n} {left}, {right}")
        return self.temp(f"icmp {'s' if kind.signed else 'u'}{_PREDICATES[op]} {n} {left}, {right}")

    @expression.register
    def _(self, node: tree.Compare) -> str:
        kind = node.operands[0].type
        left = self.expr(node.operands[0])
        end = self.new_label("compared")
        arms: list[tuple[str, str]] = []
        test = ""
        for op, operand in zip(node.ops, node.operands[1:], strict=True):
            if test:
                more = self.new_label("and")
                arms.append(("false", self.label))
                self.branch(test, more, end)
                self.start(more)
            right = self.expr(operand)
            test = self.compare(op, kind, left, right)
            left = right
        if not arms:
            return test
        arms.append((test, self.label))
        self.jump(end)
        self.start(end)
        return self.choose(bool, arms)

    @expression.register
    def _(self, node: tree.Logic) -> str:
        end = self.new_label("decided")
        arms: list[tuple[str, str]] = []
        for value in node.values[:-1]:
            test, more = self.expr(value), self.new_label(node.op)
            arms.append(("false" if node.op == "and" else "true", self.label))
            self.branch(test, *((more, end) if node.op == "and" else (end, more)))
            self.start(more)
        arms.append((self.expr(node.values[-1]), self.label))
        self.jump(end)
        self.start(end)
        return self.choose(bool, arms)

    @expression.register
    def _(self, node: tree.Not) -> str:
        return self.temp(f"xor i1 {self.expr(node.value)}, true")

    @expression.register
    def _(self, node: tree.Conditional) -> str:
        yes, no, end = self.new_label("yes"), self.new_label("no"), self.new_label("either")
        self.branch(self.expr(node.test), yes, no)
        arms: list[tuple[str, str]] = []
        for label, value in ((yes, node.body), (no, node.orelse)):
            self.start(label)
            arms.append((self.expr(value), self.label))
            self.jump(end)
        self.start(end)
        return self.choose(node.type, arms)

    @expression.register
    def _(self, node: tree.Convert) -> str:
        kind, source = node.type, node.value.type
        value = self.expr(node.value)
        if source is bool:
            return self.temp(f"zext i1 {value} to i{kind.bits}")
        if self.module.debug:
            for op, bound in ((">=", kind.minimum), ("<=", kind.maximum)):
                if not (source.minimum >= bound if op == ">=" else source.maximum <= bound):
                    ok = self.compare(op, source, value, str(bound))
                    self.check(ok, "overflow", self.text(node, f"does not fit {kind}"))
        return self.resize(value, source.bits, source.signed, kind.bits)

    @expression.register
    def _(self, node: tree.Call) -> str:
        callee = node.callee
        self.module.use(callee)
        args = ", ".join(f"{llvm_type(a.type)} {self.expr(a)}" for a in node.args)
        call = f"call {_CONVENTIONS[callee.cc]}{llvm_type(node.type)} @{callee.symbol}({args})"
        result = ""
        if node.type is None:
            self.emit(call)
        else:
            result = self.temp(call)
        if self.module.debug:
            self.check_callee()
        return result

    @expression.register
    def _(self, node: tree.Apply) -> str:
        intrinsic = node.intrinsic
        self.module.use_intrinsic(intrinsic)
        args = [self.expr(a) for a in node.args]
        for check in intrinsic.checks if self.module.debug else ():
            name = self.template(check.ir, args)
            self.check(f"{name}.ok", check.kind, self.text(node, f"is not possible ({check.kind})"))
        return self.template(intrinsic.ir, args)

    def template(self, text: str, args: list[str]) -> str:
        self.count += 1
        name = f"%t{self.count}"
        for line in text.format(*args, r=name).split("\n"):
            self.emit(line)
        return name

    @expression.register
    def _(self, node: tree.Pointer) -> str:
        return self.temp(f"inttoptr i64 {self.expr(node.address)} to ptr")

    @expression.register
    def _(self, node: tree.StackRecord) -> str:
        size = max(node.type.size(), 1)
        self.count += 1
        name = f"%s{self.count}"
        self.slots.append(f"  {name} = alloca [{size} x i8], align {max(node.type.align, 16)}")
        self.module.use_intrinsic(_FILL)
        self.emit(f"call void @llvm.memset.p0.i64(ptr align 16 {name}, i8 0, i64 {size}, i1 false)")
        return name

    @expression.register
    def _(self, node: tree.AddressOf) -> str:
        return self.temp(f"ptrtoint ptr {self.expr(node.record)} to i64")

    @expression.register
    def _(self, node: tree.Load) -> str:
        return self.load(node.place, self.address(node.place))

    @expression.register
    def _(self, node: tree.Embedded) -> str:
        return self.address(node.place)

    @expression.register
    def _(self, node: tree.PlaceAddress) -> str:
        return self.temp(f"ptrtoint ptr {self.address(node.place)} to i64")

    @expression.register
    def _(self, node: tree.TableLoad) -> str:
        self.module.use_table(node.table)
        index = self.index(node.index, len(node.table), node)
        n = llvm_type(node.type)
        where = self.temp(f"getelementptr {n}, ptr @{node.table.symbol}, i64 {index}")
        return self.temp(f"load {n}, ptr {where}")

    # --- places -----------------------------------------------------------------------------------------------------

    def index(self, node: Expr, count: int, whole: Expr) -> str:
        """An index as i64, in a debug build checked against the count."""
        index = self.resize(self.expr(node), node.type.bits, node.type.signed, 64)
        if self.module.debug and not isinstance(node, tree.Const):
            problem = self.text(whole, f"is outside the {count} elements")
            if count:
                self.check(self.temp(f"icmp ult i64 {index}, {count}"), "index", problem)
            elif node.type.signed:
                self.check(self.temp(f"icmp sge i64 {index}, 0"), "index", problem)
        return index

    def address(self, place: tree.Place) -> str:
        base = self.expr(place.record)
        field = place.field
        if place.index is None:
            return self.offset(base, str(field.offset))
        if isinstance(place.index, tree.Const):
            return self.offset(base, str(field.offset + place.index.value * field.stride))
        index = self.index(place.index, field.count or 0, place)
        scaled = self.temp(f"mul i64 {index}, {field.stride}")
        return self.offset(self.offset(base, scaled), str(field.offset))

    def offset(self, base: str, offset: str) -> str:
        return base if offset == "0" else self.temp(f"getelementptr i8, ptr {base}, i64 {offset}")

    def check_alignment(self, place: tree.Place, where: str) -> None:
        size = place.type.size
        if self.module.debug and size > 1:
            low = self.temp(f"and i64 {self.temp(f'ptrtoint ptr {where} to i64')}, {size - 1}")
            self.check(self.temp(f"icmp eq i64 {low}, 0"), "misaligned", self.text(place, "is misaligned"))

    def load(self, place: tree.Place, where: str) -> str:
        self.check_alignment(place, where)
        order, _ = _ORDERS[place.field.order]
        atomic = "atomic " if order else ""
        return self.temp(f"load {atomic}{llvm_type(place.type)}, ptr {where}{order}, align {place.type.size}")

    def store(self, place: tree.Place, where: str, value: str) -> None:
        self.check_alignment(place, where)
        _, order = _ORDERS[place.field.order]
        atomic = "atomic " if order else ""
        self.emit(f"store {atomic}{llvm_type(place.type)} {value}, ptr {where}{order}, align {place.type.size}")


_FILL = INTRINSICS["fill"]
