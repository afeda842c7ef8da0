"""OPEN, OPENDIR, READDIR, FLUSH, RELEASE and RELEASEDIR in machine code.

A directory is read whole when it is read from its beginning (`devproc.fs.fuse.listing`), and what was read is kept
until all of it was given; one at a time, so that a second one meanwhile is Python's.
"""

from __future__ import annotations

import os

from devproc.fs.fast.listing import Room, part_begin, part_end
from devproc.fs.fast.log import log_fits, put_array, put_nothing, put_signed, record_begin, record_end
from devproc.fs.fast.looking import attributes_of, close_file, look_at, open_known, reopen
from devproc.fs.fast.shared import PATH_ROOM
from devproc.fs.fast.structures import Attr, Statx
from devproc.fs.fuse.listing import fuse_list
from devproc.fs.fuse.making import O_ACCMODE, O_DIRECTORY, O_TRUNC, handle_fits, hold
from devproc.fs.fuse.naming import put_handle
from devproc.fs.fuse.structures import Answer, InHeader, Transfer
from devproc.fs.fuse.tables import ROOT, Entry, Known, Open, entry_at, open_at, path_of
from native import Record, addressof, fn, i64, local, u32, u64, wrap64
from proto.ring import Chain, chain_read, chain_write

__all__ = ["flush", "open_directory", "open_file", "read_directory", "release"]

HEADER, OUT, OPENED = 40, 16, 32  # bytes of a request's header, of an answer's, and of one with struct fuse_open_out
RELEASE_IN, TRANSFER = 24, 40
AT_EMPTY_PATH = 0x1000
HOST_DIRECTORY = os.O_DIRECTORY


class Flags(Record):
    """struct fuse_open_in."""

    flags: u32
    more: u32


@fn
def _answer(known: Known, chain: Chain, unique: u64, size: u32, word: u64) -> None:
    """An answer with one word, or none."""
    answer = local(Answer)
    answer.total = size
    answer.error = 0
    answer.unique = unique
    answer.words[0] = word
    answer.words[1] = 0
    chain_write(chain, 0, answer.address, u64(size))
    known.share.written = size


@fn
def _opened(known: Known, chain: Chain, head: InHeader, fd: i64, flags: u32) -> None:
    """A new handle of the node that the request is about."""
    fh: u64 = known.next_handle
    record_begin(known.share, 1)
    put_handle(known, fh, head.nodeid, flags)
    record_end(known.share)
    hold(known, head.nodeid, fd, flags)
    _answer(known, chain, head.unique, OPENED, fh)


@fn
def _may_open(known: Known, chain: Chain) -> bool:
    if chain.again != 0 or chain.readable_bytes < HEADER + 8 or chain.writable_bytes < OPENED:
        return False
    return log_fits(known.share) and handle_fits(known)


@fn
def open_directory(known: Known, chain: Chain, head: InHeader) -> bool:
    """OPENDIR; what is no directory is refused by the host, and then by Python."""
    if not _may_open(known, chain):
        return False
    length: u32 = path_of(known, head.nodeid)
    if length > PATH_ROOM:
        return False
    fd: i64 = open_known(known.share, length, known.share.list_how.address)
    if fd < 0:
        return False
    _opened(known, chain, head, fd, HOST_DIRECTORY)
    return True


@fn
def open_file(known: Known, chain: Chain, head: InHeader) -> bool:
    """OPEN of a regular file."""
    if not _may_open(known, chain):
        return False
    asked = local(Flags)
    chain_read(chain, HEADER, asked.address, 8)
    flags: u32 = asked.flags & (O_ACCMODE | O_TRUNC)
    if (flags & O_ACCMODE) == O_ACCMODE or (asked.flags & O_DIRECTORY) != 0:
        return False
    if known.share.read_only != 0 and flags != 0:
        return False
    length: u32 = path_of(known, head.nodeid)
    if length > PATH_ROOM or length == 0:
        return False
    found: i64 = open_known(known.share, length, known.share.how.address)
    if found < 0:
        return False
    seen = local(Statx)
    attr = local(Attr)
    fd: i64 = -1
    if attributes_of(known.share, u64(found), seen, attr):
        fd = reopen(known.share, u64(found), flags, seen, attr)
    close_file(found)
    if fd < 0:
        return False
    _opened(known, chain, head, fd, flags & O_ACCMODE)
    return True


@fn
def _is_known(known: Known, place: Open, fh: u64) -> bool:
    """Is this a handle that is open, of a node that is here?"""
    if fh == 0 or place.number != fh:
        return False
    return place.node == ROOT or Entry(entry_at(known, place.node)).number == place.node


@fn
def release(known: Known, chain: Chain, head: InHeader) -> bool:
    """RELEASE and RELEASEDIR. Where locks or files without names are left, Python sees to them; and to a file that has
    lost its name."""
    if chain.again != 0 or chain.readable_bytes < HEADER + RELEASE_IN:
        return False
    if known.share.shelved != 0 or not log_fits(known.share):
        return False
    asked = local(Transfer)
    chain_read(chain, HEADER, asked.address, RELEASE_IN)
    fh: u64 = asked.fh
    place = Open(open_at(known, fh))
    if not _is_known(known, place, fh):
        return False
    if place.node != ROOT and Entry(entry_at(known, place.node)).length == 0:
        return False
    record_begin(known.share, 1)
    put_array(known.share, 2)
    put_signed(known.share, wrap64(0 - fh))
    put_nothing(known.share)
    record_end(known.share)
    entry = Entry(entry_at(known, place.node))
    if place.node != ROOT and entry.handles != 0:
        entry.handles = entry.handles - 1
    place.number = 0
    if known.share.listed == fh:
        known.share.listed = 0
        known.share.unfinished = 0
    close_file(i64(place.fd))
    _answer(known, chain, head.unique, OUT, 0)
    return True


@fn
def flush(known: Known, chain: Chain, head: InHeader) -> bool:
    """FLUSH, where nobody has locks."""
    if chain.readable_bytes < HEADER + RELEASE_IN or known.share.shelved != 0:
        return False
    asked = local(Transfer)
    chain_read(chain, HEADER, asked.address, RELEASE_IN)
    if not _is_known(known, Open(open_at(known, asked.fh)), asked.fh):
        return False
    _answer(known, chain, head.unique, OUT, 0)
    return True


@fn
def _list(known: Known, room: Room, fh: u64, fd: u64) -> bool:
    """Read a directory from its beginning."""
    if known.share.listed != fh and known.share.unfinished != 0:
        return False
    known.share.listed = 0
    known.share.unfinished = 0
    seen = local(Statx)
    if look_at(known.share, fd, addressof(known.share.empty[0]), AT_EMPTY_PATH, seen) != 0:
        return False
    if not fuse_list(room, fd, known.share.stir, seen.ino):
        return False
    known.share.listed = fh
    return True


@fn
def read_directory(known: Known, chain: Chain, head: InHeader) -> bool:
    """READDIR: as many entries as fit whole."""
    if chain.again != 0 or chain.readable_bytes < HEADER + TRANSFER:
        return False
    asked = local(Transfer)
    chain_read(chain, HEADER, asked.address, TRANSFER)
    place = Open(open_at(known, asked.fh))
    if not _is_known(known, place, asked.fh) or (place.flags & HOST_DIRECTORY) == 0:
        return False
    room = Room(known.share.room)
    if asked.position == 0:
        if not _list(known, room, asked.fh, u64(place.fd)):
            return False
    elif known.share.listed != asked.fh:
        return False
    size: u64 = chain.writable_bytes - OUT
    if size > u64(asked.length):
        size = u64(asked.length)
    begin: u32 = part_begin(room, asked.position)
    end: u32 = part_end(room, asked.position, size)
    if asked.position < u64(room.count):
        known.share.unfinished = 1 if end < room.length else 0
    answer = local(Answer)
    answer.total = OUT + end - begin
    answer.error = 0
    answer.unique = head.unique
    chain_write(chain, 0, answer.address, OUT)
    chain_write(chain, OUT, room.packed + u64(begin), u64(end - begin))
    known.share.written = OUT + end - begin
    return True
