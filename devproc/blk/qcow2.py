"""`qcow2:[backing=off:]URI`: QEMU's image format, versions 2 and 3, read and written.

Read: backing chains, compressed clusters (zlib; zstd where the host has libzstd), zero clusters, clusters shared with
internal snapshots. Written in an order that a crash cannot turn into damage: counts before data, data before the L2
entry that points to it, and what an entry no longer points to is freed after the entry is stored. A process that is
killed loses nothing that it had answered, and leaves at worst clusters that are counted and not used; `bulkhead disk
check --repair` takes them back. After a power cut the image is whole too, and holds what had been flushed.

An image that is marked dirty (lazy_refcounts) has its counts written anew when it is opened to be written, as in QEMU.
Refused: encryption, external data files, extended L2 entries, writing an image that is marked corrupt.
"""

from __future__ import annotations

import os
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from devproc.blk.backend import BlockBackend, open_backend
from devproc.blk.buffers import cut, fill, length, scatter
from devproc.blk.file import open_file
from devproc.blk.qcow2_format import (
    COMPRESSED,
    COPIED,
    MAGIC,
    OFFSET,
    ZERO,
    Header,
    compressed_range,
    decompress,
    read_header,
)
from devproc.blk.qcow2_refcounts import Refcounts
from devproc.blk.store import Peek, Store, open_store
from devproc.blk.uri import parse_uri
from devproc.properties import Property
from proto.errors import BackendError, ConfigError

__all__ = ["Piece", "Qcow2", "backing_uri", "commit_image"]

L2_CACHE = 8 << 20  # bytes of L2 tables in memory
CHAIN_MAX = 100  # images
PIECE = 1 << 20  # bytes that are copied at once
BACKING_SCHEMES = ("file", "http", "https", "nbd", "nbd+unix", "nbds", "nbds+unix")
Seen = tuple[tuple[int, int], ...]  # the files of a chain so far: (device, inode)


class Piece(NamedTuple):
    """A piece of the disk and where its bytes are: at a host offset, compressed, nowhere (zero), or below."""

    kind: str  # data, compressed, zero, below
    start: int
    size: int
    entry: int  # data: the host offset of its first byte; compressed: the L2 entry


class Qcow2:
    """An image."""

    backing = Property(bool, True, "open its backing chain; off refuses an image that has one")

    def __init__(self, store: Store, header: Header, name: str, below: BlockBackend | None) -> None:
        self.header = header
        self.store = store
        self.below = below
        self.size = header.size
        self.read_only = store.read_only
        self.block_size = header.cluster
        self.identity = name[:20]
        self.stamp = ""
        self.descriptor: int | None = None
        self.workers = 1
        self._cluster = header.cluster
        self._l1 = list(struct.unpack(f">{header.l1_size}Q", store.read(header.l1_offset, header.l1_size * 8)))
        self._l2: OrderedDict[int, bytearray] = OrderedDict()
        self._unpacked: tuple[int, bytes] = (0, b"")  # the compressed cluster that was read last
        self._metadata: set[int] = set()
        self.refcounts: Refcounts | None = None
        self._closed = False
        if not self.read_only:
            self._begin_writing(name)

    @classmethod
    def open(cls, target: str, values: dict[str, Any], read_only: bool) -> Qcow2:
        """The image that the URI `target` names. Raises ConfigError."""
        return cls.open_in_chain(target, read_only, (), values["backing"])

    @classmethod
    def open_over(cls, target: str, below: BlockBackend) -> Qcow2:
        """The image, to be written, on what it stands on and somebody has opened; it is closed with the image, or by
        the caller when this raises ConfigError."""
        store = open_store(target, False)
        try:
            return cls(store, read_header(store, os.path.basename(target)), os.path.basename(target), below)
        except BaseException:
            store.close()
            raise

    @classmethod
    def open_in_chain(cls, target: str, read_only: bool, seen: Seen, backing: bool = True) -> Qcow2:
        """The same, above the images `seen`."""
        seen = _look(target, seen)
        store = open_store(target, read_only)
        below: BlockBackend | None = None
        name = os.path.basename(target)
        try:
            header = read_header(store, name)
            if header.backing and not backing:
                raise ConfigError(f"{name} stands on {header.backing}, and backing=off")
            if header.backing:
                below = _open_backing(header, name, Path(store.path).parent, seen)
            return cls(store, header, name, below)
        except BaseException:
            store.close()
            if below is not None:
                below.close()
            raise

    # -- requests --------------------------------------------------------------------------------------------------

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        for piece in self.pieces(offset, length(buffers)):
            part = cut(buffers, piece.start - offset, piece.size)
            if piece.kind == "data":
                self.store.read_into(part, piece.entry)
            elif piece.kind == "compressed":
                scatter(part, self._unpack(piece.entry)[piece.start % self._cluster :][: piece.size])
            elif piece.kind == "below" and self.below is not None:
                self._read_below(part, piece.start)
            else:
                fill(part)

    def pwritev(self, buffers: Sequence[memoryview], offset: int, durable: bool) -> None:
        at, end = offset, offset + length(buffers)
        while at < end:
            number, slot = divmod(at // self._cluster, self.header.l2_entries)
            table = self._table_to_write(number)
            stop = min(end, (number + 1) * self.header.l2_entries * self._cluster)
            size = self._write_in_place(table, slot, at, stop, buffers, offset)
            if not size:
                size = self._write_elsewhere(number, table, slot, at, stop, buffers, offset)
            at += size
        if durable:
            self.flush()

    def flush(self) -> None:
        self.store.sync()
        if self.refcounts is not None:
            self.refcounts.settle()

    def discard(self, offset: int, length: int) -> None:
        if self.below is None:
            self._drop(offset, length, 0)
        elif self.header.version == 3:
            self._drop(offset, length, ZERO)

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        start, end = self._whole_clusters(offset, length)
        if self.header.version == 2 and self.below is not None:
            start = end = offset + length  # nothing says "zero" there but zeroes
        for at, stop in ((offset, min(start, offset + length)), (max(end, offset), offset + length)):
            if at < stop and (at, stop) != (end, offset):
                self._write_zero_bytes(at, stop)
        if start < end:
            self._drop(start, end - start, ZERO if self.header.version == 3 else 0)

    def close(self) -> None:
        self._end(self.flush)

    def let_go(self) -> None:
        """As after a kill, but with no cluster left reserved."""
        self._end(lambda: None)

    def _end(self, settle: Callable[[], None]) -> None:
        """Close the files, once, whatever becomes of the last writes."""
        if self._closed:
            return
        self._closed = True
        try:
            if self.refcounts is not None:
                settle()
                self.refcounts.close()
        finally:
            self.store.close()
            if self.below is not None:
                self.below.close()

    # -- reading ---------------------------------------------------------------------------------------------------

    def pieces(self, offset: int, size: int) -> Iterator[Piece]:
        """Where a range is, in order; neighbours that lie side by side are one piece."""
        last: Piece | None = None
        end = offset + size
        while offset < end:
            stop = min(end, (offset // self._cluster + 1) * self._cluster)
            piece = self._piece(offset, stop - offset)
            if last is not None and _continues(last, piece):
                last = last._replace(size=last.size + piece.size)
            else:
                if last is not None:
                    yield last
                last = piece
            offset = stop
        if last is not None:
            yield last

    def _piece(self, offset: int, size: int) -> Piece:
        number, slot = divmod(offset // self._cluster, self.header.l2_entries)
        table = self._table(number)
        entry = _get(table, slot) if table is not None else 0
        if entry & COMPRESSED:
            return Piece("compressed", offset, size, entry)
        if entry & ZERO and self.header.version == 3:
            return Piece("zero", offset, size, 0)
        if entry & OFFSET:
            return Piece("data", offset, size, self._host(entry) + offset % self._cluster)
        return Piece("below" if self.below is not None else "zero", offset, size, 0)

    def _host(self, entry: int) -> int:
        if (entry & OFFSET) % self._cluster:
            raise BackendError(f"{self.identity} is damaged: a cluster at {entry & OFFSET:#x}", errno=5)
        return entry & OFFSET

    def _read_below(self, part: Sequence[memoryview], offset: int) -> None:
        assert self.below is not None
        there = max(0, min(self.below.size - offset, length(part)))
        if there:
            self.below.preadv(cut(part, 0, there), offset)
        fill(cut(part, there, length(part) - there))

    def _unpack(self, entry: int) -> bytes:
        if self._unpacked[0] != entry:
            offset, size = compressed_range(self.header, entry)
            self._unpacked = entry, decompress(self.header, self.store.read(offset, size))
        return self._unpacked[1]

    def _table(self, number: int) -> bytearray | None:
        table = self._l2.get(number)
        if table is not None:
            self._l2.move_to_end(number)
            return table
        offset = self._l1[number] & OFFSET
        if not offset:
            return None
        if offset % self._cluster or offset >= self.store.size():
            raise BackendError(f"{self.identity} is damaged: an L2 table at {offset:#x}", errno=5)
        table = bytearray(self.store.read(offset, self._cluster))
        self._remember(number, table)
        return table

    def _remember(self, number: int, table: bytearray) -> None:
        self._l2[number] = table
        while len(self._l2) > max(2, L2_CACHE // self._cluster):
            self._l2.popitem(last=False)

    # -- writing ---------------------------------------------------------------------------------------------------

    def _begin_writing(self, name: str) -> None:
        header, reason = self.header, self.header.reason_not_to_write()
        if reason:
            raise ConfigError(f"{name} cannot be written: {reason}", hint=f"Repair it:  qemu-img check -r all {name}")
        first = header.l1_offset // self._cluster
        self._metadata = {0, *range(first, first + -(-header.l1_size * 8 // self._cluster))}
        self._metadata.update((entry & OFFSET) // self._cluster for entry in self._l1 if entry & OFFSET)
        self.refcounts = Refcounts(self.store, header, self._metadata)
        if header.dirty:
            self._recount()
        if header.autoclear:  # others' notes about the contents, which would no longer hold
            self.store.write(88, bytes(8))
            header.autoclear = 0

    def _recount(self) -> None:
        """A crash of another program left the counts behind: count anew, as QEMU does, then say that it was done."""
        from devproc.blk.qcow2_tools import recount  # which stands on this file

        try:
            wrong = recount(self)
        except BackendError as error:
            raise ConfigError(f"{self.identity} is marked dirty and cannot be counted anew: {error.message}") from error
        self.store.write(72, self.header.clean())
        self.store.sync()
        sys.stderr.write(f"{self.identity} was marked dirty: {wrong} of its reference counts were mended\n")

    def _writer(self) -> Refcounts:
        if self.refcounts is None:
            raise BackendError(f"{self.identity} is read-only", errno=30)
        return self.refcounts

    def _table_to_write(self, number: int) -> bytearray:
        """An L2 table that is this disk's alone: made, or copied from one that a snapshot shares."""
        refcounts, entry = self._writer(), self._l1[number]
        old = self._table(number)
        if old is not None and entry & COPIED:
            return old
        table = bytearray(self._cluster) if old is None else bytearray(old)
        (cluster,) = refcounts.take(1)
        try:
            self.store.write(cluster * self._cluster, table)
            self.store.sync()
            fresh = cluster * self._cluster | COPIED
            self.store.write(self.header.l1_offset + 8 * number, struct.pack(">Q", fresh))
        except BaseException:
            refcounts.give_back([cluster])
            raise
        self._l1[number] = fresh
        self._metadata.add(cluster)
        if old is not None:
            refcounts.release((entry & OFFSET) // self._cluster)
        self._remember(number, table)
        return table

    def _write_in_place(
        self, table: bytearray, slot: int, at: int, stop: int, buffers: Sequence[memoryview], offset: int
    ) -> int:
        """Write to clusters that are there, are this disk's alone and lie side by side. Returns how many bytes."""
        host, size, end = 0, 0, self.store.size() + self._cluster
        while at + size < stop:
            entry = _get(table, slot)
            if not _ours(entry):
                break
            here = self._host(entry) + (at + size) % self._cluster
            if size and here != host + size:
                break
            if here // self._cluster in self._metadata or here >= end:
                raise BackendError(f"{self.identity} is damaged: data at {here:#x}", errno=5)
            host = host or here
            size = min(stop, ((at + size) // self._cluster + 1) * self._cluster) - at
            slot += 1
        if size:
            self.store.write_from(cut(buffers, at - offset, size), host)
        return size

    def _write_elsewhere(
        self, number: int, table: bytearray, slot: int, at: int, stop: int, buffers: Sequence[memoryview], offset: int
    ) -> int:
        """Write to new clusters, completed by what was there before; then point to them. Returns how many bytes."""
        first = at // self._cluster
        count = 1
        while (first + count) * self._cluster < stop and not _ours(_get(table, slot + count)):
            count += 1
        stop = min(stop, (first + count) * self._cluster)
        head = self._old(first * self._cluster, at)
        tail = self._old(stop, (first + count) * self._cluster)
        data = [*head, *cut(buffers, at - offset, stop - at), *tail]
        refcounts = self._writer()
        clusters = refcounts.take(count)
        try:
            for position, host, size in self._side_by_side(clusters):
                self.store.write_from(cut(data, position, size), host)
            if head or tail:
                self.store.sync()  # a power cut must not lose what the guest did not write
            self._point(number, table, slot, [cluster * self._cluster | COPIED for cluster in clusters])
        except BaseException:
            refcounts.give_back(clusters)
            raise
        return stop - at

    def _old(self, start: int, end: int) -> list[memoryview]:
        """What a range reads as now; nothing for an empty range."""
        if start >= end:
            return []
        copy = memoryview(bytearray(end - start))
        self.preadv([copy[: max(0, min(end, self.size) - start)]], start)
        return [copy]

    def _side_by_side(self, clusters: list[int]) -> Iterator[tuple[int, int, int]]:
        """(position in the data, host offset, bytes) of runs of clusters."""
        begin = 0
        for at in range(1, len(clusters) + 1):
            if at == len(clusters) or clusters[at] != clusters[at - 1] + 1:
                yield begin * self._cluster, clusters[begin] * self._cluster, (at - begin) * self._cluster
                begin = at

    def _point(self, number: int, table: bytearray, slot: int, entries: list[int]) -> None:
        """Write L2 entries, all at once, and let go of what they pointed to before."""
        data = struct.pack(f">{len(entries)}Q", *entries)
        old = [_get(table, slot + index) for index in range(len(entries))]
        self.store.write((self._l1[number] & OFFSET) + 8 * slot, data)
        table[8 * slot : 8 * (slot + len(entries))] = data
        for entry in old:
            self._release(entry)

    def _release(self, entry: int) -> None:
        refcounts = self._writer()
        if entry & COMPRESSED:
            offset, size = compressed_range(self.header, entry)
            for cluster in range(offset // self._cluster, (offset + size - 1) // self._cluster + 1):
                refcounts.release(cluster)
        elif entry & OFFSET and (entry & OFFSET) // self._cluster not in self._metadata:
            refcounts.release((entry & OFFSET) // self._cluster)

    # -- zeroes ----------------------------------------------------------------------------------------------------

    def _whole_clusters(self, offset: int, size: int) -> tuple[int, int]:
        """The whole clusters inside a range; the disk's last one may be short."""
        end = offset + size
        last = -(-end // self._cluster) * self._cluster if end == self.size else end // self._cluster * self._cluster
        first = -(-offset // self._cluster) * self._cluster
        return first, max(first, last)

    def _write_zero_bytes(self, start: int, end: int) -> None:
        for piece in list(self.pieces(start, end - start)):
            if piece.kind != "zero":
                zeroes = memoryview(bytes(min(piece.size, 1 << 20)))
                for at in range(piece.start, piece.start + piece.size, len(zeroes)):
                    self.pwritev([zeroes[: min(len(zeroes), piece.start + piece.size - at)]], at, False)

    def _drop(self, offset: int, size: int, mark: int) -> None:
        """Let go of the whole clusters of a range; `mark` is their L2 entry from now on."""
        start, end = self._whole_clusters(offset, size)
        at = start
        while at < end:
            number, slot = divmod(at // self._cluster, self.header.l2_entries)
            count = min((end - at) // self._cluster, self.header.l2_entries - slot)
            if self._l1[number] & OFFSET or (mark & ZERO and self.below is not None):
                table = self._table_to_write(number)
                if any(_get(table, slot + index) != mark for index in range(count)):
                    self._point(number, table, slot, [mark] * count)
            at += count * self._cluster


def _get(table: bytearray, slot: int) -> int:
    return int.from_bytes(table[8 * slot : 8 * slot + 8], "big")


def _ours(entry: int) -> bool:
    """Whether a cluster is there and may be written where it is."""
    return bool(entry & COPIED and entry & OFFSET) and not entry & (COMPRESSED | ZERO)


def _continues(last: Piece, piece: Piece) -> bool:
    if last.kind != piece.kind or last.kind == "compressed":
        return False
    return last.kind != "data" or last.entry + last.size == piece.entry


# -- backing chains ----------------------------------------------------------------------------------------------------


def _look(target: str, seen: Seen) -> Seen:
    """`seen` with one more file. Raises ConfigError when the chain comes back to it, or is endless."""
    uri = parse_uri(target)
    if uri.scheme != "file" or not os.path.exists(uri.target):
        return seen
    status = os.stat(uri.target)
    if (status.st_dev, status.st_ino) in seen:
        raise ConfigError(f"the backing chain comes back to {uri.target}", hint="`qemu-img rebase -u` can mend it.")
    if len(seen) >= CHAIN_MAX:
        raise ConfigError(f"the backing chain has more than {CHAIN_MAX} images")
    return (*seen, (status.st_dev, status.st_ino))


def commit_image(target: str, report: Callable[[int, int], None]) -> tuple[int, str]:
    """Write what is in an image to the one it stands on. The image stays as it is, and reads the same. Returns how many
    bytes were written, and to where. Raises ConfigError."""
    image = Qcow2.open_in_chain(target, True, ())
    header, done, into = image.header, 0, image.below
    try:
        if into is None:
            raise ConfigError(f"{target} stands on nothing it could be committed to")
        if into.size < image.size:
            raise ConfigError(
                f"{header.backing} is shorter than {image.size} bytes", hint="`bulkhead disk resize` it first."
            )
        into.close()
        folder = Path(getattr(image.store, "path", "")).parent
        image.below = into = _open_backing(header, image.identity, folder, _look(target, ()), read_only=False)
        for piece in image.pieces(0, image.size):
            report(piece.start, image.size)
            if piece.kind == "zero":
                into.write_zeroes(piece.start, piece.size, True)
            for at in (
                range(piece.start, piece.start + piece.size, PIECE) if piece.kind in ("data", "compressed") else ()
            ):
                data = memoryview(bytearray(min(PIECE, piece.start + piece.size - at)))
                image.preadv([data], at)
                into.pwritev([data], at, False)
            done += 0 if piece.kind == "below" else piece.size
        into.flush()
    finally:
        image.close()
    return done, header.backing


def backing_uri(target: str) -> str:
    """The URI of what the image in a local file stands on; "" when it stands on nothing. Opens nothing but its header,
    without a lock. Raises ConfigError when that is nothing to be written."""
    path = parse_uri(target).target
    try:
        with Peek(path) as peek:
            header = read_header(peek, os.path.basename(path))  # type: ignore[arg-type]
        if not header.backing:
            return ""
        uri = parse_uri(header.backing)
        below = os.path.join(os.path.dirname(os.path.abspath(path)), uri.target)
        kind = header.backing_format or ("qcow2" if _begins_with_magic(below) else "raw")
    except OSError as error:
        raise ConfigError(f"cannot read {path}, or what it stands on: {error.strerror}") from error
    if uri.scheme != "file" or kind not in ("raw", "qcow2"):
        raise ConfigError(f"{target} stands on {header.backing}, which cannot be written")
    return f"{'qcow2' if kind == 'qcow2' else 'file'}:{below}"


def _open_backing(header: Header, name: str, folder: Path, seen: Seen, read_only: bool = True) -> BlockBackend:
    if header.backing.startswith("json:"):
        raise ConfigError(f"{name} stands on a json: description, which is not supported")
    uri = parse_uri(header.backing)
    if uri.scheme not in BACKING_SCHEMES:
        raise ConfigError(f"{name} stands on {header.backing}: {uri.scheme}: cannot be below a qcow2 image")
    if uri.scheme != "file":
        return open_backend(header.backing, read_only=read_only)
    path = str(folder / uri.target)
    if not os.path.exists(path):
        raise ConfigError(f"{name} stands on {path}: no such file")
    kind = header.backing_format or ("qcow2" if _begins_with_magic(path) else "raw")
    if kind == "qcow2":
        return Qcow2.open_in_chain(f"file:{path}", read_only, seen)
    if kind != "raw":
        raise ConfigError(f"{name} stands on {path}, of format {kind}", hint="Serve it with qemu-nbd.")
    _look(f"file:{path}", seen)
    return open_file(path, read_only)


def _begins_with_magic(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == MAGIC
