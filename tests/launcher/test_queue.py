"""What `bulkhead queue` finds wrong with rings and chains, on guest memory that a test writes."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from launcher.inspect.queue import lines
from launcher.keeper.flights import Guest
from launcher.keeper.member import QUEUE_SIZE
from launcher.keeper.poison import Flight
from launcher.keeper.queues import _Queue, walk
from proto.inflight import INFLIGHT_VERSION, region_size
from proto.virtio import Feature, bit

BASE, SIZE = 0x8000_0000, 1 << 16
DESC, AVAIL, USED, TABLE, DATA = BASE, BASE + 0x1000, BASE + 0x2000, BASE + 0x3000, BASE + 0x4000
RING = {"index": 0, "size": 8, "desc": DESC, "avail": AVAIL, "used": USED}
NEXT, WRITE, INDIRECT = 1, 2, 4


class Memory:
    """Guest memory with one queue in it."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("guest")
        os.ftruncate(self.fd, SIZE)
        self.guest = Guest(self.fd, BASE, SIZE)
        self.table = memoryview(bytearray(region_size(1, QUEUE_SIZE)))

    def put(self, gpa: int, data: bytes) -> None:
        os.pwrite(self.fd, data, gpa - BASE)

    def describe(self, index: int, gpa: int, length: int, flags: int = 0, next: int = 0, table: int = DESC) -> None:
        self.put(table + 16 * index, struct.pack("<QIHH", gpa, length, flags, next))

    def rings(self, avail: int, used: int, heads: dict[int, int] | None = None, used_event: int = 0) -> None:
        self.put(AVAIL, struct.pack("<HH", 0, avail))
        for at, head in (heads or {}).items():
            self.put(AVAIL + 4 + 2 * at, struct.pack("<H", head))
        self.put(AVAIL + 4 + 16, struct.pack("<H", used_event))
        self.put(USED, struct.pack("<HH", 0, used))
        struct.pack_into("<QHHHH", self.table, 0, 0, INFLIGHT_VERSION, 8, 0, used)

    def look(self, flights: list[Flight] | None = None, ring: dict[str, int] | None = None) -> dict[str, Any]:
        features = bit(Feature.RING_EVENT_IDX) | bit(Feature.RING_INDIRECT_DESC)
        ring = ring or RING
        seen = {"rings": {0: ring}, "features": features, "device_id": 2, "passive": []}
        return _Queue(0, ring, seen, self.guest, flights or []).look(self.table)

    def walk(self, head: int = 0, *, indirect: bool = True) -> tuple[list[int], str]:
        chain, error = walk(self.guest, RING, head, indirect=indirect)
        return [row["index"] for row in chain], error


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory()
    yield made
    os.close(made.fd)


def test_a_good_chain(memory: Memory) -> None:
    memory.describe(0, DATA, 16, NEXT, 1)
    memory.describe(1, DATA + 16, 512, NEXT | WRITE, 2)
    memory.describe(2, DATA + 528, 1, WRITE)
    assert memory.walk() == ([0, 1, 2], "")


def test_a_good_indirect_chain(memory: Memory) -> None:
    memory.describe(3, TABLE, 32, INDIRECT)
    memory.describe(0, DATA, 16, NEXT, 1, TABLE)
    memory.describe(1, DATA + 16, 1, WRITE, 0, TABLE)
    assert memory.walk(3) == ([3, 0, 1], "")


@pytest.mark.parametrize(
    ("descriptors", "why"),
    [
        ([(0, DATA, 16, NEXT, 1), (1, DATA, 16, NEXT, 2), (2, DATA, 16, NEXT, 1)], "1 → 2 → 1 (LOOP)"),
        ([(0, DATA, 16, NEXT, 9)], "descriptor 9 of 8 (NEXT_RANGE)"),
        ([(0, BASE + SIZE - 8, 16)], "(ADDRESS)"),
        ([(0, 0x1000, 16)], "(ADDRESS)"),
        ([(0, DATA, 0)], "(ZERO_LENGTH)"),
        ([(0, DATA, 16, NEXT | WRITE, 1), (1, DATA, 16)], "(ORDER)"),
        ([(0, TABLE, 40, INDIRECT)], "(INDIRECT_LENGTH)"),
        ([(0, TABLE, 32, INDIRECT | NEXT, 1)], "(INDIRECT_CHAINED)"),
        ([(0, BASE + SIZE - 16, 32, INDIRECT)], "(INDIRECT_ADDRESS)"),
    ],
)
def test_what_is_wrong_with_a_chain(memory: Memory, descriptors: list[tuple[int, ...]], why: str) -> None:
    for descriptor in descriptors:
        memory.describe(*descriptor)
    assert why in memory.walk()[1]


def test_indirect_in_indirect_and_unasked(memory: Memory) -> None:
    memory.describe(0, TABLE, 16, INDIRECT)
    memory.describe(0, TABLE + 64, 16, INDIRECT, 0, TABLE)
    assert "(INDIRECT_NESTED)" in memory.walk()[1]
    assert "(INDIRECT_REFUSED)" in memory.walk(indirect=False)[1]


def test_good_rings(memory: Memory) -> None:
    memory.rings(12, 10, {2: 0, 3: 4})
    found = memory.look([Flight(0, 0, 10)])
    assert (found["wrong"], found["waiting"], found["in_flight"]) == ([], 1, 1)
    assert (found["avail_idx"], found["used_idx"]) == (12, 10)


@pytest.mark.parametrize(
    ("avail", "used", "heads", "flights", "why"),
    [
        (30, 10, {}, [], "avail.idx 30 has jumped: 20 requests are out in a queue of 8"),
        (10, 13, {}, [], "used.idx 13 is ahead of avail.idx 10"),
        (11, 10, {}, [Flight(0, 1, 1), Flight(0, 2, 2)], "2 requests are in flight, and only 1 were offered"),
        (11, 10, {2: 9}, [], "head 9 in the available ring is outside"),
        (12, 10, {2: 3, 3: 3}, [], "head 3 is offered while it is in flight, or twice"),
    ],
)
def test_what_is_wrong_with_indices(
    memory: Memory, avail: int, used: int, heads: dict[int, int], flights: list[Flight], why: str
) -> None:
    memory.rings(avail, used, heads)
    assert any(why in text for text in memory.look(flights)["wrong"])


def test_an_event_that_does_not_come_and_a_used_index_of_somebody_else(memory: Memory) -> None:
    memory.rings(11, 10, {2: 0}, used_event=40)
    assert any("used_event 40" in text for text in memory.look([Flight(0, 0, 1)])["wrong"])
    struct.pack_into("<QHHHH", memory.table, 0, 0, INFLIGHT_VERSION, 8, 0, 600)
    assert any("the device left it at 600" in text for text in memory.look()["wrong"])


def test_rings_outside_of_memory(memory: Memory) -> None:
    found = memory.look(ring={**RING, "used": BASE + SIZE - 4, "avail": AVAIL + 1})
    assert any("used ring" in text and "not (wholly)" in text for text in found["wrong"])
    assert any("avail ring" in text and "aligned" in text for text in found["wrong"])


def test_as_people_read_it() -> None:
    request = {
        "head": 41,
        "counter": 9023,
        "state": "in flight",
        "for": 0.0012,
        "op": "OUT",
        "sector": 8,
        "length": 4096,
    }
    bad = {**request, "wrong": "the chain loops: 41 → 42 → 41 (LOOP)", "descriptors": []}
    counters = {"completed": 7, "errors": 1, "malformed": 1, "more": 0}
    queue: dict[str, Any] = {
        "index": 0,
        "size": 8,
        "event_idx": False,
        "avail_idx": 5,
        "used_idx": 4,
        "in_flight": 1,
        "waiting": 0,
    }
    queue |= {**counters, "requests": [bad], "wrong": ["head 41: the chain loops"]}
    told = lines({"id": "blk0", "pid": None, "epoch": 3, "state": "restarting", "reason": "hung", "queues": [queue]})
    assert told[0] == ("blk0 (no process, epoch 3) restarting: hung", True)
    assert "avail 5 used 4 · 1 in flight" in told[1][0]
    assert "WRITE sector 8 4 KiB  in flight  for 1.2 ms  ← the chain loops" in told[2][0] and told[2][1]
