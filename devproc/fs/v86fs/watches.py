"""inotify on the directories of a host that a guest knows: what changes there without the guest's doing.

A directory is watched from the guest's first look at it or at something in it, before the answer is read: what changes
after that is told. LIMIT directories are watched, and of more those that the guest looked at last; `unwatched` is told
of the others, and of everything (None) when the host has lost events, or makes more than the guest could wait for.

A change that the guest makes itself is not told: what was already there is taken before (`before`), and what its own
names cause is dropped after (`after`). A program on the host that changes the same names in those microseconds goes
unnoticed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import sys
import termios
from collections.abc import Callable, Collection, Iterator
from enum import IntFlag
from typing import NamedTuple, Protocol

from devproc.fs.beneath import by_descriptor
from devproc.fs.tree import fail

__all__ = ["Change", "Event", "Watches"]

LIMIT = 1024
BUFFER = 65536
MANY = 16384  # bytes of events, some five hundred, that are told one by one
_HEAD = struct.Struct("<iIII")  # struct inotify_event
_libc = ctypes.CDLL(None, use_errno=True)


class Change(IntFlag):
    """inotify(7)."""

    MODIFY = 0x2
    ATTRIB = 0x4
    MOVED_FROM = 0x40
    MOVED_TO = 0x80
    CREATE = 0x100
    DELETE = 0x200
    DELETE_SELF = 0x400
    OVERFLOW = 0x4000
    IGNORED = 0x8000
    ONLYDIR = 0x1000000


WANTED = int(
    Change.MODIFY
    | Change.ATTRIB
    | Change.MOVED_FROM
    | Change.MOVED_TO
    | Change.CREATE
    | Change.DELETE
    | Change.DELETE_SELF
    | Change.ONLYDIR
)
OVERFLOW, IGNORED = int(Change.OVERFLOW), int(Change.IGNORED)  # plain numbers are looked at faster


class Event(NamedTuple):
    """Something changed in a directory; `name` is empty when it is the directory itself."""

    directory: bytes
    name: bytes
    change: int
    cookie: int  # both halves of a move have the same


class Holder(Protocol):
    """What is watched: a tree that gives a descriptor of what is at a path."""

    def hold(self, path: bytes) -> int: ...


class Watches:
    """The watches of one tree. Raises OSError when the host has no inotify left."""

    def __init__(
        self, tree: Holder, changed: Callable[[Event], None], unwatched: Callable[[bytes | None], None]
    ) -> None:
        self.fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            fail(ctypes.get_errno())
        self._tree = tree
        self._changed = changed
        self._unwatched = unwatched
        self._paths: dict[int, bytes] = {}
        self._numbers: dict[bytes, int] = {}  # that looked at last is last

    def look(self, path: bytes) -> None:
        """The guest looks at a directory. Raises OSError when it cannot be watched."""
        number = self._numbers.pop(path, None)
        if number is not None:
            self._numbers[path] = number
            return
        fd = self._tree.hold(path)
        try:
            number = _libc.inotify_add_watch(self.fd, os.fsencode(by_descriptor(fd)), WANTED)
            failed = ctypes.get_errno() if number < 0 else 0
        finally:
            os.close(fd)
        if failed:
            fail(failed)
        self._forget(number)  # the directory was known by another path
        self._numbers[path], self._paths[number] = number, path
        if len(self._numbers) > LIMIT:
            self.drop(next(iter(self._numbers)))

    def drop(self, path: bytes) -> None:
        """Watch a directory no longer."""
        number = self._numbers.get(path)
        if number is not None:
            self._forget(number)
            _libc.inotify_rm_watch(self.fd, number)
            self._unwatched(path)

    def renamed(self, old: bytes, new: bytes) -> None:
        """A directory, and all below it, has another path."""
        below = old + b"/"
        for path in [path for path in self._numbers if path == old or path.startswith(below)]:
            number, moved = self._numbers.pop(path), new + path[len(old) :]
            self._numbers[moved], self._paths[number] = number, moved

    def before(self) -> None:
        """Tell of what has changed up to now."""
        self.after(())

    def after(self, own: Collection[tuple[bytes, bytes]]) -> None:
        """The same, but for what happened to these names in these directories."""
        for number, change, cookie, name in self._read():
            if change & OVERFLOW:
                self.clear()  # one of them may be gone; the guest will look again
                self._unwatched(None)
                continue
            directory = self._paths.get(number)
            if directory is None:
                continue
            if change & IGNORED:
                self._forget(number)
            elif (directory, name) not in own:
                self._changed(Event(directory, name, change, cookie))

    def clear(self) -> None:
        """Watch nothing any more."""
        for number in list(self._paths):
            self._forget(number)
            _libc.inotify_rm_watch(self.fd, number)

    def close(self) -> None:
        os.close(self.fd)

    def _forget(self, number: int) -> None:
        path = self._paths.pop(number, None)
        if path is not None and self._numbers.get(path) == number:
            del self._numbers[path]

    def _read(self) -> Iterator[tuple[int, int, int, bytes]]:
        """What there is to be read now. What comes meanwhile can wait: a program of the host may never stop, and the
        guest is to be answered all the same. Of more than MANY bytes is told that it was too much."""
        left = int.from_bytes(fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4)), sys.byteorder)
        too_much = left > MANY
        while left > 0:
            try:
                data = os.read(self.fd, BUFFER)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EINTR):
                    return
                raise
            left -= len(data)
            at = 0
            while at < len(data) and not too_much:
                number, change, cookie, length = _HEAD.unpack_from(data, at)
                at += _HEAD.size + length
                yield number, change, cookie, data[at - length : at].rstrip(b"\0")
        if too_much:
            yield -1, OVERFLOW, 0, b""
