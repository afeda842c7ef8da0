"""System calls by which nothing outside a directory can be reached, whoever renames or links what meanwhile.

`Beneath` opens by openat2(2), relative to the descriptor of the shared directory, with RESOLVE_BENEATH,
RESOLVE_NO_MAGICLINKS and RESOLVE_NO_SYMLINKS: the kernel refuses ".." and every link, in one resolution that no rename
can get in between. What it finds is held by an O_PATH descriptor; that is then looked at, and only then opened, by the
descriptor and not by its name again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from functools import cache
from typing import Any

from devproc.fs.tree import Entry, fail, parent
from proto.errors import ConfigError

__all__ = ["Beneath", "allocate", "birth_time", "by_descriptor", "list_directory", "rename2", "set_times", "sync_all"]

SYS_OPENAT2 = 437  # the same on every architecture
RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x02, 0x04, 0x08
RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS
AT_EMPTY_PATH = 0x1000
STATX_BTIME = 0x800
LISTING = 32768  # bytes of a directory read at a time
DT_UNKNOWN = 0
KINDS = frozenset({4, 8, 10})  # DT_DIR, DT_REG, DT_LNK
_DIRENT = struct.Struct("<QqHB")
PATH_MAX = 4096  # what one call takes, with its zero byte
RETRIES = 16  # openat2 says EAGAIN when a rename came in between

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = _libc.getdents64.restype = ctypes.c_long


class _How(ctypes.Structure):
    """struct open_how."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


@cache
def _how(flags: int) -> tuple[Any, int]:
    """The last two arguments of openat2."""
    how = _How(flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0, RESOLVE)
    return ctypes.byref(how), ctypes.sizeof(how)


class _Times(ctypes.Structure):
    """struct timespec[2]: seconds and nanoseconds of atime and mtime."""

    _fields_ = [("words", ctypes.c_long * 4)]


class _Statx(ctypes.Structure):
    """What is needed of struct statx: the mask, and when the file was made."""

    _fields_ = [
        ("mask", ctypes.c_uint32),
        ("before", ctypes.c_uint8 * 76),
        ("seconds", ctypes.c_int64),
        ("nanoseconds", ctypes.c_uint32),
        ("after", ctypes.c_uint8 * 164),
    ]


class _Held:
    """A descriptor that is closed in the end."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


class _Place(_Held):
    """A directory's, with a name in it."""

    __slots__ = ("name",)

    def __init__(self, fd: int, name: bytes) -> None:
        self.fd, self.name = fd, name

    def __enter__(self) -> tuple[int, bytes]:  # type: ignore[override]
        return self.fd, self.name


class Beneath:
    """One directory, and what is below it. Raises ConfigError when it is none, or the kernel has no openat2 (5.6)."""

    def __init__(self, directory: str) -> None:
        try:
            self.fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"{directory}: {error.strerror}", hint="A share is a directory.") from error
        try:
            os.close(self.open(b"", os.O_PATH))
        except OSError as error:
            os.close(self.fd)
            why = "the kernel has no openat2 (Linux 5.6)" if error.errno == errno.ENOSYS else error.strerror
            raise ConfigError(
                f"{directory} cannot be shared safely: {why}", hint="Nothing else keeps a guest inside a directory."
            ) from error

    def open(self, path: bytes, flags: int) -> int:
        """A descriptor of what is at `path`, of a symbolic link itself with O_PATH; longer ones than one call takes are
        resolved in steps. Raises OSError."""
        if len(path) < PATH_MAX:
            return self._open(self.fd, path, flags)
        cut = path.rindex(b"/", 0, PATH_MAX)
        at = self._open(self.fd, path[:cut], os.O_PATH | os.O_DIRECTORY)
        while len(path) - cut - 1 >= PATH_MAX:
            begin, cut = cut + 1, path.rindex(b"/", cut + 1, cut + PATH_MAX)
            at = self._step(at, path[begin:cut], os.O_PATH | os.O_DIRECTORY)
        return self._step(at, path[cut + 1 :], flags)

    def _step(self, at: int, path: bytes, flags: int) -> int:
        """From one directory on the way to the next; the descriptor of the former is closed."""
        try:
            return self._open(at, path, flags)
        finally:
            os.close(at)

    @staticmethod
    def _open(at: int, path: bytes, flags: int) -> int:
        how = _how(flags)
        for _ in range(RETRIES):
            fd: int = _libc.syscall(SYS_OPENAT2, at, path or b".", *how)
            if fd >= 0:
                return fd
            if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
                break
        fail(ctypes.get_errno())

    def find(self, path: bytes) -> int | None:
        """An O_PATH descriptor of what is at `path`; None when nothing is."""
        if len(path) < PATH_MAX:
            fd: int = _libc.syscall(SYS_OPENAT2, self.fd, path or b".", *_how(os.O_PATH))
            if fd >= 0:
                return fd
            if ctypes.get_errno() == errno.ENOENT:
                return None
        try:
            return self.open(path, os.O_PATH)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise

    def found(self, path: bytes) -> _Held:
        """For `with`: an O_PATH descriptor of what is at `path`."""
        return _Held(self.open(path, os.O_PATH))

    def directory_of(self, path: bytes) -> _Place:
        """For `with`: a descriptor of the directory that `path` is in, and its name there."""
        directory, name = parent(path)
        return _Place(self.open(directory, os.O_PATH | os.O_DIRECTORY), name)

    def close(self) -> None:
        os.close(self.fd)


def by_descriptor(fd: int) -> str:
    """A path that leads to exactly what the descriptor is open on, for calls that take no O_PATH descriptor."""
    return f"/proc/self/fd/{fd}"


def rename2(old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int) -> None:
    """renameat2(2). Raises OSError."""
    if _libc.renameat2(old_fd, old, new_fd, new, flags) < 0:
        fail(ctypes.get_errno())


def set_times(fd: int, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """utimensat(2) on what a descriptor is open on, O_PATH too; UTIME_NOW and UTIME_OMIT as nanoseconds."""
    times = _Times((ctypes.c_long * 4)(*atime, *mtime))
    if _libc.utimensat(fd, b"", ctypes.byref(times), AT_EMPTY_PATH) < 0:
        fail(ctypes.get_errno())


def birth_time(fd: int) -> int | None:
    """When what a descriptor is open on was made, in nanoseconds; None where the file system does not say."""
    seen = _Statx()
    if _libc.statx(fd, b"", AT_EMPTY_PATH, STATX_BTIME, ctypes.byref(seen)) < 0:
        fail(ctypes.get_errno())
    return seen.seconds * 1_000_000_000 + seen.nanoseconds if seen.mask & STATX_BTIME else None


def allocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2). Raises OSError."""
    while _libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) < 0:
        if ctypes.get_errno() != errno.EINTR:
            fail(ctypes.get_errno())


def sync_all(fd: int) -> None:
    """syncfs(2): the whole file system that a descriptor is on. Raises OSError."""
    if _libc.syncfs(fd) < 0:
        fail(ctypes.get_errno())


def list_directory(fd: int, device: int) -> list[Entry]:
    """What is in an open directory, without "." and ".."; a kind other than directory, file and link is left open: to
    the guest it may be another."""
    buffer = ctypes.create_string_buffer(LISTING)
    found: list[Entry] = []
    while True:
        size: int = _libc.getdents64(fd, buffer, LISTING)
        if size < 0:
            fail(ctypes.get_errno())
        if size == 0:
            return found
        data, at = buffer.raw[:size], 0
        while at < size:
            inode, _, length, kind = _DIRENT.unpack_from(data, at)
            name = data[at + _DIRENT.size : data.index(0, at + _DIRENT.size)]
            at += length
            if name not in (b".", b".."):
                found.append(Entry(name, device, inode, kind if kind in KINDS else DT_UNKNOWN))
