"""Fids as Python and the machine code of `devproc.fs.ninep.fast` both know them: kept up to date by who changes one."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from devproc.fs.fast.session import FastSession
from devproc.fs.fast.shared import PATH_ROOM
from devproc.fs.ninep.tables import ABSENT, CLOSED, PLACES, Known, Place
from devproc.fs.tree import OpenFile, Tree

__all__ = ["NativeFids"]

if TYPE_CHECKING:
    from devproc.fs.ninep.fids import Fid

NOTHING = (0, 0)  # no file's device and inode
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

    def tell(self, fid: Fid) -> None:
        """What a fid has become."""
        if not fid.named or fid.gone or len(fid.path) > PATH_ROOM:
            self.forget(fid.number)
            return
        listed = fid.listing is not None
        if listed:
            self.listed(fid.number + 1)
        place, at = self._place(fid.number), (fid.number & (PLACES - 1)) * Place.size()
        device, inode = fid.identity or NOTHING
        flags = CLOSED if fid.flags is None else fid.flags
        fd = ABSENT if fid.file is None else fid.file.descriptor()
        head = _PLACE.pack(fid.number + 1, device, inode, place.here, flags, fd, fid.uid, listed, len(fid.path))
        self._places[at : at + len(head) + len(fid.path)] = head + fid.path

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
