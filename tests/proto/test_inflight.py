"""Nothing is lost and nothing is given back twice, wherever a device process is killed.

The real functions of `proto.ring` run as Python, and a kill is an exception at the n-th store to memory. What a killed
process leaves is what it stored before; its private memory is gone; the next process recovers.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter

import pytest
from guest_ring import BASE, DATA, GuestRing

from native import memory
from proto.inflight import InflightEntry, InflightHeader, queue_region_size, region_size
from proto.ring import Pop, RingError, ring_flush, ring_pop, ring_put, ring_recover


class Killed(BaseException):
    """kill -9."""


class Executioner:
    """Counts stores, and kills at the one that was chosen."""

    def __init__(self, monkeypatch) -> None:
        self.left: int | None = None
        self.stores = 0
        store = memory.store

        def counted(address, kind, value, **options):
            self.stores += 1
            if self.left is not None:
                if self.left == 0:
                    self.left = None
                    raise Killed
                self.left -= 1
            store(address, kind, value, **options)

        monkeypatch.setattr(memory, "store", counted)


class Driver:
    """Offers tokens and notices what is wrong with what comes back."""

    def __init__(self, guest: GuestRing, rng: random.Random) -> None:
        self.guest = guest
        self.rng = rng
        self.free = list(range(guest.num))
        self.waiting: dict[int, int] = {}  # head: token
        self.executed: Counter[int] = Counter()
        self.offered = 0
        self.seen = 0
        self.finished = 0

    def offer(self, most: int, least: int = 0) -> None:
        for _ in range(self.rng.randint(least, most)):
            if not self.free:
                return
            head = self.free.pop(self.rng.randrange(len(self.free)))
            self.offered += 1
            self.waiting[head] = self.offered
            self.guest.offer(self.guest.chain_of((BASE + DATA + 16 * head, 16, 0), first=head))

    def reap(self) -> None:
        for head, _ in self.guest.used(self.seen & 0xFFFF):
            self.seen += 1
            assert head in self.waiting, f"head {head} came back twice, or was never offered"
            token = self.waiting.pop(head)
            assert self.executed[token] >= 1, f"request {token} came back without having been carried out"
            self.free.append(head)
            self.finished += 1


def device(guest: GuestRing, driver: Driver, rng: random.Random, turns: int) -> None:
    """One process: recovers, then pops, executes and gives back in random order and random batches."""
    guest.start()
    ring_recover(guest.ring)
    assert guest.ring.error == RingError.NONE
    popped: list[bytes] = []
    newest = 0
    view = guest.private.view()
    start = guest.chain.address - guest.private.address
    for _ in range(turns):
        for _ in range(rng.randrange(4)):
            if ring_pop(guest.ring, guest.chain) == Pop.CHAIN:
                token = driver.waiting[guest.chain.head]
                assert token > newest, "requests come, and come again, in the order in which they were offered"
                newest = token
                popped.append(bytes(view[start : start + 64]))
        batch = [popped.pop(rng.randrange(len(popped))) for _ in range(rng.randrange(len(popped) + 1))]
        for kept in batch:
            view[start : start + 64] = kept
            driver.executed[driver.waiting[guest.chain.head]] += 1
            ring_put(guest.ring, guest.chain, 0)
        ring_flush(guest.ring)


def finish(guest: GuestRing, driver: Driver) -> None:
    """A last process, not killed, finishes everything."""
    guest.start()
    ring_recover(guest.ring)
    while ring_pop(guest.ring, guest.chain) == Pop.CHAIN:
        driver.executed[driver.waiting[guest.chain.head]] += 1
        ring_put(guest.ring, guest.chain, 0)
        ring_flush(guest.ring)
    driver.reap()


def scenario(seed: int, executioner: Executioner, kill_at: int | None) -> int:
    """One life: a driver, a process killed at store `kill_at`, a successor. Returns how many stores the first one
    made."""
    rng = random.Random(seed)
    guest = GuestRing(num=8)
    driver = Driver(guest, rng)
    ring_recover(guest.ring)
    driver.offer(8, least=6)
    executioner.stores = 0
    executioner.left = kill_at
    with contextlib.suppress(Killed):
        device(guest, driver, random.Random(seed + 1), 10)
    stores, executioner.left = executioner.stores, None
    driver.reap()
    driver.offer(4)
    finish(guest, driver)
    assert not driver.waiting, f"lost: {driver.waiting}"
    assert driver.finished == driver.offered
    assert guest.in_flight() == []
    guest.close()
    return stores


@pytest.mark.parametrize("seed", range(3))
def test_a_kill_at_any_single_store_loses_and_doubles_nothing(monkeypatch, seed):
    executioner = Executioner(monkeypatch)
    stores = scenario(seed, executioner, None)
    assert stores > 100
    for kill_at in range(stores):
        scenario(seed, executioner, kill_at)


def test_many_kills_in_one_life_lose_and_double_nothing(monkeypatch):
    executioner = Executioner(monkeypatch)
    rng = random.Random(7)
    for seed in range(30):
        guest = GuestRing(num=8)
        driver = Driver(guest, rng)
        ring_recover(guest.ring)
        for _ in range(60):
            driver.offer(5)
            executioner.left = rng.randrange(300)
            with contextlib.suppress(Killed):
                device(guest, driver, random.Random(rng.random()), 5)
            executioner.left = None
            driver.reap()
        finish(guest, driver)
        assert not driver.waiting and driver.finished == driver.offered, f"seed {seed}"
        guest.close()


def test_requests_come_again_in_the_order_in_which_they_were_popped():
    guest = GuestRing(num=8)
    ring_recover(guest.ring)
    order = [5, 2, 7, 0]
    for head in order:
        guest.offer(guest.chain_of((BASE + DATA, 16, 0), first=head))
    for _ in order:
        ring_pop(guest.ring, guest.chain)
    guest.start()
    assert ring_recover(guest.ring) == 4
    guest.offer(guest.chain_of((BASE + DATA, 16, 0), first=1))
    seen = []
    while ring_pop(guest.ring, guest.chain) == Pop.CHAIN:
        seen.append((guest.chain.head, guest.chain.again))
    assert seen == [(5, 1), (2, 1), (7, 1), (0, 1), (1, 0)]
    guest.close()


def test_a_request_that_comes_again_is_in_flight_once():
    guest = GuestRing(num=8)
    ring_recover(guest.ring)
    guest.offer(guest.chain_of((BASE + DATA, 16, 0), first=3))
    for _ in range(3):
        assert ring_pop(guest.ring, guest.chain) == Pop.CHAIN
        assert guest.statistics.popped - guest.statistics.requests == 1
        guest.start()
        ring_recover(guest.ring)
    ring_pop(guest.ring, guest.chain)
    ring_put(guest.ring, guest.chain, 0)
    ring_flush(guest.ring)
    assert guest.statistics.popped == guest.statistics.requests == 1
    guest.close()


def test_a_used_index_that_the_driver_moved_stops_the_queue():
    guest = GuestRing(num=8)
    ring_recover(guest.ring)
    guest.areas[0].view()[0x2002:0x2004] = (100).to_bytes(2, "little")
    guest.start()
    ring_recover(guest.ring)
    assert guest.ring.error == RingError.USED_JUMP
    guest.close()


def test_the_layout_is_vhost_users():
    offsets = {name: InflightHeader.offset(name) for name in InflightHeader.fields}
    assert offsets == {"features": 0, "version": 8, "desc_num": 10, "last_batch_head": 12, "used_idx": 14, "desc": 16}
    offsets = {name: InflightEntry.offset(name) for name in InflightEntry.fields}
    assert offsets == {"inflight": 0, "padding": 1, "next": 6, "counter": 8}
    assert queue_region_size(128) == 2112  # 16 + 128 * 16, padded to 64
    assert region_size(4, 256) == 4 * 4160
