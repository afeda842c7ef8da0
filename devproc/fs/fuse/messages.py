"""The messages of FUSE 7.41: opcodes, and the layout of each request and answer. Little-endian, as the guest is.

A request is a header, a structure of its opcode, and names, each ended by a zero byte; an answer is a header and what
the opcode returns. `REQUESTS` says for each opcode the structure and how many names follow. What follows the structures
of WRITE, SETXATTR and BATCH_FORGET is data.
"""

from __future__ import annotations

import errno
import os
import struct
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

from devproc.fs.tree import Attributes, fail, number_of

__all__ = ["IN_HEADER", "OUT_HEADER", "REQUESTS", "Flag", "Header", "Opcode", "attributes", "decode", "statx"]

MAJOR, MINOR = 7, 41
IN_HEADER = struct.Struct("<IIQQIIIHH")
OUT_HEADER = struct.Struct("<IiQ")
SECOND = 1_000_000_000


class Opcode(IntEnum):
    """enum fuse_opcode, what is answered; anything else is ENOSYS, after which Linux does not ask again."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


class Flag(IntFlag):
    """Flags of INIT that are taken when the guest offers them."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    FLOCK_LOCKS = 1 << 10
    AUTO_INVAL_DATA = 1 << 12  # pages of a file that changed on the host are dropped
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22


class Header(NamedTuple):
    """struct fuse_in_header."""

    size: int
    opcode: int
    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int
    extensions: int
    padding: int


_FILE = "<QII"  # fh and two words: fsync
_RELEASE = "<QIIQ"
_LOCK = "<QQQQIIII"  # fh, owner, first and last byte, kind, process, flags, padding
_TRANSFER = "<QQIIQII"  # fh, offset, size, flags, lock owner, flags, padding

REQUESTS = {
    Opcode.LOOKUP: (struct.Struct("<"), 1),
    Opcode.FORGET: (struct.Struct("<Q"), 0),
    Opcode.GETATTR: (struct.Struct("<IIQ"), 0),
    Opcode.SETATTR: (struct.Struct("<IIQQQQQQIIIIIIII"), 0),
    Opcode.READLINK: (struct.Struct("<"), 0),
    Opcode.SYMLINK: (struct.Struct("<"), 2),
    Opcode.MKNOD: (struct.Struct("<IIII"), 1),
    Opcode.MKDIR: (struct.Struct("<II"), 1),
    Opcode.UNLINK: (struct.Struct("<"), 1),
    Opcode.RMDIR: (struct.Struct("<"), 1),
    Opcode.RENAME: (struct.Struct("<Q"), 2),
    Opcode.LINK: (struct.Struct("<Q"), 1),
    Opcode.OPEN: (struct.Struct("<II"), 0),
    Opcode.READ: (struct.Struct(_TRANSFER), 0),
    Opcode.WRITE: (struct.Struct(_TRANSFER), 0),
    Opcode.STATFS: (struct.Struct("<"), 0),
    Opcode.RELEASE: (struct.Struct(_RELEASE), 0),
    Opcode.FSYNC: (struct.Struct(_FILE), 0),
    Opcode.FLUSH: (struct.Struct("<QIIQ"), 0),
    Opcode.GETLK: (struct.Struct(_LOCK), 0),
    Opcode.SETLK: (struct.Struct(_LOCK), 0),
    Opcode.SETLKW: (struct.Struct(_LOCK), 0),
    Opcode.SETXATTR: (struct.Struct("<II"), 1),
    Opcode.GETXATTR: (struct.Struct("<II"), 1),
    Opcode.LISTXATTR: (struct.Struct("<II"), 0),
    Opcode.REMOVEXATTR: (struct.Struct("<"), 1),
    Opcode.INIT: (struct.Struct("<IIII"), 0),
    Opcode.OPENDIR: (struct.Struct("<II"), 0),
    Opcode.READDIR: (struct.Struct(_TRANSFER), 0),
    Opcode.READDIRPLUS: (struct.Struct(_TRANSFER), 0),
    Opcode.RELEASEDIR: (struct.Struct(_RELEASE), 0),
    Opcode.FSYNCDIR: (struct.Struct(_FILE), 0),
    Opcode.CREATE: (struct.Struct("<IIII"), 1),
    Opcode.INTERRUPT: (struct.Struct("<Q"), 0),
    Opcode.DESTROY: (struct.Struct("<"), 0),
    Opcode.BATCH_FORGET: (struct.Struct("<II"), 0),
    Opcode.FALLOCATE: (struct.Struct("<QQQII"), 0),
    Opcode.RENAME2: (struct.Struct("<QII"), 2),
    Opcode.LSEEK: (struct.Struct("<QQII"), 0),
    Opcode.COPY_FILE_RANGE: (struct.Struct("<7Q"), 0),
    Opcode.SYNCFS: (struct.Struct("<Q"), 0),
    Opcode.TMPFILE: (struct.Struct("<IIII"), 1),
    Opcode.STATX: (struct.Struct("<IIQII"), 0),
}
_ATTRIBUTES = struct.Struct("<6Q10I")
_STATX = struct.Struct("<IIQIIIHHQQQQ" + 4 * "qIi" + "IIII112x")
STATX_BASIC, STATX_BTIME = 0x7FF, 0x800


def decode(opcode: int, body: bytes) -> tuple[tuple[Any, ...], bytes]:
    """The fields of a request and what follows them. Raises OSError: ENOSYS for an opcode that is not answered, EINVAL
    for a body that is too short."""
    plan = REQUESTS.get(opcode)  # type: ignore[call-overload]
    if plan is None:
        fail(errno.ENOSYS)
    layout, names = plan
    if len(body) < layout.size:
        fail(errno.EINVAL)
    fields = layout.unpack_from(body)
    rest = body[layout.size :]
    if names == 0:
        return fields, rest
    for _ in range(names):
        name, end, rest = rest.partition(b"\0")
        if not end:
            fail(errno.EINVAL)
        fields += (name,)
    return fields, rest


def attributes(seen: Attributes) -> bytes:
    """struct fuse_attr."""
    times = [divmod(max(time, 0), SECOND) for time in (seen.atime, seen.mtime, seen.ctime)]
    return _ATTRIBUTES.pack(
        *(number_of(seen.device, seen.inode), seen.size, seen.blocks),
        *(seconds for seconds, _ in times),
        *(nanoseconds for _, nanoseconds in times),
        *(seen.mode, seen.nlink, seen.uid, seen.gid, seen.rdev & 0xFFFFFFFF, seen.block_size, 0),
    )


def statx(seen: Attributes, born: int | None) -> bytes:
    """struct fuse_statx."""
    times = [(*divmod(max(time or 0, 0), SECOND), 0) for time in (seen.atime, born, seen.ctime, seen.mtime)]
    return _STATX.pack(
        STATX_BASIC | (0 if born is None else STATX_BTIME),
        *(seen.block_size, 0, seen.nlink, seen.uid, seen.gid, seen.mode, 0),
        *(number_of(seen.device, seen.inode), seen.size, seen.blocks, 0),
        *(part for time in times for part in time),
        *(os.major(seen.rdev), os.minor(seen.rdev), 0, 0),
    )
