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

from devproc.fs.tree import Entry, number_of
from native import (
    Record,
    bswap64,
    copy,
    fn,
    i64,
    load8,
    load16_unaligned,
    load32,
    load64_unaligned,
    store8,
    store32,
    store64_unaligned,
    sys,
    syscall,
    u8,
    u32,
    u64,
    wrap64,
)
from native.memory import Area

__all__ = ["DT_DIR", "EMPTY", "Listing", "Packer", "fuse_list", "pack"]

DT_DIR, DT_REG, DT_LNK = 4, 8, 10  # other kinds may be others to the guest
PADDING = [bytes(size) for size in range(8)]
RAW = 1 << 20  # bytes of a directory that machine code takes; a longer one is Python's
SLACK = 16  # behind them: names are compared by eight bytes
PLACES = RAW // 24 + 2
HEAD, NAME_AT, KIND_AT = 24, 19, 18  # bytes of struct fuse_dirent without the name; places in struct linux_dirent64
ONES, TOPS = 0x0101010101010101, 0x8080808080808080
DOT = 46
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


class Room(Record):
    """Where machine code works; private to the process."""

    raw: u64  # addresses: of what getdents64 gives,
    places: u64  # of the places of the records in that,
    spare: u64  # of room to sort those in,
    packed: u64  # of the records as FUSE has them,
    ends: u64  # and of where each ends
    count: u32
    length: u32  # of the records, in bytes


class Packer:
    """Machine code's memory, most of which is there only once it is needed."""

    def __init__(self, engine: Any) -> None:
        sizes = (Room.size(), RAW + SLACK, 4 * PLACES, 4 * PLACES, RAW + 16 * PLACES, 4 * PLACES)
        at = [sum(size + 7 & ~7 for size in sizes[:place]) for place in range(len(sizes) + 1)]
        self._area = Area.allocate(at[-1])
        self._view = self._area.view()
        self._packed = self._view[at[4] : at[5]]
        self._ends = self._view[at[5] : at[5] + 4 * PLACES].cast("I")
        self._room = room = Room(self._area.address, self._area)
        room.raw, room.places, room.spare, room.packed, room.ends = (self._area.address + place for place in at[1:6])
        self._list = engine.fuse_list

    @property
    def room(self) -> int:
        """The address of its memory, a `Room`."""
        return self._room.address

    def pack(self, fd: int) -> Listing | None:
        """The directory behind a descriptor; None when Python must read it."""
        status = os.fstat(fd)
        if not self._list(self._room, fd, number_of(status.st_dev, 0), status.st_ino):
            return None
        return Listing(bytes(self._packed[: self._room.length]), self._ends[: self._room.count].tolist())

    def close(self) -> None:
        for view in (self._ends, self._packed, self._view):
            view.release()
        self._area.close()


@fn
def _precedes(one: u64, other: u64) -> bool:
    """Does a name, ended by zero, come before another? Bytes behind the end do not count."""
    at: u64 = 0
    while True:
        here: u64 = load64_unaligned(one + at)
        there: u64 = load64_unaligned(other + at)
        if here != there:
            return bswap64(here) < bswap64(there)
        if (wrap64(here - ONES) & (here ^ 0xFFFFFFFFFFFFFFFF) & TOPS) != 0:
            return False
        at = at + 8


@fn
def _sort(room: Room) -> u64:
    """Merge the places by name. Returns where they are then."""
    source: u64 = room.places
    target: u64 = room.spare
    names: u64 = room.raw + NAME_AT
    count: u32 = room.count
    width: u32 = 1
    while width < count:
        low: u32 = 0
        while low < count:
            middle: u32 = low + width if low + width < count else count
            high: u32 = middle + width if middle + width < count else count
            left: u32 = low
            right: u32 = middle
            for place in range(low, high):
                taken: u32 = 0
                if left < middle:
                    taken = load32(source + u64(left) * 4)
                if right < high:
                    other: u32 = load32(source + u64(right) * 4)
                    if left == middle or _precedes(names + u64(other), names + u64(taken)):
                        taken = other
                        right = right + 1
                    else:
                        left = left + 1
                else:
                    left = left + 1
                store32(target + u64(place) * 4, taken)
            low = high
        swapped: u64 = source
        source = target
        target = swapped
        width = width * 2
    return source


@fn
def _read(room: Room, fd: u64) -> bool:
    """Read all of a directory, and note where its entries are, but for "." and ".."."""
    if syscall(sys.LSEEK, fd, 0, 0, 0, 0, 0) != 0:
        return False
    size: u64 = 0
    while True:
        if size + 4096 > RAW:
            return False
        got: i64 = syscall(sys.GETDENTS64, fd, room.raw + size, RAW - size, 0, 0, 0)
        if got < 0:
            return False
        if got == 0:
            break
        size = size + u64(got)
    at: u64 = 0
    room.count = 0
    while at < size:
        name: u64 = room.raw + at + NAME_AT
        dots: u32 = 0
        while dots < 3 and load8(name + u64(dots)) == DOT:
            dots = dots + 1
        if dots == 0 or dots == 3 or load8(name + u64(dots)) != 0:
            store32(room.places + u64(room.count) * 4, u32(at))
            room.count = room.count + 1
        at = at + u64(load16_unaligned(room.raw + at + 16))
    return True


@fn
def _put(room: Room, place: u32, number: u64, name: u64, length: u32, kind: u32) -> None:
    """One struct fuse_dirent more."""
    at: u64 = room.packed + u64(room.length)
    whole: u32 = (HEAD + length + 7) & 0xFFFFFFF8
    store64_unaligned(at + u64(whole) - 8, 0)
    store64_unaligned(at, number)
    store64_unaligned(at + 8, u64(place) + 1)
    store64_unaligned(at + 16, u64(kind) << 32 | u64(length))
    copy(at + HEAD, name, u64(length))
    room.length = room.length + whole
    store32(room.ends + u64(place) * 4, room.length)


@fn
def fuse_list(room: Room, fd: u64, stir: u64, inode: u64) -> bool:
    """Pack the directory behind a descriptor, whose own number is `inode`. False when Python must do it."""
    if not _read(room, fd):
        return False
    source: u64 = _sort(room)
    count: u32 = room.count
    room.length = 0
    store8(room.raw + RAW, DOT)
    store8(room.raw + RAW + 1, DOT)
    for dots in range(u32(2)):
        _put(room, dots, inode ^ stir, room.raw + RAW, dots + 1, DT_DIR)
    for place in range(count):
        record: u64 = room.raw + u64(load32(source + u64(place) * 4))
        length: u32 = 0
        while load8(record + NAME_AT + u64(length)) != 0:
            length = length + 1
        kind: u8 = load8(record + KIND_AT)
        if kind != DT_DIR and kind != DT_REG and kind != DT_LNK:
            kind = 0
        _put(room, place + 2, load64_unaligned(record) ^ stir, record + NAME_AT, length, u32(kind))
    room.count = count + 2
    return True
