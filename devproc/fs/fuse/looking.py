"""What a file is to the guest, in machine code: the same attributes as `devproc.fs.mapped` reads.

Whatever is not simple (another file system, a time before 1970, an owner's text that is none) is left to Python.
"""

from __future__ import annotations

from devproc.fs.fuse.structures import Attr, Statx, Text
from devproc.fs.fuse.tables import Known
from native import addressof, fn, i64, local, store8, sys, syscall, u8, u32, u64

__all__ = [
    "S_IFDIR",
    "S_IFLNK",
    "S_IFMT",
    "S_IFREG",
    "attributes_of",
    "close_file",
    "link_to",
    "look_at",
    "open_known",
    "plain_attributes",
]

AT_EMPTY_PATH, BASIC_STATS = 0x1000, 0x7FF
S_IFMT, S_IFDIR, S_IFREG, S_IFLNK = 0o170000, 0o040000, 0o100000, 0o120000
NOBODY = 65534
SPACE, DOT = 32, 46
NONE = 0xFFFFFFFFFFFFFFFF


@fn
def open_known(known: Known, length: u32, how: u64) -> i64:
    """Open what `known.path` leads to as `how` says, without following anything or leaving the directory. The
    descriptor, or an errno below 0."""
    if length == 0:
        known.path[0] = DOT
        known.path[1] = 0
    else:
        known.path[length] = 0
    return syscall(sys.OPENAT2, known.root, addressof(known.path[0]), how, 24, 0, 0)


@fn
def close_file(fd: i64) -> None:
    syscall(sys.CLOSE, u64(fd), 0, 0, 0, 0, 0)


@fn
def _number(text: Text, at: u32, end: u32, base: u32) -> u64:
    """The number at a place of a text, and behind it as `place << 40`; all ones when there is none."""
    value: u64 = 0
    place: u32 = at
    while place < end and text.bytes[place] != SPACE:
        digit: u32 = u32(text.bytes[place])
        if digit < 48 or digit >= 48 + base or place - at > 10:
            return NONE
        value = value * u64(base) + u64(digit - 48)
        place = place + 1
    if place == at or value >= (1 << 32):
        return NONE
    return u64(place + 1) << 40 | value


@fn
def link_to(known: Known, fd: u64) -> u64:
    """The address of a path that leads to exactly what a descriptor is open on."""
    at: u64 = addressof(known.link[0]) + 14  # behind "/proc/self/fd/"
    digits: u64 = 1
    left: u64 = fd
    while left >= 10:
        left = left // 10
        digits = digits + 1
    store8(at + digits, 0)
    left = fd
    while digits != 0:
        digits = digits - 1
        store8(at + digits, u8(48 + left % 10))
        left = left // 10
    return addressof(known.link[0])


@fn
def _owner(known: Known, fd: u64, seen: Statx, attr: Attr) -> bool:
    """What the guest made of a file (`devproc.fs.mapped`). False when that is not simple."""
    link: u64 = link_to(known, fd)
    text = local(Text)
    size: i64 = syscall(sys.GETXATTR, link, addressof(known.attribute[0]), text.address, 128, 0, 0)
    if size == -sys.ENODATA or size == -sys.EOPNOTSUPP:
        return True
    if size <= 0:
        return False
    end: u32 = u32(size)
    at: u32 = 0
    host: u32 = 0
    for place in range(u32(5)):
        found: u64 = _number(text, at, end, 8 if place == 2 or place == 4 else 10)
        if found == NONE or (place < 4 and (found >> 40) > u64(end)):
            return False
        at = u32(found >> 40)
        value: u32 = u32(found & 0xFFFFFFFF)
        if place == 0:
            attr.uid = value
        elif place == 1:
            attr.gid = value
        elif place == 2:
            attr.mode = value & 0o177777
        elif place == 3:
            attr.rdev = value
        else:
            host = value
    if at != end + 1:
        return False
    mode: u32 = u32(seen.mode)
    if host != (mode & 0o7777):
        attr.mode = (attr.mode & S_IFMT) | (mode & 0o7777)
    kind: u32 = attr.mode & S_IFMT
    return kind != S_IFLNK and (kind == S_IFDIR) == ((mode & S_IFMT) == S_IFDIR)


@fn
def look_at(known: Known, fd: u64, name: u64, flags: u32, seen: Statx) -> i64:
    """statx of a name in a directory, or of what a descriptor is open on. Below 0: an errno, or not our file system."""
    result: i64 = syscall(sys.STATX, fd, name, flags, BASIC_STATS, seen.address, 0)
    if result != 0:
        return result
    if (seen.mask & BASIC_STATS) != BASIC_STATS:
        return -1
    if seen.dev_major != known.dev_major or seen.dev_minor != known.dev_minor:
        return -1
    return 0


@fn
def plain_attributes(known: Known, fd: u64, seen: Statx, attr: Attr) -> bool:
    """What a file is to the guest as long as the guest has made nothing else of it. False when Python must say."""
    if look_at(known, fd, addressof(known.empty[0]), AT_EMPTY_PATH, seen) != 0:
        return False
    kind: u32 = u32(seen.mode) & S_IFMT
    if kind != S_IFREG and kind != S_IFDIR and kind != S_IFLNK:
        return False
    attr.ino = seen.ino ^ known.stir
    attr.length = seen.length
    attr.blocks = seen.blocks
    if ((seen.times[0] | seen.times[4] | seen.times[6]) >> 63) != 0:  # before 1970
        return False
    attr.atime = seen.times[0]
    attr.mtime = seen.times[6]
    attr.ctime = seen.times[4]
    attr.atimensec = u32(seen.times[1] & 0xFFFFFFFF)
    attr.mtimensec = u32(seen.times[7] & 0xFFFFFFFF)
    attr.ctimensec = u32(seen.times[5] & 0xFFFFFFFF)
    attr.mode = u32(seen.mode)
    attr.nlink = seen.nlink
    attr.uid = 0 if seen.uid == known.uid else NOBODY
    attr.gid = 0 if seen.gid == known.gid else NOBODY
    attr.rdev = 0
    attr.blksize = seen.blksize
    attr.flags = 0
    return True


@fn
def attributes_of(known: Known, fd: u64, seen: Statx, attr: Attr) -> bool:
    """struct fuse_attr of what a descriptor is open on. False when Python must say."""
    if not plain_attributes(known, fd, seen, attr):
        return False
    return (attr.mode & S_IFMT) == S_IFLNK or _owner(known, fd, seen, attr)
