"""The F and D extensions: floating point (unprivileged ISA, chapters 20 and 21)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from core.isa.builder import RS1, RS2, RS3, AnyBuilder, AnyValue, Builder
from core.isa.instruction import BOTH, Instruction, Meaning, instruction


@dataclass(frozen=True)
class Format:
    """What F and D have different: one table of instructions is made for each."""

    width: int
    extension: str
    suffix: str  # of names: fadd.s
    code: str  # the fmt field
    memory: str  # suffix of loads and stores
    funct3: str  # of loads and stores

    @property
    def sign(self) -> int:
        return 1 << (self.width - 1)


SINGLE = Format(32, "F", "s", "00", "w", "010")
DOUBLE = Format(64, "D", "d", "01", "d", "011")

# suffix of names, name in core/cpu/softfloat, code in the place of rs2, where it exists
INTEGERS = (
    ("w", "i32", "00000", BOTH),
    ("wu", "u32", "00001", BOTH),
    ("l", "i64", "00010", (64,)),
    ("lu", "u64", "00011", (64,)),
)


def _changing(meaning: Meaning) -> Meaning:
    """The meaning of an instruction that changes floating-point state."""

    def changing(b: AnyBuilder) -> None:
        b.require_fp(dirty=True)
        meaning(b)

    return changing


def _reading(meaning: Meaning) -> Meaning:
    """The meaning of an instruction that only reads floating-point registers."""

    def reading(b: AnyBuilder) -> None:
        b.require_fp(dirty=False)
        meaning(b)

    return reading


def _load(width: int) -> Meaning:
    return _changing(lambda b: b.write_f(b.load(b.add(b.x(RS1), b.imm()), width)))


def _store(width: int) -> Meaning:
    return _reading(lambda b: b.store(b.add(b.x(RS1), b.imm()), b.f_bits(RS2, width)))


def _arithmetic(operation: str, width: int, *operands: str) -> Meaning:
    return _changing(lambda b: b.write_f(b.fp(f"fp{width}_{operation}", *(b.f(name, width) for name in operands))))


def _fused(form: Format, negate_product: bool, negate_addend: bool) -> Meaning:
    def meaning(b: AnyBuilder) -> None:
        first, second, addend = b.f(RS1, form.width), b.f(RS2, form.width), b.f(RS3, form.width)
        if negate_product:
            first = b.xor(first, form.sign)
        if negate_addend:
            addend = b.xor(addend, form.sign)
        b.write_f(b.fp(f"fp{form.width}_fma", first, second, addend))

    return _changing(meaning)


def _sign_injected(form: Format, sign: Callable[[AnyBuilder, AnyValue, AnyValue], AnyValue]) -> Meaning:
    def meaning(b: AnyBuilder) -> None:
        magnitude, other = b.f(RS1, form.width), b.f(RS2, form.width)
        b.write_f(b.or_(b.and_(magnitude, form.sign - 1), b.and_(sign(b, magnitude, other), form.sign)))

    return _changing(meaning)


def _to_register(operation: str, width: int, *operands: str) -> Meaning:
    """A comparison, a class, or a conversion to an integer: it may still raise flags."""
    return _changing(lambda b: b.write(b.fp(f"fp{width}_{operation}", *(b.f(name, width) for name in operands))))


def _from_integer(integer: str, width: int) -> Meaning:
    return _changing(lambda b: b.write_f(b.fp(f"fp{width}_from_{integer}", b.x(RS1))))


def _change_format(source: int, target: int) -> Meaning:
    return _changing(lambda b: b.write_f(b.fp(f"fp{target}_from_fp{source}", b.f(RS1, source))))


def _classify(width: int) -> Meaning:
    return _reading(lambda b: b.write(b.fp(f"fp{width}_classify", b.f(RS1, width))))


def _move_to_integer(width: int) -> Meaning:
    return _reading(lambda b: b.write(b.sext(b.f_bits(RS1, width), b.xlen)))


def _move_from_integer(width: int) -> Meaning:
    return _changing(lambda b: b.write_f(b.low(b.x(RS1), width)))


def _rows(form: Format) -> list[Instruction]:
    row = instruction(form.extension)
    s, code, width, op = form.suffix, form.code, form.width, "1010011"
    two, three = "frd, frs1, frs2, rm", "frd, frs1, frs2, frs3, rm"
    return [
        row(f"fl{form.memory}", f"imm[11:0] rs1 {form.funct3} rd 0000111", "frd, imm(rs1)", _load(width)),
        row(f"fs{form.memory}", f"imm[11:5] rs2 rs1 {form.funct3} imm[4:0] 0100111", "frs2, imm(rs1)", _store(width)),
        row(f"fmadd.{s}", f"rs3 {code} rs2 rs1 rm rd 1000011", three, _fused(form, False, False)),
        row(f"fmsub.{s}", f"rs3 {code} rs2 rs1 rm rd 1000111", three, _fused(form, False, True)),
        row(f"fnmsub.{s}", f"rs3 {code} rs2 rs1 rm rd 1001011", three, _fused(form, True, False)),
        row(f"fnmadd.{s}", f"rs3 {code} rs2 rs1 rm rd 1001111", three, _fused(form, True, True)),
        row(f"fadd.{s}", f"00000 {code} rs2 rs1 rm rd {op}", two, _arithmetic("add", width, RS1, RS2)),
        row(f"fsub.{s}", f"00001 {code} rs2 rs1 rm rd {op}", two, _arithmetic("sub", width, RS1, RS2)),
        row(f"fmul.{s}", f"00010 {code} rs2 rs1 rm rd {op}", two, _arithmetic("mul", width, RS1, RS2)),
        row(f"fdiv.{s}", f"00011 {code} rs2 rs1 rm rd {op}", two, _arithmetic("div", width, RS1, RS2)),
        row(f"fsqrt.{s}", f"01011 {code} 00000 rs1 rm rd {op}", "frd, frs1, rm", _arithmetic("sqrt", width, RS1)),
        row(
            f"fsgnj.{s}",
            f"00100 {code} rs2 rs1 000 rd {op}",
            "frd, frs1, frs2",
            _sign_injected(form, lambda b, x, y: y),
        ),
        row(
            f"fsgnjn.{s}",
            f"00100 {code} rs2 rs1 001 rd {op}",
            "frd, frs1, frs2",
            _sign_injected(form, lambda b, x, y: b.xor(y, -1)),
        ),
        row(f"fsgnjx.{s}", f"00100 {code} rs2 rs1 010 rd {op}", "frd, frs1, frs2", _sign_injected(form, Builder.xor)),
        row(f"fmin.{s}", f"00101 {code} rs2 rs1 000 rd {op}", "frd, frs1, frs2", _arithmetic("min", width, RS1, RS2)),
        row(f"fmax.{s}", f"00101 {code} rs2 rs1 001 rd {op}", "frd, frs1, frs2", _arithmetic("max", width, RS1, RS2)),
        row(f"feq.{s}", f"10100 {code} rs2 rs1 010 rd {op}", "rd, frs1, frs2", _to_register("eq", width, RS1, RS2)),
        row(f"flt.{s}", f"10100 {code} rs2 rs1 001 rd {op}", "rd, frs1, frs2", _to_register("lt", width, RS1, RS2)),
        row(f"fle.{s}", f"10100 {code} rs2 rs1 000 rd {op}", "rd, frs1, frs2", _to_register("le", width, RS1, RS2)),
        row(f"fclass.{s}", f"11100 {code} 00000 rs1 001 rd {op}", "rd, frs1", _classify(width)),
        *(
            instruction(form.extension, xlens=xlens)(
                f"fcvt.{name}.{s}",
                f"11000 {code} {rs2} rs1 rm rd {op}",
                "rd, frs1, rm",
                _to_register(f"to_{integer}", width, RS1),
            )
            for name, integer, rs2, xlens in INTEGERS
        ),
        *(
            instruction(form.extension, xlens=xlens)(
                f"fcvt.{s}.{name}", f"11010 {code} {rs2} rs1 rm rd {op}", "frd, rs1, rm", _from_integer(integer, width)
            )
            for name, integer, rs2, xlens in INTEGERS
        ),
        instruction(form.extension, xlens=BOTH if width == 32 else (64,))(
            f"fmv.x.{form.memory}", f"11100 {code} 00000 rs1 000 rd {op}", "rd, frs1", _move_to_integer(width)
        ),
        instruction(form.extension, xlens=BOTH if width == 32 else (64,))(
            f"fmv.{form.memory}.x", f"11110 {code} 00000 rs1 000 rd {op}", "frd, rs1", _move_from_integer(width)
        ),
    ]


_convert = instruction("D")
INSTRUCTIONS = [
    *_rows(SINGLE),
    *_rows(DOUBLE),
    _convert("fcvt.s.d", "01000 00 00001 rs1 rm rd 1010011", "frd, frs1, rm", _change_format(64, 32)),
    _convert("fcvt.d.s", "01000 01 00000 rs1 rm rd 1010011", "frd, frs1, rm", _change_format(32, 64)),
]
