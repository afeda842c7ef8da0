"""Reads of what the host has not in its page cache: put aside while others are served, answered all the same."""

from __future__ import annotations

import os
import random
import struct

from launcher.replay.frontend import GPA
from proto.pages import queue_statistics
from proto.virtio import BlkStatus, BlkType

NEXT, WRITE = 1, 2
BLOCK, BLOCKS = 4096, 1024
SLOTS = 80  # more than are put aside at once
BUFFERS = 0x100000


def submit(served, slot, kind, sector):
    """A request of one block, in slot's three descriptors."""
    ram, at = served.front.ram.view, BUFFERS + slot * 0x2000
    struct.pack_into("<IIQ", ram, at, kind, 0, sector)
    ram[at + 32] = 0xEE
    ram[at + 0x1000 : at + 0x2000] = bytes([slot]) * BLOCK
    parts = ((at, 16, 0), (at + 0x1000, BLOCK, WRITE if kind == BlkType.IN else 0), (at + 32, 1, WRITE))
    for number, (offset, size, flags) in enumerate(parts):
        entry = (GPA + offset, size, flags | (NEXT if number < 2 else 0), slot * 3 + number + 1 if number < 2 else 0)
        struct.pack_into("<QIHH", ram, served.layout.desc + 16 * (slot * 3 + number), *entry)
    served.front.native.publish(served.layout.driver, slot * 3)


def result(served, slot):
    at = BUFFERS + slot * 0x2000
    return served.front.ram.view[at + 32], bytes(served.front.ram.view[at + 0x1000 : at + 0x2000])


def forget(path):
    """The host's page cache has nothing of the file."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_many_cold_reads_at_once_are_all_answered_with_their_own_data(disk, tmp_path):
    random_ = random.Random(5)
    content = random_.randbytes(BLOCKS * BLOCK)
    served = disk(content)
    for turn in range(4):
        forget(tmp_path / "disk.img")
        places = random_.sample(range(BLOCKS), SLOTS)
        kinds = [BlkType.OUT if slot % 10 == 9 else BlkType.IN for slot in range(SLOTS)]
        outside = random_.randrange(SLOTS)
        for slot, (place, kind) in enumerate(zip(places, kinds, strict=True)):
            submit(served, slot, kind, (BLOCKS if slot == outside else place) * BLOCK // 512)
        heads = {served.finish()[0] for _ in range(SLOTS)}
        assert heads == {slot * 3 for slot in range(SLOTS)}, turn
        for slot, (place, kind) in enumerate(zip(places, kinds, strict=True)):
            status, data = result(served, slot)
            assert status == (BlkStatus.IOERR if slot == outside else BlkStatus.OK), (turn, slot)
            if slot == outside:
                continue
            if kind == BlkType.IN:
                assert data == content[place * BLOCK : (place + 1) * BLOCK], (turn, slot)
            else:
                content = content[: place * BLOCK] + data + content[(place + 1) * BLOCK :]
    counters = queue_statistics(served.front.device_page.view, 0)
    assert (counters.requests, counters.errors, counters.in_flight) == (4 * SLOTS, 4, 0)
    assert (tmp_path / "disk.img").read_bytes() == content
