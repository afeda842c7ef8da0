"""PLIC: priorities, thresholds, claims, levels that stay high, and who is told."""

import pytest

from core.board.plic import plic_read, plic_set_line, plic_write
from core.cpu.status import MIP_MEIP, MIP_SEIP

PRIORITY, PENDING, ENABLE, THRESHOLD, CLAIM = 0x0, 0x1000, 0x2000, 0x200000, 0x200004
S0, M0, S1 = 1, 0, 3  # contexts


def enable(bench, context, *sources):
    mask = sum(1 << source for source in sources)
    plic_write(bench.board, ENABLE + 0x80 * context, mask & 0xFFFFFFFF)
    plic_write(bench.board, ENABLE + 0x80 * context + 4, mask >> 32)


def priority(bench, source, value):
    plic_write(bench.board, PRIORITY + 4 * source, value)


def claim(bench, context):
    return plic_read(bench.board, CLAIM + 0x1000 * context)


def complete(bench, context, source):
    plic_write(bench.board, CLAIM + 0x1000 * context, source)


def test_a_raised_line_interrupts_the_contexts_that_enable_it(bench):
    enable(bench, S0, 10)
    priority(bench, 10, 1)
    plic_set_line(bench.board, 10, True)
    assert bench.harts[0].mip == MIP_SEIP
    assert bench.harts[0].attention != 0
    assert bench.harts[1].mip == 0


def test_m_and_s_contexts_of_a_hart_are_separate(bench):
    enable(bench, M0, 3)
    priority(bench, 3, 1)
    plic_set_line(bench.board, 3, True)
    assert bench.harts[0].mip == MIP_MEIP


def test_a_source_of_priority_0_never_interrupts(bench):
    enable(bench, S0, 10)
    plic_set_line(bench.board, 10, True)
    assert bench.harts[0].mip == 0
    assert claim(bench, S0) == 0
    assert plic_read(bench.board, PENDING) == 1 << 10


def test_the_threshold_masks_priorities_up_to_it(bench):
    enable(bench, S0, 10)
    priority(bench, 10, 3)
    plic_write(bench.board, THRESHOLD + 0x1000 * S0, 3)
    plic_set_line(bench.board, 10, True)
    assert bench.harts[0].mip == 0
    plic_write(bench.board, THRESHOLD + 0x1000 * S0, 2)
    assert bench.harts[0].mip == MIP_SEIP


def test_claims_go_by_priority_then_number(bench):
    enable(bench, S0, 5, 7, 40)
    for source, value in ((5, 1), (7, 2), (40, 2)):
        priority(bench, source, value)
        plic_set_line(bench.board, source, True)
    assert [claim(bench, S0) for _ in range(4)] == [7, 40, 5, 0]


def test_a_claim_lowers_the_line_and_a_completion_of_a_level_that_stays_raises_it_again(bench):
    enable(bench, S0, 10)
    priority(bench, 10, 1)
    plic_set_line(bench.board, 10, True)
    assert claim(bench, S0) == 10
    assert bench.harts[0].mip == 0
    assert claim(bench, S0) == 0
    complete(bench, S0, 10)
    assert bench.harts[0].mip == MIP_SEIP


def test_a_line_that_falls_is_no_longer_pending(bench):
    enable(bench, S0, 10)
    priority(bench, 10, 1)
    plic_set_line(bench.board, 10, True)
    plic_set_line(bench.board, 10, False)
    assert bench.harts[0].mip == 0
    assert plic_read(bench.board, PENDING) == 0


def test_one_context_claims_for_all(bench):
    for context in (S0, S1):
        enable(bench, context, 8)
    priority(bench, 8, 1)
    plic_set_line(bench.board, 8, True)
    assert [hart.mip for hart in bench.harts] == [MIP_SEIP, MIP_SEIP]
    assert claim(bench, S1) == 8
    assert [hart.mip for hart in bench.harts] == [0, 0]


def test_completion_of_a_source_that_is_not_enabled_is_ignored(bench):
    enable(bench, S0, 8)
    priority(bench, 8, 1)
    plic_set_line(bench.board, 8, True)
    assert claim(bench, S0) == 8
    complete(bench, S1, 8)
    complete(bench, S0, 9)
    complete(bench, S0, 0xFFFFFFFF)
    assert bench.harts[0].mip == 0


def test_registers_keep_only_the_bits_that_exist(bench):
    plic_write(bench.board, ENABLE, 0xFFFFFFFF)
    plic_write(bench.board, ENABLE + 4, 0xFFFFFFFF)
    priority(bench, 1, 0xFF)
    priority(bench, 0, 7)
    assert plic_read(bench.board, ENABLE) == 0xFFFFFFFE
    assert plic_read(bench.board, ENABLE + 4) == (1 << 22) - 1
    assert plic_read(bench.board, PRIORITY + 4) == 7
    assert plic_read(bench.board, PRIORITY) == 0


@pytest.mark.parametrize("offset", [4 * 54, 0x1008, 0x2000 + 0x80 * 4, 0x200000 + 0x1000 * 4, 0x200008, 0x5FFFFC])
def test_what_is_not_there_reads_zero_and_ignores_writes(bench, offset):
    plic_write(bench.board, offset, 0xFFFFFFFF)
    assert plic_read(bench.board, offset) == 0
