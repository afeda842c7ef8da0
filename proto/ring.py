"""Split virtqueues as a device sees them (virtio 1.2, 2.7): the only code that touches one.

Restricted Python: read as the specification, run as machine code. A `Ring` is the device's private memory of one queue;
a `Chain` receives one popped request. The life of a request:

    ring_pop       takes the next head: counter, then in flight, before any effect; walks and checks its descriptors
    (the device works, using the chain's segments)
    ring_put       links the head into the batch being given back and writes its used element
    ring_flush     moves used.idx over the batch, then clears it from the in-flight table
    ring_should_call   does the driver want an interrupt for what was given back?

and, at the start of a queue, `ring_recover`, which a successor of a killed process uses as well.

A driver's mistakes are data. A malformed chain is popped with `chain.error` (a `ChainError`) and is to be answered
like any other; what was found of it before the mistake is there, inside the guest's memory, checked. Mistakes that
leave nothing to answer (a head out of range, an absurd avail.idx) stop the queue: `ring.error` (a `RingError`), until
a reset.

Every value in guest memory is read once. A segment never crosses a region: buffers that do are split. One thread
serves a queue. After `ring_flush` returns, nothing of the batch is in flight; after a kill at any store,
`ring_recover` makes every request that was popped and not given back come again, in the order in which they were
popped.
"""

from __future__ import annotations

from enum import IntEnum

from native import (
    Array,
    Record,
    acquire,
    copy,
    fence,
    fn,
    load64,
    load64_unaligned,
    local,
    plain,
    relaxed,
    store16,
    u16,
    u32,
    u64,
    wrap16,
    wrap32,
)
from proto.inflight import INFLIGHT_VERSION, InflightHeader
from proto.memory import RegionTable, find_region, mark_dirty, translate
from proto.pages import QueueStatistics
from proto.tap import NOWHERE, EventFlag, EventKind, Tap, tap_close, tap_open, tap_put
from proto.trace import TracePoint, halves, trace
from proto.virtio import (
    AVAIL_F_NO_INTERRUPT,
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
    USED_F_NO_NOTIFY,
)

__all__ = [
    "CONDEMNED_MAX",
    "MAX_SEGMENTS",
    "Chain",
    "ChainError",
    "Given",
    "Iovec",
    "Pop",
    "Ring",
    "RingError",
    "Segment",
    "chain_iovec",
    "chain_read",
    "chain_write",
    "ring_arm",
    "ring_disarm",
    "ring_flush",
    "ring_forget",
    "ring_has_work",
    "ring_pop",
    "ring_put",
    "ring_recover",
    "ring_rewind",
    "ring_should_call",
]

COUNTER_BITS = 63  # of a counter: 292 years of a pop a nanosecond
CONDEMNED_MAX = 8
MAX_SEGMENTS = 1024  # Linux's IOV_MAX: a chain is at most one preadv


class Pop(IntEnum):
    """What `ring_pop` found."""

    EMPTY = 0
    CHAIN = 1
    BROKEN = 2


class ChainError(IntEnum):
    """What is wrong with a chain; the first mistake found counts."""

    NONE = 0
    LOOP = 1  # more descriptors than the table has
    NEXT_RANGE = 2  # `next` is outside the table
    ADDRESS = 3  # a buffer is not (wholly) in guest memory
    ZERO_LENGTH = 4  # a buffer of no bytes
    ORDER = 5  # a readable buffer after a writable one (2.7.4.2)
    READ_ONLY = 6  # a writable buffer in memory that the device may not write
    TOO_LONG = 7  # more than MAX_SEGMENTS segments
    INDIRECT_REFUSED = 8  # VIRTIO_F_INDIRECT_DESC was not negotiated
    INDIRECT_NESTED = 9  # an indirect table inside an indirect table (2.7.5.3.1)
    INDIRECT_CHAINED = 10  # INDIRECT and NEXT together (2.7.5.3.1)
    INDIRECT_LENGTH = 11  # its length is 0 or no multiple of 16
    INDIRECT_ADDRESS = 12  # the table is not (wholly) in one region
    POISONED = 13  # well-formed, but condemned: it was carried out when process after process died (Ring.condemned)


class RingError(IntEnum):
    """Why a queue stopped."""

    NONE = 0
    AVAIL_JUMP = 1  # avail.idx moved by more than the queue's size
    HEAD_RANGE = 2  # a head outside the descriptor table
    HEAD_BUSY = 3  # a head that is in flight already
    USED_JUMP = 4  # used.idx is not where this device or its predecessor left it
    TABLE = 5  # the in-flight table is another queue's


class Avail(Record):
    """2.7.6: the available ring. `ring[num]` is used_event."""

    flags: u16 = relaxed()
    idx: u16 = acquire()
    ring: Array[u16] = relaxed(count=0)


class UsedElem(Record):
    """2.7.8: an element of the used ring."""

    id: u32 = relaxed()
    len: u32 = relaxed()


class Used(Record):
    """2.7.8: the used ring. avail_event follows `ring[num - 1]`."""

    flags: u16 = relaxed()
    idx: u16 = acquire()
    ring: Array[UsedElem] = plain(count=0)


class Segment(Record):
    """A piece of one buffer, wholly inside one region."""

    host: u64  # address in this process
    start: u64  # offset in the region
    length: u32
    region: u16  # the region's number, for whoever names the buffer to others
    index: u16  # of the region in the table in force


class Chain(Record):
    """One popped request: `readable` segments first, then `writable` ones."""

    head: u16
    error: u16  # ChainError
    readable: u32
    writable: u32
    again: u32  # not 0: a predecessor had popped it before
    readable_bytes: u64
    writable_bytes: u64
    counter: u64  # numbers the pops of a queue
    segments: Array[Segment] = plain(count=MAX_SEGMENTS)


class Ring(Record):
    """The device's memory of one queue; private to the process, filled in before `ring_recover`."""

    num: u32  # Queue Size: entries, a power of two
    queue: u32
    desc: u64  # host addresses of the three parts, checked
    avail: u64
    used: u64
    table: u64  # address of the RegionTable in force
    inflight: u64  # address of this queue's InflightHeader
    statistics: u64  # address of this queue's QueueStatistics
    generation: u64  # address of DeviceToCore.dirty_generation
    event_idx: u32  # VIRTIO_F_EVENT_IDX negotiated
    indirect: u32  # VIRTIO_F_INDIRECT_DESC negotiated
    # the running state
    error: u32  # RingError
    draining: u32  # not 0: take nothing new, only what comes again
    parked: u32  # not 0: what the driver offers can wait: it is no work, and no notification is asked for
    batch: u32  # put, not yet flushed
    counter: u64  # of the next pop
    again_from: u64  # counters from here …
    again_to: u64  # … to here are a predecessor's
    again_left: u32  # how many of them still have to come again
    in_flight: u32
    last_avail: u16
    used_idx: u16
    signalled: u16  # used_idx when the driver was last considered for an interrupt
    dirtied: u16  # guest memory was written since the last flush
    # after deaths that some request may have caused
    guarded: u32  # not 0: `careful` or `condemned` counts
    marked_head: u32  # the head of the request in QueueStatistics.marked
    careful: u64  # requests with a counter below this are carried out one at a time, and marked meanwhile
    condemned: u32  # how many of `condemn` count
    condemn: Array[u64] = plain(count=CONDEMNED_MAX)  # counters of requests that are not to be carried out
    # for the trace
    trace: u64  # address of the process's trace ring, or 0
    now: u64  # CLOCK_MONOTONIC when whoever serves the queue last looked
    status: u32  # of the next request given back; 0 again afterwards
    first: u32  # where in a request its telling bytes begin
    mute: u32  # not 0: answers have none
    spare: u32
    tap: u64  # address of the tap through which everything is recorded, or 0
    given: u64  # address of a `Given` for each head, where somebody else has popped the requests before; or 0


class Given(Record):
    """What a ring is told of a request that has come from elsewhere, by head; and what it tells of its answer."""

    counter: u64
    again: u32
    status: u32


class Iovec(Record):
    """struct iovec."""

    base: u64
    length: u64


class Length(Record):
    """A segment's length, for the tap."""

    bytes: u32


class First(Record):
    """The telling bytes of a request, for the trace."""

    low: u64
    high: u64


class Generation(Record):
    """The word that says that dirty maps changed."""

    word: u32 = acquire()


# Taking requests


@fn
def ring_has_work(ring: Ring) -> bool:
    """Would `ring_pop` find something? One load from guest memory."""
    if ring.error != 0 or (ring.guarded != 0 and _one_is_out(ring)):
        return False
    if ring.draining != 0:
        return ring.again_left != 0
    return ring.again_left != 0 or Avail(ring.avail).idx != ring.last_avail


@fn
def ring_pop(ring: Ring, chain: Chain) -> u32:
    """Take the next request. Returns a `Pop`; with CHAIN the request is in `chain` and in the in-flight table."""
    if ring.error != 0:
        return Pop.BROKEN
    if ring.guarded != 0 and _one_is_out(ring):
        return Pop.EMPTY
    if ring.again_left != 0:
        return _pop_again(ring, chain)
    if ring.draining != 0:
        return Pop.EMPTY
    avail = Avail(ring.avail)
    waiting: u16 = wrap16(avail.idx - ring.last_avail)
    if waiting == 0:
        return Pop.EMPTY
    if u32(waiting) > ring.num:
        return _broken(ring, RingError.AVAIL_JUMP)
    head: u16 = avail.ring[u32(ring.last_avail) & (ring.num - 1)]
    if u32(head) >= ring.num:
        return _broken(ring, RingError.HEAD_RANGE)
    entry = InflightHeader(ring.inflight).desc[head]
    if entry.inflight != 0:
        return _broken(ring, RingError.HEAD_BUSY)
    entry.counter = ring.counter
    entry.inflight = 1
    chain.counter = ring.counter
    chain.again = 0
    if ring.given != 0:
        _name(ring, chain, head)
    ring.counter = ring.counter + 1
    ring.last_avail = wrap16(ring.last_avail + 1)
    ring.in_flight = ring.in_flight + 1
    _take(ring, chain, head)
    return Pop.CHAIN


@fn(cold=True)
def _name(ring: Ring, chain: Chain, head: u16) -> None:
    """The request keeps the number that it has elsewhere."""
    given = Given(ring.given + u64(head) * Given.size())
    chain.counter = given.counter
    chain.again = given.again
    InflightHeader(ring.inflight).desc[head].counter = given.counter


@fn(cold=True)
def _broken(ring: Ring, error: u32) -> u32:
    ring.error = error
    return Pop.BROKEN


@fn(cold=True)
def _pop_again(ring: Ring, chain: Chain) -> u32:
    """Take the oldest request that a predecessor had popped and that has not come again yet."""
    header = InflightHeader(ring.inflight)
    best: u32 = ring.num
    best_counter: u64 = ring.again_to
    for head in range(ring.num):
        entry = header.desc[head]
        counter: u64 = entry.counter
        if entry.inflight != 0 and counter >= ring.again_from and counter < best_counter:
            best = head
            best_counter = counter
    if best == ring.num:  # two heads with one counter: the table was damaged
        return _broken(ring, RingError.TABLE)
    ring.again_from = best_counter + 1
    ring.again_left = ring.again_left - 1
    chain.counter = best_counter
    chain.again = 1
    _take(ring, chain, u16(best))
    return Pop.CHAIN


@fn
def _take(ring: Ring, chain: Chain, head: u16) -> None:
    statistics = QueueStatistics(ring.statistics)
    statistics.popped = statistics.popped + 1
    chain.head = head
    chain.error = ChainError.NONE
    chain.readable = 0
    chain.writable = 0
    chain.readable_bytes = 0
    chain.writable_bytes = 0
    _walk(ring, chain, head)
    if chain.error != ChainError.NONE:
        statistics.rejected = statistics.rejected + 1
    if ring.guarded != 0:
        _guard(ring, chain)
    if ring.trace != 0:
        _trace_pop(ring, chain)
    if ring.tap != 0:
        _tap_pop(Tap(ring.tap), ring, chain)


@fn(cold=True)
def _one_is_out(ring: Ring) -> bool:
    """Is a request being carried out that is to be alone?"""
    return QueueStatistics(ring.statistics).marked != 0


@fn(cold=True)
def _guard(ring: Ring, chain: Chain) -> None:
    """Refuse a condemned request; mark one that is to be carried out alone."""
    for number in range(ring.condemned):
        if ring.condemn[number] == chain.counter:
            chain.error = ChainError.POISONED
    if chain.error == ChainError.NONE and chain.counter < ring.careful:
        ring.marked_head = u32(chain.head)
        QueueStatistics(ring.statistics).marked = chain.counter + 1


@fn(cold=True)
def _unmark(ring: Ring, header: InflightHeader) -> None:
    """The request that was alone has been given back."""
    if header.desc[ring.marked_head].inflight == 0:
        QueueStatistics(ring.statistics).marked = 0


@fn(inline=True)
def _first_bytes(chain: Chain, number: u32, count: u32, offset: u64, first: First) -> None:
    """The 16 bytes at `offset` of the `count` segments from `number` on; what there is not stays 0."""
    if count == 0:
        return
    segment = chain.segments[number]
    if u64(segment.length) >= offset + 16:
        first.low = load64_unaligned(segment.host + offset)
        first.high = load64_unaligned(segment.host + offset + 8)
    else:
        _transfer(chain, number, count, offset, first.address, 16, False)


@fn
def _trace_pop(ring: Ring, chain: Chain) -> None:
    first = local(First)
    _first_bytes(chain, 0, chain.readable, u64(ring.first), first)
    trace(
        ring.trace,
        ring.now,
        TracePoint.POP,
        ring.queue,
        u32(chain.head),
        u32(wrap16(ring.last_avail - 1)),
        chain.counter,
        halves(chain.readable_bytes, chain.writable_bytes),
        halves(u64(chain.again), u64(chain.error)),
        first.low,
        first.high,
    )


@fn
def _walk(ring: Ring, chain: Chain, head: u16) -> None:
    """2.7.5: follow the descriptors from `head`, through at most one indirect table."""
    base: u64 = ring.desc
    entries: u32 = ring.num
    index: u32 = u32(head)
    left: u32 = entries
    indirect: bool = False
    while True:
        if left == 0:
            _reject(chain, ChainError.LOOP)
            return
        left = left - 1
        descriptor: u64 = base + 16 * u64(index)
        address: u64 = _descriptor_word(descriptor)
        rest: u64 = _descriptor_word(descriptor + 8)
        length: u32 = wrap32(rest)
        flags: u16 = wrap16(rest >> 32)
        if (flags & DESC_F_INDIRECT) != 0:
            base = _indirect_table(ring, chain, address, length, flags, indirect)
            if base == 0:
                return
            entries = length // 16
            index = 0
            left = entries
            indirect = True
            continue
        _append(ring, chain, address, length, (flags & DESC_F_WRITE) != 0)
        if (flags & DESC_F_NEXT) == 0:
            return
        index = u32(wrap16(rest >> 48))
        if index >= entries:
            _reject(chain, ChainError.NEXT_RANGE)
            return


@fn(inline=True)
def _descriptor_word(address: u64) -> u64:
    """Half a descriptor, read once. Only an indirect table may be unaligned."""
    if (address & 7) == 0:
        return load64(address)
    return load64_unaligned(address)


@fn
def _indirect_table(ring: Ring, chain: Chain, address: u64, length: u32, flags: u16, nested: bool) -> u64:
    """2.7.5.3: the host address of an indirect table; 0 when it is not acceptable."""
    table: u64 = translate(RegionTable(ring.table), address, u64(length))
    error: u32 = ChainError.NONE
    if ring.indirect == 0:
        error = ChainError.INDIRECT_REFUSED
    elif nested:
        error = ChainError.INDIRECT_NESTED
    elif (flags & DESC_F_NEXT) != 0:
        error = ChainError.INDIRECT_CHAINED
    elif length == 0 or length % 16 != 0:
        error = ChainError.INDIRECT_LENGTH
    elif table == 0:
        error = ChainError.INDIRECT_ADDRESS
    if error == ChainError.NONE:
        return table
    _reject(chain, error)
    return 0


@fn
def _append(ring: Ring, chain: Chain, address: u64, length: u32, writable: bool) -> None:
    """Add one buffer, split where regions meet."""
    if length == 0:
        _reject(chain, ChainError.ZERO_LENGTH)
        return
    if not writable and chain.writable != 0:
        _reject(chain, ChainError.ORDER)
        return
    table = RegionTable(ring.table)
    gpa: u64 = address
    left: u64 = u64(length)
    while left != 0:
        index: u32 = find_region(table, gpa)
        if index == table.count:
            _reject(chain, ChainError.ADDRESS)
            return
        region = table.regions[index]
        if writable and region.writable == 0:
            _reject(chain, ChainError.READ_ONLY)
            return
        count: u32 = chain.readable + chain.writable
        if count == MAX_SEGMENTS:
            _reject(chain, ChainError.TOO_LONG)
            return
        offset: u64 = gpa - region.gpa
        size: u64 = region.length - offset
        if size > left:
            size = left
        segment = chain.segments[count]
        segment.host = region.host + offset
        segment.start = offset
        segment.length = u32(size)
        segment.region = u16(region.number)
        segment.index = u16(index)
        if writable:
            chain.writable = chain.writable + 1
            chain.writable_bytes = chain.writable_bytes + size
        else:
            chain.readable = chain.readable + 1
            chain.readable_bytes = chain.readable_bytes + size
        left = left - size
        gpa = gpa + size if left != 0 else gpa


@fn(cold=True)
def _reject(chain: Chain, error: u32) -> None:
    if chain.error == ChainError.NONE:
        chain.error = u16(error)


# Giving them back


@fn
def ring_put(ring: Ring, chain: Chain, written: u32) -> None:
    """Give a request back, in the batch that the next `ring_flush` makes visible; `written` bytes of its writable
    buffers were written. The pages of those buffers are marked dirty."""
    header = InflightHeader(ring.inflight)
    head: u16 = chain.head
    header.desc[head].next = header.last_batch_head
    header.last_batch_head = head
    slot: u32 = (u32(ring.used_idx) + ring.batch) & (ring.num - 1)
    element = Used(ring.used).ring[slot]
    element.id = u32(head)
    element.len = written
    ring.batch = ring.batch + 1
    if ring.given != 0:
        Given(ring.given + u64(head) * Given.size()).status = ring.status
    if written != 0:
        _mark(ring, chain)
    if ring.tap != 0:
        _tap_done(Tap(ring.tap), ring, chain, u64(written))
    if ring.trace != 0:
        _trace_done(ring, chain, written)


@fn
def _trace_done(ring: Ring, chain: Chain, written: u32) -> None:
    first = local(First)
    if written != 0 and ring.mute == 0:
        _first_bytes(chain, chain.readable, chain.writable, u64(ring.first), first)
    trace(
        ring.trace,
        ring.now,
        TracePoint.DONE,
        ring.queue,
        u32(chain.head),
        u32(wrap16(ring.used_idx + ring.batch - 1)),
        chain.counter,
        u64(written),
        u64(ring.status),
        first.low,
        first.high,
    )
    ring.status = 0


@fn(cold=True)
def _tap_pop(tap: Tap, ring: Ring, chain: Chain) -> None:
    """The request as it was taken, whole."""
    count: u32 = chain.readable + chain.writable
    at: u64 = tap_open(
        tap,
        4 * u64(count) + chain.readable_bytes,
        EventKind.POP,
        ring.queue,
        u32(chain.head),
        EventFlag.AGAIN if chain.again != 0 else 0,
        u32(chain.error),
        ring.now,
        chain.counter,
        u64(chain.readable) | u64(chain.writable) << 32,
        chain.readable_bytes,
    )
    if at == NOWHERE:
        return
    length = local(Length)
    for number in range(count):
        length.bytes = chain.segments[number].length
        at = tap_put(tap, at, length.address, 4)
    for number in range(chain.readable):
        segment = chain.segments[number]
        at = tap_put(tap, at, segment.host, u64(segment.length))
    tap_close(tap, at)


@fn(cold=True)
def _tap_done(tap: Tap, ring: Ring, chain: Chain, written: u64) -> None:
    """The answer, whole: what it says was written."""
    left: u64 = written if written < chain.writable_bytes else chain.writable_bytes
    head: u32 = u32(chain.head)
    at: u64 = tap_open(tap, left, EventKind.DONE, ring.queue, head, 0, ring.status, ring.now, chain.counter, written, 0)
    if at == NOWHERE:
        return
    for number in range(chain.writable):
        segment = chain.segments[chain.readable + number]
        part: u64 = u64(segment.length)
        if part > left:
            part = left
        at = tap_put(tap, at, segment.host, part)
        left = left - part
    tap_close(tap, at)


@fn
def _mark(ring: Ring, chain: Chain) -> None:
    """Mark every page of the writable buffers, whatever part of them was written."""
    table = RegionTable(ring.table)
    first: u32 = chain.readable
    for number in range(chain.writable):
        segment = chain.segments[first + number]
        region = table.regions[segment.index]
        if region.dirty != 0:
            mark_dirty(region, segment.start, u64(segment.length))
            ring.dirtied = 1


@fn
def ring_flush(ring: Ring) -> None:
    """Make the batch visible to the driver: dirty generation, used.idx, then the in-flight table."""
    count: u32 = ring.batch
    if count == 0:
        return
    if ring.dirtied != 0:
        ring.dirtied = 0
        generation = Generation(ring.generation)
        generation.word = wrap32(generation.word + 1)
    new: u16 = wrap16(ring.used_idx + count)
    Used(ring.used).idx = new
    header = InflightHeader(ring.inflight)
    head: u16 = header.last_batch_head
    for _ in range(count):
        entry = header.desc[head]
        entry.inflight = 0
        head = entry.next
    header.used_idx = new
    ring.used_idx = new
    ring.batch = 0
    ring.in_flight = ring.in_flight - count
    if ring.guarded != 0:
        _unmark(ring, header)
    statistics = QueueStatistics(ring.statistics)
    statistics.requests = statistics.requests + u64(count)
    statistics.batches = statistics.batches + 1
    trace(ring.trace, ring.now, TracePoint.USED, ring.queue, 0, u32(new), 0, u64(count), 0, 0, 0)


@fn
def ring_should_call(ring: Ring) -> bool:
    """2.7.7, 2.7.10: does the driver want an interrupt for what was flushed since this was last asked?"""
    old: u16 = ring.signalled
    new: u16 = ring.used_idx
    if old == new:
        return False
    ring.signalled = new
    fence()
    avail = Avail(ring.avail)
    if ring.event_idx == 0:
        return (avail.flags & AVAIL_F_NO_INTERRUPT) == 0
    used_event: u16 = avail.ring[ring.num]
    return wrap16(new - used_event - 1) < wrap16(new - old)


# Asking the driver to notify, or not to


@fn
def ring_arm(ring: Ring) -> None:
    """The device is about to sleep: ask for a notification of the next buffer. A fence and another look must follow."""
    if ring.event_idx == 0:
        Used(ring.used).flags = 0
    else:
        store16(_avail_event(ring), ring.last_avail)


@fn
def ring_disarm(ring: Ring) -> None:
    """The device is awake and looks by itself. With EVENT_IDX nothing is to do: the event stays behind."""
    if ring.event_idx == 0:
        Used(ring.used).flags = USED_F_NO_NOTIFY


@fn(inline=True)
def _avail_event(ring: Ring) -> u64:
    return ring.used + 4 + 8 * u64(ring.num)


# Beginning and recovering


@fn
def ring_recover(ring: Ring) -> u32:
    """Begin to serve a queue, perhaps after a predecessor that was killed. Returns how many requests will come again.

    vhost-user, "Inflight I/O tracking": if used.idx and the table's used_idx differ, the last batch was given back
    but not cleared: clear it. What is in flight then comes again in the order of the counters, before anything new.
    `ring.error` is set when ring and table contradict each other. One unconditional call to the driver is due
    afterwards, and one look at the ring.
    """
    header = InflightHeader(ring.inflight)
    used_idx: u16 = Used(ring.used).idx
    ring.error = RingError.NONE
    ring.batch = 0
    ring.dirtied = 0
    ring.again_left = 0
    ring.in_flight = 0
    if header.version != INFLIGHT_VERSION:
        _begin_table(ring, header, used_idx)
    if u32(header.desc_num) != ring.num:
        _broken(ring, RingError.TABLE)
        return 0
    given_back: u16 = wrap16(used_idx - header.used_idx)
    if u32(given_back) > ring.num:
        _broken(ring, RingError.USED_JUMP)
        return 0
    if given_back != 0 and not _finish_batch(header, u32(given_back), used_idx):
        _broken(ring, RingError.TABLE)
        return 0
    if not _count_table(ring, header):
        _broken(ring, RingError.TABLE)
        return 0
    ring.used_idx = used_idx
    ring.signalled = used_idx
    ring.last_avail = wrap16(used_idx + ring.in_flight)
    statistics = QueueStatistics(ring.statistics)
    statistics.popped = statistics.requests  # what comes again is popped again
    statistics.marked = 0
    return ring.in_flight


@fn
def ring_rewind(ring: Ring) -> None:
    """Everything taken and not flushed goes back to the available ring, to be taken anew. Only for a queue whose
    requests are given back in the order in which they were taken: then the entries from used.idx on are theirs, and
    each gets the counter that it had."""
    header = InflightHeader(ring.inflight)
    lowest: u64 = ring.counter
    for head in range(ring.num):
        entry = header.desc[head]
        if entry.inflight != 0 and entry.counter < lowest:
            lowest = entry.counter
        entry.inflight = 0
    ring.counter = lowest
    statistics = QueueStatistics(ring.statistics)
    statistics.popped = statistics.requests
    statistics.marked = 0
    ring.batch = 0
    ring.again_left = 0
    ring.in_flight = 0
    ring.last_avail = ring.used_idx


@fn
def _begin_table(ring: Ring, header: InflightHeader, used_idx: u16) -> None:
    """Make a table for a queue that nobody has served yet. The version comes last."""
    header.features = 0
    header.desc_num = u16(ring.num)
    header.last_batch_head = 0
    for head in range(ring.num):
        entry = header.desc[head]
        entry.inflight = 0
        entry.next = 0
        entry.counter = 0
    header.used_idx = used_idx
    fence()
    header.version = INFLIGHT_VERSION


@fn
def _finish_batch(header: InflightHeader, count: u32, used_idx: u16) -> bool:
    """Clear the `count` heads linked last."""
    head: u16 = header.last_batch_head
    for _ in range(count):
        if head >= header.desc_num:
            return False
        entry = header.desc[head]
        entry.inflight = 0
        head = entry.next
    header.used_idx = used_idx
    return True


@fn
def _count_table(ring: Ring, header: InflightHeader) -> bool:
    """What is in flight, and the counters from which to go on. False for counters that no queue can have reached."""
    highest: u64 = 0
    for head in range(ring.num):
        entry = header.desc[head]
        if entry.counter > highest:
            highest = entry.counter
        if entry.inflight != 0:
            ring.in_flight = ring.in_flight + 1
    if highest >> COUNTER_BITS != 0:
        ring.in_flight = 0
        return False
    ring.again_left = ring.in_flight
    ring.again_from = 0
    ring.again_to = highest + 1
    ring.counter = highest + 1
    return True


@fn
def ring_forget(inflight: InflightHeader) -> None:
    """After a reset: nothing is in flight, and the next `ring_recover` begins afresh."""
    inflight.version = 0


# The bytes of a chain


@fn
def chain_read(chain: Chain, offset: u64, destination: u64, size: u64) -> u64:
    """Copy up to `size` readable bytes from `offset` on to `destination`. Returns how many there were."""
    return _transfer(chain, 0, chain.readable, offset, destination, size, False)


@fn
def chain_write(chain: Chain, offset: u64, source: u64, size: u64) -> u64:
    """Copy up to `size` bytes from `source` to the writable bytes from `offset` on. Returns how many fitted."""
    return _transfer(chain, chain.readable, chain.writable, offset, source, size, True)


@fn
def _transfer(chain: Chain, first: u32, count: u32, offset: u64, memory: u64, size: u64, to_chain: bool) -> u64:
    skip: u64 = offset
    done: u64 = 0
    number: u32 = first
    while number < first + count and done < size:
        segment = chain.segments[number]
        length: u64 = u64(segment.length)
        number = number + 1
        if skip >= length:
            skip = skip - length
            continue
        part: u64 = length - skip
        if part > size - done:
            part = size - done
        if to_chain:
            copy(segment.host + skip, memory + done, part)
        else:
            copy(memory + done, segment.host + skip, part)
        done = done + part
        skip = 0
    return done


@fn
def chain_iovec(chain: Chain, writable: bool, offset: u64, size: u64, iovec: u64) -> u32:
    """Describe `size` bytes of the readable or writable part from `offset` on as an array of `Iovec` at `iovec`,
    which has room for MAX_SEGMENTS. Returns the number of entries; the bytes must be there."""
    number: u32 = chain.readable if writable else 0
    end: u32 = number + (chain.writable if writable else chain.readable)
    skip: u64 = offset
    left: u64 = size
    entries: u32 = 0
    while number < end and left != 0:
        segment = chain.segments[number]
        length: u64 = u64(segment.length)
        number = number + 1
        if skip >= length:
            skip = skip - length
            continue
        part: u64 = length - skip
        if part > left:
            part = left
        entry = Iovec(iovec + u64(entries) * 16)
        entry.base = segment.host + skip
        entry.length = part
        entries = entries + 1
        left = left - part
        skip = 0
    return entries
