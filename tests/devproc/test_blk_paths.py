"""The readable path and the machine code answer every request alike: same status, same data, same image afterwards."""

from __future__ import annotations

import random
import struct

import pytest
from ring_disk import BUFFERS, Disk

from proto.pages import queue_statistics
from proto.virtio import BlkType

SLOW = '''
from devproc.blk.device import BlockDevice

class SlowDisk(BlockDevice):
    """A disk served by the readable path alone."""

    def native_loop(self, engine, queues):
        return None
'''
SIZE = 1 << 20
KINDS = [BlkType.IN, BlkType.OUT, BlkType.FLUSH, BlkType.GET_ID, BlkType.DISCARD, BlkType.WRITE_ZEROES, 77]


@pytest.fixture
def pair(start, tmp_path):
    """Two disks on equal images: one in machine code, one readable."""
    (tmp_path / "slow.py").write_text(SLOW)
    disks = []
    for device in ("blk", f"{tmp_path}/slow.py:SlowDisk"):
        path = tmp_path / f"disk{len(disks)}.img"
        path.write_bytes(random.Random(3).randbytes(SIZE))
        front = start(device, {"serial": "same"}, backend=f"file:{path}")
        front.negotiate()
        layout = front.add_queue(0, 256)
        front.driver_ok()
        disks.append(Disk(front, layout))
    return disks


def some_request(rng: random.Random) -> dict:
    """A request that may be right or wrong in many ways."""
    kind = rng.choice(KINDS)
    sector = rng.choice([0, 1, rng.randrange(SIZE // 512), SIZE // 512 - 1, SIZE // 512, 2**63])
    data, room = b"", 0
    if kind == BlkType.OUT:
        data = rng.randbytes(rng.choice([0, 512, 4096, 5000, 65536]))
    elif kind in (BlkType.DISCARD, BlkType.WRITE_ZEROES):
        ranges = [
            struct.pack("<QII", rng.randrange(2100), rng.choice([0, 1, 8, 70000]), rng.choice([0, 0, 1, 2]))
            for _ in range(rng.randrange(4))
        ]
        data = b"".join(ranges) + rng.choice([b"", b"", b"x"])
    else:
        room = rng.choice([0, 7, 20, 512, 4096, 65536])
    return {"kind": kind, "sector": sector, "data": data, "room": room, "pieces": rng.choice([1, 2, 5])}


def test_both_paths_answer_alike(pair, tmp_path):
    rng = random.Random(11)
    for number in range(300):
        request = some_request(rng)
        results = [disk.request(**request) for disk in pair]
        assert results[0] == results[1], (number, request)
    counters = [queue_statistics(disk.front.device_page.view, 0) for disk in pair]
    for name in ("requests", "bytes_read", "bytes_written", "errors"):
        assert getattr(counters[0], name) == getattr(counters[1], name), name
    images = [(tmp_path / f"disk{index}.img").read_bytes() for index in range(2)]
    assert images[0] == images[1]


def test_both_paths_answer_damaged_chains_alike(pair):
    rng = random.Random(12)
    for number in range(200):
        damage = [(rng.randrange(0, 6), rng.choice([0, 8, 12, 14]), rng.choice([0, 1, 2, 5, 0x1234])) for _ in range(2)]
        request = some_request(rng)
        answers = []
        for disk in pair:
            ram, layout = disk.front.ram.view, disk.layout
            ram[BUFFERS : BUFFERS + 0x40000] = bytes(0x40000)
            disk.submit(0, **request)
            for descriptor, field, value in damage:
                struct.pack_into("<H", ram, layout.desc + 16 * descriptor + field, value)
            disk.front.notify(layout)
            used = disk.front.wait_used(layout)
            low = bytes(ram[:0x8000])  # damaged descriptors may make the device write over the descriptors themselves
            answers.append((used, bytes(ram[BUFFERS : BUFFERS + 0x40000]), low))
        assert answers[0] == answers[1], (number, request, damage)
        for disk in pair:
            disk.front.ram.view[:0x8000] = bytes(0x8000)
