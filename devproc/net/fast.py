"""virtio-net in machine code: frames between rings and one descriptor, in batches, without Python.

The descriptor keeps message boundaries (a SEQPACKET socket to a backend's process, or a tap) and never blocks. A
message is a `NetHeader` and a frame. What the two sides take is settled by bits (`CSUM`, `TSO4`, `TSO6`): what a side
does not take is done here. A message too short to be a frame is the backend's word about the link: for Python to read.

Sending: a frame goes from guest RAM to the descriptor by one writev, unless it must be changed: then it is copied.
When the descriptor takes no more, the chain goes back to the available ring and the queue is parked until it does.
Receiving: a message is read into private memory, checked and filtered, then copied into as many buffers as it needs.
Where it came without a word about its checksum, that is looked at here, once, if the driver takes the answer. When
there are no buffers, it waits, nothing more is read, and the ring's next buffers are work. Both queues are in order, so
that taking back is a rewind; nothing is held between two turns but one received message. Under rules each message is
Python's to look at in between (`devproc.net.arrivals`).
"""

from __future__ import annotations

from enum import IntFlag

from devproc.loop import Loop, Reason, begin_turn, flush_and_call, lie_down, rest, stop_ring
from devproc.net.offload import (
    CSUM,
    ETHERNET,
    FRAME_MAX,
    HEADER,
    NetHeader,
    checksum_right,
    finish_checksum,
    flow_hash,
    gso_offload,
    header_fits,
    segment,
)
from native import (
    Array,
    Record,
    addressof,
    fn,
    i64,
    load8,
    load16_unaligned,
    load32,
    load32_unaligned,
    load64,
    local,
    monotonic_ns,
    plain,
    realtime_ns,
    sys,
    syscall,
    u8,
    u16,
    u32,
    u64,
    wrap64,
)
from proto.pages import MAX_QUEUES, QueueStatistics
from proto.ring import (
    MAX_SEGMENTS,
    Chain,
    Iovec,
    Pop,
    Ring,
    chain_iovec,
    chain_read,
    chain_write,
    ring_flush,
    ring_has_work,
    ring_pop,
    ring_put,
    ring_rewind,
)
from proto.virtio import NetHeaderFlag

__all__ = [
    "FLOWS",
    "MACS",
    "MESSAGE_MAX",
    "NOTHING",
    "Interest",
    "Net",
    "RxMode",
    "net_fits",
    "net_loop",
    "net_queue",
    "net_send",
]

BATCH = 64  # frames of one queue before the next is looked at
MESSAGE_MAX = HEADER + FRAME_MAX
WORD = 4  # bytes of a message that is not a frame
MACS = 64  # entries of each filter table
FLOWS = 256
NOTHING = 0xFFFFFFFFFFFFFFFF  # no descriptor
PCAP_RECORD = 16


class RxMode(IntFlag):
    """Bits of `Net.rx_mode` (5.1.6.5.1)."""

    PROMISC = 1
    ALLMULTI = 2
    ALLUNI = 4
    NOMULTI = 8
    NOUNI = 16
    NOBCAST = 32


class Interest(IntFlag):
    """Bits of `Net.interest`: what the descriptor is to be watched for."""

    READ = 1
    WRITE = 2


class PcapRecord(Record):
    """A record's header in a capture file."""

    seconds: u32
    nanoseconds: u32
    captured: u32
    length: u32


class Start(Record):
    """The beginning of a frame: all that tells flows apart."""

    bytes: Array[u8] = plain(count=128)


class Net(Record):
    """What the loop knows of the network device; private to the process."""

    fd: u64
    capture: u64  # a pcap file, open for appending, or NOTHING
    chain: u64  # addresses of two Chains to pop into
    more: u64
    message: u64  # address of MESSAGE_MAX bytes: what was read last
    scratch: u64  # as many: the copy of a frame that is sent
    piece: u64  # as many: a segment of either
    length: u64  # of the message that waits to be delivered; 0: none
    backend: u32  # offloads that the backend takes
    driver: u32  # offloads that the driver takes
    offered: u32  # offloads that the driver may ask for
    mergeable: u32  # VIRTIO_NET_F_MRG_RXBUF negotiated
    pairs: u32  # queue pairs in use
    control: u32  # the control queue's number
    rx_mode: u32
    link: u32  # not 0: up
    interest: u32
    watched: u32  # what Python watches it for
    word: u32  # what the backend said; 0: nothing
    accepted: u32  # not 0: the waiting message was checked
    vouched: u32  # not 0: and its checksum was looked at
    segment: u32  # its next segment
    sent: u32  # segments of the frame at the head of queue `sender` that have been sent
    sender: u32
    lost: u32  # capture file: not 0: it could not be written
    readable: (
        u32  # not 0: Python takes frames that are sent and looks at those that came, one by one (`devproc.breaks`)
    )
    judged: u32  # not 0: Python has looked at the waiting message
    stop: u32  # not 0: Python has messages of its own to deliver: read no others
    mac: u64  # in the byte order of a load
    unicast: u32
    multicast: u32
    dropped: u64
    rings: Array[u64] = plain(count=MAX_QUEUES)  # by queue; 0: not served
    unicasts: Array[u64] = plain(count=MACS)
    multicasts: Array[u64] = plain(count=MACS)
    flows: Array[u8] = plain(count=FLOWS)  # queue pair by flow
    header: Array[u8] = plain(count=16)  # of the frame being sent
    record: Array[u8] = plain(count=PCAP_RECORD)
    iovec: Array[Iovec] = plain(count=MAX_SEGMENTS + 1)


# Capture


@fn
def _capture(net: Net, entries: u32, size: u64) -> None:
    """Append the frame described by iovec[1 … entries]: one write, so that no kill leaves half a record. A file that
    cannot be written is left as it was before, and alone from then on."""
    record = PcapRecord(addressof(net.record[0]))
    now: u64 = realtime_ns()
    record.seconds = u32(now // 1_000_000_000)
    record.nanoseconds = u32(now % 1_000_000_000)
    record.captured = u32(size)
    record.length = u32(size)
    net.iovec[0].base = record.address
    net.iovec[0].length = PCAP_RECORD
    written: i64 = syscall(sys.WRITEV, net.capture, addressof(net.iovec[0]), entries, 0, 0, 0)
    if written != i64(size + PCAP_RECORD):
        net.capture = NOTHING
        net.lost = 1


@fn
def _capture_bytes(net: Net, frame: u64, size: u64) -> None:
    net.iovec[1].base = frame
    net.iovec[1].length = size
    _capture(net, 2, size)


# Sending


@fn
def _write(net: Net, header: u64, entries: u32, size: u64) -> i64:
    """Send the frame described by iovec[1 … entries] under a header."""
    while True:
        net.iovec[0].base = header
        net.iovec[0].length = HEADER
        result: i64 = syscall(sys.WRITEV, net.fd, addressof(net.iovec[0]), entries, 0, 0, 0)
        if result == -sys.EINTR:
            continue
        if result > 0 and net.capture != NOTHING:
            _capture(net, entries, size)
        return result


@fn
def _write_bytes(net: Net, message: u64, length: u64) -> i64:
    net.iovec[1].base = message + HEADER
    net.iovec[1].length = length - HEADER
    return _write(net, message, 2, length - HEADER)


@fn
def _send(net: Net, chain: Chain, queue: u32) -> i64:
    """Send the frame in a chain. Returns what the descriptor said: -EAGAIN is to be tried again, all else is final."""
    size: u64 = chain.readable_bytes - HEADER
    header = NetHeader(addressof(net.header[0]))
    chain_read(chain, 0, header.address, HEADER)
    header.flags = header.flags & NetHeaderFlag.NEEDS_CSUM
    if net.pairs > 1:
        _remember_flow(net, chain, queue)
    gso: u32 = gso_offload(header)
    if gso == 0:
        header.gso_type = 0
    if header.flags == 0 and gso == 0:
        return _write(net, header.address, 1 + chain_iovec(chain, False, HEADER, size, addressof(net.iovec[1])), size)
    frame: u64 = net.scratch + HEADER
    chain_read(chain, HEADER, frame, size)
    if not header_fits(header, frame, size, net.offered):
        return -sys.EINVAL
    if (gso & ~net.backend) != 0:
        return _send_segments(net, header, frame, size, queue)
    if (net.backend & CSUM) == 0:
        finish_checksum(header, frame, size)
        header.gso_type = 0  # a large frame with a whole checksum is, to such a backend, a frame like any other
    net.iovec[1].base = frame
    net.iovec[1].length = size
    return _write(net, header.address, 2, size)


@fn
def _send_segments(net: Net, header: NetHeader, frame: u64, size: u64, queue: u32) -> i64:
    """Send a large frame in pieces, going on where a full descriptor stopped the last attempt."""
    if net.sender != queue:
        net.sent = 0
    net.sender = queue
    result: i64 = 0
    while True:
        length: u64 = segment(header, frame, size, net.sent, net.piece)
        if length == 0:
            break
        result = _write_bytes(net, net.piece, length)
        if result == -sys.EAGAIN:
            return result
        net.sent = net.sent + 1
    net.sent = 0
    return result


@fn
def _remember_flow(net: Net, chain: Chain, queue: u32) -> None:
    """5.1.6.5.6: what belongs to a flow is received where it was sent last."""
    start = local(Start)
    size: u64 = chain_read(chain, HEADER, start.address, Start.size())
    net.flows[flow_hash(start.address, size)] = u8(queue // 2)


@fn
def _transmit(net: Net, loop: Loop, ring: Ring) -> bool:
    """Up to BATCH frames of one queue. True when there were any."""
    chain = Chain(net.chain)
    statistics = QueueStatistics(ring.statistics)
    worked: bool = False
    ring.now = monotonic_ns()
    for _ in range(u32(BATCH)):
        found: u32 = ring_pop(ring, chain)
        if found == Pop.EMPTY:
            break
        if found == Pop.BROKEN:
            stop_ring(loop, ring)
            break
        size: u64 = chain.readable_bytes
        result: i64 = -sys.EINVAL
        if chain.error == 0 and size >= HEADER + ETHERNET and size <= MESSAGE_MAX:
            result = _send(net, chain, ring.queue)
        if result == -sys.EAGAIN:
            ring_flush(ring)
            ring_rewind(ring)
            ring.parked = 1
            net.interest = net.interest | Interest.WRITE
            break
        if result > 0:
            statistics.bytes_written = wrap64(statistics.bytes_written + size - HEADER)
        else:
            statistics.errors = wrap64(statistics.errors + 1)
        ring.now = monotonic_ns()
        ring.status = 0 if result > 0 else u32(-result)
        ring_put(ring, chain, 0)
        worked = True
    flush_and_call(loop, ring)
    return worked


# Receiving


@fn
def _mac(address: u64) -> u64:
    """The six bytes at an address as one number."""
    return u64(load32_unaligned(address)) | u64(load16_unaligned(address + 4)) << 32


@fn
def _listed(table: u64, count: u32, mac: u64) -> bool:
    number: u32 = 0
    while number < count and load64(table + 8 * u64(number)) != mac:
        number = number + 1
    return number < count


@fn
def _wanted(net: Net, frame: u64) -> bool:
    """5.1.6.5.1, 5.1.6.5.2: does the driver want a frame for this destination?"""
    mode: u32 = net.rx_mode
    destination: u64 = _mac(frame)
    if destination == 0xFFFFFFFFFFFF:
        return (mode & RxMode.NOBCAST) == 0
    if (mode & RxMode.PROMISC) != 0:
        return True
    if (load8(frame) & 1) != 0:
        if (mode & RxMode.NOMULTI) != 0:
            return False
        if (mode & RxMode.ALLMULTI) != 0:
            return True
        return _listed(addressof(net.multicasts[0]), net.multicast, destination)
    if (mode & RxMode.NOUNI) != 0:
        return False
    if destination == net.mac or (mode & RxMode.ALLUNI) != 0:
        return True
    return _listed(addressof(net.unicasts[0]), net.unicast, destination)


@fn
def _accept(net: Net) -> bool:
    """Check the message that was read, and make of its header what the driver takes. False: drop it."""
    header = NetHeader(net.message)
    frame: u64 = net.message + HEADER
    size: u64 = net.length - HEADER
    if net.link == 0 or not _wanted(net, frame):
        return False
    if not header_fits(header, frame, size, 0xFFFFFFFF):
        net.dropped = wrap64(net.dropped + 1)
        return False
    if net.capture != NOTHING:
        _capture_bytes(net, frame, size)
    if (net.driver & CSUM) == 0:
        if (header.flags & NetHeaderFlag.NEEDS_CSUM) != 0 and gso_offload(header) == 0:
            finish_checksum(header, frame, size)
        header.flags = header.flags & NetHeaderFlag.NEEDS_CSUM
    net.accepted = 1
    net.segment = 0
    return True


@fn
def _vouch(net: Net) -> None:
    """5.1.6.4: spare the driver a look at a checksum that is right. One that is not, it finds by itself."""
    net.vouched = 1
    header = NetHeader(net.message)
    if header.flags == 0 and (net.driver & CSUM) != 0 and checksum_right(net.message + HEADER, net.length - HEADER):
        header.flags = NetHeaderFlag.DATA_VALID


@fn
def _place(net: Net, loop: Loop, ring: Ring, message: u64, length: u64) -> bool:
    """5.1.6.4: copy a message into the driver's next buffers. False when there are not enough now."""
    chain = Chain(net.chain)
    more = Chain(net.more)
    ring.now = monotonic_ns()
    found: u32 = ring_pop(ring, chain)
    if found == Pop.CHAIN and net.mergeable == 0 and chain.writable_bytes < length:
        ring_put(ring, chain, 0)  # too small a buffer: given back empty, or it would be in the way for ever
        ring_flush(ring)
        net.dropped = wrap64(net.dropped + 1)
        return True
    done: u64 = 0
    buffers: u16 = 0
    while found == Pop.CHAIN:
        into: u64 = chain.address if buffers == 0 else more.address
        done = done + _fill(ring, Chain(into), message + done, length - done)
        buffers = buffers + 1
        if done == length:
            break
        found = ring_pop(ring, more)
    if found == Pop.BROKEN:
        stop_ring(loop, ring)
        return True
    if found == Pop.EMPTY:
        ring_rewind(ring)
        ring.parked = 0
        return False
    header = NetHeader(addressof(net.header[0]))
    header.num_buffers = buffers
    chain_write(chain, 10, addressof(header.num_buffers), 2)
    ring_flush(ring)
    statistics = QueueStatistics(ring.statistics)
    statistics.bytes_read = wrap64(statistics.bytes_read + length - HEADER)
    return True


@fn
def _fill(ring: Ring, chain: Chain, source: u64, size: u64) -> u64:
    """Put as much as fits into one buffer, and the buffer into the batch. Returns how much that was."""
    written: u64 = 0
    if chain.error == 0:
        written = chain_write(chain, 0, source, size)
    ring_put(ring, chain, u32(written))
    return written


@fn
def _deliver(net: Net, loop: Loop) -> bool:
    """Give the waiting message to the driver, in segments if it takes no large frames. False when it must wait on."""
    header = NetHeader(net.message)
    frame: u64 = net.message + HEADER
    size: u64 = net.length - HEADER
    ring = Ring(_rx_ring(net, frame, size))
    if (gso_offload(header) & ~net.driver) == 0:
        return _place(net, loop, ring, net.message, net.length)
    while True:
        length: u64 = segment(header, frame, size, net.segment, net.piece)
        if length == 0:
            return True
        if not _place(net, loop, ring, net.piece, length):
            return False
        net.segment = net.segment + 1


@fn
def _rx_ring(net: Net, frame: u64, size: u64) -> u64:
    """The address of the ring for a frame: the flow's, if it is served, else the first."""
    if net.pairs > 1:
        pair: u32 = u32(net.flows[flow_hash(frame, size)])
        if pair < net.pairs and net.rings[2 * pair] != 0:
            return net.rings[2 * pair]
    return net.rings[0]


@fn
def _read(net: Net) -> bool:
    """Read the next message. False when there is none."""
    while True:
        result: i64 = syscall(sys.READ, net.fd, net.message, MESSAGE_MAX, 0, 0, 0)
        if result == -sys.EINTR:
            continue
        if result <= 0:
            if result != -sys.EAGAIN:  # the backend's end is closed, or the tap is down: Python looks again later
                net.interest = net.interest & ~Interest.READ
            return False
        if result == WORD:
            net.word = load32(net.message)
            return False
        if result >= HEADER + ETHERNET:
            net.length = u64(result)
            net.accepted = 0
            net.vouched = 0
            net.judged = 0
            return True


@fn
def _unjudged(net: Net) -> bool:
    """Is there a message that Python is to look at?"""
    return net.readable != 0 and net.length != 0 and net.accepted != 0 and net.judged == 0


@fn
def _receive(net: Net, loop: Loop) -> bool:
    """Up to BATCH messages. True when there were any."""
    worked: bool = False
    for _ in range(u32(BATCH)):
        if net.length == 0 and (net.stop != 0 or not _read(net)):
            break
        worked = True
        if net.accepted == 0 and not _accept(net):
            net.length = 0
            continue
        if _unjudged(net):
            break
        if net.vouched == 0:
            _vouch(net)
        if not _deliver(net, loop):
            net.interest = net.interest & ~Interest.READ
            worked = False
            break
        net.length = 0
    _call_all(net, loop)
    return worked


@fn
def _call_all(net: Net, loop: Loop) -> None:
    for pair in range(net.pairs):
        if net.rings[2 * pair] != 0:
            flush_and_call(loop, Ring(net.rings[2 * pair]))


# The loop


@fn
def _find_rings(net: Net, loop: Loop) -> None:
    """Which queues are served now. Receive buffers that wait for frames are no work; blocked senders try again."""
    for queue in range(u32(MAX_QUEUES)):
        net.rings[queue] = 0
    for number in range(loop.count):
        ring = Ring(loop.rings[number])
        net.rings[ring.queue] = ring.address
        ring.first = HEADER if ring.queue != net.control else 0
        if ring.queue % 2 == 0 and ring.queue != net.control:
            ring.parked = 1
        elif net.readable == 0:
            ring.parked = 0


@fn
def _frames_for_python(net: Net, loop: Loop) -> bool:
    """Are there frames to be sent that Python is to look at? Sets `ready`."""
    ready: u32 = 0
    if net.readable != 0:
        for pair in range(net.pairs):
            if net.rings[2 * pair + 1] != 0:
                ring = Ring(net.rings[2 * pair + 1])
                if ring.parked == 0 and ring_has_work(ring):
                    ready = ready | (u32(1) << ring.queue)
    loop.ready = ready
    return ready != 0


@fn
def net_send(net: Net, chain: Chain, queue: u32) -> i64:
    """Send one frame for Python. Returns what the descriptor said, or -EINVAL for what is no frame."""
    size: u64 = chain.readable_bytes
    if chain.error != 0 or size < HEADER + ETHERNET or size > MESSAGE_MAX:
        return -sys.EINVAL
    return _send(net, chain, queue)


@fn
def net_queue(net: Net) -> u32:
    """For which queue is the waiting message?"""
    ring: u64 = _rx_ring(net, net.message + HEADER, net.length - HEADER)
    return Ring(ring).queue if ring != 0 else u32(0)


@fn
def net_fits(net: Net) -> bool:
    """Does the waiting message's header fit its frame?"""
    return header_fits(NetHeader(net.message), net.message + HEADER, net.length - HEADER, 0xFFFFFFFF)


@fn
def net_loop(loop: Loop, net: Net, service_ns: u64) -> u32:
    """Serve all queues until there is a reason to come back to Python: SLEEP, WORK (the control queue), CALL, SERVICE
    (a message that Python is to look at, too) or BROKEN. `net.interest` says what to watch the descriptor for,
    `net.word` what the backend said."""
    begin_turn(loop, service_ns)
    _find_rings(net, loop)
    net.interest = Interest.READ if net.rings[0] != 0 else 0
    while True:
        worked: bool = False
        for pair in range(net.pairs):
            sends: bool = net.readable == 0 and net.rings[2 * pair + 1] != 0
            if sends and _transmit(net, loop, Ring(net.rings[2 * pair + 1])):
                worked = True
        if (net.interest & Interest.READ) != 0 and _receive(net, loop):
            worked = True
        if loop.broken != 0:
            return Reason.BROKEN
        if _unjudged(net):
            return Reason.SERVICE
        if _frames_for_python(net, loop):
            return Reason.WORK
        control: u64 = net.rings[net.control]
        if control != 0 and ring_has_work(Ring(control)):
            loop.ready = u32(1) << net.control
            return Reason.WORK
        if net.word != 0:
            return Reason.SERVICE
        if loop.calls != 0:
            return Reason.SLEEP if loop.spinning == 0 and lie_down(loop) else Reason.CALL
        if net.interest != net.watched:
            loop.until = 0  # a sleep would be on the wrong events
        if not worked and rest(loop):
            return Reason.SLEEP
        if monotonic_ns() > loop.deadline:  # also while a frame waits for buffers, of which there are too few
            return Reason.SERVICE
        if not worked:
            _find_rings(net, loop)
            net.interest = Interest.READ if net.rings[0] != 0 else 0
