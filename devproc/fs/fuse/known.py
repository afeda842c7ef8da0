"""What Python and the machine code of `devproc.fs.fuse.fast` both know of a session: kept up to date by who changes it.

A node is known while it has one name or none; a handle while its file is open in this process. The tables have a place
for each number, which the latest takes. Besides, machine code has what it needs to make nodes and handles itself: the
next numbers, places among the counts, the end of the journal.
"""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from typing import Any

from devproc.fs.beneath import RESOLVE
from devproc.fs.fuse.counts import Counts
from devproc.fs.fuse.listing import Packer
from devproc.fs.fuse.tables import ENTRIES, FILTER, NAMES, OPENS, PATH_ROOM, PLACES, Entry, Known, Open
from devproc.fs.mapped import ATTRIBUTE
from devproc.fs.tree import OpenFile, Tree
from native.memory import Area

__all__ = ["NativeTables"]

SECOND = 1_000_000_000


class NativeTables:
    """The memory of a `Known` and its tables."""

    def __init__(self, engine: Any, chain: int, tree: Tree, cache: float) -> None:
        """`chain` is the address of what requests are popped into, `cache` the seconds a guest may believe what it is
        told. Raises OSError EOPNOTSUPP for a tree that is no directory of the host."""
        self._root = root = tree.hold(b"")
        self._tree = tree
        sizes = (ENTRIES * Entry.size(), NAMES * 8, OPENS * Open.size(), 2 * 2 * FILTER)
        self._area, self._tables = Area.allocate(Known.size()), Area.allocate(sum(sizes))
        self._view = self._area.view()
        self._engine = engine
        self._packer = Packer(engine)
        self.known = known = Known(self._area.address, self._area)
        begins = [self._tables.address + sum(sizes[:place]) for place in range(len(sizes))]
        known.entries, known.names, known.opens, known.filters = begins
        known.room = self._packer.room
        status = os.fstat(root)
        known.chain, known.root = chain, root
        known.uid, known.gid = os.geteuid(), os.getegid()
        known.dev_major, known.dev_minor = os.major(status.st_dev), os.minor(status.st_dev)
        known.stir = zlib.crc32(status.st_dev.to_bytes(8, "little")) << 32
        known.valid, known.valid_ns = divmod(int(cache * SECOND), SECOND)
        known.device = status.st_dev
        known.read_only = int(tree.read_only)
        for how, flags in (
            (known.how, os.O_PATH),
            (known.above_how, os.O_PATH | os.O_DIRECTORY),
            (known.list_how, os.O_RDONLY | os.O_DIRECTORY),
        ):
            how.flags = flags | os.O_CLOEXEC | os.O_NOFOLLOW
            how.resolve = RESOLVE
        for array, text in ((known.attribute, ATTRIBUTE.encode()), (known.link, b"/proc/self/fd/")):
            for place, byte in enumerate(text):
                array[place] = byte
        self._path_at = Known.offset("path")

    # -- nodes -----------------------------------------------------------------------------------------------------

    def node(self, number: int, identity: tuple[int, int], place: int, handles: int, paths: list[bytes]) -> None:
        """A node, where it is, how many handles of it are open, and the place of its count."""
        path = paths[0] if paths else b""
        if len(paths) > 1 or len(path) > PATH_ROOM:
            self.gone(number)
        else:
            self._put_path(path)
            self._engine.fuse_index(self.known, number, *identity, place, handles, len(path))

    def gone(self, number: int) -> None:
        """The node is not, or is too much for machine code."""
        entry = Entry(self.known.entries + (number & (ENTRIES - 1)) * Entry.size())
        if entry.number == number:
            entry.number = 0

    def count_path(self, path: bytes, change: int) -> None:
        """A node has come to a path (1), or is there no longer (-1)."""
        if len(path) <= PATH_ROOM:
            self._put_path(path)
            self._engine.fuse_count_path(self.known, len(path), change & 0xFFFF)

    def count_file(self, identity: tuple[int, int], change: int) -> None:
        """A file has a node (1), or has it no longer (-1)."""
        self._engine.fuse_count_file(self.known, *identity, change & 0xFFFF)

    def _put_path(self, path: bytes) -> None:
        self._view[self._path_at : self._path_at + len(path)] = path

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

    def listed(self, number: int) -> None:
        """What machine code has read of an open directory counts no longer."""
        if self.known.listed == number:
            self.known.listed = self.known.unfinished = 0

    def file(self, number: int) -> OpenFile:
        """What machine code has opened."""
        return self._tree.adopt(self._open(number).fd)

    def _open(self, number: int) -> Any:
        return Open(self.known.opens + (number & (OPENS - 1)) * Open.size())

    # -- between the two -------------------------------------------------------------------------------------------

    def lend(self, counts: Counts, numbers: tuple[int, int], shelved: bool) -> None:
        """Machine code goes on: with these next numbers of a node and of a handle, and with enough places of counts.
        `shelved`: are there locks, or files without names?"""
        known = self.known
        known.next_node, known.next_handle = numbers
        known.unread, known.shelved = 0, int(shelved)
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
        self._tables.clear()
        self.known.free = self.known.listed = self.known.unfinished = 0

    def close(self) -> None:
        os.close(self._root)
        self._view.release()
        self._area.close()
        self._tables.close()
        self._packer.close()
