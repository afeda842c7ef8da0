"""Goldfish real-time clock: wall-clock nanoseconds and one alarm (the registers QEMU's goldfish_rtc has).

Reading TIME_LOW latches the upper half for TIME_HIGH; writing goes the other way round, TIME_HIGH first. The alarm
raises the interrupt when the clock reaches it, or at once when it lies in the past. Harts ring it (`rtc_tick`), so it
is as exact as their next look at the clock.
"""

from core.board.clock import wall_clock_ns
from core.board.lock import lock, unlock
from core.board.plic import plic_set_line
from core.board.state import NEVER, Board
from native import addressof, fn, monotonic_ns, u32, u64, wrap32, wrap64

TIME_LOW = 0x00
TIME_HIGH = 0x04
ALARM_LOW = 0x08
ALARM_HIGH = 0x0C
IRQ_ENABLED = 0x10
CLEAR_ALARM = 0x14
ALARM_STATUS = 0x18
CLEAR_INTERRUPT = 0x1C
SIZE = 0x24


@fn
def rtc_time(board: Board) -> u64:
    """Nanoseconds since 1970 as the guest sees them."""
    return wrap64(wall_clock_ns(board) + board.rtc.adjustment)


@fn
def rtc_deadline_ns(board: Board) -> u64:
    """CLOCK_MONOTONIC at which the alarm rings; NEVER when it is not armed."""
    rtc = board.rtc
    if rtc.armed == 0:
        return NEVER
    now: u64 = rtc_time(board)
    return wrap64(monotonic_ns() + (rtc.alarm - now)) if rtc.alarm > now else monotonic_ns()


@fn
def rtc_tick(board: Board) -> None:
    """Ring the alarm if it is due."""
    rtc = board.rtc
    lock(addressof(rtc.lock))
    ring_if_due(board)
    unlock(addressof(rtc.lock))


@fn
def ring_if_due(board: Board) -> None:
    """The alarm is armed and the time has come: disarm, interrupt. The caller holds the lock."""
    rtc = board.rtc
    if rtc.armed != 0 and rtc_time(board) >= rtc.alarm:
        rtc.armed = 0
        rtc.irq_pending = 1
        update_line(board)


@fn
def update_line(board: Board) -> None:
    """The interrupt line is high while an interrupt is pending and enabled."""
    plic_set_line(board, board.rtc.irq, (board.rtc.irq_pending & board.rtc.irq_enabled) != 0)


@fn
def rtc_read(board: Board, offset: u64) -> u32:
    """Read one 32-bit register; those that can only be written read 0."""
    rtc = board.rtc
    value: u32 = 0
    lock(addressof(rtc.lock))
    if offset == TIME_LOW:
        now: u64 = rtc_time(board)
        rtc.latched = wrap32(now >> 32)
        value = wrap32(now)
    elif offset == TIME_HIGH:
        value = rtc.latched
    elif offset == ALARM_LOW:
        value = wrap32(rtc.alarm)
    elif offset == ALARM_HIGH:
        value = wrap32(rtc.alarm >> 32)
    elif offset == IRQ_ENABLED:
        value = rtc.irq_enabled
    elif offset == ALARM_STATUS:
        value = rtc.armed
    unlock(addressof(rtc.lock))
    return value


@fn
def rtc_write(board: Board, offset: u64, value: u32) -> None:
    """Write one 32-bit register."""
    rtc = board.rtc
    lock(addressof(rtc.lock))
    if offset == TIME_LOW:
        rtc.adjustment = wrap64((u64(rtc.written_high) << 32) + value - wall_clock_ns(board))
    elif offset == TIME_HIGH:
        rtc.written_high = value
    elif offset == ALARM_LOW:
        rtc.alarm = (u64(rtc.alarm_high) << 32) | u64(value)
        rtc.armed = 1
        ring_if_due(board)
    elif offset == ALARM_HIGH:
        rtc.alarm_high = value
    elif offset == IRQ_ENABLED:
        rtc.irq_enabled = value & 1
        update_line(board)
    elif offset == CLEAR_ALARM:
        rtc.armed = 0
    elif offset == CLEAR_INTERRUPT:
        rtc.irq_pending = 0
        update_line(board)
    unlock(addressof(rtc.lock))
