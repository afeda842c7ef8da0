"""LLVM IR for instructions: what every compiling tier shares.

`Emitter` is the builder of core/isa that writes LLVM IR as text. It knows arithmetic, the memory path, floating point
and calls of native functions. It does not know where operands are kept nor how an instruction is left: that is what a
tier (core/cpu/interpreter.py) adds, in the methods marked "of the tier".

The memory path: the entry of the data TLB for the address, a compare of its tag (which also catches misalignment), and
the access itself, unordered but not torn; out of line, `load_slow` and its like, which do all the rest. Guest RAM and
the hart's own state never alias, and LLVM is told so.

Names of values are unique within a function; `%hart` is the hart in all of them.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from core.cpu import calls
from core.cpu.state import TLB_ENTRIES, DataTlb, DataTlbEntry, Hart
from core.isa.builder import AMO_OPERATIONS, Argument, Builder, fp_is_rounded, fp_result_width
from native.function import Callee
from native.records import Record

HART_SCOPE = ", !alias.scope !1, !noalias !2"
RAM_SCOPE = ", !alias.scope !2, !noalias !1"
LIKELY = ", !prof !3"
UNLIKELY = ", !prof !4"
METADATA = """\
!0 = distinct !{!0}
!5 = distinct !{!5, !0, !"hart"}
!6 = distinct !{!6, !0, !"ram"}
!1 = !{!5}
!2 = !{!6}
!3 = !{!"branch_weights", i32 100000, i32 1}
!4 = !{!"branch_weights", i32 1, i32 100000}
"""

FS_MASK = 0x6000  # mstatus.FS
CANONICAL_NAN_32 = 0x7FC0_0000
BOXED = 0xFFFF_FFFF


@dataclass(frozen=True)
class IrValue:
    """A value of a function being written: its text in IR, and its width."""

    text: str
    width: int

    @property
    def type(self) -> str:
        return f"i{self.width}"


class Emitter(Builder[IrValue]):
    """Writes the IR of instructions, one after the other, into `lines`."""

    def __init__(self, xlen: int):
        self.xlen = xlen
        self.lines: list[str] = []
        self.here = ""  # the block that is being written
        self._names = 0

    # text

    def line(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def let(self, expression: str) -> str:
        """Give an instruction's result a name; the name."""
        self._names += 1
        self.line(f"%v{self._names} = {expression}")
        return f"%v{self._names}"

    def value(self, expression: str, width: int) -> IrValue:
        """The same, as a value."""
        return IrValue(self.let(expression), width)

    def new_label(self, hint: str) -> str:
        self._names += 1
        return f"{hint}{self._names}"

    def label(self, name: str) -> None:
        """Start a block."""
        self.lines.append(f"{name}:")
        self.here = name

    def go(self, label: str) -> None:
        self.line(f"br label %{label}")

    def fork(self, condition: str, yes: str, no: str, weights: str = "") -> None:
        self.line(f"br i1 {condition}, label %{yes}, label %{no}{weights}")

    def join(self, label: str, *sources: tuple[IrValue, str]) -> IrValue:
        """Start the block `label`; its value, by the block that control comes from."""
        self.go(label)
        self.label(label)
        pairs = ", ".join(f"[ {value.text}, %{block} ]" for value, block in sources)
        return self.value(f"phi {sources[0][0].type} {pairs}", sources[0][0].width)

    # the hart's own state

    def field(self, record: type[Record], base: str, name: str) -> str:
        """Pointer to a field of the record at `base`."""
        return self.let(f"getelementptr i8, ptr {base}, i64 {record.offset(name)}")

    def read(self, name: str, width: int = 64) -> IrValue:
        """A field of the hart."""
        return self.value(f"load i{width}, ptr {self.field(Hart, '%hart', name)}{HART_SCOPE}", width)

    def update(self, name: str, value: IrValue | int, width: int = 64) -> None:
        """Write a field of the hart."""
        text = value.text if isinstance(value, IrValue) else str(value)
        self.line(f"store i{width} {text}, ptr {self.field(Hart, '%hart', name)}{HART_SCOPE}")

    def call(self, function: Callee[Any, Any], *arguments: IrValue | int) -> IrValue | None:
        """Call a native function with the hart and these arguments."""
        signature = function.signature
        texts = ["ptr %hart"]
        for parameter, argument in zip(signature.params[1:], arguments, strict=True):
            width = 1 if parameter.type is bool else parameter.type.bits
            texts.append(f"i{width} {self._fitted(argument, width)}")
        call = f"@{function.symbol}({', '.join(texts)})"
        if signature.result is None:
            self.line(f"call void {call}")
            return None
        width = 1 if signature.result is bool else signature.result.bits
        return self.value(f"call i{width} {call}", width)

    def _fitted(self, argument: IrValue | int, width: int) -> str:
        if isinstance(argument, int):
            return str(argument)
        return (self.zext(argument, width) if argument.width < width else self.low(argument, width)).text

    def call_out(self, function: Callee[Any, Any], *arguments: IrValue | int) -> IrValue | None:
        """Call a function that looks at pc or budget, or may trap; leave if it has."""
        self.publish()
        result = self.call(function, *arguments)
        go_on = self.new_label("untrapped")
        trapped = self.new_label("trapped")
        self.fork(self.compare("ne", self.read("trap"), 0).text, trapped, go_on, UNLIKELY)
        self.label(trapped)
        self.leave_trapped()
        self.label(go_on)
        return result

    def call_for(self, function: Callee[Any, Any], *arguments: IrValue | int) -> IrValue:
        """The same for a function that has a result."""
        result = self.call_out(function, *arguments)
        assert result is not None
        return result

    # of the tier

    @abstractmethod
    def publish(self) -> None:
        """Store pc and budget in the hart: something is about to look at them."""

    @abstractmethod
    def leave_trapped(self) -> None:
        """The instruction has trapped: end the block, and go on in the trap handler."""

    @abstractmethod
    def f_register(self, operand: str) -> IrValue:
        """The whole floating-point register."""

    @abstractmethod
    def rounding_mode(self) -> IrValue:
        """The instruction's rounding mode, 32 bits, DYN resolved; may be a reserved one."""

    # arithmetic

    def _text(self, argument: Argument, width: int) -> str:
        if isinstance(argument, int):
            sign = 1 << (width - 1)
            return str(((argument + sign) & ((1 << width) - 1)) - sign)
        return str(argument.text)

    def const(self, value: int, width: int) -> IrValue:
        return IrValue(self._text(value, width), width)

    def binary(self, operation: str, a: Argument, b: Argument) -> IrValue:
        width = b.width if isinstance(a, int) else a.width
        return self.value(f"{operation} i{width} {self._text(a, width)}, {self._text(b, width)}", width)

    def compare(self, predicate: str, a: Argument, b: Argument) -> IrValue:
        width = b.width if isinstance(a, int) else a.width
        return self.value(f"icmp {predicate} i{width} {self._text(a, width)}, {self._text(b, width)}", 1)

    def select(self, condition: IrValue, a: Argument, b: Argument) -> IrValue:
        width = b.width if isinstance(a, int) else a.width
        first, second = self._text(a, width), self._text(b, width)
        return self.value(f"select i1 {condition.text}, i{width} {first}, i{width} {second}", width)

    def _convert(self, operation: str, value: IrValue, width: int) -> IrValue:
        if value.width == width:
            return value
        return self.value(f"{operation} {value.type} {value.text} to i{width}", width)

    def sext(self, value: IrValue, width: int) -> IrValue:
        return self._convert("sext", value, width)

    def zext(self, value: IrValue, width: int) -> IrValue:
        return self._convert("zext", value, width)

    def low(self, value: IrValue, width: int) -> IrValue:
        return self._convert("trunc", value, width)

    # memory

    def _look_up(self, kind: str, address: IrValue, width: int) -> tuple[str, str]:
        """The TLB entry for an address: its tag's verdict, and the place of its addend."""
        bank = self.let(f"inttoptr i64 {self.read('data_tlb').text} to ptr")
        shift = 12 - (DataTlbEntry.size() - 1).bit_length()
        offset = self.binary("and", self.binary("lshr", address, shift), (TLB_ENTRIES - 1) * DataTlbEntry.size())
        entries = self.field(DataTlb, bank, kind)
        entry = self.let(f"getelementptr i8, ptr {entries}, i64 {self.zext(offset, 64).text}")
        tag = self.let(f"load i64, ptr {self.field(DataTlbEntry, entry, 'tag')}{HART_SCOPE}")
        page = self.binary("and", address, -4096 | (width // 8 - 1))
        return self.compare("eq", page, IrValue(tag, 64)).text, self.field(DataTlbEntry, entry, "addend")

    def _host(self, addend: str, address: IrValue) -> str:
        addend = self.let(f"load i64, ptr {addend}{HART_SCOPE}")
        return self.let(f"inttoptr i64 {self.binary('add', address, IrValue(addend, 64)).text} to ptr")

    def load(self, address: IrValue, width: int) -> IrValue:
        address = self.zext(address, 64)
        hit, miss, done = self.new_label("hit"), self.new_label("miss"), self.new_label("loaded")
        valid, addend = self._look_up("load", address, width)
        self.fork(valid, hit, miss, LIKELY)
        self.label(miss)
        slow = self.low(self.call_for(calls.LOAD_SLOW, address, width // 8), width)
        slow_block = self.here
        self.go(done)
        self.label(hit)
        pointer = self._host(addend, address)
        fast = self.value(f"load atomic i{width}, ptr {pointer} unordered, align {width // 8}{RAM_SCOPE}", width)
        return self.join(done, (fast, hit), (slow, slow_block))

    def store(self, address: IrValue, value: IrValue) -> None:
        address = self.zext(address, 64)
        hit, miss, done = self.new_label("hit"), self.new_label("miss"), self.new_label("stored")
        valid, addend = self._look_up("store", address, value.width)
        self.fork(valid, hit, miss, LIKELY)
        self.label(miss)
        self.call_out(calls.STORE_SLOW, address, value.width // 8, value)
        self.go(done)
        self.label(hit)
        pointer = self._host(addend, address)
        text = f"store atomic {value.type} {value.text}, ptr {pointer} unordered, align {value.width // 8}"
        self.line(text + RAM_SCOPE)
        self.go(done)
        self.label(done)

    def amo(self, operation: str, address: IrValue, value: IrValue) -> IrValue:
        address = self.zext(address, 64)
        width = value.width
        hit, miss, done = self.new_label("hit"), self.new_label("miss"), self.new_label("swapped")
        valid, addend = self._look_up("store", address, width)
        self.fork(valid, hit, miss, LIKELY)
        self.label(miss)
        number = AMO_OPERATIONS.index(operation)
        slow = self.low(self.call_for(calls.AMO_SLOW, address, number, width // 8, value), width)
        slow_block = self.here
        self.go(done)
        self.label(hit)
        pointer = self._host(addend, address)
        text = f"atomicrmw {operation} ptr {pointer}, {value.type} {value.text} seq_cst, align {width // 8}"
        fast = self.value(text + RAM_SCOPE, width)
        return self.join(done, (fast, hit), (slow, slow_block))

    def load_reserved(self, address: IrValue, width: int) -> IrValue:
        return self.low(self.call_for(calls.LOAD_RESERVED, self.zext(address, 64), width // 8), width)

    def store_conditional(self, address: IrValue, value: IrValue) -> IrValue:
        result = self.call_for(calls.STORE_CONDITIONAL, self.zext(address, 64), value.width // 8, value)
        return self.low(result, self.xlen)

    def fence(self) -> None:
        self.line("fence seq_cst")

    # floating point

    def require_fp(self, dirty: bool) -> None:
        enabled, cold = self.new_label("enabled"), self.new_label("off")
        status = self.binary("and", self.read("mstatus"), FS_MASK)
        ready = self.compare("eq", status, FS_MASK) if dirty else self.compare("ne", status, 0)
        self.fork(ready.text, enabled, cold, LIKELY)
        self.label(cold)
        self.call_out(calls.REQUIRE_FP, int(dirty))
        self.go(enabled)
        self.label(enabled)

    def f(self, operand: str, width: int) -> IrValue:
        whole = self.f_register(operand)
        if width == 64:
            return whole
        boxed = self.compare("eq", self.binary("lshr", whole, 32), BOXED)
        return self.select(boxed, self.low(whole, 32), CANONICAL_NAN_32)

    def f_bits(self, operand: str, width: int) -> IrValue:
        return self.low(self.f_register(operand), width)

    def boxed(self, value: IrValue) -> IrValue:
        return value if value.width == 64 else self.or_(self.zext(value, 64), BOXED << 32)

    def fp(self, operation: str, *operands: IrValue) -> IrValue:
        arguments: list[IrValue | int] = [
            self.sext(v, 64) if "_from_i" in operation else self.zext(v, 64) for v in operands
        ]
        if fp_is_rounded(operation):
            arguments.append(self.valid_rounding_mode())
        result = self.call(calls.FP[operation], *arguments)
        assert result is not None
        return self.low(result, fp_result_width(operation, self.xlen))

    def valid_rounding_mode(self) -> IrValue:
        mode = self.rounding_mode()
        valid, reserved = self.new_label("valid"), self.new_label("reserved")
        self.fork(self.compare("ult", mode, 5).text, valid, reserved, LIKELY)
        self.label(reserved)
        self.call_out(calls.RAISE_ILLEGAL)
        self.go(valid)
        self.label(valid)
        return mode
