"""The memory of machine code that serves a share, filled in for a directory of the host."""

from __future__ import annotations

import os
import zlib
from typing import Any

from devproc.fs.beneath import RESOLVE
from devproc.fs.fast.listing import RoomMemory
from devproc.fs.fast.shared import PATH_ROOM, Share
from devproc.fs.fast.structures import How
from devproc.fs.mapped import ATTRIBUTE
from devproc.fs.tree import OpenFile, Tree
from native.memory import Area

__all__ = ["FastSession", "set_how"]


def set_how(how: How, flags: int) -> None:
    """Open so, and never by a link or outside the directory."""
    how.flags = flags | os.O_CLOEXEC | os.O_NOFOLLOW
    how.resolve = RESOLVE


class FastSession:
    """What the machine code of a protocol knows: a record that begins with a `Share`."""

    def __init__(self, kind: Any, chain: int, tree: Tree, tables: int) -> None:
        """`kind` is the protocol's record, `chain` the address of what requests are popped into, `tables` the bytes
        needed beside the record. Raises OSError EOPNOTSUPP for a tree that is no directory of the host."""
        self._root = tree.hold(b"")
        self._tree = tree
        self._area, self._tables = Area.allocate(kind.size()), Area.allocate(tables)
        self._view = self._area.view()
        self._rooms = RoomMemory()
        self.known: Any = kind(self._area.address, self._area)
        self.share: Share = self.known.share
        self._fill(self.share, chain)
        self._path_at = kind.offset("share") + Share.offset("path")

    def _fill(self, share: Share, chain: int) -> None:
        status = os.fstat(self._root)
        share.chain, share.root, share.room = chain, self._root, self._rooms.room.address
        share.uid, share.gid = os.geteuid(), os.getegid()
        share.dev_major, share.dev_minor = os.major(status.st_dev), os.minor(status.st_dev)
        share.stir = zlib.crc32(status.st_dev.to_bytes(8, "little")) << 32
        share.device = status.st_dev
        share.read_only = int(self._tree.read_only)
        set_how(share.how, os.O_PATH)
        set_how(share.list_how, os.O_RDONLY | os.O_DIRECTORY)
        for array, text in ((share.attribute, ATTRIBUTE.encode()), (share.link, b"/proc/self/fd/")):
            for place, byte in enumerate(text):
                array[place] = byte

    def put_path(self, path: bytes) -> None:
        """Where machine code looks for a path; at most `PATH_ROOM` bytes."""
        assert len(path) <= PATH_ROOM
        self._view[self._path_at : self._path_at + len(path)] = path

    def adopted(self, fd: int) -> OpenFile:
        """What machine code has opened."""
        return self._tree.adopt(fd)

    def listed(self, number: int) -> None:
        """What machine code has read of an open directory, by the number it has among the listed, counts no longer."""
        if self.share.listed == number:
            self.share.listed = self.share.unfinished = 0

    def caught_up(self, shelved: bool) -> None:
        """Python has read all records. `shelved`: are there locks, or files without names?"""
        self.share.unread, self.share.shelved = 0, int(shelved)

    def clear(self) -> None:
        """Nothing is known."""
        self._tables.clear()
        self.share.listed = self.share.unfinished = 0

    def close(self) -> None:
        os.close(self._root)
        self._view.release()
        self._area.close()
        self._tables.close()
        self._rooms.close()
