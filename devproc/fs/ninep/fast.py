"""The 9P requests that a guest sends most, in machine code: walking, opening, looking, listing, data.

The same answers as `devproc.fs.ninep.session` gives; tests compare them. What is not known here, or fails in any way
but ENOENT of a Twalk, goes to Python, which then does it from the beginning: nothing has been changed. So do requests
that come again. `Known` is what both know of fids (`devproc.fs.ninep.known`); what machine code changes, it writes to
the session's journal, where Python reads it before it does anything itself.
"""

from __future__ import annotations

from devproc.fs.fast.looking import attributes_of, close_file, open_known
from devproc.fs.fast.serving import LAST, serving, transfer
from devproc.fs.fast.shared import MESSAGE_MAX, Share
from devproc.fs.fast.structures import Attr, Statx
from devproc.fs.ninep.answering import QID, answer, put_qid
from devproc.fs.ninep.opening import open_fid, read_directory
from devproc.fs.ninep.tables import ABSENT, CLOSED, HEADER, Known, Place, fid_of, path_of
from devproc.fs.ninep.walking import clunk, walk
from devproc.loop import Loop
from native import (
    addressof,
    fn,
    i64,
    load8,
    load32_unaligned,
    load64_unaligned,
    local,
    store32_unaligned,
    store64_unaligned,
    u32,
    u64,
)
from proto.ring import Chain, Ring, chain_read

__all__ = ["ninep_loop", "ninep_pop", "serve"]

LOPEN, GETATTR, READDIR, WALK, READ, WRITE, CLUNK = 12, 24, 40, 110, 116, 118, 120
LEAST_ANSWER = 11  # bytes: Rlerror, and the head of Rread
GETATTR_SIZE, GOT = 19, 160  # bytes of Tgetattr and its answer
GETATTR_BASIC = 0x7FF
OFFSET_AT, COUNT_AT = 11, 19  # in Tread and Twrite
TRANSFER, DATA_AT = 23, 11  # bytes of them without data, and where that of Rread begins


@fn
def _put_attributes(at: u64, attr: Attr) -> None:
    """The fields of Rgetattr, but for the last four, which are 0."""
    store64_unaligned(at, GETATTR_BASIC)
    put_qid(at + 8, attr)
    after: u64 = at + 8 + QID
    store32_unaligned(after, attr.mode)
    store32_unaligned(after + 4, attr.uid)
    store32_unaligned(after + 8, attr.gid)
    store64_unaligned(after + 12, u64(attr.nlink))
    store64_unaligned(after + 20, u64(attr.rdev))
    store64_unaligned(after + 28, attr.length)
    store64_unaligned(after + 36, u64(attr.blksize))
    store64_unaligned(after + 44, attr.blocks)
    store64_unaligned(after + 52, attr.atime)
    store64_unaligned(after + 60, u64(attr.atimensec))
    store64_unaligned(after + 68, attr.mtime)
    store64_unaligned(after + 76, u64(attr.mtimensec))
    store64_unaligned(after + 84, attr.ctime)
    store64_unaligned(after + 92, u64(attr.ctimensec))
    for word in range(u64(4)):
        store64_unaligned(after + 100 + word * 8, 0)


@fn
def _get_attributes(known: Known, chain: Chain) -> bool:
    """Tgetattr: of the open file, or of what is at the path."""
    place = Place(fid_of(known))
    if known.length < GETATTR_SIZE or known.room < GOT or place.address == 0:
        return False
    seen = local(Statx)
    attr = local(Attr)
    good: bool = False
    if place.flags != CLOSED:
        if place.fd == ABSENT:
            return False
        good = attributes_of(known.share, u64(place.fd), seen, attr)
    else:
        length: u32 = path_of(known, place)
        fd: i64 = open_known(known.share, length, known.share.how.address)
        if fd < 0:
            return False
        good = attributes_of(known.share, u64(fd), seen, attr)
        close_file(fd)
    if not good:
        return False
    _put_attributes(addressof(known.answer[0]) + HEADER, attr)
    answer(known, chain, GOT, 0)
    return True


@fn
def _transfer(known: Known, chain: Chain, reading: bool) -> bool:
    """Tread and Twrite of an open file."""
    place = Place(fid_of(known))
    if known.length < TRANSFER or place.address == 0 or place.flags == CLOSED or place.fd == ABSENT:
        return False
    message: u64 = addressof(known.share.message[0])
    position: u64 = load64_unaligned(message + OFFSET_AT)
    size: u64 = u64(load32_unaligned(message + COUNT_AT))
    if reading:
        size = min(size, known.room - DATA_AT)
    elif size == 0 or size > u64(known.length - TRANSFER):
        return False
    if position > LAST - size:
        return False
    done: i64 = transfer(known.share, chain, reading, u64(place.fd), DATA_AT if reading else TRANSFER, size, position)
    if done < 0:
        return False
    store32_unaligned(addressof(known.answer[0]) + HEADER, u32(done))
    answer(known, chain, DATA_AT, u32(done) if reading else 0)
    return True


@fn
def serve(known: Known, chain: Chain, queue: u32) -> bool:
    """Answer a request, if it is one of ours."""
    if chain.error != 0 or chain.again != 0 or chain.readable_bytes < HEADER or chain.writable_bytes < LEAST_ANSWER:
        return False
    message: u64 = addressof(known.share.message[0])
    chain_read(chain, 0, message, min(chain.readable_bytes, MESSAGE_MAX))
    known.length = load32_unaligned(message)
    known.kind = u32(load8(message + 4))
    known.room = min(chain.writable_bytes, u64(known.msize))
    if known.length < HEADER + 4 or u64(known.length) > chain.readable_bytes or known.length > known.msize:
        return False
    if known.kind == WALK:
        return walk(known, chain, queue)
    if known.kind == GETATTR:
        return _get_attributes(known, chain)
    if known.kind == CLUNK:
        return clunk(known, chain, queue)
    if known.kind == READ or known.kind == WRITE:
        return _transfer(known, chain, known.kind == READ)
    if known.kind == READDIR:
        return read_directory(known, chain)
    if known.kind == LOPEN:
        return open_fid(known, chain, queue)
    return False


@fn
def _serve(share: Share, chain: Chain, queue: u32) -> bool:
    return serve(Known(share.address), chain, queue)


_pop, _run = serving(_serve)


@fn
def ninep_pop(loop: Loop, known: Known, ring: Ring) -> u32:
    """`ring_pop` for Python: the next request that is not answered here; those before it are."""
    return _pop(loop, known.share, ring)


@fn
def ninep_loop(loop: Loop, known: Known, service_ns: u64) -> u32:
    """Serve the queue until there is a reason to come back to Python: a request for it (WORK), or any other."""
    return _run(loop, known.share, service_ns)
