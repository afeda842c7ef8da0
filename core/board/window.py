"""MMIO of devices that are not virtio: every access goes to the device's process, in order and at most once.

A window numbers its accesses from 1; harts post them under the window's lock, so the order of the numbers is the order
of the accesses. A write is posted (the hart goes on), a read holds the hart until the answer or `deadline_ns`.
After one missed deadline, and while no process is there, reads return all ones at once, until the next epoch begins.
PLIC completion of the window's interrupt waits until the device has carried out the writes before it, because a level
that falls only later would interrupt again.
"""

from core.board.lock import lock, unlock, wait_while
from core.board.plic import plic_follow
from core.board.state import Board, Window
from core.board.trace import trace_interrupt
from core.events import EventKind, EventQueue, post_event
from core.virtio.transport import DeviceState
from native import addressof, atomic_add32, fn, monotonic_ns, u32, u64
from native.futex import SECOND_NS, futex_wait, futex_wake
from proto.pages import CoreToDevice, DeviceToCore, take_calls
from proto.trace import WINDOW_SLOT

DEADLINE_NS = 2 * SECOND_NS  # what a window begins with
FULL_QUEUE_PAUSE_NS = 1_000_000  # between two tries to post into a full event queue


@fn
def post_ordered(board: Board, kind: u32, slot: u32, a: u64, b: u64) -> None:
    """Post an event that must not be lost: while the queue is full, the hart stands still."""
    while not post_event(EventQueue(board.events), kind, slot, a, b):
        if board.stopping != 0:
            return
        futex_wait(addressof(board.stopping), 0, FULL_QUEUE_PAUSE_NS)


@fn
def all_ones(size: u32) -> u64:
    """What a read returns when nobody answers."""
    if size == 8:
        return 0xFFFFFFFFFFFFFFFF
    return (u64(1) << (size * 8)) - 1


@fn
def window_read(board: Board, index: u32, offset: u64, size: u32) -> u64:
    """Read `size` bytes at `offset` of a window; waits for the device."""
    window = board.windows[index]
    if window.deaf != 0 or window.state != DeviceState.LIVE:
        return all_ones(size)
    value: u64 = all_ones(size)
    lock(addressof(window.lock))
    window.posted = window.posted + 1
    post_ordered(board, EventKind.MMIO_READ, index, offset | (u64(size) << 32), window.posted)
    if wait_for_answer(board, window, window.posted):
        value = window.reply_value & all_ones(size)
    unlock(addressof(window.lock))
    return value


@fn
def wait_for_answer(board: Board, window: Window, sequence: u64) -> bool:
    """Hold the hart until access `sequence` is answered. False: deadline passed, or process or machine ended."""
    deadline: u64 = monotonic_ns() + window.deadline_ns
    while True:
        seen: u32 = window.replied
        if window.reply_sequence == sequence:
            return True
        if window.deaf != 0 or board.stopping != 0:
            return False
        if not wait_while(addressof(window.replied), seen, deadline):
            window.deaf = 1
            return False


@fn
def window_write(board: Board, index: u32, offset: u64, size: u32, value: u64) -> None:
    """Post a write of `size` bytes at `offset`. Writes to a device that is not there are dropped."""
    window = board.windows[index]
    if window.state != DeviceState.LIVE:
        return
    lock(addressof(window.lock))
    window.posted = window.posted + 1
    window.written = window.posted
    post_ordered(board, EventKind.MMIO_WRITE, index, offset | (u64(size) << 32), value)
    unlock(addressof(window.lock))


@fn
def settle_window(board: Board, source: u32) -> None:
    """Before PLIC completion of `source`: wait until its device has carried out the writes posted to it."""
    for index in range(board.nwindows):
        window = board.windows[index]
        if source != 0 and window.irq == source:
            wait_for_writes(board, window)


@fn
def wait_for_writes(board: Board, window: Window) -> None:
    """Hold the hart until the last posted write is done; the link thread counts `replied` up when the device calls."""
    deadline: u64 = monotonic_ns() + window.deadline_ns
    while window.device_page != 0 and window.state == DeviceState.LIVE and window.deaf == 0 and board.stopping == 0:
        seen: u32 = window.replied
        if DeviceToCore(window.device_page).mmio_done >= window.written:
            break
        if not wait_while(addressof(window.replied), seen, deadline):
            window.deaf = 1
    window_poll(board, window)


@fn
def window_poll(board: Board, window: Window) -> None:
    """Follow the device's interrupt line."""
    if window.device_page == 0:
        return
    theirs = DeviceToCore(window.device_page)
    take_calls(CoreToDevice(window.core_page), theirs)
    level: u32 = theirs.irq_level
    if level != window.irq_level:
        window.irq_level = level
        plic_follow(board, window.irq, addressof(window.irq_level))
        trace_interrupt(board, WINDOW_SLOT + window.index, theirs.call_sequence, level)


@fn
def window_answer(board: Board, index: u32, sequence: u64, value: u64) -> None:
    """The link thread: the device has answered read `sequence`."""
    window = board.windows[index]
    window.reply_value = value
    window.reply_sequence = sequence
    window_progress(board, index)


@fn
def window_progress(board: Board, index: u32) -> None:
    """The link thread: something happened to the device (writes done, a call, a death); whoever waits looks again."""
    window = board.windows[index]
    window_poll(board, window)
    atomic_add32(addressof(window.replied), 1)
    futex_wake(addressof(window.replied))


@fn
def window_state(board: Board, index: u32, state: u32) -> None:
    """The link thread: a session opened (LIVE, reads are answered again) or the process has gone."""
    window = board.windows[index]
    window.deaf = u32(state != DeviceState.LIVE)
    window.state = state
    window_progress(board, index)
