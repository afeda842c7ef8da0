"""What FUSE requests that are carried out once have in common: the name they are about, and what they write down."""

from __future__ import annotations

from devproc.fs.fast.log import put_array, put_bytes, put_number, put_signed
from devproc.fs.fast.looking import is_name
from devproc.fs.fast.once import once_begin, read_message
from devproc.fs.fast.shared import PATH_ROOM
from devproc.fs.fuse.tables import Known, path_of
from native import addressof, copy, fn, i64, load8, store8, sys, syscall, u32, u64, wrap64
from proto.ring import Chain

__all__ = ["begin", "name_path", "open_above", "put_handle", "put_node"]

SLASH, DOT = 47, 46
NAME_MAX = 200


@fn
def begin(known: Known, chain: Chain, queue: u32) -> bool:
    """A request is to be carried out once; it is in `share.message` then. False when that is Python's to do."""
    return read_message(known.share, chain) and once_begin(known.share, chain, queue, chain.readable_bytes)


@fn
def name_path(known: Known, nodeid: u64, name: u64, size: u64) -> u32:
    """Write the path of a name in a directory to `share.path`; `size` has the zero that ends it. Returns the
    path's length; 0 when there is none that is known and simple."""
    before: u32 = path_of(known, nodeid)
    if size < 2 or size > NAME_MAX or before + u32(size) + 1 > PATH_ROOM:
        return 0
    if load8(name + size - 1) != 0 or not is_name(name, size - 1):
        return 0
    copy(addressof(known.above[0]), addressof(known.share.path[0]), u64(before))
    known.above[before] = 0
    at: u64 = addressof(known.share.path[0]) + u64(before)
    if before == 0:
        known.above[0] = DOT
        known.above[1] = 0
    else:
        store8(at, SLASH)
        at = at + 1
    copy(at, name, size)
    known.name = at
    return u32(at + size - 1 - addressof(known.share.path[0]))


@fn
def open_above(known: Known) -> i64:
    """The descriptor of the directory that the last name is in; below 0: an errno."""
    return syscall(sys.OPENAT2, known.share.root, addressof(known.above[0]), known.above_how.address, 24, 0, 0)


@fn
def put_node(known: Known, number: u64, inode: u64, place: u32, length: u32) -> None:
    """A change: a node at the path in `share.path`, or, with length 0, without a name."""
    put_array(known.share, 2)
    put_number(known.share, number)
    put_array(known.share, 3)
    put_array(known.share, 2)
    put_number(known.share, known.share.device)
    put_number(known.share, inode)
    put_array(known.share, 0 if length == 0 else 1)
    if length != 0:
        put_bytes(known.share, addressof(known.share.path[0]), length)
    put_number(known.share, u64(place))


@fn
def put_handle(known: Known, fh: u64, node: u64, flags: u32) -> None:
    """A change: a handle."""
    put_array(known.share, 2)
    put_signed(known.share, wrap64(0 - fh))
    put_array(known.share, 2)
    put_number(known.share, node)
    put_number(known.share, u64(flags))
