"""Locks of the guest's programs, kept by the host's kernel: its programs see them, and they outlive this process.

Each owner that has a lock on a file has an open file description of its own there, which carries its locks: byte ranges
as OFD locks (which conflict with fcntl's), whole files as flock(2). A copy of the descriptor is on the shelf, so the
locks stay when this process is killed; its name says whose they are, and a successor needs nothing else. At most
`LIMIT` owners at a time; one beyond that gets ENOLCK.

Nothing here waits: who is to wait tries again (`devproc.fs.waiting`). The host's kernel finds no deadlock among OFD
locks, and neither do we.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import NamedTuple

from devproc.fs.shelf import Shelf
from devproc.fs.tree import OpenFile, Tree, fail

__all__ = ["LIMIT", "PREFIX", "Lock", "Locks"]

PREFIX = "lock:"
LIMIT = 192
F_OFD_GETLK, F_OFD_SETLK = 36, 37
END = (1 << 63) - 1  # the last byte that a lock can be about
_FLOCK = struct.Struct("@hhqqi0q")
FLOCKS = {fcntl.F_RDLCK: fcntl.LOCK_SH, fcntl.F_WRLCK: fcntl.LOCK_EX, fcntl.F_UNLCK: fcntl.LOCK_UN}
Identity = tuple[int, int]  # device and inode


class Lock(NamedTuple):
    """A byte range and how it is locked: fcntl's F_RDLCK, F_WRLCK or F_UNLCK. `last` is its last byte."""

    kind: int
    start: int
    last: int


class Locks:
    """The locks of a session. An owner is a number below 2 to the 64."""

    def __init__(self, tree: Tree, shelf: Shelf) -> None:
        self._tree = tree
        self._shelf = shelf
        self._pids: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._shelf)

    def __contains__(self, identity: Identity) -> bool:
        return any(True for _ in self._of(identity))

    def set(self, file: OpenFile, owner: int, lock: Lock, *, pid: int = 0, whole: bool = False) -> bool:
        """Lock or unlock; with `whole`, the whole file by flock(2). False when somebody else's lock is in the way."""
        if lock.kind not in FLOCKS or not 0 <= lock.start <= lock.last:
            fail(errno.EINVAL)
        name = _name(_identity(file), owner, whole)
        fd = self._shelf.get(name)
        if fd is None:
            if lock.kind == fcntl.F_UNLCK:
                return True
            fd = self._begin(name, file)
        done = self._try(fd, lock, whole)
        if done:
            self._pids[name] = pid
        if lock.kind == fcntl.F_UNLCK and (whole or (lock.start == 0 and lock.last >= END)):
            self._shelf.drop(name)
            self._pids.pop(name, None)
        return done

    def test(self, file: OpenFile, owner: int, lock: Lock) -> tuple[Lock, int] | None:
        """The lock in whose way this one would be, and its owner's process if it is this guest's and known, or 0; None
        when there is none."""
        if lock.kind not in (fcntl.F_RDLCK, fcntl.F_WRLCK) or not 0 <= lock.start <= lock.last:
            fail(errno.EINVAL)
        identity = _identity(file)
        name = _name(identity, owner, False)
        fd = self._shelf.get(name)
        own = fd if fd is not None else self._open(file)
        try:
            kind, _, start, length, pid = _FLOCK.unpack(fcntl.fcntl(own, F_OFD_GETLK, _packed(lock)))
        finally:
            if fd is None:
                os.close(own)
        if kind == fcntl.F_UNLCK:
            return None
        others = [other for other in self._of(identity) if other != name and other.endswith(":p")]
        if pid == -1:
            pid = self._pids.get(others[0], 0) if len(others) == 1 else 0
        return Lock(kind, start, END if length == 0 else start + length - 1), pid

    def release(self, identity: Identity, owner: int, whole: bool = False) -> None:
        """The owner closed the file: its locks there go."""
        name = _name(identity, owner, whole)
        self._shelf.drop(name)
        self._pids.pop(name, None)

    def release_file(self, identity: Identity) -> None:
        """Nobody has the file open any more."""
        for name in self._of(identity):
            self._shelf.drop(name)
            self._pids.pop(name, None)

    def clear(self) -> None:
        self._shelf.clear()
        self._pids.clear()

    def close(self) -> None:
        self._shelf.close()

    def _of(self, identity: Identity) -> list[str]:
        if not self._shelf:
            return []
        prefix = f"{PREFIX}{identity[0]:x}:{identity[1]:x}:"
        return [name for name in self._shelf if name.startswith(prefix)]

    def _begin(self, name: str, file: OpenFile) -> int:
        """An open file description for an owner, on the shelf before it carries a lock."""
        fd = self._open(file)
        return fd if self._shelf.put(name, fd) else fail(errno.ENOLCK)

    def _open(self, file: OpenFile) -> int:
        """One that can carry any lock, or, where nothing may be written, a reader's."""
        try:
            opened = self._tree.held(file.descriptor(), os.O_RDWR)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EISDIR, errno.ETXTBSY):
                raise
            opened = self._tree.held(file.descriptor(), os.O_RDONLY)
        fd = os.dup(opened.descriptor())
        opened.close()
        return fd

    @staticmethod
    def _try(fd: int, lock: Lock, whole: bool) -> bool:
        try:
            if whole:
                fcntl.flock(fd, FLOCKS[lock.kind] | fcntl.LOCK_NB)
            else:
                fcntl.fcntl(fd, F_OFD_SETLK, _packed(lock))
        except BlockingIOError:
            return False
        except PermissionError as error:
            if error.errno == errno.EACCES:  # what fcntl may say instead of EAGAIN
                return False
            raise
        return True


def _packed(lock: Lock) -> bytes:
    length = 0 if lock.last >= END else lock.last - lock.start + 1
    return _FLOCK.pack(lock.kind, os.SEEK_SET, lock.start, length, 0)


def _identity(file: OpenFile) -> Identity:
    status = os.fstat(file.descriptor())
    return status.st_dev, status.st_ino


def _name(identity: Identity, owner: int, whole: bool) -> str:
    return f"{PREFIX}{identity[0]:x}:{identity[1]:x}:{owner:x}:{'f' if whole else 'p'}"
