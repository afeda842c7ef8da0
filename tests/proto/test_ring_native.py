"""Machine code does what the readable Python does: the same ring, the same steps, the same memory afterwards."""

from __future__ import annotations

import ctypes

import pytest
from guest_ring import BASE, DATA, HOLE, REGION, GuestRing
from hypothesis import given, settings
from hypothesis import strategies as st

from native import Unit
from proto import ring as python

NAMES = [
    "ring_has_work",
    "ring_pop",
    "ring_put",
    "ring_flush",
    "ring_should_call",
    "ring_arm",
    "ring_disarm",
    "ring_recover",
    "ring_forget",
    "chain_iovec",
]
DESCRIPTOR = st.tuples(
    st.one_of(
        st.sampled_from([BASE + DATA, BASE + REGION - 8, HOLE, 0, 2**64 - 16]), st.integers(BASE, BASE + 2 * REGION)
    ),
    st.one_of(st.sampled_from([0, 1, 16, 64, 0xFFFFFFFF]), st.integers(0, REGION)),
    st.integers(0, 7),
    st.integers(0, 9),
)
STEP = st.one_of(
    st.tuples(st.just("offer"), st.lists(st.integers(0, 8), max_size=4)),
    st.tuples(st.just("describe"), st.integers(0, 7), DESCRIPTOR),
    st.tuples(st.just("indirect"), st.integers(0, 3), DESCRIPTOR),
    st.tuples(st.just("event"), st.integers(0, 12)),
    st.tuples(st.just("pop")),
    st.tuples(st.just("pop")),
    st.tuples(st.just("put"), st.integers(0, 0xFFFFFFFF)),
    st.tuples(st.just("flush")),
    st.tuples(st.just("arm")),
    st.tuples(st.just("restart")),
    st.tuples(st.just("jump"), st.integers(0, 0xFFFF)),
)


@pytest.fixture(scope="module")
def native():
    return Unit("ring-test", exports=[getattr(python, name) for name in NAMES]).load()


class Side:
    """One run: a guest, and the functions of one kind."""

    def __init__(self, functions, event_idx: bool) -> None:
        self.run = functions
        self.guest = GuestRing(num=8, event_idx=event_idx)
        self.run.ring_recover(self.guest.ring)
        self.taken = False

    def step(self, kind: str, *args):
        guest, run = self.guest, self.run
        if kind == "offer":
            guest.offer(*args[0])
        elif kind == "describe":
            guest.describe(args[0], *args[1])
        elif kind == "indirect":
            guest.describe(args[0], *args[1], at=BASE + DATA)
        elif kind == "event":
            guest.set_used_event(args[0])
        elif kind == "jump":
            guest.set_avail_idx(args[0])
        elif kind == "pop":
            found = run.ring_pop(guest.ring, guest.chain)
            self.taken = found == python.Pop.CHAIN
            return found, run.ring_has_work(guest.ring), *self.chain()
        elif kind == "put" and self.taken:
            self.taken = False
            run.ring_put(guest.ring, guest.chain, args[0])
        elif kind == "flush":
            run.ring_flush(guest.ring)
            return run.ring_should_call(guest.ring)
        elif kind == "arm":
            run.ring_arm(guest.ring)
        elif kind == "restart":
            guest.start()
            self.taken = False
            return run.ring_recover(guest.ring), guest.ring.error
        return None

    def chain(self):
        chain = self.guest.chain
        numbers = (chain.head, chain.error, chain.again, chain.readable_bytes, chain.writable_bytes, chain.counter)
        return numbers, self.guest.segments()

    def memory(self) -> list[bytes]:
        guest = self.guest
        kept = [bytes(area.view()) for area in (*guest.areas, *guest.dirty, guest.inflight)]
        statistics = ctypes.string_at(guest.statistics.address, 64)
        ring = guest.ring
        return [*kept, statistics, bytes((ring.error, ring.batch, ring.again_left, ring.in_flight))]


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(STEP, max_size=40), event_idx=st.booleans())
def test_machine_code_equals_the_python_run(native, steps, event_idx):
    sides = Side(python, event_idx), Side(native, event_idx)
    try:
        for step in steps:
            results = [side.step(*step) for side in sides]
            assert results[0] == results[1], step
        assert sides[0].memory() == sides[1].memory()
    finally:
        for side in sides:
            side.guest.close()
