"""Atomics on the slow path, and LR/SC (unprivileged ISA, chapter 13)."""

from __future__ import annotations

import pytest
from harness import cause, words

from core.board.virt import CLINT_BASE, RAM_BASE
from core.cpu.status import CAUSE_LOAD_ACCESS, CAUSE_STORE_ACCESS
from core.isa.builder import AMO_OPERATIONS

PLACE = RAM_BASE + 0x2000
M64 = (1 << 64) - 1


def signed(value, bits):
    return value - (1 << bits) if value >> bits - 1 else value


MEANING = {
    "add": lambda a, b, bits: a + b,
    "xchg": lambda a, b, bits: b,
    "xor": lambda a, b, bits: a ^ b,
    "or": lambda a, b, bits: a | b,
    "and": lambda a, b, bits: a & b,
    "min": lambda a, b, bits: min(a, b, key=lambda v: signed(v, bits)),
    "max": lambda a, b, bits: max(a, b, key=lambda v: signed(v, bits)),
    "umin": lambda a, b, bits: min(a, b),
    "umax": lambda a, b, bits: max(a, b),
}


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("operation", AMO_OPERATIONS)
def test_an_amo_stores_its_result_and_returns_what_was_there(engine, machine, hart, operation, size):
    bits = 8 * size
    mask = (1 << bits) - 1
    for a, b in ((5, 3), (mask, 1), (1, mask), (1 << bits - 1, mask >> 1)):
        machine.write(PLACE, a.to_bytes(size, "little"))
        number = AMO_OPERATIONS.index(operation)
        assert engine.amo_slow(hart, PLACE, number, size, b | (M64 & ~mask)) == a
        assert int.from_bytes(machine.read(PLACE, size), "little") == MEANING[operation](a, b, bits) & mask


@pytest.mark.parametrize("place", [PLACE + 2, PLACE + 4, CLINT_BASE + 0x4000, 0x5000_0000])
def test_atomics_that_are_misaligned_or_not_in_ram_are_access_faults(engine, hart, place):
    engine.amo_slow(hart, place, 0, 8, 1)
    assert (cause(hart), hart.tval) == (CAUSE_STORE_ACCESS, place)
    engine.load_reserved(hart, place, 8)
    assert (cause(hart), hart.tval) == (CAUSE_LOAD_ACCESS, place)
    engine.store_conditional(hart, place, 8, 1)
    assert (cause(hart), hart.tval) == (CAUSE_STORE_ACCESS, place)


@pytest.mark.parametrize("size", [4, 8])
def test_sc_stores_after_lr_and_only_once(engine, machine, hart, size):
    words(machine, 0x2000, [0x1122334455667788])
    assert engine.load_reserved(hart, PLACE, size) == 0x1122334455667788 & ((1 << 8 * size) - 1)
    assert engine.store_conditional(hart, PLACE, size, 0xA5) == 0
    assert machine.read(PLACE, size) == 0xA5.to_bytes(size, "little")
    assert engine.store_conditional(hart, PLACE, size, 0x5A) == 1
    assert machine.read(PLACE, size) == 0xA5.to_bytes(size, "little")


@pytest.mark.parametrize(("place", "size"), [(PLACE + 8, 8), (PLACE, 4)])
def test_sc_fails_for_another_place_or_width(engine, hart, place, size):
    engine.load_reserved(hart, PLACE, 8)
    assert engine.store_conditional(hart, place, size, 1) == 1


def test_sc_fails_after_somebody_else_wrote(engine, machine, hart):
    words(machine, 0x2000, [1])
    engine.load_reserved(hart, PLACE, 8)
    words(machine, 0x2000, [2])
    assert engine.store_conditional(hart, PLACE, 8, 3) == 1
    assert machine.read(PLACE, 1) == b"\2"


def test_two_harts_do_not_both_win(engine, pair):
    first, second = pair.harts
    engine.load_reserved(first, PLACE, 8)
    engine.load_reserved(second, PLACE, 8)
    assert engine.store_conditional(second, PLACE, 8, 2) == 0
    assert engine.store_conditional(first, PLACE, 8, 1) == 1
