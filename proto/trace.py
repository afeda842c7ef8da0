"""Trace rings: what every process of a machine is doing, always written, seldom read.

Each process has one segment, made and kept by the keeper, so that it outlives the process; a successor goes on in the
same ring. It is a header and RECORDS slots of 64 bytes. Whoever writes claims the next slot (`TraceHeader.next`, one
atomic addition), fills it, and publishes it by storing its number plus one into `sequence`. Nobody waits for readers:
a reader copies, and then looks whether the writer has come round to what it copied. So reading costs the writer
nothing, and a reader that was too slow knows how many records it missed.

`TracePoint` is the table of everything that is ever written: number, who writes it, what its fields are, and how it is
told. The writer takes its numbers from it, the decoder its fields, and docs/trace.md its reference.

**One request, one id.** The pops of a queue are numbered (`Chain.counter`, kept in the in-flight table: it goes on
across epochs and begins anew when the driver sets the queue up anew). That number is the id in POP and DONE. What
the core writes cannot know it, so the ends are joined by what both sides see in shared memory: a NOTIFY carries the
driver's `avail.idx`, a POP the position it was taken from, a DONE its position in the used ring, USED and CALL the new
`used.idx`, and CALL and INTERRUPT the device's count of calls. `launcher.trace.requests` puts them together.

What this does not promise: a thread that stands still between claiming and publishing while RECORDS others are
written may leave one torn record; a process killed there leaves a slot that readers step over after HOLE_NS. The first
bytes of a request are those of its buffers when they were looked at; a guest may have changed them meanwhile.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

from native import Array, Record, acquire, addressof, atomic_add64, fn, relaxed, u16, u32, u64, wrap64

__all__ = [
    "DATA_BYTES",
    "NO_QUEUE",
    "RECORDS",
    "TRACE_SIZE",
    "WINDOW_SLOT",
    "TraceHeader",
    "TracePoint",
    "TraceReader",
    "TraceRecord",
    "TraceSlot",
    "check_trace",
    "data_words",
    "format_trace",
    "last_records",
    "pack_record",
    "set_trace_off",
    "text_words",
    "trace",
    "trace_text",
    "unpack_records",
    "write_trace",
]

RECORDS = 8192  # of one ring; a power of two
MASK = RECORDS - 1
DATA_BYTES = 16  # the first bytes of a request or an answer
TRACE_MAGIC = 0x52544342  # "BCTR"
TRACE_VERSION = 1
HEADER_BYTES = 128
NO_QUEUE = 0xFFFF
WINDOW_SLOT = 256  # the slot that stands for the first window of registers
HOLE_NS = 50_000_000  # a slot claimed and not published for so long belonged to a process that was killed


class TraceHeader(Record):
    """The beginning of a ring. `next` has a cache line of its own with what is read beside it."""

    magic: u32 = relaxed()
    version: u16 = relaxed()
    record_size: u16 = relaxed()
    records: u64 = relaxed()
    next: u64 = relaxed(offset=0x40)  # records ever claimed
    off: u32 = relaxed()  # not 0: nothing is written (benchmarks compare)


class TraceSlot(Record):
    """One record, a cache line."""

    sequence: u64 = acquire()  # its number plus 1, stored last
    time: u64 = relaxed()  # CLOCK_MONOTONIC, ns
    point: u16 = relaxed()
    queue: u16 = relaxed()
    head: u16 = relaxed()
    position: u16 = relaxed()
    id: u64 = relaxed()
    a: u64 = relaxed()
    b: u64 = relaxed()
    data: Array[u64] = relaxed(count=2)


TRACE_SIZE = HEADER_BYTES + RECORDS * TraceSlot.size()
_SLOT = struct.Struct("<QQHHHHQQQ16s")
assert _SLOT.size == TraceSlot.size() == 64 and TraceHeader.size() <= HEADER_BYTES

SLOT = ("head", "the device's slot; 256 and more: a window of registers")


class TracePoint(IntEnum):
    """Every trace point: number, who writes it, its fields, how it is told.

    A field is `name: (where it lies, what it is)`. Places: the members of `TraceSlot`; `a.low` and `a.high` are halves
    of 32 bits; `text` is `data` as UTF-8, `word` its first eight bytes as a number.
    """

    writer: str
    fields: Mapping[str, tuple[str, str]]
    told: str

    def __new__(
        cls, number: int, writer: str = "", fields: Mapping[str, tuple[str, str]] | None = None, told: str = ""
    ) -> TracePoint:
        member = int.__new__(cls, number)
        member._value_ = number
        member.writer, member.fields, member.told = writer, fields or {}, told
        return member

    POP = (
        1,
        "device",
        {
            "queue": ("queue", "number of the virtqueue"),
            "head": ("head", "first descriptor"),
            "position": ("position", "place in the available ring, modulo 65536"),
            "id": ("id", "number of this pop: the request's id"),
            "readable": ("a.low", "bytes the device may read"),
            "writable": ("a.high", "bytes the device may write"),
            "again": ("b.low", "1: a process before this one had taken it already"),
            "error": ("b.high", "what is wrong with the chain (proto.ring.ChainError)"),
            "first": ("data", "the first readable bytes"),
        },
        "queue {queue} #{id} taken: head {head}, {readable} bytes to read, {writable} to write",
    )
    DONE = (
        2,
        "device",
        {
            "queue": ("queue", "number of the virtqueue"),
            "head": ("head", "first descriptor"),
            "position": ("position", "place in the used ring, modulo 65536"),
            "id": ("id", "the request's id"),
            "written": ("a", "bytes written"),
            "status": ("b", "0, or what went wrong, in the device's own terms"),
            "first": ("data", "the first bytes written"),
        },
        "queue {queue} #{id} done: {written} bytes written, status {status}",
    )
    USED = (
        3,
        "device",
        {
            "queue": ("queue", "number of the virtqueue"),
            "position": ("position", "the new used.idx"),
            "count": ("a", "requests given back"),
        },
        "queue {queue} used.idx {position}: {count} given back",
    )
    CALL = (
        4,
        "device",
        {
            "queue": ("queue", "number of the virtqueue"),
            "calls": ("id", "the device's count of calls"),
            "signal": (
                "a",
                "0: the core is awake, or was told before; 1: a CALL message is sent; 2: its doorbell is rung",
            ),
        },
        "queue {queue} calls for an interrupt ({calls})",
    )
    BACKEND = (
        5,
        "device",
        {
            "queue": ("queue", "number of the virtqueue"),
            "id": ("id", "the request's id"),
            "nanoseconds": ("a", "how long the call took"),
            "error": ("b", "0, or an errno"),
            "call": ("text", "its name"),
        },
        "queue {queue} #{id} {call} took {nanoseconds} ns",
    )
    MESSAGE_IN = (
        6,
        "core and device",
        {
            "slot": ("head", "in the core: whose session"),
            "type": ("position", "of the message (proto.messages)"),
            "seq": ("id", "its number"),
            "bytes": ("a.low", "its length"),
            "epoch": ("a.high", "of the session"),
            "flags": ("b", "0: asked or told, 1: an answer, 3: a refusal"),
        },
        "receives message {type} number {seq}",
    )
    MESSAGE_OUT = (
        7,
        "core and device",
        {
            "slot": ("head", "in the core: whose session"),
            "type": ("position", "of the message (proto.messages)"),
            "seq": ("id", "its number"),
            "bytes": ("a.low", "its length"),
            "epoch": ("a.high", "of the session"),
            "flags": ("b", "0: asked or told, 1: an answer, 3: a refusal"),
        },
        "sends message {type} number {seq}",
    )
    STARTED = (
        8,
        "device and keeper",
        {
            "epoch": ("id", "which life of the process"),
            "pid": ("a", "of the process"),
            "process": ("text", "its name"),
        },
        "{process} started: pid {pid}, epoch {epoch}",
    )
    ENDED = (
        9,
        "keeper",
        {
            "epoch": ("id", "which life of the process"),
            "pid": ("a", "of the process"),
            "status": ("b", "exit status; a signal's number plus 256"),
            "process": ("text", "its name"),
        },
        "{process} ended: pid {pid}, epoch {epoch}, status {status}",
    )
    NOTIFY = (
        16,
        "core",
        {
            "slot": ("head", "the device's slot"),
            "queue": ("queue", "number of the virtqueue"),
            "position": ("position", "the driver's avail.idx"),
            "hart": ("id", "who wrote QueueNotify"),
            "pc": ("a", "of its instruction"),
        },
        "hart {hart} notifies queue {queue}: avail.idx {position}, pc {pc:#x}",
    )
    INTERRUPT = (
        17,
        "core",
        {
            "slot": SLOT,
            "calls": ("id", "the device's count of calls, as far as they are taken"),
            "taken": ("a", "calls taken together; of a window, its line's level"),
        },
        "interrupt raised, {taken} calls taken",
    )
    MMIO_READ = (
        18,
        "core",
        {
            "slot": SLOT,
            "size": ("position", "bytes"),
            "offset": ("id", "of the register"),
            "value": ("b", "read"),
            "pc": ("a", "of the instruction"),
            "hart": ("word", "whose"),
        },
        "hart {hart} reads {size} bytes at {offset:#x}: {value:#x}, pc {pc:#x}",
    )
    MMIO_WRITE = (
        19,
        "core",
        {
            "slot": SLOT,
            "size": ("position", "bytes"),
            "offset": ("id", "of the register"),
            "value": ("b", "written"),
            "pc": ("a", "of the instruction"),
            "hart": ("word", "whose"),
        },
        "hart {hart} writes {value:#x} to {offset:#x}, {size} bytes, pc {pc:#x}",
    )
    SESSION = (
        20,
        "core",
        {
            "slot": SLOT,
            "epoch": ("id", "of the device's process"),
            "up": ("a", "1: it is there, 0: it is gone"),
        },
        "session of epoch {epoch}: up {up}",
    )
    CONSOLE_OUT = (
        21,
        "core",
        {"bytes": ("a", "how many the guest has sent"), "first": ("data", "the first of them")},
        "{bytes} bytes out",
    )
    CONSOLE_IN = (
        22,
        "core",
        {"bytes": ("a", "how many the guest is given"), "first": ("data", "the first of them")},
        "{bytes} bytes in",
    )


# -- writing: machine code ---------------------------------------------------------------------------------------------


@fn(inline=True)
def trace(
    ring: u64,
    now: u64,
    point: u32,
    queue: u32,
    head: u32,
    position: u32,
    id: u64,
    a: u64,
    b: u64,
    first: u64,
    second: u64,
) -> None:
    """Write one record into the ring at address `ring`; 0: there is none. Any thread, never waits. `first` and
    `second` are the words of `data`; numbers too large for their fields are cut off."""
    if ring == 0:
        return
    header = TraceHeader(ring)
    if header.off != 0:
        return
    number: u64 = atomic_add64(addressof(header.next), 1)
    slot = TraceSlot(ring + HEADER_BYTES + 64 * (number & MASK))
    slot.time = now
    slot.point = u16(point & 0xFFFF)
    slot.queue = u16(queue & 0xFFFF)
    slot.head = u16(head & 0xFFFF)
    slot.position = u16(position & 0xFFFF)
    slot.id = id
    slot.a = a
    slot.b = b
    slot.data[0] = first
    slot.data[1] = second
    slot.sequence = wrap64(number + 1)


@fn(inline=True)
def halves(low: u64, high: u64) -> u64:
    """Two numbers in one word; each is 0xffffffff when it does not fit."""
    return (low if low < 0xFFFFFFFF else 0xFFFFFFFF) | (high if high < 0xFFFFFFFF else 0xFFFFFFFF) << 32


# -- the segment: for its owner ----------------------------------------------------------------------------------------


def format_trace(view: memoryview) -> None:
    """Make an empty ring of TRACE_SIZE zeroed bytes."""
    struct.pack_into("<IHHQ", view, 0, TRACE_MAGIC, TRACE_VERSION, TraceSlot.size(), RECORDS)


def check_trace(view: memoryview) -> None:
    """Raise ValueError unless this is a ring of this version."""
    if len(view) < TRACE_SIZE or struct.unpack_from("<IHHQ", view) != (TRACE_MAGIC, TRACE_VERSION, 64, RECORDS):
        raise ValueError("this is no trace ring of this version")


def set_trace_off(view: memoryview, off: bool) -> None:
    """Let nothing be written, or let it be written again: for benchmarks."""
    at = TraceHeader.offset("off")
    view[at : at + 4].cast("I")[0] = int(off)


def write_trace(view: memoryview, point: TracePoint, id: int, a: int = 0, b: int = 0, text: str = "") -> None:
    """Write one record from Python, into a ring that nobody else writes (the keeper's own)."""
    at = TraceHeader.offset("next")
    word = view[at : at + 8].cast("Q")
    number = word[0]
    word[0] = number + 1
    where = HEADER_BYTES + 64 * (number & MASK)
    data = text.encode()[:DATA_BYTES]
    record = _SLOT.pack(0, time.monotonic_ns(), point, NO_QUEUE, 0, 0, id, a, b, data)
    view[where + 8 : where + 64] = record[8:]
    view[where : where + 8].cast("Q")[0] = number + 1


def data_words(data: bytes | memoryview) -> tuple[int, int]:
    """Bytes as the two words of `data`; what does not fit is cut off."""
    first, second = struct.unpack("<QQ", bytes(data[:DATA_BYTES]).ljust(DATA_BYTES, b"\0"))
    return first, second


def text_words(text: str) -> tuple[int, int]:
    """A name the same way."""
    return data_words(text.encode())


# -- reading -----------------------------------------------------------------------------------------------------------


class TraceRecord(NamedTuple):
    """A copy of one record."""

    sequence: int  # its number in the ring, from 1
    time: int  # CLOCK_MONOTONIC, ns
    point: int
    queue: int
    head: int
    position: int
    id: int
    a: int
    b: int
    data: bytes

    @property
    def name(self) -> str:
        """Of the trace point."""
        return TracePoint(self.point).name if self.point in _POINTS else f"POINT_{self.point}"

    def fields(self) -> dict[str, Any]:
        """What the table says that is in it."""
        point = _POINTS.get(self.point)
        if point is None:
            return {"a": self.a, "b": self.b}
        return {name: _PLACES[place](self) for name, (place, _) in point.fields.items()}


def pack_record(record: TraceRecord) -> bytes:
    """A record as the slot it came from."""
    return _SLOT.pack(*record)


def unpack_records(data: bytes) -> list[TraceRecord]:
    """Slots one after the other. Raises ValueError when they are not whole."""
    if len(data) % _SLOT.size:
        raise ValueError(f"{len(data)} bytes are no whole trace records")
    return list(map(TraceRecord._make, _SLOT.iter_unpack(data)))


_POINTS = {int(point): point for point in TracePoint}
_PLACES: Mapping[str, Callable[[TraceRecord], Any]] = {
    "queue": lambda record: record.queue,
    "head": lambda record: record.head,
    "position": lambda record: record.position,
    "id": lambda record: record.id,
    "a": lambda record: record.a,
    "b": lambda record: record.b,
    "a.low": lambda record: record.a & 0xFFFFFFFF,
    "a.high": lambda record: record.a >> 32,
    "b.low": lambda record: record.b & 0xFFFFFFFF,
    "b.high": lambda record: record.b >> 32,
    "data": lambda record: record.data,
    "word": lambda record: int.from_bytes(record.data[:8], "little"),
    "text": lambda record: record.data.rstrip(b"\0").decode(errors="replace"),
}


def trace_text(record: TraceRecord) -> str:
    """A record in words, without knowing whose it is."""
    point = _POINTS.get(record.point)
    return f"{record.name} " + (point.told.format(**record.fields()) if point else f"{record.a:#x} {record.b:#x}")


class TraceReader:
    """Follows one ring. Each reader has its own place; none can be noticed by the writer."""

    def __init__(self, view: memoryview, *, from_start: bool = False) -> None:
        """Begin with what is written next, or with the oldest record there is. Raises ValueError (`check_trace`)."""
        check_trace(view)
        self._view = view
        at = TraceHeader.offset("next")
        self._next = view[at : at + 8].cast("Q")
        self._slots = view[HEADER_BYTES : HEADER_BYTES + 64 * RECORDS]
        self._words = self._slots.cast("Q")  # sequence of slot n: word 8 * n
        self.position = max(0, self._next[0] - RECORDS) if from_start else self._next[0]
        self.missed = 0  # records that were overwritten before they were read, or that their writer never finished
        self._hole: tuple[int, int] | None = None  # position and when it was first seen

    def read(self, limit: int = 1024) -> list[TraceRecord]:
        """The next records, oldest first; none when there are none yet. At most `limit`."""
        written = self._next[0]
        if written - self.position > RECORDS:
            self._skip_to(written - RECORDS * 3 // 4)
        end = min(written, self.position + limit, (self.position | MASK) + 1)
        first = self.position
        finished = first
        while finished < end and self._words[8 * (finished & MASK)] == finished + 1:
            finished += 1
        if finished == first:
            return self._hole_at(first) if first < end else []
        start = 64 * (first & MASK)
        copied = bytes(self._slots[start : start + 64 * (finished - first)])
        self.position = finished
        self._hole = None
        lost = self._next[0] - RECORDS - first  # what the writer has come round to meanwhile
        if lost > 0:
            lost = min(lost, finished - first)
            self.missed += lost
            copied = copied[64 * lost :]
        return list(map(TraceRecord._make, _SLOT.iter_unpack(copied)))

    def skip(self) -> None:
        """Go on with what is written next; what lies between is not counted as missed."""
        self.position = self._next[0]
        self._hole = None

    def _skip_to(self, position: int) -> None:
        self.missed += position - self.position
        self.position = position

    def _hole_at(self, position: int) -> list[TraceRecord]:
        """A slot that was claimed and is not published: soon, or never."""
        now = time.monotonic_ns()
        if self._hole is None or self._hole[0] != position:
            self._hole = (position, now)
        elif now - self._hole[1] > HOLE_NS:
            self._skip_to(position + 1)
        return []

    def close(self) -> None:
        """Let go of the view."""
        for view in (self._next, self._words, self._slots):
            view.release()


def last_records(view: memoryview, count: int) -> list[TraceRecord]:
    """The last `count` records of a ring, oldest first, also of a process that is dead. A slot that was never finished
    is left out. Raises ValueError (`check_trace`)."""
    check_trace(view)
    at = TraceHeader.offset("next")
    (written,) = struct.unpack_from("<Q", view, at)
    found = []
    for number in range(max(0, written - min(count, RECORDS)), written):
        record = TraceRecord._make(_SLOT.unpack_from(view, HEADER_BYTES + 64 * (number & MASK)))
        if record.sequence == number + 1:
            found.append(record)
    (now,) = struct.unpack_from("<Q", view, at)
    return [record for record in found if record.sequence > now - RECORDS]
