"""A device's state in memory that the supervisor holds: what it stored last, its successor reads.

Two slots, written in turn: length, checksum and sequence number before the bytes. A kill in the middle of a store
leaves the other slot whole.
"""

from __future__ import annotations

import os
import struct
import weakref
import zlib

from native.memory import Area

__all__ = ["KEPT_SIZE", "Kept"]

KEPT_SIZE = 65536
_HEAD = struct.Struct("<IIQ")  # length, CRC-32 of sequence and bytes, sequence
_SLOT = KEPT_SIZE // 2


class Kept:
    """The memory behind a descriptor of KEPT_SIZE bytes; the descriptor may be closed afterwards."""

    def __init__(self, fd: int) -> None:
        if os.fstat(fd).st_size < KEPT_SIZE:
            raise ValueError(f"kept state needs {KEPT_SIZE} bytes")
        area = Area.map_fd(fd, KEPT_SIZE, writable=True, shared=True)
        weakref.finalize(self, area.close).atexit = False  # mappings are few: nobody has to remember to give it back
        self._view = area.view()
        found = [slot for slot in map(self._read, (0, 1)) if slot is not None]
        self._sequence, self._data = max(found, default=(0, b""))

    def load(self) -> bytes:
        """What was stored last; b"" when nothing was."""
        return self._data

    def store(self, data: bytes) -> None:
        """Keep these bytes in place of those before. Raises ValueError when they are too many."""
        if len(data) > _SLOT - _HEAD.size:
            raise ValueError(f"{len(data)} bytes of state; there is room for {_SLOT - _HEAD.size}")
        self._sequence, self._data = self._sequence + 1, data
        at = (self._sequence & 1) * _SLOT
        self._view[at + _HEAD.size : at + _HEAD.size + len(data)] = data
        _HEAD.pack_into(self._view, at, len(data), _checksum(self._sequence, data), self._sequence)

    def _read(self, slot: int) -> tuple[int, bytes] | None:
        at = slot * _SLOT
        length, checksum, sequence = _HEAD.unpack_from(self._view, at)
        if sequence == 0 or length > _SLOT - _HEAD.size:
            return None
        data = bytes(self._view[at + _HEAD.size : at + _HEAD.size + length])
        return (sequence, data) if _checksum(sequence, data) == checksum else None


def _checksum(sequence: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(sequence.to_bytes(8, "little")))
