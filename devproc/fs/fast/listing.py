"""A directory read and sorted by name in machine code, and packed as a protocol has it.

It is read whole, from its beginning; what was read is kept until all of it was given. "." and ".." come first, and
stand for the directory itself. An entry's offset is its place.
"""

from __future__ import annotations

from collections.abc import Callable

from native import (
    Record,
    bswap64,
    fn,
    i64,
    load8,
    load16_unaligned,
    load32,
    load64_unaligned,
    store8,
    store32,
    sys,
    syscall,
    u8,
    u32,
    u64,
    wrap64,
)
from native.memory import Area

__all__ = ["DT_DIR", "DT_LNK", "DT_REG", "Room", "RoomMemory", "lister", "part_begin", "part_end"]

DT_DIR, DT_REG, DT_LNK = 4, 8, 10  # other kinds may be others to the guest
RAW = 1 << 20  # bytes of a directory that machine code takes; a longer one is Python's
SLACK = 16  # behind them: names are compared by eight bytes
PLACES = RAW // 24 + 2
NAME_AT, KIND_AT = 19, 18  # places in struct linux_dirent64
ONES, TOPS = 0x0101010101010101, 0x8080808080808080
DOT = 46


class Room(Record):
    """Where machine code works; private to the process."""

    raw: u64  # addresses: of what getdents64 gives,
    places: u64  # of the places of the records in that,
    spare: u64  # of room to sort those in,
    packed: u64  # of the records as the protocol has them,
    ends: u64  # and of where each ends
    count: u32
    length: u32  # of the records, in bytes


class RoomMemory:
    """The memory of a `Room`, most of which is there only once it is needed."""

    def __init__(self) -> None:
        sizes = (Room.size(), RAW + SLACK, 4 * PLACES, 4 * PLACES, RAW + 16 * PLACES, 4 * PLACES)
        at = [sum(size + 7 & ~7 for size in sizes[:place]) for place in range(len(sizes) + 1)]
        self._area = Area.allocate(at[-1])
        self._view = self._area.view()
        self.packed = self._view[at[4] : at[5]]
        self.ends = self._view[at[5] : at[5] + 4 * PLACES].cast("I")
        self.room = room = Room(self._area.address, self._area)
        room.raw, room.places, room.spare, room.packed, room.ends = (self._area.address + place for place in at[1:6])

    def close(self) -> None:
        for view in (self.ends, self.packed, self._view):
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


Put = Callable[[Room, int, int, int, int, int], int]


def lister(put: Put) -> Callable[[Room, int, int, int], bool]:
    """The function that packs the directory behind a descriptor, whose own number is `inode`, by `put`: an @fn that
    writes one record. It says False when Python must do it."""

    @fn
    def pack(room: Room, fd: u64, stir: u64, inode: u64) -> bool:
        if not _read(room, fd):
            return False
        source: u64 = _sort(room)
        count: u32 = room.count
        room.length = 0
        store8(room.raw + RAW, DOT)
        store8(room.raw + RAW + 1, DOT)
        for dots in range(u32(2)):
            room.length = put(room, dots, inode ^ stir, room.raw + RAW, dots + 1, DT_DIR)
            store32(room.ends + u64(dots) * 4, room.length)
        for place in range(count):
            record: u64 = room.raw + u64(load32(source + u64(place) * 4))
            length: u32 = 0
            while load8(record + NAME_AT + u64(length)) != 0:
                length = length + 1
            kind: u8 = load8(record + KIND_AT)
            if kind != DT_DIR and kind != DT_REG and kind != DT_LNK:
                kind = 0
            number: u64 = load64_unaligned(record) ^ stir
            room.length = put(room, place + 2, number, record + NAME_AT, length, u32(kind))
            store32(room.ends + u64(place + 2) * 4, room.length)
        room.count = count + 2
        return True

    return pack


@fn
def part_begin(room: Room, offset: u64) -> u32:
    """Where among the records the `offset`th begins; where they end when there is none."""
    if offset == 0:
        return 0
    return room.length if offset >= u64(room.count) else load32(room.ends + (offset - 1) * 4)


@fn
def part_end(room: Room, offset: u64, size: u64) -> u32:
    """Where those end that fit whole into so many bytes, from the `offset`th on."""
    begin: u32 = part_begin(room, offset)
    end: u32 = begin
    at: u64 = offset
    while at < u64(room.count) and u64(load32(room.ends + at * 4) - begin) <= size:
        end = load32(room.ends + at * 4)
        at = at + 1
    return end
