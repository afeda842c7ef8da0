"""The "newc" cpio archive, the format of an initramfs, written from a tree of entries.

What Linux takes is described in its Documentation/driver-api/early-userspace/buffer-format.rst: archives may follow one
another, each padded to four bytes, and a later one adds to or replaces what an earlier one made. That is how a command
for the guest is appended to an image that never changes. Archives made here are a function of the tree alone: no times,
no owners, no inode numbers of the host.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Entry", "Tree", "archive", "device", "directory", "link", "regular"]

MAGIC = b"070701"
TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """One file: its mode with the type bits, its bytes (a link's target), and a device node's numbers."""

    mode: int
    data: bytes = b""
    major: int = 0
    minor: int = 0


Tree = Mapping[str, Entry]  # path without leading slash → entry; directories before what is in them


def directory(mode: int = 0o755) -> Entry:
    return Entry(stat.S_IFDIR | mode)


def regular(data: bytes | str, mode: int = 0o644) -> Entry:
    return Entry(stat.S_IFREG | mode, data.encode() if isinstance(data, str) else data)


def link(target: str) -> Entry:
    return Entry(stat.S_IFLNK | 0o777, target.encode())


def device(major: int, minor: int, mode: int = 0o600) -> Entry:
    return Entry(stat.S_IFCHR | mode, b"", major, minor)


def archive(tree: Tree) -> bytes:
    """The whole archive, padded to 512 bytes as cpio does, so that another may follow."""
    records = [_record(number, path, entry) for number, (path, entry) in enumerate(tree.items(), start=1)]
    records.append(_record(0, TRAILER, Entry(0)))
    return _padded(b"".join(records), 512)


def _record(inode: int, path: str, entry: Entry) -> bytes:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        inode,
        entry.mode,
        0,  # uid
        0,  # gid
        links,
        0,  # mtime
        len(entry.data),
        0,  # device the file is on, major
        0,  # minor
        entry.major,
        entry.minor,
        len(name),
        0,  # checksum: only in format 070702
    )
    header = MAGIC + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name, 4) + _padded(entry.data, 4)


def _padded(data: bytes, alignment: int) -> bytes:
    return data + bytes(-len(data) % alignment)
