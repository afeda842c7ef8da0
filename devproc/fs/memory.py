"""A tree in memory: plain data from the first inode on, so that it can be kept and handed over as it is."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from devproc.fs.tree import NOW, Attributes, Changes, Entry, OpenFile, Owner, Space, fail, parent

__all__ = ["MemoryTree", "Node"]

ROOT_INODE = 1
BLOCK = 4096
PERMISSIONS = 0o7777
RENAME_NOREPLACE = 1
XATTR_CREATE, XATTR_REPLACE = 1, 2
SIZE_MAX = 1 << 30  # of one file


@dataclass
class Node:
    """One file of any kind. `names` is what a directory has, `data` a file's bytes or a link's target."""

    inode: int
    mode: int
    uid: int
    gid: int
    atime: int
    mtime: int
    ctime: int
    rdev: int = 0
    nlink: int = 1
    data: bytearray = field(default_factory=bytearray)
    names: dict[bytes, int] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    def attributes(self) -> Attributes:
        size = len(self.data)
        return Attributes(
            *(self.mode, self.uid, self.gid, self.nlink, self.rdev, size, -(-size // 512)),
            *(self.atime, self.mtime, self.ctime, 0, self.inode),
        )

    def change(self, changes: Changes) -> None:
        now = time.time_ns()
        if changes.size is not None:
            self.resize(changes.size)
            self.mtime = now
        if changes.mode is not None and not stat.S_ISLNK(self.mode):
            self.mode = stat.S_IFMT(self.mode) | (changes.mode & PERMISSIONS)
        self.uid = self.uid if changes.uid is None else changes.uid
        self.gid = self.gid if changes.gid is None else changes.gid
        if changes.atime is not None:
            self.atime = now if changes.atime == NOW else changes.atime
        if changes.mtime is not None:
            self.mtime = now if changes.mtime == NOW else changes.mtime
        self.ctime = now

    def resize(self, size: int) -> None:
        if not stat.S_ISREG(self.mode):
            fail({stat.S_IFDIR: errno.EISDIR, stat.S_IFLNK: errno.ELOOP}.get(stat.S_IFMT(self.mode), errno.ENXIO))
        if size > SIZE_MAX:
            fail(errno.EFBIG)
        if size < len(self.data):
            del self.data[size:]
        else:
            self.data.extend(bytes(size - len(self.data)))


class MemoryFile:
    """An open file: its node."""

    def __init__(self, node: Node, flags: int) -> None:
        self._node = node
        self._access = flags & os.O_ACCMODE

    def read(self, buffers: Sequence[memoryview], offset: int) -> int:
        if self._access == os.O_WRONLY:
            fail(errno.EBADF)
        if stat.S_ISDIR(self._node.mode):
            fail(errno.EISDIR)
        done = 0
        for buffer in buffers:
            piece = self._node.data[offset + done : offset + done + len(buffer)]
            buffer[: len(piece)] = piece
            done += len(piece)
        return done

    def write(self, buffers: Sequence[memoryview], offset: int) -> int:
        if self._access == os.O_RDONLY:
            fail(errno.EBADF)
        data = b"".join(buffers)
        if offset + len(data) > len(self._node.data):
            self._node.resize(offset + len(data))
        self._node.data[offset : offset + len(data)] = data
        self._node.mtime = self._node.ctime = time.time_ns()
        return len(data)

    def attributes(self) -> Attributes:
        return self._node.attributes()

    def change(self, changes: Changes) -> None:
        self._node.change(changes)

    def sync(self, data_only: bool) -> None:
        """It is as stored as it will ever be."""

    def allocate(self, mode: int, offset: int, length: int) -> None:
        if mode:
            fail(errno.EOPNOTSUPP)
        if offset + length > len(self._node.data):
            self._node.resize(offset + length)

    def seek(self, offset: int, whence: int) -> int:
        """There are no holes."""
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            fail(errno.EINVAL)
        if offset >= len(self._node.data):
            fail(errno.ENXIO)
        return offset if whence == os.SEEK_DATA else len(self._node.data)

    def descriptor(self) -> int:
        fail(errno.EOPNOTSUPP)

    def born(self) -> int | None:
        return None

    def close(self) -> None:
        """Nothing is held."""


class MemoryTree:
    """Files in this process; `nodes` is all there is, by inode."""

    def __init__(self) -> None:
        now = time.time_ns()
        self.nodes = {ROOT_INODE: Node(ROOT_INODE, stat.S_IFDIR | 0o755, 0, 0, now, now, now, nlink=2)}
        self.next_inode = ROOT_INODE + 1

    def stat(self, path: bytes) -> Attributes:
        return self._find(path).attributes()

    def open(self, path: bytes, flags: int) -> OpenFile:
        node = self._find(path)
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
            node.resize(0)
        return MemoryFile(node, flags)

    def create(self, path: bytes, flags: int, mode: int, owner: Owner) -> OpenFile:
        directory, name = self._place(path)
        if name in directory.names:
            if flags & os.O_EXCL:
                fail(errno.EEXIST)
            return self.open(path, flags)
        return MemoryFile(self._add(directory, name, stat.S_IFREG | (mode & PERMISSIONS), owner), flags)

    def entries(self, path: bytes) -> list[Entry]:
        node = self._directory(path)
        return [Entry(name, 0, inode, self.nodes[inode].mode >> 12) for name, inode in sorted(node.names.items())]

    def temporary(self, directory: bytes, flags: int, mode: int, owner: Owner) -> OpenFile:
        fail(errno.EOPNOTSUPP)

    def hold(self, path: bytes) -> int:
        """A node without names goes when the process does."""
        fail(errno.EOPNOTSUPP)

    def held(self, descriptor: int, flags: int) -> OpenFile:
        fail(errno.EOPNOTSUPP)

    def link_held(self, descriptor: int, path: bytes) -> None:
        fail(errno.EOPNOTSUPP)

    def sync(self) -> None:
        """It is as stored as it will ever be."""

    def mkdir(self, path: bytes, mode: int, owner: Owner) -> None:
        directory, name = self._free_place(path)
        self._add(directory, name, stat.S_IFDIR | (mode & PERMISSIONS), owner).nlink = 2
        directory.nlink += 1

    def mknod(self, path: bytes, mode: int, rdev: int, owner: Owner) -> None:
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
            fail(errno.EINVAL)
        directory, name = self._free_place(path)
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        self._add(directory, name, kind | (mode & PERMISSIONS), owner).rdev = rdev

    def symlink(self, path: bytes, target: bytes, owner: Owner) -> None:
        directory, name = self._free_place(path)
        if not target:
            fail(errno.ENOENT)
        self._add(directory, name, stat.S_IFLNK | 0o777, owner).data[:] = target

    def link(self, existing: bytes, path: bytes) -> None:
        source, old = self._place(existing)
        self._place(path)
        node = self._named(source, old)
        directory, name = self._free_place(path)
        if stat.S_ISDIR(node.mode):
            fail(errno.EPERM)
        node.nlink += 1
        self._name(directory, name, node)

    def readlink(self, path: bytes) -> bytes:
        node = self._find(path)
        if not stat.S_ISLNK(node.mode):
            fail(errno.EINVAL)
        return bytes(node.data)

    def unlink(self, path: bytes) -> None:
        directory, name = self._place(path)
        node = self._named(directory, name)
        if stat.S_ISDIR(node.mode):
            fail(errno.EISDIR)
        self._unname(directory, name, node)

    def rmdir(self, path: bytes) -> None:
        directory, name = self._place(path)
        node = self._named(directory, name)
        if not stat.S_ISDIR(node.mode):
            fail(errno.ENOTDIR)
        if node.names:
            fail(errno.ENOTEMPTY)
        self._unname(directory, name, node)

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
            self._unname(target, new_name, there)
        del source.names[old_name]
        self._name(target, new_name, node)
        if stat.S_ISDIR(node.mode):
            source.nlink -= 1
            target.nlink += 1

    def change(self, path: bytes, changes: Changes) -> None:
        self._find(path).change(changes)

    def space(self) -> Space:
        return Space(BLOCK, 1048576, 524288, 524288, 1048576, 524288)

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
        node.xattrs[name] = value

    def list_xattrs(self, path: bytes) -> list[bytes]:
        return list(self._find(path).xattrs)

    def remove_xattr(self, path: bytes, name: bytes) -> None:
        if self._find(path).xattrs.pop(name, None) is None:
            fail(errno.ENODATA)

    def close(self) -> None:
        """Nothing is held."""

    # -- nodes -----------------------------------------------------------------------------------------------------

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

    def _add(self, directory: Node, name: bytes, mode: int, owner: Owner) -> Node:
        now = time.time_ns()
        node = Node(self.next_inode, mode, owner.uid, owner.gid, now, now, now)
        if directory.mode & stat.S_ISGID:
            node.gid = directory.gid
            node.mode |= stat.S_ISGID if stat.S_ISDIR(mode) else 0
        self.next_inode += 1
        self.nodes[node.inode] = node
        self._name(directory, name, node)
        return node

    def _name(self, directory: Node, name: bytes, node: Node) -> None:
        directory.names[name] = node.inode
        directory.mtime = directory.ctime = node.ctime = time.time_ns()

    def _unname(self, directory: Node, name: bytes, node: Node) -> None:
        """Take a name away; a node without names goes, and lives on in those who have it open."""
        del directory.names[name]
        directory.mtime = directory.ctime = node.ctime = time.time_ns()
        node.nlink -= 1
        if stat.S_ISDIR(node.mode):
            node.nlink = 0
            directory.nlink -= 1
        if node.nlink == 0:
            del self.nodes[node.inode]

    @staticmethod
    def _check_replaced(node: Node, there: Node) -> None:
        if stat.S_ISDIR(there.mode):
            if not stat.S_ISDIR(node.mode):
                fail(errno.EISDIR)
            if there.names:
                fail(errno.ENOTEMPTY)
        elif stat.S_ISDIR(node.mode):
            fail(errno.ENOTDIR)
