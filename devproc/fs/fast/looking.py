"""What a file is to the guest, in machine code: the same attributes as `devproc.fs.mapped` reads.

Whatever is not simple (another file system, a time before 1970, an owner's text that is none) is left to Python.
"""

from __future__ import annotations

import os

from devproc.fs.fast.shared import Share
from devproc.fs.fast.structures import Attr, Statx, Text
from native import addressof, fn, i64, load8, local, store8, sys, syscall, u8, u32, u64

__all__ = [
    "S_IFDIR",
    "S_IFLNK",
    "S_IFMT",
    "S_IFREG",
    "attributes_of",
    "close_file",
    "is_name",
    "link_to",
    "look_at",
    "open_known",
    "plain_attributes",
    "reopen",
    "reopen_directory",
]

AT_EMPTY_PATH, AT_FDCWD, BASIC_STATS = 0x1000, -100, 0x7FF
REOPEN = os.O_CLOEXEC | os.O_NONBLOCK
REOPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
S_IFMT, S_IFDIR, S_IFREG, S_IFLNK = 0o170000, 0o040000, 0o100000, 0o120000
NOBODY = 65534
SPACE, DOT, SLASH = 32, 46, 47
NONE = 0xFFFFFFFFFFFFFFFF


@fn
def open_known(share: Share, length: u32, how: u64) -> i64:
    """Open what `share.path` leads to as `how` says, without following anything or leaving the directory. The
    descriptor, or an errno below 0."""
    if length == 0:
        share.path[0] = DOT
        share.path[1] = 0
    else:
        share.path[length] = 0
    return syscall(sys.OPENAT2, share.root, addressof(share.path[0]), how, 24, 0, 0)


@fn
def is_name(name: u64, size: u64) -> bool:
    """Can this be a name in a directory?"""
    if size == 0 or (load8(name) == DOT and (size == 1 or (size == 2 and load8(name + 1) == DOT))):
        return False
    for place in range(size):
        byte: u8 = load8(name + place)
        if byte == 0 or byte == SLASH:
            return False
    return True


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
def link_to(share: Share, fd: u64) -> u64:
    """The address of a path that leads to exactly what a descriptor is open on."""
    at: u64 = addressof(share.link[0]) + 14  # behind "/proc/self/fd/"
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
    return addressof(share.link[0])


@fn
def _owner(share: Share, fd: u64, seen: Statx, attr: Attr) -> bool:
    """What the guest made of a file (`devproc.fs.mapped`). False when that is not simple."""
    link: u64 = link_to(share, fd)
    text = local(Text)
    size: i64 = syscall(sys.GETXATTR, link, addressof(share.attribute[0]), text.address, 128, 0, 0)
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
def look_at(share: Share, fd: u64, name: u64, flags: u32, seen: Statx) -> i64:
    """statx of a name in a directory, or of what a descriptor is open on. Below 0: an errno, or not our file system."""
    result: i64 = syscall(sys.STATX, fd, name, flags, BASIC_STATS, seen.address, 0)
    if result != 0:
        return result
    if (seen.mask & BASIC_STATS) != BASIC_STATS:
        return -1
    if seen.dev_major != share.dev_major or seen.dev_minor != share.dev_minor:
        return -1
    return 0


@fn
def plain_attributes(share: Share, fd: u64, seen: Statx, attr: Attr) -> bool:
    """What a file is to the guest as long as the guest has made nothing else of it. False when Python must say."""
    if look_at(share, fd, addressof(share.empty[0]), AT_EMPTY_PATH, seen) != 0:
        return False
    kind: u32 = u32(seen.mode) & S_IFMT
    if kind != S_IFREG and kind != S_IFDIR and kind != S_IFLNK:
        return False
    attr.ino = seen.ino ^ share.stir
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
    attr.uid = 0 if seen.uid == share.uid else NOBODY
    attr.gid = 0 if seen.gid == share.gid else NOBODY
    attr.rdev = 0
    attr.blksize = seen.blksize
    attr.flags = 0
    return True


@fn
def attributes_of(share: Share, fd: u64, seen: Statx, attr: Attr) -> bool:
    """struct fuse_attr of what a descriptor is open on. False when Python must say."""
    if not plain_attributes(share, fd, seen, attr):
        return False
    return (attr.mode & S_IFMT) == S_IFLNK or _owner(share, fd, seen, attr)


@fn
def reopen(share: Share, fd: u64, flags: u32, seen: Statx, attr: Attr) -> i64:
    """Open what was found and looked at, if it is a regular file to the guest, too; below 0 when Python must say."""
    if (attr.mode & S_IFMT) != S_IFREG or (u32(seen.mode) & S_IFMT) != S_IFREG:
        return -1
    return syscall(sys.OPENAT, AT_FDCWD, link_to(share, fd), u64(flags) | REOPEN, 0, 0, 0)


@fn
def reopen_directory(share: Share, fd: u64) -> i64:
    """Open what was found, if it is a directory, for reading; an errno below 0."""
    return syscall(sys.OPENAT, AT_FDCWD, link_to(share, fd), REOPEN_DIRECTORY, 0, 0, 0)
