"""What was about to be done, written down before it is: so that a successor does it once.

After a crash, requests that were taken and not given back come again. Most may be done twice; a mkdir or an unlink may
not. So before such a request changes anything, its intent is kept in the journal: which request, and what its names
stood for (device and inode, or nothing); and after it, its response. When the same request comes again, a response
that is there is simply given; without one, the names tell whether the change was made. A program on the host that
changes the same names in that moment can deceive this.

The same request is the one with the same message and the same number among those that its queue was given: a message
alone, with the numbers by which a guest knows its requests and files, may well come again in its place.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Callable
from typing import Any

from devproc.fs.journal import Journal
from devproc.fs.tree import OpenFile, Owner, Tree
from devproc.request import Request

__all__ = ["INTENT_KEYS", "NEXT_KEY", "Careful", "Intents", "settled"]

INTENT_KEYS = -(1 << 40)  # the journal's keys from here downwards are intents
NEXT_KEY = -(1 << 39)  # the numbers that come next: a replay has it, that its guest's numbers may be right; nobody else


def settled(journal: Journal) -> dict[int, Any]:
    """What a journal has besides intents."""
    return {key: value for key, value in journal.table.items() if key > INTENT_KEYS}


class Intents:
    """The intents of a session, one for each place in the rings."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._key = 0
        self._digest = 0
        self.again = False  # the request came before, and perhaps has been carried out
        self.before: Any = None  # what its names stood for then

    def begin(self, request: Request, message: bytes) -> bytes | None:
        """A request begins. Returns the response that it had before, if it is known."""
        self._key = INTENT_KEYS - (request.queue << 16 | request.head)
        self._digest = zlib.crc32(message, request.number & 0xFFFFFFFF)
        digest, before, response = self._journal.table.get(self._key, (None, None, None))
        self.again = request.again and digest == self._digest
        self.before = before if self.again else None
        if not self.again:
            return None
        return response if isinstance(response, bytes) else None

    def together(self) -> Journal:
        """For `with`: what the request changes, its response included, counts together."""
        return self._journal

    def intend(self, *identities: Any) -> None:
        """The change is next: this must be there before it."""
        self.before = list(identities)
        self._journal.put(self._key, [self._digest, self.before, None])
        self._journal.flush()

    def finish(self, response: bytes) -> None:
        """This is the response."""
        self._journal.put(self._key, [self._digest, self.before, response])


class Careful:
    """A tree whose changes of names are made once. Everything else is the tree's own."""

    def __init__(self, tree: Tree, intents: Intents) -> None:
        self._tree = tree
        self._intents = intents

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tree, name)

    def create(self, path: bytes, flags: int, mode: int, owner: Owner) -> OpenFile:
        try:
            self._intend(path)
            return self._tree.create(path, flags, mode, owner)
        except FileExistsError:
            if not self._made():
                raise
            self._tree.settle(path, stat.S_IFREG | stat.S_IMODE(mode), 0, owner)
            return self._tree.open(path, flags & ~os.O_TRUNC)

    def mkdir(self, path: bytes, mode: int, owner: Owner) -> None:
        if not self._make(path, lambda: self._tree.mkdir(path, mode, owner)):
            self._tree.settle(path, stat.S_IFDIR | stat.S_IMODE(mode), 0, owner)

    def mknod(self, path: bytes, mode: int, rdev: int, owner: Owner) -> None:
        if not self._make(path, lambda: self._tree.mknod(path, mode, rdev, owner)):
            kind = stat.S_IFMT(mode) or stat.S_IFREG
            self._tree.settle(path, kind | stat.S_IMODE(mode), rdev, owner)

    def symlink(self, path: bytes, target: bytes, owner: Owner) -> None:
        self._make(path, lambda: self._tree.symlink(path, target, owner))

    def link(self, existing: bytes, path: bytes) -> None:
        self._make(path, lambda: self._tree.link(existing, path))

    def link_held(self, descriptor: int, path: bytes) -> None:
        self._make(path, lambda: self._tree.link_held(descriptor, path))

    def unlink(self, path: bytes) -> None:
        self._remove(path, self._tree.unlink)

    def rmdir(self, path: bytes) -> None:
        self._remove(path, self._tree.rmdir)

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        intents = self._intents
        if intents.again and intents.before and intents.before[0] is not None:
            was_old, was_new = intents.before
            if self._identity(new) == was_old and self._identity(old) in (None, was_new):
                return
        self._intend(old, new)
        self._tree.rename(old, new, flags)

    def _make(self, path: bytes, effect: Callable[[], None]) -> bool:
        """False when a predecessor had made it."""
        try:
            self._intend(path)
            effect()
        except FileExistsError:
            if not self._made():
                raise
            return False
        return True

    def _made(self) -> bool:
        """The name was free when this request came first."""
        return self._intents.again and self._intents.before == [None]

    def _remove(self, path: bytes, effect: Callable[[bytes], None]) -> None:
        intents = self._intents
        was = intents.before[0] if intents.again and intents.before else None
        if was is not None and self._identity(path) != was:
            return
        self._intend(path)
        effect(path)

    def _intend(self, *paths: bytes) -> None:
        """Keep what the names stand for, unless this was kept before."""
        if not self._intents.again or self._intents.before is None:
            self._intents.intend(*map(self._identity, paths))

    def _identity(self, path: bytes) -> list[int] | None:
        found = self._tree.identity(path)
        return None if found is None else list(found)
