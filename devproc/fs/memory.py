"""A tree in memory, which outlives its process: names and attributes are in a journal, contents in a second memory, and
the supervisor holds both.

Every change of names and attributes is one record of the journal: it has happened, or it has not. Each file's contents
have a gibibyte of their own of the second memory, which is sparse: what is not written is not there, and what lies
behind the end of a file is zero. A file that was open when its last name went stays until `forget_nameless`.

Key 0 of the journal is a record of several changes; inodes are under their numbers, names under numbers below 0.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from devproc.device import Device
from devproc.fs.beneath import allocate
from devproc.fs.journal import Journal, kept_memory, make_memory
from devproc.fs.tree import NOW, Attributes, Changes, Entry, OpenFile, Owner, Space, fail, parent

__all__ = ["MemoryTree", "Node", "kept_tree"]

ROOT_INODE = 1
BLOCK = 4096
PERMISSIONS = 0o7777
RENAME_NOREPLACE = 1
XATTR_CREATE, XATTR_REPLACE = 1, 2
SIZE_MAX = 1 << 30  # of one file
BLOCKS, BLOCKS_FREE = 1048576, 524288  # what the tree says it has; 2 GiB can be used
FILES, FILES_FREE = 1048576, 524288
TEXTS_MAX = 64 << 20  # bytes of all names, targets and extended attributes: what the journal can hold twice
JOURNAL_SIZE = 512 << 20  # sparse
DATA_SIZE = 1 << 62
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 0x10
SEVERAL = 0


class _Journal(Journal):
    """A journal whose record of key 0 is several changes at once."""

    def _apply(self, key: int, value: Any) -> None:
        if key != SEVERAL:
            super()._apply(key, value)
            return
        for each, change in value:
            super()._apply(each, change)


@dataclass
class Node:
    """One file of any kind. `names` is what a directory has, `target` a link's."""

    inode: int
    mode: int
    uid: int
    gid: int
    atime: int
    mtime: int
    ctime: int
    rdev: int = 0
    size: int = 0
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    nlink: int = 1  # what follows is told by the names
    names: dict[bytes, int] = field(default_factory=dict)
    opened: int = 0

    def attributes(self) -> Attributes:
        return Attributes(
            *(self.mode, self.uid, self.gid, self.nlink, self.rdev, self.size, -(-self.size // 512)),
            *(self.atime, self.mtime, self.ctime, 0, self.inode),
        )

    def packed(self) -> list[Any]:
        """What the journal has of it."""
        times = [self.atime, self.mtime, self.ctime]
        return [self.mode, self.uid, self.gid, *times, self.rdev, self.size, self.target, self.xattrs]


class MemoryFile:
    """An open file: its node."""

    def __init__(self, tree: MemoryTree, node: Node, flags: int) -> None:
        self._tree = tree
        self._node = node
        self._access = flags & os.O_ACCMODE
        node.opened += 1

    def read(self, buffers: Sequence[memoryview], offset: int) -> int:
        if self._access == os.O_WRONLY:
            fail(errno.EBADF)
        if stat.S_ISDIR(self._node.mode):
            fail(errno.EISDIR)
        return self._tree.read(self._node, buffers, offset)

    def write(self, buffers: Sequence[memoryview], offset: int) -> int:
        if self._access == os.O_RDONLY:
            fail(errno.EBADF)
        return self._tree.write(self._node, buffers, offset)

    def attributes(self) -> Attributes:
        return self._node.attributes()

    def change(self, changes: Changes) -> None:
        self._tree.change_node(self._node, changes)

    def sync(self, data_only: bool) -> None:
        """It is as stored as it will ever be."""

    def allocate(self, mode: int, offset: int, length: int) -> None:
        """Only makes a file longer: what it has is there, what it may have can be used up by others."""
        if mode:
            fail(errno.EOPNOTSUPP)
        if offset + length > self._node.size:
            self._tree.resize(self._node, offset + length)

    def seek(self, offset: int, whence: int) -> int:
        """There are no holes."""
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            fail(errno.EINVAL)
        if offset >= self._node.size:
            fail(errno.ENXIO)
        return offset if whence == os.SEEK_DATA else self._node.size

    def descriptor(self) -> int:
        fail(errno.EOPNOTSUPP)

    def born(self) -> int | None:
        return None

    def close(self) -> None:
        self._node.opened -= 1
        self._tree.closed(self._node)


class MemoryTree:
    """Files in memory; `nodes` is all there is, by inode. `journal` and `data` are descriptors of memory that outlives
    the process; without them it is the process's own."""

    read_only = False

    def __init__(self, journal: int | None = None, data: int | None = None, first_inode: int = ROOT_INODE + 1) -> None:
        kept = make_memory("tree", JOURNAL_SIZE) if journal is None else journal
        self._journal = _Journal(kept)
        if journal is None:
            os.close(kept)
        self._data = make_memory("contents", DATA_SIZE) if data is None else os.dup(data)
        self._ended = False
        self.nodes: dict[int, Node] = {}
        self._entries: dict[tuple[int, bytes], int] = {}  # the journal's key of each name
        self._load()
        if ROOT_INODE not in self.nodes:
            now = time.time_ns()
            self.nodes[ROOT_INODE] = Node(ROOT_INODE, stat.S_IFDIR | 0o755, 0, 0, now, now, now, nlink=2)
            self._commit(self.nodes[ROOT_INODE])
        self.next_inode = max(first_inode, *(inode + 1 for inode in self.nodes))
        self._next_entry = min([0, *self._entries.values()]) - 1
        self._texts = sum(map(_texts, self.nodes.values())) + sum(len(name) for _, name in self._entries)

    def stat(self, path: bytes) -> Attributes:
        return self._find(path).attributes()

    def identity(self, path: bytes) -> tuple[int, int] | None:
        try:
            seen = self.stat(path)
        except OSError as error:
            return None if error.errno in (errno.ENOENT, errno.ENOTDIR) else fail(error.errno or errno.EIO)
        return seen.device, seen.inode

    def open(self, path: bytes, flags: int) -> OpenFile:
        return self._opened(self._find(path), flags)

    def open_nameless(self, inode: int, flags: int) -> OpenFile:
        """One that has no name any more. Raises OSError ESTALE."""
        node = self.nodes.get(inode)
        return self._opened(node, flags) if node is not None and not node.nlink else fail(errno.ESTALE)

    def forget_nameless(self) -> None:
        """What has no name, and is not open, is wanted by nobody."""
        for node in list(self.nodes.values()):
            self.closed(node)

    def create(self, path: bytes, flags: int, mode: int, owner: Owner) -> OpenFile:
        directory, name = self._place(path)
        if name in directory.names:
            if flags & os.O_EXCL:
                fail(errno.EEXIST)
            return self.open(path, flags)
        return MemoryFile(self, self._add(directory, name, stat.S_IFREG | (mode & PERMISSIONS), owner), flags)

    def temporary(self, directory: bytes, flags: int, mode: int, owner: Owner) -> OpenFile:
        fail(errno.EOPNOTSUPP)

    def adopt(self, descriptor: int) -> OpenFile:
        fail(errno.EOPNOTSUPP)

    def hold(self, path: bytes) -> int:
        """Nothing here has a descriptor; see `open_nameless`."""
        fail(errno.EOPNOTSUPP)

    def held(self, descriptor: int, flags: int) -> OpenFile:
        fail(errno.EOPNOTSUPP)

    def link_held(self, descriptor: int, path: bytes) -> None:
        fail(errno.EOPNOTSUPP)

    def sync(self) -> None:
        """It is as stored as it will ever be."""

    def entries(self, path: bytes) -> list[Entry]:
        node = self._directory(path)
        return [Entry(name, 0, inode, self.nodes[inode].mode >> 12) for name, inode in sorted(node.names.items())]

    def mkdir(self, path: bytes, mode: int, owner: Owner) -> None:
        directory, name = self._free_place(path)
        self._add(directory, name, stat.S_IFDIR | (mode & PERMISSIONS), owner)
        directory.nlink += 1

    def mknod(self, path: bytes, mode: int, rdev: int, owner: Owner) -> None:
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
            fail(errno.EINVAL)
        directory, name = self._free_place(path)
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        self._add(directory, name, kind | (mode & PERMISSIONS), owner, rdev=rdev)

    def settle(self, path: bytes, mode: int, rdev: int, owner: Owner) -> None:
        """What was made here was made whole."""

    def symlink(self, path: bytes, target: bytes, owner: Owner) -> None:
        directory, name = self._free_place(path)
        if not target:
            fail(errno.ENOENT)
        if len(target) >= BLOCK:
            fail(errno.ENAMETOOLONG)
        self._add(directory, name, stat.S_IFLNK | 0o777, owner, target=target)

    def link(self, existing: bytes, path: bytes) -> None:
        source, old = self._place(existing)
        self._place(path)
        node = self._named(source, old)
        directory, name = self._free_place(path)
        if stat.S_ISDIR(node.mode):
            fail(errno.EPERM)
        self._take(len(name))
        node.nlink += 1
        self._commit(directory, node, entries=[self._name(directory, name, node)])

    def readlink(self, path: bytes) -> bytes:
        node = self._find(path)
        if not stat.S_ISLNK(node.mode):
            fail(errno.EINVAL)
        return node.target

    def unlink(self, path: bytes) -> None:
        directory, name = self._place(path)
        node = self._named(directory, name)
        if stat.S_ISDIR(node.mode):
            fail(errno.EISDIR)
        self._commit(directory, node, entries=[self._unname(directory, name, node)])
        self.closed(node)

    def rmdir(self, path: bytes) -> None:
        directory, name = self._place(path)
        node = self._named(directory, name)
        if not stat.S_ISDIR(node.mode):
            fail(errno.ENOTDIR)
        if node.names:
            fail(errno.ENOTEMPTY)
        self._commit(directory, node, entries=[self._unname(directory, name, node)])
        self.closed(node)

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        (source, old_name), (target, new_name) = self._place(old), self._place(new)
        if flags & ~RENAME_NOREPLACE:
            fail(errno.EINVAL)
        node = self._named(source, old_name)
        if new_name in target.names and flags & RENAME_NOREPLACE:
            fail(errno.EEXIST)
        if old.startswith(new + b"/"):
            fail(errno.ENOTEMPTY)
        if stat.S_ISDIR(node.mode) and new.startswith(old + b"/"):
            fail(errno.EINVAL)
        there = self.nodes.get(target.names.get(new_name, 0))
        if there is node:
            return
        if there is not None:
            self._check_replaced(node, there)
        self._take(len(new_name) - len(old_name))
        entries = []
        if there is not None:
            entries.append(self._unname(target, new_name, there))
        entries.append((self._entries.pop((source.inode, old_name)), None))
        del source.names[old_name]
        source.mtime = source.ctime = time.time_ns()
        entries.append(self._name(target, new_name, node))
        if stat.S_ISDIR(node.mode):
            source.nlink -= 1
            target.nlink += 1
        self._commit(source, target, node, *([there] if there else []), entries=entries)
        if there is not None:
            self.closed(there)

    def change(self, path: bytes, changes: Changes) -> None:
        self.change_node(self._find(path), changes)

    def space(self) -> Space:
        free = max(0, BLOCKS_FREE - self._used() // BLOCK)
        return Space(BLOCK, BLOCKS, free, free, FILES, max(0, FILES_FREE - len(self.nodes) + 1))

    def get_xattr(self, path: bytes, name: bytes) -> bytes:
        value = self._find(path).xattrs.get(name)
        return value if value is not None else fail(errno.ENODATA)

    def set_xattr(self, path: bytes, name: bytes, value: bytes, flags: int) -> None:
        node = self._find(path)
        if not name.startswith(b"user."):
            fail(errno.EOPNOTSUPP)
        if name in node.xattrs and flags & XATTR_CREATE:
            fail(errno.EEXIST)
        if name not in node.xattrs and flags & XATTR_REPLACE:
            fail(errno.ENODATA)
        more = len(value) - len(node.xattrs[name]) if name in node.xattrs else len(name) + len(value)
        self._take(more)
        node.xattrs[name] = value
        self._commit(node)

    def list_xattrs(self, path: bytes) -> list[bytes]:
        return list(self._find(path).xattrs)

    def remove_xattr(self, path: bytes, name: bytes) -> None:
        node = self._find(path)
        value = node.xattrs.pop(name, None)
        if value is None:
            fail(errno.ENODATA)
        self._texts -= len(name) + len(value)
        self._commit(node)

    def close(self) -> None:
        """The end of this process; what is kept stays, with what is open."""
        self._ended = True
        self._journal.close()
        os.close(self._data)

    # -- contents --------------------------------------------------------------------------------------------------

    def read(self, node: Node, buffers: Sequence[memoryview], offset: int) -> int:
        """Fill the buffers; how many bytes there were."""
        buffers = _first(buffers, max(0, node.size - offset))
        return os.preadv(self._data, buffers, _begin(node) + offset) if buffers else 0

    def write(self, node: Node, buffers: Sequence[memoryview], offset: int) -> int:
        """Write the buffers; how many bytes were taken."""
        size = sum(map(len, buffers))
        if offset + size > SIZE_MAX:
            fail(errno.EFBIG)
        if self._used() + size > BLOCKS_FREE * BLOCK:
            fail(errno.ENOSPC)
        done = os.pwritev(self._data, buffers, _begin(node) + offset) if buffers else 0
        node.size = max(node.size, offset + done)
        node.mtime = node.ctime = time.time_ns()
        self._commit(node)
        return done

    def resize(self, node: Node, size: int) -> None:
        """What is behind the new end is zero from now on, also when the file grows again."""
        if not stat.S_ISREG(node.mode):
            fail({stat.S_IFDIR: errno.EISDIR, stat.S_IFLNK: errno.ELOOP}.get(stat.S_IFMT(node.mode), errno.ENXIO))
        if size > SIZE_MAX:
            fail(errno.EFBIG)
        node.size = size
        self._commit(node)
        self._clear(node.inode, size)

    def change_node(self, node: Node, changes: Changes) -> None:
        """What `change` does to a node."""
        now = time.time_ns()
        if changes.size is not None:
            self.resize(node, changes.size)
            node.mtime = now
        if changes.mode is not None and not stat.S_ISLNK(node.mode):
            node.mode = stat.S_IFMT(node.mode) | (changes.mode & PERMISSIONS)
        node.uid = node.uid if changes.uid is None else changes.uid
        node.gid = node.gid if changes.gid is None else changes.gid
        if changes.atime is not None:
            node.atime = now if changes.atime == NOW else changes.atime
        if changes.mtime is not None:
            node.mtime = now if changes.mtime == NOW else changes.mtime
        node.ctime = now
        self._commit(node)

    def closed(self, node: Node) -> None:
        """A node that nobody has open, and that has no names, goes."""
        if self._ended or node.nlink or node.opened or node.inode not in self.nodes:
            return
        del self.nodes[node.inode]
        self._texts -= _texts(node)
        self._journal.drop(node.inode)
        self._clear(node.inode, 0)

    def _clear(self, inode: int, begin: int) -> None:
        if begin < SIZE_MAX:
            at = inode * SIZE_MAX + begin
            allocate(self._data, FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE, at, SIZE_MAX - begin)

    def _used(self) -> int:
        return os.fstat(self._data).st_blocks * 512

    # -- nodes -----------------------------------------------------------------------------------------------------

    def _opened(self, node: Node, flags: int) -> OpenFile:
        if stat.S_ISLNK(node.mode):
            fail(errno.ENOTDIR if flags & os.O_DIRECTORY else errno.ELOOP)
        if stat.S_ISDIR(node.mode):
            if flags & (os.O_ACCMODE | os.O_TRUNC):
                fail(errno.EISDIR)
        elif flags & os.O_DIRECTORY:
            fail(errno.ENOTDIR)
        elif not stat.S_ISREG(node.mode):
            fail(errno.ENXIO)
        if flags & os.O_TRUNC:
            self.resize(node, 0)
        return MemoryFile(self, node, flags)

    def _find(self, path: bytes) -> Node:
        node = self.nodes[ROOT_INODE]
        for name in path.split(b"/") if path else []:
            if not stat.S_ISDIR(node.mode):
                fail(errno.ELOOP if stat.S_ISLNK(node.mode) else errno.ENOTDIR)
            if name not in node.names:
                fail(errno.ENOENT)
            node = self.nodes[node.names[name]]
        return node

    def _named(self, directory: Node, name: bytes) -> Node:
        return self.nodes[directory.names[name]] if name in directory.names else fail(errno.ENOENT)

    def _directory(self, path: bytes) -> Node:
        node = self._find(path)
        return node if stat.S_ISDIR(node.mode) else fail(errno.ENOTDIR)

    def _place(self, path: bytes) -> tuple[Node, bytes]:
        directory, name = parent(path)
        return self._directory(directory), name

    def _free_place(self, path: bytes) -> tuple[Node, bytes]:
        directory, name = self._place(path)
        if name in directory.names:
            fail(errno.EEXIST)
        return directory, name

    def _add(self, directory: Node, name: bytes, mode: int, owner: Owner, rdev: int = 0, target: bytes = b"") -> Node:
        if len(self.nodes) > FILES_FREE or len(self._entries) > FILES_FREE:
            fail(errno.ENOSPC)
        self._take(len(name) + len(target))
        now = time.time_ns()
        node = Node(self.next_inode, mode, owner.uid, owner.gid, now, now, now, rdev, len(target), target)
        if directory.mode & stat.S_ISGID:
            node.gid = directory.gid
            node.mode |= stat.S_ISGID if stat.S_ISDIR(mode) else 0
        if stat.S_ISDIR(mode):
            node.nlink = 2
        self.next_inode += 1
        self.nodes[node.inode] = node
        self._commit(directory, node, entries=[self._name(directory, name, node)])
        return node

    def _take(self, size: int) -> None:
        """So many bytes of text more. Raises OSError ENOSPC."""
        if size > 0 and self._texts + size > TEXTS_MAX:
            fail(errno.ENOSPC)
        self._texts += size

    def _name(self, directory: Node, name: bytes, node: Node) -> tuple[int, Any]:
        """Give a node a name; the journal's word for that."""
        key = self._next_entry
        self._next_entry -= 1
        directory.names[name] = node.inode
        self._entries[directory.inode, name] = key
        directory.mtime = directory.ctime = node.ctime = time.time_ns()
        return key, [directory.inode, name, node.inode]

    def _unname(self, directory: Node, name: bytes, node: Node) -> tuple[int, Any]:
        """Take a name away; the journal's word for that. A node without names goes when nobody has it open."""
        del directory.names[name]
        directory.mtime = directory.ctime = node.ctime = time.time_ns()
        node.nlink -= 1
        if stat.S_ISDIR(node.mode):
            node.nlink = 0
            directory.nlink -= 1
        self._texts -= len(name)
        return self._entries.pop((directory.inode, name)), None

    @staticmethod
    def _check_replaced(node: Node, there: Node) -> None:
        if stat.S_ISDIR(there.mode):
            if not stat.S_ISDIR(node.mode):
                fail(errno.EISDIR)
            if there.names:
                fail(errno.ENOTEMPTY)
        elif stat.S_ISDIR(node.mode):
            fail(errno.ENOTDIR)

    # -- the journal -----------------------------------------------------------------------------------------------

    def _commit(self, *nodes: Node, entries: Sequence[tuple[int, Any]] = ()) -> None:
        """All of this has happened, or nothing."""
        self._journal.put(SEVERAL, [*((node.inode, node.packed()) for node in nodes), *entries])

    def _load(self) -> None:
        """What a predecessor left: nodes, then their names, and how often each is named."""
        table = self._journal.table
        for key, value in table.items():
            if key > 0:
                self.nodes[key] = Node(key, *value)
                self.nodes[key].nlink = 2 if key == ROOT_INODE else 0
        for key, value in table.items():
            if key < 0:
                inside, name, inode = value
                self._entries[inside, name] = key
                self.nodes[inside].names[name] = inode
                node = self.nodes[inode]
                node.nlink += 2 if stat.S_ISDIR(node.mode) else 1
                self.nodes[inside].nlink += stat.S_ISDIR(node.mode)
        self._clear_strays()

    def _clear_strays(self) -> None:
        """Contents of what had gone when a predecessor was killed."""
        at = 0
        while True:
            try:
                at = os.lseek(self._data, at, os.SEEK_DATA)
            except OSError:
                return  # there is no more
            inode = at // SIZE_MAX
            if inode not in self.nodes:
                self._clear(inode, 0)
            at = (inode + 1) * SIZE_MAX


def kept_tree(device: Device) -> MemoryTree:
    """The tree that the supervisor holds for a device, an empty one when there is none."""
    journal = kept_memory(device, "tree", JOURNAL_SIZE)
    data = kept_memory(device, "contents", DATA_SIZE)
    try:
        return MemoryTree(journal, data)
    finally:
        os.close(journal)
        os.close(data)


def _texts(node: Node) -> int:
    """Bytes of a link's target and of extended attributes."""
    return len(node.target) + sum(len(name) + len(value) for name, value in node.xattrs.items())


def _begin(node: Node) -> int:
    return node.inode * SIZE_MAX


def _first(buffers: Sequence[memoryview], size: int) -> list[memoryview]:
    """The first bytes of the buffers."""
    found = []
    for buffer in buffers:
        if size <= 0:
            break
        found.append(buffer[:size])
        size -= len(found[-1])
    return found
