"""The meaning of instructions on Python integers: the readable oracle beside the fast machines.

`Evaluator` is the builder of core/isa that computes. One step of a hart is

    evaluator = Evaluator(state, 64)
    evaluator.execute(table(64).decode(word))

The state belongs to the caller: registers as Python integers, memory and everything of the privileged architecture as
methods (`State`), which may raise `GuestTrap`. Floating point goes through `State.fp`, so that softfloat's checked
Python run can be put there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from core.isa.builder import Argument, Builder, fp_is_rounded, fp_result_width
from core.isa.encoding import DYNAMIC_ROUNDING
from core.isa.table import Insn

CANONICAL_NAN_32 = 0x7FC0_0000
BOXED = 0xFFFF_FFFF << 32


class GuestTrap(Exception):
    """The instruction trapped; nothing of it has happened."""

    def __init__(self, cause: int, value: int = 0):
        super().__init__(f"cause {cause}, value {value:#x}")
        self.cause = cause
        self.value = value


@dataclass(frozen=True)
class Number:
    """A value: `bits` is not negative and below 2**width."""

    bits: int
    width: int

    @property
    def signed(self) -> int:
        return self.bits - (self.bits >> (self.width - 1) << self.width)


class State(Protocol):
    """What an instruction can touch. Integers are unsigned; memory is little-endian."""

    x: list[int]
    f: list[int]
    pc: int
    frm: int

    def load(self, address: int, size: int) -> int: ...
    def store(self, address: int, size: int, value: int) -> None: ...
    def reserve(self, address: int, size: int) -> None: ...
    def take_reservation(self, address: int, size: int) -> bool: ...
    def csr(self, number: int, operation: str, value: int, reads: bool, writes: bool) -> int: ...
    def system(self, name: str, arguments: tuple[int, ...]) -> int | None: ...
    def require_fp(self, dirty: bool) -> None: ...
    def fp(self, operation: str, operands: tuple[int, ...], rm: int | None) -> int: ...


def _divide(a: int, b: int) -> int:
    """Division that truncates towards zero."""
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


BINARY: dict[str, Callable[[Number, Number], int]] = {
    "add": lambda a, b: a.bits + b.bits,
    "sub": lambda a, b: a.bits - b.bits,
    "mul": lambda a, b: a.bits * b.bits,
    "and": lambda a, b: a.bits & b.bits,
    "or": lambda a, b: a.bits | b.bits,
    "xor": lambda a, b: a.bits ^ b.bits,
    "shl": lambda a, b: a.bits << b.bits,
    "lshr": lambda a, b: a.bits >> b.bits,
    "ashr": lambda a, b: a.signed >> b.bits,
    "udiv": lambda a, b: a.bits // b.bits,
    "sdiv": lambda a, b: _divide(a.signed, b.signed),
    "urem": lambda a, b: a.bits % b.bits,
    "srem": lambda a, b: a.signed - b.signed * _divide(a.signed, b.signed),
}
COMPARISONS: dict[str, Callable[[Number, Number], bool]] = {
    "eq": lambda a, b: a.bits == b.bits,
    "ne": lambda a, b: a.bits != b.bits,
    "slt": lambda a, b: a.signed < b.signed,
    "sge": lambda a, b: a.signed >= b.signed,
    "ult": lambda a, b: a.bits < b.bits,
    "uge": lambda a, b: a.bits >= b.bits,
}
AMO: dict[str, Callable[[Number, Number], int]] = {
    "add": lambda old, value: old.bits + value.bits,
    "xchg": lambda old, value: value.bits,
    "xor": lambda old, value: old.bits ^ value.bits,
    "or": lambda old, value: old.bits | value.bits,
    "and": lambda old, value: old.bits & value.bits,
    "min": lambda old, value: min(old.signed, value.signed),
    "max": lambda old, value: max(old.signed, value.signed),
    "umin": lambda old, value: min(old.bits, value.bits),
    "umax": lambda old, value: max(old.bits, value.bits),
}


class Evaluator(Builder[Number]):
    """Executes decoded instructions on a state."""

    def __init__(self, state: State, xlen: int):
        self.state = state
        self.xlen = xlen

    def execute(self, insn: Insn) -> None:
        """One instruction, pc included. Raises GuestTrap, with the pc still at the instruction."""
        self.insn = insn
        self.length = insn.length
        self._target = self.next_pc().bits
        insn.instruction.meaning(self)
        self.state.pc = self._target

    # operands

    def x(self, operand: str) -> Number:
        return self.const(self.state.x[self.insn.operand(operand)], self.xlen)

    def write(self, value: Argument) -> None:
        if self.insn.rd:
            self.state.x[self.insn.rd] = value.bits

    def _f(self, operand: str) -> int:
        return self.state.f[self.insn.imm if operand == "rs3" else self.insn.operand(operand)]

    def f(self, operand: str, width: int) -> Number:
        whole = self._f(operand)
        if width == 32 and whole & BOXED != BOXED:
            return Number(CANONICAL_NAN_32, 32)
        return self.const(whole, width)

    def f_bits(self, operand: str, width: int) -> Number:
        return self.const(self._f(operand), width)

    def write_f(self, value: Number) -> None:
        self.state.f[self.insn.rd] = value.bits | (BOXED if value.width == 32 else 0)

    def imm(self) -> Number:
        return self.const(self.insn.imm, self.xlen)

    def number(self, operand: str) -> Number:
        return self.const(self.insn.operand(operand), self.xlen)

    def is_not_x0(self, operand: str) -> Number:
        return Number(int(self.insn.operand(operand) != 0), 1)

    def pc(self) -> Number:
        return self.const(self.state.pc, self.xlen)

    def next_pc(self) -> Number:
        return self.const(self.state.pc + self.length, self.xlen)

    # arithmetic

    def const(self, value: int, width: int) -> Number:
        return Number(value & ((1 << width) - 1), width)

    def _pair(self, a: Argument, b: Argument) -> tuple[Number, Number]:
        first = self.const(a, b.width) if isinstance(a, int) else a
        return first, self.const(b, first.width) if isinstance(b, int) else b

    def binary(self, operation: str, a: Argument, b: Argument) -> Number:
        first, second = self._pair(a, b)
        return self.const(BINARY[operation](first, second), first.width)

    def compare(self, predicate: str, a: Argument, b: Argument) -> Number:
        return Number(int(COMPARISONS[predicate](*self._pair(a, b))), 1)

    def select(self, condition: Number, a: Argument, b: Argument) -> Number:
        first, second = self._pair(a, b)
        return first if condition.bits else second

    def sext(self, value: Number, width: int) -> Number:
        return self.const(value.signed, width)

    def zext(self, value: Number, width: int) -> Number:
        return self.const(value.bits, width)

    def low(self, value: Number, width: int) -> Number:
        return self.const(value.bits, width)

    # memory

    def load(self, address: Number, width: int) -> Number:
        return self.const(self.state.load(address.bits, width // 8), width)

    def store(self, address: Number, value: Number) -> None:
        self.state.store(address.bits, value.width // 8, value.bits)

    def amo(self, operation: str, address: Number, value: Number) -> Number:
        old = self.load(address, value.width)
        self.store(address, self.const(AMO[operation](old, value), value.width))
        return old

    def load_reserved(self, address: Number, width: int) -> Number:
        value = self.load(address, width)
        self.state.reserve(address.bits, width // 8)
        return value

    def store_conditional(self, address: Number, value: Number) -> Number:
        if not self.state.take_reservation(address.bits, value.width // 8):
            return self.const(1, self.xlen)
        self.store(address, value)
        return self.const(0, self.xlen)

    def fence(self) -> None:
        pass

    # control flow

    def branch(self, condition: Number) -> None:
        if condition.bits:
            self.jump()

    def jump(self) -> None:
        self._target = self.add(self.pc(), self.imm()).bits

    def jump_to(self, target: Number) -> None:
        self._target = target.bits

    # the system

    def csr(self, operation: str, value: Number, reads: bool | Number, writes: bool | Number) -> Number:
        flags = [flag if isinstance(flag, bool) else bool(flag.bits) for flag in (reads, writes)]
        number = self.insn.imm & 0xFFF
        return self.const(self.state.csr(number, operation, value.bits, *flags), self.xlen)

    def system(self, name: str, *arguments: Number) -> None:
        """The state may return another pc to go on at."""
        target = self.state.system(name, tuple(argument.bits for argument in arguments))
        if target is not None:
            self._target = target

    # floating point

    def require_fp(self, dirty: bool) -> None:
        self.state.require_fp(dirty)

    def fp(self, operation: str, *operands: Number) -> Number:
        rm = None
        if fp_is_rounded(operation):
            rm = self.state.frm if self.insn.aux == DYNAMIC_ROUNDING else self.insn.aux
            if rm > 4:
                raise GuestTrap(2)
        result = self.state.fp(operation, tuple(operand.bits for operand in operands), rm)
        return self.const(result, fp_result_width(operation, self.xlen))
