"""Tlopen and Treaddir in machine code.

A directory is read whole when it is read from its beginning (`devproc.fs.fast.listing`), and what was read is kept
until the client was told that there is no more; one at a time, so that a second one meanwhile is Python's.
"""

from __future__ import annotations

import os

from devproc.fs.fast.listing import DT_DIR, DT_LNK, Room, lister, part_begin, part_end
from devproc.fs.fast.log import record_begin
from devproc.fs.fast.looking import (
    S_IFDIR,
    S_IFMT,
    attributes_of,
    close_file,
    look_at,
    open_known,
    reopen,
    reopen_directory,
)
from devproc.fs.fast.once import once_begin
from devproc.fs.fast.shared import MESSAGE_MAX
from devproc.fs.fast.structures import Attr, Statx
from devproc.fs.ninep.answering import QID, QTDIR, QTSYMLINK, answer, finish, put_fid, put_qid
from devproc.fs.ninep.tables import CLOSED, HEADER, Known, Place, fid_of, path_of
from native import (
    addressof,
    copy,
    fn,
    i64,
    load32_unaligned,
    load64_unaligned,
    local,
    store8,
    store16_unaligned,
    store32_unaligned,
    store64_unaligned,
    u8,
    u16,
    u32,
    u64,
)
from proto.ring import Chain, chain_write

__all__ = ["open_fid", "read_directory"]

AT_EMPTY_PATH = 0x1000
O_ACCMODE, O_TRUNC, O_DIRECTORY = 0o3, 0o1000, 0o200000  # the client's
HOST_DIRECTORY = os.O_DIRECTORY
OPENED = HEADER + QID + 4  # bytes of Rlopen
COUNT_AT, DATA_AT, TRANSFER = 19, 11, 23  # in Tread and Treaddir, in their answers; bytes of the requests
ENTRY = 24  # bytes of an entry without the name


@fn
def _open(known: Known, length: u32, flags: u32, seen: Statx, attr: Attr) -> i64:
    """Open what is at the path in `share.path`, a file or a directory; below 0 when Python must say."""
    found: i64 = open_known(known.share, length, known.share.how.address)
    if found < 0:
        return found
    fd: i64 = -1
    if attributes_of(known.share, u64(found), seen, attr):
        if (attr.mode & S_IFMT) != S_IFDIR:
            if (flags & O_DIRECTORY) == 0:
                fd = reopen(known.share, u64(found), flags & O_ACCMODE, seen, attr)
        elif (flags & O_ACCMODE) == 0:
            fd = reopen_directory(known.share, u64(found))
    close_file(found)
    return fd


@fn
def open_fid(known: Known, chain: Chain, queue: u32) -> bool:
    """Tlopen of what is there."""
    if known.length < HEADER + 8 or known.length > MESSAGE_MAX or known.room < OPENED:
        return False
    place = Place(fid_of(known))
    flags: u32 = load32_unaligned(addressof(known.share.message[0]) + HEADER + 4)
    if place.address == 0 or place.flags != CLOSED or (flags & O_TRUNC) != 0 or (flags & O_ACCMODE) == O_ACCMODE:
        return False
    if known.share.read_only != 0 and (flags & O_ACCMODE) != 0:
        return False
    if not once_begin(known.share, chain, queue, u64(known.length)):
        return False
    seen = local(Statx)
    attr = local(Attr)
    length: u32 = path_of(known, place)
    fd: i64 = _open(known, length, flags, seen, attr)
    if fd < 0:
        return False
    kept: u32 = (flags & O_ACCMODE) | (HOST_DIRECTORY if (flags & O_DIRECTORY) != 0 else 0)
    at: u64 = addressof(known.answer[0]) + HEADER
    put_qid(at, attr)
    store32_unaligned(at + QID, 0)
    record_begin(known.share, 2)
    put_fid(known, u32(place.key - 1), length, place.uid, kept, seen.ino)
    finish(known, chain, OPENED)
    place.device = known.share.device
    place.inode = seen.ino
    place.flags = kept
    place.fd = u32(fd)
    return True


@fn
def _put(room: Room, place: u32, number: u64, name: u64, length: u32, kind: u32) -> u32:
    """One entry of Rreaddir more. Returns where the next begins."""
    at: u64 = room.packed + u64(room.length)
    store8(at, QTDIR if kind == DT_DIR else QTSYMLINK if kind == DT_LNK else 0)
    store32_unaligned(at + 1, 0)
    store64_unaligned(at + 5, number)
    store64_unaligned(at + 13, u64(place) + 1)
    store8(at + 21, u8(kind))
    store16_unaligned(at + 22, u16(length))
    copy(at + ENTRY, name, u64(length))
    return room.length + ENTRY + length


_pack = lister(_put)


@fn
def _list(known: Known, room: Room, place: Place) -> bool:
    """Read a directory from its beginning."""
    share = known.share
    if share.listed != place.key and share.unfinished != 0:
        return False
    share.listed = 0
    share.unfinished = 0
    length: u32 = path_of(known, place)
    fd: i64 = open_known(share, length, share.list_how.address)
    if fd < 0:
        return False
    seen = local(Statx)
    good: bool = look_at(share, u64(fd), addressof(share.empty[0]), AT_EMPTY_PATH, seen) == 0
    if good:
        good = _pack(room, u64(fd), share.stir, seen.ino)
    close_file(fd)
    if good:
        share.listed = place.key
        share.unfinished = 1
    return good


@fn
def read_directory(known: Known, chain: Chain) -> bool:
    """Treaddir: as many entries as fit whole."""
    if known.length < TRANSFER:
        return False
    place = Place(fid_of(known))
    if place.address == 0 or place.flags == CLOSED or place.listed != 0:
        return False
    message: u64 = addressof(known.share.message[0])
    offset: u64 = load64_unaligned(message + HEADER + 4)
    size: u64 = min(u64(load32_unaligned(message + COUNT_AT)), known.room - DATA_AT)
    room = Room(known.share.room)
    if offset == 0:
        if not _list(known, room, place):
            return False
    elif known.share.listed != place.key:
        return False
    begin: u32 = part_begin(room, offset)
    end: u32 = part_end(room, offset, size)
    if end == begin:
        if offset < u64(room.count):
            return False
        known.share.unfinished = 0
    store32_unaligned(addressof(known.answer[0]) + HEADER, end - begin)
    chain_write(chain, DATA_AT, room.packed + u64(begin), u64(end - begin))
    answer(known, chain, DATA_AT, end - begin)
    return True
