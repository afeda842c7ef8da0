"""What a v86fs guest refers to: inodes, by which it names files, and handles, by which it holds them open.

Both are plain data in a journal that outlives the process: inodes under their numbers, handles under theirs negated.
The protocol has no FORGET, so the table is bounded: of more than LIMIT inodes those that were not used for longest,
and that nobody holds, are forgotten (`forgotten` is told). The guest finds them again by name, under their old numbers
where the tree has numbers of its own.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from devproc.fs.intents import INTENT_KEYS, NEXT_KEY, settled
from devproc.fs.journal import Journal
from devproc.fs.tree import ROOT as ROOT_PATH
from devproc.fs.tree import Attributes, Entry, fail

__all__ = ["FIRST", "ROOT_INODE", "Inode", "Inodes"]

ROOT_INODE = 1
FIRST = 100  # of the numbers given out here
LIMIT = 65536
EVICTED = LIMIT // 16  # at once
MAX_HANDLES = 1 << 16
DT_DIR = 4
Identity = tuple[int, int]  # device and inode of the tree


@dataclass
class Inode:
    """One file: the names by which it was found and still is, as paths."""

    number: int
    identity: Identity
    paths: list[bytes]
    directory: bool = False

    @property
    def path(self) -> bytes:
        """Where it is. Raises OSError ENOENT when it has no name any more."""
        return self.paths[-1] if self.paths else fail(errno.ENOENT)


ROOT = Inode(ROOT_INODE, (0, 0), [ROOT_PATH], True)


class Inodes:
    """All of one guest's inodes and handles, kept in `journal`."""

    def __init__(self, journal: Journal, forgotten: Callable[[int], None] = lambda number: None) -> None:
        self._journal = journal
        self._forgotten = forgotten
        self._inodes: dict[int, Inode] = {}  # that used last is last
        self._by_identity: dict[Identity, Inode] = {}
        self._by_path: dict[bytes, Inode] = {}
        self._handles: dict[int, int] = {}
        for key, value in journal.table.items():
            if key > 0:
                (device, inode), paths, directory = value
                self._enter(Inode(key, (device, inode), paths, directory))
            elif INTENT_KEYS < key < 0 and key != NEXT_KEY:
                self._handles[-key] = value
        self._held = Counter(self._handles.values())
        number, handle = journal.table.get(NEXT_KEY, (0, 0))
        self._next_handle: int = max(handle, 1, *(number + 1 for number in self._handles))
        self._next_number: int = max(number, FIRST, *(number + 1 for number in self._inodes))

    def __iter__(self) -> Iterator[Inode]:
        """All that the guest knows."""
        yield ROOT
        yield from self._inodes.values()

    def remembered(self) -> dict[int, Any]:
        """All of it as a plain table."""
        return settled(self._journal) | {NEXT_KEY: [self._next_number, self._next_handle]}

    def get(self, number: int) -> Inode:
        """Raises OSError ENOENT."""
        if number == ROOT_INODE:
            return ROOT
        found = self._inodes.pop(number, None)
        if found is None:
            fail(errno.ENOENT)
        self._inodes[number] = found
        return found

    def at(self, path: bytes) -> Inode | None:
        """What the guest knows at a path."""
        return ROOT if path == ROOT_PATH else self._by_path.get(path)

    def found(self, path: bytes, seen: Attributes | Entry) -> Inode:
        """The guest is told of this: its inode."""
        identity = (seen.device, seen.inode)
        there = self._by_path.get(path)
        if there is not None and there.identity == identity:
            return there
        if there is not None:
            self.unlinked(path)
        inode = self._by_identity.get(identity)
        if inode is None:
            if len(self._inodes) >= LIMIT:
                self._evict()
            directory = seen.kind == DT_DIR if isinstance(seen, Entry) else seen.directory
            inode = Inode(self._new_number(identity), identity, [], directory)
            self._enter(inode)
        inode.paths.append(path)
        self._by_path[path] = inode
        self._keep(inode)
        return inode

    def unlinked(self, path: bytes) -> None:
        """Nothing is at `path` any more. An inode without names stays as long as it is held."""
        inode = self._by_path.pop(path, None)
        if inode is None:
            return
        inode.paths.remove(path)
        if inode.paths or self.held(inode.number):
            self._keep(inode)
        else:
            self._drop(inode)

    def renamed(self, old: bytes, new: bytes, again: bool = False) -> None:
        """What was at `old`, and below, is at `new` now; what was at `new` is gone, unless a predecessor has seen to
        all that (`again`, and nothing is at `old`)."""
        if not again or old in self._by_path:
            self.unlinked(new)
        below = old + b"/"
        for path in [path for path in self._by_path if path == old or path.startswith(below)]:
            moved = new + path[len(old) :]
            inode = self._by_path.pop(path)
            self.unlinked(moved)  # what the host had put there in between
            inode.paths[inode.paths.index(path)] = moved
            self._by_path[moved] = inode
            self._keep(inode)

    # -- handles ---------------------------------------------------------------------------------------------------

    def open(self, number: int) -> int:
        """A new handle of an inode. Raises OSError EMFILE."""
        if len(self._handles) >= MAX_HANDLES:
            fail(errno.EMFILE)
        handle = self._next_handle
        self._next_handle += 1
        self._handles[handle] = number
        self._held[number] += 1
        self._journal.put(-handle, number)
        return handle

    def of_handle(self, handle: int) -> int | None:
        """The inode's number."""
        return self._handles.get(handle)

    def close(self, handle: int) -> Inode | None:
        """The handle is gone; its inode, when that is gone with it."""
        number = self._handles.pop(handle)
        self._journal.drop(-handle)
        self._held[number] -= 1
        if self._held[number]:
            return None
        del self._held[number]
        inode = self._inodes.get(number)
        if inode is None or inode.paths:
            return None
        self._drop(inode)
        return inode

    def held(self, number: int) -> bool:
        """Has the guest a handle of it?"""
        return number in self._held

    def inside(self, directory: bytes) -> list[Inode]:
        """Those that have a name in a directory."""
        above = len(directory) + 1 if directory else 0
        return [
            inode
            for path, inode in self._by_path.items()
            if path.startswith(directory) and path.rfind(b"/") + 1 == above
        ]

    def nameless(self) -> list[Inode]:
        """Those that live on in their handles only."""
        return [inode for inode in self._inodes.values() if not inode.paths]

    def clear(self) -> None:
        """A new guest begins."""
        self._inodes.clear()
        self._by_identity.clear()
        self._by_path.clear()
        self._handles.clear()
        self._held.clear()
        self._journal.clear()

    # -- the table -------------------------------------------------------------------------------------------------

    def _new_number(self, identity: Identity) -> int:
        """A tree whose files have no device numbers them itself."""
        device, inode = identity
        if device == 0 and inode > ROOT_INODE and inode not in self._inodes:
            return inode
        while self._next_number in self._inodes:
            self._next_number += 1
        self._next_number += 1
        return self._next_number - 1

    def _enter(self, inode: Inode) -> None:
        self._inodes[inode.number] = inode
        self._by_identity[inode.identity] = inode
        self._by_path.update(dict.fromkeys(inode.paths, inode))

    def _keep(self, inode: Inode) -> None:
        self._journal.put(inode.number, [inode.identity, inode.paths, inode.directory])

    def _drop(self, inode: Inode) -> None:
        del self._inodes[inode.number]
        if self._by_identity.get(inode.identity) is inode:
            del self._by_identity[inode.identity]
        for path in inode.paths:
            self._by_path.pop(path, None)
        self._journal.drop(inode.number)

    def _evict(self) -> None:
        free = [inode for inode in self._inodes.values() if not self.held(inode.number)]
        if not free:
            fail(errno.ENFILE)
        for inode in free[:EVICTED]:
            self._drop(inode)
            self._forgotten(inode.number)
