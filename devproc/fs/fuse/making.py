"""CREATE and MKDIR in machine code, and LOOKUP of what the guest has not looked up before: new nodes.

The order is that of `devproc.fs.intents`: intent, effect, record. What fails before the effect is undone and Python's
from the beginning; what fails after it goes to Python as if it came again after a kill.
"""

from __future__ import annotations

import os

from devproc.fs.fast.log import log_fits, record_begin, record_end
from devproc.fs.fast.looking import (
    S_IFDIR,
    S_IFMT,
    S_IFREG,
    attributes_of,
    close_file,
    link_to,
    look_at,
    plain_attributes,
)
from devproc.fs.fast.once import FREE, intend, put_intent
from devproc.fs.fast.structures import Attr, Statx, Text
from devproc.fs.fuse.naming import begin, name_path, open_above, put_handle, put_node
from devproc.fs.fuse.structures import InHeader, Made
from devproc.fs.fuse.tables import (
    Entry,
    Known,
    Open,
    entry_at,
    fuse_count_file,
    fuse_count_path,
    fuse_index,
    known_file,
    known_path,
    open_at,
    path_hash,
)
from native import addressof, fn, i64, load32_unaligned, local, store64, sys, syscall, u8, u32, u64
from proto.ring import Chain, chain_write

__all__ = ["ENTRY_OUT", "create", "handle_fits", "hold", "learn", "make_directory"]

AT_SYMLINK_NOFOLLOW, AT_REMOVEDIR = 0x100, 0x200
CREATE_AT, MKDIR_AT = 56, 48  # where the name begins in these requests
FLAGS_AT, CREATE_MODE_AT, MKDIR_MODE_AT = 40, 44, 40
ENTRY_OUT, CREATE_OUT = 144, 160  # bytes of an answer
O_ACCMODE, O_TRUNC, O_DIRECTORY = 0o3, 0o1000, 0o200000  # the guest's, and the host's but for the last
NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
LOOK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
PERMISSIONS, S_ISGID = 0o7777, 0o2000
SPACE = 32


@fn
def handle_fits(known: Known) -> bool:
    """Is there a place for a new handle?"""
    return Open(open_at(known, known.next_handle)).number == 0


@fn
def hold(known: Known, node: u64, fd: i64, flags: u32) -> None:
    """The new handle, which is in the journal, is open."""
    place = Open(open_at(known, known.next_handle))
    place.number = known.next_handle
    place.node = node
    place.fd = u32(fd)
    place.flags = flags
    known.next_handle = known.next_handle + 1
    entry = Entry(entry_at(known, node))
    if entry.number == node:
        entry.handles = entry.handles + 1


@fn
def _new_node(known: Known, length: u32, inode: u64) -> None:
    """The new node, which is in the journal, is known: it is at the path in `share.path`, and has the last place."""
    known.free = known.free - 1
    fuse_index(known, known.next_node, known.share.device, inode, known.places[known.free], 0, length)
    fuse_count_path(known, length, 1)
    fuse_count_file(known, known.share.device, inode, 1)
    known.next_node = known.next_node + 1


@fn
def _fill_entry(known: Known, made: Made, unique: u64, number: u64, size: u32) -> None:
    """The head of an answer with struct fuse_entry_out."""
    made.total = size
    made.error = 0
    made.unique = unique
    made.words[0] = number
    made.words[1] = 0
    made.words[2] = known.valid
    made.words[3] = known.valid
    made.words[4] = known.valid_ns << 32 | known.valid_ns
    known.share.written = size


@fn
def learn(known: Known, chain: Chain, unique: u64, length: u32, inode: u64, attr: Attr) -> bool:
    """LOOKUP of a file that has no node yet, by the path in `share.path`."""
    hashed: u64 = path_hash(addressof(known.share.path[0]), length)
    if known_path(known, hashed) or known_file(known, known.share.device, inode):
        return False
    if known.free == 0 or not log_fits(known.share):
        return False
    place: u32 = known.places[known.free - 1]
    number: u64 = known.next_node
    store64(known.counts + u64(place) * 8, 1)
    record_begin(known.share, 1)
    put_node(known, number, inode, place, length)
    record_end(known.share)
    _new_node(known, length, inode)
    made = local(Made)
    _fill_entry(known, made, unique, number, ENTRY_OUT)
    chain_write(chain, 0, made.address, ENTRY_OUT - 88)
    chain_write(chain, ENTRY_OUT - 88, attr.address, 88)
    return True


@fn
def _put_number(text: Text, at: u32, value: u64, base: u64) -> u32:
    """Write a number, and a space. Returns where the text goes on."""
    digits: u32 = 1
    left: u64 = value
    while left >= base:
        left = left // base
        digits = digits + 1
    left = value
    for place in range(digits):
        text.bytes[at + digits - 1 - place] = u8(48 + left % base)
        left = left // base
    text.bytes[at + digits] = SPACE
    return at + digits + 1


@fn
def _begin_file(known: Known, fd: u64, mode: u32, head: InHeader, seen: Statx, attr: Attr) -> bool:
    """A new file is the guest's who made it, and of this mode (`devproc.fs.mapped`)."""
    if not plain_attributes(known.share, fd, seen, attr):
        return False
    if attr.uid == head.uid and attr.gid == head.gid and attr.mode == mode:
        return True
    text = local(Text)
    end: u32 = _put_number(text, 0, u64(head.uid), 10)
    end = _put_number(text, end, u64(head.gid), 10)
    end = _put_number(text, end, u64(mode), 8)
    end = _put_number(text, end, 0, 10)
    end = _put_number(text, end, u64(seen.mode) & PERMISSIONS, 8)
    link: u64 = link_to(known.share, fd)
    if syscall(sys.SETXATTR, link, addressof(known.share.attribute[0]), text.address, u64(end - 1), 0, 0) != 0:
        return False
    if not plain_attributes(known.share, fd, seen, attr):
        return False
    attr.uid = head.uid
    attr.gid = head.gid
    attr.mode = mode
    return True


@fn
def _free_name(known: Known, above: u64) -> bool:
    """Is nothing there, in a directory that hands no group down?"""
    seen = local(Statx)
    attr = local(Attr)
    if look_at(known.share, above, known.name, AT_SYMLINK_NOFOLLOW, seen) != -sys.ENOENT:
        return False
    return attributes_of(known.share, above, seen, attr) and (attr.mode & S_ISGID) == 0


@fn
def _make(known: Known, above: u64, mode: u32, flags: u32) -> i64:
    """The descriptor of a new file, or, as O_PATH, of a new directory; an errno below 0 when nothing was made."""
    if (mode & S_IFMT) == S_IFREG:
        return syscall(sys.OPENAT, above, known.name, u64(flags) | NEW, u64(mode & 0o777) | 0o600, 0, 0)
    result: i64 = syscall(sys.MKDIRAT, above, known.name, u64(mode & 0o777) | 0o700, 0, 0, 0)
    if result != 0:
        return result
    fd: i64 = syscall(sys.OPENAT, above, known.name, LOOK, 0, 0, 0)
    if fd < 0:
        syscall(sys.UNLINKAT, above, known.name, AT_REMOVEDIR, 0, 0, 0)
    return fd


@fn
def _begin_node(known: Known, chain: Chain, head: InHeader, length: u32, mode: u32, above: u64, flags: u32) -> bool:
    """Make a file or a directory, open a file, and answer."""
    if not _free_name(known, above):
        return False
    intend(known.share, FREE, 0)
    fd: i64 = _make(known, above, mode, flags)
    if fd < 0:
        return False
    seen = local(Statx)
    made = local(Made)
    directory: bool = (mode & S_IFMT) == S_IFDIR
    if not _begin_file(known, u64(fd), mode, head, seen, made.attr):
        syscall(sys.UNLINKAT, above, known.name, AT_REMOVEDIR if directory else 0, 0, 0, 0)
        close_file(fd)
        return False
    if known_file(known, known.share.device, seen.ino):
        close_file(fd)
        chain.again = 1
        return False
    number: u64 = known.next_node
    place: u32 = known.places[known.free - 1]
    size: u32 = ENTRY_OUT if directory else CREATE_OUT
    _fill_entry(known, made, head.unique, number, size)
    made.fh = known.next_handle
    made.flags = 0
    made.padding = 0
    store64(known.counts + u64(place) * 8, 1)
    record_begin(known.share, 2 if directory else 3)
    put_node(known, number, seen.ino, place, length)
    if not directory:
        put_handle(known, known.next_handle, number, flags & O_ACCMODE)
    put_intent(known.share, FREE, 0, True, made.address, size)
    record_end(known.share)
    _new_node(known, length, seen.ino)
    if directory:
        close_file(fd)
    else:
        hold(known, number, fd, flags & O_ACCMODE)
    chain_write(chain, 0, made.address, u64(size))
    return True


@fn
def _in_directory(known: Known, chain: Chain, head: InHeader, name_at: u64, mode: u32, flags: u32) -> bool:
    """The same, given where in the request the name is."""
    name: u64 = addressof(known.share.message[0]) + name_at
    length: u32 = name_path(known, head.nodeid, name, chain.readable_bytes - name_at)
    if length == 0 or known.free == 0 or known_path(known, path_hash(addressof(known.share.path[0]), length)):
        return False
    above: i64 = open_above(known)
    if above < 0:
        return False
    done: bool = _begin_node(known, chain, head, length, mode, u64(above), flags)
    close_file(above)
    return done


@fn
def create(known: Known, chain: Chain, head: InHeader, queue: u32) -> bool:
    """A new regular file. One that is there already is opened by Python."""
    if chain.readable_bytes < CREATE_AT or chain.writable_bytes < CREATE_OUT or known.share.read_only != 0:
        return False
    if not handle_fits(known) or not begin(known, chain, queue):
        return False
    flags: u32 = load32_unaligned(addressof(known.share.message[0]) + FLAGS_AT)
    mode: u32 = load32_unaligned(addressof(known.share.message[0]) + CREATE_MODE_AT)
    if (flags & O_ACCMODE) == O_ACCMODE or (flags & O_DIRECTORY) != 0:
        return False
    return _in_directory(known, chain, head, CREATE_AT, S_IFREG | (mode & PERMISSIONS), flags & (O_ACCMODE | O_TRUNC))


@fn
def make_directory(known: Known, chain: Chain, head: InHeader, queue: u32) -> bool:
    """MKDIR."""
    if chain.readable_bytes < MKDIR_AT or chain.writable_bytes < ENTRY_OUT or known.share.read_only != 0:
        return False
    if not begin(known, chain, queue):
        return False
    mode: u32 = load32_unaligned(addressof(known.share.message[0]) + MKDIR_MODE_AT)
    return _in_directory(known, chain, head, MKDIR_AT, S_IFDIR | (mode & PERMISSIONS), 0)
