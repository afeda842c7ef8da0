"""A tap: shared memory through which a device process tells a recorder all that driver and device say, with payload.

A header and a ring of bytes. The device's thread writes whole events (`Event`) and moves `head`; the recorder reads and
moves `tail`. Nobody else writes. The keeper made the memory and gives it to every process of the device, so that what a
killed process had said is there, and its successor goes on behind it. `ring_pop` and `ring_put` write requests and
answers, so that they are the same whether a loop of machine code or `handle` serves the queue.

The device never waits for the recorder, or, with `block`, BLOCK_NS at most for one event. What finds no room is lost,
and a LOST event says how much, before the next one that is written. `off` ends it, from either side.

An event is a header of EVENT_BYTES and its payload, filled up to a multiple of 8:

    POP     a request as taken. a: readable segments | writable segments << 32, b: readable bytes; status: what is wrong
            with the chain (ChainError); flags: AGAIN. Payload: 4 bytes a segment, its length, and the readable bytes.
    DONE    its answer, under the same id. a: the used length; status: in the device's own terms. Payload: as many of
            the writable bytes.
    MESSAGE of the session, encoded (`proto.messages`). a: its length; id: its number; flags: OUT: the device sent it
    SETUP   what the device is and has negotiated, by a process that begins or goes on (msgpack, docs/recording.md).
            a: its length
    LOST    a: events, b: bytes of payload, that found no room
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from typing import NamedTuple

from native import (
    Record,
    acquire,
    addressof,
    copy,
    fn,
    local,
    monotonic_ns,
    relaxed,
    sys,
    syscall,
    u16,
    u32,
    u64,
)
from native.futex import Timespec

__all__ = [
    "EVENT_BYTES",
    "NOWHERE",
    "TAP_HEADER",
    "Event",
    "EventFlag",
    "EventKind",
    "Tap",
    "TapReader",
    "format_tap",
    "pack_event",
    "stop_tap",
    "tap_close",
    "tap_note",
    "tap_open",
    "tap_put",
    "unpack_events",
]

TAP_MAGIC = 0x50415442  # "BTAP"
TAP_VERSION = 1
TAP_HEADER = 256
EVENT_BYTES = 48
NOWHERE = 0xFFFFFFFFFFFFFFFF
BLOCK_NS = 100_000_000
FUTEX_WAIT = 0
_EVENT = struct.Struct("<IHHHHIQQQQ")


class EventKind(IntEnum):
    """What an event is."""

    POP = 1
    DONE = 2
    MESSAGE = 3
    SETUP = 4
    LOST = 5


class EventFlag(IntFlag):
    """Of an event."""

    AGAIN = 1  # POP: a process before had taken it already
    OUT = 2  # MESSAGE: the device sent it


class Tap(Record):
    """The header. Each side's word has a cache line of its own."""

    magic: u32 = relaxed()
    version: u32 = relaxed()
    capacity: u64 = relaxed()  # bytes of the ring, a power of two
    block: u32 = relaxed()  # not 0: a device without room waits for the recorder, a little
    off: u32 = relaxed(offset=0x20)  # not 0: nothing is written any more
    head: u64 = acquire(offset=0x40)  # bytes ever written; events are whole up to here
    lost: u64 = relaxed()  # events that found no room since the last one written
    lost_bytes: u64 = relaxed()
    tail: u64 = acquire(offset=0x80)  # bytes ever read
    never: u32 = relaxed()  # 0 for ever: what a device that waits waits on


class EventHeader(Record):
    """The beginning of an event, in memory."""

    whole: u32  # its bytes, with header and filling
    kind: u16
    queue: u16
    head: u16
    flags: u16
    status: u32
    time: u64  # CLOCK_MONOTONIC, ns
    id: u64
    a: u64
    b: u64


assert _EVENT.size == EVENT_BYTES == EventHeader.size() and Tap.size() <= TAP_HEADER


# -- writing: machine code ---------------------------------------------------------------------------------------------


@fn(cold=True)
def tap_open(
    tap: Tap,
    payload: u64,
    kind: u32,
    queue: u32,
    head: u32,
    flags: u32,
    status: u32,
    time: u64,
    id: u64,
    a: u64,
    b: u64,
) -> u64:
    """Begin an event with so many bytes of payload. Returns where they go (`tap_put`), or NOWHERE: it is lost."""
    if tap.off != 0:
        return NOWHERE
    size: u64 = (EVENT_BYTES + payload + 7) // 8 * 8
    room: u64 = size
    if tap.lost != 0:
        room = room + EVENT_BYTES
    if not _has_room(tap, room):
        tap.lost = tap.lost + 1
        tap.lost_bytes = tap.lost_bytes + payload
        return NOWHERE
    at: u64 = tap.head
    if tap.lost != 0:
        at = _write(tap, at, EVENT_BYTES, EventKind.LOST, 0, 0, 0, 0, time, 0, tap.lost, tap.lost_bytes)
        tap.lost = 0
        tap.lost_bytes = 0
        tap.head = at
    return _write(tap, at, size, kind, queue, head, flags, status, time, id, a, b)


@fn(cold=True)
def _write(
    tap: Tap,
    at: u64,
    size: u64,
    kind: u32,
    queue: u32,
    head: u32,
    flags: u32,
    status: u32,
    time: u64,
    id: u64,
    a: u64,
    b: u64,
) -> u64:
    event = local(EventHeader)
    event.whole = u32(size)
    event.kind = u16(kind)
    event.queue = u16(queue)
    event.head = u16(head)
    event.flags = u16(flags)
    event.status = status
    event.time = time
    event.id = id
    event.a = a
    event.b = b
    return tap_put(tap, at, event.address, EVENT_BYTES)


@fn(cold=True)
def tap_put(tap: Tap, at: u64, source: u64, size: u64) -> u64:
    """Copy bytes of the payload to `at`. Returns where the next ones go."""
    ring: u64 = tap.address + TAP_HEADER
    offset: u64 = at & (tap.capacity - 1)
    first: u64 = tap.capacity - offset
    if first > size:
        first = size
    copy(ring + offset, source, first)
    if first < size:
        copy(ring, source + first, size - first)
    return at + size


@fn(cold=True)
def tap_close(tap: Tap, at: u64) -> None:
    """The event is whole: its payload ended at `at`."""
    tap.head = (at + 7) // 8 * 8


@fn(cold=True)
def tap_note(tap: Tap, kind: u32, flags: u32, id: u64, source: u64, size: u64) -> None:
    """An event that is no request, with its payload."""
    at: u64 = tap_open(tap, size, kind, 0, 0, flags, 0, monotonic_ns(), id, size, 0)
    if at != NOWHERE:
        tap_close(tap, tap_put(tap, at, source, size))


@fn(cold=True)
def _has_room(tap: Tap, size: u64) -> bool:
    if tap.capacity - (tap.head - tap.tail) >= size:
        return True
    if tap.block == 0 or size > tap.capacity:
        return False
    end: u64 = monotonic_ns() + BLOCK_NS
    while tap.off == 0 and monotonic_ns() < end:
        pause = local(Timespec)
        pause.seconds = 0
        pause.nanoseconds = 1_000_000
        syscall(sys.FUTEX, addressof(tap.never), FUTEX_WAIT, 0, pause.address, 0, 0)
        if tap.capacity - (tap.head - tap.tail) >= size:
            return True
    return False


# -- the segment, and reading ------------------------------------------------------------------------------------------


class Event(NamedTuple):
    """A copy of one event."""

    kind: int
    queue: int
    head: int
    flags: int
    status: int
    time: int
    id: int
    a: int
    b: int
    payload: bytes


def format_tap(view: memoryview, *, block: bool = False) -> None:
    """Make an empty tap of zeroed memory: TAP_HEADER and a power of two of bytes. Raises ValueError."""
    size = len(view) - TAP_HEADER
    if size < 4096 or size & (size - 1):
        raise ValueError(f"a tap cannot have {size} bytes")
    struct.pack_into("<IIQI", view, 0, TAP_MAGIC, TAP_VERSION, size, int(block))


def stop_tap(view: memoryview) -> None:
    """Have nothing written any more."""
    struct.pack_into("<I", view, Tap.offset("off"), 1)


def pack_event(event: Event) -> bytes:
    """An event as it lies in a tap and in a recording."""
    size = (EVENT_BYTES + len(event.payload) + 7) // 8 * 8
    header = (event.kind, event.queue, event.head, event.flags, event.status, event.time, event.id, event.a, event.b)
    return (_EVENT.pack(size, *header) + event.payload).ljust(size, b"\0")


def unpack_events(data: bytes | memoryview) -> Iterator[Event]:
    """Whole events one after the other, payload with its filling cut off where the event says how long it is. Raises
    ValueError where they are damaged."""
    at = 0
    while at < len(data):
        if len(data) - at < EVENT_BYTES:
            raise ValueError(f"{len(data) - at} bytes are no event")
        size, *fields = _EVENT.unpack_from(data, at)
        if size < EVENT_BYTES or size % 8 or size > len(data) - at:
            raise ValueError(f"an event of {size} bytes")
        payload = bytes(data[at + EVENT_BYTES : at + size])
        event = Event._make((*fields, payload))
        yield event._replace(payload=payload[: _length(event)])
        at += size


def _length(event: Event) -> int:
    """Bytes of payload that count."""
    if event.kind == EventKind.POP:
        return 4 * ((event.a & 0xFFFFFFFF) + (event.a >> 32)) + event.b
    return event.a if event.kind in (EventKind.DONE, EventKind.MESSAGE, EventKind.SETUP) else 0


class TapReader:
    """The recorder's end of a tap that is mapped writable. Raises ValueError when it is none."""

    def __init__(self, view: memoryview) -> None:
        magic, version, size = struct.unpack_from("<IIQ", view)
        if (magic, version) != (TAP_MAGIC, TAP_VERSION) or size + TAP_HEADER != len(view):
            raise ValueError("this is no tap of this version")
        self._size = size
        self._ring = view[TAP_HEADER:]
        self._head = _word(view, "head", 8)
        self._tail = _word(view, "tail", 8)
        self._off = _word(view, "off", 4)
        self._lost = _word(view, "lost", 8)

    @property
    def lost(self) -> int:
        """Events that found no room and of which no LOST event has told yet."""
        return self._lost[0]

    def waiting(self) -> int:
        """Bytes that are there to be read."""
        return self._head[0] - self._tail[0]

    def read(self) -> bytes:
        """All whole events that are there; b"" when there are none. Raises ValueError when a device has spoilt the
        memory."""
        head, tail = self._head[0], self._tail[0]
        if not 0 <= head - tail <= self._size:
            raise ValueError("the device has damaged its tap")
        start, length = tail & (self._size - 1), head - tail
        first = min(length, self._size - start)
        data = bytes(self._ring[start : start + first]) + bytes(self._ring[: length - first])
        self._tail[0] = head
        return data

    def stop(self) -> None:
        """Have the device write nothing any more."""
        self._off[0] = 1

    def close(self) -> None:
        """Let go of the view."""
        for view in (self._ring, self._head, self._tail, self._off, self._lost):
            view.release()


def _word(view: memoryview, field: str, size: int) -> memoryview:
    at = Tap.offset(field)
    return view[at : at + size].cast("Q" if size == 8 else "I")
