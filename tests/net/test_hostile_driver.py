"""A driver that builds nonsense: the card lives, serves the next honest request, and writes only where it may."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from card import MAC, OTHER, Card, frame, header
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devproc.net.backend import Word
from launcher.replay.frontend import GPA

OUTSIDE = (0x300000, 0x400000)  # RAM that is in no buffer
CHAINS = 0x500000


@pytest.fixture(scope="module")
def card() -> Iterator[Card]:
    made = Card("stream:unix:/x").start()
    made.wire.send(int(Word.UP).to_bytes(4, "little"))
    made.wire.setblocking(False)
    yield made
    made.close()


descriptors = st.lists(
    st.tuples(
        st.one_of(
            st.integers(GPA + CHAINS, GPA + CHAINS + 4096),
            st.sampled_from([0, GPA - 1, GPA + (32 << 20) - 1, (1 << 64) - 1]),
        ),
        st.one_of(st.integers(0, 200), st.sampled_from([70000, 1 << 20, (1 << 32) - 1])),
        st.integers(0, 7),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=4,
)


def drain(card: Card) -> int:
    count = 0
    while True:
        try:
            card.wire.recv(70000)
            count += 1
        except BlockingIOError:
            return count


@given(queue=st.integers(0, 2), chain=descriptors, data=st.binary(max_size=120), arriving=st.binary(max_size=120))
@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_chain_is_given_back(
    card: Card, queue: int, chain: list[tuple[int, int, int, int]], data: bytes, arriving: bytes
) -> None:
    ram, layout = card.front.ram.view, card.queues[queue]
    ram[OUTSIDE[0] : OUTSIDE[1]] = b"\x5a" * (OUTSIDE[1] - OUTSIDE[0])
    ram[CHAINS : CHAINS + len(data)] = data
    for number, (address, size, flags, following) in enumerate(chain):
        struct.pack_into("<QIHH", ram, layout.desc + 16 * number, address, size, flags, following)
    card.front.native.publish(layout.driver, 0)
    if queue == 0:  # room behind the nonsense, and frames until all of it is used
        struct.pack_into("<QIHH", ram, layout.desc + 16 * 32, GPA + CHAINS + 0x10000, 3000, 2, 0)
        card.front.native.publish(layout.driver, 32)
    card.front.notify(layout)
    while layout.driver.used_idx != layout.driver.avail_idx:
        if queue == 0:
            card.wire.send(header() + frame(arriving))
        card.front.wait_used(layout)
    drain(card)
    assert bytes(ram[OUTSIDE[0] : OUTSIDE[1]]) == b"\x5a" * (OUTSIDE[1] - OUTSIDE[0])
    card._turn[1] = 1
    card.send(header(), frame(b"honest", to=OTHER, source=MAC))
    assert drain(card) == 1
    assert card.front.process is not None and card.front.process.poll() is None


@given(message=st.binary(min_size=1, max_size=200))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_message_of_a_peer_is_survived(card: Card, message: bytes) -> None:
    """What comes over the cable is not trusted either."""
    if len(message) == 4:
        return  # a word about the link
    card.wire.send(message)
    card._turn[1] = 1
    card.send(header(), frame(b"honest", to=OTHER, source=MAC))
    assert drain(card) == 1


def test_a_ring_that_jumps_is_reported(card: Card) -> None:
    layout = card.queues[1]
    struct.pack_into("<H", card.front.ram.view, layout.avail + 2, (layout.driver.avail_idx + 1000) & 0xFFFF)
    card.front.kick(1)
    while not any(message.name == "ERR" for message in card.front.posted):
        card.front.sleep()
    assert card.front.process is not None and card.front.process.poll() is None
