"""The tables of what the machine code of FUSE knows: nodes by number and by path, open files by handle.

Private to the process and no more than a cache: each place is taken by the latest whose number leads there, and what is
not found goes to Python. `devproc.fs.fuse.known` fills them.
"""

from __future__ import annotations

from devproc.fs.fuse.structures import How
from native import Array, Record, addressof, fn, load8, plain, store64, u8, u32, u64, wrap64
from proto.ring import MAX_SEGMENTS, Iovec

__all__ = [
    "ENTRIES",
    "NAMES",
    "OPENS",
    "PATH_ROOM",
    "UNKNOWN",
    "Entry",
    "Known",
    "Open",
    "descriptor_of",
    "entry_at",
    "fuse_index",
    "path_hash",
    "path_of",
]

ENTRIES, NAMES, OPENS = 1 << 14, 1 << 15, 1 << 10  # places; each is one node's, name's or handle's, by its number
PATH_ROOM = 208
ROOT = 1
UNKNOWN = 0xFFFFFFFFFFFFFFFF


class Entry(Record):
    """A node with one name."""

    number: u64  # 0: nobody
    device: u64
    inode: u64
    counter: u64  # address of how often the guest holds it
    length: u32
    padding: u32
    path: Array[u8] = plain(count=PATH_ROOM)


class Open(Record):
    """An open file."""

    number: u64  # 0: nobody
    fd: u64


class Known(Record):
    """What the loop knows of the session; private to the process."""

    chain: u64  # address of the Chain to pop into
    root: u64  # descriptor of the shared directory
    uid: u32  # this process's
    gid: u32
    dev_major: u32  # of the file system that the directory is on; others are Python's
    dev_minor: u32
    stir: u64  # what a file's number is made of, beside its inode
    valid: u64  # seconds and nanoseconds for which the guest may believe
    valid_ns: u64
    entries: u64  # addresses of the three tables
    names: u64
    opens: u64
    pending: u32  # queue + 1 of a chain that was popped and is Python's
    written: u32
    served: u64
    how: How
    empty: Array[u8] = plain(count=8)  # the path of what a descriptor stands for
    attribute: Array[u8] = plain(count=32)  # its name, ended by zero
    link: Array[u8] = plain(count=48)  # "/proc/self/fd/" and a number
    path: Array[u8] = plain(count=512)
    iovec: Array[Iovec] = plain(count=MAX_SEGMENTS)


@fn
def path_hash(address: u64, length: u32) -> u64:
    """FNV-1a."""
    value: u64 = 0xCBF29CE484222325
    for place in range(length):
        value = wrap64((value ^ u64(load8(address + u64(place)))) * 0x100000001B3)
    return value ^ (value >> 32)


@fn
def entry_at(known: Known, number: u64) -> u64:
    """The address of a node's place."""
    return known.entries + (number & (ENTRIES - 1)) * 256


@fn
def fuse_index(known: Known, number: u64, device: u64, inode: u64, counter: u64, length: u32) -> None:
    """A node is at the path that `known.path` begins with; length 0 (and 4 GiB and so on): at none that is known."""
    entry = Entry(entry_at(known, number))
    if length == 0 or length > PATH_ROOM:
        if entry.number == number:
            entry.number = 0
        return
    entry.number = number
    entry.device = device
    entry.inode = inode
    entry.counter = counter
    entry.length = length
    for place in range(length):
        entry.path[place] = known.path[place]
    hashed: u64 = path_hash(addressof(known.path[0]), length)
    store64(known.names + (hashed & (NAMES - 1)) * 8, number)


@fn
def path_of(known: Known, nodeid: u64) -> u32:
    """Write a node's path to `known.path`. Returns its length; 512 when it is not known."""
    if nodeid == ROOT:
        return 0
    entry = Entry(entry_at(known, nodeid))
    if entry.number != nodeid:
        return 512
    for place in range(entry.length):
        known.path[place] = entry.path[place]
    return entry.length


@fn
def descriptor_of(known: Known, fh: u64) -> u64:
    """An open file's; UNKNOWN when it is not known."""
    place = Open(known.opens + (fh & (OPENS - 1)) * 16)
    if fh == 0 or place.number != fh:
        return UNKNOWN
    return place.fd
