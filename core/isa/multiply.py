"""The M extension: multiplication and division (unprivileged ISA, chapter 12)."""

from __future__ import annotations

from core.isa.builder import RS1, RS2, AnyBuilder, AnyValue
from core.isa.instruction import Meaning, instruction
from core.isa.integer import word, word_rs2

row = instruction("M")
row64 = instruction("M", xlens=(64,))


def _high(extend_a: str, extend_b: str) -> Meaning:
    """The upper half of the product, each factor signed ("sext") or not ("zext")."""

    def meaning(b: AnyBuilder) -> None:
        product = b.mul(getattr(b, extend_a)(b.x(RS1), 2 * b.xlen), getattr(b, extend_b)(b.x(RS2), 2 * b.xlen))
        b.write(b.low(b.binary("lshr", product, b.xlen), b.xlen))

    return meaning


def _quotient(b: AnyBuilder, operation: str, dividend: AnyValue, divisor: AnyValue) -> AnyValue:
    """Division by zero and overflow have values, no traps (table 12.1). Dividing by 1 instead gives them:

    overflow's quotient is the dividend and its remainder 0; by zero, -1 and the dividend are put in afterwards.
    """
    zero = b.compare("eq", divisor, 0)
    undefined = zero
    if operation in ("sdiv", "srem"):
        smallest = b.compare("eq", dividend, -(1 << dividend.width - 1))
        undefined = b.or_(zero, b.and_(smallest, b.compare("eq", divisor, -1)))
    result = b.binary(operation, dividend, b.select(undefined, 1, divisor))
    return b.select(zero, -1 if operation in ("sdiv", "udiv") else dividend, result)


def _divide(operation: str) -> Meaning:
    return lambda b: b.write(_quotient(b, operation, b.x(RS1), b.x(RS2)))


def _divide_word(operation: str) -> Meaning:
    return lambda b: b.write(b.sext(_quotient(b, operation, b.low(b.x(RS1), 32), b.low(b.x(RS2), 32)), b.xlen))


INSTRUCTIONS = [
    row("mul", "0000001 rs2 rs1 000 rd 0110011", "rd, rs1, rs2", lambda b: b.write(b.mul(b.x(RS1), b.x(RS2)))),
    row("mulh", "0000001 rs2 rs1 001 rd 0110011", "rd, rs1, rs2", _high("sext", "sext")),
    row("mulhsu", "0000001 rs2 rs1 010 rd 0110011", "rd, rs1, rs2", _high("sext", "zext")),
    row("mulhu", "0000001 rs2 rs1 011 rd 0110011", "rd, rs1, rs2", _high("zext", "zext")),
    row("div", "0000001 rs2 rs1 100 rd 0110011", "rd, rs1, rs2", _divide("sdiv")),
    row("divu", "0000001 rs2 rs1 101 rd 0110011", "rd, rs1, rs2", _divide("udiv")),
    row("rem", "0000001 rs2 rs1 110 rd 0110011", "rd, rs1, rs2", _divide("srem")),
    row("remu", "0000001 rs2 rs1 111 rd 0110011", "rd, rs1, rs2", _divide("urem")),
    row64("mulw", "0000001 rs2 rs1 000 rd 0111011", "rd, rs1, rs2", word("mul", word_rs2)),
    row64("divw", "0000001 rs2 rs1 100 rd 0111011", "rd, rs1, rs2", _divide_word("sdiv")),
    row64("divuw", "0000001 rs2 rs1 101 rd 0111011", "rd, rs1, rs2", _divide_word("udiv")),
    row64("remw", "0000001 rs2 rs1 110 rd 0111011", "rd, rs1, rs2", _divide_word("srem")),
    row64("remuw", "0000001 rs2 rs1 111 rd 0111011", "rd, rs1, rs2", _divide_word("urem")),
]
