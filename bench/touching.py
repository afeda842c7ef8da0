"""A disk that keeps nothing and maps in all of guest RAM: what takes longest to tear down when it is killed."""

from __future__ import annotations

import ctypes

from devproc.blk.device import BlkConfig
from devproc.device import Queue, VirtioDevice
from devproc.request import Request
from proto.virtio import DeviceId

MADV_POPULATE_WRITE = 23
AFTER = 50  # requests: a successor's first one does not wait for this
SMALL = 64 << 20  # bytes; guest RAM is larger, and nothing else is
SECTORS = 131072


class Touching(VirtioDevice):
    """A disk of zeros."""

    device_id = DeviceId.BLOCK
    Config = BlkConfig
    queues = (Queue("requests", size=64),)
    waits = True  # populating 4 GiB takes a while
    served = 0

    def start(self) -> None:
        self.config.capacity = SECTORS
        self.config.seg_max = 1

    def handle(self, request: Request) -> None:
        self.served += 1
        if self.served == AFTER:
            touch_guest_memory()
        request.write(bytes(request.writable))  # of a read its data, and the status: OK


def touch_guest_memory() -> None:
    """Enter every page of guest RAM into this process's page tables."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/maps") as maps:
        for line in maps:
            begin, end = (int(word, 16) for word in line.split()[0].split("-"))
            if "/dev/shm/" in line and end - begin > SMALL:
                libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), MADV_POPULATE_WRITE)
