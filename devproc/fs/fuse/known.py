"""What the machine code of `devproc.fs.fuse.fast` knows of a session: kept up to date by whoever changes it.

A node is known while it has one name; a handle while its file is open in this process. The tables have a place for each
number, which the latest takes.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from typing import Any

from devproc.fs.beneath import RESOLVE
from devproc.fs.fuse.tables import ENTRIES, NAMES, OPENS, PATH_ROOM, Entry, Known, Open
from devproc.fs.mapped import ATTRIBUTE
from native.memory import Area

__all__ = ["NativeTables"]

SECOND = 1_000_000_000


class NativeTables:
    """The memory of a `Known` and its tables."""

    def __init__(self, engine: Any, chain: int, root: int, cache: float) -> None:
        """`root` is a descriptor of the shared directory, `cache` the seconds a guest may believe what it is told."""
        sizes = (Known.size(), ENTRIES * Entry.size(), NAMES * 8, OPENS * Open.size())
        self._area = Area.allocate(sum(sizes))
        self._view = self._area.view()
        self._index: Callable[..., None] = engine.fuse_index
        self._opens_at = sum(sizes[:3])
        self.known = known = Known(self._area.address, self._area)
        known.entries, known.names = self._area.address + sizes[0], self._area.address + sum(sizes[:2])
        known.opens = self._area.address + self._opens_at
        status = os.fstat(root)
        known.chain, known.root = chain, root
        known.uid, known.gid = os.geteuid(), os.getegid()
        known.dev_major, known.dev_minor = os.major(status.st_dev), os.minor(status.st_dev)
        known.stir = zlib.crc32(status.st_dev.to_bytes(8, "little")) << 32
        known.valid, known.valid_ns = divmod(int(cache * SECOND), SECOND)
        known.how.flags = os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW
        known.how.resolve = RESOLVE
        for array, text in ((known.attribute, ATTRIBUTE.encode()), (known.link, b"/proc/self/fd/")):
            for place, byte in enumerate(text):
                array[place] = byte
        self._path_at = Known.offset("path")

    def node(self, number: int, identity: tuple[int, int], counter: int, paths: list[bytes]) -> None:
        """A node and where it is; `counter` is the address of its count."""
        path = paths[0] if len(paths) == 1 and len(paths[0]) <= PATH_ROOM else b""
        self._view[self._path_at : self._path_at + len(path)] = path
        self._index(self.known, number, *identity, counter, len(path))

    def opened(self, number: int, fd: int) -> None:
        """A handle's file."""
        place = Open(self.known.opens + (number & (OPENS - 1)) * Open.size())
        place.number, place.fd = number, fd

    def closed(self, number: int) -> None:
        """The handle has no file any more."""
        place = Open(self.known.opens + (number & (OPENS - 1)) * Open.size())
        if place.number == number:
            place.number = 0

    def clear(self) -> None:
        """Nothing is known."""
        self._view[Known.size() :] = bytes(len(self._view) - Known.size())

    def close(self) -> None:
        self._view.release()
        self._area.close()
