"""How a machine ends: the test finisher, and the one way in which every request to end leaves the board.

`power_off` posts one POWER event, whoever asks first, and tells every hart to leave guest code at its next look; the
link thread and the keeper do the rest. `board_stop` is the order from outside: nothing on the board waits any longer.
"""

from core.board.state import Board
from core.cpu.signal import notify_hart
from core.cpu.state import Hart
from core.events import EventKind, EventQueue, PowerReason, post_event
from native import addressof, atomic_cas32, fn, pause, u32, u64
from native.futex import futex_wake

FINISHER_SIZE = 0x1000
FINISHER_FAIL = 0x3333  # exit code in the upper 16 bits
FINISHER_PASS = 0x5555
FINISHER_RESET = 0x7777


@fn
def power_off(board: Board, reason: u32, code: u64) -> None:
    """The guest ends the machine. Later requests are ignored."""
    if atomic_cas32(addressof(board.finisher.posted), 0, 1) != 0:
        return
    while not post_event(EventQueue(board.events), EventKind.POWER, 0, u64(reason), code):
        pause()  # the link thread empties the queue without ever waiting for a hart
    board_stop(board)


@fn
def board_stop(board: Board) -> None:
    """Every hart leaves guest code, and whoever waits for a device or the console stops waiting."""
    board.stopping = 1
    for slot in range(board.nslots):
        futex_wake(addressof(board.transports[slot].replied))
    for index in range(board.nwindows):
        futex_wake(addressof(board.windows[index].replied))
    futex_wake(addressof(board.uart.tx_full))
    for index in range(board.nharts):
        notify_hart(Hart(board.harts[index]))


@fn
def finisher_write(board: Board, value: u32) -> None:
    """Write of the finisher's register; other values than these three are ignored, as in QEMU."""
    command: u32 = value & 0xFFFF
    if command == FINISHER_PASS:
        power_off(board, PowerReason.POWEROFF, 0)
    elif command == FINISHER_FAIL:
        power_off(board, PowerReason.FINISHER, u64(value >> 16))
    elif command == FINISHER_RESET:
        power_off(board, PowerReason.RESET, 0)
