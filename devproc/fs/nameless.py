"""Files that are open and have no name any more: how they outlive the process.

Before the last name that the guest knows of an open file is taken away, a descriptor of the file goes to the
supervisor; only then the name goes. By that descriptor the file is opened again, by a successor or for another fid. At
most `LIMIT` files at a time are kept; one beyond that is gone when the process is killed (ESTALE).
"""

from __future__ import annotations

import contextlib
import errno
import os

from devproc.fs.shelf import Shelf
from devproc.fs.tree import Attributes, OpenFile, Tree, fail

__all__ = ["LIMIT", "PREFIX", "Nameless"]

PREFIX = "gone:"
LIMIT = 256
Identity = tuple[int, int]  # device and inode


class Nameless:
    """The open files of a session without names, by identity."""

    def __init__(self, tree: Tree, shelf: Shelf) -> None:
        self._tree = tree
        self._shelf = shelf

    def __len__(self) -> int:
        return len(self._shelf)

    def __contains__(self, identity: Identity) -> bool:
        return bool(self._shelf) and _name(identity) in self._shelf

    def keep(self, path: bytes, identity: Identity) -> None:
        """The name of an open file is about to go. Where a tree has nothing to hold, nothing is kept."""
        if identity in self:
            return
        with contextlib.suppress(OSError):
            fd = self._tree.hold(path)
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) == identity:
                self._shelf.put(_name(identity), fd)
            else:
                os.close(fd)

    def keep_file(self, file: OpenFile, identity: Identity) -> None:
        """A file that never had a name."""
        held = self._tree.held(file.descriptor(), os.O_PATH)
        self._shelf.put(_name(identity), os.dup(held.descriptor()))
        held.close()

    def open(self, identity: Identity, flags: int) -> OpenFile:
        """Open one again. Raises OSError ESTALE when it was not kept."""
        return self._tree.held(self.descriptor(identity), flags)

    def attributes(self, identity: Identity) -> Attributes:
        """Raises OSError ESTALE when it was not kept."""
        file = self.open(identity, os.O_PATH)
        try:
            return file.attributes()
        finally:
            file.close()

    def descriptor(self, identity: Identity) -> int:
        """Raises OSError ESTALE when it was not kept."""
        fd = self._shelf.get(_name(identity))
        return fd if fd is not None else fail(errno.ESTALE)

    def let_go(self, identity: Identity) -> None:
        """Nobody has it open any more."""
        if self._shelf:
            self._shelf.drop(_name(identity))

    def clear(self) -> None:
        self._shelf.clear()

    def close(self) -> None:
        self._shelf.close()


def _name(identity: Identity) -> str:
    return f"{PREFIX}{identity[0]:x}:{identity[1]:x}"
