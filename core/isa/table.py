"""The one table of instructions, and what can be asked of it in Python: decode, disassemble, assemble.

`table(64)` is RV64, `table(32)` RV32. Everything about an instruction is read from here: the interpreter
(core/cpu/interpreter.py), the native decoder (core/cpu/decoder.py), the oracle (core/isa/evaluate.py), the reference
page (core/isa/reference.py). The bits of an instruction, and what it does, are written nowhere else.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache

from core.isa import atomic, compressed, floating, integer, multiply, privileged
from core.isa.encoding import OPERANDS
from core.isa.instruction import Compressed, Instruction

EXTENSIONS = (integer, multiply, atomic, floating, privileged)
OPCODES = 64  # values of opcode()


@dataclass(frozen=True)
class Insn:
    """A decoded instruction. Operands that its encoding does not have are 0."""

    instruction: Instruction
    row: Instruction | Compressed  # the encoding it was decoded from
    length: int
    rd: int
    rs1: int
    rs2: int
    imm: int
    aux: int

    def operand(self, name: str) -> int:
        return int(getattr(self, name))


class Table:
    """All instructions of one XLEN. `instructions` has the numbering that machines use for their own tables."""

    def __init__(self, xlen: int):
        self.xlen = xlen
        self.instructions = [i for module in EXTENSIONS for i in module.INSTRUCTIONS if xlen in i.xlens]
        self.compressed = [c for c in compressed.COMPRESSED if xlen in c.xlens]
        self.by_name = {i.name: i for i in self.instructions}
        self._by_opcode: dict[int, list[Instruction | Compressed]] = defaultdict(list)
        for row in self.rows():
            self._by_opcode[opcode(row.encoding.match)].append(row)

    def rows(self) -> list[Instruction | Compressed]:
        """All encodings, compressed ones too."""
        return [*self.instructions, *self.compressed]

    def expansion(self, row: Instruction | Compressed) -> Instruction:
        """The instruction that an encoding stands for."""
        return self.by_name[row.expands] if isinstance(row, Compressed) else row

    def decode(self, word: int) -> Insn | None:
        """The instruction in the lowest bits of `word`, which has 16 bits if they say so; None if it is illegal."""
        word &= 0xFFFF if word & 3 != 3 else 0xFFFF_FFFF
        for row in self._by_opcode.get(opcode(word), ()):
            if row.encoding.matches(word):
                values = {name: operand.extract(word) for name, operand in row.encoding.operands.items()}
                operands = [values.get(name, 0) for name in OPERANDS]
                return Insn(self.expansion(row), row, row.encoding.length, *operands)
        return None


def opcode(word: int) -> int:
    """What the decoders look up first: the major opcode, or quadrant and funct3 of a compressed instruction.

    Below 32 is the major opcode (bits 6 to 2), from 32 on the compressed ones.
    """
    if word & 3 == 3:
        return (word >> 2) & 31
    return 32 + ((word & 3) << 3) + ((word >> 13) & 7)


@cache
def table(xlen: int = 64) -> Table:
    return Table(xlen)
