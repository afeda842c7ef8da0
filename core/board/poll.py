"""What a hart does for the board between stretches of guest code: timers, devices' calls, and falling asleep.

A running hart calls `board_tick` whenever its budget ends (at most 2,000 instructions), and so sees the clock and every
device's completions without a message. As long as one hart runs, the devices' pages say that the core is awake
(DESIGN: "ZeroMQ wakes; shared words speak to who is awake"). The last hart to sleep takes that back, fences, and looks
again; from then on devices send CALL messages, which the link thread turns into interrupts.
"""

from core.board.clint import skip_time, timer_deadline_ns, timer_tick
from core.board.rtc import rtc_deadline_ns, rtc_tick
from core.board.state import Board
from core.board.uart import uart_tick
from core.board.window import window_poll
from core.cpu.state import Hart
from core.virtio.mmio import transport_poll
from native import addressof, atomic_add32, fn, u64, wrap32
from proto.pages import CoreToDevice, DeviceToCore, call_pending, core_may_sleep, core_wakes


@fn
def board_tick(hart: Hart) -> None:
    """Timer interrupts of the calling hart, the alarm, and everything that devices have called for."""
    board = Board(hart.board)
    timer_tick(board, hart)
    if board.rtc.armed != 0:
        rtc_tick(board)
    board_poll(board)
    uart_tick(board)


@fn
def board_poll(board: Board) -> None:
    """Take the calls of every device. Two loads for each that has none."""
    for slot in range(board.nslots):
        transport_poll(board, board.transports[slot])
    for index in range(board.nwindows):
        window = board.windows[index]
        if window.device_page != 0 and call_pending(CoreToDevice(window.core_page), DeviceToCore(window.device_page)):
            window_poll(board, window)


@fn
def next_deadline_ns(hart: Hart) -> u64:
    """CLOCK_MONOTONIC at which a sleeping hart must call `board_tick`; all ones when only an interrupt can wake it."""
    board = Board(hart.board)
    timer: u64 = timer_deadline_ns(board, hart)
    alarm: u64 = rtc_deadline_ns(board)
    return alarm if alarm < timer else timer


@fn
def board_wakes(hart: Hart) -> None:
    """The calling hart runs from now on; the first one says so to all devices."""
    board = Board(hart.board)
    if atomic_add32(addressof(board.running_harts), 1) != 0:
        return
    for slot in range(board.nslots):
        if board.transports[slot].core_page != 0:
            core_wakes(CoreToDevice(board.transports[slot].core_page))
    for index in range(board.nwindows):
        if board.windows[index].core_page != 0:
            core_wakes(CoreToDevice(board.windows[index].core_page))


@fn
def board_sleeps(hart: Hart) -> None:
    """The calling hart is about to sleep (or to end); the last one tells all devices, and takes what came in between.

    Call it before `park`: an interrupt that it raises is then seen by the look at mip that follows.
    """
    board = Board(hart.board)
    if atomic_add32(addressof(board.running_harts), wrap32(0 - 1)) != 1:
        return
    skip_time(hart)
    for slot in range(board.nslots):
        transport = board.transports[slot]
        if transport.core_page != 0 and not core_may_sleep(
            CoreToDevice(transport.core_page), DeviceToCore(transport.device_page)
        ):
            transport_poll(board, transport)
    for index in range(board.nwindows):
        window = board.windows[index]
        if window.core_page != 0 and not core_may_sleep(
            CoreToDevice(window.core_page), DeviceToCore(window.device_page)
        ):
            window_poll(board, window)
