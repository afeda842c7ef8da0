"""Fids: the numbers by which a 9P client names files, and what each stands for.

A fid is plain data (path, user, how it was opened), kept in a journal that outlives the process. What a process makes
of it, the open file and the directory listing, is made again by a successor when it is first used.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field

from devproc.fs.journal import Journal
from devproc.fs.tree import Entry, OpenFile, fail

__all__ = ["Fid", "Fids", "NewXattr"]

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

    def plain(self) -> list[object]:
        """What a successor needs."""
        return [self.path, self.uid, self.flags, self.identity, self.gone]


class Fids:
    """All fids of a session, kept in `journal`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._fids: dict[int, Fid] = {}
        kept = journal.table
        for number in (number for number in kept if number >= 0):  # the others are the session's own
            path, uid, flags, identity, gone = kept[number]
            self._fids[number] = Fid(number, path, uid, flags, tuple(identity) if identity else None, gone)

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
        self.changed(fid)

    def changed(self, fid: Fid) -> None:
        """Write down what the fid is now. An attribute being read or written is not: a successor answers EBADF."""
        if fid.xattr is None and fid.new_xattr is None:
            self._journal.put(fid.number, fid.plain())
        else:
            self._journal.drop(fid.number)

    def remove(self, fid: Fid) -> None:
        """The number is free again."""
        if fid.file is not None:
            fid.file.close()
            fid.file = None
        self._fids.pop(fid.number, None)
        self._journal.drop(fid.number)

    def clear(self) -> None:
        """A new session begins."""
        for fid in list(self._fids.values()):
            if fid.file is not None:
                fid.file.close()
        self._fids.clear()
        self._journal.clear()

    def close_files(self) -> None:
        """The end of this process, not of the session."""
        for fid in self._fids.values():
            if fid.file is not None:
                fid.file.close()
                fid.file = None

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
