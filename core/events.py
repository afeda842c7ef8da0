"""The queue from harts to the link thread: what Python or a device must see, posted without taking the GIL.

A bounded multi-producer, single-consumer ring in core memory (D. Vyukov's bounded queue: every cell carries a sequence
number, a producer claims a position with one compare-and-swap and publishes the cell by storing its sequence). Harts
post natively; the link thread drains from Python through `take_event`. The consumer announces that it sleeps, fences
and looks again; a producer publishes, fences and writes the eventfd only when it finds the consumer asleep.

Promises: an event that `post_event` accepted is delivered once, in the order of claiming. It does not block: with the
ring full it returns False, and the caller decides (a notification may be merged, an ordered write must be retried).
"""

import os
from enum import IntEnum

from native import (
    Area,
    Array,
    Record,
    acquire,
    addressof,
    atomic_cas64,
    fence,
    fn,
    i32,
    i64,
    local,
    plain,
    relaxed,
    sys,
    syscall,
    u32,
    u64,
    wrap64,
)

CAPACITY = 4096  # cells; a power of two
MASK = CAPACITY - 1


class EventKind(IntEnum):
    """What happened; `slot` names the virtio slot or MMIO window, `a` and `b` are as listed."""

    NOTIFY = 1  # a = queue index; the device was asleep
    STATUS = 2  # a = new status byte; 0 is a reset and holds the hart until answered
    QUEUE = 3  # a = queue index, b = QueueReady; ready 0 holds the hart until answered
    CONFIG_WRITE = 4  # a = offset | size << 32, b = value
    MMIO_READ = 5  # a = offset | size << 32, b = sequence number; holds the hart until answered
    MMIO_WRITE = 6  # a = offset | size << 32, b = value; posted
    CONSOLE_TX = 7  # bytes wait in the UART's transmit ring
    CONSOLE_RX = 8  # the UART's receive ring has room again
    POWER = 9  # a = PowerReason, b = exit code
    HART_STOPPED = 10  # a = hart index
    HART_HELD = 11  # slot = hart index: it has stopped for a debugger


class PowerReason(IntEnum):
    """Why the machine ends: `a` of a POWER event."""

    POWEROFF = 0
    RESET = 1
    FINISHER = 2  # b = the guest's exit code
    PANIC = 3  # SRST with reason "system failure"


class Event(Record):
    """One cell, 32 bytes."""

    sequence: u64 = acquire()
    kind: u32
    slot: u32
    a: u64
    b: u64


class EventQueue(Record):
    """The ring with its two ends on cache lines of their own."""

    head: u64 = relaxed(offset=0)  # next position to claim, by producers
    tail: u64 = plain(offset=64)  # next position to take, by the consumer alone
    asleep: u32 = relaxed(offset=128)  # 1 while the consumer sleeps on `wakeup`
    wakeup: i32 = plain(offset=132)  # eventfd
    cells: Array[Event] = plain(count=CAPACITY, offset=192)


class Doorbell(Record):
    """The eight bytes an eventfd takes."""

    count: u64


@fn
def ring_doorbell(wakeup: i32) -> None:
    """Write 1 to the eventfd; a full counter (EAGAIN) already wakes the reader."""
    bell = local(Doorbell)
    bell.count = 1
    syscall(sys.WRITE, i64(wakeup), signed_address(bell.address), 8, 0, 0, 0)


@fn(inline=True)
def signed_address(address: u64) -> i64:
    """An address as a system call argument (user addresses have the top bit clear)."""
    return i64(address)


@fn
def post_event(queue: EventQueue, kind: u32, slot: u32, a: u64, b: u64) -> bool:
    """Append one event; False when the ring is full. Any thread, never blocks."""
    while True:
        position = queue.head
        cell = queue.cells[position & MASK]
        sequence = cell.sequence
        if sequence == position:
            if atomic_cas64(addressof(queue.head), position, wrap64(position + 1)) == position:
                cell.kind = kind
                cell.slot = slot
                cell.a = a
                cell.b = b
                cell.sequence = wrap64(position + 1)
                break
        elif signed_difference(sequence, position):
            return False
    fence()
    if queue.asleep != 0:
        queue.asleep = 0
        ring_doorbell(queue.wakeup)
    return True


@fn(inline=True)
def signed_difference(sequence: u64, position: u64) -> bool:
    """True when `sequence` is behind `position` (modulo 2**64): the cell still holds an event of the last round."""
    return wrap64(sequence - position) >> 63 == 1


@fn
def take_event(queue: EventQueue, into: Event) -> bool:
    """Move the oldest event to `into`; False when there is none. The consumer only."""
    position = queue.tail
    cell = queue.cells[position & MASK]
    if cell.sequence != wrap64(position + 1):
        return False
    into.kind = cell.kind
    into.slot = cell.slot
    into.a = cell.a
    into.b = cell.b
    cell.sequence = wrap64(position + CAPACITY)
    queue.tail = wrap64(position + 1)
    return True


@fn
def may_sleep(queue: EventQueue) -> bool:
    """Announce that the consumer is about to sleep, then look again: False means that an event came in between."""
    queue.asleep = 1
    fence()
    if queue.cells[queue.tail & MASK].sequence == wrap64(queue.tail + 1):
        queue.asleep = 0
        return False
    return True


EXPORTS = [post_event, take_event, may_sleep]


def create_queue() -> tuple[Area, EventQueue]:
    """A fresh queue with its eventfd (non-blocking, close-on-exec); the caller keeps the area alive and closes both."""
    area = Area.allocate(EventQueue.size())
    queue = EventQueue(area.address)
    for position in range(CAPACITY):
        queue.cells[position].sequence = position
    queue.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    return area, queue
