"""A queue that is served in order: what was taken and not flushed goes back to the available ring."""

from __future__ import annotations

import pytest
from guest_ring import BASE, DATA, WRITE, GuestRing

from proto.ring import Pop, ring_flush, ring_pop, ring_put, ring_recover, ring_rewind


@pytest.fixture
def guest():
    ring = GuestRing()
    ring_recover(ring.ring)
    for head in (3, 1, 2, 0):
        ring.chain_of((BASE + DATA + 256 * head, 256, WRITE), first=head)
        ring.offer(head)
    yield ring
    ring.close()


def take(guest: GuestRing, count: int, *, put: bool = False) -> list[int]:
    """Pop so many, and put each if asked to; their heads."""
    heads = []
    for _ in range(count):
        assert ring_pop(guest.ring, guest.chain) == Pop.CHAIN
        heads.append(int(guest.chain.head))
        if put:
            ring_put(guest.ring, guest.chain, 10)
    return heads


def test_what_was_not_flushed_is_taken_anew_and_in_order(guest: GuestRing) -> None:
    take(guest, 1, put=True)
    ring_flush(guest.ring)
    take(guest, 1, put=True)  # put, not flushed
    take(guest, 1)  # not even put
    ring_rewind(guest.ring)
    assert guest.ring.in_flight == 0
    assert guest.used() == [(3, 10)]
    assert take(guest, 3, put=True) == [1, 2, 0]
    ring_flush(guest.ring)
    assert guest.used() == [(3, 10), (1, 10), (2, 10), (0, 10)]


def test_a_successor_takes_what_its_predecessor_had(guest: GuestRing) -> None:
    take(guest, 3)
    guest.start()
    assert ring_recover(guest.ring) == 3
    ring_rewind(guest.ring)
    assert take(guest, 4) == [3, 1, 2, 0]
