"""What machine code does once, and Python if machine code was killed over it: the name that a request is about, and the
records that it leaves.

As `devproc.fs.intents` has it: before a change its intent, with what the name stood for; after it, in one record, what
came of it and the answer. Requests that come again after a kill are Python's, which reads those.
"""

from __future__ import annotations

from devproc.fs.fuse.log import (
    checksum,
    log_fits,
    put_array,
    put_bytes,
    put_nothing,
    put_number,
    put_signed,
    record_begin,
    record_end,
)
from devproc.fs.fuse.tables import MESSAGE_MAX, PATH_ROOM, Known, path_of
from devproc.fs.intents import INTENT_KEYS
from native import addressof, copy, fn, i64, load8, store8, sys, syscall, u8, u32, u64, wrap64
from proto.ring import Chain, chain_read

__all__ = [
    "FREE",
    "NOTHING",
    "TAKEN",
    "intend",
    "name_path",
    "once_begin",
    "open_above",
    "put_handle",
    "put_intent",
    "put_node",
    "read_message",
]

SLASH, DOT = 47, 46
NAME_MAX = 200
NOTHING, FREE, TAKEN = 0, 1, 2  # what a name stood for: not asked, nothing, a file
FIRST_INTENT = INTENT_KEYS & 0xFFFFFFFFFFFFFFFF


@fn
def read_message(known: Known, chain: Chain) -> bool:
    """Copy a short request to `known.message`: the guest may change it meanwhile."""
    if chain.readable_bytes > MESSAGE_MAX:
        return False
    chain_read(chain, 0, addressof(known.message[0]), chain.readable_bytes)
    return True


@fn
def once_begin(known: Known, chain: Chain, queue: u32) -> bool:
    """A request is to be carried out once. False when that is Python's to do."""
    if chain.again != 0 or not log_fits(known) or not read_message(known, chain):
        return False
    known.digest = checksum(addressof(known.message[0]), chain.readable_bytes)
    known.intent = wrap64(FIRST_INTENT - (u64(queue) << 16 | u64(chain.head)))
    return True


@fn
def name_path(known: Known, nodeid: u64, name: u64, size: u64) -> u32:
    """Write the path of a name in a directory to `known.path`; `size` has the zero that ends it. Returns the path's
    length; 0 when there is none that is known and simple."""
    before: u32 = path_of(known, nodeid)
    if size < 2 or size > NAME_MAX or before + u32(size) + 1 > PATH_ROOM:
        return 0
    if load8(name + size - 1) != 0 or (load8(name) == DOT and (size == 2 or (size == 3 and load8(name + 1) == DOT))):
        return 0
    for place in range(size - 1):
        byte: u8 = load8(name + place)
        if byte == 0 or byte == SLASH:
            return 0
    copy(addressof(known.above[0]), addressof(known.path[0]), u64(before))
    known.above[before] = 0
    at: u64 = addressof(known.path[0]) + u64(before)
    if before == 0:
        known.above[0] = DOT
        known.above[1] = 0
    else:
        store8(at, SLASH)
        at = at + 1
    copy(at, name, size)
    known.name = at
    return u32(at + size - 1 - addressof(known.path[0]))


@fn
def open_above(known: Known) -> i64:
    """The descriptor of the directory that the last name is in; below 0: an errno."""
    return syscall(sys.OPENAT2, known.root, addressof(known.above[0]), known.above_how.address, 24, 0, 0)


@fn
def put_node(known: Known, number: u64, inode: u64, place: u32, length: u32) -> None:
    """A change: a node at the path in `known.path`, or, with length 0, without a name."""
    put_array(known, 2)
    put_number(known, number)
    put_array(known, 3)
    put_array(known, 2)
    put_number(known, known.device)
    put_number(known, inode)
    put_array(known, 0 if length == 0 else 1)
    if length != 0:
        put_bytes(known, addressof(known.path[0]), length)
    put_number(known, u64(place))


@fn
def put_handle(known: Known, fh: u64, node: u64, flags: u32) -> None:
    """A change: a handle."""
    put_array(known, 2)
    put_signed(known, wrap64(0 - fh))
    put_array(known, 2)
    put_number(known, node)
    put_number(known, u64(flags))


@fn
def put_intent(known: Known, before: u32, inode: u64, done: bool, answer: u64, size: u32) -> None:
    """A change: what the request is about to do, or has `done`."""
    put_array(known, 2)
    put_signed(known, known.intent)
    put_array(known, 3)
    put_number(known, u64(known.digest))
    if before == NOTHING:
        put_nothing(known)
    else:
        put_array(known, 1)
        if before == FREE:
            put_nothing(known)
        else:
            put_array(known, 2)
            put_number(known, known.device)
            put_number(known, inode)
    if done:
        put_bytes(known, answer, size)
    else:
        put_nothing(known)


@fn
def intend(known: Known, before: u32, inode: u64) -> None:
    """The change is next."""
    record_begin(known, 1)
    put_intent(known, before, inode, False, 0, 0)
    record_end(known)
