"""What the machine code of FUSE reads and writes, as records: heads of requests and answers."""

from __future__ import annotations

from devproc.fs.fast.structures import Attr
from native import Array, Record, plain, u32, u64

__all__ = ["Answer", "GetAttr", "InHeader", "Made", "Transfer"]


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
