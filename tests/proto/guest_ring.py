"""Guest RAM with one virtqueue in it, built byte by byte as a driver would, for tests of the device's side.

RAM is two regions that lie next to each other in guest memory (and apart in the host's), and a third behind a hole
that the device may not write. The device's side is `ring`, `chain` and `table`; nothing of it is shared with a live
process.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from native.memory import Area
from proto.inflight import InflightHeader, queue_region_size
from proto.memory import RegionTable
from proto.pages import QueueStatistics
from proto.ring import Chain, Ring

BASE = 0x8000_0000
REGION = 0x10000
HOLE = 0x8002_0000
READ_ONLY = 0x8003_0000
AVAIL, USED, DESC, DATA = 0x1000, 0x2000, 0x4000, 0x8000
NEXT, WRITE, INDIRECT = 1, 2, 4


class GuestRing:
    """A driver and its memory."""

    def __init__(self, num: int = 16, *, event_idx: bool = True, indirect: bool = True) -> None:
        self.num = num
        self.areas = [Area.allocate(REGION), Area.allocate(REGION), Area.allocate(REGION)]
        self.dirty = [Area.allocate(REGION >> 12) for _ in self.areas]
        self.private = Area.allocate(RegionTable.size() + Ring.size() + Chain.size() + QueueStatistics.size() + 64)
        self.inflight = Area.allocate(queue_region_size(num))
        self.table = RegionTable(self.private.address)
        self.ring = Ring(self.private.address + RegionTable.size())
        self.chain = Chain(self.ring.address + Ring.size())
        self.header = InflightHeader(self.inflight.address)
        self.statistics = QueueStatistics(self.chain.address + Chain.size())
        self.event_idx = event_idx
        self.indirect = indirect
        self._fill_table()
        self.start()

    def _fill_table(self) -> None:
        starts = (BASE, BASE + REGION, READ_ONLY)
        for index, (gpa, area, dirty) in enumerate(zip(starts, self.areas, self.dirty, strict=True)):
            region = self.table.regions[index]
            region.gpa, region.length, region.host = gpa, REGION, area.address
            region.dirty, region.number, region.writable = dirty.address, 10 + index, int(gpa != READ_ONLY)
        self.table.count = 3

    def start(self) -> None:
        """A new device process: its private memory is empty, the shared memory is as it was left."""
        self.private.view()[RegionTable.size() : RegionTable.size() + Ring.size()] = bytes(Ring.size())
        ring = self.ring
        host = self.areas[0].address
        ring.num = self.num
        ring.desc, ring.avail, ring.used = host + DESC, host + AVAIL, host + USED
        ring.table, ring.inflight = self.table.address, self.inflight.address
        ring.statistics = self.statistics.address
        ring.generation = self.statistics.address + QueueStatistics.size()
        ring.event_idx, ring.indirect = int(self.event_idx), int(self.indirect)

    # -- the driver ------------------------------------------------------------------------------------------------

    def put(self, gpa: int, data: bytes) -> None:
        """Write guest memory, across regions if need be."""
        for offset, byte in enumerate(data):
            area, at = self._place(gpa + offset)
            area.view()[at] = byte

    def get(self, gpa: int, size: int) -> bytes:
        """Read guest memory."""
        return bytes(self._place(gpa + offset)[0].view()[self._place(gpa + offset)[1]] for offset in range(size))

    def _place(self, gpa: int) -> tuple[Area, int]:
        for start, area in zip((BASE, BASE + REGION, READ_ONLY), self.areas, strict=True):
            if start <= gpa < start + REGION:
                return area, gpa - start
        raise AssertionError(f"{gpa:#x} is not memory")

    def describe(
        self, index: int, address: int, length: int, flags: int = 0, next: int = 0, at: int = BASE + DESC
    ) -> None:
        """One descriptor of the table at guest address `at`."""
        self.put(at + 16 * index, struct.pack("<QIHH", address & 2**64 - 1, length, flags, next))

    def chain_of(self, *buffers: tuple[int, int, int], first: int = 0) -> int:
        """A chain of `(address, length, flags)` in consecutive descriptors; returns its head."""
        for number, (address, length, flags) in enumerate(buffers):
            last = number == len(buffers) - 1
            self.describe(first + number, address, length, flags | (0 if last else NEXT), first + number + 1)
        return first

    def offer(self, *heads: int) -> None:
        """Make heads available."""
        view = self.areas[0].view()
        (idx,) = struct.unpack_from("<H", view, AVAIL + 2)
        for head in heads:
            struct.pack_into("<H", view, AVAIL + 4 + 2 * (idx % self.num), head)
            idx = idx + 1 & 0xFFFF
        struct.pack_into("<H", view, AVAIL + 2, idx)

    def set_avail_idx(self, idx: int) -> None:
        struct.pack_into("<H", self.areas[0].view(), AVAIL + 2, idx & 0xFFFF)

    def set_used_event(self, idx: int) -> None:
        struct.pack_into("<H", self.areas[0].view(), AVAIL + 4 + 2 * self.num, idx & 0xFFFF)

    @property
    def used_idx(self) -> int:
        return struct.unpack_from("<H", self.areas[0].view(), USED + 2)[0]

    @property
    def avail_event(self) -> int:
        return struct.unpack_from("<H", self.areas[0].view(), USED + 4 + 8 * self.num)[0]

    def used(self, since: int = 0) -> Sequence[tuple[int, int]]:
        """The used elements from index `since` on, as (head, length)."""
        view = self.areas[0].view()
        count = self.used_idx - since & 0xFFFF
        return [struct.unpack_from("<II", view, USED + 4 + 8 * ((since + n) % self.num)) for n in range(count)]

    # -- the chain that was popped -----------------------------------------------------------------------------------

    def segments(self) -> list[tuple[int, int, int]]:
        """(region number, offset, length) of the popped chain, readable ones first."""
        total = self.chain.readable + self.chain.writable
        found = [self.chain.segments[index] for index in range(total)]
        return [(segment.region, segment.start, segment.length) for segment in found]

    def in_flight(self) -> list[int]:
        """The heads marked in the in-flight table."""
        return [head for head in range(self.num) if self.header.desc[head].inflight]

    def close(self) -> None:
        for area in (*self.areas, *self.dirty, self.private, self.inflight):
            area.close()
