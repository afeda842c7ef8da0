"""CLINT: software interrupts, comparators, and time that follows the host or the instruction count."""

from core.board.clint import clint_read, clint_write
from core.board.clock import board_time
from core.board.poll import board_tick, next_deadline_ns
from core.board.state import NEVER
from core.board.virt import Machine
from core.cpu.status import ENVCFG_STCE, MIP_MSIP, MIP_MTIP, MIP_STIP
from native import monotonic_ns

MSIP, MTIMECMP, MTIME = 0x0, 0x4000, 0xBFF8


def test_msip_raises_and_lowers_a_software_interrupt(bench):
    clint_write(bench.board, MSIP + 4, 4, 1)
    assert bench.harts[1].mip == MIP_MSIP
    assert clint_read(bench.board, MSIP + 4, 4) == 1
    assert clint_read(bench.board, MSIP, 4) == 0
    clint_write(bench.board, MSIP + 4, 4, 0)
    assert bench.harts[1].mip == 0


def test_mtime_runs_at_10_mhz(bench):
    before, start = board_time(bench.board), monotonic_ns()
    while monotonic_ns() - start < 2_000_000:
        pass
    ticks = board_time(bench.board) - before
    assert 20_000 <= ticks < 20_000 + 10_000_000


def test_mtime_can_be_set(bench):
    clint_write(bench.board, MTIME, 8, 1 << 40)
    assert clint_read(bench.board, MTIME, 8) >> 40 == 1
    assert clint_read(bench.board, MTIME + 4, 4) == 1 << 8


def test_mtip_is_high_while_mtime_has_reached_mtimecmp(bench):
    clint_write(bench.board, MTIMECMP + 8, 8, 0)
    assert bench.harts[1].mip == MIP_MTIP
    clint_write(bench.board, MTIMECMP + 8, 8, NEVER)
    assert bench.harts[1].mip == 0
    assert bench.harts[0].mip == 0


def test_a_comparator_is_written_by_halves(bench):
    clint_write(bench.board, MTIMECMP, 4, 0x11111111)
    clint_write(bench.board, MTIMECMP + 4, 4, 0x22222222)
    assert clint_read(bench.board, MTIMECMP, 8) == 0x2222222211111111
    assert clint_read(bench.board, MTIMECMP + 4, 4) == 0x22222222


def test_a_tick_raises_what_has_come_due(bench):
    hart = bench.harts[0]
    clint_write(bench.board, MTIMECMP, 8, board_time(bench.board) + 1)
    while board_time(bench.board) < clint_read(bench.board, MTIMECMP, 8):
        pass
    board_tick(hart)
    assert hart.mip & MIP_MTIP


def test_the_deadline_is_when_the_comparator_comes_due(bench):
    hart = bench.harts[0]
    assert next_deadline_ns(hart) == NEVER
    clint_write(bench.board, MTIMECMP, 8, board_time(bench.board) + 10_000_000)
    assert 0.9e9 < next_deadline_ns(hart) - monotonic_ns() <= 1e9


def test_a_distant_comparator_does_not_overflow(bench):
    clint_write(bench.board, MTIMECMP, 8, NEVER - 1)
    assert next_deadline_ns(bench.harts[0]) > monotonic_ns()


def test_stimecmp_counts_only_when_sstc_is_on(bench):
    hart = bench.harts[0]
    hart.stimecmp = 0
    board_tick(hart)
    assert hart.mip == 0
    hart.menvcfg = ENVCFG_STCE
    board_tick(hart)
    assert hart.mip == MIP_STIP


def test_lockstep_time_counts_instructions_and_skips_sleep(make_bench):
    bench = make_bench(Machine(memory=1 << 20, lockstep=True))
    hart = bench.harts[0]
    assert board_time(bench.board) == 0
    hart.horizon = 1000
    assert board_time(bench.board) == 100
    hart.budget = 500
    assert board_time(bench.board) == 50


def test_what_is_not_there_reads_zero(bench):
    for offset in (MSIP + 8, MTIMECMP + 16, 0xC000):
        clint_write(bench.board, offset, 4, 1)
        assert clint_read(bench.board, offset, 4) == 0
