"""What a port has noted, as the next process finds it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from devproc.console.note import INCOMING_MAX, Note
from devproc.kept import KEPT_SIZE


@pytest.fixture
def kept() -> Iterator[int]:
    fd = os.memfd_create("note")
    os.ftruncate(fd, KEPT_SIZE)
    yield fd
    os.close(fd)


def test_what_several_requests_got_is_known_after_a_kill(kept: int) -> None:
    """Behind a relay the answers of all of them may be lost with the process."""
    note = Note(kept)
    note.data = b"[1 from the host]"
    assert note.give(7, 16) == b"[1 from the host"
    note.settle(8)
    assert note.give(8, 16) == b"]"
    again = Note(kept)
    assert again.earlier == {7: b"[1 from the host"}
    again.settle(8)
    assert again.give(8, 16) == b"]"
    again.begin_anew()
    assert Note(kept).earlier == {}


def test_the_oldest_are_forgotten_where_there_is_no_room(kept: int) -> None:
    note = Note(kept)
    for number in range(10_000):
        size = INCOMING_MAX if number < 20 else 1
        note.settle(number)
        note.data += bytes(size)
        note.give(number, size)
    assert max(note.earlier) == 9998 and 500 < len(note.earlier) < 9999
