"""Twalk and Tclunk in machine code: how fids come and go."""

from __future__ import annotations

from devproc.fs.fast.log import record_begin
from devproc.fs.fast.looking import attributes_of, close_file, is_name, open_known
from devproc.fs.fast.once import once_begin
from devproc.fs.fast.shared import MESSAGE_MAX
from devproc.fs.fast.structures import Attr, Statx
from devproc.fs.ninep.answering import QID, error, finish, put_fid, put_no_fid, put_qid
from devproc.fs.ninep.fids import MAX_FIDS
from devproc.fs.ninep.messages import MAX_WALK
from devproc.fs.ninep.tables import ABSENT, CLOSED, HEADER, Known, Place, fid_of, path_further, path_of, place_at
from native import (
    addressof,
    copy,
    fn,
    i64,
    load16_unaligned,
    load32_unaligned,
    local,
    store16_unaligned,
    sys,
    u16,
    u32,
    u64,
)
from proto.ring import Chain

__all__ = ["clunk", "walk"]

NAMES_AT = 17  # where in Twalk the names begin
QIDS_AT = 9  # and in Rwalk the qids


@fn
def _names_are_whole(known: Known, count: u32) -> bool:
    """Are all names in the message?"""
    message: u64 = addressof(known.share.message[0])
    at: u64 = NAMES_AT
    for _ in range(count):
        if at + 2 > u64(known.length):
            return False
        at = at + 2 + u64(load16_unaligned(message + at))
    return at <= u64(known.length)


@fn
def _look(known: Known, length: u32, qid: u64) -> i64:
    """Write the qid of what is at the path in `share.path`. Below 0: an errno; 1: Python must say."""
    fd: i64 = open_known(known.share, length, known.share.how.address)
    if fd < 0:
        return fd
    seen = local(Statx)
    attr = local(Attr)
    good: bool = attributes_of(known.share, u64(fd), seen, attr)
    close_file(fd)
    if not good:
        return 1
    put_qid(qid, attr)
    return 0


@fn
def _arrive(known: Known, chain: Chain, origin: Place, length: u32, number: u32, count: u32) -> None:
    """The walk is done: a fid, an old one or a new one, is at the path in `share.path`."""
    record_begin(known.share, 2)
    put_fid(known, number, length, origin.uid, CLOSED, 0)
    store16_unaligned(addressof(known.answer[0]) + HEADER, u16(count))
    finish(known, chain, QIDS_AT + QID * count)
    place = Place(place_at(known, number))
    if place.key == 0:
        place.here = place.here + 1
        known.count = known.count + 1
    place.key = u64(number) + 1
    place.device = 0
    place.inode = 0
    place.flags = CLOSED
    place.fd = ABSENT
    place.uid = origin.uid
    place.listed = 0
    place.length = length
    copy(addressof(place.path[0]), addressof(known.share.path[0]), u64(length))


@fn
def _part(known: Known, chain: Chain, count: u32) -> None:
    """The walk ended before the name that is not there; no fid is made."""
    if count == 0:
        error(known, chain, u32(sys.ENOENT))
        return
    record_begin(known.share, 1)
    store16_unaligned(addressof(known.answer[0]) + HEADER, u16(count))
    finish(known, chain, QIDS_AT + QID * count)


@fn
def walk(known: Known, chain: Chain, queue: u32) -> bool:
    """Twalk, by names that go down."""
    message: u64 = addressof(known.share.message[0])
    if known.length < NAMES_AT or known.length > MESSAGE_MAX:
        return False
    origin = Place(fid_of(known))
    newfid: u32 = load32_unaligned(message + 11)
    count: u32 = u32(load16_unaligned(message + 15))
    if origin.address == 0 or count > MAX_WALK or known.room < u64(QIDS_AT + QID * count):
        return False
    same: bool = origin.key == u64(newfid) + 1
    if origin.flags != CLOSED and (count != 0 or same):
        return False
    if not same and (Place(place_at(known, newfid)).here != 0 or known.count >= MAX_FIDS):
        return False
    if not _names_are_whole(known, count) or not once_begin(known.share, chain, queue, u64(known.length)):
        return False
    length: u32 = path_of(known, origin)
    at: u64 = message + NAMES_AT
    for number in range(count):
        size: u64 = u64(load16_unaligned(at))
        if not is_name(at + 2, size):
            return False
        length = path_further(known, length, at + 2, size)
        if length == 0:
            return False
        result: i64 = _look(known, length, addressof(known.answer[0]) + QIDS_AT + u64(number) * QID)
        if result == -sys.ENOENT:
            _part(known, chain, u32(number))
            return True
        if result != 0:
            return False
        at = at + 2 + size
    _arrive(known, chain, origin, length, newfid, count)
    return True


@fn
def clunk(known: Known, chain: Chain, queue: u32) -> bool:
    """Tclunk. Where locks or files without names are left, Python sees to them."""
    if known.length < HEADER + 4 or known.length > MESSAGE_MAX:
        return False
    place = Place(fid_of(known))
    if place.address == 0 or (place.inode != 0 and known.share.shelved != 0):
        return False
    if not once_begin(known.share, chain, queue, u64(known.length)):
        return False
    number: u32 = u32(place.key - 1)
    record_begin(known.share, 2)
    put_no_fid(known, number)
    finish(known, chain, HEADER)
    if known.share.listed == place.key:
        known.share.listed = 0
        known.share.unfinished = 0
    if place.fd != ABSENT:
        close_file(i64(place.fd))
    place.key = 0
    place.here = place.here - 1
    known.count = known.count - 1
    return True
