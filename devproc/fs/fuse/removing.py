"""UNLINK, RMDIR and FORGET in machine code.

A name of a file that the guest has open is Python's: a descriptor goes to the supervisor first (`devproc.fs.nameless`).
"""

from __future__ import annotations

from devproc.fs.fast.log import put_array, put_nothing, put_number, record_begin, record_end
from devproc.fs.fast.looking import S_IFDIR, S_IFMT, close_file, look_at
from devproc.fs.fast.once import NOTHING, TAKEN, intend, put_intent
from devproc.fs.fast.structures import Statx
from devproc.fs.fuse.naming import begin, name_path, open_above, put_node
from devproc.fs.fuse.structures import Answer, InHeader
from devproc.fs.fuse.tables import (
    PLACES,
    Entry,
    Known,
    entry_at,
    entry_named,
    fuse_count_file,
    fuse_count_path,
    known_path,
    path_hash,
)
from native import addressof, copy, fn, i64, load64, load64_unaligned, local, store64, sys, syscall, u32, u64
from proto.ring import Chain, chain_write

__all__ = ["forget", "remove"]

AT_SYMLINK_NOFOLLOW, AT_REMOVEDIR = 0x100, 0x200
HEADER, OUT = 40, 16  # bytes of a request's header, and of an answer's


@fn
def _take_name(known: Known, chain: Chain, unique: u64, length: u32, at: u64, above: u64, directory: bool) -> bool:
    """Take a name away, that of the node at `at` if that is not 0, and answer."""
    seen = local(Statx)
    if look_at(known.share, above, known.name, AT_SYMLINK_NOFOLLOW, seen) != 0:
        return False
    if ((u32(seen.mode) & S_IFMT) == S_IFDIR) != directory:
        return False
    intend(known.share, TAKEN, seen.ino)
    if syscall(sys.UNLINKAT, above, known.name, AT_REMOVEDIR if directory else 0, 0, 0, 0) != 0:
        return False
    answer = local(Answer)
    answer.total = OUT
    answer.error = 0
    answer.unique = unique
    record_begin(known.share, 1 if at == 0 else 2)
    if at != 0:
        entry = Entry(at)
        put_node(known, entry.number, 0, entry.place, 0)  # nobody has it open: it is given up
        fuse_count_file(known, entry.device, entry.inode, 0xFFFF)
        entry.inode = 0
        entry.length = 0
        fuse_count_path(known, length, 0xFFFF)
    put_intent(known.share, TAKEN, seen.ino, True, answer.address, OUT)
    record_end(known.share)
    chain_write(chain, 0, answer.address, OUT)
    known.share.written = OUT
    return True


@fn
def remove(known: Known, chain: Chain, head: InHeader, queue: u32, directory: bool) -> bool:
    """UNLINK, or RMDIR."""
    if known.share.read_only != 0 or not begin(known, chain, queue):
        return False
    name: u64 = addressof(known.share.message[0]) + HEADER
    length: u32 = name_path(known, head.nodeid, name, chain.readable_bytes - HEADER)
    if length == 0:
        return False
    hashed: u64 = path_hash(addressof(known.share.path[0]), length)
    at: u64 = 0
    if known_path(known, hashed):
        at = entry_named(known, length, hashed)
        if at == 0 or Entry(at).device != known.share.device or Entry(at).handles != 0:
            return False
    above: i64 = open_above(known)
    if above < 0:
        return False
    done: bool = _take_name(known, chain, head.unique, length, at, u64(above), directory)
    close_file(above)
    return done


@fn
def forget(known: Known, chain: Chain, head: InHeader, queue: u32) -> bool:
    """FORGET: the guest holds a node so many times less. There is no answer."""
    entry = Entry(entry_at(known, head.nodeid))
    if entry.number != head.nodeid or head.nodeid == 0 or chain.readable_bytes < HEADER + 8:
        return False
    if not begin(known, chain, queue):
        return False
    lookups: u64 = load64_unaligned(addressof(known.share.message[0]) + HEADER)
    count: u64 = load64(entry.counter)
    known.share.written = 0
    if lookups < count:  # the record first: to hold a node too often is harmless
        record_begin(known.share, 1)
        put_intent(known.share, NOTHING, 0, True, 0, 0)
        record_end(known.share)
        store64(entry.counter, count - lookups)
        return True
    if entry.handles != 0 or known.free == PLACES:
        return False
    record_begin(known.share, 2)
    put_array(known.share, 2)
    put_number(known.share, entry.number)
    put_nothing(known.share)
    put_intent(known.share, NOTHING, 0, True, 0, 0)
    record_end(known.share)
    if entry.length != 0:
        copy(addressof(known.share.path[0]), addressof(entry.path[0]), u64(entry.length))
        fuse_count_path(known, entry.length, 0xFFFF)
    if entry.inode != 0:
        fuse_count_file(known, entry.device, entry.inode, 0xFFFF)
    known.places[known.free] = entry.place
    known.free = known.free + 1
    entry.number = 0
    return True
