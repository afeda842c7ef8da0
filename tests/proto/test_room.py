"""The room for what is held and in no ring: found again by a successor, reused, and full at some point."""

from __future__ import annotations

from proto.room import BLOCK, BLOCKS, ROOM_SIZE, Entry, Room


def room() -> tuple[Room, memoryview]:
    view = memoryview(bytearray(ROOM_SIZE))
    return Room(view), view


def test_a_successor_finds_what_was_put_and_noted() -> None:
    first, view = room()
    one = first.put(b"a" * (3 * BLOCK + 1), Entry(0, first.number(), 2, since=1.5))
    two = first.put(b"b", Entry(4, first.number(), 0))
    assert (one, two) == (0, 4)
    first.note(4, Entry(4, 2, 0, complete=True, going=True, due=9.0))
    again = Room(view)
    found = {entry.number: (block, entry, bytes(data)) for block, entry, data in again.messages()}
    assert found[1] == (0, Entry(0, 1, 2, since=1.5), b"a" * (3 * BLOCK + 1))
    assert found[2] == (4, Entry(4, 2, 0, complete=True, going=True, due=9.0), b"b")
    assert again.number() == 3
    assert again.put(b"c" * BLOCK * 2, Entry(0, 3, 0)) == 5


def test_it_is_full_at_some_point_and_what_goes_makes_room() -> None:
    full, _ = room()
    blocks = [full.put(bytes(BLOCK), Entry(0, number, 0)) for number in range(BLOCKS)]
    assert None not in blocks and full.put(b"x", Entry(0, 1, 0)) is None
    full.free(7)
    assert full.put(bytes(2 * BLOCK), Entry(0, 1, 0)) is None
    assert full.put(b"x", Entry(0, 1, 0)) == 7
    full.clear()
    assert not list(full.messages()) and full.put(b"y" * 65562, Entry(0, 1, 0)) == 0


def test_a_length_that_cannot_be_is_passed_over() -> None:
    damaged, view = room()
    damaged.put(b"z", Entry(0, 1, 0))
    view[64:68] = (1 << 31).to_bytes(4, "little")
    assert not list(Room(view).messages())
