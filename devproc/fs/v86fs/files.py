"""The open files behind inodes: one an inode, opened when it is needed, and closed again when many others are.

A file whose last name goes while the guest has it open stays: a descriptor of it is left with the supervisor
(`devproc.fs.nameless`), or the tree itself keeps it (that in memory), so that a successor of this process has it too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable

from devproc.fs.nameless import Nameless
from devproc.fs.tree import Attributes, OpenFile, Tree, fail, open_again
from devproc.fs.v86fs.inodes import Inode, Inodes

__all__ = ["Files", "regular", "writable"]

LIMIT = 256
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY)  # it can perhaps be read


class Files:
    """The files of `inodes`, in `tree`."""

    def __init__(self, tree: Tree, inodes: Inodes, nameless: Nameless) -> None:
        self._tree = tree
        self._inodes = inodes
        self._kept = nameless
        self._open: dict[int, OpenFile] = {}  # that used last is last
        self._nameless: dict[int, OpenFile] = {}
        for inode in inodes.nameless():
            with contextlib.suppress(OSError):
                self._nameless[inode.number] = self._held(inode)

    def get(self, number: int) -> OpenFile:
        """The file of an inode, open for writing if that can be. Raises OSError: ENOENT when there is none, ESTALE when
        another one has its name by now."""
        inode = self._inodes.get(number)
        file = self._open.pop(number, None) or self._nameless.get(number)
        if file is None:
            file = self._opened(inode)
        if number not in self._nameless:
            self._put(number, file)
        return file

    def attributes(self, number: int) -> Attributes:
        """Of an inode, with a name or without."""
        inode = self._inodes.get(number)
        return self._tree.stat(inode.path) if inode.paths else self.get(number).attributes()

    def created(self, number: int, file: OpenFile) -> None:
        """This file was made and opened just now."""
        if number in self._open or number in self._nameless:
            file.close()
        else:
            self._put(number, file)

    def losing(self, path: bytes) -> None:
        """The name is about to go: what the guest holds by it only is kept."""
        inode = self._inodes.at(path)
        if inode is None or inode.paths != [path] or not self._inodes.held(inode.number):
            return
        with contextlib.suppress(OSError):
            if not stat.S_ISREG(self._tree.stat(path).mode):
                return
            file = self.get(inode.number)
            self._kept.keep(path, inode.identity)
            self._nameless[inode.number] = file
            self._open.pop(inode.number, None)

    def lost(self, path: bytes) -> None:
        """Somebody else took the name away: what is open stays so as long as this process lives."""
        inode = self._inodes.at(path)
        if inode is not None and inode.paths == [path] and self._inodes.held(inode.number):
            file = self._open.pop(inode.number, None)
            if file is not None:
                self._nameless[inode.number] = file

    def gone(self, inode: Inode) -> None:
        """The guest does not hold it any more."""
        file = self._nameless.pop(inode.number, None)
        if file is not None:
            file.close()
        self._kept.let_go(inode.identity)

    def close(self) -> None:
        """The end of this process, or of the guest."""
        for files in (self._open, self._nameless):
            while files:
                files.popitem()[1].close()
        self._kept.close()

    def clear(self) -> None:
        """Nothing is held any more: a new guest begins."""
        self._kept.clear()
        self.close()

    def _opened(self, inode: Inode) -> OpenFile:
        return _either(lambda flags: open_again(self._tree, inode.path, flags, inode.identity))

    def _held(self, inode: Inode) -> OpenFile:
        """One without a name, which a predecessor had open."""
        again = getattr(self._tree, "open_nameless", None)
        if again is not None:
            return _either(lambda flags: again(inode.identity[1], flags))
        return _either(lambda flags: self._kept.open(inode.identity, flags))

    def _put(self, number: int, file: OpenFile) -> None:
        self._open[number] = file
        if len(self._open) > LIMIT:
            oldest = next(iter(self._open))
            self._open.pop(oldest).close()


def _either(opener: Callable[[int], OpenFile]) -> OpenFile:
    """For writing, or else for reading."""
    try:
        return opener(os.O_RDWR)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
    return opener(os.O_RDONLY)


def writable(error: OSError) -> OSError:
    """What a write to a file that could only be opened for reading fails with."""
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES)) if error.errno == errno.EBADF else error


def regular(seen: Attributes) -> None:
    """Raises OSError for what cannot be opened."""
    kind = stat.S_IFMT(seen.mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        fail(errno.ELOOP if kind == stat.S_IFLNK else errno.ENXIO)
