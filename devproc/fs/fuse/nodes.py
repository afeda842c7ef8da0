"""What a FUSE guest refers to: nodes (files it has looked up, until it forgets them) and handles (files it has open).

A file that has lost its last name, as far as the guest knows, and is not open, is given up: its node stands for nothing
until the guest forgets it, and what the host makes of the same inode later is another file, with a node of its own.

Both are plain data, kept in a journal that outlives the process: nodes under their numbers, handles under theirs
negated; how often the guest holds a node is a word beside it (`devproc.fs.fuse.counts`). What a process makes of a
handle, the open file and the directory listing, a successor makes again when it is used.

Machine code makes and removes nodes and handles, too (`devproc.fs.fuse.fast`): `catch_up` before anything is done here,
`lend` after it.
"""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass
from typing import Any

from devproc.fs.fuse.counts import Counts
from devproc.fs.fuse.known import NativeTables
from devproc.fs.fuse.listing import Listing
from devproc.fs.intents import INTENT_KEYS, NEXT_KEY, settled
from devproc.fs.journal import Journal
from devproc.fs.tree import ROOT, Attributes, OpenFile, fail

__all__ = ["ROOT_NODE", "Handle", "Node", "Nodes"]

ROOT_NODE = 1
MAX_HANDLES = 1 << 16
Identity = tuple[int, int]  # device and inode
NOTHING: Identity = (0, 0)  # no file has the inode 0


@dataclass
class Node:
    """One file: the names by which it was found and still is, as paths, and the place of its count."""

    number: int
    identity: Identity
    paths: list[bytes]
    place: int = -1

    @property
    def given_up(self) -> bool:
        """It stands for no file any more."""
        return self.identity[1] == 0

    @property
    def path(self) -> bytes:
        """Where it is. Raises OSError ESTALE when it has no name any more."""
        return self.paths[-1] if self.paths else fail(errno.ESTALE)


@dataclass
class Handle:
    """One open file."""

    number: int
    node: int
    flags: int
    file: OpenFile | None = None
    listing: Listing | None = None


class Nodes:
    """All nodes and handles of a session, kept in `journal` and `counts`. Machine code's tables, if there are some, are
    told of all that changes."""

    def __init__(self, journal: Journal, counts: Counts) -> None:
        self._journal = journal
        self._counts = counts
        self._tables: NativeTables | None = None
        self._nodes: dict[int, Node] = {}
        self._by_identity: dict[Identity, Node] = {}
        self._by_path: dict[bytes, Node] = {}
        self.handles: dict[int, Handle] = {}
        self._open: Counter[int] = Counter()  # handles of each node
        for number, value in journal.table.items():
            if number <= INTENT_KEYS or number == NEXT_KEY:
                continue
            if number < 0:
                self.handles[-number] = Handle(-number, *value)
                self._open[value[0]] += 1
            else:
                identity, paths, place = value
                self._enter(Node(number, (identity[0], identity[1]), paths, place))
        counts.taken(node.place for node in self._nodes.values())
        node, handle = journal.table.get(NEXT_KEY, (0, 0))
        self._next_node: int = max(node, ROOT_NODE + 1, *(number + 1 for number in self._nodes))
        self._next_handle: int = max(handle, 1, *(number + 1 for number in self.handles))

    def use(self, tables: NativeTables) -> None:
        """Tell these from now on, and what there is already."""
        self._tables = tables
        tables.known.counts = self._counts.address
        self._journal.share(tables.share)
        for node in self._nodes.values():
            if not node.given_up:
                tables.count_file(node.identity, 1)
            self._tell(node)
        for path in self._by_path:
            tables.count_path(path, 1)
        self.lend(True)

    def catch_up(self) -> None:
        """Learn what machine code has changed."""
        if self._tables is None or not (news := self._journal.news()):
            return
        known = self._tables.known
        self._next_node, self._next_handle = known.next_node, known.next_handle
        for number, value in news.items():
            if number > 0:
                self._node_changed(number, value)
            elif number > INTENT_KEYS:
                self._handle_changed(-number, value)

    def lend(self, shelved: bool) -> None:
        """Machine code goes on. `shelved`: are there locks, or files without names?"""
        if self._tables is not None:
            self._tables.lend(self._counts, (self._next_node, self._next_handle), shelved)

    def _node_changed(self, number: int, value: Any) -> None:
        """Machine code has made, changed or removed a node; the tables and filters know of it."""
        node = self._nodes.get(number)
        if node is not None:
            for path in node.paths:
                if self._by_path.get(path) is node:
                    del self._by_path[path]
            if self._by_identity.get(node.identity) is node:
                del self._by_identity[node.identity]
        if value is None:
            self._nodes.pop(number, None)
            return
        identity, paths, place = value
        if node is None:
            node = self._nodes[number] = Node(number, NOTHING, paths, place)
        node.identity, node.paths = (identity[0], identity[1]), paths
        if not node.given_up:
            self._by_identity[node.identity] = node
        self._by_path.update(dict.fromkeys(paths, node))

    def _handle_changed(self, number: int, value: Any) -> None:
        """Machine code has opened or closed a handle; what it closed is closed."""
        handle = self.handles.pop(number, None)
        if handle is not None:
            self._closed(handle.node)
        if value is not None and self._tables is not None:
            node, flags = value
            self.handles[number] = Handle(number, node, flags, self._tables.file(number))
            self._open[node] += 1

    # -- nodes -----------------------------------------------------------------------------------------------------

    def get(self, number: int) -> Node:
        """Raises OSError ESTALE."""
        if number == ROOT_NODE:
            return Node(ROOT_NODE, (0, 0), [ROOT])
        found = self._nodes.get(number)
        return found if found is not None else fail(errno.ESTALE)

    def at(self, path: bytes) -> Node | None:
        """The node that the guest has found at a path."""
        return self._by_path.get(path)

    def nameless(self, seen: Attributes) -> Node:
        """The node of a new file that has no name, held once. Raises OSError ENFILE."""
        node = self._node((seen.device, seen.inode))
        self._counts.add(node.place, 1)
        self._keep(node)
        return node

    def found(self, path: bytes, seen: Attributes) -> Node:
        """The guest looked this up: its node, held once more. Raises OSError ENFILE."""
        identity = (seen.device, seen.inode)
        there = self._by_path.get(path)
        if there is not None and there.identity != identity:
            self.unlinked(path)
        node = self._node(identity)
        self._counts.add(node.place, 1)
        if path not in node.paths:
            node.paths.append(path)
            self._name(path, node)
            self._keep(node)
        else:
            self._tell(node)  # another may have had its place
        return node

    def forget(self, number: int, lookups: int) -> None:
        """The guest holds it so many times less."""
        node = self._nodes.get(number)
        if node is None:
            return
        if self._counts.add(node.place, -lookups) > 0:
            return
        del self._nodes[number]
        self._give_up(node)
        for path in node.paths:
            self._unname(path)
        self._journal.drop(number)
        self._counts.give(node.place)
        if self._tables is not None:
            self._tables.gone(number)

    def unlinked(self, path: bytes) -> None:
        """Nothing is at `path` any more."""
        node = self._unname(path)
        if node is not None:
            node.paths.remove(path)
            if not node.paths and not self.is_open(node.number):
                self._give_up(node)
            self._keep(node)

    def closed(self, number: int) -> None:
        """Nobody has the node open any more."""
        node = self._nodes.get(number)
        if node is not None and not node.paths and not self.is_open(number) and not node.given_up:
            self._give_up(node)
            self._keep(node)

    def _give_up(self, node: Node) -> None:
        """The node's file is none of the guest's any more."""
        if not node.given_up:
            del self._by_identity[node.identity]
            if self._tables is not None:
                self._tables.count_file(node.identity, -1)
            node.identity = NOTHING

    def renamed(self, old: bytes, new: bytes, again: bool = False) -> None:
        """What was at `old`, and below, is at `new` now; what was at `new` is gone, unless a predecessor has seen to
        all that (`again`, and nothing is at `old`)."""
        if not again or old in self._by_path:
            self.unlinked(new)
        self._move({old: new})

    def exchanged(self, one: bytes, other: bytes) -> None:
        """What was at each path, and below, is at the other."""
        self._move({one: other, other: one})

    def _move(self, moves: dict[bytes, bytes]) -> None:
        changed = [path for path in self._by_path if _moved(path, moves) != path]
        taken = [(path, _moved(path, moves), node) for path in changed if (node := self._unname(path)) is not None]
        for old, new, node in taken:
            self.unlinked(new)  # what the host had put there in between
            node.paths[node.paths.index(old)] = new
            self._name(new, node)
        for _, _, node in taken:
            self._keep(node)

    def _name(self, path: bytes, node: Node) -> None:
        """The node is at a path where none was."""
        self._by_path[path] = node
        if self._tables is not None:
            self._tables.count_path(path, 1)

    def _unname(self, path: bytes) -> Node | None:
        """No node is at a path any more; returns which was."""
        node = self._by_path.pop(path, None)
        if node is not None and self._tables is not None:
            self._tables.count_path(path, -1)
        return node

    def remembered(self) -> tuple[dict[int, Any], dict[int, int]]:
        """All of it as plain tables: nodes and handles, and the counts of nodes by their places."""
        self.catch_up()
        table = settled(self._journal) | {NEXT_KEY: [self._next_node, self._next_handle]}
        return table, self._counts.at(node.place for node in self._nodes.values())

    # -- handles ---------------------------------------------------------------------------------------------------

    def opened(self, node: int, flags: int, file: OpenFile) -> Handle:
        """A new handle. Raises OSError EMFILE."""
        if len(self.handles) >= MAX_HANDLES:
            file.close()
            fail(errno.EMFILE)
        handle = Handle(self._next_handle, node, flags, file)
        self._next_handle += 1
        self.handles[handle.number] = handle
        self._open[node] += 1
        self._journal.put(-handle.number, [node, flags])
        self.opened_file(handle)
        self._tell_handles(node)
        return handle

    def handle(self, number: int) -> Handle:
        """Raises OSError EBADF."""
        found = self.handles.get(number)
        return found if found is not None else fail(errno.EBADF)

    def opened_file(self, handle: Handle) -> None:
        """The handle has a file in this process."""
        if self._tables is not None and handle.file is not None:
            self._tables.opened(handle.number, handle.node, handle.flags, handle.file.descriptor())

    def listed(self, handle: Handle) -> None:
        """What is in an open directory was read here."""
        if self._tables is not None:
            self._tables.listed(handle.number)

    def is_open(self, node: int) -> bool:
        """Has the guest a handle of this node?"""
        return node in self._open

    def released(self, number: int) -> Handle | None:
        """The handle is gone; returns what it was."""
        handle = self.handles.pop(number, None)
        if handle is None:
            return None
        self._closed(handle.node)
        self._close_file(handle)
        self._journal.drop(-number)
        self._tell_handles(handle.node)
        return handle

    def clear(self) -> None:
        """A new session begins."""
        self.close_files()
        self._nodes.clear()
        self._by_identity.clear()
        self._by_path.clear()
        self.handles.clear()
        self._open.clear()
        self._journal.clear()
        self._counts.clear()
        if self._tables is not None:
            self._tables.clear()

    def close_files(self) -> None:
        """The end of this process, not of the session."""
        for handle in self.handles.values():
            self._close_file(handle)

    def _node(self, identity: Identity) -> Node:
        """The node of a file, a new one when it has none."""
        node = self._by_identity.get(identity)
        if node is None:
            node = Node(self._next_node, identity, [], self._counts.take())
            self._next_node += 1
            self._enter(node)
            if self._tables is not None:
                self._tables.count_file(identity, 1)
        return node

    def _enter(self, node: Node) -> None:
        self._nodes[node.number] = node
        if not node.given_up:
            self._by_identity[node.identity] = node
        self._by_path.update(dict.fromkeys(node.paths, node))

    def _closed(self, node: int) -> None:
        """One handle of the node less."""
        self._open[node] -= 1
        if self._open[node] <= 0:
            del self._open[node]

    def _keep(self, node: Node) -> None:
        self._journal.put(node.number, [node.identity, node.paths, node.place])
        self._tell(node)

    def _tell(self, node: Node) -> None:
        if self._tables is not None:
            self._tables.node(node.number, node.identity, node.place, self._open.get(node.number, 0), node.paths)

    def _tell_handles(self, number: int) -> None:
        if self._tables is not None and number in self._nodes:
            self._tell(self._nodes[number])

    def _close_file(self, handle: Handle) -> None:
        if handle.file is not None:
            handle.file.close()
            handle.file = None
            if self._tables is not None:
                self._tables.closed(handle.number)


def _moved(path: bytes, moves: dict[bytes, bytes]) -> bytes:
    """Where a path leads when these, and what is below them, have moved."""
    for old, new in moves.items():
        if path == old or path.startswith(old + b"/"):
            return new + path[len(old) :]
    return path
