"""What the machine code of FUSE reads and writes, as records: Linux's structures, heads of requests and answers."""

from __future__ import annotations

from native import Array, Record, plain, u8, u16, u32, u64

__all__ = ["Answer", "Attr", "GetAttr", "How", "InHeader", "Made", "Statx", "Text", "Transfer"]


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


class InHeader(Record):
    """struct fuse_in_header."""

    total: u32
    opcode: u32
    unique: u64
    nodeid: u64
    uid: u32
    gid: u32
    pid: u32
    padding: u32


class Transfer(Record):
    """struct fuse_read_in and fuse_write_in."""

    fh: u64
    position: u64
    length: u32
    flags: u32
    owner: u64
    more: u32
    padding: u32


class GetAttr(Record):
    """struct fuse_getattr_in."""

    flags: u32
    padding: u32
    fh: u64


class Answer(Record):
    """An answer's header, with struct fuse_entry_out or with what precedes the attributes in struct fuse_attr_out."""

    total: u32
    error: u32
    unique: u64
    words: Array[u64] = plain(count=5)


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


class Made(Record):
    """A whole answer of CREATE; what others answer is the beginning of it."""

    total: u32
    error: u32
    unique: u64
    words: Array[u64] = plain(count=5)
    attr: Attr
    fh: u64
    flags: u32
    padding: u32


class Text(Record):
    """Room for the text of an attribute."""

    bytes: Array[u8] = plain(count=128)
