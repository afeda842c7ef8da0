"""Core-local interruptor: software interrupts, timer comparators, and mtime (SiFive CLINT layout).

Timer interrupts are levels: MTIP is high while mtime >= mtimecmp, STIP while mtime >= stimecmp (with Sstc on, or with
the built-in SBI, which keeps its timer there). Harts compare when their budget ends and sleep until
`timer_deadline_ns`; a comparator written by another hart wakes its owner.
"""

from core.board.clock import board_time
from core.board.state import NEVER, TICK_NS, Board
from core.cpu.signal import clear_mip, notify_hart, set_mip
from core.cpu.state import CONTROL_PAUSE, Hart
from core.cpu.status import ENVCFG_STCE, MIP_MSIP, MIP_MTIP, MIP_STIP
from native import fn, monotonic_ns, u32, u64, wrap64

MSIP = 0x0000  # one word a hart
MTIMECMP = 0x4000  # 8 bytes a hart
MTIME = 0xBFF8
SIZE = 0x10000

MAX_SLEEP_TICKS = 1 << 40  # a comparator further away (30 hours) is looked at again then


@fn
def set_board_time(board: Board, time: u64) -> None:
    """Make mtime `time` now."""
    clint = board.clint
    if clint.lockstep != 0:
        clint.skipped = wrap64(clint.skipped + time - board_time(board))
    else:
        clint.epoch_ns = wrap64(monotonic_ns() - time * TICK_NS)
    for index in range(board.nharts):
        notify_hart(Hart(board.harts[index]))


@fn
def hart_comparator(board: Board, hart: Hart) -> u64:
    """The mtime at which the next timer interrupt of `hart` is due; NEVER when none is set."""
    due: u64 = board.clint.mtimecmp[hart.mhartid]
    if supervisor_timer(board, hart) and hart.stimecmp < due:
        due = hart.stimecmp
    return due


@fn(inline=True)
def supervisor_timer(board: Board, hart: Hart) -> bool:
    """Does STIP follow stimecmp? With Sstc switched on, or when the built-in SBI keeps its timer there."""
    return board.sbi.enabled != 0 or (hart.menvcfg & ENVCFG_STCE) != 0


@fn
def timer_tick(board: Board, hart: Hart) -> None:
    """Bring the timer bits of the hart's mip up to date with the clock."""
    now: u64 = board_time(board)
    follow_timer(hart, MIP_MTIP, now >= board.clint.mtimecmp[hart.mhartid])
    if supervisor_timer(board, hart):
        follow_timer(hart, MIP_STIP, now >= hart.stimecmp)


@fn(inline=True)
def follow_timer(hart: Hart, line: u64, due: bool) -> None:
    """Set or clear one timer bit; nothing when it is right already."""
    if due != ((hart.mip & line) != 0):
        if due:
            set_mip(hart, line)
        else:
            clear_mip(hart, line)


@fn
def timer_deadline_ns(board: Board, hart: Hart) -> u64:
    """CLOCK_MONOTONIC at which the hart's next timer interrupt is due; NEVER when none is set."""
    due: u64 = hart_comparator(board, hart)
    if due == NEVER:
        return NEVER
    now: u64 = board_time(board)
    ticks: u64 = 0 if due <= now else due - now
    if ticks == 0 or board.clint.lockstep != 0:
        return monotonic_ns()
    if ticks > MAX_SLEEP_TICKS:
        ticks = MAX_SLEEP_TICKS
    # the moment at which mtime turns, not up to a tick later
    return wrap64(board.clint.epoch_ns + (now + ticks) * TICK_NS)


@fn
def skip_time(hart: Hart) -> None:
    """Lockstep: the machine sleeps, so time jumps to the next comparator. Without lockstep, nothing."""
    board = Board(hart.board)
    clint = board.clint
    if clint.lockstep == 0 or (hart.control & CONTROL_PAUSE) != 0:  # a paused machine waits for no timer
        return
    due: u64 = hart_comparator(board, hart)
    now: u64 = board_time(board)
    if now < due < NEVER:
        clint.skipped = wrap64(clint.skipped + (due - now))


@fn
def clint_read(board: Board, offset: u64, size: u32) -> u64:
    """Read 4 or 8 bytes at `offset`, aligned."""
    if offset < MTIMECMP:
        index: u64 = offset >> 2
        if index < u64(board.nharts):
            return u64((Hart(board.harts[index]).mip & MIP_MSIP) != 0)
        return 0
    value: u64 = 0
    if offset >= MTIME:
        value = board_time(board) if offset < MTIME + 8 else 0
    elif (offset - MTIMECMP) >> 3 < u64(board.nharts):
        value = board.clint.mtimecmp[(offset - MTIMECMP) >> 3]
    if size == 8:
        return value
    return value >> 32 if (offset & 4) != 0 else value & 0xFFFFFFFF


@fn
def clint_write(board: Board, offset: u64, size: u32, value: u64) -> None:
    """Write 4 or 8 bytes at `offset`, aligned."""
    if offset < MTIMECMP:
        if offset >> 2 < u64(board.nharts):
            write_msip(Hart(board.harts[offset >> 2]), (value & 1) != 0)
    elif offset < MTIME:
        index: u64 = (offset - MTIMECMP) >> 3
        if index < u64(board.nharts):
            due: u64 = merged(board.clint.mtimecmp[index], offset, size, value)
            set_comparator(board, u32(index), due)
    elif offset < MTIME + 8:
        set_board_time(board, merged(board_time(board), offset, size, value))


@fn(inline=True)
def merged(old: u64, offset: u64, size: u32, value: u64) -> u64:
    """A 64-bit register after a write of its whole or of one half."""
    if size == 8:
        return value
    if (offset & 4) != 0:
        return (old & 0xFFFFFFFF) | ((value & 0xFFFFFFFF) << 32)
    return (old & 0xFFFFFFFF00000000) | (value & 0xFFFFFFFF)


@fn
def write_msip(hart: Hart, high: bool) -> None:
    """Set or clear a hart's software interrupt."""
    if high:
        set_mip(hart, MIP_MSIP)
    else:
        clear_mip(hart, MIP_MSIP)


@fn
def set_comparator(board: Board, index: u32, due: u64) -> None:
    """Write mtimecmp of hart `index`: MTIP follows at once, and the hart learns of its new deadline."""
    board.clint.mtimecmp[index] = due
    hart = Hart(board.harts[index])
    follow_timer(hart, MIP_MTIP, board_time(board) >= due)
    notify_hart(hart)
