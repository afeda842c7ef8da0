"""Goldfish RTC: the host's wall clock, settable, with one alarm."""

import time

from core.board.clock import board_time, freeze_clock, thaw_clock
from core.board.poll import board_tick, next_deadline_ns
from core.board.rtc import rtc_read, rtc_write
from core.board.state import NEVER
from core.board.virt import Machine
from native import monotonic_ns

TIME_LOW, TIME_HIGH, ALARM_LOW, ALARM_HIGH, IRQ_ENABLED = 0x00, 0x04, 0x08, 0x0C, 0x10
CLEAR_ALARM, ALARM_STATUS, CLEAR_INTERRUPT = 0x14, 0x18, 0x1C
IRQ_LEVEL = 1 << 11
SECOND = 1_000_000_000


def now(bench):
    low = rtc_read(bench.board, TIME_LOW)
    return rtc_read(bench.board, TIME_HIGH) << 32 | low


def set_alarm(bench, when):
    rtc_write(bench.board, ALARM_HIGH, when >> 32)
    rtc_write(bench.board, ALARM_LOW, when & 0xFFFFFFFF)


def test_it_tells_the_hosts_time(bench):
    assert abs(now(bench) - time.time_ns()) < SECOND


def test_it_can_be_set(bench):
    rtc_write(bench.board, TIME_HIGH, 0x10)
    rtc_write(bench.board, TIME_LOW, 0x20)
    assert 0 <= now(bench) - (0x10 << 32 | 0x20) < SECOND


def test_an_alarm_in_the_past_rings_at_once(bench):
    rtc_write(bench.board, IRQ_ENABLED, 1)
    set_alarm(bench, 1)
    assert bench.board.plic.level == IRQ_LEVEL
    assert rtc_read(bench.board, ALARM_STATUS) == 0
    rtc_write(bench.board, CLEAR_INTERRUPT, 1)
    assert bench.board.plic.level == 0


def test_an_alarm_rings_when_a_hart_looks_after_its_time(bench):
    rtc_write(bench.board, IRQ_ENABLED, 1)
    set_alarm(bench, now(bench) + 2_000_000)
    assert rtc_read(bench.board, ALARM_STATUS) == 1
    deadline = next_deadline_ns(bench.harts[0])
    assert deadline <= monotonic_ns() + 2_000_000
    while monotonic_ns() <= deadline:
        pass
    board_tick(bench.harts[0])
    assert bench.board.plic.level == IRQ_LEVEL
    assert next_deadline_ns(bench.harts[0]) == NEVER


def test_a_paused_machine_s_clock_runs_on_as_qemu_s_does_and_rings_afterwards(bench):
    """QEMU's goldfish RTC follows the host (`-rtc clock=host`, the default), also while the machine is stopped."""
    rtc_write(bench.board, IRQ_ENABLED, 1)
    freeze_clock(bench.board)
    before, stands = now(bench), board_time(bench.board)
    set_alarm(bench, before + 1_000_000)
    while now(bench) < before + 2_000_000:
        pass
    assert board_time(bench.board) == stands
    thaw_clock(bench.board)
    board_tick(bench.harts[0])
    assert bench.board.plic.level == IRQ_LEVEL


def test_a_cleared_alarm_does_not_ring(bench):
    set_alarm(bench, now(bench) + SECOND)
    rtc_write(bench.board, CLEAR_ALARM, 1)
    assert rtc_read(bench.board, ALARM_STATUS) == 0
    assert next_deadline_ns(bench.harts[0]) == NEVER


def test_a_disabled_interrupt_waits_until_it_is_enabled(bench):
    set_alarm(bench, 1)
    assert bench.board.plic.level == 0
    rtc_write(bench.board, IRQ_ENABLED, 1)
    assert bench.board.plic.level == IRQ_LEVEL


def test_in_lockstep_it_counts_with_the_instructions(make_bench):
    bench = make_bench(Machine(memory=1 << 20, lockstep=True))
    first = now(bench)
    assert now(bench) == first
    bench.harts[0].horizon = 10_000
    assert now(bench) - first == 100_000
