"""The native decoder fills slots as the table decodes."""

import random

import pytest

from core.cpu import decoder
from core.cpu.decoder import fill_slot, find_row, handler_address
from core.cpu.handlers import DISCARD, DYNAMIC, FAR, SCALE, ZERO_SINK, handler_number
from core.cpu.state import PAGE_SIZE, Slot
from core.isa.instruction import Flow
from core.isa.table import table
from native import Area, Unit, fn, u32

ISA = table(64)


@fn
def row_of(word: u32) -> u32:
    return find_row(word)


@pytest.fixture(scope="module")
def native():
    """The decoder as machine code; the address of a handler is its number."""
    ir = "define i64 @handler_address(i32 %number) {\n  %wide = zext i32 %number to i64\n  ret i64 %wide\n}\n"
    return Unit("decoder-test", exports=[fill_slot, row_of], ir=ir).load()


@pytest.fixture
def slot():
    with Area.allocate(Slot.size()) as area:
        yield Slot(area.address)


def expected(word, offset):
    """Handler, imm, rd, rs1, rs2, aux."""
    insn = ISA.decode(word)
    if insn is None:
        return decoder.ILLEGAL
    flow, imm, variant = insn.instruction.flow, insn.imm, 0
    if flow in (Flow.BRANCH, Flow.JUMP):
        in_page = offset < PAGE_SIZE and 0 <= offset + imm < PAGE_SIZE
        imm, variant = (imm * SCALE, 0) if in_page else (imm, FAR)
    if flow in (Flow.JUMP, Flow.INDIRECT) and insn.rd == 0:
        variant |= DISCARD
    if insn.instruction.has_rounding_mode and insn.aux == 7:
        variant |= DYNAMIC
    number = handler_number(ISA.instructions.index(insn.instruction), insn.length, variant)
    rd = ZERO_SINK if insn.rd == 0 and insn.instruction.writes_x else insn.rd
    return number, imm % (1 << 32), rd, insn.rs1, insn.rs2, insn.aux


def filled(fill, slot, word, offset):
    fill(slot, word, offset)
    if slot.handler == decoder.ILLEGAL:
        return decoder.ILLEGAL
    return slot.handler, slot.imm, slot.rd, slot.rs1, slot.rs2, slot.aux


def test_every_16_bit_word(native, slot):
    for word in range(1 << 16):
        if word & 3 != 3:
            assert filled(native.fill_slot, slot, word, 0x800) == expected(word, 0x800), hex(word)


def test_random_32_bit_words(native, slot):
    rng = random.Random(1)
    for _ in range(30_000):
        word = rng.getrandbits(32) | 3
        assert filled(native.fill_slot, slot, word, 0x800) == expected(word, 0x800), hex(word)


def test_every_instruction_near_the_edges_of_a_page(native, slot):
    rng = random.Random(2)
    for row in ISA.rows():
        for offset in (0, 2, 0x7FE, 0xFFC, 0xFFE, PAGE_SIZE):
            for _ in range(20):
                word = rng.getrandbits(8 * row.encoding.length) & ~row.encoding.mask | row.encoding.match
                assert filled(native.fill_slot, slot, word, offset) == expected(word, offset), (row.name, hex(word))


def test_the_python_run_agrees(slot):
    handler_address.stand_in(lambda number: number)
    rng = random.Random(3)
    for row in ISA.rows():
        word = rng.getrandbits(8 * row.encoding.length) & ~row.encoding.mask | row.encoding.match
        assert filled(fill_slot, slot, word, 0x800) == expected(word, 0x800), row.name
