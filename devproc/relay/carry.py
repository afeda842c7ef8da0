"""The relay's machine code: from the guest's rings into messages, and from answers into the guest's buffers.

A request that is popped is copied, record and readable bytes, into one buffer that becomes a message; its chain, as it
was checked then, is kept by head until the answer comes. An answer is believed to be nothing: it is carried out only if
that head is out with that counter and was sent, fits its writable buffers, and lies wholly inside the message; all else
ends the session. It may be anything, but never touches memory outside the writable buffers of the request it names.

Nothing is popped while there is no session, or while as many bytes of a queue are out as the device takes: the driver's
requests wait in its ring.
"""

from __future__ import annotations

from enum import IntEnum

from devproc.loop import Loop, Reason, begin_turn, flush_and_call, lie_down, look, stop_ring
from native import Array, Record, copy, fn, monotonic_ns, plain, u16, u32, u64, wrap64
from proto.pages import MAX_QUEUES, QueueStatistics
from proto.relay import MAX_DATA, TARGET, AnswerFlag, AnswerRecord, RequestFlag, RequestRecord
from proto.ring import Chain, ChainError, Pop, Ring, Segment, chain_read, chain_write, ring_pop, ring_put

__all__ = [
    "OVERHEAD",
    "Carry",
    "Heard",
    "Held",
    "Out",
    "carry_answers",
    "carry_blame",
    "carry_forget",
    "carry_loop",
    "carry_next",
    "carry_settle",
    "carry_suspect",
    "carry_take",
]

OVERHEAD = 64  # bytes that count for a request besides its own
NOBODY = 0xFFFFFFFF


class Out(IntEnum):
    """Where a request is (`Held.out`)."""

    NOT = 0
    HERE = 1  # popped by this code, and answered by it
    PYTHON = 2  # Python has the request, and completes it


class Heard(IntEnum):
    """What `carry_answers` found."""

    ALL = 0
    NONSENSE = 1  # the record at `Carry.at`
    PYTHON = 2  # the answer at `Carry.at` is of a request that Python has


class Held(Record):
    """What is known of the request of one head."""

    out: u32
    told: u32  # not 0: it was sent, in some session
    counter: u64
    cost: u64
    deaths: u32  # of the device's process while it had the request
    spare: u32
    chain: Chain


class Carry(Record):
    """Private to the process."""

    buffer: u64  # address of the message that is being made, with room for MAX_LOAD
    used: u64  # bytes of it
    count: u32  # records in it
    up: u32  # not 0: there is a session, in which requests may be sent
    refused: u32  # not 0: the request in `chain` is to be answered with an error
    open: u32  # requests that are out, but for Python's
    chain: u64  # address of the Chain to pop into
    limit: u64  # bytes of a queue that may be out
    at: u64  # where `carry_answers` stopped
    life: u64
    passive: u32  # queues whose buffers wait for something to come, a bit each
    spare: u32
    held: Array[u64] = plain(count=MAX_QUEUES)  # address of a queue's Helds
    sizes: Array[u32] = plain(count=MAX_QUEUES)
    bytes: Array[u64] = plain(count=MAX_QUEUES)  # out
    rings: Array[u64] = plain(count=MAX_QUEUES)  # of the queues that are served


@fn(inline=True)
def _held(carry: Carry, queue: u32, head: u32) -> u64:
    return carry.held[queue] + u64(head) * Held.size()


# Requests


@fn
def _keep(carry: Carry, chain: Chain, queue: u32, out: u32) -> None:
    """The request is out from now on."""
    held = Held(_held(carry, queue, u32(chain.head)))
    held.out = out
    held.told = chain.again
    held.counter = chain.counter
    held.deaths = 0
    held.cost = chain.readable_bytes + chain.writable_bytes + OVERHEAD
    segments: u32 = chain.readable + chain.writable
    copy(held.chain.address, chain.address, Chain.offset("segments") + u64(segments) * Segment.size())
    carry.bytes[queue] = carry.bytes[queue] + held.cost
    if out == Out.HERE:
        carry.open = carry.open + 1


@fn
def _encode(carry: Carry, held: Held, queue: u32) -> None:
    """Add a request to the message."""
    chain = held.chain
    size: u64 = chain.readable_bytes
    record = RequestRecord(carry.buffer + carry.used)
    record.counter = held.counter
    record.readable = u32(size)
    record.writable = u32(chain.writable_bytes)
    record.head = chain.head
    record.queue = u16(queue)
    record.flags = RequestFlag.AGAIN if held.told != 0 else 0
    record.error = chain.error
    chain_read(chain, 0, record.address + RequestRecord.size(), size)
    carry.used = carry.used + RequestRecord.size() + ((size + 7) & ~7)
    carry.count = carry.count + 1
    held.told = 1


@fn
def _collect(carry: Carry, loop: Loop, ring: Ring) -> bool:
    """Pop and encode requests of one queue. True when there were any."""
    queue: u32 = ring.queue
    chain = Chain(carry.chain)
    worked: bool = False
    ring.now = monotonic_ns()
    while True:
        open: bool = carry.up != 0 and carry.bytes[queue] < carry.limit
        ring.parked = 0 if open else 1
        if not open or carry.used >= TARGET or carry.refused != 0:
            return worked
        found: u32 = ring_pop(ring, chain)
        if found == Pop.EMPTY:
            return worked
        if found == Pop.BROKEN:
            stop_ring(loop, ring)
            return worked
        worked = True
        too_long: bool = chain.readable_bytes > MAX_DATA or chain.writable_bytes > MAX_DATA
        if chain.error == ChainError.POISONED or too_long:
            carry.refused = queue + 1
            return worked
        _keep(carry, chain, queue, Out.HERE)
        _encode(carry, Held(_held(carry, queue, u32(chain.head))), queue)


@fn
def carry_loop(loop: Loop, carry: Carry, service_ns: u64) -> u32:
    """Look at every ring. SLEEP when there was nothing; SERVICE when there is a message to be sent; WORK for a request
    that is to be refused; BROKEN."""
    loop.spinning = 0  # while this would spin, it does not hear
    loop.seen = 0
    begin_turn(loop, service_ns)
    for queue in range(u32(MAX_QUEUES)):
        carry.rings[queue] = 0
    worked: bool = False
    for number in range(loop.count):
        ring = Ring(loop.rings[number])
        carry.rings[ring.queue] = ring.address
        if _collect(carry, loop, ring):
            worked = True
    if loop.broken != 0:
        return Reason.BROKEN
    if carry.refused != 0:
        loop.ready = 0
        return Reason.WORK
    if worked or look(loop):
        return Reason.SERVICE
    return Reason.SLEEP if lie_down(loop) else Reason.SERVICE


@fn
def carry_take(carry: Carry, queue: u32) -> None:
    """Python has popped the request in `chain`, and keeps it; it is sent like any other."""
    chain = Chain(carry.chain)
    _keep(carry, chain, queue, Out.PYTHON)
    if carry.up != 0:
        _encode(carry, Held(_held(carry, queue, u32(chain.head))), queue)


@fn
def carry_next(carry: Carry, queue: u32, least: u64) -> u64:
    """Add the oldest request of a queue that is out, with a counter from `least` on, to the message: what is said again
    in a new session. Returns its counter plus 1; 0 when there is none."""
    best: u32 = NOBODY
    best_counter: u64 = 0
    for head in range(carry.sizes[queue]):
        held = Held(_held(carry, queue, head))
        if held.out != 0 and held.counter >= least and (best == NOBODY or held.counter < best_counter):
            best = head
            best_counter = held.counter
    if best == NOBODY:
        return 0
    _encode(carry, Held(_held(carry, queue, best)), queue)
    return best_counter + 1


# Answers


@fn
def carry_answers(carry: Carry, loop: Loop, message: u64, size: u64) -> u32:
    """Carry out the answers in a message, from `Carry.at` on. Returns a `Heard`."""
    while carry.at != size:
        left: u64 = size - carry.at
        if left < AnswerRecord.size():
            return Heard.NONSENSE
        record = AnswerRecord(message + carry.at)
        queue: u32 = u32(record.queue)
        written: u64 = u64(record.written)
        padded: u64 = (written + 7) & ~7
        if padded > left - AnswerRecord.size() or queue >= MAX_QUEUES or u32(record.head) >= carry.sizes[queue]:
            return Heard.NONSENSE
        held = Held(_held(carry, queue, u32(record.head)))
        known: bool = held.out != 0 and held.told != 0 and held.counter == record.counter
        if not known or written > held.chain.writable_bytes:
            return Heard.NONSENSE
        if held.out == Out.PYTHON:
            return Heard.PYTHON
        carry.at = carry.at + AnswerRecord.size() + padded
        if carry.rings[queue] == 0:  # the driver broke the queue meanwhile: nobody is to be answered
            _let_go(carry, held, queue)
            continue
        ring = Ring(carry.rings[queue])
        _carry_out(carry, ring, held, record)
        if (record.flags & AnswerFlag.MORE) == 0:
            flush_and_call(loop, ring)
    return Heard.ALL


@fn
def _carry_out(carry: Carry, ring: Ring, held: Held, record: AnswerRecord) -> None:
    chain_write(held.chain, 0, record.address + AnswerRecord.size(), u64(record.written))
    if record.status != 0:
        statistics = QueueStatistics(ring.statistics)
        statistics.errors = wrap64(statistics.errors + 1)
    ring.now = monotonic_ns()
    ring.status = record.status
    ring_put(ring, held.chain, record.written)
    _let_go(carry, held, ring.queue)


@fn
def _let_go(carry: Carry, held: Held, queue: u32) -> None:
    if held.out == Out.HERE:
        carry.open = carry.open - 1
    held.out = Out.NOT
    carry.bytes[queue] = carry.bytes[queue] - held.cost


@fn
def carry_settle(carry: Carry, queue: u32, head: u32) -> None:
    """Python's request is answered, or is about to be: it is out no longer."""
    _let_go(carry, Held(_held(carry, queue, head)), queue)


@fn
def carry_forget(carry: Carry) -> None:
    """The driver's reset: nothing is out."""
    for queue in range(u32(MAX_QUEUES)):
        for head in range(carry.sizes[queue]):
            Held(_held(carry, queue, head)).out = Out.NOT
        carry.bytes[queue] = 0
    carry.open = 0
    carry.used = 0
    carry.count = 0
    carry.refused = 0


# Whose fault it is


@fn
def carry_blame(carry: Carry) -> u32:
    """The device's process has died. Returns the most deaths of any request that was with it."""
    most: u32 = 0
    for queue in range(u32(MAX_QUEUES)):
        if (carry.passive >> queue & 1) == 0:
            for head in range(carry.sizes[queue]):
                held = Held(_held(carry, queue, head))
                if held.out != 0 and held.told != 0:
                    held.deaths = held.deaths + 1
                    if held.deaths > most:
                        most = held.deaths
    return most


@fn
def carry_suspect(carry: Carry, deaths: u32) -> u64:
    """The oldest request with at least so many deaths: queue and head, in the halves of a number; all ones when there
    is none."""
    best: u64 = 0xFFFFFFFFFFFFFFFF
    best_counter: u64 = 0
    for queue in range(u32(MAX_QUEUES)):
        for head in range(carry.sizes[queue]):
            held = Held(_held(carry, queue, head))
            guilty: bool = held.out != 0 and held.deaths >= deaths
            if guilty and (best == 0xFFFFFFFFFFFFFFFF or held.counter < best_counter):
                best = u64(queue) << 32 | u64(head)
                best_counter = held.counter
    return best
