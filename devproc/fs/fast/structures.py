"""What machine code hands the kernel and gets from it, as records; and what a file is to the guest."""

from __future__ import annotations

from native import Array, Record, plain, u8, u16, u32, u64

__all__ = ["Attr", "How", "Statx", "Text"]


class How(Record):
    """struct open_how."""

    flags: u64
    mode: u64
    resolve: u64


class Statx(Record):
    """struct statx, up to what is needed."""

    mask: u32
    blksize: u32
    attributes: u64
    nlink: u32
    uid: u32
    gid: u32
    mode: u16
    spare: u16
    ino: u64
    length: u64
    blocks: u64
    attributes_mask: u64
    times: Array[u64] = plain(count=8)  # atime, btime, ctime, mtime: seconds, and nanoseconds in the lower half
    rdev_major: u32
    rdev_minor: u32
    dev_major: u32
    dev_minor: u32
    rest: Array[u64] = plain(count=16)


class Attr(Record):
    """struct fuse_attr."""

    ino: u64
    length: u64
    blocks: u64
    atime: u64
    mtime: u64
    ctime: u64
    atimensec: u32
    mtimensec: u32
    ctimensec: u32
    mode: u32
    nlink: u32
    uid: u32
    gid: u32
    rdev: u32
    blksize: u32
    flags: u32


class Text(Record):
    """Room for the text of an attribute."""

    bytes: Array[u8] = plain(count=128)
