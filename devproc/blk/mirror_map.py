"""What is known of a mirror, in memory that the keeper holds: which blocks must still be copied, and how far it is.

    0     8   magic "BULKMIRR"        40   8   bytes copied so far, again and again counted
    8     4   version 1               48   8   bytes a second at most; 0: no limit (the keeper writes it)
    12    4   bytes of a block        56   4   length of the error
    16    8   blocks                  64       the error, UTF-8
    24    4   `Phase`
    4096      one byte a block: `Block`

The device process writes it, but for the limit; a successor reads it and goes on. A byte is written whole, so that a
kill leaves either the old or the new. What was being copied at a kill is copied again.
"""

from __future__ import annotations

import mmap
import os
import struct
from enum import IntEnum

from proto.errors import ProtocolError

__all__ = ["BLOCK", "Block", "MirrorMap", "Phase"]

MAGIC, VERSION = b"BULKMIRR", 1
BLOCK = 1 << 16  # bytes that are copied at once
HEAD = 4096
_FIRST = struct.Struct("<8sIIQ")
_PHASE, _COPIED, _LIMIT, _ERROR, _TEXT = 24, 40, 48, 56, 64
_TEXT_MAX = 1024


class Phase(IntEnum):
    """How writes of the guest are treated."""

    COPYING = 0  # they go to the source, and their blocks are copied (again)
    BOTH = 1  # they go to both, and what is not copied yet gets less and less
    SYNCED = 2  # they go to both, which are equal
    FAILED = 3  # they go to the source; the mirror is given up


class Block(IntEnum):
    """Of one block."""

    EQUAL = 0
    DIFFERS = 1
    COPIED_NOW = 2


class MirrorMap:
    """The map behind a descriptor, which may be closed afterwards."""

    def __init__(self, fd: int, size: int = 0) -> None:
        """With `size`, the bytes of the disk, a new map is made in an empty or prepared segment: all differs. Raises
        ProtocolError when the segment is no map, or one of another disk."""
        blocks = -(-size // BLOCK)
        fresh = os.fstat(fd).st_size <= HEAD
        if fresh:
            if not size:
                raise ProtocolError("no map has been made yet")
            os.ftruncate(fd, HEAD + blocks)
        self._map = mmap.mmap(fd, 0)
        if fresh:
            self._map[HEAD:] = bytes([Block.DIFFERS]) * blocks
            self._map[: _FIRST.size] = _FIRST.pack(MAGIC, VERSION, BLOCK, blocks)
        magic, version, block, self.blocks = _FIRST.unpack_from(self._map)
        if magic != MAGIC or version != VERSION or block != BLOCK or (size and self.blocks != blocks):
            raise ProtocolError("the map of the mirror is of another disk, or damaged")

    @staticmethod
    def prepare(fd: int, limit: int) -> None:
        """An empty segment in which a map will be made: its limit is in force from the first byte on."""
        os.ftruncate(fd, HEAD)
        os.pwrite(fd, struct.pack("<Q", limit), _LIMIT)

    @property
    def phase(self) -> Phase:
        return Phase(self._word("<I", _PHASE))

    @phase.setter
    def phase(self, phase: Phase) -> None:
        struct.pack_into("<I", self._map, _PHASE, phase)

    @property
    def copied(self) -> int:
        """Bytes."""
        return self._word("<Q", _COPIED)

    @copied.setter
    def copied(self, value: int) -> None:
        struct.pack_into("<Q", self._map, _COPIED, value)

    @property
    def limit(self) -> int:
        """Bytes a second; 0: no limit."""
        return self._word("<Q", _LIMIT)

    @limit.setter
    def limit(self, value: int) -> None:
        struct.pack_into("<Q", self._map, _LIMIT, value)

    @property
    def error(self) -> str:
        length = min(self._word("<I", _ERROR), _TEXT_MAX)
        return self._map[_TEXT : _TEXT + length].decode(errors="replace")

    @error.setter
    def error(self, text: str) -> None:
        data = text.encode()[:_TEXT_MAX]
        self._map[_TEXT : _TEXT + len(data)] = data
        struct.pack_into("<I", self._map, _ERROR, len(data))

    def recover(self) -> None:
        """What a predecessor was copying when it died differs still; equal are the disks when that has been looked at
        again."""
        again = bytes.maketrans(bytes([Block.COPIED_NOW]), bytes([Block.DIFFERS]))
        self._map[HEAD:] = self._map[HEAD:].translate(again)
        if self.phase == Phase.SYNCED:
            self.phase = Phase.BOTH

    def left(self) -> int:
        """Blocks that differ, or may."""
        return int(self.blocks) - int(self._map[HEAD:].count(Block.EQUAL))

    def next(self, after: int) -> int:
        """The first block from `after` on that differs; -1: none does."""
        found: int = self._map.find(bytes([Block.DIFFERS]), HEAD + after)
        return found - HEAD if found >= 0 else -1

    def __getitem__(self, block: int) -> int:
        return int(self._map[HEAD + block])

    def __setitem__(self, block: int, value: int) -> None:
        self._map[HEAD + block] = value

    def mark(self, offset: int, length: int) -> None:
        """The blocks of a range differ."""
        if length:
            first, last = offset // BLOCK, (offset + length - 1) // BLOCK
            self._map[HEAD + first : HEAD + last + 1] = bytes([Block.DIFFERS]) * (last + 1 - first)

    def close(self) -> None:
        self._map.close()

    def _word(self, form: str, at: int) -> int:
        (value,) = struct.unpack_from(form, self._map, at)
        return int(value)
