"""What Python and the machine code of `devproc.fs.fuse.fast` both know of a session: kept up to date by who changes it.

A node is known while it has one name or none; a handle while its file is open in this process. The tables have a place
for each number, which the latest takes. Besides, machine code has what it needs to make nodes and handles itself: the
next numbers, places among the counts, the end of the journal.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from devproc.fs.fast.session import FastSession, set_how
from devproc.fs.fast.shared import PATH_ROOM
from devproc.fs.fuse.counts import Counts
from devproc.fs.fuse.tables import ENTRIES, FILTER, NAMES, OPENS, PLACES, Entry, Known, Open
from devproc.fs.tree import OpenFile, Tree

__all__ = ["NativeTables"]

SECOND = 1_000_000_000


class NativeTables(FastSession):
    """The memory of a `Known` and its tables."""

    def __init__(self, engine: Any, chain: int, tree: Tree, cache: float) -> None:
        """`chain` is the address of what requests are popped into, `cache` the seconds a guest may believe what it is
        told. Raises OSError EOPNOTSUPP for a tree that is no directory of the host."""
        sizes = (ENTRIES * Entry.size(), NAMES * 8, OPENS * Open.size(), 2 * 2 * FILTER)
        super().__init__(Known, chain, tree, sum(sizes))
        self._engine = engine
        known: Known = self.known
        begins = [self._tables.address + sum(sizes[:place]) for place in range(len(sizes))]
        known.entries, known.names, known.opens, known.filters = begins
        known.valid, known.valid_ns = divmod(int(cache * SECOND), SECOND)
        set_how(known.above_how, os.O_PATH | os.O_DIRECTORY)

    # -- nodes -----------------------------------------------------------------------------------------------------

    def node(self, number: int, identity: tuple[int, int], place: int, handles: int, paths: list[bytes]) -> None:
        """A node, where it is, how many handles of it are open, and the place of its count."""
        path = paths[0] if paths else b""
        if len(paths) > 1 or len(path) > PATH_ROOM:
            self.gone(number)
        else:
            self.put_path(path)
            self._engine.fuse_index(self.known, number, *identity, place, handles, len(path))

    def gone(self, number: int) -> None:
        """The node is not, or is too much for machine code."""
        entry = Entry(self.known.entries + (number & (ENTRIES - 1)) * Entry.size())
        if entry.number == number:
            entry.number = 0

    def count_path(self, path: bytes, change: int) -> None:
        """A node has come to a path (1), or is there no longer (-1)."""
        if len(path) <= PATH_ROOM:
            self.put_path(path)
            self._engine.fuse_count_path(self.known, len(path), change & 0xFFFF)

    def count_file(self, identity: tuple[int, int], change: int) -> None:
        """A file has a node (1), or has it no longer (-1)."""
        self._engine.fuse_count_file(self.known, *identity, change & 0xFFFF)

    # -- handles ---------------------------------------------------------------------------------------------------

    def opened(self, number: int, node: int, flags: int, fd: int) -> None:
        """A handle's file."""
        place = self._open(number)
        place.number, place.node, place.flags, place.fd = number, node, flags, fd

    def closed(self, number: int) -> None:
        """The handle has no file any more."""
        place = self._open(number)
        if place.number == number:
            place.number = 0
        self.listed(number)

    def file(self, number: int) -> OpenFile:
        """What machine code has opened."""
        return self.adopted(self._open(number).fd)

    def _open(self, number: int) -> Any:
        return Open(self.known.opens + (number & (OPENS - 1)) * Open.size())

    # -- between the two -------------------------------------------------------------------------------------------

    def lend(self, counts: Counts, numbers: tuple[int, int], shelved: bool) -> None:
        """Machine code goes on: with these next numbers of a node and of a handle, and with enough places of counts.
        `shelved`: are there locks, or files without names?"""
        known = self.known
        known.next_node, known.next_handle = numbers
        self.caught_up(shelved)
        free = known.free
        if PLACES // 4 <= free <= PLACES * 3 // 4:
            return
        places = known.places
        with suppress(OSError):  # all are taken
            while free < PLACES // 2:
                places[free] = counts.take()
                free += 1
        while free > PLACES // 2:
            free -= 1
            counts.give(places[free])
        known.free = free

    def clear(self) -> None:
        """Nothing is known, and nothing lent."""
        super().clear()
        self.known.free = 0
