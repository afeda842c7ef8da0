"""The messages of v86fs: numbers, and the fields of each as a table. Everything is little-endian.

A message is `length[4] type[1] tag[2]` and its fields; length counts all of it. A response has its request's tag and
its type with the top bit set, and begins with a status, 0 or a Linux errno. A field is written `name:kind`: 1, 2, 4, 8
are unsigned numbers of so many bytes, s is a string (length[2] and bytes), E a list of directory entries (count[4],
each inode[8] kind[1] name[s]). What follows the fields of the request WRITE and of READ's response is data, as many
bytes as their `size` says; it is left where it is.

`decode` and `encode` raise ValueError for a message that is not whole, or is longer than its fields.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

__all__ = [
    "HEADER",
    "NOTICES",
    "READ_AT",
    "REQUESTS",
    "RESPONSES",
    "WRITE_AT",
    "Listed",
    "Type",
    "decode",
    "encode",
    "encode_error",
    "encode_response",
    "listed_size",
]

HEADER = struct.Struct("<IBH")
RESPONSE = 0x80
ERROR = 0xFF
STATUS = struct.Struct("<I")
_NUMBERS = {kind: struct.Struct("<" + letter) for kind, letter in {"1": "B", "2": "H", "4": "I", "8": "Q"}.items()}
_EMPTY: dict[str, Any] = {**dict.fromkeys("1248", 0), "s": b"", "E": ()}
_LISTED = struct.Struct("<QB")


class Type(IntEnum):
    """Requests, and from 0x20 on what the device pushes."""

    MOUNT = 0x00
    LOOKUP = 0x01
    GETATTR = 0x02
    READDIR = 0x03
    OPEN = 0x04
    CLOSE = 0x05
    READ = 0x06
    CREATE = 0x07
    WRITE = 0x08
    MKDIR = 0x09
    SETATTR = 0x0A
    FSYNC = 0x0B
    UNLINK = 0x0C
    RENAME = 0x0D
    SYMLINK = 0x0E
    READLINK = 0x0F
    STATFS = 0x10
    INVALIDATE = 0x20
    INVALIDATE_DIR = 0x21
    MOUNT_NOTIFY = 0x22
    UMOUNT_NOTIFY = 0x23


class Listed(NamedTuple):
    """One entry of READDIR; `kind` is a DT_* number."""

    inode: int
    kind: int
    name: bytes


REQUESTS = {
    Type.MOUNT: "name:s",
    Type.LOOKUP: "parent:8 name:s",
    Type.GETATTR: "inode:8",
    Type.READDIR: "inode:8",
    Type.OPEN: "inode:8 flags:4",
    Type.CLOSE: "handle:8",
    Type.READ: "handle:8 offset:8 size:4",
    Type.CREATE: "parent:8 name:s mode:4",
    Type.WRITE: "inode:8 offset:8 size:4",  # and that many bytes, which are left where they are
    Type.MKDIR: "parent:8 name:s mode:4",
    Type.SETATTR: "inode:8 valid:4 mode:4 size:8",
    Type.FSYNC: "inode:8",
    Type.UNLINK: "parent:8 name:s",
    Type.RENAME: "old_parent:8 old_name:s new_parent:8 new_name:s",
    Type.SYMLINK: "parent:8 name:s target:s",
    Type.READLINK: "inode:8",
    Type.STATFS: "",
}

RESPONSES = {  # after the status
    Type.MOUNT: "root:8 mode:4",
    Type.LOOKUP: "inode:8 mode:4 size:8",
    Type.GETATTR: "mode:4 size:8 mtime:8 mtime_nsec:4",
    Type.READDIR: "entries:E",
    Type.OPEN: "handle:8",
    Type.CLOSE: "",
    Type.READ: "size:4",  # and that many bytes
    Type.CREATE: "inode:8 mode:4",
    Type.WRITE: "size:4",
    Type.MKDIR: "inode:8 mode:4",
    Type.SETATTR: "",
    Type.FSYNC: "",
    Type.UNLINK: "",
    Type.RENAME: "",
    Type.SYMLINK: "inode:8 mode:4",
    Type.READLINK: "target:s",
    Type.STATFS: "blocks:8 bfree:8 bavail:8 files:8 ffree:8 bsize:4",
}

NOTICES = {
    Type.INVALIDATE: "inode:8 offset:8 size:8",
    Type.INVALIDATE_DIR: "inode:8",
    Type.MOUNT_NOTIFY: "name:s path:s",
    Type.UMOUNT_NOTIFY: "path:s",
}

READ_AT = HEADER.size + 2 * STATUS.size  # where the data of READ's response begins
WRITE_AT = HEADER.size + 20  # and that of the request WRITE


def _kinds(fields: str) -> str:
    return "".join(field.rpartition(":")[2] for field in fields.split())


_KINDS: Mapping[int, str] = {kind: _kinds(fields) for kind, fields in {**REQUESTS, **NOTICES}.items()}
_ANSWERS: Mapping[int, str] = {kind: _kinds(fields) for kind, fields in RESPONSES.items()}


def decode(kind: int, body: bytes) -> list[Any]:
    """The fields of a request or notice, from what follows its header; of WRITE all but the data."""
    fields: list[Any] = []
    at = 0
    for part in _KINDS[kind]:
        size = 2 if part == "s" else _NUMBERS[part].size
        if at + size > len(body):
            raise ValueError("it ends within a field")
        number: int = _NUMBERS["2" if part == "s" else part].unpack_from(body, at)[0]
        at += size
        if part == "s":
            if at + number > len(body):
                raise ValueError("it ends within a text")
            fields.append(body[at : at + number])
            at += number
        else:
            fields.append(number)
    if at != len(body):
        raise ValueError(f"{len(body) - at} bytes follow its last field")
    return fields


def encode(kind: int, tag: int, fields: Sequence[Any], data: int = 0) -> bytes:
    """A request or notice, without the `data` bytes that follow its fields."""
    return _message(kind, tag, _fields(_KINDS[kind], fields), data)


def encode_response(kind: int, tag: int, status: int, fields: Sequence[Any] = (), data: int = 0) -> bytes:
    """A response, without the `data` bytes that follow its fields. One that failed keeps its length, all zero; only
    READLINK's ends after the status."""
    if status:
        kinds = "" if kind == Type.READLINK else _ANSWERS[kind]
        return _message(kind | RESPONSE, tag, STATUS.pack(status) + _fields(kinds, [_EMPTY[part] for part in kinds]))
    return _message(kind | RESPONSE, tag, STATUS.pack(0) + _fields(_ANSWERS[kind], fields), data)


def encode_error(tag: int, status: int) -> bytes:
    """The answer to what is no request."""
    return _message(ERROR, tag, STATUS.pack(status))


def _message(kind: int, tag: int, body: bytes, data: int = 0) -> bytes:
    return HEADER.pack(HEADER.size + len(body) + data, kind, tag) + body


def _fields(kinds: str, values: Sequence[Any]) -> bytes:
    return b"".join(map(_field, kinds, values))


def _field(part: str, value: Any) -> bytes:
    if part == "s":
        return _NUMBERS["2"].pack(len(value)) + bytes(value)
    if part == "E":
        return _NUMBERS["4"].pack(len(value)) + b"".join(map(_listed, value))
    return _NUMBERS[part].pack(value)


def _listed(entry: Listed) -> bytes:
    inode, kind, name = entry
    return _LISTED.pack(inode, kind) + _field("s", name)


def listed_size(entry: Listed) -> int:
    """Bytes of an entry in a READDIR response."""
    return _LISTED.size + 2 + len(entry.name)
