"""What random programs are made of: for each extension, the kinds of units it has and how often.

Where Unicorn 2.1 (QEMU 5.0) is known to differ from the current specification, the units keep off, and say so here:

* a result of single precision is not NaN-boxed, and operands are not checked for it: F programs see only the lower
  halves of registers, and D programs convert through f31 and then clear it;
* FMIN and FMAX of a signalling NaN follow version 2.0 of F: their operands come from arithmetic, which quiets them;
* a fused multiply-add of zero, infinity and a quiet NaN raises no NV: addends come from integers;
* SC compares the address, but not the width of the reservation: LR and SC come in pairs.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

from random_programs import (
    DATA,
    DATA_SIZE,
    ISA,
    POINTER,
    SHORT_DATA,
    Line,
    Program,
    Row,
    Unit,
    line,
    random_line,
)

from core.isa.instruction import Flow

Rng = random.Random
Recipe = Callable[[Rng], Unit]
WINDOW = DATA_SIZE // 2
FFLAGS = 0x001


def rows(extension: str, *, without: Sequence[str] = ()) -> list[Row]:
    return [row for row in ISA.rows() if row.extension == extension and row.name not in without]


def named(*names: str) -> list[Row]:
    return [row for row in ISA.rows() if row.name in names]


def is_memory(row: Row) -> bool:
    return "(" in row.syntax


def any_of(choices: Sequence[Row], **fixed: int) -> Recipe:
    """One of these, with random operands."""
    return lambda rng: (random_line(rng, rng.choice(choices), **fixed),)


def skipping(choices: Sequence[Row]) -> Recipe:
    """A branch or jump over some of the units that follow."""

    def make(rng: Rng) -> Unit:
        chosen = random_line(rng, rng.choice(choices), imm=0)
        return (Line(chosen.word, chosen.length, chosen.row, rng.randint(1, 5)),)

    return make


def offset(rng: Rng, alignment: int = 1) -> int:
    """An offset from the middle of the data page that keeps eight bytes inside."""
    return rng.randrange(-WINDOW, WINDOW - 8) // alignment * alignment


def accessing(choices: Sequence[Row]) -> Recipe:
    """A load or store at a random address, misaligned ones too."""
    return lambda rng: (random_line(rng, rng.choice(choices), rs1=DATA, imm=offset(rng)),)


# I

LOADS_AND_STORES = [row for row in rows("I") if is_memory(row) and row.name != "jalr"]
ALU = [row for row in rows("I", without=("ecall", "ebreak", "jal")) if not is_memory(row) and row.flow is Flow.NEXT]
BRANCHES = [row for row in rows("I") if row.flow is Flow.BRANCH]


def jump_and_link_register(rng: Rng) -> Unit:
    """JALR over one instruction; the lowest bit of the sum is ignored."""
    jump = random_line(rng, ISA.by_name["jalr"], rs1=POINTER, imm=12 + rng.randint(0, 1))
    return (line("auipc", rd=POINTER), jump, random_line(rng, ISA.by_name["addi"]))


# A


def pointing(rng: Rng, size: int) -> tuple[Line, int]:
    imm = offset(rng, size)
    return line("addi", rd=POINTER, rs1=DATA, imm=imm), imm


AMOS = [row for row in rows("A") if row.name.startswith("amo")]


def amo(rng: Rng) -> Unit:
    row = rng.choice(AMOS)
    return (pointing(rng, 4 if row.name.endswith("w") else 8)[0], random_line(rng, row, rs1=POINTER))


def reservation(rng: Rng) -> Unit:
    """LR and SC, undisturbed; or with a store between; or elsewhere; or twice."""
    width, size, store = rng.choice((("w", 4, "sw"), ("d", 8, "sd")))
    point, imm = pointing(rng, size)
    reserve = random_line(rng, ISA.by_name[f"lr.{width}"], rs1=POINTER)
    conditional = random_line(rng, ISA.by_name[f"sc.{width}"], rs1=POINTER)
    between = rng.choice(
        (
            (),
            (),
            (random_line(rng, ISA.by_name[store], rs1=DATA, imm=imm),),
            (pointing(rng, size)[0],),
            (random_line(rng, ISA.by_name[f"sc.{width}"], rs1=POINTER),),
        )
    )
    return (point, reserve, *between, conditional)


# C

C_ROWS = rows("C", without=("c.ebreak", "c.j", "c.jr", "c.jalr", "c.beqz", "c.bnez", "c.addi16sp"))
C_ALU = [row for row in C_ROWS if not is_memory(row)]
C_SHORT = [row for row in C_ROWS if "(rs1)" in row.syntax]
C_STACK = [row for row in C_ROWS if "(sp)" in row.syntax]


def adjust_stack(rng: Rng) -> Unit:
    amount = 16 * (rng.randrange(1, 32))
    amount = amount if amount < 512 else 496
    return (line("c.addi16sp", imm=-amount), line("c.addi16sp", imm=amount))


def compressed_jump(rng: Rng) -> Unit:
    name = rng.choice(("c.jr", "c.jalr"))
    return (
        line("auipc", rd=POINTER),
        line("addi", rd=POINTER, rs1=POINTER, imm=12),
        line(name, rs1=POINTER),
        random_line(rng, named("c.addi")[0]),
    )


# F and D


def fp_rows(width: int, *names: str) -> list[Row]:
    suffix = {32: "s", 64: "d"}[width]
    return named(*(f"{name}.{suffix}" for name in names))


def fp_arithmetic(width: int) -> Recipe:
    return any_of(fp_rows(width, "fadd", "fsub", "fmul", "fdiv", "fsqrt", "fsgnj", "fsgnjn", "fsgnjx"))


def fp_to_integer(width: int) -> Recipe:
    suffix = {32: "s", 64: "d"}[width]
    converts = [f"fcvt.{integer}.{suffix}" for integer in ("w", "wu", "l", "lu")]
    return any_of(
        [*fp_rows(width, "feq", "flt", "fle", "fclass"), *named(*converts, f"fmv.x.{'w' if width == 32 else 'd'}")]
    )


def fp_from_integer(width: int) -> Recipe:
    suffix = {32: "s", 64: "d"}[width]
    converts = [f"fcvt.{suffix}.{integer}" for integer in ("w", "wu", "l", "lu")]
    return any_of(named(*converts, f"fmv.{'w' if width == 32 else 'd'}.x"))


def fp_extremum(width: int) -> Recipe:
    suffix = {32: "s", 64: "d"}[width]

    def make(rng: Rng) -> Unit:
        return (
            random_line(rng, ISA.by_name[f"fadd.{suffix}"], rd=30),
            random_line(rng, ISA.by_name[f"fmul.{suffix}"], rd=28),
            random_line(rng, rng.choice(fp_rows(width, "fmin", "fmax")), rs1=30, rs2=28),
        )

    return make


def fp_fused(width: int) -> Recipe:
    suffix = {32: "s", 64: "d"}[width]

    def make(rng: Rng) -> Unit:
        addend = rng.choice(("w", "l"))
        return (
            random_line(rng, ISA.by_name[f"fcvt.{suffix}.{addend}"], rd=30),
            random_line(rng, rng.choice(fp_rows(width, "fmadd", "fmsub", "fnmadd", "fnmsub")), rs3=30),
        )

    return make


def fp_accessing(width: int) -> Recipe:
    return accessing(named("flw", "fsw") if width == 32 else named("fld", "fsd"))


def change_format(rng: Rng) -> Unit:
    return (
        random_line(rng, ISA.by_name["fcvt.s.d"], rd=31),
        random_line(rng, ISA.by_name["fcvt.d.s"], rs1=31),
        line("fmv.d.x", rd=31, rs1=0),
    )


def take_flags(rng: Rng) -> Unit:
    """The flags that were raised since the last time, into a register."""
    return (random_line(rng, ISA.by_name["csrrw"], csr=FFLAGS, rs1=0),)


C_D_SHORT = named("c.fld", "c.fsd")
C_D_STACK = named("c.fldsp", "c.fsdsp")


# Zicsr

WRITABLE_CSRS = (0x001, 0x002, 0x003, 0x340, 0x140, 0x142, 0x342, 0x143, 0x343)


def csr(rng: Rng) -> Unit:
    return (random_line(rng, rng.choice(rows("Zicsr")), csr=rng.choice(WRITABLE_CSRS)),)


# Extensions: recipes with their weights, and the width of the floating-point registers to compare.

PLAIN = ((6, any_of(ALU)), (1, skipping(BRANCHES)), (1, accessing(LOADS_AND_STORES)))
EXTENSIONS: dict[str, tuple[Sequence[tuple[int, Recipe]], int]] = {
    "I": (
        (
            (10, any_of(ALU)),
            (4, accessing(LOADS_AND_STORES)),
            (3, skipping(BRANCHES)),
            (1, skipping(named("jal"))),
            (1, jump_and_link_register),
        ),
        0,
    ),
    "M": (((10, any_of(rows("M"))), *PLAIN), 0),
    "A": (((6, amo), (3, reservation), *PLAIN), 0),
    "C": (
        (
            (10, any_of(C_ALU)),
            (2, any_of(C_SHORT, rs1=SHORT_DATA)),
            (2, any_of(C_STACK)),
            (2, skipping(named("c.j", "c.beqz", "c.bnez"))),
            (1, compressed_jump),
            (1, adjust_stack),
            (2, any_of(ALU)),
        ),
        0,
    ),
    "F": (
        (
            (10, fp_arithmetic(32)),
            (3, fp_to_integer(32)),
            (3, fp_from_integer(32)),
            (2, fp_extremum(32)),
            (4, fp_fused(32)),
            (3, fp_accessing(32)),
            (8, take_flags),
            (2, any_of(ALU)),
        ),
        32,
    ),
    "D": (
        (
            (10, fp_arithmetic(64)),
            (3, fp_to_integer(64)),
            (3, fp_from_integer(64)),
            (2, fp_extremum(64)),
            (4, fp_fused(64)),
            (3, fp_accessing(64)),
            (2, change_format),
            (8, take_flags),
            (1, any_of(C_D_SHORT, rs1=SHORT_DATA)),
            (1, any_of(C_D_STACK)),
            (2, any_of(ALU)),
        ),
        64,
    ),
    "Zicsr": (((6, csr), *PLAIN), 32),
}
# Both precisions in the same registers, without the restrictions that Unicorn asks for.
MIXED_FORMATS = [row for row in [*rows("F"), *rows("D")] if not is_memory(row) and not row.name.startswith("fsqrt")]
FOR_THE_ENGINE = {
    "formats": (
        ((10, any_of(MIXED_FORMATS)), (2, fp_accessing(32)), (2, fp_accessing(64)), (2, any_of(ALU))),
        64,
    ),
}


# States

EDGES = (0, 1, 2, -1, -2, 1 << 63, (1 << 63) - 1, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 32, 0x8000_0001, 63, 64)
SPECIAL_32 = (0, 1, 0x007F_FFFF, 0x0080_0000, 0x0080_0001, 0x3F80_0000, 0x7F7F_FFFF, 0x7F80_0000, 0x7FC0_0000)
SPECIAL_64 = (
    0,
    1,
    (1 << 52) - 1,
    1 << 52,
    0x3FF0_0000_0000_0000,
    0x7FEF_FFFF_FFFF_FFFF,
    0x7FF0_0000_0000_0000,
    0x7FF8_0000_0000_0000,
    0x43E0_0000_0000_0000,
    0x41DF_FFFF_FFC0_0000,
)


def random_x(rng: Rng) -> int:
    """Any number, or a small one, or one at an edge."""
    kind = rng.random()
    if kind < 0.5:
        return rng.getrandbits(64)
    if kind < 0.7:
        return rng.randint(-100, 100) % (1 << 64)
    if kind < 0.85:
        return (rng.choice(EDGES) + rng.randint(-1, 1)) % (1 << 64)
    return rng.getrandbits(32)


def random_f(rng: Rng, width: int) -> int:
    """Any pattern, or a number of everyday size, or a special one; either sign."""
    exponent_bits, bias = (8, 127) if width == 32 else (11, 1023)
    fraction_bits = width - 1 - exponent_bits
    sign = rng.getrandbits(1) << (width - 1)
    kind = rng.random()
    if kind < 0.3:
        return rng.getrandbits(width)
    if kind < 0.4:
        return sign | rng.choice(SPECIAL_32 if width == 32 else SPECIAL_64)
    if kind < 0.5:
        return sign | rng.getrandbits(fraction_bits)  # subnormal
    fraction = rng.getrandbits(fraction_bits) if kind < 0.8 else rng.getrandbits(4) << (fraction_bits - 4)
    return sign | (bias + rng.randint(-8, 8)) << fraction_bits | fraction


class States:
    """Makers of states: numbers are drawn from pools, because there are millions of them."""

    def __init__(self, rng: Rng, floats: int):
        self.rng = rng
        self.x = [random_x(rng) for _ in range(2000)]
        self.f = [random_f(rng, floats) for _ in range(4000)] if floats else [0]

    def make(self) -> bytes:
        fcsr = self.rng.randrange(5) << 5 | self.rng.getrandbits(5)
        return struct.pack("<64Q", fcsr, *self.rng.choices(self.x, k=31), *self.rng.choices(self.f, k=32))


def random_program(extension: str, rng: Rng, states: States, units: int, passes: int) -> Program:
    """A program of an extension with so many units, and so many states to run on."""
    recipes, floats = (EXTENSIONS | FOR_THE_ENGINE)[extension]
    weights = [weight for weight, _ in recipes]
    makers = [recipe for _, recipe in recipes]
    chosen = tuple(maker(rng) for maker in rng.choices(makers, weights, k=units))
    return Program(chosen, tuple(states.make() for _ in range(passes)), rng.randbytes(DATA_SIZE), floats)
