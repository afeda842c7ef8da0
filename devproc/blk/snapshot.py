"""`snapshot:[overlay=FILE:]URI`: what is written goes to an overlay; what is below is only ever read.

The overlay is a sparse file: a header, two bitmaps of a bit a cluster, and the clusters, each at its own place.

    0      8   magic "BULKSNAP"          24   16   boot id of the host that had it open last
    8      4   version 1                 40   32   SHA-256 of the stamp of what is below, or zeroes
    12     4   bytes of a cluster
    16     8   bytes of the disk         4096      bitmap "live", bitmap "stored", then the clusters

A bit is set after its cluster is whole, so whenever the process is killed, every cluster is either that of below or the
written one. "live" follows each write; "stored" follows at a flush, after the data. After a crash of the host (another
boot id) only "stored" counts: what was never flushed is as if it had not been written.

Without `overlay`, it is a nameless temporary file, which lives as long as the process. The launcher names one in the
machine's scratch directory.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from devproc.blk.backend import BlockBackend, open_backend
from devproc.blk.buffers import cut, length
from devproc.blk.file import open_locked, punch, whole
from devproc.properties import FilePath, Property, Size
from native import sys as numbers
from proto.errors import BackendError, ConfigError

__all__ = ["Snapshot", "commit_overlay", "discard_overlay"]

MAGIC, VERSION = b"BULKSNAP", 1
HEADER = struct.Struct("<8sIIQ16s32s")
BITMAPS = 4096  # where they begin
CLUSTER = 4096
BITS = 1 << 25  # most clusters of a disk: 4 MiB of bitmap
PIECE = 1 << 20

Report = Callable[[int, int], None]  # bytes done, bytes in all


class Snapshot:
    """An overlay on a backend."""

    overlay = Property(FilePath, "", "the file that keeps what was written; made if it is missing")
    cluster = Property(Size, 0, "bytes that are copied at once, a power of two; default 4k", minimum=0, maximum=1 << 24)

    def __init__(self, below: BlockBackend, fd: int, cluster: int, read_only: bool, bitmap: bytearray) -> None:
        self.below = below
        self.size = below.size
        self.read_only = read_only
        self.block_size = max(below.block_size, cluster)
        self.identity = below.identity
        self.stamp = ""
        self.descriptor: int | None = None
        self.workers = below.workers
        self._fd = fd
        self._cluster = cluster
        self._bitmap = bitmap
        self._changed: set[int] = set()  # bytes of the bitmap that are live and not yet stored
        self._data = BITMAPS + 2 * _bitmap_room(self.size, cluster)
        self._lock = threading.Lock()  # writers take turns: each may have to complete a cluster

    @classmethod
    def open(cls, target: str, values: dict[str, Any], read_only: bool) -> Snapshot:
        """The overlay on what the URI `target` names. Raises ConfigError."""
        return cls.over(open_backend(target, read_only=True), values, read_only)

    @classmethod
    def over(cls, below: BlockBackend, values: dict[str, Any], read_only: bool) -> Snapshot:
        """The overlay on an open backend."""
        path, fd = values["overlay"], -1
        try:
            if path and read_only and not os.path.exists(path):
                path = ""
            if path and not os.path.exists(path):
                os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            fd = open_locked(path, read_only) if path else _nameless()
            if os.fstat(fd).st_size == 0:
                _format(fd, below, values["cluster"] or _cluster_for(below.size))
            cluster, bitmap = _read_header(fd, path, below, read_only and bool(path))
            return cls(below, fd, cluster, read_only, bitmap)
        except BaseException as error:
            if fd >= 0:
                os.close(fd)
            below.close()
            if isinstance(error, OSError):
                raise ConfigError(f"cannot use the overlay {path}: {error.strerror}") from error
            raise

    # -- requests --------------------------------------------------------------------------------------------------

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        for written, start, size in self.runs(offset, length(buffers)):
            part = cut(buffers, start - offset, size)
            if written:
                whole(part, self._data + start, self._read_overlay)
            else:
                self.below.preadv(part, start)

    def pwritev(self, buffers: Sequence[memoryview], offset: int, durable: bool) -> None:
        size = length(buffers)
        with self._lock:
            self._complete_edges(offset, size)
            whole(buffers, self._data + offset, lambda part, at: os.pwritev(self._fd, part, at))
            self._mark(offset, size)
        if durable:
            self.flush()

    def flush(self) -> None:
        """Data first, then the bits that say so."""
        with self._lock:
            changed, self._changed = self._changed, set()
            stored = {at: self._bitmap[at] for at in changed}
        try:
            os.fdatasync(self._fd)
            if stored:
                room = _bitmap_room(self.size, self._cluster)
                for first, last in _ranges(sorted(stored)):
                    os.pwrite(self._fd, bytes(stored[at] for at in range(first, last)), BITMAPS + room + first)
                os.fdatasync(self._fd)
        except OSError:
            with self._lock:
                self._changed |= changed
            raise

    def discard(self, offset: int, length: int) -> None:
        """Gives the space of written clusters back; they read as zeroes. Others stay as they are."""
        for written, start, size in list(self.runs(offset, length)):
            if written:
                self._zero_inside(start, size)

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        with self._lock:
            self._complete_edges(offset, length)
            if not punch(self._fd, numbers.FALLOC_PUNCH_HOLE, self._data + offset, length):
                for at in range(offset, offset + length, PIECE):
                    zeroes = memoryview(bytes(min(PIECE, offset + length - at)))
                    whole([zeroes], self._data + at, lambda part, where: os.pwritev(self._fd, part, where))
            self._extend(offset + length)
            self._mark(offset, length)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self.below.close()

    # -- clusters --------------------------------------------------------------------------------------------------

    def runs(self, offset: int, size: int) -> Iterator[tuple[bool, int, int]]:
        """(in the overlay?, offset, size) of the pieces of a range, in order."""
        cluster, end = self._cluster, offset + size
        while offset < end:
            index = offset // cluster
            written = self.written(index)
            index += 1
            while index * cluster < end and self.written(index) == written:
                index += 1
            stop = min(end, index * cluster)
            yield written, offset, stop - offset
            offset = stop

    def written(self, index: int) -> bool:
        """Whether a cluster is in the overlay."""
        return bool(self._bitmap[index >> 3] >> (index & 7) & 1)

    def forget(self) -> None:
        """Drop everything that was written."""
        with self._lock:
            room = len(self._bitmap)
            os.pwrite(self._fd, bytes(room), BITMAPS)
            os.pwrite(self._fd, bytes(room), BITMAPS + _bitmap_room(self.size, self._cluster))
            self._bitmap[:] = bytes(room)
            self._changed.clear()
            os.ftruncate(self._fd, self._data)
            os.fdatasync(self._fd)

    def _read_overlay(self, part: Sequence[memoryview], at: int) -> int:
        done = os.preadv(self._fd, part, at)
        if done == 0:  # the last cluster may end in a hole behind the end of the file
            raise BackendError("the overlay ends before its clusters: it was truncated", errno=5)
        return done

    def _complete_edges(self, offset: int, size: int) -> None:
        """A cluster that is going to be written in part only is first copied whole."""
        cluster = self._cluster
        for index in {offset // cluster, (offset + size - 1) // cluster}:
            start, end = index * cluster, min((index + 1) * cluster, self.size)
            if (offset <= start and offset + size >= end) or self.written(index):
                continue
            copy = memoryview(bytearray(end - start))
            self.below.preadv([copy], start)
            whole([copy], self._data + start, lambda part, at: os.pwritev(self._fd, part, at))

    def _mark(self, offset: int, size: int) -> None:
        """The clusters of a range are in the overlay from now on."""
        first, last = offset // self._cluster, (offset + size - 1) // self._cluster
        fresh = [index for index in range(first, last + 1) if not self.written(index)]
        if not fresh:
            return
        low, high = first >> 3, (last >> 3) + 1
        bits = bytearray(self._bitmap[low:high])
        for index in fresh:
            bits[(index >> 3) - low] |= 1 << (index & 7)
        if os.pwrite(self._fd, bits, BITMAPS + low) != len(bits):
            raise BackendError("the overlay's bitmap was written only in part", errno=28)
        self._bitmap[low:high] = bits
        self._changed.update(range(low, high))

    def _zero_inside(self, offset: int, size: int) -> None:
        """Zero the whole clusters of a range that is in the overlay."""
        start = -(-offset // self._cluster) * self._cluster
        end = offset + size if offset + size == self.size else (offset + size) // self._cluster * self._cluster
        if end > start:
            punch(self._fd, numbers.FALLOC_PUNCH_HOLE, self._data + start, end - start)

    def _extend(self, end: int) -> None:
        if os.fstat(self._fd).st_size < self._data + end:
            os.ftruncate(self._fd, self._data + end)


def commit_overlay(snapshot: Snapshot, into: BlockBackend, report: Report) -> int:
    """Write what is in the overlay to `into` (what is below, opened for writing), then empty the overlay. Killed at any
    moment, it can be done again. Returns how many bytes it wrote."""
    done = 0
    for written, start, size in snapshot.runs(0, snapshot.size):
        for at in range(start, start + size, PIECE) if written else ():
            piece = memoryview(bytearray(min(PIECE, start + size - at)))
            snapshot.preadv([piece], at)
            into.pwritev([piece], at, False)
            done += len(piece)
            report(at, snapshot.size)
    into.flush()
    snapshot.forget()
    report(snapshot.size, snapshot.size)
    return done


def discard_overlay(snapshot: Snapshot) -> int:
    """Empty the overlay. Returns how many bytes of the disk go back to what is below."""
    dropped = sum(size for written, _, size in snapshot.runs(0, snapshot.size) if written)
    snapshot.forget()
    return dropped


# -- the file ----------------------------------------------------------------------------------------------------------


def _cluster_for(size: int) -> int:
    cluster = CLUSTER
    while size // cluster >= BITS:
        cluster *= 2
    return cluster


def _bitmap_bytes(size: int, cluster: int) -> int:
    return -(-size // (8 * cluster))


def _bitmap_room(size: int, cluster: int) -> int:
    return -(-_bitmap_bytes(size, cluster) // 4096) * 4096


_prepared: list[int] = []


def prepare_nameless(count: int) -> None:
    """Make files for so many overlays that have no name, before the process loses the right to make any."""
    for _ in range(count):
        with tempfile.TemporaryFile() as file:
            _prepared.append(os.dup(file.fileno()))


def _nameless() -> int:
    if not _prepared:
        prepare_nameless(1)
    return _prepared.pop()


def _boot_id() -> bytes:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))


def _stamp(below: BlockBackend) -> bytes:
    return hashlib.sha256(below.stamp.encode()).digest() if below.stamp else bytes(32)


def _format(fd: int, below: BlockBackend, cluster: int) -> None:
    if cluster < 512 or cluster & (cluster - 1) or below.size // cluster > 8 * BITS:
        raise ConfigError(f"cluster={cluster}: a power of two from 512 on is expected, larger for a large disk")
    os.ftruncate(fd, BITMAPS + 2 * _bitmap_room(below.size, cluster))
    os.pwrite(fd, HEADER.pack(MAGIC, VERSION, cluster, below.size, _boot_id(), _stamp(below)), 0)


def _read_header(fd: int, path: str, below: BlockBackend, leave: bool) -> tuple[int, bytearray]:
    """Cluster size and bitmap. Raises ConfigError when the file is no overlay of this disk."""
    header = os.pread(fd, HEADER.size, 0)
    if len(header) < HEADER.size or header[:8] != MAGIC:
        raise ConfigError(
            f"{path} is not an overlay", hint="Give a file that does not exist yet, to begin an empty one."
        )
    _, version, cluster, size, boot, stamp = HEADER.unpack(header)
    if version != VERSION or cluster < 512 or cluster & (cluster - 1) or size // cluster > 8 * BITS:
        raise ConfigError(f"the overlay {path} is damaged, or of a later version")
    if size != below.size:
        raise ConfigError(f"the overlay {path} belongs to a disk of {size} bytes; this one has {below.size}")
    if stamp != _stamp(below) and any(stamp):
        raise ConfigError(
            f"{below.identity} has changed since the overlay {path} was made",
            hint="Give another overlay, or remove it: what was written fits the old contents only.",
        )
    count, room = _bitmap_bytes(size, cluster), _bitmap_room(size, cluster)
    crashed = boot != _boot_id()
    bitmap = bytearray(os.pread(fd, count, BITMAPS + (room if crashed else 0)))
    if len(bitmap) < count:
        raise ConfigError(f"the overlay {path} is truncated")
    if crashed and not leave:
        os.pwrite(fd, bitmap, BITMAPS)
        os.fdatasync(fd)
        os.pwrite(fd, _boot_id(), 24)
    return cluster, bitmap


def _ranges(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Sorted numbers as (first, after the last) of their runs."""
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield numbers[start], numbers[at - 1] + 1
            start = at
