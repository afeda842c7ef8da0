"""The A extension: load-reserved, store-conditional and atomic memory operations (unprivileged ISA, chapter 13).

The ordering bits only ever ask for less than what every one of these does here: it is sequentially consistent.
"""

from __future__ import annotations

from core.isa.builder import RS1, RS2
from core.isa.instruction import Instruction, Meaning, instruction

# name, funct5, operation
AMOS = (
    ("amoadd", "00000", "add"),
    ("amoswap", "00001", "xchg"),
    ("amoxor", "00100", "xor"),
    ("amoor", "01000", "or"),
    ("amoand", "01100", "and"),
    ("amomin", "10000", "min"),
    ("amomax", "10100", "max"),
    ("amominu", "11000", "umin"),
    ("amomaxu", "11100", "umax"),
)
WIDTHS = (("w", "010", 32, (32, 64)), ("d", "011", 64, (64,)))


def _load_reserved(width: int) -> Meaning:
    return lambda b: b.write(b.sext(b.load_reserved(b.x(RS1), width), b.xlen))


def _store_conditional(width: int) -> Meaning:
    return lambda b: b.write(b.store_conditional(b.x(RS1), b.low(b.x(RS2), width)))


def _amo(operation: str, width: int) -> Meaning:
    return lambda b: b.write(b.sext(b.amo(operation, b.x(RS1), b.low(b.x(RS2), width)), b.xlen))


def _rows(suffix: str, funct3: str, width: int, xlens: tuple[int, ...]) -> list[Instruction]:
    row = instruction("A", xlens=xlens)
    rest = f"rs1 {funct3} rd 0101111"
    return [
        row(f"lr.{suffix}", f"00010 aqrl 00000 {rest}", "rd, (rs1)", _load_reserved(width)),
        row(f"sc.{suffix}", f"00011 aqrl rs2 {rest}", "rd, rs2, (rs1)", _store_conditional(width)),
        *(
            row(f"{name}.{suffix}", f"{funct5} aqrl rs2 {rest}", "rd, rs2, (rs1)", _amo(operation, width))
            for name, funct5, operation in AMOS
        ),
    ]


INSTRUCTIONS = [instruction for parameters in WIDTHS for instruction in _rows(*parameters)]
