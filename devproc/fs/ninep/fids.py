"""Fids: the numbers by which a 9P client names files, and what each stands for.

A fid is plain data (path, user, how it was opened), kept in a journal that outlives the process. What a process makes
of it, the open file and the directory listing, is made again by a successor when it is first used.

Machine code makes, opens and removes fids, too (`devproc.fs.ninep.fast`): `catch_up` before anything is done here,
`lend` after it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from devproc.fs.journal import Journal
from devproc.fs.ninep.known import NativeFids
from devproc.fs.tree import Entry, OpenFile, fail

__all__ = ["MAX_FIDS", "Fid", "Fids", "NewXattr"]

MAX_FIDS = 1 << 18


@dataclass
class NewXattr:
    """An extended attribute that is being written: set when its fid is clunked."""

    name: bytes
    flags: int
    value: bytearray
    filled: int = 0


@dataclass
class Fid:
    """One fid. `flags` is None until it is opened; `identity` is then the file's (device, inode)."""

    number: int
    path: bytes
    uid: int
    flags: int | None = None
    identity: tuple[int, int] | None = None
    gone: bool = False  # the name was removed: nothing is there any more but the open file
    file: OpenFile | None = None
    listing: list[Entry] | None = None
    xattr: bytes | None = None  # an attribute, or the list of them, for reading
    new_xattr: NewXattr | None = field(default=None)

    @property
    def named(self) -> bool:
        """It stands for a file, and for no attribute of one."""
        return self.xattr is None and self.new_xattr is None

    def plain(self) -> list[object]:
        """What a successor needs."""
        return [self.path, self.uid, self.flags, self.identity, self.gone]


class Fids:
    """All fids of a session, kept in `journal`. What machine code knows of them, if there is some, is told of all that
    changes."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._native: NativeFids | None = None
        self._fids: dict[int, Fid] = {}
        kept = journal.table
        for number in (number for number in kept if number >= 0):  # the others are the session's own
            self._enter(number, kept[number])

    def use(self, native: NativeFids) -> None:
        """Tell this from now on, and what there is already."""
        self._native = native
        self._journal.share(native.share)
        for fid in self._fids.values():
            native.made(fid.number)
            native.tell(fid)

    def catch_up(self) -> None:
        """Learn what machine code has changed; it knows of that itself, and what it clunked is closed."""
        if self._native is None:
            return
        for number, value in self._journal.news().items():
            if number < 0:
                continue
            self._fids.pop(number, None)
            if value is not None:
                fid = self._enter(number, value)
                fid.file = None if fid.flags is None else self._native.file(number)

    def lend(self, msize: int, shelved: bool) -> None:
        """Machine code goes on. `shelved`: are there locks, or files without names?"""
        if self._native is not None:
            self._native.lend(len(self._fids), msize, shelved)

    def __len__(self) -> int:
        return len(self._fids)

    def get(self, number: int) -> Fid:
        """Raises OSError EBADF."""
        found = self._fids.get(number)
        if found is None:
            fail(errno.EBADF)
        return found

    def __contains__(self, number: int) -> bool:
        return number in self._fids

    def add(self, fid: Fid) -> None:
        """Raises OSError: EBADF when the number is taken, ENFILE when there are too many."""
        if fid.number in self._fids:
            fail(errno.EBADF)
        if len(self._fids) >= MAX_FIDS:
            fail(errno.ENFILE)
        self._fids[fid.number] = fid
        if self._native is not None:
            self._native.made(fid.number)
        self.changed(fid)

    def changed(self, fid: Fid) -> None:
        """Write down what the fid is now. An attribute being read or written is not: a successor answers EBADF."""
        if fid.named:
            self._journal.put(fid.number, fid.plain())
        else:
            self._journal.drop(fid.number)
        self._tell(fid)

    def opened(self, fid: Fid, file: OpenFile) -> None:
        """The fid, which is open, has a file in this process."""
        fid.file = file
        self._tell(fid)

    def listed(self, fid: Fid) -> None:
        """The fid has a listing of its directory in this process."""
        self._tell(fid)

    def remove(self, fid: Fid) -> None:
        """The number is free again."""
        if fid.file is not None:
            fid.file.close()
            fid.file = None
        if self._fids.pop(fid.number, None) is not None and self._native is not None:
            self._native.gone(fid.number)
        self._journal.drop(fid.number)

    def clear(self) -> None:
        """A new session begins."""
        self.close_files()
        self._fids.clear()
        self._journal.clear()
        if self._native is not None:
            self._native.clear()

    def close_files(self) -> None:
        """The end of this process, not of the session."""
        for fid in self._fids.values():
            if fid.file is not None:
                fid.file.close()
                fid.file = None

    def _enter(self, number: int, value: Any) -> Fid:
        path, uid, flags, identity, gone = value
        fid = self._fids[number] = Fid(number, path, uid, flags, tuple(identity) if identity else None, gone)
        return fid

    def _tell(self, fid: Fid) -> None:
        if self._native is not None:
            self._native.tell(fid)

    def renamed(self, old: bytes, new: bytes, again: bool = False) -> None:
        """What was at `old`, and below, is at `new` now; what was at `new` is gone, unless a predecessor has seen to
        all that (`again`, and nothing is at `old`)."""
        if not again or any(self._under(old)):
            self.unlinked(new)
        for fid in list(self._under(old)):
            fid.path = new + fid.path[len(old) :]
            self.changed(fid)

    def at(self, path: bytes) -> list[Fid]:
        """Those of what is at a path."""
        return [fid for fid in self._fids.values() if fid.path == path and not fid.gone]

    def refers(self, identity: tuple[int, int]) -> bool:
        """Is there a fid of this file, opened once, or nameless?"""
        return any(fid.identity == identity for fid in self._fids.values())

    def unlinked(self, path: bytes) -> None:
        """Nothing is at `path` any more."""
        for fid in list(self._under(path)):
            fid.gone = True
            self.changed(fid)

    def _under(self, path: bytes) -> Iterator[Fid]:
        below = path + b"/"
        return (fid for fid in self._fids.values() if not fid.gone and (fid.path == path or fid.path.startswith(below)))
