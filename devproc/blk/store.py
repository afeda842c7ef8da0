"""Where an image format keeps its bytes: a file that can grow, or any other backend, which cannot.

Reading past the end gives zeroes, as formats expect of a file that was never written to its full length.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from devproc.blk.backend import BlockBackend, open_backend
from devproc.blk.buffers import cut, fill, gather, length, scatter
from devproc.blk.file import open_locked, punch, whole
from devproc.blk.uri import parse_uri
from native import sys as numbers
from proto.errors import BackendError
from proto.virtio import BLK_SECTOR_SIZE

__all__ = ["BackendStore", "FileStore", "Peek", "Store", "open_store"]


class Store(Protocol):
    """Bytes at offsets."""

    path: str  # "" when it is not a file
    read_only: bool
    workers: int

    def size(self) -> int:
        """Bytes that are there."""

    def read(self, offset: int, size: int) -> bytes:
        """Exactly so many bytes."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """All of them."""

    def read_into(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill the buffers."""

    def write_from(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Write the buffers."""

    def sync(self) -> None:
        """Everything written is stored when this returns."""

    def punch(self, offset: int, size: int) -> None:
        """The range is not needed any more."""

    def close(self) -> None:
        """Let go."""


class FileStore:
    """A file."""

    workers = 1

    def __init__(self, path: str, read_only: bool) -> None:
        """Open and lock it. Raises ConfigError."""
        self.path = path
        self.read_only = read_only
        self._fd = open_locked(path, read_only)

    def size(self) -> int:
        return os.lseek(self._fd, 0, os.SEEK_END)

    def read(self, offset: int, size: int) -> bytes:
        data = bytearray(size)
        self.read_into([memoryview(data)], offset)
        return bytes(data)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self.write_from([memoryview(data)], offset)

    def read_into(self, buffers: Sequence[memoryview], offset: int) -> None:
        there = min(max(0, self.size() - offset), length(buffers))
        fill(cut(buffers, there, length(buffers) - there))
        whole(cut(buffers, 0, there), offset, lambda part, at: os.preadv(self._fd, part, at))

    def write_from(self, buffers: Sequence[memoryview], offset: int) -> None:
        whole(buffers, offset, lambda part, at: os.pwritev(self._fd, part, at))

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def punch(self, offset: int, size: int) -> None:
        punch(self._fd, numbers.FALLOC_PUNCH_HOLE, offset, size)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class BackendStore:
    """Another backend. Whole sectors below, any bytes here."""

    path = ""

    def __init__(self, below: BlockBackend) -> None:
        self.below = below
        self.read_only = below.read_only
        self.workers = below.workers

    def size(self) -> int:
        return self.below.size

    def read(self, offset: int, size: int) -> bytes:
        data = bytearray(size)
        self.read_into([memoryview(data)], offset)
        return bytes(data)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self.write_from([memoryview(data)], offset)

    def read_into(self, buffers: Sequence[memoryview], offset: int) -> None:
        size = length(buffers)
        there = min(max(0, self.below.size - offset), size)
        fill(cut(buffers, there, size - there))
        part = cut(buffers, 0, there)
        if not there:
            return
        start, end = _sectors(offset, there)
        if (start, end) == (offset, offset + there):
            self.below.preadv(part, offset)
            return
        data = memoryview(bytearray(end - start))
        self.below.preadv([data], start)
        scatter(part, data[offset - start :])

    def write_from(self, buffers: Sequence[memoryview], offset: int) -> None:
        data = gather(buffers)
        if offset + len(data) > self.below.size:
            raise BackendError(f"the image cannot grow: {self.below.identity} ends at {self.below.size}", errno=28)
        start, end = _sectors(offset, len(data))
        merged = bytearray(self.read(start, end - start))
        merged[offset - start : offset - start + len(data)] = data
        self.below.pwritev([memoryview(merged)], start, False)

    def sync(self) -> None:
        self.below.flush()

    def punch(self, offset: int, size: int) -> None:
        self.below.discard(offset, size)

    def close(self) -> None:
        self.below.close()


def open_store(text: str, read_only: bool) -> FileStore | BackendStore:
    """What the URI names, to keep an image in. Raises ConfigError."""
    uri = parse_uri(text)
    if uri.scheme == "file" and not uri.given:
        return FileStore(uri.target, read_only)
    return BackendStore(open_backend(text, read_only=read_only))


def _sectors(offset: int, size: int) -> tuple[int, int]:
    return offset // BLK_SECTOR_SIZE * BLK_SECTOR_SIZE, -(-(offset + size) // BLK_SECTOR_SIZE) * BLK_SECTOR_SIZE


class Peek:
    """A file that is looked at without a lock: as much of a Store as a header needs."""

    read_only = True
    workers = 1

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def size(self) -> int:
        return os.lseek(self._fd, 0, os.SEEK_END)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset).ljust(size, b"\0")

    def __enter__(self) -> Peek:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
