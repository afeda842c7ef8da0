"""Messages that a device holds and that are in nobody's ring, in memory that outlives its process: frames that have
arrived, under rules (`proto.faults`).

A message takes as many blocks of BLOCK bytes as it needs; the table says where each begins and what became of it. Its
`length` is stored last when it comes, and cleared first when it goes: after a kill at any store, each message is there
whole or is not there. Little-endian; one writer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["BLOCK", "BLOCKS", "ROOM_SIZE", "Entry", "Room"]

BLOCK = 2048
BLOCKS = 1024
_SERIAL = struct.Struct("<Q")  # of the last message that has come, at 0
_LENGTH = struct.Struct("<I")
_ENTRY = struct.Struct("<IHBBIIQdd")  # length, queue, complete, going, rule, 0, number, since, due
_TABLE = 64
_DATA = -(-(_TABLE + BLOCKS * _ENTRY.size) // BLOCK) * BLOCK
ROOM_SIZE = _DATA + BLOCKS * BLOCK


@dataclass
class Entry:
    """What is known of a message; `rule` is a slot, times are CLOCK_MONOTONIC in seconds."""

    queue: int
    number: int
    rule: int
    complete: bool = False  # of the stages of a rule: before complete, not after pop
    going: bool = False  # held no longer
    since: float = 0.0
    due: float = 0.0


class Room:
    """The memory behind a view of ROOM_SIZE bytes."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._used = bytearray(BLOCKS)
        for block, _, data in self.messages():
            self._mark(block, len(data), 1)

    def number(self) -> int:
        """Of a message that has just come; from 1."""
        number: int = _SERIAL.unpack_from(self._view, 0)[0] + 1
        _SERIAL.pack_into(self._view, 0, number)
        return number

    def put(self, data: bytes | memoryview, entry: Entry) -> int | None:
        """Keep a message. Returns its first block; None: there is no room."""
        block = self._used.find(bytes(_blocks(len(data))))
        if block < 0:
            return None
        self._mark(block, len(data), 1)
        at = _DATA + block * BLOCK
        self._view[at : at + len(data)] = data
        self.note(block, entry)
        _LENGTH.pack_into(self._view, _TABLE + block * _ENTRY.size, len(data))
        return block

    def note(self, block: int, entry: Entry) -> None:
        """Something has become of a message."""
        at = _TABLE + block * _ENTRY.size
        length = self._length(block)
        fields = entry.queue, entry.complete, entry.going, entry.rule, 0, entry.number, entry.since, entry.due
        _ENTRY.pack_into(self._view, at, length, *fields)

    def data(self, block: int) -> memoryview:
        """The bytes of a message, as they lie there."""
        at = _DATA + block * BLOCK
        return self._view[at : at + self._length(block)]

    def free(self, block: int) -> None:
        """A message is gone."""
        length = self._length(block)
        _LENGTH.pack_into(self._view, _TABLE + block * _ENTRY.size, 0)
        self._mark(block, length, 0)

    def clear(self) -> None:
        """All are gone."""
        for block, _, _ in list(self.messages()):
            self.free(block)

    def messages(self) -> Iterator[tuple[int, Entry, memoryview]]:
        """Each with its first block, by place. What cannot be is passed over."""
        block = 0
        while block < BLOCKS:
            length = self._length(block)
            if length and block + _blocks(length) <= BLOCKS:
                _, queue, complete, going, rule, _, number, since, due = self._entry(block)
                yield block, Entry(queue, number, rule, bool(complete), bool(going), since, due), self.data(block)
                block += _blocks(length)
            else:
                block += 1

    def _length(self, block: int) -> int:
        length: int = _LENGTH.unpack_from(self._view, _TABLE + block * _ENTRY.size)[0]
        return length

    def _entry(self, block: int) -> tuple[int, int, int, int, int, int, int, float, float]:
        found: tuple[int, int, int, int, int, int, int, float, float]
        found = _ENTRY.unpack_from(self._view, _TABLE + block * _ENTRY.size)
        return found

    def _mark(self, block: int, size: int, used: int) -> None:
        count = _blocks(size)
        self._used[block : block + count] = bytes([used]) * count


def _blocks(size: int) -> int:
    return max(1, -(-size // BLOCK))
