"""A poisonous request is found among its neighbours, and they are never failed: many seeds, on rings in memory."""

from __future__ import annotations

import random

import pytest
from guest_ring import BASE, DATA, WRITE, GuestRing

from launcher.keeper.poison import KILLED_ALONE, POISONOUS, Suspects, in_flight
from proto.ring import ChainError, Pop, ring_flush, ring_has_work, ring_pop, ring_put, ring_recover, ring_rewind

NUM = 16
OK, FAILED = 1, 2


class Death(Exception):
    """The device's process has died."""


class Device:
    """One device on one queue, through all its lives; what `devproc.queues` does, in any order that asynchronous work
    may take. `poison` are the heads that kill it."""

    def __init__(self, seed: int, poison: set[int], *, in_order: bool = False, kills: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.guest = GuestRing(NUM)
        self.poison, self.in_order, self.kills = poison, in_order, kills
        self.suspects = Suspects()
        self.answers: dict[int, list[int]] = {}
        self.deaths = 0

    def live(self) -> None:
        """One life: to its death (Death), or until nothing is left to do."""
        guest, ring = self.guest, self.guest.ring
        guest.statistics.marked = 0
        guest.start()
        again = ring_recover(ring)
        if self.suspects.careful:
            condemned = [flight.counter for flight in self.suspects.condemned]
            for number, counter in enumerate(condemned):
                ring.condemn[number] = counter
            ring.condemned, ring.guarded = len(condemned), 1
            ring.careful = ring.again_to if again else 0
        if self.in_order:
            ring_rewind(ring)
        taken: list[tuple[int, bytes]] = []
        while ring_has_work(ring) or taken or ring.batch:
            self.maybe_killed()
            step = self.random.choice(("take", "take", "answer", "flush"))
            if step == "take" and ring_pop(ring, guest.chain) == Pop.CHAIN:
                taken.append((guest.chain.counter, self.save()))
            elif step == "answer" and taken:
                self.answer(taken.pop(0 if self.in_order else self.random.randrange(len(taken)))[1])
            elif step == "flush":
                ring_flush(ring)

    def save(self) -> bytes:
        return bytes(self.guest.private.view()[self.chain_at() : self.chain_at() + 200])

    def chain_at(self) -> int:
        return int(self.guest.chain.address - self.guest.private.address)

    def answer(self, chain: bytes) -> None:
        """Carry a request out. A poisonous one kills."""
        guest = self.guest
        guest.private.view()[self.chain_at() : self.chain_at() + len(chain)] = chain
        head, error = int(guest.chain.head), int(guest.chain.error)
        if error == ChainError.NONE and head in self.poison:
            raise Death(1)
        ring_put(guest.ring, guest.chain, FAILED if error else OK)

    def maybe_killed(self) -> None:
        if self.random.random() < self.kills:
            raise Death(0)

    def run(self) -> None:
        """All lives, the keeper between them."""
        while True:
            try:
                self.live()
                break
            except Death as death:
                self.deaths += 1
                assert self.deaths < 500
                self.died(crash=bool(death.args[0]))
        for head, written in self.guest.used():
            self.answers.setdefault(head, []).append(written)

    def died(self, *, crash: bool) -> None:
        marked = self.guest.statistics.marked
        flights = in_flight(self.guest.inflight.view(), 1, NUM)
        self.suspects.died(flights, {0: marked - 1} if marked else {}, crash=crash)


def offer(device: Device, heads: list[int]) -> None:
    ring_recover(device.guest.ring)
    for head in heads:
        device.guest.chain_of((BASE + DATA + 256 * head, 256, WRITE), first=head)
        device.guest.offer(head)


@pytest.mark.parametrize("in_order", [False, True])
def test_healthy_requests_beside_poisonous_ones_are_never_failed(in_order: bool) -> None:
    for seed in range(150):
        choice = random.Random(seed)
        heads = choice.sample(range(NUM), choice.randint(1, NUM))
        poison = set(choice.sample(heads, min(len(heads), choice.choice((0, 1, 1, 2, 3)))))
        device = Device(seed, poison, in_order=in_order, kills=choice.choice((0.0, 0.0, 0.02)))
        offer(device, heads)
        device.run()
        expected = {head: [FAILED if head in poison else OK] for head in heads}
        assert device.answers == expected, seed
        device.guest.close()


def test_a_lonely_poisonous_request_kills_three_times() -> None:
    device = Device(1, {4})
    offer(device, [4])
    device.run()
    assert (device.deaths, device.answers) == (POISONOUS, {4: [FAILED]})
    device.guest.close()


def test_kills_from_outside_condemn_nobody() -> None:
    """Killed at every other step of the same few requests: each is answered in the end, and with success."""
    for seed in range(100):
        device = Device(seed, set(), kills=0.05)
        offer(device, list(range(8)))
        device.run()
        assert device.answers == {head: [OK] for head in range(8)}, seed
        device.guest.close()


def test_a_request_that_was_not_in_flight_between_two_deaths_begins_anew() -> None:
    suspects = Suspects()
    device = Device(0, set())
    offer(device, [3])
    assert ring_pop(device.guest.ring, device.guest.chain) == Pop.CHAIN
    (flight,) = in_flight(device.guest.inflight.view(), 1, NUM)
    for _ in range(2):
        assert suspects.died([flight], {}, crash=True) == []
    assert suspects.careful
    suspects.died([], {}, crash=True)
    assert not suspects.careful and suspects.record(flight).deaths == 0
    device.guest.close()


def test_a_request_for_which_the_host_kills_the_process_is_found_too() -> None:
    """Out of memory, the kernel kills with SIGKILL: always while the same request is carried out."""
    suspects = Suspects()
    device = Device(0, set())
    offer(device, [3])
    ring_pop(device.guest.ring, device.guest.chain)
    (flight,) = in_flight(device.guest.inflight.view(), 1, NUM)
    for _ in range(KILLED_ALONE - 1):
        assert suspects.died([flight], {0: flight.counter}, crash=False) == []
    assert suspects.died([flight], {0: flight.counter}, crash=False) == [flight]
    device.guest.close()


def test_two_that_were_marked_at_once_accuse_nobody() -> None:
    suspects = Suspects()
    device = Device(0, set())
    offer(device, [3, 5])
    for _ in range(2):
        ring_pop(device.guest.ring, device.guest.chain)
    one, other = in_flight(device.guest.inflight.view(), 1, NUM)
    both = [one, other._replace(queue=1)]
    for _ in range(9):
        assert suspects.died(both, {0: one.counter, 1: other.counter}, crash=True) == []
    assert suspects.died(both, {1: other.counter}, crash=True) == both[1:]
    assert suspects.condemned == both[1:]
    device.guest.close()
