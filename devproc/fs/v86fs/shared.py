"""The adapter that shares a tree: a directory of the host, or one in memory. It answers at once, so requests are
answered in the order in which they were taken.

Inodes, handles and intents are in a journal that outlives the process. What others change in the tree is pushed to the
guest (`devproc.fs.v86fs.push`), before each request that looks; what the guest changes is not.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from devproc.fs.intents import Careful, Intents
from devproc.fs.tree import ROOT, Attributes, Changes, Owner, Tree, fail, join, parent
from devproc.fs.v86fs.adapter import Listed, Reply, Views
from devproc.fs.v86fs.files import Files, regular, writable
from devproc.fs.v86fs.inodes import ROOT_INODE, Inode, Inodes
from devproc.fs.v86fs.push import Push

__all__ = ["SharedTree"]

SECOND = 1_000_000_000
MODE, SIZE = 1, 8  # SETATTR's valid
END = 1 << 63  # no file is longer
FAR = 1 << 31
# Linux's numbers of open flags on architectures without their own: access mode, O_TRUNC, O_DIRECTORY.
ACCESS, TRUNCATE, DIRECTORY = 0o3, 0o1000, 0o200000


class SharedTree:
    """`name` is what MOUNT may ask for; the empty name is the same."""

    def __init__(self, tree: Tree, name: bytes, intents: Intents, inodes: Inodes, files: Files, push: Push) -> None:
        self._tree: Tree = Careful(tree, intents)
        self._name = name
        self._intents = intents
        self._inodes = inodes
        self._files = files
        self._push = push

    def mount(self, reply: Reply, name: bytes) -> None:
        if name not in (b"", self._name):
            fail(errno.ENOENT)
        self._push.looks(ROOT)
        reply(0, ROOT_INODE, self._tree.stat(ROOT).mode)

    # -- looking ---------------------------------------------------------------------------------------------------

    def lookup(self, reply: Reply, parent: int, name: bytes) -> None:
        directory = self._inodes.get(parent).path
        path = join(directory, name)
        self._push.looks(directory)
        seen = self._tree.stat(path)
        reply(0, self._inodes.found(path, seen).number, seen.mode, seen.size)

    def getattr(self, reply: Reply, inode: int) -> None:
        self._look_at(self._inodes.get(inode))
        seen = self._files.attributes(inode)
        reply(0, seen.mode, seen.size, *divmod(max(seen.mtime, 0), SECOND))

    def readdir(self, reply: Reply, inode: int) -> None:
        """Every entry is known to the guest from then on, as after LOOKUP."""
        directory = self._inodes.get(inode).path
        self._push.looks(directory)
        listed = []
        for entry in self._tree.entries(directory):
            path = join(directory, entry.name)
            listed.append(Listed(self._inodes.found(path, entry).number, entry.kind, entry.name))
        reply(0, listed)

    def readlink(self, reply: Reply, inode: int) -> None:
        found = self._inodes.get(inode)
        self._look_at(found)
        reply(0, self._tree.readlink(found.path))

    def statfs(self, reply: Reply) -> None:
        seen = self._tree.space()
        reply(0, seen.blocks, seen.free, seen.available, seen.files, seen.files_free, seen.block_size)

    # -- files -----------------------------------------------------------------------------------------------------

    def open(self, reply: Reply, inode: int, flags: int) -> None:
        found = self._inodes.get(inode)
        self._look_at(found)
        seen = self._files.attributes(inode)
        regular(seen)
        if seen.directory and flags & (ACCESS | TRUNCATE):
            fail(errno.EISDIR)
        if not seen.directory:
            if flags & DIRECTORY:
                fail(errno.ENOTDIR)
            file = self._files.get(inode)
            if flags & TRUNCATE:
                with self._own(found):
                    file.change(Changes(size=0))
        reply(0, self._inodes.open(inode))

    def close(self, reply: Reply, handle: int) -> None:
        if self._inodes.of_handle(handle) is None:
            reply(0 if reply.again else errno.EBADF)  # done by a predecessor
            return
        gone = self._inodes.close(handle)
        if gone is not None:
            self._files.gone(gone)
        reply(0)

    def read(self, reply: Reply, handle: int, offset: int, size: int, buffers: Views) -> None:
        """A handle that is not known is taken for an inode."""
        inode = self._inodes.of_handle(handle)
        if inode is None:
            inode = handle
        self._look_at(self._inodes.get(inode))
        file = self._files.get(inode)
        far = offset + size > FAR and offset >= file.attributes().size  # a host may refuse to look there
        reply(0, 0 if far else file.read(buffers, offset))

    def write(self, reply: Reply, inode: int, offset: int, size: int, data: Views) -> None:
        found = self._inodes.get(inode)
        if offset + size > END:
            fail(errno.EFBIG)
        file = self._files.get(inode)
        with self._own(found):
            try:
                done = file.write(data, offset)
            except OSError as error:
                raise writable(error) from error
        reply(0, done)

    def setattr(self, reply: Reply, inode: int, valid: int, mode: int, size: int) -> None:
        found = self._inodes.get(inode)
        changes = Changes(mode=mode & 0o7777 if valid & MODE else None, size=size if valid & SIZE else None)
        if size >= END and valid & SIZE:
            fail(errno.EFBIG)
        with self._own(found):
            if found.paths:
                self._tree.change(found.path, changes)
            else:
                self._files.get(inode).change(changes)
        reply(0)

    def fsync(self, reply: Reply, inode: int) -> None:
        found = self._inodes.get(inode)
        if self._files.attributes(inode).directory:
            directory = self._tree.open(found.path, os.O_DIRECTORY)
            try:
                directory.sync(False)
            finally:
                directory.close()
        else:
            self._files.get(inode).sync(False)
        reply(0)

    # -- names -----------------------------------------------------------------------------------------------------

    def create(self, reply: Reply, parent: int, name: bytes, mode: int) -> None:
        path = join(self._inodes.get(parent).path, name)
        with self._push.own(path):
            file = self._tree.create(path, os.O_RDWR | os.O_EXCL, mode, Owner())
        seen = file.attributes()
        inode = self._inodes.found(path, seen)
        self._files.created(inode.number, file)
        reply(0, inode.number, seen.mode)

    def mkdir(self, reply: Reply, parent: int, name: bytes, mode: int) -> None:
        path = join(self._inodes.get(parent).path, name)
        with self._push.own(path):
            self._tree.mkdir(path, mode, Owner())
        self._made(reply, path)

    def symlink(self, reply: Reply, parent: int, name: bytes, target: bytes) -> None:
        """The target is the guest's business: nothing here ever follows it."""
        path = join(self._inodes.get(parent).path, name)
        with self._push.own(path):
            self._tree.symlink(path, target, Owner())
        self._made(reply, path)

    def unlink(self, reply: Reply, parent: int, name: bytes) -> None:
        """Of directories too."""
        path = join(self._inodes.get(parent).path, name)
        seen = self._there(path)
        with self._push.own(path):
            self._files.losing(path)
            if seen is not None and seen.directory:
                self._tree.rmdir(path)
            else:
                self._tree.unlink(path)
        self._inodes.unlinked(path)
        reply(0)

    def rename(self, reply: Reply, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes) -> None:
        old = join(self._inodes.get(old_parent).path, old_name)
        new = join(self._inodes.get(new_parent).path, new_name)
        with self._push.own(old, new):
            if old != new:
                self._files.losing(new)
            self._tree.rename(old, new)
        if old != new and self._there(old) is None:  # two names of one file both stay
            self._inodes.renamed(old, new, self._intents.again)
            self._push.renamed(old, new)
        reply(0)

    # -- what they share -------------------------------------------------------------------------------------------

    def _made(self, reply: Reply, path: bytes) -> None:
        seen = self._tree.stat(path)
        reply(0, self._inodes.found(path, seen).number, seen.mode)

    def _look_at(self, inode: Inode) -> None:
        """What happens to this file from now on is pushed: its directory is watched, or that it is one itself."""
        if inode.paths:
            self._push.looks(parent(inode.path)[0] if inode.path else ROOT)

    @contextmanager
    def _own(self, inode: Inode) -> Iterator[None]:
        """The guest changes this."""
        with self._push.own(*inode.paths):
            yield

    def _there(self, path: bytes) -> Attributes | None:
        try:
            return self._tree.stat(path)
        except OSError as error:
            return None if error.errno in (errno.ENOENT, errno.ENOTDIR) else fail(error.errno or errno.EIO)
