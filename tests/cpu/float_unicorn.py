"""Floating-point instructions executed by Unicorn, many operands in one run, under the names of core.cpu.softfloat."""

import struct

from float_oracle import OPERATIONS, RNE
from unicorn import UC_ARCH_RISCV, UC_MODE_RISCV64, Uc
from unicorn.riscv_const import UC_RISCV_REG_X5, UC_RISCV_REG_X6, UC_RISCV_REG_X7, UC_RISCV_REG_X16

CODE, INPUT, OUTPUT = 0x1000, 0x1000_0000, 0x2000_0000
FFLAGS, FCSR, MSTATUS, MSTATUS_FS = 0x001, 0x003, 0x300, 0x6000
DYN = 7

# funct5, and what the fields rs2 and rm hold where they are not an operand and the rounding mode.
ENCODINGS = {
    "add": (0x00, None, DYN),
    "sub": (0x01, None, DYN),
    "mul": (0x02, None, DYN),
    "div": (0x03, None, DYN),
    "sqrt": (0x0B, 0, DYN),
    "min": (0x05, None, 0),
    "max": (0x05, None, 1),
    "le": (0x14, None, 0),
    "lt": (0x14, None, 1),
    "eq": (0x14, None, 2),
    "classify": (0x1C, 0, 1),
    "from_fp64": (0x08, 1, DYN),
    "from_fp32": (0x08, 0, DYN),
}
for _number, _type in enumerate(("i32", "u32", "i64", "u64")):
    ENCODINGS[f"to_{_type}"] = (0x18, _number, DYN)
    ENCODINGS[f"from_{_type}"] = (0x1A, _number, DYN)
RESULT_IS_INTEGER = (0x14, 0x18, 0x1C)


def i_type(opcode, funct3, rd, rs1, imm):
    return imm << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode


def load(rd, rs1, offset):
    return i_type(0x03, 3, rd, rs1, offset)


def store(rs2, rs1, offset):
    return rs2 << 20 | rs1 << 15 | 3 << 12 | offset << 7 | 0x23


def move_to_float(rd, rs1):
    return 0x79 << 25 | rs1 << 15 | rd << 7 | 0x53


def move_to_integer(rd, rs1):
    return 0x71 << 25 | rs1 << 15 | rd << 7 | 0x53


def instruction(name):
    """The instruction under test, from f1, f2, f3 (or x10) to f0 (or x14); and whether it was x14."""
    prefix, operation = name.split("_", 1)
    double = int(prefix == "fp64")
    if operation == "fma":
        return 3 << 27 | double << 25 | 2 << 20 | 1 << 15 | DYN << 12 | 0x43, False
    funct5, rs2, rm = ENCODINGS[operation]
    to_x = funct5 in RESULT_IS_INTEGER
    rs1 = 10 if OPERATIONS[name].integer_operand else 1
    fields = (2 if rs2 is None else rs2) << 20 | rs1 << 15 | rm << 12 | (14 if to_x else 0) << 7
    return funct5 << 27 | double << 25 | fields | 0x53, to_x


def program(name):
    """A loop over rows of three operands and fcsr at x5 up to x7, writing rows of result and fflags to x6."""
    tested, to_x = instruction(name)
    head = [i_type(0x73, 2, 0, 16, MSTATUS)]
    loop = [load(10, 5, 0), load(11, 5, 8), load(12, 5, 16), load(13, 5, 24)]
    loop += [move_to_float(f, x) for f, x in ((1, 10), (2, 11), (3, 12))]
    loop += [i_type(0x73, 1, 0, 13, FCSR), tested]
    loop += [] if to_x else [move_to_integer(14, 0)]
    loop += [i_type(0x73, 2, 15, 0, FFLAGS), store(14, 6, 0), store(15, 6, 8)]
    loop += [i_type(0x13, 0, 5, 5, 32), i_type(0x13, 0, 6, 6, 16)]
    back = -4 * len(loop)
    assert -2048 <= back < 0
    offset = back & 0x1FFF
    branch = (offset >> 12 & 1) << 31 | (offset >> 5 & 63) << 25 | (offset >> 1 & 15) << 8 | (offset >> 11 & 1) << 7
    loop.append(branch | 7 << 20 | 5 << 15 | 1 << 12 | 0x63)
    return struct.pack(f"<{len(head + loop)}I", *head, *loop)


def execute(name, cases):
    """Results and flags of the instruction for each (operands, rm); NaN boxes, which Unicorn forgets, are cut off."""
    boxed = OPERATIONS[name].form.width == 32 and not OPERATIONS[name].integer_operand
    box = 0xFFFF_FFFF << 32 if boxed else 0
    rows = bytearray()
    for operands, rm in cases:
        padded = [*operands, 0, 0][:3]
        rows += struct.pack("<4Q", *(x | box for x in padded), (RNE if rm is None else rm) << 5)
    machine = Uc(UC_ARCH_RISCV, UC_MODE_RISCV64)
    code = program(name)
    machine.mem_map(CODE, 0x1000)
    machine.mem_write(CODE, code)
    for base, size in ((INPUT, 32 * len(cases)), (OUTPUT, 16 * len(cases))):
        machine.mem_map(base, (size + 0xFFF) & ~0xFFF)
    machine.mem_write(INPUT, bytes(rows))
    for register, value in (
        (UC_RISCV_REG_X5, INPUT),
        (UC_RISCV_REG_X6, OUTPUT),
        (UC_RISCV_REG_X7, INPUT + len(rows)),
        (UC_RISCV_REG_X16, MSTATUS_FS),
    ):
        machine.reg_write(register, value)
    machine.emu_start(CODE, CODE + len(code))
    words = struct.unpack(f"<{2 * len(cases)}Q", machine.mem_read(OUTPUT, 16 * len(cases)))
    if name.startswith("fp32") and not instruction(name)[1]:
        words = [word & 0xFFFF_FFFF if not index % 2 else word for index, word in enumerate(words)]
    return list(zip(words[::2], words[1::2], strict=True))
