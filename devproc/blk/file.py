"""A raw disk image, or a block device, as a disk's backend.

The image is locked as long as it is open, by OFD locks, which do not outlive the process: all of it for a writable
disk, and for one that is read-only the bytes that QEMU locks then, so that readers of both kinds share it and writers
of neither get it. Its size is read once, at the start.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Sequence
from typing import Any

from native import sys as numbers
from native import syscall
from proto.errors import BackendError, ConfigError, ImageLocked
from proto.virtio import BLK_SECTOR_SIZE

__all__ = ["FileBackend", "open_file", "open_locked", "punch", "whole"]

_FLOCK = struct.Struct("hhqqi4x")  # struct flock, 64-bit
_F_OFD_GETLK, _F_OFD_SETLK = 36, 37
# QEMU's block/file-posix.c: byte 100 + N is locked (for reading) by who uses permission N, 200 + N by who does not
# share it.
_CONSISTENT_READ, _WRITE, _RESIZE = 0, 1, 3
_READER_HOLDS = (100 + _CONSISTENT_READ, 200 + _WRITE, 200 + _RESIZE)
_READER_REFUSES = (100 + _WRITE, 100 + _RESIZE, 200 + _CONSISTENT_READ)
_IOV_MAX = 1024
_ZEROES = bytes(1 << 16)


class FileBackend:
    """An open image."""

    workers = 1
    stamp = ""

    def __init__(self, path: str, fd: int, size: int, read_only: bool) -> None:
        self.path = path
        self.size = size
        self.read_only = read_only
        self.block_size = 512
        self.identity = os.path.basename(path)[:20]
        self.descriptor: int | None = fd
        self._fd = fd

    @classmethod
    def open(cls, target: str, values: dict[str, Any], read_only: bool) -> FileBackend:
        """Open and lock the image `target`. Raises ConfigError for what the user can mend."""
        return open_file(target, read_only)

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        whole(buffers, offset, lambda part, at: os.preadv(self._fd, part, at))

    def pwritev(self, buffers: Sequence[memoryview], offset: int, durable: bool) -> None:
        flags = os.RWF_DSYNC if durable else 0
        whole(buffers, offset, lambda part, at: os.pwritev(self._fd, part, at, flags))

    def flush(self) -> None:
        os.fdatasync(self._fd)

    def discard(self, offset: int, length: int) -> None:
        punch(self._fd, numbers.FALLOC_PUNCH_HOLE, offset, length)

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        mode = numbers.FALLOC_PUNCH_HOLE if unmap else numbers.FALLOC_ZERO_RANGE
        if punch(self._fd, mode, offset, length):
            return
        for at in range(offset, offset + length, len(_ZEROES)):
            part = memoryview(_ZEROES)[: min(len(_ZEROES), offset + length - at)]
            self.pwritev([part], at, False)

    def close(self) -> None:
        if self.descriptor is not None:
            self.descriptor = None
            os.close(self._fd)


def open_file(path: str, read_only: bool) -> FileBackend:
    """Open and lock an image. Raises ConfigError for what the user can mend."""
    fd = open_locked(path, read_only)
    try:
        size = _size(path, fd)
    except BaseException:
        os.close(fd)
        raise
    return FileBackend(path, fd, size, read_only)


def open_locked(path: str, read_only: bool) -> int:
    """A descriptor of an image, locked against others: every user of images opens them here. Raises ConfigError."""
    fd = _open(path, read_only)
    try:
        _lock(path, fd, read_only)
    except BaseException:
        os.close(fd)
        raise
    return fd


def punch(fd: int, mode: int, offset: int, length: int) -> bool:
    """fallocate(2) without a change of size; `os` has none with a mode. False when the file system cannot."""
    result = syscall(numbers.FALLOCATE, fd, mode | numbers.FALLOC_KEEP_SIZE, offset, length, 0, 0)
    if result == -numbers.EOPNOTSUPP:
        return False
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return True


def _open(path: str, read_only: bool) -> int:
    name = os.path.basename(path)
    if os.path.isdir(path):
        raise ConfigError(f"{path} is a directory; a disk is an image file", hint="Give the path of an image.")
    try:
        return os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
    except FileNotFoundError:
        hint = f"Make an empty one of 1 GiB with:  bulkhead disk create {path} 1G"
        raise ConfigError(f"cannot open {path}: no such file", hint=hint) from None
    except (PermissionError, OSError) as error:
        if not read_only and error.errno in _UNWRITABLE:
            hint = f"Use it read-only:  --disk file:{path},ro"
            raise ConfigError(f"cannot write to {name}: {_reason(error)}", hint=hint) from None
        raise ConfigError(f"cannot open {path}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


_UNWRITABLE = (1, 13, 26, 30)  # EPERM, EACCES, ETXTBSY, EROFS


def _size(path: str, fd: int) -> int:
    status = os.fstat(fd)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise ConfigError(f"{path} is neither a file nor a block device", hint="A disk is an image file.")
    size = os.lseek(fd, 0, os.SEEK_END)
    if size == 0:
        raise ConfigError(f"{path} is empty", hint=f"Make it 1 GiB long with:  bulkhead disk resize {path} 1G")
    if size % BLK_SECTOR_SIZE:
        whole = -(-size // BLK_SECTOR_SIZE) * BLK_SECTOR_SIZE
        raise ConfigError(
            f"{path} is {size:_} bytes; a disk is a whole number of 512-byte sectors.".replace("_", " "),
            hint=f"Pad it with:  bulkhead disk resize {path} {whole}",
        )
    return size


def _lock(path: str, fd: int, read_only: bool) -> None:
    try:
        if not read_only:
            fcntl.fcntl(fd, _F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
            return
        for byte in _READER_HOLDS:
            fcntl.fcntl(fd, _F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
        for byte in _READER_REFUSES:
            answer = fcntl.fcntl(fd, _F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
            if _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK:
                raise BlockingIOError(errno.EAGAIN, "somebody writes")
    except (BlockingIOError, PermissionError):
        raise ImageLocked(
            f"{path} is locked: another machine has it open",
            hint="Stop that machine, or let both use it read-only with ,ro.",
        ) from None


def whole(buffers: Sequence[memoryview], offset: int, transfer) -> None:  # type: ignore[no-untyped-def]
    """Repeat a vectored transfer until every byte is done. Raises BackendError at an unexpected end of the file."""
    left = list(buffers)
    while left:
        done = transfer(left[:_IOV_MAX], offset)
        if done == 0:
            raise BackendError("the image ends before its size: it was truncated", errno=5)
        offset += done
        while left and done >= len(left[0]):
            done -= len(left.pop(0))
        if left and done:
            left[0] = left[0][done:]
