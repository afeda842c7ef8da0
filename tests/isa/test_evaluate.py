"""The meanings in the table, evaluated on Python integers, for what the manual gives as tables and examples."""

import pytest

from core.isa.evaluate import Evaluator
from core.isa.table import table
from core.isa.text import assemble

SMALLEST = {32: 1 << 31, 64: 1 << 63}


class Registers:
    """A state without memory."""

    def __init__(self, rs1=0, rs2=0):
        self.x = [0] * 32
        self.x[1], self.x[2] = rs1, rs2
        self.f = [0] * 32
        self.frm = 0
        self.pc = 0x1000


def execute(name, rs1=0, rs2=0, xlen=64, **operands):
    state = Registers(rs1, rs2)
    fields = {"rd": 3, "rs1": 1, "rs2": 2} | operands
    has = table(xlen).by_name[name].encoding.operands
    word = assemble(name, xlen, **{key: value for key, value in fields.items() if key in has or key not in fields})
    Evaluator(state, xlen).execute(table(xlen).decode(word))
    return state


@pytest.mark.parametrize("xlen", [32, 64])
def test_division_by_zero_and_overflow_have_the_values_of_table_12_1(xlen):
    ones, smallest = (1 << xlen) - 1, SMALLEST[xlen]
    assert execute("divu", 7, 0, xlen).x[3] == ones
    assert execute("remu", 7, 0, xlen).x[3] == 7
    assert execute("div", 7, 0, xlen).x[3] == ones
    assert execute("rem", 7, 0, xlen).x[3] == 7
    assert execute("div", smallest, ones, xlen).x[3] == smallest
    assert execute("rem", smallest, ones, xlen).x[3] == 0


def test_signed_division_rounds_towards_zero():
    minus_seven = -7 % (1 << 64)
    assert execute("div", minus_seven, 2).x[3] == -3 % (1 << 64)
    assert execute("rem", minus_seven, 2).x[3] == -1 % (1 << 64)


@pytest.mark.parametrize("xlen", [32, 64])
def test_the_upper_half_of_a_product_by_signs(xlen):
    ones = (1 << xlen) - 1
    assert execute("mulh", ones, ones, xlen).x[3] == 0
    assert execute("mulhu", ones, ones, xlen).x[3] == ones - 1
    assert execute("mulhsu", ones, ones, xlen).x[3] == ones


def test_word_operations_extend_the_sign_of_32_bits():
    assert execute("addw", 0x7FFF_FFFF, 1).x[3] == 0xFFFF_FFFF_8000_0000
    assert execute("sllw", 1, 31 + 32).x[3] == 0xFFFF_FFFF_8000_0000
    assert execute("divw", 1 << 31, 0xFFFF_FFFF).x[3] == 0xFFFF_FFFF_8000_0000
    assert execute("remuw", 0xFFFF_FFFF, 0).x[3] == (1 << 64) - 1


def test_shifts_take_the_lower_bits_of_their_count():
    assert execute("sll", 1, 64 + 5).x[3] == 32
    assert execute("sll", 1, 32 + 5, xlen=32).x[3] == 32
    assert execute("sra", 1 << 63, 63).x[3] == (1 << 64) - 1


def test_x0_stays_zero():
    assert execute("addi", 5, rd=0, imm=1).x[0] == 0


def test_branches_and_jumps():
    assert execute("beq", 1, 1, imm=-8).pc == 0xFF8
    assert execute("beq", 1, 2, imm=-8).pc == 0x1004
    linked = execute("jalr", 0x2001, imm=4)
    assert (linked.pc, linked.x[3]) == (0x2004, 0x1004)


def test_lui_and_auipc_extend_the_sign():
    assert execute("lui", imm=-0x80000000).x[3] == 0xFFFF_FFFF_8000_0000
    assert execute("auipc", imm=-0x1000).x[3] == 0
