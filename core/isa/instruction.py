"""What the table is made of: instructions, and compressed encodings of instructions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from core.isa.builder import AnyBuilder
from core.isa.encoding import Encoding, parse

BOTH = (32, 64)
Meaning = Callable[[AnyBuilder], None]


class Flow(Enum):
    """Where an instruction goes on, so that a machine can choose how to build it."""

    NEXT = "next"  # at the instruction after it
    BRANCH = "branch"  # there, or at pc + imm
    JUMP = "jump"  # at pc + imm
    INDIRECT = "indirect"  # at an address computed
    SYSTEM = "system"  # wherever core/cpu says


@dataclass(frozen=True, eq=False)
class Instruction:
    """One instruction: its encoding (core/isa/encoding.py), its operands as written, its meaning (core/isa/builder.py).

    `syntax` is a list of operands: `rd` and its like are integer registers, `frd` floating-point ones; `imm(rs1)` and
    `pc+imm` are addresses, `upper` is the upper 20 bits of imm, `fence` its two sets.
    """

    name: str
    encoding: Encoding
    syntax: str
    meaning: Meaning = field(repr=False)
    extension: str
    flow: Flow = Flow.NEXT
    xlens: tuple[int, ...] = BOTH

    @property
    def has_rounding_mode(self) -> bool:
        return "rm" in self.encoding.text.split()

    @property
    def writes_x(self) -> bool:
        """Is rd an integer register?"""
        return self.syntax.startswith("rd")


@dataclass(frozen=True, eq=False)
class Compressed:
    """A 16-bit encoding of an instruction; what the encoding does not spell is implied."""

    name: str
    encoding: Encoding
    syntax: str
    expands: str  # name of the instruction
    extension: str
    xlens: tuple[int, ...] = BOTH


def instruction(
    extension: str, flow: Flow = Flow.NEXT, xlens: tuple[int, ...] = BOTH
) -> Callable[[str, str, str, Meaning], Instruction]:
    """A maker of the rows that share an extension: `row(name, encoding, syntax, meaning)`."""

    def row(name: str, encoding: str, syntax: str, meaning: Meaning) -> Instruction:
        return Instruction(name, parse(encoding), syntax, meaning, extension, flow, xlens)

    return row
