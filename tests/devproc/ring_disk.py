"""A front end with a block device, as a driver uses it: whole requests, put together by hand."""

from __future__ import annotations

import itertools
import struct

from launcher.replay.frontend import GPA, FrontEnd, QueueLayout

NEXT, WRITE = 1, 2
BUFFERS = 0x100000


class Disk:
    """A front end with a block device, as a driver uses it: whole requests."""

    def __init__(self, front: FrontEnd, layout: QueueLayout) -> None:
        self.front = front
        self.layout = layout

    def submit(self, slot: int, kind: int, sector: int, data: bytes = b"", room: int = 0, pieces: int = 1) -> int:
        """Put request `slot` into the ring, its data in `pieces` buffers. Returns its head."""
        ram, at = self.front.ram.view, BUFFERS + slot * 0x40000
        struct.pack_into("<IIQ", ram, at, kind, 0, sector)
        ram[at + 64 : at + 64 + len(data)] = data
        ram[at + 32] = 0xEE
        buffers = [(at, 16, 0)]
        buffers += [(at + 64 + start, size, 0) for start, size in split(len(data), pieces)]
        buffers += [(at + 64 + start, size, WRITE) for start, size in split(room, pieces)]
        buffers.append((at + 32, 1, WRITE))
        head = slot * 16
        for number, (offset, size, flags) in enumerate(buffers):
            last = number == len(buffers) - 1
            entry = (GPA + offset, size, flags | (0 if last else NEXT), 0 if last else head + number + 1)
            struct.pack_into("<QIHH", ram, self.layout.desc + 16 * (head + number), *entry)
        self.front.native.publish(self.layout.driver, head)
        return head

    def finish(self) -> tuple[int, int]:
        """Notify, and wait for one request. Returns (head, length)."""
        self.front.notify(self.layout)
        return self.front.wait_used(self.layout)

    def result(self, slot: int, room: int = 0) -> tuple[int, bytes]:
        """Status byte and data of a finished request."""
        at = BUFFERS + slot * 0x40000
        return self.front.ram.view[at + 32], bytes(self.front.ram.view[at + 64 : at + 64 + room])

    def request(
        self, kind: int, sector: int = 0, data: bytes = b"", room: int = 0, pieces: int = 1
    ) -> tuple[int, bytes]:
        """One whole request: (status, what was read)."""
        self.submit(0, kind, sector, data, room, pieces)
        self.finish()
        return self.result(0, room)


def split(size: int, pieces: int) -> list[tuple[int, int]]:
    """`size` bytes in so many pieces, as (start, size)."""
    bounds = [size * number // pieces for number in range(pieces + 1)]
    return [(low, high - low) for low, high in itertools.pairwise(bounds) if high > low]
