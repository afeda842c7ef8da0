"""The machine code of a device behind a relay: from messages into rings of its own, and from those into messages.

The device serves rings as it always does, in memory that is this process's alone: the *twin* of the driver's. A request
that comes is put there under the head that it has at the relay, as an indirect table of one readable and one writable
buffer; its number and `again` are those of its first pop (`proto.ring.Given`). What the device gives back is collected
from the used rings, and stays where it is for as long as there is room: a relay that lost it asks again, and is told
the same. What was never asked for in this session is not said.
"""

from __future__ import annotations

from enum import IntEnum

from native import Array, Record, acquire, copy, fn, load8, plain, relaxed, store8, u16, u32, u64, wrap16
from proto.pages import MAX_QUEUES
from proto.relay import MAX_DATA, TARGET, AnswerFlag, AnswerRecord, RequestFlag, RequestRecord
from proto.ring import Given
from proto.virtio import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE

__all__ = ["Asked", "Place", "Placed", "Twin", "twin_collect", "twin_forget", "twin_place", "twin_repeat", "twin_unask"]

PAGE = 4096
TABLE = 48  # bytes of an indirect table: three descriptors
NOWHERE = 0xFFFFFFFFFFFFFFFF


class Asked(IntEnum):
    """Where a request is (`Placed.state`)."""

    FREE = 0
    HERE = 1  # in the ring, or with the device
    ANSWERED = 2  # and kept, should it be asked again
    AGAIN = 3  # it was asked again: to be said once more


class Place(IntEnum):
    """What `twin_place` has to say."""

    ALL = 0
    NONSENSE = 1  # the record at `Twin.at`
    FULL = 2  # no room for the record at `Twin.at`: later


class Desc(Record):
    """2.7.5: a descriptor."""

    addr: u64 = relaxed()
    len: u32 = relaxed()
    flags: u16 = relaxed()
    next: u16 = relaxed()


class TwinAvail(Record):
    """2.7.6, as a driver has it."""

    flags: u16 = relaxed()
    idx: u16 = acquire()
    ring: Array[u16] = relaxed(count=0)


class TwinElem(Record):
    """2.7.8."""

    id: u32 = relaxed()
    len: u32 = relaxed()


class TwinUsed(Record):
    """2.7.8, as a driver has it."""

    flags: u16 = relaxed()
    idx: u16 = acquire()
    ring: Array[TwinElem] = plain(count=0)


class Placed(Record):
    """The request of one head."""

    state: u32
    asked: u32  # not 0: in this session
    counter: u64
    readable: u32
    writable: u32
    page: u32  # where its bytes are
    pages: u32
    written: u32
    status: u32
    answered: u64  # when, in answers


class Queue(Record):
    """One queue's parts, as addresses in this process."""

    num: u32
    last_used: u16
    avail_idx: u16
    desc: u64
    avail: u64
    used: u64
    tables: u64
    given: u64
    placed: u64
    keeps_order: u32  # it is served in order: nothing of it comes again
    spare: u32


class Twin(Record):
    """Private to the process."""

    count: u32  # queues
    records: u32  # in the message being made
    base: u64  # address of guest-physical 0
    arena: u64  # offset of the requests' bytes
    pages: u32  # of the arena
    cursor: u32
    map: u64  # address of a byte for each page
    buffer: u64  # address of the message being made, with room for MAX_LOAD
    used: u64  # bytes of it
    at: u64  # where `twin_place` stopped
    answers: u64
    queues: Array[Queue] = plain(count=MAX_QUEUES)


@fn(inline=True)
def _placed(queue: Queue, head: u32) -> u64:
    return queue.placed + u64(head) * Placed.size()


# Room


@fn
def _find(twin: Twin, pages: u32, first: u32, end: u32) -> u32:
    """The first run of so many free pages; `end` when there is none."""
    at: u32 = first
    free: u32 = 0
    while at < end:
        free = free + 1 if load8(twin.map + u64(at)) == 0 else 0
        at = at + 1
        if free == pages:
            return at - pages
    return end


@fn
def _allocate(twin: Twin, placed: Placed, pages: u32) -> bool:
    """Pages for a request; what is kept of answered ones goes, the oldest first, when there are none."""
    while True:
        at: u32 = _find(twin, pages, twin.cursor, twin.pages)
        if at == twin.pages:
            at = _find(twin, pages, 0, twin.pages)
        if at != twin.pages:
            for number in range(pages):
                store8(twin.map + u64(at + number), 1)
            placed.page = at
            placed.pages = pages
            twin.cursor = at + pages
            return True
        if not _evict(twin):
            return False


@fn
def _release(twin: Twin, placed: Placed) -> None:
    for number in range(placed.pages):
        store8(twin.map + u64(placed.page + number), 0)
    placed.pages = 0
    placed.state = Asked.FREE


@fn(cold=True)
def _evict(twin: Twin) -> bool:
    best: u64 = 0
    oldest: u64 = NOWHERE
    for number in range(twin.count):
        queue = twin.queues[number]
        for head in range(queue.num):
            placed = Placed(_placed(queue, head))
            if placed.state == Asked.ANSWERED and placed.answered < oldest:
                best = placed.address
                oldest = placed.answered
    if best == 0:
        return False
    _release(twin, Placed(best))
    return True


# Requests


@fn
def twin_place(twin: Twin, message: u64, size: u64) -> u32:
    """Put the requests of a message into the rings, from `Twin.at` on. Returns a `Place`."""
    while twin.at != size:
        left: u64 = size - twin.at
        if left < RequestRecord.size():
            return Place.NONSENSE
        record = RequestRecord(message + twin.at)
        readable: u64 = u64(record.readable)
        padded: u64 = (readable + 7) & ~7
        if padded > left - RequestRecord.size() or readable > MAX_DATA or record.writable > MAX_DATA:
            return Place.NONSENSE
        nothing: bool = record.readable == 0 and record.writable == 0 and record.error == 0
        if nothing or u32(record.queue) >= twin.count:
            return Place.NONSENSE
        queue = twin.queues[record.queue]
        if u32(record.head) >= queue.num:
            return Place.NONSENSE
        placed = Placed(_placed(queue, u32(record.head)))
        if placed.state != Asked.FREE and placed.counter == record.counter:
            placed.asked = 1
            if placed.state == Asked.ANSWERED:
                placed.state = Asked.AGAIN
        elif placed.state == Asked.HERE:
            return Place.NONSENSE
        else:
            if placed.state != Asked.FREE:
                _release(twin, placed)
            pages: u32 = (record.readable + record.writable) // PAGE + 1
            if not _allocate(twin, placed, pages):
                return Place.FULL
            _put(twin, queue, placed, record)
        twin.at = twin.at + RequestRecord.size() + padded
    return Place.ALL


@fn
def _put(twin: Twin, queue: Queue, placed: Placed, record: RequestRecord) -> None:
    """Make a chain of a new request, and it available."""
    head: u64 = u64(record.head)
    start: u64 = twin.arena + u64(placed.page) * PAGE
    placed.state = Asked.HERE
    placed.asked = 1
    placed.counter = record.counter
    placed.readable = record.readable
    placed.writable = record.writable
    placed.written = 0
    copy(twin.base + start, record.address + RequestRecord.size(), u64(record.readable))
    given = Given(queue.given + head * Given.size())
    given.counter = record.counter
    given.again = 1 if (record.flags & RequestFlag.AGAIN) != 0 and queue.keeps_order == 0 else 0
    given.status = 0
    entries: u32 = 0
    table: u64 = queue.tables + head * TABLE
    if record.readable != 0:
        _describe(table, start, record.readable, 0)
        entries = 1
    if record.writable != 0:
        _describe(table + 16 * u64(entries), start + u64(record.readable), record.writable, DESC_F_WRITE)
        entries = entries + 1
    if record.error != 0:  # what was found is there; then comes a mistake
        _describe(table + 16 * u64(entries), NOWHERE - 15, 1, DESC_F_WRITE)
        entries = entries + 1
    for number in range(entries - 1):
        desc = Desc(table + 16 * u64(number))
        desc.flags = desc.flags | DESC_F_NEXT
        desc.next = u16(number + 1)
    _describe(queue.desc + 16 * head, table - twin.base, 16 * entries, DESC_F_INDIRECT)
    avail = TwinAvail(queue.avail)
    avail.ring[u32(queue.avail_idx) & (queue.num - 1)] = record.head
    queue.avail_idx = wrap16(queue.avail_idx + 1)
    avail.idx = queue.avail_idx


@fn
def _describe(address: u64, place: u64, length: u32, flags: u32) -> None:
    desc = Desc(address)
    desc.addr = place
    desc.len = length
    desc.flags = u16(flags)
    desc.next = 0


# Answers


@fn
def twin_collect(twin: Twin) -> bool:
    """Take what the device has given back into the message, as much as fits. True when there is more."""
    for number in range(twin.count):
        queue = twin.queues[number]
        end: u16 = TwinUsed(queue.used).idx
        while queue.last_used != end:
            if twin.used >= TARGET:
                return True
            element = TwinUsed(queue.used).ring[u32(queue.last_used) & (queue.num - 1)]
            head: u32 = element.id
            queue.last_used = wrap16(queue.last_used + 1)
            placed = Placed(_placed(queue, head))
            placed.written = min(element.len, placed.writable)
            placed.status = Given(queue.given + u64(head) * Given.size()).status
            _answered(twin, placed)
            if placed.asked != 0:
                _say(twin, placed, number, head, queue.last_used != end)
    return False


@fn
def twin_repeat(twin: Twin) -> bool:
    """Take what was asked again into the message, as much as fits. True when there is more."""
    for number in range(twin.count):
        queue = twin.queues[number]
        for head in range(queue.num):
            placed = Placed(_placed(queue, head))
            if placed.state == Asked.AGAIN:
                if twin.used >= TARGET:
                    return True
                _answered(twin, placed)
                _say(twin, placed, number, head, False)
    return False


@fn
def _answered(twin: Twin, placed: Placed) -> None:
    placed.state = Asked.ANSWERED
    placed.answered = twin.answers
    twin.answers = twin.answers + 1


@fn
def _say(twin: Twin, placed: Placed, queue: u32, head: u32, more: bool) -> None:
    record = AnswerRecord(twin.buffer + twin.used)
    size: u64 = u64(placed.written)
    record.counter = placed.counter
    record.written = placed.written
    record.status = placed.status
    record.head = u16(head)
    record.queue = u16(queue)
    record.flags = AnswerFlag.MORE if more else 0
    record.spare = 0
    start: u64 = twin.base + twin.arena + u64(placed.page) * PAGE + u64(placed.readable)
    copy(record.address + AnswerRecord.size(), start, size)
    twin.used = twin.used + AnswerRecord.size() + ((size + 7) & ~7)
    twin.records = twin.records + 1


# Sessions and lives


@fn
def twin_unask(twin: Twin) -> None:
    """A session is over: what was asked in it is asked no longer."""
    for number in range(twin.count):
        queue = twin.queues[number]
        for head in range(queue.num):
            placed = Placed(_placed(queue, head))
            placed.asked = 0
            if placed.state == Asked.AGAIN:
                placed.state = Asked.ANSWERED
    twin.used = 0
    twin.records = 0


@fn
def twin_forget(twin: Twin) -> None:
    """A life is over: everything is free."""
    for number in range(twin.count):
        queue = twin.queues[number]
        queue.last_used = 0
        queue.avail_idx = 0
        for head in range(queue.num):
            placed = Placed(_placed(queue, head))
            if placed.state != Asked.FREE:
                _release(twin, placed)
    twin.used = 0
    twin.records = 0
    twin.cursor = 0
