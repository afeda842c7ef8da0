"""A popped chain is what the driver put there, checked; a driver's mistake is an error of that chain or of the
queue."""

from __future__ import annotations

import random
import struct

import pytest
from guest_ring import BASE, DATA, DESC, HOLE, INDIRECT, NEXT, READ_ONLY, REGION, WRITE, GuestRing
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.ring import (
    MAX_SEGMENTS,
    ChainError,
    Pop,
    RingError,
    chain_read,
    chain_write,
    ring_arm,
    ring_disarm,
    ring_flush,
    ring_forget,
    ring_has_work,
    ring_pop,
    ring_put,
    ring_recover,
    ring_should_call,
)

BUFFER = BASE + DATA


@pytest.fixture
def guest():
    ring = GuestRing()
    ring_recover(ring.ring)
    yield ring
    ring.close()


def pop(guest: GuestRing) -> int:
    return ring_pop(guest.ring, guest.chain)


def give_back(guest: GuestRing, written: int = 0) -> None:
    ring_put(guest.ring, guest.chain, written)
    ring_flush(guest.ring)


def popped_error(guest: GuestRing, head: int) -> ChainError:
    guest.offer(head)
    assert pop(guest) == Pop.CHAIN
    give_back(guest)
    return ChainError(guest.chain.error)


def test_empty_ring_pops_nothing(guest):
    assert not ring_has_work(guest.ring)
    assert pop(guest) == Pop.EMPTY


def test_chain_has_its_buffers_readable_first(guest):
    guest.offer(guest.chain_of((BUFFER, 16, 0), (BUFFER + 0x100, 512, WRITE), (BUFFER + 0x400, 1, WRITE), first=3))
    assert ring_has_work(guest.ring)
    assert pop(guest) == Pop.CHAIN
    assert guest.chain.head == 3 and guest.chain.error == 0
    assert (guest.chain.readable, guest.chain.writable) == (1, 2)
    assert (guest.chain.readable_bytes, guest.chain.writable_bytes) == (16, 513)
    assert guest.segments() == [(10, DATA, 16), (10, DATA + 0x100, 512), (10, DATA + 0x400, 1)]


def test_indirect_table_is_followed_wherever_it_lies(guest):
    table = BUFFER + 0x803  # a table needs no alignment
    guest.describe(0, BUFFER, 16, NEXT, 1, at=table)
    guest.describe(1, BUFFER + 64, 32, WRITE, 0, at=table)
    guest.describe(5, table, 32, INDIRECT)
    guest.offer(5)
    assert pop(guest) == Pop.CHAIN
    assert guest.chain.error == 0
    assert guest.segments() == [(10, DATA, 16), (10, DATA + 64, 32)]


def test_indirect_table_may_end_a_direct_chain(guest):
    guest.describe(0, BUFFER, 8, NEXT, 1)
    guest.describe(1, BUFFER + 0x800, 16, INDIRECT)
    guest.describe(0, BUFFER + 64, 4, WRITE, at=BUFFER + 0x800)
    guest.offer(0)
    assert pop(guest) == Pop.CHAIN
    assert guest.chain.error == 0 and guest.segments() == [(10, DATA, 8), (10, DATA + 64, 4)]


def test_buffer_across_regions_is_split(guest):
    guest.offer(guest.chain_of((BASE + REGION - 100, 300, WRITE)))
    assert pop(guest) == Pop.CHAIN
    assert guest.segments() == [(10, REGION - 100, 100), (11, 0, 200)]
    assert guest.chain.writable_bytes == 300


MISTAKES = {
    ChainError.ADDRESS: [(HOLE, 16, 0)],
    ChainError.ZERO_LENGTH: [(BUFFER, 0, 0)],
    ChainError.ORDER: [(BUFFER, 16, WRITE), (BUFFER, 16, 0)],
    ChainError.READ_ONLY: [(READ_ONLY, 16, WRITE)],
    ChainError.INDIRECT_LENGTH: [(BUFFER, 24, INDIRECT)],
    ChainError.INDIRECT_ADDRESS: [(HOLE, 32, INDIRECT)],
}


@pytest.mark.parametrize("error", MISTAKES, ids=lambda error: error.name)
def test_mistake_is_an_error_of_that_request_alone(guest, error):
    assert popped_error(guest, guest.chain_of(*MISTAKES[error])) == error
    assert popped_error(guest, guest.chain_of((BUFFER, 16, 0), first=8)) == ChainError.NONE
    assert guest.used() == [(0, 0), (8, 0)]


@pytest.mark.parametrize("address", [HOLE - 8 + REGION, BASE - 8, 2**64 - 8, READ_ONLY + REGION - 8])
def test_buffer_partly_outside_memory_is_an_address_error(guest, address):
    assert popped_error(guest, guest.chain_of((address, 64, 0))) == ChainError.ADDRESS


def test_loop_is_found(guest):
    guest.describe(1, BUFFER, 16, NEXT, 2)
    guest.describe(2, BUFFER, 16, NEXT, 1)
    assert popped_error(guest, 1) == ChainError.LOOP


def test_next_outside_the_table_is_found(guest):
    guest.describe(0, BUFFER, 16, NEXT, guest.num)
    assert popped_error(guest, 0) == ChainError.NEXT_RANGE


def test_indirect_inside_indirect_is_found(guest):
    guest.describe(0, BUFFER + 0x900, 16, INDIRECT, at=BUFFER + 0x800)
    guest.describe(0, BUFFER + 0x800, 16, INDIRECT)
    assert popped_error(guest, 0) == ChainError.INDIRECT_NESTED


def test_indirect_with_next_is_found(guest):
    guest.describe(0, BUFFER + 0x800, 16, INDIRECT | NEXT, 1)
    assert popped_error(guest, 0) == ChainError.INDIRECT_CHAINED


def test_indirect_that_was_not_negotiated_is_found():
    guest = GuestRing(indirect=False)
    ring_recover(guest.ring)
    assert popped_error(guest, guest.chain_of((BUFFER, 16, INDIRECT))) == ChainError.INDIRECT_REFUSED
    guest.close()


def test_more_segments_than_an_iovec_holds_is_found(guest):
    count = MAX_SEGMENTS + 1
    for index in range(count):
        guest.describe(index, BUFFER, 1, NEXT, index + 1, at=BASE + DATA)
    guest.describe(0, BASE + DATA, 16 * count, INDIRECT)
    assert popped_error(guest, 0) == ChainError.TOO_LONG


def test_what_was_found_before_a_mistake_is_still_there(guest):
    assert popped_error(guest, guest.chain_of((BUFFER, 16, 0), (HOLE, 512, WRITE), (BUFFER + 64, 1, WRITE)))
    assert guest.segments() == [(10, DATA, 16), (10, DATA + 64, 1)]


def test_absurd_avail_idx_stops_the_queue(guest):
    guest.set_avail_idx(guest.num + 1)
    assert pop(guest) == Pop.BROKEN
    assert guest.ring.error == RingError.AVAIL_JUMP
    assert not ring_has_work(guest.ring)
    assert pop(guest) == Pop.BROKEN


def test_head_outside_the_table_stops_the_queue(guest):
    guest.offer(guest.num)
    assert pop(guest) == Pop.BROKEN
    assert guest.ring.error == RingError.HEAD_RANGE


def test_head_offered_twice_stops_the_queue(guest):
    guest.offer(guest.chain_of((BUFFER, 16, 0)), 0)
    assert pop(guest) == Pop.CHAIN
    assert pop(guest) == Pop.BROKEN
    assert guest.ring.error == RingError.HEAD_BUSY


def test_dirty_pages_are_marked_before_used_idx_moves(guest):
    guest.offer(guest.chain_of((BUFFER, 16, 0), (BASE + REGION - 4096, 8192, WRITE)))
    pop(guest)
    ring_put(guest.ring, guest.chain, 8192)
    assert guest.used_idx == 0
    marks = [bytes(area.view()) for area in guest.dirty]
    assert marks == [bytes(15) + b"\xff", b"\xff" + bytes(15), bytes(16)]
    ring_flush(guest.ring)
    assert guest.used() == [(0, 8192)]


def test_request_that_wrote_nothing_marks_nothing(guest):
    guest.offer(guest.chain_of((BUFFER, 16, 0)))
    pop(guest)
    give_back(guest)
    assert not any(bytes(area.view()).strip(b"\0") for area in guest.dirty)


@pytest.mark.parametrize("event, called", [(0, True), (1, True), (2, False), (0xFFFF, False)])
def test_interrupt_is_due_when_used_event_is_crossed(guest, event, called):
    guest.set_used_event(event)
    for head in (0, 1):
        guest.offer(guest.chain_of((BUFFER, 16, 0), first=head))
        pop(guest)
        ring_put(guest.ring, guest.chain, 0)
    ring_flush(guest.ring)
    assert ring_should_call(guest.ring) is called
    assert not ring_should_call(guest.ring)  # asked once for each flush


def test_interrupt_flag_is_honoured_without_event_idx():
    guest = GuestRing(event_idx=False)
    ring_recover(guest.ring)
    for flags, called in ((1, False), (0, True)):
        struct.pack_into("<H", guest.areas[0].view(), 0x1000, flags)
        guest.offer(guest.chain_of((BUFFER, 16, 0)))
        pop(guest)
        give_back(guest)
        assert ring_should_call(guest.ring) is called
    guest.close()


def test_notifications_are_asked_for_only_before_sleep(guest):
    guest.offer(guest.chain_of((BUFFER, 16, 0)))
    pop(guest)
    ring_arm(guest.ring)
    assert guest.avail_event == 1
    plain = GuestRing(event_idx=False)
    ring_recover(plain.ring)
    ring_disarm(plain.ring)
    assert bytes(plain.areas[0].view()[0x2000:0x2002]) == b"\x01\x00"
    ring_arm(plain.ring)
    assert bytes(plain.areas[0].view()[0x2000:0x2002]) == b"\x00\x00"
    plain.close()


def test_indices_go_round(guest):
    heads = [guest.chain_of((BUFFER + 16 * head, 16, 0), first=head) for head in range(guest.num)]
    rounds = random.Random(1)
    for _ in range(300):
        batch = rounds.sample(heads, rounds.randrange(1, guest.num))
        before = guest.used_idx
        guest.offer(*batch)
        for head in batch:
            assert pop(guest) == Pop.CHAIN and guest.chain.head == head
            ring_put(guest.ring, guest.chain, 0)
        ring_flush(guest.ring)
        assert [head for head, _ in guest.used(before)] == batch
        assert guest.in_flight() == []


def test_a_reset_forgets_what_was_in_flight(guest):
    guest.offer(guest.chain_of((BUFFER, 16, 0)))
    pop(guest)
    ring_forget(guest.header)
    guest.set_avail_idx(0)
    guest.start()
    assert ring_recover(guest.ring) == 0
    assert guest.in_flight() == [] and guest.ring.error == 0


def test_draining_takes_nothing_new(guest):
    guest.offer(guest.chain_of((BUFFER, 16, 0)))
    guest.ring.draining = 1
    assert not ring_has_work(guest.ring) and pop(guest) == Pop.EMPTY
    guest.ring.draining = 0
    assert ring_has_work(guest.ring) and pop(guest) == Pop.CHAIN


def test_bytes_are_copied_through_the_pieces(guest):
    guest.put(BUFFER, b"abcdefgh")
    pieces = (BUFFER, 3, 0), (BUFFER + 3, 5, 0), (BUFFER + 0x100, 2, WRITE), (BUFFER + 0x200, 4, WRITE)
    guest.offer(guest.chain_of(*pieces))
    pop(guest)
    scratch = guest.areas[1]
    assert chain_read(guest.chain, 2, scratch.address, 100) == 6
    assert bytes(scratch.view()[:6]) == b"cdefgh"
    assert chain_write(guest.chain, 1, scratch.address, 4) == 4
    assert guest.get(BUFFER + 0x100, 2) == b"\0c" and guest.get(BUFFER + 0x200, 3) == b"def"


DESCRIPTOR = st.tuples(
    st.one_of(
        st.sampled_from([BUFFER, BASE + DESC, BASE + REGION - 8, HOLE, READ_ONLY, 2**64 - 1, 0]),
        st.integers(BASE, BASE + 3 * REGION),
    ),
    st.one_of(st.sampled_from([0, 1, 16, 17, 32, 4096, 0xFFFFFFFF]), st.integers(0, 2 * REGION)),
    st.integers(0, 7),
    st.integers(0, 20),
)


@settings(max_examples=150, deadline=None)
@given(
    table=st.lists(DESCRIPTOR, min_size=8, max_size=8),
    inner=st.lists(DESCRIPTOR, min_size=4, max_size=4),
    heads=st.lists(st.integers(0, 9), max_size=10),
    idx=st.integers(0, 0xFFFF) | st.none(),
)
def test_hostile_driver_gets_every_request_back_or_a_stopped_queue(table, inner, heads, idx):
    guest = GuestRing(num=8)
    ring_recover(guest.ring)
    for index, row in enumerate(table):
        guest.describe(index, *row)
    for index, row in enumerate(inner):
        guest.describe(index, *row, at=BUFFER)
    guest.offer(*heads)
    if idx is not None:
        guest.set_avail_idx(idx)
    given_back = 0
    for _ in range(12):
        found = pop(guest)
        if found != Pop.CHAIN:
            break
        for region, start, length in guest.segments():
            assert region in (10, 11, 12) and start + length <= REGION and length > 0
        give_back(guest, guest.chain.writable_bytes & 0xFFFFFFFF)
        given_back += 1
    assert guest.used_idx == given_back
    assert found == Pop.EMPTY or guest.ring.error != RingError.NONE
    assert guest.in_flight() == []
    guest.close()


@pytest.mark.parametrize("counter", [2**64 - 1, 2**63])
def test_a_table_whose_counters_no_queue_can_reach_is_refused(guest, counter):
    """Found by fuzzing: the counter after it did not fit."""
    guest.header.desc[3].counter = counter
    assert ring_recover(guest.ring) == 0
    assert guest.ring.error == RingError.TABLE and not ring_has_work(guest.ring)
