"""How often the guest holds each node, in memory that the supervisor keeps: one word a node, at the place its node has.

So the commonest request of all, the LOOKUP of what was looked up before, changes one word, in machine code too.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping

from devproc.fs.tree import fail
from native.memory import Area

__all__ = ["COUNTS_SIZE", "MAX_NODES", "Counts"]

MAX_NODES = 1 << 18
COUNTS_SIZE = 8 * MAX_NODES


class Counts:
    """The words behind a descriptor of COUNTS_SIZE bytes, which may be closed afterwards."""

    def __init__(self, fd: int) -> None:
        if os.fstat(fd).st_size < COUNTS_SIZE:
            raise ValueError(f"the counts of nodes need {COUNTS_SIZE} bytes")
        self._area = Area.map_fd(fd, COUNTS_SIZE, writable=True, shared=True)
        self._words = self._area.view().cast("Q")
        self._free: list[int] = []
        self._next = 0

    def taken(self, places: Iterable[int]) -> None:
        """These places are a predecessor's nodes'."""
        used = set(places)
        self._next = max(used, default=-1) + 1
        self._free = [place for place in range(self._next) if place not in used]

    def take(self) -> int:
        """A place whose word is 0. Raises OSError ENFILE."""
        if not self._free and self._next >= MAX_NODES:
            fail(errno.ENFILE)
        place = self._free.pop() if self._free else self._next
        self._next = max(self._next, place + 1)
        self._words[place] = 0
        return place

    def give(self, place: int) -> None:
        """The place's node is gone."""
        self._free.append(place)

    def clear(self) -> None:
        """All nodes are gone."""
        self._free.clear()
        self._next = 0

    def add(self, place: int, change: int) -> int:
        """Count up or down. Returns what it is now, 0 at the least."""
        self._words[place] = max(0, self._words[place] + change)
        return self._words[place]

    def at(self, places: Iterable[int]) -> dict[int, int]:
        """The words at these places."""
        return {place: self._words[place] for place in places}

    def restore(self, words: Mapping[int, int]) -> None:
        """The words at some places. Raises IndexError or ValueError for what can be none."""
        for place, word in words.items():
            self._words[place] = word

    @property
    def address(self) -> int:
        """Of all words, for machine code."""
        return self._area.address

    def close(self) -> None:
        self._words.release()
        self._area.close()
