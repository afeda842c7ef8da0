"""The abstract builder: the vocabulary in which the table says what an instruction means.

The meaning of an instruction is a function of a builder, such as

    lambda b: b.write(b.add(b.x(RS1), b.imm()))

and a machine made from the table is a subclass that decides what these calls do: emit LLVM IR (core/cpu/emitter.py),
compute on Python integers (core/isa/evaluate.py), or write a formula (core/isa/reference.py). The function runs once
for each of them; it must not look at values, only at the builder's parameters `xlen` and `length`.

A value is opaque to the table, and has a width in bits. Operands of one operation have equal widths; where a Python
integer stands for an operand it takes the width of the other. Comparisons give one bit. Nothing here raises a guest
trap except where it says so; a trap ends the instruction, and nothing that stands after it in the function happens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, Protocol, TypeVar

# Operands that an instruction can name.
RD, RS1, RS2, RS3 = "rd", "rs1", "rs2", "rs3"


class Value(Protocol):
    """What a builder passes around; only its width is for the table to know."""

    @property
    def width(self) -> int: ...


V = TypeVar("V", bound=Value)
Argument = Any  # a value, or an int that takes the width of the other operand

BINARY = ("add", "sub", "mul", "and", "or", "xor", "shl", "lshr", "ashr", "udiv", "sdiv", "urem", "srem")
COMPARISONS = ("eq", "ne", "slt", "sge", "ult", "uge")
AMO_OPERATIONS = ("add", "xchg", "xor", "or", "and", "min", "max", "umin", "umax")


def fp_is_rounded(operation: str) -> bool:
    """Does this operation of core/cpu/softfloat take a rounding mode?"""
    return operation[5:] not in ("min", "max", "eq", "lt", "le", "classify")


def fp_result_width(operation: str, xlen: int) -> int:
    """Width of its result: of the format, if it is a number."""
    action = operation[5:]
    return xlen if action.startswith("to_") or action in ("eq", "lt", "le", "classify") else int(operation[2:4])


class Builder(ABC, Generic[V]):
    """One instruction is being built: its operands, what it computes, and where it goes on."""

    xlen: int  # width of an integer register
    length: int  # of the instruction, in bytes

    # operands

    @abstractmethod
    def x(self, operand: str) -> V:
        """The integer register that the operand names."""

    @abstractmethod
    def write(self, value: Argument) -> None:
        """Write the integer register rd; x0 swallows it."""

    @abstractmethod
    def f(self, operand: str, width: int) -> V:
        """The floating-point register; a narrower value that is not NaN-boxed reads as the canonical NaN (21.2)."""

    @abstractmethod
    def f_bits(self, operand: str, width: int) -> V:
        """The lower bits of the floating-point register, boxed or not: what stores and FMV.X transfer."""

    @abstractmethod
    def write_f(self, value: V) -> None:
        """Write the floating-point register rd, NaN-boxed."""

    @abstractmethod
    def imm(self) -> V:
        """The immediate, xlen bits."""

    @abstractmethod
    def number(self, operand: str) -> V:
        """The number in the operand's field itself, xlen bits: the immediate of CSRRWI, for one."""

    @abstractmethod
    def is_not_x0(self, operand: str) -> V:
        """Does the operand name another register than x0 (or is its field not zero)?"""

    @abstractmethod
    def pc(self) -> V:
        """Address of this instruction."""

    @abstractmethod
    def next_pc(self) -> V:
        """Address of the instruction after this one."""

    # arithmetic

    @abstractmethod
    def const(self, value: int, width: int) -> V:
        """A constant; a negative one in two's complement."""

    @abstractmethod
    def binary(self, operation: str, a: Argument, b: Argument) -> V:
        """One of BINARY, modulo 2**width. Shift counts must be below the width, divisors not 0, quotients in range."""

    @abstractmethod
    def compare(self, predicate: str, a: Argument, b: Argument) -> V:
        """One of COMPARISONS."""

    @abstractmethod
    def select(self, condition: V, a: Argument, b: Argument) -> V:
        """`a` if the condition is 1, else `b`."""

    @abstractmethod
    def sext(self, value: V, width: int) -> V:
        """Sign-extended (the value itself if it has that width)."""

    @abstractmethod
    def zext(self, value: V, width: int) -> V:
        """Zero-extended (the value itself if it has that width)."""

    @abstractmethod
    def low(self, value: V, width: int) -> V:
        """The lowest bits."""

    def add(self, a: Argument, b: Argument) -> V:
        return self.binary("add", a, b)

    def sub(self, a: Argument, b: Argument) -> V:
        return self.binary("sub", a, b)

    def mul(self, a: Argument, b: Argument) -> V:
        return self.binary("mul", a, b)

    def and_(self, a: Argument, b: Argument) -> V:
        return self.binary("and", a, b)

    def or_(self, a: Argument, b: Argument) -> V:
        return self.binary("or", a, b)

    def xor(self, a: Argument, b: Argument) -> V:
        return self.binary("xor", a, b)

    # memory

    @abstractmethod
    def load(self, address: V, width: int) -> V:
        """`width` bits of guest memory, little-endian. May trap."""

    @abstractmethod
    def store(self, address: V, value: V) -> None:
        """Store the value's width. May trap."""

    @abstractmethod
    def amo(self, operation: str, address: V, value: V) -> V:
        """Atomic read-modify-write, sequentially consistent; the old value. Must be aligned. May trap."""

    @abstractmethod
    def load_reserved(self, address: V, width: int) -> V:
        """Load and reserve. Must be aligned. May trap."""

    @abstractmethod
    def store_conditional(self, address: V, value: V) -> V:
        """Store if the reservation holds: xlen bits, 0 if it did. Must be aligned. May trap."""

    @abstractmethod
    def fence(self) -> None:
        """Order everything before it and everything after it, for everyone."""

    # control flow: the last call of its instruction

    @abstractmethod
    def branch(self, condition: V) -> None:
        """Go on at pc + imm if the condition is 1, else after this instruction."""

    @abstractmethod
    def jump(self) -> None:
        """Go on at pc + imm."""

    @abstractmethod
    def jump_to(self, target: V) -> None:
        """Go on at the target."""

    # the system

    @abstractmethod
    def csr(self, operation: str, value: V, reads: bool | V, writes: bool | V) -> V:
        """Access the CSR whose number is the immediate: "write", "set" or "clear" with the value; the old value.

        Without `reads` or `writes` there are no side effects of reading or writing (Zicsr, table 9.1). May trap.
        """

    @abstractmethod
    def system(self, name: str, *arguments: V) -> None:
        """An instruction of the privileged architecture, done by core/cpu: ecall, mret, wfi, fence.i, …; the last call.

        May trap. Goes on wherever that leaves the pc.
        """

    # floating point (F and D)

    @abstractmethod
    def require_fp(self, dirty: bool) -> None:
        """Trap if mstatus.FS is Off; else, with `dirty`, set it to Dirty. Before anything else of the instruction."""

    @abstractmethod
    def fp(self, operation: str, *operands: V) -> V:
        """An operation of core/cpu/softfloat, by name: fp64_add, fp32_to_i64, …; flags go to fflags.

        Rounded as the instruction says; may trap (a reserved dynamic rounding mode). A number has the width of its
        format; an integer, a truth value and a class have xlen bits.
        """


AnyBuilder = Builder[Any]
AnyValue = Any  # of whichever builder
