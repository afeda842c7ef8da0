"""What time it is on the board.

`mtime` counts at 10 MHz. It follows the host's monotonic clock, or, in lockstep mode, the number of instructions that
hart 0 has executed plus what was skipped while it slept. The wall clock is the host's, or, in lockstep mode, counts
from a fixed origin with mtime.

While the machine is paused mtime stands still, and goes on from there; the wall clock does not wait.
"""

from core.board.state import TICK_NS, Board
from core.cpu.state import Hart
from native import fn, monotonic_ns, realtime_ns, u64, wrap64

LOCKSTEP_ORIGIN_NS = 1_735_689_600_000_000_000  # 2025-01-01T00:00:00Z


@fn
def board_time(board: Board) -> u64:
    """mtime, in ticks of 100 ns."""
    clint = board.clint
    if clint.lockstep != 0:
        hart = Hart(board.harts[0])
        executed: u64 = wrap64(hart.horizon - hart.budget)
        return wrap64(executed // clint.instructions_per_tick + clint.skipped)
    frozen: u64 = clint.frozen  # before the epoch, which `thaw_clock` moves first
    if frozen != 0:
        return frozen - 1
    return wrap64(monotonic_ns() - clint.epoch_ns) // TICK_NS


@fn
def wall_clock_ns(board: Board) -> u64:
    """Nanoseconds since 1970, before the guest has set its clock."""
    if board.clint.lockstep != 0:
        return wrap64(LOCKSTEP_ORIGIN_NS + board_time(board) * TICK_NS)
    return realtime_ns()


@fn
def freeze_clock(board: Board) -> None:
    """Stop mtime. No hart may be running guest code; what a hart reads that is just finishing an access is this."""
    if board.clint.lockstep == 0 and board.clint.frozen == 0:
        board.clint.frozen = wrap64(board_time(board) + 1)


@fn
def thaw_clock(board: Board) -> None:
    """Let mtime go on from where it stopped."""
    clint = board.clint
    if clint.frozen != 0:
        clint.epoch_ns = wrap64(monotonic_ns() - (clint.frozen - 1) * TICK_NS)
        clint.frozen = 0
