"""What is behind a v86fs device: an object with a method for each request, which answers now or later.

    class Clock:
        def readlink(self, reply, inode):
            reply(0, time.ctime().encode())

A method is called with `reply` and the fields of the request, in the order of `messages.REQUESTS`. It calls `reply`
once, whenever it likes, on the device's thread: with a status, 0 or a Linux errno, and if that is 0 with the fields of
the response in the order of `messages.RESPONSES`. OSError raised by the method is a reply too. Requests that an adapter
has no method for are answered by the tree in memory (`V86fsDevice.adapter` in device.py is where one is set).

`reply.again`: a predecessor of this process had taken the request; it may have been carried out already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from devproc.fs.v86fs.messages import Listed

__all__ = ["Adapter", "Listed", "Reply"]

Views = Sequence[memoryview]


class Reply(Protocol):
    """How a method answers."""

    again: bool

    def __call__(self, status: int, *fields: Any) -> None: ...


class Adapter(Protocol):
    """All methods there are. Names and targets are bytes; inodes and handles are the adapter's own numbers."""

    def mount(self, reply: Reply, name: bytes) -> None:
        """reply(0, root inode, mode)."""

    def lookup(self, reply: Reply, parent: int, name: bytes) -> None:
        """reply(0, inode, mode, size)."""

    def getattr(self, reply: Reply, inode: int) -> None:
        """reply(0, mode, size, seconds, nanoseconds) of the last change."""

    def readdir(self, reply: Reply, inode: int) -> None:
        """reply(0, entries): a list of `Listed`, which is cut to what the guest has room for."""

    def open(self, reply: Reply, inode: int, flags: int) -> None:
        """reply(0, handle)."""

    def close(self, reply: Reply, handle: int) -> None:
        """reply(0)."""

    def read(self, reply: Reply, handle: int, offset: int, size: int, buffers: Views) -> None:
        """Fill the buffers, which are the guest's memory; reply(0, how many bytes there were)."""

    def create(self, reply: Reply, parent: int, name: bytes, mode: int) -> None:
        """reply(0, inode, mode)."""

    def write(self, reply: Reply, inode: int, offset: int, size: int, data: Views) -> None:
        """`data` is the guest's memory, which it can change at any time; reply(0, how many bytes were taken)."""

    def mkdir(self, reply: Reply, parent: int, name: bytes, mode: int) -> None:
        """reply(0, inode, mode)."""

    def setattr(self, reply: Reply, inode: int, valid: int, mode: int, size: int) -> None:
        """`valid` says what of it counts: 1 mode, 8 size. reply(0)."""

    def fsync(self, reply: Reply, inode: int) -> None:
        """reply(0)."""

    def unlink(self, reply: Reply, parent: int, name: bytes) -> None:
        """Of a file or an empty directory. reply(0)."""

    def rename(self, reply: Reply, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes) -> None:
        """What was at the new name is replaced. reply(0)."""

    def symlink(self, reply: Reply, parent: int, name: bytes, target: bytes) -> None:
        """reply(0, inode, mode)."""

    def readlink(self, reply: Reply, inode: int) -> None:
        """reply(0, target)."""

    def statfs(self, reply: Reply) -> None:
        """reply(0, blocks, bfree, bavail, files, ffree, bsize)."""
