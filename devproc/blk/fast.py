"""virtio-blk on a plain file, in machine code: from the ring to preadv and back without Python.

The same requests as `devproc.blk.device` answers through a backend, for backends that are one file descriptor. Payload
goes straight between guest RAM and the file. A test runs both on the same requests and compares what the guest sees.

There is one thread, and what the host has in its page cache it hands over without waiting. A read of anything else is
put aside: the attempt has begun it (RWF_NOWAIT reads ahead and returns), and so have those of the requests behind it
when the loop comes back to wait for the first. So a slow disk has as many reads under way as the driver.
"""

from __future__ import annotations

from devproc.loop import Loop, Reason, begin_turn, flush_and_call, lie_down, rest, stop_ring
from native import (
    Array,
    Record,
    addressof,
    fn,
    i64,
    local,
    monotonic_ns,
    plain,
    sys,
    syscall,
    u8,
    u32,
    u64,
    wrap64,
)
from proto.pages import DeviceToCore, QueueStatistics
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
    ring_pop,
    ring_put,
)
from proto.virtio import BLK_ID_BYTES, BLK_SECTOR_SIZE, BLK_WRITE_ZEROES_UNMAP, BlkStatus, BlkType

__all__ = ["CHAINS", "Block", "block_loop"]

BATCH = 64  # requests taken from one queue before the next is looked at
FLUSH = 4  # requests given back together, or what is done after FLUSH_NS: the driver refills the ring meanwhile
FLUSH_NS = 5_000
CALL_NS = 50_000  # a driver that sleeps is signalled at least this often
MESSAGE_NS = 250_000  # and if that takes a message, which costs as much as some requests, it is sent after this time
ASIDE = 32  # reads put aside at most
WAITS = 0xFF  # for a status: the host would have to wait for its disk
RWF_DSYNC, RWF_NOWAIT = 2, 8
ZEROES = 65536  # bytes of the zero buffer


class Block(Record):
    """What the loop knows of the disk; private to the process."""

    fd: u64
    sectors: u64
    read_only: u32
    write_through: u32  # each write is durable before it is answered
    discard: u32  # negotiated
    write_zeroes: u32  # negotiated
    max_range: u32  # sectors of one discard or write-zeroes segment
    max_ranges: u32
    chains: u64  # address of CHAINS Chains to pop into
    waiting: u32  # not 0: the file system has no RWF_NOWAIT, every read waits
    zeroes: u64  # address of ZEROES zero bytes
    id: Array[u8] = plain(count=BLK_ID_BYTES)
    iovec: Array[Iovec] = plain(count=MAX_SEGMENTS, offset=0x80)


class BlkHeader(Record):
    """5.2.6: struct virtio_blk_req, the readable part."""

    type: u32
    reserved: u32
    sector: u64


class BlkRange(Record):
    """5.2.6: struct virtio_blk_discard_write_zeroes."""

    sector: u64
    num_sectors: u32
    flags: u32


class StatusByte(Record):
    """5.2.6: the last writable byte of a request."""

    status: u8


HEADER_BYTES = BlkHeader.size()
CHAIN_BYTES = Chain.size()
CHAINS = ASIDE
RANGE_BYTES = BlkRange.size()


@fn
def _transfer_all(
    block: Block, chain: Chain, writable: bool, offset: u64, size: u64, position: u64, patient: bool
) -> u8:
    """preadv into, or pwritev from, `size` bytes of the chain; a short transfer goes on where it stopped. A read that
    is not `patient` is WAITS where the bytes are not in the page cache."""
    done: u64 = 0
    iovec: u64 = addressof(block.iovec[0])
    while done < size:
        count: u32 = chain_iovec(chain, writable, offset + done, size - done, iovec)
        at: u64 = position + done
        result: i64 = 0
        if writable and patient:
            result = syscall(sys.PREADV, block.fd, iovec, count, at, 0, 0)
        elif writable:
            result = syscall(sys.PREADV2, block.fd, iovec, count, at, 0, RWF_NOWAIT)
        elif block.write_through != 0:
            result = syscall(sys.PWRITEV2, block.fd, iovec, count, at, 0, RWF_DSYNC)
        else:
            result = syscall(sys.PWRITEV, block.fd, iovec, count, at, 0, 0)
        if result == -sys.EINTR:
            continue
        if not patient and (result == -sys.EAGAIN or result == -sys.EOPNOTSUPP):
            if result == -sys.EOPNOTSUPP:
                block.waiting = 1
            return WAITS
        if result <= 0:
            return BlkStatus.IOERR
        done = done + u64(result)
    return BlkStatus.OK


@fn
def _data(block: Block, chain: Chain, header: BlkHeader, patient: bool) -> u8:
    """IN and OUT: everything between the header and the status byte."""
    reading: bool = header.type == BlkType.IN
    size: u64 = chain.writable_bytes - 1
    if not reading:
        size = chain.readable_bytes - HEADER_BYTES
        if block.read_only != 0:
            return BlkStatus.IOERR
    if size % BLK_SECTOR_SIZE != 0 or not _in_range(block, header.sector, size // BLK_SECTOR_SIZE):
        return BlkStatus.IOERR
    offset: u64 = 0 if reading else HEADER_BYTES
    position: u64 = header.sector * BLK_SECTOR_SIZE
    return _transfer_all(block, chain, reading, offset, size, position, patient or not reading)


@fn
def _in_range(block: Block, sector: u64, sectors: u64) -> bool:
    return sector <= block.sectors and sectors <= block.sectors - sector


@fn
def _ranges(block: Block, chain: Chain, type: u32) -> u8:
    """DISCARD and WRITE_ZEROES: check every range, then carry each out."""
    size: u64 = chain.readable_bytes - HEADER_BYTES
    if block.read_only != 0 or size == 0 or size % RANGE_BYTES != 0:
        return BlkStatus.IOERR
    count: u64 = size // RANGE_BYTES
    if count > u64(block.max_ranges):
        return BlkStatus.IOERR
    for act in range(u32(2)):
        for number in range(count):
            span = local(BlkRange)
            chain_read(chain, HEADER_BYTES + number * RANGE_BYTES, span.address, RANGE_BYTES)
            status: u8 = BlkStatus.OK
            if act == 0:
                status = _check_range(block, span, type)
            else:
                status = _do_range(block, span, type)
            if status != BlkStatus.OK:
                return status
    return BlkStatus.OK


@fn
def _check_range(block: Block, span: BlkRange, type: u32) -> u8:
    """5.2.6.2: unknown flags, and UNMAP on a discard, are unsupported; a range outside the disk is an error."""
    allowed: u32 = BLK_WRITE_ZEROES_UNMAP if type == BlkType.WRITE_ZEROES else 0
    if (span.flags & ~allowed) != 0:
        return BlkStatus.UNSUPP
    if span.num_sectors > block.max_range or not _in_range(block, span.sector, u64(span.num_sectors)):
        return BlkStatus.IOERR
    return BlkStatus.OK


@fn
def _do_range(block: Block, span: BlkRange, type: u32) -> u8:
    """Carry out one range. It is read from guest memory a second time, so it is checked a second time."""
    status: u8 = _check_range(block, span, type)
    if status != BlkStatus.OK or span.num_sectors == 0:
        return status
    position: u64 = span.sector * BLK_SECTOR_SIZE
    length: u64 = u64(span.num_sectors) * BLK_SECTOR_SIZE
    punch: bool = type == BlkType.DISCARD or (span.flags & BLK_WRITE_ZEROES_UNMAP) != 0
    mode: u32 = sys.FALLOC_KEEP_SIZE | sys.FALLOC_ZERO_RANGE
    if punch:
        mode = sys.FALLOC_KEEP_SIZE | sys.FALLOC_PUNCH_HOLE
    result: i64 = syscall(sys.FALLOCATE, block.fd, mode, position, length, 0, 0)
    if result == -sys.EOPNOTSUPP:
        if type == BlkType.DISCARD:
            return BlkStatus.OK  # what a discarded sector reads is undefined: leaving it alone will do
        return _write_zero_bytes(block, position, length)
    if result != 0:
        return BlkStatus.IOERR
    return _settle(block)


@fn
def _write_zero_bytes(block: Block, position: u64, length: u64) -> u8:
    done: u64 = 0
    while done < length:
        part: u64 = length - done
        if part > ZEROES:
            part = ZEROES
        result: i64 = syscall(sys.PWRITE64, block.fd, block.zeroes, part, position + done, 0, 0)
        if result == -sys.EINTR:
            continue
        if result <= 0:
            return BlkStatus.IOERR
        done = done + u64(result)
    return _settle(block)


@fn
def _settle(block: Block) -> u8:
    return _flush(block) if block.write_through != 0 else BlkStatus.OK


@fn
def _flush(block: Block) -> u8:
    return BlkStatus.OK if syscall(sys.FDATASYNC, block.fd, 0, 0, 0, 0, 0) == 0 else BlkStatus.IOERR


@fn
def _get_id(block: Block, chain: Chain) -> u8:
    """5.2.6.1: 20 bytes, or as many as there is room for."""
    room: u64 = chain.writable_bytes - 1
    size: u64 = room if room < BLK_ID_BYTES else BLK_ID_BYTES
    chain_write(chain, 0, addressof(block.id[0]), size)
    return BlkStatus.OK


@fn
def _carry_out(block: Block, chain: Chain, header: BlkHeader, patient: bool) -> u8:
    """One well-formed request. Returns its status, or WAITS."""
    type: u32 = header.type
    if type == BlkType.IN or type == BlkType.OUT:
        return _data(block, chain, header, patient)
    if type == BlkType.FLUSH:
        return _flush(block)
    if type == BlkType.GET_ID:
        return _get_id(block, chain)
    if type == BlkType.DISCARD and block.discard != 0:
        return _ranges(block, chain, type)
    if type == BlkType.WRITE_ZEROES and block.write_zeroes != 0:
        return _ranges(block, chain, type)
    return BlkStatus.UNSUPP


@fn
def _serve(block: Block, ring: Ring, chain: Chain, patient: bool) -> bool:
    """One popped request: carry it out, write its status, put it back. False when it is a read for which the host would
    have to wait, and nothing was said of it; never if `patient`."""
    if chain.writable_bytes == 0:  # no room for a status: nothing can be said
        ring.status = BlkStatus.IOERR
        ring_put(ring, chain, 0)
        return True
    header = local(BlkHeader)
    answer = local(StatusByte)
    answer.status = BlkStatus.IOERR
    if chain.error == 0 and chain_read(chain, 0, header.address, HEADER_BYTES) == HEADER_BYTES:
        answer.status = _carry_out(block, chain, header, patient)
    if answer.status == WAITS:
        return False
    chain_write(chain, chain.writable_bytes - 1, addressof(answer.status), 1)
    _account(ring, chain, header, answer.status)
    written: u64 = chain.writable_bytes
    ring.now = monotonic_ns()
    ring.status = u32(answer.status)
    ring_put(ring, chain, u32(written) if written <= 0xFFFFFFFF else 0xFFFFFFFF)
    return True


@fn
def _account(ring: Ring, chain: Chain, header: BlkHeader, status: u8) -> None:
    statistics = QueueStatistics(ring.statistics)
    if status != BlkStatus.OK:
        statistics.errors = wrap64(statistics.errors + 1)
    elif header.type == BlkType.IN:
        statistics.bytes_read = wrap64(statistics.bytes_read + chain.writable_bytes - 1)
    elif header.type == BlkType.OUT:
        statistics.bytes_written = wrap64(statistics.bytes_written + chain.readable_bytes - HEADER_BYTES)


@fn
def _chain(block: Block, number: u32) -> Chain:
    return Chain(block.chains + u64(number) * CHAIN_BYTES)


@fn
def _serve_ring(block: Block, loop: Loop, ring: Ring) -> bool:
    """Up to BATCH requests of one queue. True when there were any. Nothing is aside when it returns."""
    begun: u64 = monotonic_ns()
    ring.now = begun
    ring.mute = 1  # an answer is data, and a status that is told as such
    called: u64 = begun
    flushed: u64 = begun
    worked: bool = False
    aside: u32 = 0
    mine = DeviceToCore(loop.mine)
    mine.waiting = 1  # the host's file may be slow: that is no hang
    for _ in range(u32(BATCH)):
        chain = _chain(block, aside)
        found: u32 = ring_pop(ring, chain)
        if found == Pop.EMPTY:
            break
        if found == Pop.BROKEN:
            stop_ring(loop, ring)
            break
        worked = True
        if not _serve(block, ring, chain, block.waiting != 0):
            aside = aside + 1
            if aside == ASIDE:
                break
            continue
        now: u64 = ring.now
        if ring.batch >= FLUSH or now - flushed > FLUSH_NS:
            ring_flush(ring)
            flushed = now
        if now - called > CALL_NS:
            flush_and_call(loop, ring)
            called = now
            if loop.calls != 0 and now - begun > MESSAGE_NS:
                break  # messages are Python's
    for number in range(aside):
        if ring.batch != 0:
            flush_and_call(loop, ring)  # nobody waits for what is slow
        _serve(block, ring, _chain(block, number), True)
    mine.waiting = 0
    flush_and_call(loop, ring)
    return worked


@fn
def block_loop(loop: Loop, block: Block, service_ns: u64) -> u32:
    """Serve all queues until there is a reason to come back to Python: SLEEP, CALL, SERVICE or BROKEN."""
    begin_turn(loop, service_ns)
    while True:
        worked: bool = False
        for number in range(loop.count):
            if _serve_ring(block, loop, Ring(loop.rings[number])):
                worked = True
        if loop.broken != 0:
            return Reason.BROKEN
        if loop.calls != 0:
            return Reason.SLEEP if loop.spinning == 0 and lie_down(loop) else Reason.CALL
        if worked:
            if monotonic_ns() > loop.deadline:
                return Reason.SERVICE
        elif rest(loop):
            return Reason.SLEEP
