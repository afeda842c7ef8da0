"""The notation of encodings: what it says about words, and what it refuses."""

import pytest

from core.isa.encoding import EncodingError, parse


def test_fixed_bits_are_mask_and_match():
    encoding = parse("0100000 rs2 rs1 000 rd 0110011")
    assert encoding.mask == 0xFE00707F
    assert encoding.match == 0x40000033
    assert encoding.length == 4


def test_ignored_bits_are_in_no_mask():
    assert parse("------------ ----- 001 ----- 0001111").mask == 0x707F


def test_scattered_bits_of_an_immediate_come_back_together():
    operand = parse("imm[20|10:1|11|19:12] rd 1101111").operands["imm"]
    for value in (0, 2, -2, 0xFFFFE, -0x100000, 0x800, -0x1000):
        assert operand.extract(operand.insert(value)) == value


def test_unsigned_immediates_stay_positive():
    assert parse("uimm[11:0] ----- 000 ----- 0001111").operands["imm"].extract(0xFFF00000) == 0xFFF


def test_primed_registers_begin_at_x8():
    rd = parse("010 uimm[5:3] rs1' uimm[2|6] rd' 00").operands["rd"]
    assert [rd.extract(number << 2) for number in range(8)] == list(range(8, 16))


def test_one_field_may_be_two_operands():
    operands = parse("000 imm[5] rd/rs1 imm[4:0] 01").operands
    assert operands["rd"] == operands["rs1"]


def test_implied_operands_are_constants():
    assert parse("010 imm[5] rd imm[4:0] 01", rs1=0).operands["rs1"].extract(0xFFFF) == 0


def test_excluded_registers_do_not_match():
    encoding = parse("011 nzimm[17] rd!={0,2} nzimm[16:12] 01")
    assert encoding.matches(0x6285)  # c.lui t0, 1
    assert not encoding.matches(0x6005)
    assert not encoding.matches(0x6105)


def test_a_nonzero_immediate_must_not_be_zero():
    encoding = parse("000 nzuimm[5:4|9:6|2|3] rd' 00")
    assert not encoding.matches(0x0000)
    assert encoding.matches(0x0040)


def test_reserved_rounding_modes_do_not_match():
    encoding = parse("00000 00 rs2 rs1 rm rd 1010011")
    assert [encoding.matches(0x53 | mode << 12) for mode in range(8)] == [True] * 5 + [False, False, True]


def test_encode_refuses_operands_that_do_not_fit():
    encoding = parse("imm[11:0] rs1 000 rd 0010011")
    assert encoding.encode({"rd": 10, "rs1": 0, "imm": -1}) == 0xFFF00513
    with pytest.raises(EncodingError):
        encoding.encode({"imm": 2048})
    with pytest.raises(EncodingError):
        encoding.encode({"rd": 32})
    with pytest.raises(EncodingError):
        encoding.encode({"rs2": 1})


def test_an_odd_branch_offset_is_refused():
    with pytest.raises(EncodingError):
        parse("imm[12|10:5] rs2 rs1 000 imm[4:1|11] 1100011").encode({"imm": 3})


@pytest.mark.parametrize("text", ["0000000 rs2 rs1 000 rd 011001", "what[1] 000", "rd rd rd"])
def test_nonsense_is_refused(text):
    with pytest.raises((EncodingError, KeyError)):
        parse(text)
