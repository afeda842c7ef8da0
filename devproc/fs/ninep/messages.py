"""The messages of 9P2000.L: numbers, and the fields of each as a table. Everything is little-endian.

A message is `size[4] type[1] tag[2]` and its fields; size counts all of it. A response has its request's tag and its
type plus one; Rlerror answers any request that failed. A field is written `name:kind`: 1, 2, 4, 8 are unsigned numbers
of so many bytes, s is a string (length[2] and bytes), n a list of up to 16 of them (count[2]), q a qid, Q a list of
qids.
What follows the fields of Twrite, Rread and Rreaddir is data, as many bytes as `count` says.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from devproc.fs.tree import fail

__all__ = ["HEADER", "MAX_WALK", "NO_FID", "REQUESTS", "Qid", "Type", "decode", "encode", "encode_error"]

HEADER = struct.Struct("<IBH")
NO_FID = 0xFFFFFFFF
MAX_WALK = 16
_QID = struct.Struct("<BIQ")
_NUMBERS = {"1": "B", "2": "H", "4": "I", "8": "Q"}


class Type(IntEnum):
    """Requests; a response is one more."""

    LERROR = 6
    STATFS = 8
    LOPEN = 12
    LCREATE = 14
    SYMLINK = 16
    MKNOD = 18
    RENAME = 20
    READLINK = 22
    GETATTR = 24
    SETATTR = 26
    XATTRWALK = 30
    XATTRCREATE = 32
    READDIR = 40
    FSYNC = 50
    LOCK = 52
    GETLOCK = 54
    LINK = 70
    MKDIR = 72
    RENAMEAT = 74
    UNLINKAT = 76
    VERSION = 100
    AUTH = 102
    ATTACH = 104
    FLUSH = 108
    WALK = 110
    READ = 116
    WRITE = 118
    CLUNK = 120
    REMOVE = 122


class Qid(NamedTuple):
    """What tells files apart: kind, a number that changes with the contents, a number that no other file has."""

    kind: int
    version: int
    path: int


_LOCK = "start:8 length:8 proc_id:4 client_id:s"
_TIMES = "atime:8 atime_nsec:8 mtime:8 mtime_nsec:8"

REQUESTS = {
    Type.STATFS: "fid:4",
    Type.LOPEN: "fid:4 flags:4",
    Type.LCREATE: "fid:4 name:s flags:4 mode:4 gid:4",
    Type.SYMLINK: "dfid:4 name:s target:s gid:4",
    Type.MKNOD: "dfid:4 name:s mode:4 major:4 minor:4 gid:4",
    Type.RENAME: "fid:4 dfid:4 name:s",
    Type.READLINK: "fid:4",
    Type.GETATTR: "fid:4 request_mask:8",
    Type.SETATTR: f"fid:4 valid:4 mode:4 uid:4 gid:4 size:8 {_TIMES}",
    Type.XATTRWALK: "fid:4 newfid:4 name:s",
    Type.XATTRCREATE: "fid:4 name:s size:8 flags:4",
    Type.READDIR: "fid:4 offset:8 count:4",
    Type.FSYNC: "fid:4 datasync:4",
    Type.LOCK: f"fid:4 type:1 flags:4 {_LOCK}",
    Type.GETLOCK: f"fid:4 type:1 {_LOCK}",
    Type.LINK: "dfid:4 fid:4 name:s",
    Type.MKDIR: "dfid:4 name:s mode:4 gid:4",
    Type.RENAMEAT: "olddirfid:4 oldname:s newdirfid:4 newname:s",
    Type.UNLINKAT: "dirfd:4 name:s flags:4",
    Type.VERSION: "msize:4 version:s",
    Type.AUTH: "afid:4 uname:s aname:s n_uname:4",
    Type.ATTACH: "fid:4 afid:4 uname:s aname:s n_uname:4",
    Type.FLUSH: "oldtag:2",
    Type.WALK: "fid:4 newfid:4 names:n",
    Type.READ: "fid:4 offset:8 count:4",
    Type.WRITE: "fid:4 offset:8 count:4",
    Type.CLUNK: "fid:4",
    Type.REMOVE: "fid:4",
}

RESPONSES = {
    Type.LERROR: "ecode:4",
    Type.STATFS: "type:4 bsize:4 blocks:8 bfree:8 bavail:8 files:8 ffree:8 fsid:8 namelen:4",
    Type.LOPEN: "qid:q iounit:4",
    Type.LCREATE: "qid:q iounit:4",
    Type.SYMLINK: "qid:q",
    Type.MKNOD: "qid:q",
    Type.RENAME: "",
    Type.READLINK: "target:s",
    Type.GETATTR: "valid:8 qid:q mode:4 uid:4 gid:4 nlink:8 rdev:8 size:8 blksize:8 blocks:8 "
    f"{_TIMES} ctime:8 ctime_nsec:8 btime:8 btime_nsec:8 gen:8 data_version:8",
    Type.SETATTR: "",
    Type.XATTRWALK: "size:8",
    Type.XATTRCREATE: "",
    Type.READDIR: "count:4",
    Type.FSYNC: "",
    Type.LOCK: "status:1",
    Type.GETLOCK: f"type:1 {_LOCK}",
    Type.LINK: "",
    Type.MKDIR: "qid:q",
    Type.RENAMEAT: "",
    Type.UNLINKAT: "",
    Type.VERSION: "msize:4 version:s",
    Type.ATTACH: "qid:q",
    Type.FLUSH: "",
    Type.WALK: "qids:Q",
    Type.READ: "count:4",
    Type.WRITE: "count:4",
    Type.CLUNK: "",
    Type.REMOVE: "",
}


def _compiled(fields: str) -> list[struct.Struct | str]:
    """Runs of numbers as one struct each, the other kinds as they are."""
    plan: list[struct.Struct | str] = []
    numbers = "<"
    for field in fields.split():
        kind = field.rpartition(":")[2]
        if kind in _NUMBERS:
            numbers += _NUMBERS[kind]
            continue
        plan += [struct.Struct(numbers), kind] if numbers != "<" else [kind]
        numbers = "<"
    return [*plan, struct.Struct(numbers)] if numbers != "<" else plan


_REQUESTS = {kind: _compiled(fields) for kind, fields in REQUESTS.items()}
_RESPONSES = {kind: _compiled(fields) for kind, fields in RESPONSES.items()}


def decode(kind: int, body: bytes) -> list[Any]:
    """The fields of a request, after its header. Raises OSError: EOPNOTSUPP for a type that does not exist, EINVAL for
    a body that is too short. Bytes behind the fields are data, or nobody's."""
    plan = _REQUESTS.get(kind)  # type: ignore[call-overload]
    if plan is None:
        fail(errno.EOPNOTSUPP)
    fields: list[Any] = []
    at = 0
    for part in plan:
        if isinstance(part, struct.Struct):
            if at + part.size > len(body):
                fail(errno.EINVAL)
            fields += part.unpack_from(body, at)
            at += part.size
        elif part == "s":
            text, at = _string(body, at)
            fields.append(text)
        else:
            names, at = _strings(body, at)
            fields.append(names)
    return fields


def encode(kind: int, tag: int, fields: Sequence[Any], data: int = 0) -> bytes:
    """The response to a request of this type; `data` bytes come behind it, which the size counts."""
    parts: list[bytes] = []
    at = 0
    for part in _RESPONSES[Type(kind)]:
        if isinstance(part, struct.Struct):
            count = len(part.format) - 1
            parts.append(part.pack(*fields[at : at + count]))
            at += count
            continue
        value = fields[at]
        at += 1
        if part == "s":
            parts.append(struct.pack("<H", len(value)) + value)
        elif part == "q":
            parts.append(_QID.pack(*value))
        else:
            parts.append(struct.pack("<H", len(value)) + b"".join(_QID.pack(*qid) for qid in value))
    body = b"".join(parts)
    return HEADER.pack(HEADER.size + len(body) + data, kind + 1, tag) + body


def encode_error(tag: int, number: int) -> bytes:
    """Rlerror with a Linux errno."""
    return encode(Type.LERROR, tag, (number,))


def _string(body: bytes, at: int) -> tuple[bytes, int]:
    if at + 2 > len(body):
        fail(errno.EINVAL)
    end = at + 2 + int.from_bytes(body[at : at + 2], "little")
    if end > len(body):
        fail(errno.EINVAL)
    return body[at + 2 : end], end


def _strings(body: bytes, at: int) -> tuple[list[bytes], int]:
    if at + 2 > len(body):
        fail(errno.EINVAL)
    count = int.from_bytes(body[at : at + 2], "little")
    if count > MAX_WALK:
        fail(errno.EINVAL)
    at += 2
    names = []
    for _ in range(count):
        name, at = _string(body, at)
        names.append(name)
    return names, at
