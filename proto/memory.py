"""Guest memory as a device process sees it: numbered regions, where they are mapped, and how an address is found.

A region is a shared segment of which the process got a descriptor; MEM_TABLE says at which guest physical address each
lies. `RegionTable` is the native form, read by `proto.ring`; `GuestMemory` owns the mappings and checks what the core
says. Host addresses never leave the process: buffers are named by region and offset.

Each region may have a *dirty map*, one byte a page, one bit a consumer (instruction caches, the framebuffer,
snapshots). Whoever writes a page from outside the CPU stores 0xff; a consumer clears its own bit, atomically, before
it looks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from native import Array, Record, fn, plain, store8, u32, u64
from native.memory import Area
from proto.errors import ConfigError, ProtocolError
from proto.messages import MAX_REGIONS

__all__ = ["DIRTY_ALL", "GuestMemory", "Region", "RegionTable", "find_region", "mark_dirty", "translate"]

PAGE_SHIFT = 12
DIRTY_ALL = 0xFF


class Region(Record):
    """One region of the table in force."""

    gpa: u64
    length: u64
    host: u64  # address of its first byte in this process
    dirty: u64  # address of its dirty map, or 0
    number: u32
    writable: u32


class RegionTable(Record):
    """The regions in force; private to the process."""

    count: u32
    regions: Array[Region] = plain(count=MAX_REGIONS, offset=8)


@fn
def find_region(table: RegionTable, gpa: u64) -> u32:
    """The index of the region that holds the byte at `gpa`; `table.count` when none does."""
    count: u32 = table.count
    index: u32 = 0
    while index < count:
        region = table.regions[index]
        base: u64 = region.gpa
        if gpa >= base and gpa - base < region.length:
            return index
        index = index + 1
    return count


@fn
def translate(table: RegionTable, gpa: u64, size: u64) -> u64:
    """The host address of `size` bytes at `gpa`, all in one region; 0 when they are not."""
    index: u32 = find_region(table, gpa)
    if index == table.count:
        return 0
    region = table.regions[index]
    offset: u64 = gpa - region.gpa
    if size > region.length - offset:
        return 0
    return region.host + offset


@fn
def mark_dirty(region: Region, offset: u64, length: u64) -> None:
    """Mark the pages of `length` > 0 bytes at `offset` of a region that has a dirty map."""
    page: u64 = offset >> PAGE_SHIFT
    last: u64 = (offset + length - 1) >> PAGE_SHIFT
    while page <= last:
        store8(region.dirty + page, DIRTY_ALL)
        page = page + 1


class GuestMemory:
    """The mapped regions of one machine and the table in force. Owns the mappings."""

    def __init__(self, *, live_peer: bool = True) -> None:
        self._live_peer = live_peer
        self._areas: dict[int, Area] = {}
        self._dirty: dict[int, Area] = {}
        self._views: dict[int, memoryview] = {}
        self._table_area = Area.allocate(RegionTable.size())
        self.table = RegionTable(self._table_area.address)
        self.regions: list[Mapping[str, Any]] = []

    def map(self, number: int, fd: int, size: int, dirty_fd: int | None = None) -> None:
        """Map a segment of `size` bytes (and its dirty map) and close its descriptors, so that nobody can resize it
        through us.

        Raises ConfigError when the segment is smaller than it should be.
        """
        try:
            self._areas[number] = self._map(fd, size)
            if dirty_fd is not None:
                self._dirty[number] = self._map(dirty_fd, -(-size >> PAGE_SHIFT))
        finally:
            os.close(fd)
            if dirty_fd is not None:
                os.close(dirty_fd)
        self._views[number] = self._areas[number].view()

    def set_table(self, regions: Iterable[Mapping[str, Any]]) -> None:
        """Put a new table in force: the regions of a MEM_TABLE message. Raises ProtocolError, leaving the old one."""
        rows = sorted(regions, key=lambda row: row["gpa"])
        end = 0
        for row in rows:
            area = self._areas.get(row["region"])
            if area is None:
                raise ProtocolError(f"region {row['region']} was never given", field="regions", value=row["region"])
            if not 0 < row["size"] <= area.size or (row["gpa"] | row["size"]) & 0xFFF:
                raise ProtocolError(
                    f"region {row['region']}: {row['size']:#x} bytes at {row['gpa']:#x}", field="regions"
                )
            if row["gpa"] < end or row["gpa"] + row["size"] > 1 << 64:
                raise ProtocolError(f"region {row['region']} overlaps another, or the end", field="regions")
            end = row["gpa"] + row["size"]
        if len(rows) > MAX_REGIONS:
            raise ProtocolError(f"{len(rows)} regions, at most {MAX_REGIONS}", field="regions")
        self.table.count = 0
        for index, row in enumerate(rows):
            self._fill(self.table.regions[index], row)
        self.table.count = len(rows)
        self.regions = rows

    def host_address(self, region: int, offset: int, size: int, alignment: int = 1) -> int:
        """The address in this process of `size` bytes of a region in force. Raises ProtocolError."""
        for row in self.regions:
            if row["region"] == region:
                if offset % alignment or offset + size > row["size"]:
                    raise ProtocolError(
                        f"{size} bytes at offset {offset:#x} of region {region}: outside, or not aligned",
                        field="offset",
                        value=offset,
                    )
                return self._areas[region].address + offset
        raise ProtocolError(f"region {region} is not in the memory table", field="region", value=region)

    def slice(self, region: int, offset: int, length: int) -> memoryview:
        """The bytes themselves, writable, without a copy. The range has been checked by whoever made it."""
        return self._views[region][offset : offset + length]

    def close(self) -> None:
        """Unmap everything. No view may be in use any more."""
        self.table.count = 0
        self.regions = []
        for view in self._views.values():
            view.release()
        self._views.clear()
        for area in (*self._areas.values(), *self._dirty.values()):
            area.close()
        self._areas.clear()
        self._dirty.clear()

    def _map(self, fd: int, size: int) -> Area:
        actual = os.fstat(fd).st_size
        if actual < size:
            raise ConfigError(f"a shared segment has {actual} bytes instead of {size}")
        return Area.map_fd(fd, size, writable=True, shared=True, live_peer=self._live_peer)

    def _fill(self, region: Region, row: Mapping[str, Any]) -> None:
        number = row["region"]
        region.gpa = row["gpa"]
        region.length = row["size"]
        region.host = self._areas[number].address
        region.dirty = self._dirty[number].address if number in self._dirty else 0
        region.number = number
        region.writable = int(row["writable"])
