"""Instructions as text, and back: the disassembler, and a small assembler for tests.

The text is that of GNU objdump with `-M no-aliases`, one instruction a line. The assembler takes operands as Python
values, by the names that the syntax of the instruction has:

    assemble("addi", rd=10, rs1=0, imm=-1)          the word
    assemble("beq", rs1=1, rs2=2, imm=-8)           imm is relative to the pc
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from core.isa.encoding import HOLDER
from core.isa.table import Insn, table

X_NAMES = (
    *("zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1"),
    *(f"a{n}" for n in range(8)),
    *(f"s{n}" for n in range(2, 12)),
    *(f"t{n}" for n in range(3, 7)),
)
F_NAMES = (
    *(f"ft{n}" for n in range(8)),
    *("fs0", "fs1"),
    *(f"fa{n}" for n in range(8)),
    *(f"fs{n}" for n in range(2, 12)),
    *(f"ft{n}" for n in range(8, 12)),
)
# dynamic is not written
ROUNDING_MODES = ("rne", "rtz", "rdn", "rup", "rmm", "", "", "")
AQRL = ("", ".rl", ".aq", ".aqrl")

_WORD = re.compile(r"[a-z][a-z0-9+]*")


def _set(bits: int) -> str:
    """The predecessor or successor set of a fence."""
    return "".join(letter for letter, bit in zip("iorw", (8, 4, 2, 1), strict=True) if bits & bit) or "unknown"


Names = Mapping[int, str]
Writer = Callable[[Insn, int, Names], str]


def _register(names: tuple[str, ...], operand: str) -> Writer:
    return lambda insn, pc, csrs: names[insn.operand(operand)]


# How each word of a syntax is written, given the instruction, its pc, and the names of CSRs.
WRITERS: dict[str, Writer] = {
    **{name: _register(X_NAMES, name) for name in ("rd", "rs1", "rs2")},
    **{f"f{name}": _register(F_NAMES, HOLDER[name]) for name in ("rd", "rs1", "rs2", "rs3")},
    "imm": lambda insn, pc, csrs: str(insn.imm),
    "shamt": lambda insn, pc, csrs: hex(insn.imm),
    "upper": lambda insn, pc, csrs: hex(insn.imm >> 12 & 0xFFFFF),
    "pc+imm": lambda insn, pc, csrs: hex((pc + insn.imm) & 0xFFFF_FFFF_FFFF_FFFF),
    "csr": lambda insn, pc, csrs: csrs.get(insn.imm, hex(insn.imm)),
    "zimm": lambda insn, pc, csrs: str(insn.rs1),
    "rm": lambda insn, pc, csrs: ROUNDING_MODES[insn.aux],
    "pred": lambda insn, pc, csrs: _set(insn.imm >> 4 & 15),
    "succ": lambda insn, pc, csrs: _set(insn.imm & 15),
    "sp": lambda insn, pc, csrs: "sp",
}


def disassemble(word: int, pc: int = 0, csrs: Names | None = None, xlen: int = 64) -> str:
    """One instruction as text; `.insn` and the bits if it is illegal."""
    insn = table(xlen).decode(word)
    if insn is None:
        return f".insn {word & 0xFFFF_FFFF if word & 3 == 3 else word & 0xFFFF:#x}"
    name = insn.row.name + (AQRL[insn.aux] if "aqrl" in insn.row.encoding.text else "")
    operands = _WORD.sub(lambda found: WRITERS[found[0]](insn, pc, csrs or {}), insn.row.syntax.replace(" ", ""))
    return f"{name} {operands.rstrip(',')}".strip()


def _holder(operand: str) -> str:
    return "imm" if operand in ("shamt", "csr") else HOLDER.get(operand, operand)


def assemble(name: str, xlen: int = 64, **operands: int) -> int:
    """The word of an instruction, compressed ones too. Operands left out are 0, rounding modes RNE.

    EncodingError if an operand does not fit.
    """
    row = next(row for row in table(xlen).rows() if row.name == name)
    return row.encoding.encode({_holder(operand): value for operand, value in operands.items()})
