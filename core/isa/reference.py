"""The reference page of the instruction set, made from the table: `python -m core.isa.reference docs/isa.md`.

Its meanings are formulas that one more builder writes: the same functions that the interpreter is made of, so the page
cannot say anything else than what is executed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from core.isa.builder import Argument, Builder, fp_is_rounded, fp_result_width
from core.isa.instruction import BOTH, Compressed, Instruction
from core.isa.table import table

OPERATORS = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "and": "&",
    "or": "|",
    "xor": "^",
    "shl": "<<",
    "lshr": ">>",
    "ashr": ">>s",
    "udiv": "/",
    "sdiv": "/s",
    "urem": "mod",
    "srem": "mods",
    "eq": "=",
    "ne": "≠",
    "slt": "<s",
    "sge": "≥s",
    "ult": "<",
    "uge": "≥",
}

HEADER = """\
# Instructions

Made from the table in `core/isa/` by `make docs`; do not edit. The encodings are the manual's, most significant bit
first. In the formulas `x` and `f` are the integer and floating-point registers, `M32[a]` is 32 bits of memory at `a`,
`v[n:0]` the lowest bits of `v`, `sext` and `zext` extend as far as it takes; arithmetic is modulo 2 to the width. `>>`,
`/`, `mod`, `<` and `≥` are unsigned, with an `s` signed. Functions named `fp…` are those of `core/cpu/softfloat`,
rounded by the instruction's rounding mode where one is shown as `rm`.
"""


@dataclass(frozen=True)
class Formula:
    """A value as text."""

    text: str
    width: int
    is_compound: bool = False

    def __str__(self) -> str:
        return f"({self.text})" if self.is_compound else self.text


class FormulaBuilder(Builder[Formula]):
    """Writes what an instruction does as statements."""

    def __init__(self, xlen: int):
        self.xlen = xlen
        self.length = 4
        self.statements: list[str] = []

    def _say(self, text: str) -> None:
        self.statements.append(text)

    def x(self, operand: str) -> Formula:
        return Formula(f"x[{operand}]", self.xlen)

    def write(self, value: Formula) -> None:
        self._say(f"x[rd] = {value.text}")

    def f(self, operand: str, width: int) -> Formula:
        return Formula(f"f[{operand}]", width)

    def f_bits(self, operand: str, width: int) -> Formula:
        return Formula(f"f[{operand}]" + (f"[{width - 1}:0]" if width < 64 else ""), width)

    def write_f(self, value: Formula) -> None:
        self._say(f"f[rd] = {value.text}")

    def imm(self) -> Formula:
        return Formula("imm", self.xlen)

    def number(self, operand: str) -> Formula:
        return Formula(operand, self.xlen)

    def is_not_x0(self, operand: str) -> Formula:
        return Formula(f"{operand} ≠ 0", 1, True)

    def pc(self) -> Formula:
        return Formula("pc", self.xlen)

    def next_pc(self) -> Formula:
        return Formula("next pc", self.xlen)

    def const(self, value: int, width: int) -> Formula:
        return Formula(str(value) if abs(value) < 1 << 16 else hex(value), width)

    def _infix(self, operation: str, a: Argument, b: Argument, width: int | None) -> Formula:
        operand = b.width if isinstance(a, int) else a.width
        first, second = (self.const(v, operand) if isinstance(v, int) else v for v in (a, b))
        return Formula(f"{first} {OPERATORS[operation]} {second}", width or operand, True)

    def binary(self, operation: str, a: Argument, b: Argument) -> Formula:
        return self._infix(operation, a, b, None)

    def compare(self, predicate: str, a: Argument, b: Argument) -> Formula:
        return self._infix(predicate, a, b, 1)

    def select(self, condition: Formula, a: Argument, b: Argument) -> Formula:
        width = b.width if isinstance(a, int) else a.width
        first, second = (self.const(v, width) if isinstance(v, int) else v for v in (a, b))
        return Formula(f"{first} if {condition.text} else {second}", width, True)

    def sext(self, value: Formula, width: int) -> Formula:
        return value if value.width == width else Formula(f"sext({value.text})", width)

    def zext(self, value: Formula, width: int) -> Formula:
        return value if value.width == width else Formula(f"zext({value.text})", width)

    def low(self, value: Formula, width: int) -> Formula:
        return value if value.width == width else Formula(f"{value}[{width - 1}:0]", width)

    def load(self, address: Formula, width: int) -> Formula:
        return Formula(f"M{width}[{address.text}]", width)

    def store(self, address: Formula, value: Formula) -> None:
        self._say(f"M{value.width}[{address.text}] = {value.text}")

    def amo(self, operation: str, address: Formula, value: Formula) -> Formula:
        return Formula(f"atomic_{operation}(M{value.width}[{address.text}], {value.text})", value.width)

    def load_reserved(self, address: Formula, width: int) -> Formula:
        return Formula(f"reserve(M{width}[{address.text}])", width)

    def store_conditional(self, address: Formula, value: Formula) -> Formula:
        return Formula(f"store_conditional(M{value.width}[{address.text}], {value.text})", self.xlen)

    def fence(self) -> None:
        self._say("order all accesses before it and after it")

    def branch(self, condition: Formula) -> None:
        self._say(f"if {condition.text}: pc = pc + imm")

    def jump(self) -> None:
        self._say("pc = pc + imm")

    def jump_to(self, target: Formula) -> None:
        self._say(f"pc = {target.text}")

    def csr(self, operation: str, value: Formula, reads: bool | Formula, writes: bool | Formula) -> Formula:
        sometimes = [(what, when) for what, when in (("read", reads), ("written", writes)) if isinstance(when, Formula)]
        conditions = "".join(f"; {what} if {when.text}" for what, when in sometimes)
        return Formula(f"csr_{operation}(csr, {value.text}{conditions})", self.xlen)

    def system(self, name: str, *arguments: Formula) -> None:
        self._say("the privileged architecture's " + name.upper())

    def require_fp(self, dirty: bool) -> None:
        pass  # true of every floating-point instruction

    def fp(self, operation: str, *operands: Formula) -> Formula:
        arguments = [operand.text for operand in operands] + ["rm"] * fp_is_rounded(operation)
        return Formula(f"{operation}({', '.join(arguments)})", fp_result_width(operation, self.xlen))


def meaning(instruction: Instruction) -> str:
    """What an instruction does, as a line of formulas."""
    builder = FormulaBuilder(instruction.xlens[-1])
    instruction.meaning(builder)
    return "; ".join(builder.statements)


def page() -> str:
    """The page in Markdown."""
    rows = list(dict.fromkeys(row for xlen in BOTH for row in table(xlen).rows()))
    parts = [HEADER]
    for extension in dict.fromkeys(row.extension for row in rows):
        members = [row for row in rows if row.extension == extension]
        parts.append(f"\n## {extension}\n\n" + "\n".join(_table(members)) + "\n")
    return "".join(parts)


def _table(rows: Iterable[Instruction | Compressed]) -> list[str]:
    lines = ["| instruction | encoding | meaning |", "|---|---|---|"]
    for row in rows:
        only = "" if row.xlens == BOTH else f" (RV{row.xlens[0]})"
        text = meaning(row) if isinstance(row, Instruction) else _expansion(row)
        cells = (f"`{row.name} {row.syntax}`".replace(" `", "`") + only, f"`{row.encoding.text}`", f"`{text}`")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def _expansion(row: Compressed) -> str:
    implied = [f"{name} = {o.bias}" for name, o in row.encoding.operands.items() if not o.segments]
    return f"{row.expands}" + (f" with {', '.join(implied)}" if implied else "")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
