"""A directory as READDIR gives it: sorted by name, packed as struct fuse_dirent, in machine code and in Python.

Both give the same bytes for the same directory; a test compares them. "." and ".." come first, and stand for the
directory itself. An entry's offset is its place, so that a successor, which reads the directory again, can go on.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from devproc.fs.fast.listing import DT_DIR, Room, RoomMemory, lister
from devproc.fs.tree import Entry, number_of
from native import copy, fn, store64_unaligned, u32, u64

__all__ = ["DT_DIR", "EMPTY", "Listing", "Packer", "fuse_list", "pack"]

PADDING = [bytes(size) for size in range(8)]
HEAD = 24  # bytes of struct fuse_dirent without the name
_ENTRY = struct.Struct("<QQII")


class Listing(NamedTuple):
    """A whole directory: records, and where each ends."""

    data: bytes
    ends: Sequence[int]

    def part(self, offset: int, room: int) -> bytes:
        """The records from the `offset`th on, as many as fit whole."""
        if offset >= len(self.ends):
            return b""
        begin = self.ends[offset - 1] if offset else 0
        last = bisect_right(self.ends, begin + room)
        return self.data[begin : self.ends[last - 1]] if last > offset else b""

    def records(self, offset: int) -> Iterator[tuple[bytes, bytes]]:
        """Name and record of each from the `offset`th on."""
        for place in range(min(offset, len(self.ends)), len(self.ends)):
            record = self.data[self.ends[place - 1] if place else 0 : self.ends[place]]
            yield record[HEAD : HEAD + _ENTRY.unpack_from(record)[2]], record


EMPTY = Listing(b"", [])


def pack(device: int, inode: int, entries: Sequence[Entry]) -> Listing:
    """What is in a directory, which has these numbers itself."""
    parts: list[bytes] = []
    ends: list[int] = []
    end = 0
    for name, where, number, kind in [*(Entry(dots, device, inode, DT_DIR) for dots in (b".", b"..")), *entries]:
        head = _ENTRY.pack(number_of(where, number), len(ends) + 1, len(name), kind)
        parts += [head, name, PADDING[-len(name) % 8]]
        end += HEAD + len(name) + 7 & ~7
        ends.append(end)
    return Listing(b"".join(parts), ends)


class Packer:
    """Packs directories by machine code, for Python."""

    def __init__(self, engine: Any) -> None:
        self._memory = RoomMemory()
        self._list = engine.fuse_list

    def pack(self, fd: int) -> Listing | None:
        """The directory behind a descriptor; None when Python must read it."""
        status, memory = os.fstat(fd), self._memory
        if not self._list(memory.room, fd, number_of(status.st_dev, 0), status.st_ino):
            return None
        return Listing(bytes(memory.packed[: memory.room.length]), memory.ends[: memory.room.count].tolist())

    def close(self) -> None:
        self._memory.close()


@fn
def _put(room: Room, place: u32, number: u64, name: u64, length: u32, kind: u32) -> u32:
    """One struct fuse_dirent more. Returns where the next begins."""
    at: u64 = room.packed + u64(room.length)
    whole: u32 = (HEAD + length + 7) & 0xFFFFFFF8
    store64_unaligned(at + u64(whole) - 8, 0)
    store64_unaligned(at, number)
    store64_unaligned(at + 8, u64(place) + 1)
    store64_unaligned(at + 16, u64(kind) << 32 | u64(length))
    copy(at + HEAD, name, u64(length))
    return room.length + whole


_pack = lister(_put)


@fn
def fuse_list(room: Room, fd: u64, stir: u64, inode: u64) -> bool:
    """Pack the directory behind a descriptor, whose own number is `inode`. False when Python must do it."""
    return _pack(room, fd, stir, inode)
