"""What the machine code of FUSE knows: nodes by number and by path, open files by handle, and what it may hand out.

Private to the process. The tables are no more than a cache: each place is taken by the latest whose number leads there,
and what is not found goes to Python. `devproc.fs.fuse.known` fills them. The filters are complete: where one of them is
0, no node has such a path, or is such a file, at all; so machine code may make one.
"""

from __future__ import annotations

from devproc.fs.fast.shared import PATH_ROOM, Share
from devproc.fs.fast.structures import How
from native import (
    Array,
    Record,
    addressof,
    fn,
    load8,
    load16,
    load64,
    plain,
    store16,
    store64,
    u8,
    u16,
    u32,
    u64,
    wrap16,
    wrap64,
)

__all__ = [
    "ENTRIES",
    "FILTER",
    "NAMES",
    "OPENS",
    "PLACES",
    "ROOT",
    "UNKNOWN",
    "Entry",
    "Known",
    "Open",
    "descriptor_of",
    "entry_at",
    "entry_named",
    "fuse_count_file",
    "fuse_count_path",
    "fuse_index",
    "known_file",
    "known_path",
    "open_at",
    "path_hash",
    "path_of",
]

ENTRIES, NAMES, OPENS = 1 << 14, 1 << 15, 1 << 16  # places; each is one node's, name's or handle's, by its number
FILTER = 1 << 20  # counters of paths, and as many of files
STUCK = 0xFFFF  # a counter that came so far stays there
PLACES = 1024  # of the counts of nodes that machine code may give to new ones
ROOT = 1
UNKNOWN = 0xFFFFFFFFFFFFFFFF
GOLDEN = 0x9E3779B97F4A7C15


class Entry(Record):
    """A node with one name, or with none."""

    number: u64  # 0: nobody
    device: u64
    inode: u64  # 0: given up (`devproc.fs.fuse.nodes`)
    counter: u64  # address of how often the guest holds it
    place: u32  # of that among the counts
    handles: u32  # that are open
    length: u32  # of the path; 0: it has no name
    padding: u32
    path: Array[u8] = plain(count=PATH_ROOM)


class Open(Record):
    """An open file."""

    number: u64  # 0: nobody
    node: u64
    fd: u32
    flags: u32
    spare: u64


class Known(Record):
    """What the loop knows of the session; private to the process."""

    share: Share
    valid: u64  # seconds and nanoseconds for which the guest may believe
    valid_ns: u64
    entries: u64  # addresses of the three tables
    names: u64
    opens: u64
    filters: u64  # address of the counters: of paths, then of files
    counts: u64  # address of the words of all places
    next_node: u64  # numbers that nobody has had
    next_handle: u64
    free: u32  # how many of `places` there are
    padding: u32
    above_how: How  # to come at what is in a directory
    above: Array[u8] = plain(count=PATH_ROOM + 8)  # of the directory that a name is in
    name: u64  # address of the name in `share.path`
    places: Array[u32] = plain(count=PLACES)


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
def fuse_index(known: Known, number: u64, device: u64, inode: u64, place: u32, handles: u32, length: u32) -> None:
    """A node is at the path that `share.path` begins with; with length 0 it has no name."""
    entry = Entry(entry_at(known, number))
    entry.number = number
    entry.device = device
    entry.inode = inode
    entry.counter = known.counts + u64(place) * 8
    entry.place = place
    entry.handles = handles
    entry.length = length
    for letter in range(length):
        entry.path[letter] = known.share.path[letter]
    if length != 0:
        hashed: u64 = path_hash(addressof(known.share.path[0]), length)
        store64(known.names + (hashed & (NAMES - 1)) * 8, number)


@fn
def entry_named(known: Known, length: u32, hashed: u64) -> u64:
    """The address of the node that is at the path in `share.path`; 0 when it is not known."""
    number: u64 = load64(known.names + (hashed & (NAMES - 1)) * 8)
    if number == 0:
        return 0
    entry = Entry(entry_at(known, number))
    if entry.number != number or entry.length != length:
        return 0
    for letter in range(length):
        if entry.path[letter] != known.share.path[letter]:
            return 0
    return entry.address


@fn
def _count(counter: u64, change: u32) -> None:
    """Change a counter of a filter, by 1 or by 0xFFFF for -1."""
    value: u16 = load16(counter)
    if value != STUCK:
        store16(counter, wrap16(value + u16(change)))


@fn
def _path_counter(known: Known, hashed: u64) -> u64:
    return known.filters + (wrap64(hashed * GOLDEN) >> 44) * 2


@fn
def _file_counter(known: Known, device: u64, inode: u64) -> u64:
    return known.filters + (FILTER + (wrap64((inode ^ wrap64(device * GOLDEN)) * GOLDEN) >> 44)) * 2


@fn
def known_path(known: Known, hashed: u64) -> bool:
    """May a node be at a path with this hash?"""
    return load16(_path_counter(known, hashed)) != 0


@fn
def known_file(known: Known, device: u64, inode: u64) -> bool:
    """May this file have a node?"""
    return load16(_file_counter(known, device, inode)) != 0


@fn
def fuse_count_path(known: Known, length: u32, change: u32) -> None:
    """A node is at the path in `share.path` (1), or no longer (0xFFFF)."""
    _count(_path_counter(known, path_hash(addressof(known.share.path[0]), length)), change)


@fn
def fuse_count_file(known: Known, device: u64, inode: u64, change: u32) -> None:
    """A file has a node (1), or no longer (0xFFFF)."""
    _count(_file_counter(known, device, inode), change)


@fn
def path_of(known: Known, nodeid: u64) -> u32:
    """Write a node's path to `share.path`. Returns its length; 512 when it is not known, or has none."""
    if nodeid == ROOT:
        return 0
    entry = Entry(entry_at(known, nodeid))
    if entry.number != nodeid or entry.length == 0:
        return 512
    for place in range(entry.length):
        known.share.path[place] = entry.path[place]
    return entry.length


@fn
def open_at(known: Known, fh: u64) -> u64:
    """The address of a handle's place."""
    return known.opens + (fh & (OPENS - 1)) * 32


@fn
def descriptor_of(known: Known, fh: u64) -> u64:
    """An open file's; UNKNOWN when it is not known."""
    place = Open(open_at(known, fh))
    if fh == 0 or place.number != fh:
        return UNKNOWN
    return u64(place.fd)


assert Entry.size() == 256 and Open.size() == 32  # as `entry_at` and `open_at` have it
