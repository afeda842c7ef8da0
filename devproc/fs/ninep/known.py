"""What Python and the machine code of `devproc.fs.ninep.fast` both know of fids: kept up to date by who changes it."""

from __future__ import annotations

import struct
from typing import Any

from devproc.fs.fast.session import FastSession
from devproc.fs.fast.shared import PATH_ROOM
from devproc.fs.ninep.tables import ABSENT, CLOSED, PLACES, Known, Place
from devproc.fs.tree import OpenFile, Tree

__all__ = ["NativeFids"]

Identity = tuple[int, int]  # device and inode
NOTHING: Identity = (0, 0)
_PLACE = struct.Struct("<QQQIIIIII")  # as `Place` has it, without the path


class NativeFids(FastSession):
    """The memory of a `Known` and its places."""

    def __init__(self, chain: int, tree: Tree) -> None:
        """`chain` is the address of what requests are popped into. Raises OSError EOPNOTSUPP for a tree that is no
        directory of the host."""
        super().__init__(Known, chain, tree, PLACES * Place.size())
        self.known.fids = self._tables.address
        self._places = self._tables.view()

    def made(self, number: int) -> None:
        """There is a fid with this number."""
        self._place(number).here += 1

    def gone(self, number: int) -> None:
        """There is none any more."""
        self._place(number).here -= 1
        self.forget(number)

    def tell(
        self, number: int, path: bytes, uid: int, flags: int | None, identity: Identity | None, file: OpenFile | None
    ) -> None:
        """What a fid stands for; if it is open, how, and its file if that is open here."""
        if len(path) > PATH_ROOM:
            self.forget(number)
            return
        place, at = self._place(number), (number & (PLACES - 1)) * Place.size()
        if place.key != number + 1:
            place.listed = 0
        device, inode = identity or NOTHING
        fd = ABSENT if file is None else file.descriptor()
        how = CLOSED if flags is None else flags
        head = _PLACE.pack(number + 1, device, inode, place.here, how, fd, uid, place.listed, len(path))
        self._places[at : at + len(head) + len(path)] = head + path

    def listed_here(self, number: int) -> None:
        """Python has begun to list it, and goes on with that."""
        self.listed(number + 1)
        place = self._place(number)
        if place.key == number + 1:
            place.listed = 1

    def forget(self, number: int) -> None:
        """The fid is Python's alone."""
        place = self._place(number)
        if place.key == number + 1:
            place.key = 0
        self.listed(number + 1)

    def file(self, number: int) -> OpenFile:
        """What machine code has opened."""
        return self.adopted(self._place(number).fd)

    def lend(self, fids: int, msize: int, shelved: bool) -> None:
        """Machine code goes on. `fids`: how many there are; `shelved`: are there locks, or files without names?"""
        self.known.count, self.known.msize = fids, msize
        self.caught_up(shelved)

    def close(self) -> None:
        self._places.release()
        super().close()

    def _place(self, number: int) -> Any:
        return Place(self.known.fids + (number & (PLACES - 1)) * Place.size())
